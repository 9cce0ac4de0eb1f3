/*
 * One pass of a reader: wait, drain, events first, then faults, then jobs.
 */
#ifndef UFFD_LOOP_ENGINE_HANDLER_H
#define UFFD_LOOP_ENGINE_HANDLER_H

#include "loop/engine/reader.h"

/*
 * Waits up to timeout_ns (UINT64_MAX: for ever), drains, applies events, answers faults, runs jobs. Returns the number
 * of faults answered.
 */
unsigned uffd_handler_pass(struct uffd_reader *reader, uint64_t timeout_ns);
/*
 * The parts of a pass for those who wait in another way: what has come (a descriptor that is readable; every source
 * may have something), and what is then done. woken: something came.
 */
void uffd_handler_readable(struct uffd_reader *reader, int fd);
void uffd_handler_readable_all(struct uffd_reader *reader);
unsigned uffd_handler_work(struct uffd_reader *reader, bool woken);
/* Nanoseconds after which a pass has something to do even if no descriptor says so; UINT64_MAX: never. */
uint64_t uffd_handler_due(const struct uffd_reader *reader);
/*
 * Applies what a predecessor had read, as the ledger says, and lets all faults be told again. Under the loop's lock,
 * which whoever waits for it holds. 0 or -errno with a sentence, the reader's.
 */
int uffd_handler_take_over(struct uffd_reader *reader);
/* Wakes everything that is kept, cancels jobs. The reader's last act. */
void uffd_handler_finish(struct uffd_reader *reader);
/* When it has finished and the regions are unregistered: lets those go who wait for events to be read. */
void uffd_handler_let_go(struct uffd_reader *reader);

#endif
