/* A policy: a resolver that is a Lua function, plugged in through the public callback. */
#ifndef UFFD_LUA_POLICY_H
#define UFFD_LUA_POLICY_H

#include "ring.h"

/* What policies that are set up by this thread log goes there; NULL: nowhere. Returns the one before. */
struct uffd_lua_ring *uffd_lua_policy_messages(struct uffd_lua_ring *ring);

#endif
