/* Images that lie elsewhere, by HTTP: right and wrong servers, names without secrets, chains of URIs and paths. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>

#include "imaging.h"
#include "remoting.h"
#include "serving.h"
#include "signing.h"

#define COUNT  UINT64_C(437)
#define LENGTH (COUNT * PAGE + 100)

static unsigned char *contents(void) {
  unsigned char *pages = imaging_pages(1, COUNT + 1);
  memset(pages + 100 * PAGE, 0, PAGE);
  return pages;
}

/* A server that has these pages as "raw". */
static struct remoting *serve(unsigned char **pages) {
  struct remoting *server = remoting_start();
  *pages = contents();
  remoting_add(server, "raw", *pages, LENGTH);
  return server;
}

/* The bytes of a file that the test has made. */
static unsigned char *bytes_of(const char *path, uint64_t *length) {
  FILE *file = fopen(path, "re");
  unsigned char *bytes = malloc(UINT64_C(8) << 20);
  CHECK(file != NULL && bytes != NULL);
  *length = fread(bytes, 1, UINT64_C(8) << 20, file);
  CHECK_EQ(fclose(file), 0);
  return bytes;
}

/* Right servers */

static void a_raw_file(void) {
  unsigned char *pages;
  struct remoting *server = serve(&pages);
  uffd_image *image = remoting_open(remoting_url(server, "raw"), "", 0);
  imaging_expect(image, pages, LENGTH);
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_layer(image, 0, &layer));
  CHECK_EQ(layer.format, UFFD_IMAGE_RAW);
  CHECK(strcmp(layer.path, remoting_url(server, "raw")) == 0);
  CHECK_EQ(layer.file_bytes, LENGTH);
  uffd_image_close(image);
  free(pages);
}

static void zstd_files(void) {
  const uint64_t frames[] = {PAGE, 65536, 100000, UINT64_C(1) << 20};
  struct remoting *server = remoting_start();
  unsigned char *pages = contents();
  for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
    struct zstd_file file = {.checksums = i % 2 == 0};
    const char *path = imaging_path("zstd");
    uint64_t length;
    zstd_file_frames(&file, pages, LENGTH, frames[i]);
    zstd_file_finish(&file, path);
    unsigned char *bytes = bytes_of(path, &length);
    remoting_add(server, "zstd", bytes, length);
    uffd_image *image = remoting_open(remoting_url(server, "zstd"), "", 0);
    imaging_expect(image, pages, LENGTH);
    uffd_image_close(image);
    free(bytes);
  }
  free(pages);
}

/* A raw base with a sidecar, and an increment on it: three pages are data, one is zero. */
static unsigned char *add_chain(struct remoting *server, unsigned char **pages, uint64_t *length) {
  const uint64_t count = 256;
  /* what the server shows is found by no leak checker in its shared memory */
  static unsigned char *base, *volatile top_bytes;
  static struct bytes framed;
  *pages = base = imaging_pages(1, count);
  *length = count * PAGE;
  const struct extent whole[] = {{0, *length, 0, 1}};
  struct index_file index = {
      .length = *length, .stream = *length, .contents = base, .extents = whole, .count = 1, .flags = 1};
  struct bytes sidecar = index_make(&index);
  bytes_u32(&framed, 0x184D2A5D);
  bytes_u32(&framed, (uint32_t)sidecar.length);
  bytes_add(&framed, sidecar.at, sidecar.length);
  remoting_add(server, "base", base, *length);
  remoting_add(server, "base.uidx", framed.at, framed.length);
  unsigned char *shown = malloc(*length), *news = imaging_pages(5000, 3);
  CHECK(shown != NULL);
  memcpy(shown, base, *length);
  memcpy(shown + 10 * PAGE, news, 3 * PAGE);
  memset(shown + 20 * PAGE, 0, PAGE);
  const struct extent parts[] = {{0, 10 * PAGE, 0, 2},
                                 {10 * PAGE, 3 * PAGE, 0, 1},
                                 {13 * PAGE, 7 * PAGE, 0, 2},
                                 {20 * PAGE, PAGE, 0, 0},
                                 {21 * PAGE, *length - 21 * PAGE, 0, 2}};
  struct index_file top = {.length = *length,
                           .stream = 3 * PAGE,
                           .contents = shown,
                           .extents = parts,
                           .count = 5,
                           .parent = "base",
                           .parent_id = index.id};
  struct bytes payload = index_make(&top);
  struct zstd_file file = {.checksums = true};
  zstd_file_frame(&file, news, 3 * PAGE);
  zstd_file_skip(&file, 0x184D2A5D, payload.at, payload.length);
  const char *path = imaging_path("top");
  zstd_file_finish(&file, path);
  uint64_t top_length;
  top_bytes = bytes_of(path, &top_length);
  remoting_add(server, "top", top_bytes, top_length);
  bytes_free(&payload);
  bytes_free(&sidecar);
  free(news);
  return shown;
}

/* An increment names its parent, which is looked for beside it; and a local increment stands on a remote base. */
static void chains(void) {
  struct remoting *server = remoting_start();
  unsigned char *pages;
  uint64_t length;
  unsigned char *shown = add_chain(server, &pages, &length);
  uffd_image *image = remoting_open(remoting_url(server, "top"), "", 0);
  imaging_expect(image, shown, length);
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_layer(image, 0, &layer));
  CHECK(strcmp(layer.path, remoting_url(server, "base")) == 0);
  CHECK_EQ(layer.format, UFFD_IMAGE_SIDECAR);
  uffd_image_close(image);
  image = imaging_open(remoting_url(server, "base"), imaging_path("top"), NULL);
  imaging_expect(image, shown, length);
  uffd_image_close(image);
  imaging_refused(remoting_url(server, "top"), remoting_url(server, "top"), EINVAL, "twice");
  free(shown);
}

/* What is fetched of a file with digests is compared with them. */
static void digests_are_looked_at(void) {
  struct remoting *server = remoting_start();
  unsigned char *pages, page[PAGE];
  uint64_t length;
  free(add_chain(server, &pages, &length));
  uffd_image *image = remoting_open(remoting_url(server, "base"), "", 0);
  remoting_flip(server, "base", 5 * PAGE);
  CHECK_ERR(uffd_image_read(image, 4 * PAGE, page, PAGE), -EIO);
  CHECK_SAYS("not what its index says");
  CHECK_OK(uffd_image_read(image, 40 * PAGE, page, PAGE));
  CHECK(memcmp(page, pages + 40 * PAGE, PAGE) == 0);
  remoting_flip(server, "base", 5 * PAGE);
  CHECK_OK(uffd_image_read(image, 4 * PAGE, page, PAGE));
  uffd_image_close(image);
}

/* Wrong servers */

static uint64_t units_there(const uffd_image *image) {
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_layer(image, 0, &layer));
  return layer.units_there;
}

struct wrong {
  enum remoting_manner manner;
  int error;
  const char *words;
};

/* Each wrong answer is an error of the pages that it is for, with their place; it is not kept; what is there stays. */
static void wrong_answers(void) {
  static const struct wrong wrongs[] = {
      {REMOTING_SHORT, EPROTO, "instead"},
      {REMOTING_SHORT_LIE, EPROTO, "fewer bytes"},
      {REMOTING_LONG, EPROTO, "more bytes"},
      {REMOTING_ALL, EPROTO, "status 200"},
      {REMOTING_OTHER, EPROTO, "instead"},
      {REMOTING_NO_RANGE, EPROTO, "does not say which range"},
      {REMOTING_BAD_RANGE, EPROTO, "Content-Range is none"},
      {REMOTING_OTHER_ETAG, ESTALE, "ETag is another"},
      {REMOTING_NO_ETAG, ESTALE, "ETag is another"},
      {REMOTING_OTHER_TOTAL, ESTALE, "now has"},
      {REMOTING_STATUS_416, ESTALE, "shorter"},
      {REMOTING_STATUS_412, ESTALE, "has changed"},
      {REMOTING_STATUS_404, EIO, "no such file"},
      {REMOTING_STATUS_403, EACCES, "does not let us in"},
      {REMOTING_GZIP, EPROTO, "compressed"},
      {REMOTING_MULTIPART, EPROTO, "several ranges"},
      {REMOTING_REDIRECT_TO_FILE, EIO, "cannot be had"},
      {REMOTING_REDIRECT_FOR_EVER, EIO, "cannot be had"},
  };
  unsigned char *pages, page[PAGE];
  struct remoting *server = serve(&pages);
  for (size_t i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
    uffd_image *image = remoting_open(remoting_url(server, "raw"), "", 0);
    CHECK_OK(uffd_image_read(image, 0, page, PAGE));
    while (units_there(image) < 4) { /* those around page 0 that came along */
      check_pause();
    }
    remoting_behave(server, wrongs[i].manner, 0);
    int result = uffd_image_read(image, 300 * PAGE, page, PAGE);
    if (result != -wrongs[i].error) fprintf(stderr, "%s: %s\n", remoting_names[wrongs[i].manner], uffd_errmsg());
    CHECK_EQ(result, -wrongs[i].error);
    CHECK_SAYS(wrongs[i].words);
    CHECK_SAYS("65536 bytes from 1179648"); /* the unit that page 300 is in */
    CHECK_EQ(units_there(image), 4);        /* nothing of it is kept */
    CHECK_OK(uffd_image_read(image, 0, page, PAGE));
    CHECK(memcmp(page, pages, PAGE) == 0);
    remoting_behave(server, REMOTING_RIGHT, 0);
    CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
    CHECK(memcmp(page, pages + 300 * PAGE, PAGE) == 0);
    uffd_image_close(image);
    check_progress();
  }
  free(pages);
}

/*
 * What may heal is tried again. The patience is longer than a busy machine makes anybody wait: how long a slow answer
 * is waited for does not grow with it.
 */
#define LONG_PATIENCE 300000

static void read_page_300(void *ctx) {
  unsigned char page[PAGE];
  CHECK_OK(uffd_image_read(ctx, 300 * PAGE, page, PAGE));
  CHECK_EQ(*(uint32_t *)page, 301);
}

static void what_heals(void) {
  static const enum remoting_manner manners[] = {REMOTING_DROP, REMOTING_RESET, REMOTING_STATUS_503};
  unsigned char *pages;
  struct remoting *server = serve(&pages);
  for (size_t i = 0; i < sizeof(manners) / sizeof(manners[0]); i++) {
    uffd_image *image = remoting_open(remoting_url(server, "raw"), "", LONG_PATIENCE);
    remoting_forget(server);
    remoting_take_turns(server, &manners[i], 1);
    read_page_300(image);
    CHECK(remoting_requests(server) >= 2);
    uffd_image_close(image);
    check_progress();
  }
  free(pages);
}

/* Servers that are too slow are given up, and asked again: three images wait for one each, at once. */
#define SLOW 3u
static void what_is_slow_heals(void) {
  static const enum remoting_manner manners[SLOW] = {REMOTING_STALL, REMOTING_SILENT, REMOTING_DRIP};
  struct check_thread threads[SLOW];
  uffd_image *images[SLOW];
  unsigned char *pages;
  struct remoting *server = serve(&pages);
  for (unsigned i = 0; i < SLOW; i++) {
    images[i] = remoting_open(remoting_url(server, "raw"), "", LONG_PATIENCE);
  }
  remoting_forget(server);
  remoting_take_turns(server, manners, SLOW);
  for (unsigned i = 0; i < SLOW; i++) {
    check_thread_start(&threads[i], read_page_300, images[i]);
  }
  for (unsigned i = 0; i < SLOW; i++) {
    check_thread_join(&threads[i]);
    uffd_image_close(images[i]);
  }
  CHECK(remoting_requests(server) >= 2 * SLOW);
  free(pages);
}

/* A server that is not back within the patience is an error at once; other pages are right meanwhile. */
static void patience_ends(void) {
  unsigned char *pages, page[PAGE];
  struct remoting *server = serve(&pages);
  uffd_image *image = remoting_open(remoting_url(server, "raw"), "", 29000);
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  remoting_behave(server, REMOTING_STATUS_503_FOR_LONG, 0);
  CHECK_ERR(uffd_image_read(image, 300 * PAGE, page, PAGE), -EIO);
  CHECK_SAYS("status 503");
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  uffd_image_close(image);
  free(pages);
}

static void another_file_under_the_name(void) {
  unsigned char *pages, *others = imaging_pages(9000, COUNT + 1), page[PAGE];
  struct remoting *server = serve(&pages);
  uffd_image *image = remoting_open(remoting_url(server, "raw"), "", 0);
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  remoting_add(server, "raw", others, LENGTH); /* of the same length */
  CHECK_ERR(uffd_image_read(image, 300 * PAGE, page, PAGE), -ESTALE);
  CHECK_SAYS("has changed");
  CHECK_SAYS(remoting_url(server, "raw"));
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  CHECK(memcmp(page, pages, PAGE) == 0);
  uffd_image_close(image);
  image = remoting_open(remoting_url(server, "raw"), "", 0);
  CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
  CHECK(memcmp(page, others + 300 * PAGE, PAGE) == 0);
  uffd_image_close(image);
  free(others);
  free(pages);
}

/*
 * While a handler waits for a server, it answers other faults: a page of a chunk that is there is had while another one
 * is silently fetched, by the one handler that the loop has.
 */
static void a_server_that_is_slow_holds_nobody(void) {
  struct serving serving;
  struct check_touch slow;
  unsigned char *pages, page[PAGE];
  struct remoting *server = serve(&pages);
  uffd_image *image = remoting_open(remoting_url(server, "raw"), "", 0);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  CHECK_OK(uffd_image_resolver(image, &resolver));
  uffd_image_close(image);
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, COUNT);
  region_add(serving.loop, memory, resolver, NULL);
  serving_start(&serving);
  remoting_forget(server);
  remoting_behave(server, REMOTING_SILENT, 1);
  check_touch_read(&slow, memory_at(memory, 300 * PAGE));
  while (remoting_requests(server) == 0) {
    check_pause();
  }
  for (uint64_t i = 0; i < 16; i++) {
    CHECK(memcmp(memory_at(memory, i * PAGE), pages + i * PAGE, PAGE) == 0);
  }
  CHECK(!atomic_load(&slow.done));
  CHECK_EQ(check_touch_join(&slow), pages[300 * PAGE]); /* it is asked for again, and comes */
  CHECK_EQ(serving_stats(serving.loop).errors, 0);
  serving_close(&serving);
  uffd_memory_close(memory);
  free(pages);
}

/* A page that cannot be had becomes what on_error says, and its neighbours are right. */
static void what_fails_is_poisoned(void) {
  struct serving serving;
  unsigned char *pages, page[PAGE];
  check_needs(UFFD_FEAT_POISON);
  struct remoting *server = serve(&pages);
  uffd_image *image = remoting_open(remoting_url(server, "raw"), "", 0);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  CHECK_OK(uffd_image_resolver(image, &resolver));
  uffd_image_close(image);
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, COUNT);
  region_add(serving.loop, memory, resolver, NULL);
  serving_start(&serving);
  remoting_behave(server, REMOTING_STATUS_404, 0);
  CHECK_EQ(check_access(memory_at(memory, 300 * PAGE), false, NULL), SIGBUS);
  CHECK(memcmp(memory_at(memory, 5 * PAGE), pages + 5 * PAGE, PAGE) == 0);
  remoting_behave(server, REMOTING_RIGHT, 0);
  CHECK(memcmp(memory_at(memory, 200 * PAGE), pages + 200 * PAGE, PAGE) == 0);
  CHECK_EQ(check_access(memory_at(memory, 300 * PAGE), false, NULL), SIGBUS);
  serving_close(&serving);
  uffd_memory_close(memory);
  free(pages);
}

/* With on_error = retry the thread waits, and goes on when the server has the page again. */
static void what_fails_is_waited_for(void) {
  struct serving serving;
  struct check_touch touch;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  unsigned char *pages;
  struct remoting *server = serve(&pages);
  uffd_image *image = remoting_open(remoting_url(server, "raw"), "", 0);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_image_resolver(image, &resolver));
  uffd_image_close(image);
  opts.on_error = UFFD_ON_ERROR_RETRY;
  serving_open(&serving, ENGINE_ONE, &opts);
  uffd_memory *memory = memory_make(MEMORY_ANON, COUNT);
  region_add(serving.loop, memory, resolver, NULL);
  serving_start(&serving);
  remoting_forget(server);
  remoting_behave(server, REMOTING_STATUS_404, 0);
  check_touch_read(&touch, memory_at(memory, 300 * PAGE));
  while (remoting_requests(server) < 2) { /* it has failed, and was asked for again */
    check_pause();
  }
  CHECK(!atomic_load(&touch.done));
  remoting_behave(server, REMOTING_RIGHT, 0);
  CHECK_EQ(check_touch_join(&touch), pages[300 * PAGE]);
  serving_close(&serving);
  uffd_memory_close(memory);
  free(pages);
}

/* Opening */

static void opening(void) {
  unsigned char *pages, *others = imaging_pages(9000, COUNT + 1), page[PAGE];
  struct remoting *server = serve(&pages);
  uffd_image *image;
  remoting_add(server, "empty", pages, 0);
  CHECK_ERR(remoting_try(remoting_url(server, "none"), "", 0, &image), -ENOENT);
  CHECK_SAYS("there is no such file (status 404)");
  CHECK(remoting_try(remoting_url(server, "empty"), "", 0, &image) < 0);
  CHECK_SAYS("empty");
  CHECK_ERR(remoting_try("ftp://127.0.0.1/raw", "", 0, &image), -EPROTONOSUPPORT);
  CHECK_SAYS("not from ftp://");
  remoting_behave(server, REMOTING_REDIRECT, 1);
  image = remoting_open(remoting_url(server, "raw"), "", 0);
  CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
  uffd_image_close(image);
  remoting_behave(server, REMOTING_ALL, 0);
  CHECK_ERR(remoting_try(remoting_url(server, "raw"), "", 0, &image), -EPROTO);
  CHECK_SAYS("status 200");
  const enum remoting_manner unversioned[] = {REMOTING_NO_ETAG, REMOTING_WEAK_ETAG};
  for (unsigned i = 0; i < 2; i++) {
    struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
    const char *uri = remoting_url(server, "raw");
    remoting_behave(server, unversioned[i], 0);
    CHECK_ERR(remoting_try(uri, "", 0, &image), -EINVAL);
    CHECK_SAYS("no strong ETag");
    opts.cache = "";
    opts.flags = UFFD_IMAGE_UNVERSIONED;
    CHECK_OK(uffd_image_open(&uri, 1, &opts, &image));
    CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
    CHECK(memcmp(page, pages + 300 * PAGE, PAGE) == 0);
    remoting_add(server, "raw", others, LENGTH); /* of the same length */
    CHECK_ERR(uffd_image_read(image, 400 * PAGE, page, PAGE), -ESTALE);
    CHECK_SAYS("has changed");
    CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
    remoting_add(server, "raw", pages, LENGTH);
    uffd_image_close(image);
  }
  free(others);
  free(pages);
}

/* Neither a password nor a signature is in what anybody is told. */
static void secrets(void) {
  unsigned char *pages, page[PAGE];
  struct remoting *server = serve(&pages);
  char uri[256], plain[256];
  uffd_image *image;
  snprintf(plain, sizeof(plain), "http://127.0.0.1:%u/raw", server->port);
  snprintf(uri, sizeof(uri), "http://me:hidden%%21@127.0.0.1:%u/raw?signature=hidden", server->port);
  remoting_demand(server, "\r\nAuthorization: Basic bWU6aGlkZGVuIQ==\r\n"); /* me:hidden! */
  image = remoting_open(uri, imaging_path("cache"), 0);
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_layer(image, 0, &layer));
  CHECK(strcmp(layer.path, plain) == 0);
  remoting_behave(server, REMOTING_STATUS_404, 0);
  CHECK_ERR(uffd_image_read(image, 300 * PAGE, page, PAGE), -EIO);
  CHECK(strstr(uffd_errmsg(), "hidden") == NULL && strstr(uffd_errmsg(), "me:") == NULL);
  uffd_image_close(image);
  CHECK(remoting_try(uri, "", 0, &image) == -ENOENT && strstr(uffd_errmsg(), "hidden") == NULL);
  CHECK_EQ(imaging_run("grep -r hidden cache"), 1);
  remoting_behave(server, REMOTING_REDIRECT, 0); /* what lets us in is not sent elsewhere */
  CHECK(remoting_try(uri, "", 0, &image) == -EIO);
  CHECK_SAYS("status 302");
  free(pages);
}

/* Stores: requests are signed, and checked by code of our own (signing.h) */

static void a_store(void) {
  static struct signing_user user = {"AKEY", "hidden", "SESSION", "moon-1"};
  unsigned char *pages = contents(), page[PAGE];
  struct remoting *server = remoting_start();
  char endpoint[64];
  uffd_image *image;
  remoting_add(server, "bucket/some/image%20of%20mine.img", pages, LENGTH);
  pthread_mutex_lock(&server->lock);
  server->admits = signing_admits;
  server->admits_ctx = &user;
  pthread_mutex_unlock(&server->lock);
  snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%u/", server->port);
  setenv("AWS_ENDPOINT_URL", endpoint, 1);
  setenv("AWS_REGION", "moon-1", 1);
  setenv("AWS_ACCESS_KEY_ID", "AKEY", 1);
  setenv("AWS_SECRET_ACCESS_KEY", "hidden", 1);
  setenv("AWS_SESSION_TOKEN", "SESSION", 1);
  const char *uri = "s3://bucket/some/image of mine.img";
  image = remoting_open(uri, "", 0);
  CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
  CHECK(memcmp(page, pages + 300 * PAGE, PAGE) == 0);
  uffd_image_close(image);
  setenv("AWS_SECRET_ACCESS_KEY", "wrong", 1);
  CHECK_ERR(remoting_try(uri, "", 0, &image), -EACCES);
  CHECK_SAYS(uri);
  CHECK(strstr(uffd_errmsg(), "AKEY") == NULL && strstr(uffd_errmsg(), "SESSION") == NULL);
  CHECK_ERR(remoting_try("s3://bucket", "", 0, &image), -EINVAL);
  CHECK_SAYS("s3://BUCKET/KEY");
  free(pages);
}

/*
 * A store that keeps versions is asked for the one that was opened: the image stays what it was when another is put
 * under its name, and no ETag is needed.
 */
static void a_store_that_keeps_versions(void) {
  static struct signing_user user = {"AKEY", "hidden", "SESSION", "moon-1"};
  unsigned char *pages = contents(), *others = imaging_pages(9000, COUNT + 1), page[PAGE];
  struct remoting *server = remoting_start();
  char endpoint[64];
  uffd_image *image, *newer;
  server->keeps_versions = true;
  server->admits = signing_admits;
  server->admits_ctx = &user;
  remoting_add(server, "bucket/image", pages, LENGTH);
  remoting_behave(server, REMOTING_NO_ETAG, 0);
  snprintf(endpoint, sizeof(endpoint), "http://127.0.0.1:%u/", server->port);
  setenv("AWS_ENDPOINT_URL", endpoint, 1);
  setenv("AWS_REGION", "moon-1", 1);
  setenv("AWS_ACCESS_KEY_ID", "AKEY", 1);
  setenv("AWS_SECRET_ACCESS_KEY", "hidden", 1);
  setenv("AWS_SESSION_TOKEN", "SESSION", 1);
  const char *uri = "s3://bucket/image";
  image = remoting_open(uri, imaging_path("cache"), 0);
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_layer(image, 0, &layer));
  CHECK(strncmp(layer.version, "versionId=v", 11) == 0);
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  remoting_add(server, "bucket/image", others, LENGTH);
  newer = remoting_open(uri, imaging_path("cache"), 0);
  CHECK_OK(uffd_image_read(newer, 300 * PAGE, page, PAGE));
  CHECK(memcmp(page, others + 300 * PAGE, PAGE) == 0);
  CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
  CHECK(memcmp(page, pages + 300 * PAGE, PAGE) == 0);
  remoting_behave(server, REMOTING_OTHER_VERSION, 0);
  CHECK_ERR(uffd_image_read(image, 200 * PAGE, page, PAGE), -ESTALE);
  CHECK_SAYS("another version");
  uffd_image_close(newer);
  uffd_image_close(image);
  free(others);
  free(pages);
}

/* A file of credentials is read again when the server does not let us in any more. */
static void new_credentials(void) {
  unsigned char *pages, page[PAGE];
  struct remoting *server = serve(&pages);
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  const char *uri = remoting_url(server, "raw"), *path = imaging_path("credentials");
  uffd_image *image;
  remoting_demand(server, "\r\nAuthorization: Bearer first\r\n");
  imaging_write(path, "# mine\ntoken=first\n", 19);
  opts.cache = "";
  opts.credentials = path;
  int result = uffd_image_open(&uri, 1, &opts, &image);
  if (result == -ENOSYS) SKIP("%s", uffd_errmsg());
  CHECK_OK(result);
  remoting_demand(server, "\r\nAuthorization: Bearer second\r\n");
  CHECK_ERR(uffd_image_read(image, 300 * PAGE, page, PAGE), -EACCES);
  imaging_write(path, "token=second\n", 13);
  CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
  CHECK(memcmp(page, pages + 300 * PAGE, PAGE) == 0);
  uffd_image_close(image);
  imaging_write(path, "hidden\n", 7);
  CHECK_ERR(uffd_image_open(&uri, 1, &opts, &image), -EINVAL);
  CHECK(strstr(uffd_errmsg(), "hidden") == NULL && strstr(uffd_errmsg(), "line 1") != NULL);
  free(pages);
}

static void in_a_child(void *ctx) {
  unsigned char page[PAGE];
  CHECK_ERR(uffd_image_read(ctx, 0, page, PAGE), -EOWNERDEAD);
  uffd_image_close(ctx);
}

static void a_forked_child(void) {
  unsigned char *pages, page[PAGE];
  struct remoting *server = serve(&pages);
  uffd_image *image = remoting_open(remoting_url(server, "raw"), "", 0);
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  check_in_child(in_a_child, image);
  CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
  CHECK(memcmp(page, pages + 300 * PAGE, PAGE) == 0);
  uffd_image_close(image);
  free(pages);
}

static const struct check_test tests[] = {
    TEST(a_raw_file),
    TEST(zstd_files),
    TEST(chains),
    TEST(digests_are_looked_at),
    TEST(wrong_answers),
    TEST(what_heals),
    TEST(what_is_slow_heals),
    TEST(patience_ends),
    TEST(another_file_under_the_name),
    TEST(a_server_that_is_slow_holds_nobody),
    TEST(what_fails_is_poisoned),
    TEST(what_fails_is_waited_for),
    TEST(opening),
    TEST(secrets),
    TEST(new_credentials),
    TEST(a_forked_child),
    TEST(a_store),
    TEST(a_store_that_keeps_versions),
};
CHECK_MAIN(tests)
