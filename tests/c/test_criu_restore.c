/*
 * Restores as CRIU makes them, against a real pager: processes that send their pids and userfaultfds by one connection,
 * register mapping by mapping after that, touch a page before all is said to be whole, and then check every page, while
 * they fork, drop, move and unmap, and while workers are killed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "dumping.h"
#include "kernel/create.h"
#include "kernel/object.h"
#include "paging.h"

#define P DUMP_PAGE
#define A UINT64_C(0x10000000) /* 64 pages: data, a gap, data */
#define B UINT64_C(0x20000000) /* 16 pages that are data */
#define C UINT64_C(0x30000000) /* 8 pages that no file has */

#define A_PAGES 64u
#define B_PAGES 16u
#define C_PAGES 8u
#define GAP     16u /* of A, pages from here on that are zero, */
#define GAP_END 24u /* up to here */
#define ALL     (A_PAGES + B_PAGES + C_PAGES)

#define TASKS_MAX 20u
#if defined(__SANITIZE_THREAD__)
#define FORKS UINT64_C(0) /* its fork() holds locks that the reader of the event needs */
#else
#define FORKS UFFD_FEAT_EVENT_FORK
#endif
#define FEATURES     (FORKS | UFFD_FEAT_EVENT_REMAP | UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_EVENT_UNMAP)
#define ZOMBIE       999999
#define ALL_RESTORED 0x52535446u

/* Shared by the test, the process that restores, and its tasks. */
struct shared {
  _Atomic int pids[TASKS_MAX];
  _Atomic unsigned turn, touched; /* tasks that have sent, and that have touched a page */
  _Atomic int finish, all, go;    /* the test's to the restore; the restore's to its tasks; the test's to the tasks */
  _Atomic unsigned step;          /* the tasks' to the test */
};

struct restore {
  struct paging *paging;
  unsigned tasks;
  bool pieces;    /* sends bytes one by one, with zombies between them */
  bool contained; /* the tasks are in a pid namespace, where they have the numbers that they send */
  bool quits;     /* hangs up before all is whole, and kills its tasks */
  bool waits;     /* for `finish`, before it says that all is whole */
  bool hurries;   /* its tasks touch nothing before that, so that it may end before anybody has heard of it */
  void (*run)(const struct restore *restore, uint32_t seed);
  struct shared *shared;
  pid_t pid;
};

/* ---- the dump */

static uint32_t seed_of(unsigned task) {
  return task + 1;
}

static void dump_task(const char *directory, int32_t number, unsigned task) {
  const uint32_t both = DUMP_PRESENT | DUMP_LAZY, seed = seed_of(task);
  const struct dump_vma vmas[] = {{A, A_PAGES, 0, 0}, {B, B_PAGES, 0, 0}, {C, C_PAGES, 0, 0}};
  const struct dump_run runs[] = {{A, GAP, both, seed, false},
                                  {A + GAP_END * P, A_PAGES - GAP_END, both, seed, false},
                                  {B, B_PAGES, both, seed, false}};
  dump_mm(directory, number, vmas, 3);
  dump_pages(directory, number, task + 1, runs, 3);
}

/* Of so many tasks, whose numbers begin with 1, and of a zombie behind them. */
static const char *dump_all(unsigned count) {
  const char *directory = dump_directory();
  int32_t pids[TASKS_MAX + 1];
  for (unsigned i = 0; i < count; i++) {
    pids[i] = (int32_t)i + 1;
    dump_task(directory, pids[i], i);
  }
  pids[count] = ZOMBIE;
  dump_pstree(directory, pids, count + 1);
  return directory;
}

/* ---- what a task should see */

static bool is_zero(const unsigned char *page) {
  static const unsigned char zeros[DUMP_PAGE];
  return memcmp(page, zeros, P) == 0;
}

/* A page at an address, which was restored for another one. */
static bool is_right(uint64_t at, uint64_t address, uint32_t seed) {
  const unsigned char *page = (const unsigned char *)(uintptr_t)at;
  bool gap = address >= A + GAP * P && address < A + GAP_END * P;
  return gap || address >= C ? is_zero(page) : dump_is(page, address, seed);
}

static void check_range(uint64_t at, uint64_t address, uint64_t pages, uint32_t seed) {
  for (uint64_t i = 0; i < pages; i++) {
    uint64_t page = i * 7 % pages; /* not in order; 7 does not divide the sizes that are checked */
    CHECK(is_right(at + page * P, address + page * P, seed));
  }
}

static void check_all(const struct restore *restore, uint32_t seed) {
  (void)restore;
  check_range(A, A, A_PAGES, seed);
  check_range(B, B, B_PAGES, seed);
  check_range(C, C, C_PAGES, seed);
}

/* ---- a task */

static void map_and_register(int fd, uint64_t address, uint64_t pages) {
  void *at = mmap((void *)(uintptr_t)address, pages * P, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(at == (void *)(uintptr_t)address);
  CHECK_EQ(uffd_raw_register(fd, address, pages * P, UFFD_MODE_MISSING, NULL), 0);
}

static void send_bytes(int socket, const void *bytes, size_t length) {
  CHECK_EQ(send(socket, bytes, length, MSG_NOSIGNAL), (ssize_t)length);
}

static void send_descriptor(int socket, int fd, const void *bytes, size_t length) {
  char control[CMSG_SPACE(sizeof(int))] = {0};
  struct iovec data = {(void *)(uintptr_t)bytes, length};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  struct cmsghdr *part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(part), &fd, sizeof(fd));
  CHECK_EQ(sendmsg(socket, &message, MSG_NOSIGNAL), (ssize_t)length);
}

static void hand_over(const struct restore *restore, int socket, int32_t number, int fd) {
  int32_t zombie = -ZOMBIE;
  char bytes[9] = {0};
  if (!restore->pieces) {
    send_bytes(socket, &number, sizeof(number));
    send_descriptor(socket, fd, "", 1);
    return;
  }
  memcpy(bytes, &zombie, 4);
  memcpy(bytes + 4, &number, 4);
  if (number % 2 == 0) { /* all in one, or each byte by itself */
    send_descriptor(socket, fd, bytes, 9);
    return;
  }
  for (int i = 0; i < 8; i++) {
    send_bytes(socket, bytes + i, 1);
  }
  send_descriptor(socket, fd, "", 1);
}

static void await(_Atomic int *flag) {
  while (atomic_load(flag) == 0) {
    check_pause();
  }
}

static _Noreturn void be_task(const struct restore *restore, unsigned task, int socket) {
  struct shared *shared = restore->shared;
  uint64_t offered = 0;
  alarm(300); /* should the test fail */
  int fd = uffd_create_fd(UFFD_ROUTE_SYSCALL, O_CLOEXEC | O_NONBLOCK);
  CHECK(fd >= 0);
  CHECK_EQ(uffd_handshake(fd, FEATURES, &offered), 0);
  while (atomic_load(&shared->turn) != task) {
    check_pause();
  }
  hand_over(restore, socket, (int32_t)task + 1, fd);
  atomic_fetch_add(&shared->turn, 1);
  map_and_register(fd, A, A_PAGES);
  map_and_register(fd, B, B_PAGES);
  map_and_register(fd, C, C_PAGES);
  if (!restore->hurries) CHECK(is_right(B + 5 * P, B + 5 * P, seed_of(task))); /* as the restorer does for its rseq */
  close(fd);
  close(socket);
  atomic_fetch_add(&shared->touched, 1);
  await(&shared->all);
  restore->run(restore, seed_of(task));
  fflush(NULL);
  _exit(0);
}

/* ---- the process that restores */

static void kill_tasks(const struct restore *restore) {
  for (unsigned i = 0; i < restore->tasks; i++) {
    kill(atomic_load(&restore->shared->pids[i]), SIGKILL);
  }
}

static _Noreturn void be_restore(const struct restore *restore) {
  struct shared *shared = restore->shared;
  uint32_t all = ALL_RESTORED;
  int socket = vmm_connect(restore->paging->socket);
  CHECK(socket >= 0);
  if (restore->contained && unshare(CLONE_NEWPID) != 0) _exit(77);
  for (unsigned i = 0; i < restore->tasks; i++) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) be_task(restore, i, socket);
    CHECK(pid > 0);
    atomic_store(&shared->pids[i], pid);
  }
  while (atomic_load(&shared->touched) != restore->tasks) {
    check_pause();
  }
  if (restore->waits) await(&shared->finish);
  if (restore->quits) {
    kill_tasks(restore);
    _exit(0);
  }
  for (int i = 0; i < 4; i++) {
    send_bytes(socket, (const char *)&all + i, 1);
  }
  atomic_store(&shared->all, 1);
  _exit(0);
}

/* Its tasks become the test's children when it ends. */
static void restore_start(struct restore *restore) {
  check_needs(FEATURES);
  restore->shared = mmap(NULL, sizeof(*restore->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(restore->shared != MAP_FAILED);
  CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  fflush(NULL);
  restore->pid = fork();
  CHECK(restore->pid >= 0);
  if (restore->pid == 0) be_restore(restore);
}

static void restore_ok(const struct restore *restore) {
  int status;
  CHECK_EQ(waitpid(restore->pid, &status, 0), restore->pid);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP("no pid namespace for this user");
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  for (unsigned i = 0; !restore->quits && i < restore->tasks; i++) {
    check_child(atomic_load(&restore->shared->pids[i]));
    check_progress();
  }
}

static void await_touched(const struct restore *restore) {
  while (atomic_load(&restore->shared->touched) != restore->tasks) {
    check_pause();
  }
}

static void await_step(const struct restore *restore, unsigned step) {
  while (atomic_load(&restore->shared->step) < step) {
    check_pause();
  }
}

static void start(struct paging *paging, const char *dump, struct uffd_pager_opts *user_opts) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  if (user_opts != NULL) opts = *user_opts;
  opts.image = dump;
  opts.door = UFFD_DOOR_CRIU;
  paging_set_up(paging, P);
  paging_start(paging, &opts);
}

static void end(struct paging *paging) {
  CHECK_EQ(paging_end(paging), 1);
  paging_tear_down(paging);
}

/* ---- tests */

static void one_process(void) {
  struct paging paging;
  start(&paging, dump_all(1), NULL);
  struct restore restore = {.paging = &paging, .tasks = 1, .run = check_all};
  restore_start(&restore);
  restore_ok(&restore);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 1);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_ERROR), 0);
  CHECK_EQ(paging.seen->last.client.regions_count, 3);
  CHECK_EQ(paging.seen->last.stats.errors, 0);
  end(&paging);
}

/* Nothing waits for the pager, which is slow: the process that has connected is gone when the pager looks. */
static void a_restore_that_is_gone_already(void) {
  struct paging paging;
  int status;
  start(&paging, dump_all(3), NULL);
  CHECK_EQ(kill(paging.supervisor, SIGSTOP), 0);
  CHECK_EQ(waitpid(paging.supervisor, &status, WUNTRACED), paging.supervisor);
  CHECK(WIFSTOPPED(status));
  struct restore restore = {.paging = &paging, .tasks = 3, .hurries = true, .run = check_all};
  restore_start(&restore);
  CHECK_EQ(waitpid(restore.pid, &status, 0), restore.pid);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK_EQ(kill(paging.supervisor, SIGCONT), 0);
  for (unsigned i = 0; i < 3; i++) {
    check_child(atomic_load(&restore.shared->pids[i]));
  }
  paging_await(&paging, UFFD_REPORT_GONE, 3);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 3);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_REFUSED), 0);
  end(&paging);
}

static void tree_with_zombies(void) {
  struct paging paging;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.workers = 2;
  start(&paging, dump_all(TASKS_MAX), &opts);
  struct restore restore = {.paging = &paging, .tasks = TASKS_MAX, .pieces = true, .run = check_all};
  restore_start(&restore);
  restore_ok(&restore);
  paging_await(&paging, UFFD_REPORT_GONE, TASKS_MAX);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_REFUSED), 0);
  end(&paging);
}

/* One image, many restores at once: CRIU's own daemon serves one and ends. */
static void many_restores_of_one_dump(void) {
  enum { COUNT = 6 };
  struct paging paging;
  start(&paging, dump_all(2), NULL);
  struct restore restores[COUNT];
  for (unsigned i = 0; i < COUNT; i++) {
    restores[i] = (struct restore){.paging = &paging, .tasks = 2, .waits = true, .run = check_all};
    restore_start(&restores[i]);
  }
  for (unsigned i = 0; i < COUNT; i++) {
    await_touched(&restores[i]);
  }
  paging_await_clients(&paging, 2 * COUNT, UFFD_CLIENT_SERVED);
  for (unsigned i = 0; i < COUNT; i++) {
    atomic_store(&restores[i].shared->finish, 1);
  }
  for (unsigned i = 0; i < COUNT; i++) {
    restore_ok(&restores[i]);
  }
  paging_await(&paging, UFFD_REPORT_GONE, 2 * COUNT);
  end(&paging);
}

static void await_go(const struct restore *restore, uint32_t seed) {
  atomic_fetch_add(&restore->shared->step, 1);
  await(&restore->shared->go);
  check_all(restore, seed);
}

/* The first task is the init of its namespace: with it, all others end. */
static void await_turn(const struct restore *restore, uint32_t seed) {
  atomic_fetch_add(&restore->shared->step, 1);
  await(seed == seed_of(0) ? &restore->shared->finish : &restore->shared->go);
  check_all(restore, seed);
}

/* It is the process with that number in its namespace, and not the one that connected. */
static void process_is_found(void) {
  struct paging paging;
  if (FORKS == 0) SKIP("ThreadSanitizer's own threads take the numbers in the namespace");
  start(&paging, dump_all(3), NULL);
  struct restore restore = {.paging = &paging, .tasks = 3, .contained = true, .run = await_turn};
  restore_start(&restore);
  int status; /* when it has ended, its tasks are the test's children */
  CHECK_EQ(waitpid(restore.pid, &status, 0), restore.pid);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP("no pid namespace for this user");
  await_step(&restore, 3);
  paging_await_clients(&paging, 3, UFFD_CLIENT_SERVED);
  const _Atomic int *pids = restore.shared->pids;
  for (unsigned i = 0; i < 3; i++) {
    CHECK_EQ(paging.seen->clients[i].client.pid, atomic_load(&pids[i]));
  }
  kill(atomic_load(&pids[2]), SIGKILL); /* is noticed, though another process connected */
  CHECK_EQ(waitpid(atomic_load(&pids[2]), NULL, 0), atomic_load(&pids[2]));
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging.seen->last.end, UFFD_END_EXITED);
  atomic_store(&restore.shared->go, 1);
  check_child(atomic_load(&pids[1]));
  atomic_store(&restore.shared->finish, 1);
  check_child(atomic_load(&pids[0]));
  end(&paging);
}

/* ---- events */

static void fork_and_check(const struct restore *restore, uint32_t seed) {
  pid_t child = fork();
  CHECK(child >= 0);
  check_all(restore, seed);
  if (child == 0) _exit(0);
  check_child(child);
}

static void drop_and_check(const struct restore *restore, uint32_t seed) {
  (void)restore;
  CHECK(madvise((void *)(uintptr_t)(A + 8 * P), 4 * P, MADV_DONTNEED) == 0);
  for (uint64_t i = 8; i < 12; i++) {
    CHECK(is_zero((const unsigned char *)(uintptr_t)(A + i * P)));
  }
  check_range(A, A, 8, seed);
  check_range(A + 12 * P, A + 12 * P, A_PAGES - 12, seed);
}

static void move_and_check(const struct restore *restore, uint32_t seed) {
  (void)restore;
  const uint64_t to = UINT64_C(0x40000000);
  void *moved =
      mremap((void *)(uintptr_t)(A + 32 * P), 32 * P, 40 * P, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(uintptr_t)to);
  CHECK(moved == (void *)(uintptr_t)to);
  check_range(to, A + 32 * P, 32, seed);
  for (uint64_t i = 32; i < 40; i++) {
    CHECK(is_zero((const unsigned char *)(uintptr_t)(to + i * P))); /* what has grown */
  }
  check_range(A + 12 * P, A + 12 * P, 20, seed); /* before that, something may have been dropped */
}

static void unmap_and_check(const struct restore *restore, uint32_t seed) {
  (void)restore;
  CHECK(munmap((void *)(uintptr_t)(B + 4 * P), 8 * P) == 0);
  check_range(B, B, 4, seed);
  check_range(B + 12 * P, B + 12 * P, 4, seed);
}

static void all_events(const struct restore *restore, uint32_t seed) {
  fork_and_check(restore, seed);
  drop_and_check(restore, seed);
  move_and_check(restore, seed);
  unmap_and_check(restore, seed);
}

/* All at once, while pages are filled in the background and by nobody else. */
static void events_at_once(const struct restore *restore, uint32_t seed) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    check_all(restore, seed);
    _exit(0);
  }
  drop_and_check(restore, seed);
  unmap_and_check(restore, seed);
  move_and_check(restore, seed);
  check_child(child);
}

static void run_one(void (*run)(const struct restore *restore, uint32_t seed), uint32_t flags, unsigned rounds) {
  struct paging paging;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.flags = flags;
  start(&paging, dump_all(2), &opts);
  for (unsigned i = 0; i < rounds; i++) {
    struct restore restore = {.paging = &paging, .tasks = 2, .run = run};
    restore_start(&restore);
    restore_ok(&restore);
  }
  paging_await_clients(&paging, 0, 0);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_ERROR), 0);
  end(&paging);
}

static void events_in_order(void) {
  check_needs(UFFD_FEAT_EVENT_FORK);
  run_one(all_events, 0, 3);
}
static void events_while_it_is_filled(void) {
  check_needs(UFFD_FEAT_EVENT_FORK);
  run_one(events_at_once, UFFD_PAGER_PREFETCH, 8);
}

/* ---- filling */

static void check_resident(const struct restore *restore, uint32_t seed) {
  atomic_fetch_add(&restore->shared->step, 1);
  await(&restore->shared->go);
  unsigned char there[A_PAGES];
  CHECK(mincore((void *)(uintptr_t)A, A_PAGES * P, there) == 0);
  for (unsigned i = 0; i < A_PAGES; i++) {
    CHECK((there[i] & 1) != 0);
  }
  check_all(restore, seed);
}

/* Before that, nothing may be registered yet: a prefetch would find nothing to fill, and end. */
static void filled_when_all_is_whole(void) {
  struct paging paging;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.flags = UFFD_PAGER_PREFETCH;
  opts.around = UFFD_AROUND_PAGE;
  start(&paging, dump_all(1), &opts);
  struct restore restore = {.paging = &paging, .tasks = 1, .waits = true, .run = check_resident};
  restore_start(&restore);
  await_touched(&restore);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  CHECK_EQ(paging.seen->clients[0].stats.prefetched, 0);
  atomic_store(&restore.shared->finish, 1);
  await_step(&restore, 1);
  while (paging.seen->clients[0].stats.prefetched < ALL - 1) { /* a page was touched before */
    paging_turn(&paging);
  }
  atomic_store(&restore.shared->go, 1);
  restore_ok(&restore);
  end(&paging);
}

/* The supervisor is told to fill all and to end, first while the tasks are restored. */
static void drained_when_all_is_whole(void) {
  struct paging paging;
  start(&paging, dump_all(2), NULL);
  struct restore restore = {.paging = &paging, .tasks = 2, .waits = true, .run = await_go};
  restore_start(&restore);
  await_touched(&restore);
  paging_await_clients(&paging, 2, UFFD_CLIENT_SERVED);
  paging_signal(&paging, SIGTERM);
  paging_turn(&paging);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_COMPLETE), 0);
  atomic_store(&restore.shared->finish, 1);
  paging_await(&paging, UFFD_REPORT_COMPLETE, 2);
  paging_await_over(&paging);
  CHECK_EQ(paging_end(&paging), 0);
  paging_tear_down(&paging);
  atomic_store(&restore.shared->go, 1); /* nobody serves them any more */
  restore_ok(&restore);
}

/* ---- deaths */

static void check_slowly(const struct restore *restore, uint32_t seed) {
  for (unsigned i = 0; i < A_PAGES; i++) {
    CHECK(is_right(A + i * P, A + i * P, seed));
    atomic_fetch_add(&restore->shared->step, 1);
  }
  check_all(restore, seed);
}

static void worker_is_killed_before_all_is_whole(void) {
  struct paging paging;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.flags = UFFD_PAGER_PREFETCH;
  start(&paging, dump_all(2), &opts);
  struct restore restore = {.paging = &paging, .tasks = 2, .waits = true, .run = check_all};
  restore_start(&restore);
  await_touched(&restore);
  CHECK(paging_kill_worker(&paging, 0));
  paging_await(&paging, UFFD_REPORT_DIED, 1);
  atomic_store(&restore.shared->finish, 1);
  restore_ok(&restore);
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  end(&paging);
}

/* CRIU's own daemon: when it dies, the rest of the memory is zeros, and nobody is told. */
static void worker_is_killed_while_pages_are_read(void) {
  struct paging paging;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.around = UFFD_AROUND_PAGE;
  start(&paging, dump_all(2), &opts);
  struct restore restore = {.paging = &paging, .tasks = 2, .run = check_slowly};
  restore_start(&restore);
  for (unsigned step = 10; step < 2 * A_PAGES; step += 40) {
    await_step(&restore, step);
    if (paging_kill_worker(&paging, 0)) paging_await(&paging, UFFD_REPORT_WORKER, 1 + (step + 30) / 40);
    check_progress();
  }
  restore_ok(&restore);
  CHECK(paging_reports(&paging, UFFD_REPORT_DIED) > 0);
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  end(&paging);
}

static void reloaded_while_it_is_restored(void) {
  struct paging paging;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.flags = UFFD_PAGER_PREFETCH;
  start(&paging, dump_all(2), &opts);
  struct restore restore = {.paging = &paging, .tasks = 2, .waits = true, .run = check_all};
  restore_start(&restore);
  await_touched(&restore);
  paging_signal(&paging, SIGHUP);
  paging_await(&paging, UFFD_REPORT_RETIRED, 1);
  atomic_store(&restore.shared->finish, 1);
  restore_ok(&restore);
  end(&paging);
}

static void restore_that_fails(void) {
  struct paging paging;
  start(&paging, dump_all(2), NULL);
  struct restore failing = {.paging = &paging, .tasks = 2, .quits = true, .run = check_all};
  restore_start(&failing);
  restore_ok(&failing);
  paging_await(&paging, UFFD_REPORT_GONE, 2);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_ERROR), 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_ERROR], "hung up before all was restored") != NULL);
  struct restore again = {.paging = &paging, .tasks = 2, .run = check_all};
  restore_start(&again);
  restore_ok(&again);
  end(&paging);
}

/* ---- refused in words */

/* Sends bytes with a userfaultfd, and waits until the pager hangs up. */
static void refused(const struct paging *paging, const void *bytes, size_t length) {
  int socket = vmm_connect(paging->socket);
  uint64_t offered = 0;
  CHECK(socket >= 0);
  int fd = uffd_create_fd(UFFD_ROUTE_SYSCALL, O_CLOEXEC | O_NONBLOCK);
  CHECK(fd >= 0 && uffd_handshake(fd, FEATURES, &offered) == 0);
  send_descriptor(socket, fd, bytes, length);
  char byte;
  CHECK(recv(socket, &byte, 1, 0) <= 0);
  close(socket);
  close(fd);
}

static void what_is_refused(void) {
  struct paging paging;
  check_needs(FEATURES);
  start(&paging, dump_all(1), NULL);
  refused(&paging, "\x11\0\0\0", 5);
  paging_await(&paging, UFFD_REPORT_REFUSED, 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "task 17, which the dump in") != NULL);
  refused(&paging, "\0\0\0\0", 4);
  paging_await(&paging, UFFD_REPORT_REFUSED, 2);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_REFUSED], "criu restore --lazy-pages") != NULL);
  struct restore restore = {.paging = &paging, .tasks = 1, .run = check_all};
  restore_start(&restore);
  restore_ok(&restore);
  end(&paging);
}

static void doors_and_images_that_do_not_fit(void) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  uffd_pager *pager = NULL;
  opts.socket = "/nowhere/door";
  opts.image = "/proc/self/exe";
  opts.door = UFFD_DOOR_CRIU;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
  CHECK_SAYS("is a file");
  opts.image = dump_all(1);
  opts.door = UFFD_DOOR_FIRECRACKER;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
  CHECK_SAYS("--door criu");
  opts.image = NULL;
  opts.door = UFFD_DOOR_CRIU;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
  opts.door = 7;
  CHECK_ERR(uffd_pager_create(&opts, &pager), -EINVAL);
}

static _Noreturn void send_both(const struct paging *paging) {
  uint64_t offered = 0;
  int socket = vmm_connect(paging->socket), fd = uffd_create_fd(UFFD_ROUTE_SYSCALL, O_CLOEXEC | O_NONBLOCK);
  CHECK(socket >= 0 && fd >= 0 && uffd_handshake(fd, FEATURES, &offered) == 0);
  send_descriptor(socket, fd, "\2\0\0\0", 5);
  send_descriptor(socket, fd, "\1\0\0\0", 5);
  await(&paging->seen->flags[0]);
  _exit(0);
}

/* There is nothing to serve, and the next task is not held up. */
static void task_without_lazy_memory(void) {
  struct paging paging;
  const char *dump = dump_all(2);
  dump_mm(dump, 2, (const struct dump_vma[]){{A, A_PAGES, 0x01, 0}}, 1);
  check_needs(FEATURES);
  start(&paging, dump, NULL);
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) send_both(&paging);
  paging_await(&paging, UFFD_REPORT_CLIENT, 1);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_REFUSED), 0);
  atomic_store(&paging.seen->flags[0], 1);
  check_child(pid);
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  end(&paging);
}

static void one_restore_and_no_more(void) {
  struct paging paging;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.flags = UFFD_PAGER_ONCE;
  start(&paging, dump_all(3), &opts);
  struct restore restore = {.paging = &paging, .tasks = 3, .run = check_all};
  restore_start(&restore);
  restore_ok(&restore);
  paging_await_over(&paging);
  CHECK_EQ(paging_end(&paging), 0);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 3);
  paging_tear_down(&paging);
}

static void dump_that_changes(void) {
  struct paging paging;
  const char *dump = dump_all(1);
  char path[128];
  start(&paging, dump, NULL);
  snprintf(path, sizeof(path), "%s/pages-1.img", dump);
  CHECK(truncate(path, P) == 0);
  paging_await(&paging, UFFD_REPORT_ERROR, 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_ERROR], "was changed") != NULL);
  refused(&paging, "\1\0\0\0", 5);
  end(&paging);
}

static const struct check_test tests[] = {
    TEST(one_process),
    TEST(a_restore_that_is_gone_already),
    TEST(tree_with_zombies),
    TEST(many_restores_of_one_dump),
    TEST(process_is_found),
    TEST(events_in_order),
    TEST(events_while_it_is_filled),
    TEST(filled_when_all_is_whole),
    TEST(drained_when_all_is_whole),
    TEST(worker_is_killed_before_all_is_whole),
    TEST(worker_is_killed_while_pages_are_read),
    TEST(reloaded_while_it_is_restored),
    TEST(restore_that_fails),
    TEST(what_is_refused),
    TEST(doors_and_images_that_do_not_fit),
    TEST(task_without_lazy_memory),
    TEST(one_restore_and_no_more),
    TEST(dump_that_changes),
};
CHECK_MAIN(tests)
