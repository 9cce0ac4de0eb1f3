/*
 * Whose memory it is: a pidfd or a number becomes a process, and the process is proved to have the userfaultfd. It must
 * have it open until it is told that it is served.
 */
#include "serve/door/owner.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"

#define DESCRIPTORS_MAX 65536u /* of a process, that are looked at */
#define PROCESSES_MAX   65536u

/* -EINVAL: the descriptor is another file's, or none. -EPERM, -ESRCH. */
static int compare(int32_t pid, int object_fd, int fd) {
  long result = syscall(SYS_kcmp, getpid(), pid, KCMP_FILE, (unsigned long)object_fd, (unsigned long)fd);
  if (result >= 0) return result == 0 ? 0 : -EINVAL;
  return errno == EPERM || errno == ESRCH ? -errno : -EINVAL;
}

static int search_descriptors(int32_t pid, int object_fd) {
  char path[64];
  int result = -EINVAL;
  unsigned count = 0;
  snprintf(path, sizeof(path), "/proc/%d/fd", pid);
  DIR *fds = opendir(path);
  if (fds == NULL) return errno == EACCES || errno == EPERM ? -EPERM : -ESRCH;
  for (struct dirent *fd; result == -EINVAL && count < DESCRIPTORS_MAX && (fd = readdir(fds)) != NULL; count++) {
    int number = (int)strtol(fd->d_name, NULL, 10);
    if (uffd_fd_is(pid, number, UFFD_FD_OBJECT)) result = compare(pid, object_fd, number);
  }
  (void)closedir(fds);
  return result;
}

/* In a pid namespace that we cannot see there is no number to ask by, but a descriptor can be had by the pidfd. */
static int compare_by_pidfd(int pidfd, int object_fd, int fd) {
  if (fd < 0) return -EINVAL;
  int copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
  if (copy < 0) return errno == EPERM || errno == ESRCH ? -errno : -EINVAL;
  int result = compare(getpid(), object_fd, copy);
  close(copy);
  return result;
}

/* pid 0: it is not visible from here. */
static int prove(int32_t pid, int pidfd, int object_fd, int fd) {
  if (pid == 0) return compare_by_pidfd(pidfd, object_fd, fd);
  int result = fd >= 0 ? compare(pid, object_fd, fd) : search_descriptors(pid, object_fd);
  /* The number is the process's as long as it lives. */
  return result == 0 && uffd_ready(pidfd, POLLIN) != 0 ? -ESRCH : result;
}

/* The number behind a pidfd: 0 it is not visible from here. -EBADF, -ESRCH. */
static int number_of(int pidfd) {
  char path[64], line[256];
  int pid = -EBADF;
  if (!uffd_fd_is(0, pidfd, "anon_inode:[pidfd]") && !uffd_fd_is(0, pidfd, "pidfd:")) return -EBADF;
  snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
  FILE *file = fopen(path, "re");
  if (file == NULL) return -EBADF;
  while (pid == -EBADF && fgets(line, sizeof(line), file) != NULL) {
    if (strncmp(line, "Pid:", 4) == 0) pid = (int)strtol(line + 4, NULL, 10);
  }
  (void)fclose(file);
  return pid == -1 ? -ESRCH : pid;
}

static int explain(int error, const struct uffd_owner *owner, int32_t pid) {
  char who[64];
  if (owner->by_pidfd && pid <= 0) {
    snprintf(who, sizeof(who), "The process of the pidfd");
  } else {
    snprintf(who, sizeof(who), "Process %d", owner->by_pidfd ? pid : owner->pid);
  }
  switch (error) {
  case ESRCH:
    return fail(error, "%s is dead, or no such process has the userfaultfd.", who);
  case EPERM:
    return fail(error,
                "%s cannot be proved to have the userfaultfd: run the pager as its user, or with CAP_SYS_PTRACE.", who);
  default:
    if (owner->by_pidfd && pid == 0 && owner->fd < 0) {
      return fail(error, "%s is in a pid namespace that the pager cannot see: say uffd_fd, too.", who);
    }
    return fail(error, "%s does not have this userfaultfd: it must keep it open until the pager has answered.", who);
  }
}

static int find_by_pidfd(const struct uffd_owner *owner, int object_fd, int pidfd) {
  if (pidfd < 0) return fail(EBADF, "The handshake promises a pidfd, and none came after the userfaultfd.");
  int pid = number_of(pidfd);
  if (pid == -EBADF) return fail(EBADF, "The descriptor after the userfaultfd is no pidfd.");
  int result = pid < 0 ? pid : prove(pid, pidfd, object_fd, owner->fd);
  return result < 0 ? explain(-result, owner, pid) : pid;
}

/* One of the numbers that the process has in its namespaces. */
static bool is_called(int32_t pid, int32_t number) {
  char path[64], line[512];
  bool called = false;
  snprintf(path, sizeof(path), "/proc/%d/status", pid);
  FILE *file = fopen(path, "re");
  if (file == NULL) return false;
  while (fgets(line, sizeof(line), file) != NULL) {
    if (strncmp(line, "NSpid:", 6) != 0) continue;
    char *at = line + 6, *rest;
    for (long value = strtol(at, &rest, 10); rest != at && !called; value = strtol(at, &rest, 10)) {
      called = value == number;
      at = rest;
    }
    break;
  }
  (void)fclose(file);
  return called;
}

/* The process with this number of ours, if it is called so and has the object: its pidfd is in *pidfd then. */
static int try_process(int32_t pid, const struct uffd_owner *owner, int object_fd, int *pidfd) {
  if (!is_called(pid, owner->pid)) return -ESRCH;
  *pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (*pidfd < 0) return -errno;
  int result = prove(pid, *pidfd, object_fd, owner->fd);
  if (result < 0) uffd_close_fds(pidfd, 1);
  return result;
}

/* Has the process that connected another pid namespace than we have, or one that cannot be told? */
static bool is_elsewhere(int32_t pid) {
  char path[64];
  struct stat its, ours;
  snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
  return pid <= 0 || stat(path, &its) != 0 || stat("/proc/self/ns/pid", &ours) != 0 || its.st_ino != ours.st_ino;
}

/* The number is another namespace's: whoever is called so there, and has the object, is the one. */
static int search_processes(const struct uffd_owner *owner, int object_fd, int32_t *pid, int *pidfd) {
  int result = -ESRCH;
  unsigned count = 0;
  DIR *all = opendir("/proc");
  if (all == NULL) return -ESRCH;
  for (struct dirent *entry; result != 0 && count < PROCESSES_MAX && (entry = readdir(all)) != NULL; count++) {
    *pid = (int32_t)strtol(entry->d_name, NULL, 10);
    int tried = *pid > 0 ? try_process(*pid, owner, object_fd, pidfd) : -ESRCH;
    if (tried == 0 || result == -ESRCH) result = tried; /* the first reason beside "not called so" is told */
  }
  (void)closedir(all);
  return result;
}

static int find_by_number(const struct uffd_owner *owner, int32_t peer, int object_fd, int *pidfd) {
  int32_t pid = owner->pid;
  int result = try_process(pid, owner, object_fd, pidfd);
  if (result < 0 && is_elsewhere(peer)) result = search_processes(owner, object_fd, &pid, pidfd);
  return result < 0 ? explain(-result, owner, pid) : pid;
}

int uffd_owner_find(const struct uffd_owner *owner, int32_t peer, int object_fd, int *pidfd) {
  if (owner->by_pidfd) return find_by_pidfd(owner, object_fd, *pidfd);
  *pidfd = -1;
  return find_by_number(owner, peer, object_fd, pidfd);
}
