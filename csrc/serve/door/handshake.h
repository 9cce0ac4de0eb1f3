/*
 * What a client hands over.
 */
#ifndef UFFD_SERVE_HANDSHAKE_H
#define UFFD_SERVE_HANDSHAKE_H

#include <stdbool.h>

#include "serve/paper/descriptors.h"
#include "serve/paper/label.h"
#include "uffd_pager.h"

/*
 * Checked. Its owner owns its descriptors, all of them O_CLOEXEC, and its regions. Whoever takes one of them out puts
 * -1 or NULL in its place; uffd_handshake_release() gives back the rest.
 */
struct uffd_handshake {
  uint64_t connection; /* number of the connection that it came by */
  int object_fd;       /* a userfaultfd, after its UFFDIO_API, O_NONBLOCK */
  int pidfd;           /* of the process that connected; -1: unknown, it is in a pid namespace that we cannot see */
  int32_t pid;         /* as we see it; 0: unknown */
  uint32_t uid;
  uint32_t gid;
  uint32_t regions_count;
  struct uffd_client_region *regions; /* sorted by offset, checked by uffd_regions_check() */
  uint32_t fds_count;
  int fds[UFFD_HANDSHAKE_FDS];   /* that came after the userfaultfd */
  bool wants_answer;             /* the client waits to be told whether it is served */
  char label[UFFD_LABEL];        /* what the client calls itself; "": nothing */
  char socket[UFFD_SOCKET_PATH]; /* path of the socket that it came by */
};
#define UFFD_HANDSHAKE_INIT                                                                                            \
  { .object_fd = -1, .pidfd = -1 }

/* Closes and frees what is left in it, and sets it to UFFD_HANDSHAKE_INIT. */
void uffd_handshake_release(struct uffd_handshake *handshake);

#endif
