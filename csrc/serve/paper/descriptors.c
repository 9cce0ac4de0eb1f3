/*
 * Descriptors: closing them, how many there may be, which are the same.
 */
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

bool uffd_fd_is(int32_t pid, int fd, const char *begin) {
  char path[64], target[64];
  if (pid == 0) {
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  } else {
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
  }
  ssize_t length = readlink(path, target, sizeof(target) - 1);
  target[length > 0 ? length : 0] = '\0';
  return strncmp(target, begin, strlen(begin)) == 0;
}

/* An entry of a directory, as getdents64(2) has it. */
struct entry {
  uint64_t inode;
  int64_t next;
  uint16_t length;
  uint8_t type;
  char name[];
};

void uffd_each_fd(void (*each)(void *ctx, int fd), void *ctx) {
  _Alignas(struct entry) char buffer[4096];
  int folder = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  long length;
  while (folder >= 0 && (length = syscall(SYS_getdents64, folder, buffer, sizeof(buffer))) > 0) {
    for (long at = 0; at < length;) {
      const struct entry *entry = (const struct entry *)(const void *)(buffer + at);
      int fd = entry->name[0] != '.' ? (int)strtol(entry->name, NULL, 10) : -1;
      if (fd >= 0 && fd != folder) each(ctx, fd);
      at += entry->length;
    }
  }
  if (folder >= 0) close(folder);
}
