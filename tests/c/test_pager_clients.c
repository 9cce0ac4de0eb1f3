/* Clients come, fork, die, and are let go of: what the supervisor makes of it, and that nothing of them stays behind.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/base.h"
#include "paging.h"
#include "serve/supervisor/looker.h"

#define MIB (UINT64_C(1) << 20)

static struct uffd_pager_opts image_opts(void) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = "";
  return opts;
}

/* Signals of the test to its client, and back. */
static void raise_flag(const struct paging *paging, int flag) {
  atomic_store(&paging->seen->flags[flag], 1);
}
static void await_flag(const struct paging *paging, int flag) {
  while (atomic_load(&paging->seen->flags[flag]) == 0) {
    check_pause();
  }
}

static void nap_until_flag(struct paging_job *job) {
  raise_flag(job->paging, 0);
  await_flag(job->paging, 1);
}

static bool is_killed(pid_t client) {
  int status;
  CHECK_EQ(waitpid(client, &status, 0), client);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP("no userfaultfd for this user");
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/* Many */

static void many_clients_at_once(void) {
  enum { COUNT = 64 };
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  pid_t clients[COUNT];
  opts.workers = 2;
  paging_set_up(&paging, 2 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .regions = 2, .work = {.write = true}};
  for (unsigned i = 0; i < COUNT; i++) {
    job.work.seed = i;
    clients[i] = paging_client(&job);
  }
  for (unsigned i = 0; i < COUNT; i++) {
    paging_client_ok(clients[i]);
  }
  paging_await(&paging, UFFD_REPORT_GONE, COUNT);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Resident pages of a process. */
static long residents(pid_t process) {
  char path[64];
  long all = 0, resident = 0;
  snprintf(path, sizeof(path), "/proc/%d/statm", process);
  FILE *file = fopen(path, "re");
  CHECK(file != NULL && fscanf(file, "%ld %ld", &all, &resident) == 2);
  fclose(file);
  return resident;
}

static void nothing_stays_of_clients(void) {
  struct paging paging;
  paging_set_up(&paging, MIB);
  paging_start(&paging, NULL);
  struct paging_job job = {.paging = &paging, .regions = 2};
  unsigned supervisor_fds = 0, worker_fds = 0;
  long supervisor_pages = 0, worker_pages = 0;
  for (unsigned round = 0; round < 100 / PAGING_SCALE + 2; round++) {
    char path[64];
    pid_t client = paging_client(&job);
    if (round % 3 == 2) kill(client, SIGKILL);
    if (round % 3 != 2) paging_client_ok(client);
    if (round % 3 == 2) waitpid(client, NULL, 0);
    paging_turn(&paging);
    paging_await_clients(&paging, 0, 0);
    snprintf(path, sizeof(path), "/proc/%d/fd", atomic_load(&paging.seen->workers[0]));
    unsigned now = paging_entries(path);
    check_progress();
    if (round == 10) {
      supervisor_pages = residents(paging.supervisor);
      worker_pages = residents(atomic_load(&paging.seen->workers[0]));
    }
    if (round == 1) {
      supervisor_fds = atomic_load(&paging.seen->fds);
      worker_fds = now;
    } else if (round > 1) {
      CHECK_EQ(atomic_load(&paging.seen->fds), supervisor_fds);
      CHECK_EQ(now, worker_fds);
    }
  }
  CHECK_EQ(paging_children(paging.supervisor), 3); /* its worker, the worker's guard, and its looker */
  if (PAGING_SCALE == 1) {                         /* sanitizers keep what was freed */
    CHECK(residents(paging.supervisor) < supervisor_pages + 64);
    CHECK(residents(atomic_load(&paging.seen->workers[0])) < worker_pages + 64);
  }
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Its child holds the connection open, and lives on. */
static void leave_a_child(struct paging_job *job) {
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child != 0) return;
  alarm(60); /* should the test fail */
  while (atomic_load(&job->paging->seen->flags[0]) == 0) {
    check_pause();
  }
  _exit(0);
}

static void inherited_connection_is_closed_with_its_client(void) {
  struct paging paging;
  paging_set_up(&paging, MIB);
  paging_start(&paging, NULL);
  struct paging_job job = {.paging = &paging};
  paging_client_ok(paging_client(&job)); /* whatever is opened once, is open now */
  paging_await_clients(&paging, 0, 0);
  paging_turn(&paging);
  unsigned fds = atomic_load(&paging.seen->fds);
  job.run = leave_a_child;
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  paging_turn(&paging);
  CHECK_EQ(atomic_load(&paging.seen->fds), fds);
  raise_flag(&paging, 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Their end */

static void touch_and_die(struct paging_job *job) {
  raise_flag(job->paging, 0);
  (void)vmm_work(&job->vmm, &job->work);
  pause();
}

static void client_is_killed_at_any_moment(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.around = 4096;
  paging_set_up(&paging, 16 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .work = {.threads = 2}, .run = touch_and_die};
  for (unsigned i = 0; i < 30 / PAGING_SCALE + 1; i++) {
    atomic_store(&paging.seen->flags[0], 0);
    pid_t client = paging_client(&job);
    await_flag(&paging, 0);
    paging_sleep_us(i * 700);
    kill(client, SIGKILL);
    CHECK(is_killed(client));
    while (paging_reports(&paging, UFFD_REPORT_GONE) + paging_reports(&paging, UFFD_REPORT_REFUSED) <= i) {
      check_pause(); /* refused: it was dead before the supervisor could look at it */
    }
    check_progress();
  }
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_DIED), 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void hang_up_and_touch(struct paging_job *job) {
  close(job->vmm.socket);
  job->vmm.socket = -1;
  nap_until_flag(job);
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

#ifdef UFFD_BARRIERS
static void hang_up_without(struct paging_job *job) {
  close(job->vmm.uffd);
  job->vmm.uffd = -1;
  hang_up_and_touch(job);
}
#endif

static void execute_with_the_connection(struct paging_job *job) {
  CHECK_EQ(fcntl(job->vmm.socket, F_SETFD, 0), 0);
  execlp("sleep", "sleep", "1000", (char *)NULL);
}

/* Its process lives, and so does its connection: the memory is gone. */
static void client_that_executes_another_program_is_gone(void) {
  struct paging paging;
  paging_set_up(&paging, MIB);
  paging_start(&paging, NULL);
  struct paging_job job = {.paging = &paging, .run = execute_with_the_connection};
  pid_t client = paging_client(&job);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  kill(client, SIGKILL);
  CHECK(is_killed(client));
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* A socket that waits for as long as its peer likes when it is closed: it has bytes to send, and lingers. */
static int lingering_socket(int *peer) {
  const struct linger forever = {.l_onoff = 1, .l_linger = 1000};
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof(address);
  static char bytes[65536];
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(listener >= 0 && fd >= 0);
  CHECK_EQ(bind(listener, (struct sockaddr *)&address, length), 0);
  CHECK_EQ(listen(listener, 1), 0);
  CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &length), 0);
  CHECK_EQ(connect(fd, (struct sockaddr *)&address, length), 0);
  *peer = accept(listener, NULL, NULL);
  CHECK(*peer >= 0);
  close(listener);
  while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
  }
  CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &forever, sizeof(forever)), 0);
  return fd;
}

static void descriptors_that_linger_hold_up_nobody(void) {
  struct paging paging;
  int peer, fd = lingering_socket(&peer);
  paging_set_up(&paging, MIB);
  paging_start(&paging, NULL);
  int attacker = vmm_connect(paging.socket);
  CHECK(attacker >= 0);
  CHECK_EQ(vmm_send(attacker, "[", 1, &fd, 1), 0);
  close(fd);
  CHECK_EQ(vmm_send(attacker, "x", 1, NULL, 0), 0);
  paging_await(&paging, UFFD_REPORT_REFUSED, 1);
  struct paging_job job = {.paging = &paging};
  paging_client_ok(paging_client(&job));
  close(attacker);
  close(peer);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Firecracker before 1.12. */
static void client_that_hangs_up_is_served(void) {
  struct paging paging;
  paging_set_up(&paging, MIB);
  paging_start(&paging, NULL);
  struct paging_job job = {.paging = &paging, .run = hang_up_and_touch};
  pid_t client = paging_client(&job);
  await_flag(&paging, 0);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  paging_turn(&paging);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_GONE), 0);
  raise_flag(&paging, 1);
  paging_client_ok(client);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

#ifdef UFFD_BARRIERS
static struct paging_seen *seen_by_hook;

/* Linux before 6.5, whose pager looks who has connected when that one has hung up. */
static void hang_up_first(const char *name, void *ctx) {
  if (strcmp(name, "peerpidfd") != 0) return;
  *(int *)ctx = 9999;
  while (atomic_load(&seen_by_hook->flags[0]) == 0) {
    check_pause();
  }
}

static void install_hook(struct paging *paging) {
  seen_by_hook = paging->seen;
  atomic_store(&uffd_barrier_hook, hang_up_first);
}

/* Its userfaultfd proves who it is, so it is served; one that keeps none is refused. */
static void client_that_has_hung_up_is_proved(bool keeps) {
  struct paging paging;
  paging_set_up(&paging, MIB);
  paging.before = install_hook;
  paging_start(&paging, NULL);
  struct paging_job job = {.paging = &paging, .run = keeps ? hang_up_and_touch : hang_up_without};
  pid_t client = paging_client(&job);
  if (keeps) {
    paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
    CHECK_EQ(paging.seen->clients[0].client.pid, client);
    raise_flag(&paging, 1);
    paging_client_ok(client);
    paging_await(&paging, UFFD_REPORT_GONE, 1);
  } else {
    paging_await(&paging, UFFD_REPORT_REFUSED, 1);
    CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "does not have this userfaultfd") != NULL);
    kill(client, SIGKILL);
    CHECK_EQ(waitpid(client, NULL, 0), client);
  }
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void client_that_has_hung_up_is_served_before_6_5(void) {
  if (!check_is_root()) SKIP("where a process has what open is told to root");
  client_that_has_hung_up_is_proved(true);
  client_that_has_hung_up_is_proved(false);
}
#endif

static void pager_serves_one_client_and_ends(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.flags = UFFD_PAGER_ONCE;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging};
  paging_client_ok(paging_client(&job));
  paging_await_over(&paging);
  CHECK_EQ(paging_end(&paging), 0);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_GONE), 1);
  paging_tear_down(&paging);
}

static void more_clients_than_allowed_are_refused(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.max_clients = 1;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = nap_until_flag};
  pid_t first = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  pid_t second = paging_client(&job);
  paging_await(&paging, UFFD_REPORT_REFUSED, 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "max_clients") != NULL);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "It is killed") != NULL);
  int status;
  CHECK_EQ(waitpid(second, &status, 0), second);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  raise_flag(&paging, 1);
  paging_client_ok(first);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 1);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* It has closed its own userfaultfd: the pager's copies are the last ones. */
static void touch_without_a_copy(struct paging_job *job) {
  close(job->vmm.uffd);
  (void)signal(SIGBUS, SIG_DFL); /* a sanitizer would make an exit of it */
  (void)*(volatile unsigned char *)vmm_at(&job->vmm, 0);
  _exit(3); /* it was given something, zeros most likely */
}

/* Refused for one reason or another, it sleeps at its missing page, and what is kept of it goes when it is dead. */
static void refused_client_is_given_no_zeros(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  if (!check_is_root()) SKIP("where a process sleeps is told to root");
  opts.max_clients = 1;
  opts.on_crash = UFFD_PAGER_FREEZE;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = nap_until_flag};
  pid_t first = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  paging_turn(&paging);
  unsigned fds = atomic_load(&paging.seen->fds);
  job.run = touch_without_a_copy;
  pid_t second = paging_client(&job);
  paging_await(&paging, UFFD_REPORT_REFUSED, 1);
  while (!paging_sleeps(second)) {
    CHECK_EQ(waitpid(second, NULL, WNOHANG), 0);
    check_pause();
  }
  CHECK_EQ(kill(second, SIGKILL), 0);
  CHECK_EQ(waitpid(second, NULL, 0), second);
  do {
    paging_turn(&paging);
  } while (atomic_load(&paging.seen->fds) != fds);
  raise_flag(&paging, 1);
  paging_client_ok(first);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Its pager ends, which had the last copy of its userfaultfd. Held: as where the kernel has no poison. */
static void pager_ends(bool held) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  int status;
  if (!check_is_root()) SKIP("where a process sleeps is told to root");
  opts.max_clients = 1;
  opts.on_crash = UFFD_PAGER_FREEZE;
  paging_set_up(&paging, MIB);
  if (held) CHECK_EQ(setenv("UFFD_BREAK", "refused-poison", 1), 0);
  paging_start(&paging, &opts);
  unsetenv("UFFD_BREAK");
  struct paging_job job = {.paging = &paging, .run = nap_until_flag};
  pid_t first = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  job.run = touch_without_a_copy;
  pid_t second = paging_client(&job);
  paging_await(&paging, UFFD_REPORT_REFUSED, 1);
  while (!paging_sleeps(second)) {
    CHECK_EQ(waitpid(second, NULL, WNOHANG), 0);
    check_pause();
  }
  raise_flag(&paging, 1);
  paging_client_ok(first);
  CHECK_EQ(paging_end(&paging), 1);
  if (held) {
    for (unsigned i = 0; i < 1000; i++) { /* nobody wakes it */
      CHECK(paging_sleeps(second));
    }
    kill(second, SIGKILL);
  }
  CHECK_EQ(waitpid(second, &status, 0), second);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == (held ? SIGKILL : SIGBUS));
  paging_tear_down(&paging);
}

static void refused_client_is_poisoned_when_the_pager_ends(void) {
  check_needs(UFFD_FEAT_POISON);
  pager_ends(false);
}

static void refused_client_is_held_where_there_is_no_poison(void) {
  pager_ends(true);
}

static void send_a_half(const struct paging *paging) {
  struct vmm vmm;
  uint64_t pages = MIB / 4096;
  char list[1024];
  CHECK_EQ(vmm_map(&vmm, 4096, &pages, 1), 0);
  CHECK_EQ(vmm_register(&vmm, 0, UFFDIO_REGISTER_MODE_MISSING), 0);
  size_t length = vmm_list(&vmm, VMM_PAGE_SIZE, list, sizeof(list));
  int socket = vmm_connect(paging->socket);
  CHECK(socket >= 0);
  CHECK_EQ(vmm_send(socket, list, length / 2, &vmm.uffd, 1), 0);
  close(vmm.uffd);
  atomic_store(&paging->seen->flags[1], 1);
  (void)*(volatile unsigned char *)vmm_at(&vmm, 0);
  _exit(3);
}

/* Its userfaultfd has come, the rest of its handshake has not. */
static void half_a_handshake_is_held_when_the_pager_ends(void) {
  struct paging paging;
  if (!check_is_root()) SKIP("where a process sleeps is told to root");
  paging_set_up(&paging, MIB);
  paging_start(&paging, NULL);
  fflush(NULL);
  pid_t client = fork();
  CHECK(client >= 0);
  if (client == 0) send_a_half(&paging);
  while (atomic_load(&paging.seen->flags[1]) == 0 || !paging_sleeps(client)) {
    check_pause();
  }
  (void)paging_end(&paging);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_REFUSED), 1);
  for (unsigned i = 0; i < 1000; i++) {
    CHECK(paging_sleeps(client));
  }
  kill(client, SIGKILL);
  CHECK_EQ(waitpid(client, NULL, 0), client);
  paging_tear_down(&paging);
}

/* It lives on without its memory, or with half of it, and says nothing. */
static void unmap_and_live(struct paging_job *job) {
  struct vmm_region *region = &job->vmm.regions[0];
  uint64_t kept = job->number * region->length / 2;
  CHECK_EQ(vmm_page(&job->vmm, &job->work, 0), 1);
  CHECK_EQ(munmap(region->at, region->length - kept), 0);
  if ((job->features & UFFD_FEATURE_EVENT_UNMAP) == 0) close(job->vmm.socket);
  raise_flag(job->paging, 2 + (int)job->number);
  while (atomic_load(&job->paging->seen->flags[1]) == 0) {
    check_pause();
  }
  if (kept != 0) CHECK_EQ(vmm_page(&job->vmm, &job->work, region->length - kept), 1);
  _exit(0);
}

static void client_that_unmaps_its_memory_is_gone(uint64_t features) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  check_needs(features == 0 ? 0 : UFFD_FEAT_EVENT_UNMAP | UFFD_FEAT_EVENT_REMAP);
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .features = features, .run = unmap_and_live, .number = 1};
  pid_t half = paging_client(&job);
  while (atomic_load(&paging.seen->flags[3]) == 0) {
    check_pause();
  }
  job.number = 0;
  pid_t whole = paging_client(&job);
  paging_await(&paging, UFFD_REPORT_GONE, 1); /* the other one has been looked at by then */
  CHECK_EQ(paging.seen->last.client.id, 2);
  CHECK_EQ(paging.seen->last.end, UFFD_END_UNMAPPED);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  raise_flag(&paging, 1);
  paging_client_ok(half);
  paging_client_ok(whole);
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void client_that_unmaps_and_hangs_up_is_gone(void) {
  client_that_unmaps_its_memory_is_gone(0);
}

static void client_that_unmaps_with_events_is_gone(void) {
  client_that_unmaps_its_memory_is_gone(UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_EVENT_REMAP);
}

static void hand_over_in_vain(const struct paging *paging) {
  uffd_memory *memory;
  uffd_handoff *handoff;
  CHECK_OK(uffd_map(MIB, NULL, &memory));
  struct uffd_handoff_part part = {memory, 0};
  CHECK_ERR(uffd_handoff_send(paging->socket, &part, 1, NULL, &handoff), -EPIPE);
  CHECK_SAYS("refuses the memory: There is no room for another client");
  CHECK_EQ(*(volatile unsigned char *)uffd_memory_address(memory), 0); /* ordinary memory again */
  uffd_memory_close(memory);
  _exit(0);
}

static void handoff_is_told_that_it_is_refused(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.max_clients = 1;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = nap_until_flag};
  pid_t first = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  fflush(NULL);
  pid_t second = fork();
  CHECK(second >= 0);
  if (second == 0) hand_over_in_vain(&paging);
  paging_client_ok(second);
  raise_flag(&paging, 1);
  paging_client_ok(first);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* On the same connection, and on another one. */
static void hand_over_again(struct paging_job *job) {
  CHECK_EQ(vmm_hand_over(&job->vmm, NULL), 0);
  int first = job->vmm.socket;
  job->vmm.socket = vmm_connect(job->paging->socket);
  CHECK(job->vmm.socket >= 0);
  CHECK_EQ(vmm_hand_over(&job->vmm, NULL), 0);
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
  close(first);
}

/* Two loops would each have half of its events: pages that were removed would come back with the image's bytes. */
static void userfaultfd_that_comes_twice_is_one_client(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  if (syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0) != 0) SKIP("kcmp: %s", strerror(errno));
  paging_set_up(&paging, 4 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .features = UFFD_FEATURE_EVENT_REMOVE, .run = hand_over_again};
  job.work.removes = 500;
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 1);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_REFUSED), 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void silent_connections_keep_nobody_out(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  int silent[150];
  opts.max_clients = 2;
  opts.handshake_ms = 600000;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  for (unsigned i = 0; i < 150; i++) {
    silent[i] = vmm_connect(paging.socket);
    CHECK(silent[i] >= 0);
  }
  struct paging_job job = {.paging = &paging};
  paging_client_ok(paging_client(&job));
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "gives way") != NULL);
  for (unsigned i = 0; i < 150; i++) {
    close(silent[i]);
  }
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void fork_and_nap(struct paging_job *job) {
  for (unsigned i = 0; i < 3; i++) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) nap_until_flag(job);
    if (child == 0) _exit(0);
  }
  nap_until_flag(job);
  while (wait(NULL) > 0) {
  }
}

/* Nor do the forked children of another client. */
static void forked_children_keep_nobody_out(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  check_needs(UFFD_FEAT_EVENT_FORK);
  if (!check_is_root()) SKIP("forks are told to those with CAP_SYS_PTRACE");
  opts.max_clients = 2;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .features = UFFD_FEATURE_EVENT_FORK, .run = fork_and_nap};
  pid_t first = paging_client(&job);
  paging_await(&paging, UFFD_REPORT_ERROR, 1); /* the third child */
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_ERROR], "no room for another forked child") != NULL);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 3);
  job = (struct paging_job){.paging = &paging};
  paging_client_ok(paging_client(&job));
  raise_flag(&paging, 1);
  paging_client_ok(first);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* What cannot be held is refused at the door, and those that are in are served. */
static void clients_beyond_the_descriptors_are_refused(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  struct rlimit limit = {40, 65 + 7 * 4}; /* the soft one is raised */
  pid_t clients[6];
  paging_set_up(&paging, MIB);
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = nap_until_flag};
  for (unsigned i = 0; i < 6; i++) {
    clients[i] = paging_client(&job);
    while (paging_reports(&paging, UFFD_REPORT_CLIENT) + paging_reports(&paging, UFFD_REPORT_REFUSED) <= i) {
      check_pause();
    }
  }
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 4);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "ulimit -n") != NULL);
  paging_await_clients(&paging, 4, UFFD_CLIENT_SERVED);
  CHECK(is_killed(clients[4]) && is_killed(clients[5])); /* before the flag would let them end */
  raise_flag(&paging, 1);
  for (unsigned i = 0; i < 4; i++) {
    paging_client_ok(clients[i]);
  }
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_FROZEN), 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static struct paging_seen *seen_here;

/* As if the first client held the lock of its memory for as long as it likes. */
static void be_stuck(const char *name, void *ctx) {
  const struct uffd_look *look = ctx;
  if (strcmp(name, "looking") != 0 || look->kind != UFFD_LOOK_GONE || look->owner != 1) return;
  atomic_store(&seen_here->flags[3], 1);
  while (atomic_load(&seen_here->flags[2]) == 0) {
    paging_sleep_us(1000);
  }
}

/* The process that looks at its memory does not come back: another one looks at others' meanwhile. */
static void memory_that_cannot_be_looked_at_holds_up_nobody(void) {
  struct paging paging;
  paging_set_up(&paging, MIB);
  seen_here = paging.seen;
  atomic_store(&uffd_barrier_hook, be_stuck);
  paging_start(&paging, NULL);
  struct paging_job job = {.paging = &paging, .run = nap_until_flag};
  pid_t first = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  while (atomic_load(&paging.seen->flags[3]) == 0) {
    check_pause();
  }
  job.run = NULL;
  for (unsigned i = 0; i < 3; i++) {
    paging_client_ok(paging_client(&job));
    paging_await(&paging, UFFD_REPORT_GONE, i + 1);
  }
  atomic_store(&paging.seen->flags[2], 1);
  raise_flag(&paging, 1);
  paging_client_ok(first);
  paging_await(&paging, UFFD_REPORT_GONE, 4);
  CHECK_EQ(paging_children(paging.supervisor), 3);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static int lack_descriptors_at_first(void *ctx, const struct uffd_client *client, uffd_resolver *image,
                                     uffd_resolver **resolver) {
  const struct paging *paging = ctx;
  (void)client;
  *resolver = image;
  return atomic_fetch_add(&paging->seen->numbers[0], 1) < 2 ? uffd_set_errmsg(EMFILE, "Too many files.") : 0;
}

static void client_waits_when_descriptors_are_lacking(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.resolver = lack_descriptors_at_first;
  opts.resolver_ctx = &paging;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging};
  paging_client_ok(paging_client(&job));
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_ERROR), 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_ERROR], "waits until there is room") != NULL);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_FROZEN), 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Resolvers that fail */

static int refuse_all(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver) {
  (void)ctx, (void)client, (void)image, (void)resolver;
  return uffd_set_errmsg(ENODATA, "Nothing is known of this client.");
}

static void await_kill(struct paging_job *job) {
  (void)*(volatile unsigned char *)vmm_at(&job->vmm, 0);
  _exit(3); /* it was given something */
}

static int receive_fd(int socket) {
  union {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
  } control;
  char byte;
  int fd = -1;
  struct iovec data = {&byte, 1};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
  CHECK_EQ(recvmsg(socket, &message, 0), 1);
  const struct cmsghdr *part = CMSG_FIRSTHDR(&message);
  if (part != NULL) memcpy(&fd, CMSG_DATA(part), sizeof(fd));
  return fd;
}

/* The memory is its child's, and so is the userfaultfd; it only hands them over. */
static _Noreturn void orchestrate(const struct paging *paging) {
  struct vmm *vmm = mmap(NULL, sizeof(*vmm), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int ends[2];
  const uint64_t pages[] = {paging->length / 4096};
  CHECK(vmm != MAP_FAILED && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    alarm(60); /* should the test fail */
    CHECK_EQ(vmm_map(vmm, 4096, pages, 1), 0);
    CHECK_EQ(vmm_register(vmm, 0, UFFDIO_REGISTER_MODE_MISSING), 0);
    CHECK_EQ(vmm_send(ends[1], "x", 1, &vmm->uffd, 1), 0);
    for (;;) {
      pause();
    }
  }
  vmm->uffd = receive_fd(ends[0]);
  vmm->socket = vmm_connect(paging->socket);
  CHECK(vmm->uffd >= 0 && vmm->socket >= 0);
  CHECK_EQ(vmm_hand_over(vmm, NULL), 0);
  while (atomic_load(&paging->seen->flags[1]) == 0) {
    check_pause();
  }
  kill(child, SIGKILL);
  _exit(0);
}

static void who_hands_over_for_another_is_not_killed(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  check_needs(0);
  opts.resolver = refuse_all;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  fflush(NULL);
  pid_t orchestrator = fork();
  CHECK(orchestrator >= 0);
  if (orchestrator == 0) orchestrate(&paging);
  paging_await(&paging, UFFD_REPORT_FROZEN, 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_FROZEN], "is not known") != NULL);
  raise_flag(&paging, 1);
  paging_client_ok(orchestrator);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Somebody else hands its memory over for it: it is not known whose it is. */
static pid_t start_sleeper(const struct paging *paging) {
  int ends[2];
  static struct vmm vmm;
  uint64_t pages = MIB / 4096;
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  CHECK_EQ(vmm_map(&vmm, 4096, &pages, 1), 0); /* the sleeper has it at the same address */
  fflush(NULL);
  pid_t sleeper = fork();
  CHECK(sleeper >= 0);
  if (sleeper == 0) {
    CHECK_EQ(vmm_register(&vmm, 0, UFFDIO_REGISTER_MODE_MISSING), 0);
    CHECK_EQ(vmm_send(ends[1], "x", 1, &vmm.uffd, 1), 0);
    close(vmm.uffd);
    (void)*(volatile unsigned char *)vmm_at(&vmm, 0);
    _exit(3);
  }
  vmm.uffd = receive_fd(ends[0]);
  vmm.socket = vmm_connect(paging->socket);
  CHECK(vmm.uffd >= 0 && vmm.socket >= 0);
  CHECK_EQ(vmm_hand_over(&vmm, NULL), 0);
  vmm_unmap(&vmm);
  close(ends[0]);
  close(ends[1]);
  return sleeper;
}

/* Nobody serves it, and nobody may kill it. */
static void frozen_client_is_held_when_the_pager_ends(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  if (!check_is_root()) SKIP("where a process sleeps is told to root");
  opts.resolver = refuse_all;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  pid_t sleeper = start_sleeper(&paging);
  paging_await(&paging, UFFD_REPORT_FROZEN, 1);
  while (!paging_sleeps(sleeper)) {
    check_pause();
  }
  CHECK_EQ(paging_end(&paging), 1);
  for (unsigned i = 0; i < 1000; i++) {
    CHECK(paging_sleeps(sleeper));
  }
  kill(sleeper, SIGKILL);
  CHECK_EQ(waitpid(sleeper, NULL, 0), sleeper);
  paging_tear_down(&paging);
}

static void client_without_a_resolver_is_killed(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.resolver = refuse_all;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = await_kill};
  CHECK(is_killed(paging_client(&job)));
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  paging_await(&paging, UFFD_REPORT_FROZEN, 1);
  CHECK_EQ(atomic_load(&paging.seen->errors[UFFD_REPORT_FROZEN]), ENODATA);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_FROZEN], "Nothing is known") != NULL);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* A worker of now: it refuses until the flag says otherwise. */
static int refuse_at_first(void *ctx, const struct uffd_client *client, uffd_resolver *image,
                           uffd_resolver **resolver) {
  const struct paging *paging = ctx;
  (void)client;
  if (atomic_load(&paging->seen->flags[2]) == 0) return uffd_set_errmsg(ENODATA, "Nothing is known yet.");
  *resolver = image;
  return 0;
}

/* The one of its threads that touches. */
static int client_thread(pid_t client) {
  char path[64];
  int thread = client;
  do {
    snprintf(path, sizeof(path), "/proc/%d/task", client);
    DIR *threads = opendir(path);
    CHECK(threads != NULL);
    for (struct dirent *entry; (entry = readdir(threads)) != NULL;) {
      if (atoi(entry->d_name) > client) thread = atoi(entry->d_name);
    }
    closedir(threads);
  } while (thread == client);
  return thread;
}

/* In a fault, as far as this kernel tells. */
static void await_sleep(int thread) {
  char path[64], where[128] = "";
  snprintf(path, sizeof(path), "/proc/%d/wchan", thread);
  for (unsigned i = 0; i < 500 && strstr(where, "userfault") == NULL; i++) {
    FILE *file = fopen(path, "re");
    CHECK(file != NULL);
    CHECK(fgets(where, sizeof(where), file) != NULL);
    fclose(file);
    paging_sleep_us(1000);
  }
}

static void frozen_client_sleeps_until_a_reload(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.resolver = refuse_at_first;
  opts.resolver_ctx = &paging;
  opts.on_crash = UFFD_PAGER_FREEZE;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging};
  pid_t client = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_FROZEN);
  await_sleep(client_thread(client));
  raise_flag(&paging, 2);
  paging_signal(&paging, SIGHUP);
  paging_client_ok(client);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* The other way round. */
static int refuse_later(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver) {
  const struct paging *paging = ctx;
  (void)client;
  if (atomic_load(&paging->seen->flags[2]) != 0) return uffd_set_errmsg(ENODATA, "Nothing is known any more.");
  *resolver = image;
  return 0;
}

static void reload_that_fails_leaves_clients_where_they_are(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.resolver = refuse_later;
  opts.resolver_ctx = &paging;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = hang_up_and_touch};
  pid_t client = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  raise_flag(&paging, 2);
  paging_signal(&paging, SIGHUP);
  paging_await(&paging, UFFD_REPORT_ERROR, 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_ERROR], "the old one goes on") != NULL);
  raise_flag(&paging, 1);
  paging_client_ok(client);
  paging_await(&paging, UFFD_REPORT_RETIRED, 1);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* One client's resolver ends the worker; the others are innocent. */
static int crash_of(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)ctx, (void)state, (void)fault, (void)answer;
  _exit(9);
}

static int crash_for_the_first(void *ctx, const struct uffd_client *client, uffd_resolver *image,
                               uffd_resolver **resolver) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  (void)ctx;
  ops.resolve = crash_of;
  if (client->id == 1) return uffd_resolver_callback(&ops, NULL, "crash", NULL, 0, resolver);
  *resolver = image;
  return 0;
}

static void client_that_workers_die_of_is_given_up(void) {
  enum { OTHERS = 4 };
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  pid_t others[OTHERS];
  opts.resolver = crash_for_the_first;
  opts.around = 4096;
  paging_set_up(&paging, 4 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = hang_up_and_touch};
  pid_t guilty = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  for (unsigned i = 0; i < OTHERS; i++) {
    others[i] = paging_client(&job);
  }
  paging_await_clients(&paging, 1 + OTHERS, UFFD_CLIENT_SERVED);
  raise_flag(&paging, 1);
  CHECK(is_killed(guilty));
  for (unsigned i = 0; i < OTHERS; i++) {
    paging_client_ok(others[i]);
  }
  paging_await(&paging, UFFD_REPORT_FROZEN, 1); /* another process kills: it is told when that is done */
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Workers that cannot be had */

static void no_worker_can_be_started(void) {
  static const char *const command[] = {"/bin/false", NULL};
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.worker = command;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts); /* returns when it has failed */
  struct paging_job job = {.paging = &paging, .run = await_kill};
  CHECK(is_killed(paging_client(&job)));
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_DIED), 5);
  CHECK_EQ(paging_end(&paging), -ECHILD);
  paging_tear_down(&paging);
}

/* The supervisor's end */

static void close_kills_those_who_are_left(void) {
  struct paging paging;
  paging_set_up(&paging, MIB);
  paging_start(&paging, NULL);
  struct paging_job job = {.paging = &paging, .run = nap_until_flag};
  pid_t client = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  CHECK_EQ(paging_end(&paging), 1);
  CHECK(is_killed(client));
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_GONE), 1);
  paging_tear_down(&paging);
}

static void worker_goes_on_without_its_supervisor(void) {
  struct paging paging;
  paging_set_up(&paging, 4 * MIB);
  paging_start(&paging, NULL);
  struct paging_job job = {.paging = &paging, .run = nap_until_flag};
  job.run = hang_up_and_touch;
  pid_t client = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  kill(paging.supervisor, SIGKILL);
  waitpid(paging.supervisor, NULL, 0);
  raise_flag(&paging, 1);
  paging_client_ok(client);
  paging_await_dead(atomic_load(&paging.seen->workers[0]));
  paging_tear_down(&paging);
}

/* Draining */

static void touch_after_completion(struct paging_job *job) {
  raise_flag(job->paging, 0);
  await_flag(job->paging, 1);
  /* Nobody serves any more: what is missing would be zeros. */
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

static void drain_completes_clients(void) {
  struct paging paging;
  paging_set_up(&paging, 4 * MIB);
  paging_start(&paging, NULL);
  struct paging_job job = {.paging = &paging, .regions = 3, .run = touch_after_completion};
  pid_t clients[3];
  for (unsigned i = 0; i < 3; i++) {
    clients[i] = paging_client(&job);
  }
  paging_await_clients(&paging, 3, UFFD_CLIENT_SERVED);
  paging_signal(&paging, SIGTERM);
  paging_await(&paging, UFFD_REPORT_COMPLETE, 3);
  CHECK_EQ(paging.seen->last.stats.bytes, 4 * MIB);
  paging_await_over(&paging);
  CHECK_EQ(paging_end(&paging), 0);
  raise_flag(&paging, 1);
  for (unsigned i = 0; i < 3; i++) {
    paging_client_ok(clients[i]);
  }
  paging_tear_down(&paging);
}

static void drain_survives_a_killed_worker(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  paging_set_up(&paging, 64 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = touch_after_completion};
  pid_t client = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  paging_signal(&paging, SIGTERM);
  for (unsigned i = 0; i < 4; i++) {
    paging_sleep_us(3000);
    paging_kill_worker(&paging, 0);
  }
  paging_await(&paging, UFFD_REPORT_COMPLETE, 1);
  paging_await_over(&paging);
  CHECK_EQ(paging_end(&paging), 0);
  raise_flag(&paging, 1);
  paging_client_ok(client);
  paging_tear_down(&paging);
}

static void drain_refuses_new_clients_only(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.on_drain = UFFD_PAGER_REFUSE;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = hang_up_and_touch};
  pid_t client = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  paging_signal(&paging, SIGTERM);
  while (vmm_connect(paging.socket) != -ENOENT) {
    check_pause();
  }
  CHECK_EQ(atomic_load(&paging.seen->over), 0);
  raise_flag(&paging, 1);
  paging_client_ok(client);
  paging_await_over(&paging);
  CHECK_EQ(paging_end(&paging), 0);
  paging_tear_down(&paging);
}

static const struct check_test tests[] = {
    TEST(many_clients_at_once),
    TEST(nothing_stays_of_clients),
    TEST(inherited_connection_is_closed_with_its_client),
    TEST(client_is_killed_at_any_moment),
    TEST(memory_that_cannot_be_looked_at_holds_up_nobody),
    TEST(client_that_executes_another_program_is_gone),
    TEST(descriptors_that_linger_hold_up_nobody),
    TEST(client_that_hangs_up_is_served),
#ifdef UFFD_BARRIERS
    TEST(client_that_has_hung_up_is_served_before_6_5),
#endif
    TEST(pager_serves_one_client_and_ends),
    TEST(more_clients_than_allowed_are_refused),
    TEST(refused_client_is_given_no_zeros),
    TEST(refused_client_is_poisoned_when_the_pager_ends),
    TEST(half_a_handshake_is_held_when_the_pager_ends),
    TEST(client_that_unmaps_and_hangs_up_is_gone),
    TEST(client_that_unmaps_with_events_is_gone),
    TEST(refused_client_is_held_where_there_is_no_poison),
    TEST(handoff_is_told_that_it_is_refused),
    TEST(userfaultfd_that_comes_twice_is_one_client),
    TEST(silent_connections_keep_nobody_out),
    TEST(forked_children_keep_nobody_out),
    TEST(clients_beyond_the_descriptors_are_refused),
    TEST(client_waits_when_descriptors_are_lacking),
    TEST(frozen_client_is_held_when_the_pager_ends),
    TEST(client_without_a_resolver_is_killed),
    TEST(who_hands_over_for_another_is_not_killed),
    TEST(frozen_client_sleeps_until_a_reload),
    TEST(reload_that_fails_leaves_clients_where_they_are),
    TEST(client_that_workers_die_of_is_given_up),
    TEST(no_worker_can_be_started),
    TEST(close_kills_those_who_are_left),
    TEST(worker_goes_on_without_its_supervisor),
    TEST(drain_completes_clients),
    TEST(drain_survives_a_killed_worker),
    TEST(drain_refuses_new_clients_only),
};

CHECK_MAIN(tests)
