/*
 * Passing descriptors: see passing.h.
 */
#include "passing.h"

#include <sys/socket.h>

void passing_send(int socket, int fd, const void *bytes, size_t length) {
  char control[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec data = {(void *)(uintptr_t)bytes, length};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  struct cmsghdr *part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(part), &fd, sizeof(fd));
  CHECK_EQ(sendmsg(socket, &message, 0), length);
}

int passing_receive(int socket, void *bytes, size_t length) {
  char control[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec data = {bytes, length};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  CHECK_EQ(recvmsg(socket, &message, 0), length);
  struct cmsghdr *part = CMSG_FIRSTHDR(&message);
  CHECK(part != NULL);
  int fd = -1;
  memcpy(&fd, CMSG_DATA(part), sizeof(fd));
  return fd;
}
