/* A policy: a resolver that is a Lua function, plugged in through the public callback. */
#ifndef UFFD_LUA_POLICY_H
#define UFFD_LUA_POLICY_H

#include "ring.h"

/* Where policies that this thread sets up from now on log to; NULL: nowhere. Returns the ring before. */
struct uffd_lua_ring *uffd_lua_policy_messages(struct uffd_lua_ring *ring);

/*
 * Sends what policies log that this thread sets up to stderr, from a thread of its own. Once a process. When there is
 * no memory for it, what they log is lost; they still answer.
 */
void uffd_lua_policy_print(void);

#endif
