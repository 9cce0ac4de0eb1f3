/*
 * A histogram of durations: 16 buckets to each power of two, so that a value is known to 1/16.
 */
#ifndef UFFD_LOOP_LINE_HISTOGRAM_H
#define UFFD_LOOP_LINE_HISTOGRAM_H

#include "base/base.h"

#include "uffd.h"

#define UFFD_BUCKETS ((uint32_t)UFFD_HISTOGRAM_BUCKETS)

/* Nanoseconds. One thread writes at a time, any thread reads. */
struct uffd_histogram {
  _Atomic uint64_t count, max;
  _Atomic uint64_t buckets[UFFD_BUCKETS];
};

void uffd_histogram_add(struct uffd_histogram *histogram, uint64_t nanoseconds);
/* The same for buckets alone that several threads write at a time. */
void uffd_histogram_add_shared(_Atomic uint64_t *buckets, uint64_t nanoseconds);
/* The largest value that falls into a bucket; of the last one INT64_MAX. */
uint64_t uffd_bucket_value(uint32_t bucket);

/* One writer at a time: no locked instruction. */
static inline void uffd_count(_Atomic uint64_t *counter, uint64_t more) {
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_relaxed);
}

#endif
