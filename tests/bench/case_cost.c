/*
 * Cost against size: what should not grow with the size of what is not touched, or linearly at most. Each case measures
 * its sizes in turn, several times.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"

#define ROUNDS 5u
#define GIB    (UINT64_C(1) << 30)

/* One measurement, in the case's unit, at cost->sizes[index]. */
typedef double measure_fn(const struct cost *cost, unsigned index);

static void measure(struct cost *cost, measure_fn *run) {
  double values[COST_SIZES][ROUNDS];
  for (unsigned round = 0; round < ROUNDS; round++) {
    for (unsigned i = 0; i < cost->count; i++) {
      values[i][round] = run(cost, i);
    }
  }
  for (unsigned i = 0; i < cost->count; i++) {
    cost->costs[i] = spread_of(values[i], ROUNDS);
  }
}

/* Forks: regions of 1 GiB to 1 TiB, of which two pages were touched */

static struct forking {
  uffd_loop *loop;
  uffd_memory *memory;
  uint64_t touched; /* pages */
} forking[COST_SIZES];

static volatile char *next_page(struct forking *at) {
  return (volatile char *)uffd_memory_address(at->memory) + at->touched++ * PAGE;
}

/* Children come with EVENT_FORK. Returns false where it is refused. */
static bool serve_forking(struct forking *at, uint64_t length) {
  struct uffd_loop_opts loop = UFFD_LOOP_OPTS_INIT;
  struct uffd_map_opts map = UFFD_MAP_OPTS_INIT;
  uffd_resolver *resolver;
  loop.engine = UFFD_ENGINE_THREADS;
  loop.features = UFFD_FEAT_EVENT_FORK;
  map.flags = UFFD_MAP_FORK;
  must(uffd_loop_create(&loop, &at->loop));
  must(uffd_map(length, &map, &at->memory));
  must(uffd_resolver_pattern("A", 1, &resolver));
  int result = uffd_loop_add(at->loop, at->memory, resolver, NULL, NULL);
  uffd_resolver_close(resolver);
  if (result == 0) (void)*next_page(at);
  return result == 0;
}

/* The fork, and the parent's next fault, which waits until the handler has taken the child over. */
static double fork_once(struct forking *at) {
  volatile char *page = next_page(at);
  uint64_t begin = now_ns();
  pid_t child = fork();
  if (child == 0) _exit(0);
  (void)*page;
  uint64_t taken = now_ns() - begin;
  if (child < 0 || waitpid(child, NULL, 0) != child) die("fork: %m");
  return (double)taken / 1000;
}

static double fork_us(const struct cost *cost, unsigned index) {
  (void)cost;
  return fork_once(&forking[index]);
}

/* With as many regions as there are lengths. */
static void measure_forking(struct cost *cost, measure_fn *run, const double *gib, unsigned count) {
  bool allowed = true;
  for (unsigned i = 0; i < count && allowed; i++) {
    allowed = serve_forking(&forking[i], (uint64_t)gib[i] * GIB);
  }
  if (!allowed) fprintf(stderr, "uffd-bench: %s is left out: %s\n", cost->name, uffd_errmsg());
  if (allowed) measure(cost, run);
  for (unsigned i = 0; i < count; i++) {
    must(uffd_loop_close(forking[i].loop));
    uffd_memory_close(forking[i].memory);
    forking[i] = (struct forking){0};
  }
  if (allowed) report_cost(cost);
}

void case_cost_fork(const char *name) {
  struct cost cost = {.name = name,
                      .unit = "us",
                      .engine = "threads",
                      .size_unit = "GiB",
                      .count = 3,
                      .sizes = {1, 64, 1024},
                      .promised = GROWTH_FLAT,
                      .reason = "states of pages that nobody has touched are not read"};
  measure_forking(&cost, fork_us, cost.sizes, cost.count);
}

/* Children that live, and touch nothing, while another one is forked. */
static double fork_beside_us(const struct cost *cost, unsigned index) {
  struct forking *at = &forking[0];
  unsigned count = (unsigned)cost->sizes[index];
  int ends[2];
  char byte;
  if (pipe(ends) != 0) die("pipe: %m");
  for (unsigned i = 0; i < count; i++) {
    pid_t child = fork();
    if (child < 0) die("fork: %m");
    if (child != 0) continue;
    close(ends[1]);
    _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1); /* until the parent closes its end */
  }
  double taken = fork_once(at);
  close(ends[0]);
  close(ends[1]); /* all exit */
  for (unsigned i = 0; i < count; i++) {
    if (waitpid(-1, NULL, 0) < 0) die("waitpid: %m");
  }
  fork_once(at); /* the dead are buried */
  return taken;
}

void case_cost_children(const char *name) {
  struct cost cost = {.name = name,
                      .unit = "us",
                      .engine = "threads",
                      .size_unit = "children",
                      .count = 3,
                      .sizes = {0, 100, 400},
                      .promised = GROWTH_LINEAR,
                      .reason = "each living child is asked once, by one ioctl, whether it has exited"};
  measure_forking(&cost, fork_beside_us, (const double[]){1}, 1);
}

/* Adopting a range of many mappings */

static double adopt_us(const struct cost *cost, unsigned index) {
  uint64_t count = (uint64_t)cost->sizes[index];
  uffd_memory *memory;
  char *range = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (range == MAP_FAILED) die("mmap: %m");
  for (uint64_t i = 0; i < count; i += 2) {
    if (mprotect(range + i * PAGE, PAGE, PROT_READ) != 0) die("mprotect: %m");
  }
  uint64_t begin = now_ns();
  must(uffd_memory_adopt(range, count * PAGE, &memory));
  uint64_t taken = now_ns() - begin;
  uffd_memory_close(memory);
  munmap(range, count * PAGE);
  return (double)taken / 1000;
}

void case_cost_adopt(const char *name) {
  struct cost cost = {.name = name,
                      .unit = "us",
                      .engine = "",
                      .size_unit = "mappings",
                      .count = 3,
                      .sizes = {100, 1000, 4000},
                      .promised = GROWTH_LINEAR,
                      .reason = "each mapping is looked at once"};
  measure(&cost, adopt_us);
  report_cost(&cost);
}

/* Callbacks that take long, and others meanwhile */

#define SLEEPERS_MAX 16u

static atomic_bool asleep;
static atomic_uint sleepers;

/* Also in a signal handler. */
static void nap(void) {
  const struct timespec time = {0, 1000000};
  nanosleep(&time, NULL);
}

static int sleep_and_answer(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)ctx, (void)state, (void)fault, (void)answer;
  atomic_fetch_add(&sleepers, 1);
  while (atomic_load(&asleep)) {
    nap();
  }
  return 0;
}

static void *touch_one(void *page) {
  (void)*(volatile char *)page;
  return NULL;
}

struct slow {
  uffd_loop *loop;
  uffd_memory *memory;
  pthread_t threads[SLEEPERS_MAX];
  unsigned count;
};

/* A loop with so many handlers, each amid a callback. */
static void slow_begin(struct slow *slow, uint32_t engine, unsigned count) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *resolver;
  opts.engine = engine;
  opts.handlers = SLEEPERS_MAX;
  opts.placement = UFFD_PLACEMENT_NONE;
  ops.resolve = sleep_and_answer;
  slow->count = count;
  must(uffd_loop_create(&opts, &slow->loop));
  must(uffd_map(SLEEPERS_MAX * HUGE_PAGE, NULL, &slow->memory)); /* a slice for each handler */
  must(uffd_resolver_callback(&ops, NULL, NULL, NULL, 0, &resolver));
  must(uffd_loop_add(slow->loop, slow->memory, resolver, NULL, NULL));
  uffd_resolver_close(resolver);
  atomic_store(&asleep, true);
  atomic_store(&sleepers, 0);
  for (unsigned i = 0; i < count; i++) {
    char *page = (char *)uffd_memory_address(slow->memory) + i * HUGE_PAGE;
    if (pthread_create(&slow->threads[i], NULL, touch_one, page) != 0) die("no thread");
  }
  while (atomic_load(&sleepers) < count) {
    nap();
  }
}

static void slow_end(struct slow *slow) {
  atomic_store(&asleep, false);
  for (unsigned i = 0; i < slow->count; i++) {
    pthread_join(slow->threads[i], NULL);
  }
  must(uffd_loop_close(slow->loop));
  uffd_memory_close(slow->memory);
}

static double stats_us(const struct cost *cost, unsigned index) {
  struct slow slow;
  struct uffd_stats stats = UFFD_STATS_INIT;
  slow_begin(&slow, UFFD_ENGINE_THREADS, (unsigned)cost->sizes[index]);
  uint64_t begin = now_ns();
  must(uffd_loop_stats(slow.loop, &stats));
  uint64_t taken = now_ns() - begin;
  slow_end(&slow);
  return (double)taken / 1000;
}

void case_cost_stats(const char *name) {
  struct cost cost = {.name = name,
                      .unit = "us",
                      .engine = "threads",
                      .size_unit = "slow callbacks",
                      .count = 3,
                      .sizes = {1, 4, 16},
                      .promised = GROWTH_FLAT,
                      .reason = "all handlers together are waited for once, for some ms at most"};
  measure(&cost, stats_us);
  report_cost(&cost);
}

static double add_us(const struct cost *cost, unsigned index) {
  struct slow slow;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop;
  uffd_memory *memory;
  uffd_resolver *resolver;
  slow_begin(&slow, UFFD_ENGINE_INLINE, (unsigned)cost->sizes[index]);
  opts.engine = UFFD_ENGINE_INLINE;
  must(uffd_loop_create(&opts, &loop));
  must(uffd_map(MIB, NULL, &memory));
  must(uffd_resolver_zero(&resolver));
  uint64_t begin = now_ns();
  must(uffd_loop_add(loop, memory, resolver, NULL, NULL));
  uint64_t taken = now_ns() - begin;
  must(uffd_loop_close(loop));
  uffd_memory_close(memory);
  uffd_resolver_close(resolver);
  slow_end(&slow);
  return (double)taken / 1000;
}

void case_cost_add(const char *name) {
  struct cost cost = {.name = name,
                      .unit = "us",
                      .engine = "inline",
                      .size_unit = "slow callbacks",
                      .count = 3,
                      .sizes = {0, 1, 8},
                      .promised = GROWTH_FLAT,
                      .reason = "another loop's callbacks are not waited for"};
  measure(&cost, add_us);
  report_cost(&cost);
}

/* Faults beside prefetches that wait for their rate */

#define FAULTS_EACH    2000u
#define PREFETCHES_MAX 5000u

static double fault_ns(const struct cost *cost, unsigned index) {
  static uffd_prefetch *prefetches[PREFETCHES_MAX];
  const unsigned count = (unsigned)cost->sizes[index];
  const struct plan plan = {.length = 64 * MIB, .engine = UFFD_ENGINE_THREADS, .placement = UFFD_PLACEMENT_NONE};
  struct uffd_prefetch_opts slowly = UFFD_PREFETCH_OPTS_INIT;
  uffd_memory *memory = serve_memory(&plan);
  uffd_loop *loop = serve_loop(&plan);
  uffd_resolver *resolver;
  uffd_region *region;
  must(uffd_resolver_pattern("A", 1, &resolver));
  must(uffd_loop_add(loop, memory, resolver, NULL, &region));
  slowly.rate = 1;
  for (unsigned i = 0; i < count; i++) {
    const struct uffd_range range = {i % 100 * PAGE, 100 * PAGE};
    must(uffd_region_prefetch_start(region, &range, 1, &slowly, &prefetches[i]));
  }
  const volatile char *half = (const char *)uffd_memory_address(memory) + plan.length / 2;
  uint64_t begin = now_ns();
  for (unsigned i = 0; i < FAULTS_EACH; i++) {
    (void)half[i * PAGE];
  }
  uint64_t taken = now_ns() - begin;
  for (unsigned i = 0; i < count; i++) {
    uffd_prefetch_close(prefetches[i]);
  }
  must(uffd_loop_close(loop));
  uffd_memory_close(memory);
  uffd_resolver_close(resolver);
  return (double)taken / FAULTS_EACH;
}

void case_cost_prefetch(const char *name) {
  struct cost cost = {.name = name,
                      .unit = "ns/fault",
                      .engine = "threads",
                      .size_unit = "prefetches",
                      .count = 3,
                      .sizes = {0, 1000, 5000},
                      .promised = GROWTH_FLAT,
                      .reason = "a prefetch that waits is looked at when its time has come"};
  measure(&cost, fault_ns);
  report_cost(&cost);
}
