/*
 * Descriptors: closing them, how many there may be, which are the same.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "serve/paper/descriptors.h"

void uffd_close_fds(int *fds, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if (fds[i] >= 0) close(fds[i]);
    fds[i] = -1;
  }
}

static void close_range_of(int from, int to) {
  if (from <= to) (void)syscall(SYS_close_range, (unsigned)from, (unsigned)to, 0);
}

void uffd_close_all_but(int one, int other) {
  int low = one < other ? one : other, high = one < other ? other : one;
  close_range_of(3, low - 1);
  close_range_of(low + 1, high - 1);
  close_range_of(high + 1, INT_MAX);
}

/* The lowest free number is taken, so lower ones come first. Without O_CLOEXEC: it is for programs that are started,
 * too. */
void uffd_reserve_standard_fds(void) {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
    if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", O_RDWR);
  }
}

uint64_t uffd_raise_fd_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  if (limit.rlim_cur < limit.rlim_max) {
    struct rlimit raised = {limit.rlim_max, limit.rlim_max};
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  }
  return limit.rlim_cur;
}

bool uffd_same_file(int fd, int other) {
  return syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, fd, other) == 0;
}
