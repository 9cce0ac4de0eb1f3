/* Large answers: zero pages go in as such, whole huge pages are moved in, and all else is copied. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "loop/line/zero.h"
#include "serving.h"

#define HUGE (UINT64_C(2) << 20)

static uint64_t page;

/* Contents: the image, with zero pages here and there */

typedef bool zero_fn(uint64_t index);

static bool in_runs(uint64_t index) {
  return index / 5 % 3 == 1 || index % 64 == 0;
}
static bool every_other(uint64_t index) {
  return index % 2 == 1;
}
static bool all(uint64_t index) {
  (void)index;
  return true;
}
static bool none(uint64_t index) {
  (void)index;
  return false;
}

static unsigned char *make_contents(uint64_t pages, zero_fn *zero) {
  unsigned char *contents = image_make(pages * page);
  for (uint64_t i = 0; i < pages; i++) {
    if (zero(i)) memset(contents + i * page, 0, page);
  }
  return contents;
}

static int make_file(const unsigned char *contents, uint64_t length) {
  int fd = memfd_create("bulk", MFD_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(pwrite(fd, contents, length, 0), length);
  return fd;
}

/* As a file (as != 0), or as bytes. */
static uffd_resolver *resolver_of(const unsigned char *contents, uint64_t length, int as) {
  uffd_resolver *resolver;
  if (as == 0) {
    CHECK_OK(uffd_resolver_bytes(contents, length, &resolver));
    return resolver;
  }
  int fd = make_file(contents, length);
  CHECK_OK(uffd_resolver_file_fd(fd, NULL, &resolver));
  close(fd);
  return resolver;
}

static uint64_t count_zero(uint64_t pages, zero_fn *zero) {
  uint64_t count = 0;
  for (uint64_t i = 0; i < pages; i++) {
    count += zero(i);
  }
  return count;
}

/* Looking */

static void a_page_is_zero_when_all_of_it_is(void) {
  static _Alignas(4096) char bytes[4096];
  CHECK(uffd_is_zero_page(bytes));
  for (unsigned i = 0; i < sizeof(bytes); i++) {
    for (unsigned bit = 0; bit < 8; bit += 7) {
      bytes[i] = (char)(1 << bit);
      CHECK(!uffd_is_zero_page(bytes));
      bytes[i] = 0;
    }
  }
}

/* Handlers have the zeros that they copy from in common. */
static void zeros_are_mapped_once(void) {
  const char *zeros = uffd_zeros();
  CHECK(zeros != NULL && zeros == uffd_zeros());
  for (uint64_t at = 0; at < HUGE; at += 4096) {
    CHECK(uffd_is_zero_page(zeros + at));
  }
}

/* Zero pages */

/* Where huge pages could begin: which pages an answer's samples are depends on that. */
static uffd_memory *aligned_memory(uint64_t pages) {
  struct check_area area = check_map(CHECK_ANON, pages + HUGE / page);
  unsigned char *at = area.at + (HUGE - CHECK_ADDRESS(area.at) % HUGE) % HUGE;
  CHECK_EQ(madvise(at, pages * page, MADV_NOHUGEPAGE), 0);
  uffd_memory *memory = NULL;
  CHECK_OK(uffd_memory_adopt(at, pages * page, &memory));
  return memory;
}

static void check_zero_pages(int engine, zero_fn *zero, int as, uint64_t around) {
  struct serving serving;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  serving_open(&serving, engine, NULL);
  const uint64_t pages = 600, length = pages * page - 100; /* ends within its last page */
  unsigned char *contents = make_contents(pages, zero);
  memset(contents + length, 0, 100);
  uffd_memory *memory = aligned_memory(pages);
  opts.around = around;
  uffd_region *region = region_add(serving.loop, memory, resolver_of(contents, length, as), &opts);
  if (around == 0) CHECK_OK(uffd_region_prefetch(region, 0, 0));
  CHECK_EQ(memcmp(memory_at(memory, 0), contents, pages * page), 0);
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.zero + stats.copied, pages);
  uint64_t expected = count_zero(pages, zero);
  /* an answer is sampled, so that one or the other may get by; and small ones are not looked at */
  CHECK(stats.zero <= expected && (around != 0 || stats.zero >= expected / 2));
  if (zero == all) CHECK(stats.zero > pages * 3 / 4);
  serving_adds_up(serving.loop, page);
  serving_close(&serving);
  uffd_memory_close(memory);
  munmap(contents, pages * page);
}

static void zero_pages_are_not_copied(void) {
  static zero_fn *const zeros[] = {in_runs, every_other, all, none};
  page = check_page();
  for (unsigned i = 0; i < 4; i++) {
    check_zero_pages(ENGINE_TWO, zeros[i], (int)i % 2, 0);
    check_zero_pages(ENGINE_PUMP, zeros[i], (int)(i + 1) % 2, 0);
  }
  for (unsigned i = 0; i < 4; i++) {
    check_zero_pages(ENGINE_ONE, zeros[i], 1, UFFD_AROUND_AUTO);
    check_zero_pages(ENGINE_ONE, zeros[i], 0, 64 * page);
  }
}

/* Copied: resolvers that name their zeros, and memory that must not be written unnoticed. */
static void where_they_would_be_no_gain_they_are_copied(void) {
  static const struct {
    int kind;
    uint64_t modes;
  } cases[] = {{MEMORY_MEMFD, 0}, {MEMORY_MEMFD_PRIVATE, 0}, {MEMORY_ANON, UFFD_MODE_MISSING | UFFD_MODE_WP}};
  const uint64_t pages = 100;
  page = check_page();
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP);
  unsigned char *contents = make_contents(pages, in_runs);
  for (unsigned i = 0; i < 3; i++) {
    struct serving serving;
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    serving_open(&serving, ENGINE_ONE, NULL);
    opts.modes = cases[i].modes;
    uffd_memory *memory = memory_make(cases[i].kind, pages);
    uffd_region *region = region_add(serving.loop, memory, resolver_of(contents, pages * page, 0), &opts);
    CHECK_OK(uffd_region_prefetch(region, 0, 0));
    CHECK_EQ(memcmp(memory_at(memory, 0), contents, pages * page), 0);
    CHECK_EQ(serving_stats(serving.loop).copied, pages);
    if (cases[i].modes != 0) {
      *memory_at(memory, 5 * page) = 7;
      CHECK_EQ(serving_stats(serving.loop).unprotected, 1);
    }
    serving_close(&serving);
    uffd_memory_close(memory);
  }
  munmap(contents, pages * page);
}

/* Pages that came meanwhile stay, and their neighbours go in. */
static void zero_pages_go_in_around_others(void) {
  struct serving serving;
  const uint64_t pages = 200;
  page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  unsigned char *contents = make_contents(pages, in_runs);
  uffd_memory *memory = memory_make(MEMORY_ANON, pages);
  for (uint64_t i = 3; i < pages; i += 7) {
    *memory_at(memory, i * page) = 9; /* before it is served: nobody knows */
  }
  uffd_region *region = region_add(serving.loop, memory, resolver_of(contents, pages * page, 0), NULL);
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
  for (uint64_t i = 0; i < pages; i++) {
    const unsigned char *there = memory_at(memory, i * page);
    CHECK(i % 7 == 3 ? there[0] == 9 && there[1] == 0 : memcmp(there, contents + i * page, page) == 0);
  }
  serving_close(&serving);
  uffd_memory_close(memory);
  munmap(contents, pages * page);
}

/* Files that shrink */

/* What is left of the file is right, the rest fails, and nobody gets a signal that is not meant. */
static void check_shrunk(int kind, zero_fn *zero) {
  struct serving serving;
  struct uffd_loop_opts loop_opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  const uint64_t pages = 3 * HUGE / page, left = HUGE / page + 100;
  loop_opts.on_error = UFFD_ON_ERROR_ZERO;
  serving_open(&serving, ENGINE_ONE, &loop_opts);
  unsigned char *contents = make_contents(pages, zero);
  int fd = make_file(contents, pages * page);
  uffd_resolver *resolver;
  struct uffd_file_opts file_opts = UFFD_FILE_OPTS_INIT;
  file_opts.flags = UFFD_FILE_CHANGES;
  CHECK_OK(uffd_resolver_file_fd(fd, &file_opts, &resolver));
  uffd_memory *memory = memory_make(kind, pages);
  opts.around = UFFD_AROUND_AUTO;
  uffd_region *region = region_add(serving.loop, memory, resolver, &opts);
  CHECK_EQ(ftruncate(fd, (off_t)(left * page)), 0);
  CHECK_ERR(uffd_region_prefetch(region, 0, 0), -ENODATA);
  CHECK_EQ(memcmp(memory_at(memory, 0), contents, left * page), 0);
  for (uint64_t i = left; i < pages; i++) {
    CHECK(uffd_is_zero_page((const char *)memory_at(memory, i * page)));
  }
  CHECK(serving_stats(serving.loop).errors > 0);
  serving_close(&serving);
  uffd_memory_close(memory);
  munmap(contents, pages * page);
  close(fd);
}

static void a_file_that_shrinks_is_an_error_only(void) {
  page = check_page();
  for (int kind = MEMORY_ANON; kind <= MEMORY_THP; kind++) {
    check_shrunk(kind, in_runs);
    check_shrunk(kind, none);
  }
}

/* Huge pages */

/* Bytes of huge pages in the mapping of the memory. */
static uint64_t huge_bytes(uffd_memory *memory) {
  char line[256];
  uint64_t kilobytes = 0;
  unsigned long start, end;
  bool inside = false;
  FILE *file = fopen("/proc/self/smaps", "re");
  CHECK(file != NULL);
  while (fgets(line, sizeof(line), file) != NULL) {
    unsigned long value;
    if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
      uint64_t address = CHECK_ADDRESS(memory_at(memory, 0));
      inside = start < address + uffd_memory_length(memory) && end > address;
    } else if (inside && sscanf(line, "AnonHugePages: %lu", &value) == 1) {
      kilobytes += value;
    }
  }
  fclose(file);
  return kilobytes << 10;
}

static void needs_huge(void) {
  page = check_page();
  check_needs(UFFD_FEAT_MOVE);
  unsigned char *memory = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  unsigned char *huge = memory + HUGE - CHECK_ADDRESS(memory) % HUGE;
  if (madvise(huge, HUGE, MADV_HUGEPAGE) != 0) SKIP("no transparent huge pages");
  huge[0] = 1;
  char enabled[64] = "";
  FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
  if (file == NULL || fgets(enabled, sizeof(enabled), file) == NULL || strstr(enabled, "[never]") != NULL) {
    SKIP("transparent huge pages are switched off");
  }
  fclose(file);
  munmap(memory, 2 * HUGE);
}

static void blocks_are_moved_in_as_huge_pages(void) {
  needs_huge();
  const uint64_t pages = 4 * HUGE / page;
  unsigned char *contents = make_contents(pages, none);
  for (int engine = 0; engine < ENGINES; engine++) {
    for (int as = 0; as < 2; as++) {
      struct serving serving;
      serving_open(&serving, engine, NULL);
      uffd_memory *memory = memory_make(MEMORY_THP, pages);
      uffd_region *region = region_add(serving.loop, memory, resolver_of(contents, pages * page, as), NULL);
      CHECK_OK(uffd_region_prefetch(region, 0, 0));
      CHECK_EQ(serving_stats(serving.loop).moved, pages);
      CHECK_EQ(huge_bytes(memory), 4 * HUGE);
      CHECK_EQ(memcmp(memory_at(memory, 0), contents, pages * page), 0);
      *memory_at(memory, 12345) = 1;
      serving_adds_up(serving.loop, page);
      CHECK_OK(uffd_region_complete(region));
      serving_close(&serving);
      CHECK_EQ(huge_bytes(memory), 4 * HUGE);
      uffd_memory_close(memory);
    }
  }
  munmap(contents, pages * page);
}

static void a_sequence_becomes_huge_pages(void) {
  struct serving serving;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  needs_huge();
  const uint64_t pages = 4 * HUGE / page;
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_THP, pages);
  opts.around = UFFD_AROUND_AUTO;
  region_add(serving.loop, memory, image_resolver(pages * page), &opts);
  CHECK(image_there(memory_at(memory, 0), 0, pages * page));
  CHECK(huge_bytes(memory) >= 3 * HUGE); /* the answers in the first block were small, but khugepaged may be quick */
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.moved, 3 * HUGE / page);
  CHECK_EQ(stats.copied, HUGE / page);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* From the middle of a block, at a rate: its steps end where huge pages do. */
static void a_prefetch_from_anywhere_fills_huge_pages(void) {
  struct serving serving;
  needs_huge();
  const uint64_t pages = 4 * HUGE / page;
  const struct uffd_range range = {HUGE / 2 + page, 3 * HUGE};
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_THP, pages);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(pages * page), NULL);
  uffd_prefetch *prefetch;
  CHECK_OK(uffd_region_prefetch_start(region, &range, 1, NULL, &prefetch));
  CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
  uffd_prefetch_close(prefetch);
  CHECK_EQ(huge_bytes(memory), 2 * HUGE);
  CHECK(image_there(memory_at(memory, 0), 0, pages * page));
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void zero_blocks_are_not_filled(void) {
  struct serving serving;
  needs_huge();
  const uint64_t pages = 2 * HUGE / page;
  unsigned char *contents = make_contents(pages, all);
  contents[HUGE + 5000] = 1;
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_THP, pages);
  uffd_region *region = region_add(serving.loop, memory, resolver_of(contents, pages * page, 1), NULL);
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK(stats.zero == pages - 1 && stats.copied == 1 && stats.moved == 0); /* zero pages of a huge page are memory */
  CHECK_EQ(memcmp(memory_at(memory, 0), contents, pages * page), 0);
  serving_close(&serving);
  uffd_memory_close(memory);
  munmap(contents, pages * page);
}

/* One page of a block is there, another was dropped: the block is filled page by page, around them. */
static void blocks_with_pages_in_them_are_copied(void) {
  struct serving serving;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  needs_huge();
  const uint64_t pages = 3 * HUGE / page, dropped = HUGE / page + 77;
  opts.features = UFFD_FEAT_EVENT_REMOVE;
  serving_open(&serving, ENGINE_ONE, &opts);
  uffd_memory *memory = memory_make(MEMORY_THP, pages);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(pages * page), NULL);
  CHECK(image_there(memory_at(memory, 5 * page), 5 * page, page));
  CHECK_EQ(madvise(memory_at(memory, dropped * page), page, MADV_DONTNEED), 0);
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
  for (uint64_t i = 0; i < pages; i++) {
    const unsigned char *there = memory_at(memory, i * page);
    CHECK(i == dropped ? there[9] == 0 : image_there(there, i * page, page));
  }
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK(stats.moved == HUGE / page && stats.copied == pages - stats.moved - 1 && stats.zero == 1);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* A page that the loop does not know of, and locked memory: MOVE refuses both, and yet all pages come. */
static void what_does_not_move_is_copied(void) {
  needs_huge();
  const uint64_t pages = 3 * HUGE / page;
  for (int locked = 0; locked < 2; locked++) {
    struct serving serving;
    serving_open(&serving, ENGINE_ONE, NULL);
    uffd_memory *memory = memory_make(MEMORY_THP, pages);
    if (locked) {
      if (mlock2(memory_at(memory, 0), pages * page, MLOCK_ONFAULT) != 0) SKIP("no memory may be locked");
    } else {
      CHECK_EQ(madvise(memory_at(memory, 0), pages * page, MADV_NOHUGEPAGE), 0);
      *memory_at(memory, 7 * page) = 9;
      CHECK_EQ(madvise(memory_at(memory, 0), pages * page, MADV_HUGEPAGE), 0);
    }
    uffd_region *region = region_add(serving.loop, memory, image_resolver(pages * page), NULL);
    CHECK_OK(uffd_region_prefetch(region, 0, 0));
    for (uint64_t i = 0; i < pages; i++) {
      const unsigned char *there = memory_at(memory, i * page);
      CHECK(!locked && i == 7 ? there[0] == 9 && there[1] == 0 : image_there(there, i * page, page));
    }
    CHECK_EQ(serving_stats(serving.loop).errors, 0);
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

/* Pages of this process do not move into a child's memory: there they are copied. */
static void a_childs_blocks_are_copied(void) {
  struct serving serving;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts region_opts = UFFD_REGION_OPTS_INIT;
  struct uffd_probe probe = UFFD_PROBE_INIT;
  struct uffd_map_opts map_opts = UFFD_MAP_OPTS_INIT;
  serving_needs_handlers("Forked children are not served.");
  needs_huge();
  CHECK_OK(uffd_probe(&probe));
  if (!probe.event_fork || check_under_tsan()) SKIP("no fork events here");
  const uint64_t pages = 3 * HUGE / page;
  opts.features = UFFD_FEAT_EVENT_FORK;
  serving_open(&serving, ENGINE_ONE, &opts);
  map_opts.kind = UFFD_MEMORY_THP;
  map_opts.flags = UFFD_MAP_FORK;
  uffd_memory *memory;
  CHECK_OK(uffd_map(pages * page, &map_opts, &memory));
  region_opts.around = HUGE;
  region_add(serving.loop, memory, image_resolver(pages * page), &region_opts);
  pid_t child = fork();
  if (child == 0) _exit(image_there(memory_at(memory, 0), 0, pages * page) ? 0 : 1);
  check_child(child);
  while (serving_stats(serving.loop).copied < pages) { /* the child goes on before its last pages are counted */
    check_pause();
  }
  CHECK_EQ(serving_stats(serving.loop).copied, pages);
  CHECK_EQ(serving_stats(serving.loop).moved, 0);
  CHECK(image_there(memory_at(memory, 0), 0, pages * page));
  CHECK_EQ(serving_stats(serving.loop).moved, pages);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static const struct check_test tests[] = {
    TEST(a_page_is_zero_when_all_of_it_is),
    TEST(zeros_are_mapped_once),
    TEST(zero_pages_are_not_copied),
    TEST(where_they_would_be_no_gain_they_are_copied),
    TEST(zero_pages_go_in_around_others),
    TEST(a_file_that_shrinks_is_an_error_only),
    TEST(blocks_are_moved_in_as_huge_pages),
    TEST(a_sequence_becomes_huge_pages),
    TEST(a_prefetch_from_anywhere_fills_huge_pages),
    TEST(zero_blocks_are_not_filled),
    TEST(blocks_with_pages_in_them_are_copied),
    TEST(what_does_not_move_is_copied),
    TEST(a_childs_blocks_are_copied),
};

CHECK_MAIN(tests)
