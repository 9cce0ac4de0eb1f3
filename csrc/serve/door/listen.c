/*
 * Listening at a path, accepting connections, and finding out who connected. Nothing here waits for a peer.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/door/listen.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#define BACKLOG 128

static int make_address(const char *path, struct sockaddr_un *address) {
  size_t length = path != NULL ? strlen(path) : 0;
  if (length == 0) return fail(EINVAL, "The socket has no path.");
  if (length >= sizeof(address->sun_path)) {
    return fail(ENAMETOOLONG, "The socket's path has %zu bytes, and the kernel takes %zu: choose a shorter one: %s",
                length, sizeof(address->sun_path) - 1, path);
  }
  memset(address, 0, sizeof(*address));
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path, length);
  return 0;
}

/* Without the lock, two pagers that start at the same time could take each other's new socket for a stale one. */
static int lock_directory(const char *path) {
  char directory[PATH_MAX] = ".";
  const char *slash = strrchr(path, '/');
  if (slash != NULL) snprintf(directory, sizeof(directory), "%.*s", (int)(slash - path) + 1, path);
  int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) (void)flock(fd, LOCK_EX); /* on a file system without locks the race remains */
  return fd;
}

static int open_socket(void) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  return fd >= 0 ? fd : fail(errno, "Cannot make a socket: %s.", strerror(errno));
}

/* A stale socket is a socket that refuses connections. Nothing else is removed. */
static int remove_stale(const struct sockaddr_un *address) {
  struct stat status;
  if (lstat(address->sun_path, &status) != 0) {
    return errno == ENOENT ? 0 : fail(errno, "Cannot look at %s: %s.", address->sun_path, strerror(errno));
  }
  if (!S_ISSOCK(status.st_mode)) {
    return fail(EEXIST, "%s is there already, and is not a socket: choose another path, or remove it.",
                address->sun_path);
  }
  int fd = open_socket();
  if (fd < 0) return fd;
  int error = connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ? 0 : errno;
  close(fd);
  if (error == ENOENT) return 0;
  if (error == EACCES || error == EPERM) {
    return fail(error, "The socket %s belongs to somebody else: choose another path.", address->sun_path);
  }
  if (error != ECONNREFUSED) {
    return fail(EADDRINUSE, "Another program listens at %s: end it, or choose another path.", address->sun_path);
  }
  if (unlink(address->sun_path) == 0 || errno == ENOENT) return 0;
  return fail(errno, "Cannot remove the stale socket %s: %s.", address->sun_path, strerror(errno));
}

/*
 * bind() gives the file the mode of the socket, so there is no moment in which others may open it, and before listen()
 * nobody can connect. The umask may have removed bits that were asked for: chmod() adds them.
 */
static int bind_with_mode(struct uffd_listener *listener, const struct sockaddr_un *address, mode_t mode) {
  struct stat status;
  (void)fchmod(listener->fd, mode);
  if (bind(listener->fd, (const struct sockaddr *)address, sizeof(*address)) != 0) {
    return fail(errno, "Cannot make the socket %s: %s.", address->sun_path, strerror(errno));
  }
  int result = lstat(address->sun_path, &status);
  if (result == 0 && (status.st_mode & ALLPERMS) != mode) result = chmod(address->sun_path, mode);
  if (result == 0) result = listen(listener->fd, BACKLOG);
  if (result != 0) {
    result = fail(errno, "Cannot listen at %s: %s.", address->sun_path, strerror(errno));
    unlink(address->sun_path);
    return result;
  }
  listener->device = status.st_dev;
  listener->inode = status.st_ino;
  return 0;
}

static int open_at(struct uffd_listener *listener, const struct sockaddr_un *address, mode_t mode) {
  listener->fd = open_socket();
  if (listener->fd < 0) return listener->fd;
  int lock = lock_directory(address->sun_path);
  int result = remove_stale(address);
  if (result == 0) result = bind_with_mode(listener, address, mode);
  if (lock >= 0) close(lock);
  return result;
}

int uffd_listener_open(struct uffd_listener *listener, const char *path, mode_t mode) {
  struct sockaddr_un address;
  *listener = (struct uffd_listener)UFFD_LISTENER_INIT;
  int result = make_address(path, &address);
  if (result < 0) return result;
  listener->process = uffd_process();
  listener->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
  size_t length = strlen(path) + 1;
  char *copy = uffd_alloc(length);
  if (copy != NULL) {
    memcpy(copy, path, length);
    result = open_at(listener, &address, mode);
  } else {
    result = fail(ENOMEM, "No memory for a socket.");
  }
  if (result == 0) {
    listener->path = copy;
    return 0;
  }
  uffd_release(copy, length);
  uffd_listener_close(listener);
  return result;
}

static bool listens(int fd) {
  int type = 0, listening = 0;
  socklen_t length = sizeof(int), other = sizeof(int);
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM &&
         getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &other) == 0 && listening != 0;
}

/* Is it the socket at this path, and its file still there? */
static bool lies_at(int fd, const char *path, struct stat *status) {
  struct sockaddr_un address;
  socklen_t length = sizeof(address);
  memset(&address, 0, sizeof(address));
  if (getsockname(fd, (struct sockaddr *)&address, &length) != 0 || address.sun_family != AF_UNIX) return false;
  return strncmp(address.sun_path, path, sizeof(address.sun_path)) == 0 && lstat(path, status) == 0 &&
         S_ISSOCK(status->st_mode);
}

bool uffd_listener_is_at(int fd, const char *path) {
  struct stat status;
  return listens(fd) && lies_at(fd, path, &status);
}

int uffd_listener_adopt(struct uffd_listener *listener, int fd, const char *path) {
  struct stat status = {0};
  *listener = (struct uffd_listener)UFFD_LISTENER_INIT;
  if (!listens(fd) || (path != NULL && !lies_at(fd, path, &status))) {
    close(fd);
    return fail(EINVAL, "The socket that was given%s%s is none that listens there.", path != NULL ? " for " : "",
                path != NULL ? path : "");
  }
  size_t length = path != NULL ? strlen(path) + 1 : 0;
  if (path != NULL && (listener->path = uffd_alloc(length)) == NULL) {
    close(fd);
    return fail(ENOMEM, "No memory for a socket.");
  }
  if (path != NULL) memcpy(listener->path, path, length);
  (void)fcntl(fd, F_SETFL, O_NONBLOCK);
  (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
  listener->fd = fd;
  listener->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
  listener->process = uffd_process();
  listener->device = status.st_dev;
  listener->inode = status.st_ino;
  return 0;
}

void uffd_listener_close(struct uffd_listener *listener) {
  struct stat status;
  if (listener->path != NULL && listener->process == uffd_process() && lstat(listener->path, &status) == 0 &&
      status.st_dev == listener->device && status.st_ino == listener->inode) {
    unlink(listener->path);
  }
  if (listener->fd >= 0) close(listener->fd);
  if (listener->spare >= 0) close(listener->spare);
  if (listener->path != NULL) uffd_release(listener->path, strlen(listener->path) + 1);
  *listener = (struct uffd_listener)UFFD_LISTENER_INIT;
}

/* Who only says no more (SHUT_WR) is there still. EPIPE: it has hung up, and the number may be another's by now. */
static int open_pidfd_by_pid(int fd, int32_t pid) {
  int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
  if (pidfd < 0 || (uffd_ready(fd, 0) & POLLHUP) == 0) return pidfd;
  close(pidfd);
  errno = EPIPE;
  return -1;
}

/*
 * A pid may belong to another process by the time it is looked up. SO_PEERPIDFD (Linux 6.5) has no such race. Before
 * 6.5, a connection that is still up proves that the pid still belongs to the process that made it; where it is not,
 * what is handed over may prove it.
 */
static int open_pidfd(int fd, struct uffd_peer *peer) {
  int pidfd = -1, option = SO_PEERPIDFD;
  socklen_t length = sizeof(pidfd);
  BARRIER("peerpidfd", &option); /* a test makes an older kernel of this one */
  if (getsockopt(fd, SOL_SOCKET, option, &pidfd, &length) != 0) {
    pidfd = -1;
    if (errno == ENOPROTOOPT) {
      pidfd = open_pidfd_by_pid(fd, peer->pid);
      if (pidfd < 0 && (peer->pid <= 0 || errno == ENOSYS)) return -1; /* not visible; or before 5.3 */
    }
  }
  if (pidfd >= 0 && uffd_ready(pidfd, POLLIN) == 0) return pidfd;
  int error = pidfd >= 0 ? ESRCH : errno;
  if (pidfd >= 0) close(pidfd);
  peer->unproved = error == EPIPE;
  if (error == EMFILE || error == ENFILE) {
    return fail(error, "No descriptor left to watch process %d with: raise ulimit -n.", peer->pid);
  }
  return fail(ESRCH, "Process %d connected, and is gone already: whoever hands over its memory must stay.", peer->pid);
}

bool uffd_peer_may(const struct uffd_peer *peer, int64_t uid) {
  return peer->uid == 0 || peer->uid == geteuid() || (uid >= 0 && peer->uid == (uint64_t)uid);
}

static int identify(const struct uffd_listener *listener, int fd, int64_t uid, struct uffd_peer *peer) {
  struct ucred who;
  socklen_t length = sizeof(who);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length) != 0) {
    return fail(errno, "Cannot tell who has connected: %s.", strerror(errno));
  }
  *peer = (struct uffd_peer){.pidfd = -1, .pid = who.pid, .uid = who.uid, .gid = who.gid};
  if (uid != UFFD_ANYBODY && !uffd_peer_may(peer, uid)) {
    return fail(EACCES, "User %u (process %d) may not connect: allow it with the option uid.", who.uid, who.pid);
  }
  int pidfd = open_pidfd(fd, peer);
  if (pidfd == -ESRCH && (listener->may_leave || (listener->proves && peer->unproved))) pidfd = -1;
  if (pidfd < -1) return pidfd;
  peer->pidfd = pidfd;
  return 0;
}

/*
 * With no descriptor left, the connection would stay in the queue and the listener would stay readable: give up the
 * spare descriptor, accept the connection with it, and close it.
 */
static int refuse_for_want(struct uffd_listener *listener, int error) {
  if (listener->spare < 0) listener->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (listener->spare < 0) return fail(error, "No descriptor left for clients: close some.");
  close(listener->spare);
  int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
  if (fd >= 0) close(fd);
  listener->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -EAGAIN; /* nobody was there: the kernel fails for want of a descriptor before it looks */
  return fail(error, "No descriptor left for another client: raise %s.", error == EMFILE ? "ulimit -n" : "fs.file-max");
}

int uffd_listener_take(struct uffd_listener *listener) {
  int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) return fd;
  int error = errno;
  if (error == EAGAIN || error == EINTR || error == ECONNABORTED) return -EAGAIN;
  if (error == EMFILE || error == ENFILE) return refuse_for_want(listener, error);
  return fail(error, "Cannot take in a connection: %s.", strerror(error));
}

int uffd_listener_accept(struct uffd_listener *listener, int64_t uid, struct uffd_peer *peer) {
  int fd = uffd_listener_take(listener);
  if (fd < 0) return fd;
  int result = identify(listener, fd, uid, peer);
  if (result == 0) return fd;
  close(fd);
  return result;
}

static bool is_loopback(const struct sockaddr *address) {
  if (address->sa_family == AF_INET) {
    const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)address;
    return ntohl(four->sin_addr.s_addr) >> 24 == 127;
  }
  return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

/* No name is looked up: that could wait for another machine. */
static int find_address(const char *host, uint16_t port, struct sockaddr_storage *address, socklen_t *length) {
  struct sockaddr_in *four = (struct sockaddr_in *)(void *)address;
  struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)address;
  memset(address, 0, sizeof(*address));
  if (inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(port);
    *length = sizeof(*four);
  } else if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    *length = sizeof(*six);
  } else {
    return fail(EINVAL, "%s is not an address of this machine: use 127.0.0.1, ::1, or localhost.", host);
  }
  if (is_loopback((const struct sockaddr *)address)) return 0;
  return fail(EINVAL, "%s is not a loopback address: others must not reach it; use 127.0.0.1 and a proxy before it.",
              host);
}

int uffd_listener_open_port(struct uffd_listener *listener, const char *host, uint16_t port) {
  struct sockaddr_storage address;
  socklen_t length = 0;
  *listener = (struct uffd_listener)UFFD_LISTENER_INIT;
  int result = find_address(host, port, &address, &length), on = 1;
  if (result < 0) return result;
  listener->fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  listener->spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (listener->fd < 0) {
    result = fail(errno, "Cannot make a socket: %s.", strerror(errno));
  } else if (setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
             bind(listener->fd, (const struct sockaddr *)&address, length) != 0 || listen(listener->fd, BACKLOG) != 0) {
    result = fail(errno, "Cannot listen at %s, port %u: %s.", host, port, strerror(errno));
  }
  if (result < 0) uffd_listener_close(listener);
  return result;
}
