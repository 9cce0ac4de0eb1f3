/*
 * The client's end of the control socket: one request, one reply. It runs in the program that asks, and waits there.
 */
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "uffd_pager.h"

enum { ASK_MS = 5000, REPLY_FIRST = 1 << 16 };
#define REPLY_MAX ((size_t)64 << 20)

struct reply {
  char *text;
  size_t length;
  size_t room;
};

static int refuse(const char *path, const char *what, int error) {
  if (error == EAGAIN) error = ETIMEDOUT;
  const char *mend = error == ENOENT || error == ECONNREFUSED ? ": no pager listens there" : "";
  return fail(error, "%s the control socket %s: %s%s.", what, path, strerror(error), mend);
}

static int set_limits(int fd, const char *path, uint32_t timeout_ms) {
  struct timeval limit = {.tv_sec = timeout_ms / 1000, .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
  if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0 &&
      setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) == 0)
    return 0;
  return refuse(path, "Cannot use", errno);
}

static int connect_to(int fd, const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t length = strlen(path);
  if (length == 0 || length >= sizeof(address.sun_path))
    return fail(EINVAL, "A path of %zu bytes is none of a socket: 1 to %zu.", length, sizeof(address.sun_path) - 1);
  memcpy(address.sun_path, path, length);
  if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0) return 0;
  return refuse(path, "Cannot connect to", errno);
}

static int send_all(int fd, const char *path, const char *text, size_t length) {
  while (length > 0) {
    ssize_t sent = send(fd, text, length, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return refuse(path, "Cannot write to", errno);
    text += sent;
    length -= (size_t)sent;
  }
  return 0;
}

static bool make_room(struct reply *reply) {
  if (reply->length < reply->room) return true;
  size_t room = reply->room == 0 ? REPLY_FIRST : reply->room * 2;
  char *text = room <= REPLY_MAX ? uffd_alloc(room) : NULL;
  if (text == NULL) return false;
  if (reply->length != 0) memcpy(text, reply->text, reply->length);
  uffd_release(reply->text, reply->room);
  reply->text = text;
  reply->room = room;
  return true;
}

static int read_line(int fd, const char *path, struct reply *reply) {
  for (;;) {
    if (!make_room(reply)) return fail(ENOMEM, "No memory for a reply of more than %zu bytes.", reply->room);
    ssize_t got = recv(fd, reply->text + reply->length, reply->room - reply->length, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return refuse(path, "Cannot read from", errno);
    if (got == 0) return fail(EPIPE, "The pager behind %s has hung up.", path);
    const char *end = memchr(reply->text + reply->length, '\n', (size_t)got);
    reply->length += (size_t)got;
    if (end == NULL) continue;
    reply->length = (size_t)(end - reply->text);
    return 0;
  }
}

int uffd_pager_ask(const char *control, const char *request, uint32_t timeout_ms, uffd_reply_fn *reply, void *ctx) {
  if (control == NULL || request == NULL || strchr(request, '\n') != NULL)
    return fail(EINVAL, "To ask a pager takes the path of its control socket, and a request of one line.");
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return refuse(control, "Cannot make", errno);
  struct reply line = {NULL, 0, 0};
  int result = set_limits(fd, control, timeout_ms != 0 ? timeout_ms : ASK_MS);
  if (result == 0) result = connect_to(fd, control);
  if (result == 0) result = send_all(fd, control, request, strlen(request));
  if (result == 0) result = send_all(fd, control, "\n", 1);
  /* A refused connection gets one line with the reason, then it is closed. */
  if (result == 0 || result == -EPIPE) result = read_line(fd, control, &line);
  close(fd);
  if (result == 0 && reply != NULL) reply(ctx, line.text, line.length);
  uffd_release(line.text, line.room);
  return result;
}
