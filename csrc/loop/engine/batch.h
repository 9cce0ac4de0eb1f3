/*
 * Faults that wait together: answered by address, neighbours in one, and none twice. All of them were asleep before the
 * first is answered, and an ioctl wakes whoever sleeps in its range: what it has covered needs no answer of its own.
 */
#ifndef UFFD_LOOP_BATCH_H
#define UFFD_LOOP_BATCH_H

#include "loop/loop.h"

/* The queue from place first on. */
void uffd_batch_begin(struct uffd_handler_state *handler, uint32_t first);
/* The next fault, or NULL after the last. */
struct uffd_pending *uffd_batch_next(struct uffd_handler_state *handler);
void uffd_batch_end(struct uffd_handler_state *handler);

/* The sleepers of [start, end), or the writers of the page at start, were woken. */
void uffd_batch_woke(struct uffd_handler_state *handler, const struct uffd_source *source, uint64_t start,
                     uint64_t end);
void uffd_batch_woke_writers(struct uffd_handler_state *handler, const struct uffd_source *source, uint64_t page);
/* What was woken last did not get what it waits for: its twins are answered by themselves. */
void uffd_batch_forget(struct uffd_handler_state *handler);
/* Whoever has that fault was woken in this walk. */
bool uffd_batch_has_woken(const struct uffd_handler_state *handler, const struct uffd_source *source, uint64_t page,
                          uint64_t flags);

/* The end of the run of pages that wait for the same as the fault being answered, at page of that slice. */
uint64_t uffd_batch_reach(const struct uffd_handler_state *handler, const struct uffd_slice *slice, uint64_t page,
                          uint64_t flags);

#endif
