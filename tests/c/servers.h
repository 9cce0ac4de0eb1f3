/*
 * For tests that need a real server beside them (nginx, nbdkit, qemu-nbd): it is the test's child and ends with it,
 * also when the test dies half-way.
 */
#ifndef UFFD_TESTS_SERVERS_H
#define UFFD_TESTS_SERVERS_H

#include "check.h"

struct server {
  pid_t pid;      /* 0: none */
  char said[128]; /* the path of what it prints */
};

/*
 * Runs a command with sh in the directory of imaging_path(), and waits until ready, a file there, has something in it.
 * The command must stay in the foreground; what it prints is in the file `said`, and is shown when it ends too early.
 */
void servers_start(struct server *server, const char *command, const char *ready);
/* A port of 127.0.0.1 that nobody else gets while the test runs: for a server that listens with SO_REUSEPORT. */
unsigned servers_port(void);
/* Ends it, also when it is stopped, and waits for its end. */
void servers_end(struct server *server);

#endif
