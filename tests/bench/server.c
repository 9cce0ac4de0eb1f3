/*
 * Processes that serve a client's memory, written from the manual pages.
 */
#include "server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "raw.h"

/* Processes */

void server_start(struct server *server, serve_fn *serve, const struct plan *plan) {
  int ends[2];
  char byte;
  temporary_path(server->path, sizeof(server->path), "socket");
  if (pipe(ends) != 0) die("pipe: %m");
  server->pid = fork();
  if (server->pid < 0) die("fork: %m");
  if (server->pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(ends[0]);
    server->ready = ends[1];
    serve(plan, server);
    _exit(0);
  }
  close(ends[1]);
  server->ready = ends[0];
  if (read(server->ready, &byte, 1) != 1) die("a server does not start");
}

static double nanoseconds(struct timeval time) {
  return (double)time.tv_sec * 1e9 + (double)time.tv_usec * 1e3;
}

void server_end(struct server *server, const struct plan *plan, double figures[FIGURES]) {
  struct rusage usage;
  int status;
  if (wait4(server->pid, &status, 0, &usage) != server->pid || status != 0)
    die("a server has failed (wait status 0x%x)", (unsigned)status);
  close(server->ready);
  unlink(server->path);
  double pages = (double)plan_pages(plan);
  figures[CPU] += (nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime)) / pages;
  figures[SWITCHES] += (double)(usage.ru_nvcsw + usage.ru_nivcsw) / pages;
}

/* The handshake */

struct handed {
  int connection, uffd;
  uint64_t base;
  const char *source; /* the image */
};

static int listen_at(const char *path) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  snprintf(name.sun_path, sizeof(name.sun_path), "%s", path);
  if (bind(fd, (struct sockaddr *)&name, sizeof(name)) != 0 || listen(fd, 1) != 0) die("%s: %m", path);
  return fd;
}

static void receive(struct handed *handed, int listener) {
  char text[1024] = "", control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
  struct iovec bytes = {text, sizeof(text) - 1};
  struct msghdr message = {
      .msg_iov = &bytes, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  handed->connection = accept(listener, NULL, NULL);
  if (handed->connection < 0 || recvmsg(handed->connection, &message, MSG_CMSG_CLOEXEC) <= 0) die("no client: %m");
  const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  unsigned long long base;
  if (header == NULL || sscanf(text, "[{\"base_host_virt_addr\":%llu", &base) != 1) die("a client without memory");
  memcpy(&handed->uffd, CMSG_DATA(header), sizeof(int));
  handed->base = base;
}

/* The image is mapped in beforehand, as Firecracker's example does it. */
static struct handed await_client(const struct plan *plan, const struct server *server) {
  struct handed handed;
  handed.source = mmap(NULL, plan->length, PROT_READ, MAP_SHARED | MAP_POPULATE, plan->image->fd, 0);
  if (handed.source == MAP_FAILED) die("cannot map the image: %m");
  int listener = listen_at(server->path);
  if (write(server->ready, "", 1) != 1) die("a server without its parent");
  receive(&handed, listener);
  return handed;
}

static void serve_run(serve_fn *serve, bool told, const struct plan *plan, bool check, double figures[FIGURES]) {
  struct server server;
  server_start(&server, serve, plan);
  client_run(plan, server.path, told, check, figures);
  server_end(&server, plan, figures);
}

/* The textbook loop */

static void serve_pages(const struct plan *plan, const struct server *server) {
  struct handed handed = await_client(plan, server);
  struct pollfd fds[2] = {{.fd = handed.uffd, .events = POLLIN}, {.fd = handed.connection, .events = POLLIN}};
  for (;;) {
    struct uffd_msg message;
    if (poll(fds, 2, -1) < 1) die("poll: %m");
    if (fds[1].revents != 0) return;
    if (read(handed.uffd, &message, sizeof(message)) != (ssize_t)sizeof(message)) continue;
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    uint64_t page = message.arg.pagefault.address & ~(PAGE - 1);
    int error = raw_fill(handed.uffd, page, handed.source + (page - handed.base), PAGE);
    if (error != 0 && error != EEXIST && error != ESRCH) die("the textbook loop: errno %d", error);
  }
}

void textbook_server(const struct plan *plan, bool check, double figures[FIGURES]) {
  serve_run(serve_pages, false, plan, check, figures);
}

void textbook_server_pinned(const struct plan *plan, bool check, double figures[FIGURES]) {
  pin(current_cpu()); /* inherited by both */
  textbook_server(plan, check, figures);
}

/* The limit */

static int compare_page(const void *left, const void *right) {
  uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
  return (a > b) - (a < b);
}

static void serve_bulk(const struct plan *plan, const struct server *server) {
  size_t count = plan_pages(plan);
  uint32_t *pages = plan_list(plan);
  qsort(pages, count, sizeof(*pages), compare_page);
  struct handed handed = await_client(plan, server);
  for (size_t i = 0, next; i < count; i = next) {
    for (next = i + 1; next < count && pages[next] == pages[i] + (next - i) && (next - i) * PAGE < HUGE_PAGE;) {
      next++;
    }
    uint64_t offset = pages[i] * PAGE;
    int error = raw_fill(handed.uffd, handed.base + offset, handed.source + offset, (next - i) * PAGE);
    if (error != 0) die("the bulk ioctl: errno %d", error);
  }
  char byte = 0;
  if (write(handed.connection, &byte, 1) != 1) die("the client has ended");
  if (read(handed.connection, &byte, 1) > 0) die("the client has more to say");
}

void bulk_server(const struct plan *plan, bool check, double figures[FIGURES]) {
  serve_run(serve_bulk, true, plan, check, figures);
}
