/*
 * What a client hands over.
 */
#ifndef UFFD_SERVE_HANDSHAKE_H
#define UFFD_SERVE_HANDSHAKE_H

#include <stdbool.h>

#include "serve/paper/descriptors.h"
#include "serve/paper/label.h"
#include "uffd_pager.h"

/* What a client says after its handshake. */
enum uffd_notice {
  UFFD_NOTICE_NONE = 0, /* it is a handshake */
  UFFD_NOTICE_FILL = 1, /* fill the memory of what came with uffd_fill "later" */
  UFFD_NOTICE_DONE = 2, /* it needs no pager any more */
  UFFD_NOTICE_STAT = 3, /* it asks for the size of the image; also before any handshake */
  UFFD_NOTICE_SHARE = 4 /* it asks for the pages that clients share; also before any handshake */
};

/* Whose memory it is, as the client says. Nothing said: the process that connected. See owner.h. */
struct uffd_owner {
  bool by_pidfd; /* fds[0] is a pidfd of it */
  int32_t pid;   /* in the pid namespace of whoever connected, or in its own; 0: not said */
  int32_t fd;    /* the number of the userfaultfd there; -1: not said */
};
#define UFFD_OWNER_INIT                                                                                                \
  { .fd = -1 }
#define UFFD_OWNER_IS_NAMED(owner) ((owner)->by_pidfd || (owner)->pid != 0)

/*
 * Checked. Its owner owns its descriptors, all of them O_CLOEXEC, and its regions. Whoever takes one of them out puts
 * -1 or NULL in its place; uffd_handshake_release() gives back the rest. A notice has its connection, its client and
 * wants_answer, and nothing else.
 */
struct uffd_handshake {
  uint64_t connection; /* number of the connection that it came by */
  int object_fd;       /* a userfaultfd, after its UFFDIO_API, O_NONBLOCK */
  int pidfd;           /* of the process whose memory it is; -1: unknown, it is in a pid namespace that we cannot see */
  int32_t pid;         /* as we see it; 0: unknown */
  int32_t asker;       /* the process that connected; 0: unknown */
  uint32_t uid;
  uint32_t gid;
  int32_t task; /* of the image, by the number that it has there; 0: the regions tell what it is */
  uint32_t regions_count;
  struct uffd_client_region *regions; /* sorted by offset, checked by uffd_regions_check() */
  uint32_t fds_count;
  int fds[UFFD_HANDSHAKE_FDS];   /* that came after the userfaultfd */
  bool wants_answer;             /* the client waits to be told whether it is served */
  char label[UFFD_LABEL];        /* what the client calls itself; "": nothing */
  char socket[UFFD_SOCKET_PATH]; /* path of the socket that it came by */
  bool part;                     /* the regions need not cover the image */
  bool later;                    /* faults are answered at once, the rest is filled after UFFD_NOTICE_FILL */
  uint64_t token;                /* its memory is a private mapping of what has this token; 0: it is its own */
  struct uffd_owner owner;
  enum uffd_notice notice;
  uint64_t notice_client; /* that the notice is about; 0: all of the connection */
};
#define UFFD_HANDSHAKE_INIT                                                                                            \
  { .object_fd = -1, .pidfd = -1, .owner = UFFD_OWNER_INIT }

/* Closes and frees what is left in it, and sets it to UFFD_HANDSHAKE_INIT. */
void uffd_handshake_release(struct uffd_handshake *handshake);

#endif
