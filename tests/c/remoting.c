/*
 * A server of our own: see remoting.h.
 */
#define _GNU_SOURCE
#include "remoting.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "imaging.h"

const char *const remoting_names[REMOTING_COUNT] = {
#define REMOTING_NAME(name) #name,
    REMOTING_MANNERS(REMOTING_NAME)
#undef REMOTING_NAME
};

/* One answer under construction. */
struct answer {
  struct remoting *server;
  int fd;
  struct remoting_file file;
  uint64_t low, high; /* that is asked for */
  char head[1024];
};

static bool send_all(int fd, const void *bytes, uint64_t length) {
  const char *at = bytes;
  while (length > 0) {
    ssize_t put = send(fd, at, length, MSG_NOSIGNAL);
    if (put <= 0) return false;
    at += put;
    length -= (uint64_t)put;
  }
  return true;
}

static uint64_t length_of(const struct remoting_file *file) {
  return file->claimed != 0 ? file->claimed : file->length;
}

/* Sends a head, and so many bytes from low on. */
static bool reply(struct answer *answer, const char *status, const char *more, uint64_t claimed, uint64_t from,
                  uint64_t sent) {
  snprintf(answer->head, sizeof(answer->head), "HTTP/1.1 %s\r\nContent-Length: %llu\r\n%s\r\n", status,
           (unsigned long long)claimed, more);
  if (answer->file.claimed != 0) from %= 65536;
  return send_all(answer->fd, answer->head, strlen(answer->head)) &&
         (sent == 0 || send_all(answer->fd, answer->file.bytes + from, sent));
}

static bool reply_range(struct answer *answer, const char *etag, uint64_t low, uint64_t high, uint64_t total,
                        const char *more, uint64_t claimed, uint64_t sent) {
  char lines[512];
  int used = snprintf(lines, sizeof(lines), "Content-Range: bytes %llu-%llu/%llu\r\n%s", (unsigned long long)low,
                      (unsigned long long)high, (unsigned long long)total, more);
  const char *version = answer->file.version;
  if (version[0] != '\0')
    used += snprintf(lines + used, sizeof(lines) - (size_t)used, "x-amz-version-id: %s\r\n", version);
  if (etag[0] != '\0') snprintf(lines + used, sizeof(lines) - (size_t)used, "ETag: %s\r\n", etag);
  return reply(answer, "206 Partial Content", lines, claimed, low, sent);
}

/* Says nothing more until the other side gives up. */
static bool keep_silent(struct answer *answer) {
  char byte;
  while (recv(answer->fd, &byte, 1, 0) > 0) {
  }
  return false;
}

static bool drip(struct answer *answer, uint64_t length) {
  const struct remoting_file *file = &answer->file;
  if (!reply_range(answer, file->etag, answer->low, answer->high, length_of(file), "", length, 0)) return false;
  for (uint64_t i = 0; i < length; i++) {
    struct pollfd wait = {.fd = answer->fd, .events = POLLIN};
    if (!send_all(answer->fd, file->bytes + answer->low + i, 1)) return false;
    if (poll(&wait, 1, 20) != 0) return false; /* the other side has gone */
  }
  return true;
}

static bool reset(struct answer *answer) {
  const struct linger at_once = {1, 0};
  setsockopt(answer->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  return false;
}

/* true: the connection stays. */
static bool give(struct answer *answer, enum remoting_manner manner) {
  const struct remoting_file *file = &answer->file;
  uint64_t length = answer->high - answer->low + 1, total = length_of(file), some = length < 1000 ? length / 2 : 1000;
  const char *etag = file->etag;
  char weak[48], multipart[] = "Content-Type: multipart/byteranges; boundary=x\r\n";
#define RANGE(...) reply_range(answer, __VA_ARGS__)
  switch (manner) {
  case REMOTING_STALL:
    return RANGE(etag, answer->low, answer->high, total, "", length, some) && keep_silent(answer);
  case REMOTING_SILENT:
    return keep_silent(answer);
  case REMOTING_DROP:
    return RANGE(etag, answer->low, answer->high, total, "", length, some) && false;
  case REMOTING_RESET:
    return RANGE(etag, answer->low, answer->high, total, "", length, some) && reset(answer);
  case REMOTING_SHORT:
    return RANGE(etag, answer->low, answer->low + some - 1, total, "", some, some);
  case REMOTING_SHORT_LIE:
    return RANGE(etag, answer->low, answer->high, total, "", some, some);
  case REMOTING_LONG:
    return RANGE(etag, answer->low, answer->high, total, "", length + 4, length) && send_all(answer->fd, "more", 4);
  case REMOTING_ALL:
    return reply(answer, "200 OK", "", total, 0, total);
  case REMOTING_OTHER:
    return RANGE(etag, answer->low == 0 ? 1 : answer->low - 1, answer->high - 1, total, "", length, length);
  case REMOTING_NO_RANGE:
    return reply(answer, "206 Partial Content", "", length, answer->low, length);
  case REMOTING_BAD_RANGE:
    return reply(answer, "206 Partial Content", "Content-Range: bytes 5-3/x\r\n", length, answer->low, length);
  case REMOTING_OTHER_ETAG:
    return RANGE("\"other\"", answer->low, answer->high, total, "", length, length);
  case REMOTING_OTHER_VERSION:
    snprintf(answer->file.version, sizeof(answer->file.version), "another");
    return RANGE(etag, answer->low, answer->high, total, "", length, length);
  case REMOTING_OTHER_TOTAL:
    return RANGE(etag, answer->low, answer->high, total + 7, "", length, length);
  case REMOTING_STATUS_204:
    return reply(answer, "204 No Content", "", 0, 0, 0);
  case REMOTING_STATUS_416:
    return reply(answer, "416 Range Not Satisfiable", "Content-Range: bytes */4\r\n", 0, 0, 0);
  case REMOTING_STATUS_412:
    return reply(answer, "412 Precondition Failed", "", 0, 0, 0);
  case REMOTING_STATUS_503:
    return reply(answer, "503 Busy", "Retry-After: 1\r\n", 0, 0, 0);
  case REMOTING_STATUS_503_FOR_LONG:
    return reply(answer, "503 Busy", "Retry-After: 30\r\n", 0, 0, 0);
  case REMOTING_STATUS_404:
    return reply(answer, "404 Not Found", "", 0, 0, 0);
  case REMOTING_STATUS_403:
    return reply(answer, "403 Forbidden", "", 0, 0, 0);
  case REMOTING_REDIRECT:
    return reply(answer, "302 Found", "Location: /moved\r\n", 0, 0, 0);
  case REMOTING_REDIRECT_TO_FILE:
    return reply(answer, "302 Found", "Location: file:///etc/passwd\r\n", 0, 0, 0);
  case REMOTING_REDIRECT_FOR_EVER:
    return reply(answer, "302 Found", "Location: /again\r\n", 0, 0, 0);
  case REMOTING_GZIP:
    return RANGE(etag, answer->low, answer->high, total, "Content-Encoding: gzip\r\n", length, length);
  case REMOTING_MULTIPART:
    return RANGE(etag, answer->low, answer->high, total, multipart, length, length);
  case REMOTING_DRIP:
    return drip(answer, length);
  case REMOTING_NO_ETAG:
    return RANGE("", answer->low, answer->high, total, file->date, length, length);
  case REMOTING_WEAK_ETAG:
    snprintf(weak, sizeof(weak), "W/%s", etag);
    return RANGE(weak, answer->low, answer->high, total, "", length, length);
  default:
    return RANGE(etag, answer->low, answer->high, total, "", length, length);
  }
}

/* The newest of that name, or the version that is asked for. */
static bool find_file(struct remoting *server, const char *request, const char *name, struct remoting_file *file) {
  char version[32] = "";
  const char *line = strchr(request, ' ') + 1, *asked = memmem(line, strcspn(line, " "), "versionId=", 10);
  if (asked != NULL) snprintf(version, sizeof(version), "%.*s", (int)strcspn(asked + 10, " &"), asked + 10);
  for (unsigned i = server->files_count; i-- > 0;) {
    if (strcmp(server->files[i].name, name) != 0) continue;
    if (version[0] != '\0' && strcmp(server->files[i].version, version) != 0) continue;
    *file = server->files[i];
    return true;
  }
  return false;
}

/* What the request is answered with; notes that it came. */
static enum remoting_manner note(struct remoting *server, const char *request, struct answer *answer,
                                 const char *name) {
  unsigned long long low = 0, high = 0;
  const char *range = strcasestr(request, "\nRange: bytes=");
  const char *match = strcasestr(request, "\nIf-Match: ");
  enum remoting_manner manner = server->manner;
  bool moved = strcmp(name, "moved") == 0, again = strcmp(name, "again") == 0;
  if (again) return REMOTING_REDIRECT_FOR_EVER;
  if (server->only_judges)
    return server->admits(request, server->admits_ctx) ? REMOTING_STATUS_204 : REMOTING_STATUS_403;
  if (!find_file(server, request, moved ? server->files[0].name : name, &answer->file)) return REMOTING_STATUS_404;
  if (server->must_say != NULL && strstr(request, server->must_say) == NULL) return REMOTING_STATUS_403;
  if (server->admits != NULL && !server->admits(request, server->admits_ctx)) return REMOTING_STATUS_403;
  if (range == NULL || sscanf(range + 14, "%llu-%llu", &low, &high) != 2) return REMOTING_ALL;
  server->requests++;
  for (uint64_t at = low / 65536; at <= high / 65536 && at < REMOTING_CHUNKS; at++) {
    server->chunks[at]++;
  }
  if (low >= length_of(&answer->file)) return REMOTING_STATUS_416;
  answer->low = low;
  answer->high = high < length_of(&answer->file) ? high : length_of(&answer->file) - 1;
  if (moved) return REMOTING_RIGHT;
  if (manner == REMOTING_RIGHT && match != NULL &&
      strncmp(match + 11, answer->file.etag, strlen(answer->file.etag)) != 0) {
    return REMOTING_STATUS_412;
  }
  if (server->turns_count != 0) {
    server->turns_count--;
    return *server->turns++;
  }
  if (server->times != 0 && --server->times == 0) server->manner = REMOTING_RIGHT;
  return manner;
}

static bool answer_request(struct remoting *server, int fd, const char *request) {
  struct answer answer = {.server = server, .fd = fd};
  char name[128] = "";
  if (sscanf(request, "GET /%127[^ ?]", name) != 1) return false;
  pthread_mutex_lock(&server->lock);
  enum remoting_manner manner = note(server, request, &answer, name);
  pthread_mutex_unlock(&server->lock);
  return give(&answer, manner);
}

struct connection {
  struct remoting *server;
  int fd;
};

static void *converse(void *ctx) {
  struct connection connection = *(struct connection *)ctx;
  char request[8192];
  size_t used = 0;
  free(ctx);
  for (;;) {
    ssize_t got = recv(connection.fd, request + used, sizeof(request) - 1 - used, 0);
    if (got <= 0) break;
    used += (size_t)got;
    request[used] = '\0';
    if (strstr(request, "\r\n\r\n") == NULL) continue;
    used = 0; /* libcurl sends no second request before the answer */
    if (!answer_request(connection.server, connection.fd, request)) break;
  }
  close(connection.fd);
  return NULL;
}

static void *serve(void *ctx) {
  struct remoting *server = ctx;
  for (;;) {
    const int on = 1;
    pthread_t thread;
    int fd = accept4(server->fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) return NULL;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    struct connection *connection = malloc(sizeof(*connection));
    CHECK(connection != NULL);
    *connection = (struct connection){server, fd};
    CHECK_EQ(pthread_create(&thread, NULL, converse, connection), 0);
    pthread_detach(thread);
  }
}

struct remoting *remoting_start(void) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof(at);
  static struct remoting server;
  pthread_mutex_init(&server.lock, NULL);
  server.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(server.fd >= 0);
  CHECK_EQ(bind(server.fd, (struct sockaddr *)&at, sizeof(at)), 0);
  CHECK_EQ(listen(server.fd, 128), 0);
  CHECK_EQ(getsockname(server.fd, (struct sockaddr *)&at, &length), 0);
  server.port = ntohs(at.sin_port);
  CHECK_EQ(pthread_create(&server.thread, NULL, serve, &server), 0);
  pthread_detach(server.thread);
  return &server;
}

static const unsigned char *keep_copy(struct remoting *server, const unsigned char *bytes, uint64_t length) {
  unsigned char *copy = malloc(length + 1);
  CHECK(copy != NULL && server->copies_count < REMOTING_COPIES);
  memcpy(copy, bytes, length);
  server->copies[server->copies_count++] = copy;
  return copy;
}

static struct remoting_file *file_named(struct remoting *server, const char *name) {
  unsigned i = 0;
  if (server->keeps_versions) i = server->files_count;
  while (i < server->files_count && strcmp(server->files[i].name, name) != 0) {
    i++;
  }
  CHECK(i < REMOTING_FILES);
  if (i == server->files_count) server->files_count++;
  return &server->files[i];
}

void remoting_add(struct remoting *server, const char *name, const unsigned char *bytes, uint64_t length) {
  static unsigned made;
  pthread_mutex_lock(&server->lock);
  struct remoting_file *file = file_named(server, name);
  *file = (struct remoting_file){.name = name, .bytes = keep_copy(server, bytes, length), .length = length};
  snprintf(file->etag, sizeof(file->etag), "\"%.16s-%u\"", name, ++made);
  snprintf(file->date, sizeof(file->date), "Last-Modified: Thu, 01 Jan 1970 00:%02u:%02u GMT\r\n", made / 60 % 60,
           made % 60);
  if (server->keeps_versions) snprintf(file->version, sizeof(file->version), "v%u.x-Q_", made);
  pthread_mutex_unlock(&server->lock);
}

void remoting_flip(struct remoting *server, const char *name, uint64_t at) {
  pthread_mutex_lock(&server->lock);
  struct remoting_file *file = file_named(server, name);
  file->bytes = keep_copy(server, file->bytes, file->length);
  server->copies[server->copies_count - 1][at] ^= 1;
  pthread_mutex_unlock(&server->lock);
}

void remoting_claim(struct remoting *server, const char *name, uint64_t length) {
  pthread_mutex_lock(&server->lock);
  file_named(server, name)->claimed = length;
  pthread_mutex_unlock(&server->lock);
}

void remoting_demand(struct remoting *server, const char *line) {
  pthread_mutex_lock(&server->lock);
  server->must_say = line;
  pthread_mutex_unlock(&server->lock);
}

const char *remoting_url(const struct remoting *server, const char *name) {
  static char urls[8][256];
  static unsigned next;
  char *url = urls[next++ % 8];
  snprintf(url, sizeof(urls[0]), "http://127.0.0.1:%u/%s", server->port, name);
  return url;
}

void remoting_behave(struct remoting *server, enum remoting_manner manner, unsigned times) {
  pthread_mutex_lock(&server->lock);
  server->manner = manner;
  server->times = times;
  pthread_mutex_unlock(&server->lock);
}

void remoting_take_turns(struct remoting *server, const enum remoting_manner *turns, unsigned count) {
  pthread_mutex_lock(&server->lock);
  server->turns = turns;
  server->turns_count = count;
  pthread_mutex_unlock(&server->lock);
}

unsigned remoting_requests(struct remoting *server) {
  pthread_mutex_lock(&server->lock);
  unsigned requests = server->requests;
  pthread_mutex_unlock(&server->lock);
  return requests;
}

void remoting_forget(struct remoting *server) {
  pthread_mutex_lock(&server->lock);
  server->requests = 0;
  memset(server->chunks, 0, sizeof(server->chunks));
  pthread_mutex_unlock(&server->lock);
}

unsigned remoting_most(struct remoting *server) {
  unsigned most = 0;
  pthread_mutex_lock(&server->lock);
  for (unsigned i = 0; i < REMOTING_CHUNKS; i++) {
    if (server->chunks[i] > most) most = server->chunks[i];
  }
  pthread_mutex_unlock(&server->lock);
  return most;
}

int remoting_try(const char *uri, const char *cache, uint32_t patience_ms, uffd_image **image) {
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  opts.cache = cache;
  opts.patience_ms = patience_ms;
  *image = NULL;
  int result = uffd_image_open(&uri, 1, &opts, image);
  if (result == -ENOSYS) SKIP("%s", uffd_errmsg());
  return result;
}

uffd_image *remoting_open(const char *uri, const char *cache, uint32_t patience_ms) {
  uffd_image *image;
  CHECK_OK(remoting_try(uri, cache, patience_ms, &image));
  return image;
}
