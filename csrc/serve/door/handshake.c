/*
 * Giving back what a client has handed over.
 */
#include "serve/door/handshake.h"
#include "base/base.h"
#include "serve/paper/closer.h"

void uffd_handshake_release(struct uffd_handshake *handshake) {
  uffd_close_fds(&handshake->object_fd, 1);
  uffd_close_fds(&handshake->pidfd, 1);
  uffd_close_foreign(handshake->fds, handshake->fds_count);
  uffd_release(handshake->regions, handshake->regions_count * sizeof(*handshake->regions));
  *handshake = (struct uffd_handshake)UFFD_HANDSHAKE_INIT;
}
