/*
 * A bucket that holds one piece: taking it puts off the next by the time that it is worth.
 */
#include "loop/rate.h"

#define NS_PER_S UINT64_C(1000000000)

static uint64_t worth(const struct uffd_rate *rate, uint64_t bytes) {
  uint64_t seconds = bytes / rate->bytes_a_second, rest = bytes % rate->bytes_a_second;
  return seconds * NS_PER_S + (uint64_t)((double)rest * 1e9 / (double)rate->bytes_a_second);
}

uint64_t uffd_rate_take(struct uffd_rate *rate, uint64_t now_ns, uint64_t bytes) {
  if (rate->bytes_a_second == 0) return 0;
  uint64_t free_ns = atomic_load(&rate->free_ns);
  do {
    if (now_ns < free_ns) return free_ns;
  } while (!atomic_compare_exchange_weak(&rate->free_ns, &free_ns, now_ns + worth(rate, bytes)));
  return 0;
}

void uffd_rate_give_back(struct uffd_rate *rate, uint64_t bytes) {
  if (rate->bytes_a_second != 0 && bytes != 0) atomic_fetch_sub(&rate->free_ns, worth(rate, bytes));
}
