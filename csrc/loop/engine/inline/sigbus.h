/*
 * The process's SIGBUS handler: ours from the first inline loop on.
 */
#ifndef UFFD_LOOP_ENGINE_INLINE_SIGBUS_H
#define UFFD_LOOP_ENGINE_INLINE_SIGBUS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* Whoever resolves faults: called in the handler. False: the fault is somebody else's. */
typedef bool uffd_sigbus_fn(uint64_t address, uint64_t flags);

int uffd_sigbus_acquire(uffd_sigbus_fn *resolve); /* 0 or -errno with a sentence */

#endif
