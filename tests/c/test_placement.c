/* Where handler threads run: what each placement promises, and what its guard does. */
#define _GNU_SOURCE
#include <dirent.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "loop/engine/placed/faulter.h"
#include "loop/engine/placed/placement.h"
#include "loop/loop.h"
#include "serving.h"

#define PAGES 256

static struct serving serving;
static uffd_memory *memory;
static uffd_region *region;

static void serve(uint32_t placement, uffd_resolver *resolver) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.placement = placement;
  serving_open(&serving, ENGINE_ONE, &opts);
  memory = memory_make(MEMORY_ANON, PAGES);
  region = region_add(serving.loop, memory, resolver != NULL ? resolver : image_resolver(PAGES * check_page()), NULL);
}

static void end(void) {
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void touch_all(void) {
  madvise(memory_at(memory, 0), PAGES * check_page(), MADV_DONTNEED);
  CHECK(image_there(memory_at(memory, 0), 0, PAGES * check_page()));
}

static bool is_in_force(uint32_t placement, const char *words) {
  const char *why = NULL;
  int now = uffd_loop_placement(serving.loop, &why);
  CHECK(why != NULL);
  return now == (int)placement && strstr(why, words) != NULL;
}

static struct uffd_placement *placement_of(void) {
  return serving.loop->engine.readers[0]->placement;
}

static int companion_tid(void) {
  int tid;
  while ((tid = atomic_load(&placement_of()->seats[UFFD_SEAT_COMPANION].tid)) == 0) {
    check_pause();
  }
  return tid;
}

static bool is_pinned(int tid, int cpu) {
  cpu_set_t set;
  CHECK_EQ(sched_getaffinity(tid, sizeof(set), &set), 0);
  return CPU_COUNT(&set) == 1 && CPU_ISSET((size_t)cpu, &set);
}

static void bind(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((size_t)cpu, &set);
  CHECK_EQ(sched_setaffinity(0, sizeof(set), &set), 0);
}

/* The nth processor of the set, or -1. */
static int nth_cpu(const cpu_set_t *set, unsigned n) {
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET((size_t)cpu, set) && n-- == 0) return cpu;
  }
  return -1;
}

static void each_serves_and_says_what_it_is(void) {
  serve(UFFD_PLACEMENT_NONE, NULL);
  CHECK(is_in_force(UFFD_PLACEMENT_NONE, "asked for"));
  touch_all();
  end();
  serve(UFFD_PLACEMENT_COMPANION, NULL);
  CHECK(is_in_force(UFFD_PLACEMENT_COMPANION, "the default") || is_in_force(UFFD_PLACEMENT_NONE, "busy"));
  touch_all();
  end();
}

static void other_engines_have_none(void) {
  const uint32_t engines[] = {UFFD_ENGINE_PUMP, UFFD_ENGINE_INLINE};
  for (unsigned i = 0; i < 2; i++) {
    struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
    opts.engine = engines[i];
    if (opts.engine == UFFD_ENGINE_INLINE) check_inline(&opts);
    CHECK_OK(uffd_loop_create(&opts, &serving.loop));
    CHECK(is_in_force(UFFD_PLACEMENT_NONE, "Only the threads engine"));
    CHECK_OK(uffd_loop_close(serving.loop));
  }
}

/*
 * A second opinion on whether the processor of the faulting thread has idle time: a thread in SCHED_IDLE that sleeps
 * there for a millisecond, again and again, and sees how late it is woken.
 */
struct second_opinion {
  struct check_thread thread;
  _Atomic int cpu; /* of the faulting thread */
  _Atomic unsigned prompt, late;
  _Atomic bool ends;
};
#define PROMPT_NS  UINT64_C(500000) /* the guard's measure */
#define PROMPT_MAX 5000u            /* the guard asks once a second at least */
#define LATE_MAX   500u

static void sleep_and_wake(void *ctx) {
  struct second_opinion *opinion = ctx;
  const struct sched_param none = {0};
  const struct timespec nap = {0, 1000000};
  CHECK_EQ(sched_setscheduler(0, SCHED_IDLE, &none), 0);
  while (!atomic_load(&opinion->ends)) {
    bind(atomic_load(&opinion->cpu));
    uint64_t begin = uffd_now();
    nanosleep(&nap, NULL);
    bool late = uffd_now() - begin > 1000000 + PROMPT_NS;
    atomic_fetch_add(late ? &opinion->late : &opinion->prompt, 1);
  }
}

/*
 * Faults until it is so. The companion may wait for long where there is no idle time: then the test is skipped, and the
 * second opinion is the proof.
 */
static void fault_until(bool (*is_so)(void)) {
  struct second_opinion opinion = {.cpu = sched_getcpu()};
  if (is_so()) return;
  check_thread_start(&opinion.thread, sleep_and_wake, &opinion);
  while (!is_so()) {
    unsigned late = atomic_load(&opinion.late), prompt = atomic_load(&opinion.prompt);
    if (late >= LATE_MAX && late > prompt)
      SKIP("no idle time: a thread in SCHED_IDLE was woken late %u of %u times", late, late + prompt);
    CHECK(prompt < PROMPT_MAX); /* there is idle time, and the companion does not get the charge */
    atomic_store(&opinion.cpu, sched_getcpu());
    touch_all();
  }
  atomic_store(&opinion.ends, true);
  check_thread_join(&opinion.thread);
}

static bool companion_serves(void) {
  return is_in_force(UFFD_PLACEMENT_COMPANION, "");
}

static void await_companion(void) {
  fault_until(companion_serves);
}

static int wanted_cpu;

static bool companion_is_there(void) {
  return companion_serves() && is_pinned(companion_tid(), wanted_cpu);
}

static bool companion_is_idle(void) { /* the guard may just have lifted it */
  return sched_getscheduler(companion_tid()) == SCHED_IDLE;
}

static void the_companion_follows(void) {
  cpu_set_t home;
  CHECK_EQ(sched_getaffinity(0, sizeof(home), &home), 0);
  serve(UFFD_PLACEMENT_COMPANION, NULL);
  for (unsigned i = 0; i < 6; i++) {
    int cpu = nth_cpu(&home, i % 2);
    if (cpu < 0) continue; /* the machine has one */
    bind(cpu);
    wanted_cpu = cpu;
    fault_until(companion_is_there);
  }
  fault_until(companion_is_idle);
  CHECK_EQ(sched_getscheduler(atomic_load(&placement_of()->seats[UFFD_SEAT_GUARD].tid)), SCHED_OTHER);
  end();
}

/* A program that was bound to some processors stays there, wherever its faults come from. */
static void the_companion_stays_at_home(void) {
  cpu_set_t all;
  CHECK_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  int own = nth_cpu(&all, 0), other = nth_cpu(&all, 1);
  if (other < 0) check_skip("one processor");
  bind(own);
  serve(UFFD_PLACEMENT_COMPANION, NULL);
  bind(other);
  int tid = companion_tid();
  for (unsigned i = 0; i < 4; i++) {
    touch_all();
    CHECK(is_pinned(tid, own));
  }
  end();
}

#ifdef UFFD_BARRIERS
/* The companion has been woken, but gets no processor: as on a busy machine. */
static void the_guard_takes_over_and_gives_back(void) {
  serve(UFFD_PLACEMENT_COMPANION, NULL);
  for (unsigned round = 0; round < 3; round++) {
    struct check_touch touch;
    await_companion();
    madvise(memory_at(memory, 0), PAGES * check_page(), MADV_DONTNEED);
    check_barrier_hold("seated");
    check_touch_read(&touch, memory_at(memory, 0));
    CHECK_EQ(check_touch_join(&touch), image_byte(0));
    CHECK(is_in_force(UFFD_PLACEMENT_NONE, "busy"));
    touch_all();
    check_barrier_release("seated");
    await_companion();
  }
  end();
}

static void jobs_do_not_wait_for_the_companion(void) {
  serve(UFFD_PLACEMENT_COMPANION, NULL);
  check_barrier_hold("seated");
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
  CHECK_OK(uffd_region_complete(region));
  check_barrier_release("seated");
  CHECK(image_there(memory_at(memory, 0), 0, PAGES * check_page()));
  end();
}

/* Which thread runs each step of a prefetch: the companion at most the first. */
static struct { unsigned steps, later_by_companion; } prefetching;

static void note_thread(const char *name, void *ctx) {
  (void)ctx;
  if (strcmp(name, "prefetching") != 0) return;
  bool companion = gettid() == atomic_load(&placement_of()->seats[UFFD_SEAT_COMPANION].tid);
  if (companion && prefetching.steps != 0) prefetching.later_by_companion++;
  prefetching.steps++;
}

static void prefetch_goes_on_beside_the_faulting_thread(void) {
  enum { MANY = 4096 };
  serve(UFFD_PLACEMENT_COMPANION, NULL);
  uffd_memory *large = memory_make(MEMORY_ANON, MANY);
  uffd_region *whole = region_add(serving.loop, large, image_resolver(MANY * check_page()), NULL);
  await_companion();
  atomic_store(&uffd_barrier_hook, note_thread);
  CHECK_OK(uffd_region_prefetch(whole, 0, 0));
  atomic_store(&uffd_barrier_hook, NULL);
  CHECK(prefetching.steps > 4);
  CHECK_EQ(prefetching.later_by_companion, 0);
  await_companion(); /* has it back */
  serving_close(&serving);
  uffd_memory_close(large);
  uffd_memory_close(memory);
}

/* A pass that sleeps, in a file or a callback, is not starving: nobody else could do its work, or share its state. */
static void a_pass_that_sleeps_is_left_alone(void) {
  struct check_touch touches[2];
  serve(UFFD_PLACEMENT_COMPANION, NULL);
  await_companion();
  madvise(memory_at(memory, 0), PAGES * check_page(), MADV_DONTNEED);
  check_barrier_hold("asking");
  check_touch_read(&touches[0], memory_at(memory, 0));
  check_barrier_await("asking");
  uint32_t owner = atomic_load(&placement_of()->owner);
  check_touch_read(&touches[1], memory_at(memory, 7 * check_page()));
  check_touch_asleep(&touches[1]);
  for (unsigned i = 0; i < 20; i++) {
    check_pause(); /* the guard looks, several times */
  }
  CHECK_EQ(atomic_load(&placement_of()->owner), owner);
  check_barrier_release("asking");
  CHECK_EQ(check_touch_join(&touches[0]), image_byte(0));
  CHECK_EQ(check_touch_join(&touches[1]), image_byte(7 * check_page()));
  end();
}

static void close_it(void *ctx) {
  (void)ctx;
  CHECK_OK(uffd_loop_close(serving.loop));
}

static void closing_waits_for_the_companion(void) {
  struct check_touch touch;
  struct check_thread closer;
  serve(UFFD_PLACEMENT_COMPANION, NULL);
  check_barrier_hold("seated");
  check_touch_read(&touch, memory_at(memory, 0));
  CHECK_EQ(check_touch_join(&touch), image_byte(0));
  check_thread_start(&closer, close_it, NULL);
  check_pause();
  check_barrier_release("seated");
  check_thread_join(&closer);
  uffd_memory_close(memory);
}
#endif

static _Atomic bool hogging;

static void hog(void *ctx) {
  bind(*(int *)ctx);
  while (atomic_load_explicit(&hogging, memory_order_relaxed)) {
  }
}

/* A busy loop on every processor, and nobody may lift a thread out of SCHED_IDLE. */
static void nobody_starves(void) {
  enum { HOGS_MAX = 64 };
  static struct check_thread hogs[HOGS_MAX];
  static int cpus[HOGS_MAX];
  cpu_set_t home;
  CHECK_EQ(sched_getaffinity(0, sizeof(home), &home), 0);
  check_needs(0);
  check_drop_privileges();
  unsigned count = (unsigned)CPU_COUNT(&home) < HOGS_MAX ? (unsigned)CPU_COUNT(&home) : HOGS_MAX;
  for (uint32_t placement = UFFD_PLACEMENT_COMPANION; placement <= UFFD_PLACEMENT_NONE; placement++) {
    serve(placement, NULL);
    CHECK(image_there(memory_at(memory, 0), 0, 16 * check_page()));
    atomic_store(&hogging, true);
    for (unsigned i = 0; i < count; i++) {
      cpus[i] = nth_cpu(&home, i);
      check_thread_start(&hogs[i], hog, &cpus[i]);
    }
    CHECK(image_there(memory_at(memory, 16 * check_page()), 16 * check_page(), 64 * check_page()));
    CHECK_OK(uffd_region_prefetch(region, 0, 0));
    end();
    atomic_store(&hogging, false);
    for (unsigned i = 0; i < count; i++) {
      check_thread_join(&hogs[i]);
    }
  }
}

/* Where the faulting thread is looked for */

/* A process in a namespace of its own: its first thread sleeps, its second one faults. */
struct stranger {
  _Atomic bool refused;
  _Atomic int pid, tid; /* here; and of the second thread, there */
  int cpu;
};

static void fault_for_ever(void *ctx) {
  struct stranger *stranger = ctx;
  const uint64_t length = 64 * check_page();
  unsigned char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  bind(stranger->cpu);
  atomic_store(&stranger->tid, gettid());
  for (;;) {
    memset(at, 1, length);
    madvise(at, length, MADV_DONTNEED);
  }
}

static void live_apart(struct stranger *stranger) {
  struct check_thread thread;
  CHECK_EQ(getpid(), 1);
  check_thread_start(&thread, fault_for_ever, stranger);
  check_thread_join(&thread);
}

/* The process between is there because unshare() is for those who are forked after it. */
static pid_t start_stranger(struct stranger *stranger) {
  pid_t between = fork();
  if (between != 0) return between;
  atomic_store(&stranger->refused, unshare(CLONE_NEWPID) != 0);
  if (atomic_load(&stranger->refused)) _exit(0);
  pid_t pid = fork();
  if (pid == 0) live_apart(stranger);
  atomic_store(&stranger->pid, pid);
  waitpid(pid, NULL, 0);
  _exit(0);
}

/* The other thread of a process that has two. */
static uint32_t second_thread(pid_t pid) {
  char path[64];
  uint32_t found = 0;
  snprintf(path, sizeof(path), "/proc/%d/task", pid);
  DIR *tasks = opendir(path);
  CHECK(tasks != NULL);
  for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
    uint32_t tid = (uint32_t)strtoul(entry->d_name, NULL, 10);
    if (tid != 0 && tid != (uint32_t)pid) found = tid;
  }
  closedir(tasks);
  return found;
}

/* A message tells the number that a thread has in its own namespace, which is nobody's, or somebody else's, in ours. */
static void a_thread_of_another_namespace_is_found_by_its_faults(void) {
  if (check_under_tsan()) SKIP("no threads after fork under ThreadSanitizer");
  cpu_set_t all;
  CHECK_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  struct stranger *stranger = mmap(NULL, sizeof(*stranger), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(stranger != MAP_FAILED);
  stranger->cpu = nth_cpu(&all, (unsigned)CPU_COUNT(&all) - 1);
  pid_t between = start_stranger(stranger);
  while (atomic_load(&stranger->pid) == 0 || atomic_load(&stranger->tid) == 0) {
    if (atomic_load(&stranger->refused)) SKIP("a namespace of processes needs CAP_SYS_ADMIN");
    check_pause();
  }
  uint32_t pid = (uint32_t)atomic_load(&stranger->pid), tid = (uint32_t)atomic_load(&stranger->tid);
  CHECK(tid != second_thread((pid_t)pid));

  struct uffd_faulter faulter;
  uffd_faulter_init(&faulter);
  int cpu;
  while ((cpu = uffd_faulter_cpu(&faulter, pid, tid)) < 0) { /* a second look tells who has faulted since the first */
    check_pause();
  }
  CHECK_EQ(cpu, stranger->cpu);
  CHECK_EQ(faulter.tid, second_thread((pid_t)pid));
  uint32_t looks = faulter.looks;
  CHECK_EQ(uffd_faulter_cpu(&faulter, pid, tid), stranger->cpu);
  CHECK_EQ(faulter.looks, looks - 1); /* not looked through again */
  CHECK_EQ(uffd_faulter_cpu(&faulter, pid, faulter.tid), stranger->cpu);
  CHECK(kill((pid_t)pid, SIGKILL) == 0 && waitpid(between, NULL, 0) == between);
  CHECK_EQ(uffd_faulter_cpu(&faulter, pid, tid), -1);
  uffd_faulter_close(&faulter);
}

static void a_thread_that_nobody_has_is_nowhere(void) {
  struct uffd_faulter faulter;
  uffd_faulter_init(&faulter);
  CHECK_EQ(uffd_faulter_cpu(&faulter, 0, 1U << 30), -1); /* more than Linux counts */
  CHECK(uffd_faulter_cpu(&faulter, 0, (uint32_t)gettid()) >= 0);
  CHECK_EQ(faulter.tid, gettid());
  CHECK(uffd_faulter_cpu(&faulter, (uint32_t)getpid(), (uint32_t)gettid()) >= 0);
  CHECK_EQ(uffd_faulter_cpu(&faulter, 0, 1U << 30), -1);
  uffd_faulter_close(&faulter);
}

static const struct check_test tests[] = {
    TEST(each_serves_and_says_what_it_is),
    TEST(other_engines_have_none),
    TEST(the_companion_follows),
    TEST(the_companion_stays_at_home),
#ifdef UFFD_BARRIERS
    TEST(the_guard_takes_over_and_gives_back),
    TEST(jobs_do_not_wait_for_the_companion),
    TEST(prefetch_goes_on_beside_the_faulting_thread),
    TEST(a_pass_that_sleeps_is_left_alone),
    TEST(closing_waits_for_the_companion),
#endif
    TEST(nobody_starves),
    TEST(a_thread_of_another_namespace_is_found_by_its_faults),
    TEST(a_thread_that_nobody_has_is_nowhere),
};
CHECK_MAIN(tests)
