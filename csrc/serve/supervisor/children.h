/*
 * Forked children that a worker has announced: their descriptors are here, their books follow. When the worker dies in
 * between, the book is made here, from the parent's.
 */
#ifndef UFFD_SERVE_CHILDREN_H
#define UFFD_SERVE_CHILDREN_H

#include "serve/supervisor/client.h"
#include "serve/supervisor/worker.h"

/* UFFD_SAY_FORKED, UFFD_SAY_BOOK. parent: NULL when it is no client any more. Descriptors that are kept become -1. */
void uffd_children_announced(uffd_pager *pager, const struct uffd_worker *worker, const struct uffd_message *message,
                             int *fds);
void uffd_children_booked(uffd_pager *pager, const struct uffd_supervised *parent, struct uffd_worker *worker,
                          const struct uffd_message *message, int *fds);
/* The worker has died: those that it has announced become clients. Before its clients get another worker. */
void uffd_children_inherit(uffd_pager *pager, const struct uffd_worker *worker);
void uffd_children_leave(uffd_pager *pager);  /* the pager ends: they are held as refused ones are */
void uffd_children_forget(uffd_pager *pager); /* closes and frees all */

#endif
