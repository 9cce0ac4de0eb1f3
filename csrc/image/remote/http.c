/*
 * HTTP, HTTPS and S3 by libcurl: HTTP/1.1, a connection a request that is under way. The library is loaded when the
 * first such file is opened, so that programs which need none do not carry it. What libcurl calls a success is not
 * believed: reply.c decides. Redirections are followed, but not with credentials.
 */
#include "image/remote/transport.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/remote/reply.h"
#include "image/remote/uri.h"

#ifndef UFFD_WITH_CURL

int uffd_http_open(const struct uffd_transport_opts *opts, struct uffd_transport **made, struct uffd_refusal *refusal) {
  (void)opts;
  *made = NULL;
  snprintf(refusal->words, sizeof(refusal->words),
           "uffd was built without libcurl, which http, https and s3 need (Debian: libcurl4-openssl-dev)");
  return -ENOSYS;
}

#else

#include <curl/curl.h>
#include <dlfcn.h>

#define HEAD       UINT64_C(65536) /* bytes of the first request */
#define CONNECT_MS 5000L
#define SLOWEST    1024L /* bytes a second, ... */
#define SLOW_S     5L    /* for so long, or a twelfth of the patience: the request is given up */
#define REDIRECTS  4L

/* The functions of the library that are used. */
static struct {
  CURLcode (*global_init)(long flags);
  CURL *(*easy_init)(void);
  CURLcode (*easy_setopt)(CURL *easy, CURLoption option, ...);
  CURLcode (*easy_getinfo)(CURL *easy, CURLINFO info, ...);
  void (*easy_cleanup)(CURL *easy);
  const char *(*easy_strerror)(CURLcode code);
  CURLM *(*multi_init)(void);
  CURLMcode (*multi_setopt)(CURLM *multi, CURLMoption option, ...);
  CURLMcode (*multi_add_handle)(CURLM *multi, CURL *easy);
  CURLMcode (*multi_remove_handle)(CURLM *multi, CURL *easy);
  CURLMcode (*multi_perform)(CURLM *multi, int *running);
  CURLMcode (*multi_poll)(CURLM *multi, struct curl_waitfd fds[], unsigned count, int timeout_ms, int *ready);
  CURLMsg *(*multi_info_read)(CURLM *multi, int *left);
  CURLMcode (*multi_cleanup)(CURLM *multi);
  struct curl_slist *(*slist_append)(struct curl_slist *list, const char *line);
  void (*slist_free_all)(struct curl_slist *list);
} curl;
static bool curl_is_there;
static char curl_lacks[UFFD_WORDS];

static void load(void) {
  static const struct {
    const char *name;
    void **to;
  } names[] = {
#define OF(name)                                                                                                       \
  { "curl_" #name, (void **)&curl.name }
      OF(global_init),     OF(easy_init),        OF(easy_setopt),         OF(easy_getinfo),
      OF(easy_cleanup),    OF(easy_strerror),    OF(multi_init),          OF(multi_setopt),
      OF(multi_poll),      OF(multi_add_handle), OF(multi_remove_handle), OF(multi_perform),
      OF(multi_info_read), OF(multi_cleanup),    OF(slist_append),        OF(slist_free_all),
#undef OF
  };
  void *library = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    snprintf(curl_lacks, sizeof(curl_lacks), "libcurl cannot be loaded (Debian: libcurl4)");
    return;
  }
  for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
    *names[i].to = dlsym(library, names[i].name);
    if (*names[i].to != NULL) continue;
    snprintf(curl_lacks, sizeof(curl_lacks), "libcurl has no %s: 7.68 or newer is needed", names[i].name);
    return;
  }
  curl_is_there = curl.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  if (!curl_is_there) snprintf(curl_lacks, sizeof(curl_lacks), "libcurl cannot be started");
}

/* A request under way, and the handle that is used for one after the other. */
struct flight {
  CURL *easy;
  struct uffd_request *request; /* NULL: none */
  struct uffd_reply reply;
  uint64_t got;
  bool done;                 /* failed before it began */
  char why[CURL_ERROR_SIZE]; /* libcurl's words; they may hold parts of the URL */
};

struct http {
  struct uffd_transport head;
  CURLM *multi;
  struct flight flights[UFFD_FLIGHTS];
  struct curl_slist *headers;
  char *uri; /* as it was given */
  char *credentials_file, *ca_file;
  struct uffd_credentials credentials;
  char url[4096], agent[32];
  char etag[256];           /* strong: sent with If-Match; "" none */
  char weak[256], date[64]; /* of a file that is not versioned: compared only */
  char version[160];        /* of a store that keeps versions: its id, which is part of url; "" none */
  uint32_t patience_ms;
  bool signs;
};

static size_t take_header(char *line, size_t size, size_t count, void *ctx) {
  struct flight *flight = ctx;
  uffd_reply_line(&flight->reply, line, size * count);
  return size * count;
}

/* A body that is not wanted, or longer than what was asked for, is not taken. */
static size_t take_body(char *bytes, size_t size, size_t count, void *ctx) {
  struct flight *flight = ctx;
  struct uffd_request *request = flight->request;
  uint64_t length = size * count;
  if (flight->reply.status != 206 || length > request->length - flight->got) {
    flight->got += length;
    return 0;
  }
  memcpy(request->buffer + flight->got, bytes, length);
  flight->got += length;
  return length;
}

static void set_access(struct http *http, CURL *easy) {
  const struct uffd_credentials *credentials = &http->credentials;
  char service[128];
  if (credentials->user[0] != '\0') {
    curl.easy_setopt(easy, CURLOPT_USERNAME, credentials->user);
    curl.easy_setopt(easy, CURLOPT_PASSWORD, credentials->password);
  }
  if (http->signs && credentials->user[0] != '\0') {
    snprintf(service, sizeof(service), "aws:amz:%s:s3", credentials->region);
    curl.easy_setopt(easy, CURLOPT_AWS_SIGV4, service);
  } else if (!http->signs && credentials->token[0] != '\0') {
    curl.easy_setopt(easy, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
    curl.easy_setopt(easy, CURLOPT_XOAUTH2_BEARER, credentials->token);
  }
  if (credentials->certificate[0] != '\0') curl.easy_setopt(easy, CURLOPT_SSLCERT, credentials->certificate);
  if (credentials->key[0] != '\0') curl.easy_setopt(easy, CURLOPT_SSLKEY, credentials->key);
  bool secret = credentials->user[0] != '\0' || credentials->token[0] != '\0';
  curl.easy_setopt(easy, CURLOPT_FOLLOWLOCATION, secret ? 0L : 1L);
}

static int add_header(struct http *http, const char *line) {
  struct curl_slist *longer = curl.slist_append(http->headers, line);
  if (longer == NULL) return -ENOMEM;
  http->headers = longer;
  return 0;
}

/* No request is under way that uses the old ones. */
static int set_headers(struct http *http) {
  char line[4300];
  int result = 0;
  curl.slist_free_all(http->headers);
  http->headers = NULL;
  if (http->etag[0] != '\0') {
    snprintf(line, sizeof(line), "If-Match: %s", http->etag);
    result = add_header(http, line);
  }
  if (result == 0 && http->signs) result = add_header(http, "x-amz-content-sha256: UNSIGNED-PAYLOAD");
  if (result == 0 && http->signs && http->credentials.token[0] != '\0') {
    snprintf(line, sizeof(line), "x-amz-security-token: %s", http->credentials.token);
    result = add_header(http, line);
    explicit_bzero(line, sizeof(line));
  }
  for (size_t i = 0; i < UFFD_FLIGHTS; i++) {
    if (http->flights[i].easy != NULL) curl.easy_setopt(http->flights[i].easy, CURLOPT_HTTPHEADER, http->headers);
  }
  return result;
}

static CURL *make_easy(struct http *http, struct flight *flight) {
  CURL *easy = curl.easy_init();
  if (easy == NULL) return NULL;
  curl.easy_setopt(easy, CURLOPT_URL, http->url);
  curl.easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl.easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
  curl.easy_setopt(easy, CURLOPT_BUFFERSIZE, 512L * 1024);
  curl.easy_setopt(easy, CURLOPT_USERAGENT, http->agent);
  curl.easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
  curl.easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, SLOWEST);
  long part = (long)(http->patience_ms / 12000);
  curl.easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, part < 1 ? 1L : part < SLOW_S ? part : SLOW_S);
  curl.easy_setopt(easy, CURLOPT_MAXREDIRS, REDIRECTS);
#if LIBCURL_VERSION_NUM >= 0x075500
  curl.easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl.easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
#else
  curl.easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
  curl.easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
  if (http->ca_file != NULL) curl.easy_setopt(easy, CURLOPT_CAINFO, http->ca_file);
  curl.easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
  curl.easy_setopt(easy, CURLOPT_HEADERDATA, flight);
  curl.easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
  curl.easy_setopt(easy, CURLOPT_WRITEDATA, flight);
  curl.easy_setopt(easy, CURLOPT_PRIVATE, flight);
  curl.easy_setopt(easy, CURLOPT_ERRORBUFFER, flight->why);
  curl.easy_setopt(easy, CURLOPT_HTTPHEADER, http->headers);
  set_access(http, easy);
  return easy;
}

static void start(struct uffd_transport *transport, struct uffd_request *request) {
  struct http *http = (struct http *)transport;
  struct flight *flight = &http->flights[request->slot];
  char range[64];
  flight->request = request;
  flight->reply = (struct uffd_reply){.status = 0};
  flight->got = 0;
  flight->done = true;
  if (flight->easy == NULL) flight->easy = make_easy(http, flight);
  if (flight->easy == NULL) return;
  snprintf(range, sizeof(range), "%" PRIu64 "-%" PRIu64, request->offset, request->offset + request->length - 1);
  curl.easy_setopt(flight->easy, CURLOPT_RANGE, range);
  uint64_t most_ms = 10000 + request->length * 1000 / 102400;
  curl.easy_setopt(flight->easy, CURLOPT_TIMEOUT_MS, (long)min_u64(most_ms, http->patience_ms));
  flight->done = curl.multi_add_handle(http->multi, flight->easy) != CURLM_OK;
}

static bool code_heals(CURLcode code) {
  static const CURLcode healing[] = {CURLE_COULDNT_RESOLVE_PROXY,
                                     CURLE_COULDNT_RESOLVE_HOST,
                                     CURLE_COULDNT_CONNECT,
                                     CURLE_HTTP2,
                                     CURLE_PARTIAL_FILE,
                                     CURLE_OPERATION_TIMEDOUT,
                                     CURLE_SSL_CONNECT_ERROR,
                                     CURLE_GOT_NOTHING,
                                     CURLE_SEND_ERROR,
                                     CURLE_RECV_ERROR,
                                     CURLE_HTTP2_STREAM};
  for (size_t i = 0; i < sizeof(healing) / sizeof(healing[0]); i++) {
    if (code == healing[i]) return true;
  }
  return false;
}

/* Asks for credentials again: true, they are others now. */
static bool renew(struct http *http) {
  struct uffd_credentials fresh;
  if (uffd_credentials_read(http->uri, http->credentials_file, &fresh) < 0) return false;
  bool others = memcmp(&fresh, &http->credentials, sizeof(fresh)) != 0;
  http->credentials = fresh;
  explicit_bzero(&fresh, sizeof(fresh));
  if (!others) return false;
  for (size_t i = 0; i < UFFD_FLIGHTS; i++) {
    if (http->flights[i].easy != NULL) set_access(http, http->flights[i].easy);
  }
  return set_headers(http) == 0;
}

static void judge(struct http *http, struct flight *flight, CURLcode code) {
  struct uffd_request *request = flight->request;
  const struct uffd_reply_wanted wanted = {
      .offset = request->offset,
      .length = request->length,
      .total = http->head.bytes,
      .etag = http->etag[0] != '\0' ? http->etag : http->weak,
      .version = http->version,
      .date = http->date,
      .got = flight->got,
  };
  request->wait_ms = flight->reply.wait_ms;
  if (code != CURLE_OK && code != CURLE_WRITE_ERROR) {
    request->error = code == CURLE_OPERATION_TIMEDOUT ? ETIMEDOUT : EIO;
    request->heals = code_heals(code);
    if (code == CURLE_PEER_FAILED_VERIFICATION) {
      snprintf(request->words, sizeof(request->words),
               "the server's certificate is not believed: %.160s (ca_file or UFFD_CA_FILE names the CA's certificate)",
               flight->why[0] != '\0' ? flight->why : curl.easy_strerror(code));
    } else if (code == CURLE_SSL_CERTPROBLEM) {
      snprintf(request->words, sizeof(request->words),
               "our certificate, or its key, cannot be used (certificate= and key= of the credentials)");
    } else {
      snprintf(request->words, sizeof(request->words), "%s", curl.easy_strerror(code));
    }
    return;
  }
  request->error = uffd_reply_check(&flight->reply, &wanted, &request->heals, request->words, sizeof(request->words));
  if (request->error == EPROTO) request->heals = false; /* an answer that is whole, and wrong */
}

static struct uffd_request *finish(struct http *http, struct flight *flight, CURLcode code) {
  struct uffd_request *request = flight->request;
  request->error = 0;
  request->heals = false;
  request->wait_ms = 0;
  request->words[0] = '\0';
  if (flight->done) {
    request->error = ENOMEM;
    request->heals = true;
    snprintf(request->words, sizeof(request->words), "there is no memory for a request");
  } else {
    curl.multi_remove_handle(http->multi, flight->easy);
    judge(http, flight, code);
  }
  flight->request = NULL;
  return request;
}

/* New credentials are taken when nothing is under way that the old ones belong to. */
static void look_for_refusals(struct http *http, struct uffd_request **list, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (list[i]->error != EACCES) continue;
    bool idle = true;
    for (size_t j = 0; j < UFFD_FLIGHTS; j++) {
      idle = idle && http->flights[j].request == NULL;
    }
    list[i]->heals = !idle || renew(http);
  }
}

static size_t collect(struct http *http, struct uffd_request **list) {
  size_t count = 0;
  for (size_t i = 0; i < UFFD_FLIGHTS; i++) {
    struct flight *flight = &http->flights[i];
    if (flight->request != NULL && flight->done) list[count++] = finish(http, flight, CURLE_OK);
  }
  int left;
  for (CURLMsg *message; (message = curl.multi_info_read(http->multi, &left)) != NULL;) {
    struct flight *flight = NULL;
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode code = message->data.result;
    curl.easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&flight);
    list[count++] = finish(http, flight, code);
  }
  look_for_refusals(http, list, count);
  return count;
}

static size_t run(struct uffd_transport *transport, int wake_fd, int timeout_ms, struct uffd_request **list) {
  struct http *http = (struct http *)transport;
  uint64_t end = uffd_now() + (uint64_t)timeout_ms * 1000000;
  for (;;) {
    int running;
    curl.multi_perform(http->multi, &running);
    size_t count = collect(http, list);
    uint64_t now = uffd_now();
    if (count > 0 || now >= end) return count;
    struct curl_waitfd extra = {.fd = wake_fd, .events = CURL_WAIT_POLLIN};
    curl.multi_poll(http->multi, &extra, wake_fd >= 0, (int)((end - now) / 1000000) + 1, NULL);
    if (wake_fd >= 0 && uffd_ready(wake_fd, POLLIN) != 0) {
      curl.multi_perform(http->multi, &running);
      return collect(http, list);
    }
  }
}

static void free_text(char *text) {
  if (text == NULL) return;
  size_t length = strlen(text) + 1;
  explicit_bzero(text, length);
  uffd_release(text, length);
}

static char *copy_text(const char *text) {
  size_t length = strlen(text) + 1;
  char *made = uffd_alloc(length);
  if (made != NULL) memcpy(made, text, length);
  return made;
}

static void close_http(struct uffd_transport *transport) {
  struct http *http = (struct http *)transport;
  for (size_t i = 0; i < UFFD_FLIGHTS; i++) {
    struct flight *flight = &http->flights[i];
    if (flight->easy == NULL) continue;
    if (flight->request != NULL && !flight->done) curl.multi_remove_handle(http->multi, flight->easy);
    curl.easy_cleanup(flight->easy);
  }
  if (http->multi != NULL) curl.multi_cleanup(http->multi);
  curl.slist_free_all(http->headers);
  free_text(http->uri);
  free_text(http->credentials_file);
  free_text(http->ca_file);
  explicit_bzero(http, sizeof(*http));
  DELETE(http);
}

static const struct uffd_transport_class class = {"http", start, run, close_http};

/*
 * What the server calls the file's state. A store that keeps versions is asked for this one from now on: the file stays
 * the same, also when another is put under its name.
 */
static int keep_state(struct http *http, const struct uffd_reply *reply, bool unversioned) {
  bool strong = uffd_reply_is_strong(reply->etag);
  if (strong) snprintf(http->etag, sizeof(http->etag), "%s", reply->etag);
  if (http->signs && reply->version[0] != '\0' && strcmp(reply->version, "null") != 0) {
    snprintf(http->version, sizeof(http->version), "%s", reply->version);
    snprintf(http->head.version, sizeof(http->head.version), "versionId=%s", reply->version);
    int result = uffd_uri_add_version(http->url, sizeof(http->url), reply->version);
    if (result < 0) return result;
    curl.easy_setopt(http->flights[0].easy, CURLOPT_URL, http->url); /* the only one so far */
  } else if (strong) {
    snprintf(http->head.version, sizeof(http->head.version), "%s", reply->etag);
  } else if (unversioned) {
    snprintf(http->weak, sizeof(http->weak), "%s", reply->etag);
    snprintf(http->date, sizeof(http->date), "%s", reply->date);
    snprintf(http->head.version, sizeof(http->head.version), "date %s%s%s", reply->date,
             reply->etag[0] != '\0' ? ", " : "", reply->etag);
  }
  return 0;
}

/* The first request: the file's length and its state. */
static int learn(struct http *http, bool unversioned, struct uffd_refusal *refusal) {
  struct uffd_request request = {.offset = 0, .length = HEAD}, *list[UFFD_FLIGHTS];
  int result;
  char *buffer = uffd_alloc(HEAD);
  if (buffer == NULL) return -ENOMEM;
  request.buffer = buffer;
  start(&http->head, &request);
  while (run(&http->head, -1, 1000, list) == 0) {
  }
  struct uffd_reply *reply = &http->flights[0].reply;
  uffd_release(buffer, HEAD);
  if (request.error == EPROTO && reply->status == 206 && reply->has_range && !reply->encoded && !reply->multipart &&
      reply->low == 0 && reply->high + 1 == reply->total && http->flights[0].got == reply->total) {
    request.error = 0; /* all of a file that is shorter than what was asked for */
  }
  if (reply->status == 416)
    snprintf(request.words, sizeof(request.words), "the file is empty, or the server sends no ranges");
  if (request.error != 0) {
    refusal->heals = request.heals;
    refusal->wait_ms = request.wait_ms;
    snprintf(refusal->words, sizeof(refusal->words), "%s", request.words);
    return -request.error;
  }
  http->head.bytes = reply->total;
  result = keep_state(http, reply, unversioned);
  return result < 0 ? result : set_headers(http);
}

static int prepare(struct http *http, const struct uffd_transport_opts *opts) {
  http->head = (struct uffd_transport){.class = &class, .name = opts->name};
  http->signs = uffd_uri_scheme(opts->uri) == UFFD_SCHEME_S3;
  http->patience_ms = opts->patience_ms;
  http->uri = copy_text(opts->uri);
  if (opts->credentials != NULL) http->credentials_file = copy_text(opts->credentials);
  if (opts->ca_file != NULL) http->ca_file = copy_text(opts->ca_file);
  snprintf(http->agent, sizeof(http->agent), "uffd/%d.%d", UFFD_VERSION_MAJOR, UFFD_VERSION_MINOR);
  int result = uffd_credentials_read(opts->uri, opts->credentials, &http->credentials);
  if (result == 0) result = uffd_uri_url(opts->uri, http->credentials.region, http->url, sizeof(http->url));
  if (result < 0) return result;
  http->multi = curl.multi_init();
  if (http->multi == NULL || http->uri == NULL) return fail(ENOMEM, "No memory for a connection.");
  curl.multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long)UFFD_FLIGHTS);
  return set_headers(http);
}

int uffd_http_open(const struct uffd_transport_opts *opts, struct uffd_transport **made, struct uffd_refusal *refusal) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  *made = NULL;
  pthread_once(&once, load);
  if (!curl_is_there) {
    snprintf(refusal->words, sizeof(refusal->words), "%s", curl_lacks);
    return -ENOSYS;
  }
  struct http *http = NEW(struct http);
  if (http == NULL) return -ENOMEM;
  int result = prepare(http, opts);
  if (result < 0) snprintf(refusal->words, sizeof(refusal->words), "%s", uffd_errmsg());
  if (result == 0) result = learn(http, opts->unversioned, refusal);
  if (result < 0) {
    close_http(&http->head);
    return result;
  }
  *made = &http->head;
  return 0;
}

#endif
