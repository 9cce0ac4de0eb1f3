/*
 * The tests' tools: see check.h.
 */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/base.h"
#include "hugepages.h"
#include "watchdog.h"

#define SKIPPED       77
#define HUGEPAGE_SIZE (UINT64_C(2) << 20)

static const char *current_test = "?";

/* Checks */

static _Noreturn void give_up(void) {
  fflush(NULL);
  /* exit() would wait for other threads' locks, and those threads may sleep in faults. */
  _exit(1);
}

void check_failed(const char *file, int line, const char *text) {
  fprintf(stderr, "%s:%d: %s: not so: %s\n", file, line, current_test, text);
  give_up();
}

void check_equal(long long actual, long long expected, const char *file, int line, const char *actual_text,
                 const char *expected_text) {
  if (actual == expected) return;
  fprintf(stderr, "%s:%d: %s: %s is %lld (%#llx), not %s = %lld (%#llx)\n", file, line, current_test, actual_text,
          actual, (unsigned long long)actual, expected_text, expected, (unsigned long long)expected);
  give_up();
}

int check_result(int result, const char *file, int line, const char *text) {
  if (result >= 0) return result;
  fprintf(stderr, "%s:%d: %s: %s failed with %d: %s\n", file, line, current_test, text, result, uffd_errmsg());
  give_up();
}

void check_error(int result, int error, const char *file, int line, const char *text, const char *error_text) {
  if (result != error) {
    fprintf(stderr, "%s:%d: %s: %s gave %d, not %s (%d); the last sentence: %s\n", file, line, current_test, text,
            result, error_text, error, uffd_errmsg());
    give_up();
  }
  if (getenv("CHECK_VERBOSE") != NULL) fprintf(stderr, "%s: %s: %s\n", current_test, error_text, uffd_errmsg());
  if (strlen(uffd_errmsg()) >= 10) return;
  fprintf(stderr, "%s:%d: %s: %s gave %s without a sentence\n", file, line, current_test, text, error_text);
  give_up();
}

void check_says(const char *words, const char *file, int line) {
  if (strstr(uffd_errmsg(), words) != NULL) return;
  fprintf(stderr, "%s:%d: %s: \"%s\" is not in the sentence: %s\n", file, line, current_test, words, uffd_errmsg());
  give_up();
}

void check_skip(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  printf("  skipped %s: ", current_test);
  vprintf(format, arguments);
  printf("\n");
  va_end(arguments);
  fflush(NULL);
  _exit(SKIPPED);
}

/* Programs */

static int verdict(int status) {
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  fprintf(stderr, "%s: killed by signal %d (%s)\n", current_test, WTERMSIG(status), strsignal(WTERMSIG(status)));
  return 1;
}

static int wait_for(pid_t child) {
  int status;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return 1;
  return verdict(status);
}

static struct shared {
  _Atomic int64_t idle_ms;    /* that the running test has had since it made progress last */
  _Atomic bool queues;        /* it waits for another test program */
  struct hugepages hugepages; /* opened by the runner, so that the lock outlives a test */
} * shared;

/* The runner itself is the watchdog: a sanitizer may delay a signal handler for ever. */
static int watch(pid_t child) {
  const struct timespec second = {1, 0};
  sigset_t ended;
  sigemptyset(&ended);
  sigaddset(&ended, SIGCHLD);
  watchdog_begin(child);
  const char *seconds = getenv("CHECK_SECONDS"); /* for those who expect a hang */
  int64_t patience_ms = 1000 * (seconds != NULL ? atoll(seconds) : CHECK_SECONDS);
  while (atomic_load(&shared->idle_ms) < patience_ms) {
    int status;
    if (waitpid(child, &status, WNOHANG) == child) return verdict(status);
    if (sigtimedwait(&ended, NULL, &second) >= 0) continue;
    int64_t passed = watchdog_look();
    if (!atomic_load(&shared->queues)) atomic_fetch_add(&shared->idle_ms, passed);
  }
  fprintf(stderr, "%s: hangs\n", current_test);
  watchdog_tell(stderr);
  kill(-child, SIGKILL);
  waitpid(child, NULL, 0);
  return 1;
}

void check_progress(void) {
  atomic_store(&shared->idle_ms, 0);
}

static int run_test(const struct check_test *test) {
  sigset_t ended, before;
  sigemptyset(&ended);
  sigaddset(&ended, SIGCHLD);
  sigprocmask(SIG_BLOCK, &ended, &before);
  current_test = test->name;
  check_progress();
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    sigprocmask(SIG_SETMASK, &before, NULL);
    setpgid(0, 0); /* whatever it forks ends with it */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    test->run();
    fflush(NULL);
    exit(0); /* not _exit: a sanitizer reports leaks there */
  }
  if (child > 0) setpgid(child, child);
  int rc = child < 0 ? 1 : watch(child);
  if (child > 0) kill(-child, SIGKILL);
  sigprocmask(SIG_SETMASK, &before, NULL);
  hugepages_return(&shared->hugepages);
  return rc;
}

static bool is_chosen(const char *name, int argc, char **argv) {
  for (int i = 1; i < argc; i++)
    if (strcmp(argv[i], name) == 0) return true;
  return argc < 2;
}

/*
 * The allocator of this AddressSanitizer does not care for fork(): a lock that another thread holds at that moment, as
 * one that starts does, is never free in the child. So a fork waits until all other threads sleep. Those of a test that
 * never do are waited for so many looks, and no more.
 */
#define FORK_LOOKS 2000

static bool sleeps(const char *thread) {
  char path[64], text[512];
  snprintf(path, sizeof(path), "/proc/self/task/%.20s/stat", thread);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t length = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
  if (fd >= 0) close(fd);
  if (length <= 0) return true; /* it has ended */
  text[length] = '\0';
  const char *end = strrchr(text, ')'); /* the name before it may hold anything */
  return end == NULL || end[1] == '\0' || end[2] != 'R';
}

static bool others_sleep(void) {
  bool asleep = true;
  DIR *threads = opendir("/proc/self/task");
  for (struct dirent *thread; asleep && threads != NULL && (thread = readdir(threads)) != NULL;) {
    if (thread->d_name[0] != '.' && atoi(thread->d_name) != gettid()) asleep = sleeps(thread->d_name);
  }
  if (threads != NULL) closedir(threads);
  return asleep;
}

static void await_sleepers(void) {
  for (int i = 0; i < FORK_LOOKS && !others_sleep(); i++) {
    check_pause();
  }
}

int check_main(const struct check_test *tests, size_t count, int argc, char **argv) {
  shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 1;
  if (check_is_sanitized() && !check_under_tsan()) pthread_atfork(await_sleepers, NULL, NULL);
  hugepages_open(&shared->hugepages);
  int ran = 0, failed = 0, skipped = 0;
  for (size_t i = 0; i < count; i++) {
    if (!is_chosen(tests[i].name, argc, argv)) continue;
    int rc = run_test(&tests[i]);
    ran++;
    skipped += rc == SKIPPED;
    failed += rc != 0 && rc != SKIPPED;
    if (rc != 0 && rc != SKIPPED) fprintf(stderr, "FAILED %s\n", tests[i].name);
  }
  printf("%d tests, %d skipped, %d failed\n", ran, skipped, failed);
  if (failed > 0 || ran == 0) return 1;
  return skipped == ran ? SKIPPED : 0;
}

void check_child(pid_t child) {
  CHECK(child > 0);
  int rc = wait_for(child);
  if (rc == SKIPPED) _exit(SKIPPED);
  if (rc != 0) give_up();
}

void check_in_child(void (*function)(void *ctx), void *ctx) {
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    function(ctx);
    fflush(NULL);
    _exit(0);
  }
  check_child(child);
}

void check_leave(void) {
  fflush(NULL);
  _exit(0);
}

void check_drop_privileges(void) {
  if (geteuid() == 0) {
    CHECK(setgroups(0, NULL) == 0);
    CHECK(setresgid(65534, 65534, 65534) == 0);
    CHECK(setresuid(65534, 65534, 65534) == 0);
  }
  /* /proc/self stays ours. */
  CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
}

bool check_is_root(void) {
  struct uffd_probe probe = {.size = sizeof(probe)};
  return uffd_probe(&probe) == 0 && probe.event_fork;
}

bool check_is_sanitized(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return true;
#else
  return false;
#endif
}

bool check_mlock_works(void) {
  return !check_is_sanitized();
}

bool check_under_tsan(void) {
#ifdef __SANITIZE_THREAD__
  return true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
  return true;
#endif
#endif
  return false;
}

uint64_t check_page(void) {
  return (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t check_number(const char *path) {
  char text[64] = "";
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t length = read(fd, text, sizeof(text) - 1);
  close(fd);
  return length > 0 ? strtoull(text, NULL, 10) : 0;
}

/* The object */

bool check_has(uint64_t features) {
  struct uffd_probe probe = {.size = sizeof(probe)};
  CHECK_OK(uffd_probe(&probe));
  return (features & ~probe.features) == 0;
}

void check_needs(uint64_t features) {
  struct uffd_probe probe = {.size = sizeof(probe)};
  CHECK_OK(uffd_probe(&probe));
  if (!probe.usable) SKIP("userfaultfd is refused here (errno %d, %d)", probe.syscall_error, probe.syscall_umo_error);
  if ((features & ~probe.features) != 0)
    SKIP("kernel %s lacks the features %#llx", probe.kernel, (unsigned long long)(features & ~probe.features));
  if ((features & UFFD_FEAT_EVENT_FORK) != 0 && check_under_tsan())
    SKIP("ThreadSanitizer's fork() holds locks that the reader of its event needs");
  if ((features & UFFD_FEAT_EVENT_FORK) != 0 && !probe.event_fork) SKIP("event_fork needs CAP_SYS_PTRACE");
}

uffd_object *check_open(uint64_t features) {
  check_needs(features);
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.features = features;
  uffd_object *object = NULL;
  CHECK_OK(uffd_open(&opts, &object));
  return object;
}

void check_inline(struct uffd_loop_opts *opts) {
  struct uffd_probe probe = UFFD_PROBE_INIT;
  check_needs(UFFD_FEAT_SIGBUS);
  CHECK_OK(uffd_probe(&probe));
  opts->engine = UFFD_ENGINE_INLINE;
  if ((probe.features & UFFD_FEAT_POISON) == 0) opts->on_error = UFFD_ON_ERROR_ZERO;
}
void check_needs_kernel_faults(const uffd_object *object) {
  if (uffd_user_mode_only(object) != 0) SKIP("faults of the kernel need privilege: USER_MODE_ONLY here");
}

struct uffd_event check_fault(uffd_object *object) {
  struct uffd_event event;
  CHECK_EQ(CHECK_OK(uffd_read(object, &event, 1, -1)), 1);
  CHECK_EQ(event.type, UFFD_PAGEFAULT);
  return event;
}

/* Memory */

const char *const check_kind_names[CHECK_KINDS] = {"anon", "shmem", "shmem-private", "hugetlb", "hugetlb-private"};

static bool is_huge(int kind) {
  return kind == CHECK_HUGETLB || kind == CHECK_HUGETLB_PRIVATE;
}

struct check_area check_map(int kind, uint64_t count) {
  struct check_area area = {.page = is_huge(kind) ? HUGEPAGE_SIZE : check_page(), .fd = -1, .kind = kind};
  area.length = count * area.page;
  int flags = kind == CHECK_ANON ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE;
  if (kind == CHECK_SHMEM || kind == CHECK_HUGETLB) flags = MAP_SHARED;
  if (is_huge(kind)) check_hugepages(3 * count); /* the alias, the area, and a child's own copy of a private one */
  if (kind != CHECK_ANON) {
    area.fd = memfd_create("check", MFD_CLOEXEC | MFD_ALLOW_SEALING | (is_huge(kind) ? MFD_HUGETLB : 0));
    if (area.fd < 0) SKIP("no memfd for %s: %s", check_kind_names[kind], strerror(errno));
    CHECK(ftruncate(area.fd, (off_t)area.length) == 0);
    area.alias = mmap(NULL, area.length, PROT_READ | PROT_WRITE, MAP_SHARED, area.fd, 0);
    CHECK(area.alias != MAP_FAILED);
  }
  /* Between two pages without access, because the kernel merges neighbours that are alike. */
  unsigned char *room = mmap(NULL, area.length + 2 * area.page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(room != MAP_FAILED);
  area.at = room + area.page - (CHECK_ADDRESS(room) & (area.page - 1));
  CHECK(mmap(area.at, area.length, PROT_READ | PROT_WRITE, flags | MAP_FIXED, area.fd, 0) != MAP_FAILED);
  if (kind == CHECK_ANON) madvise(area.at, area.length, MADV_NOHUGEPAGE);
  return area;
}

void check_unmap(struct check_area *area) {
  munmap(area->at, area->length);
  if (area->alias != NULL) munmap(area->alias, area->length);
  if (area->fd >= 0) close(area->fd);
}

void check_hugepages(uint64_t count) {
  /* Another test program may hold the lock for long: that is no hang. */
  atomic_store(&shared->queues, true);
  int rc = hugepages_lend(&shared->hugepages, count);
  atomic_store(&shared->queues, false);
  if (rc == -ENOMEM) SKIP("the kernel finds no memory for %llu huge pages", (unsigned long long)count);
  if (rc != 0) SKIP("needs %llu free huge pages: sysctl vm.nr_hugepages", (unsigned long long)count);
}

unsigned char *check_pattern(uint64_t page, uint64_t count, unsigned first) {
  unsigned char *buffer = mmap(NULL, page * count, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(buffer != MAP_FAILED);
  for (uint64_t i = 0; i < count; i++)
    memset(buffer + i * page, (int)(first + i), page);
  return buffer;
}

bool check_filled(const unsigned char *page, uint64_t length, unsigned byte) {
  for (uint64_t i = 0; i < length; i++)
    if (page[i] != (unsigned char)byte) return false;
  return true;
}

/* Accesses and threads */

static _Thread_local sigjmp_buf *volatile landing; /* of the access under way */

static void on_fault(int signal, siginfo_t *info, void *context) {
  if (uffd_sigbus(signal, info, context) == 1) return; /* an inline loop's */
  if (landing != NULL) siglongjmp(*landing, signal);
  struct sigaction fatal = {.sa_handler = SIG_DFL};
  sigaction(signal, &fatal, NULL);
}

int check_access(void *address, bool write, unsigned *value) {
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGBUS, &action, NULL);
  sigaction(SIGSEGV, &action, NULL);
  volatile unsigned char *byte = address;
  sigjmp_buf here;
  int raised = sigsetjmp(here, 1);
  if (raised == 0) {
    landing = &here;
    if (write) {
      *byte = (unsigned char)(value != NULL ? *value : 1);
    } else {
      unsigned char got = *byte;
      if (value != NULL) *value = got;
    }
  }
  landing = NULL;
  return raised;
}

static void *run_touch(void *argument) {
  struct check_touch *touch = argument;
  atomic_store(&touch->tid, (int)syscall(SYS_gettid));
  unsigned value = touch->value;
  touch->signal = check_access(touch->address, touch->write, &value);
  touch->value = (unsigned char)value;
  atomic_store(&touch->done, true);
  return NULL;
}

static void start_touch(struct check_touch *touch, void *address, bool write, unsigned value) {
  memset(touch, 0, sizeof(*touch));
  touch->address = address;
  touch->write = write;
  touch->value = (unsigned char)value;
  CHECK(pthread_create(&touch->thread, NULL, run_touch, touch) == 0);
  while (atomic_load(&touch->tid) == 0)
    check_pause();
}

void check_touch_read(struct check_touch *touch, void *address) {
  start_touch(touch, address, false, 0);
}

void check_touch_write(struct check_touch *touch, void *address, unsigned value) {
  start_touch(touch, address, true, value);
}

void check_touch_asleep(const struct check_touch *touch) {
  check_asleep(atomic_load(&touch->tid), "userfault");
}

unsigned check_touch_join(struct check_touch *touch) {
  CHECK(pthread_join(touch->thread, NULL) == 0);
  CHECK_EQ(touch->signal, 0);
  return touch->value;
}

static void *run_thread(void *argument) {
  struct check_thread *thread = argument;
  atomic_store(&thread->tid, (int)syscall(SYS_gettid));
  thread->function(thread->ctx);
  atomic_store(&thread->done, true);
  return NULL;
}

void check_thread_start(struct check_thread *thread, void (*function)(void *ctx), void *ctx) {
  memset(thread, 0, sizeof(*thread));
  thread->function = function;
  thread->ctx = ctx;
  CHECK(pthread_create(&thread->thread, NULL, run_thread, thread) == 0);
  while (atomic_load(&thread->tid) == 0)
    check_pause();
}

void check_thread_join(struct check_thread *thread) {
  CHECK(pthread_join(thread->thread, NULL) == 0);
}

void check_pause(void) {
  struct timespec moment = {.tv_nsec = 50000};
  nanosleep(&moment, NULL);
}

static void read_task(int tid, const char *file, char *text, size_t size) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/self/task/%d/%s", tid, file);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t length = fd >= 0 ? read(fd, text, size - 1) : -1;
  if (fd >= 0) close(fd);
  text[length > 0 ? length : 0] = '\0';
}

void check_asleep(int tid, const char *where) {
  char place[128], stat[512];
  unsigned hidden = 0;
  for (;;) {
    read_task(tid, "wchan", place, sizeof(place));
    if (strstr(place, where) != NULL) return;
    read_task(tid, "stat", stat, sizeof(stat));
    const char *state = strrchr(stat, ')');
    bool sleeps = state != NULL && (state[2] == 'S' || state[2] == 'D');
    hidden = sleeps && strcmp(place, "0") == 0 ? hidden + 1 : 0;
    if (hidden > 2000) SKIP("this kernel does not tell where threads sleep (/proc/PID/wchan)");
    check_pause();
  }
}

/* Barriers */

#ifdef UFFD_BARRIERS
#define BARRIERS_MAX 16

static pthread_mutex_t barrier_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t barrier_moved = PTHREAD_COND_INITIALIZER;
static struct {
  char name[48];
  unsigned standing;
  bool held;
} barriers[BARRIERS_MAX];

static int find_barrier(const char *name) {
  for (int i = 0; i < BARRIERS_MAX; i++)
    if (strcmp(barriers[i].name, name) == 0) return i;
  return -1;
}

static void at_barrier(const char *name, void *ctx) {
  (void)ctx;
  pthread_mutex_lock(&barrier_lock);
  int i = find_barrier(name);
  if (i >= 0 && barriers[i].held) {
    barriers[i].standing++;
    pthread_cond_broadcast(&barrier_moved);
    while (barriers[i].held)
      pthread_cond_wait(&barrier_moved, &barrier_lock);
    barriers[i].standing--;
  }
  pthread_mutex_unlock(&barrier_lock);
}

void check_barrier_hold(const char *name) {
  pthread_mutex_lock(&barrier_lock);
  int i = find_barrier(name);
  if (i < 0) i = find_barrier("");
  CHECK(i >= 0);
  snprintf(barriers[i].name, sizeof(barriers[i].name), "%s", name);
  barriers[i].held = true;
  pthread_mutex_unlock(&barrier_lock);
  atomic_store(&uffd_barrier_hook, at_barrier);
}

void check_barrier_await_all(const char *name, unsigned count) {
  pthread_mutex_lock(&barrier_lock);
  int i = find_barrier(name);
  CHECK(i >= 0);
  while (barriers[i].standing < count)
    pthread_cond_wait(&barrier_moved, &barrier_lock);
  pthread_mutex_unlock(&barrier_lock);
}

void check_barrier_await(const char *name) {
  check_barrier_await_all(name, 1);
}

void check_barrier_release(const char *name) {
  pthread_mutex_lock(&barrier_lock);
  int i = find_barrier(name);
  CHECK(i >= 0);
  barriers[i].held = false;
  pthread_cond_broadcast(&barrier_moved);
  pthread_mutex_unlock(&barrier_lock);
}
#endif
