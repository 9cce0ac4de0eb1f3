/*
 * The guard of a worker: a process that shares the worker's table of descriptors, and does nothing while the worker
 * lives. The kernel gives the userfaultfd of a forked child to the worker that reads of the fork; whenever the worker
 * is killed after that, the guard still has the descriptor, and hands it to the supervisor. Where the supervisor is
 * dead, too, the guard holds the userfaultfds until their memory is gone: a sleep, never zeros.
 */
#ifndef UFFD_SERVE_GUARD_H
#define UFFD_SERVE_GUARD_H

#include "serve/worker/mouth.h"

/* Before the worker has threads and clients. Without a guard, a fork that was just read is lost with its worker: -errno
 * with a sentence. */
int uffd_guard_start(const struct uffd_mouth *mouth);

#endif
