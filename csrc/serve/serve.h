/*
 * What the files of serve share: the client as a front door hands it in.
 */
#ifndef UFFD_SERVE_SERVE_H
#define UFFD_SERVE_SERVE_H

#include "base/base.h"
#include "uffd_pager.h"

#define UFFD_HANDSHAKE_FDS 16 /* beside the userfaultfd; Firecracker's descendants send up to 2 */

/*
 * What a client handed over, checked. Whoever has it owns its descriptors, all of them O_CLOEXEC, and its table: what
 * is taken out is replaced by -1 or NULL, and uffd_handshake_release() does the rest.
 */
struct uffd_handshake {
  uint64_t connection; /* that it came by: 1, 2, ... of the door */
  int object_fd;       /* a userfaultfd with its UFFDIO_API handshake, O_NONBLOCK */
  int pidfd;           /* of who connected; -1: unknown, it lives in a pid namespace that we cannot see */
  int32_t pid;         /* as we see it; 0: unknown */
  uint32_t uid;
  uint32_t gid;
  uint32_t regions_count;
  struct uffd_client_region *regions; /* by offset, checked: see uffd_regions_check() */
  uint32_t fds_count;
  int fds[UFFD_HANDSHAKE_FDS]; /* that came along after the userfaultfd */
};
#define UFFD_HANDSHAKE_INIT                                                                                            \
  { .object_fd = -1, .pidfd = -1 }

/* Closes and frees what is still there; the handshake is as after UFFD_HANDSHAKE_INIT then. */
void uffd_handshake_release(struct uffd_handshake *handshake);

#endif
