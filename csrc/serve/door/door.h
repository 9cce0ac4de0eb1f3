/*
 * The front door: a socket at a path, whose connections bring handshakes. It never waits: the supervisor polls.
 *
 * Arrows of the rooms of serve: supervisor -> {door, worker} -> {paper, workingset}. The supervisor calls one function
 * of the worker room, uffd_pager_work(), in the child that it has forked.
 */
#ifndef UFFD_SERVE_DOOR_H
#define UFFD_SERVE_DOOR_H

#include "serve/door/connection.h"

struct uffd_door_opts {
  const char *path; /* NULL: of the socket that was given */
  bool given;       /* fd is a socket that somebody else listens at already: it is taken */
  int fd;
  bool owned; /* the file of the socket that was given is to be removed at the end */
  mode_t mode;
  int64_t uid;           /* as in uffd_pager_opts */
  uint64_t *connections; /* so far, of all doors: their numbers differ. NULL: the door counts its own */
  struct uffd_connection_opts connection;
};

struct uffd_door;

int uffd_door_open(const struct uffd_door_opts *opts, struct uffd_door **door);
int uffd_door_fd(const struct uffd_door *door); /* polls readable when uffd_door_accept() has work */
/* Of connections that it accepts from now on. */
void uffd_door_limit(struct uffd_door *door, const struct uffd_door_limits *limits, uint32_t handshake_ms);
/*
 * 1: a connection, which the caller owns and which may outlive the door. 0: nobody is there. -errno with a sentence:
 * one connection was refused, there may be more.
 */
int uffd_door_accept(struct uffd_door *door, struct uffd_connection **connection);
/* Removes the socket's file if it is still ours; in a forked child it only closes. NULL is allowed. */
void uffd_door_close(struct uffd_door *door);

#endif
