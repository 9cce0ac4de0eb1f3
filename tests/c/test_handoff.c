/*
 * Handing memory to a pager: what is sent, who answers afterwards, and how it ends. The pager here is a door and a
 * plain loop.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/base.h"
#include "check.h"
#include "serve/door/door.h"
#include "serve/door/door_firecracker.h"
#include "serving.h"
#include "uffd_pager.h"

#define PAGE UINT64_C(4096)

static char directory[PATH_MAX], path[PATH_MAX + 16];

static void make_directory(void) {
  const char *temporary = getenv("TMPDIR");
  snprintf(directory, sizeof(directory), "%s/uffd-handoff-XXXXXX", temporary != NULL ? temporary : "/tmp");
  CHECK(mkdtemp(directory) != NULL);
  snprintf(path, sizeof(path), "%s/pager", directory);
}

static unsigned count_fds(void) {
  unsigned count = 0;
  DIR *fds = opendir("/proc/self/fd");
  CHECK(fds != NULL);
  while (readdir(fds) != NULL) {
    count++;
  }
  closedir(fds);
  return count;
}

static void needs_userfaultfd(void) {
  uffd_close(check_open(0));
}

/* A pager that serves every client from the image, fault by fault */

struct pager {
  struct uffd_door *door;
  struct uffd_connection *connection;
  struct uffd_handshake handshake;
  uffd_object *object;
  unsigned char *image;
  uint64_t image_length;
  struct check_thread thread;
  _Atomic bool stop;
  uint64_t poisoned; /* the offset in the image of a page that is answered with poison */
  int end;           /* what the connection said last */
};

static void open_pager(struct pager *pager, uint64_t image_length) {
  memset(pager, 0, sizeof(*pager));
  needs_userfaultfd();
  make_directory();
  struct uffd_door_opts opts = {
      .path = path,
      .mode = 0600,
      .uid = -1,
      .connection = {.kind = &uffd_door_firecracker,
                     .limits = {.max_bytes = 65536, .max_regions = 64, .image_length = image_length},
                     .handshake_ms = 60000}};
  CHECK_OK(uffd_door_open(&opts, &pager->door));
  pager->image = image_make(image_length);
  pager->image_length = image_length;
  pager->poisoned = UINT64_MAX;
}

/* This pager does not answer: it lives in the thread that hands over. */
static const struct uffd_handoff_opts no_answer = {sizeof(no_answer), 0, UFFD_HANDOFF_NO_ANSWER, 0, 0, 0, NULL};

static void answer(struct pager *pager, const struct uffd_event *event) {
  if (event->type != UFFD_PAGEFAULT) return;
  for (uint32_t i = 0; i < pager->handshake.regions_count; i++) {
    const struct uffd_client_region *region = &pager->handshake.regions[i];
    if (event->address - region->address >= region->length) continue;
    uint64_t page = round_down(event->address, region->page_size), offset = region->offset + page - region->address;
    int result = offset == pager->poisoned
                     ? uffd_poison(pager->object, page, region->page_size, 0, NULL)
                     : uffd_copy(pager->object, page, pager->image + offset, region->page_size, 0, NULL);
    CHECK(result == 0 || result == -EEXIST || result == -ENOENT);
    return;
  }
  CHECK(false);
}

static void serve(void *ctx) {
  struct pager *pager = ctx;
  while (!atomic_load(&pager->stop)) {
    struct uffd_event event;
    int count = uffd_read(pager->object, &event, 1, 1);
    if (count > 0) answer(pager, &event);
  }
}

/* What has been handed over is served from now on. */
static void take_in(struct pager *pager) {
  CHECK_EQ(CHECK_OK(uffd_door_accept(pager->door, &pager->connection)), 1);
  CHECK_EQ(CHECK_OK(uffd_connection_read(pager->connection, &pager->handshake)), 1);
  CHECK_OK(uffd_adopt(pager->handshake.object_fd, &pager->object));
  pager->handshake.object_fd = -1;
  check_thread_start(&pager->thread, serve, pager);
}

static void stop_serving(struct pager *pager) {
  if (pager->object == NULL) return;
  atomic_store(&pager->stop, true);
  check_thread_join(&pager->thread);
  uffd_close(pager->object);
  pager->object = NULL;
}

static void hang_up(struct pager *pager) {
  uffd_connection_close(pager->connection);
  pager->connection = NULL;
}

static int await_end(struct pager *pager) {
  struct pollfd descriptor = {.fd = uffd_connection_fd(pager->connection), .events = POLLIN};
  CHECK_EQ(poll(&descriptor, 1, 10000), 1);
  struct uffd_handshake none;
  return uffd_connection_read(pager->connection, &none);
}

static void close_pager(struct pager *pager) {
  stop_serving(pager);
  uffd_handshake_release(&pager->handshake);
  uffd_connection_close(pager->connection);
  uffd_door_close(pager->door);
  munmap(pager->image, pager->image_length);
  CHECK_EQ(rmdir(directory), 0);
}

static uffd_handoff *hand_over(uffd_memory *memory) {
  uffd_handoff *handoff = NULL;
  struct uffd_handoff_part part = {memory, 0};
  CHECK_OK(uffd_handoff_send(path, &part, 1, &no_answer, &handoff));
  return handoff;
}

/* What is sent */

static int listen_at(int backlog) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  CHECK(strlen(path) < sizeof(address.sun_path));
  memcpy(address.sun_path, path, strlen(path));
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK_EQ(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
  CHECK_EQ(listen(fd, backlog), 0);
  return fd;
}

static void sends_what_firecracker_sends(void) {
  needs_userfaultfd();
  make_directory();
  int listener = listen_at(1);
  uffd_memory *low = memory_make(MEMORY_ANON, 3), *high = memory_make(MEMORY_MEMFD, 2);
  struct uffd_handoff_part parts[] = {{high, 3 * PAGE}, {low, 0}};
  uffd_handoff *handoff = NULL;
  CHECK_OK(uffd_handoff_send(path, parts, 2, &no_answer, &handoff));
  int fd = accept(listener, NULL, NULL), passed[2] = {-1, -1};
  char text[1024], expected[1024], control[CMSG_SPACE(sizeof(passed))];
  struct iovec data = {text, sizeof(text)};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  ssize_t length = recvmsg(fd, &message, 0); /* one message */
  CHECK(length > 0);
  text[length] = '\0';
  snprintf(expected, sizeof(expected),
           "[{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":12288,\"offset\":0,\"page_size\":4096,"
           "\"page_size_kib\":4096},{\"base_host_virt_addr\":%" PRIuPTR
           ",\"size\":8192,\"offset\":12288,\"page_size\":4096,\"page_size_kib\":4096}]",
           (uintptr_t)uffd_memory_address(low), (uintptr_t)uffd_memory_address(high));
  if (strcmp(text, expected) != 0) fprintf(stderr, "%s\n%s\n", text, expected);
  CHECK(strcmp(text, expected) == 0);
  CHECK_EQ(message.msg_flags & MSG_CTRUNC, 0);
  struct cmsghdr *part = CMSG_FIRSTHDR(&message);
  CHECK(part != NULL && part->cmsg_type == SCM_RIGHTS);
  CHECK_EQ(part->cmsg_len, CMSG_LEN(sizeof(int)));
  memcpy(passed, CMSG_DATA(part), sizeof(int));
  CHECK(passed[0] != uffd_fd(uffd_handoff_object(handoff)));
  CHECK_EQ(syscall(SYS_kcmp, getpid(), getpid(), 0, passed[0], uffd_fd(uffd_handoff_object(handoff))), 0);
  CHECK((fcntl(passed[0], F_GETFL) & O_NONBLOCK) != 0);
  if ((uffd_available(uffd_handoff_object(handoff)) & UFFD_FEAT_EVENT_REMOVE) != 0)
    CHECK((uffd_features(uffd_handoff_object(handoff)) & UFFD_FEAT_EVENT_REMOVE) != 0);
  CHECK(memory_has(low, 0, "um"));
  CHECK(memory_has(high, 0, "um"));
  uffd_handoff_close(handoff);
  CHECK_EQ(recv(fd, text, sizeof(text), 0), 2);
  CHECK(memcmp(text, "[]", 2) == 0);
  CHECK_EQ(recv(fd, text, sizeof(text), 0), 0);
  CHECK(!memory_has(low, 0, "um"));
  CHECK(!memory_has(high, 0, "um"));
  close(passed[0]);
  close(fd);
  close(listener);
  uffd_memory_close(low);
  uffd_memory_close(high);
  unlink(path);
  rmdir(directory);
}

/* Serving */

static void the_pager_answers(void) {
  struct pager pager;
  open_pager(&pager, 16 * PAGE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 16);
  uffd_handoff *handoff = hand_over(memory);
  CHECK_EQ(uffd_handoff_connected(handoff), 1);
  take_in(&pager);
  CHECK_EQ(pager.handshake.pid, getpid());
  for (uint64_t page = 16; page-- > 0;) {
    CHECK(image_there(memory_at(memory, page * PAGE), page * PAGE, PAGE));
  }
  uffd_handoff_close(handoff);
  CHECK_ERR(await_end(&pager), -ESHUTDOWN);
  close_pager(&pager);
  uffd_memory_close(memory);
}

static void read_notice(struct pager *pager, uint32_t notice) {
  struct pollfd descriptor = {.fd = uffd_connection_fd(pager->connection), .events = POLLIN};
  struct uffd_handshake said;
  CHECK_EQ(poll(&descriptor, 1, 10000), 1);
  CHECK_EQ(CHECK_OK(uffd_connection_read(pager->connection, &said)), 1);
  CHECK_EQ(said.notice, notice);
  uffd_handshake_release(&said);
}

/* A part of the image, which is filled later, and comes again by another connection. */
static void what_our_own_pager_knows(void) {
  struct pager pager;
  struct uffd_handoff_opts opts = no_answer;
  uffd_handoff *handoff;
  open_pager(&pager, 16 * PAGE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  struct uffd_handoff_part part = {memory, 8 * PAGE};
  const struct uffd_door_limits any = {.max_bytes = 65536, .max_regions = 64};
  uffd_door_limit(pager.door, &any, 60000); /* the supervisor compares with the image, as parts need not be all of it */
  opts.flags |= UFFD_HANDOFF_PART | UFFD_HANDOFF_LATER;
  opts.label = "web";
  CHECK_OK(uffd_handoff_send(path, &part, 1, &opts, &handoff));
  take_in(&pager);
  CHECK(pager.handshake.part && pager.handshake.later && strcmp(pager.handshake.label, "web") == 0);
  CHECK(image_there(memory_at(memory, PAGE), 9 * PAGE, PAGE));
  CHECK_OK(uffd_handoff_fill(handoff));
  read_notice(&pager, UFFD_NOTICE_FILL);
  CHECK_OK(uffd_handoff_attach(handoff, path));
  struct uffd_connection *again;
  struct uffd_handshake same;
  CHECK_EQ(CHECK_OK(uffd_door_accept(pager.door, &again)), 1);
  CHECK_EQ(CHECK_OK(uffd_connection_read(again, &same)), 1);
  CHECK_EQ(same.regions_count, 1);
  CHECK_EQ(same.regions[0].offset, 8 * PAGE);
  CHECK(same.part && same.later && strcmp(same.label, "web") == 0);
  CHECK_EQ(syscall(SYS_kcmp, getpid(), getpid(), 0, same.object_fd, uffd_fd(pager.object)), 0);
  uffd_handshake_release(&same);
  CHECK_ERR(await_end(&pager), -ECONNRESET); /* the old connection is closed */
  hang_up(&pager);
  pager.connection = again;
  CHECK_EQ(uffd_handoff_connected(handoff), 1);
  CHECK(image_there(memory_at(memory, 2 * PAGE), 10 * PAGE, PAGE));
  uffd_handoff_close(handoff);
  CHECK_ERR(await_end(&pager), -ESHUTDOWN);
  close_pager(&pager);
  uffd_memory_close(memory);
}

static void every_kind_of_memory(void) {
  for (int i = 0; i < MEMORY_KINDS; i++) {
    struct pager pager;
    uffd_memory *memory = memory_make(memory_kinds[i], 4);
    uint64_t length = uffd_memory_length(memory);
    open_pager(&pager, length);
    uffd_handoff *handoff = hand_over(memory);
    take_in(&pager);
    CHECK(image_there(memory_at(memory, 0), 0, length));
    uffd_handoff_close(handoff);
    close_pager(&pager);
    uffd_memory_close(memory);
  }
}

static void several_memories(void) {
  struct pager pager;
  uffd_memory *memories[3];
  struct uffd_handoff_part parts[3];
  open_pager(&pager, 9 * PAGE);
  for (unsigned i = 0; i < 3; i++) {
    memories[i] = memory_make(MEMORY_ANON, 3);
    parts[i] = (struct uffd_handoff_part){memories[i], (2 - i) * 3 * PAGE};
  }
  uffd_handoff *handoff = NULL;
  CHECK_OK(uffd_handoff_send(path, parts, 3, &no_answer, &handoff));
  take_in(&pager);
  for (unsigned i = 0; i < 3; i++) {
    CHECK(image_there(memory_at(memories[i], 0), parts[i].offset, 3 * PAGE));
  }
  uffd_handoff_close(handoff);
  close_pager(&pager);
  for (unsigned i = 0; i < 3; i++) {
    uffd_memory_close(memories[i]);
  }
}

/* A loop cannot have it at the same time, and can afterwards. */
static void a_loop_is_refused_meanwhile(void) {
  struct pager pager;
  open_pager(&pager, 4 * PAGE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  uffd_handoff *handoff = hand_over(memory);
  take_in(&pager);
  uffd_loop *loop = NULL;
  uffd_resolver *zero = NULL;
  CHECK_OK(uffd_loop_create(NULL, &loop));
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_ERR(uffd_loop_add(loop, memory, zero, NULL, NULL), -EBUSY);
  uffd_handoff_close(handoff);
  CHECK_OK(uffd_loop_add(loop, memory, zero, NULL, NULL));
  CHECK_EQ(*memory_at(memory, PAGE), 0);
  struct uffd_handoff_part part = {memory, 0};
  CHECK_ERR(uffd_handoff_send(path, &part, 1, NULL, &handoff), -EBUSY);
  uffd_loop_close(loop);
  uffd_resolver_close(zero);
  close_pager(&pager);
  uffd_memory_close(memory);
}

/* The end */

static void complete_fills_and_lets_go(void) {
  struct pager pager;
  open_pager(&pager, 32 * PAGE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 32);
  uffd_handoff *handoff = hand_over(memory);
  take_in(&pager);
  *memory_at(memory, 5 * PAGE) = 0;
  CHECK_OK(uffd_handoff_complete(handoff));
  CHECK(!memory_has(memory, 0, "um"));
  CHECK_ERR(await_end(&pager), -ESHUTDOWN);
  CHECK_EQ(uffd_handoff_connected(handoff), 0);
  CHECK_OK(uffd_handoff_complete(handoff));
  close_pager(&pager);
  CHECK(image_there(memory_at(memory, 0), 0, 5 * PAGE));
  CHECK_EQ(*memory_at(memory, 5 * PAGE), 0);
  CHECK(image_there(memory_at(memory, 6 * PAGE), 6 * PAGE, 26 * PAGE));
  uffd_handoff_close(handoff);
  CHECK(image_there(memory_at(memory, 6 * PAGE), 6 * PAGE, 26 * PAGE));
  uffd_memory_close(memory);
}

/* USER_MODE_ONLY: the kernel's own accesses are not answered, those that complete makes are. */
static void complete_in_user_mode(void) {
  struct pager pager;
  open_pager(&pager, 8 * PAGE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  struct uffd_handoff_opts opts = UFFD_HANDOFF_OPTS_INIT;
  struct uffd_handoff_part part = {memory, 0};
  uffd_handoff *handoff = NULL;
  opts.open_flags = UFFD_OPEN_USER_MODE_ONLY;
  opts.flags = UFFD_HANDOFF_NO_ANSWER;
  CHECK_OK(uffd_handoff_send(path, &part, 1, &opts, &handoff));
  take_in(&pager);
  CHECK_OK(uffd_handoff_complete(handoff));
  uffd_handoff_close(handoff);
  CHECK(image_there(memory_at(memory, 0), 0, 8 * PAGE));
  close_pager(&pager);
  uffd_memory_close(memory);
}

static void complete_stops_at_poison(void) {
  struct pager pager;
  check_needs(UFFD_FEAT_POISON);
  open_pager(&pager, 8 * PAGE);
  pager.poisoned = 3 * PAGE;
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  struct uffd_handoff_opts opts = UFFD_HANDOFF_OPTS_INIT;
  struct uffd_handoff_part part = {memory, 0};
  uffd_handoff *handoff = NULL;
  opts.features = UFFD_FEAT_POISON;
  opts.flags = UFFD_HANDOFF_NO_ANSWER;
  CHECK_OK(uffd_handoff_send(path, &part, 1, &opts, &handoff));
  take_in(&pager);
  CHECK_ERR(uffd_handoff_complete(handoff), -EHWPOISON);
  CHECK(memory_has(memory, 0, "um"));
  CHECK_EQ(uffd_handoff_connected(handoff), 1);
  CHECK(image_there(memory_at(memory, 4 * PAGE), 4 * PAGE, 4 * PAGE));
  uffd_handoff_close(handoff);
  close_pager(&pager);
  uffd_memory_close(memory);
}

/* Closing is explicit, and says what it does: zeros from then on. */
static void close_wakes_who_waits(void) {
  struct pager pager;
  struct check_touch touch;
  open_pager(&pager, 4 * PAGE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  uffd_handoff *handoff = hand_over(memory);
  check_touch_read(&touch, memory_at(memory, PAGE)); /* nobody has taken it in */
  check_touch_asleep(&touch);
  uffd_handoff_close(handoff);
  CHECK_EQ(check_touch_join(&touch), 0);
  close_pager(&pager);
  uffd_memory_close(memory);
}

/* This process's copy of the userfaultfd keeps the memory registered: a thread waits, and gets no zeros. */
static void a_pager_that_is_gone_leaves_no_zeros(void) {
  struct pager pager;
  struct check_touch touch;
  open_pager(&pager, 4 * PAGE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  uffd_handoff *handoff = hand_over(memory);
  take_in(&pager);
  stop_serving(&pager);
  check_touch_read(&touch, memory_at(memory, PAGE));
  check_touch_asleep(&touch);
  hang_up(&pager);
  CHECK_EQ(uffd_handoff_connected(handoff), 0);
  CHECK_ERR(uffd_handoff_complete(handoff), -EPIPE);
  CHECK(!atomic_load(&touch.done));
  check_touch_asleep(&touch);
  uffd_handoff_close(handoff);
  CHECK_EQ(check_touch_join(&touch), 0);
  close_pager(&pager);
  uffd_memory_close(memory);
}

static void a_refusal_is_seen(void) {
  struct pager pager;
  struct uffd_handshake handshake;
  open_pager(&pager, 5 * PAGE); /* the image has another length */
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  uffd_handoff *handoff = hand_over(memory);
  CHECK_EQ(CHECK_OK(uffd_door_accept(pager.door, &pager.connection)), 1);
  CHECK_ERR(uffd_connection_read(pager.connection, &handshake), -EINVAL);
  uffd_handshake_release(&handshake);
  CHECK_EQ(uffd_handoff_connected(handoff), 1);
  hang_up(&pager);
  CHECK_EQ(uffd_handoff_connected(handoff), 0);
  uffd_handoff_close(handoff);
  close_pager(&pager);
  uffd_memory_close(memory);
}

/* The handle belongs to its process: in a child, closing only frees it, and serving goes on. */
static void a_forked_child_has_no_handle(void) {
  struct pager pager;
  open_pager(&pager, 4 * PAGE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  uffd_handoff *handoff = hand_over(memory);
  take_in(&pager);
  pid_t child = fork();
  if (child == 0) {
    CHECK_ERR(uffd_handoff_complete(handoff), -EOWNERDEAD);
    CHECK_ERR(uffd_handoff_connected(handoff), -EOWNERDEAD);
    uffd_handoff_close(handoff);
    _exit(0);
  }
  check_child(child);
  CHECK_EQ(uffd_handoff_connected(handoff), 1);
  CHECK(image_there(memory_at(memory, 0), 0, 4 * PAGE));
  struct uffd_handshake none;
  CHECK_EQ(uffd_connection_read(pager.connection, &none), 0);
  uffd_handoff_close(handoff);
  close_pager(&pager);
  uffd_memory_close(memory);
}

/* Refusals of our own */

static void parts_that_cannot_be(void) {
  struct pager pager;
  open_pager(&pager, 4 * PAGE);
  uffd_memory *memory = memory_make(MEMORY_ANON, 4), *other = memory_make(MEMORY_ANON, 4);
  uffd_handoff *handoff = (uffd_handoff *)&pager;
  unsigned fds = count_fds();
  CHECK_ERR(uffd_handoff_send(path, NULL, 0, NULL, &handoff), -EINVAL);
  CHECK(handoff == NULL);
  struct uffd_handoff_part parts[] = {{memory, 0}, {other, 3 * PAGE}};
  CHECK_ERR(uffd_handoff_send(path, parts, 0, NULL, &handoff), -EINVAL);
  CHECK_ERR(uffd_handoff_send(path, parts, 2, NULL, &handoff), -EINVAL);
  CHECK_SAYS("share a part of the image");
  parts[1] = (struct uffd_handoff_part){memory, 4 * PAGE};
  CHECK_ERR(uffd_handoff_send(path, parts, 2, NULL, &handoff), -EINVAL);
  CHECK_SAYS("share addresses");
  parts[1] = (struct uffd_handoff_part){NULL, 4 * PAGE};
  CHECK_ERR(uffd_handoff_send(path, parts, 2, NULL, &handoff), -EINVAL);
  CHECK_SAYS("no memory");
  parts[1] = (struct uffd_handoff_part){other, 4 * PAGE + 1};
  CHECK_ERR(uffd_handoff_send(path, parts, 2, NULL, &handoff), -EINVAL);
  CHECK_SAYS("a page of the image");
  CHECK_ERR(uffd_handoff_send(NULL, parts, 1, NULL, &handoff), -EINVAL);
  struct uffd_handoff_opts opts = UFFD_HANDOFF_OPTS_INIT;
  opts.flags = 8;
  CHECK_ERR(uffd_handoff_send(path, parts, 1, &opts, &handoff), -EINVAL);
  opts.flags = 0;
  opts.features = UINT64_C(1) << 60;
  CHECK_ERR(uffd_handoff_send(path, parts, 1, &opts, &handoff), -EINVAL);
  CHECK_EQ(count_fds(), fds);
  CHECK(!memory_has(memory, 0, "um"));
  uffd_handoff_close(NULL);
  CHECK_ERR(uffd_handoff_complete(NULL), -EBADF);
  CHECK(uffd_handoff_object(NULL) == NULL);
  close_pager(&pager);
  uffd_memory_close(memory);
  uffd_memory_close(other);
}

static void huge_and_small_pages_do_not_mix(void) {
  uffd_memory *huge = memory_make(MEMORY_HUGETLB, 1), *small = memory_make(MEMORY_ANON, 4);
  struct uffd_handoff_part parts[] = {{huge, 0}, {small, uffd_memory_length(huge)}};
  uffd_handoff *handoff = NULL;
  CHECK_ERR(uffd_handoff_send("/nowhere", parts, 2, NULL, &handoff), -EINVAL);
  CHECK_SAYS("another page size");
  uffd_memory_close(huge);
  uffd_memory_close(small);
}

static void nobody_is_there(void) {
  needs_userfaultfd();
  make_directory();
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  struct uffd_handoff_part part = {memory, 0};
  uffd_handoff *handoff = NULL;
  unsigned fds = count_fds();
  CHECK_ERR(uffd_handoff_send(path, &part, 1, NULL, &handoff), -ENOENT);
  CHECK_SAYS("start the pager first");
  close(listen_at(1));
  CHECK_ERR(uffd_handoff_send(path, &part, 1, NULL, &handoff), -ECONNREFUSED);
  char longer[300];
  memset(longer, 'x', sizeof(longer) - 1);
  longer[299] = '\0';
  CHECK_ERR(uffd_handoff_send(longer, &part, 1, NULL, &handoff), -ENAMETOOLONG);
  CHECK_ERR(uffd_handoff_send("", &part, 1, NULL, &handoff), -EINVAL);
  CHECK_EQ(count_fds(), fds);
  CHECK(!memory_has(memory, 0, "um"));
  CHECK_EQ(*memory_at(memory, 0), 0); /* ordinary memory as before */
  uffd_memory_close(memory);
  unlink(path);
  rmdir(directory);
}

/* Its queue is full, and it takes nobody out of it. */
static void a_pager_that_does_not_accept(void) {
  needs_userfaultfd();
  make_directory();
  int listener = listen_at(0);
  uffd_memory *memories[2] = {memory_make(MEMORY_ANON, 1), memory_make(MEMORY_ANON, 1)};
  uffd_handoff *first = hand_over(memories[0]), *second = NULL;
  struct uffd_handoff_part part = {memories[1], 0};
  struct uffd_handoff_opts opts = UFFD_HANDOFF_OPTS_INIT;
  opts.timeout_ms = 20;
  CHECK_ERR(uffd_handoff_send(path, &part, 1, &opts, &second), -ETIMEDOUT);
  uffd_handoff_close(first);
  close(listener);
  uffd_memory_close(memories[0]);
  uffd_memory_close(memories[1]);
  unlink(path);
  rmdir(directory);
}

static const struct check_test tests[] = {
    TEST(sends_what_firecracker_sends),
    TEST(the_pager_answers),
    TEST(what_our_own_pager_knows),
    TEST(several_memories),
    TEST(a_loop_is_refused_meanwhile),
    TEST(complete_fills_and_lets_go),
    TEST(complete_in_user_mode),
    TEST(complete_stops_at_poison),
    TEST(close_wakes_who_waits),
    TEST(a_pager_that_is_gone_leaves_no_zeros),
    TEST(a_refusal_is_seen),
    TEST(a_forked_child_has_no_handle),
    TEST(parts_that_cannot_be),
    TEST(nobody_is_there),
    TEST(a_pager_that_does_not_accept),
    TEST(every_kind_of_memory),
    TEST(huge_and_small_pages_do_not_mix),
};

CHECK_MAIN(tests)
