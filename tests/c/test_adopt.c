/* Objects made elsewhere: received from another process, inherited, and what is refused. And targets that are gone. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "check.h"
#include "kernel/create.h"
#include "kernel/object.h"
#include "passing.h"

/* A process that has its memory served by us */

struct client {
  pid_t pid;
  int socket;
  int fd;            /* its userfaultfd, as we received it */
  unsigned char *at; /* in its address space */
  uint64_t length;
};

struct hello {
  unsigned char *at;
  uint64_t length;
};

/* The client: obeys one letter at a time. r: read its first byte and send it; e: run another program; x: exit. */
static _Noreturn void be_client(int socket, int flags, uint64_t features) {
  int fd = uffd_create_fd(UFFD_ROUTE_SYSCALL, flags);
  if (fd < 0) fd = uffd_create_fd(UFFD_ROUTE_SYSCALL, flags | RAW_USER_MODE_ONLY);
  CHECK(fd >= 0);
  uint64_t offered = 0;
  CHECK_EQ(uffd_handshake(fd, features, &offered), 0);
  struct hello hello = {.length = 4 * check_page()};
  hello.at = mmap(NULL, hello.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK_EQ(uffd_raw_register(fd, CHECK_ADDRESS(hello.at), hello.length, UFFD_MODE_MISSING, NULL), 0);
  passing_send(socket, fd, &hello, sizeof(hello));
  close(fd);
  char letter;
  while (read(socket, &letter, 1) == 1) {
    if (letter == 'x') break;
    if (letter == 'e') execl("/bin/sleep", "sleep", "20", (char *)NULL);
    letter = *(volatile char *)hello.at;
    CHECK_EQ(write(socket, &letter, 1), 1);
  }
  _exit(0);
}

static struct client start_client(int flags, uint64_t features) {
  check_needs(features);
  int ends[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  fflush(NULL);
  struct client client = {.pid = fork(), .socket = ends[0]};
  CHECK(client.pid >= 0);
  if (client.pid == 0) {
    close(ends[0]);
    be_client(ends[1], flags, features);
  }
  close(ends[1]);
  struct hello hello;
  client.fd = passing_receive(client.socket, &hello, sizeof(hello));
  client.at = hello.at;
  client.length = hello.length;
  return client;
}

static void tell(const struct client *client, char letter) {
  CHECK_EQ(write(client->socket, &letter, 1), 1);
}

static void end_client(const struct client *client) {
  tell(client, 'x');
  check_child(client->pid);
}

/* Adopting */

static void another_process_is_served(void) {
  struct client client = start_client(O_CLOEXEC, UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_THREAD_ID); /* blocking, at first */
  CHECK((fcntl(client.fd, F_GETFD) & FD_CLOEXEC) == 0);
  uffd_object *object = NULL;
  CHECK_OK(uffd_adopt(client.fd, &object));
  CHECK_EQ(uffd_fd(object), client.fd);
  CHECK_EQ(uffd_route(object), UFFD_ROUTE_ADOPTED);
  CHECK_EQ(uffd_user_mode_only(object), -1);
  CHECK_EQ(uffd_features(object), UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_THREAD_ID);
  CHECK((uffd_available(object) & UFFD_FEAT_EVENT_FORK) != 0);
  CHECK((fcntl(client.fd, F_GETFD) & FD_CLOEXEC) != 0);
  CHECK((fcntl(client.fd, F_GETFL) & O_NONBLOCK) != 0);
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  tell(&client, 'r');
  event = check_fault(object);
  CHECK_EQ(event.address, CHECK_ADDRESS(client.at));
  CHECK_EQ(event.tid, client.pid);
  unsigned char *page = check_pattern(check_page(), 1, 0x42);
  CHECK_OK(uffd_copy(object, event.address, page, check_page(), 0, NULL));
  char got = 0;
  CHECK_EQ(read(client.socket, &got, 1), 1);
  CHECK_EQ(got, 0x42);
  end_client(&client);
  uffd_close(object);
}

/* The addresses of another process are not looked up in this process's mappings. */
static void sentences_about_another_process(void) {
  struct client client = start_client(O_CLOEXEC | O_NONBLOCK, 0);
  uffd_object *object = NULL;
  CHECK_OK(uffd_adopt(client.fd, &object));
  uint64_t page = check_page();
  /* Mapped here, but not there. */
  struct check_area ours = check_map(CHECK_ANON, 512);
  CHECK_ERR(uffd_register(object, CHECK_ADDRESS(ours.at) + 256 * page, page, UFFD_MODE_MISSING, NULL), -EINVAL);
  CHECK_SAYS("the address space that this userfaultfd serves");
  CHECK_ERR(uffd_move(object, CHECK_ADDRESS(client.at), CHECK_ADDRESS(ours.at), page, 0, NULL), -EINVAL);
  CHECK_SAYS("move");
  end_client(&client);
  uffd_close(object);
}

/* Closing an adopted object leaves the ranges alone while somebody else holds the descriptor. */
static void closing_leaves_what_others_hold(void) {
  struct client client = start_client(O_CLOEXEC | O_NONBLOCK, 0);
  int kept = fcntl(client.fd, F_DUPFD_CLOEXEC, 3);
  uffd_object *object = NULL;
  CHECK_OK(uffd_adopt(client.fd, &object));
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(client.at), client.length, UFFD_MODE_MISSING, NULL));
  uffd_close(object);
  CHECK_OK(uffd_adopt(kept, &object));
  tell(&client, 'r');
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(client.at));
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(client.at), check_page(), 0, NULL));
  end_client(&client);
  uffd_close(object);
}

static void check_all_say_gone(uffd_object *object, const struct client *client) {
  uint64_t at = CHECK_ADDRESS(client->at), page = check_page(), done = 99;
  unsigned char *source = check_pattern(page, 1, 1);
  CHECK_ERR(uffd_copy(object, at, source, page, 0, &done), -ESRCH);
  CHECK_EQ(done, 0);
  CHECK_SAYS("gone");
  CHECK_ERR(uffd_zeropage(object, at, page, 0, NULL), -ESRCH);
  if ((uffd_available(object) & UFFD_FEAT_MINOR_SHMEM) != 0)
    CHECK_ERR(uffd_continue(object, at, page, 0, NULL), -ESRCH);
  if ((uffd_available(object) & UFFD_FEAT_POISON) != 0) CHECK_ERR(uffd_poison(object, at, page, 0, NULL), -ESRCH);
  CHECK_ERR(uffd_writeprotect(object, at, page, UFFD_WRITEPROTECT_WP), -ESRCH);
  CHECK_ERR(uffd_register(object, at, page, UFFD_MODE_MISSING, NULL), -ENOMEM);
  CHECK_SAYS("gone");
  CHECK_ERR(uffd_unregister(object, at, page), -ENOMEM);
  CHECK_OK(uffd_wake(object, at, page));
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN); /* the dead say nothing */
}

static void target_has_exited(void) {
  struct client client = start_client(O_CLOEXEC | O_NONBLOCK, 0);
  uffd_object *object = NULL;
  CHECK_OK(uffd_adopt(client.fd, &object));
  end_client(&client);
  check_all_say_gone(object, &client);
  uffd_close(object);
}

static void target_has_executed(void) {
  struct client client = start_client(O_CLOEXEC | O_NONBLOCK, 0);
  uffd_object *object = NULL;
  CHECK_OK(uffd_adopt(client.fd, &object));
  tell(&client, 'e');
  char got;
  CHECK_EQ(read(client.socket, &got, 1), 0); /* the socket closes on exec */
  /* exec gives up the old memory a moment after it has closed the descriptors. */
  unsigned char *source = check_pattern(check_page(), 1, 1);
  while (uffd_copy(object, CHECK_ADDRESS(client.at), source, check_page(), 0, NULL) == 0 ||
         strstr(uffd_errmsg(), "gone") == NULL)
    check_pause();
  check_all_say_gone(object, &client);
  uffd_close(object);
  kill(client.pid, SIGKILL);
  waitpid(client.pid, NULL, 0);
}

/* Refused */

static void not_open(void) {
  uffd_object *object = NULL;
  CHECK_ERR(uffd_adopt(-1, &object), -EBADF);
  CHECK_ERR(uffd_adopt(1 << 20, &object), -EBADF);
  CHECK(object == NULL);
}

static void not_a_userfaultfd(void) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  uffd_object *object = NULL;
  CHECK_ERR(uffd_adopt(ends[0], &object), -EINVAL);
  CHECK_SAYS("pipe");
  CHECK((fcntl(ends[0], F_GETFL) & O_NONBLOCK) == 0);
  CHECK((fcntl(ends[0], F_GETFD) & FD_CLOEXEC) == 0);
  CHECK(object == NULL);
}

static void no_handshake_yet(void) {
  check_needs(0);
  int fd = uffd_create_fd(UFFD_ROUTE_SYSCALL, RAW_USER_MODE_ONLY);
  if (fd < 0) SKIP("userfaultfd(2) is refused");
  uffd_object *object = NULL;
  CHECK_ERR(uffd_adopt(fd, &object), -EINVAL);
  CHECK_SAYS("handshake");
  CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0); /* still the caller's, as it was */
  CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0);
  uint64_t offered;
  CHECK_EQ(uffd_handshake(fd, 0, &offered), 0);
  CHECK_OK(uffd_adopt(fd, &object));
  uffd_close(object);
  CHECK(fcntl(fd, F_GETFD) < 0);
}

static void every_feature_is_read_back(void) {
  check_needs(0);
  uint64_t offered = uffd_kernel_features();
  uint64_t wanted = offered & ~(UFFD_FEAT_EVENT_FORK | UFFD_FEAT_WP_ASYNC);
  int fd = uffd_create_fd(UFFD_ROUTE_SYSCALL, O_CLOEXEC | RAW_USER_MODE_ONLY);
  if (fd < 0) SKIP("userfaultfd(2) is refused");
  CHECK_EQ(uffd_handshake(fd, wanted, &offered), 0);
  uffd_object *object = NULL;
  CHECK_OK(uffd_adopt(fd, &object));
  CHECK_EQ(uffd_features(object), wanted);
  uffd_close(object);
}

/*
 * An object of this process, duplicated and adopted, is the same context: a fault that was read from one can be
 * resolved through the other.
 */
static void a_duplicate_of_our_own(void) {
  uffd_object *first = check_open(UFFD_FEAT_EVENT_REMOVE), *second = NULL;
  int copy = fcntl(CHECK_OK(uffd_fd(first)), F_DUPFD_CLOEXEC, 3);
  CHECK_OK(uffd_adopt(copy, &second));
  CHECK_EQ(uffd_features(second), UFFD_FEAT_EVENT_REMOVE);
  struct check_area area = check_map(CHECK_ANON, 1);
  CHECK_OK(uffd_register(first, CHECK_ADDRESS(area.at), area.length, UFFD_MODE_MISSING, NULL));
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  CHECK_EQ(check_fault(second).address, CHECK_ADDRESS(area.at));
  CHECK_OK(uffd_zeropage(first, CHECK_ADDRESS(area.at), area.length, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(second);
  uffd_close(first);
}

static const struct check_test tests[] = {
    TEST(another_process_is_served),
    TEST(sentences_about_another_process),
    TEST(closing_leaves_what_others_hold),
    TEST(target_has_exited),
    TEST(target_has_executed),
    TEST(not_open),
    TEST(not_a_userfaultfd),
    TEST(no_handshake_yet),
    TEST(every_feature_is_read_back),
    TEST(a_duplicate_of_our_own),
};
CHECK_MAIN(tests)
