/*
 * Pages that are there before a memory is served: of uffd_map()'s memory those of zeros are asked for all the same,
 * what the program has filled stays; of adopted memory all stay.
 */
#define _GNU_SOURCE
#include "check.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include "kernel/object.h"
#include "serving.h"

#define PAGES 600 /* more than one sample of them */

static uint64_t page;

static const int own_kinds[] = {MEMORY_ANON, MEMORY_THP};
#define OWN_KINDS (sizeof(own_kinds) / sizeof(own_kinds[0]))

static uint64_t count_resident(uffd_memory *memory) {
  static unsigned char resident[PAGES];
  uint64_t count = 0;
  CHECK(mincore(memory_at(memory, 0), PAGES * page, resident) == 0);
  for (uint64_t i = 0; i < PAGES; i++) {
    count += resident[i] & 1;
  }
  return count;
}

/* Every page is the image's, however it was before. */
static void check_served(uffd_memory *memory) {
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  uint64_t length = uffd_memory_length(memory);
  region_add(serving.loop, memory, image_resolver(length), NULL);
  CHECK(image_there(memory_at(memory, 0), 0, length));
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void lock_future(void) {
  struct rlimit limit;
  getrlimit(RLIMIT_MEMLOCK, &limit);
  if (mlockall(MCL_FUTURE) != 0)
    SKIP("mlockall needs CAP_IPC_LOCK, or a larger RLIMIT_MEMLOCK than %llu", (unsigned long long)limit.rlim_cur);
}

static void mapped_under_mlockall(void) {
  if (!check_mlock_works()) SKIP("Under a sanitizer mlock() does nothing.");
  static const int kinds[] = {MEMORY_ANON, MEMORY_THP, MEMORY_MEMFD, MEMORY_MEMFD_PRIVATE};
  page = check_page();
  lock_future();
  for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
    uffd_memory *memory = memory_make(kinds[i], PAGES);
    CHECK_EQ(count_resident(memory), 0);
    CHECK(memory_has(memory, 0, "lo")); /* locked it is, page by page as they come */
    check_served(memory);
  }
}

static void huge_pages_under_mlockall(void) {
  lock_future();
  check_served(memory_make(MEMORY_HUGETLB, 2));
}

static void locked_before_it_is_served(void) {
  if (!check_mlock_works()) SKIP("Under a sanitizer mlock() does nothing.");
  page = check_page();
  for (size_t i = 0; i < OWN_KINDS; i++) {
    uffd_memory *memory = memory_make(own_kinds[i], PAGES);
    if (mlock(memory_at(memory, 0), PAGES * page) != 0) SKIP("mlock needs a larger RLIMIT_MEMLOCK");
    CHECK_EQ(count_resident(memory), PAGES);
    check_served(memory);
  }
}

static void looked_at_before_it_is_served(void) {
  page = check_page();
  for (size_t i = 0; i < OWN_KINDS; i++) {
    uffd_memory *memory = memory_make(own_kinds[i], PAGES);
    for (uint64_t at = 0; at < PAGES; at += 7) {
      CHECK_EQ(*(volatile unsigned char *)memory_at(memory, at * page), 0);
    }
    memset(memory_at(memory, 300 * page), 0, 3 * page);
    check_served(memory);
  }
}

/* Zeros at the start of a page, and in most of it, are contents if one byte is not. */
static void what_was_filled_stays(void) {
  page = check_page();
  for (size_t i = 0; i < OWN_KINDS; i++) {
    struct serving serving;
    uffd_memory *memory = memory_make(own_kinds[i], PAGES);
    memset(memory_at(memory, 4 * page), 0, 300 * page);
    memory_at(memory, 6 * page)[page - 1] = 'x';
    memory_at(memory, 9 * page)[0] = 'y';
    serving_open(&serving, ENGINE_ONE, NULL);
    region_add(serving.loop, memory, image_resolver(PAGES * page), NULL);
    CHECK_EQ(memory_at(memory, 6 * page)[page - 1], 'x');
    CHECK_EQ(memory_at(memory, 6 * page)[0], 0);
    CHECK_EQ(memory_at(memory, 9 * page)[0], 'y');
    CHECK(image_there(memory_at(memory, 4 * page), 4 * page, 2 * page));
    CHECK(image_there(memory_at(memory, 7 * page), 7 * page, 2 * page));
    CHECK(image_there(memory_at(memory, 10 * page), 10 * page, (PAGES - 10) * page));
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

/* Once it was served, zeros are contents: the program may have written them. Parts that were not are looked at. */
static void added_again(void) {
  struct serving serving;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
  opts.offset = 100 * page;
  opts.length = 100 * page;
  uffd_region *region = region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
  CHECK_EQ(*memory_at(memory, 150 * page), image_byte(50 * page));
  memset(memory_at(memory, 150 * page), 0, page);
  CHECK_OK(uffd_region_remove(region));
  CHECK_EQ(*(volatile unsigned char *)memory_at(memory, 99 * page), 0);
  CHECK_EQ(*(volatile unsigned char *)memory_at(memory, 200 * page), 0);
  region_add(serving.loop, memory, image_resolver(PAGES * page), NULL);
  CHECK_EQ(*memory_at(memory, 150 * page), 0);
  CHECK_EQ(*memory_at(memory, 99 * page), image_byte(99 * page));
  CHECK_EQ(*memory_at(memory, 200 * page), image_byte(200 * page));
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Somebody else's memory: what is there is as it should be. */
static void adopted_pages_count_as_filled(void) {
  struct serving serving;
  page = check_page();
  uffd_memory *memory = memory_make(MEMORY_ADOPTED, PAGES);
  CHECK_EQ(*(volatile unsigned char *)memory_at(memory, 3 * page), 0);
  memory_at(memory, 5 * page)[0] = 'x';
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(PAGES * page), NULL);
  CHECK_EQ(*memory_at(memory, 3 * page), 0);
  CHECK_EQ(*memory_at(memory, 5 * page), 'x');
  CHECK_OK(uffd_region_complete(region));
  CHECK_EQ(serving_stats(serving.loop).copied, PAGES - 2);
  CHECK_EQ(*memory_at(memory, 3 * page), 0);
  CHECK_EQ(memory_at(memory, 5 * page)[0], 'x');
  CHECK(image_there(memory_at(memory, 6 * page), 6 * page, (PAGES - 6) * page));
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* A look at page tables that are not there: a byte a page would be a hundred megabytes. */
static void a_huge_memory_is_looked_at_quickly(void) {
  struct serving serving;
  struct rusage before, after;
  uffd_memory *memory = NULL;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  page = check_page();
  CHECK_OK(uffd_map(UINT64_C(1) << 40, NULL, &memory));
  *memory_at(memory, UINT64_C(1) << 39) = 'x';
  serving_open(&serving, ENGINE_ONE, NULL);
  opts.length = UINT64_C(1) << 40;
  uffd_resolver *zero = NULL;
  CHECK_OK(uffd_resolver_zero(&zero));
  getrusage(RUSAGE_SELF, &before);
  region_add(serving.loop, memory, zero, &opts);
  getrusage(RUSAGE_SELF, &after);
  CHECK(after.ru_minflt - before.ru_minflt < 1000); /* 65 536 for a byte a page */
  CHECK_EQ(*memory_at(memory, UINT64_C(1) << 39), 'x');
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* A host may make huge pages of all that is written to shared memory: the rest of one would be zeros. */
static void shared_memory_is_never_huge_by_accident(void) {
  static const int kinds[] = {MEMORY_MEMFD, MEMORY_MEMFD_PRIVATE};
  for (size_t i = 0; i < 2; i++) {
    uffd_memory *memory = memory_make(kinds[i], PAGES);
    struct uffd_mapping mapping;
    CHECK_EQ(uffd_find_mapping(CHECK_ADDRESS(uffd_memory_alias(memory)), &mapping), 0);
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0) SKIP("a kernel without huge pages of this kind");
    CHECK(memory_has(memory, 0, "nh"));
    CHECK(uffd_mapping_has(&mapping, "nh"));
    uffd_memory_close(memory);
  }
}

/* Prefaulting */

static void prefaulting_leaves_alone_what_is_not_served(void) {
  struct serving serving;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  page = check_page();
  uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
  CHECK_OK(uffd_memory_prefault(memory, 0, PAGES * page, 0));
  CHECK_OK(uffd_memory_prefault(memory, 0, PAGES * page, 1));
  CHECK_EQ(count_resident(memory), 0);
  serving_open(&serving, ENGINE_ONE, NULL);
  opts.offset = 10 * page;
  opts.length = 10 * page;
  region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
  opts.offset = 40 * page;
  opts.length = page;
  region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
  CHECK_OK(uffd_memory_prefault(memory, 15 * page - 1, 100 * page, 0));
  CHECK_EQ(count_resident(memory), 7);
  CHECK_EQ(*memory_at(memory, 14 * page), image_byte(4 * page));
  serving_close(&serving);
  uffd_memory_close(memory);
}

static const struct check_test tests[] = {
    TEST(mapped_under_mlockall),
    TEST(huge_pages_under_mlockall),
    TEST(locked_before_it_is_served),
    TEST(looked_at_before_it_is_served),
    TEST(what_was_filled_stays),
    TEST(added_again),
    TEST(adopted_pages_count_as_filled),
    TEST(a_huge_memory_is_looked_at_quickly),
    TEST(shared_memory_is_never_huge_by_accident),
    TEST(prefaulting_leaves_alone_what_is_not_served),
};
CHECK_MAIN(tests)
