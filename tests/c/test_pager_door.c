/*
 * What clients say at the front door beside their regions (examples/door.md): whose memory it is, that it is a part of
 * the image, when to fill it; several clients of one connection; clients that come again; a thousand regions.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "door.h"
#include "paging.h"

#define PAGE UINT64_C(4096)
#define MIB  (UINT64_C(1) << 20)

static void raise_flag(const struct paging *paging, int flag) {
  atomic_store(&paging->seen->flags[flag], 1);
}
static void await_flag(const struct paging *paging, int flag) {
  while (atomic_load(&paging->seen->flags[flag]) == 0) {
    check_pause();
  }
}

/* A process of the test, which ends with it. */
static pid_t start(struct paging *paging, void (*run)(struct paging *paging)) {
  fflush(NULL);
  pid_t process = fork();
  CHECK(process >= 0);
  if (process != 0) return process;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  run(paging);
  _exit(0);
}

/* Memory that is registered: so many pages from an offset of the image on. */
static void make_memory(struct vmm *vmm, uint64_t offset, uint64_t pages) {
  CHECK_EQ(vmm_map(vmm, PAGE, &pages, 1), 0);
  vmm->regions[0].offset = offset;
  int result = vmm_register(vmm, 0, UFFDIO_REGISTER_MODE_MISSING);
  if (result == -EPERM) _exit(77);
  CHECK_EQ(result, 0);
}

static void walk(struct paging *paging, struct vmm *vmm) {
  struct vmm_work work = {.image = paging->bytes, .image_length = paging->length};
  CHECK_EQ(vmm_work(vmm, &work), 0);
}

static void say(int socket, const char *text) {
  CHECK_EQ(vmm_send(socket, text, strlen(text), NULL, 0), 0);
}

/* The test itself is the client: it would not end before the pager does. */
static void leave(struct paging *paging, int socket) {
  say(socket, "[]");
  paging_await(paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging->seen->last.end, UFFD_END_DONE);
  close(socket);
}

/* Whose memory it is */

enum { OWNER_IS_READY, OWNER_MAY_GO, OWNER_HAS_READ, OWNER_MAY_EXIT };

static int pair[2]; /* from an owner to who forwards its memory */
static struct vmm owned;

/* A process that has memory and hands it to a forwarder, not to the pager. */
static void own(struct paging *paging) {
  make_memory(&owned, 0, paging->length / PAGE);
  atomic_store(&paging->seen->numbers[0], owned.regions[0].address);
  atomic_store(&paging->seen->numbers[1], (uint64_t)owned.uffd);
  CHECK_EQ(vmm_send(pair[1], "x", 1, &owned.uffd, 1), 0);
  raise_flag(paging, OWNER_IS_READY);
  await_flag(paging, OWNER_MAY_GO);
  walk(paging, &owned);
  raise_flag(paging, OWNER_HAS_READ);
  await_flag(paging, OWNER_MAY_EXIT);
}

static int receive_fd(int socket) {
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  char byte;
  int fd;
  struct iovec data = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
  CHECK_EQ(recvmsg(socket, &message, MSG_CMSG_CLOEXEC), 1);
  memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
  return fd;
}

/* The forwarder's side: its idea of the owner's memory. */
static int meet(struct paging *paging, struct vmm *vmm) {
  await_flag(paging, OWNER_IS_READY);
  memset(vmm, 0, sizeof(*vmm));
  vmm->page_size = PAGE;
  vmm->count = 1;
  vmm->regions[0] = (struct vmm_region){.address = atomic_load(&paging->seen->numbers[0]), .length = paging->length};
  return receive_fd(pair[0]);
}

static pid_t start_owner(struct paging *paging) {
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  return start(paging, own);
}

static void expect_owner(struct paging *paging, pid_t owner, int socket) {
  check_line(socket, "{\"ok\":true,\"client\":1}");
  paging_await_clients(paging, 1, UFFD_CLIENT_SERVED);
  CHECK_EQ(paging->seen->clients[0].client.pid, owner);
  raise_flag(paging, OWNER_MAY_GO);
  await_flag(paging, OWNER_HAS_READ);
}

static void open_pager(struct paging *paging, uint64_t length) {
  paging_set_up(paging, length);
  paging_start(paging, NULL);
}

static void close_pager(struct paging *paging) {
  CHECK_EQ(paging_end(paging), 1);
  paging_tear_down(paging);
}

static int pidfd_of(pid_t process) {
  int pidfd = (int)syscall(SYS_pidfd_open, process, 0);
  CHECK(pidfd >= 0);
  return pidfd;
}

/* The forwarder and its connection live on: the end is the owner's. */
static void forwarder_sends_a_pidfd(void) {
  struct paging paging;
  struct vmm vmm;
  open_pager(&paging, MIB);
  pid_t owner = start_owner(&paging);
  int uffd = meet(&paging, &vmm), pidfd = pidfd_of(owner), socket = connect_to(&paging);
  send_list(socket, &vmm, ",\"uffd_pidfd\":true", uffd, pidfd);
  close(pidfd);
  expect_owner(&paging, owner, socket);
  CHECK_EQ(paging.seen->clients[0].client.fds_count, 0); /* the pidfd is none of those for the policy */
  close(uffd);
  kill(owner, SIGKILL);
  CHECK_EQ(waitpid(owner, NULL, 0), owner);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging.seen->last.end, UFFD_END_EXITED);
  close(socket);
  close_pager(&paging);
}

static void forwarder_says_the_number(void) {
  struct paging paging;
  struct vmm vmm;
  char extra[64];
  open_pager(&paging, MIB);
  pid_t owner = start_owner(&paging);
  int uffd = meet(&paging, &vmm), socket = connect_to(&paging);
  snprintf(extra, sizeof(extra), ",\"uffd_pid\":%d,\"uffd_fd\":%d", owner, (int)atomic_load(&paging.seen->numbers[1]));
  send_list(socket, &vmm, extra, uffd, -1);
  expect_owner(&paging, owner, socket);
  raise_flag(&paging, OWNER_MAY_EXIT);
  check_child(owner);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging.seen->last.end, UFFD_END_EXITED);
  close(socket);
  close(uffd);
  close_pager(&paging);
}

/* Process 1 of a pid namespace, whose child has the memory. */
static void forward_from_a_namespace(struct paging *paging) {
  struct vmm vmm;
  char extra[64];
  CHECK_EQ(getpid(), 1);
  pid_t owner = start_owner(paging);
  int uffd = meet(paging, &vmm), socket = connect_to(paging);
  snprintf(extra, sizeof(extra), ",\"uffd_pid\":%d", owner);
  send_list(socket, &vmm, extra, uffd, -1);
  check_line(socket, "{\"ok\":true,\"client\":1}");
  CHECK_EQ(waitpid(owner, NULL, 0), owner);
}

static int32_t only_child(pid_t process) {
  char path[64];
  int child = 0;
  snprintf(path, sizeof(path), "/proc/%d/task/%d/children", process, process);
  FILE *file = fopen(path, "re");
  CHECK(file != NULL && fscanf(file, "%d", &child) == 1);
  fclose(file);
  return child;
}

static void number_in_another_pid_namespace(void) {
  struct paging paging;
  open_pager(&paging, MIB);
  int fds = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
  if (unshare(CLONE_NEWPID) != 0) SKIP("a pid namespace needs CAP_SYS_ADMIN: %s", strerror(errno));
  pid_t forwarder = start(&paging, forward_from_a_namespace);
  CHECK_EQ(setns(fds, CLONE_NEWPID), 0);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  CHECK_EQ(paging.seen->clients[0].client.pid, only_child(forwarder));
  raise_flag(&paging, OWNER_MAY_GO);
  await_flag(&paging, OWNER_HAS_READ);
  raise_flag(&paging, OWNER_MAY_EXIT);
  check_child(forwarder);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  close(fds);
  close_pager(&paging);
}

static void idle(struct paging *paging) {
  await_flag(paging, OWNER_MAY_EXIT);
}

/* Each on a connection of its own, which is closed after the answer. The memory is never zeros: it is handed over. */
static void who_cannot_be_proved_is_refused(void) {
  struct paging paging;
  struct vmm vmm;
  char extra[64];
  open_pager(&paging, MIB);
  pid_t owner = start_owner(&paging), other = start(&paging, idle), dead = start(&paging, idle);
  int uffd = meet(&paging, &vmm), of_dead = pidfd_of(dead), of_other = pidfd_of(other), socket;
  kill(dead, SIGKILL);
  CHECK_EQ(waitpid(dead, NULL, 0), dead);
  snprintf(extra, sizeof(extra), ",\"uffd_pid\":%d,\"uffd_fd\":1000000", owner);
  const struct {
    const char *extra;
    int fd;
    const char *words;
  } rows[] = {
      {",\"uffd_pidfd\":true", -1, "promises a pidfd, and none came"},
      {",\"uffd_pidfd\":true", pair[0], "is no pidfd"},
      {",\"uffd_pidfd\":true", of_dead, "is dead"},
      {",\"uffd_pidfd\":true", of_other, "does not have this userfaultfd"},
      {",\"uffd_pid\":2147483647", -1, "no such process has the userfaultfd"},
      {extra, -1, "does not have this userfaultfd"},
      {",\"uffd_pid\":0", -1, "uffd_pid is not an integer from 1 to"},
      {",\"uffd_pid\":\"1\"", -1, "uffd_pid is not an integer"},
      {",\"uffd_fd\":-1", -1, "uffd_fd is not an integer from 0 to"},
      {",\"uffd_pidfd\":1", -1, "uffd_pidfd is neither true nor false"},
      {",\"uffd_part\":null", -1, "uffd_part is neither true nor false"},
      {",\"uffd_shared\":0", -1, "uffd_shared is not an integer from 1 to"},
      {",\"uffd_shared\":true", -1, "uffd_shared is not an integer"},
      {",\"uffd_shared\":5", -1, "ask it for another mapping"},
      {",\"uffd_fill\":\"soon\"", -1, "uffd_fill is neither \\\"now\\\" nor \\\"later\\\""},
  };
  for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
    socket = connect_to(&paging);
    send_list(socket, &vmm, rows[i].extra, uffd, rows[i].fd);
    check_line_has(socket, rows[i].words);
    check_hung_up(socket);
    close(socket);
  }
  CHECK_EQ(atomic_load(&paging.seen->clients_count), 0);
  socket = connect_to(&paging);
  snprintf(extra, sizeof(extra), ",\"uffd_pid\":%d", owner);
  send_list(socket, &vmm, extra, uffd, -1);
  expect_owner(&paging, owner, socket);
  raise_flag(&paging, OWNER_MAY_EXIT);
  check_child(owner);
  check_child(other);
  close(socket);
  close_pager(&paging);
}

/* When it is filled */

static unsigned resident(const struct vmm *vmm) {
  uint64_t entries[256];
  unsigned count = 0;
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  ssize_t length = pread(fd, entries, sizeof(entries), (off_t)(vmm->regions[0].address / PAGE * 8));
  CHECK_EQ(length, sizeof(entries));
  for (unsigned i = 0; i < 256; i++) {
    count += (entries[i] >> 63) != 0;
  }
  close(fd);
  return count;
}

/* Faults are answered, nothing else is filled, whoever serves it; and all is after the notice. */
static void rest_is_filled_when_the_client_says_so(void) {
  struct paging paging;
  struct vmm vmm;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = "";
  opts.flags = UFFD_PAGER_PREFETCH;
  opts.around = UFFD_AROUND_PAGE;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  make_memory(&vmm, 0, MIB / PAGE);
  int socket = connect_to(&paging);
  send_list(socket, &vmm, ",\"uffd_fill\":\"later\"", vmm.uffd, -1);
  check_line(socket, "{\"ok\":true,\"client\":1}");
  for (unsigned round = 0; round < 2; round++) {
    CHECK_EQ(vmm.regions[0].at[(round * 3 + 1) * PAGE], paging.bytes[(round * 3 + 1) * PAGE]);
    paging_turn(&paging);
    CHECK_EQ(resident(&vmm), round + 1);
    unsigned begun = atomic_load(&paging.seen->begun);
    CHECK(paging_kill_worker(&paging, 0));
    while (atomic_load(&paging.seen->begun) == begun) {
      check_pause();
    }
  }
  const char *notice = "[{\"uffd_notice\":\"fill\",\"uffd_answer\":true}]";
  CHECK_EQ(vmm_send(socket, notice, strlen(notice), NULL, 0), 0);
  check_line(socket, "{\"ok\":true,\"client\":1}");
  while (resident(&vmm) != 256) {
    check_pause();
  }
  CHECK(memcmp(vmm.regions[0].at, paging.bytes, MIB) == 0);
  leave(&paging, socket);
  vmm_unmap(&vmm);
  close_pager(&paging);
}

/* Several clients */

static void one_connection_has_several_clients(void) {
  enum { COUNT = 4 };
  struct paging paging;
  struct vmm vmms[COUNT], bad;
  open_pager(&paging, MIB);
  int socket = connect_to(&paging);
  for (unsigned i = 0; i < COUNT; i++) {
    char expected[64];
    make_memory(&vmms[i], i * (MIB / COUNT), MIB / COUNT / PAGE);
    send_list(socket, &vmms[i], ",\"uffd_part\":true", vmms[i].uffd, -1);
    snprintf(expected, sizeof(expected), "{\"ok\":true,\"client\":%u}", i + 1);
    check_line(socket, expected);
    if (i != 0) continue;
    make_memory(&bad, 0, 1); /* refused alone: the others stay, and more may come */
    send_list(socket, &bad, "", bad.uffd, -1);
    check_line_has(socket, "it belongs to another client");
    bad.regions[0].offset = MIB;
    send_list(socket, &bad, ",\"uffd_part\":true", bad.uffd, -1);
    check_line_has(socket, "reaches beyond the image");
    say(socket, "[{\"uffd_notice\":\"fill\",\"uffd_client\":77,\"uffd_answer\":true}]");
    check_line_has(socket, "The connection has no client 77.");
  }
  paging_await_clients(&paging, COUNT, UFFD_CLIENT_SERVED);
  for (unsigned i = 0; i < COUNT; i++) {
    CHECK(memcmp(vmms[i].regions[0].at, paging.bytes + i * (MIB / COUNT), MIB / COUNT) == 0);
  }
  say(socket, "[{\"uffd_notice\":\"done\",\"uffd_client\":2,\"uffd_answer\":true}]");
  check_line(socket, "{\"ok\":true,\"client\":2}");
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging.seen->last.client.id, 2);
  paging_await_clients(&paging, COUNT - 1, UFFD_CLIENT_SERVED);
  say(socket, "[]");
  paging_await(&paging, UFFD_REPORT_GONE, COUNT);
  check_hung_up(socket);
  for (unsigned i = 0; i < COUNT; i++) {
    vmm_unmap(&vmms[i]);
  }
  vmm_unmap(&bad);
  close(socket);
  close_pager(&paging);
}

/* Both come in one read. The first waits, as its process is looked for; what is behind it is not forgotten. */
static void notice_comes_right_behind_its_client(void) {
  struct paging paging;
  struct vmm vmm;
  char extra[64], text[2048];
  open_pager(&paging, MIB);
  make_memory(&vmm, 0, MIB / PAGE);
  snprintf(extra, sizeof(extra), ",\"uffd_pid\":%d,\"uffd_fd\":%d", getpid(), vmm.uffd);
  write_list(&vmm, extra, text, sizeof(text));
  size_t length = strlen(text);
  snprintf(text + length, sizeof(text) - length, "[{\"uffd_notice\":\"done\",\"uffd_answer\":true}]");
  int socket = connect_to(&paging);
  CHECK_EQ(vmm_send(socket, text, strlen(text), &vmm.uffd, 1), 0);
  check_line(socket, "{\"ok\":true,\"client\":1}");
  check_line(socket, "{\"ok\":true,\"client\":1}");
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  close(socket);
  vmm_unmap(&vmm);
  close_pager(&paging);
}

static void notices_that_are_refused(void) {
  struct paging paging;
  struct vmm vmm;
  static const char *const rows[][2] = {
      {"[{\"uffd_notice\":\"nap\"}]", "uffd_notice is none of"},
      {"[{\"uffd_notice\":\"fill\"},{}]", "A notice is alone in its list"},
      {"[{\"uffd_notice\":\"fill\",\"uffd_client\":0}]", "uffd_client is not an integer"},
      {"[{\"uffd_notice\":7}]", "uffd_notice is none of"},
  };
  open_pager(&paging, MIB);
  int socket = connect_to(&paging);
  say(socket, "[{\"uffd_notice\":\"done\"}]");
  check_line_has(socket, "A notice came before any handshake");
  check_hung_up(socket);
  close(socket);
  make_memory(&vmm, 0, MIB / PAGE);
  for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
    socket = connect_to(&paging); /* it comes again each time: it is served on after a refusal of its connection */
    send_list(socket, &vmm, "", vmm.uffd, -1);
    check_line(socket, i == 0 ? "{\"ok\":true,\"client\":1}" : "{\"ok\":true,\"client\":1,\"known\":true}");
    say(socket, rows[i][0]);
    check_line_has(socket, rows[i][1]);
    check_hung_up(socket);
    close(socket);
  }
  walk(&paging, &vmm);
  socket = connect_to(&paging);
  send_list(socket, &vmm, "", vmm.uffd, -1);
  check_line(socket, "{\"ok\":true,\"client\":1,\"known\":true}");
  leave(&paging, socket);
  vmm_unmap(&vmm);
  close_pager(&paging);
}

/* Who comes again */

/* From then on the second connection is its connection. */
static void client_comes_again(void) {
  struct paging paging;
  struct vmm vmm;
  open_pager(&paging, MIB);
  make_memory(&vmm, 0, MIB / PAGE);
  int first = connect_to(&paging);
  send_list(first, &vmm, "", vmm.uffd, -1);
  check_line(first, "{\"ok\":true,\"client\":1}");
  close(first);
  CHECK_EQ(vmm.regions[0].at[0], paging.bytes[0]);
  int second = connect_to(&paging);
  send_list(second, &vmm, "", vmm.uffd, -1);
  check_line(second, "{\"ok\":true,\"client\":1,\"known\":true}");
  walk(&paging, &vmm);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 1);
  leave(&paging, second);
  vmm_unmap(&vmm);
  close_pager(&paging);
}

/* Many regions, many layers */

enum { REGIONS = 1000, LAYERS = 3000 };

/* The image's pages in another order, a layer each: page i lies at page LAYERS-1-i of the client's memory. */
static int make_layers(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver) {
  static struct uffd_layer layers[LAYERS];
  (void)ctx;
  (void)client;
  for (uint64_t i = 0; i < LAYERS; i++) {
    layers[i] = (struct uffd_layer){
        .offset = i * PAGE, .length = PAGE, .resolver = image, .resolver_offset = (LAYERS - 1 - i) * PAGE};
  }
  return uffd_resolver_layers(layers, LAYERS, resolver);
}

static uint64_t wrong_pages(const struct paging *paging, const struct vmm *vmm, unsigned step) {
  uint64_t wrong = 0;
  for (uint64_t i = 0, page = 0; i < LAYERS; i++, page = (page + step) % LAYERS) {
    wrong += memcmp(vmm_at(vmm, page * PAGE), paging->bytes + (LAYERS - 1 - page) * PAGE, PAGE) != 0;
  }
  return wrong;
}

static void thousand_regions_of_three_thousand_layers(void) {
  struct paging paging;
  static struct vmm vmm;
  static uint64_t pages[REGIONS];
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = "";
  opts.resolver = make_layers;
  for (unsigned i = 0; i < REGIONS; i++) {
    pages[i] = LAYERS / REGIONS;
  }
  paging_set_up(&paging, LAYERS * PAGE);
  paging_start(&paging, &opts);
  CHECK_EQ(vmm_map(&vmm, PAGE, pages, REGIONS), 0);
  int result = vmm_register(&vmm, 0, UFFDIO_REGISTER_MODE_MISSING);
  if (result == -EPERM) SKIP("no userfaultfd for this user");
  CHECK_EQ(result, 0);
  vmm.socket = connect_to(&paging);
  CHECK_EQ(vmm_hand_over(&vmm, NULL), 0);
  for (unsigned i = 0; i < LAYERS; i += 30) {
    CHECK_EQ(*vmm_at(&vmm, i * PAGE), paging.bytes[(LAYERS - 1 - i) * PAGE]);
  }
  CHECK(paging_kill_worker(&paging, 0)); /* another one goes on with all of them */
  CHECK_EQ(wrong_pages(&paging, &vmm, 7), 0);
  paging_signal(&paging, SIGTERM); /* drained: complete, and ordinary memory */
  paging_await(&paging, UFFD_REPORT_COMPLETE, 1);
  CHECK_EQ(wrong_pages(&paging, &vmm, 1), 0);
  vmm_unmap(&vmm);
  paging_await_over(&paging);
  CHECK_EQ(paging_end(&paging), 0);
  paging_tear_down(&paging);
}

/* nydus: the list of regions in an object, whose policy is to copy, and the size of the image at any time */

#define NYDUS_SIZE "{\"type\":3,\"size\":1048576,\"block_size\":4096,\"flags\":0,\"version\":1}"

static int make_nydus(const struct paging *paging, struct vmm *vmm) {
  make_memory(vmm, 0, paging->length / PAGE);
  CHECK_EQ(fcntl(vmm->uffd, F_SETFL, 0), 0); /* its clients leave it blocking */
  return connect_to(paging);
}

/* Its regions have keys of their own; policy: what follows them in the object. */
static void send_nydus(int socket, const struct vmm *vmm, unsigned keys, const char *policy) {
  char text[1024], list[512];
  CHECK(vmm_list(vmm, keys, list, sizeof(list)) < sizeof(list));
  char *end = strchr(list, '}');
  snprintf(text, sizeof(text), "{\"type\":0,\"regions\":%.*s,\"prot\":3,\"flags\":2%s%s}", (int)(end - list), list, end,
           policy);
  CHECK_EQ(vmm_send(socket, text, strlen(text), &vmm->uffd, 1), 0);
}

static void leave_nydus(struct paging *paging, struct vmm *vmm, int socket) {
  leave(paging, socket);
  vmm_unmap(vmm);
  close_pager(paging);
}

static void nydus_asks_for_the_size_and_hands_over(void) {
  struct paging paging;
  struct vmm vmm;
  open_pager(&paging, MIB);
  int socket = make_nydus(&paging, &vmm);
  say(socket, "{\"type\":2}");
  check_line(socket, NYDUS_SIZE);
  say(socket, "{\"type\":2}"); /* once more, before there is a client */
  check_line(socket, NYDUS_SIZE);
  send_nydus(socket, &vmm, VMM_PAGE_SIZE, ",\"policy\":1,\"enable_prefault\":true");
  walk(&paging, &vmm);
  CHECK((fcntl(vmm.uffd, F_GETFL) & O_NONBLOCK) != 0);
  say(socket, "{\"type\":2}");
  check_line(socket, NYDUS_SIZE);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  leave_nydus(&paging, &vmm, socket);
}

/* A bare list is Firecracker's, whoever sends it. */
static void nydus_sends_a_bare_list(void) {
  struct paging paging;
  struct vmm vmm;
  open_pager(&paging, MIB);
  int socket = make_nydus(&paging, &vmm);
  send_list(socket, &vmm, "", vmm.uffd, -1);
  check_line(socket, "{\"ok\":true,\"client\":1}");
  walk(&paging, &vmm);
  say(socket, "{\"type\":2}");
  check_line(socket, NYDUS_SIZE);
  leave_nydus(&paging, &vmm, socket);
}

static void nydus_is_refused(void) {
  static const struct {
    unsigned keys;
    const char *policy, *words;
  } rows[] = {
      {VMM_PAGE_SIZE, ",\"policy\":0", "policy 0 of nydus' protocol, zero copy"},
      {VMM_PAGE_SIZE, "", "policy 0 of nydus' protocol, zero copy"},
      {VMM_PAGE_SIZE, ",\"policy\":\"copy\"", "policy is not an integer"},
      {VMM_PAGE_SIZE_KIB, ",\"policy\":1", "has no page_size"},
  };
  struct paging paging;
  struct vmm vmm;
  open_pager(&paging, MIB);
  int socket = make_nydus(&paging, &vmm);
  for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
    if (i != 0) socket = connect_to(&paging);
    send_nydus(socket, &vmm, rows[i].keys, rows[i].policy);
    check_line_has(socket, rows[i].words);
    check_hung_up(socket);
    close(socket);
  }
  static const char *const others[] = {"{\"type\":1}", "{\"regions\":[]}", "{\"type\":0,\"policy\":1}"};
  for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
    socket = connect_to(&paging);
    say(socket, others[i]);
    check_line_has(socket, i < 2 ? "type is neither 0 (regions) nor 2" : "has no regions");
    check_hung_up(socket);
    close(socket);
  }
  CHECK_EQ(atomic_load(&paging.seen->clients_count), 0);
  vmm_unmap(&vmm);
  close_pager(&paging);
}

/* A resolver makes what each client gets: there is no image to have a size. */
static void nydus_asks_where_there_is_no_image(void) {
  struct paging paging;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.resolver = make_layers;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  int socket = connect_to(&paging);
  say(socket, "{\"type\":2}");
  check_line_has(socket, "no image of a certain size");
  close(socket);
  close_pager(&paging);
}

static const struct check_test tests[] = {
    TEST(forwarder_sends_a_pidfd),
    TEST(forwarder_says_the_number),
    TEST(number_in_another_pid_namespace),
    TEST(who_cannot_be_proved_is_refused),
    TEST(rest_is_filled_when_the_client_says_so),
    TEST(one_connection_has_several_clients),
    TEST(notice_comes_right_behind_its_client),
    TEST(notices_that_are_refused),
    TEST(client_comes_again),
    TEST(thousand_regions_of_three_thousand_layers),
    TEST(nydus_asks_for_the_size_and_hands_over),
    TEST(nydus_sends_a_bare_list),
    TEST(nydus_is_refused),
    TEST(nydus_asks_where_there_is_no_image),
};

CHECK_MAIN(tests)
