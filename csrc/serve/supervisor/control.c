/*
 * The control socket's protocol. A request is a line of JSON, {"request":"NAME"}, and so is its reply; requests may
 * follow each other on a connection, and are answered in their order:
 *
 *   status
 * {"ok":true,"version":"0.1.0","pid":4711,"clients":2,"workers":1,"served":3,"refused":0,"restarts":0,"hangs":0,
 *             "draining":false}
 *   clients  {"ok":true,"clients":[{"id":1,"of":0,"pid":4712,"uid":0,"gid":0,"state":"served","worker":0,"restarts":0,
 *             "age_ns":...,"oldest_ns":...,"size":...,"regions":1,"shared":false,"label":"web",
 *             "socket":"clones.sock","image":"base.img","stats":{"faults":...,"missing":...,
 * ...}}]} stats    {"ok":true,"stats":{...}} of all clients so far: sums; of the latencies and queues, the largest
 *   errors   {"ok":true,"errors":[{"time_ns":...,"kind":"error","client":1,"errno":5,"text":"The page at ..."}]} the
 *            newest first; time_ns: since 1970. client 0: about none
 *   metrics  {"ok":true,"text":"..."} as uffd_pager_metrics() has it
 *   workers  {"ok":true,"workers":[{"worker":0,"pid":4713,"state":"ready","clients":2,"age_ns":...}]}
 *   kill, complete, label   {"request":"label","client":3,"label":"web"}: {"ok":true}; see uffd_pager_kill()
 *   drain    {"ok":true}, and the pager drains, as uffd_pager_drain() does; with "client": that client alone
 *   reload   {"ok":true}, and workers are replaced, as uffd_pager_reload() does
 *   image    with "path", or "paths" of layers, the lowest first: new clients get this image; the reply comes when it
 *            has been opened, or could not be
 *
 * drain, reload, kill, complete, label and image are orders: see control.h. The names in stats are those of struct
 * uffd_stats. What cannot be done is
 * {"ok":false,"error":"A sentence."}; after a line that is too long the connection is closed as well.
 *
 * Nothing here waits: a connection whose reply is not taken is not read from until it is, and when no place is left,
 * the visitor that was silent for longest is closed.
 */
#include "serve/supervisor/control.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/door/listen.h"
#include "serve/supervisor/image.h"

enum { VISITORS = 16, REQUEST_MAX = 4096, STEP_EVENTS = 32, LAYERS = 64 };

/* A connection to the control socket. */
struct visitor {
  int fd;             /* -1: free */
  uint64_t active_ns; /* when it was last heard of */
  bool leaving;       /* to be closed when the reply is sent */
  bool waits;         /* for an image to be opened: its reply comes then */
  struct uffd_peer peer;
  char request[REQUEST_MAX];
  size_t request_length;
  char *reply; /* NULL: none is to be sent */
  size_t reply_length;
  size_t sent;
};

struct uffd_control {
  struct uffd_listener listener;
  int64_t uid;
  uffd_pager *pager;
  int epoll;
  struct visitor visitors[VISITORS];
};

static void set_count(json_t *object, const char *name, uint64_t value) {
  json_object_set_new(object, name, json_integer((json_int_t)value));
}

static uint64_t *field_of(struct uffd_stats *stats, const struct uffd_stats_field *field) {
  return (uint64_t *)(void *)((char *)stats + field->offset);
}

static json_t *stats_object(struct uffd_stats *stats) {
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  json_t *object = json_object();
  for (size_t i = 0; i < count; i++) {
    set_count(object, fields[i].name, *field_of(stats, &fields[i]));
  }
  return object;
}

/* A sentence may hold a path of any bytes, and JSON is UTF-8: where the sentence is none, its other bytes are '?'. */
static json_t *text_of(const char *text) {
  char ascii[1024];
  json_t *string = json_string(text);
  size_t length = 0;
  if (string != NULL) return string;
  for (; text[length] != '\0' && length < sizeof(ascii) - 1; length++) {
    ascii[length] = text[length];
    if ((text[length] & 0x80) != 0) ascii[length] = '?';
  }
  return json_stringn(ascii, length);
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
  json_object_set_new(object, "shared", json_boolean(status->shared));
  if (status->label[0] != '\0') json_object_set_new(object, "label", text_of(status->label));
  if (status->image != NULL) json_object_set_new(object, "image", text_of(status->image));
  if (client->socket[0] != '\0') json_object_set_new(object, "socket", text_of(client->socket));
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
  json_object_set_new(reply, "error", text_of(sentence));
  return reply;
}

static json_t *tell_status(struct uffd_control *control, const json_t *asked) {
  (void)asked;
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
  set_count(reply, "hangs", status.hangs);
  set_count(reply, "reloads", status.reloads);
  json_object_set_new(reply, "reloading", json_boolean(status.reloading != 0));
  json_object_set_new(reply, "draining", json_boolean(status.draining != 0));
  return reply;
}

static json_t *tell_clients(struct uffd_control *control, const json_t *asked) {
  (void)asked;
  struct uffd_client_status status = UFFD_CLIENT_STATUS_INIT;
  json_t *clients = json_array();
  uint64_t now = uffd_now();
  for (uint32_t i = 0; uffd_pager_client(control->pager, i, &status) > 0; i++)
    json_array_append_new(clients, client_object(&status, now));
  json_t *reply = success();
  json_object_set_new(reply, "clients", clients);
  return reply;
}

static json_t *tell_stats(struct uffd_control *control, const json_t *asked) {
  (void)asked;
  struct uffd_stats all = UFFD_STATS_INIT;
  if (uffd_pager_stats(control->pager, &all) < 0) return failure(uffd_errmsg());
  json_t *reply = success();
  json_object_set_new(reply, "stats", stats_object(&all));
  return reply;
}

static json_t *tell_errors(struct uffd_control *control, const json_t *asked) {
  (void)asked;
  struct uffd_pager_report report;
  json_t *errors = json_array();
  for (uint32_t i = 0; uffd_pager_trouble(control->pager, i, &report) > 0; i++) {
    json_t *error = json_object();
    set_count(error, "time_ns", report.wall_ns);
    json_object_set_new(error, "kind", json_string(uffd_report_name(report.kind)));
    set_count(error, "client", report.client_id);
    json_object_set_new(error, "errno", json_integer(report.error));
    json_object_set_new(error, "text", text_of(report.text));
    json_array_append_new(errors, error);
  }
  json_t *reply = success();
  json_object_set_new(reply, "errors", errors);
  return reply;
}

static void keep_text(void *ctx, const char *text, size_t length) {
  json_object_set_new(ctx, "text", json_stringn(text, length));
}

static json_t *tell_metrics(struct uffd_control *control, const json_t *asked) {
  (void)asked;
  json_t *reply = success();
  if (uffd_pager_metrics(control->pager, keep_text, reply) == 0) return reply;
  json_decref(reply);
  return failure(uffd_errmsg());
}

static json_t *tell_result(int result) {
  return result < 0 ? failure(uffd_errmsg()) : success();
}

static json_t *tell_workers(struct uffd_control *control, const json_t *asked) {
  static const char *const states[] = {"starting", "ready", "retiring"};
  struct uffd_worker_status status = UFFD_WORKER_STATUS_INIT;
  json_t *workers = json_array();
  uint64_t now = uffd_now();
  (void)asked;
  for (uint32_t i = 0; uffd_pager_worker(control->pager, i, &status) > 0; i++) {
    json_t *worker = json_object();
    set_count(worker, "worker", status.worker);
    json_object_set_new(worker, "pid", json_integer(status.pid));
    json_object_set_new(worker, "state", json_string(states[status.state]));
    set_count(worker, "clients", status.clients);
    set_count(worker, "age_ns", now > status.since_ns ? now - status.since_ns : 0);
    json_array_append_new(workers, worker);
  }
  json_t *reply = success();
  json_object_set_new(reply, "workers", workers);
  return reply;
}

/* The client that an order is for; 0: none. */
static uint64_t client_of(const json_t *asked) {
  json_int_t id = json_integer_value(json_object_get(asked, "client"));
  return id > 0 ? (uint64_t)id : 0;
}

static json_t *kill_client(struct uffd_control *control, const json_t *asked) {
  return tell_result(uffd_pager_kill(control->pager, client_of(asked)));
}

static json_t *complete_client(struct uffd_control *control, const json_t *asked) {
  return tell_result(uffd_pager_complete(control->pager, client_of(asked)));
}

static json_t *label_client(struct uffd_control *control, const json_t *asked) {
  const char *label = json_string_value(json_object_get(asked, "label"));
  return tell_result(uffd_pager_label(control->pager, client_of(asked), label));
}

/* With a client: that one alone. */
static json_t *drain(struct uffd_control *control, const json_t *asked) {
  if (json_object_get(asked, "client") != NULL) {
    return tell_result(uffd_pager_drain_client(control->pager, client_of(asked)));
  }
  int result = uffd_pager_drain(control->pager);
  return result == -EALREADY ? failure("It drains already.") : tell_result(result);
}

static json_t *reload(struct uffd_control *control, const json_t *asked) {
  (void)asked;
  return tell_result(uffd_pager_reload(control->pager));
}

/* What is asked for, up to NULL; false: it is none, or too many. */
static bool read_paths(const json_t *asked, const char *paths[LAYERS + 1]) {
  const json_t *list = json_object_get(asked, "paths");
  size_t count = json_array_size(list);
  paths[0] = json_string_value(json_object_get(asked, "path"));
  paths[1] = NULL;
  if (list == NULL) return paths[0] != NULL && paths[0][0] != '\0';
  if (count == 0 || count > LAYERS || paths[0] != NULL) return false;
  for (size_t i = 0; i < count; i++) {
    paths[i] = json_string_value(json_array_get(list, i));
    if (paths[i] == NULL || paths[i][0] == '\0') return false;
  }
  paths[count] = NULL;
  return true;
}

/* NULL: its reply comes when the image has been opened. */
static json_t *open_image(struct uffd_control *control, const json_t *asked) {
  const char *paths[LAYERS + 1];
  if (!read_paths(asked, paths)) {
    return failure("The request image has the file's name as \"path\", or the names of up to 64 layers as \"paths\".");
  }
  int result = uffd_pager_images(control->pager, paths);
  return result < 0 ? failure(uffd_errmsg()) : NULL;
}

static const struct request {
  const char *name;
  json_t *(*answer)(struct uffd_control *control, const json_t *asked);
  bool orders; /* it changes something: not everybody may */
} requests[] = {
    {"status", tell_status, false},   {"clients", tell_clients, false},
    {"stats", tell_stats, false},     {"errors", tell_errors, false},
    {"metrics", tell_metrics, false}, {"drain", drain, true},
    {"reload", reload, true},         {"workers", tell_workers, false},
    {"kill", kill_client, true},      {"complete", complete_client, true},
    {"label", label_client, true},    {"image", open_image, true},
};

static json_t *answer_request(struct uffd_control *control, const struct uffd_peer *peer, const struct request *request,
                              const json_t *asked) {
  if (!request->orders || uffd_peer_may(peer, control->uid)) return request->answer(control, asked);
  fail(EACCES, "User %u may look, and not give the order %s: allow it with the option control_uid.", peer->uid,
       request->name);
  return failure(uffd_errmsg());
}

static json_t *answer(struct uffd_control *control, const struct uffd_peer *peer, const char *line, size_t length) {
  json_error_t error;
  json_t *request = json_loadb(line, length, JSON_REJECT_DUPLICATES, &error);
  if (request == NULL) return failure("A request is a line of JSON: {\"request\":\"status\"}.");
  const char *name = json_string_value(json_object_get(request, "request"));
  json_t *reply = NULL;
  bool known = false;
  for (size_t i = 0; name != NULL && i < sizeof(requests) / sizeof(requests[0]); i++) {
    if (strcmp(requests[i].name, name) != 0) continue;
    known = true;
    reply = answer_request(control, peer, &requests[i], request);
  }
  json_decref(request);
  return known ? reply
               : failure("There are the requests status, clients, workers, stats, errors, metrics, drain, reload, "
                         "kill, complete, label and image.");
}

static void leave(struct visitor *visitor) {
  if (visitor->fd >= 0) close(visitor->fd); /* epoll forgets it */
  uffd_release(visitor->reply, visitor->reply_length);
  *visitor = (struct visitor){.fd = -1};
}

static bool has_request(const struct visitor *visitor) {
  return visitor->request_length == REQUEST_MAX || memchr(visitor->request, '\n', visitor->request_length) != NULL;
}

/* A reply that is not taken yet, and a request that was read already, wait for room to send; else it is its turn. */
static void poll_visitor(struct uffd_control *control, struct visitor *visitor) {
  bool busy = visitor->reply != NULL || has_request(visitor);
  struct epoll_event event = {.events = visitor->waits ? 0 : busy ? EPOLLOUT : EPOLLIN, .data.ptr = visitor};
  if (epoll_ctl(control->epoll, EPOLL_CTL_MOD, visitor->fd, &event) != 0) leave(visitor);
}

/* Sends what the socket takes. False: it has gone, or is to go. */
static bool send_reply(struct visitor *visitor) {
  while (visitor->reply != NULL) {
    ssize_t sent =
        send(visitor->fd, visitor->reply + visitor->sent, visitor->reply_length - visitor->sent, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN || errno == EINTR;
    visitor->sent += (size_t)sent;
    if (visitor->sent < visitor->reply_length) continue;
    uffd_release(visitor->reply, visitor->reply_length);
    visitor->reply = NULL;
  }
  return !visitor->leaving;
}

/* Takes over the reply. False: no memory. */
static bool keep_reply(struct visitor *visitor, json_t *reply) {
  size_t length = json_dumpb(reply, NULL, 0, JSON_COMPACT);
  visitor->reply = length > 0 ? uffd_alloc(length + 1) : NULL;
  if (visitor->reply != NULL) {
    json_dumpb(reply, visitor->reply, length, JSON_COMPACT);
    visitor->reply[length] = '\n';
    visitor->reply_length = length + 1;
    visitor->sent = 0;
  }
  json_decref(reply);
  return visitor->reply != NULL;
}

/* Answers the first line. False: the visitor is to be left. */
static bool answer_line(struct uffd_control *control, struct visitor *visitor) {
  const char *end = memchr(visitor->request, '\n', visitor->request_length);
  if (end == NULL) {
    visitor->leaving = true;
    return keep_reply(visitor, failure("A request has 4095 bytes at most.")) && send_reply(visitor);
  }
  size_t length = (size_t)(end - visitor->request);
  json_t *reply = answer(control, &visitor->peer, visitor->request, length);
  visitor->waits = reply == NULL;
  if (reply != NULL && !keep_reply(visitor, reply)) return false;
  visitor->request_length -= length + 1;
  memmove(visitor->request, end + 1, visitor->request_length);
  return send_reply(visitor);
}

/* False: hung up. */
static bool read_requests(struct visitor *visitor) {
  ssize_t got = recv(visitor->fd, visitor->request + visitor->request_length, REQUEST_MAX - visitor->request_length,
                     MSG_DONTWAIT);
  if (got > 0) visitor->request_length += (size_t)got;
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

/* One request at a time, so that many do not hold up the supervisor. False: the visitor is to be left. */
static bool serve(struct uffd_control *control, struct visitor *visitor) {
  visitor->active_ns = uffd_now();
  if (visitor->waits) return false; /* all that it can say now is that it has hung up */
  if (!send_reply(visitor)) return false;
  if (visitor->reply != NULL) return true;
  if (!has_request(visitor) && !read_requests(visitor)) return false;
  return !has_request(visitor) || answer_line(control, visitor);
}

static struct visitor *free_visitor(struct uffd_control *control) {
  struct visitor *oldest = &control->visitors[0];
  for (int i = 0; i < VISITORS; i++) {
    struct visitor *visitor = &control->visitors[i];
    if (visitor->fd < 0) return visitor;
    if (visitor->active_ns < oldest->active_ns) oldest = visitor;
  }
  leave(oldest);
  return oldest;
}

static void accept_all(struct uffd_control *control) {
  for (int i = 0; i < VISITORS; i++) {
    struct uffd_peer peer;
    int fd = uffd_listener_accept(&control->listener, UFFD_ANYBODY, &peer);
    if (fd == -EAGAIN) return;
    if (fd < 0) continue;
    if (peer.pidfd >= 0) close(peer.pidfd);
    struct visitor *visitor = free_visitor(control);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = visitor};
    visitor->fd = fd;
    visitor->peer = peer;
    visitor->active_ns = uffd_now();
    if (epoll_ctl(control->epoll, EPOLL_CTL_ADD, fd, &event) != 0) leave(visitor);
  }
}

static int open_control(struct uffd_control *control, const char *path, int fd, mode_t mode) {
  int result =
      fd >= 0 ? uffd_listener_adopt(&control->listener, fd, NULL) : uffd_listener_open(&control->listener, path, mode);
  if (result < 0) return result;
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  control->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (control->epoll < 0 || epoll_ctl(control->epoll, EPOLL_CTL_ADD, control->listener.fd, &event) != 0)
    return fail(errno, "Cannot watch the control socket: %s.", strerror(errno));
  return 0;
}

int uffd_control_open(const char *path, int fd, mode_t mode, int64_t uid, uffd_pager *pager,
                      struct uffd_control **control) {
  *control = NULL;
  json_object_seed(0); /* now: it reads from a file */
  struct uffd_control *opened = NEW(struct uffd_control);
  if (opened == NULL) return fail(ENOMEM, "No memory for the control socket.");
  opened->listener = (struct uffd_listener)UFFD_LISTENER_INIT;
  opened->uid = uid;
  opened->pager = pager;
  opened->epoll = -1;
  for (int i = 0; i < VISITORS; i++)
    opened->visitors[i].fd = -1;
  int result = open_control(opened, path, fd, mode);
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
    struct visitor *visitor = events[i].data.ptr;
    if (visitor == NULL)
      connections = true;
    else if (visitor->fd < 0)
      continue; /* a forked child has not closed its copy yet */
    else if (!serve(control, visitor))
      leave(visitor);
    else
      poll_visitor(control, visitor);
  }
  if (connections) accept_all(control); /* last: it may take the visitor of one whose event is in the list */
}

void uffd_control_opened(struct uffd_control *control) {
  const char *why;
  if (uffd_images_opening(control->pager, &why)) return;
  for (int i = 0; i < VISITORS; i++) {
    struct visitor *visitor = &control->visitors[i];
    if (visitor->fd < 0 || !visitor->waits) continue;
    visitor->waits = false;
    if (keep_reply(visitor, why[0] == '\0' ? success() : failure(why)) && send_reply(visitor)) {
      poll_visitor(control, visitor);
    } else {
      leave(visitor);
    }
  }
}

void uffd_control_allow(struct uffd_control *control, int64_t uid) {
  control->uid = uid;
}

void uffd_control_close(struct uffd_control *control) {
  if (control == NULL) return;
  for (int i = 0; i < VISITORS; i++)
    leave(&control->visitors[i]);
  if (control->epoll >= 0) close(control->epoll);
  uffd_listener_close(&control->listener);
  DELETE(control);
}
