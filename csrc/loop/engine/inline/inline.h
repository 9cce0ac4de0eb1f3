/*
 * The inline engine: the faulting thread resolves its own fault in its SIGBUS handler (UFFD_FEAT_SIGBUS), on the same
 * line as everybody else. What runs there takes no lock that an interrupted thread may hold, and allocates nothing.
 */
#ifndef UFFD_LOOP_ENGINE_INLINE_INLINE_H
#define UFFD_LOOP_ENGINE_INLINE_INLINE_H

#include "loop/engine/engine.h"

extern const struct uffd_engine_class uffd_inline_engine;

#endif
