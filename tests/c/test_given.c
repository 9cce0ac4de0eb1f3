/* What a service manager gives to a pager, and keeps for it: sockets to listen at, and descriptors in its store. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "check.h"
#include "uffd_pager.h"

struct setup {
  char directory[32], image[64], door[64], control[64], manager[64];
  int manager_fd;
  uffd_pager *pager;
  unsigned errors;
  char error[512];
};

static int listen_at(const char *path, int type) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, path, strlen(path));
  int fd = socket(AF_UNIX, type, 0);
  CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
  if (type == SOCK_STREAM) CHECK(listen(fd, 8) == 0);
  return fd;
}

static void report(void *ctx, const struct uffd_pager_report *report) {
  struct setup *setup = ctx;
  if (report->kind != UFFD_REPORT_ERROR) return;
  setup->errors++;
  snprintf(setup->error, sizeof(setup->error), "%s", report->text);
}

static struct uffd_pager_opts set_up(struct setup *setup) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  if (check_under_tsan()) SKIP("ThreadSanitizer has a thread of its own, which forked workers would lack");
  *setup = (struct setup){.directory = "/tmp/givenXXXXXX"};
  CHECK(mkdtemp(setup->directory) != NULL);
  snprintf(setup->image, sizeof(setup->image), "%s/image", setup->directory);
  snprintf(setup->door, sizeof(setup->door), "%s/door", setup->directory);
  snprintf(setup->control, sizeof(setup->control), "%s/control", setup->directory);
  snprintf(setup->manager, sizeof(setup->manager), "%s/manager", setup->directory);
  int fd = open(setup->image, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  CHECK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
  close(fd);
  fd = listen_at(setup->manager, SOCK_DGRAM | SOCK_NONBLOCK);
  setup->manager_fd = fcntl(fd, F_DUPFD_CLOEXEC, 32); /* out of the way of what is given */
  close(fd);
  opts.image = setup->image;
  opts.report = report;
  opts.report_ctx = setup;
  return opts;
}

static void tear_down(struct setup *setup) {
  uffd_pager_close(setup->pager);
  close(setup->manager_fd);
  unlink(setup->image);
  unlink(setup->door);
  unlink(setup->control);
  unlink(setup->manager);
  CHECK(rmdir(setup->directory) == 0);
}

/* As sd_listen_fds(3) has it: descriptors from 3 on. */
static void give(int *fds, int count, const char *names) {
  char number[16];
  for (int i = 0; i < count; i++) {
    fds[i] = fcntl(fds[i], F_DUPFD, 64);
    CHECK(fds[i] >= 0);
  }
  for (int i = 0; i < count; i++) {
    CHECK_EQ(dup2(fds[i], 3 + i), 3 + i);
    close(fds[i]);
  }
  snprintf(number, sizeof(number), "%d", (int)getpid());
  setenv("LISTEN_PID", number, 1);
  snprintf(number, sizeof(number), "%d", count);
  setenv("LISTEN_FDS", number, 1);
  setenv("LISTEN_FDNAMES", names, 1);
}

static void ask(struct setup *setup, const char *path) {
  char reply[512];
  size_t length = 0;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, path, strlen(path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
  CHECK(send(fd, "{\"request\":\"status\"}\n", 21, MSG_NOSIGNAL) == 21);
  while (length == 0 || reply[length - 1] != '\n') {
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    while (poll(&poll_fd, 1, 0) != 1) {
      CHECK(uffd_pager_step(setup->pager, 10) >= 0);
    }
    ssize_t got = recv(fd, reply + length, sizeof(reply) - length, 0);
    CHECK(got > 0);
    length += (size_t)got;
  }
  CHECK(memmem(reply, length, "\"ok\":true", 9) != NULL);
  close(fd);
}

/* The next message of the pager, and whether a descriptor came with it; false: there is none. */
static bool hear(const struct setup *setup, char *text, size_t room, bool *has_fd) {
  char control[CMSG_SPACE(sizeof(int))];
  struct iovec part = {text, room - 1};
  struct msghdr message = {
      .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  ssize_t got = recvmsg(setup->manager_fd, &message, MSG_CMSG_CLOEXEC);
  if (got < 0) return false;
  text[got] = '\0';
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  *has_fd = header != NULL && header->cmsg_type == SCM_RIGHTS;
  if (*has_fd) {
    int fd;
    memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    close(fd);
  }
  return true;
}

/* ------------------------------------------------------------------------------------------------ */

static void sockets_that_were_given_are_listened_at(void) {
  struct setup setup;
  struct uffd_pager_opts opts = set_up(&setup);
  struct stat before, after;
  int fds[] = {listen_at(setup.control, SOCK_STREAM), listen_at(setup.door, SOCK_STREAM)};
  CHECK(stat(setup.door, &before) == 0);
  give(fds, 2, "control:uffd-pager.socket"); /* the second has systemd's name, which says nothing */
  CHECK_OK(uffd_pager_create(&opts, &setup.pager));
  CHECK(getenv("LISTEN_FDS") == NULL && getenv("LISTEN_PID") == NULL && getenv("LISTEN_FDNAMES") == NULL);
  CHECK((fcntl(3, F_GETFD) & FD_CLOEXEC) != 0);
  ask(&setup, setup.control);
  uffd_pager_close(setup.pager);
  setup.pager = NULL;
  CHECK(stat(setup.door, &after) == 0 && before.st_ino == after.st_ino); /* they are the manager's */
  CHECK(access(setup.control, F_OK) == 0);
  tear_down(&setup);
}

static void what_is_no_listening_socket_is_refused(void) {
  struct setup setup;
  struct uffd_pager_opts opts = set_up(&setup);
  int fds[] = {socket(AF_UNIX, SOCK_STREAM, 0)};
  CHECK_ERR(uffd_pager_create(&opts, &setup.pager), -EINVAL); /* no path, and nothing was given */
  CHECK_SAYS("socket of the service manager");
  give(fds, 1, "door");
  CHECK_ERR(uffd_pager_create(&opts, &setup.pager), -EINVAL);
  CHECK_SAYS("none that listens there");
  tear_down(&setup);
}

static void the_pager_stores_what_it_needs(void) {
  static const char *const expected[] = {"image1.paper", "image1.list", "image1.file", "door1.socket"};
  struct setup setup;
  struct uffd_pager_opts opts = set_up(&setup);
  char text[256], line[64];
  bool has_fd;
  opts.socket = setup.door;
  opts.flags = UFFD_PAGER_KEEP;
  unsetenv("NOTIFY_SOCKET");
  CHECK_ERR(uffd_pager_create(&opts, &setup.pager), -EINVAL);
  CHECK_SAYS("NOTIFY_SOCKET");
  setenv("NOTIFY_SOCKET", setup.manager, 1);
  CHECK_OK(uffd_pager_create(&opts, &setup.pager));
  for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
    CHECK(hear(&setup, text, sizeof(text), &has_fd) && has_fd);
    snprintf(line, sizeof(line), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", expected[i]);
    CHECK(strcmp(text, line) == 0);
  }
  CHECK(!hear(&setup, text, sizeof(text), &has_fd));
  CHECK_OK(uffd_pager_drain(setup.pager));
  CHECK_OK(uffd_pager_step(setup.pager, 0));
  CHECK(hear(&setup, text, sizeof(text), &has_fd) && !has_fd);
  CHECK(strcmp(text, "FDSTOREREMOVE=1\nFDNAME=door1.socket") == 0);
  tear_down(&setup);
}

/* The store is of our own making, and still nothing in it is believed. */
static void relics_that_make_no_sense_are_held_and_told(void) {
  struct setup setup;
  struct uffd_pager_opts opts = set_up(&setup);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  int fds[] = {null, dup(null), dup(null), dup(null), dup(null), dup(null)};
  opts.socket = setup.door;
  opts.flags = UFFD_PAGER_KEEP;
  setenv("NOTIFY_SOCKET", setup.manager, 1);
  give(fds, 6, "client9.object:client9.book:image4.file:image4.paper:client:client12.process");
  CHECK_OK(uffd_pager_create(&opts, &setup.pager));
  CHECK_EQ(setup.errors, 2);
  CHECK(strstr(setup.error, "Client 9 of a supervisor that has ended cannot be taken over") != NULL);
  struct uffd_pager_status status = UFFD_PAGER_STATUS_INIT;
  CHECK_OK(uffd_pager_status(setup.pager, &status));
  CHECK_EQ(status.clients, 0);
  tear_down(&setup);
}

static const struct check_test tests[] = {
    TEST(sockets_that_were_given_are_listened_at),
    TEST(what_is_no_listening_socket_is_refused),
    TEST(the_pager_stores_what_it_needs),
    TEST(relics_that_make_no_sense_are_held_and_told),
};
CHECK_MAIN(tests)
