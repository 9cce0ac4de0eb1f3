/*
 * Buckets in the manner of HDR histograms: an exponent, and the four bits after the leading one.
 */
#include "loop/line/histogram.h"

#define SUB_BITS 4u

static uint32_t bucket_of(uint64_t value) {
  if (value < (1u << SUB_BITS)) return (uint32_t)value;
  uint32_t exponent = 63u - (uint32_t)__builtin_clzll(value);
  uint32_t sub = (uint32_t)(value >> (exponent - SUB_BITS)) & ((1u << SUB_BITS) - 1);
  uint32_t bucket = ((exponent - SUB_BITS + 1) << SUB_BITS) + sub;
  return bucket < UFFD_BUCKETS ? bucket : UFFD_BUCKETS - 1;
}

uint64_t uffd_bucket_value(uint32_t bucket) {
  if (bucket < (1u << SUB_BITS)) return bucket;
  if (bucket >= UFFD_BUCKETS - 1) return INT64_MAX;
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

void uffd_histogram_add_shared(_Atomic uint64_t *buckets, uint64_t nanoseconds) {
  atomic_fetch_add_explicit(&buckets[bucket_of(nanoseconds)], 1, memory_order_relaxed);
}
