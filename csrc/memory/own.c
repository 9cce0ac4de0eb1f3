/*
 * Accesses by a thread that answers for the memory itself. The driver of a pump would wait for its own answer if the
 * kernel took a fault in what it serves. So pages that would fault are looked for before.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/memory.h"

#define ENTRIES   512u
#define THERE     (UINT64_C(3) << 62) /* present, or swapped out: the kernel brings such a page back by itself */
#define PROTECTED (UINT64_C(1) << 57)

/* True if the page is in the page cache, mapped or not; false when that cannot be found out. */
static bool is_cached(uint64_t address) {
  unsigned char resident = 0;
  return mincore((void *)(uintptr_t)address, BASE_PAGE, &resident) == 0 && (resident & 1) != 0; /* NOLINT */
}

static bool faults(uint64_t entry, uint64_t address, const struct uffd_own *own, bool write) {
  if ((entry & THERE) == 0) return (own->modes & UFFD_MODE_MINOR) != 0 || !is_cached(address);
  return write && (own->modes & UFFD_MODE_WP) != 0 && (entry & PROTECTED) != 0;
}

/* The first page of [start, end) whose fault the calling thread itself would have to answer, or end. */
static uint64_t find_fault(int fd, uint64_t start, uint64_t end, const struct uffd_own *own, bool write) {
  uint64_t entries[ENTRIES];
  for (uint64_t at = round_down(start, BASE_PAGE); at < end;) {
    uint64_t count = min_u64(ENTRIES, (end - at + BASE_PAGE - 1) / BASE_PAGE);
    ssize_t length = pread(fd, entries, count * sizeof(*entries), (off_t)(at / BASE_PAGE * sizeof(*entries)));
    if (length != (ssize_t)(count * sizeof(*entries))) return at;
    for (uint64_t i = 0; i < count; i++, at += BASE_PAGE) {
      if (faults(entries[i], at, own, write)) return at;
    }
  }
  return end;
}

bool uffd_would_wait(uint64_t start, uint64_t length, bool write, uint64_t *page) {
  if (!uffd_thread_answers || length == 0) return false;
  struct uffd_own own;
  int fd = -1;
  bool waits = false;
  for (uint64_t at = start; !waits && at < start + length && uffd_claim_own(at, start + length, &own); at = own.end) {
    if (fd < 0) fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    *page = find_fault(fd, own.start, own.end, &own, write);
    waits = *page < own.end;
  }
  if (fd >= 0) close(fd);
  return waits;
}
