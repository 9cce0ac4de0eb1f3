/*
 * Pages that are there before private memory is served for the first time. uffd_map() promises memory that reads as
 * zeros until then. A program that reads or locks it (mlock, mlockall) gets pages of zeros there, for which no fault
 * would come. Such pages are dropped. A page that holds something was filled by the program, and stays. Page caches are
 * not looked at: minor faults tell what they have.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "memory/memory.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#define RUNS       64u                 /* of pages that are there, told at a time */
#define ENTRIES    512u                /* of the pagemap, read at a time */
#define SAMPLES    256u                /* of pages, read at a time */
#define IN_PAGEMAP (UINT64_C(3) << 62) /* present, or swapped */

/* A range that is looked at. */
struct look {
  uint64_t page_size;
  uint64_t address; /* of offset 0 in the memory */
  char *page;       /* HUGE_PAGE bytes, mapped when a page has to be read; NULL */
  int pagemap;
};

static char *at_offset(const struct look *look, uint64_t offset) {
  return (char *)(uintptr_t)(look->address + offset); /* NOLINT(performance-no-int-to-ptr) */
}

static int explain(uint64_t offset, int error) {
  return fail(error,
              "The memory is not empty where it is to be served, and its page of zeros at offset %" PRIu64
              " cannot be dropped: %s. Serve it before it is read or locked.",
              offset, strerror(error));
}

/* Locked pages need an advice of their own (5.18). */
static int drop(const struct look *look, uint64_t start, uint64_t end) {
  char *at = at_offset(look, start);
  if (madvise(at, end - start, MADV_DONTNEED) == 0 || madvise(at, end - start, MADV_DONTNEED_LOCKED) == 0) return 0;
  return explain(start, errno);
}

/* 1: only zeros, 0: something else, or -errno. */
static int is_zero(struct look *look, uint64_t offset) {
  if (look->page == NULL) look->page = uffd_pages_map(HUGE_PAGE);
  if (look->page == NULL) return fail(ENOMEM, "No memory to look at what is to be served.");
  int result = uffd_peek(look->page, at_offset(look, offset), look->page_size);
  if (result < 0) return explain(offset, -result);
  for (uint64_t at = 0; at < look->page_size; at += BASE_PAGE) {
    if (!uffd_is_zero_page(look->page + at)) return 0;
  }
  return 1;
}

/* Reads a word of each page. Most pages that hold something are known by that word. */
static void sample(const struct look *look, uint64_t offset, uint64_t count, uint64_t *words) {
  struct iovec local = {words, count * sizeof(*words)}, remote[SAMPLES];
  for (uint64_t i = 0; i < count; i++) {
    remote[i] = (struct iovec){at_offset(look, offset + i * look->page_size), sizeof(*words)};
  }
  ssize_t length = process_vm_readv(getpid(), &local, 1, remote, count, 0);
  if (length != (ssize_t)local.iov_len)
    memset(words, 0, count * sizeof(*words)); /* then each page is read as a whole */
}

/* Drops the pages of zeros in [start, end), where all pages are present. */
static int drop_zeros(struct look *look, uint64_t start, uint64_t end) {
  uint64_t words[SAMPLES], page_size = look->page_size, from = start; /* of the run of zeros before `page` */
  int result = 0;
  for (uint64_t at = start, count; at < end && result >= 0; at += count * page_size) {
    count = min_u64(SAMPLES, (end - at) / page_size);
    sample(look, at, count, words);
    for (uint64_t i = 0; i < count && result >= 0; i++) {
      uint64_t page = at + i * page_size;
      result = words[i] != 0 ? 0 : is_zero(look, page);
      if (result != 0) continue;
      if (page > from) result = drop(look, from, page);
      from = page + page_size;
    }
  }
  if (result >= 0 && from < end) result = drop(look, from, end);
  return result < 0 ? result : 0;
}

/* Linux before 6.7. Huge pages have an entry for each small one. */
static int read_pagemap(struct look *look, uint64_t start, uint64_t end) {
  uint64_t entries[ENTRIES], done = start;
  int result = 0;
  for (uint64_t at = start, count; at < end && result == 0; at += count * BASE_PAGE) {
    count = min_u64(ENTRIES, (end - at) / BASE_PAGE);
    off_t where = (off_t)((look->address + at) / BASE_PAGE * sizeof(*entries));
    ssize_t length = pread(look->pagemap, entries, count * sizeof(*entries), where);
    if (length != (ssize_t)(count * sizeof(*entries))) return explain(at, length < 0 ? errno : EIO);
    for (uint64_t i = 0; i < count && result == 0; i++) {
      uint64_t page = round_down(at + i * BASE_PAGE, look->page_size);
      if ((entries[i] & IN_PAGEMAP) == 0 || page < done) continue;
      done = page + look->page_size;
      result = drop_zeros(look, page, done);
    }
  }
  return result;
}

/* Missing page tables cost nothing: a terabyte is scanned in microseconds. */
static int scan_pagemap(struct look *look, uint64_t start, uint64_t end) {
  struct uffd_raw_page_region runs[RUNS];
  struct uffd_raw_pagemap_scan scan = {
      .size = sizeof(scan),
      .start = look->address + start,
      .end = look->address + end,
      .vec = (uintptr_t)runs,
      .vec_len = RUNS,
      .category_anyof_mask = RAW_PAGE_PRESENT | RAW_PAGE_SWAPPED,
      .return_mask = RAW_PAGE_PRESENT,
  };
  for (; scan.start < scan.end; scan.start = scan.walk_end) {
    int count = ioctl(look->pagemap, RAW_PAGEMAP_SCAN, &scan), result = 0;
    if (count < 0) return errno == ENOTTY ? read_pagemap(look, start, end) : explain(start, errno);
    for (int i = 0; i < count && result == 0; i++) {
      result = drop_zeros(look, runs[i].start - look->address, runs[i].end - look->address);
    }
    if (result < 0) return result;
  }
  return 0;
}

static int empty(uffd_memory *memory, uint64_t start, uint64_t end) {
  uint64_t run;
  struct look look = {.page_size = memory->page_size, .pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
  if (look.pagemap < 0) return 0; /* without /proc nothing can be found out */
  look.address = (uintptr_t)uffd_place_find(memory, start, &run) - start;
  int result = scan_pagemap(&look, start, end);
  uffd_pages_unmap(look.page, HUGE_PAGE);
  close(look.pagemap);
  return result;
}

int uffd_memory_settle(uffd_memory *memory, uint64_t offset, uint64_t length) {
  if (memory->kind >= UFFD_MEMORY_ADOPTED || !memory->private_mapping) return 0;
  uint64_t end = offset + length;
  pthread_mutex_lock(&memory->settling);
  int result = uffd_spans_reserve(&memory->served);
  if (result < 0) result = fail(ENOMEM, "No memory to remember what of a memory was served.");
  const struct uffd_span *served = uffd_spans_first(&memory->served);
  for (size_t i = 0; i < memory->served.count && offset < end && result == 0; i++) {
    if (served[i].end <= offset) continue;
    uint64_t until = min_u64(end, served[i].start);
    if (until > offset) result = empty(memory, offset, until);
    offset = max_u64(offset, served[i].end);
  }
  if (offset < end && result == 0) result = empty(memory, offset, end);
  pthread_mutex_unlock(&memory->settling);
  return result;
}

void uffd_memory_settled(uffd_memory *memory, uint64_t offset, uint64_t length) {
  if (memory->kind >= UFFD_MEMORY_ADOPTED || !memory->private_mapping) return;
  pthread_mutex_lock(&memory->settling);
  if (uffd_spans_reserve(&memory->served) == 0) uffd_spans_add(&memory->served, offset, offset + length);
  pthread_mutex_unlock(&memory->settling);
}
