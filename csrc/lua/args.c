/*
 * The arguments of a policy. They are copied as a flat run of bytes: for each value a tag and its contents. In a
 * handler, a resolver among them can be named and handed over to, and a memory that is not served can be read. Nothing
 * else can be done with them there.
 */
#include "args.h"

#include <stdlib.h>
#include <string.h>

#include "sentinel.h"

enum { DEEPEST = 100 };

struct copier {
  lua_State *L;
  struct uffd_lua_args *args;
  int path;    /* stack index: the keys that lead to the value, for messages; tables on the way are keys in it */
  int handles; /* stack index: the resolver handles */
  int depth;
};

static void put(struct copier *copier, const void *data, size_t length) {
  struct uffd_lua_args *args = copier->args;
  if (args->room - args->length < length) {
    size_t room = args->room * 2 + length + 64;
    char *grown = realloc(args->data, room);
    if (grown == NULL) uffd_lua_no_memory(copier->L);
    args->data = grown;
    args->room = room;
  }
  if (length > 0) memcpy(args->data + args->length, data, length);
  args->length += length;
}

static void put_tag(struct copier *copier, char tag) {
  put(copier, &tag, 1);
}

/* "args.config[3]" */
static const char *where(struct copier *copier) {
  lua_State *L = copier->L;
  luaL_checkstack(L, 4, NULL);
  lua_pushstring(L, "args");
  for (lua_Integer i = 1; i <= copier->depth; i++) {
    bool name = lua_rawgeti(L, copier->path, i) == LUA_TSTRING;
    const char *key = luaL_tolstring(L, -1, NULL);
    lua_pushfstring(L, name ? "%s.%s" : "%s[%s]", lua_tostring(L, -3), key);
    lua_replace(L, -4);
    lua_pop(L, 2);
  }
  return lua_tostring(L, -1);
}

static void put_value(struct copier *copier, int index);

static void put_table(struct copier *copier, int index) {
  lua_State *L = copier->L;
  luaL_checkstack(L, 12, "args");
  if (copier->depth >= DEEPEST) luaL_error(L, "%s is nested deeper than %d tables", where(copier), DEEPEST);
  if (lua_getmetatable(L, index))
    luaL_error(L, "%s has a metatable, which cannot be copied into a policy: pass a plain table", where(copier));
  lua_pushvalue(L, index);
  if (lua_rawget(L, copier->path) != LUA_TNIL)
    luaL_error(L, "%s is a table that contains itself: it cannot be copied into a policy", where(copier));
  lua_pop(L, 1);
  lua_pushvalue(L, index);
  lua_pushboolean(L, 1);
  lua_rawset(L, copier->path);
  put_tag(copier, '{');
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    lua_rawseti(L, copier->path, ++copier->depth);
    put_value(copier, lua_gettop(L) - 1);
    put_value(copier, lua_gettop(L));
    copier->depth--;
  }
  put_tag(copier, '}');
  lua_pushvalue(L, index);
  lua_pushnil(L);
  lua_rawset(L, copier->path);
}

static void *grow(lua_State *L, void *list, size_t count, size_t item) {
  void *grown = realloc(list, (count + 1) * item);
  if (grown == NULL) uffd_lua_no_memory(L);
  return grown;
}

static void put_resolver(struct copier *copier, int index) {
  struct uffd_lua_args *args = copier->args;
  uffd_resolver *resolver = uffd_lua_check_resolver(copier->L, index);
  args->resolvers = grow(copier->L, args->resolvers, args->resolver_count, sizeof(*args->resolvers));
  put_tag(copier, 'R');
  put(copier, &args->resolver_count, sizeof(args->resolver_count));
  args->resolvers[args->resolver_count++] = resolver;
  lua_pushvalue(copier->L, index);
  lua_rawseti(copier->L, copier->handles, (lua_Integer)args->resolver_count);
}

static void put_memory(struct copier *copier, int index) {
  struct uffd_lua_args *args = copier->args;
  struct uffd_lua_memory_ref *ref = uffd_lua_check_source(copier->L, index);
  args->memories = grow(copier->L, args->memories, args->memory_count, sizeof(struct uffd_lua_memory_ref *));
  put_tag(copier, 'M');
  put(copier, &args->memory_count, sizeof(args->memory_count));
  atomic_fetch_add(&ref->count, 1);
  args->memories[args->memory_count++] = ref;
}

static void put_number(struct copier *copier, int index) {
  if (lua_isinteger(copier->L, index)) {
    lua_Integer value = lua_tointeger(copier->L, index);
    put_tag(copier, 'i');
    put(copier, &value, sizeof(value));
  } else {
    lua_Number value = lua_tonumber(copier->L, index);
    put_tag(copier, 'd');
    put(copier, &value, sizeof(value));
  }
}

static void put_string(struct copier *copier, int index) {
  size_t length = 0;
  const char *text = lua_tolstring(copier->L, index, &length);
  put_tag(copier, 's');
  put(copier, &length, sizeof(length));
  put(copier, text, length);
}

static void put_value(struct copier *copier, int index) {
  lua_State *L = copier->L;
  uint32_t answer = 0;
  switch (lua_type(L, index)) {
  case LUA_TNIL:
    put_tag(copier, 'n');
    return;
  case LUA_TBOOLEAN:
    put_tag(copier, lua_toboolean(L, index) ? 't' : 'f');
    return;
  case LUA_TNUMBER:
    put_number(copier, index);
    return;
  case LUA_TSTRING:
    put_string(copier, index);
    return;
  case LUA_TTABLE:
    put_table(copier, index);
    return;
  default:
    if (uffd_lua_is_resolver(L, index))
      put_resolver(copier, index);
    else if (luaL_testudata(L, index, MEMORY_TYPE) != NULL)
      put_memory(copier, index);
    else if (uffd_lua_is_sentinel(L, index, &answer)) {
      put_tag(copier, 'A');
      put(copier, &answer, sizeof(answer));
    } else
      luaL_error(
          L,
          "%s is a %s: nil, boolean, number, string, table, resolver, memory and uffd.ZERO, POISON, LATER and FILE "
          "can be passed to a policy, nothing else",
          where(copier), luaL_typename(L, index));
  }
}

void uffd_lua_args_copy(lua_State *L, int index, int handles, struct uffd_lua_args *args) {
  lua_newtable(L);
  struct copier copier = {L, args, lua_gettop(L), handles, 0};
  put_value(&copier, index);
  lua_pop(L, 1);
}

void uffd_lua_args_free(struct uffd_lua_args *args) {
  for (size_t i = 0; i < args->memory_count; i++)
    uffd_lua_memory_release(args->memories[i]);
  free(args->memories);
  free(args->resolvers);
  free(args->data);
  *args = (struct uffd_lua_args){NULL, 0, 0, NULL, 0, NULL, 0};
}

/* A resolver in a handler's state: it can be compared, and has the properties that it had when it was passed. */
struct resolver_handle {
  uffd_resolver *resolver;
  lua_Integer size;
  char kind[32];
};

static void push_resolver(lua_State *L, uffd_resolver *resolver) {
  struct resolver_handle *handle = lua_newuserdatauv(L, sizeof(*handle), 0);
  uint64_t size = uffd_resolver_size(resolver);
  handle->resolver = resolver;
  handle->size = size > LUA_MAXINTEGER ? LUA_MAXINTEGER : (lua_Integer)size;
  handle->kind[0] = '\0';
  strncat(handle->kind, uffd_resolver_kind(resolver), sizeof(handle->kind) - 1);
  luaL_setmetatable(L, RESOLVER_TYPE);
}

static int resolver_index(lua_State *L) {
  const struct resolver_handle *handle = luaL_checkudata(L, 1, RESOLVER_TYPE);
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(name, "size") == 0)
    lua_pushinteger(L, handle->size);
  else if (strcmp(name, "kind") == 0)
    lua_pushstring(L, handle->kind);
  else
    lua_pushnil(L);
  return 1;
}

uffd_resolver *uffd_lua_args_resolver(lua_State *L, int index) {
  const struct resolver_handle *handle = luaL_testudata(L, index, RESOLVER_TYPE);
  return handle != NULL ? handle->resolver : NULL;
}

static void push_memory(lua_State *L, struct uffd_lua_memory_ref *ref) {
  struct uffd_lua_memory_ref **handle = lua_newuserdatauv(L, sizeof(*handle), 0);
  *handle = ref;
  atomic_fetch_add(&ref->count, 1);
  luaL_setmetatable(L, MEMORY_TYPE);
}

static int memory_gc(lua_State *L) {
  struct uffd_lua_memory_ref **handle = luaL_checkudata(L, 1, MEMORY_TYPE);
  if (*handle != NULL) uffd_lua_memory_release(*handle);
  *handle = NULL;
  return 0;
}

static int memory_read(lua_State *L) {
  struct uffd_lua_memory_ref **handle = luaL_checkudata(L, 1, MEMORY_TYPE);
  return uffd_lua_read_memory(L, (*handle)->memory);
}

static int memory_index(lua_State *L) {
  struct uffd_lua_memory_ref **handle = luaL_checkudata(L, 1, MEMORY_TYPE);
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(name, "read") == 0)
    lua_pushcfunction(L, memory_read);
  else if (strcmp(name, "size") == 0)
    lua_pushinteger(L, (lua_Integer)uffd_memory_length((*handle)->memory));
  else if (strcmp(name, "page_size") == 0)
    lua_pushinteger(L, (lua_Integer)uffd_memory_page_size((*handle)->memory));
  else
    lua_pushnil(L);
  return 1;
}

static const luaL_Reg resolver_meta[] = {{"__index", resolver_index}, {NULL, NULL}};
static const luaL_Reg memory_meta[] = {{"__index", memory_index}, {"__gc", memory_gc}, {NULL, NULL}};

void uffd_lua_args_open(lua_State *L) {
  luaL_newmetatable(L, RESOLVER_TYPE);
  luaL_setfuncs(L, resolver_meta, 0);
  luaL_newmetatable(L, MEMORY_TYPE);
  luaL_setfuncs(L, memory_meta, 0);
  lua_pop(L, 2);
}

static void take(const char **at, void *value, size_t length) {
  memcpy(value, *at, length);
  *at += length;
}

static bool push_value(lua_State *L, const struct uffd_lua_args *args, const char **at);

static void push_table(lua_State *L, const struct uffd_lua_args *args, const char **at) {
  lua_newtable(L);
  while (push_value(L, args, at)) {
    push_value(L, args, at);
    lua_rawset(L, -3);
  }
}

/* Pushes one value; false at the end of a table. */
static bool push_value(lua_State *L, const struct uffd_lua_args *args, const char **at) {
  lua_Integer integer = 0;
  lua_Number number = 0;
  size_t length = 0;
  uint32_t answer = 0;
  luaL_checkstack(L, 6, "args");
  char tag = *(*at)++;
  switch (tag) {
  case 't':
  case 'f':
    lua_pushboolean(L, tag == 't');
    break;
  case 'i':
    take(at, &integer, sizeof(integer));
    lua_pushinteger(L, integer);
    break;
  case 'd':
    take(at, &number, sizeof(number));
    lua_pushnumber(L, number);
    break;
  case 's':
    take(at, &length, sizeof(length));
    lua_pushlstring(L, *at, length);
    *at += length;
    break;
  case 'A':
    take(at, &answer, sizeof(answer));
    uffd_lua_push_sentinel(L, answer);
    break;
  case 'R':
    take(at, &length, sizeof(length));
    push_resolver(L, args->resolvers[length]);
    break;
  case 'M':
    take(at, &length, sizeof(length));
    push_memory(L, args->memories[length]);
    break;
  case '{':
    push_table(L, args, at);
    break;
  case '}':
    return false;
  default:
    lua_pushnil(L);
  }
  return true;
}

void uffd_lua_args_push(lua_State *L, const struct uffd_lua_args *args) {
  const char *at = args->data;
  push_value(L, args, &at);
}
