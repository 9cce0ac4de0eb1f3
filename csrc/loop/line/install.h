/*
 * Turning an answer into ioctls, and what they say into an outcome.
 */
#ifndef UFFD_LOOP_LINE_INSTALL_H
#define UFFD_LOOP_LINE_INSTALL_H

#include "loop/line/lane.h"
#include "loop/pages/source.h"

#define UFFD_OUTCOME_ABSENT 5u /* inside only: CONTINUE found nothing in the page cache */

/* What a step of the line has done. Small: it is returned at each step of a fault. */
struct uffd_filled {
  uint32_t outcome;    /* UFFD_OUTCOME_*, of the faulting page */
  int error;           /* FAILED: the errno */
  uint8_t page_kind;   /* UFFD_ANSWER_*, as which the faulting page went in; LATER: it did not */
  bool poisoned;       /* the faulting page is poison, by this step or another */
  bool other_way;      /* some bytes went in in another way than was asked for */
  bool unprotected;    /* only writers were woken, of one page */
  bool later;          /* DEFERRED: the resolver has not got the answer yet */
  bool unread;         /* FAILED: the answer's file did not give the bytes, and the thread's sentence says why */
  uint64_t bytes;      /* filled; poison fills none */
  uint64_t woke_start; /* whoever slept in [woke_start, woke_end) was woken: addresses, the last run of them */
  uint64_t woke_end;   /* 0: nobody was */
};

struct uffd_install {
  struct uffd_source *source;
  const struct uffd_slice *slice;
  uint64_t page;                 /* address of the faulting page */
  uint64_t dst;                  /* first address answered */
  uint64_t length;               /* bytes; only BYTES and FILE may end within a page */
  const void *data;              /* BYTES, MOVE */
  uint64_t file_offset;          /* FILE: where the first byte answered lies */
  const uffd_resolver *verifier; /* FILE: who knows whether the file has changed; NULL: nobody */
  int fd;                        /* FILE */
  uint32_t kind;                 /* UFFD_ANSWER_*; uffd_install() does not know FILE: see bulk.h */
  bool wp;                       /* arrives write-protected */
  bool minor;                    /* the page cache has the page, as the fault said */
  bool doubted;                  /* CONTINUE: a page of zeros that is not known as filled is ABSENT */
  bool first_write;              /* the faulting page arrives unprotected, for a write that is watched for */
  bool quiet;                    /* whoever sleeps is woken by the caller, when he has written his record */
};

struct uffd_filled uffd_install(struct uffd_lane *lane, const struct uffd_install *install);
struct uffd_filled uffd_unprotect(struct uffd_lane *lane, struct uffd_source *source, uint64_t page, uint64_t page_size,
                                  bool quiet);

/* Adds what another step has done to *sum. Outcome, error and page_kind stay *sum's. */
void uffd_filled_add(struct uffd_filled *sum, const struct uffd_filled *more);
/* Whoever sleeps in [start, end) was woken. Ranges come by address: the last one, with what it touches, is enough. */
void uffd_filled_woke(struct uffd_filled *filled, uint64_t start, uint64_t end);

#endif
