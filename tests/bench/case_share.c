/*
 * Clients in other processes that share the pager's copy of the image (serve --share), beside clients that have a copy
 * each: how long all of it takes the second and later ones, and how much memory each has for itself.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <uffd_pager.h>

#include "bench.h"
#include "server.h"
#include "smaps.h"

#define CLIENTS 4u

/* The pager, in its process */

static uffd_pager *pager;

static void on_term(int number) {
  (void)number;
  uffd_pager_drain(pager);
}

static void on_report(void *ctx, const struct uffd_pager_report *report) {
  (void)ctx;
  if (report->kind == UFFD_REPORT_ERROR || report->kind == UFFD_REPORT_REFUSED) die("the pager: %s", report->text);
}

static void run(const struct plan *plan, const struct server *server, uint32_t flags) {
  const struct sigaction action = {.sa_handler = on_term};
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  char image[64];
  snprintf(image, sizeof(image), "/proc/self/fd/%d", plan->image->fd);
  opts.socket = server->path;
  opts.image = image;
  opts.flags = flags;
  opts.report = on_report;
  must(uffd_pager_create(&opts, &pager));
  sigaction(SIGTERM, &action, NULL);
  if (write(server->ready, "", 1) != 1) die("a pager without its parent");
  must(uffd_pager_run(pager));
  uffd_pager_close(pager);
}

static void run_sharing(const struct plan *plan, const struct server *server) {
  run(plan, server, UFFD_PAGER_SHARE);
}

static void run_copying(const struct plan *plan, const struct server *server) {
  run(plan, server, 0);
}

/* A client, in its process */

struct client {
  pid_t pid;
  int to, from; /* bytes that it waits for, and its figures */
};

static void put(int fd, double figure) {
  if (write(fd, &figure, sizeof(figure)) != (ssize_t)sizeof(figure)) _exit(3);
}

static void await_byte(int fd) {
  char byte;
  if (read(fd, &byte, 1) != 1) _exit(0);
}

static void be_client(const struct plan *plan, const char *path, bool shares, bool check, int in, int out) {
  struct uffd_handoff_part part = {NULL, 0};
  uffd_handoff *handoff;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  uint64_t begin = now_ns();
  if (shares) {
    must(uffd_handoff_map(path, NULL, &part.memory));
  } else {
    part.memory = serve_memory(plan);
  }
  must(uffd_handoff_send(path, &part, 1, NULL, &handoff));
  const volatile char *memory = uffd_memory_address(part.memory);
  for (uint64_t at = 0; at < plan->length; at += PAGE) {
    (void)memory[at];
  }
  put(out, (double)(now_ns() - begin) / (double)plan_pages(plan));
  if (check) plan_check(plan, uffd_memory_address(part.memory));
  await_byte(in);
  put(out, 1024.0 * (double)smaps_kib(uffd_memory_address(part.memory), "Pss:") / (double)plan_pages(plan));
  await_byte(in);
  _exit(0);
}

static void start(struct client *client, const struct plan *plan, const char *path, bool shares, bool check) {
  int there[2], back[2];
  if (pipe(there) != 0 || pipe(back) != 0) die("pipe: %m");
  client->pid = fork();
  if (client->pid < 0) die("fork: %m");
  if (client->pid == 0) {
    close(there[1]);
    be_client(plan, path, shares, check, there[0], back[1]);
  }
  close(there[0]);
  close(back[1]);
  client->to = there[1];
  client->from = back[0];
}

static double hear(const struct client *client) {
  double figure;
  if (read(client->from, &figure, sizeof(figure)) != (ssize_t)sizeof(figure)) die("a client has failed");
  return figure;
}

static void tell(const struct client *client) {
  if (write(client->to, "", 1) != 1) die("a client has ended");
}

/* One after the other, and all stay until the memory of each was looked at. TAIL: bytes a page that one has itself. */
static void serve_clients(const struct plan *plan, bool shares, bool check, double figures[FIGURES]) {
  struct client clients[CLIENTS];
  struct server server;
  double times[CLIENTS], own[CLIENTS];
  server_start(&server, shares ? run_sharing : run_copying, plan);
  for (unsigned i = 0; i < CLIENTS; i++) {
    start(&clients[i], plan, server.path, shares, check);
    times[i] = hear(&clients[i]);
  }
  for (unsigned i = 0; i < CLIENTS; i++) {
    tell(&clients[i]);
    own[i] = hear(&clients[i]);
  }
  for (unsigned i = 0; i < CLIENTS; i++) {
    tell(&clients[i]);
    close(clients[i].to);
    close(clients[i].from);
    waitpid(clients[i].pid, NULL, 0);
  }
  kill(server.pid, SIGTERM);
  server_end(&server, plan, figures);
  figures[MAIN] = spread_of(times + 1, CLIENTS - 1).median;
  figures[LONGEST] = times[0];
  figures[TAIL] = spread_of(own, CLIENTS).median;
}

static void serve_sharing(const struct plan *plan, bool check, double figures[FIGURES]) {
  serve_clients(plan, true, check, figures);
}

static void serve_copying(const struct plan *plan, bool check, double figures[FIGURES]) {
  serve_clients(plan, false, check, figures);
}

void case_serve_share(const char *name) {
  const struct plan plan = {.length = TYPICAL_BYTES, .contents = IMAGE, .image = image_typical()};
  struct contender list[] = {{.run = serve_sharing, .plan = &plan}, {.run = serve_copying, .plan = &plan}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "pager", .base_name = "a copy each"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  explain(&row, "clients 2 to %u, touched in order; the first takes %.0f", CLIENTS, list[0].figures[LONGEST].median);
  report(&row);
  row.note[0] = '\0';
  row.unit = "bytes/page, PSS";
  row.uffd = list[0].figures[TAIL];
  row.base = list[1].figures[TAIL];
  row.at_least = 1 / (1.05 / CLIENTS);
  explain(&row, "%u clients that have read all of the image", CLIENTS);
  report(&row);
}
