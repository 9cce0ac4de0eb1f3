/*
 * The front door: turns what a connection brings, bytes and descriptors, into handshakes, and knows nothing else. What
 * the bytes mean is the business of a kind of door: a wire protocol. Nothing here waits: the supervisor polls.
 */
#ifndef UFFD_SERVE_DOOR_H
#define UFFD_SERVE_DOOR_H

#include "serve/door/listen.h"
#include "serve/serve.h"

struct uffd_door_limits {
  uint32_t max_bytes;    /* of a handshake */
  uint32_t max_regions;  /* of a handshake */
  uint64_t image_length; /* bytes: the regions must cover the image, no more and no less; 0: there is no image */
};

/* ---- kinds */

enum uffd_feed {
  UFFD_FEED_NOTHING = 0, /* all bytes used, no handshake has begun */
  UFFD_FEED_MORE = 1,    /* all bytes used, a handshake has begun */
  UFFD_FEED_WHOLE = 2,   /* a handshake ended with the last byte used */
  UFFD_FEED_BYE = 3      /* the client says that it needs no pager any more */
};

struct uffd_door_kind {
  const char *name;
  size_t state_size; /* of each connection, zero at first */
  /*
   * The next bytes of the stream; those of the handshake that are used are counted in *used. WHOLE: regions and
   * regions_count of the handshake are set, in the order of the message, unchecked. Or -errno with a sentence: refused.
   * Which descriptors belong to it is the connection's business: in all protocols the userfaultfd comes first.
   */
  int (*feed)(void *state, const struct uffd_door_limits *limits, const char *bytes, size_t length, size_t *used,
              struct uffd_handshake *handshake);
  bool (*is_blank)(char c); /* a byte that may stand between two handshakes */
  void (*release)(void *state);
};

/* Firecracker's: a JSON list of regions, one userfaultfd. Its descendants, nydus' clients and uffd_handoff_send() too.
 */
extern const struct uffd_door_kind uffd_door_firecracker;

/*
 * Sorts by offset. Refused are: none or too many, lengths of 0, what is not whole pages or beyond the address space,
 * page sizes that are unknown or mixed, ranges that overlap in the client or in the image, and a table that is not the
 * image's. -EINVAL, -E2BIG with a sentence.
 */
int uffd_regions_check(struct uffd_client_region *regions, uint32_t count, const struct uffd_door_limits *limits);

/* ---- the door */

struct uffd_door_opts {
  const char *path;
  mode_t mode;
  int64_t uid; /* as in uffd_pager_opts */
  const struct uffd_door_kind *kind;
  struct uffd_door_limits limits;
  uint32_t handshake_ms;
};

struct uffd_door;
struct uffd_connection;

int uffd_door_open(const struct uffd_door_opts *opts, struct uffd_door **door);
int uffd_door_fd(const struct uffd_door *door); /* polls readable when uffd_door_accept() has work */
/*
 * 1: a connection, which is the caller's and may outlive the door; 0: nobody is there. -errno with a sentence: one
 * connection was refused, there may be more.
 */
int uffd_door_accept(struct uffd_door *door, struct uffd_connection **connection);
/* Removes the socket's file if it is still ours; in a forked child it only closes. NULL is allowed. */
void uffd_door_close(struct uffd_door *door);

/* ---- connections */

/* A connection out of a stream socket; it owns fd and peer->pidfd from then on. -ENOMEM. */
int uffd_connection_make(const struct uffd_door_opts *opts, uint64_t number, int fd, const struct uffd_peer *peer,
                         struct uffd_connection **connection);
int uffd_connection_fd(const struct uffd_connection *connection);
const struct uffd_peer *uffd_connection_peer(const struct uffd_connection *connection);
uint64_t uffd_connection_number(const struct uffd_connection *connection);

/*
 * Reads what has come, a bounded amount of it. To be called when the descriptor polls readable, and when the deadline
 * has passed. 1: a handshake, now the caller's; call again. 0: nothing more for now. Otherwise it has ended:
 *   -ESHUTDOWN  the client has said that it needs no pager any more
 *   -ECONNRESET it hung up after its handshakes. It may live on: Firecracker before 1.12 hangs up at once; pidfd tells
 *   -EPIPE      it hung up before its handshake, or in the middle of one
 *   -ETIMEDOUT  the handshake is not whole in time
 *   others      refused: the sentence tells the cause and the mend
 * After a refusal nothing more is taken from the connection, and what still comes is thrown away; but it may be kept,
 * and read, to learn when its earlier clients hang up.
 */
int uffd_connection_read(struct uffd_connection *connection, struct uffd_handshake *handshake);
int64_t uffd_connection_deadline(const struct uffd_connection *connection); /* CLOCK_MONOTONIC, ns; INT64_MAX: none */
uint32_t uffd_connection_count(const struct uffd_connection *connection);   /* of handshakes so far */
void uffd_connection_close(struct uffd_connection *connection);             /* NULL is allowed */

#endif
