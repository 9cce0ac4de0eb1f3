/*
 * The one straight line: fault -> region -> resolver -> answer -> install -> outcome. Every engine walks it.
 */
#ifndef UFFD_LOOP_LINE_LINE_H
#define UFFD_LOOP_LINE_LINE_H

#include "loop/line/install.h"

/* One fault that is not answered yet. */
struct uffd_pending {
  struct uffd_source *source;
  uint64_t address; /* as read: of the page, or the byte with EXACT_ADDRESS */
  uint64_t flags;   /* UFFD_FAULT_* */
  uint64_t read_ns;
  uint64_t reach; /* end of the run of pages that wait for the same, from this page on; 0: nothing is known of others */
  uint32_t tid;
  bool woken;   /* whoever has this fault was woken meanwhile: it needs no answer of its own */
  bool waits;   /* not in this batch: put off before, and nobody has rung for it */
  bool guessed; /* no message has told it: flags say what it may be */
};

/*
 * slice: the one of fault->source that holds the address; NULL: none does. A deferred fault stays the caller's, and
 * comes again. Counts, histogram and trace are written here.
 */
struct uffd_filled uffd_line_fault(struct uffd_lane *lane, const struct uffd_pending *fault,
                                   const struct uffd_slice *slice);
/*
 * The same for [low, high) of a slice (addresses) that nobody waits for. low is absent, or its owner has dropped it:
 * then zeros go there. on_error does not apply.
 */
struct uffd_filled uffd_line_prefetch(struct uffd_lane *lane, struct uffd_source *source,
                                      const struct uffd_slice *slice, uint64_t low, uint64_t high);
/* The page at address is poison: said to be, and still there. Its owner may have dropped it. Own memory only. */
bool uffd_line_is_poison(const struct uffd_slice *slice, uint64_t address);

#endif
