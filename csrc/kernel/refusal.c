/*
 * Why a userfaultfd is refused. EPERM has three causes, and each way is asked once to tell them apart. Refused, but
 * granted with USER_MODE_ONLY: a privilege is missing. Refused with USER_MODE_ONLY too: a filter (seccomp, a security
 * module).
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel/create.h"
#include "kernel/uapi.h"

#define SYSCTL "/proc/sys/vm/unprivileged_userfaultfd"

long long uffd_read_number(const char *path) {
  char text[32] = "";
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t length = read(fd, text, sizeof(text) - 1);
  close(fd);
  return length > 0 ? strtoll(text, NULL, 10) : -1;
}

/* Tries one way: 0 or its errno, and what the descriptor tells. */
static int try_way(struct uffd_probe *facts, uint32_t route, int flags) {
  int fd = uffd_create_fd(route, flags | O_CLOEXEC);
  if (fd < 0) return -fd;
  uint64_t offered = 0;
  int rc = uffd_handshake(fd, UFFD_FEAT_EVENT_FORK, &offered);
  facts->event_fork = rc == 0;
  if (rc < 0) rc = uffd_handshake(fd, 0, &offered);
  if (rc == 0) {
    facts->features = offered;
    if (facts->route == 0) {
      facts->route = route;
      facts->user_mode_only = (flags & RAW_USER_MODE_ONLY) != 0;
    }
  }
  close(fd);
  return -rc;
}

void uffd_survey(struct uffd_probe *facts) {
  facts->sysctl_unprivileged = (int)uffd_read_number(SYSCTL);
  facts->route = 0;
  facts->user_mode_only = 0;
  facts->features = 0;
  facts->syscall_error = try_way(facts, UFFD_ROUTE_SYSCALL, 0);
  facts->device_error = try_way(facts, UFFD_ROUTE_DEVICE, 0);
  facts->syscall_umo_error = try_way(facts, UFFD_ROUTE_SYSCALL, RAW_USER_MODE_ONLY);
  facts->usable = facts->route != 0;
}

static void explain_syscall(const struct uffd_probe *facts, char *text, size_t length) {
  switch (facts->syscall_error) {
  case 0:
    snprintf(text, length, "userfaultfd(2) is allowed.");
    break;
  case EPERM:
    if (facts->syscall_umo_error == EPERM && uffd_kernel_at_least(5, 11)) {
      snprintf(
          text, length,
          "A seccomp filter forbids userfaultfd(2), as the default profiles of containers do: allow the call in the "
          "profile, or pass the device /dev/userfaultfd in.");
    } else {
      snprintf(
          text, length,
          "userfaultfd(2) needs privilege: vm.unprivileged_userfaultfd is %s, and this process has no CAP_SYS_PTRACE "
          "in the initial user namespace. Run \"sysctl -w vm.unprivileged_userfaultfd=1\" as root, give the "
          "capability, or give access to /dev/userfaultfd%s.",
          facts->sysctl_unprivileged == 0 ? "0" : "not set",
          facts->syscall_umo_error == 0 ? "; or ask for USER_MODE_ONLY, which is allowed" : "");
    }
    break;
  case ENOSYS:
    if (facts->sysctl_unprivileged >= 0 || facts->device_error == 0 || facts->device_error == EACCES) {
      snprintf(text, length,
               "A seccomp filter hides userfaultfd(2) (the kernel has it): allow the call in the profile, or pass the "
               "device /dev/userfaultfd in.");
    } else {
      snprintf(
          text, length,
          "This kernel has no userfaultfd: it needs 4.11 or newer, built with CONFIG_USERFAULTFD; a sandbox such as "
          "gVisor has none.");
    }
    break;
  case EACCES:
    snprintf(text, length, "A security module (SELinux, ...) forbids userfaultfd(2): change its policy.");
    break;
  case EMFILE:
  case ENFILE:
    snprintf(text, length, "No file descriptor is free: close some, or raise the limit (ulimit -n).");
    break;
  default:
    snprintf(text, length, "userfaultfd(2) failed: %s.", strerror(facts->syscall_error));
    break;
  }
}

static void explain_device(const struct uffd_probe *facts, char *text, size_t length) {
  switch (facts->device_error) {
  case 0:
    snprintf(text, length, "/dev/userfaultfd is allowed.");
    break;
  case EACCES:
    snprintf(text, length,
             "The permissions of /dev/userfaultfd keep user %u out: as root, \"chown\" or \"setfacl -m u:%u:rw "
             "/dev/userfaultfd\".",
             (unsigned)geteuid(), (unsigned)geteuid());
    break;
  case ENOENT:
    if (uffd_kernel_at_least(6, 1)) {
      snprintf(
          text, length,
          "There is no /dev/userfaultfd here: pass the device into the container, or make the node with the number "
          "in /proc/misc.");
    } else {
      snprintf(text, length, "There is no /dev/userfaultfd: the device needs kernel 6.1 or newer.");
    }
    break;
  case EPERM:
    snprintf(text, length, "The device control group or a security module forbids /dev/userfaultfd: allow the device.");
    break;
  case EMFILE:
  case ENFILE:
    snprintf(text, length, "No file descriptor is free: close some, or raise the limit (ulimit -n).");
    break;
  default:
    snprintf(text, length, "/dev/userfaultfd failed: %s.", strerror(facts->device_error));
    break;
  }
}

void uffd_explain_refusal(const struct uffd_probe *facts, uint32_t route, char *text, size_t length) {
  char by_syscall[384], by_device[256];
  explain_syscall(facts, by_syscall, sizeof(by_syscall));
  explain_device(facts, by_device, sizeof(by_device));
  if (route == UFFD_ROUTE_SYSCALL) {
    snprintf(text, length, "%s", by_syscall);
  } else if (route == UFFD_ROUTE_DEVICE) {
    snprintf(text, length, "%s", by_device);
  } else {
    snprintf(text, length, "%s %s", by_syscall, by_device);
  }
}
