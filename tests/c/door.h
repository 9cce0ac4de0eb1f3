/*
 * For tests of the front door: a client that says more than Firecracker does (examples/door.md), and hears answers.
 */
#ifndef UFFD_TESTS_DOOR_H
#define UFFD_TESTS_DOOR_H

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "paging.h"

/* The list, with more keys in its first region: ',"key":value'. */
static inline void write_list(const struct vmm *vmm, const char *extra, char *text, size_t size) {
  char list[1024];
  CHECK(vmm_list(vmm, VMM_PAGE_SIZE, list, sizeof(list)) < sizeof(list));
  char *end = strchr(list, '}');
  snprintf(text, size, "%.*s,\"uffd_answer\":true%s%s", (int)(end - list), list, extra, end);
}

static inline void send_list(int socket, const struct vmm *vmm, const char *extra, int uffd, int fd) {
  char text[2048];
  int fds[] = {uffd, fd};
  write_list(vmm, extra, text, sizeof(text));
  CHECK_EQ(vmm_send(socket, text, strlen(text), fds, fd >= 0 ? 2 : 1), 0);
}

static inline const char *read_line(int socket) {
  static char line[2048];
  size_t length = 0;
  while (length + 1 < sizeof(line) && recv(socket, line + length, 1, 0) == 1 && line[length] != '\n') {
    length++;
  }
  line[length] = '\0';
  return line;
}

static inline void check_line(int socket, const char *expected) {
  const char *line = read_line(socket);
  if (strcmp(line, expected) != 0) fprintf(stderr, "the pager says %s instead of %s\n", line, expected);
  CHECK(strcmp(line, expected) == 0);
}

static inline void check_line_has(int socket, const char *words) {
  const char *line = read_line(socket);
  if (strstr(line, words) == NULL) fprintf(stderr, "the pager says %s, which lacks %s\n", line, words);
  CHECK(strstr(line, words) != NULL);
}

static inline void check_hung_up(int socket) {
  char byte;
  CHECK_EQ(recv(socket, &byte, 1, 0), 0);
}

static inline int connect_to(const struct paging *paging) {
  int socket = vmm_connect(paging->socket);
  CHECK(socket >= 0);
  return socket;
}

#endif
