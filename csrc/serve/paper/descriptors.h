/*
 * Descriptors that pass from a client to the supervisor and from there to a worker.
 */
#ifndef UFFD_SERVE_DESCRIPTORS_H
#define UFFD_SERVE_DESCRIPTORS_H

#include <stdint.h>

#define UFFD_HANDSHAKE_FDS                                                                                             \
  16 /* that a client may send after its userfaultfd; Firecracker's descendants send up to 2                           \
      */

void uffd_close_fds(int *fds, uint32_t count); /* closes those that are not -1, and sets them to -1 */

#endif
