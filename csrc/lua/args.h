/* Values that go from the program's Lua state into the handlers': copied out once, copied in once for each handler. */
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
 * Copies the value at index: nil, boolean, number, string, table of these without a metatable or a cycle, resolver,
 * memory, sentinel. Anything else raises, naming where it is. handles is the stack index of a table that receives the
 * resolver handles, in the order of args->resolvers. What was copied before an error is in args: free it.
 */
void uffd_lua_args_copy(lua_State *L, int index, int handles, struct uffd_lua_args *args);
/* Pushes the value in a handler's state. Raises errors of memory only. */
void uffd_lua_args_push(lua_State *L, const struct uffd_lua_args *args);
void uffd_lua_args_free(struct uffd_lua_args *args);

/* The handles that a handler's state knows. */
void uffd_lua_args_open(lua_State *L);
/* The resolver of a handle in a handler's state; NULL when the value is none. */
uffd_resolver *uffd_lua_args_resolver(lua_State *L, int index);

#endif
