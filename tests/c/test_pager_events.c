/* What a pager is asked beside pages: forked children, working sets, faults that wait too long, other programs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/base.h"
#include "paging.h"

#define MIB  (UINT64_C(1) << 20)
#define PAGE UINT64_C(4096)

static struct uffd_pager_opts image_opts(void) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = "";
  opts.around = PAGE;
  return opts;
}

/* Forked children */

static void touch_forked(struct paging_job *job, unsigned depth) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    job->work.seed = 100 * (depth + 1) + (unsigned)job->number;
    if (depth > 0) touch_forked(job, depth - 1);
    _exit(vmm_work(&job->vmm, &job->work) == 0 ? 0 : 1);
  }
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
  int status;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
}

static void fork_and_touch(struct paging_job *job) {
  touch_forked(job, (unsigned)job->number);
}

static void needs_fork(void) {
  check_needs(UFFD_FEAT_EVENT_FORK);
  if (!check_is_root()) SKIP("forks are told to those with CAP_SYS_PTRACE");
}

static void forked_children_are_clients(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  needs_fork();
  opts.workers = 2;
  paging_set_up(&paging, 4 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {
      .paging = &paging, .features = UFFD_FEATURE_EVENT_FORK, .regions = 2, .run = fork_and_touch, .number = 2};
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 4);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 4);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Pages that the parent has, removed ones included, are the child's too; and then each goes its own way. */
static void remove_fork_and_look(struct paging_job *job) {
  struct vmm *vmm = &job->vmm;
  for (uint64_t page = 0; page < 16; page++) {
    CHECK_EQ(vmm_page(vmm, &job->work, page * PAGE), 1);
  }
  vmm_remove(vmm, 4 * PAGE, 4 * PAGE);
  vmm_remove(vmm, 32 * PAGE, 4 * PAGE);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    vmm_remove(vmm, 40 * PAGE, PAGE);
    for (uint64_t page = 0; page < 48; page++) {
      bool zero = (page >= 4 && page < 8) || (page >= 32 && page < 36) || page == 40;
      CHECK_EQ(vmm_page(vmm, &job->work, page * PAGE), zero ? 2 : 1);
    }
    _exit(0);
  }
  int status;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
  CHECK_EQ(vmm_page(vmm, &job->work, 40 * PAGE), 1);
  CHECK_EQ(vmm_page(vmm, &job->work, 33 * PAGE), 2);
}

static void forked_children_inherit_what_was_removed(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  needs_fork();
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {
      .paging = &paging, .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMOVE, .run = remove_fork_and_look};
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void nap_in_a_child(struct paging_job *job) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    atomic_store(&job->paging->seen->flags[0], getpid());
    while (atomic_load(&job->paging->seen->flags[1]) == 0) {
      paging_sleep_us(1000);
    }
    _exit(vmm_work(&job->vmm, &job->work) == 0 ? 0 : 1);
  }
  int status;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
}

static void forked_children_survive_a_killed_worker(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  needs_fork();
  paging_set_up(&paging, 4 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .features = UFFD_FEATURE_EVENT_FORK, .run = nap_in_a_child};
  pid_t client = paging_client(&job);
  paging_await_clients(&paging, 2, UFFD_CLIENT_SERVED);
  CHECK_EQ(paging.seen->clients[1].client.of, 1);
  while (paging.seen->clients[1].client.pid == 0) {
    paging_turn(&paging);
  }
  CHECK_EQ(paging.seen->clients[1].client.pid, atomic_load(&paging.seen->flags[0]));
  CHECK(paging_kill_worker(&paging, 0));
  atomic_store(&paging.seen->flags[1], 1);
  paging_client_ok(client);
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static struct paging_seen *seen_here;
static const char *dies_at;
static bool supervisor_dies_too;

static void die(const char *name, void *ctx) {
  (void)ctx;
  if (strcmp(name, dies_at) != 0 || atomic_fetch_add(&seen_here->flags[2], 1) != 0) return;
  if (supervisor_dies_too) kill(getppid(), SIGKILL);
  kill(getpid(), SIGKILL);
}

/* The supervisor makes the child's book of the parent's. */
static void worker_dies_after_a_fork(const char *barrier) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  needs_fork();
  paging_set_up(&paging, MIB);
  seen_here = paging.seen;
  dies_at = barrier;
  atomic_store(&uffd_barrier_hook, die);
  paging_start(&paging, &opts);
  struct paging_job job = {
      .paging = &paging, .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMOVE, .run = remove_fork_and_look};
  paging_client_ok(paging_client(&job));
  CHECK_EQ(atomic_load(&paging.seen->flags[2]), 1);
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 2);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_DIED), 1);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_ERROR), 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* The child's descriptor is the worker's alone: its guard has it. */
static void forked_children_survive_a_worker_that_has_just_read_of_them(void) {
  worker_dies_after_a_fork("announcing");
}

/* The guard brings the descriptor once more. */
static void forked_children_survive_a_worker_that_has_just_announced_them(void) {
  worker_dies_after_a_fork("announced");
}

static void forked_children_survive_a_worker_that_dies_before_their_book(void) {
  worker_dies_after_a_fork("booking");
}

static void fork_and_sleep(struct paging_job *job) {
  fflush(NULL);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    (void)*(volatile unsigned char *)vmm_at(&job->vmm, 0);
    _exit(3); /* it was given something, zeros most likely */
  }
  atomic_store(&job->paging->seen->flags[3], child);
  CHECK_EQ(waitpid(child, NULL, 0), child);
  close(job->vmm.uffd);
  (void)*(volatile unsigned char *)vmm_at(&job->vmm, 0);
  _exit(3);
}

static void await_sleep(pid_t process) {
  while (!paging_sleeps(process)) {
    CHECK_EQ(kill(process, 0), 0);
    check_pause();
  }
  for (unsigned i = 0; i < 1000; i++) { /* nobody wakes it */
    CHECK(paging_sleeps(process));
  }
}

/* The client and its child. */
static void both_sleep(const struct paging *paging, pid_t client) {
  pid_t child;
  while ((child = atomic_load(&paging->seen->flags[3])) == 0) {
    check_pause();
  }
  await_sleep(child);
  kill(child, SIGKILL);
  await_sleep(client);
  kill(client, SIGKILL);
  CHECK_EQ(waitpid(client, NULL, 0), client);
}

/* Supervisor and worker are killed together, and nothing is kept: whose pages are missing sleeps. */
static void guard_holds_what_nobody_else_has(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  needs_fork();
  paging_set_up(&paging, MIB);
  seen_here = paging.seen;
  dies_at = "announcing";
  supervisor_dies_too = true;
  atomic_store(&uffd_barrier_hook, die);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .features = UFFD_FEATURE_EVENT_FORK, .run = fork_and_sleep};
  pid_t client = paging_client(&job);
  CHECK_EQ(waitpid(paging.supervisor, NULL, 0), paging.supervisor);
  paging_await_dead(atomic_load(&paging.seen->workers[0]));
  both_sleep(&paging, client);
  paging_tear_down(&paging);
}

static void die_unread(const char *name, void *ctx) {
  (void)ctx;
  if (strcmp(name, "announcing") == 0 && atomic_fetch_add(&seen_here->flags[2], 1) == 0) {
    kill(getppid(), SIGSTOP);
    kill(getpid(), SIGKILL);
  }
  if (strcmp(name, "guarded") == 0) atomic_store(&seen_here->flags[1], 1);
}

/* What the guard has sent dies with a supervisor that has not read it. */
static void guard_waits_until_it_is_read(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  needs_fork();
  paging_set_up(&paging, MIB);
  seen_here = paging.seen;
  atomic_store(&uffd_barrier_hook, die_unread);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .features = UFFD_FEATURE_EVENT_FORK, .run = fork_and_sleep};
  pid_t client = paging_client(&job);
  while (atomic_load(&paging.seen->flags[1]) == 0) {
    check_pause();
  }
  kill(paging.supervisor, SIGKILL);
  CHECK_EQ(waitpid(paging.supervisor, NULL, 0), paging.supervisor);
  both_sleep(&paging, client);
  paging_tear_down(&paging);
}

static void nap_without_a_supervisor(struct paging_job *job) {
  while (atomic_load(&job->paging->seen->flags[1]) == 0) {
    paging_sleep_us(1000);
  }
  fork_and_touch(job);
}

static void worker_keeps_forked_children_without_its_supervisor(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  needs_fork();
  paging_set_up(&paging, 2 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {
      .paging = &paging, .features = UFFD_FEATURE_EVENT_FORK, .run = nap_without_a_supervisor, .number = 1};
  pid_t client = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  kill(paging.supervisor, SIGKILL);
  CHECK_EQ(waitpid(paging.supervisor, NULL, 0), paging.supervisor);
  atomic_store(&paging.seen->flags[1], 1);
  paging_client_ok(client);
  paging_await_dead(atomic_load(&paging.seen->workers[0]));
  paging_tear_down(&paging);
}

/* Working sets */

static const uint64_t touched[] = {7, 3, 200, 4, 100, 101, 102, 103};
#define TOUCHED (sizeof(touched) / sizeof(*touched))

static void touch_a_few(struct paging_job *job) {
  for (size_t i = 0; i < TOUCHED; i++) {
    volatile unsigned char *at = vmm_at(&job->vmm, touched[i] * PAGE);
    unsigned char byte = *at;
    if (touched[i] == 4) *at = byte;
  }
  *(volatile unsigned char *)vmm_at(&job->vmm, 50 * PAGE) = 1;
}

static void touches_are_recorded_in_order(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  char path[128], second[160];
  paging_set_up(&paging, MIB);
  snprintf(path, sizeof(path), "%s/record", paging.directory);
  snprintf(second, sizeof(second), "%s.2", path);
  opts.record = path;
  opts.around = UFFD_AROUND_AUTO; /* what comes along is not touched */
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .regions = 2, .run = touch_a_few};
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_end(&paging), 1);
  uffd_workingset *set;
  CHECK_OK(uffd_workingset_load(second, &set));
  uffd_workingset_close(set);
  CHECK_OK(uffd_workingset_load(path, &set));
  CHECK_EQ(uffd_workingset_count(set), TOUCHED + 1);
  for (uint64_t i = 0; i <= TOUCHED; i++) {
    struct uffd_touch touch;
    CHECK_OK(uffd_workingset_get(set, i, &touch));
    CHECK_EQ(touch.offset, (i < TOUCHED ? touched[i] : 50) * PAGE);
    CHECK_EQ(touch.flags & UFFD_FAULT_WRITE, i < TOUCHED ? 0 : UFFD_FAULT_WRITE);
  }
  uint64_t length, identity;
  int image = open(paging.image, O_RDONLY | O_CLOEXEC);
  CHECK_OK(uffd_image_identity(image, &length, &identity));
  CHECK_OK(uffd_workingset_check(set, length, identity));
  close(image);
  uffd_workingset_close(set);
  paging_tear_down(&paging);
}

static void look_at_residents(struct paging_job *job) {
  unsigned char resident = 0;
  for (size_t i = 0; i < TOUCHED; i++) {
    do {
      CHECK_EQ(mincore(vmm_at(&job->vmm, touched[i] * PAGE), PAGE, &resident), 0);
    } while ((resident & 1) == 0);
  }
  CHECK_EQ(mincore(vmm_at(&job->vmm, 60 * PAGE), PAGE, &resident), 0);
  CHECK_EQ(resident & 1, job->number);
}

static void make_set(const struct paging *paging, const char *path) {
  uffd_workingset *set;
  uint64_t length, identity;
  int image = open(paging->image, O_RDONLY | O_CLOEXEC);
  CHECK_OK(uffd_image_identity(image, &length, &identity));
  close(image);
  CHECK_OK(uffd_workingset_create(PAGE, length, identity, &set));
  for (size_t i = 0; i < TOUCHED; i++) {
    CHECK_OK(uffd_workingset_add(set, touched[i] * PAGE, 0));
  }
  CHECK_OK(uffd_workingset_save(set, path));
  uffd_workingset_close(set);
}

static void stop_before_the_file(const char *name, void *ctx) {
  (void)ctx;
  if (strcmp(name, "newfile-written") != 0) return;
  atomic_fetch_add(&seen_here->flags[3], 1);
  while (atomic_load(&seen_here->flags[4]) == 0) {
    paging_sleep_us(1000);
  }
}

/* A disk that does not answer holds up neither clients nor the supervisor. */
static void records_are_written_beside_the_supervisor(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  char path[128];
  paging_set_up(&paging, MIB);
  snprintf(path, sizeof(path), "%s/ws", paging.directory);
  opts.record = path;
  seen_here = paging.seen;
  atomic_store(&uffd_barrier_hook, stop_before_the_file);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging};
  paging_client_ok(paging_client(&job));
  while (atomic_load(&paging.seen->flags[3]) == 0) {
    paging_turn(&paging);
  }
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_RECORD), 0);
  atomic_store(&paging.seen->flags[4], 1);
  paging_await(&paging, UFFD_REPORT_RECORD, 2);
  CHECK_EQ(paging_end(&paging), 1);
  CHECK_EQ(unlink(path), 0);
  snprintf(path, sizeof(path), "%s/ws.2", paging.directory);
  CHECK_EQ(unlink(path), 0);
  paging_tear_down(&paging);
}

static void working_set_is_prefetched(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  char path[128];
  paging_set_up(&paging, MIB);
  snprintf(path, sizeof(path), "%s/replay", paging.directory);
  make_set(&paging, path);
  opts.replay = path;
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .regions = 2, .run = look_at_residents};
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging.seen->last.stats.prefetched, TOUCHED);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void working_set_of_another_image_is_refused(void) {
  struct paging paging;
  char path[128];
  uffd_pager *pager;
  paging_set_up(&paging, MIB);
  snprintf(path, sizeof(path), "%s/replay", paging.directory);
  uffd_workingset *set;
  CHECK_OK(uffd_workingset_create(PAGE, MIB, 4711, &set));
  CHECK_OK(uffd_workingset_save(set, path));
  uffd_workingset_close(set);
  struct uffd_pager_opts opts = image_opts();
  opts.image = paging.image;
  opts.socket = paging.socket;
  opts.replay = path;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
  paging_tear_down(&paging);
}

static void nap_until_all_is_there(struct paging_job *job) {
  unsigned char resident = 0;
  for (uint64_t page = 0; page < job->paging->length / PAGE; page++) {
    do {
      CHECK_EQ(mincore(vmm_at(&job->vmm, page * PAGE), PAGE, &resident), 0);
    } while ((resident & 1) == 0);
  }
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

static void memory_is_prefetched(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.flags = UFFD_PAGER_PREFETCH;
  paging_set_up(&paging, 4 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .regions = 2, .run = nap_until_all_is_there};
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging.seen->last.stats.faults, 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Faults that wait too long */

static int wait_long(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  const struct paging *paging = ctx;
  (void)state, (void)answer;
  if (fault->offset == 5 * PAGE) {
    while (atomic_load(&paging->seen->flags[1]) == 0) {
      paging_sleep_us(1000);
    }
  }
  return 0;
}

static int make_slow(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  (void)client, (void)image;
  ops.resolve = wait_long;
  return uffd_resolver_callback(&ops, ctx, "sluggish", NULL, 0, resolver);
}

static void touch_slow_pages(struct paging_job *job) {
  for (uint64_t page = 0; page < 8; page++) {
    CHECK_EQ(*(volatile unsigned char *)vmm_at(&job->vmm, page * PAGE), 0);
  }
}

static void late_faults_are_named_once(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  opts.resolver = make_slow;
  opts.resolver_ctx = &paging;
  opts.watchdog_ms = 50;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = touch_slow_pages};
  pid_t client = paging_client(&job);
  paging_await(&paging, UFFD_REPORT_LATE, 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_LATE], "0x5000 in the image") != NULL);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_LATE], "\"sluggish\"") != NULL);
  do {
    paging_turn(&paging);
  } while (paging.seen->clients[0].oldest_ns < UINT64_C(400000000));
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_LATE), 1);
  atomic_store(&paging.seen->flags[1], 1);
  paging_client_ok(client);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Workers that are other programs */

static void worker_is_another_program(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  paging_set_up(&paging, 4 * MIB);
  const char *const command[] = {"/proc/self/exe", "--image", paging.image, NULL};
  opts.worker = command;
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .regions = 2, .work = {.threads = 2}};
  pid_t client = paging_client(&job);
  paging_kill_worker(&paging, 0);
  paging_client_ok(client);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static int be_worker(char **argv) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = argv[2];
  return uffd_pager_work(atoi(argv[4]), &opts) < 0 ? 1 : 0;
}

static void *wait_for_flag(void *flag) {
  while (atomic_load((_Atomic int *)flag) == 0) {
    paging_sleep_us(1000);
  }
  return NULL;
}

static void read_before_and_after(struct paging_job *job) {
  CHECK_EQ(vmm_page(&job->vmm, &job->work, 0), 1);
  atomic_store(&job->paging->seen->flags[0], 1);
  while (atomic_load(&job->paging->seen->flags[1]) == 0) {
    paging_sleep_us(1000);
  }
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

/* Its program is away for longer than five starts take: nobody is given up for that. */
static void program_of_the_workers_is_away_for_a_while(void) {
  struct paging paging;
  struct uffd_pager_opts opts = image_opts();
  char program[64], away[128];
  paging_set_up(&paging, MIB);
  snprintf(program, sizeof(program), "/proc/%d/exe", getpid());
  snprintf(away, sizeof(away), "%s/away", paging.directory);
  char script[256];
  snprintf(script, sizeof(script), "[ ! -e %s ] || exit 1; exec \"$@\"", away);
  const char *const command[] = {"/bin/sh", "-c", script, "sh", program, "--image", paging.image, NULL};
  opts.worker = command;
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = read_before_and_after};
  pid_t client = paging_client(&job);
  while (atomic_load(&paging.seen->flags[0]) == 0) {
    paging_sleep_us(1000);
  }
  int fd = open(away, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  close(fd);
  CHECK(paging_kill_worker(&paging, 0));
  paging_await(&paging, UFFD_REPORT_DIED, 8);
  CHECK_EQ(unlink(away), 0);
  atomic_store(&paging.seen->flags[1], 1);
  paging_client_ok(client);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_FROZEN), 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void threads_forbid_forked_workers(void) {
  struct paging paging;
  pthread_t thread;
  _Atomic int over = 0;
  uffd_pager *pager;
  paging_set_up(&paging, MIB);
  struct uffd_pager_opts opts = image_opts();
  opts.image = paging.image;
  opts.socket = paging.socket;
  CHECK_EQ(pthread_create(&thread, NULL, wait_for_flag, &over), 0);
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EBUSY);
  CHECK_SAYS("threads");
  atomic_store(&over, 1);
  CHECK_EQ(pthread_join(thread, NULL), 0);
  paging_tear_down(&paging);
}

/* Which allocation is refused; what lives. Of the supervisor and, in their own copies, of its workers. */
static struct allocations { size_t count, refused, living, bytes; } allocations;

static void *limited_alloc(void *ctx, size_t length) {
  struct allocations *seen = ctx;
  if (++seen->count == seen->refused) return NULL;
  void *pointer = malloc(length);
  CHECK(pointer != NULL);
  memset(pointer, 0x5a, length); /* the library must not rely on zeros */
  seen->living++;
  seen->bytes += length;
  return pointer;
}

static void limited_free(void *ctx, void *pointer, size_t length) {
  struct allocations *seen = ctx;
  if (pointer == NULL) return;
  seen->living--;
  seen->bytes -= length;
  free(pointer);
}

/* Each allocation fails once: -ENOMEM, and nothing is left behind. */
static void pager_uses_the_users_allocator(void) {
  struct paging paging;
  struct uffd_allocator allocator = {sizeof(allocator), limited_alloc, limited_free, &allocations};
  static const char *const command[] = {"/bin/true", "first", NULL};
  uffd_pager *pager;
  uffd_workingset *set;
  int result;
  paging_set_up(&paging, MIB);
  CHECK_OK(uffd_workingset_create(PAGE, MIB, 0, &set));
  CHECK_EQ(CHECK_OK(uffd_workingset_add(set, 5 * PAGE, 0)), 1);
  char path[128], control[128];
  snprintf(path, sizeof(path), "%s/ws", paging.directory);
  snprintf(control, sizeof(control), "%s/control", paging.directory);
  CHECK_OK(uffd_workingset_save(set, path));
  uffd_workingset_close(set);
  struct uffd_pager_opts opts = image_opts();
  opts.image = paging.image;
  opts.socket = paging.socket;
  opts.control = control;
  opts.replay = path;
  opts.worker = command;
  CHECK_OK(uffd_set_allocator(&allocator));
  do {
    allocations.count = 0;
    allocations.refused++;
    result = uffd_pager_create(&opts, &pager);
    if (result == 0) uffd_pager_close(pager);
    CHECK(result == 0 || result == -ENOMEM);
    CHECK_EQ(allocations.living, 0);
    CHECK_EQ(allocations.bytes, 0);
  } while (result != 0);
  CHECK(allocations.refused > 12); /* the pager, its slots, seven strings, the working set, the door, the control */
  CHECK_OK(uffd_set_allocator(NULL));
  CHECK_EQ(unlink(path), 0);
  paging_tear_down(&paging);
}

static const struct check_test tests[] = {
    TEST(forked_children_are_clients),
    TEST(forked_children_inherit_what_was_removed),
    TEST(forked_children_survive_a_killed_worker),
    TEST(forked_children_survive_a_worker_that_has_just_read_of_them),
    TEST(forked_children_survive_a_worker_that_has_just_announced_them),
    TEST(forked_children_survive_a_worker_that_dies_before_their_book),
    TEST(guard_holds_what_nobody_else_has),
    TEST(guard_waits_until_it_is_read),
    TEST(worker_keeps_forked_children_without_its_supervisor),
    TEST(touches_are_recorded_in_order),
    TEST(records_are_written_beside_the_supervisor),
    TEST(working_set_is_prefetched),
    TEST(working_set_of_another_image_is_refused),
    TEST(memory_is_prefetched),
    TEST(late_faults_are_named_once),
    TEST(worker_is_another_program),
    TEST(program_of_the_workers_is_away_for_a_while),
    TEST(threads_forbid_forked_workers),
    TEST(pager_uses_the_users_allocator),
};

int main(int argc, char **argv) {
  if (argc == 5 && strcmp(argv[3], "--worker") == 0) return be_worker(argv);
  return check_main(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
}
