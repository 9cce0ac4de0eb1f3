/*
 * LATER with a bell: whoever has what a resolver had not rings, and the pages that wait are asked for at once.
 */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "check.h"
#include "serving.h"

#define PAGES    64u
#define KEYS     80u
#define SPEC_MAX 256u

static unsigned char *contents;

/* A source that fetches: what is asked for before it is there is answered LATER. */
struct slow {
  _Atomic unsigned asked[PAGES]; /* calls of resolve, by page */
  _Atomic bool there[PAGES];
  const void *_Atomic keys[KEYS];
  _Atomic uint32_t wants;
  struct uffd_range wanted[SPEC_MAX];
};

static int slow_setup(void *ctx, const struct uffd_handler *handler, void **state) {
  struct slow *slow = ctx;
  CHECK(handler->index < KEYS);
  atomic_store(&slow->keys[handler->index], handler->key);
  *state = (void *)handler->key;
  return 0;
}

static int slow_resolve(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  struct slow *slow = ctx;
  uint64_t page = fault->offset / fault->page_size % PAGES;
  CHECK(state != NULL);
  if (!atomic_load(&slow->there[page])) {
    atomic_fetch_add(&slow->asked[page], 1);
    answer->kind = UFFD_ANSWER_LATER;
    return 0;
  }
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = contents + page * check_page();
  return 0;
}

static void slow_want(void *ctx, void *state, uint64_t offset, uint64_t length) {
  struct slow *slow = ctx;
  uint32_t place = atomic_load(&slow->wants);
  CHECK(state != NULL && place < SPEC_MAX);
  slow->wanted[place] = (struct uffd_range){offset, length};
  atomic_store(&slow->wants, place + 1);
}

static uffd_resolver *slow_resolver(struct slow *slow) {
  const struct uffd_callback_ops ops = {
      .size = sizeof(ops), .setup = slow_setup, .resolve = slow_resolve, .want = slow_want};
  uffd_resolver *resolver;
  if (contents == NULL) contents = image_make(PAGES * check_page());
  CHECK_OK(uffd_resolver_callback(&ops, slow, "slow", NULL, 0, &resolver));
  return resolver;
}

static void ring_all(const struct slow *slow) {
  for (uint32_t i = 0; i < KEYS; i++) {
    uffd_handler_ready(atomic_load(&slow->keys[i]));
  }
}

static struct serving serving;
static struct slow slow;
static uffd_memory *memory;
static uffd_region *region;

static void serve(int engine) {
  memset(&slow, 0, sizeof(slow));
  serving_open(&serving, engine, NULL);
  memory = memory_make(MEMORY_ANON, PAGES);
  region = region_add(serving.loop, memory, slow_resolver(&slow), NULL);
}

static void end(void) {
  serving_close(&serving);
  uffd_memory_close(memory);
}

static unsigned char *at(uint64_t page) {
  return memory_at(memory, page * check_page());
}

static void await_asked(unsigned page, unsigned times) {
  while (atomic_load(&slow.asked[page]) < times) {
    check_pause();
  }
}

static void rung_for_by_key(unsigned page) {
  atomic_store(&slow.there[page], true);
  ring_all(&slow);
}

static void rung_for_by_region(unsigned page) {
  atomic_store(&slow.there[page], true);
  CHECK_OK(uffd_region_ready(region, page * check_page(), check_page()));
}

static void pages_that_wait_are_answered(void) {
  void (*const bells[])(unsigned page) = {rung_for_by_key, rung_for_by_region};
  for (int engine = 0; engine < ENGINES; engine++) {
    for (unsigned way = 0; way < 2; way++) {
      struct check_touch touches[8];
      serve(engine);
      serving_start(&serving);
      for (unsigned i = 0; i < 8; i++) {
        check_touch_read(&touches[i], at(i * 3));
        await_asked(i * 3, 1);
      }
      for (unsigned i = 8; i-- > 0;) {
        bells[way](i * 3);
        CHECK_EQ(check_touch_join(&touches[i]), image_byte(i * 3 * check_page()));
      }
      CHECK_EQ(serving_stats(serving.loop).errors, 0);
      end();
    }
  }
}

static bool polls_readable(void) {
  struct pollfd poll_fd = {.fd = uffd_loop_fd(serving.loop), .events = POLLIN};
  return poll(&poll_fd, 1, 0) == 1;
}

/* A pump tells of the bell by its descriptor, and has answered when the step after it returns. */
static void a_pump_hears_the_bell(void) {
  serve(ENGINE_PUMP);
  struct check_touch touch;
  check_touch_read(&touch, at(5));
  while (atomic_load(&slow.asked[5]) < 3) {
    uffd_loop_step(serving.loop, 10);
  }
  CHECK(!polls_readable());
  uffd_handler_ready(atomic_load(&slow.keys[0]));
  CHECK(polls_readable());
  CHECK_EQ(uffd_loop_timeout(serving.loop), 0);
  CHECK_EQ(CHECK_OK(uffd_loop_step(serving.loop, 0)), 0); /* nothing is there yet */
  CHECK(!polls_readable());
  rung_for_by_key(5);
  CHECK_EQ(CHECK_OK(uffd_loop_step(serving.loop, 0)), 1);
  CHECK_EQ(check_touch_join(&touch), image_byte(5 * check_page()));
  end();
}

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Those for whom nobody rang are asked for when their time has come, each 10 ms at last, however often it rings. */
static void the_bell_of_a_range_asks_for_no_others(void) {
  serve(ENGINE_PUMP);
  struct check_touch near, far;
  check_touch_read(&near, at(0));
  check_touch_read(&far, at(PAGES - 1)); /* in another 64 KiB */
  while (atomic_load(&slow.asked[0]) == 0 || atomic_load(&slow.asked[PAGES - 1]) == 0) {
    uffd_loop_step(serving.loop, 10);
  }
  uint64_t began = now_ms();
  unsigned before = atomic_load(&slow.asked[0]);
  for (unsigned i = 0; i < 2000; i++) {
    CHECK_OK(uffd_region_ready(region, 0, 1));
    CHECK_OK(uffd_loop_step(serving.loop, 0));
  }
  CHECK(atomic_load(&slow.asked[0]) - before >= 2000);
  CHECK(atomic_load(&slow.asked[PAGES - 1]) <= 16 + (now_ms() - began) / 10);
  rung_for_by_region(0);
  rung_for_by_region(PAGES - 1);
  while (CHECK_OK(uffd_loop_step(serving.loop, 0)) != 0) {
  }
  CHECK_EQ(check_touch_join(&near), image_byte(0));
  CHECK_EQ(check_touch_join(&far), image_byte((PAGES - 1) * check_page()));
  end();
}

/* A resolver that nobody rings for is asked again in time, though others are put off meanwhile. */
static void newcomers_do_not_hold_up_who_waits(void) {
  serve(ENGINE_PUMP);
  struct check_touch touches[PAGES];
  check_touch_read(&touches[0], at(0));
  while (atomic_load(&slow.asked[0]) < 11) { /* 20 us, 40 us, ... 10 ms */
    uffd_loop_step(serving.loop, 10);
  }
  for (unsigned i = 1; i < PAGES; i++) {
    uint64_t until = now_ms() + 3;
    check_touch_read(&touches[i], at(i));
    while (now_ms() < until || atomic_load(&slow.asked[i]) == 0) {
      uffd_loop_step(serving.loop, 1);
    }
  }
  CHECK(atomic_load(&slow.asked[0]) >= 11 + PAGES * 3 / 10 / 2);
  for (unsigned i = 0; i < PAGES; i++) {
    atomic_store(&slow.there[i], true);
  }
  CHECK_OK(uffd_region_ready(region, 0, 0));
  CHECK_EQ(CHECK_OK(uffd_loop_step(serving.loop, 0)), PAGES);
  for (unsigned i = 0; i < PAGES; i++) {
    CHECK_EQ(check_touch_join(&touches[i]), image_byte(i * check_page()));
  }
  end();
}

/* Whoever reads, or wants memory to be there, waits for a slow source as for any other. */
static void read_through(void *ctx) {
  unsigned char byte = 0;
  CHECK_OK(uffd_memory_read(memory, 9 * check_page(), &byte, 1));
  CHECK_EQ(byte, image_byte(9 * check_page()));
  CHECK_OK(uffd_memory_prefault(memory, 20 * check_page(), check_page(), 0));
  CHECK_EQ(*at(20), image_byte(20 * check_page()));
  atomic_store((_Atomic bool *)ctx, true);
}

static void reads_and_prefaults_wait_for_a_slow_source(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    _Atomic bool done = false;
    struct check_thread reader;
    serve(engine);
    serving_start(&serving);
    check_thread_start(&reader, read_through, (void *)&done);
    await_asked(9, 20);
    CHECK(!atomic_load(&done));
    rung_for_by_key(9);
    await_asked(20, 20);
    CHECK(!atomic_load(&done));
    rung_for_by_region(20);
    check_thread_join(&reader);
    CHECK(atomic_load(&done));
    end();
  }
}

static void fill(void *ctx) {
  (void)ctx;
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
}

static void a_prefetch_waits_for_a_slow_source(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct check_thread filler;
    serve(engine);
    if (engine != ENGINE_PUMP) serving_start(&serving); /* a pump is driven by who waits for the prefetch */
    check_thread_start(&filler, fill, NULL);
    for (unsigned i = 0; i < PAGES; i++) {
      await_asked(i, 1);
      rung_for_by_region(i);
    }
    check_thread_join(&filler);
    CHECK(image_there(at(0), 0, PAGES * check_page()));
    CHECK_EQ(atomic_load(&slow.wants), 1);
    CHECK_EQ(slow.wanted[0].offset, 0);
    CHECK_EQ(slow.wanted[0].length, PAGES * check_page());
    end();
  }
}

/* What is wanted is told once, in its order, through whatever lies above the one who has a use for it. */
static void wants_are_told_in_the_coordinates_of_each(void) {
  const uint64_t page = check_page();
  struct slow other = {.wants = 0};
  uffd_resolver *inner = slow_resolver(&slow), *second = slow_resolver(&other), *faulty, *layers, *above;
  memset(&slow, 0, sizeof(slow));
  for (unsigned i = 0; i < PAGES; i++) {
    slow.there[i] = other.there[i] = true;
  }
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  CHECK_OK(uffd_resolver_faulty(inner, &opts, &faulty));
  const struct uffd_layer parts[] = {
      {.offset = 4 * page, .length = 8 * page, .resolver = faulty, .resolver_offset = 16 * page},
      {.offset = 20 * page, .length = 6 * page, .resolver = second, .resolver_offset = 0},
  };
  CHECK_OK(uffd_resolver_layers(parts, 2, &layers));
  CHECK_OK(uffd_resolver_continue(layers, &above));
  serving_open(&serving, ENGINE_ONE, NULL);
  memory = memory_make(MEMORY_MEMFD, 32);
  struct uffd_region_opts region_opts = UFFD_REGION_OPTS_INIT;
  region_opts.modes = UFFD_MODE_MISSING | UFFD_MODE_MINOR;
  region = region_add(serving.loop, memory, above, &region_opts);
  const struct uffd_range ranges[] = {{2 * page, 4 * page}, {10 * page, 14 * page}};
  uffd_prefetch *prefetch;
  CHECK_OK(uffd_region_prefetch_start(region, ranges, 2, NULL, &prefetch));
  CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
  uffd_prefetch_close(prefetch);
  CHECK_EQ(atomic_load(&slow.wants), 2);
  CHECK(slow.wanted[0].offset == 16 * page && slow.wanted[0].length == 2 * page);
  CHECK(slow.wanted[1].offset == 22 * page && slow.wanted[1].length == 2 * page);
  CHECK_EQ(atomic_load(&other.wants), 1);
  CHECK(other.wanted[0].offset == 0 && other.wanted[0].length == 4 * page);
  end();
  uffd_resolver_close(inner);
  uffd_resolver_close(second);
  uffd_resolver_close(faulty);
  uffd_resolver_close(layers);
}

/* So far ahead, and no farther: a source has many requests on their way, and not the whole image. */
static void wants_keep_ahead_of_a_large_prefetch(void) {
  const uint64_t length = UINT64_C(96) << 20, ahead = UINT64_C(34) << 20;
  serving_open(&serving, ENGINE_PUMP, NULL);
  memset(&slow, 0, sizeof(slow));
  for (unsigned i = 0; i < PAGES; i++) {
    slow.there[i] = true;
  }
  memory = memory_make(MEMORY_ANON, length / check_page());
  region = region_add(serving.loop, memory, slow_resolver(&slow), NULL);
  uffd_prefetch *prefetch;
  CHECK_OK(uffd_region_prefetch_start(region, NULL, 0, NULL, &prefetch));
  struct uffd_prefetch_status status = UFFD_PREFETCH_STATUS_INIT;
  uint64_t told = 0;
  for (uint32_t seen = 0; !status.done;) {
    CHECK_OK(uffd_loop_step(serving.loop, 0));
    CHECK_OK(uffd_prefetch_status(prefetch, &status));
    for (; seen < atomic_load(&slow.wants); seen++) {
      CHECK_EQ(slow.wanted[seen].offset, told);
      told += slow.wanted[seen].length;
    }
    CHECK(told >= status.bytes_done && told <= status.bytes_done + ahead);
  }
  CHECK_EQ(told, length);
  uffd_prefetch_close(prefetch);
  end();
}

/* A key that has had its day, and no key at all, ring nobody. */
static void a_bell_too_many_is_harmless(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    serve(engine);
    for (unsigned i = 0; i < 100; i++) {
      ring_all(&slow);
    }
    CHECK_OK(uffd_region_ready(region, 0, 0));
    end();
    ring_all(&slow);
  }
  uffd_handler_ready(NULL);
  uffd_handler_ready(&slow);
  uffd_handler_ready((const char *)atomic_load(&slow.keys[0]) + 1);
}

static void readiness_is_refused_outside_of_the_region(void) {
  serve(ENGINE_ONE);
  uint64_t length = PAGES * check_page();
  CHECK_ERR(uffd_region_ready(region, length + 1, 0), -ERANGE);
  CHECK_ERR(uffd_region_ready(region, 0, length + 1), -ERANGE);
  CHECK_ERR(uffd_region_ready(region, UINT64_MAX, 2), -ERANGE);
  CHECK_OK(uffd_region_ready(region, length, 0));
  CHECK_OK(uffd_region_remove(region));
  CHECK_OK(uffd_region_ready(region, 0, 0));
  end();
}

static void ring_on_signal(int number) {
  (void)number;
  ring_all(&slow);
}

static void ring_on(void *ctx) {
  while (!atomic_load((_Atomic bool *)ctx)) {
    ring_all(&slow);
    raise(SIGUSR1);
  }
}

/* Threads ring, in signal handlers too, while handlers come and go. */
static void who_rings_does_not_hold_up_who_closes(void) {
  _Atomic bool stop = false;
  struct check_thread ringers[2];
  signal(SIGUSR1, ring_on_signal);
  for (unsigned i = 0; i < 2; i++) {
    check_thread_start(&ringers[i], ring_on, (void *)&stop);
  }
  for (int i = 0; i < 40; i++) {
    serve(i % ENGINES);
    serving_start(&serving);
    struct check_touch touch;
    check_touch_read(&touch, at(1));
    await_asked(1, 1);
    atomic_store(&slow.there[1], true);
    CHECK_EQ(check_touch_join(&touch), image_byte(check_page()));
    end();
    check_progress();
  }
  atomic_store(&stop, true);
  for (unsigned i = 0; i < 2; i++) {
    check_thread_join(&ringers[i]);
  }
}

/* A forked child has keys of its parent's handlers: it rings nobody, and its own loops have bells of their own. */
static void a_forked_child_rings_nobody(void) {
  if (check_under_tsan()) SKIP("no threads after fork under ThreadSanitizer");
  serve(ENGINE_PUMP);
  struct check_touch touch;
  check_touch_read(&touch, at(5));
  while (atomic_load(&slow.asked[5]) < 1) {
    uffd_loop_step(serving.loop, 10);
  }
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    ring_all(&slow);
    CHECK_ERR(uffd_region_ready(region, 0, 0), -EOWNERDEAD);
    uffd_loop_close(serving.loop);
    ring_all(&slow);
    pages_that_wait_are_answered();
    _exit(0);
  }
  check_child(child);
  CHECK(!polls_readable());
  rung_for_by_key(5);
  CHECK_EQ(CHECK_OK(uffd_loop_step(serving.loop, 0)), 1);
  CHECK_EQ(check_touch_join(&touch), image_byte(5 * check_page()));
  end();
}

/* Inline, a thread that was told LATER sleeps; the loop is closed when it has been answered. */
static void inline_the_thread_sleeps(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  check_inline(&opts);
  memset(&slow, 0, sizeof(slow));
  CHECK_OK(uffd_loop_create(&opts, &serving.loop));
  memory = memory_make(MEMORY_ANON, PAGES);
  region = region_add(serving.loop, memory, slow_resolver(&slow), NULL);
  struct check_touch touch;
  check_touch_read(&touch, at(7));
  await_asked(7, 8);
  check_asleep(atomic_load(&touch.tid), "futex");
  rung_for_by_region(7);
  CHECK_EQ(check_touch_join(&touch), image_byte(7 * check_page()));
  CHECK_OK(uffd_loop_close(serving.loop));
  uffd_memory_close(memory);
}

static const struct check_test tests[] = {
    TEST(pages_that_wait_are_answered),
    TEST(a_pump_hears_the_bell),
    TEST(the_bell_of_a_range_asks_for_no_others),
    TEST(newcomers_do_not_hold_up_who_waits),
    TEST(reads_and_prefaults_wait_for_a_slow_source),
    TEST(a_prefetch_waits_for_a_slow_source),
    TEST(wants_are_told_in_the_coordinates_of_each),
    TEST(wants_keep_ahead_of_a_large_prefetch),
    TEST(a_bell_too_many_is_harmless),
    TEST(readiness_is_refused_outside_of_the_region),
    TEST(who_rings_does_not_hold_up_who_closes),
    TEST(a_forked_child_rings_nobody),
    TEST(inline_the_thread_sleeps),
};

CHECK_MAIN(tests)
