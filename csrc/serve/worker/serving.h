/*
 * A client in its worker: a loop of its own with one handler, so that no client waits for another.
 */
#ifndef UFFD_SERVE_SERVING_H
#define UFFD_SERVE_SERVING_H

#include <pthread.h>

#include "serve/paper/book.h"
#include "serve/paper/descriptors.h"
#include "serve/worker/flaws.h"
#include "serve/worker/mouth.h"
#include "serve/worker/orphan.h"
#include "serve/worker/supply.h"

/* What a client's parts may use of the worker. All of it lives longer than the client. */
struct uffd_shop {
  struct uffd_supply supply;
  struct uffd_mouth mouth;
  struct uffd_orphans orphans;
};

/* A region of a client: what callbacks and the trace find as their cookie. */
struct uffd_place {
  struct uffd_client_region is; /* first: callbacks see the cookie as a struct uffd_client_region */
  struct uffd_serving *serving;
  uint64_t first_page; /* in the book, where pages are counted through all regions */
  uffd_memory *memory;
  uffd_region *region;
  uffd_prefetch *prefetch;
  bool replaying; /* the prefetch is of the working set; the rest of the region may follow */
};

#define UFFD_CHILDREN 64 /* at least as many as one read(2) of the loop tells of */

struct uffd_serving {
  struct uffd_serving *next; /* of the worker's list: see roster.h */
  struct uffd_shop *shop;
  const struct uffd_stock *stock; /* the image that it is served from; NULL: none */
  struct uffd_book book;
  struct uffd_client client;
  int fds[UFFD_HANDSHAKE_FDS];
  int pidfd;
  uint32_t epoch; /* of the book, when it was handed over */
  uffd_object *object;
  uffd_loop *loop;
  uffd_resolver *resolver;
  struct uffd_place *places; /* one a region */
  bool held;                 /* made and not started */
  bool unsupervised;         /* the supervisor does not know of it */
  /* the handler's: numbers of the forked children that were announced, and whose books have not been made yet */
  uint64_t announced[UFFD_CHILDREN];
  uint32_t announced_count;
  uint64_t forks_ns; /* when its forks so far are paid for: see slow_down() */
  /* the watchdog's */
  uint64_t late_ns; /* when the last fault that was reported as late was read */
  struct uffd_flaws flaws;
  /* prefetching: the main thread begins it, the watchdog goes on */
  pthread_mutex_t filling_lock; /* of the places' prefetch and replaying */
  bool filling;
  /* completing */
  bool completing;
  pthread_t completer;
};

/* What the supervisor has handed over. What is taken out is replaced by -1. */
struct uffd_parcel {
  const struct uffd_stock *stock;
  int object_fd, pidfd;
  struct uffd_book book;
  uint32_t fds_count;
  int fds[UFFD_HANDSHAKE_FDS];
};

void uffd_parcel_close(struct uffd_parcel *parcel);
/* Makes a client without reading its faults. -errno with a sentence: the parcel's descriptors are closed then, the
 * memory stays registered. */
int uffd_serving_make(struct uffd_shop *shop, struct uffd_parcel *parcel, struct uffd_serving **made);
int uffd_serving_start(struct uffd_serving *serving); /* begins to read faults */
/* Stops reading, leaves the memory as it is, publishes the last figures, frees. phase: UFFD_BOOK_*. */
void uffd_serving_end(struct uffd_serving *serving, uint32_t phase);
void uffd_serving_complete(struct uffd_serving *serving); /* in a thread, which tells the supervisor when it is done */
void uffd_serving_inspect(struct uffd_serving *serving);  /* by the watchdog: figures, late faults, failures */

#endif
