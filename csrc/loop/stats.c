/*
 * Statistics: each handler counts for itself in plain stores, readers add up.
 */
#include <sched.h>
#include <string.h>

#include "loop/loop.h"

#define SETTLE_NS UINT64_C(200000000)
#define SUB_BITS  4u /* 16 buckets to each power of two */

static uint32_t bucket_of(uint64_t value) {
  if (value < (1u << SUB_BITS)) return (uint32_t)value;
  uint32_t exponent = 63u - (uint32_t)__builtin_clzll(value);
  uint32_t sub = (uint32_t)(value >> (exponent - SUB_BITS)) & ((1u << SUB_BITS) - 1);
  uint32_t bucket = ((exponent - SUB_BITS + 1) << SUB_BITS) + sub;
  return bucket < UFFD_BUCKETS ? bucket : UFFD_BUCKETS - 1;
}

/* The largest value that falls into the bucket. */
static uint64_t value_of(uint32_t bucket) {
  if (bucket < (1u << SUB_BITS)) return bucket;
  uint32_t exponent = (bucket >> SUB_BITS) + SUB_BITS - 1, sub = bucket & ((1u << SUB_BITS) - 1);
  return (((UINT64_C(1) << SUB_BITS) + sub + 1) << (exponent - SUB_BITS)) - 1;
}

void uffd_histogram_add(struct uffd_histogram *histogram, uint64_t nanoseconds) {
  uffd_count(&histogram->buckets[bucket_of(nanoseconds)], 1);
  uffd_count(&histogram->count, 1);
  if (nanoseconds > atomic_load_explicit(&histogram->max, memory_order_relaxed)) {
    atomic_store_explicit(&histogram->max, nanoseconds, memory_order_relaxed);
  }
}

void uffd_count_guessed(struct uffd_handler_state *handler, uint64_t flags) {
  struct uffd_counters *counters = &handler->counters;
  flags = uffd_settled_flags(handler, flags);
  uffd_count((flags & UFFD_FAULT_WP) != 0      ? &counters->wp
             : (flags & UFFD_FAULT_MINOR) != 0 ? &counters->minor
                                               : &counters->missing,
             1);
  if ((flags & UFFD_FAULT_WRITE) != 0) uffd_count(&counters->writes, 1);
}

static uint64_t read_counter(const _Atomic uint64_t *counter) {
  return atomic_load_explicit(counter, memory_order_relaxed);
}

/* The value that share of all values do not exceed. The histograms of all handlers count as one. */
static uint64_t percentile(const uffd_loop *loop, uint64_t count, double share) {
  uint64_t rank = (uint64_t)((double)count * share), seen = 0;
  for (uint32_t bucket = 0; bucket < UFFD_BUCKETS; bucket++) {
    for (uint32_t i = 0; i < loop->handlers_count; i++) {
      seen += read_counter(&loop->handlers[i]->latency.buckets[bucket]);
    }
    if (seen > rank) return value_of(bucket);
  }
  return 0;
}

static void add_latency(const uffd_loop *loop, struct uffd_stats *all) {
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    const struct uffd_histogram *latency = &loop->handlers[i]->latency;
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
 * A thread goes on as soon as its page is there, and may ask for statistics before the handler has counted that page.
 * So the pass that is under way may end first, but a slow callback is not waited for.
 */
static void let_pass_end(const struct uffd_handler_state *handler) {
  uint64_t pass = atomic_load_explicit(&handler->passes, memory_order_acquire);
  if (pass % 2 == 0 || uffd_current_handler == handler) return;
  uint64_t end = uffd_now() + SETTLE_NS;
  while (atomic_load_explicit(&handler->passes, memory_order_acquire) == pass && uffd_now() < end) {
    sched_yield();
  }
}

int uffd_loop_stats(const uffd_loop *loop, struct uffd_stats *stats) {
  struct uffd_stats all = UFFD_STATS_INIT;
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  if (stats == NULL || stats->size < 2 * sizeof(size_t))
    return fail(EINVAL, "uffd_stats: set size, UFFD_STATS_INIT does.");
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    let_pass_end(loop->handlers[i]);
    add_counters(&loop->handlers[i]->counters, &all);
  }
  all.faults = all.missing + all.wp + all.minor;
  add_latency(loop, &all);
  all.size = stats->size;
  memcpy(stats, &all, min_u64(stats->size, sizeof(all)));
  return 0;
}
