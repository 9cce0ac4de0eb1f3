/* A supervisor is killed, and another one takes its clients over: from what a service manager has kept, which is this
 * test. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "door.h"
#include "paging.h"

#define MIB    (UINT64_C(1) << 20)
#define PAGE   UINT64_C(4096)
#define RELICS 64

/* The store of descriptors, as sd_notify(3) has it. */
struct store {
  struct paging paging;
  int socket;
  unsigned count;
  struct {
    char name[64];
    int fd;
  } relics[RELICS];
};

static struct store store;

static int find(const char *name) {
  for (unsigned i = 0; i < store.count; i++) {
    if (strcmp(store.relics[i].name, name) == 0) return (int)i;
  }
  return -1;
}

static void take_out(const char *name) {
  int at = find(name);
  if (at < 0) return;
  close(store.relics[at].fd);
  store.relics[at] = store.relics[--store.count];
}

static void put_in(const char *name, int fd) {
  CHECK(store.count < RELICS && fd >= 0);
  snprintf(store.relics[store.count].name, sizeof(store.relics[0].name), "%s", name);
  store.relics[store.count++].fd = fd;
}

/* Takes what has come from the pager. */
static void hear(void) {
  for (;;) {
    char text[512], control[CMSG_SPACE(sizeof(int))];
    struct iovec part = {text, sizeof(text) - 1};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t length = recvmsg(store.socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length < 0) return;
    text[length] = '\0';
    const char *name = strstr(text, "FDNAME=");
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    int fd = -1;
    if (header != NULL) memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    if (name != NULL && strncmp(text, "FDSTORE=1", 9) == 0) put_in(name + 7, fd);
    if (name != NULL && strncmp(text, "FDSTOREREMOVE=1", 15) == 0) take_out(name + 7);
  }
}

static void await_kept(const char *name, bool kept) {
  while ((find(name) >= 0) != kept) {
    hear();
    check_pause();
  }
}

static void await_flag(unsigned flag) {
  while (atomic_load(&store.paging.seen->flags[flag]) == 0) {
    hear();
    check_pause();
  }
}

static void set_up(struct uffd_pager_opts *opts) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  paging_set_up(&store.paging, 2 * MIB);
  snprintf(address.sun_path, sizeof(address.sun_path), "%s/manager", store.paging.directory);
  store.socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  CHECK(store.socket >= 0 && bind(store.socket, (struct sockaddr *)&address, sizeof(address)) == 0);
  CHECK_EQ(setenv("NOTIFY_SOCKET", address.sun_path, 1), 0);
  *opts = (struct uffd_pager_opts)UFFD_PAGER_OPTS_INIT;
  opts->image = "";
  opts->around = PAGE;
  opts->flags = UFFD_PAGER_KEEP;
}

/* In the next supervisor: descriptors from 3 on, as sd_listen_fds(3) has it. */
static void give_back(struct paging *paging) {
  char names[RELICS * 64] = "", number[16];
  int copies[RELICS] = {0};
  (void)paging;
  for (unsigned i = 0; i < store.count; i++) {
    copies[i] = fcntl(store.relics[i].fd, F_DUPFD_CLOEXEC, 256);
    CHECK(copies[i] >= 0);
    snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i == 0 ? "" : ":", store.relics[i].name);
  }
  for (unsigned i = 0; i < store.count; i++) {
    CHECK_EQ(dup2(copies[i], 3 + (int)i), 3 + (int)i);
  }
  snprintf(number, sizeof(number), "%d", (int)getpid());
  setenv("LISTEN_PID", number, 1);
  snprintf(number, sizeof(number), "%u", store.count);
  setenv("LISTEN_FDS", number, 1);
  setenv("LISTEN_FDNAMES", names, 1);
}

static void read_twice(struct paging_job *job) {
  for (uint64_t page = 0; page < 8; page++) {
    CHECK_EQ(vmm_page(&job->vmm, &job->work, page * 16 * PAGE), 1);
  }
  close(job->vmm.uffd); /* the last copies are the pager's, and the store's */
  atomic_store(&job->paging->seen->flags[0], 1);
  while (atomic_load(&job->paging->seen->flags[1]) == 0) {
    paging_sleep_us(1000);
  }
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

static void check_bytes(const struct paging *paging, const unsigned char *at, uint64_t step) {
  for (uint64_t offset = 0; offset < paging->length; offset += step) {
    CHECK(memcmp(at + offset, paging->bytes + offset, PAGE) == 0);
  }
}

/* A client whose memory is a private mapping of what the pager shares. It has read some when the supervisor dies. */
static pid_t start_sharing(struct paging *paging) {
  fflush(NULL);
  pid_t client = fork();
  CHECK(client >= 0);
  if (client != 0) return client;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  uffd_memory *memory;
  uffd_handoff *handoff;
  struct uffd_handoff_opts opts = UFFD_HANDOFF_OPTS_INIT;
  opts.timeout_ms = 600000;
  CHECK_OK(uffd_handoff_map(paging->socket, NULL, &memory));
  struct uffd_handoff_part part = {memory, 0};
  CHECK_OK(uffd_handoff_send(paging->socket, &part, 1, &opts, &handoff));
  const unsigned char *at = uffd_memory_address(memory);
  check_bytes(paging, at, 16 * PAGE);
  atomic_store(&paging->seen->flags[0], 1);
  while (atomic_load(&paging->seen->flags[1]) == 0) {
    check_pause();
  }
  check_bytes(paging, at, PAGE);
  _exit(0);
}

/* Another file has the image's name by then. */
static void replace_image(void) {
  char other[128];
  snprintf(other, sizeof(other), "%s/other", store.paging.directory);
  int fd = open(other, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  CHECK(fd >= 0 && ftruncate(fd, 2 * MIB) == 0);
  close(fd);
  CHECK_EQ(rename(other, store.paging.image), 0);
}

static void take_over(bool both, bool shared) {
  struct uffd_pager_opts opts;
  struct paging *paging = &store.paging;
  set_up(&opts);
  if (shared) opts.flags |= UFFD_PAGER_SHARE;
  paging_start(paging, &opts);
  struct paging_job job = {.paging = paging, .run = read_twice};
  pid_t client = shared ? start_sharing(paging) : paging_client(&job);
  await_flag(0);
  await_kept("client1.book", true); /* the object goes last */
  while (paging_reports(paging, UFFD_REPORT_CLIENT) == 0) {
    check_pause();
  }
  paging_turn(paging);
  hear();
  unsigned begun = atomic_load(&paging->seen->begun);
  int former = atomic_load(&paging->seen->workers[0]);
  kill(paging->supervisor, SIGKILL);
  CHECK_EQ(waitpid(paging->supervisor, NULL, 0), paging->supervisor);
  if (both) CHECK(paging_kill_worker(paging, 0));
  hear();
  replace_image();
  paging->before = give_back;
  paging_start(paging, &opts);
  while (paging_reports(paging, UFFD_REPORT_ADOPTED) == 0 || atomic_load(&paging->seen->begun) == begun) {
    hear();
    check_pause();
  }
  paging_await_dead(former); /* it lets go of its client at once, and ends */
  atomic_store(&paging->seen->flags[1], 1);
  for (unsigned i = 0; i < store.count; i++) { /* the supervisor has its own: what is left here must not keep it */
    close(store.relics[i].fd);
    store.relics[i].fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  }
  paging_client_ok(client);
  await_kept("client1.object", false);
  await_kept("client1.book", false);
  CHECK_EQ(paging_reports(paging, UFFD_REPORT_FROZEN), 0);
  CHECK_EQ(paging_end(paging), 1);
  paging_tear_down(paging);
}

static void supervisor_is_killed(void) {
  take_over(false, false);
}

static void supervisor_and_worker_are_killed(void) {
  take_over(true, false);
}

static void what_is_shared_is_taken_over(void) {
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  take_over(false, true);
}

static void what_is_shared_outlives_the_workers(void) {
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  take_over(true, true);
}

/*
 * A client that asks for an answer hears that it is served when the next supervisor would have it. Here the manager's
 * queue is full, and the manager does not read.
 */

/* Until nothing more fits. */
static void fill_queue(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  snprintf(address.sun_path, sizeof(address.sun_path), "%s/manager", store.paging.directory);
  CHECK(sender >= 0 && connect(sender, (struct sockaddr *)&address, sizeof(address)) == 0);
  while (send(sender, "STATUS=x", 8, 0) == 8) {
  }
  CHECK_EQ(errno, EAGAIN);
  close(sender);
}

static int hand_over(struct vmm *vmm, uint64_t pages) {
  CHECK_EQ(vmm_map(vmm, PAGE, &pages, 1), 0);
  CHECK_EQ(vmm_register(vmm, 0, UFFDIO_REGISTER_MODE_MISSING), 0);
  int socket = connect_to(&store.paging);
  send_list(socket, vmm, "", vmm->uffd, -1);
  return socket;
}

static bool has_answer(int socket) {
  char byte;
  return recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
}

static void leave(struct vmm *vmm, int socket) {
  CHECK_EQ(vmm_send(socket, "[]", 2, NULL, 0), 0);
  paging_await(&store.paging, UFFD_REPORT_GONE, 1);
  close(socket);
  vmm_unmap(vmm);
  CHECK_EQ(paging_end(&store.paging), 1);
  paging_tear_down(&store.paging);
}

static void its_answer_waits_until_it_is_kept(void) {
  struct uffd_pager_opts opts;
  struct vmm vmm;
  set_up(&opts);
  paging_start(&store.paging, &opts);
  hear();
  fill_queue();
  struct vmm_work work = {.image = store.paging.bytes, .image_length = store.paging.length};
  int socket = hand_over(&vmm, store.paging.length / PAGE);
  paging_await_clients(&store.paging, 1, UFFD_CLIENT_SERVED);
  CHECK_EQ(vmm_page(&vmm, &work, 0), 1);
  paging_turn(&store.paging);
  CHECK(!has_answer(socket)); /* it is served, and not kept */
  CHECK(find("client1.object") < 0);
  while (!has_answer(socket)) {
    hear();
    check_pause();
  }
  await_kept("client1.object", true);
  check_line(socket, "{\"ok\":true,\"client\":1}");
  CHECK_EQ(paging_reports(&store.paging, UFFD_REPORT_ERROR), 0);
  leave(&vmm, socket);
}

static void manager_that_takes_nothing_is_reported(void) {
  struct uffd_pager_opts opts;
  struct vmm vmm;
  set_up(&opts);
  opts.hang_ms = 200;
  paging_start(&store.paging, &opts);
  hear();
  fill_queue();
  int socket = hand_over(&vmm, store.paging.length / PAGE);
  check_line(socket, "{\"ok\":true,\"client\":1}");
  paging_await(&store.paging, UFFD_REPORT_ERROR, 1);
  CHECK(strstr(store.paging.seen->texts[UFFD_REPORT_ERROR], "it has taken nothing for 200 ms") != NULL);
  leave(&vmm, socket);
}

static const struct check_test tests[] = {
    TEST(supervisor_is_killed),
    TEST(supervisor_and_worker_are_killed),
    TEST(what_is_shared_is_taken_over),
    TEST(what_is_shared_outlives_the_workers),
    TEST(its_answer_waits_until_it_is_kept),
    TEST(manager_that_takes_nothing_is_reported),
};

CHECK_MAIN(tests)
