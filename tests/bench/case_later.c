/*
 * How late is a page whose bytes are fetched? The resolver says LATER, a thread has the bytes two milliseconds
 * afterwards, and the clock runs from then until the access has gone on.
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>

#include "bench.h"

#define TOUCHES 100u
#define FETCH   2000000 /* ns */

struct fetching {
  bool rings;
  _Atomic uint64_t there; /* the page that has come, and 1 */
  _Atomic uint64_t asked; /* the page that is wanted, and 1; 0: the end */
  uint64_t there_ns;
  sem_t wanted;
};

/* Inline, threads have slots of their own; the benchmark's one thread takes any of them. */
static const void *keys[64];
static uint32_t keys_count;

static int setup(void *ctx, const struct uffd_handler *handler, void **state) {
  (void)ctx, (void)state;
  keys[handler->index] = handler->key;
  keys_count = handler->count;
  return 0;
}

static int resolve(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  struct fetching *fetching = ctx;
  uint64_t wanted = fault->offset + 1;
  (void)state;
  if (atomic_load(&fetching->there) == wanted) {
    answer->kind = UFFD_ANSWER_BYTES;
    answer->data = constant_page();
    return 0;
  }
  answer->kind = UFFD_ANSWER_LATER;
  if (atomic_exchange(&fetching->asked, wanted) != wanted) sem_post(&fetching->wanted);
  return 0;
}

static void *fetch(void *ctx) {
  struct fetching *fetching = ctx;
  const struct timespec time = {0, FETCH};
  for (;;) {
    while (sem_wait(&fetching->wanted) != 0) {
    }
    uint64_t wanted = atomic_load(&fetching->asked);
    if (wanted == 0) return NULL;
    nanosleep(&time, NULL);
    fetching->there_ns = now_ns();
    atomic_store(&fetching->there, wanted);
    for (uint32_t i = 0; fetching->rings && i < keys_count; i++) {
      uffd_handler_ready(keys[i]);
    }
  }
}

static void touch(const struct plan *plan, bool rings, double figures[FIGURES]) {
  const struct uffd_callback_ops ops = {.size = sizeof(ops), .setup = setup, .resolve = resolve};
  struct fetching fetching = {.rings = rings};
  uint32_t late[TOUCHES];
  pthread_t fetcher;
  uffd_resolver *resolver;
  uffd_memory *memory = serve_memory(plan);
  uffd_loop *loop = serve_loop(plan);
  sem_init(&fetching.wanted, 0, 0);
  must(uffd_resolver_callback(&ops, &fetching, NULL, NULL, 0, &resolver));
  serve_region(loop, plan, memory, resolver);
  if (pthread_create(&fetcher, NULL, fetch, &fetching) != 0) die("no thread");
  const volatile char *at = uffd_memory_address(memory);
  for (uint32_t i = 0; i < TOUCHES; i++) {
    if (at[i * PAGE] != CONSTANT_BYTE) die("page %u is wrong", i);
    late[i] = (uint32_t)(now_ns() - fetching.there_ns);
  }
  atomic_store(&fetching.asked, 0);
  sem_post(&fetching.wanted);
  pthread_join(fetcher, NULL);
  figures[MAIN] = percentile(late, TOUCHES, 0.5) / 1000;
  figures[TAIL] = percentile(late, TOUCHES, 0.9) / 1000;
  must(uffd_loop_close(loop));
  uffd_memory_close(memory);
  uffd_resolver_close(resolver);
}

static void touch_with_bell(const struct plan *plan, bool check, double figures[FIGURES]) {
  (void)check;
  touch(plan, true, figures);
}

static void touch_without(const struct plan *plan, bool check, double figures[FIGURES]) {
  (void)check;
  touch(plan, false, figures);
}

static void measure(const char *name, uint32_t engine) {
  const struct plan plan = {.length = TOUCHES * PAGE, .contents = CONSTANT, .engine = engine};
  struct contender list[] = {{.run = touch_with_bell, .plan = &plan}, {.run = touch_without, .plan = &plan}};
  struct row row = {.name = name, .unit = "us late", .engine = engine_name(engine)};
  row.runs = RUNS_WITHIN(list, BUDGET_NS);
  row.uffd = list[0].figures[MAIN];
  row.base = list[1].figures[MAIN];
  row.base_name = "asked again by time";
  row.most = 200;
  explain(&row, "of ten, nine are at most %.0f us late; asked again by time %.0f us", list[0].figures[TAIL].median,
          list[1].figures[TAIL].median);
  report(&row);
}

void case_later(const char *name) {
  measure(name, UFFD_ENGINE_THREADS);
  measure(name, UFFD_ENGINE_INLINE);
}
