/* What the loop counts: counters, the latency histogram, the trace. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>

#include "loop/loop.h"
#include "serving.h"

/* The histogram: a loop without faults, whose handlers' histograms are filled by the test */

static void add_series(uffd_loop *loop, const uint64_t *values, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    uffd_histogram_add(&loop->engine.lanes[i % loop->engine.lanes_count]->latency, values[i]);
  }
}

/* Known to 1/16, never below the true value. */
static void check_near(uint64_t got, uint64_t truth) {
  CHECK(got >= truth);
  CHECK(got <= truth + truth / 16 + 1);
}

static void percentiles_of_a_known_series(void) {
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    for (uint64_t unit = 1; unit <= 1000000000; unit *= 10) {
      struct serving serving;
      serving_open(&serving, engine, NULL);
      uint64_t values[1000];
      for (unsigned i = 0; i < 1000; i++) { /* 1 to 1000, shuffled */
        values[i] = (i * 619 % 1000 + 1) * unit;
      }
      add_series(serving.loop, values, 1000);
      struct uffd_stats stats = serving_stats(serving.loop);
      CHECK_EQ(stats.latency_count, 1000);
      CHECK_EQ(stats.latency_max, 1000 * unit);
      check_near(stats.latency_p50, 501 * unit);
      check_near(stats.latency_p99, 991 * unit);
      serving_close(&serving);
    }
  }
}

static void percentiles_of_few_values(void) {
  static const uint64_t singles[] = {0, 1, 15, 16, 17, 31, 32, 1000, UINT64_C(1) << 40, UINT64_MAX};
  struct serving serving;
  for (unsigned i = 0; i < sizeof(singles) / sizeof(singles[0]); i++) {
    serving_open(&serving, ENGINE_TWO, NULL);
    add_series(serving.loop, &singles[i], 1);
    struct uffd_stats stats = serving_stats(serving.loop);
    CHECK_EQ(stats.latency_count, 1);
    CHECK_EQ(stats.latency_max, singles[i]);
    CHECK(stats.latency_p50 == stats.latency_p99);
    CHECK(stats.latency_p50 <= singles[i]);
    if (singles[i] < UINT64_C(1) << 42) CHECK_EQ(stats.latency_p50, singles[i]); /* beyond: hours, all in one bucket */
    serving_close(&serving);
  }
  static const uint64_t outlier[] = {5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 7000};
  serving_open(&serving, ENGINE_ONE, NULL);
  add_series(serving.loop, outlier, 20);
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.latency_p50, 5);
  CHECK_EQ(stats.latency_p99, 7000);
  serving_close(&serving);
}

/* The buckets that hold values: in the order of their bounds, each value at most 1/16 under its own. */
static void buckets_hold_what_was_added(void) {
  struct serving serving;
  serving_open(&serving, ENGINE_FIVE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 1);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(check_page()), NULL);
  struct uffd_bucket buckets[UFFD_HISTOGRAM_BUCKETS], of_region[UFFD_HISTOGRAM_BUCKETS];
  CHECK_EQ(uffd_loop_histogram(serving.loop, buckets, UFFD_HISTOGRAM_BUCKETS), 0);
  CHECK_EQ(uffd_histogram_percentile(buckets, 0, 50), 0);
  static const uint64_t values[] = {0, 0, 7, 15, 16, 17, 1000, 1003, 52000, 1000000000, UINT64_C(1) << 50, UINT64_MAX};
  enum { COUNT = sizeof(values) / sizeof(values[0]) };
  add_series(serving.loop, values, COUNT);
  for (unsigned i = 0; i < COUNT; i++) {
    uffd_histogram_add_shared(region->latency, values[i]);
  }
  int there = uffd_loop_histogram(serving.loop, buckets, UFFD_HISTOGRAM_BUCKETS);
  CHECK_EQ(there, 9); /* 0 twice; 1000 and 1003; the last two, in the bucket without a bound */
  CHECK_EQ(uffd_region_histogram(region, of_region, UFFD_HISTOGRAM_BUCKETS), there);
  CHECK(memcmp(buckets, of_region, (size_t)there * sizeof(buckets[0])) == 0);
  unsigned at = 0;
  for (int i = 0; i < there; i++) {
    uint64_t bound = buckets[i].up_to_ns;
    CHECK(i == 0 || bound > buckets[i - 1].up_to_ns);
    for (uint64_t n = 0; n < buckets[i].count; n++, at++) {
      CHECK(values[at] <= bound || bound == INT64_MAX);
      if (bound != INT64_MAX) check_near(bound, values[at]);
    }
  }
  CHECK_EQ(at, COUNT);
  CHECK_EQ(buckets[there - 1].up_to_ns, INT64_MAX);
  CHECK_EQ(uffd_histogram_percentile(buckets, (size_t)there, 0), 0);
  CHECK_EQ(uffd_histogram_percentile(buckets, (size_t)there, 25), 15);
  check_near(uffd_histogram_percentile(buckets, (size_t)there, 50), 1000);
  CHECK_EQ(uffd_histogram_percentile(buckets, (size_t)there, 100), INT64_MAX);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void histograms_of_little_room(void) {
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 1);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(check_page()), NULL);
  static const uint64_t values[] = {3, 5, 9};
  add_series(serving.loop, values, 3);
  struct uffd_bucket buckets[3] = {{77, 77}, {77, 77}, {77, 77}};
  CHECK_EQ(uffd_loop_histogram(serving.loop, NULL, 0), 3);
  CHECK_EQ(uffd_loop_histogram(serving.loop, buckets, 2), 3);
  CHECK_EQ(buckets[1].up_to_ns, 5);
  CHECK_EQ(buckets[2].up_to_ns, 77);
  CHECK_ERR(uffd_loop_histogram(serving.loop, NULL, 1), -EINVAL);
  CHECK_SAYS("buckets is NULL");
  CHECK_ERR(uffd_region_histogram(region, NULL, 1), -EINVAL);
  CHECK_EQ(uffd_region_histogram(region, NULL, 0), 0);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static uint64_t faults_in(int there, const struct uffd_bucket *buckets) {
  uint64_t sum = 0;
  for (int i = 0; i < there; i++) {
    sum += buckets[i].count;
  }
  return sum;
}

static uint64_t faults_of(const uffd_region *region) {
  struct uffd_bucket buckets[UFFD_HISTOGRAM_BUCKETS];
  return faults_in(CHECK_OK(uffd_region_histogram(region, buckets, UFFD_HISTOGRAM_BUCKETS)), buckets);
}

static void each_region_has_a_histogram_of_its_own(void) {
  uint64_t page = check_page();
  for (int engine = 0; engine < ENGINES; engine++) {
    struct serving serving;
    serving_open(&serving, engine, NULL);
    uffd_memory *few = memory_make(MEMORY_ANON, 5 * 512), *many = memory_make(MEMORY_ANON, 5 * 512);
    uffd_region *few_region = region_add(serving.loop, few, image_resolver(5 * 512 * page), NULL);
    uffd_region *many_region = region_add(serving.loop, many, image_resolver(5 * 512 * page), NULL);
    serving_start(&serving);
    for (uint64_t i = 0; i < 60; i++) {
      CHECK_EQ(*memory_at(many, i * 42 * page), image_byte(i * 42 * page)); /* of each of five slices */
      if (i % 10 == 0) CHECK_EQ(*memory_at(few, i * page), image_byte(i * page));
    }
    (void)serving_settled(serving.loop);
    serving_pause(&serving);
    CHECK_EQ(faults_of(few_region), 6);
    CHECK_EQ(faults_of(many_region), 60);
    struct uffd_bucket buckets[UFFD_HISTOGRAM_BUCKETS];
    int there = CHECK_OK(uffd_loop_histogram(serving.loop, buckets, UFFD_HISTOGRAM_BUCKETS));
    CHECK_EQ(faults_in(there, buckets), 66);
    struct uffd_stats stats = serving_stats(serving.loop);
    CHECK_EQ(stats.latency_p99, uffd_histogram_percentile(buckets, (size_t)there, 99) < stats.latency_max
                                    ? uffd_histogram_percentile(buckets, (size_t)there, 99)
                                    : stats.latency_max);
    CHECK_OK(uffd_region_remove(many_region));
    CHECK_EQ(faults_of(many_region), 60);
    serving_close(&serving);
    uffd_memory_close(few);
    uffd_memory_close(many);
  }
}

/* Counters */

static void every_counter_counts_its_own(void) {
  struct serving serving;
  uint64_t page = check_page();
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.features = UFFD_FEAT_EVENT_REMOVE;
  serving_open(&serving, ENGINE_ONE, &opts);
  check_needs(UFFD_FEAT_MINOR_SHMEM | UFFD_FEAT_PAGEFAULT_FLAG_WP);
  const bool poisons = check_has(UFFD_FEAT_POISON), moves = check_has(UFFD_FEAT_MOVE); /* 6.6; 6.8, else it copies */
  uffd_memory *zero = memory_make(MEMORY_ANON, 2), *copied = memory_make(MEMORY_ANON, 4),
              *continued = memory_make(MEMORY_MEMFD, 2), *moved = memory_make(MEMORY_ANON, 2),
              *poisoned = memory_make(MEMORY_ANON, 2), *protected = memory_make(MEMORY_ANON, 2),
              *source = memory_make(MEMORY_ANON, 2);
  uffd_resolver *resolver;
  CHECK_OK(uffd_resolver_zero(&resolver));
  region_add(serving.loop, zero, resolver, NULL);
  uffd_region *copying = region_add(serving.loop, copied, image_resolver(4 * page), NULL);
  memset(uffd_memory_alias(continued), 'c', 2 * page);
  CHECK_OK(uffd_resolver_continue(NULL, &resolver));
  region_add(serving.loop, continued, resolver, NULL);
  memset(memory_at(source, 0), 'm', 2 * page);
  CHECK_OK(uffd_resolver_move(source, 0, &resolver));
  region_add(serving.loop, moved, resolver, NULL);
  if (poisons) {
    CHECK_OK(uffd_resolver_poison(&resolver));
    region_add(serving.loop, poisoned, resolver, NULL);
  }
  struct uffd_region_opts wp = UFFD_REGION_OPTS_INIT;
  wp.modes = UFFD_MODE_MISSING | UFFD_MODE_WP;
  region_add(serving.loop, protected, image_resolver(2 * page), &wp);

  CHECK_EQ(*memory_at(zero, page), 0);
  *memory_at(copied, 0) = 1;
  CHECK_OK(uffd_region_prefetch(copying, page, 2 * page));
  CHECK_EQ(*memory_at(continued, page), 'c');
  CHECK_EQ(*memory_at(moved, page), 'm');
  if (poisons) CHECK_EQ(check_access(memory_at(poisoned, page), false, NULL), SIGBUS);
  CHECK_EQ(*memory_at(protected, 0), image_byte(0));
  *memory_at(protected, 0) = 2;
  CHECK_EQ(madvise(memory_at(copied, page), page, MADV_DONTNEED), 0);
  CHECK_EQ(*memory_at(copied, page), 0);

  struct uffd_stats stats = serving_settled(serving.loop);
  CHECK_EQ(stats.missing, 5 + poisons);
  CHECK_EQ(stats.minor, 1);
  CHECK_EQ(stats.wp, 1);
  CHECK_EQ(stats.faults, 7 + poisons);
  CHECK_EQ(stats.writes, 2);
  CHECK_EQ(stats.events, 1);
  CHECK_EQ(stats.zero, 2);
  CHECK_EQ(stats.copied, 4 + !moves);
  CHECK_EQ(stats.continued, 1);
  CHECK_EQ(stats.moved, moves);
  CHECK_EQ(stats.poisoned, poisons);
  CHECK_EQ(stats.unprotected, 1);
  CHECK_EQ(stats.bytes, 8 * page);
  CHECK_EQ(stats.prefetched, 2);
  CHECK_EQ(stats.present + stats.gone + stats.errors + stats.policy_calls, 0);
  CHECK_EQ(stats.queue, 0);
  CHECK_EQ(stats.queue_max, serving_inline() ? 0 : 1);
  CHECK_EQ(stats.latency_count, 7 + poisons);
  CHECK(stats.latency_p50 <= stats.latency_p99 && stats.latency_p99 <= stats.latency_max);
  CHECK(stats.latency_max > 0);
  serving_close(&serving);
  uffd_memory *memories[] = {zero, copied, continued, moved, poisoned, protected, source};
  for (unsigned i = 0; i < 7; i++) {
    uffd_memory_close(memories[i]);
  }
}

/* The queue as others see it while the handler stands between draining and answering. */
static void the_queue_is_told(void) {
  serving_needs_handlers("There is no queue.");
  struct serving serving;
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  region_add(serving.loop, memory, image_resolver(8 * page), NULL);
  struct check_touch touches[4];
  check_barrier_hold("drained");
  check_touch_read(&touches[0], memory_at(memory, 0));
  check_barrier_await("drained");
  for (unsigned i = 1; i < 4; i++) {
    check_touch_read(&touches[i], memory_at(memory, i * page));
    check_touch_asleep(&touches[i]);
  }
  check_barrier_hold("asking");
  check_barrier_release("drained");
  check_barrier_await("asking");
  CHECK_EQ(serving_stats(serving.loop).queue, 1);
  check_barrier_release("asking");
  for (unsigned i = 0; i < 4; i++) {
    CHECK_EQ(check_touch_join(&touches[i]), image_byte(i * page));
  }
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.queue_max, 3); /* the three who came meanwhile were read at once */
  CHECK_EQ(stats.faults, 4);
  while (serving_stats(serving.loop).queue != 0) {
    check_pause(); /* set a little after the wake-up */
  }
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void stats_of_every_size(void) {
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 1);
  region_add(serving.loop, memory, image_resolver(check_page()), NULL);
  CHECK_EQ(*memory_at(memory, 0), image_byte(0));
  struct {
    struct uffd_stats stats;
    uint64_t beyond;
  } room = {.beyond = 77};
  room.stats.size = 2 * sizeof(uint64_t); /* an older program's: only faults */
  room.stats.missing = 99;
  CHECK_OK(uffd_loop_stats(serving.loop, &room.stats));
  CHECK_EQ(room.stats.faults, 1);
  CHECK_EQ(room.stats.missing, 99);
  room.stats.size = sizeof(room); /* a newer program's: what we do not know is left alone */
  CHECK_OK(uffd_loop_stats(serving.loop, &room.stats));
  CHECK_EQ(room.stats.missing, 1);
  CHECK_EQ(room.stats.size, sizeof(room));
  CHECK_EQ(room.beyond, 77);
  room.stats.size = 0;
  CHECK_ERR(uffd_loop_stats(serving.loop, &room.stats), -EINVAL);
  CHECK_ERR(uffd_loop_stats(serving.loop, NULL), -EINVAL);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* The trace */

#define RECORDS_MAX 4096
struct log {
  uffd_loop *loop;
  _Atomic unsigned taken, count; /* records begun, and done */
  struct uffd_trace records[RECORDS_MAX];
};

static void record(void *ctx, const struct uffd_trace *trace) {
  struct log *log = ctx;
  unsigned i = atomic_fetch_add(&log->taken, 1);
  if (i < RECORDS_MAX) log->records[i] = *trace;
  atomic_fetch_add(&log->count, 1);
}

static struct log *new_log(void) {
  struct log *log = calloc(1, sizeof(*log));
  CHECK(log != NULL);
  return log;
}

static void every_fault_has_one_final_record(void) {
  uint64_t page = check_page();
  for (int engine = 0; engine < ENGINES; engine++) {
    struct serving serving;
    struct log *log = new_log();
    serving_open(&serving, engine, NULL);
    uffd_memory *memory = memory_make(MEMORY_ANON, 5 * 512); /* a slice for each of five */
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    opts.around = 2 * page;
    opts.cookie = log;
    region_add(serving.loop, memory, image_resolver(5 * 512 * page), &opts);
    CHECK_OK(uffd_loop_trace(serving.loop, record, log));
    uint64_t before = uffd_now();
    serving_start(&serving);
    struct check_touch touches[2];
    for (unsigned i = 0; i < 60; i++) {
      check_touch_write(&touches[0], memory_at(memory, i * 42 * page + 9), 1);
      check_touch_read(&touches[1], memory_at(memory, (i * 42 + 11) * page));
      int tids[2] = {touches[0].tid, touches[1].tid};
      check_touch_join(&touches[0]);
      check_touch_join(&touches[1]);
      while (atomic_load(&log->count) < 2 * (i + 1)) {
        check_pause(); /* told a little after the wake-up */
      }
      for (unsigned j = 2 * i; j < 2 * i + 2; j++) {
        const struct uffd_trace *trace = &log->records[j];
        bool write = trace->offset == i * 42 * page;
        CHECK(write || trace->offset == (i * 42 + 11) * page);
        CHECK_EQ(trace->flags, write ? UFFD_FAULT_WRITE : 0);
        CHECK_EQ(trace->tid, tids[write ? 0 : 1]);
      }
    }
    serving_pause(&serving);
    CHECK_OK(uffd_loop_trace(serving.loop, NULL, NULL));
    CHECK_EQ(log->count, 120);
    uint32_t handlers = serving_handlers(&serving), seen = 0;
    for (unsigned i = 0; i < 120; i++) {
      const struct uffd_trace *trace = &log->records[i];
      CHECK_EQ(trace->outcome, UFFD_OUTCOME_INSTALLED);
      CHECK_EQ(trace->answer, UFFD_ANSWER_BYTES);
      CHECK_EQ(trace->error, 0);
      CHECK_EQ(trace->cover, 2 * page);
      CHECK(trace->cookie == log);
      CHECK(trace->time_ns >= before && trace->time_ns <= uffd_now());
      CHECK(trace->latency_ns <= serving_stats(serving.loop).latency_max);
      CHECK(trace->handler < handlers);
      seen |= 1u << trace->handler;
    }
    if (!serving_is_inline(&serving)) CHECK_EQ(seen, (1u << handlers) - 1);
    if (serving_is_inline(&serving)) CHECK(seen != 0 && (seen & 1) == 0); /* those that were free; never the first */
    CHECK_EQ(serving_stats(serving.loop).faults, 120);
    serving_close(&serving);
    uffd_memory_close(memory);
    free(log);
  }
}

/* LATER twice for each page, then the image. */
static int answer_third_time(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  _Atomic unsigned *times = asked->ctx;
  if (fault->offset == 0) return uffd_set_errmsg(EIO, "No.");
  if (atomic_fetch_add(&times[fault->offset / fault->page_size], 1) % 3 != 2) answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

/* Three faults. Two threads, one page: both messages are read before either is answered. */
static void read_two_in_one_pass(uffd_memory *memory) {
  uint64_t page = check_page();
  struct check_touch touches[3];
  check_barrier_hold("drained");
  check_touch_read(&touches[0], memory_at(memory, 2 * page));
  check_barrier_await("drained");
  for (unsigned i = 1; i < 3; i++) {
    check_touch_read(&touches[i], memory_at(memory, 3 * page + i));
    check_touch_asleep(&touches[i]);
  }
  check_barrier_release("drained");
  for (unsigned i = 0; i < 3; i++) {
    CHECK_EQ(check_touch_join(&touches[i]), 0);
  }
}

static void deferred_failed_and_present_have_records(void) {
  struct serving serving;
  struct log *log = new_log();
  _Atomic unsigned times[8] = {0};
  struct asked asked = {.answer = answer_third_time, .ctx = times};
  uint64_t page = check_page();
  check_needs(UFFD_FEAT_POISON); /* what becomes of a page that fails */
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  CHECK_OK(uffd_loop_trace(serving.loop, record, log));
  CHECK_EQ(*memory_at(memory, page), 0);
  CHECK_EQ(check_access(memory_at(memory, 0), false, NULL), SIGBUS);
  if (serving_is_inline(&serving)) {
    for (uint64_t i = 2; i < 5; i++) {
      CHECK_EQ(*memory_at(memory, i * page), 0);
    }
  } else {
    read_two_in_one_pass(memory);
  }
  while (serving_stats(serving.loop).latency_count < 5) {
    check_pause(); /* the second of the two is answered after both have gone on */
  }
  CHECK_OK(uffd_loop_trace(serving.loop, NULL, NULL));
  unsigned outcomes[5] = {0};
  for (unsigned i = 0; i < log->count; i++) {
    const struct uffd_trace *trace = &log->records[i];
    outcomes[trace->outcome]++;
    if (trace->outcome == UFFD_OUTCOME_DEFERRED) CHECK_EQ(trace->answer, UFFD_ANSWER_LATER);
    CHECK_EQ(trace->error, trace->outcome == UFFD_OUTCOME_FAILED ? EIO : 0);
    if (trace->outcome == UFFD_OUTCOME_FAILED) CHECK_EQ(trace->answer, UFFD_ANSWER_POISON);
    if (trace->outcome == UFFD_OUTCOME_FAILED) CHECK_EQ(trace->offset, 0);
  }
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.faults, 5);
  CHECK_EQ(outcomes[UFFD_OUTCOME_INSTALLED] + outcomes[UFFD_OUTCOME_PRESENT], 4);
  CHECK_EQ(outcomes[UFFD_OUTCOME_FAILED], 1);
  CHECK_EQ(outcomes[UFFD_OUTCOME_PRESENT], stats.present);
  CHECK_EQ(outcomes[UFFD_OUTCOME_DEFERRED], stats.deferred);
  CHECK_EQ(stats.errors, 1);
  CHECK_EQ(stats.policy_calls, asked.hits);
  CHECK(stats.deferred >= 4);
  serving_close(&serving);
  uffd_memory_close(memory);
  free(log);
}

/* Threads fault all the while; no record comes to a hook after it was switched off. */
struct touring {
  uffd_memory *memory;
  _Atomic bool stop;
};

static void tour(void *ctx) {
  struct touring *touring = ctx;
  uint64_t page = check_page(), pages = uffd_memory_length(touring->memory) / page;
  while (!atomic_load(&touring->stop)) {
    for (uint64_t i = 0; i < pages; i += 5) {
      (void)*(volatile unsigned char *)memory_at(touring->memory, i * page);
    }
    madvise(memory_at(touring->memory, 0), pages * page, MADV_DONTNEED);
  }
}

static void switched_on_and_off_under_faults(void) {
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    struct serving serving;
    serving_open(&serving, engine, NULL);
    struct touring touring = {.memory = memory_make(MEMORY_ANON, 2600)};
    region_add(serving.loop, touring.memory, image_resolver(2600 * check_page()), NULL);
    struct check_thread threads[2];
    check_thread_start(&threads[0], tour, &touring);
    check_thread_start(&threads[1], tour, &touring);
    for (unsigned round = 0; round < 20; round++) {
      struct log *log = new_log();
      CHECK_OK(uffd_loop_trace(serving.loop, record, log));
      while (atomic_load(&log->count) < 20) {
        check_pause();
      }
      struct log *other = new_log();
      CHECK_OK(uffd_loop_trace(serving.loop, record, other)); /* one hook for another */
      unsigned count = atomic_load(&log->count);
      while (atomic_load(&other->count) < 20) {
        check_pause();
      }
      CHECK_EQ(atomic_load(&log->count), count);
      CHECK_OK(uffd_loop_trace(serving.loop, NULL, NULL));
      memset(log, 0, sizeof(*log)); /* nobody writes there any more */
      memset(other, 0, sizeof(*other));
      free(log);
      free(other);
    }
    atomic_store(&touring.stop, true);
    check_thread_join(&threads[0]);
    check_thread_join(&threads[1]);
    serving_close(&serving);
    uffd_memory_close(touring.memory);
  }
}

/* The hook itself switches off, or another one on, whatever handler it runs in. */
static void hand_to_next(void *ctx, const struct uffd_trace *trace) {
  struct log *log = ctx;
  record(log, trace);
  CHECK_OK(uffd_loop_trace(log->loop, record, log + 1));
}

static void stop_after_ten(void *ctx, const struct uffd_trace *trace) {
  struct log *log = ctx;
  record(log, trace);
  if (atomic_load(&log->count) >= 10) CHECK_OK(uffd_loop_trace(log->loop, NULL, NULL));
}

static void switched_from_the_hook_itself(void) {
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    struct serving serving;
    serving_open(&serving, engine, NULL);
    struct touring touring = {.memory = memory_make(MEMORY_ANON, 2600)};
    region_add(serving.loop, touring.memory, image_resolver(2600 * check_page()), NULL);
    struct check_thread threads[2];
    check_thread_start(&threads[0], tour, &touring);
    check_thread_start(&threads[1], tour, &touring);
    struct log *logs = calloc(2, sizeof(struct log));
    CHECK(logs != NULL);
    for (unsigned round = 0; round < 10; round++) {
      logs->loop = serving.loop;
      logs->taken = logs->count = 0;
      CHECK_OK(uffd_loop_trace(serving.loop, stop_after_ten, logs));
      while (atomic_load(&logs->count) < 10) {
        check_pause();
      }
      CHECK_OK(uffd_loop_trace(serving.loop, NULL, NULL)); /* every handler has let go of it */
      unsigned count = atomic_load(&logs->count);
      CHECK(count <= 10 + serving.loop->engine.lanes_count);
      memset(logs, 0, 2 * sizeof(struct log));
      logs->loop = serving.loop;
      CHECK_OK(uffd_loop_trace(serving.loop, hand_to_next, logs));
      while (atomic_load(&logs[1].count) < 10) {
        check_pause();
      }
      CHECK(atomic_load(&logs->count) >= 1);
      CHECK(atomic_load(&logs->count) <= serving.loop->engine.lanes_count);
      CHECK_OK(uffd_loop_trace(serving.loop, NULL, NULL));
    }
    atomic_store(&touring.stop, true);
    check_thread_join(&threads[0]);
    check_thread_join(&threads[1]);
    serving_close(&serving);
    uffd_memory_close(touring.memory);
    free(logs);
  }
}

static const struct check_test tests[] = {
    TEST(percentiles_of_a_known_series),
    TEST(percentiles_of_few_values),
    TEST(buckets_hold_what_was_added),
    TEST(histograms_of_little_room),
    TEST(each_region_has_a_histogram_of_its_own),
    TEST(every_counter_counts_its_own),
    TEST(the_queue_is_told),
    TEST(stats_of_every_size),
    TEST(every_fault_has_one_final_record),
    TEST(deferred_failed_and_present_have_records),
    TEST(switched_on_and_off_under_faults),
    TEST(switched_from_the_hook_itself),
};
CHECK_MAIN(tests)
