/*
 * The fault that has waited longest, for a watchdog to name: written by its handler with plain stores, read by any
 * thread, which looks again when the handler wrote meanwhile.
 */
#include <sched.h>
#include <string.h>

#include "loop/loop.h"

static void put(_Atomic uint64_t *field, uint64_t value) {
  atomic_store_explicit(field, value, memory_order_release); /* after sequence, and before it is even again */
}

static uint64_t get(const _Atomic uint64_t *field) {
  return atomic_load_explicit(field, memory_order_acquire);
}

void uffd_oldest_set(struct uffd_handler_state *handler, const struct uffd_pending *fault) {
  struct uffd_oldest *oldest = &handler->oldest;
  const struct uffd_slice *slice = uffd_slice_find(fault->source, fault->address);
  uint64_t sequence = get(&oldest->sequence);
  put(&oldest->sequence, sequence + 1);
  put(&oldest->read_ns, fault->read_ns);
  put(&oldest->address, fault->address);
  put(&oldest->flags, fault->flags);
  put(&oldest->tid, fault->tid);
  put(&oldest->offset, slice == NULL ? 0 : fault->address - slice->start + slice->offset);
  put(&oldest->cookie, slice == NULL ? 0 : (uintptr_t)slice->region->cookie);
  for (unsigned i = 0; i < UFFD_KIND_WORDS; i++) {
    put(&oldest->kind[i], slice == NULL ? 0 : slice->region->kind[i]);
  }
  put(&oldest->sequence, sequence + 2);
}

void uffd_oldest_clear(struct uffd_handler_state *handler) {
  put(&handler->oldest.read_ns, 0);
}

/* False when there is none. */
static bool read_oldest(const struct uffd_handler_state *handler, uint64_t now, struct uffd_waiting *found) {
  const struct uffd_oldest *oldest = &handler->oldest;
  uint64_t sequence, kind[UFFD_KIND_WORDS], read_ns;
  for (;; sched_yield()) {
    sequence = get(&oldest->sequence);
    read_ns = get(&oldest->read_ns);
    if (read_ns == 0) return false;
    found->address = get(&oldest->address);
    found->flags = get(&oldest->flags);
    found->tid = (uint32_t)get(&oldest->tid);
    found->offset = get(&oldest->offset);
    found->cookie = (void *)(uintptr_t)get(&oldest->cookie); /* NOLINT(performance-no-int-to-ptr) */
    for (unsigned i = 0; i < UFFD_KIND_WORDS; i++) {
      kind[i] = get(&oldest->kind[i]);
    }
    if (sequence % 2 == 0 && get(&oldest->sequence) == sequence) break;
  }
  memcpy(found->resolver, kind, sizeof(found->resolver));
  found->resolver[sizeof(found->resolver) - 1] = '\0';
  found->age_ns = now > read_ns ? now - read_ns : 0;
  found->handler = handler->index;
  return true;
}

int uffd_loop_oldest(const uffd_loop *loop, struct uffd_waiting *waiting) {
  struct uffd_waiting all = UFFD_WAITING_INIT, one;
  int result = uffd_loop_check_process(loop);
  if (result < 0) return result;
  if (waiting == NULL || waiting->size < 2 * sizeof(size_t)) {
    return fail(EINVAL, "uffd_waiting: set size, UFFD_WAITING_INIT does.");
  }
  uint64_t now = uffd_now();
  for (uint32_t i = 0; i < loop->handlers_count; i++) {
    if (!read_oldest(loop->handlers[i], now, &one)) continue;
    if (result == 0 || one.age_ns > all.age_ns) all = one;
    result = 1;
  }
  all.size = waiting->size;
  memcpy(waiting, &all, min_u64(waiting->size, sizeof(all)));
  return result;
}
