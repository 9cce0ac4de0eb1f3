/*
 * The book of a client: a memfd that the supervisor and the client's workers share. It holds what a new worker needs to
 * go on where another one has died: the client's regions, the ledger of its loop, the pages touched so far, and the
 * last figures. Nothing of it is lost when a worker dies, at whatever moment.
 */
#ifndef UFFD_SERVE_BOOK_H
#define UFFD_SERVE_BOOK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "serve/paper/label.h"
#include "serve/paper/latency.h"
#include "uffd_pager.h"

/*
 * A reload may start a worker of another build than the supervisor, and a supervisor may take over the books of an
 * older one. What is added goes to the end of the head, where older books have zeros, and raises the version; what
 * would move an older field raises the oldest version that is understood, too.
 */
#define UFFD_BOOK_VERSION 7u
#define UFFD_BOOK_OLDEST  3u /* without socket; 4: without later; 5: without reader; 6: without shared and asker */

#define UFFD_REGIONS_MAX 4096u /* of a client: a ledger has no room for more */

/* What the client's worker is doing with it. The supervisor reads it when the worker has died. */
enum {
  UFFD_BOOK_NOBODY = 0,
  UFFD_BOOK_MAKING = 1, /* its resolver and loop are being made */
  UFFD_BOOK_SERVING = 2,
  UFFD_BOOK_YIELDED = 3 /* not read any more, another worker takes over */
};

struct uffd_figures {
  uint64_t oldest_ns; /* age of the oldest fault that is not answered */
  struct uffd_stats stats;
  struct uffd_latencies latencies;
};

/* The first pages of the book. The layout does not depend on the compiler: supervisor and worker may be two builds. */
struct uffd_book_head {
  /* set once */
  uint32_t version;
  uint32_t regions_count;
  uint64_t length; /* of the whole */
  uint64_t regions_at, ledger_at, ledger_length;
  uint64_t touched_at, record_at; /* 0: touches are not recorded */
  uint64_t pages;                 /* of all regions */
  uint64_t id, of;
  int32_t pid;
  uint32_t uid, gid;
  char label[UFFD_LABEL]; /* what an operator calls it; "": nothing. Written by the supervisor */
  uint64_t image;         /* number of the image that it is served from; 0: none. Written by the supervisor */
  _Atomic uint32_t epoch; /* raised by each supervisor that takes the client over: see uffd_book_claim() */
  /* written by the worker */
  _Atomic uint32_t phase;     /* UFFD_BOOK_*; written by the supervisor while there is no worker */
  _Atomic uint32_t preparing; /* 1: the worker that is to take over is making the client */
  _Atomic uint32_t published; /* figures[published % 2] are valid, the other element is being written. 0: none yet */
  struct uffd_figures figures[2];
  /* written by the handler of the client's loop */
  _Atomic uint64_t answered; /* faults */
  _Atomic uint64_t recorded; /* touches at record_at */
  /* set once */
  char socket[UFFD_SOCKET_PATH]; /* by which the client came; "": not known */
  _Atomic uint32_t later;        /* 1: nothing is prefetched until the client says so. Written by the supervisor */
  _Atomic int32_t reader;        /* pid of the worker that has claimed it last; 0: none yet */
  uint32_t shared; /* 1: its memory is a private mapping of what its image shares. Set once, by the supervisor */
  int32_t asker;   /* pid of the process that brought it; 0: not known. Written by the supervisor */
};

struct uffd_book {
  int fd;                      /* -1: none */
  struct uffd_book_head *head; /* mapped, all of it */
  uint64_t length;
};
#define UFFD_BOOK_INIT                                                                                                 \
  { -1, NULL, 0 }

/* A new book. Errors: -EMFILE, -ENOMEM, ... */
int uffd_book_create(const struct uffd_client *client, bool record, struct uffd_book *book);
/* Maps a book that was received; owns fd when it succeeds. -EINVAL: not a book, or of another version. */
int uffd_book_open(int fd, struct uffd_book *book);
/* A book for a forked child; its ledger is all zeros. */
int uffd_book_fork(const struct uffd_book *parent, struct uffd_book *child);
void uffd_book_close(struct uffd_book *book);

/*
 * Who reads the client's faults has a lock on its book, which the kernel takes away when that process dies; closing the
 * book gives it back. A worker of an earlier epoch must not claim it any more. -EBUSY another worker has it; -ESTALE
 * the epoch is over.
 */
int uffd_book_claim(const struct uffd_book *book, uint32_t epoch);
int32_t uffd_book_holder(const struct uffd_book *book); /* pid of the worker that has the lock; 0: none */

/* Its loop has seen all of its memory unmapped: events tell of that. Any process, at any time. */
bool uffd_book_unmapped(const struct uffd_book *book);

const struct uffd_client_region *uffd_book_regions(const struct uffd_book *book);
void *uffd_book_ledger(const struct uffd_book *book);

/* The worker's watchdog writes figures, the supervisor reads them at any time. */
void uffd_book_publish(const struct uffd_book *book, const struct uffd_figures *figures);
/* False: the present worker has published none yet. */
bool uffd_book_figures(const struct uffd_book *book, struct uffd_figures *figures);
/* By the supervisor while there is no worker: forgets the figures, the next worker publishes its own. */
void uffd_book_reset(const struct uffd_book *book);

/*
 * By the handler: a page was touched. page: its number, counted through all regions; offset: in the image, bytes. Only
 * the first touch of a page is kept. Does nothing when the book has no record.
 */
void uffd_book_touch(const struct uffd_book *book, uint64_t page, uint64_t offset, uint64_t flags);
/* The index-th touch, index < recorded. */
struct uffd_touch uffd_book_touched(const struct uffd_book *book, uint64_t index);

#endif
