/*
 * The control socket's protocol. A request is a line of JSON, {"request":"NAME"}, and so is its reply; requests may
 * follow each other on a connection, and are answered in their order:
 *
 *   status   {"ok":true,"version":"0.1.0","pid":4711,"clients":2,"workers":1,"served":3,"refused":0,"restarts":0,
 *             "draining":false}
 *   clients  {"ok":true,"clients":[{"id":1,"of":0,"pid":4712,"uid":0,"gid":0,"state":"served","worker":0,"restarts":0,
 *             "age_ns":...,"oldest_ns":...,"size":...,"regions":1,"stats":{"faults":...,"missing":..., ...}}]}
 *   stats    {"ok":true,"stats":{...}} of all clients that are there: sums; of the latencies and queues, the largest
 *   drain    {"ok":true}, and the pager drains, as uffd_pager_drain() does
 *   reload   {"ok":true}, and workers are replaced, as uffd_pager_reload() does
 *
 * The names in stats are those of struct uffd_stats. What cannot be done is {"ok":false,"error":"A sentence."}; after a
 * line that is too long the connection is closed as well.
 *
 * Nothing here waits: a connection whose reply is not taken is not read from until it is, and when all seats are taken
 * whoever was silent for longest gives way.
 */
#include "serve/supervisor/control.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/door/listen.h"

enum { SEATS = 16, REQUEST_MAX = 4096, STEP_EVENTS = 32 };

struct seat {
  int fd;             /* -1: free */
  uint64_t active_ns; /* when it was last heard of */
  bool leaving;       /* to be closed when the reply is sent */
  char request[REQUEST_MAX];
  size_t request_length;
  char *reply; /* jansson's; NULL: none waits */
  size_t reply_length;
  size_t sent;
};

struct uffd_control {
  struct uffd_listener listener;
  int64_t uid;
  uffd_pager *pager;
  int epoll;
  struct seat seats[SEATS];
};

/* ------------------------------------------------------------------------------------------------ replies */

static void set_count(json_t *object, const char *name, uint64_t value) {
  json_object_set_new(object, name, json_integer((json_int_t)value));
}

static const struct {
  const char *name;
  size_t offset;
  bool largest; /* all clients together: the largest, not the sum */
} figures[] = {
#define SUM(name)                                                                                                      \
  { #name, offsetof(struct uffd_stats, name), false }
#define MAX(name)                                                                                                      \
  { #name, offsetof(struct uffd_stats, name), true }
    SUM(faults),    SUM(missing),       SUM(wp),          SUM(minor),       SUM(writes),
    SUM(events),    SUM(zero),          SUM(copied),      SUM(continued),   SUM(moved),
    SUM(poisoned),  SUM(unprotected),   SUM(bytes),       SUM(prefetched),  SUM(present),
    SUM(deferred),  SUM(gone),          SUM(errors),      SUM(queue),       SUM(policy_calls),
    MAX(queue_max), SUM(latency_count), MAX(latency_p50), MAX(latency_p99), MAX(latency_max),
#undef SUM
#undef MAX
};
enum { FIGURES = sizeof(figures) / sizeof(figures[0]) };

static uint64_t *figure_of(struct uffd_stats *stats, size_t i) {
  return (uint64_t *)(void *)((char *)stats + figures[i].offset);
}

static json_t *stats_object(struct uffd_stats *stats) {
  json_t *object = json_object();
  for (size_t i = 0; i < FIGURES; i++)
    set_count(object, figures[i].name, *figure_of(stats, i));
  return object;
}

static json_t *client_object(struct uffd_client_status *status, uint64_t now) {
  const struct uffd_client *client = &status->client;
  const char *state = uffd_client_state_name(status->state);
  json_t *object = json_object();
  uint64_t size = 0;
  for (uint32_t i = 0; i < client->regions_count; i++)
    size += client->regions[i].length;
  set_count(object, "id", client->id);
  set_count(object, "of", client->of);
  json_object_set_new(object, "pid", json_integer(client->pid));
  set_count(object, "uid", client->uid);
  set_count(object, "gid", client->gid);
  json_object_set_new(object, "state", state != NULL ? json_string(state) : json_integer(status->state));
  set_count(object, "worker", status->worker);
  set_count(object, "restarts", status->restarts);
  set_count(object, "age_ns", now > status->since_ns ? now - status->since_ns : 0);
  set_count(object, "oldest_ns", status->oldest_ns);
  set_count(object, "size", size);
  set_count(object, "regions", client->regions_count);
  json_object_set_new(object, "stats", stats_object(&status->stats));
  return object;
}

static json_t *success(void) {
  json_t *reply = json_object();
  json_object_set_new(reply, "ok", json_true());
  return reply;
}

static json_t *failure(const char *sentence) {
  json_t *reply = json_object();
  json_object_set_new(reply, "ok", json_false());
  json_object_set_new(reply, "error", json_string(sentence));
  return reply;
}

static json_t *tell_status(struct uffd_control *control) {
  struct uffd_pager_status status = UFFD_PAGER_STATUS_INIT;
  if (uffd_pager_status(control->pager, &status) < 0) return failure(uffd_errmsg());
  json_t *reply = success();
  json_object_set_new(reply, "version", json_string(uffd_version()));
  set_count(reply, "pid", (uint64_t)getpid());
  set_count(reply, "clients", status.clients);
  set_count(reply, "workers", status.workers);
  set_count(reply, "served", status.served);
  set_count(reply, "refused", status.refused);
  set_count(reply, "restarts", status.restarts);
  json_object_set_new(reply, "draining", json_boolean(status.draining != 0));
  return reply;
}

static json_t *tell_clients(struct uffd_control *control) {
  struct uffd_client_status status = UFFD_CLIENT_STATUS_INIT;
  json_t *clients = json_array();
  uint64_t now = uffd_now();
  for (uint32_t i = 0; uffd_pager_client(control->pager, i, &status) > 0; i++)
    json_array_append_new(clients, client_object(&status, now));
  json_t *reply = success();
  json_object_set_new(reply, "clients", clients);
  return reply;
}

static json_t *tell_stats(struct uffd_control *control) {
  struct uffd_client_status status = UFFD_CLIENT_STATUS_INIT;
  struct uffd_stats all = UFFD_STATS_INIT;
  for (uint32_t i = 0; uffd_pager_client(control->pager, i, &status) > 0; i++) {
    for (size_t k = 0; k < FIGURES; k++) {
      uint64_t *into = figure_of(&all, k), value = *figure_of(&status.stats, k);
      *into = figures[k].largest ? max_u64(*into, value) : *into + value;
    }
  }
  json_t *reply = success();
  json_object_set_new(reply, "stats", stats_object(&all));
  return reply;
}

static json_t *tell_result(int result) {
  return result < 0 ? failure(uffd_errmsg()) : success();
}

static json_t *drain(struct uffd_control *control) {
  int result = uffd_pager_drain(control->pager);
  return result == -EALREADY ? failure("It drains already.") : tell_result(result);
}

static json_t *reload(struct uffd_control *control) {
  return tell_result(uffd_pager_reload(control->pager));
}

static const struct {
  const char *name;
  json_t *(*answer)(struct uffd_control *control);
} requests[] = {
    {"status", tell_status}, {"clients", tell_clients}, {"stats", tell_stats}, {"drain", drain}, {"reload", reload},
};

static json_t *answer(struct uffd_control *control, const char *line, size_t length) {
  json_error_t error;
  json_t *request = json_loadb(line, length, JSON_REJECT_DUPLICATES, &error);
  if (request == NULL) return failure("A request is a line of JSON: {\"request\":\"status\"}.");
  const char *name = json_string_value(json_object_get(request, "request"));
  json_t *reply = NULL;
  for (size_t i = 0; name != NULL && i < sizeof(requests) / sizeof(requests[0]); i++) {
    if (strcmp(requests[i].name, name) == 0) reply = requests[i].answer(control);
  }
  json_decref(request);
  return reply != NULL ? reply : failure("There are the requests status, clients, stats, drain and reload.");
}

/* ------------------------------------------------------------------------------------------------ seats */

static void leave(struct seat *seat) {
  if (seat->fd >= 0) close(seat->fd); /* epoll forgets it */
  free(seat->reply);
  *seat = (struct seat){.fd = -1};
}

static bool has_request(const struct seat *seat) {
  return seat->request_length == REQUEST_MAX || memchr(seat->request, '\n', seat->request_length) != NULL;
}

/* A reply that is not taken yet, and a request that was read already, wait for room to send; else it is its turn. */
static void watch(struct uffd_control *control, struct seat *seat) {
  bool busy = seat->reply != NULL || has_request(seat);
  struct epoll_event event = {.events = busy ? EPOLLOUT : EPOLLIN, .data.ptr = seat};
  if (epoll_ctl(control->epoll, EPOLL_CTL_MOD, seat->fd, &event) != 0) leave(seat);
}

/* Sends what the socket takes. False: it has gone, or is to go. */
static bool send_reply(struct seat *seat) {
  while (seat->reply != NULL) {
    ssize_t sent = send(seat->fd, seat->reply + seat->sent, seat->reply_length - seat->sent, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    seat->sent += (size_t)sent;
    if (seat->sent < seat->reply_length) continue;
    free(seat->reply);
    seat->reply = NULL;
  }
  return !seat->leaving;
}

/* Takes over the reply. False: no memory. */
static bool keep_reply(struct seat *seat, json_t *reply) {
  size_t length = json_dumpb(reply, NULL, 0, JSON_COMPACT);
  seat->reply = length > 0 ? malloc(length + 1) : NULL;
  if (seat->reply != NULL) {
    json_dumpb(reply, seat->reply, length, JSON_COMPACT);
    seat->reply[length] = '\n';
    seat->reply_length = length + 1;
    seat->sent = 0;
  }
  json_decref(reply);
  return seat->reply != NULL;
}

/* Answers the first line. False: the seat is to be left. */
static bool answer_line(struct uffd_control *control, struct seat *seat) {
  const char *end = memchr(seat->request, '\n', seat->request_length);
  if (end == NULL) {
    seat->leaving = true;
    return keep_reply(seat, failure("A request has 4095 bytes at most.")) && send_reply(seat);
  }
  size_t length = (size_t)(end - seat->request);
  if (!keep_reply(seat, answer(control, seat->request, length))) return false;
  seat->request_length -= length + 1;
  memmove(seat->request, end + 1, seat->request_length);
  return send_reply(seat);
}

/* False: hung up. */
static bool read_requests(struct seat *seat) {
  ssize_t got = recv(seat->fd, seat->request + seat->request_length, REQUEST_MAX - seat->request_length, MSG_DONTWAIT);
  if (got > 0) seat->request_length += (size_t)got;
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

/* One request at a time, so that many do not hold up the supervisor. False: the seat is to be left. */
static bool serve(struct uffd_control *control, struct seat *seat) {
  seat->active_ns = uffd_now();
  if (!send_reply(seat)) return false;
  if (seat->reply != NULL) return true;
  if (!has_request(seat) && !read_requests(seat)) return false;
  return !has_request(seat) || answer_line(control, seat);
}

static struct seat *free_seat(struct uffd_control *control) {
  struct seat *oldest = &control->seats[0];
  for (int i = 0; i < SEATS; i++) {
    struct seat *seat = &control->seats[i];
    if (seat->fd < 0) return seat;
    if (seat->active_ns < oldest->active_ns) oldest = seat;
  }
  leave(oldest);
  return oldest;
}

static void accept_all(struct uffd_control *control) {
  for (int i = 0; i < SEATS; i++) {
    struct uffd_peer peer;
    int fd = uffd_listener_accept(&control->listener, control->uid, &peer);
    if (fd == -EAGAIN) return;
    if (fd < 0) continue;
    if (peer.pidfd >= 0) close(peer.pidfd);
    struct seat *seat = free_seat(control);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = seat};
    seat->fd = fd;
    seat->active_ns = uffd_now();
    if (epoll_ctl(control->epoll, EPOLL_CTL_ADD, fd, &event) != 0) leave(seat);
  }
}

/* ------------------------------------------------------------------------------------------------ the socket */

static int open_control(struct uffd_control *control, const char *path, mode_t mode) {
  int result = uffd_listener_open(&control->listener, path, mode);
  if (result < 0) return result;
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  control->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (control->epoll < 0 || epoll_ctl(control->epoll, EPOLL_CTL_ADD, control->listener.fd, &event) != 0)
    return fail(errno, "Cannot watch the control socket: %s.", strerror(errno));
  return 0;
}

int uffd_control_open(const char *path, mode_t mode, int64_t uid, uffd_pager *pager, struct uffd_control **control) {
  *control = NULL;
  struct uffd_control *opened = NEW(struct uffd_control);
  if (opened == NULL) return fail(ENOMEM, "No memory for the control socket.");
  opened->listener = (struct uffd_listener)UFFD_LISTENER_INIT;
  opened->uid = uid;
  opened->pager = pager;
  opened->epoll = -1;
  for (int i = 0; i < SEATS; i++)
    opened->seats[i].fd = -1;
  int result = open_control(opened, path, mode);
  if (result < 0)
    uffd_control_close(opened);
  else
    *control = opened;
  return result;
}

int uffd_control_fd(const struct uffd_control *control) {
  return control->epoll;
}

void uffd_control_step(struct uffd_control *control) {
  struct epoll_event events[STEP_EVENTS];
  int count = epoll_wait(control->epoll, events, STEP_EVENTS, 0);
  bool connections = false;
  for (int i = 0; i < count; i++) {
    struct seat *seat = events[i].data.ptr;
    if (seat == NULL)
      connections = true;
    else if (seat->fd < 0)
      continue; /* a forked child has not closed its copy yet */
    else if (!serve(control, seat))
      leave(seat);
    else
      watch(control, seat);
  }
  if (connections) accept_all(control); /* last: it may take the seat of one whose event is in the list */
}

void uffd_control_close(struct uffd_control *control) {
  if (control == NULL) return;
  for (int i = 0; i < SEATS; i++)
    leave(&control->seats[i]);
  if (control->epoll >= 0) close(control->epoll);
  uffd_listener_close(&control->listener);
  DELETE(control);
}
