/* Serving: every engine and every kind of memory, regions that come and go, closing over sleeping threads. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>

#include "serving.h"

/* Every kind of memory, by every engine */

struct reader {
  struct check_thread thread;
  uffd_memory *memory;
  uint64_t first, step; /* pages */
};

/* Every page from first on in steps, each by one byte first: that is the fault; then all of it. */
static void read_pages(void *ctx) {
  struct reader *reader = ctx;
  uint64_t page = uffd_memory_page_size(reader->memory), length = uffd_memory_length(reader->memory);
  for (uint64_t at = reader->first * page; at < length; at += reader->step * page) {
    volatile unsigned char *byte = memory_at(reader->memory, at + page / 2);
    CHECK_EQ(*byte, image_byte(at + page / 2));
    CHECK(image_there(memory_at(reader->memory, at), at, page));
  }
}

static void read_by_threads(uffd_memory *memory, uint64_t step) {
  struct reader readers[3];
  for (unsigned i = 0; i < 3; i++) {
    readers[i] = (struct reader){.memory = memory, .first = i, .step = 3 * step};
    check_thread_start(&readers[i].thread, read_pages, &readers[i]);
  }
  for (unsigned i = 0; i < 3; i++) {
    check_thread_join(&readers[i].thread);
  }
}

static uint64_t count_pages(uint64_t pages, uint64_t step) {
  uint64_t count = 0;
  for (uint64_t first = 0; first < 3; first++) {
    for (uint64_t at = first; at < pages; at += 3 * step) {
      count++;
    }
  }
  return count;
}

/* Pages enough for a slice in each of five handlers. */
static void serve_kind(int kind, uint64_t pages, uint64_t step) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct serving serving;
    serving_open(&serving, engine, NULL);
    uffd_memory *memory = memory_make(kind, pages);
    uint64_t length = uffd_memory_length(memory), page = uffd_memory_page_size(memory);
    uffd_region *region = region_add(serving.loop, memory, image_resolver(length), NULL);
    CHECK(region != NULL);
    CHECK(memory_has(memory, 0, "um"));
    CHECK(memory_has(memory, length - page, "um"));
    serving_start(&serving);
    read_by_threads(memory, step);
    serving_pause(&serving);
    struct uffd_stats stats = serving_stats(serving.loop);
    CHECK_EQ(stats.missing, count_pages(pages, step));
    CHECK_EQ(stats.faults, stats.missing);
    CHECK_EQ(stats.copied, stats.missing);
    CHECK_EQ(stats.zero + stats.continued + stats.moved + stats.poisoned + stats.errors, 0);
    CHECK(stats.present < stats.missing); /* came with a neighbour that waited as well */
    CHECK_EQ(stats.writes + stats.events + stats.deferred + stats.gone + stats.policy_calls + stats.prefetched, 0);
    if (serving_is_inline(&serving)) CHECK_EQ(stats.queue_max, 0);
    if (!serving_is_inline(&serving)) CHECK(stats.queue_max >= 1 && stats.queue_max <= 3);
    serving_adds_up(serving.loop, page);
    CHECK(!memory_has(memory, 0, "uw"));
    serving_close(&serving);
    CHECK(!memory_has(memory, 0, "um"));
    CHECK(image_there(memory_at(memory, 0), 0, page));
    uffd_memory_close(memory);
  }
}

#define FIVE_SLICES (5 * 512)

static void anonymous(void) {
  serve_kind(MEMORY_ANON, FIVE_SLICES, 23);
}
static void thp(void) {
  serve_kind(MEMORY_THP, FIVE_SLICES, 23);
}
static void memfd(void) {
  serve_kind(MEMORY_MEMFD, FIVE_SLICES, 23);
}
static void memfd_private(void) {
  serve_kind(MEMORY_MEMFD_PRIVATE, FIVE_SLICES, 23);
}
static void hugetlb(void) {
  serve_kind(MEMORY_HUGETLB, 5, 1);
}
static void hugetlb_private(void) {
  serve_kind(MEMORY_HUGETLB_PRIVATE, 5, 1);
}
static void adopted(void) {
  serve_kind(MEMORY_ADOPTED, FIVE_SLICES, 23);
}

static void writes_are_counted_and_kept(void) {
  for (int kind = 0; kind < MEMORY_HUGETLB; kind++) {
    struct serving serving;
    serving_open(&serving, ENGINE_ONE, NULL);
    uffd_memory *memory = memory_make(kind, 8);
    uint64_t page = check_page();
    region_add(serving.loop, memory, image_resolver(8 * page), NULL);
    for (uint64_t at = 0; at < 8 * page; at += 2 * page) {
      *memory_at(memory, at + 5) = 0;
      CHECK_EQ(*memory_at(memory, at + 5), 0);
      CHECK(image_there(memory_at(memory, at + 6), at + 6, page - 6));
    }
    struct uffd_stats stats = serving_stats(serving.loop);
    CHECK_EQ(stats.missing, 4);
    CHECK_EQ(stats.writes, 4);
    CHECK_EQ(stats.wp, 0);
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

/* Page sizes and resolvers of their own, side by side. */
static void several_memories_in_one_loop(void) {
  struct serving serving;
  serving_open(&serving, ENGINE_TWO, NULL);
  uint64_t page = check_page(), huge = UINT64_C(2) << 20;
  uffd_memory *small = memory_make(MEMORY_ANON, 1500), *shared = memory_make(MEMORY_MEMFD, 700),
              *large = memory_make(MEMORY_HUGETLB, 3);
  uffd_resolver *zero, *pattern;
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_OK(uffd_resolver_pattern("abc", 3, &pattern));
  region_add(serving.loop, small, image_resolver(1500 * page), NULL);
  region_add(serving.loop, shared, pattern, NULL);
  region_add(serving.loop, large, zero, NULL);
  for (uint64_t i = 0; i < 700; i += 99) {
    CHECK(image_there(memory_at(small, 2 * i * page), 2 * i * page, page));
    CHECK_EQ(*memory_at(shared, i * page + 17), "abc"[(i * page + 17) % 3]);
  }
  for (uint64_t i = 0; i < 3; i++) {
    CHECK(check_filled(memory_at(large, i * huge), huge, 0));
  }
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.copied, 16);
  CHECK_EQ(stats.zero, 3);
  CHECK_EQ(stats.bytes, 16 * page + 3 * huge);
  serving_close(&serving);
  uffd_memory_close(small);
  uffd_memory_close(shared);
  uffd_memory_close(large);
}

/* Regions */

static void a_region_is_a_part_of_its_memory(void) {
  struct serving serving;
  serving_open(&serving, ENGINE_TWO, NULL);
  uint64_t page = check_page();
  uffd_memory *memory = memory_make(MEMORY_ANON, 10);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.offset = 2 * page;
  opts.length = 3 * page;
  opts.resolver_offset = 7 * page;
  opts.around = 100 * page;
  region_add(serving.loop, memory, image_resolver(10 * page), &opts);
  CHECK(!memory_has(memory, page, "um"));
  CHECK(memory_has(memory, 2 * page, "um"));
  CHECK(memory_has(memory, 4 * page, "um"));
  CHECK(!memory_has(memory, 5 * page, "um"));
  CHECK(image_there(memory_at(memory, 3 * page), 8 * page, page));
  CHECK(check_filled(memory_at(memory, 0), 2 * page, 0));
  CHECK(check_filled(memory_at(memory, 5 * page), 5 * page, 0));
  CHECK_EQ(serving_stats(serving.loop).faults, 1);
  CHECK_EQ(serving_stats(serving.loop).copied, 3);
  CHECK(image_there(memory_at(memory, 2 * page), 7 * page, 3 * page));
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Neighbours in one memory: an answer of one never reaches into the other. */
static void regions_side_by_side_keep_apart(void) {
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  uint64_t page = check_page();
  uffd_memory *memory = memory_make(MEMORY_MEMFD, 9);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.length = 3 * page;
  opts.around = 16 * page;
  static const char letters[] = "xyz";
  for (unsigned i = 0; i < 3; i++) {
    uffd_resolver *pattern;
    CHECK_OK(uffd_resolver_pattern(&letters[i], 1, &pattern));
    opts.offset = i * 3 * page;
    region_add(serving.loop, memory, pattern, &opts);
  }
  CHECK_EQ(*memory_at(memory, 4 * page), 'y');
  CHECK_EQ(serving_stats(serving.loop).copied, 3);
  CHECK_EQ(*memory_at(memory, 2 * page), 'x');
  CHECK_EQ(*memory_at(memory, 6 * page), 'z');
  CHECK_EQ(serving_stats(serving.loop).faults, 3);
  CHECK_EQ(serving_stats(serving.loop).copied, 9);
  for (unsigned i = 0; i < 3; i++) {
    CHECK(check_filled(memory_at(memory, i * 3 * page), 3 * page, (unsigned char)letters[i]));
  }
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Threads go on faulting in two regions while hundreds of others come and go. */
struct churn {
  uffd_memory *memory;
  _Atomic bool stop;
  _Atomic uint64_t rounds;
};

static void fault_again_and_again(void *ctx) {
  struct churn *churn = ctx;
  uint64_t page = check_page(), pages = uffd_memory_length(churn->memory) / page;
  while (!atomic_load(&churn->stop)) {
    for (uint64_t i = 0; i < pages && !atomic_load(&churn->stop); i++) {
      CHECK(image_there(memory_at(churn->memory, i * page), i * page, 600));
    }
    CHECK_EQ(madvise(memory_at(churn->memory, 0), pages * page, MADV_DONTNEED), 0);
    atomic_fetch_add(&churn->rounds, 1);
  }
}

static void hundreds_of_regions_come_and_go(void) {
  uint64_t page = check_page();
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    struct serving serving;
    serving_open(&serving, engine, NULL);
    struct churn churns[2] = {{0}};
    struct check_thread threads[2];
    for (unsigned i = 0; i < 2; i++) {
      churns[i].memory = memory_make(i == 0 ? MEMORY_ANON : MEMORY_MEMFD_PRIVATE, 64);
      region_add(serving.loop, churns[i].memory, image_resolver(64 * page), NULL);
      check_thread_start(&threads[i], fault_again_and_again, &churns[i]);
    }
    uffd_memory *many = memory_make(MEMORY_ANON, 2 * 150);
    uffd_resolver *image = image_resolver(300 * page);
    uffd_region *regions[150];
    for (unsigned i = 0; i < 150; i++) { /* with a page between, and in an order that is not theirs */
      struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
      opts.offset = opts.resolver_offset = 2 * (uint64_t)(i * 7 % 150) * page;
      opts.length = page;
      CHECK_OK(uffd_loop_add(serving.loop, many, image, &opts, &regions[i]));
    }
    for (uint64_t i = 0; i < 150; i += 2) {
      CHECK(image_there(memory_at(many, 2 * i * page), 2 * i * page, page));
    }
    for (unsigned i = 0; i < 150; i += 3) {
      CHECK_OK(uffd_region_remove(regions[i]));
    }
    for (unsigned i = 0; i < 150; i++) {
      uint64_t at = 2 * (uint64_t)(i * 7 % 150) * page;
      bool filled = i % 3 != 0 || i * 7 % 150 % 2 == 0;
      if (filled) CHECK(image_there(memory_at(many, at), at, page));
      if (!filled) CHECK(check_filled(memory_at(many, at), page, 0));
    }
    for (unsigned i = 0; i < 2; i++) {
      while (atomic_load(&churns[i].rounds) < 3) {
        check_pause();
      }
      atomic_store(&churns[i].stop, true);
      check_thread_join(&threads[i]);
    }
    CHECK_EQ(serving_stats(serving.loop).errors, 0);
    serving_adds_up(serving.loop, page);
    serving_close(&serving);
    uffd_resolver_close(image);
    uffd_memory_close(many);
    uffd_memory_close(churns[0].memory);
    uffd_memory_close(churns[1].memory);
  }
}

static void a_removed_region_is_out_of_the_loop(void) {
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  uint64_t page = check_page();
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(4 * page), NULL);
  CHECK(image_there(memory_at(memory, page), page, page));
  CHECK_OK(uffd_region_remove(region));
  CHECK(!memory_has(memory, 0, "um"));
  CHECK(check_filled(memory_at(memory, 0), page, 0)); /* as it is: still missing, so zeros */
  CHECK(image_there(memory_at(memory, page), page, page));
  CHECK_OK(uffd_region_remove(region));
  CHECK_ERR(uffd_region_prefetch(region, 0, 0), -ENOENT);
  CHECK_SAYS("removed");
  CHECK_ERR(uffd_region_complete(region), -ENOENT);
  CHECK_OK(uffd_loop_complete(serving.loop)); /* nothing left to complete */
  /* and may come back, with other contents */
  uffd_resolver *pattern;
  CHECK_OK(uffd_resolver_pattern("q", 1, &pattern));
  region_add(serving.loop, memory, pattern, NULL);
  CHECK(check_filled(memory_at(memory, 0), page, 0));
  CHECK(check_filled(memory_at(memory, 2 * page), page, 'q'));
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void the_memory_outlives_its_handle(void) {
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  uint64_t page = check_page();
  uffd_memory *memory = memory_make(MEMORY_MEMFD, 4);
  unsigned char *at = memory_at(memory, 0);
  region_add(serving.loop, memory, image_resolver(4 * page), NULL);
  uffd_memory_close(memory);
  CHECK(image_there(at, 0, 4 * page));
  serving_close(&serving);
  CHECK_EQ(check_access(at, false, NULL), SIGSEGV); /* now it is gone */
}

/* Ending */

static int answer_later(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault;
  answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

static void closing_lets_sleepers_go(void) {
  uint64_t page = check_page();
  for (int engine = 0; engine < ENGINES; engine++) {
    struct serving serving;
    struct asked asked = {.answer = answer_later};
    serving_open(&serving, engine, NULL);
    uffd_memory *memory = memory_make(MEMORY_ANON, 1030);
    region_add(serving.loop, memory, asked_resolver(&asked), NULL);
    serving_start(&serving);
    struct check_touch touches[4];
    for (unsigned i = 0; i < 4; i++) { /* in two slices, two on one page */
      check_touch_read(&touches[i], memory_at(memory, (i == 0 ? 0 : i == 1 ? 1025 : 3) * page));
    }
    for (unsigned i = 0; i < 4 && !serving_is_inline(&serving); i++) { /* inline they fault again and again */
      check_touch_asleep(&touches[i]);
    }
    while (atomic_load(&asked.hits) < 4) {
      check_pause();
    }
    serving_close(&serving);
    for (unsigned i = 0; i < 4; i++) {
      CHECK_EQ(check_touch_join(&touches[i]), 0);
    }
    uffd_memory_close(memory);
  }
}

static void a_loop_without_regions(void) {
  struct serving serving;
  for (int engine = 0; engine < ENGINES; engine++) {
    serving_open(&serving, engine, NULL);
    CHECK_OK(uffd_loop_complete(serving.loop));
    CHECK_ERR(uffd_loop_user_mode_only(serving.loop), -ENOENT);
    CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), 0);
    struct uffd_stats stats = serving_stats(serving.loop), none = UFFD_STATS_INIT;
    CHECK(memcmp(&stats, &none, sizeof(stats)) == 0);
    if (engine == ENGINE_PUMP) {
      CHECK_EQ(uffd_loop_step(serving.loop, 0), 0);
      CHECK_EQ(uffd_loop_step(serving.loop, 5), 0);
      CHECK_EQ(uffd_loop_timeout(serving.loop), -1);
    }
    serving_close(&serving);
  }
  CHECK_OK(uffd_loop_close(NULL));
}

static const struct check_test tests[] = {
    TEST(anonymous),
    TEST(thp),
    TEST(memfd),
    TEST(memfd_private),
    TEST(hugetlb),
    TEST(hugetlb_private),
    TEST(adopted),
    TEST(writes_are_counted_and_kept),
    TEST(several_memories_in_one_loop),
    TEST(a_region_is_a_part_of_its_memory),
    TEST(regions_side_by_side_keep_apart),
    TEST(hundreds_of_regions_come_and_go),
    TEST(a_removed_region_is_out_of_the_loop),
    TEST(the_memory_outlives_its_handle),
    TEST(closing_lets_sleepers_go),
    TEST(a_loop_without_regions),
};
CHECK_MAIN(tests)
