/*
 * Policies. When the resolver is made, the factory is dumped and its arguments are copied. When a handler is set up,
 * both are loaded into that handler's Lua state and the factory runs. A fault calls the function that the factory
 * returned. The fault path allocates only in the state's arena, and waits for nothing.
 */
#include "policy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "sentinel.h"
#include "state.h"

enum { FACTORY_TIME = 10 }; /* times the limit of a fault: the factory runs once, and may load things */

#define POLICY_TYPE "uffd.policy"

struct uffd_lua_policy {
  char *code; /* the dumped factory */
  size_t code_length;
  size_t code_room;
  struct uffd_lua_args args;
  struct uffd_lua_state_options options;
  uint64_t limit_ns;
};

/* A policy in a handler. */
struct instance {
  const struct uffd_lua_policy *policy;
  struct uffd_lua_state *state;
  uint64_t process;
  int function; /* the policy's and the fault table's references in the state's registry */
  int fault;
};

static _Thread_local struct uffd_lua_ring *setup_messages;

struct uffd_lua_ring *uffd_lua_policy_messages(struct uffd_lua_ring *ring) {
  struct uffd_lua_ring *before = setup_messages;
  setup_messages = ring;
  return before;
}

/* The state's globals, behind a table of the policy's own. */
static void push_environment(lua_State *L) {
  lua_newtable(L);
  lua_createtable(L, 0, 1);
  lua_pushglobaltable(L);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, -2);
}

/*
 * Sets the upvalues of the factory on top of the stack: its globals, and this state's uffd for a local that is the
 * module.
 */
static void set_upvalues(lua_State *L) {
  const char *name;
  for (int i = 1; (name = lua_getupvalue(L, -1, i)) != NULL; i++) {
    lua_pop(L, 1);
    if (strcmp(name, "_ENV") == 0)
      push_environment(L);
    else
      lua_getglobal(L, "uffd");
    lua_setupvalue(L, -2, i);
  }
}

static int load_policy(lua_State *L) {
  struct instance *instance = lua_touserdata(L, 1);
  const struct uffd_lua_policy *policy = instance->policy;
  if (luaL_loadbufferx(L, policy->code, policy->code_length, "=policy", "b") != LUA_OK) return lua_error(L);
  set_upvalues(L);
  uffd_lua_args_push(L, &policy->args);
  lua_call(L, 1, 1);
  if (!lua_isfunction(L, -1))
    return luaL_error(L, "the factory returned %s%s; it must return the function that answers faults",
                      lua_isnil(L, -1) ? "" : "a ", lua_isnil(L, -1) ? "nothing" : luaL_typename(L, -1));
  instance->function = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_createtable(L, 0, 16);
  instance->fault = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

static int unload_policy(lua_State *L) {
  const struct instance *instance = lua_touserdata(L, 1);
  luaL_unref(L, LUA_REGISTRYINDEX, instance->function);
  luaL_unref(L, LUA_REGISTRYINDEX, instance->fault);
  return 0;
}

static int setup(void *ctx, const struct uffd_handler *handler, void **result) {
  struct uffd_lua_policy *policy = ctx;
  struct instance *instance = calloc(1, sizeof(*instance));
  if (instance == NULL) return uffd_set_errmsg(ENOMEM, "policy: not enough memory");
  *instance = (struct instance){policy, NULL, uffd_lua_process(), LUA_NOREF, LUA_NOREF};
  instance->state = uffd_lua_state_acquire(handler, &policy->options, setup_messages);
  if (instance->state == NULL) {
    free(instance);
    return -ENOMEM;
  }
  /* The handler may be answering for another policy: this thread waits for it, never the reverse. */
  pthread_mutex_lock(&instance->state->lock);
  int error =
      uffd_lua_state_call(instance->state, load_policy, instance, policy->limit_ns * FACTORY_TIME, "policy factory");
  pthread_mutex_unlock(&instance->state->lock);
  if (error < 0) {
    uffd_lua_state_release(instance->state);
    free(instance);
    return error;
  }
  *result = instance;
  return 0;
}

static void teardown(void *ctx, void *state) {
  (void)ctx;
  struct instance *instance = state;
  /* In a forked child the lock may be held by a handler that only the parent has: only the memory is freed there. */
  if (instance->process == uffd_lua_process()) {
    pthread_mutex_lock(&instance->state->lock);
    uffd_lua_state_call(instance->state, unload_policy, instance, 0, "policy");
    pthread_mutex_unlock(&instance->state->lock);
    uffd_lua_state_release(instance->state);
  }
  free(instance);
}

struct request {
  const struct instance *instance;
  const struct uffd_fault *fault;
  struct uffd_answer *answer;
};

static void set_integer(lua_State *L, const char *name, uint64_t value) {
  lua_pushstring(L, name);
  lua_pushinteger(L, (lua_Integer)value);
  lua_rawset(L, -3);
}

static void set_boolean(lua_State *L, const char *name, bool value) {
  lua_pushstring(L, name);
  lua_pushboolean(L, value);
  lua_rawset(L, -3);
}

/* Writes every field every time: the policy may have changed the table. */
static void fill_fault(lua_State *L, const struct uffd_fault *fault) {
  set_integer(L, "offset", fault->offset);
  set_integer(L, "region_offset", fault->region_offset);
  set_integer(L, "address", fault->address);
  set_integer(L, "page_size", fault->page_size);
  set_integer(L, "cover_offset", fault->cover_offset);
  set_integer(L, "cover_length", fault->cover_length);
  set_integer(L, "flags", fault->flags);
  set_integer(L, "tid", fault->tid);
  set_integer(L, "handler", fault->handler);
  set_boolean(L, "write", (fault->flags & UFFD_FAULT_WRITE) != 0);
  set_boolean(L, "wp", (fault->flags & UFFD_FAULT_WP) != 0);
  set_boolean(L, "minor", (fault->flags & UFFD_FAULT_MINOR) != 0);
  set_boolean(L, "prefetch", (fault->flags & UFFD_FAULT_PREFETCH) != 0);
}

static uint64_t check_number(lua_State *L, int index, const char *what) {
  int exact = 0;
  lua_Integer number = lua_type(L, index) == LUA_TNUMBER ? lua_tointegerx(L, index, &exact) : 0;
  if (!exact || number < 0)
    luaL_error(L, "the policy returned %s as the %s; it must be an integer from 0 on", luaL_tolstring(L, index, NULL),
               what);
  return (uint64_t)number;
}

/*
 * A string alone is the contents of this page, or the name of an answer. With an offset it is contents from there on,
 * which must hold this page.
 */
static void answer_string(lua_State *L, const struct request *request) {
  struct uffd_answer *answer = request->answer;
  const struct uffd_fault *fault = request->fault;
  size_t length = 0;
  const char *data = lua_tolstring(L, 1, &length);
  uint64_t offset = fault->offset;
  if (lua_isnil(L, 2)) {
    if (uffd_lua_word_answer(data, length, &answer->kind)) return;
    const char *meant = uffd_lua_meant_sentinel(data, length);
    if (meant != NULL)
      luaL_error(L, "the policy returned \"%s\": return uffd.%s, or the offset too when these bytes are contents", data,
                 meant);
    if (length > fault->page_size)
      luaL_error(L, "the policy returned %I bytes for a page of %I: return the offset of the first one too",
                 (lua_Integer)length, (lua_Integer)fault->page_size);
  } else {
    offset = check_number(L, 2, "offset");
    if (offset % fault->page_size != 0)
      luaL_error(L, "the policy returned bytes at offset %I, which is not a multiple of the page size %I",
                 (lua_Integer)offset, (lua_Integer)fault->page_size);
    if (offset > fault->offset || fault->offset - offset >= (length > 0 ? length : 1))
      luaL_error(L, "the policy returned %I bytes at offset %I, which do not cover the page at %I", (lua_Integer)length,
                 (lua_Integer)offset, (lua_Integer)fault->offset);
  }
  if (length == 0) return;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = data;
  answer->offset = offset;
  answer->length = length;
}

static void answer_resolver(lua_State *L, const struct request *request) {
  const struct uffd_lua_args *args = &request->instance->policy->args;
  const struct uffd_fault *fault = request->fault;
  struct uffd_answer *answer = request->answer;
  uffd_resolver *resolver = uffd_lua_args_resolver(L, 1);
  size_t i = 0;
  while (i < args->resolver_count && args->resolvers[i] != resolver)
    i++;
  if (resolver == NULL || i == args->resolver_count)
    luaL_error(L, "the policy returned %s that it did not get in its args", luaL_tolstring(L, 1, NULL));
  answer->kind = UFFD_ANSWER_RESOLVER;
  answer->resolver = resolver;
  answer->resolver_offset = lua_isnil(L, 2) ? fault->offset : check_number(L, 2, "offset");
  if (lua_isnil(L, 3)) return;
  uint64_t length = check_number(L, 3, "length");
  uint64_t pages = length / fault->page_size + (length % fault->page_size != 0);
  answer->length = (pages > 0 ? pages : 1) * fault->page_size;
}

/*
 * uffd.FILE, then a descriptor or a file of io.open, then the offset of this page in it, then how many bytes from there
 * on.
 */
static void answer_file(lua_State *L, const struct request *request) {
  struct uffd_answer *answer = request->answer;
  const luaL_Stream *stream = luaL_testudata(L, 2, LUA_FILEHANDLE);
  if (stream != NULL && stream->closef == NULL) luaL_error(L, "the policy returned a file that is closed");
  uint64_t fd = stream != NULL ? (uint64_t)fileno(stream->f) : check_number(L, 2, "file descriptor");
  if (fd > INT32_MAX) luaL_error(L, "the policy returned %I, which is no file descriptor", (lua_Integer)fd);
  answer->fd = (int32_t)fd;
  answer->file_offset = check_number(L, 3, "offset in the file");
  if (lua_isnil(L, 4)) return;
  answer->length = check_number(L, 4, "length");
  if (answer->length == 0) luaL_error(L, "the policy returned a length of 0 bytes of a file");
}

static void answer_userdata(lua_State *L, const struct request *request) {
  if (!uffd_lua_is_sentinel(L, 1, &request->answer->kind)) {
    answer_resolver(L, request);
  } else if (request->answer->kind == UFFD_ANSWER_FILE) {
    answer_file(L, request);
  }
}

static int ask(lua_State *L) {
  const struct request *request = lua_touserdata(L, 1);
  *request->answer = (struct uffd_answer){
      .kind = UFFD_ANSWER_ZERO, .fd = -1, .offset = request->fault->offset, .length = request->fault->page_size};
  lua_settop(L, 0);
  lua_rawgeti(L, LUA_REGISTRYINDEX, request->instance->function);
  lua_rawgeti(L, LUA_REGISTRYINDEX, request->instance->fault);
  fill_fault(L, request->fault);
  lua_call(L, 1, 4);
  switch (lua_type(L, 1)) {
  case LUA_TNIL:
    break;
  case LUA_TSTRING:
    answer_string(L, request);
    break;
  case LUA_TUSERDATA:
    answer_userdata(L, request);
    break;
  default:
    luaL_error(L,
               "the policy returned a %s; an answer is a string, nothing, uffd.ZERO, uffd.POISON, uffd.LATER, "
               "uffd.FILE with a file, or a resolver of its args",
               luaL_typename(L, 1));
  }
  lua_settop(L, 1);
  return 1;
}

static int resolve(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  const struct uffd_lua_policy *policy = ctx;
  struct instance *instance = state;
  if (pthread_mutex_trylock(&instance->state->lock) != 0) {
    /* Another policy is being set up in this state. */
    answer->kind = UFFD_ANSWER_LATER;
    return 0;
  }
  struct request request = {instance, fault, answer};
  int result = uffd_lua_state_answer(instance->state, ask, &request, policy->limit_ns, "policy");
  pthread_mutex_unlock(&instance->state->lock);
  return result;
}

static int idle(void *ctx, void *state) {
  (void)ctx;
  struct instance *instance = state;
  if (pthread_mutex_trylock(&instance->state->lock) != 0) return 0;
  bool more = uffd_lua_state_tidy(instance->state);
  pthread_mutex_unlock(&instance->state->lock);
  return more;
}

static void free_policy(struct uffd_lua_policy *policy) {
  uffd_lua_args_free(&policy->args);
  free(policy->options.path);
  free(policy->options.cpath);
  free(policy->code);
  free(policy);
}

static void destroy(void *ctx) {
  free_policy(ctx);
}

static const struct uffd_callback_ops ops = {
    .size = sizeof(ops), .setup = setup, .resolve = resolve, .idle = idle, .teardown = teardown, .destroy = destroy};

/* A policy that no resolver owns yet: it is freed with its box when an error is raised. */
static struct uffd_lua_policy **new_policy(lua_State *L) {
  struct uffd_lua_policy **box = lua_newuserdatauv(L, sizeof(*box), 0);
  *box = NULL;
  luaL_setmetatable(L, POLICY_TYPE);
  *box = calloc(1, sizeof(**box));
  if (*box == NULL) uffd_lua_no_memory(L);
  return box;
}

static int box_gc(lua_State *L) {
  struct uffd_lua_policy **box = luaL_checkudata(L, 1, POLICY_TYPE);
  if (*box != NULL) free_policy(*box);
  *box = NULL;
  return 0;
}

static int write_code(lua_State *L, const void *data, size_t length, void *ctx) {
  (void)L;
  struct uffd_lua_policy *policy = ctx;
  if (policy->code_room - policy->code_length < length) {
    size_t room = policy->code_room * 2 + length;
    char *code = realloc(policy->code, room);
    if (code == NULL) return 1;
    policy->code = code;
    policy->code_room = room;
  }
  memcpy(policy->code + policy->code_length, data, length);
  policy->code_length += length;
  return 0;
}

/* True when the value on top is the module uffd, which every handler's state has too. */
static bool is_module(lua_State *L) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, "uffd");
  bool same = !lua_isnil(L, -1) && lua_rawequal(L, -1, -3);
  lua_pop(L, 2);
  return same;
}

/* Another state cannot see this one's locals. */
static void check_upvalues(lua_State *L, int arg) {
  for (int i = 1;; i++) {
    const char *name = lua_getupvalue(L, arg, i);
    if (name == NULL) return;
    bool known = strcmp(name, "_ENV") == 0 || is_module(L);
    lua_pop(L, 1);
    if (!known)
      luaL_argerror(
          L, arg,
          lua_pushfstring(L,
                          "the factory uses the local '%s' from outside of it, but runs in another Lua state: "
                          "pass it in args",
                          name));
  }
}

static void take_factory(lua_State *L, int arg, struct uffd_lua_policy *policy) {
  luaL_checktype(L, arg, LUA_TFUNCTION);
  luaL_argcheck(L, !lua_iscfunction(L, arg), arg, "the factory must be a Lua function");
  check_upvalues(L, arg);
  lua_pushvalue(L, arg);
  if (lua_dump(L, write_code, policy, 0) != 0) uffd_lua_no_memory(L);
  lua_pop(L, 1);
}

static char *package_field(lua_State *L, const char *name) {
  char *copy = NULL;
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, LUA_LOADLIBNAME) == LUA_TTABLE) {
    if (lua_getfield(L, -1, name) == LUA_TSTRING) copy = strdup(lua_tostring(L, -1));
    lua_pop(L, 1);
  }
  lua_pop(L, 2);
  return copy;
}

static const struct uffd_lua_bit lib_bits[] = {
    {"io", STATE_LIB_IO}, {"os", STATE_LIB_OS}, {"debug", STATE_LIB_DEBUG}, {NULL, 0}};
static const struct uffd_lua_names libs = {"library", NULL, NULL, lib_bits};

static void take_options(lua_State *L, int arg, struct uffd_lua_policy *policy) {
  uint64_t timeout_ms = uffd_lua_opt_unsigned(L, arg, 1000);
  luaL_argcheck(L, timeout_ms <= UINT32_MAX, arg, "too many milliseconds");
  policy->limit_ns = timeout_ms * 1000000;
  policy->options.memory = uffd_lua_opt_unsigned(L, arg + 1, 8 << 20);
  luaL_argcheck(L, policy->options.memory >= STATE_SMALLEST, arg + 1, "a Lua state needs 256 KiB or more");
  luaL_argcheck(L, policy->options.memory <= UINT64_C(1) << 40, arg + 1, "too large");
  policy->options.libs = (uint32_t)uffd_lua_mask(L, arg + 2, &libs);
  policy->options.path = package_field(L, "path");
  policy->options.cpath = package_field(L, "cpath");
}

/* Frees the guards. A resolver that uses them keeps them alive. */
static void close_guards(uffd_resolver **guards, size_t count) {
  for (size_t i = 0; i < count; i++)
    uffd_resolver_close(guards[i]);
}

/*
 * A memory that a policy reads must not be served, because the handler would wait for itself. A resolver over its
 * contents, which is never asked, tells the core so: adding it is refused if the memory is served now, and serving it
 * later is refused too.
 */
static int make_resolver(struct uffd_lua_policy *policy, uffd_resolver **uses, uffd_resolver **resolver) {
  const struct uffd_lua_args *args = &policy->args;
  uffd_resolver **guards = uses + args->resolver_count;
  for (size_t i = 0; i < args->resolver_count; i++)
    uses[i] = args->resolvers[i];
  for (size_t i = 0; i < args->memory_count; i++) {
    int result = uffd_resolver_memory(args->memories[i]->memory, 0, &guards[i]);
    if (result < 0) {
      close_guards(guards, i);
      return result;
    }
  }
  int result =
      uffd_resolver_callback(&ops, policy, "policy", uses, args->resolver_count + args->memory_count, resolver);
  close_guards(guards, args->memory_count);
  return result;
}

/* core.resolver_policy(factory, args, timeout_ms, memory, libs) */
static int policy(lua_State *L) {
  lua_settop(L, 5);
  struct uffd_lua_policy **box = new_policy(L);
  take_factory(L, 1, *box);
  take_options(L, 3, *box);
  lua_newtable(L);
  int handles = lua_gettop(L);
  uffd_lua_args_copy(L, 2, handles, &(*box)->args);
  size_t uses = (*box)->args.resolver_count + (*box)->args.memory_count;
  uffd_resolver **list = lua_newuserdatauv(L, (uses + 1) * sizeof(*list), 0);
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = make_resolver(*box, list, slot);
  if (result < 0) return uffd_lua_fail(L, result);
  uffd_lua_set_policy(L, -1, *box);
  *box = NULL;
  lua_pushvalue(L, handles);
  lua_setiuservalue(L, -2, 1);
  return 1;
}

#define INSTANCE_TYPE "uffd.instance"

/* A policy that is set up for one question. The collector frees it if nothing else does. */
struct session {
  struct uffd_lua_policy *policy;
  void *instance;
};

static int session_gc(lua_State *L) {
  struct session *session = luaL_checkudata(L, 1, INSTANCE_TYPE);
  if (session->instance != NULL) teardown(session->policy, session->instance);
  session->instance = NULL;
  return 0;
}

static int push_answer(lua_State *L, const struct uffd_lua_policy *policy, const struct uffd_answer *answer) {
  lua_pushstring(L, uffd_answer_name(answer->kind));
  if (answer->kind == UFFD_ANSWER_BYTES) {
    lua_pushlstring(L, answer->data, (size_t)answer->length);
    lua_pushinteger(L, (lua_Integer)answer->offset);
    return 3;
  }
  if (answer->kind == UFFD_ANSWER_FILE) {
    lua_pushinteger(L, answer->fd);
    lua_pushinteger(L, (lua_Integer)answer->file_offset);
    lua_pushinteger(L, (lua_Integer)answer->length);
    return 4;
  }
  if (answer->kind != UFFD_ANSWER_RESOLVER) return 1;
  lua_Integer i = 1;
  while (policy->args.resolvers[i - 1] != answer->resolver)
    i++;
  lua_getiuservalue(L, 1, 1);
  lua_geti(L, -1, i);
  lua_pushinteger(L, (lua_Integer)answer->resolver_offset);
  lua_remove(L, -3);
  return 3;
}

/* core.ask(resolver, offset, page_size, flags) */
static int ask_once(lua_State *L) {
  lua_settop(L, 4);
  struct uffd_lua_policy *policy = uffd_lua_resolver_policy(L, 1);
  luaL_argcheck(L, policy != NULL, 1, "only a policy can be asked");
  uint64_t page_size = uffd_lua_opt_unsigned(L, 3, 4096);
  luaL_argcheck(L, page_size > 0 && (page_size & (page_size - 1)) == 0, 3, "a page size is a power of two");
  uint64_t offset = uffd_lua_opt_unsigned(L, 2, 0);
  offset -= offset % page_size;
  struct session *session = lua_newuserdatauv(L, sizeof(*session), 0);
  *session = (struct session){policy, NULL};
  luaL_setmetatable(L, INSTANCE_TYPE);
  struct uffd_handler handler = {0, 1, session, page_size};
  int result = setup(policy, &handler, &session->instance);
  if (session->instance == NULL) return uffd_lua_fail(L, result);
  struct uffd_fault fault = {.offset = offset,
                             .region_offset = offset,
                             .address = offset,
                             .page_size = page_size,
                             .cover_offset = offset,
                             .cover_length = page_size,
                             .flags = uffd_lua_opt_unsigned(L, 4, 0)};
  struct uffd_answer answer = {.kind = UFFD_ANSWER_ZERO, .fd = -1, .offset = offset, .length = page_size};
  result = resolve(policy, session->instance, &fault, &answer);
  int pushed = result < 0 ? uffd_lua_fail(L, result) : push_answer(L, policy, &answer);
  teardown(policy, session->instance);
  session->instance = NULL;
  return pushed;
}

static const luaL_Reg functions[] = {{"resolver_policy", policy}, {"ask", ask_once}, {NULL, NULL}};

static void make_type(lua_State *L, const char *type, lua_CFunction gc) {
  luaL_newmetatable(L, type);
  lua_pushcfunction(L, gc);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
}

void uffd_lua_open_policy(lua_State *L) {
  make_type(L, POLICY_TYPE, box_gc);
  make_type(L, INSTANCE_TYPE, session_gc);
  luaL_setfuncs(L, functions, 0);
}
