/*
 * What supervisor and worker say to each other: messages of one size over a SOCK_SEQPACKET pair, with descriptors.
 */
#ifndef UFFD_SERVE_CHANNEL_H
#define UFFD_SERVE_CHANNEL_H

#include "serve/serve.h"

#define UFFD_CHANNEL_VERSION 1u
#define UFFD_MESSAGE_FDS     (3 + UFFD_HANDSHAKE_FDS)

enum {
  /* to the worker */
  UFFD_SAY_SERVE = 1, /* client; fds: object, book, then as flags say */
  UFFD_SAY_START,     /* client, that was held */
  UFFD_SAY_YIELD,     /* client: let go of it, as it is, for another worker */
  UFFD_SAY_RELEASE,   /* client: it is gone, or needs no pager any more */
  UFFD_SAY_COMPLETE,  /* client: fill its memory, unregister it */
  UFFD_SAY_ADOPTED,   /* number: the forked child is a client now; error: it cannot be, serve it yourself */
  UFFD_SAY_RETIRE,    /* there is nothing left to do */
  /* to the supervisor */
  UFFD_SAY_READY,
  UFFD_SAY_SERVING,   /* client, number: ns that its making took; error, text: it cannot be served */
  UFFD_SAY_HELD,      /* client: ready to start; error, text: it cannot be served */
  UFFD_SAY_YIELDED,   /* client: nobody reads its object any more */
  UFFD_SAY_RELEASED,  /* client */
  UFFD_SAY_COMPLETED, /* client; error, text: not all of it could be filled, and it is served on */
  UFFD_SAY_FORKED,    /* client, number; fds: the child's object, its book */
  UFFD_SAY_LATE,      /* client, text */
  UFFD_SAY_ERROR      /* client or 0, error, text */
};

enum {
  UFFD_SAY_HOLD = 1,  /* SERVE: make everything, but read nothing before START */
  UFFD_SAY_PIDFD = 2, /* SERVE: a pidfd comes after the book; what follows are the client's own descriptors */
};

struct uffd_message {
  uint32_t version;
  uint32_t kind; /* UFFD_SAY_* */
  uint32_t flags;
  int32_t error;
  uint64_t client;
  uint64_t number;
  uint32_t fds_count; /* that were sent: fewer arrive when descriptors run out */
  uint32_t reserved;
  char text[472];
};

/* Both ends, O_CLOEXEC. */
int uffd_channel_open(int ends[2]);
/* 0, or -EAGAIN (wait: false) without a sentence, -EPIPE when nobody is there, ... Any thread. */
int uffd_channel_send(int fd, const struct uffd_message *message, const int *fds, uint32_t count, bool wait);
/*
 * 1 a message; its descriptors, O_CLOEXEC, are in fds (UFFD_MESSAGE_FDS of them), the missing ones as -1. 0 the other
 * end is closed. -EAGAIN nothing there (it never waits); -EPROTO what came is no message of this version.
 */
int uffd_channel_receive(int fd, struct uffd_message *message, int *fds);
void uffd_close_fds(int *fds, uint32_t count); /* those that are there; -1 afterwards */

#endif
