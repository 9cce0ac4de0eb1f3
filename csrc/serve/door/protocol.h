/*
 * A wire protocol by which clients come: what the bytes of a connection mean. Which descriptors belong to a handshake
 * is the connection's business: in all protocols the userfaultfd comes first.
 */
#ifndef UFFD_SERVE_PROTOCOL_H
#define UFFD_SERVE_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>

#include "serve/door/handshake.h"
#include "serve/door/regions.h"

enum uffd_feed {
  UFFD_FEED_NOTHING = 0, /* all bytes are used, no handshake has begun */
  UFFD_FEED_MORE = 1,    /* all bytes are used, a handshake has begun */
  UFFD_FEED_WHOLE = 2,   /* a handshake ended with the last used byte */
  UFFD_FEED_BYE = 3,     /* the client says that it needs no pager any more */
  UFFD_FEED_NOTICE = 4   /* the handshake is a notice, which ended with the last used byte */
};

/* What a client is told. */
struct uffd_response {
  uint64_t client; /* 0: refused */
  bool known;      /* it was served already, and came again */
  const char *why; /* it is refused: a sentence */
  bool is_stat;    /* the size of the image was asked for, */
  uint64_t size;   /* and this is it, bytes */
  uint64_t token;  /* what clients share was asked for: size bytes of the descriptor fd; 0: it was not */
  int fd;          /* sent with the answer, where there is a token */
};

struct uffd_door_kind {
  const char *name;
  /*
   * A handshake names a task of the pager's image (handshake.task) and has no regions. Many come by one connection, of
   * which the process that connected is none. They come when they come: only one that has begun must be whole in time.
   */
  bool by_task;
  size_t state_size; /* of a connection's state, which is zero at first */
  /*
   * Takes the next bytes of the stream and counts in *used those that belong to the handshake. WHOLE: regions and
   * regions_count of the handshake are set, in the order of the message, unchecked. -errno with a sentence: refused.
   */
  int (*feed)(void *state, const struct uffd_door_limits *limits, const char *bytes, size_t length, size_t *used,
              struct uffd_handshake *handshake);
  /*
   * The answer to a client. Writes at most size bytes, returns their number. Clients that do not know of answers must
   * not be harmed by one.
   */
  size_t (*answer)(const struct uffd_response *response, char *text, size_t size);
  bool (*is_blank)(char c); /* may the byte stand between two handshakes? */
  void (*release)(void *state);
};

#endif
