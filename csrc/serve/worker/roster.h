/*
 * The clients of a worker, and the watchdog: a thread that looks at each of them ten times a second.
 */
#ifndef UFFD_SERVE_ROSTER_H
#define UFFD_SERVE_ROSTER_H

#include <pthread.h>

#include "serve/worker/serving.h"

struct uffd_roster {
  struct uffd_serving *clients; /* read by both threads; changed by the main thread only, under the lock */
  pthread_mutex_t lock;
  pthread_cond_t left;            /* the watchdog has finished with a client */
  struct uffd_serving *inspected; /* the watchdog is looking at it: it must not be freed */
  bool stop;
  struct uffd_supply *supply; /* whose images the watchdog looks at, too */
  pthread_t watchdog;
};

int uffd_roster_open(struct uffd_roster *roster,
                     struct uffd_supply *supply);   /* starts the watchdog. -errno with a sentence */
void uffd_roster_close(struct uffd_roster *roster); /* stops it; the clients stay */
void uffd_roster_add(struct uffd_roster *roster, struct uffd_serving *serving);
void uffd_roster_remove(struct uffd_roster *roster, struct uffd_serving *serving); /* waits for the watchdog */
/* NULL: none. Those that the supervisor does not know of are not found. */
struct uffd_serving *uffd_roster_find(const struct uffd_roster *roster, uint64_t client);

#endif
