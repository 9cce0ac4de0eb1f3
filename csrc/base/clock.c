/*
 * The one clock of all deadlines and durations.
 */
#include <time.h>

#include "base/base.h"

uint64_t uffd_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}
