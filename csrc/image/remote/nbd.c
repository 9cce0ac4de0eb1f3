/*
 * NBD by libnbd, which is loaded when the first such file is opened. libnbd has no time-outs and does not reconnect: a
 * connection on which a read takes too long is closed, and a new one is made for the next read. Before a new connection
 * is used, the length of what it offers is compared.
 */
#include "image/remote/transport.h"

#include <stdio.h>
#include <string.h>

#ifndef UFFD_WITH_NBD

int uffd_nbd_open(const struct uffd_transport_opts *opts, struct uffd_transport **made, struct uffd_refusal *refusal) {
  (void)opts;
  *made = NULL;
  snprintf(refusal->words, sizeof(refusal->words),
           "uffd was built without libnbd, which nbd needs (Debian: libnbd-dev)");
  return -ENOSYS;
}

#else

#include <dlfcn.h>
#include <inttypes.h>
#include <libnbd.h>

#define CONNECT_MS UINT64_C(5000)

static struct {
  struct nbd_handle *(*create)(void);
  void (*close)(struct nbd_handle *nbd);
  int (*set_pread_initialize)(struct nbd_handle *nbd, bool initialize);
  int (*set_uri_allow_local_file)(struct nbd_handle *nbd, bool allow);
  int (*aio_connect_uri)(struct nbd_handle *nbd, const char *uri);
  int64_t (*aio_pread)(struct nbd_handle *nbd, void *buffer, size_t count, uint64_t offset,
                       nbd_completion_callback callback, uint32_t flags);
  int (*aio_get_fd)(struct nbd_handle *nbd);
  unsigned (*aio_get_direction)(struct nbd_handle *nbd);
  int (*aio_notify_read)(struct nbd_handle *nbd);
  int (*aio_notify_write)(struct nbd_handle *nbd);
  int (*aio_is_ready)(struct nbd_handle *nbd);
  int (*aio_is_processing)(struct nbd_handle *nbd);
  int (*aio_is_dead)(struct nbd_handle *nbd);
  int (*aio_is_closed)(struct nbd_handle *nbd);
  int64_t (*get_size)(struct nbd_handle *nbd);
  const char *(*get_error)(void);
} nbd;
static bool nbd_is_there;
static char nbd_lacks[UFFD_WORDS];

static void load(void) {
  static const struct {
    const char *name;
    void **to;
  } names[] = {
#define OF(name)                                                                                                       \
  { "nbd_" #name, (void **)&nbd.name }
      OF(create),
      OF(close),
      OF(set_pread_initialize),
      OF(set_uri_allow_local_file),
      OF(aio_connect_uri),
      OF(aio_pread),
      OF(aio_get_fd),
      OF(aio_get_direction),
      OF(aio_notify_read),
      OF(aio_notify_write),
      OF(aio_is_ready),
      OF(aio_is_processing),
      OF(aio_is_dead),
      OF(aio_is_closed),
      OF(get_size),
      OF(get_error),
#undef OF
  };
  void *library = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    snprintf(nbd_lacks, sizeof(nbd_lacks), "libnbd cannot be loaded (Debian: libnbd0)");
    return;
  }
  for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
    *names[i].to = dlsym(library, names[i].name);
    if (*names[i].to != NULL) continue;
    snprintf(nbd_lacks, sizeof(nbd_lacks), "libnbd has no %s: 1.12 or newer is needed", names[i].name);
    return;
  }
  nbd_is_there = true;
}

enum flight_state { IDLE, QUEUED, FLYING, DONE };

struct flight {
  struct uffd_request *request;
  enum flight_state state;
  int error;       /* of the server */
  uint64_t end_ns; /* when it is given up */
};

struct nbd_file {
  struct uffd_transport head;
  char *uri;
  struct nbd_handle *handle; /* NULL: not connected */
  bool connected;
  bool changed; /* what is offered now has another length */
  uint64_t connect_end_ns;
  uint32_t patience_ms;
  struct flight flights[UFFD_FLIGHTS];
};

/* On an error libnbd may wipe the buffer: the error is looked at, never the bytes. */
static int landed(void *ctx, int *error) { /* NOLINT(readability-non-const-parameter): libnbd's */
  struct flight *flight = ctx;
  flight->error = *error;
  flight->state = DONE;
  return 1;
}

static void start(struct uffd_transport *transport, struct uffd_request *request) {
  struct nbd_file *file = (struct nbd_file *)transport;
  struct flight *flight = &file->flights[request->slot];
  uint64_t most_ms = 10000 + request->length * 1000 / 102400;
  *flight = (struct flight){.request = request, .state = QUEUED};
  flight->end_ns = uffd_now() + min_u64(most_ms, file->patience_ms) * 1000000;
}

static struct uffd_request *give(struct flight *flight, int error, bool heals, const char *words) {
  struct uffd_request *request = flight->request;
  request->error = error;
  request->heals = heals;
  request->wait_ms = 0;
  snprintf(request->words, sizeof(request->words), "%s", words);
  *flight = (struct flight){.state = IDLE};
  return request;
}

/* Closes the connection; all that was under way has failed, and its buffers are not written to any more. */
static size_t hang_up(struct nbd_file *file, bool heals, const char *words, struct uffd_request **list) {
  size_t count = 0;
  nbd.close(file->handle);
  file->handle = NULL;
  file->connected = false;
  for (size_t i = 0; i < UFFD_FLIGHTS; i++) {
    struct flight *flight = &file->flights[i];
    if (flight->state == IDLE) continue;
    bool well = flight->state == DONE && flight->error == 0;
    list[count++] = well ? give(flight, 0, false, "") : give(flight, heals ? EIO : ESTALE, heals, words);
  }
  return count;
}

static bool begin_connection(struct nbd_file *file) {
  file->handle = nbd.create();
  if (file->handle == NULL) return false;
  file->connected = false;
  file->connect_end_ns = uffd_now() + min_u64(CONNECT_MS, file->patience_ms) * 1000000;
  nbd.set_pread_initialize(file->handle, false);
  nbd.set_uri_allow_local_file(file->handle, true); /* keys for TLS */
  return nbd.aio_connect_uri(file->handle, file->uri) == 0;
}

/* Ready for the first time: is it the same file? */
static bool check_connection(struct nbd_file *file) {
  int64_t bytes = nbd.get_size(file->handle);
  if (file->head.bytes == 0 && bytes > 0) file->head.bytes = (uint64_t)bytes;
  file->connected = bytes >= 0 && (uint64_t)bytes == file->head.bytes;
  return file->connected;
}

static bool send_queued(struct nbd_file *file) {
  for (size_t i = 0; i < UFFD_FLIGHTS; i++) {
    struct flight *flight = &file->flights[i];
    if (flight->state != QUEUED) continue;
    flight->state = FLYING;
    nbd_completion_callback callback = {.callback = landed, .user_data = flight};
    if (nbd.aio_pread(file->handle, flight->request->buffer, flight->request->length, flight->request->offset, callback,
                      0) < 0) {
      if (flight->state == FLYING) flight->state = QUEUED;
      return false;
    }
  }
  return true;
}

static size_t collect(struct nbd_file *file, struct uffd_request **list) {
  size_t count = 0;
  for (size_t i = 0; i < UFFD_FLIGHTS; i++) {
    struct flight *flight = &file->flights[i];
    if (flight->state != DONE) continue;
    char words[UFFD_WORDS];
    snprintf(words, sizeof(words), "the server reports: %s", strerror(flight->error));
    bool heals = flight->error == EAGAIN || flight->error == ESHUTDOWN || flight->error == ENOTCONN ||
                 flight->error == EIO || flight->error == ENOMEM;
    list[count++] = flight->error == 0 ? give(flight, 0, false, "") : give(flight, flight->error, heals, words);
  }
  return count;
}

static uint64_t next_end(const struct nbd_file *file) {
  uint64_t end = file->connected || file->handle == NULL ? UINT64_MAX : file->connect_end_ns;
  for (size_t i = 0; i < UFFD_FLIGHTS; i++) {
    if (file->flights[i].state == FLYING) end = min_u64(end, file->flights[i].end_ns);
  }
  return end;
}

static bool wants_connection(const struct nbd_file *file) {
  for (size_t i = 0; i < UFFD_FLIGHTS; i++) {
    if (file->flights[i].state != IDLE) return true;
  }
  return file->head.bytes == 0;
}

/* Lets libnbd work as far as the socket is ready; true: go on. */
static void work(const struct nbd_file *file, short ready) {
  unsigned direction = nbd.aio_get_direction(file->handle);
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0 && (ready & (POLLIN | POLLHUP | POLLERR)) != 0) {
    nbd.aio_notify_read(file->handle);
  } else if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0 && (ready & (POLLOUT | POLLHUP | POLLERR)) != 0) {
    nbd.aio_notify_write(file->handle);
  }
}

static short wait_for(const struct nbd_file *file, int wake_fd, uint64_t until_ns, bool *woken) {
  struct pollfd fds[2] = {{.fd = -1}, {.fd = wake_fd, .events = POLLIN}};
  uint64_t now = uffd_now();
  if (file->handle != NULL) {
    unsigned direction = nbd.aio_get_direction(file->handle);
    fds[0].fd = nbd.aio_get_fd(file->handle);
    if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) fds[0].events |= POLLIN;
    if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) fds[0].events |= POLLOUT;
  }
  uint64_t wait_ms = until_ns > now ? (until_ns - now) / 1000000 + 1 : 0;
  poll(fds, 2, (int)min_u64(wait_ms, 3600000));
  *woken = (fds[1].revents & POLLIN) != 0;
  return fds[0].revents;
}

/* One step: connects if there is need, sends, and tells what is done, also because the connection is gone. */
static size_t step(struct nbd_file *file, struct uffd_request **list) {
  if (file->handle == NULL) {
    if (!wants_connection(file)) return 0;
    if (!begin_connection(file)) {
      char words[UFFD_WORDS];
      snprintf(words, sizeof(words), "no connection to the server: %s", nbd.get_error());
      return file->handle == NULL ? 0 : hang_up(file, true, words, list);
    }
  }
  if (nbd.aio_is_dead(file->handle) != 0 || nbd.aio_is_closed(file->handle) != 0) {
    return hang_up(file, true, "the server has ended the connection, or cannot be reached", list);
  }
  if (uffd_now() >= next_end(file)) return hang_up(file, true, "the server does not answer in time", list);
  bool ready = nbd.aio_is_ready(file->handle) != 0 || nbd.aio_is_processing(file->handle) != 0;
  if (ready && !file->connected && !check_connection(file)) {
    return hang_up(file, false, "the file has changed since it was opened: it has another length now", list);
  }
  if (ready && !send_queued(file)) return hang_up(file, true, "the server takes no request", list);
  return collect(file, list);
}

static size_t run(struct uffd_transport *transport, int wake_fd, int timeout_ms, struct uffd_request **list) {
  struct nbd_file *file = (struct nbd_file *)transport;
  uint64_t end = uffd_now() + (uint64_t)timeout_ms * 1000000;
  for (;;) {
    bool woken = false, opening = file->head.bytes == 0;
    size_t count = step(file, list);
    if (count > 0 || (opening && (file->connected || file->handle == NULL))) return count;
    if (uffd_now() >= end) return 0;
    short ready = wait_for(file, wake_fd, min_u64(end, next_end(file)), &woken);
    if (file->handle != NULL && ready != 0) work(file, ready);
    if (woken) return step(file, list);
  }
}

static void close_nbd(struct uffd_transport *transport) {
  struct nbd_file *file = (struct nbd_file *)transport;
  if (file->handle != NULL) nbd.close(file->handle);
  if (file->uri != NULL) {
    size_t length = strlen(file->uri) + 1;
    explicit_bzero(file->uri, length);
    uffd_release(file->uri, length);
  }
  DELETE(file);
}

static const struct uffd_transport_class class = {"nbd", start, run, close_nbd};

int uffd_nbd_open(const struct uffd_transport_opts *opts, struct uffd_transport **made, struct uffd_refusal *refusal) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  struct uffd_request *list[UFFD_FLIGHTS];
  *made = NULL;
  pthread_once(&once, load);
  if (!nbd_is_there) {
    snprintf(refusal->words, sizeof(refusal->words), "%s", nbd_lacks);
    return -ENOSYS;
  }
  struct nbd_file *file = NEW(struct nbd_file);
  if (file == NULL) return -ENOMEM;
  file->head = (struct uffd_transport){.class = &class, .name = opts->name};
  file->patience_ms = opts->patience_ms;
  size_t length = strlen(opts->uri) + 1;
  file->uri = uffd_alloc(length);
  if (file->uri != NULL) {
    memcpy(file->uri, opts->uri, length);
    run(&file->head, -1, (int)min_u64(CONNECT_MS, opts->patience_ms), list);
  }
  if (file->connected) {
    if (opts->unversioned) snprintf(file->head.version, sizeof(file->head.version), "unversioned");
    *made = &file->head;
    return 0;
  }
  refusal->heals = true;
  snprintf(refusal->words, sizeof(refusal->words), "the server cannot be reached, or does not offer it");
  close_nbd(&file->head);
  return -EIO;
}

#endif
