/*
 * nginx beside the benchmark, in one process.
 */
#include "web.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in free_port(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof(address);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
      getsockname(fd, (struct sockaddr *)&address, &length) != 0) {
    die("no port for a web server: %m");
  }
  close(fd);
  return address;
}

/* The image's file has no name any more: it is reached by this process's descriptor. */
static void write_config(const struct web *web, const struct image *image, unsigned port) {
  char path[160];
  snprintf(path, sizeof(path), "%s/nginx.conf", web->directory);
  FILE *file = fopen(path, "we");
  if (file == NULL) die("%s: %m", path);
  fprintf(
      file,
      "daemon off; master_process off; pid nginx.pid; error_log said;\n"
      "events { worker_connections 256; }\n"
      "http {\n"
      "  access_log off; default_type application/octet-stream; sendfile on; keepalive_requests 1000000;\n"
      "  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n"
      "  server { listen 127.0.0.1:%u; location = /image { alias /proc/%d/fd/%d; } }\n"
      "}\n",
      port, (int)getpid(), image->fd);
  if (fclose(file) != 0) die("%s: %m", path);
}

static void become(const struct web *web) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int quiet = open("/dev/null", O_WRONLY | O_CLOEXEC);
  dup2(quiet, 2);
  execlp("nginx", "nginx", "-p", web->directory, "-c", "nginx.conf", "-e", "said", (char *)NULL);
  _exit(127);
}

static bool answers(const struct sockaddr_in *address) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool connected = connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0;
  close(fd);
  return connected;
}

static void remove_directory(const struct web *web) {
  char command[192];
  snprintf(command, sizeof(command), "rm -rf '%s'", web->directory);
  if (system(command) != 0) fprintf(stderr, "uffd-bench: %s is left\n", web->directory);
}

bool web_start(struct web *web, const struct image *image) {
  const struct timespec while_it_starts = {0, 1000000};
  const struct sockaddr_in address = free_port();
  temporary_path(web->directory, sizeof(web->directory), "web");
  snprintf(web->url, sizeof(web->url), "http://127.0.0.1:%u/image", ntohs(address.sin_port));
  if (mkdir(web->directory, 0700) != 0) die("%s: %m", web->directory);
  write_config(web, image, ntohs(address.sin_port));
  web->pid = fork();
  if (web->pid < 0) die("fork: %m");
  if (web->pid == 0) become(web);
  while (!answers(&address)) {
    if (waitpid(web->pid, NULL, WNOHANG) == web->pid) {
      remove_directory(web);
      return false;
    }
    nanosleep(&while_it_starts, NULL);
  }
  return true;
}

void web_end(struct web *web) {
  kill(web->pid, SIGKILL);
  waitpid(web->pid, NULL, 0);
  remove_directory(web);
}
