/*
 * The kernel's interface without the library.
 */
#include "raw.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int raw_open(uint64_t features) {
  struct uffdio_api api = {.api = UFFD_API, .features = features};
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY); /* no privilege */
  if (fd < 0 || ioctl(fd, UFFDIO_API, &api) != 0) die("userfaultfd: %m");
  return fd;
}

void raw_register(int fd, const char *memory, uint64_t length, uint64_t mode) {
  struct uffdio_register request = {.range = {(uintptr_t)memory, length}, .mode = mode};
  if (ioctl(fd, UFFDIO_REGISTER, &request) != 0) die("UFFDIO_REGISTER: %m");
}

int raw_copy(int fd, uint64_t dst, const char *source, uint64_t length, bool protect) {
  struct uffdio_copy request = {
      .dst = dst, .src = (uintptr_t)source, .len = length, .mode = protect ? UFFDIO_COPY_MODE_WP : 0};
  return ioctl(fd, UFFDIO_COPY, &request) == 0 ? 0 : errno;
}

int raw_fill(int fd, uint64_t dst, const char *source, uint64_t length) {
  if (source == NULL) {
    struct uffdio_zeropage request = {.range = {dst, length}};
    return ioctl(fd, UFFDIO_ZEROPAGE, &request) == 0 ? 0 : errno;
  }
  return raw_copy(fd, dst, source, length, false);
}

int raw_continue(int fd, uint64_t dst, uint64_t length) {
  struct uffdio_continue request = {.range = {dst, length}};
  return ioctl(fd, UFFDIO_CONTINUE, &request) == 0 ? 0 : errno;
}

int raw_writeprotect(int fd, uint64_t dst, uint64_t length, bool protect) {
  struct uffdio_writeprotect request = {.range = {dst, length}, .mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
  return ioctl(fd, UFFDIO_WRITEPROTECT, &request) == 0 ? 0 : errno;
}

const char *raw_source(const struct plan *plan, const char *image, const char *memory, uint64_t page) {
  if (plan->contents == CONSTANT) return constant_page();
  return plan->contents == IMAGE ? image + (page - (uintptr_t)memory) : NULL;
}
