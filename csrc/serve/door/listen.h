/*
 * A socket that others connect to by its path, and who they are. The front door and the control socket are such.
 */
#ifndef UFFD_SERVE_LISTEN_H
#define UFFD_SERVE_LISTEN_H

#include <sys/types.h>

#include <stdbool.h>
#include <stdint.h>

struct uffd_listener {
  int fd;    /* non-blocking */
  int spare; /* given up for a moment to refuse a connection when descriptors have run out */
  uint64_t process;
  dev_t device; /* of the socket's file: another one may lie there by the time it is removed */
  ino_t inode;
  char *path;
  bool proves;    /* set by the owner: it finds out whether a peer is who it seems, where that is unproved */
  bool may_leave; /* set by the owner: who has connected may be gone already, for it hands over others' memory */
};
#define UFFD_LISTENER_INIT                                                                                             \
  { .fd = -1, .spare = -1 }

/*
 * Listens at path, mode as for chmod(2). A socket file that nobody listens at is replaced. Errors: -ENAMETOOLONG;
 * -EADDRINUSE somebody listens there; -EEXIST there is a file that is not a socket; those of socket(2) and bind(2).
 */
int uffd_listener_open(struct uffd_listener *listener, const char *path, mode_t mode);
/*
 * A socket that somebody else listens at already and has given to us, at path, or anywhere when path is NULL. Its file
 * is removed at the end if it is ours: path is given. Takes fd, also when it fails. -EINVAL no such socket.
 */
int uffd_listener_adopt(struct uffd_listener *listener, int fd, const char *path);
/* Does this socket listen at the path, and lies its file still there? */
bool uffd_listener_is_at(int fd, const char *path);
/* Listens at a port of a loopback address, which everybody on this machine can reach. -EINVAL another address. */
int uffd_listener_open_port(struct uffd_listener *listener, const char *host, uint16_t port);
/* Removes the file too, if it is still ours; in a forked child it only closes. */
void uffd_listener_close(struct uffd_listener *listener);

struct uffd_peer {
  int pidfd;   /* -1: not visible from here, or unproved */
  int32_t pid; /* 0: not visible from here */
  uint32_t uid;
  uint32_t gid;
  bool unproved; /* before Linux 6.5, when it has hung up: pid may be another process's by now */
};
#define UFFD_ANYBODY INT64_C(-2)                               /* as uid: whoever the file's mode lets connect */
bool uffd_peer_may(const struct uffd_peer *peer, int64_t uid); /* it is root, our own user, or uid; -1: none */
/*
 * Accepts the next connection: a non-blocking descriptor, and who it is. Those whom uffd_peer_may() names may connect.
 * Errors: -EAGAIN nobody is there, without a sentence; -EACCES not allowed; -ESRCH exited already, unless may_leave;
 * -EMFILE, -ENFILE.
 * All but -EAGAIN mean that one connection was refused.
 */
int uffd_listener_accept(struct uffd_listener *listener, int64_t uid, struct uffd_peer *peer);
/* Accepts the next connection, whoever it is. Errors as above but for -EACCES and -ESRCH. */
int uffd_listener_take(struct uffd_listener *listener);

#endif
