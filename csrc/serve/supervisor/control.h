/*
 * The control socket: answers questions about a pager from what its public functions tell, and passes on its orders.
 * Nothing here waits: the supervisor polls, and steps it.
 */
#ifndef UFFD_SERVE_CONTROL_H
#define UFFD_SERVE_CONTROL_H

#include <sys/types.h>

#include "base/base.h"
#include "uffd_pager.h"

struct uffd_control;

/*
 * Whoever the file's mode lets connect may look; root, our own user and uid (unless it is -1) may also give orders.
 * Errors: those of uffd_listener_open(); -ENOMEM.
 */
/* fd: a socket that was given, which is taken; -1: none. */
int uffd_control_open(const char *path, int fd, mode_t mode, int64_t uid, uffd_pager *pager,
                      struct uffd_control **control);
int uffd_control_fd(const struct uffd_control *control); /* polls readable when uffd_control_step() has work */
void uffd_control_step(struct uffd_control *control);
void uffd_control_allow(struct uffd_control *control, int64_t uid); /* as control_uid */
void uffd_control_opened(struct uffd_control *control); /* answers those who wait for an image to be opened */
/* Removes the socket's file if it is still ours; in a forked child it only closes. NULL is allowed. */
void uffd_control_close(struct uffd_control *control);

#endif
