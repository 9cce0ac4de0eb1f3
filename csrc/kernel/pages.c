/*
 * Zeroed pages straight from the kernel: what those who read messages may allocate. malloc's locks may be held by a
 * thread that waits for the reader.
 */
#include <sys/mman.h>

#include "kernel/support.h"

void *uffd_pages_map(uint64_t length) {
  if (length == 0 || length > UINT64_MAX / 2) return NULL;
  void *pages = mmap(NULL, round_up(length, BASE_PAGE), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return pages == MAP_FAILED ? NULL : pages;
}

void uffd_pages_unmap(void *pages, uint64_t length) {
  if (pages != NULL) munmap(pages, round_up(length, BASE_PAGE));
}
