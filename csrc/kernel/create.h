/*
 * Making userfaultfds, and why they are refused. Opening, adopting and probing use it.
 */
#ifndef UFFD_KERNEL_CREATE_H
#define UFFD_KERNEL_CREATE_H

#include "base/base.h"

/* A new descriptor by one route (UFFD_ROUTE_SYSCALL or _DEVICE), or -errno. flags: O_* and RAW_USER_MODE_ONLY. */
int uffd_create_fd(uint32_t route, int flags);

/* UFFDIO_API. 0 and *offered (everything the kernel has), or -errno; after a failure it may be called again. */
int uffd_handshake(int fd, uint64_t features, uint64_t *offered);

/* True: another way may be tried. Other errors (EMFILE, ENOMEM, EINVAL, ...) are returned to the caller. */
bool uffd_is_refusal(int error);

/* Tries every way once, and fills in what it finds: the fields about creation, the sysctl, event_fork, features. */
void uffd_survey(struct uffd_probe *facts);

/* Writes why the route (UFFD_ROUTE_*) is refused, and what to do. */
void uffd_explain_refusal(const struct uffd_probe *facts, uint32_t route, char *text, size_t length);

/* The number in a small file of /proc, or -1. */
long long uffd_read_number(const char *path);

/* Is the running kernel major.minor or newer? */
bool uffd_kernel_at_least(unsigned major, unsigned minor);

#endif
