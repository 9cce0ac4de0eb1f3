/*
 * The metrics socket: a unix socket, or a port of a loopback address, that speaks as much HTTP as a scraper needs. A
 * request is read until its empty line, answered, and the connection is closed. When no place is left, the connection
 * that came first is closed: a scraper that is silent keeps nobody out.
 */
#include "serve/supervisor/scrape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/door/listen.h"
#include "serve/supervisor/given.h"
#include "serve/supervisor/pager.h"

enum { PLACES = 8, REQUEST_MAX = 4096 };

struct place {
  int fd;        /* -1: free */
  uint64_t came; /* number of the connection */
  struct uffd_poll poll;
  char request[REQUEST_MAX + 1];
  size_t length;
  char *reply; /* NULL: the request is not whole yet */
  size_t reply_length, sent;
};

struct uffd_scrape {
  struct uffd_listener listener;
  struct uffd_poll poll;
  uint64_t came; /* connections so far */
  struct place places[PLACES];
};

static void leave(uffd_pager *pager, struct place *place) {
  if (place->fd < 0) return;
  uffd_poll_drop(pager, place->fd);
  close(place->fd);
  uffd_release(place->reply, place->reply_length);
  place->reply = NULL;
  place->fd = -1;
}

/* True: all is sent, or nobody takes it. */
static bool send_reply(struct place *place) {
  while (place->sent < place->reply_length) {
    ssize_t sent = send(place->fd, place->reply + place->sent, place->reply_length - place->sent, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (sent < 0) return true;
    place->sent += (size_t)sent;
  }
  return true;
}

struct answer {
  struct place *place;
  const char *status;
  bool head; /* without the body */
};

static void keep(void *ctx, const char *text, size_t length) {
  const struct answer *answer = ctx;
  struct place *place = answer->place;
  char head[256];
  int head_length = snprintf(head, sizeof(head),
                             "HTTP/1.1 %s\r\n"
                             "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
                             "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                             answer->status, length);
  size_t body = answer->head ? 0 : length;
  place->reply = uffd_alloc((size_t)head_length + body);
  if (place->reply == NULL) return;
  memcpy(place->reply, head, (size_t)head_length);
  memcpy(place->reply + head_length, text, body);
  place->reply_length = (size_t)head_length + body;
  place->sent = 0;
}

static bool asks(const char *request, const char *method) {
  size_t length = strlen(method);
  if (strncmp(request, method, length) != 0) return false;
  return strncmp(request + length, " /metrics ", 10) == 0 || strncmp(request + length, " /metrics?", 10) == 0 ||
         strncmp(request + length, " / ", 3) == 0;
}

static void answer_request(uffd_pager *pager, struct place *place) {
  struct answer answer = {.place = place, .status = "200 OK", .head = asks(place->request, "HEAD")};
  if (answer.head || asks(place->request, "GET")) {
    (void)uffd_pager_metrics(pager, keep, &answer);
  } else {
    answer.status = strncmp(place->request, "GET ", 4) == 0 ? "404 Not Found" : "405 Method Not Allowed";
    keep(&answer, "# EOF\n", 6);
  }
}

static bool is_whole(const struct place *place) {
  return strstr(place->request, "\r\n\r\n") != NULL || strstr(place->request, "\n\n") != NULL ||
         place->length == REQUEST_MAX;
}

static void step(uffd_pager *pager, void *owner) {
  struct place *place = owner;
  if (place->reply == NULL) {
    ssize_t got = recv(place->fd, place->request + place->length, REQUEST_MAX - place->length, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got > 0) place->length += (size_t)got;
    place->request[place->length] = '\0';
    if (got > 0 && !is_whole(place)) return;
    if (got > 0) answer_request(pager, place);
  }
  if (place->reply == NULL || send_reply(place)) {
    leave(pager, place);
  } else {
    uffd_poll_write(pager, place->fd, &place->poll, true);
  }
}

static struct place *free_place(uffd_pager *pager, struct uffd_scrape *scrape) {
  struct place *oldest = &scrape->places[0];
  for (int i = 0; i < PLACES; i++) {
    struct place *place = &scrape->places[i];
    if (place->fd < 0) return place;
    if (place->came < oldest->came) oldest = place;
  }
  leave(pager, oldest);
  return oldest;
}

static void accept_some(uffd_pager *pager, void *owner) {
  struct uffd_scrape *scrape = owner;
  for (int i = 0; i < PLACES; i++) {
    int fd = uffd_listener_take(&scrape->listener);
    if (fd == -EAGAIN) return;
    if (fd < 0) continue;
    struct place *place = free_place(pager, scrape);
    *place = (struct place){.fd = fd, .came = ++scrape->came, .poll = {.ready = step, .owner = place, .outside = true}};
    if (uffd_poll_add(pager, fd, &place->poll) < 0) leave(pager, place);
  }
}

/* "HOST:PORT" or "[HOST]:PORT" without a slash, or a path. The port, and the host in host; -1: it is a path. */
static long split(const char *where, char *host, size_t room) {
  const char *colon = strrchr(where, ':'), *first = where;
  if (strchr(where, '/') != NULL || colon == NULL || colon[1] == '\0') return -1;
  if (colon[1 + strspn(colon + 1, "0123456789")] != '\0') return -1;
  size_t length = (size_t)(colon - where);
  if (length > 2 && where[0] == '[' && where[length - 1] == ']') {
    first++;
    length -= 2;
  }
  if (length >= room) return -1;
  memcpy(host, first, length);
  host[length] = '\0';
  return strtol(colon + 1, NULL, 10);
}

static int listen_at(struct uffd_scrape *scrape, const char *where, mode_t mode) {
  char host[64];
  long port = split(where, host, sizeof(host));
  if (port < 0) return uffd_listener_open(&scrape->listener, where, mode);
  if (port == 0 || port > UINT16_MAX) return fail(EINVAL, "metrics: %s has no port from 1 to 65535.", where);
  return uffd_listener_open_port(&scrape->listener, host, (uint16_t)port);
}

int uffd_scrape_open(uffd_pager *pager) {
  int fd = uffd_given_take(pager, "metrics");
  if (pager->opts.metrics == NULL && fd < 0) return 0;
  struct uffd_scrape *scrape = NEW(struct uffd_scrape);
  if (scrape == NULL) return fail(ENOMEM, "No memory for the metrics socket.");
  scrape->listener = (struct uffd_listener)UFFD_LISTENER_INIT;
  for (int i = 0; i < PLACES; i++) {
    scrape->places[i].fd = -1;
  }
  pager->scrape = scrape;
  int result = fd >= 0 ? uffd_listener_adopt(&scrape->listener, fd, NULL)
                       : listen_at(scrape, pager->opts.metrics, pager->opts.socket_mode);
  if (result < 0) return result;
  scrape->poll = (struct uffd_poll){.ready = accept_some, .owner = scrape, .outside = true};
  return uffd_poll_add(pager, scrape->listener.fd, &scrape->poll);
}

void uffd_scrape_close(uffd_pager *pager) {
  struct uffd_scrape *scrape = pager->scrape;
  if (scrape == NULL) return;
  for (int i = 0; i < PLACES; i++) {
    leave(pager, &scrape->places[i]);
  }
  if (scrape->listener.fd >= 0) uffd_poll_drop(pager, scrape->listener.fd);
  uffd_listener_close(&scrape->listener);
  pager->scrape = NULL;
  DELETE(scrape);
}
