/*
 * The two ways to make a userfaultfd, and the handshake. Does not decide which way is tried.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "kernel/create.h"
#include "kernel/object.h"

static int create_by_device(int flags) {
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0) return -errno;
  int fd = ioctl(device, RAW_USERFAULTFD_IOC_NEW, flags);
  int rc = fd < 0 ? -errno : fd;
  close(device);
  return rc;
}

int uffd_create_fd(uint32_t route, int flags) {
  if (route == UFFD_ROUTE_DEVICE) return create_by_device(flags);
  long fd = syscall(SYS_userfaultfd, flags);
  return fd < 0 ? -errno : (int)fd;
}

int uffd_handshake(int fd, uint64_t features, uint64_t *offered) {
  struct uffd_raw_api api = {.api = RAW_API, .features = features};
  if (ioctl(fd, RAW_UFFDIO_API, &api) < 0) return -errno;
  *offered = api.features;
  return 0;
}

bool uffd_is_refusal(int error) {
  switch (error) {
  case EMFILE:
  case ENFILE:
  case ENOMEM:
  case EINVAL:
  case EINTR:
    return false;
  default:
    return true;
  }
}

bool uffd_continues_protected(uint64_t features) {
  return (features & UFFD_FEAT_WP_UNPOPULATED) != 0;
}

uint64_t uffd_kernel_features(void) {
  static _Atomic uint64_t known;
  uint64_t mask = atomic_load_explicit(&known, memory_order_relaxed);
  if (mask != 0) return mask;
  static const struct {
    uint32_t route;
    int flags;
  } ways[] = {{UFFD_ROUTE_SYSCALL, RAW_USER_MODE_ONLY}, {UFFD_ROUTE_DEVICE, 0}, {UFFD_ROUTE_SYSCALL, 0}};
  for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]) && mask == 0; i++) {
    int fd = uffd_create_fd(ways[i].route, ways[i].flags | O_CLOEXEC);
    if (fd < 0) continue;
    if (uffd_handshake(fd, 0, &mask) < 0) mask = 0;
    close(fd);
  }
  BARRIER("features", &mask); /* a test makes an older kernel of this one */
  if (mask != 0) atomic_store_explicit(&known, mask, memory_order_relaxed);
  return mask;
}

bool uffd_kernel_at_least(unsigned major, unsigned minor) {
  struct utsname names;
  unsigned running_major = 0, running_minor = 0;
  if (uname(&names) < 0 || sscanf(names.release, "%u.%u", &running_major, &running_minor) < 1) return true;
  return running_major != major ? running_major > major : running_minor >= minor;
}
