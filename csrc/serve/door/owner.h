/*
 * Whose memory a handshake hands over, where it is not that of the process that connected: a forwarder hands over for
 * others. What the client says is proved by the kernel (kcmp(2)): the process has the same userfaultfd.
 */
#ifndef UFFD_SERVE_OWNER_H
#define UFFD_SERVE_OWNER_H

#include "serve/door/handshake.h"

/*
 * When the client has named a process, pid and pidfd of the handshake become that process's. A pidfd that came with it
 * is taken out of its descriptors. Where a number is named by a client in another pid namespace, /proc is searched for
 * it, which takes time in proportion to the processes of this machine; a pidfd is found at once. Errors, with a
 * sentence: -EBADF no pidfd came; -ESRCH the process is dead, or none of that number has the userfaultfd; -EPERM the
 * kernel does not let us look into it; -EINVAL it does not have the userfaultfd; -EMFILE.
 */
int uffd_owner_find(struct uffd_handshake *handshake);

#endif
