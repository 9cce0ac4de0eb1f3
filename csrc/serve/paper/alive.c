/*
 * The userfaultfd is asked whether its memory still exists, and not the process: the process that connected may have
 * handed over another one's memory, may share its memory with another process, or may be invisible from here.
 */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/paper/alive.h"
#include "serve/paper/descriptors.h"

#define HOLD_MS 1000 /* between two looks at what is held */

/* The address of a page that nobody can read; mapped once, 0 when there is no memory. */
static uint64_t unreadable(void) {
  static _Atomic(void *) page;
  void *present = atomic_load(&page);
  if (present != NULL) return (uint64_t)(uintptr_t)present;
  void *made = mmap(NULL, BASE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) return 0;
  if (atomic_compare_exchange_strong(&page, &present, made)) return (uint64_t)(uintptr_t)made;
  munmap(made, BASE_PAGE);
  return (uint64_t)(uintptr_t)present;
}

/* A copy from an unreadable page changes nothing: its errno; 0: it could not be tried. */
static int copy_nothing(int object_fd, uint64_t address, uint64_t length) {
  struct uffdio_copy copy = {.dst = address, .src = unreadable(), .len = length, .mode = UFFDIO_COPY_MODE_DONTWAKE};
  return copy.src != 0 && ioctl(object_fd, UFFDIO_COPY, &copy) != 0 ? errno : 0;
}

bool uffd_memory_gone(int object_fd, uint64_t address) {
  return copy_nothing(object_fd, address, BASE_PAGE) == ESRCH;
}

bool uffd_page_unregistered(int object_fd, uint64_t address, uint64_t page_size) {
  return copy_nothing(object_fd, address, page_size) == ENOENT;
}

static void close_other(void *ctx, int fd) {
  (void)ctx;
  if (!uffd_fd_is(0, fd, UFFD_FD_OBJECT)) close(fd);
}

static void close_gone(void *ctx, int fd) {
  bool *held = ctx;
  if (uffd_memory_gone(fd, UFFD_ANY_ADDRESS)) {
    close(fd);
  } else {
    *held = true;
  }
}

void uffd_hold_objects(void) {
  bool held;
  uffd_each_fd(close_other, NULL); /* locks that it has must not keep others out */
  do {
    held = false;
    uffd_each_fd(close_gone, &held);
  } while (held && poll(NULL, 0, HOLD_MS) >= 0);
}
