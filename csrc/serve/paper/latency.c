/*
 * The latencies of a loop in a few buckets: the fine histogram, made coarse.
 */
#include "serve/paper/latency.h"

#include "base/base.h"

#define BEYOND_NS UINT64_C(100000000000) /* what has no bound counts so much in the sum */

uint64_t uffd_latency_bound(uint32_t index) {
  static const uint64_t steps[] = {1000, 2500, 5000};
  uint64_t bound = steps[index % 3];
  for (uint32_t decade = index / 3; decade > 0; decade--) {
    bound *= 10;
  }
  return bound;
}

void uffd_latencies_take(const uffd_loop *loop, struct uffd_latencies *latencies) {
  struct uffd_bucket buckets[UFFD_HISTOGRAM_BUCKETS];
  int count = uffd_loop_histogram(loop, buckets, UFFD_HISTOGRAM_BUCKETS);
  uint32_t into = 0;
  *latencies = (struct uffd_latencies){0};
  for (int i = 0; i < count; i++) {
    while (into < UFFD_LATENCY_BOUNDS && buckets[i].up_to_ns > uffd_latency_bound(into)) {
      into++;
    }
    latencies->counts[into] += buckets[i].count;
    latencies->sum_ns += buckets[i].count * min_u64(buckets[i].up_to_ns, BEYOND_NS);
  }
}
