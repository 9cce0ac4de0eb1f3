/*
 * The process's SIGBUS handler: ours from the first inline loop on.
 */
#ifndef UFFD_LOOP_ENGINE_INLINE_SIGBUS_H
#define UFFD_LOOP_ENGINE_INLINE_SIGBUS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#define UFFD_ANSWER_STACK 4096u /* bytes that answers take of a signal stack, unless resolvers are nested deep */

/*
 * Whoever resolves faults: called in the handler. cramped: there are not so many bytes left. False: the fault is
 * somebody else's, or cannot be resolved.
 */
typedef bool uffd_sigbus_fn(uint64_t address, uint64_t flags, bool cramped);

int uffd_sigbus_acquire(uffd_sigbus_fn *resolve); /* 0 or -errno with a sentence */

#endif
