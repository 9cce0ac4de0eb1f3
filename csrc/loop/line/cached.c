/*
 * Pages that the page cache has though nobody has filled them. COPY finds them there (EEXIST), so their bytes are
 * written through the second mapping of the file, before CONTINUE lets anybody see the page.
 */
#include "loop/line/cached.h"

#include <sys/syscall.h>
#include <unistd.h>

#define LOOK_BYTES                                                                                                     \
  512u /* at once: most pages that hold something are known by their first bytes. On a signal's stack */

static bool is_zero(const uint64_t *words, size_t count) {
  uint64_t sum = 0;
  for (size_t i = 0; i < count; i++) {
    sum |= words[i];
  }
  return sum == 0;
}

/* Reading the file makes no pages where there are holes; a look through a mapping would. */
bool uffd_cached_is_empty(const struct uffd_slice *slice, uint64_t address) {
  const struct uffd_terms *terms = slice->terms;
  uint64_t words[LOOK_BYTES / sizeof(uint64_t)];
  uint64_t at = terms->cache.offset + region_offset(slice, address);
  if (page_state(slice, page_index(slice, address)) != UFFD_PAGE_ABSENT) return false;
  for (uint64_t done = 0; done < terms->page_size; done += LOOK_BYTES) {
    /* what cannot be read does not count as filled: the resolver says what it holds */
    if (syscall(SYS_pread64, terms->cache.fd, words, sizeof(words), at + done) != LOOK_BYTES) return true;
    if (!is_zero(words, LOOK_BYTES / sizeof(uint64_t))) return false;
  }
  return true;
}

uint64_t uffd_cached_run(const struct uffd_slice *slice, uint64_t start, uint64_t end) {
  while (start < end && !uffd_cached_is_empty(slice, start)) {
    start += slice->terms->page_size;
  }
  return start;
}

int uffd_cached_fill(const struct uffd_slice *slice, uint64_t address, const char *data, uint64_t length) {
  const struct uffd_terms *terms = slice->terms;
  _Atomic uint8_t *state = &slice->pages[page_index(slice, address)];
  uint8_t absent = UFFD_PAGE_ABSENT;
  if (!uffd_cached_is_empty(slice, address)) {
    return atomic_load(state) == UFFD_PAGE_CLAIMED ? -EAGAIN : 0;
  }
  if (!atomic_compare_exchange_strong(state, &absent, UFFD_PAGE_CLAIMED)) {
    return absent == UFFD_PAGE_CLAIMED ? -EAGAIN : 0;
  }
  BARRIER("claimed", &address);
  int result = uffd_poke(terms->cache.alias + region_offset(slice, address), data, length);
  if (result < 0) uffd_cached_undo(slice, address);
  return result;
}

void uffd_cached_undo(const struct uffd_slice *slice, uint64_t address) {
  uint8_t claimed = UFFD_PAGE_CLAIMED;
  atomic_compare_exchange_strong(&slice->pages[page_index(slice, address)], &claimed, UFFD_PAGE_ABSENT);
}
