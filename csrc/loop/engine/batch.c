/*
 * Knows addresses, no answers.
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

static void forget(struct uffd_batch *batch) {
  batch->source = NULL;
  batch->low = batch->high = batch->unprotected = 0;
}

void uffd_batch_begin(struct uffd_batch *batch, struct uffd_pending *queue, uint32_t first, uint32_t queued) {
  batch->queue = queue;
  batch->count = batch->next = 0;
  forget(batch);
  for (uint32_t i = first; i < queued; i++) {
    if (!queue[i].waits) batch->order[batch->count++] = (uint16_t)i;
  }
  sort(queue, batch->order, batch->count);
}

struct uffd_pending *uffd_batch_next(struct uffd_batch *batch) {
  return batch->next < batch->count ? &batch->queue[batch->order[batch->next++]] : NULL;
}

void uffd_batch_end(struct uffd_batch *batch) {
  batch->count = batch->next = 0;
  forget(batch);
}

/* Ranges come by address: the last one, with what it touches, is enough. */
static void note_range(struct uffd_batch *batch, uint64_t start, uint64_t end) {
  bool before = end == batch->low, behind = start == batch->high;
  if (!behind) batch->low = start;
  if (!before) batch->high = end;
}

/* A page that did not get what it waits for has twins that are to be answered by themselves. */
void uffd_batch_note(struct uffd_batch *batch, const struct uffd_source *source, const struct uffd_filled *filled) {
  bool answered = filled->outcome == UFFD_OUTCOME_INSTALLED || filled->outcome == UFFD_OUTCOME_PRESENT;
  if (!answered || batch->source != source) forget(batch);
  if (!answered) return;
  batch->source = source;
  if (filled->unprotected) {
    batch->unprotected = filled->woke_start;
  } else if (filled->woke_end != 0) {
    note_range(batch, filled->woke_start, filled->woke_end);
  }
}

static bool has_woken(const struct uffd_batch *batch, const struct uffd_pending *fault, uint64_t page) {
  if (batch->source != fault->source) return false;
  if ((fault->flags & UFFD_FAULT_WP) != 0) return batch->unprotected == page;
  return batch->low <= page && page < batch->high;
}

/* Where writes are watched, a page that is written comes alone, unprotected; in a run it would fault once more. */
static bool is_alone(const struct uffd_slice *slice, uint64_t flags) {
  return (flags & UFFD_FAULT_WRITE) != 0 && (slice->terms->modes & UFFD_MODE_WP) != 0;
}

/* The end of the run of pages that wait for the same as fault, from its page on. */
static uint64_t find_reach(const struct uffd_batch *batch, const struct uffd_pending *fault,
                           const struct uffd_slice *slice, uint64_t page) {
  const uint64_t kind = UFFD_FAULT_WP | UFFD_FAULT_MINOR;
  uint64_t page_size = slice->terms->page_size, high = page + page_size;
  uint64_t limit = min_u64(slice->end, page + max_u64(RUN_BYTES, page_size));
  if (is_alone(slice, fault->flags)) return high;
  for (uint32_t i = batch->next; i < batch->count && high < limit; i++) {
    const struct uffd_pending *other = &batch->queue[batch->order[i]];
    if (other->source != fault->source || other->address >= high + page_size) break;
    if (((other->flags ^ fault->flags) & kind) != 0 || is_alone(slice, other->flags)) break;
    if (other->address >= high) high += page_size;
  }
  return high;
}

void uffd_batch_prepare(const struct uffd_batch *batch, struct uffd_pending *fault, const struct uffd_slice *slice) {
  uint64_t page = page_of(slice, fault->address);
  fault->woken = has_woken(batch, fault, page);
  fault->reach = fault->woken ? 0 : find_reach(batch, fault, slice, page);
}
