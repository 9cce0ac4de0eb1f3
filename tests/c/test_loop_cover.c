/* Covers: answers around a fault, prefetching, completing. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>

#include "serving.h"

/* Which pages of the memory are mapped, as letters. */
static const char *map_of(uffd_memory *memory) {
  static char text[256];
  static unsigned char resident[sizeof(text)];
  uint64_t page = check_page(), pages = uffd_memory_length(memory) / page;
  CHECK(pages < sizeof(text));
  CHECK_EQ(mincore(memory_at(memory, 0), pages * page, resident), 0);
  for (uint64_t i = 0; i < pages; i++) {
    text[i] = (resident[i] & 1) != 0 ? 'X' : '.';
  }
  text[pages] = '\0';
  return text;
}

static void check_map_of(uffd_memory *memory, const char *expected, int line) {
  const char *got = map_of(memory);
  if (strcmp(got, expected) == 0) return;
  fprintf(stderr, "line %d: mapped are %s, not %s\n", line, got, expected);
  CHECK(false);
}
#define CHECK_MAP(memory, expected) check_map_of((memory), (expected), __LINE__)

static uffd_region *serve(uffd_loop *loop, uffd_memory *memory, uint64_t around) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.around = around;
  return region_add(loop, memory, image_resolver(uffd_memory_length(memory)), &opts);
}

static void touch_page(uffd_memory *memory, uint64_t index) {
  uint64_t page = check_page();
  CHECK(image_there(memory_at(memory, index * page), index * page, page));
}

/* Around */

static void around_is_a_block_that_holds_the_fault(void) {
  struct serving serving;
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 20);
  serve(serving.loop, memory, 4 * page);
  touch_page(memory, 6);
  CHECK_MAP(memory, "....XXXX............");
  touch_page(memory, 0);
  CHECK_MAP(memory, "XXXXXXXX............");
  touch_page(memory, 19);
  CHECK_MAP(memory, "XXXXXXXX........XXXX");
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.faults, 3);
  CHECK_EQ(stats.copied, 12);
  CHECK(image_there(memory_at(memory, 0), 0, 20 * page));
  CHECK_EQ(serving_stats(serving.loop).faults, 5);
  serving_adds_up(serving.loop, page);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Blocks of 3 pages; 3.1 pages are rounded up to 4; the last block ends with the region. */
static void around_need_not_be_a_power_of_two(void) {
  struct serving serving;
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 20), *rounded = memory_make(MEMORY_ANON, 10);
  serve(serving.loop, memory, 3 * page);
  touch_page(memory, 4);
  CHECK_MAP(memory, "...XXX..............");
  touch_page(memory, 19);
  CHECK_MAP(memory, "...XXX............XX");
  serve(serving.loop, rounded, 3 * page + 1);
  touch_page(rounded, 9);
  CHECK_MAP(rounded, "........XX");
  touch_page(rounded, 3);
  CHECK_MAP(rounded, "XXXX....XX");
  serving_close(&serving);
  uffd_memory_close(memory);
  uffd_memory_close(rounded);
}

static void around_larger_than_the_region_is_the_region(void) {
  static const uint64_t sizes[] = {12 * 4096, 20 * 4096, UINT64_C(1) << 40, UINT64_MAX - 1, UINT64_MAX - 4095};
  for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
    struct serving serving;
    serving_open(&serving, ENGINE_ONE, NULL);
    uffd_memory *memory = memory_make(MEMORY_MEMFD_PRIVATE, 12);
    serve(serving.loop, memory, sizes[i]);
    touch_page(memory, 7);
    CHECK_EQ(serving_stats(serving.loop).copied, 12);
    CHECK(image_there(memory_at(memory, 0), 0, 12 * check_page()));
    CHECK_EQ(serving_stats(serving.loop).faults, 1);
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

/* A handler answers within its slice, whatever around says. */
static void around_ends_with_the_slice(void) {
  struct serving serving;
  uint64_t page = check_page();
  serving_needs_handlers("A region is one slice.");
  serving_open(&serving, ENGINE_TWO, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 1024);
  serve(serving.loop, memory, 1024 * page);
  touch_page(memory, 100);
  CHECK_EQ(serving_stats(serving.loop).copied, 512);
  touch_page(memory, 511);
  CHECK_EQ(serving_stats(serving.loop).faults, 1);
  touch_page(memory, 512);
  CHECK_EQ(serving_stats(serving.loop).copied, 1024);
  CHECK_EQ(serving_stats(serving.loop).faults, 2);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* The cover grows from the fault to the first page that is there. */
static void around_stops_at_pages_that_are_there(void) {
  struct serving serving;
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 16);
  uffd_region *region = serve(serving.loop, memory, 16 * page);
  CHECK_OK(uffd_region_prefetch(region, 3 * page, page));
  CHECK_OK(uffd_region_prefetch(region, 11 * page, page));
  CHECK_MAP(memory, "...X.......X....");
  touch_page(memory, 6);
  CHECK_MAP(memory, "...XXXXXXXXX....");
  touch_page(memory, 15);
  CHECK_MAP(memory, "...XXXXXXXXXXXXX");
  touch_page(memory, 0);
  CHECK_MAP(memory, "XXXXXXXXXXXXXXXX");
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.faults, 3);
  CHECK_EQ(stats.copied, 16);
  CHECK_EQ(stats.present, 0);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void around_in_huge_pages(void) {
  struct serving serving;
  uint64_t huge = UINT64_C(2) << 20;
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_HUGETLB, 4);
  serve(serving.loop, memory, huge + 1);
  CHECK(image_there(memory_at(memory, huge + 5000), huge + 5000, 100));
  CHECK_EQ(serving_stats(serving.loop).copied, 2);
  CHECK(image_there(memory_at(memory, 0), 0, huge));
  CHECK_EQ(serving_stats(serving.loop).faults, 1);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Prefetch */

static void prefetch_fills_all(void) {
  for (int i = 0; i < MEMORY_KINDS; i++) {
    int kind = memory_kinds[i];
    uint64_t pages = kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_PRIVATE ? 3 : 2 * 512 + 100;
    for (int engine = 0; engine < ENGINES; engine += 3) { /* one handler, and the pump */
      struct serving serving;
      serving_open(&serving, engine, NULL);
      uffd_memory *memory = memory_make(kind, pages);
      uint64_t length = uffd_memory_length(memory);
      uffd_region *region = serve(serving.loop, memory, 0);
      CHECK_OK(uffd_region_prefetch(region, 0, 0));
      CHECK(image_there(memory_at(memory, 0), 0, length));
      struct uffd_stats stats = serving_stats(serving.loop);
      CHECK_EQ(stats.faults, 0);
      CHECK_EQ(stats.copied + stats.moved, pages); /* whole huge pages are moved in */
      CHECK_EQ(stats.prefetched, pages);
      CHECK_EQ(stats.bytes, length);
      CHECK_OK(uffd_region_prefetch(region, 0, length)); /* again: nothing to do */
      CHECK_EQ(serving_stats(serving.loop).prefetched, pages);
      CHECK(memory_has(memory, 0, "um"));
      serving_close(&serving);
      uffd_memory_close(memory);
    }
  }
}

static void prefetch_in_all_handlers(void) {
  struct serving serving;
  serving_open(&serving, ENGINE_FIVE, NULL);
  uint64_t pages = 5 * 512 + 7;
  uffd_memory *memory = memory_make(MEMORY_ANON, pages);
  uffd_region *region = serve(serving.loop, memory, 0);
  uint64_t page = check_page(), low = 500 * page + 1, high = 2000 * page - 1;
  CHECK_OK(uffd_region_prefetch(region, low, high - low));
  CHECK_EQ(serving_stats(serving.loop).prefetched, 1500);
  CHECK(image_there(memory_at(memory, 500 * page), 500 * page, 1500 * page));
  CHECK_EQ(serving_stats(serving.loop).faults, 0);
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
  CHECK_EQ(serving_stats(serving.loop).prefetched, pages);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void prefetch_of_parts(void) {
  struct serving serving;
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 12);
  uffd_region *region = serve(serving.loop, memory, 0);
  CHECK_OK(uffd_region_prefetch(region, 2 * page, page));
  CHECK_MAP(memory, "..X.........");
  CHECK_OK(uffd_region_prefetch(region, 5 * page - 1, 2)); /* edges within pages: both pages */
  CHECK_MAP(memory, "..X.XX......");
  CHECK_OK(uffd_region_prefetch(region, 9 * page, 0)); /* to the end */
  CHECK_MAP(memory, "..X.XX...XXX");
  CHECK_OK(uffd_region_prefetch(region, 12 * page, 0)); /* nothing */
  CHECK_OK(uffd_region_prefetch(region, 12 * page - 1, 1));
  CHECK_MAP(memory, "..X.XX...XXX");
  CHECK_OK(uffd_region_prefetch(region, 0, 12 * page));
  CHECK_MAP(memory, "XXXXXXXXXXXX");
  CHECK(image_there(memory_at(memory, 0), 0, 12 * page));
  CHECK_ERR(uffd_region_prefetch(region, 12 * page + 1, 0), -ERANGE);
  CHECK_ERR(uffd_region_prefetch(region, page, 11 * page + 1), -ERANGE);
  CHECK_ERR(uffd_region_prefetch(region, UINT64_MAX, 1), -ERANGE);
  CHECK_ERR(uffd_region_prefetch(region, 1, UINT64_MAX), -ERANGE);
  CHECK_EQ(serving_stats(serving.loop).prefetched, 12);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Readers fault and the owner drops pages while all is prefetched again and again: contents stay right. */
struct racing {
  uffd_memory *memory;
  _Atomic bool stop;
  _Atomic unsigned rounds;
  bool drops;
};

static void race(void *ctx) {
  struct racing *racing = ctx;
  uint64_t page = check_page(), pages = uffd_memory_length(racing->memory) / page;
  for (unsigned seed = 1; !atomic_load(&racing->stop); seed = seed * 1103515245 + 12345) {
    uint64_t index = (seed >> 8) % pages;
    if (racing->drops) {
      CHECK_EQ(madvise(memory_at(racing->memory, index * page), page, MADV_DONTNEED), 0);
    } else {
      CHECK(image_there(memory_at(racing->memory, index * page), index * page, 64));
    }
    atomic_fetch_add(&racing->rounds, 1);
  }
}

static void prefetch_races_with_faults_and_drops(void) {
  for (int engine = ENGINE_ONE; engine <= ENGINE_TWO; engine++) {
    struct serving serving;
    serving_open(&serving, engine, NULL);
    uffd_memory *memory = memory_make(MEMORY_ANON, 1500);
    uffd_region *region = serve(serving.loop, memory, 8 * check_page());
    struct racing readers[2] = {{.memory = memory}, {.memory = memory}}, dropper = {.memory = memory, .drops = true};
    struct check_thread threads[3];
    check_thread_start(&threads[0], race, &readers[0]);
    check_thread_start(&threads[1], race, &readers[1]);
    check_thread_start(&threads[2], race, &dropper);
    for (unsigned i = 0; i < 20; i++) {
      CHECK_OK(uffd_region_prefetch(region, 0, 0));
    }
    while (atomic_load(&readers[0].rounds) < 200 || atomic_load(&dropper.rounds) < 200) {
      check_pause();
    }
    readers[0].stop = readers[1].stop = dropper.stop = true;
    for (unsigned i = 0; i < 3; i++) {
      check_thread_join(&threads[i]);
    }
    CHECK(image_there(memory_at(memory, 0), 0, 1500 * check_page()));
    CHECK_EQ(serving_stats(serving.loop).errors, 0);
    serving_adds_up(serving.loop, check_page());
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

/* Dropped pages that the loop was told of read as zeros: prefetch leaves them. */
static void prefetch_leaves_what_was_dropped(void) {
  struct serving serving;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.features = UFFD_FEAT_EVENT_REMOVE;
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_ONE, &opts);
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  uffd_region *region = serve(serving.loop, memory, 8 * page);
  CHECK_OK(uffd_region_prefetch(region, 0, 4 * page));
  CHECK_EQ(madvise(memory_at(memory, 2 * page), 4 * page, MADV_DONTNEED), 0);
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
  CHECK_MAP(memory, "XX....XX");
  CHECK_OK(uffd_region_complete(region));
  CHECK(check_filled(memory_at(memory, 2 * page), 4 * page, 0));
  CHECK(image_there(memory_at(memory, 0), 0, 2 * page));
  CHECK(image_there(memory_at(memory, 6 * page), 6 * page, 2 * page));
  CHECK_EQ(serving_stats(serving.loop).events, 1);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* What a resolver that fails leaves behind */

static int fail_odd_pages(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  if (fault->offset / fault->page_size % 2 == 1) return uffd_set_errmsg(EIO, "Odd pages are bad.");
  static char page[4096];
  memset(page, 'e', sizeof(page));
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = page;
  answer->length = sizeof(page);
  return 0;
}

static void prefetch_reports_what_failed_and_does_the_rest(void) {
  struct serving serving;
  struct asked asked = {.answer = fail_odd_pages};
  uint64_t page = check_page();
  check_needs(UFFD_FEAT_POISON); /* what becomes of a page that fails */
  serving_open(&serving, ENGINE_TWO, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 9);
  uffd_region *region = region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  CHECK_ERR(uffd_region_prefetch(region, 0, 0), -EIO);
  CHECK_SAYS("Odd pages are bad.");
  CHECK_MAP(memory, "X.X.X.X.X");
  CHECK_ERR(uffd_region_complete(region), -EIO);
  CHECK_SAYS("Odd pages are bad.");
  CHECK_ERR(uffd_loop_complete(serving.loop), -EIO);
  CHECK(memory_has(memory, 0, "um")); /* it goes on being served */
  CHECK_EQ(serving_stats(serving.loop).prefetched, 5);
  CHECK_EQ(check_access(memory_at(memory, page), false, NULL), SIGBUS);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Complete */

static void complete_makes_the_memory_ordinary(void) {
  for (int i = 0; i < MEMORY_KINDS; i++) {
    int kind = memory_kinds[i];
    uint64_t pages = kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_PRIVATE ? 2 : 600;
    struct serving serving;
    serving_open(&serving, kind % 2 == 0 ? ENGINE_TWO : ENGINE_PUMP, NULL);
    uffd_memory *memory = memory_make(kind, pages);
    uint64_t length = uffd_memory_length(memory), page = uffd_memory_page_size(memory);
    uffd_region *region = serve(serving.loop, memory, 0);
    serving_start(&serving);
    CHECK(image_there(memory_at(memory, page), page, page));
    serving_pause(&serving);
    CHECK_OK(uffd_region_complete(region));
    CHECK(!memory_has(memory, 0, "um"));
    CHECK(!memory_has(memory, length - page, "um"));
    CHECK(image_there(memory_at(memory, 0), 0, length));
    struct uffd_stats stats = serving_stats(serving.loop);
    CHECK_EQ(stats.faults, 1);
    CHECK_EQ(stats.copied, pages);
    CHECK_EQ(stats.prefetched, pages - 1);
    CHECK_EQ(uffd_region_complete(region), 0);
    CHECK_ERR(uffd_region_prefetch(region, 0, 0), -ENOENT);
    CHECK_SAYS("complete");
    CHECK_OK(uffd_region_remove(region));
    CHECK_EQ(uffd_region_complete(region), 0);
    serving_close(&serving);
    CHECK(image_there(memory_at(memory, 0), 0, length));
    uffd_memory_close(memory);
  }
}

/* Threads that fault while it completes see the image, before, during and after. */
static void complete_under_faults(void) {
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    struct serving serving;
    serving_open(&serving, engine, NULL);
    uffd_memory *memory = memory_make(MEMORY_ANON, 3000);
    uffd_region *region = serve(serving.loop, memory, 0);
    struct racing readers[2] = {{.memory = memory}, {.memory = memory}};
    struct check_thread threads[2];
    for (unsigned i = 0; i < 2; i++) {
      check_thread_start(&threads[i], race, &readers[i]);
    }
    CHECK_OK(uffd_region_complete(region));
    CHECK_EQ(serving_stats(serving.loop).copied, 3000);
    for (unsigned i = 0; i < 2; i++) {
      unsigned seen = atomic_load(&readers[i].rounds);
      while (atomic_load(&readers[i].rounds) < seen + 100) {
        check_pause();
      }
      atomic_store(&readers[i].stop, true);
      check_thread_join(&threads[i]);
    }
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

static void the_loop_completes_all_its_regions(void) {
  struct serving serving;
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_TWO, NULL);
  uffd_memory *memories[3];
  for (unsigned i = 0; i < 3; i++) {
    memories[i] = memory_make(MEMORY_ANON, 20 + i);
    serve(serving.loop, memories[i], 0);
  }
  uffd_memory *gone = memory_make(MEMORY_ANON, 4);
  CHECK_OK(uffd_region_remove(serve(serving.loop, gone, 0)));
  CHECK_OK(uffd_loop_complete(serving.loop));
  for (unsigned i = 0; i < 3; i++) {
    CHECK(!memory_has(memories[i], 0, "um"));
    CHECK(image_there(memory_at(memories[i], 0), 0, (20 + i) * page));
  }
  CHECK_OK(uffd_loop_complete(serving.loop));
  CHECK_EQ(serving_stats(serving.loop).prefetched, 63);
  serving_close(&serving);
  for (unsigned i = 0; i < 3; i++) {
    uffd_memory_close(memories[i]);
  }
  uffd_memory_close(gone);
}

/* One region cannot be completed: the first error is told, the others are done all the same. */
static void completing_goes_on_after_an_error(void) {
  struct serving serving;
  struct asked asked = {.answer = fail_odd_pages};
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *good[2], *bad = memory_make(MEMORY_ANON, 4);
  good[0] = memory_make(MEMORY_ANON, 4);
  serve(serving.loop, good[0], 0);
  region_add(serving.loop, bad, asked_resolver(&asked), NULL);
  good[1] = memory_make(MEMORY_ANON, 4);
  serve(serving.loop, good[1], 0);
  CHECK_ERR(uffd_loop_complete(serving.loop), -EIO);
  CHECK_SAYS("Odd pages are bad.");
  CHECK(!memory_has(good[0], 0, "um"));
  CHECK(!memory_has(good[1], 0, "um"));
  CHECK(memory_has(bad, 0, "um"));
  serving_close(&serving);
  uffd_memory_close(good[0]);
  uffd_memory_close(good[1]);
  uffd_memory_close(bad);
}

static const struct check_test tests[] = {
    TEST(around_is_a_block_that_holds_the_fault),
    TEST(around_need_not_be_a_power_of_two),
    TEST(around_larger_than_the_region_is_the_region),
    TEST(around_ends_with_the_slice),
    TEST(around_stops_at_pages_that_are_there),
    TEST(around_in_huge_pages),
    TEST(prefetch_fills_all),
    TEST(prefetch_in_all_handlers),
    TEST(prefetch_of_parts),
    TEST(prefetch_races_with_faults_and_drops),
    TEST(prefetch_leaves_what_was_dropped),
    TEST(prefetch_reports_what_failed_and_does_the_rest),
    TEST(complete_makes_the_memory_ordinary),
    TEST(complete_under_faults),
    TEST(the_loop_completes_all_its_regions),
    TEST(completing_goes_on_after_an_error),
};
CHECK_MAIN(tests)
