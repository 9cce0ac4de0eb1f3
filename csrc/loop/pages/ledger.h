/*
 * The ledger: what a process that serves another one must leave to its successor, in memory that outlives it. Page
 * states, where the regions lie, and the messages that were read. A process may be killed between any two
 * instructions: what is written last makes what was written before count.
 */
#ifndef UFFD_LOOP_LEDGER_H
#define UFFD_LOOP_LEDGER_H

#include "loop/pages/source.h"

#define UFFD_LEDGER_REGIONS 4096u
#define UFFD_LEDGER_SLICES  16384u

/* As it was added. */
struct uffd_ledger_region {
  uint64_t start, length, page_size;
  uint64_t first;          /* of its page states */
  _Atomic uint64_t placed; /* its slices have been in a table: when there are none, none is left */
};

struct uffd_ledger_slice {
  uint64_t start, end, offset;
  uint32_t region, moved;
};

struct uffd_ledger_table {
  uint64_t applied; /* the number of the last message that the slices account for */
  uint64_t count;
  struct uffd_ledger_slice slices[UFFD_LEDGER_SLICES];
};

/* In the caller's memory, shared with other processes. */
struct uffd_ledger_book {
  _Atomic uint64_t magic; /* 0: new */
  uint64_t version;
  uint64_t size;
  _Atomic uint64_t base;     /* messages before those in the buffer */
  _Atomic uint64_t sequence; /* the table that counts is tables[sequence % 2] */
  _Atomic uint64_t regions_count;
  _Atomic uint64_t lost; /* 1: the tables lack pieces, or a change was not followed: other places are poison */
  uint64_t unused[505];
  struct uffd_raw_msg messages[UFFD_READ_MAX]; /* read(2) writes here; event 0: none */
  uint64_t unused_too[256];
  struct uffd_ledger_region regions[UFFD_LEDGER_REGIONS];
  struct uffd_ledger_table tables[2];
  _Atomic uint8_t pages[]; /* enum uffd_page */
};
_Static_assert(offsetof(struct uffd_ledger_book, messages) == BASE_PAGE, "the messages lie in a page of their own");

/* A loop's hold on it: its reader's alone, but for what is said to be under the loop's lock. */
struct uffd_ledger {
  struct uffd_ledger_book *book;
  uint64_t size;
  uint64_t pages_max;
  uint32_t added;             /* regions, under the loop's lock */
  struct uffd_terms *entered; /* of those regions, under the loop's lock; the newest first */
  uint32_t old;               /* regions that a predecessor has entered */
  bool clean;                 /* the page states of no region are ABSENT, under the loop's lock */
  bool resumed;               /* the book was not new, and its messages are not applied yet */
  uint32_t used;              /* messages in the buffer */
  uint64_t applied;           /* the number of the last message that was applied */
};

/* Takes the memory, which is new or another process's ledger: 0, or -EINVAL, -ENOMEM with a sentence. */
int uffd_ledger_open(void *memory, uint64_t size, struct uffd_ledger **opened);
/* Under the loop's lock: the region's page states, old or new. 0, or -EINVAL with a sentence. */
int uffd_ledger_enter(struct uffd_ledger *ledger, struct uffd_terms *terms);
void uffd_ledger_leave(struct uffd_ledger *ledger, struct uffd_terms *terms); /* the newest one: adding it failed */

/* The reader's. Puts the slices that the region had into source: their number, or -ENOMEM. */
int uffd_ledger_take_slices(const struct uffd_ledger *ledger, const struct uffd_terms *terms,
                            struct uffd_source *source);
/* The same for all regions, from what the ledger holds now. Under the loop's lock. 0 or -errno with a sentence. */
int uffd_ledger_refresh(struct uffd_ledger *ledger, struct uffd_source *source);
/* The region's first slices are, or were, in the table. */
bool uffd_ledger_is_placed(const struct uffd_ledger *ledger, const struct uffd_terms *terms);
/*
 * Makes source's slices, which account for everything that was applied, those that count: 0. -ENOSPC: only as many as
 * the table holds, and the ledger says that some are lost.
 */
int uffd_ledger_commit(struct uffd_ledger *ledger, const struct uffd_source *source);
void uffd_ledger_lose(struct uffd_ledger *ledger); /* a change of mappings could not be followed: see uffd_source */
bool uffd_ledger_has_lost(const struct uffd_ledger *ledger);
/* One read(2) into the ledger; the messages are copied out: their number or -errno. */
int uffd_ledger_read(struct uffd_ledger *ledger, int fd, struct uffd_raw_msg *messages);
/* The messages that a predecessor has read and perhaps not applied: the next one and its number, or false. */
bool uffd_ledger_next(struct uffd_ledger *ledger, struct uffd_raw_msg *message);
/* The index-th message of the last read was a fork, whose child is in another process's hands too. */
void uffd_ledger_pass_on(struct uffd_ledger *ledger, uint32_t index);
/* A ledger of its own for a forked child, as its parent's is now, without messages; NULL: no memory. */
void *uffd_ledger_copy(const struct uffd_ledger *ledger);

#endif
