/* Races between faults and the events that the owner of the memory makes: R1, R2, R3, R8, R9, R10, R24. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>

#include "loop/loop.h"
#include "serving.h"

#define PAGES 16

static struct serving serving;
static uffd_memory *memory;
static uffd_region *region;
static uint64_t page;

static unsigned char *at(uint64_t index) {
  return memory_at(memory, index * page);
}

/* One handler that is told of dropped pages, and the image. */
static void serve_kind(int kind, uint64_t pages, uint64_t around) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts region_opts = UFFD_REGION_OPTS_INIT;
  page = check_page();
  opts.features = UFFD_FEAT_EVENT_REMOVE;
  region_opts.around = around;
  serving_open(&serving, ENGINE_ONE, &opts);
  memory = memory_make(kind, pages);
  region = region_add(serving.loop, memory, image_resolver(pages * page), &region_opts);
}

static void end(void) {
  serving_adds_up(serving.loop, page);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* A thread that drops pages: it sleeps until its event is read */

struct drop {
  struct check_thread thread;
  uint64_t first, count;
};

static void drop_pages(void *ctx) {
  struct drop *drop = ctx;
  CHECK_EQ(madvise(at(drop->first), drop->count * page, MADV_DONTNEED), 0);
}

static void start_drop(struct drop *drop, uint64_t first, uint64_t count) {
  drop->first = first;
  drop->count = count;
  check_thread_start(&drop->thread, drop_pages, drop);
  check_asleep(atomic_load(&drop->thread.tid), "userfault");
}

/*
 * The handler stands in front of its queue with a fault at this page, and reads no more until it is let go. Inline, the
 * thread has its answer in hand, and while it has, no event is read.
 */
static const char *occupy_handler(struct check_touch *touch, uint64_t index) {
  const char *place = serving_inline() ? "installing" : "drained";
  check_barrier_hold(place);
  check_touch_read(touch, at(index));
  check_barrier_await(place);
  return place;
}

/* R1, R2, R3: what EAGAIN put off */

/* The event is unread when COPY comes: nothing is done (R3), the fault waits (R1), and needs no other message (R2). */
static void R1_R2_R3_an_event_is_unread(void) {
  serve_kind(MEMORY_ANON, PAGES, 4 * 4096);
  struct check_touch touch;
  struct drop drop;
  check_barrier_hold("installing");
  check_touch_read(&touch, at(1));
  check_barrier_await("installing");
  start_drop(&drop, 8, 2);
  check_barrier_hold("deferred");
  check_barrier_release("installing");
  check_barrier_await("deferred");
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.deferred, 1);
  CHECK_EQ(stats.copied + stats.bytes + stats.present + stats.latency_count, 0);
  CHECK(!atomic_load(&touch.done));
  if (!serving_inline()) CHECK(!atomic_load(&drop.thread.done)); /* the handler stands, and has not read */
  check_barrier_release("deferred");
  CHECK_EQ(check_touch_join(&touch), image_byte(page));
  check_thread_join(&drop.thread);
  CHECK_EQ(*at(8), 0);
  CHECK(image_there(at(0), 0, 4 * page));
  while (serving_stats(serving.loop).latency_count < 2) {
    check_pause();
  }
  stats = serving_stats(serving.loop);
  CHECK_EQ(stats.faults, 2);
  CHECK_EQ(stats.events, 1);
  CHECK_EQ(stats.copied, 4);
  CHECK_EQ(stats.zero, 1);
  end();
}

/* A thread that a CPU is kept from: its event has been read, but it has not gone on. */
static void stay_on(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((size_t)cpu, &set);
  CHECK_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
}

static struct { _Atomic bool go, spinning, stop; } hog;

static void drop_on_cpu_1(void *ctx) {
  stay_on(1);
  drop_pages(ctx);
}

static void spin_on_cpu_1(void *ctx) {
  (void)ctx;
  stay_on(1);
  struct sched_param highest = {.sched_priority = 1};
  if (sched_setscheduler(0, SCHED_FIFO, &highest) != 0) SKIP("a thread can be held up by real-time ones only");
  atomic_store(&hog.spinning, true);
  while (!atomic_load(&hog.stop)) {
  }
}

/* Nothing is unread, the kernel says EAGAIN all the same: retried with growing pauses, until the maker has gone on. */
static void R1_R2_the_maker_has_not_gone_on(void) {
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof(all), &all) != 0 || CPU_COUNT(&all) < 2 || !CPU_ISSET(1, &all)) SKIP("one CPU only");
  serve_kind(MEMORY_ANON, PAGES, 0);
  struct check_touch touch;
  struct drop drop = {.first = 8, .count = 2};
  struct check_thread spinner;
  check_barrier_hold("installing");
  check_touch_read(&touch, at(1));
  check_barrier_await("installing");
  check_thread_start(&drop.thread, drop_on_cpu_1, &drop);
  check_asleep(atomic_load(&drop.thread.tid), "userfault");
  check_thread_start(&spinner, spin_on_cpu_1, NULL);
  while (!atomic_load(&hog.spinning)) {
    check_pause();
  }
  stay_on(0);
  uint64_t began = uffd_now();
  check_barrier_release("installing");
  while (serving_stats(serving.loop).events == 0) {
    sched_yield();
  }
  uint64_t seen = serving_stats(serving.loop).deferred;
  /* The kernel lets it by now and then; on a busy machine the handler may take long to try again. */
  while (!atomic_load(&drop.thread.done) &&
         (uffd_now() - began < 40000000 || serving_stats(serving.loop).deferred == seen)) {
    check_pause();
  }
  uint64_t longest = serving_inline() ? 1000000 : UFFD_RETRY_MAX_NS;
  uint64_t deferred = serving_stats(serving.loop).deferred, pauses = (uffd_now() - began) / longest;
  bool held = !atomic_load(&drop.thread.done);
  if (held) CHECK(deferred > seen);
  CHECK(deferred <= 2 + 10 + pauses); /* 20 us doubled up to ten times is the longest pause: never a spin */
  atomic_store(&hog.stop, true);
  check_thread_join(&spinner);
  CHECK_EQ(check_touch_join(&touch), image_byte(page));
  check_thread_join(&drop.thread);
  CHECK_EQ(serving_stats(serving.loop).faults, 1);
  if (!held) SKIP("the scheduler let the maker of the event go on");
  end();
}

/* R8: faults are handed out before the events that precede them */

/* The page was dropped before the thread touched it, but the fault is what the handler reads first, or has to itself.
 */
static void R8_the_event_is_older(void) {
  serve_kind(MEMORY_ANON, PAGES, 0);
  struct check_touch first, touch;
  struct drop drop;
  const char *place = occupy_handler(&first, 9);
  start_drop(&drop, 2, 2);
  check_touch_read(&touch, at(3));
  if (!serving_inline()) check_touch_asleep(&touch);
  check_barrier_release(place);
  CHECK_EQ(check_touch_join(&touch), 0);
  CHECK_EQ(check_touch_join(&first), image_byte(9 * page));
  check_thread_join(&drop.thread);
  CHECK(check_filled(at(2), 2 * page, 0));
  CHECK(image_there(at(4), 4 * page, page));
  end();
}

static void R8_the_fault_is_older(void) {
  serving_needs_handlers("A fault is not read before an event: R9 is what may come of it.");
  serve_kind(MEMORY_ANON, PAGES, 0);
  struct check_touch first, touch;
  struct drop drop;
  occupy_handler(&first, 9);
  check_touch_read(&touch, at(3));
  check_touch_asleep(&touch);
  start_drop(&drop, 2, 2);
  check_barrier_release("drained");
  CHECK_EQ(check_touch_join(&touch), 0);
  check_touch_join(&first);
  check_thread_join(&drop.thread);
  end();
}

/* The event is behind more faults than a read, or the handler's queue, holds. */
static void event_behind(unsigned count) {
  serving_needs_handlers("Events are not behind faults, which are no messages.");
  serve_kind(MEMORY_ANON, count + 1, 0);
  struct check_touch first, *touches = calloc(count, sizeof(*touches));
  struct drop drop;
  CHECK(touches != NULL);
  occupy_handler(&first, count);
  for (unsigned i = 0; i < count; i++) {
    check_touch_read(&touches[i], at(i));
  }
  for (unsigned i = 0; i < count; i++) {
    check_touch_asleep(&touches[i]);
  }
  start_drop(&drop, 0, count);
  check_barrier_release("drained");
  for (unsigned i = 0; i < count; i++) {
    CHECK_EQ(check_touch_join(&touches[i]), 0);
  }
  CHECK_EQ(check_touch_join(&first), image_byte(count * page));
  check_thread_join(&drop.thread);
  CHECK(serving_stats(serving.loop).zero >= count); /* more when zeros were installed before the kernel dropped: R24 */
  CHECK_EQ(serving_stats(serving.loop).copied, 1);
  serving_close(&serving);
  uffd_memory_close(memory);
  free(touches);
}

static void R8_the_event_is_behind_many_faults(void) {
  event_behind(3 * UFFD_READ_MAX + 7);
}

static void R8_the_event_is_behind_a_full_queue(void) {
  event_behind(UFFD_QUEUE_MAX + 200);
}

/* R9: the page is dropped between the answer and its installation */

static void R9_a_stale_answer_is_not_installed(void) {
  for (int kind = MEMORY_ANON; kind <= MEMORY_THP; kind++) {
    serve_kind(kind, PAGES, 8 * 4096);
    struct check_touch touch;
    struct drop drop;
    check_barrier_hold("installing");
    check_touch_read(&touch, at(1));
    check_barrier_await("installing"); /* the answer is the image */
    start_drop(&drop, 1, 3);
    check_barrier_release("installing");
    CHECK_EQ(check_touch_join(&touch), 0);
    check_thread_join(&drop.thread);
    CHECK(check_filled(at(1), 3 * page, 0));
    CHECK(image_there(at(0), 0, page));
    CHECK(image_there(at(4), 4 * page, page));
    end();
  }
}

/* R10: dropping pages does not wait for what a handler waits for */

static _Atomic bool dropped;

static int answer_when_dropped(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault;
  if (!atomic_load(&dropped)) answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

static void R10_dropping_goes_on_while_answers_wait(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct asked asked = {.answer = answer_when_dropped};
  opts.features = UFFD_FEAT_EVENT_REMOVE;
  page = check_page();
  for (int engine = 0; engine < ENGINES; engine++) {
    atomic_store(&dropped, false);
    serving_open(&serving, engine, &opts);
    memory = memory_make(MEMORY_ANON, PAGES);
    region_add(serving.loop, memory, asked_resolver(&asked), NULL);
    serving_start(&serving);
    struct check_touch touch;
    check_touch_read(&touch, at(0));
    while (serving_stats(serving.loop).deferred == 0) {
      check_pause();
    }
    CHECK_EQ(madvise(at(4), 8 * page, MADV_DONTNEED), 0);
    atomic_store(&dropped, true);
    CHECK_EQ(check_touch_join(&touch), 0);
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

static void prefetch_all(void *ctx) {
  (void)ctx;
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
}

static void R10_dropping_goes_on_while_a_prefetch_waits(void) {
  struct asked asked = {.answer = answer_when_dropped};
  serve_kind(MEMORY_ANON, PAGES, 0);
  uffd_memory *other = memory_make(MEMORY_ANON, PAGES), *image = memory;
  region = region_add(serving.loop, other, asked_resolver(&asked), NULL);
  struct check_thread prefetching;
  check_thread_start(&prefetching, prefetch_all, NULL);
  while (atomic_load(&asked.hits) == 0) {
    check_pause();
  }
  CHECK_EQ(madvise(at(4), 8 * page, MADV_DONTNEED), 0);
  CHECK_EQ(madvise(memory_at(other, 0), page, MADV_DONTNEED), 0);
  CHECK(image_there(at(0), 0, page)); /* and faults do */
  atomic_store(&dropped, true);
  check_thread_join(&prefetching);
  CHECK_EQ(serving_stats(serving.loop).prefetched, PAGES - 1);
  memory = image;
  end();
  uffd_memory_close(other);
}

/* R24: what was dropped stays dropped */

/*
 * The event is told before the kernel drops the pages: zeros that go in between are dropped too, without another event.
 * Punching a hole in the file is such a silent drop.
 */
static void R24_a_dropped_page_is_zeros_again_and_again(void) {
  serve_kind(MEMORY_MEMFD, PAGES, 4 * 4096);
  int fd = CHECK_OK(uffd_memory_fd(memory));
  CHECK(image_there(at(5), 5 * page, page));
  CHECK_EQ(madvise(at(5), page, MADV_REMOVE), 0);
  for (unsigned round = 0; round < 3; round++) {
    CHECK(check_filled(at(5), page, 0));
    CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(5 * page), (off_t)page), 0);
  }
  CHECK(check_filled(at(5), page, 0));
  CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(6 * page), (off_t)page), 0);
  CHECK(image_there(at(6), 6 * page, page)); /* nobody told of that one */
  CHECK_EQ(serving_stats(serving.loop).zero, 4);
  end();
}

/* Answers that are larger than what was asked for, as callbacks give them, leave dropped and poisoned pages alone. */
static int answer_all(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  if (fault->offset == 12 * fault->page_size) {
    answer->kind = UFFD_ANSWER_POISON;
    return 0;
  }
  answer->kind = UFFD_ANSWER_BYTES;
  answer->offset = 0;
  answer->length = PAGES * fault->page_size;
  answer->data = asked->ctx;
  return 0;
}

static void large_answers_leave_dropped_and_poisoned_pages(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.features = UFFD_FEAT_EVENT_REMOVE;
  page = check_page();
  for (int wp = 0; wp < 2; wp++) {
    struct asked asked = {.answer = answer_all, .ctx = image_make(PAGES * page)};
    struct uffd_region_opts region_opts = UFFD_REGION_OPTS_INIT;
    if (wp) region_opts.modes = UFFD_MODE_MISSING | UFFD_MODE_WP;
    check_needs(UFFD_FEAT_POISON | UFFD_FEAT_PAGEFAULT_FLAG_WP);
    serving_open(&serving, ENGINE_ONE, &opts);
    memory = memory_make(MEMORY_ANON, PAGES);
    region = region_add(serving.loop, memory, asked_resolver(&asked), &region_opts);
    CHECK_EQ(check_access(at(12), false, NULL), SIGBUS);
    CHECK_EQ(madvise(at(3), page, MADV_DONTNEED), 0);
    CHECK_EQ(*at(7), image_byte(7 * page));
    CHECK_EQ(serving_stats(serving.loop).copied, 8); /* 4 to 11 */
    CHECK_EQ(*at(0), image_byte(0));
    CHECK_EQ(serving_stats(serving.loop).copied, 11);
    CHECK_OK(uffd_region_prefetch(region, 0, 0));
    CHECK(check_filled(at(3), page, 0));
    CHECK_EQ(check_access(at(12), false, NULL), SIGBUS);
    CHECK(image_there(at(0), 0, 3 * page));
    CHECK(image_there(at(4), 4 * page, 8 * page));
    CHECK(image_there(at(13), 13 * page, 3 * page));
    CHECK_EQ(serving_stats(serving.loop).copied, 14);
    end();
    munmap(asked.ctx, PAGES * page);
  }
}

static const struct check_test tests[] = {
    TEST(R1_R2_R3_an_event_is_unread),
    TEST(R1_R2_the_maker_has_not_gone_on),
    TEST(R8_the_event_is_older),
    TEST(R8_the_fault_is_older),
    TEST(R8_the_event_is_behind_many_faults),
    TEST(R8_the_event_is_behind_a_full_queue),
    TEST(R9_a_stale_answer_is_not_installed),
    TEST(R10_dropping_goes_on_while_answers_wait),
    TEST(R10_dropping_goes_on_while_a_prefetch_waits),
    TEST(R24_a_dropped_page_is_zeros_again_and_again),
    TEST(large_answers_leave_dropped_and_poisoned_pages),
};
CHECK_MAIN(tests)
