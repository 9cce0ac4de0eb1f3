/* uffd.resolver: one constructor for each kind, and layers. The core keeps alive what a resolver refers to. */
#include "util.h"

#include <stdlib.h>
#include <string.h>

struct resolver {
  uffd_resolver *resolver; /* NULL: closed */
  uint64_t process;
  struct uffd_lua_policy *policy; /* its own, when it is a policy */
};

/* The handle. An image has one as its user value; NULL when the image is closed. */
static struct resolver *handle_of(lua_State *L, int arg) {
  if (luaL_testudata(L, arg, IMAGE_TYPE) == NULL) return luaL_checkudata(L, arg, RESOLVER_TYPE);
  lua_getiuservalue(L, arg, 1);
  struct resolver *resolver = luaL_testudata(L, -1, RESOLVER_TYPE);
  lua_pop(L, 1); /* the image keeps it */
  if (resolver == NULL) uffd_lua_raise_closed(L, IMAGE_TYPE);
  return resolver;
}

static struct resolver *check(lua_State *L, int arg) {
  struct resolver *resolver = handle_of(L, arg);
  uffd_lua_check_handle(L, RESOLVER_TYPE, resolver->resolver != NULL, resolver->process);
  return resolver;
}

uffd_resolver *uffd_lua_check_resolver(lua_State *L, int arg) {
  return check(L, arg)->resolver;
}

bool uffd_lua_is_resolver(lua_State *L, int arg) {
  return luaL_testudata(L, arg, RESOLVER_TYPE) != NULL || luaL_testudata(L, arg, IMAGE_TYPE) != NULL;
}

struct uffd_lua_policy *uffd_lua_resolver_policy(lua_State *L, int arg) {
  return check(L, arg)->policy;
}

void uffd_lua_set_policy(lua_State *L, int index, struct uffd_lua_policy *policy) {
  ((struct resolver *)lua_touserdata(L, index))->policy = policy;
}

void uffd_lua_new_resolver(lua_State *L, uffd_resolver ***slot) {
  struct resolver *resolver = lua_newuserdatauv(L, sizeof(*resolver), 1);
  *resolver = (struct resolver){NULL, uffd_lua_process(), NULL};
  luaL_setmetatable(L, RESOLVER_TYPE);
  *slot = &resolver->resolver;
}

/* Kinds */

static int zero(lua_State *L) {
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = uffd_resolver_zero(slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

static int poison(lua_State *L) {
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = uffd_resolver_poison(slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

static int bytes(lua_State *L) {
  size_t length = 0;
  const char *data = luaL_checklstring(L, 1, &length);
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = uffd_resolver_bytes(data, length, slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

static int pattern(lua_State *L) {
  size_t length = 0;
  const char *data = luaL_checklstring(L, 1, &length);
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = uffd_resolver_pattern(data, length, slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

static int file(lua_State *L) {
  struct uffd_file_opts opts = UFFD_FILE_OPTS_INIT;
  bool number = lua_type(L, 1) == LUA_TNUMBER;
  uint64_t fd = number ? uffd_lua_unsigned(L, 1) : 0;
  luaL_argcheck(L, fd <= INT32_MAX, 1, "not a file descriptor");
  const char *path = number ? NULL : luaL_checkstring(L, 1);
  opts.offset = uffd_lua_opt_unsigned(L, 2, 0);
  opts.length = uffd_lua_opt_unsigned(L, 3, 0);
  opts.flags = lua_toboolean(L, 4) ? UFFD_FILE_CHANGES : 0;
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = number ? uffd_resolver_file_fd((int)fd, &opts, slot) : uffd_resolver_file(path, &opts, slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

typedef int source_fn(uffd_memory *source, uint64_t offset, uffd_resolver **resolver);

static int from_memory(lua_State *L, source_fn *make) {
  uffd_memory *source = uffd_lua_check_source(L, 1)->memory;
  uint64_t offset = uffd_lua_opt_unsigned(L, 2, 0);
  uffd_lua_check_range(L, 2, offset, 0, uffd_memory_length(source), "memory");
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = make(source, offset, slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

static int memory(lua_State *L) {
  return from_memory(L, uffd_resolver_memory);
}
static int move(lua_State *L) {
  return from_memory(L, uffd_resolver_move);
}

static int continue_with(lua_State *L) {
  uffd_resolver *fill = lua_isnoneornil(L, 1) ? NULL : uffd_lua_check_resolver(L, 1);
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = uffd_resolver_continue(fill, slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* core.resolver_shared(memory, below) */
static int shared(lua_State *L) {
  uffd_memory *memory = uffd_lua_check_memory(L, 1)->memory;
  uffd_resolver *below = uffd_lua_check_resolver(L, 2), **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = uffd_resolver_shared(memory, below, slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* core.resolver_faulty(below, error, poison, errno, delay_ns, later, seed) */
static int faulty(lua_State *L) {
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  uffd_resolver *below = uffd_lua_check_resolver(L, 1), **slot;
  opts.error = luaL_optnumber(L, 2, 0);
  opts.poison = luaL_optnumber(L, 3, 0);
  opts.error_number = (int32_t)uffd_lua_opt_u32(L, 4, 0);
  opts.delay_ns = uffd_lua_opt_unsigned(L, 5, 0);
  opts.later = uffd_lua_opt_u32(L, 6, 0);
  opts.seed = (uint64_t)luaL_optinteger(L, 7, 0);
  uffd_lua_new_resolver(L, &slot);
  int result = uffd_resolver_faulty(below, &opts, slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* Layers */

static uint64_t layer_number(lua_State *L, lua_Integer index, const char *name, uint64_t missing) {
  int exact = 1;
  lua_Integer value = lua_isnil(L, -1) ? (lua_Integer)missing : lua_tointegerx(L, -1, &exact);
  if (!exact || value < 0) luaL_error(L, "layer %I: its %s must be an integer from 0 on", index, name);
  lua_pop(L, 1);
  return (uint64_t)value;
}

/* {offset, resolver, length=, from=} on top of the stack. */
static void read_layer(lua_State *L, lua_Integer index, struct uffd_layer *layer) {
  int table = lua_gettop(L);
  if (!lua_istable(L, table))
    luaL_error(L, "layer %I is a %s; it must be a table: { offset, resolver, length=, from= }", index,
               luaL_typename(L, table));
  lua_geti(L, table, 1);
  if (lua_isnil(L, -1)) luaL_error(L, "layer %I has no offset; a layer is { offset, resolver, length=, from= }", index);
  layer->offset = layer_number(L, index, "offset", 0);
  lua_getfield(L, table, "length");
  layer->length = layer_number(L, index, "length", 0);
  lua_getfield(L, table, "from");
  layer->resolver_offset = layer_number(L, index, "from", 0);
  lua_geti(L, table, 2);
  if (!uffd_lua_is_resolver(L, -1)) luaL_error(L, "layer %I: its resolver is a %s", index, luaL_typename(L, -1));
  layer->resolver = uffd_lua_check_resolver(L, -1);
  lua_pop(L, 1);
}

static int layers(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Integer count = luaL_len(L, 1);
  luaL_argcheck(L, count >= 0 && (uint64_t)count < SIZE_MAX / sizeof(struct uffd_layer), 1, "too many layers");
  struct uffd_layer *list = lua_newuserdatauv(L, ((size_t)count + 1) * sizeof(*list), 0);
  for (lua_Integer i = 1; i <= count; i++) {
    lua_geti(L, 1, i);
    read_layer(L, i, &list[i - 1]);
    lua_pop(L, 1);
  }
  uffd_resolver **slot;
  uffd_lua_new_resolver(L, &slot);
  int result = uffd_resolver_layers(list, (size_t)count, slot);
  return result < 0 ? uffd_lua_fail(L, result) : 1;
}

/* The handle */

static void close_resolver(struct resolver *resolver) {
  uffd_resolver_close(resolver->resolver);
  resolver->resolver = NULL;
  resolver->policy = NULL;
}

static int resolver_close(lua_State *L) {
  close_resolver(luaL_checkudata(L, 1, RESOLVER_TYPE));
  lua_pushboolean(L, 1);
  return 1;
}

static int resolver_gc(lua_State *L) {
  close_resolver(luaL_checkudata(L, 1, RESOLVER_TYPE));
  return 0;
}

/* A resolver that answers for any offset has the size math.maxinteger. */
static lua_Integer size_of(uffd_resolver *resolver) {
  uint64_t size = uffd_resolver_size(resolver);
  return size > LUA_MAXINTEGER ? LUA_MAXINTEGER : (lua_Integer)size;
}

static int resolver_index(lua_State *L) {
  if (uffd_lua_method(L)) return 1;
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(name, "size") == 0)
    lua_pushinteger(L, size_of(check(L, 1)->resolver));
  else if (strcmp(name, "kind") == 0)
    lua_pushstring(L, uffd_resolver_kind(check(L, 1)->resolver));
  else
    lua_pushnil(L);
  return 1;
}

static int resolver_len(lua_State *L) {
  lua_pushinteger(L, size_of(check(L, 1)->resolver));
  return 1;
}

static int resolver_tostring(lua_State *L) {
  struct resolver *resolver = luaL_checkudata(L, 1, RESOLVER_TYPE);
  if (resolver->resolver == NULL) return uffd_lua_push_closed(L, RESOLVER_TYPE);
  lua_Integer size = size_of(resolver->resolver);
  const char *kind = uffd_resolver_kind(resolver->resolver);
  if (size == LUA_MAXINTEGER)
    lua_pushfstring(L, "%s (%s)", RESOLVER_TYPE, kind);
  else
    lua_pushfstring(L, "%s (%s, %I bytes)", RESOLVER_TYPE, kind, size);
  return 1;
}

static const luaL_Reg methods[] = {{"close", resolver_close}, {NULL, NULL}};

static const luaL_Reg meta[] = {{"__gc", resolver_gc},
                                {"__close", resolver_gc},
                                {"__len", resolver_len},
                                {"__tostring", resolver_tostring},
                                {NULL, NULL}};

static const luaL_Reg functions[] = {{"resolver_zero", zero},
                                     {"resolver_poison", poison},
                                     {"resolver_bytes", bytes},
                                     {"resolver_pattern", pattern},
                                     {"resolver_file", file},
                                     {"resolver_memory", memory},
                                     {"resolver_continue", continue_with},
                                     {"resolver_shared", shared},
                                     {"resolver_move", move},
                                     {"resolver_layers", layers},
                                     {"resolver_faulty", faulty},
                                     {NULL, NULL}};

void uffd_lua_open_resolver(lua_State *L) {
  uffd_lua_class(L, RESOLVER_TYPE, resolver_index, meta, methods);
  luaL_setfuncs(L, functions, 0);
}
