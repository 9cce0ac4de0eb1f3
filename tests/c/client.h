/*
 * A second process whose memory the test serves. It maps and registers memory, sends its userfaultfd, and runs a
 * function of the test. A check that fails there ends it with 1.
 */
#ifndef UFFD_TESTS_CLIENT_H
#define UFFD_TESTS_CLIENT_H

#include "serving.h"

#define CLIENT_REGIONS 4u

struct client_opts {
  uint64_t features;
  uint64_t modes; /* 0: missing */
  uint64_t pages; /* of each region */
  unsigned count; /* of regions, at most CLIENT_REGIONS; 0: 1 */
  bool huge;      /* 2 MiB pages, lent by check_hugepages() */
  bool keeps;     /* the client keeps its descriptor, too */
  void *ctx;      /* of run */
};

/* Shared by both sides. */
struct client_shared {
  _Atomic unsigned said[2]; /* the client's step, the server's */
  _Atomic uint64_t words[8];
  _Atomic int tids[8];
};

struct client {
  pid_t pid;
  int fd;                                 /* the server's: the userfaultfd as it was received */
  unsigned char *regions[CLIENT_REGIONS]; /* addresses in the client */
  uint64_t length;                        /* of each region */
  uint64_t page;                          /* bytes */
  struct client_shared *shared;
  bool here; /* this is the client's side */
  void *ctx;
};

struct client client_start(const struct client_opts *opts, void (*run)(struct client *client));
/* check: this side has come to a step. await: waits until the other side has. */
void client_say(const struct client *client, unsigned step);
void client_await(const struct client *client, unsigned step);
/* Waits until a thread of the client (a tid) sleeps in a fault, or in a kernel function whose name holds this text. */
void client_asleep(int tid, const char *where);
/* Waits for the client, which must exit with 0. */
void client_end(struct client *client);
void client_kill(struct client *client);

/* The server's side: an object from a duplicate of the descriptor; a memory of one of the regions. */
uffd_object *client_object(const struct client *client);
uffd_memory *client_memory(const struct client *client, unsigned region);

#endif
