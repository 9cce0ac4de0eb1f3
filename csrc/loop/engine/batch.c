/*
 * Faults that wait together: see batch.h. Knows addresses, no answers; the queue itself stays as it was read.
 */
#include "loop/engine/batch.h"

#define RUN_BYTES (UINT64_C(64) << 10) /* the first of a run sleeps until the last is there */

static bool comes_before(const struct uffd_pending *a, const struct uffd_pending *b) {
  if (a->source != b->source) return (uintptr_t)a->source < (uintptr_t)b->source;
  return a->address != b->address ? a->address < b->address : a < b;
}

/* Shell's sort: in place, and next to nothing for the few that wait as a rule. */
static void sort(const struct uffd_pending *queue, uint16_t *order, uint32_t count) {
  static const uint32_t gaps[] = {701, 301, 132, 57, 23, 10, 4, 1};
  for (uint32_t g = 0; g < sizeof(gaps) / sizeof(*gaps); g++) {
    uint32_t gap = gaps[g];
    for (uint32_t i = gap; i < count; i++) {
      uint16_t place = order[i];
      uint32_t at = i;
      for (; at >= gap && comes_before(&queue[place], &queue[order[at - gap]]); at -= gap) {
        order[at] = order[at - gap];
      }
      order[at] = place;
    }
  }
}

void uffd_batch_begin(struct uffd_handler_state *handler, uint32_t first) {
  struct uffd_batch *batch = &handler->batch;
  batch->count = handler->queued - first;
  batch->next = 0;
  uffd_batch_forget(handler);
  for (uint32_t i = 0; i < batch->count; i++) {
    batch->order[i] = (uint16_t)(first + i);
  }
  sort(handler->queue, batch->order, batch->count);
}

struct uffd_pending *uffd_batch_next(struct uffd_handler_state *handler) {
  struct uffd_batch *batch = &handler->batch;
  return batch->next < batch->count ? &handler->queue[batch->order[batch->next++]] : NULL;
}

void uffd_batch_end(struct uffd_handler_state *handler) {
  handler->batch.count = handler->batch.next = 0;
  uffd_batch_forget(handler);
}

/* Ranges come by address: the last one, with what it touches, is enough. */
static struct uffd_batch *turn_to(struct uffd_handler_state *handler, const struct uffd_source *source) {
  struct uffd_batch *batch = &handler->batch;
  if (batch->next == batch->count) return NULL; /* nobody is left to be told, or faults are not what is answered */
  if (batch->source != source) uffd_batch_forget(handler);
  batch->source = source;
  return batch;
}

void uffd_batch_woke(struct uffd_handler_state *handler, const struct uffd_source *source, uint64_t start,
                     uint64_t end) {
  struct uffd_batch *batch = turn_to(handler, source);
  if (batch == NULL) return;
  bool before = end == batch->low, behind = start == batch->high;
  if (!behind) batch->low = start;
  if (!before) batch->high = end;
}

void uffd_batch_woke_writers(struct uffd_handler_state *handler, const struct uffd_source *source, uint64_t page) {
  struct uffd_batch *batch = turn_to(handler, source);
  if (batch != NULL) batch->unprotected = page;
}

void uffd_batch_forget(struct uffd_handler_state *handler) {
  struct uffd_batch *batch = &handler->batch;
  batch->source = NULL;
  batch->low = batch->high = batch->unprotected = 0;
}

bool uffd_batch_has_woken(const struct uffd_handler_state *handler, const struct uffd_source *source, uint64_t page,
                          uint64_t flags) {
  const struct uffd_batch *batch = &handler->batch;
  if (batch->source != source) return false;
  if ((flags & UFFD_FAULT_WP) != 0) return batch->unprotected == page;
  return batch->low <= page && page < batch->high;
}

/* Where writes are watched, a page that is written comes alone, unprotected; in a run it would fault once more. */
static bool is_alone(const struct uffd_slice *slice, uint64_t flags) {
  return (flags & UFFD_FAULT_WRITE) != 0 && (slice->region->modes & UFFD_MODE_WP) != 0;
}

uint64_t uffd_batch_reach(const struct uffd_handler_state *handler, const struct uffd_slice *slice, uint64_t page,
                          uint64_t flags) {
  const uint64_t kind = UFFD_FAULT_WP | UFFD_FAULT_MINOR;
  const struct uffd_batch *batch = &handler->batch;
  uint64_t page_size = slice->region->page_size, high = page + page_size;
  uint64_t limit = min_u64(slice->end, page + max_u64(RUN_BYTES, page_size));
  if (batch->next == 0 || is_alone(slice, flags)) return high;
  const struct uffd_source *source = handler->queue[batch->order[batch->next - 1]].source;
  for (uint32_t i = batch->next; i < batch->count && high < limit; i++) {
    const struct uffd_pending *other = &handler->queue[batch->order[i]];
    if (other->source != source || other->address >= high + page_size) break;
    if (((other->flags ^ flags) & kind) != 0 || is_alone(slice, other->flags)) break;
    if (other->address >= high) high += page_size;
  }
  return high;
}
