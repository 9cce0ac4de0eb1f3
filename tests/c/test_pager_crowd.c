/*
 * One client among others: however many connections, clients, handshakes and forks one process comes with, there is
 * room and time for the others.
 */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "door.h"

#define PAGE UINT64_C(4096)
#define MIB  (UINT64_C(1) << 20)

static uint64_t ns_of(clockid_t clock) {
  struct timespec now;
  CHECK_EQ(clock_gettime(clock, &now), 0);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void open_pager(struct paging *paging, uint32_t max_clients) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = "";
  opts.on_crash = UFFD_PAGER_FREEZE;
  opts.max_clients = max_clients;
  opts.handshake_ms = 600000;
  paging_set_up(paging, MIB);
  paging_start(paging, &opts);
}

static void close_pager(struct paging *paging) {
  CHECK_EQ(paging_end(paging), 1);
  paging_tear_down(paging);
}

static void make_memory(struct vmm *vmm, uint64_t features) {
  const uint64_t pages = MIB / PAGE;
  CHECK_EQ(vmm_map(vmm, PAGE, &pages, 1), 0);
  int result = vmm_register(vmm, features, UFFDIO_REGISTER_MODE_MISSING);
  if (result == -EPERM) SKIP("no userfaultfd for this user");
  CHECK_EQ(result, 0);
}

static pid_t start(void (*run)(struct paging *paging), struct paging *paging) {
  fflush(NULL);
  pid_t process = fork();
  CHECK(process >= 0);
  if (process != 0) return process;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  run(paging);
  _exit(0);
}

static void stop(pid_t process) {
  kill(process, SIGKILL);
  CHECK_EQ(waitpid(process, NULL, 0), process);
}

static void one_more_is_served(struct paging *paging) {
  struct paging_job job = {.paging = paging};
  paging_client_ok(paging_client(&job));
}

/* Three quarters are the most that one process may have. */
static void clients_of_one_process_leave_room(void) {
  struct paging paging;
  struct vmm vmms[7];
  open_pager(&paging, 8);
  int socket = connect_to(&paging);
  for (unsigned i = 0; i < 7; i++) {
    char expected[64];
    make_memory(&vmms[i], 0);
    send_list(socket, &vmms[i], "", vmms[i].uffd, -1);
    snprintf(expected, sizeof(expected), "{\"ok\":true,\"client\":%u}", i + 1);
    if (i < 6) check_line(socket, expected);
  }
  check_line_has(socket, "has brought 6 clients already: max_clients_per_process is 6.");
  one_more_is_served(&paging);
  CHECK_EQ(vmm_send(socket, "[]", 2, NULL, 0), 0);
  paging_await(&paging, UFFD_REPORT_GONE, 7);
  for (unsigned i = 0; i < 7; i++) {
    vmm_unmap(&vmms[i]);
  }
  close(socket);
  close_pager(&paging);
}

static void come_and_wait(struct paging *paging) {
  static struct vmm vmm;
  struct vmm_work work = {.image = paging->bytes, .image_length = paging->length};
  make_memory(&vmm, 0);
  vmm.socket = connect_to(paging);
  atomic_store(&paging->seen->flags[0], 1);
  while (atomic_load(&paging->seen->flags[1]) == 0) {
    paging_sleep_us(1000);
  }
  _exit(vmm_hand_over(&vmm, NULL) == 0 && vmm_work(&vmm, &work) == 0 ? 0 : 1);
}

/* Of a process with too many, its own give way, though that of another one is older. */
static void connections_of_one_process_leave_room(void) {
  struct paging paging;
  int silent[200];
  open_pager(&paging, 4);
  pid_t slow = start(come_and_wait, &paging);
  while (atomic_load(&paging.seen->flags[0]) == 0) {
    check_pause();
  }
  for (unsigned i = 0; i < 200; i++) {
    silent[i] = connect_to(&paging);
  }
  paging_await(&paging, UFFD_REPORT_REFUSED, 200 - 51); /* of 4 and 64 three quarters */
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "51 connections of its process: this one") != NULL);
  atomic_store(&paging.seen->flags[1], 1);
  paging_client_ok(slow);
  for (unsigned i = 0; i < 200; i++) {
    close(silent[i]);
  }
  close_pager(&paging);
}

/* Memory that no part of the image fits. */
static void be_refused(struct paging *paging, struct vmm *vmm) {
  make_memory(vmm, 0);
  vmm->regions[0].offset = 16 * MIB;
  vmm->socket = connect_to(paging);
  CHECK_EQ(vmm_hand_over(vmm, NULL), 0);
}

static void be_refused_and_touch(struct paging *paging) {
  static struct vmm vmm;
  be_refused(paging, &vmm);
  while (atomic_load(&paging->seen->flags[1]) == 0) {
    paging_sleep_us(1000);
  }
  (void)*(volatile unsigned char *)vmm.regions[0].at;
}

/* The userfaultfds of 256 are kept; beyond that, who has too many loses its own, though that of another one is older.
 */
static void refused_clients_of_one_process_leave_room(void) {
  enum { COUNT = 260 };
  struct paging paging;
  check_needs(UFFD_FEAT_POISON);
  if (!check_is_root()) SKIP("who sleeps is told to root");
  open_pager(&paging, 8);
  struct vmm *vmms = calloc(COUNT, sizeof(*vmms));
  pid_t other = start(be_refused_and_touch, &paging);
  paging_await(&paging, UFFD_REPORT_REFUSED, 1);
  for (unsigned i = 0; i < COUNT; i++) {
    be_refused(&paging, &vmms[i]);
  }
  paging_await(&paging, UFFD_REPORT_REFUSED, 1 + COUNT);
  atomic_store(&paging.seen->flags[1], 1);
  while (!paging_sleeps(other)) {
    CHECK_EQ(waitpid(other, NULL, WNOHANG), 0);
    check_pause();
  }
  stop(other);
  for (unsigned i = 0; i < COUNT; i++) {
    vmm_unmap(&vmms[i]);
  }
  free(vmms);
  close_pager(&paging);
}

static void hand_over_wrongly(struct paging_job *job) {
  enum { COUNT = 260 };
  static struct vmm again;
  for (unsigned i = 0; i < COUNT; i++) {
    again = job->vmm;
    again.regions[0].offset = 16 * MIB;
    again.socket = connect_to(job->paging);
    CHECK_EQ(vmm_hand_over(&again, NULL), 0);
    close(again.socket);
  }
  paging_await(job->paging, UFFD_REPORT_REFUSED, COUNT);
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

/* What is refused then is a client's, and is not dealt with as if nobody served it. */
static void client_that_comes_again_wrongly_is_served_on(void) {
  struct paging paging;
  open_pager(&paging, 8);
  struct paging_job job = {.paging = &paging, .run = hand_over_wrongly};
  paging_client_ok(paging_client(&job));
  close_pager(&paging);
}

static void hand_over_without_end(struct paging *paging) {
  static struct vmm vmm;
  char text[1024];
  make_memory(&vmm, 0);
  size_t length = vmm_list(&vmm, VMM_PAGE_SIZE, text, sizeof(text));
  int socket = connect_to(paging);
  while (vmm_send(socket, text, length, &vmm.uffd, 1) == 0) {
    atomic_fetch_add(&paging->seen->flags[0], 1);
  }
}

/* The supervisor reads some, and then has time for others. */
static void handshakes_of_one_connection_hold_up_nobody(void) {
  struct paging paging;
  open_pager(&paging, 8);
  pid_t hostile = start(hand_over_without_end, &paging);
  while (atomic_load(&paging.seen->flags[0]) < 100) {
    check_pause();
  }
  one_more_is_served(&paging);
  stop(hostile);
  close_pager(&paging);
}

static void send_nonsense(struct paging *paging) {
  for (;;) {
    int socket = vmm_connect(paging->socket);
    if (socket < 0) continue;
    (void)vmm_send(socket, "nonsense", 8, NULL, 0);
    close(socket);
  }
}

/* An eighth of a processor, and a tenth of a second at once; the rest of a third is for the test's looks at the pager.
 */
static void flood_costs_a_share_of_a_processor(void) {
  struct paging paging;
  clockid_t used;
  pid_t hostile[3];
  open_pager(&paging, 8);
  CHECK_EQ(clock_getcpuclockid(paging.supervisor, &used), 0);
  for (unsigned i = 0; i < 3; i++) {
    hostile[i] = start(send_nonsense, &paging);
  }
  paging_await(&paging, UFFD_REPORT_REFUSED, 100);
  uint64_t begun = ns_of(CLOCK_MONOTONIC), used_then = ns_of(used), elapsed;
  while ((elapsed = ns_of(CLOCK_MONOTONIC) - begun) < 1500000000) {
    paging_turn(&paging); /* it goes on */
  }
  uint64_t used_now = ns_of(used);
  printf("  a flood costs the supervisor %.3f of a processor\n", (double)(used_now - used_then) / (double)elapsed);
  CHECK(used_now - used_then < 100000000 + elapsed / 3);
  one_more_is_served(&paging);
  for (unsigned i = 0; i < 3; i++) {
    stop(hostile[i]);
  }
  close_pager(&paging);
}

static void fork_often(struct paging_job *job) {
  enum { FORKS = 200, AT_ONCE = 64 };
  uint64_t begun = ns_of(CLOCK_MONOTONIC);
  for (unsigned i = 0; i < FORKS; i++) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(0);
    CHECK_EQ(waitpid(child, NULL, 0), child);
  }
  CHECK(ns_of(CLOCK_MONOTONIC) - begun >= (FORKS - AT_ONCE - 2) * UINT64_C(5000000));
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

/* After 64 at once, one in 5 ms. */
static void storm_of_forks_is_slowed_down(void) {
  struct paging paging;
  check_needs(UFFD_FEAT_EVENT_FORK);
  if (!check_is_root()) SKIP("forks are told to those with CAP_SYS_PTRACE");
  open_pager(&paging, 256);
  struct paging_job job = {.paging = &paging, .features = UFFD_FEATURE_EVENT_FORK, .run = fork_often};
  paging_client_ok(paging_client(&job));
  close_pager(&paging);
}

static const struct check_test tests[] = {
    TEST(clients_of_one_process_leave_room),
    TEST(connections_of_one_process_leave_room),
    TEST(refused_clients_of_one_process_leave_room),
    TEST(client_that_comes_again_wrongly_is_served_on),
    TEST(handshakes_of_one_connection_hold_up_nobody),
    TEST(flood_costs_a_share_of_a_processor),
    TEST(storm_of_forks_is_slowed_down),
};

int main(int argc, char **argv) {
  return check_main(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
