/*
 * The ioctls on ranges without a handle's checks and sentences: what the fault path and closing use.
 */
#include <sys/ioctl.h>

#include "kernel/object.h"

int uffd_raw_register(int fd, uint64_t start, uint64_t length, uint64_t modes, uint64_t *ioctls) {
  struct uffd_raw_register request = {.range = {start, length}, .mode = modes};
  if (ioctl(fd, RAW_UFFDIO_REGISTER, &request) < 0) return -errno;
  if (ioctls != NULL) *ioctls = request.ioctls;
  return 0;
}

int uffd_raw_unregister(int fd, uint64_t start, uint64_t length) {
  struct uffd_raw_range request = {start, length};
  return ioctl(fd, RAW_UFFDIO_UNREGISTER, &request) < 0 ? -errno : 0;
}

bool uffd_raw_is_registered(int fd, uint64_t address) {
  struct uffd_raw_zeropage request = {.range = {address, BASE_PAGE}};
  return ioctl(fd, RAW_UFFDIO_CONTINUE, &request) == 0 || errno != ENOENT;
}

int uffd_raw_wake(int fd, uint64_t start, uint64_t length) {
  struct uffd_raw_range request = {start, length};
  return ioctl(fd, RAW_UFFDIO_WAKE, &request) < 0 ? -errno : 0;
}

int uffd_raw_writeprotect(int fd, uint64_t start, uint64_t length, uint64_t mode) {
  struct uffd_raw_writeprotect request = {.range = {start, length}, .mode = mode};
  return ioctl(fd, RAW_UFFDIO_WRITEPROTECT, &request) < 0 ? -errno : 0;
}
