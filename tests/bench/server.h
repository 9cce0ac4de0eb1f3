/*
 * Processes that serve a client's memory: other ways to do it, and the least that the kernel takes.
 */
#ifndef UFFD_BENCH_SERVER_H
#define UFFD_BENCH_SERVER_H

#include <sys/types.h>

#include "plan.h"

run_fn textbook_server;        /* polls, reads one message, copies one page */
run_fn textbook_server_pinned; /* it and the client on one processor: its best case */
/* Copies what the client will touch in order, neighbours up to 2 MiB a call; then the client touches it. */
run_fn bulk_server;

struct server {
  pid_t pid;
  int ready;      /* end of a pipe: the server says with a byte that it listens, and may say more */
  char path[108]; /* of its socket */
};
/* A forked child that runs serve, which ends when its client is gone; returns when it listens. */
typedef void serve_fn(const struct plan *plan, const struct server *server);
void server_start(struct server *server, serve_fn *serve, const struct plan *plan);
/* Waits for its end, and adds what it took to the figures. */
void server_end(struct server *server, const struct plan *plan, double figures[FIGURES]);

#endif
