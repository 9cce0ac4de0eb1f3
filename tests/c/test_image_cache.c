/* The cache of images that lie elsewhere: shared by processes, killed ones, other starts of the machine, full disks. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "image/cache/file.h"
#include "imaging.h"
#include "remoting.h"

#define COUNT  UINT64_C(437)
#define LENGTH (COUNT * PAGE + 100)
#define UNITS  UINT64_C(28) /* of 64 KiB */

static unsigned char *pages;

static struct remoting *serve(void) {
  struct remoting *server = remoting_start();
  pages = imaging_pages(1, COUNT + 1);
  remoting_add(server, "raw", pages, LENGTH);
  return server;
}

static struct uffd_image_layer layer_of(uffd_image *image) {
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_layer(image, 0, &layer));
  return layer;
}

/* All of it is right; how many requests that took in this process. */
static uint64_t expect_all(uffd_image *image) {
  unsigned char *bytes = malloc(LENGTH);
  CHECK(bytes != NULL);
  CHECK_OK(uffd_image_read(image, 0, bytes, LENGTH));
  CHECK(memcmp(bytes, pages, LENGTH) == 0);
  free(bytes);
  return layer_of(image).requests;
}

/* Opens it with the cache of the test, reads all, closes it. */
static uint64_t read_all(const struct remoting *server) {
  uffd_image *image = remoting_open(remoting_url(server, "raw"), imaging_path("cache"), 0);
  uint64_t requests = expect_all(image);
  CHECK_EQ(layer_of(image).units, UNITS);
  uffd_image_close(image);
  return requests;
}

/* The one file of the cache, opened to be read and written. */
static int open_file(void) {
  char path[512] = "";
  const char *directory = imaging_path("cache");
  DIR *stream = opendir(directory);
  CHECK(stream != NULL);
  for (const struct dirent *entry; (entry = readdir(stream)) != NULL;) {
    if (strstr(entry->d_name, UFFD_CACHE_SUFFIX) == NULL) continue;
    CHECK(path[0] == '\0');
    snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
  }
  closedir(stream);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  return fd;
}

static void change_byte(uint64_t at, unsigned char by) {
  unsigned char byte;
  int fd = open_file();
  CHECK_EQ(pread(fd, &byte, 1, (off_t)at), 1);
  byte ^= by;
  CHECK_EQ(pwrite(fd, &byte, 1, (off_t)at), 1);
  close(fd);
}

/* A byte of the image, in the cache's file. */
static void damage(uint64_t offset) {
  change_byte(uffd_cache_lay_out(UNITS, LENGTH).data + offset, 1);
}

static void restart_machine(void) {
  change_byte(offsetof(struct uffd_cache_head, boot), 3);
}

static void what_was_fetched_stays(void) {
  struct remoting *server = serve();
  CHECK(read_all(server) > 0);
  CHECK_EQ(read_all(server), 0);
  uffd_image *image = remoting_open(remoting_url(server, "raw"), imaging_path("cache"), 0);
  remoting_behave(server, REMOTING_STATUS_404, 0); /* the server is not needed any more */
  CHECK_EQ(layer_of(image).units_there, UNITS);
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  free(pages);
}

/* Another state of the file is another file of the cache. */
static void another_version(void) {
  struct remoting *server = serve();
  read_all(server);
  pages[9] ^= 1;
  remoting_add(server, "raw", pages, LENGTH);
  CHECK(read_all(server) > 0);
  free(pages);
}

/* Processes that read the same image at once, cold: children that wait for its URI. */
#define CHILDREN 4
#define READERS  8
#define WANTED   UINT64_C(250) /* the page that all want first */
static void read_wanted(void *image) {
  unsigned char page[PAGE];
  CHECK_OK(uffd_image_read(image, WANTED * PAGE, page, PAGE));
  CHECK_EQ(*(uint32_t *)page, WANTED + 1);
}

static void read_in_child(int pipe_fd, const char *cache) {
  char uri[256] = "";
  unsigned char page[PAGE];
  uffd_image *image;
  CHECK(read(pipe_fd, uri, sizeof(uri) - 1) > 0);
  CHECK_OK(remoting_try(uri, cache, 0, &image));
  struct check_thread readers[READERS];
  for (unsigned i = 0; i < READERS; i++) {
    check_thread_start(&readers[i], read_wanted, image);
  }
  for (unsigned i = 0; i < READERS; i++) {
    check_thread_join(&readers[i]);
  }
  for (uint64_t i = 0; i < COUNT; i++) {
    uint64_t number = i * 7919 % COUNT;
    CHECK_OK(uffd_image_read(image, number * PAGE, page, PAGE));
    CHECK_EQ(*(uint32_t *)page, number + 1);
  }
  uffd_image_close(image);
}

static void four_processes_fetch_each_chunk_once(void) {
  pid_t children[CHILDREN];
  int pipes[CHILDREN][2];
  char cache[256];
  snprintf(cache, sizeof(cache), "%s", imaging_path("cache"));
  for (unsigned i = 0; i < CHILDREN; i++) { /* before there are threads */
    CHECK_EQ(pipe2(pipes[i], O_CLOEXEC), 0);
    children[i] = fork();
    CHECK(children[i] >= 0);
    if (children[i] == 0) {
      read_in_child(pipes[i][0], cache);
      check_leave();
    }
  }
  struct remoting *server = serve();
  uffd_image_close(remoting_open(remoting_url(server, "raw"), "", 0)); /* skips where there is no libcurl */
  for (unsigned i = 0; i < CHILDREN; i++) {
    const char *uri = remoting_url(server, "raw");
    CHECK(write(pipes[i][1], uri, strlen(uri)) > 0);
  }
  for (unsigned i = 0; i < CHILDREN; i++) {
    check_child(children[i]);
  }
  pthread_mutex_lock(&server->lock);
  for (unsigned i = 1; i < UNITS; i++) { /* the first one is read by whoever opens the image */
    CHECK_EQ(server->chunks[i], 1);
  }
  pthread_mutex_unlock(&server->lock);
  free(pages);
}

static void read_first(void *ctx) {
  unsigned char page[PAGE];
  uffd_image_read(ctx, 0, page, PAGE);
}

/*
 * A process that stands still for ever when it has written a chunk, and has not said so. The image is opened with this
 * patience.
 */
static pid_t stop_before_it_publishes(struct remoting **server, uint32_t patience_ms, uffd_image **image) {
  int to_child[2], from_child[2];
  char byte, uri[256] = "", cache[256];
  snprintf(cache, sizeof(cache), "%s", imaging_path("cache"));
  CHECK_EQ(pipe2(to_child, O_CLOEXEC), 0);
  CHECK_EQ(pipe2(from_child, O_CLOEXEC), 0);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    uffd_image *own;
    struct check_thread thread;
    CHECK(read(to_child[0], uri, sizeof(uri) - 1) > 0);
    CHECK_OK(remoting_try(uri, cache, 0, &own));
    check_barrier_hold("cache-written");
    check_thread_start(&thread, read_first, own);
    check_barrier_await("cache-written");
    CHECK_EQ(write(from_child[1], "x", 1), 1);
    for (;;) {
      pause();
    }
  }
  *server = serve();
  uffd_image_close(remoting_open(remoting_url(*server, "raw"), "", 0));
  snprintf(uri, sizeof(uri), "%s", remoting_url(*server, "raw"));
  CHECK(write(to_child[1], uri, strlen(uri)) > 0);
  CHECK_EQ(read(from_child[0], &byte, 1), 1);
  *image = remoting_open(uri, cache, patience_ms);
  CHECK_EQ(layer_of(*image).units_there, 0);
  return child;
}

static void killed_before_it_publishes(void) {
  struct remoting *server;
  uffd_image *image;
  pid_t child = stop_before_it_publishes(&server, 0, &image);
  CHECK_EQ(kill(child, SIGKILL), 0);
  CHECK_EQ(waitpid(child, NULL, 0), child);
  CHECK(expect_all(image) > 0);
  CHECK_EQ(layer_of(image).units_there, UNITS);
  uffd_image_close(image);
  free(pages);
}

/* A process that was stopped, and keeps its lock on a chunk, does not hold up others for ever. */
static void stopped_before_it_publishes(void) {
  struct remoting *server;
  uffd_image *image;
  pid_t child = stop_before_it_publishes(&server, 15000, &image);
  CHECK(expect_all(image) > 0);
  CHECK_EQ(layer_of(image).units_there, UNITS);
  uffd_image_close(image);
  CHECK_EQ(kill(child, SIGKILL), 0);
  CHECK_EQ(waitpid(child, NULL, 0), child);
  free(pages);
}

/* How long its file is, a server says: that fills no disk before anything is fetched. */
static void a_server_that_claims_much(void) {
  const uint64_t claimed = UINT64_C(256) << 30, far = claimed - 64 * PAGE;
  unsigned char page[PAGE];
  struct stat status;
  struct remoting *server = serve();
  remoting_claim(server, "raw", claimed);
  for (unsigned i = 0; i < 2; i++) {
    uffd_image *image = remoting_open(remoting_url(server, "raw"), imaging_path("cache"), 0);
    CHECK_OK(uffd_image_read(image, far + 3 * PAGE, page, PAGE));
    CHECK(memcmp(page, pages + 3 * PAGE, PAGE) == 0);
    CHECK_EQ(layer_of(image).requests, i == 0 ? 1 : 0);
    uffd_image_close(image);
  }
  int fd = open_file();
  CHECK_EQ(fstat(fd, &status), 0);
  CHECK(status.st_blocks < (32 << 20) / 512);
  close(fd);
  free(pages);
}

/* What the disk has is compared before it is used, when the machine was started anew. */
static void another_start_of_the_machine(void) {
  struct remoting *server = serve();
  read_all(server);
  restart_machine();
  CHECK_EQ(read_all(server), 0);
  restart_machine();
  damage(5 * 65536 + 77);
  CHECK_EQ(read_all(server), 1);
  CHECK_EQ(read_all(server), 0);
  free(pages);
}

/* Files that are none: they are replaced. */
static void damaged_files(void) {
  struct remoting *server = serve();
  read_all(server);
  change_byte(offsetof(struct uffd_cache_head, version), 1);
  CHECK(read_all(server) > 0);
  CHECK_EQ(read_all(server), 0);
  change_byte(0, 1);
  CHECK(read_all(server) > 0);
  int fd = open_file();
  CHECK_EQ(ftruncate(fd, 9000), 0);
  close(fd);
  CHECK(read_all(server) > 0);
  CHECK_EQ(read_all(server), 0);
  free(pages);
}

/* A file that is removed while it is read stays right, and the next one who opens makes another. */
static void a_file_that_is_removed(void) {
  struct remoting *server = serve();
  uffd_image *image = remoting_open(remoting_url(server, "raw"), imaging_path("cache"), 0);
  expect_all(image);
  CHECK_EQ(imaging_run("rm cache/*"), 0);
  uint64_t requests = layer_of(image).requests;
  CHECK_EQ(expect_all(image), requests);
  CHECK(read_all(server) > 0);
  uffd_image_close(image);
  free(pages);
}

/* No room: what is fetched is served, and not kept. */
static void the_limit_is_reached(void) {
  struct remoting *server = serve();
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  const char *uri = remoting_url(server, "raw");
  uffd_image *image;
  opts.cache = imaging_path("cache");
  opts.cache_limit = 1;
  uffd_image_close(remoting_open(uri, "", 0));
  CHECK_OK(uffd_image_open(&uri, 1, &opts, &image));
  imaging_expect(image, pages, LENGTH);
  CHECK_EQ(layer_of(image).units_there, 0);
  uffd_image_close(image);
  free(pages);
}

static void fill_a_disk(void *ctx) {
  struct remoting *server = ctx;
  const char *cache = imaging_path("cache");
  if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
    SKIP("no namespace of mounts");
  CHECK_EQ(mkdir(cache, 0700), 0);
  if (mount("none", cache, "tmpfs", 0, "size=600k") != 0) SKIP("no tmpfs can be mounted");
  server = serve();
  uffd_image *image = remoting_open(remoting_url(server, "raw"), cache, 0);
  expect_all(image);
  CHECK(layer_of(image).units_there < UNITS);
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  free(pages);
}

static void the_disk_is_full(void) {
  if (!check_is_root()) SKIP("needs privilege to mount a small disk");
  imaging_path("cache");
  check_in_child(fill_a_disk, NULL);
}

/* Looking at it */

struct seen {
  unsigned files;
  uint64_t units_there, wrong;
  uint32_t flags;
};

static int look(void *ctx, const struct uffd_image_cached *cached) {
  struct seen *seen = ctx;
  seen->files++;
  seen->units_there += cached->units_there;
  seen->wrong += cached->units_wrong;
  seen->flags |= cached->flags;
  CHECK(strstr(cached->source, "/raw") != NULL);
  CHECK_EQ(cached->stream_bytes, LENGTH);
  return 0;
}

static void listing_and_checking(void) {
  struct remoting *server = serve();
  struct seen seen = {0};
  read_all(server);
  CHECK_OK(uffd_image_cache_list(imaging_path("cache"), look, &seen));
  CHECK(seen.files == 1 && seen.units_there == UNITS && seen.flags == 0);
  damage(UINT64_C(3) * 65536);
  damage(LENGTH - 1);
  seen = (struct seen){0};
  CHECK_OK(uffd_image_cache_verify(imaging_path("cache"), look, &seen));
  CHECK(seen.wrong == 2 && seen.units_there == UNITS - 2);
  CHECK_EQ(read_all(server), 2); /* those are fetched again */
  seen = (struct seen){0};
  CHECK_OK(uffd_image_cache_verify(imaging_path("cache"), look, &seen));
  CHECK(seen.wrong == 0 && seen.units_there == UNITS);
  CHECK_ERR(uffd_image_cache_list("", look, &seen), -EINVAL);
  free(pages);
}

static void making_room(void) {
  struct remoting *server = serve();
  struct uffd_image_cache_gc done = UFFD_IMAGE_CACHE_GC_INIT;
  struct seen seen = {0};
  uffd_image *image = remoting_open(remoting_url(server, "raw"), imaging_path("cache"), 0);
  expect_all(image);
  CHECK_OK(uffd_image_cache_gc(imaging_path("cache"), 0, &done));
  CHECK(done.removed_files == 0 && done.files == 1); /* somebody has it open */
  CHECK_OK(uffd_image_cache_list(imaging_path("cache"), look, &seen));
  CHECK_EQ(seen.flags, UFFD_IMAGE_CACHED_USED);
  expect_all(image);
  uffd_image_close(image);
  CHECK_OK(uffd_image_cache_gc(imaging_path("cache"), UINT64_C(1) << 30, &done));
  CHECK_EQ(done.removed_files, 0);
  CHECK_OK(uffd_image_cache_gc(imaging_path("cache"), 0, &done));
  CHECK(done.removed_files == 1 && done.removed_bytes > 0 && done.files == 0 && done.bytes == 0);
  CHECK(read_all(server) > 0);
  free(pages);
}

/* A directory of another user is not believed: it could hold anything. */
static void another_users_cache(void) {
  if (!check_is_root()) SKIP("needs privilege to make another user's directory");
  struct remoting *server = serve();
  uffd_image *image;
  read_all(server);
  CHECK_EQ(imaging_run("chown 12345 cache"), 0);
  CHECK_ERR(remoting_try(remoting_url(server, "raw"), imaging_path("cache"), 0, &image), -EPERM);
  CHECK_SAYS("another user");
  CHECK_EQ(imaging_run("chown 0 cache && chown 12345 cache/*"), 0);
  CHECK(read_all(server) > 0); /* not from that file, and not into it */
  CHECK(read_all(server) > 0);
  free(pages);
}

static const struct check_test tests[] = {
    TEST(what_was_fetched_stays),
    TEST(another_version),
    TEST(four_processes_fetch_each_chunk_once),
    TEST(killed_before_it_publishes),
    TEST(stopped_before_it_publishes),
    TEST(a_server_that_claims_much),
    TEST(another_start_of_the_machine),
    TEST(damaged_files),
    TEST(a_file_that_is_removed),
    TEST(the_limit_is_reached),
    TEST(the_disk_is_full),
    TEST(listing_and_checking),
    TEST(making_room),
    TEST(another_users_cache),
};
CHECK_MAIN(tests)
