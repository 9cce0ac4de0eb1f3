/*
 * Is a client's memory still there? Its process may have handed the userfaultfd on for another, share its memory with
 * one, or be unknown to us: the userfaultfd itself tells.
 */
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "serve/supervisor/pager.h"

/* A page that nobody can read, made once. */
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

/* A copy out of an unreadable page: it changes nothing, and says ESRCH when the address space is no more. */
bool uffd_memory_gone(int object_fd, uint64_t address) {
  struct uffdio_copy copy = {.dst = address, .src = unreadable(), .len = BASE_PAGE, .mode = UFFDIO_COPY_MODE_DONTWAKE};
  return copy.src != 0 && ioctl(object_fd, UFFDIO_COPY, &copy) != 0 && errno == ESRCH;
}
