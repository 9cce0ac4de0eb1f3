/*
 * Real servers beside a test: see servers.h.
 */
#define _GNU_SOURCE
#include "servers.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "imaging.h"

/* In the child. The signal for the parent's end comes before anything that could fail. */
static _Noreturn void become(const char *command, const char *said, pid_t parent) {
  char line[2048];
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  int fd = open(said, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  dup2(fd, 1);
  dup2(fd, 2);
  snprintf(line, sizeof(line), "cd %s && exec %s", imaging_path(""), command);
  execl("/bin/sh", "sh", "-c", line, (char *)NULL);
  _exit(127);
}

static void show(const struct server *server) {
  char text[4096];
  FILE *file = fopen(server->said, "re");
  size_t length = file == NULL ? 0 : fread(text, 1, sizeof(text) - 1, file);
  if (file != NULL) fclose(file);
  fprintf(stderr, "the server said: %.*s\n", (int)length, text);
}

static bool is_ready(const char *path) {
  struct stat status;
  return stat(path, &status) == 0 && status.st_size > 0;
}

void servers_start(struct server *server, const char *command, const char *ready) {
  char path[128];
  const pid_t parent = getpid();
  snprintf(server->said, sizeof(server->said), "%s", imaging_path("said"));
  snprintf(path, sizeof(path), "%s", imaging_path(ready));
  unlink(path);
  server->pid = fork();
  CHECK(server->pid >= 0);
  if (server->pid == 0) become(command, server->said, parent);
  while (!is_ready(path)) {
    bool ended = waitpid(server->pid, NULL, WNOHANG) != 0;
    if (ended) show(server);
    CHECK(!ended);
    check_pause();
  }
}

/* The socket stays open and listens to nobody: so others cannot take the port, and no connection comes to it. */
unsigned servers_port(void) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof(at);
  const int on = 1;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)), 0);
  CHECK_EQ(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
  CHECK_EQ(getsockname(fd, (struct sockaddr *)&at, &length), 0);
  return ntohs(at.sin_port);
}

void servers_end(struct server *server) {
  if (server->pid == 0) return;
  kill(server->pid, SIGKILL);
  CHECK_EQ(waitpid(server->pid, NULL, 0), server->pid);
  server->pid = 0;
}
