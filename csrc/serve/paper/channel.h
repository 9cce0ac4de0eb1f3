/*
 * The channel between the supervisor and a worker: messages of one size over a SOCK_SEQPACKET pair, with descriptors.
 */
#ifndef UFFD_SERVE_CHANNEL_H
#define UFFD_SERVE_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "serve/paper/descriptors.h"

#define UFFD_CHANNEL_VERSION 4u
#define UFFD_MESSAGE_FDS                                                                                               \
  (3 + 2 * 64) /* an image's: its list, two of each layer, a working set, what is shared. The kernel's limit is 253 */
#define UFFD_MESSAGE_TEXT 472u /* bytes */

enum {
  /* to the worker */
  UFFD_SAY_IMAGE = 1, /* see backing.h. It comes before the clients that are served from it */
  UFFD_SAY_DROP,      /* number: no client is served from this image any more */
  UFFD_SAY_SERVE,     /* client, number: of its image, 0: none; fds: object, book, and what flags say */
  UFFD_SAY_START,     /* client: it is held, serve it now */
  UFFD_SAY_YIELD,     /* client: stop serving it and leave everything as it is, another worker takes over */
  UFFD_SAY_RELEASE,   /* client: it is gone, or needs no pager any more */
  UFFD_SAY_COMPLETE,  /* client: fill its memory and unregister it */
  UFFD_SAY_ADOPTED,   /* number: the forked child is a client now; error: it cannot be one, serve it yourself */
  UFFD_SAY_RETIRE,    /* no more clients will come: end */
  UFFD_SAY_FILL,      /* client: it has come with "later", and says that its memory is to be filled now */
  UFFD_SAY_PING,      /* does your main thread still obey? */
  /* to the supervisor */
  UFFD_SAY_READY,
  UFFD_SAY_PONG,      /* it does */
  UFFD_SAY_SERVING,   /* client, number: ns that making it took; error, text: it cannot be served */
  UFFD_SAY_HELD,      /* client: made, waits for START; error, text: it cannot be served */
  UFFD_SAY_YIELDED,   /* client: this worker does not read its object any more */
  UFFD_SAY_RELEASED,  /* client */
  UFFD_SAY_COMPLETED, /* client; error, text: some of it could not be filled, and it is still served */
  UFFD_SAY_FORKED,    /* client, number, flags: index in the ledger; fds: the child's object. Its book follows */
  UFFD_SAY_BOOK,      /* client, number: of FORKED; fds: the child's book; error: there is none, it is served here */
  UFFD_SAY_LATE,      /* client, text */
  UFFD_SAY_ERROR,     /* client or 0, error, text */
  UFFD_SAY_GUARD      /* number: pid of the worker's guard */
};

enum {
  UFFD_SAY_HOLD = 1,  /* SERVE: make everything, but read no fault before START */
  UFFD_SAY_PIDFD = 2, /* SERVE: the third descriptor is a pidfd; the client's own descriptors follow */
  UFFD_SAY_ALONE = 4  /* SERVE: a worker may have died of it; those that came before it are to get on first */
};

#define UFFD_GUARD_NUMBERS (UINT64_C(1) << 63) /* of what a guard announces, from here on: its worker's are below */

struct uffd_message {
  uint32_t version;
  uint32_t kind; /* UFFD_SAY_* */
  uint32_t flags;
  int32_t error;
  uint64_t client;
  uint64_t number;
  uint32_t fds_count; /* that were sent: fewer arrive when the receiver has no descriptors left */
  uint32_t reserved;
  char text[UFFD_MESSAGE_TEXT];
};

_Static_assert(UFFD_MESSAGE_FDS >= 3 + UFFD_HANDSHAKE_FDS, "a client's descriptors fit");

/* Both ends, O_CLOEXEC. */
int uffd_channel_open(int ends[2]);
/* 0; -EAGAIN (only with wait false) without a sentence; -EPIPE the other end is closed; ... Any thread. */
int uffd_channel_send(int fd, const struct uffd_message *message, const int *fds, uint32_t count, bool wait);
/*
 * 1: a message; its descriptors, O_CLOEXEC, are in fds (UFFD_MESSAGE_FDS of them, -1 for those that are missing).
 * 0: the other end is closed. -EAGAIN: nothing has come; this function never waits. -EPROTO: what came is no message of
 * this version.
 */
int uffd_channel_receive(int fd, struct uffd_message *message, int *fds);

#endif
