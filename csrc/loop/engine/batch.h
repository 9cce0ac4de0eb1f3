/*
 * Faults that wait together: answered by address, neighbours in one, and none twice. All of them were asleep before the
 * first is answered, and an ioctl wakes whoever sleeps in its range: what it has covered needs no answer of its own.
 */
#ifndef UFFD_LOOP_ENGINE_BATCH_H
#define UFFD_LOOP_ENGINE_BATCH_H

#include "loop/line/line.h"

#define UFFD_QUEUE_MAX 1024u /* faults that a reader keeps; more are told again when there is room */

/* One pass over the queue: its order, and who was woken meanwhile. Empty unless faults are being answered. */
struct uffd_batch {
  struct uffd_pending *queue;
  uint32_t count, next;             /* of order[] */
  uint16_t order[UFFD_QUEUE_MAX];   /* places in the queue, by source and address */
  const struct uffd_source *source; /* of the two below; NULL: none was woken yet */
  uint64_t low, high;               /* addresses: filled, or found there */
  uint64_t unprotected;             /* page; 0: none */
};

/* The faults at the places from first to queued, but for those that wait. The queue stays as it was read. */
void uffd_batch_begin(struct uffd_batch *batch, struct uffd_pending *queue, uint32_t first, uint32_t queued);
/* The next fault, or NULL after the last. */
struct uffd_pending *uffd_batch_next(struct uffd_batch *batch);
/* Tells the next fault, which is in this slice, what the batch knows of it: was it woken, how far does its run reach.
 */
void uffd_batch_prepare(const struct uffd_batch *batch, struct uffd_pending *fault, const struct uffd_slice *slice);
/* Keeps whom the answer to a fault of this source has woken. */
void uffd_batch_note(struct uffd_batch *batch, const struct uffd_source *source, const struct uffd_filled *filled);
void uffd_batch_end(struct uffd_batch *batch);

#endif
