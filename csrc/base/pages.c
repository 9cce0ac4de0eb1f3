/*
 * Zeroed pages straight from the kernel. Threads that read messages allocate only these: a thread that waits for such a
 * reader may hold malloc's locks.
 */
#include <sys/mman.h>

#include "base/base.h"

#define LINE_WORDS 64u /* words that are tested together: the compiler makes instructions of 8 or 16 words of it */

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

void *uffd_pages_map(uint64_t length) {
  if (length == 0 || length > UINT64_MAX / 2) return NULL;
  void *pages = mmap(NULL, round_up(length, BASE_PAGE), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return pages == MAP_FAILED ? NULL : pages;
}

void *uffd_pages_map_sparse(uint64_t length) {
  void *pages = uffd_pages_map(length);
  if (pages == NULL || BROKEN("sparse")) return pages;
  madvise(pages, round_up(length, BASE_PAGE), MADV_NOHUGEPAGE); /* EINVAL: a kernel without THP */
  return pages;
}

void uffd_pages_unmap(void *pages, uint64_t length) {
  if (pages != NULL) munmap(pages, round_up(length, BASE_PAGE));
}

/*
 * Reading maps the kernel's zero page everywhere, which takes no memory. One call does it since 5.14; 512 faults take
 * milliseconds.
 */
static void *map_zeros(void) {
  void *zeros = uffd_pages_map(UFFD_ZEROS);
  if (zeros == NULL || madvise(zeros, UFFD_ZEROS, MADV_POPULATE_READ) == 0) return zeros;
  for (uint64_t at = 0; at < UFFD_ZEROS; at += BASE_PAGE) {
    (void)*((volatile char *)zeros + at);
  }
  return zeros;
}

const char *uffd_zeros(void) {
  static _Atomic(void *) shared;
  void *present = atomic_load(&shared);
  if (present != NULL) return present;
  void *made = map_zeros();
  if (made == NULL || atomic_compare_exchange_strong(&shared, &present, made)) return made;
  uffd_pages_unmap(made, UFFD_ZEROS);
  return present;
}

bool uffd_is_zero_page(const char *page) {
  const uint64_t *words = (const uint64_t *)(const void *)page;
  for (uint64_t i = 0; i < BASE_PAGE / sizeof(*words); i += LINE_WORDS) {
    uint64_t any = 0;
    for (uint64_t j = 0; j < LINE_WORDS; j++) {
      any |= words[i + j];
    }
    if (any != 0) return false;
  }
  return true;
}
