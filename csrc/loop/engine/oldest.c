/*
 * Written with plain stores; who reads looks again when it was written meanwhile.
 */
#include "loop/engine/oldest.h"

#include <sched.h>
#include <string.h>

static void put(_Atomic uint64_t *field, uint64_t value) {
  atomic_store_explicit(field, value, memory_order_release); /* after sequence, and before it is even again */
}

static uint64_t get(const _Atomic uint64_t *field) {
  return atomic_load_explicit(field, memory_order_acquire);
}

void uffd_oldest_set(struct uffd_oldest *oldest, const struct uffd_pending *fault) {
  const struct uffd_slice *slice = uffd_slice_find(fault->source, fault->address);
  uint64_t sequence = get(&oldest->sequence);
  put(&oldest->sequence, sequence + 1);
  put(&oldest->read_ns, fault->read_ns);
  put(&oldest->address, fault->address);
  put(&oldest->flags, fault->flags);
  put(&oldest->tid, fault->tid);
  put(&oldest->offset, slice == NULL ? 0 : region_offset(slice, fault->address));
  put(&oldest->cookie, slice == NULL ? 0 : (uintptr_t)slice->terms->cookie);
  for (unsigned i = 0; i < UFFD_KIND_WORDS; i++) {
    put(&oldest->kind[i], slice == NULL ? 0 : atomic_load_explicit(&slice->terms->kind[i], memory_order_relaxed));
  }
  put(&oldest->sequence, sequence + 2);
}

void uffd_oldest_clear(struct uffd_oldest *oldest) {
  put(&oldest->read_ns, 0);
}

bool uffd_oldest_read(const struct uffd_oldest *oldest, uint64_t now, struct uffd_waiting *found) {
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
  return true;
}
