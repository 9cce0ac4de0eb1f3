/* Images that come by NBD, from the servers that people run: nbdkit and qemu-nbd. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "imaging.h"
#include "remoting.h"
#include "servers.h"

#define COUNT  UINT64_C(437)
#define LENGTH (COUNT * PAGE)

static unsigned char *pages;

static void make_file(void) {
  pages = imaging_pages(1, COUNT);
  imaging_write(imaging_path("image"), pages, LENGTH);
}

static const char *uri(void) {
  static char text[256];
  snprintf(text, sizeof(text), "nbd+unix:///?socket=%s", imaging_path("socket"));
  return text;
}

static struct server server;

/* nbdkit writes its pid when its socket can be connected to. arguments: filters, the plugin, parameters. */
static void serve(const char *arguments) {
  char command[512];
  if (imaging_run("command -v nbdkit > /dev/null") != 0) SKIP("nbdkit is not installed");
  snprintf(command, sizeof(command), "nbdkit -f -r -U socket -P pid %s", arguments);
  unlink(imaging_path("socket"));
  servers_start(&server, command, "pid");
}

static void restart(const char *arguments) {
  servers_end(&server);
  serve(arguments);
}

static void stop_server(int signal_number) {
  CHECK_EQ(kill(server.pid, signal_number), 0);
}

static void by_nbdkit(void) {
  make_file();
  serve("--filter=delay file image rdelay=5ms");
  uffd_image *image = remoting_open(uri(), "", 0);
  imaging_expect(image, pages, LENGTH);
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_layer(image, 0, &layer));
  CHECK(strcmp(layer.path, uri()) == 0 && layer.version[0] == '\0');
  uffd_image_close(image);
  free(pages);
}

static void a_zstd_file(void) {
  make_file();
  struct zstd_file file = {.checksums = true};
  zstd_file_frames(&file, pages, LENGTH, 65536);
  zstd_file_finish(&file, imaging_path("zstd"));
  serve("file zstd");
  uffd_image *image = remoting_open(uri(), "", 0);
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  free(pages);
}

static void by_qemu(void) {
  make_file();
  if (imaging_run("command -v qemu-nbd > /dev/null") != 0) SKIP("qemu-nbd is not installed");
  servers_start(&server, "qemu-nbd -r -f raw -t -k $PWD/socket --pid-file=$PWD/pid image", "pid");
  uffd_image *image = remoting_open(uri(), "", 0);
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  free(pages);
}

/* Errors that come and go: each read is tried until it is right. */
static void errors_that_heal(void) {
  make_file();
  serve("--filter=error file image error=EIO error-rate=30%");
  uffd_image *image = NULL;
  CHECK_OK(remoting_try(uri(), "", 0, &image));
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  free(pages);
}

/* Errors that stay are told when the patience is over, with their place; what is there stays right. */
static void errors_that_stay(void) {
  unsigned char page[PAGE];
  char parameters[256];
  make_file();
  snprintf(parameters, sizeof(parameters), "--filter=error file image error=EIO error-rate=100%% error-file=%s",
           imaging_path("broken"));
  serve(parameters);
  uffd_image *image = remoting_open(uri(), "", 8000);
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  imaging_write(imaging_path("broken"), "", 0);
  CHECK_ERR(uffd_image_read(image, 300 * PAGE, page, PAGE), -EIO);
  CHECK_SAYS("65536 bytes from 1179648");
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  CHECK_EQ(imaging_run("rm broken"), 0);
  CHECK_OK(uffd_image_read(image, 300 * PAGE, page, PAGE));
  CHECK(memcmp(page, pages + 300 * PAGE, PAGE) == 0);
  uffd_image_close(image);
  free(pages);
}

static void read_later(void *ctx) {
  unsigned char page[PAGE];
  CHECK_OK(uffd_image_read(ctx, 300 * PAGE, page, PAGE));
  CHECK(memcmp(page, pages + 300 * PAGE, PAGE) == 0);
}

/* A server that is stopped, and one that dies and comes back: the reader waits, and is right. */
static void servers_that_come_back(void) {
  unsigned char page[PAGE];
  struct check_thread thread;
  make_file();
  serve("file image");
  uffd_image *image = remoting_open(uri(), "", 0);
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  stop_server(SIGSTOP);
  check_thread_start(&thread, read_later, image);
  check_asleep(atomic_load(&thread.tid), "futex");
  stop_server(SIGCONT);
  check_thread_join(&thread);
  servers_end(&server);
  check_thread_start(&thread, read_later, image); /* in the cache */
  check_thread_join(&thread);
  serve("file image");
  CHECK_OK(uffd_image_read(image, 100 * PAGE, page, PAGE));
  CHECK(memcmp(page, pages + 100 * PAGE, PAGE) == 0);
  uffd_image_close(image);
  free(pages);
}

/* NBD has no versions: a server that comes back with another length is refused. */
static void another_length(void) {
  unsigned char page[PAGE];
  make_file();
  serve("file image");
  uffd_image *image = remoting_open(uri(), "", 0);
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  imaging_write(imaging_path("image"), pages, LENGTH - PAGE);
  restart("file image");
  CHECK_ERR(uffd_image_read(image, 300 * PAGE, page, PAGE), -ESTALE);
  CHECK_SAYS("another length");
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  uffd_image_close(image);
  free(pages);
}

/* A file that shrinks while it is served: an error, and not zeros. */
static void a_file_that_shrinks(void) {
  unsigned char page[PAGE];
  make_file();
  serve("file image");
  uffd_image *image = remoting_open(uri(), "", 8000);
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  CHECK_EQ(truncate(imaging_path("image"), (off_t)(200 * PAGE)), 0);
  CHECK(uffd_image_read(image, 300 * PAGE, page, PAGE) < 0);
  CHECK_SAYS("65536 bytes from 1179648");
  uffd_image_close(image);
  free(pages);
}

/*
 * qemu-nbd sends zeros, and success, for what a file has no more: where there are checksums, they tell it from the
 * image's bytes. File and length stay the same for NBD.
 */
#define APART UINT64_C(70000) /* between frames: what is read at once for one has nothing of the others */
static void zeros_that_are_none(void) {
  unsigned char page[PAGE];
  make_file();
  if (imaging_run("command -v qemu-nbd > /dev/null") != 0) SKIP("qemu-nbd is not installed");
  struct zstd_file file = {.checksums = true};
  void *zeros = calloc(1, APART);
  CHECK(zeros != NULL);
  for (uint64_t at = 0; at < LENGTH; at += 65536) {
    zstd_file_frame(&file, pages + at, LENGTH - at < 65536 ? LENGTH - at : 65536);
    zstd_file_skip(&file, 0x184D2A50, zeros, APART);
  }
  uint64_t end = file.bytes.length + file.table.length + 8 + 12 + 8 + 9; /* qemu-nbd counts in sectors */
  zstd_file_skip(&file, 0x184D2A50, zeros, (512 - end % 512) % 512);
  free(zeros);
  uint64_t bytes = file.bytes.length;
  zstd_file_finish(&file, imaging_path("zstd"));
  servers_start(&server, "qemu-nbd -r -f raw -t -k $PWD/socket --pid-file=$PWD/pid zstd", "pid");
  uffd_image *image = remoting_open(uri(), "", 8000);
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  CHECK_EQ(truncate(imaging_path("zstd"), (off_t)(bytes / 2)), 0);
  int result = uffd_image_read(image, (COUNT - 1) * PAGE, page, PAGE);
  CHECK(result < 0);
  CHECK_SAYS("frame");
  CHECK_OK(uffd_image_read(image, 0, page, PAGE));
  CHECK(memcmp(page, pages, PAGE) == 0);
  uffd_image_close(image);
  free(pages);
}

static void nobody_there(void) {
  uffd_image *image;
  CHECK_ERR(remoting_try(uri(), "", 500, &image), -EIO);
  CHECK_SAYS("cannot be reached");
}

/* A test that dies half-way leaves no server behind. */
static void a_server_ends_with_its_test(void) {
  int status, pids[2];
  pid_t child, served = 0;
  imaging_path("");
  CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  CHECK_EQ(pipe2(pids, O_CLOEXEC), 0);
  child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    servers_start(&server, "sh -c 'echo x > pid; exec sleep 1000'", "pid");
    CHECK_EQ(write(pids[1], &server.pid, sizeof(server.pid)), sizeof(server.pid));
    kill(getpid(), SIGKILL);
  }
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(read(pids[0], &served, sizeof(served)), sizeof(served));
  CHECK_EQ(waitpid(served, &status, 0), served);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static const struct check_test tests[] = {
    TEST(by_nbdkit),
    TEST(a_zstd_file),
    TEST(by_qemu),
    TEST(errors_that_heal),
    TEST(errors_that_stay),
    TEST(servers_that_come_back),
    TEST(another_length),
    TEST(a_file_that_shrinks),
    TEST(zeros_that_are_none),
    TEST(nobody_there),
    TEST(a_server_ends_with_its_test),
};
CHECK_MAIN(tests)
