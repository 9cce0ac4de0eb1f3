/*
 * The latencies of a client's faults in a few buckets of round bounds, for metrics. Its loop keeps them finer.
 */
#ifndef UFFD_SERVE_LATENCY_H
#define UFFD_SERVE_LATENCY_H

#include <stdint.h>

#include "uffd.h"

#define UFFD_LATENCY_BOUNDS 22u

/* All counts are of faults that were measured; sum_ns is exact to 1/16. */
struct uffd_latencies {
  uint64_t counts[UFFD_LATENCY_BOUNDS + 1]; /* above the bound before and up to this one; the last: beyond all bounds */
  uint64_t sum_ns;
};

uint64_t uffd_latency_bound(uint32_t index); /* nanoseconds: 1 us, 2.5 us, 5 us, ... 10 s */
/* Of all handlers since the loop was created. */
void uffd_latencies_take(const uffd_loop *loop, struct uffd_latencies *latencies);

#endif
