/* A policy: a resolver that is a Lua function, made with the public callback resolver. */
#ifndef UFFD_LUA_POLICY_H
#define UFFD_LUA_POLICY_H

#include "ring.h"

/*
 * The ring that receives messages of policies which this thread sets up from now on; NULL: none. Returns the ring
 * before.
 */
struct uffd_lua_ring *uffd_lua_policy_messages(struct uffd_lua_ring *ring);

/*
 * Policies that this thread sets up log to stderr, by a thread of its own, which is started once a process. Without
 * memory for it, messages are lost; the policies answer all the same.
 */
void uffd_lua_policy_print(void);

#endif
