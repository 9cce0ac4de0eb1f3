/*
 * One request of HTTP at a unix socket, for real/firecracker.init: request SOCKET METHOD PATH BODY. Prints the body of
 * the answer when its code is not 2xx, and exits with 1 then.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int connect_to(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  return fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 ? fd : -1;
}

/* The end of the answer's head, and all of a body of the length that it tells: the server keeps the connection open. */
static const char *receive(int fd, char *text, size_t size) {
  size_t length = 0, wanted = 0;
  const char *body = NULL;
  while (length + 1 < size && (body == NULL || length < wanted)) {
    ssize_t count = read(fd, text + length, size - 1 - length);
    if (count <= 0) break;
    length += (size_t)count;
    text[length] = '\0';
    const char *end = strstr(text, "\r\n\r\n"), *told = strcasestr(text, "content-length:");
    if (end == NULL || body != NULL) continue;
    unsigned long more = 0;
    body = end + 4;
    if (told != NULL && told < end) (void)sscanf(told + 15, "%lu", &more);
    wanted = (size_t)(body - text) + more;
  }
  return body;
}

int main(int argc, char **argv) {
  static char text[65536];
  unsigned code = 0;
  if (argc != 5) return 2;
  int fd = connect_to(argv[1]);
  if (fd < 0) {
    perror(argv[1]);
    return 1;
  }
  int length =
      snprintf(text, sizeof(text),
               "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
               argv[2], argv[3], strlen(argv[4]), argv[4]);
  if (write(fd, text, (size_t)length) != length) return 1;
  const char *body = receive(fd, text, sizeof(text));
  if (body == NULL || sscanf(text, "HTTP/1.%*u %u", &code) != 1) {
    fprintf(stderr, "%s %s: no answer\n", argv[2], argv[3]);
    return 1;
  }
  if (code / 100 == 2) return 0;
  fprintf(stderr, "%s %s: %u %s\n", argv[2], argv[3], code, body);
  return 1;
}
