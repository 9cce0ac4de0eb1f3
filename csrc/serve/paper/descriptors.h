/*
 * Descriptors that pass from a client to the supervisor and from there to a worker.
 */
#ifndef UFFD_SERVE_DESCRIPTORS_H
#define UFFD_SERVE_DESCRIPTORS_H

#include <stdbool.h>
#include <stdint.h>

#define UFFD_HANDSHAKE_FDS                                                                                             \
  16 /* that a client may send after its userfaultfd; Firecracker's descendants send up to 2                           \
      */

void uffd_close_fds(int *fds, uint32_t count); /* closes those that are not -1, and sets them to -1 */
void uffd_close_all_but(int one, int other);   /* all from 3 on. Before Linux 5.9 they stay open */
/*
 * Opens /dev/null at 0, 1 and 2 where nothing is open: else a client's descriptor might be what a policy prints to.
 */
void uffd_reserve_standard_fds(void);
/* Raises this process's soft limit of descriptors to the hard one, and returns it. */
uint64_t uffd_raise_fd_limit(void);
/* As the kernel names what is open: a userfaultfd. What else it tells of a file may wait for that file's lock. */
#define UFFD_FD_OBJECT "anon_inode:[userfaultfd]"
/* Does the name of what a process has open at fd begin so? pid 0: this process. */
bool uffd_fd_is(int32_t pid, int fd, const char *begin);
/* Calls each with every descriptor of this process; each may close it. It allocates nothing. */
void uffd_each_fd(void (*each)(void *ctx, int fd), void *ctx);
/* Are both descriptors of one open file? (kcmp(2); false also where the kernel does not say.) */
bool uffd_same_file(int fd, int other);

#endif
