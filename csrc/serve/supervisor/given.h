/*
 * Descriptors that this process was started with by a service manager: sd_listen_fds(3). Sockets to listen at, and what
 * an earlier supervisor has left.
 */
#ifndef UFFD_SERVE_GIVEN_H
#define UFFD_SERVE_GIVEN_H

#include <stdbool.h>
#include <stddef.h>

#include "uffd_pager.h"

struct uffd_given {
  int fd; /* -1: taken */
  char name[64];
};

/* Finds them, and takes them out of the environment: they are not meant for workers. -ENOMEM. */
int uffd_given_open(uffd_pager *pager);
int uffd_given_take(uffd_pager *pager, const char *name); /* the caller's from then on; -1: there is none */
/* The only one whose name says nothing: a socket unit without FileDescriptorName. -1: none, or there are several. */
int uffd_given_take_unnamed(uffd_pager *pager);
bool uffd_given_is_kept_door(const char *name); /* is it a front door that a dead supervisor has opened? */
void uffd_given_close(uffd_pager *pager);

#endif
