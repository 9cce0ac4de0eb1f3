/*
 * Lua programs that serve memory with a policy, for C to touch.
 */
#ifndef UFFD_BENCH_POLICY_H
#define UFFD_BENCH_POLICY_H

#include <lua.h>

#include "plan.h"

/* The plan's special is the Lua source of the policy's factory. */
run_fn serve_policy;
/* Whether the binding has the engine. */
bool policy_has_engine(const char *engine);

/* A state with the module uffd in it. */
lua_State *policy_state(void);
/* The function and its arguments on the stack; ends the program with its error. */
void policy_call(lua_State *L, int arguments, int results);

#endif
