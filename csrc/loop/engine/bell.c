/*
 * Ringing takes no lock and allocates nothing: it may happen in a signal handler that has interrupted anything.
 */
#include "loop/engine/bell.h"

#include <limits.h>
#include <sched.h>
#include <unistd.h>

#define BELLS   65536u
#define OPEN    (UINT32_C(1) << 31)
#define GRANULE 16u /* bits: a range is kept in steps of 64 KiB, so that one word holds it */

static struct uffd_bell bells[BELLS];
static _Atomic uint64_t taken[BELLS / 64]; /* one bit each. No lock: a forked child closes loops too */

static uint32_t take_place(void) {
  for (uint32_t i = 0; i < BELLS / 64; i++) {
    uint64_t word = atomic_load(&taken[i]);
    while (word != UINT64_MAX) {
      uint32_t bit = (uint32_t)__builtin_ctzll(~word);
      if (atomic_compare_exchange_weak(&taken[i], &word, word | UINT64_C(1) << bit)) return i * 64 + bit;
    }
  }
  return UINT32_MAX;
}

struct uffd_bell *uffd_bell_open(int wake_fd) {
  uint32_t place = take_place();
  if (place == UINT32_MAX) return NULL;
  struct uffd_bell *bell = &bells[place];
  bell->process = uffd_process();
  bell->wake_fd = wake_fd;
  atomic_store(&bell->rung, 0);
  atomic_fetch_or(&bell->ringers, OPEN); /* a key of its predecessor may be ringing */
  return bell;
}

static void wake_sleepers(struct uffd_bell *bell) {
  atomic_fetch_add(&bell->rings, 1);
  if (atomic_load(&bell->sleepers) != 0) uffd_futex_wake(&bell->rings, INT_MAX);
}

/* A forked child leaves its copy taken: it may say that somebody rings who is not in the child. */
void uffd_bell_close(struct uffd_bell *bell) {
  if (bell == NULL || bell->process != uffd_process()) return;
  atomic_fetch_and(&bell->ringers, ~OPEN);
  wake_sleepers(bell);
  while (atomic_load(&bell->ringers) != 0) {
    sched_yield();
  }
  ptrdiff_t place = bell - bells;
  atomic_fetch_and(&taken[place / 64], ~(UINT64_C(1) << place % 64));
}

static uint64_t pack(uint64_t low, uint64_t high) {
  low = min_u64(low >> GRANULE, UFFD_BELL_ALL - 1);
  high = min_u64((high >> GRANULE) + 1, UFFD_BELL_ALL);
  return low << 32 | high;
}

static uint64_t both(uint64_t a, uint64_t b) {
  if (a == 0) return b;
  return min_u64(a >> 32, b >> 32) << 32 | max_u64((uint32_t)a, (uint32_t)b);
}

/* The first to ring writes; until the reader has looked, the others need not. */
static void ring(struct uffd_bell *bell, uint64_t range) {
  uint64_t rung = atomic_load(&bell->rung), one = 1;
  while (!atomic_compare_exchange_weak(&bell->rung, &rung, both(rung, range))) {
  }
  if (rung == 0) (void)!write(bell->wake_fd, &one, sizeof(one)); /* fails only when the counter is full: awake then */
}

void uffd_bell_ring(struct uffd_bell *bell, uint64_t low, uint64_t high) {
  uint32_t ringers = atomic_fetch_add(&bell->ringers, 1);
  int error = errno; /* of whom a signal handler has interrupted */
  if ((ringers & OPEN) != 0 && bell->process == uffd_process()) {
    if (bell->wake_fd >= 0) {
      ring(bell, pack(low, high));
    } else {
      wake_sleepers(bell);
    }
  }
  errno = error;
  atomic_fetch_sub(&bell->ringers, 1);
}

uint64_t uffd_bell_take(struct uffd_bell *bell) {
  return uffd_bell_has_rung(bell) ? atomic_exchange(&bell->rung, 0) : 0;
}

bool uffd_bell_reaches(uint64_t range, uint64_t offset) {
  uint64_t place = min_u64(offset >> GRANULE, UFFD_BELL_ALL - 1);
  return range >> 32 <= place && place < (uint32_t)range;
}

void uffd_bell_sleep(struct uffd_bell *bell, uint32_t seen, uint64_t timeout_ns) {
  atomic_fetch_add(&bell->sleepers, 1);
  uffd_futex_wait_for(&bell->rings, seen, timeout_ns);
  atomic_fetch_sub(&bell->sleepers, 1);
}

/* A key is a place in the table, or rings nobody. */
void uffd_handler_ready(const void *key) {
  uintptr_t offset = (uintptr_t)key - (uintptr_t)bells;
  if (offset >= sizeof(bells) || offset % sizeof(*bells) != 0) return;
  uffd_bell_ring(&bells[offset / sizeof(*bells)], 0, UINT64_MAX);
}
