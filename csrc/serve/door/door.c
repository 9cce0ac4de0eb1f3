/*
 * The front door: who may connect.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/door/door.h"

struct uffd_door {
  struct uffd_listener listener;
  struct uffd_connection_opts opts;
  int64_t uid;
  uint64_t *connections, own;
};

/* The path that connects to it; "": it has none, or an abstract name. */
static void find_path(int fd, char *path) {
  struct sockaddr_un address;
  socklen_t length = sizeof(address);
  memset(&address, 0, sizeof(address));
  if (getsockname(fd, (struct sockaddr *)&address, &length) != 0 || address.sun_family != AF_UNIX) return;
  snprintf(path, UFFD_SOCKET_PATH, "%s", address.sun_path);
}

int uffd_door_open(const struct uffd_door_opts *opts, struct uffd_door **door) {
  *door = NULL;
  struct uffd_door *made = NEW(struct uffd_door);
  if (made == NULL) return fail(ENOMEM, "No memory for a front door.");
  int result = opts->given ? uffd_listener_adopt(&made->listener, opts->fd, opts->owned ? opts->path : NULL)
                           : uffd_listener_open(&made->listener, opts->path, opts->mode);
  if (result < 0) {
    DELETE(made);
    return result;
  }
  made->listener.proves = true; /* the owner of a userfaultfd can be proved: connection.c */
  made->listener.may_leave = opts->connection.kind->by_task;
  made->opts = opts->connection;
  made->uid = opts->uid;
  made->connections = opts->connections != NULL ? opts->connections : &made->own;
  find_path(made->listener.fd, made->opts.socket);
  *door = made;
  return 0;
}

void uffd_door_limit(struct uffd_door *door, const struct uffd_door_limits *limits, uint32_t handshake_ms) {
  door->opts.limits = *limits;
  door->opts.handshake_ms = handshake_ms;
}

int uffd_door_fd(const struct uffd_door *door) {
  return door->listener.fd;
}

void uffd_door_close(struct uffd_door *door) {
  if (door == NULL) return;
  uffd_listener_close(&door->listener);
  DELETE(door);
}

int uffd_door_accept(struct uffd_door *door, struct uffd_connection **connection) {
  struct uffd_peer peer;
  *connection = NULL;
  int fd = uffd_listener_accept(&door->listener, door->uid, &peer);
  if (fd < 0) return fd == -EAGAIN ? 0 : fd;
  int result = uffd_connection_make(&door->opts, *door->connections + 1, fd, &peer, connection);
  if (result < 0) {
    close(fd);
    uffd_close_fds(&peer.pidfd, 1);
    return result;
  }
  ++*door->connections;
  return 1;
}
