/*
 * Frames of Cloud Hypervisor's migration protocol: bytes in, bytes out.
 */
#include "serve/offload/frames.h"

#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/paper/descriptors.h"

#define PASSED_MAX 16 /* descriptors that one read takes, so that all but one are closed */

static void put(unsigned char *bytes, unsigned count, uint64_t value) {
  for (unsigned i = 0; i < count; i++) {
    bytes[i] = (unsigned char)(value >> 8 * i);
  }
}

uint64_t uffd_ch_number(const unsigned char *bytes, unsigned count) {
  uint64_t value = 0;
  for (unsigned i = 0; i < count; i++) {
    value |= (uint64_t)bytes[i] << 8 * i;
  }
  return value;
}

void uffd_ch_write_request(const struct uffd_ch_request *request, unsigned char *frame) {
  memset(frame, 0, UFFD_CH_FRAME);
  put(frame, 2, request->command);
  put(frame + 2, 2, request->version);
  put(frame + 8, 8, request->length);
}

void uffd_ch_read_request(const unsigned char *frame, struct uffd_ch_request *request) {
  request->command = (uint16_t)uffd_ch_number(frame, 2);
  request->version = (uint16_t)uffd_ch_number(frame + 2, 2);
  request->length = uffd_ch_number(frame + 8, 8);
}

void uffd_ch_set_timeout(int fd, uint32_t timeout_ms) {
  struct timeval timeout = {.tv_sec = timeout_ms / 1000, .tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)); /* of connect, too */
  (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
}

static int explain_connect(int error, const char *path) {
  switch (error) {
  case ENOENT:
    return fail(error, "There is no socket %s: have Cloud Hypervisor receive a migration there first.", path);
  case ECONNREFUSED:
    return fail(error, "Nobody listens at %s: have Cloud Hypervisor receive a migration there first.", path);
  case EAGAIN:
    return fail(ETIMEDOUT, "Cloud Hypervisor does not take in connections at %s.", path);
  default:
    return fail(error, "Cannot connect to %s: %s.", path, strerror(error));
  }
}

int uffd_ch_connect(const char *path, uint32_t timeout_ms) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t length = strlen(path);
  if (length == 0) return fail(EINVAL, "The socket of Cloud Hypervisor has no path.");
  if (length >= sizeof(address.sun_path)) {
    return fail(ENAMETOOLONG, "The socket's path has %zu bytes, and the kernel takes %zu: %s", length,
                sizeof(address.sun_path) - 1, path);
  }
  memcpy(address.sun_path, path, length);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return fail(errno, "Cannot make a socket: %s.", strerror(errno));
  uffd_ch_set_timeout(fd, timeout_ms);
  while (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
    if (errno == EINTR) continue;
    int result = explain_connect(errno, path);
    close(fd);
    return result;
  }
  return fd;
}

static int explain(int error) {
  if (error == EAGAIN) return fail(ETIMEDOUT, "Cloud Hypervisor does not answer in time.");
  if (error == EPIPE || error == ECONNRESET) return fail(EPIPE, "Cloud Hypervisor has hung up: its log says why.");
  return fail(error, "Cannot speak to Cloud Hypervisor: %s.", strerror(error));
}

int uffd_ch_send(int fd, const void *bytes, uint64_t length, int passed) {
  union {
    struct cmsghdr header; /* for its alignment */
    char room[CMSG_SPACE(sizeof(int))];
  } control = {.header = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
  memcpy(CMSG_DATA(&control.header), &passed, sizeof(passed));
  for (uint64_t sent = 0; sent < length;) {
    struct iovec data = {(char *)(uintptr_t)bytes + sent, length - sent};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (sent == 0 && passed >= 0) {
      message.msg_control = control.room;
      message.msg_controllen = sizeof(control.room);
    }
    ssize_t count = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (count < 0 && errno != EINTR) return explain(errno);
    if (count > 0) sent += (uint64_t)count;
  }
  return 0;
}

/* Takes the only descriptor there may be. Others are closed: they would leak. */
static int take_passed(struct msghdr *message, int *passed) {
  uint32_t extra = 0;
  for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part != NULL; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at + sizeof(int) <= part->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + at, sizeof(fd));
      if (passed != NULL && *passed < 0) {
        *passed = fd;
      } else {
        close(fd);
        extra++;
      }
    }
  }
  if (extra == 0 && (message->msg_flags & MSG_CTRUNC) == 0) return 0;
  return fail(EPROTO, "Descriptors came where none, or one, was expected.");
}

int uffd_ch_receive(int fd, void *bytes, uint64_t length, int *passed) {
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(PASSED_MAX * sizeof(int))];
  } control;
  if (passed != NULL) *passed = -1;
  for (uint64_t got = 0; got < length;) {
    struct iovec data = {(char *)bytes + got, length - got};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
    ssize_t count = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL);
    if (count < 0 && errno == EINTR) continue;
    int result = count < 0 ? explain(errno) : take_passed(&message, passed);
    if (result == 0 && count == 0 && got == 0) return 0;
    if (result == 0 && count == 0) result = explain(EPIPE);
    if (result < 0) {
      if (passed != NULL) uffd_close_fds(passed, 1);
      return result;
    }
    got += (uint64_t)count;
  }
  return 1;
}

int uffd_ch_respond(int fd, uint16_t status) {
  unsigned char frame[UFFD_CH_FRAME];
  uffd_ch_write_request(&(struct uffd_ch_request){.command = status}, frame); /* it has the same form */
  return uffd_ch_send(fd, frame, sizeof(frame), -1);
}

int uffd_ch_await_ok(int fd, const char *what) {
  unsigned char frame[UFFD_CH_FRAME];
  struct uffd_ch_request response;
  int result = uffd_ch_receive(fd, frame, sizeof(frame), NULL);
  if (result <= 0) return result < 0 ? result : explain(EPIPE);
  uffd_ch_read_request(frame, &response);
  if (response.command == UFFD_CH_ERROR) {
    return fail(EREMOTEIO, "Cloud Hypervisor refuses %s: its log says why.", what);
  }
  if (response.command == UFFD_CH_OK && response.length == 0) return 0;
  return fail(EPROTO, "Cloud Hypervisor answers %s with status %u and %" PRIu64 " bytes: that is another protocol.",
              what, response.command, response.length);
}
