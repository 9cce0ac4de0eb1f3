/*
 * The book of a client: memory that the supervisor and the client's workers share, a memfd. It holds what a new worker
 * needs to go on where another has died: the client's table, the ledger of its loop, the pages touched so far, and the
 * last figures. A worker that dies loses none of it, whenever that is.
 */
#ifndef UFFD_SERVE_BOOK_H
#define UFFD_SERVE_BOOK_H

#include "serve/serve.h"

#define UFFD_BOOK_VERSION 1u /* supervisor and worker may be of different builds: a reload starts what is there */

/* How far the client's worker is with it: tells what a dead one was about. */
enum {
  UFFD_BOOK_NOBODY = 0,
  UFFD_BOOK_MAKING = 1, /* its resolver and loop are being made */
  UFFD_BOOK_SERVING = 2,
  UFFD_BOOK_YIELDED = 3 /* let go of, for another worker */
};

struct uffd_figures {
  uint64_t oldest_ns; /* age of the oldest fault that is not answered */
  struct uffd_stats stats;
};

/* The first pages. Counted in 64 bits, so that both ends may be of different compilers. */
struct uffd_book_head {
  /* set once */
  uint32_t version;
  uint32_t regions_count;
  uint64_t length; /* of the whole */
  uint64_t regions_at, ledger_at, ledger_length;
  uint64_t touched_at, record_at; /* 0: nothing is recorded */
  uint64_t pages;                 /* of all regions */
  uint64_t id, of;
  int32_t pid;
  uint32_t uid, gid;
  /* the worker */
  _Atomic uint32_t phase;     /* UFFD_BOOK_*; the supervisor's while there is no worker */
  _Atomic uint32_t preparing; /* the next worker is making it */
  _Atomic uint32_t published; /* figures[published % 2] are whole: the other is being written. 0: none yet */
  struct uffd_figures figures[2];
  /* the handler of the client's loop */
  _Atomic uint64_t answered; /* faults */
  _Atomic uint64_t recorded; /* touches in the record */
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
/* One that came along; owns fd when it succeeds. -EINVAL it is none, or of another version. */
int uffd_book_open(int fd, struct uffd_book *book);
/* That of a forked child, whose loop goes on from this ledger. */
int uffd_book_fork(const struct uffd_book *parent, const void *ledger, uint64_t length, struct uffd_book *child);
void uffd_book_close(struct uffd_book *book);

const struct uffd_client_region *uffd_book_regions(const struct uffd_book *book);
void *uffd_book_ledger(const struct uffd_book *book);

/* The worker's watch writes, the supervisor reads, any time. */
void uffd_book_publish(const struct uffd_book *book, const struct uffd_figures *figures);
/* False: none since the worker began. */
bool uffd_book_figures(const struct uffd_book *book, struct uffd_figures *figures);
/* The supervisor, while there is no worker: the figures are those of the next one from now on. */
void uffd_book_turn(const struct uffd_book *book);

/*
 * The handler: page (counted through all regions) was touched at offset in the image. Only the first time counts.
 * Nothing where nothing is recorded.
 */
void uffd_book_touch(const struct uffd_book *book, uint64_t page, uint64_t offset, uint64_t flags);
/* The index-th touch, index < recorded. */
struct uffd_touch uffd_book_touched(const struct uffd_book *book, uint64_t index);

#endif
