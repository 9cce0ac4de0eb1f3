/*
 * Lua programs that serve memory with a policy, for C to touch.
 */
#ifndef UFFD_BENCH_POLICY_H
#define UFFD_BENCH_POLICY_H

#include "plan.h"

/* The plan's special is the Lua source of the policy's factory. */
run_fn serve_policy;
/* Whether the binding has the engine. */
bool policy_has_engine(const char *engine);

#endif
