/* Stores: files of bytes and callbacks. What was put appears whole, or not at all. */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define PAGE UINT64_C(4096)

static char directory[] = "/tmp/uffd-store-XXXXXX";
static pid_t maker;

static void remove_directory(void) {
  char command[64];
  snprintf(command, sizeof(command), "rm -rf %s", directory);
  if (getpid() == maker && system(command) != 0) return; /* NOLINT(cert-env33-c) */
}

static const char *in_directory(const char *name) {
  static char path[128];
  if (maker == 0) {
    CHECK(mkdtemp(directory) != NULL);
    maker = getpid();
    atexit(remove_directory);
  }
  snprintf(path, sizeof(path), "%s/%s", directory, name);
  return path;
}

static unsigned files(void) {
  char command[64];
  unsigned count = 0;
  snprintf(command, sizeof(command), "ls -A %s | wc -l", directory);
  FILE *pipe = popen(command, "r"); /* NOLINT(cert-env33-c) */
  CHECK(pipe != NULL);
  CHECK_EQ(fscanf(pipe, "%u", &count), 1);
  CHECK_EQ(pclose(pipe), 0);
  return count;
}

static uffd_store *file_store(uint64_t length) {
  uffd_store *store = NULL;
  CHECK_OK(uffd_store_file(in_directory("out"), length, &store));
  CHECK(strcmp(uffd_store_kind(store), "file") == 0);
  return store;
}

static bool exists(const char *name) {
  return access(in_directory(name), F_OK) == 0;
}

static void a_file(void) {
  unsigned char *pages = check_pattern(PAGE, 3, 7), bytes[4 * PAGE], expected[4 * PAGE] = {0};
  uffd_store *store = file_store(3 * PAGE + 5);
  CHECK_OK(uffd_store_put(store, 2 * PAGE, UFFD_STORE_DATA, pages, PAGE + 5));
  CHECK_OK(uffd_store_put(store, 0, UFFD_STORE_DATA, pages, 2 * PAGE));
  CHECK_OK(uffd_store_put(store, PAGE, UFFD_STORE_ZERO, NULL, PAGE)); /* instead of what was put before */
  CHECK_OK(uffd_store_flush(store));
  CHECK(!exists("out"));
  CHECK_OK(uffd_store_finish(store));
  CHECK_ERR(uffd_store_finish(store), -EINVAL);
  CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_ZERO, NULL, PAGE), -EINVAL);
  uffd_store_close(store);
  memcpy(expected, pages, PAGE);
  memcpy(expected + 2 * PAGE, pages, PAGE + 5);
  int fd = open(in_directory("out"), O_RDONLY | O_CLOEXEC);
  CHECK_EQ(read(fd, bytes, sizeof(bytes)), 3 * PAGE + 5);
  CHECK(memcmp(bytes, expected, 3 * PAGE + 5) == 0);
  CHECK_EQ(close(fd), 0);
  CHECK_EQ(files(), 1);
}

/* What was there stays until the new one is whole; its mode is kept, and a link stays a link. */
static void a_file_instead_of_another(void) {
  uffd_store *store = file_store(PAGE);
  CHECK_OK(uffd_store_finish(store));
  uffd_store_close(store);
  CHECK_EQ(chmod(in_directory("out"), 0640), 0);
  char link[128];
  snprintf(link, sizeof(link), "%s", in_directory("link"));
  CHECK_EQ(symlink("out", link), 0);
  CHECK_OK(uffd_store_file(link, 2 * PAGE, &store));
  struct stat status;
  CHECK_EQ(stat(in_directory("out"), &status), 0);
  CHECK_EQ(status.st_size, PAGE);
  CHECK_OK(uffd_store_finish(store));
  uffd_store_close(store);
  CHECK_EQ(stat(in_directory("out"), &status), 0);
  CHECK_EQ(status.st_size, 2 * PAGE);
  CHECK_EQ(status.st_mode & 07777, 0640);
  CHECK_EQ(lstat(link, &status), 0);
  CHECK(S_ISLNK(status.st_mode));
}

static void given_up(void) {
  uffd_store *store = file_store(PAGE);
  CHECK_OK(uffd_store_put(store, 0, UFFD_STORE_ZERO, NULL, PAGE));
  uffd_store_close(store);
  CHECK_EQ(files(), 0);
  uffd_store_close(NULL);
}

static void what_cannot_be_put(void) {
  char page[PAGE] = {0};
  uffd_store *store = file_store(PAGE);
  CHECK_ERR(uffd_store_put(store, 0, 3, page, PAGE), -EINVAL);
  CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_ZERO, NULL, 0), -EINVAL);
  CHECK_ERR(uffd_store_put(store, UINT64_MAX, UFFD_STORE_ZERO, NULL, 2), -EINVAL);
  CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_DATA, NULL, PAGE), -EINVAL);
  CHECK_OK(uffd_store_put(store, 0, UFFD_STORE_DATA, page, PAGE)); /* mistakes of the caller do no harm */
  CHECK_ERR(uffd_store_put(store, PAGE, UFFD_STORE_DATA, page, 1), -EINVAL);
  CHECK_SAYS("beyond the file");
  CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_BELOW, NULL, PAGE), -EINVAL);
  CHECK_ERR(uffd_store_finish(store), -EIO); /* pages that the store could not keep */
  CHECK_SAYS("could not be put");
  uffd_store_close(store);
  CHECK_EQ(files(), 0);
  CHECK_ERR(uffd_store_file(in_directory("out"), 0, &store), -EINVAL);
  CHECK_ERR(uffd_store_file(in_directory("no/where"), PAGE, &store), -ENOENT);
  CHECK_ERR(uffd_store_file(directory, PAGE, &store), -EINVAL);
}

static void a_forked_child(void) {
  uffd_store *store = file_store(PAGE);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_ZERO, NULL, PAGE), -EOWNERDEAD);
    CHECK_ERR(uffd_store_finish(store), -EOWNERDEAD);
    uffd_store_close(store);
    _exit(0);
  }
  check_child(child);
  CHECK_OK(uffd_store_finish(store)); /* the child has not taken it away */
  uffd_store_close(store);
  CHECK(exists("out"));
}

/* Callbacks */

static char told[64];

static void tell(const char *what) {
  strcat(told, what);
}
static int put(void *ctx, uint64_t offset, uint32_t kind, const void *data, uint64_t length) {
  (void)offset, (void)length;
  tell(kind == UFFD_STORE_DATA ? (const char *)data : "p");
  return *(int *)ctx;
}
static int flush(void *ctx) {
  tell("f");
  return *(int *)ctx;
}
static int finish(void *ctx) {
  tell("F");
  return *(int *)ctx;
}
static void give_up(void *ctx) {
  (void)ctx;
  tell("a");
}
static void destroy(void *ctx) {
  (void)ctx;
  tell("d");
}

static uffd_store *callback_store(int *result) {
  struct uffd_store_ops ops = UFFD_STORE_OPS_INIT;
  uffd_store *store = NULL;
  CHECK_ERR(uffd_store_callback(&ops, NULL, NULL, &store), -EINVAL);
  ops.put = put;
  ops.flush = flush;
  ops.finish = finish;
  ops.abort = give_up;
  ops.destroy = destroy;
  CHECK_OK(uffd_store_callback(&ops, result, "mine", &store));
  CHECK(strcmp(uffd_store_kind(store), "mine") == 0);
  told[0] = '\0';
  return store;
}

static void callbacks(void) {
  int result = 0;
  uffd_store *store = callback_store(&result);
  CHECK_OK(uffd_store_put(store, 0, UFFD_STORE_DATA, "x", 1));
  CHECK_OK(uffd_store_put(store, 0, UFFD_STORE_BELOW, NULL, 1));
  CHECK_OK(uffd_store_flush(store));
  CHECK_OK(uffd_store_finish(store));
  uffd_store_close(store);
  CHECK(strcmp(told, "xpfFd") == 0);

  store = callback_store(&result);
  uffd_store_close(store);
  CHECK(strcmp(told, "ad") == 0);

  store = callback_store(&result);
  result = uffd_set_errmsg(ENOSPC, "No room for it.");
  CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_ZERO, NULL, 1), -ENOSPC);
  CHECK_SAYS("No room");
  result = 0;
  CHECK_ERR(uffd_store_finish(store), -EIO);
  CHECK(strcmp(told, "pa") == 0);
  uffd_store_close(store);
  CHECK(strcmp(told, "pad") == 0);

  store = callback_store(&result);
  result = -EIO;
  uffd_set_errmsg(EIO, "It is broken.");
  CHECK_ERR(uffd_store_finish(store), -EIO);
  uffd_store_close(store);
  CHECK(strcmp(told, "Fad") == 0);
}

static const struct check_test tests[] = {
    TEST(a_file),    TEST(a_file_instead_of_another), TEST(given_up), TEST(what_cannot_be_put), TEST(a_forked_child),
    TEST(callbacks),
};
CHECK_MAIN(tests)
