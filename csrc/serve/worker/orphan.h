/*
 * Forked children that the supervisor has been told of and has not answered for yet. The worker keeps copies of their
 * descriptors until then.
 */
#ifndef UFFD_SERVE_ORPHAN_H
#define UFFD_SERVE_ORPHAN_H

#include <pthread.h>
#include <stdatomic.h>

#include "serve/worker/mouth.h"

struct uffd_orphan {
  struct uffd_orphan *next;
  uint64_t number; /* of the message */
  uint64_t image;  /* number of its parent's; 0: none */
  int object_fd, book_fd;
};

struct uffd_orphans {
  pthread_mutex_t lock;
  struct uffd_orphan *list;
  _Atomic uint64_t last_number;
  int wake_fd; /* an eventfd: wakes the main thread when the supervisor could not be told */
};

/* Passes a child's descriptor on to the supervisor: one system call. Its number. Any thread. */
uint64_t uffd_orphan_announce(struct uffd_orphans *orphans, const struct uffd_mouth *mouth, uint64_t parent,
                              int object_fd, uint32_t index);
/* Sends its book after it. 0: the descriptors are taken; -ENOMEM. Any thread. */
int uffd_orphan_tell(struct uffd_orphans *orphans, const struct uffd_mouth *mouth, uint64_t parent, uint64_t number,
                     uint64_t image, int object_fd, int book_fd);
struct uffd_orphan *uffd_orphan_take(struct uffd_orphans *orphans, uint64_t number); /* NULL: there is none */
bool uffd_orphans_of(struct uffd_orphans *orphans, uint64_t image);     /* is there one whose parent has the image? */
struct uffd_orphan *uffd_orphan_take_any(struct uffd_orphans *orphans); /* NULL: there is none */

#endif
