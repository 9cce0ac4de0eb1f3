/*
 * Statistics: each lane counts for itself in plain stores; who asks adds up.
 */
#include <string.h>
#include <time.h>

#include "loop/loop.h"

#define SETTLE_NS UINT64_C(5000000)
#define NAP_NS    20000

static uint64_t read_counter(const _Atomic uint64_t *counter) {
  return atomic_load_explicit(counter, memory_order_relaxed);
}

/* The value that share of all values do not exceed. The histograms of all handlers count as one. */
static uint64_t percentile(const uffd_loop *loop, uint64_t count, double share) {
  uint64_t rank = (uint64_t)((double)count * share), seen = 0;
  for (uint32_t bucket = 0; bucket < UFFD_BUCKETS; bucket++) {
    for (uint32_t i = 0; i < loop->engine.lanes_count; i++) {
      seen += read_counter(&loop->engine.lanes[i]->latency.buckets[bucket]);
    }
    if (seen > rank) return uffd_bucket_value(bucket);
  }
  return 0;
}

static void add_latency(const uffd_loop *loop, struct uffd_stats *all) {
  for (uint32_t i = 0; i < loop->engine.lanes_count; i++) {
    const struct uffd_histogram *latency = &loop->engine.lanes[i]->latency;
    all->latency_count += read_counter(&latency->count);
    all->latency_max = max_u64(all->latency_max, read_counter(&latency->max));
  }
  if (all->latency_count == 0) return;
  all->latency_p50 = min_u64(percentile(loop, all->latency_count, 0.50), all->latency_max);
  all->latency_p99 = min_u64(percentile(loop, all->latency_count, 0.99), all->latency_max);
}

static void add_counters(const struct uffd_counters *counters, struct uffd_stats *all) {
  all->missing += read_counter(&counters->missing);
  all->wp += read_counter(&counters->wp);
  all->minor += read_counter(&counters->minor);
  all->writes += read_counter(&counters->writes);
  all->events += read_counter(&counters->events);
  all->zero += read_counter(&counters->pages[UFFD_ANSWER_ZERO]);
  all->copied += read_counter(&counters->pages[UFFD_ANSWER_BYTES]);
  all->continued += read_counter(&counters->pages[UFFD_ANSWER_CONTINUE]);
  all->moved += read_counter(&counters->pages[UFFD_ANSWER_MOVE]);
  all->poisoned += read_counter(&counters->pages[UFFD_ANSWER_POISON]);
  all->unprotected += read_counter(&counters->unprotected);
  all->bytes += read_counter(&counters->bytes);
  all->prefetched += read_counter(&counters->prefetched);
  all->present += read_counter(&counters->present);
  all->deferred += read_counter(&counters->deferred);
  all->gone += read_counter(&counters->gone);
  all->errors += read_counter(&counters->errors);
  all->policy_calls += read_counter(&counters->policy_calls);
  all->queue += read_counter(&counters->queue);
  all->queue_max = max_u64(all->queue_max, read_counter(&counters->queue_max));
}

/*
 * Pages are counted before their threads are woken. What is counted afterwards (latency, twins of a fault that was
 * answered) is there when the pass is over: passes under way are waited for, all of them together, but not for long,
 * because a callback may be slow.
 */
static void let_passes_end(const uffd_loop *loop) {
  const struct timespec nap = {0, NAP_NS};
  uint64_t end = uffd_now() + SETTLE_NS;
  for (uint32_t i = 0; i < loop->engine.readers_count; i++) {
    const struct uffd_reader *reader = loop->engine.readers[i];
    uint64_t pass = atomic_load_explicit(&reader->passes, memory_order_acquire);
    if (pass % 2 == 0 || uffd_current_lane == &reader->lane) continue;
    while (atomic_load_explicit(&reader->passes, memory_order_acquire) == pass && uffd_now() < end) {
      nanosleep(&nap, NULL);
    }
  }
}

/* Histograms */

static int check_room(const uffd_loop *loop, const struct uffd_bucket *buckets, size_t room) {
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  if (buckets == NULL && room != 0) return fail(EINVAL, "buckets is NULL, but has room for %zu.", room);
  return 0;
}

/* Puts a bucket behind the `there` others. Returns how many there are. */
static size_t put_bucket(struct uffd_bucket *buckets, size_t room, size_t there, uint32_t bucket, uint64_t count) {
  if (count == 0) return there;
  if (there < room) buckets[there] = (struct uffd_bucket){uffd_bucket_value(bucket), count};
  return there + 1;
}

int uffd_region_histogram(const uffd_region *region, struct uffd_bucket *buckets, size_t room) {
  int result = check_room(region->loop, buckets, room);
  if (result < 0) return result;
  let_passes_end(region->loop);
  size_t there = 0;
  for (uint32_t bucket = 0; bucket < UFFD_BUCKETS; bucket++) {
    there = put_bucket(buckets, room, there, bucket, read_counter(&region->latency[bucket]));
  }
  return (int)there;
}

int uffd_loop_histogram(const uffd_loop *loop, struct uffd_bucket *buckets, size_t room) {
  int result = check_room(loop, buckets, room);
  if (result < 0) return result;
  let_passes_end(loop);
  size_t there = 0;
  for (uint32_t bucket = 0; bucket < UFFD_BUCKETS; bucket++) {
    uint64_t count = 0;
    for (uint32_t i = 0; i < loop->engine.lanes_count; i++) {
      count += read_counter(&loop->engine.lanes[i]->latency.buckets[bucket]);
    }
    there = put_bucket(buckets, room, there, bucket, count);
  }
  return (int)there;
}

uint64_t uffd_histogram_percentile(const struct uffd_bucket *buckets, size_t count, double percent) {
  uint64_t all = 0, seen = 0;
  for (size_t i = 0; i < count; i++) {
    all += buckets[i].count;
  }
  double rank = (double)all * percent / 100;
  for (size_t i = 0; i < count; i++) {
    seen += buckets[i].count;
    if ((double)seen > rank || seen == all) return buckets[i].up_to_ns;
  }
  return 0;
}

/* All figures */

int uffd_loop_stats(const uffd_loop *loop, struct uffd_stats *stats) {
  struct uffd_stats all = UFFD_STATS_INIT;
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  if (stats == NULL || stats->size < 2 * sizeof(size_t))
    return fail(EINVAL, "uffd_stats: set size, UFFD_STATS_INIT does.");
  let_passes_end(loop);
  for (uint32_t i = 0; i < loop->engine.lanes_count; i++) {
    add_counters(&loop->engine.lanes[i]->counters, &all);
  }
  all.faults = all.missing + all.wp + all.minor;
  add_latency(loop, &all);
  all.size = stats->size;
  memcpy(stats, &all, min_u64(stats->size, sizeof(all)));
  return 0;
}
