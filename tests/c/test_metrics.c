/* The metrics socket: as much HTTP as a scraper needs, at a path or a loopback address, and nobody holds it up. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "check.h"
#include "uffd_pager.h"

struct setup {
  char directory[32], image[64], door[64], metrics[64];
  uffd_pager *pager;
};

static struct uffd_pager_opts set_up(struct setup *setup) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  *setup = (struct setup){.directory = "/tmp/metricsXXXXXX"};
  if (check_under_tsan()) SKIP("ThreadSanitizer has a thread of its own, which forked workers would lack");
  CHECK(mkdtemp(setup->directory) != NULL);
  snprintf(setup->image, sizeof(setup->image), "%s/image", setup->directory);
  snprintf(setup->door, sizeof(setup->door), "%s/door", setup->directory);
  snprintf(setup->metrics, sizeof(setup->metrics), "%s/metrics", setup->directory);
  int fd = open(setup->image, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  CHECK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
  close(fd);
  opts.socket = setup->door;
  opts.image = setup->image;
  opts.metrics = setup->metrics;
  return opts;
}

static void tear_down(struct setup *setup) {
  uffd_pager_close(setup->pager);
  CHECK(access(setup->metrics, F_OK) != 0);
  unlink(setup->image);
  rmdir(setup->directory);
}

static int dial(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  memcpy(address.sun_path, path, strlen(path));
  CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
  return fd;
}

static void say(int fd, const char *text) {
  CHECK_EQ(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* Steps the pager until the connection is closed: all that it said. */
static const char *hear(const struct setup *setup, int fd) {
  static char text[1 << 16];
  size_t length = 0;
  for (;;) {
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    while (poll(&poll_fd, 1, 0) != 1) {
      CHECK(uffd_pager_step(setup->pager, 10) >= 0);
    }
    ssize_t got = recv(fd, text + length, sizeof(text) - 1 - length, 0);
    if (got <= 0) break;
    length += (size_t)got;
  }
  text[length] = '\0';
  close(fd);
  return text;
}

static void begins(const char *text, const char *words) {
  if (strncmp(text, words, strlen(words)) != 0) fprintf(stderr, "expected %s in: %.200s\n", words, text);
  CHECK(strncmp(text, words, strlen(words)) == 0);
}

static void is_whole(const char *text) {
  const char *body = strstr(text, "\r\n\r\n"), *length = strstr(text, "Content-Length: ");
  CHECK(body != NULL && length != NULL && length < body);
  CHECK_EQ(strlen(body + 4), strtoull(length + 16, NULL, 10));
  CHECK(strstr(text, "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n") != NULL);
  CHECK(strcmp(text + strlen(text) - 6, "# EOF\n") == 0);
}

static void a_scraper_gets_the_metrics_at_a_path(void) {
  struct setup setup;
  struct uffd_pager_opts opts = set_up(&setup);
  CHECK_OK(uffd_pager_create(&opts, &setup.pager));
  int fd = dial(setup.metrics);
  say(fd, "GET /metrics HTTP/1.1\r\nHost: x\r\n");
  CHECK(uffd_pager_step(setup.pager, 10) >= 0);
  say(fd, "Accept: */*\r\n\r\n");
  const char *text = hear(&setup, fd);
  begins(text, "HTTP/1.1 200 OK\r\n");
  is_whole(text);
  CHECK(strstr(text, "\nuffd_faults_total{kind=\"missing\"} 0\n") != NULL);
  CHECK(strstr(text, "\nuffd_fault_latency_seconds_bucket{le=\"0.0000025\"} 0\n") != NULL);

  fd = dial(setup.metrics);
  say(fd, "HEAD / HTTP/1.0\n\n");
  text = hear(&setup, fd);
  begins(text, "HTTP/1.1 200 OK\r\n");
  CHECK(strstr(text, "# EOF") == NULL);

  fd = dial(setup.metrics);
  say(fd, "GET /other HTTP/1.1\r\n\r\n");
  begins(hear(&setup, fd), "HTTP/1.1 404 ");

  fd = dial(setup.metrics);
  say(fd, "POST /metrics HTTP/1.1\r\n\r\n");
  begins(hear(&setup, fd), "HTTP/1.1 405 ");
  tear_down(&setup);
}

static void every_statistic_is_a_metric_or_left_out_with_a_reason(void) {
  static const char *const left_out[] = {"faults",      "latency_count", "latency_p50",
                                         "latency_p99", "latency_max",   "queue_max"};
  struct setup setup;
  struct uffd_pager_opts opts = set_up(&setup);
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  CHECK_OK(uffd_pager_create(&opts, &setup.pager));
  int fd = dial(setup.metrics);
  say(fd, "GET /metrics HTTP/1.1\r\n\r\n");
  const char *text = hear(&setup, fd);
  for (size_t i = 0; i < count; i++) {
    char label[64], alone[64];
    bool bytes = strcmp(fields[i].name, "bytes") == 0, skipped = false;
    snprintf(label, sizeof(label), "=\"%s\"} ", fields[i].name);
    snprintf(alone, sizeof(alone), "\nuffd_%s%s%s ", bytes ? "installed_" : "", fields[i].name,
             fields[i].kind == UFFD_STATS_COUNT ? "_total" : "");
    for (size_t k = 0; k < sizeof(left_out) / sizeof(left_out[0]); k++) {
      skipped = skipped || strcmp(left_out[k], fields[i].name) == 0;
    }
    CHECK(skipped == (strstr(text, label) == NULL && strstr(text, alone) == NULL));
  }
  tear_down(&setup);
}

static void who_is_silent_holds_nobody_up(void) {
  enum { MANY = 40 };
  struct setup setup;
  struct uffd_pager_opts opts = set_up(&setup);
  int fds[MANY];
  CHECK_OK(uffd_pager_create(&opts, &setup.pager));
  for (int i = 0; i < MANY; i++) {
    fds[i] = dial(setup.metrics);
    say(fds[i], "GET /metr");
    CHECK(uffd_pager_step(setup.pager, 10) >= 0);
  }
  int fd = dial(setup.metrics);
  say(fd, "GET /metrics HTTP/1.1\r\n\r\n");
  is_whole(hear(&setup, fd));
  for (int i = 0; i < MANY; i++) {
    close(fds[i]);
  }
  /* A request without an end is answered when it is too long. */
  static char endless[8192];
  memset(endless, 'x', sizeof(endless) - 1);
  fd = dial(setup.metrics);
  say(fd, endless);
  begins(hear(&setup, fd), "HTTP/1.1 405 ");
  tear_down(&setup);
}

static void a_port_of_a_loopback_address_serves_too(void) {
  struct setup setup;
  struct uffd_pager_opts opts = set_up(&setup);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof(address);
  char where[32];
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) SKIP("there is no IPv4 here");
  CHECK(bind(fd, (struct sockaddr *)&address, length) == 0);
  CHECK(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
  snprintf(where, sizeof(where), "127.0.0.1:%u", ntohs(address.sin_port));
  opts.metrics = where;
  CHECK_ERR(uffd_pager_create(&opts, &setup.pager), -EADDRINUSE);
  close(fd); /* the port is free now */
  CHECK_OK(uffd_pager_create(&opts, &setup.pager));
  fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(connect(fd, (struct sockaddr *)&address, length) == 0);
  say(fd, "GET /metrics HTTP/1.1\r\n\r\n");
  is_whole(hear(&setup, fd));
  tear_down(&setup);
}

static void other_addresses_are_refused(void) {
  static const char *const others[] = {"0.0.0.0:9100", "8.8.8.8:9100", "[::]:9100",
                                       "example:9100", "127.0.0.1:0",  "127.0.0.1:65536"};
  struct setup setup;
  struct uffd_pager_opts opts = set_up(&setup);
  for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
    opts.metrics = others[i];
    CHECK_ERR(uffd_pager_create(&opts, &setup.pager), -EINVAL);
  }
  CHECK(access(setup.door, F_OK) != 0);
  unlink(setup.image);
  rmdir(setup.directory);
}

static const struct check_test tests[] = {
    TEST(a_scraper_gets_the_metrics_at_a_path), TEST(every_statistic_is_a_metric_or_left_out_with_a_reason),
    TEST(who_is_silent_holds_nobody_up),        TEST(a_port_of_a_loopback_address_serves_too),
    TEST(other_addresses_are_refused),
};
CHECK_MAIN(tests)
