/* Making, sharing and running the handlers' Lua states. */
#include "state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "args.h"
#include "sentinel.h"

enum {
  HOOK_INSTRUCTIONS = 10000, /* between two looks at the clock */
  TRACEBACKS = 3,            /* one costs as much as a fault */
  STACK_BASE = 1,            /* the message handler's slot; answers lie above it */
  GARBAGE = 64 << 10         /* not worth a collection */
};

struct uffd_lua_state *uffd_lua_state_of(lua_State *L) {
  struct uffd_lua_state *state;
  memcpy(&state, lua_getextraspace(L), sizeof(state));
  return state;
}

/* The processor time of this thread: a machine that is busy elsewhere does not make a policy late. */
static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/*
 * The clock is first read here, so a short call never reads it. After the deadline every instruction raises an error,
 * in this coroutine and in the main one, so that no pcall can go on.
 */
static void watch(lua_State *L, lua_Debug *event) {
  (void)event;
  struct uffd_lua_state *state = uffd_lua_state_of(L);
  if (state->limit_ns == 0) return;
  if (!state->expired) {
    if (lua_gethookcount(L) != HOOK_INSTRUCTIONS) lua_sethook(L, watch, LUA_MASKCOUNT, HOOK_INSTRUCTIONS);
    uint64_t now = now_ns();
    if (state->deadline_ns == 0) state->deadline_ns = now + state->limit_ns;
    if (now < state->deadline_ns) return;
    state->expired = true;
    lua_sethook(state->L, watch, LUA_MASKCOUNT, 1);
  }
  lua_sethook(L, watch, LUA_MASKCOUNT, 1);
  luaL_where(L, 0);
  lua_pushfstring(L, "it ran longer than the time limit of %I ms", (lua_Integer)(state->limit_ns / 1000000));
  lua_concat(L, 2);
  lua_error(L);
}

static void log_line(struct uffd_lua_state *state, const char *text, size_t length) {
  if (state->messages == NULL) return;
  struct uffd_lua_message message = {.handler = state->handler};
  message.length = (uint32_t)(length < sizeof(message.text) ? length : sizeof(message.text));
  memcpy(message.text, text, message.length);
  uffd_lua_ring_push(state->messages, &message);
}

/* print, and uffd.log: the arguments as a line for loop:messages(). */
static int print(lua_State *L) {
  int count = lua_gettop(L);
  luaL_Buffer line;
  luaL_buffinit(L, &line);
  for (int i = 1; i <= count; i++) {
    if (i > 1) luaL_addchar(&line, '\t');
    luaL_tolstring(L, i, NULL);
    luaL_addvalue(&line);
  }
  luaL_pushresult(&line);
  size_t length = 0;
  const char *text = lua_tolstring(L, -1, &length);
  log_line(uffd_lua_state_of(L), text, length);
  return 0;
}

/* Lua's own warnings, such as an error in a finalizer. */
static void warn(void *ctx, const char *text, int more) {
  (void)more;
  log_line(ctx, text, strlen(text));
}

static int yield(lua_State *L) {
  if (!lua_isyieldable(L)) return luaL_error(L, "a policy may not yield: the fault waits for its answer");
  return lua_yield(L, lua_gettop(L));
}

static int require(lua_State *L) {
  if (uffd_lua_state_of(L)->answering)
    return luaL_error(L, "require is for the factory: nothing is loaded while a fault waits");
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

/* Removes a field from the table on top. */
static void forget(lua_State *L, const char *name) {
  lua_pushnil(L);
  lua_setfield(L, -2, name);
}

static void open_library(lua_State *L, const char *name, lua_CFunction open) {
  luaL_requiref(L, name, open, 1);
  lua_pop(L, 1);
}

static void open_base(lua_State *L) {
  open_library(L, LUA_GNAME, luaopen_base);
  lua_pushglobaltable(L);
  forget(L, "dofile");
  forget(L, "loadfile");
  lua_pushcfunction(L, print);
  lua_setfield(L, -2, "print");
  lua_pop(L, 1);
}

static void open_coroutine(lua_State *L) {
  luaL_requiref(L, LUA_COLIBNAME, luaopen_coroutine, 1);
  lua_pushcfunction(L, yield);
  lua_setfield(L, -2, "yield");
  lua_pop(L, 1);
}

/* What a policy may use of os without the option: functions that only read a clock. */
static void open_os(lua_State *L, bool whole) {
  static const char *const kept[] = {"clock", "time", "difftime"};
  luaL_requiref(L, LUA_OSLIBNAME, luaopen_os, 1);
  if (!whole) {
    lua_createtable(L, 0, 3);
    for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
      lua_getfield(L, -2, kept[i]);
      lua_setfield(L, -2, kept[i]);
    }
    lua_pushvalue(L, -1);
    lua_setglobal(L, LUA_OSLIBNAME);
    lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_insert(L, -2);
    lua_setfield(L, -2, LUA_OSLIBNAME);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

/* Two states that are made in the same moment must not have the same random numbers. */
static void open_math(lua_State *L) {
  lua_Integer seed[2] = {(lua_Integer)(intptr_t)L, 0};
  if (getrandom(seed, sizeof(seed), GRND_NONBLOCK) < 0) seed[1] = (lua_Integer)time(NULL);
  luaL_requiref(L, LUA_MATHLIBNAME, luaopen_math, 1);
  lua_getfield(L, -1, "randomseed");
  lua_pushinteger(L, seed[0]);
  lua_pushinteger(L, seed[1]);
  lua_call(L, 2, 0);
  lua_pop(L, 1);
}

static void set_path(lua_State *L, const char *name, const char *path) {
  if (path == NULL) return;
  lua_pushstring(L, path);
  lua_setfield(L, -2, name);
}

/* Sets the program's search paths, and the part of uffd that a handler may use. */
static void open_package(lua_State *L, const struct uffd_lua_state_options *options) {
  luaL_requiref(L, LUA_LOADLIBNAME, luaopen_package, 1);
  set_path(L, "path", options->path);
  set_path(L, "cpath", options->cpath);
  lua_getfield(L, -1, "loaded");
  lua_createtable(L, 0, 5);
  uffd_lua_open_sentinels(L);
  lua_pushcfunction(L, print);
  lua_setfield(L, -2, "log");
  lua_pushstring(L, uffd_version());
  lua_setfield(L, -2, "version");
  lua_pushvalue(L, -1);
  lua_setglobal(L, "uffd");
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "uffd.core");
  lua_setfield(L, -2, "uffd");
  lua_pop(L, 2);
  lua_getglobal(L, "require");
  lua_pushcclosure(L, require, 1);
  lua_setglobal(L, "require");
}

static int open_libraries(lua_State *L) {
  const struct uffd_lua_state_options *options = &uffd_lua_state_of(L)->options;
  open_base(L);
  open_package(L, options);
  open_coroutine(L);
  open_library(L, LUA_TABLIBNAME, luaopen_table);
  open_library(L, LUA_STRLIBNAME, luaopen_string);
  open_math(L);
  open_library(L, LUA_UTF8LIBNAME, luaopen_utf8);
  open_os(L, (options->libs & STATE_LIB_OS) != 0);
  if (options->libs & STATE_LIB_IO) open_library(L, LUA_IOLIBNAME, luaopen_io);
  if (options->libs & STATE_LIB_DEBUG) open_library(L, LUA_DBLIBNAME, luaopen_debug);
  uffd_lua_args_open(L);
  return 0;
}

/* Cuts off the last line of a traceback, which is this file's own function. */
static void trim_traceback(lua_State *L) {
  static const char own[] = "\n\t[C]: in ?", alone[] = "\nstack traceback:\n\t[C]: in ?";
  size_t length = 0;
  const char *text = lua_tolstring(L, -1, &length);
  const size_t marks[] = {sizeof(alone) - 1, sizeof(own) - 1};
  for (size_t i = 0; i < 2; i++) {
    const char *mark = i == 0 ? alone : own;
    if (length < marks[i] || memcmp(text + length - marks[i], mark, marks[i]) != 0) continue;
    lua_pushlstring(L, text, length - marks[i]);
    lua_remove(L, -2);
    return;
  }
}

/* The message, as text; with a traceback the first few times. */
static int explain(lua_State *L) {
  struct uffd_lua_state *state = uffd_lua_state_of(L);
  if (lua_type(L, 1) != LUA_TSTRING && !luaL_callmeta(L, 1, "__tostring"))
    lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  if (state->tracebacks > 0) {
    state->tracebacks--;
    luaL_traceback(L, L, lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "?", 1);
    trim_traceback(L);
  }
  return 1;
}

/* Must not allocate in the state, because it runs outside of the protected call. */
static int failed(struct uffd_lua_state *state, int status, const char *what) {
  lua_State *L = state->L;
  if (status == LUA_ERRMEM)
    return uffd_set_errmsg(ENOMEM, "%s: not enough memory: it has %llu KiB (the option memory gives it more)", what,
                           (unsigned long long)(state->options.memory >> 10));
  const char *message = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "error in error handling";
  return uffd_set_errmsg(state->expired ? ETIMEDOUT : EIO, "%s: %s", what, message);
}

static int call(struct uffd_lua_state *state, lua_CFunction function, void *ctx, uint64_t limit_ns, int results,
                const char *what) {
  lua_State *L = state->L;
  int top = lua_gettop(L);
  state->limit_ns = limit_ns;
  state->deadline_ns = 0;
  lua_pushcfunction(L, function);
  lua_pushlightuserdata(L, ctx);
  int status = lua_pcall(L, 1, results, STACK_BASE);
  int result = status == LUA_OK ? 0 : failed(state, status, what);
  if (status != LUA_OK) lua_settop(L, top);
  if (state->expired) {
    state->expired = false;
    lua_sethook(L, watch, LUA_MASKCOUNT, HOOK_INSTRUCTIONS);
  }
  return result;
}

int uffd_lua_state_call(struct uffd_lua_state *state, lua_CFunction function, void *ctx, uint64_t limit_ns,
                        const char *what) {
  lua_gc(state->L, LUA_GCRESTART);
  int result = call(state, function, ctx, limit_ns, 0, what);
  lua_gc(state->L, LUA_GCSTOP);
  return result;
}

bool uffd_lua_state_tidy(struct uffd_lua_state *state) {
  if (state->arena.used <= state->tidy + GARBAGE) return false;
  if (lua_gc(state->L, LUA_GCSTEP, 0) == 0) return true;
  state->tidy = state->arena.used;
  return false;
}

int uffd_lua_state_answer(struct uffd_lua_state *state, lua_CFunction function, void *ctx, uint64_t limit_ns,
                          const char *what) {
  lua_State *L = state->L;
  lua_settop(L, STACK_BASE);
  /*
   * When half of the arena is garbage, each fault does a little collecting, so that no single fault has to do all of
   * it.
   */
  if (state->arena.used > state->tidy + (state->options.memory - state->tidy) / 2) uffd_lua_state_tidy(state);
  state->answering = true;
  int result = call(state, function, ctx, limit_ns, 1, what);
  if (result == -ENOMEM) {
    /* Lua's string buffers fail without a collection: try once more with the collector running. */
    lua_gc(L, LUA_GCCOLLECT);
    state->tidy = state->arena.used;
    lua_gc(L, LUA_GCRESTART);
    result = call(state, function, ctx, limit_ns, 1, what);
    lua_gc(L, LUA_GCSTOP);
  }
  state->answering = false;
  return result;
}

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct uffd_lua_state *list;

static bool same_text(const char *a, const char *b) {
  return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool serves(const struct uffd_lua_state *state, const void *key, const struct uffd_lua_state_options *options) {
  return state->key == key && state->process == uffd_lua_process() && state->options.memory == options->memory &&
         state->options.libs == options->libs && same_text(state->options.path, options->path) &&
         same_text(state->options.cpath, options->cpath);
}

static void destroy(struct uffd_lua_state *state) {
  /*
   * In a forked child the state may be half changed, because a handler of the parent was running in it: its finalizers
   * are not run.
   */
  if (state->L != NULL && state->process == uffd_lua_process()) lua_close(state->L);
  uffd_lua_arena_close(&state->arena);
  uffd_lua_ring_release(state->messages);
  pthread_mutex_destroy(&state->lock);
  free(state->options.path);
  free(state->options.cpath);
  free(state);
}

static char *copied(const char *text) {
  return text != NULL ? strdup(text) : NULL;
}

static bool start(struct uffd_lua_state *state) {
  state->L = lua_newstate(uffd_lua_arena_alloc, &state->arena);
  if (state->L == NULL) return false;
  memcpy(lua_getextraspace(state->L), &state, sizeof(state));
  lua_gc(state->L, LUA_GCSTOP);
  lua_setwarnf(state->L, warn, state);
  lua_pushcfunction(state->L, explain);
  if (uffd_lua_state_call(state, open_libraries, NULL, 0, "policy") < 0) return false;
  lua_sethook(state->L, watch, LUA_MASKCOUNT, HOOK_INSTRUCTIONS);
  return true;
}

static struct uffd_lua_state *make(const struct uffd_handler *handler, const struct uffd_lua_state_options *options,
                                   struct uffd_lua_ring *messages) {
  struct uffd_lua_state *state = calloc(1, sizeof(*state));
  if (state == NULL) return NULL;
  pthread_mutex_init(&state->lock, NULL);
  state->key = handler->key;
  state->process = uffd_lua_process();
  state->handler = handler->index;
  state->tracebacks = TRACEBACKS;
  state->messages = uffd_lua_ring_share(messages);
  state->options = *options;
  state->options.path = copied(options->path);
  state->options.cpath = copied(options->cpath);
  bool have_paths = (state->options.path != NULL) == (options->path != NULL) &&
                    (state->options.cpath != NULL) == (options->cpath != NULL);
  if (!have_paths || uffd_lua_arena_open(&state->arena, (size_t)options->memory) < 0 || !start(state)) {
    destroy(state);
    return NULL;
  }
  return state;
}

struct uffd_lua_state *uffd_lua_state_acquire(const struct uffd_handler *handler,
                                              const struct uffd_lua_state_options *options,
                                              struct uffd_lua_ring *messages) {
  pthread_mutex_lock(&list_lock);
  struct uffd_lua_state *state = list;
  while (state != NULL && !serves(state, handler->key, options))
    state = state->next;
  if (state == NULL && (state = make(handler, options, messages)) != NULL) {
    state->next = list;
    list = state;
  }
  if (state != NULL) state->users++;
  pthread_mutex_unlock(&list_lock);
  if (state == NULL)
    uffd_set_errmsg(ENOMEM, "policy: no memory for its Lua state of %llu KiB (option memory)",
                    (unsigned long long)(options->memory >> 10));
  return state;
}

void uffd_lua_state_release(struct uffd_lua_state *state) {
  pthread_mutex_lock(&list_lock);
  bool last = --state->users == 0;
  if (last) {
    struct uffd_lua_state **link = &list;
    while (*link != state)
      link = &(*link)->next;
    *link = state->next;
  }
  pthread_mutex_unlock(&list_lock);
  if (last) destroy(state);
}
