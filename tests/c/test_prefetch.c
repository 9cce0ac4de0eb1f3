/* Prefetching in the background: what, in which order, how fast, and how it ends. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "loop/engine/pace.h"
#include "loop/loop.h"
#include "loop/rate.h"
#include "serving.h"

#define SLOW 4096 /* bytes a second: a page, then nothing for a second */

static uint64_t page;

static void open_loop(struct serving *serving, int engine) {
  page = check_page();
  serving_open(serving, engine, NULL);
}

static bool is_inline(const struct serving *serving) {
  return uffd_loop_engine(serving->loop, NULL) == UFFD_ENGINE_INLINE;
}

static struct uffd_prefetch_status status_of(const uffd_prefetch *prefetch) {
  struct uffd_prefetch_status status = UFFD_PREFETCH_STATUS_INIT;
  CHECK_OK(uffd_prefetch_status(prefetch, &status));
  return status;
}

static uffd_prefetch *start(uffd_region *region, uint64_t rate) {
  struct uffd_prefetch_opts opts = UFFD_PREFETCH_OPTS_INIT;
  uffd_prefetch *prefetch = NULL;
  opts.rate = rate;
  CHECK_OK(uffd_region_prefetch_start(region, NULL, 0, &opts, &prefetch));
  return prefetch;
}

/* Until so many bytes are done: the handler's work, and a pump's is run here. */
static void await_bytes(struct serving *serving, const uffd_prefetch *prefetch, uint64_t bytes) {
  while (status_of(prefetch).bytes_done < bytes) {
    if (serving->engine == ENGINE_PUMP) CHECK_OK(uffd_loop_step(serving->loop, 0));
    check_pause();
  }
}

/* What is filled */

static uint64_t asked_pages[64];

static int answer_page(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  static const unsigned char contents[4096] = {1};
  unsigned hit = atomic_load(&asked->hits);
  CHECK(hit <= 64 && (fault->flags & UFFD_FAULT_PREFETCH) != 0);
  asked_pages[hit - 1] = fault->region_offset / fault->page_size;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = contents;
  return 0;
}

static void ranges_are_sorted_and_filled_once(void) {
  static const int engines[] = {ENGINE_ONE, ENGINE_PUMP};
  for (unsigned i = 0; i < 2; i++) {
    struct serving serving;
    struct asked asked = {.answer = answer_page};
    open_loop(&serving, engines[i]);
    const struct uffd_range ranges[] = {{9 * page, 1},        {2 * page, 2 * page}, {7 * page, 0},
                                        {3 * page + 5, page}, {9 * page, page},     {11 * page + 4095, 1}};
    uffd_memory *memory = memory_make(MEMORY_ANON, 12);
    uffd_region *region = region_add(serving.loop, memory, asked_resolver(&asked), NULL);
    uffd_prefetch *prefetch;
    CHECK_OK(uffd_region_prefetch_start(region, ranges, sizeof(ranges) / sizeof(ranges[0]), NULL, &prefetch));
    CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
    static const uint64_t expected[] = {2, 3, 4, 9, 11};
    CHECK_EQ(atomic_load(&asked.hits), 5);
    CHECK_EQ(memcmp(asked_pages, expected, sizeof(expected)), 0);
    struct uffd_prefetch_status status = status_of(prefetch);
    CHECK_EQ(status.done, 1);
    CHECK_EQ(status.error, 0);
    CHECK_EQ(status.bytes_wanted, 5 * page);
    CHECK_EQ(status.bytes_done, 5 * page);
    CHECK_EQ(uffd_prefetch_wait(prefetch, 0), 1); /* again */
    uffd_prefetch_close(prefetch);
    CHECK_EQ(serving_stats(serving.loop).prefetched, 5);
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

static void no_ranges_are_the_whole_region(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct serving serving;
    open_loop(&serving, engine);
    uint64_t pages = 5 * 512 + 7;
    uffd_memory *memory = memory_make(MEMORY_ANON, pages);
    uffd_region *region = region_add(serving.loop, memory, image_resolver(pages * page), NULL);
    uffd_prefetch *prefetch = start(region, 0);
    CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
    CHECK(image_there(memory_at(memory, 0), 0, pages * page));
    struct uffd_stats stats = serving_stats(serving.loop);
    CHECK_EQ(stats.faults, 0);
    CHECK_EQ(stats.prefetched, pages);
    CHECK_EQ(status_of(prefetch).bytes_done, pages * page);
    uffd_prefetch_close(prefetch);
    prefetch = start(region, 1); /* nothing is left: at no rate does that take long */
    CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
    CHECK_EQ(status_of(prefetch).bytes_done, pages * page);
    uffd_prefetch_close(prefetch);
    const struct uffd_range empty = {3 * page, 0};
    CHECK_OK(uffd_region_prefetch_start(region, &empty, 1, NULL, &prefetch));
    CHECK_EQ(uffd_prefetch_wait(prefetch, 0), 1);
    CHECK_EQ(status_of(prefetch).bytes_wanted, 0);
    uffd_prefetch_close(prefetch);
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

static void what_is_unmapped_is_passed_over(void) {
  struct serving serving;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  page = check_page();
  opts.features = UFFD_FEAT_EVENT_UNMAP | UFFD_FEAT_EVENT_REMOVE;
  serving_open(&serving, ENGINE_ONE, &opts);
  uffd_memory *memory = memory_make(MEMORY_ANON, 20);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(20 * page), NULL);
  CHECK_EQ(munmap(memory_at(memory, 4 * page), 3 * page), 0);
  CHECK_EQ(munmap(memory_at(memory, 18 * page), 2 * page), 0);
  CHECK_EQ(madvise(memory_at(memory, 9 * page), page, MADV_DONTNEED), 0);
  uffd_prefetch *prefetch = start(region, 0);
  CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
  CHECK_EQ(status_of(prefetch).bytes_done, 20 * page);
  CHECK_EQ(serving_stats(serving.loop).prefetched, 14);
  uffd_prefetch_close(prefetch);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Faults first */

#define STEP (UINT64_C(2) << 20)

static struct {
  const uffd_prefetch *prefetch;
  _Atomic uint64_t done_before; /* bytes, when the fault was answered */
} priority;

static void note_fault(void *ctx, const struct uffd_trace *trace) {
  (void)ctx;
  CHECK_EQ(trace->flags & UFFD_FAULT_PREFETCH, 0);
  struct uffd_prefetch_status status = UFFD_PREFETCH_STATUS_INIT;
  uffd_prefetch_status(priority.prefetch, &status);
  atomic_store(&priority.done_before, status.bytes_done);
}

static void a_fault_waits_for_one_step_at_most(void) {
  struct serving serving;
  open_loop(&serving, ENGINE_ONE);
  if (is_inline(&serving)) SKIP("inline, faults wait for nobody");
  uint64_t pages = 4 * STEP / page;
  uffd_memory *memory = memory_make(MEMORY_ANON, pages);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(pages * page), NULL);
  CHECK_OK(uffd_loop_trace(serving.loop, note_fault, NULL));
  check_barrier_hold("prefetching");
  uffd_prefetch *prefetch = start(region, 0);
  priority.prefetch = prefetch;
  check_barrier_await("prefetching"); /* the handler begins the first step */
  struct check_touch touch;
  check_touch_read(&touch, memory_at(memory, (pages - 1) * page));
  check_touch_asleep(&touch);
  CHECK_EQ(status_of(prefetch).bytes_done, 0);
  check_barrier_release("prefetching");
  CHECK_EQ(check_touch_join(&touch), image_byte((pages - 1) * page));
  CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
  /* a step ends where a huge page does, which need not be where the memory begins */
  CHECK(atomic_load(&priority.done_before) != 0 && atomic_load(&priority.done_before) <= STEP);
  CHECK_EQ(serving_stats(serving.loop).prefetched, pages - 1);
  CHECK_OK(uffd_loop_trace(serving.loop, NULL, NULL));
  uffd_prefetch_close(prefetch);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void the_pace_by_its_numbers(void) {
  struct uffd_pace pace = {0};
  const uint64_t kib = 1024;
  CHECK_EQ(uffd_pace_step(&pace, 0, STEP), STEP); /* no fault has come yet */
  CHECK_EQ(uffd_pace_step(&pace, 5, STEP), 64 * kib);
  CHECK_EQ(uffd_pace_step(&pace, 5, STEP), 128 * kib);
  CHECK_EQ(uffd_pace_step(&pace, 5, STEP), 192 * kib);
  CHECK_EQ(uffd_pace_step(&pace, 6, STEP), 64 * kib);
  uint64_t bytes = 0;
  for (int i = 2; i < 32; i++) {
    bytes = uffd_pace_step(&pace, 6, STEP);
  }
  CHECK_EQ(bytes, STEP - 64 * kib);
  CHECK_EQ(uffd_pace_step(&pace, 6, STEP), STEP);
  CHECK_EQ(uffd_pace_step(&pace, 6, STEP), STEP);
  CHECK_EQ(uffd_pace_step(&pace, 7, STEP), 64 * kib);
  CHECK_EQ(uffd_pace_step(&pace, 8, 16 * kib), 16 * kib);
}

#define PACED 8u

static struct {
  struct check_touch touch;
  unsigned char *page; /* that the other thread reads when the first step begins */
  const uffd_prefetch *_Atomic prefetch;
  unsigned steps;
  uint64_t done[PACED]; /* bytes, at the beginning of each step */
} paced;

static void note_step(const char *name, void *ctx) {
  (void)ctx;
  if (strcmp(name, "prefetching") != 0 || paced.steps == PACED) return;
  while (atomic_load(&paced.prefetch) == NULL) {
    check_pause();
  }
  paced.done[paced.steps++] = status_of(atomic_load(&paced.prefetch)).bytes_done;
  if (paced.steps > 1) return;
  check_touch_read(&paced.touch, paced.page);
  check_touch_asleep(&paced.touch);
}

/* Who faults again and again waits for a small step each time. */
static void after_a_fault_steps_are_small_and_grow(void) {
  struct serving serving;
  open_loop(&serving, ENGINE_ONE);
  if (is_inline(&serving)) SKIP("inline, faults wait for nobody");
  uint64_t pages = 4 * STEP / page;
  uffd_memory *memory = memory_make(MEMORY_ANON, pages);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(pages * page), NULL);
  paced.page = memory_at(memory, (pages - 1) * page);
  atomic_store(&uffd_barrier_hook, note_step);
  uffd_prefetch *prefetch = start(region, 0);
  atomic_store(&paced.prefetch, prefetch);
  CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
  CHECK_EQ(check_touch_join(&paced.touch), image_byte((pages - 1) * page));
  CHECK_EQ(paced.steps, PACED);
  CHECK_EQ(paced.done[0], 0);
  CHECK(paced.done[1] != 0 && paced.done[1] <= STEP);
  for (unsigned i = 2; i < PACED; i++) {
    CHECK_EQ(paced.done[i] - paced.done[i - 1], (i - 1) * (UINT64_C(64) << 10));
  }
  uffd_prefetch_close(prefetch);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* The rate */

#define SECOND UINT64_C(1000000000)

static void the_rate_by_the_clock(void) {
  struct uffd_rate rate = {.bytes_a_second = 1000};
  uint64_t now = 5 * SECOND;
  CHECK_EQ(uffd_rate_take(&rate, now, 500), 0);
  CHECK_EQ(uffd_rate_take(&rate, now, 500), now + SECOND / 2);
  CHECK_EQ(uffd_rate_take(&rate, now + SECOND / 2 - 1, 500), now + SECOND / 2);
  CHECK_EQ(uffd_rate_take(&rate, now + SECOND / 2, 3000), 0);
  CHECK_EQ(uffd_rate_take(&rate, now + SECOND, 1), now + SECOND / 2 + 3 * SECOND);
  uffd_rate_give_back(&rate, 2000); /* a third was needed */
  CHECK_EQ(uffd_rate_take(&rate, now + SECOND, 1), now + SECOND / 2 + SECOND);
  now += 100 * SECOND; /* nothing is saved up */
  CHECK_EQ(uffd_rate_take(&rate, now, 1000), 0);
  CHECK_EQ(uffd_rate_take(&rate, now, 1000), now + SECOND);
  struct uffd_rate none = {0};
  CHECK_EQ(uffd_rate_take(&none, now, UINT64_MAX), 0);
  uffd_rate_give_back(&none, 1);
  struct uffd_rate slow = {.bytes_a_second = 1};
  CHECK_EQ(uffd_rate_take(&slow, now, STEP), 0);
  CHECK_EQ(uffd_rate_take(&slow, now, STEP), now + STEP * SECOND);
}

/* A scripted second: whoever asks, as often as it likes, gets so much. */
static void the_rate_over_time(void) {
  struct uffd_rate rate = {.bytes_a_second = UINT64_C(100) << 20};
  const uint64_t piece = UINT64_C(1) << 20;
  uint64_t taken = 0;
  for (uint64_t now = SECOND; now < 2 * SECOND; now += 7000) {
    if (uffd_rate_take(&rate, now, piece) == 0) taken += piece;
  }
  CHECK(taken <= rate.bytes_a_second + piece && taken > rate.bytes_a_second * 9 / 10);
}

static void never_faster_than_the_rate(void) {
  static const int engines[] = {ENGINE_ONE, ENGINE_TWO, ENGINE_PUMP};
  for (unsigned i = 0; i < 3; i++) {
    struct serving serving;
    open_loop(&serving, engines[i]);
    uint64_t pages = 1024, rate = UINT64_C(32) << 20, before = uffd_now();
    uffd_memory *memory = memory_make(MEMORY_ANON, pages);
    uffd_region *region = region_add(serving.loop, memory, image_resolver(pages * page), NULL);
    uffd_prefetch *prefetch = start(region, rate);
    CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
    CHECK(uffd_now() - before >= (pages * page - rate / 64) * (SECOND >> 20) / (rate >> 20));
    CHECK(image_there(memory_at(memory, 0), 0, pages * page));
    uffd_prefetch_close(prefetch);
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

/* While one waits for its time, faults and other prefetches do not. */
static void who_has_no_rate_goes_on(void) {
  static const int engines[] = {ENGINE_ONE, ENGINE_TWO, ENGINE_PUMP};
  for (unsigned i = 0; i < 3; i++) {
    struct serving serving;
    open_loop(&serving, engines[i]);
    uint64_t pages = 1100;
    uffd_memory *memories[2] = {memory_make(MEMORY_ANON, pages), memory_make(MEMORY_ANON, pages)};
    uffd_region *regions[2];
    for (int m = 0; m < 2; m++) {
      regions[m] = region_add(serving.loop, memories[m], image_resolver(pages * page), NULL);
    }
    uint64_t before = uffd_now();
    uffd_prefetch *slow = start(regions[0], SLOW);
    await_bytes(&serving, slow, page);
    uffd_prefetch *fast = start(regions[1], 0);
    CHECK_EQ(uffd_prefetch_wait(fast, -1), 1);
    CHECK_EQ(uffd_prefetch_wait(slow, 0), 0);
    serving_start(&serving); /* a pump answers the fault from here on */
    CHECK(image_there(memory_at(memories[0], 700 * page), 700 * page, page));
    serving_pause(&serving);
    struct uffd_prefetch_status status = status_of(slow);
    CHECK(status.done == 0 && status.bytes_done <= page * (2 + (uffd_now() - before) / SECOND));
    CHECK_EQ(uffd_prefetch_wait(slow, 20), 0);
    uffd_prefetch_close(slow);
    uffd_prefetch_close(fast);
    serving_close(&serving);
    uffd_memory_close(memories[0]);
    uffd_memory_close(memories[1]);
  }
}

/* How it ends */

enum { HANDLE_FIRST, LOOP_FIRST, REGION_REMOVED, REGION_COMPLETE, ORDERS };

static void end_in_order(int engine, int order) {
  struct serving serving;
  open_loop(&serving, engine);
  uint64_t pages = 600;
  uffd_memory *memory = memory_make(MEMORY_ANON, pages);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(pages * page), NULL);
  uffd_prefetch *prefetch = start(region, SLOW);
  await_bytes(&serving, prefetch, page);
  switch (order) {
  case HANDLE_FIRST:
    uffd_prefetch_close(prefetch);
    prefetch = NULL;
    break;
  case REGION_REMOVED:
    CHECK_OK(uffd_region_remove(region));
    CHECK_ERR(uffd_prefetch_wait(prefetch, -1), -ECANCELED);
    CHECK_SAYS("removed");
    break;
  case REGION_COMPLETE:
    CHECK_OK(uffd_region_complete(region));
    CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
    CHECK_EQ(status_of(prefetch).bytes_done, pages * page);
    break;
  default:
    break;
  }
  serving_close(&serving);
  uffd_memory_close(memory);
  if (order == LOOP_FIRST) {
    struct uffd_prefetch_status status = status_of(prefetch);
    CHECK_EQ(status.done, 1);
    CHECK_EQ(status.error, ECANCELED);
    CHECK(status.bytes_done < status.bytes_wanted);
    CHECK_ERR(uffd_prefetch_wait(prefetch, -1), -ECANCELED);
    CHECK_SAYS("closed");
  }
  uffd_prefetch_close(prefetch);
}

static void every_order_of_ending(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    for (int order = 0; order < ORDERS; order++) {
      end_in_order(engine, order);
    }
  }
}

static uint64_t mapped_pages(void) {
  unsigned long pages = 0;
  FILE *file = fopen("/proc/self/statm", "re");
  CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1);
  fclose(file);
  return pages;
}

/* A sanitizer maps memory of its own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static void nothing_stays_mapped(void) {
  const unsigned rounds = SANITIZED ? 1 : 10;
  uint64_t before = 0;
  for (unsigned i = 0; i < rounds; i++) {
    for (int order = 0; order < ORDERS; order++) {
      end_in_order(ENGINE_TWO, order);
    }
    if (i == 1) before = mapped_pages();
  }
  CHECK(SANITIZED || mapped_pages() < before + rounds);
}

/* A thread that waits while another closes the loop. */
static void wait_for_it(void *ctx) {
  CHECK_ERR(uffd_prefetch_wait(ctx, -1), -ECANCELED);
}

static void closing_lets_waiters_go(void) {
  struct serving serving;
  open_loop(&serving, ENGINE_TWO);
  uffd_memory *memory = memory_make(MEMORY_ANON, 1100);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(1100 * page), NULL);
  uffd_prefetch *prefetch = start(region, SLOW);
  struct check_thread waiters[2];
  for (int i = 0; i < 2; i++) {
    check_thread_start(&waiters[i], wait_for_it, prefetch);
    check_asleep(waiters[i].tid, "futex");
  }
  serving_close(&serving);
  for (int i = 0; i < 2; i++) {
    check_thread_join(&waiters[i]);
  }
  uffd_prefetch_close(prefetch);
  uffd_memory_close(memory);
}

/* Closed in the middle of a step: the rest is not filled, and what a fault asks for is. */
static void closing_cancels(void) {
  struct serving serving;
  open_loop(&serving, ENGINE_ONE);
  uint64_t pages = 4 * STEP / page;
  uffd_memory *memory = memory_make(MEMORY_ANON, pages);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(pages * page), NULL);
  check_barrier_hold("prefetching");
  uffd_prefetch *prefetch = start(region, 0);
  check_barrier_await("prefetching");
  uffd_prefetch_close(prefetch);
  check_barrier_release("prefetching");
  CHECK(image_there(memory_at(memory, (pages - 1) * page), (pages - 1) * page, page));
  CHECK_OK(uffd_region_prefetch(region, 0, page)); /* in the background as well, so after it */
  CHECK_EQ(serving_stats(serving.loop).prefetched, 1);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static int fail_at_three(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  if (fault->offset == 3 * fault->page_size) return uffd_set_errmsg(EIO, "Page three is no good.");
  answer->kind = UFFD_ANSWER_ZERO;
  return 0;
}

static void a_failure_is_told_and_the_rest_is_filled(void) {
  struct serving serving;
  struct asked asked = {.answer = fail_at_three};
  open_loop(&serving, ENGINE_ONE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  uffd_region *region = region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  uffd_prefetch *prefetch = start(region, 0);
  CHECK_ERR(uffd_prefetch_wait(prefetch, -1), -EIO);
  CHECK_SAYS("Page three is no good.");
  struct uffd_prefetch_status status = status_of(prefetch);
  CHECK(status.done == 1 && status.error == EIO && status.bytes_done == 8 * page);
  CHECK_EQ(serving_stats(serving.loop).prefetched, 7);
  uffd_prefetch_close(prefetch);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Misuse */

static struct {
  uffd_region *region;
  uffd_prefetch *prefetch;
} own;

static int ask_for_more(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault, (void)answer;
  uffd_prefetch *prefetch;
  CHECK_ERR(uffd_region_prefetch_start(own.region, NULL, 0, NULL, &prefetch), -EDEADLK);
  CHECK_ERR(uffd_prefetch_wait(own.prefetch, -1), -EDEADLK);
  CHECK_EQ(status_of(own.prefetch).done, 0);
  uffd_prefetch_close(own.prefetch);
  return 0;
}

static void not_from_a_callback(void) {
  struct serving serving;
  struct asked asked = {.answer = ask_for_more};
  open_loop(&serving, ENGINE_ONE);
  uffd_memory *slow = memory_make(MEMORY_ANON, 8), *memory = memory_make(MEMORY_ANON, 1);
  own.region = region_add(serving.loop, slow, image_resolver(8 * page), NULL);
  own.prefetch = start(own.region, SLOW);
  region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  CHECK_EQ(*memory_at(memory, 0), 0);
  CHECK_EQ(atomic_load(&asked.hits), 1);
  serving_close(&serving);
  uffd_memory_close(slow);
  uffd_memory_close(memory);
}

static void bad_arguments(void) {
  struct serving serving;
  open_loop(&serving, ENGINE_ONE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(8 * page), NULL);
  const struct uffd_range outside[] = {{0, page}, {8 * page, 1}};
  struct {
    struct uffd_prefetch_opts opts;
    uint64_t more;
  } newer = {UFFD_PREFETCH_OPTS_INIT, 1};
  newer.opts.size = sizeof(newer);
  uffd_prefetch *prefetch = (uffd_prefetch *)&newer;
  CHECK_ERR(uffd_region_prefetch_start(region, outside, 2, NULL, &prefetch), -ERANGE);
  CHECK(prefetch == NULL);
  CHECK_ERR(uffd_region_prefetch_start(region, NULL, 0, &newer.opts, &prefetch), -EINVAL);
  CHECK_ERR(uffd_region_prefetch_start(region, outside, SIZE_MAX / 16, NULL, &prefetch), -ERANGE);
  CHECK_ERR(uffd_prefetch_wait(NULL, 0), -EBADF);
  struct uffd_prefetch_status status = {0};
  CHECK_ERR(uffd_prefetch_status(NULL, &status), -EBADF);
  prefetch = start(region, 0);
  CHECK_ERR(uffd_prefetch_status(prefetch, &status), -EINVAL);
  CHECK_ERR(uffd_prefetch_status(prefetch, NULL), -EINVAL);
  CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
  uffd_prefetch_close(prefetch);
  uffd_prefetch_close(NULL);
  CHECK_OK(uffd_region_complete(region));
  CHECK_ERR(uffd_region_prefetch_start(region, NULL, 0, NULL, &prefetch), -ENOENT);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void not_in_a_forked_child(void) {
  struct serving serving;
  open_loop(&serving, ENGINE_ONE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(8 * page), NULL);
  uffd_prefetch *prefetch = start(region, SLOW), *other;
  pid_t child = fork();
  if (child == 0) {
    struct uffd_prefetch_status status = UFFD_PREFETCH_STATUS_INIT;
    CHECK_ERR(uffd_region_prefetch_start(region, NULL, 0, NULL, &other), -EOWNERDEAD);
    CHECK_ERR(uffd_prefetch_wait(prefetch, -1), -EOWNERDEAD);
    CHECK_ERR(uffd_prefetch_status(prefetch, &status), -EOWNERDEAD);
    uffd_prefetch_close(prefetch);
    CHECK_OK(uffd_loop_close(serving.loop));
    _exit(0);
  }
  check_child(child);
  CHECK_EQ(status_of(prefetch).done, 0);
  uffd_prefetch_close(prefetch);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static const struct check_test tests[] = {
    TEST(ranges_are_sorted_and_filled_once),
    TEST(no_ranges_are_the_whole_region),
    TEST(what_is_unmapped_is_passed_over),
    TEST(a_fault_waits_for_one_step_at_most),
    TEST(the_pace_by_its_numbers),
    TEST(after_a_fault_steps_are_small_and_grow),
    TEST(the_rate_by_the_clock),
    TEST(the_rate_over_time),
    TEST(never_faster_than_the_rate),
    TEST(who_has_no_rate_goes_on),
    TEST(every_order_of_ending),
    TEST(nothing_stays_mapped),
    TEST(closing_lets_waiters_go),
    TEST(closing_cancels),
    TEST(a_failure_is_told_and_the_rest_is_filled),
    TEST(not_from_a_callback),
    TEST(bad_arguments),
    TEST(not_in_a_forked_child),
};

CHECK_MAIN(tests)
