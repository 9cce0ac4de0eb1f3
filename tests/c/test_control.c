/* The control socket: its replies, and that a client that misuses it does not hold up the supervisor. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "check.h"
#include "uffd_pager.h"

#define STATUS "{\"request\":\"status\"}\n"

struct setup {
  char directory[32], image[64], door[64], control[64];
  uffd_pager *pager;
};

static unsigned ready;

static void count_ready(void *ctx, const struct uffd_pager_report *report) {
  (void)ctx;
  if (report->kind == UFFD_REPORT_WORKER) ready++;
}

static struct setup set_up(void) {
  struct setup setup = {.directory = "/tmp/controlXXXXXX"};
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  if (check_under_tsan()) SKIP("ThreadSanitizer has a thread of its own, which forked workers would lack");
  CHECK(mkdtemp(setup.directory) != NULL);
  snprintf(setup.image, sizeof(setup.image), "%s/image", setup.directory);
  snprintf(setup.door, sizeof(setup.door), "%s/door", setup.directory);
  snprintf(setup.control, sizeof(setup.control), "%s/control", setup.directory);
  int fd = open(setup.image, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  CHECK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
  close(fd);
  opts.report = count_ready;
  opts.socket = setup.door;
  opts.control = setup.control;
  opts.image = setup.image;
  CHECK_OK(uffd_pager_create(&opts, &setup.pager));
  return setup;
}

static void tear_down(struct setup *setup) {
  uffd_pager_close(setup->pager);
  CHECK(access(setup->control, F_OK) != 0);
  unlink(setup->image);
  rmdir(setup->directory);
}

static int dial(const struct setup *setup) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  memcpy(address.sun_path, setup->control, strlen(setup->control));
  CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
  return fd;
}

static void say(int fd, const char *text, size_t length) {
  CHECK_EQ(send(fd, text, length, MSG_NOSIGNAL), length);
}

static bool answered(int fd) {
  struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
  return poll(&poll_fd, 1, 0) == 1;
}

static void step(const struct setup *setup) {
  CHECK(uffd_pager_step(setup->pager, 10) >= 0);
}

/* Steps the pager until there is a line, which ends the text; "" when it has hung up. */
static const char *read_line(const struct setup *setup, int fd) {
  static char line[8192];
  size_t length = 0;
  while (length < sizeof(line) - 1) {
    while (!answered(fd)) {
      step(setup);
    }
    ssize_t got = recv(fd, line + length, 1, 0);
    if (got <= 0) length = 0;
    if (got <= 0 || line[length] == '\n') break;
    length++;
  }
  line[length] = '\0';
  return line;
}

static void expect(const struct setup *setup, int fd, const char *words) {
  const char *line = read_line(setup, fd);
  if (strstr(line, words) == NULL) fprintf(stderr, "expected %s in: %s\n", words, line);
  CHECK(strstr(line, words) != NULL);
}

static void requests_are_answered_in_their_order(void) {
  static const char text[] =
      STATUS "{\"request\":\"clients\"}\n{\"request\":\"stats\"}\nnonsense\n\n{\"request\":\"dance\"}\n" STATUS;
  struct setup setup = set_up();
  for (size_t piece = 1; piece < sizeof(text); piece += 40) {
    int fd = dial(&setup);
    for (size_t at = 0; at < sizeof(text) - 1; at += piece) {
      say(fd, text + at, at + piece < sizeof(text) - 1 ? piece : sizeof(text) - 1 - at);
      step(&setup);
    }
    expect(&setup, fd, "\"workers\"");
    expect(&setup, fd, "{\"ok\":true,\"clients\":[]}");
    expect(&setup, fd, "\"latency_p99\":0");
    expect(&setup, fd, "A request is a line of JSON");
    expect(&setup, fd, "A request is a line of JSON");
    expect(&setup, fd, "\"ok\":false,\"error\":\"There are the requests status");
    expect(&setup, fd, "\"draining\":false");
    close(fd);
  }
  tear_down(&setup);
}

static void who_takes_no_reply_holds_nobody_up(void) {
  struct setup setup = set_up();
  int slow = dial(&setup), quick = dial(&setup);
  int flags = fcntl(slow, F_GETFL);
  fcntl(slow, F_SETFL, flags | O_NONBLOCK);
  size_t sent = 0;
  for (int turn = 0; turn < 3000; turn++) { /* until no more fits, in both directions */
    ssize_t took = send(slow, STATUS, strlen(STATUS), MSG_NOSIGNAL);
    if (took > 0) sent += (size_t)took;
    CHECK(uffd_pager_step(setup.pager, 0) >= 0);
  }
  say(quick, STATUS, strlen(STATUS));
  expect(&setup, quick, "\"ok\":true");
  /* When the client reads its replies, it gets all of them. */
  fcntl(slow, F_SETFL, flags);
  for (size_t i = 0; i < sent / strlen(STATUS); i++) {
    expect(&setup, slow, "\"ok\":true");
  }
  close(slow);
  close(quick);
  tear_down(&setup);
}

static void who_is_silent_for_longest_gives_way(void) {
  enum { MANY = 40 };
  struct setup setup = set_up();
  int fds[MANY];
  for (int i = 0; i < MANY; i++) {
    fds[i] = dial(&setup);
    say(fds[i], STATUS, strlen(STATUS));
    expect(&setup, fds[i], "\"ok\":true");
  }
  CHECK(read_line(&setup, fds[0])[0] == '\0'); /* hung up */
  say(fds[MANY - 1], STATUS, strlen(STATUS));
  expect(&setup, fds[MANY - 1], "\"ok\":true");
  for (int i = 0; i < MANY; i++) {
    close(fds[i]);
  }
  tear_down(&setup);
}

static unsigned open_fds(void) {
  unsigned count = 0;
  DIR *directory = opendir("/proc/self/fd");
  while (readdir(directory) != NULL) {
    count++;
  }
  closedir(directory);
  return count;
}

static void rubbish_leaves_nothing_behind(void) {
  static const char *const rubbish[] = {
      "\n\n\n\n", "{\"request\":", "[[[[[[[[[[[[[[\n", "{\"request\":\"sta\0tus\"}\n", "\xff\xfe\n", ""};
  struct setup setup = set_up();
  char *line = malloc(100000);
  memset(line, 'x', 100000);
  while (ready == 0) { /* its worker and the worker's guard are known then */
    step(&setup);
  }
  unsigned before = open_fds();
  for (int round = 0; round < 50; round++) {
    for (size_t i = 0; i < sizeof(rubbish) / sizeof(rubbish[0]); i++) {
      int fd = dial(&setup);
      if (rubbish[i][0] != '\0') say(fd, rubbish[i], strlen(rubbish[i]));
      if (round % 2 == 0) step(&setup);
      close(fd);
      step(&setup);
    }
    int fd = dial(&setup);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    (void)send(fd, line, 100000, MSG_NOSIGNAL);
    expect(&setup, fd, "4095 bytes at most");
    CHECK(read_line(&setup, fd)[0] == '\0');
    close(fd);
  }
  for (int i = 0; i < 10; i++) {
    CHECK(uffd_pager_step(setup.pager, 1) >= 0);
  }
  CHECK_EQ(open_fds(), before);
  free(line);
  tear_down(&setup);
}

static void drained_by_a_request(void) {
  struct setup setup = set_up();
  int fd = dial(&setup);
  say(fd, "{\"request\":\"reload\"}\n", 21);
  expect(&setup, fd, "{\"ok\":true}");
  say(fd, "{\"request\":\"drain\"}\n", 20);
  say(fd, "{\"request\":\"drain\"}\n", 20);
  int result = 1;
  while (result > 0) {
    result = uffd_pager_step(setup.pager, 100);
  }
  CHECK_EQ(result, 0);
  CHECK(answered(fd)); /* before it ended */
  close(fd);
  tear_down(&setup);
}

static void sockets_have_the_mode(void) {
  struct setup setup = set_up();
  struct stat status;
  CHECK(stat(setup.control, &status) == 0 && S_ISSOCK(status.st_mode) && (status.st_mode & 0777) == 0600);
  tear_down(&setup);
}

static void asking_who_does_not_answer(void) {
  struct setup setup = set_up();
  CHECK_ERR(uffd_pager_ask(setup.control, "{}", 50, NULL, NULL), -ETIMEDOUT); /* nobody steps it */
  CHECK_ERR(uffd_pager_ask(setup.image, "{}", 50, NULL, NULL), -ECONNREFUSED);
  CHECK_SAYS("no pager listens there");
  CHECK_ERR(uffd_pager_ask("/nowhere/control", "{}", 50, NULL, NULL), -ENOENT);
  CHECK_ERR(uffd_pager_ask("", "{}", 50, NULL, NULL), -EINVAL);
  CHECK_ERR(uffd_pager_ask(setup.control, "{}\n{}", 50, NULL, NULL), -EINVAL);
  CHECK_ERR(uffd_pager_ask(NULL, "{}", 50, NULL, NULL), -EINVAL);
  CHECK_ERR(uffd_pager_ask(setup.control, NULL, 50, NULL, NULL), -EINVAL);
  tear_down(&setup);
}

static const struct check_test tests[] = {
    TEST(requests_are_answered_in_their_order),
    TEST(who_takes_no_reply_holds_nobody_up),
    TEST(who_is_silent_for_longest_gives_way),
    TEST(rubbish_leaves_nothing_behind),
    TEST(drained_by_a_request),
    TEST(sockets_have_the_mode),
    TEST(asking_who_does_not_answer),
};
CHECK_MAIN(tests)
