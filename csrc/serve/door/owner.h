/*
 * Whose memory a handshake hands over, where it is not that of the process that connected: a forwarder hands over for
 * others. What the client says is proved by the kernel (kcmp(2)): the process has the same userfaultfd.
 */
#ifndef UFFD_SERVE_OWNER_H
#define UFFD_SERVE_OWNER_H

#include "serve/door/handshake.h"

/*
 * The number of the process that the client has named. peer: the process that connected. pidfd: what came after the
 * userfaultfd, when the owner is named by a pidfd; otherwise it becomes a new pidfd of that process. /proc is searched
 * for a userfaultfd whose number is not said, and, where the client is in another pid namespace, for the process: this
 * takes time in proportion to its descriptors and to the processes of this machine. Errors, with a sentence: -EBADF
 * no pidfd came; -ESRCH the process is dead, or none of that number has the userfaultfd; -EPERM the kernel does not let
 * us look into it; -EINVAL it does not have the userfaultfd; -EMFILE.
 */
int uffd_owner_find(const struct uffd_owner *owner, int32_t peer, int object_fd, int *pidfd);

#endif
