/*
 * What the clients of a worker are served from: the images that the supervisor has handed over.
 */
#ifndef UFFD_SERVE_SUPPLY_H
#define UFFD_SERVE_SUPPLY_H

#include <pthread.h>

#include "base/base.h"
#include "serve/paper/layers.h"
#include "uffd_pager.h"

/* An image in this worker. */
struct uffd_stock {
  struct uffd_stock *next;
  struct uffd_backing backing;
  uffd_resolver *resolver;    /* NULL: it could not be made */
  struct uffd_layers *layers; /* NULL: the resolver is that of one file, which is not layered */
  struct uffd_common *common; /* what clients share of it; NULL: nothing */
  uffd_resolver *shared;      /* for clients that share; NULL: none does, or it could not be made: common_why */
  struct uffd_sentence common_why;
  int error; /* why the resolver could not be made: an errno */
  struct uffd_sentence why;
  uint64_t trusted;          /* a bit a file: the resolver gives its contents without looking at the file */
  struct uffd_range *replay; /* by offset; NULL: no working set is replayed */
  size_t replay_count;
};

struct uffd_supply {
  struct uffd_pager_opts opts;
  pthread_mutex_t lock; /* of the list: the main thread changes it, the watchdog walks it */
  struct uffd_stock *stocks;
};

/* An image has come. Its failure is kept, and told for each client of it. -errno: its working set cannot be had. */
int uffd_supply_add(struct uffd_supply *supply, const struct uffd_message *message, int *fds);
void uffd_supply_drop(struct uffd_supply *supply, uint64_t number);
/* NULL, and a sentence: there is none, or it failed (*error). Main thread. */
const struct uffd_stock *uffd_supply_find(const struct uffd_supply *supply, uint64_t number, int *error);
/* Images that somebody wants to change are read with a look at the file from now on. Any thread, ten times a second. */
void uffd_supply_look(struct uffd_supply *supply);
void uffd_supply_close(struct uffd_supply *supply);

#endif
