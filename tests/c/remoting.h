/*
 * For tests of images that lie elsewhere: an HTTP server of our own, in threads of the test, that can give every wrong
 * answer, and counts what it is asked for.
 */
#ifndef UFFD_TESTS_REMOTING_H
#define UFFD_TESTS_REMOTING_H

#include <stdint.h>

#include "check.h"
#include "uffd_image.h"

/* How it answers requests for ranges. */
#define REMOTING_MANNERS(X)                                                                                            \
  X(RIGHT)                                                                                                             \
  X(STALL)                                                                                                             \
  X(SILENT)                                                                                                            \
  X(DROP)                                                                                                              \
  X(RESET)                                                                                                             \
  X(SHORT)                                                                                                             \
  X(SHORT_LIE)                                                                                                         \
  X(LONG)                                                                                                              \
  X(ALL)                                                                                                               \
  X(OTHER)                                                                                                             \
  X(NO_RANGE)                                                                                                          \
  X(BAD_RANGE)                                                                                                         \
  X(OTHER_ETAG)                                                                                                        \
  X(OTHER_VERSION)                                                                                                     \
  X(OTHER_TOTAL)                                                                                                       \
  X(STATUS_204)                                                                                                        \
  X(STATUS_416)                                                                                                        \
  X(STATUS_412)                                                                                                        \
  X(STATUS_503)                                                                                                        \
  X(STATUS_503_FOR_LONG)                                                                                               \
  X(STATUS_404)                                                                                                        \
  X(STATUS_403)                                                                                                        \
  X(REDIRECT)                                                                                                          \
  X(REDIRECT_TO_FILE)                                                                                                  \
  X(REDIRECT_FOR_EVER)                                                                                                 \
  X(GZIP)                                                                                                              \
  X(MULTIPART)                                                                                                         \
  X(DRIP)                                                                                                              \
  X(NO_ETAG)                                                                                                           \
  X(WEAK_ETAG)
enum remoting_manner {
#define REMOTING_NAME(name) REMOTING_##name,
  REMOTING_MANNERS(REMOTING_NAME)
#undef REMOTING_NAME
      REMOTING_COUNT
};
extern const char *const remoting_names[REMOTING_COUNT];

/* A file of the server. */
struct remoting_file {
  const char *name;
  const unsigned char *bytes;
  uint64_t length;
  uint64_t claimed; /* what the server says its length is: it sends the same 64 KiB again and again; 0: it is length */
  char etag[32];
  char date[48];    /* a header line, sent where the ETag is not, or is weak */
  char version[32]; /* its id, where the server keeps versions; "" none */
};

#define REMOTING_FILES  8u
#define REMOTING_CHUNKS 1024u
#define REMOTING_COPIES 64u

struct remoting {
  int fd;
  unsigned port;
  pthread_t thread;
  pthread_mutex_t lock; /* of what follows */
  struct remoting_file files[REMOTING_FILES];
  unsigned files_count;
  unsigned char *copies[REMOTING_COPIES]; /* of files, old ones too: an answer may be under way */
  unsigned copies_count;
  enum remoting_manner manner;
  unsigned times;                    /* that the manner is kept; 0: for ever */
  const enum remoting_manner *turns; /* of the next requests, one each; then the manner */
  unsigned turns_count;
  unsigned requests;    /* for ranges */
  const char *must_say; /* a header line that each request must have, or it gets 403; NULL: none */
  bool (*admits)(const char *request, void *ctx); /* or this decides; NULL: all are let in */
  void *admits_ctx;
  bool keeps_versions;              /* as a store does: each file that is added stays, and is had by its id */
  bool only_judges;                 /* who is let in gets status 204: for another server that asks this one */
  unsigned chunks[REMOTING_CHUNKS]; /* how often each 64 KiB of any file was asked for */
};

/* The server lives until the test ends. */
struct remoting *remoting_start(void);
/* The server keeps a copy. The ETag is of the name, and of how often the name was given. */
void remoting_add(struct remoting *server, const char *name, const unsigned char *bytes, uint64_t length);
/* The server says that its file of that name is so long: see claimed. */
void remoting_claim(struct remoting *server, const char *name, uint64_t length);
/* One byte of the file becomes another, and nothing else does: the server says nothing of it. */
void remoting_flip(struct remoting *server, const char *name, uint64_t at);
/* Each request must have this header line, or gets status 403. */
void remoting_demand(struct remoting *server, const char *line);
const char *remoting_url(const struct remoting *server, const char *name);
/* From now on, so many times (0: for ever). */
void remoting_behave(struct remoting *server, enum remoting_manner manner, unsigned times);
/* The next count requests, one each. The list stays the caller's. */
void remoting_take_turns(struct remoting *server, const enum remoting_manner *turns, unsigned count);
unsigned remoting_requests(struct remoting *server);
void remoting_forget(struct remoting *server);   /* counts from 0 again */
unsigned remoting_most(struct remoting *server); /* how often the chunk was asked for that was asked for most often */

/* Opens with a cache in a directory of the test's ("" for none) and this patience (ms; 0: the default). */
int remoting_try(const char *uri, const char *cache, uint32_t patience_ms, uffd_image **image);
uffd_image *remoting_open(const char *uri, const char *cache, uint32_t patience_ms);

#endif
