/*
 * The worker's parts: a client that is served here is a loop of its own, with one handler, so that no client waits for
 * another. The main thread makes and ends them as the supervisor says; the watch publishes their figures.
 */
#ifndef UFFD_SERVE_SERVING_H
#define UFFD_SERVE_SERVING_H

#include <pthread.h>

#include "serve/paper/book.h"
#include "serve/paper/channel.h"

struct uffd_work;

/* A region of a client: what callbacks and the trace find as their cookie. */
struct uffd_place {
  struct uffd_client_region is; /* first: the cookie is this to callbacks */
  struct uffd_serving *serving;
  uint64_t first_page; /* in the book */
  uffd_memory *memory;
  uffd_region *region;
  uffd_prefetch *prefetch;
  bool replaying; /* the prefetch is of the working set; all the rest may follow */
};

struct uffd_serving {
  struct uffd_serving *next; /* of the worker, under its lock */
  struct uffd_work *work;
  struct uffd_book book;
  struct uffd_client client;
  int fds[UFFD_HANDSHAKE_FDS];
  int pidfd;
  uffd_object *object;
  uffd_loop *loop;
  uffd_resolver *resolver;
  struct uffd_place *places; /* one a region */
  bool held;                 /* not started */
  bool unsupervised;         /* the supervisor knows nothing of it */
  /* the watch */
  uint64_t late_ns; /* the fault that was reported last, by the time it was read */
  bool failed;      /* its loop's first failure was reported */
  /* completing */
  bool completing;
  pthread_t completer;
};

struct uffd_range;

/* A forked child that the supervisor has been told of. */
struct uffd_orphan {
  struct uffd_orphan *next;
  uint64_t number;
  int object_fd, book_fd;
};

/* A worker. */
struct uffd_work {
  /* set once */
  int channel;
  int wake_fd; /* the main thread has something to do */
  struct uffd_pager_opts opts;
  uffd_resolver *image;
  struct uffd_range *replay; /* of the image, by offset */
  size_t replay_count;
  pthread_t watch;
  /* the main thread */
  bool alone; /* the supervisor is no more, or no longer wants it */
  /* all threads, under lock */
  pthread_mutex_t lock;
  pthread_cond_t left;           /* the watch has left a client */
  struct uffd_serving *clients;  /* changed by the main thread only */
  struct uffd_serving *watching; /* the watch is at it: it must not go */
  struct uffd_orphan *orphans;
  uint64_t orphans_number;
  bool stop;
};

/* What the supervisor handed over. Taken out when it has been made use of. */
struct uffd_parcel {
  int object_fd, pidfd;
  struct uffd_book book;
  uint32_t fds_count;
  int fds[UFFD_HANDSHAKE_FDS];
};

/* serving.c. 0 or -errno with a sentence; the parcel's descriptors are closed then, the registration is left alone. */
int uffd_serving_make(struct uffd_work *work, struct uffd_parcel *parcel, struct uffd_serving **made);
int uffd_serving_start(struct uffd_serving *serving); /* it was made without being read */
/* Stops reading, leaves everything as it is, publishes the last figures, frees. */
void uffd_serving_end(struct uffd_serving *serving, uint32_t phase);
void uffd_serving_complete(struct uffd_serving *serving); /* tells the supervisor when it is done */
void uffd_serving_watch(struct uffd_serving *serving);    /* figures, late faults */

/* work.c: to the supervisor; false: there is none. Any thread. */
bool uffd_work_say(struct uffd_work *work, uint32_t kind, uint64_t client, int error, const char *text);
/* A child was forked: the supervisor is told. 0: the descriptors are taken; -ENOMEM. Any thread. */
int uffd_work_forked(struct uffd_work *work, uint64_t client, int object_fd, int book_fd);

#endif
