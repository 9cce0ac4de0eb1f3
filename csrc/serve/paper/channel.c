/*
 * The channel between supervisor and worker: one message is one packet.
 */
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/paper/channel.h"

int uffd_channel_open(int ends[2]) {
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0) return 0;
  return fail(errno, "No channel to a worker: %s.", strerror(errno));
}

int uffd_channel_send(int fd, const struct uffd_message *message, const int *fds, uint32_t count, bool wait) {
  struct uffd_message sent = *message;
  sent.version = UFFD_CHANNEL_VERSION;
  sent.fds_count = count;
  struct iovec part = {&sent, sizeof(sent)};
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(UFFD_MESSAGE_FDS * sizeof(int))];
  } control;
  struct msghdr envelope = {.msg_iov = &part, .msg_iovlen = 1};
  if (count != 0) {
    memset(&control, 0, sizeof(control));
    envelope.msg_control = &control;
    envelope.msg_controllen = CMSG_SPACE(count * sizeof(int));
    control.header =
        (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
  }
  for (;;) {
    if (sendmsg(fd, &envelope, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT)) >= 0) return 0;
    if (errno == EAGAIN) return -EAGAIN;
    if (errno != EINTR) return fail(errno, "A message to the other end of the pager is lost: %s.", strerror(errno));
  }
}

static void take_fds(struct msghdr *envelope, int *fds) {
  uint32_t count = 0;
  for (struct cmsghdr *part = CMSG_FIRSTHDR(envelope); part != NULL; part = CMSG_NXTHDR(envelope, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t bytes = part->cmsg_len - CMSG_LEN(0);
    for (size_t at = 0; at + sizeof(int) <= bytes && count < UFFD_MESSAGE_FDS; at += sizeof(int)) {
      memcpy(&fds[count++], CMSG_DATA(part) + at, sizeof(int));
    }
  }
}

int uffd_channel_receive(int fd, struct uffd_message *message, int *fds) {
  struct iovec part = {message, sizeof(*message)};
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(UFFD_MESSAGE_FDS * sizeof(int))];
  } control;
  struct msghdr envelope = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
  for (uint32_t i = 0; i < UFFD_MESSAGE_FDS; i++) {
    fds[i] = -1;
  }
  ssize_t length;
  do {
    length = recvmsg(fd, &envelope, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (length < 0 && errno == EINTR);
  if (length < 0 && errno == EAGAIN) return -EAGAIN;
  if (length <= 0) return 0; /* reset, too: the other end is closed */
  take_fds(&envelope, fds);
  if (length == (ssize_t)sizeof(*message) && message->version == UFFD_CHANNEL_VERSION) {
    message->text[sizeof(message->text) - 1] = '\0';
    return 1;
  }
  uffd_close_fds(fds, UFFD_MESSAGE_FDS);
  return fail(EPROTO, "Supervisor and worker are of different versions of the pager: start the supervisor anew.");
}
