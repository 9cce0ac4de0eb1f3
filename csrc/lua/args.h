/*
 * Values that go from the program's Lua state to the handlers': copied out once, and copied in once for each handler.
 */
#ifndef UFFD_LUA_ARGS_H
#define UFFD_LUA_ARGS_H

#include "util.h"

struct uffd_lua_args {
  char *data;
  size_t length;
  size_t room;
  uffd_resolver **resolvers; /* those that the values refer to; the policy keeps them alive */
  size_t resolver_count;
  struct uffd_lua_memory_ref **memories; /* each held once */
  size_t memory_count;
};

/*
 * Copies the value at index: nil, boolean, number, string, a table of these without metatable and cycles, resolver,
 * memory, sentinel. Anything else raises an error that names its place. handles is the stack index of a table that
 * receives the resolver handles, in the order of args->resolvers. After an error, args holds what was copied before:
 * free it.
 */
void uffd_lua_args_copy(lua_State *L, int index, int handles, struct uffd_lua_args *args);
/* Pushes the value in a handler's state. The only error that it raises is about memory. */
void uffd_lua_args_push(lua_State *L, const struct uffd_lua_args *args);
void uffd_lua_args_free(struct uffd_lua_args *args);

/* The handles that a handler's state knows. */
void uffd_lua_args_open(lua_State *L);
/* The resolver of a handle in a handler's state; NULL if the value is no such handle. */
uffd_resolver *uffd_lua_args_resolver(lua_State *L, int index);

#endif
