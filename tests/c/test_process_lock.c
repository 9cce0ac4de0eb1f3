/*
 * What the whole process shares has a lock, which a fork copies as it is: perhaps held by a thread that the child does
 * not have. The child must not wait for it.
 */
#define _GNU_SOURCE
#include <signal.h>

#include "base/base.h"
#include "serving.h"

/* Each call stands at a barrier with a lock held */

static void ignore(void *ctx, int level, const char *sentence) {
  (void)ctx, (void)level, (void)sentence;
}

static void set_log(void *ctx) {
  (void)ctx;
  uffd_set_log(ignore, NULL);
}

static uffd_loop *make_loop(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop;
  check_inline(&opts);
  CHECK_OK(uffd_loop_create(&opts, &loop));
  return loop;
}

static void serve(void *ctx) {
  (void)ctx;
  uffd_loop *loop = make_loop();
  uffd_memory *memory = memory_make(MEMORY_ANON, 2);
  region_add(loop, memory, image_resolver(2 * check_page()), NULL);
  CHECK_EQ(*memory_at(memory, 0), image_byte(0));
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
}

struct held_lock {
  const char *barrier;
  void (*call)(void *ctx);
};
static const struct held_lock locks[] = {{"log", set_log}, {"claims", serve}, {"directory", serve}, {"sigbus", serve}};

/* The child closes what it has inherited, and does all that needs those locks. */
static void do_everything(uffd_loop *inherited) {
  atomic_store(&uffd_barrier_hook, NULL);
  signal(SIGBUS, SIG_DFL);
  CHECK_OK(uffd_loop_close(inherited)); /* only frees */
  set_log(NULL);
  serve(NULL);
  serve(NULL);
}

static void a_child_finds_them_free(void) {
  if (check_under_tsan()) SKIP("no threads after fork under ThreadSanitizer");
  check_needs(UFFD_FEAT_SIGBUS);
  for (size_t i = 0; i < sizeof(locks) / sizeof(*locks); i++) {
    uffd_loop *loop = make_loop();
    uffd_memory *memory = memory_make(MEMORY_ANON, 1);
    region_add(loop, memory, image_resolver(check_page()), NULL);
    struct check_thread thread;
    check_barrier_hold(locks[i].barrier);
    check_thread_start(&thread, locks[i].call, NULL);
    check_barrier_await(locks[i].barrier);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
      do_everything(loop);
      _exit(0);
    }
    check_child(child);
    check_barrier_release(locks[i].barrier);
    check_thread_join(&thread);
    CHECK_OK(uffd_loop_close(loop));
    uffd_memory_close(memory);
  }
}

/* The log: written in signal handlers, which may have interrupted the very thread that sets it */
static _Atomic unsigned said;

static void count(void *ctx, int level, const char *sentence) {
  (void)level, (void)sentence;
  CHECK(ctx == &said);
  atomic_fetch_add(&said, 1);
}

static void log_something(void) {
  uffd_log(UFFD_LOG_INFO, "From a signal handler.");
}

static void set_no_log(void *ctx) {
  (void)ctx;
  uffd_set_log(NULL, NULL);
}

static void nobody_waits_for_whoever_sets_the_log(void) {
  uffd_set_log(count, &said);
  struct check_thread thread;
  check_barrier_hold("log");
  check_thread_start(&thread, set_no_log, NULL);
  check_barrier_await("log");
  log_something(); /* as a handler that has interrupted that thread would: the lock is held as long as it waits */
  CHECK_EQ(atomic_load(&said), 1);
  check_barrier_release("log");
  check_thread_join(&thread);
  log_something();
  CHECK_EQ(atomic_load(&said), 1);
}

static const struct check_test tests[] = {
    TEST(a_child_finds_them_free),
    TEST(nobody_waits_for_whoever_sets_the_log),
};

CHECK_MAIN(tests)
