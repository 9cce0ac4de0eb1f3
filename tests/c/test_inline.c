/*
 * The inline engine: faulting threads answer their own faults, and every other SIGBUS reaches its former handler.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "serving.h"

#define PAGES 512

static uffd_loop *open_inline(uint64_t features) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop;
  check_inline(&opts);
  opts.features = features;
  check_needs(features);
  CHECK_OK(uffd_loop_create(&opts, &loop));
  return loop;
}

/* A loop that serves a memory from the image. */
struct inline_case {
  uffd_loop *loop;
  uffd_memory *memory;
  uffd_region *region;
  unsigned char *at;
  uint64_t page, length;
};

static struct inline_case open_case(uint64_t features) {
  struct inline_case made = {.page = check_page()};
  made.loop = open_inline(features);
  made.memory = memory_make(MEMORY_ANON, PAGES);
  made.length = uffd_memory_length(made.memory);
  made.at = uffd_memory_address(made.memory);
  made.region = region_add(made.loop, made.memory, image_resolver(made.length), NULL);
  return made;
}

static void close_case(struct inline_case *made) {
  CHECK_OK(uffd_loop_close(made->loop));
  uffd_memory_close(made->memory);
}

static void pages_come_in_the_faulting_thread(void) {
  struct inline_case made = open_case(0);
  errno = 1234;
  for (uint64_t i = 0; i < PAGES; i++) {
    uint64_t at = (i * 37 % PAGES) * made.page;
    CHECK_EQ(made.at[at + 5], image_byte(at + 5));
  }
  CHECK_EQ(errno, 1234);
  struct uffd_stats stats = serving_stats(made.loop);
  CHECK_EQ(stats.faults, PAGES);
  CHECK_EQ(stats.copied, PAGES);
  CHECK_EQ(stats.latency_count, PAGES);
  CHECK(image_there(made.at, 0, made.length));
  close_case(&made);
}

/* The signal tells minor and missing alike: the page cache has every second page, the others come from the image. */
static void note_kind(void *ctx, const struct uffd_trace *trace) {
  uint64_t *flags = ctx;
  flags[trace->offset / check_page()] = trace->flags;
}

static void minor_and_missing_faults_in_one_region(void) {
  uint64_t flags[64] = {0};
  uint64_t page = check_page();
  uffd_loop *loop = open_inline(0);
  uffd_memory *memory = memory_make(MEMORY_MEMFD, 64);
  unsigned char *alias = uffd_memory_alias(memory);
  for (uint64_t i = 0; i < 64; i += 2) {
    memset(alias + i * page, 0xC0, page);
  }
  uffd_resolver *image = image_resolver(64 * page), *proceed;
  CHECK_OK(uffd_resolver_continue(image, &proceed));
  uffd_resolver_close(image);
  region_add(loop, memory, proceed, NULL);
  CHECK_OK(uffd_loop_trace(loop, note_kind, flags));
  for (uint64_t i = 0; i < 64; i++) {
    CHECK_EQ(*memory_at(memory, i * page), i % 2 == 0 ? 0xC0 : image_byte(i * page));
    CHECK_EQ(flags[i], i % 2 == 0 ? UFFD_FAULT_MINOR : 0);
  }
  struct uffd_stats stats = serving_stats(loop);
  CHECK_EQ(stats.minor, 32);
  CHECK_EQ(stats.missing, 32);
  CHECK_EQ(stats.continued, 32);
  CHECK_EQ(stats.copied, 32);
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
}

static int poison_second(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  bool poison = fault->offset == fault->page_size && (fault->flags & UFFD_FAULT_PREFETCH) == 0;
  answer->kind = poison ? UFFD_ANSWER_POISON : UFFD_ANSWER_ZERO;
  return 0;
}

/* Failed as: the prefetch took it for a page that was dropped since, and filled it. */
static void a_page_poisoned_while_the_tables_are_read_stays_poison(void) {
  check_needs(UFFD_FEAT_POISON);
  struct asked asked = {.answer = poison_second};
  uffd_loop *loop = open_inline(0);
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  uffd_region *region = region_add(loop, memory, asked_resolver(&asked), NULL);
  uint64_t page = check_page();
  CHECK_EQ(*memory_at(memory, 0), 0); /* a page that is there has the tables looked at */
  uffd_prefetch *prefetch;
  check_barrier_hold("tables read");
  CHECK_OK(uffd_region_prefetch_start(region, NULL, 0, NULL, &prefetch));
  check_barrier_await("tables read");
  CHECK_EQ(check_access(memory_at(memory, page), false, NULL), SIGBUS);
  check_barrier_release("tables read");
  CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
  CHECK_EQ(check_access(memory_at(memory, page), false, NULL), SIGBUS);
  CHECK_EQ(serving_stats(loop).poisoned, 1);
  CHECK_EQ(serving_stats(loop).prefetched, 2);
  uffd_prefetch_close(prefetch);
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
}

static void writes_are_told_from_reads(void) {
  struct inline_case made = open_case(0);
  made.at[0] = 7;
  CHECK_EQ(made.at[made.page], image_byte(made.page));
  CHECK_EQ(made.at[0], 7);
  CHECK_EQ(made.at[1], image_byte(1));
#if defined(__x86_64__)
  CHECK_EQ(serving_stats(made.loop).writes, 1);
#endif
  close_case(&made);
}

struct walk {
  struct inline_case *made;
  unsigned step;
};

static void walk_all(void *ctx) {
  const struct walk *walk = ctx;
  for (uint64_t i = 0; i < PAGES; i++) {
    uint64_t at = (i * walk->step % PAGES) * walk->made->page;
    CHECK_EQ(walk->made->at[at], image_byte(at));
  }
}

static void any_number_of_threads(void) {
  struct inline_case made = open_case(0);
  struct check_thread threads[24];
  struct walk walks[24];
  for (unsigned i = 0; i < 24; i++) {
    walks[i] = (struct walk){&made, 2 * i + 1};
    check_thread_start(&threads[i], walk_all, &walks[i]);
  }
  for (unsigned i = 0; i < 24; i++) {
    check_thread_join(&threads[i]);
  }
  CHECK(image_there(made.at, 0, made.length));
  CHECK_EQ(serving_stats(made.loop).copied, PAGES);
  close_case(&made);
}

/* Other SIGBUS */

static sigjmp_buf landing;
static void *volatile seen_address;

static void land(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  seen_address = info->si_addr;
  siglongjmp(landing, 1);
}

static void handle_sigbus(void (*handler)(int, siginfo_t *, void *)) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_NODEFER};
  CHECK(sigaction(SIGBUS, &action, NULL) == 0);
}

/* A mapping that its file does not reach. */
static volatile unsigned char *map_beyond_the_end(void) {
  int fd = memfd_create("short", MFD_CLOEXEC);
  void *at = mmap(NULL, check_page(), PROT_READ, MAP_SHARED, fd, 0);
  CHECK(fd >= 0 && at != MAP_FAILED);
  close(fd);
  return at;
}

static void others_go_to_the_handler_before(void) {
  handle_sigbus(land);
  struct inline_case made = open_case(0);
  volatile unsigned char *beyond = map_beyond_the_end();
  CHECK_EQ(made.at[0], image_byte(0));
  if (sigsetjmp(landing, 1) == 0) {
    (void)beyond[3];
    CHECK(!"no signal");
  }
  CHECK(seen_address == &beyond[3]);
  CHECK_EQ(made.at[made.page], image_byte(made.page));
  close_case(&made);
  if (sigsetjmp(landing, 1) == 0) {
    (void)beyond[5];
    CHECK(!"no signal");
  }
  CHECK(seen_address == &beyond[5]);
}

static void die_of_sigbus(void *ctx) {
  (void)ctx;
  struct inline_case made = open_case(0);
  volatile unsigned char *beyond = map_beyond_the_end();
  CHECK_EQ(made.at[0], image_byte(0));
  (void)*beyond;
}

static int signal_of(void (*function)(void *ctx), void *ctx) {
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    signal(SIGBUS, SIG_DFL);
    function(ctx);
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void others_kill_without_a_handler(void) {
  CHECK_EQ(signal_of(die_of_sigbus, NULL), SIGBUS);
}

static void pass_to_us(int number, siginfo_t *info, void *context) {
  if (uffd_sigbus(number, info, context) == 0) land(number, info, context);
}

static void a_later_handler_may_call_ours(void) {
  struct inline_case made = open_case(0);
  volatile unsigned char *beyond = map_beyond_the_end();
  handle_sigbus(pass_to_us);
  CHECK(image_there(made.at, 0, made.length));
  if (sigsetjmp(landing, 1) == 0) {
    (void)*beyond;
    CHECK(!"no signal");
  }
  close_case(&made);
}

static int fail_always(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault, (void)answer;
  return uffd_set_errmsg(EIO, "No.");
}

static void poison_stays_sigbus(void) {
  check_needs(UFFD_FEAT_POISON);
  handle_sigbus(land);
  uffd_loop *loop = open_inline(0);
  struct asked asked = {.answer = fail_always};
  uffd_memory *memory = memory_make(MEMORY_ANON, 2);
  region_add(loop, memory, asked_resolver(&asked), NULL);
  volatile unsigned char *at = uffd_memory_address(memory);
  for (int i = 0; i < 3; i++) {
    if (sigsetjmp(landing, 1) == 0) {
      (void)*at;
      CHECK(!"no signal");
    }
  }
  unsigned char byte;
  CHECK_EQ(asked.hits, 1);
  CHECK_ERR(uffd_memory_read(memory, 0, &byte, 1), -EHWPOISON);
  CHECK_ERR(uffd_memory_read(memory, check_page(), &byte, 1), -EHWPOISON);
  CHECK_EQ(asked.hits, 2);
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
}

static int touch_own_memory(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)answer;
  return ((volatile unsigned char *)asked->ctx)[fault->page_size] == 77; /* the next page, which is missing */
}

static void serve_oneself(void *ctx) {
  (void)ctx;
  uffd_loop *loop = open_inline(0);
  uffd_memory *memory = memory_make(MEMORY_ANON, 2);
  struct asked asked = {.answer = touch_own_memory, .ctx = uffd_memory_address(memory)};
  region_add(loop, memory, asked_resolver(&asked), NULL);
  (void)*(volatile unsigned char *)uffd_memory_address(memory);
}

static void a_callback_that_touches_its_own_memory_does_not_hang(void) {
  CHECK_EQ(signal_of(serve_oneself, NULL), SIGBUS);
}

/* System calls */

static void system_calls_get_efault_and_prefault_helps(void) {
  struct inline_case made = open_case(0);
  int ends[2];
  CHECK(pipe(ends) == 0);
  CHECK(write(ends[1], made.at, 10) < 0 && errno == EFAULT);
  CHECK_OK(uffd_memory_prefault(made.memory, 1, made.page, 0)); /* two pages */
  CHECK_EQ(write(ends[1], made.at + made.page - 5, 10), 10);
  CHECK_EQ(serving_stats(made.loop).copied, 2);
  unsigned char got[10];
  CHECK_EQ(read(ends[0], got, 10), 10);
  for (unsigned i = 0; i < 10; i++) {
    CHECK_EQ(got[i], image_byte(made.page - 5 + i));
  }
  CHECK_OK(uffd_memory_read(made.memory, 8 * made.page - 5, got, 10));
  CHECK_EQ(got[9], image_byte(8 * made.page + 4));
  CHECK_OK(uffd_memory_write(made.memory, 20 * made.page, "abc", 3));
  CHECK_EQ(made.at[20 * made.page + 1], 'b');
  CHECK_EQ(made.at[20 * made.page + 3], image_byte(20 * made.page + 3));
  CHECK_ERR(uffd_memory_prefault(made.memory, made.length, 1, 0), -ERANGE);
  close_case(&made);
}

/* Regions that come and go */

struct churn {
  struct inline_case *made;
  _Atomic bool stop;
};

static void touch_and_drop(void *ctx) {
  struct churn *churn = ctx;
  uint64_t i = 0;
  while (!atomic_load(&churn->stop)) {
    uint64_t at = (i++ * 13 % PAGES) * churn->made->page;
    CHECK_EQ(churn->made->at[at], image_byte(at));
    CHECK(madvise(churn->made->at + at, churn->made->page, MADV_DONTNEED) == 0);
  }
}

static void regions_come_and_go_while_others_fault(void) {
  struct inline_case made = open_case(0);
  struct churn churn = {.made = &made};
  struct check_thread threads[2];
  for (int i = 0; i < 2; i++) {
    check_thread_start(&threads[i], touch_and_drop, &churn);
  }
  for (int i = 0; i < 300; i++) {
    uffd_memory *memory = memory_make(MEMORY_ANON, 3);
    uffd_region *region = region_add(made.loop, memory, image_resolver(3 * made.page), NULL);
    CHECK_EQ(*memory_at(memory, made.page), image_byte(made.page));
    if (i % 2 == 0) {
      CHECK_OK(uffd_region_remove(region));
      CHECK_EQ(*memory_at(memory, 0), 0);
    } else {
      CHECK_OK(uffd_region_complete(region));
      CHECK_EQ(*memory_at(memory, 0), image_byte(0));
    }
    uffd_memory_close(memory);
    check_progress();
  }
  atomic_store(&churn.stop, true);
  for (int i = 0; i < 2; i++) {
    check_thread_join(&threads[i]);
  }
  close_case(&made);
}

/* Two loops, so that the regions of one are destroyed, removed before or never served, while the other goes on. */
static void regions_that_were_never_there_take_no_others_along(void) {
  enum { COUNT = 12 };
  uint64_t page = check_page();
  uffd_loop *loop = open_inline(0), *other = open_inline(0);
  uffd_memory *memories[COUNT];
  for (unsigned i = 0; i < COUNT; i++) {
    memories[i] = memory_make(MEMORY_ANON, 2);
    uffd_region *region = region_add(loop, memories[i], image_resolver(2 * page), NULL);
    if (i == COUNT - 1) CHECK_OK(uffd_region_remove(region));
    uffd_resolver *image = image_resolver(2 * page);
    CHECK_ERR(uffd_loop_add(other, memories[0], image, NULL, NULL), -EBUSY);
    uffd_resolver_close(image);
    if (i < COUNT - 1) CHECK_EQ(*memory_at(memories[i], 0), image_byte(0));
  }
  uffd_memory *last = memory_make(MEMORY_ANON, 1);
  CHECK_OK(uffd_region_remove(region_add(other, last, image_resolver(page), NULL)));
  CHECK_OK(uffd_loop_close(other));
  for (unsigned i = 0; i < COUNT - 1; i++) {
    CHECK_EQ(*memory_at(memories[i], page), image_byte(page));
  }
  CHECK_OK(uffd_loop_close(loop));
  for (unsigned i = 0; i < COUNT; i++) {
    uffd_memory_close(memories[i]);
  }
  uffd_memory_close(last);
}

/* A thread has raised the signal already when its region is removed, and finds no entry: it must not be killed. */
static void read_until_zero(void *ctx) {
  volatile unsigned char *at = ctx;
  uint64_t page = check_page();
  for (uint64_t i = 0; i < PAGES; i++) {
    unsigned byte = at[i * page];
    CHECK(byte == image_byte(i * page) || byte == 0);
  }
}

static void removing_a_region_while_its_threads_fault(void) {
  for (int i = 0; i < 60; i += 3) {
    struct inline_case made = open_case(0);
    struct check_thread thread;
    check_thread_start(&thread, read_until_zero, made.at);
    while (serving_stats(made.loop).faults < (uint64_t)i) {
      check_pause();
    }
    CHECK_OK(uffd_region_remove(made.region));
    check_thread_join(&thread);
    close_case(&made);
  }
}

/* The thread has its signal, and looks only when its region, and many others since, are gone. */
static void a_fault_that_is_very_late_ends_in_zeros(void) {
  for (int closes = 0; closes < 2; closes++) {
    struct inline_case made = open_case(0);
    struct check_touch touch;
    check_barrier_hold("signalled");
    check_touch_read(&touch, made.at + 7 * made.page);
    check_barrier_await("signalled");
    for (int i = 0; i < 200; i++) {
      uffd_memory *memory = memory_make(MEMORY_ANON, 1);
      uffd_region *region = region_add(made.loop, memory, image_resolver(made.page), NULL);
      if (i == 0) CHECK_OK(uffd_region_remove(made.region));
      CHECK_OK(uffd_region_remove(region));
      uffd_memory_close(memory);
    }
    if (closes) CHECK_OK(uffd_loop_close(made.loop));
    check_barrier_release("signalled");
    CHECK_EQ(check_touch_join(&touch), 0);
    if (!closes) CHECK_OK(uffd_loop_close(made.loop));
    uffd_memory_close(made.memory);
  }
}

/* Who waits for whom: a callback may be slow */

struct removal {
  uffd_region *region;
  _Atomic bool done;
};

static void remove_region(void *ctx) {
  struct removal *removal = ctx;
  CHECK_OK(uffd_region_remove(removal->region));
  atomic_store(&removal->done, true);
}

static void a_slow_answer_holds_up_nobody_but_who_removes_its_region(void) {
  struct inline_case slow = open_case(0), other = open_case(0);
  struct check_touch touch;
  check_barrier_hold("asking");
  check_touch_read(&touch, slow.at);
  check_barrier_await("asking");
  uffd_loop *loops[] = {slow.loop, other.loop};
  for (int i = 0; i < 40; i++) { /* these must return while it stands there */
    uffd_memory *memory = memory_make(MEMORY_ANON, 1);
    uffd_region *region = region_add(loops[i % 2], memory, image_resolver(slow.page), NULL);
    if (i % 4 < 2) CHECK_OK(uffd_region_remove(region));
    uffd_memory_close(memory);
  }
  CHECK_OK(uffd_loop_close(other.loop));
  struct removal removal = {.region = slow.region};
  struct check_thread remover;
  check_thread_start(&remover, remove_region, &removal);
  check_asleep(atomic_load(&remover.tid), "futex"); /* not spinning */
  CHECK(!atomic_load(&removal.done));
  check_barrier_release("asking");
  check_thread_join(&remover);
  CHECK_EQ(check_touch_join(&touch), 0); /* unregistered before it was answered */
  uffd_memory_close(other.memory);
  close_case(&slow);
}

static void threads_sleep_while_all_slots_are_taken(void) {
  enum { THREADS = 6 };
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop;
  check_inline(&opts);
  opts.handlers = 2;
  CHECK_OK(uffd_loop_create(&opts, &loop));
  uffd_memory *memory = memory_make(MEMORY_ANON, THREADS);
  region_add(loop, memory, image_resolver(THREADS * check_page()), NULL);
  struct check_touch touches[THREADS];
  check_barrier_hold("asking");
  for (unsigned i = 0; i < THREADS; i++) {
    check_touch_read(&touches[i], memory_at(memory, i * check_page()));
    if (i < opts.handlers) check_barrier_await_all("asking", i + 1);
  }
  for (unsigned i = opts.handlers; i < THREADS; i++) {
    while (atomic_load(&touches[i].tid) == 0) {
      check_pause();
    }
    check_asleep(atomic_load(&touches[i].tid), "futex");
  }
  check_barrier_release("asking");
  for (unsigned i = 0; i < THREADS; i++) {
    CHECK_EQ(check_touch_join(&touches[i]), image_byte(i * check_page()));
  }
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
}

/* Threads that are cancelled: an access to memory is not where that happens */

static _Atomic bool answers;

static int answer_later(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault;
  if (!atomic_load(&answers)) answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

struct cancelled {
  volatile unsigned char *at;
  int type;
  _Atomic bool ready, passed;
};

static void *touch_and_be_cancelled(void *ctx) {
  struct cancelled *cancelled = ctx;
  pthread_setcanceltype(cancelled->type, NULL);
  atomic_store(&cancelled->ready, true);
  (void)*cancelled->at;
  atomic_store(&cancelled->passed, true);
  pthread_testcancel();
  return NULL;
}

static void a_thread_is_not_cancelled_in_an_access(void) {
  if (check_under_tsan()) SKIP("ThreadSanitizer does not see a thread cancelled in a signal handler");
  uffd_loop *loop = open_inline(0);
  uffd_memory *memory = memory_make(MEMORY_ANON, 2);
  struct asked asked = {.answer = answer_later};
  region_add(loop, memory, asked_resolver(&asked), NULL);
  struct cancelled cancelled = {.at = memory_at(memory, 0), .type = PTHREAD_CANCEL_DEFERRED};
  pthread_t thread;
  void *result;
  CHECK_EQ(pthread_create(&thread, NULL, touch_and_be_cancelled, &cancelled), 0);
  while (atomic_load(&asked.hits) < 5) {
    check_pause();
  }
  CHECK_EQ(pthread_cancel(thread), 0);
  unsigned hits = atomic_load(&asked.hits);
  while (atomic_load(&asked.hits) < hits + 5) { /* it goes on asking */
    check_pause();
  }
  atomic_store(&answers, true);
  CHECK_EQ(pthread_join(thread, &result), 0);
  CHECK(result == PTHREAD_CANCELED && atomic_load(&cancelled.passed));
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
}

/* Cancelled anywhere, it is cancelled after its fault: the slot and the region are free. */
static void a_thread_that_is_cancelled_anywhere_leaves_nothing_taken(void) {
  if (check_under_tsan()) SKIP("ThreadSanitizer does not see a thread cancelled in a signal handler");
  static const int types[] = {PTHREAD_CANCEL_DEFERRED, PTHREAD_CANCEL_ASYNCHRONOUS};
  for (unsigned i = 0; i < 2; i++) {
    struct inline_case made = open_case(0);
    struct cancelled cancelled = {.at = made.at, .type = types[i]};
    pthread_t thread;
    check_barrier_hold("installing");
    CHECK_EQ(pthread_create(&thread, NULL, touch_and_be_cancelled, &cancelled), 0);
    check_barrier_await("installing"); /* waiting there is where a thread is cancelled */
    CHECK_EQ(pthread_cancel(thread), 0);
    check_barrier_release("installing");
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(*made.at, image_byte(0));
    CHECK_EQ(serving_stats(made.loop).copied, 1);
    CHECK_OK(uffd_region_remove(made.region));
    close_case(&made);
  }
}

/* Signals of the program, whose handlers touch served memory */

static struct inline_case interrupted;
static _Atomic unsigned interruptions;

static void touch_more(int number) {
  (void)number;
  uint64_t at = (10 + atomic_fetch_add(&interruptions, 1)) * interrupted.page;
  CHECK_EQ(interrupted.at[at], image_byte(at));
}

static void touch_first(void *ctx) {
  uint64_t at = *(const unsigned *)ctx * interrupted.page;
  CHECK_EQ(interrupted.at[at], image_byte(at));
}

/* The signal comes while the thread answers a fault of its own: it waits until that is over. */
static void a_signal_during_a_fault(void) {
  if (check_under_tsan()) SKIP("ThreadSanitizer calls signal handlers later, with SIGBUS blocked");
  struct sigaction action = {.sa_handler = touch_more};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  interrupted = open_case(0);
  for (unsigned i = 0; i < 3; i++) {
    struct check_thread thread;
    check_barrier_hold("installing");
    check_thread_start(&thread, touch_first, &i);
    check_barrier_await("installing");
    CHECK_EQ(pthread_kill(thread.thread, SIGUSR1), 0);
    check_pause();
    CHECK_EQ(atomic_load(&interruptions), i);
    check_barrier_release("installing");
    check_thread_join(&thread);
    CHECK_EQ(atomic_load(&interruptions), i + 1);
  }
  close_case(&interrupted);
}

/* Events, stacks, choosing */

static void dropped_pages_read_zeros_with_event_remove(void) {
  struct inline_case made = open_case(UFFD_FEAT_EVENT_REMOVE);
  CHECK(image_there(made.at, 0, made.length));
  CHECK(madvise(made.at, made.length / 2, MADV_DONTNEED) == 0); /* sleeps until the event is read */
  CHECK(check_filled(made.at, made.length / 2, 0));
  CHECK(image_there(made.at + made.length / 2, made.length / 2, made.length / 2));
  close_case(&made);
}

struct own_stack {
  struct inline_case *made;
  unsigned sum;
};

static __attribute__((noinline)) unsigned touch_deep(unsigned depth) {
  volatile unsigned char frame[2048];
  frame[0] = (unsigned char)depth;
  frame[sizeof(frame) - 1] = 1;
  return depth == 0 ? 0 : touch_deep(depth - 1) + frame[sizeof(frame) - 1];
}

static void *run_on_served_stack(void *ctx) {
  struct own_stack *own = ctx;
  if (uffd_signal_stack() == 0 && uffd_signal_stack() == 0) own->sum = touch_deep(400);
  return NULL;
}

static void a_thread_whose_stack_is_served(void) {
  if (check_under_tsan()) SKIP("ThreadSanitizer keeps signals from a thread whose stack it does not know");
  struct inline_case made = {.page = check_page()};
  made.loop = open_inline(0);
  made.memory = memory_make(MEMORY_ANON, PAGES);
  uffd_resolver *zero;
  CHECK_OK(uffd_resolver_zero(&zero));
  struct own_stack own = {.made = &made};
  pthread_attr_t attributes;
  pthread_t thread;
  uint64_t length = uffd_memory_length(made.memory);
  /* the thread begins on the upper part, which is there; deeper pages are served */
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.length = length / 2;
  region_add(made.loop, made.memory, zero, &opts);
  CHECK(pthread_attr_init(&attributes) == 0);
  CHECK(pthread_attr_setstack(&attributes, uffd_memory_address(made.memory), length / 2 + 64 * made.page) == 0);
  CHECK(pthread_create(&thread, &attributes, run_on_served_stack, &own) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK_EQ(own.sum, 400);
  CHECK(serving_stats(made.loop).zero > 10);
  close_case(&made);
}

static void auto_tells_what_it_chose(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  const char *why = NULL;
  uffd_loop *loop;
  opts.open_flags = UFFD_OPEN_USER_MODE_ONLY;
  check_needs(UFFD_FEAT_SIGBUS | UFFD_FEAT_POISON);
  CHECK_OK(uffd_loop_create(&opts, &loop));
  CHECK_EQ(uffd_loop_engine(loop, &why), UFFD_ENGINE_INLINE);
  CHECK(why != NULL && strstr(why, "user-mode-only") != NULL);
  CHECK_OK(uffd_loop_close(loop));
  struct uffd_probe probe = UFFD_PROBE_INIT;
  CHECK_OK(uffd_probe(&probe));
  if (probe.user_mode_only) return;
  opts.open_flags = 0;
  CHECK_OK(uffd_loop_create(&opts, &loop));
  CHECK_EQ(uffd_loop_engine(loop, NULL), UFFD_ENGINE_THREADS);
  CHECK_OK(uffd_loop_close(loop));
}

static void an_object_of_the_wrong_kind_is_refused(void) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  uffd_memory *memory = memory_make(MEMORY_ANON, 1);
  uffd_resolver *zero;
  uffd_loop *loop = open_inline(0);
  CHECK_OK(uffd_resolver_zero(&zero));
  opts.object = check_open(0);
  CHECK_ERR(uffd_loop_add(loop, memory, zero, &opts, NULL), -EINVAL);
  CHECK_SAYS("sigbus");
  CHECK_OK(uffd_loop_close(loop));
  uffd_close(opts.object);
  opts.object = check_open(UFFD_FEAT_SIGBUS);
  CHECK_OK(uffd_loop_create(NULL, &loop));
  if (uffd_loop_engine(loop, NULL) == UFFD_ENGINE_THREADS) {
    CHECK_ERR(uffd_loop_add(loop, memory, zero, &opts, NULL), -EINVAL);
    CHECK_SAYS("sigbus");
  }
  CHECK_OK(uffd_loop_close(loop));
  uffd_close(opts.object);
  uffd_resolver_close(zero);
  uffd_memory_close(memory);
}

/* Forked children */

/* An event on which nobody could act is refused, for the loop's objects and the user's. Engine auto takes threads. */
static void check_event_is_refused(uint64_t event, const char *says) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts region_opts = UFFD_REGION_OPTS_INIT;
  uffd_loop *loop;
  check_needs(UFFD_FEAT_SIGBUS | event);
  opts.features = event;
  opts.open_flags = UFFD_OPEN_USER_MODE_ONLY; /* auto would be inline */
  CHECK_OK(uffd_loop_create(&opts, &loop));
  CHECK_EQ(uffd_loop_engine(loop, NULL), UFFD_ENGINE_THREADS);
  CHECK_OK(uffd_loop_close(loop));
  opts.engine = UFFD_ENGINE_INLINE;
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EINVAL);
  CHECK_SAYS(says);

  loop = open_inline(0);
  uffd_memory *memory = memory_make(MEMORY_ANON, 1);
  uffd_resolver *image = image_resolver(check_page());
  region_opts.object = check_open(UFFD_FEAT_SIGBUS | event);
  CHECK_ERR(uffd_loop_add(loop, memory, image, &region_opts, NULL), -EINVAL);
  CHECK_SAYS(says);
  CHECK_OK(uffd_loop_close(loop));
  uffd_resolver_close(image);
  uffd_close(region_opts.object);
  uffd_memory_close(memory);
}

/* Nobody could answer: the child's faults would be signals, and the object that serves them is in the parent. */
static void telling_of_children_is_refused(void) {
  check_event_is_refused(UFFD_FEAT_EVENT_FORK, "forked child");
}

/*
 * Memory that it inherits all the same keeps its pages, and has zeros where pages were missing. The child may serve it
 * itself.
 */
static void a_child_serves_memory_of_its_own(void) {
  if (check_under_tsan()) SKIP("no threads after fork under ThreadSanitizer");
  struct inline_case made = open_case(0), own;
  struct uffd_map_opts map_opts = UFFD_MAP_OPTS_INIT;
  uffd_memory *inherited;
  map_opts.flags = UFFD_MAP_FORK;
  CHECK_OK(uffd_map(2 * made.page, &map_opts, &inherited));
  region_add(made.loop, inherited, image_resolver(2 * made.page), NULL);
  CHECK_EQ(*memory_at(inherited, 0), image_byte(0));
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    CHECK(image_there(memory_at(inherited, 0), 0, made.page));
    CHECK(check_filled(memory_at(inherited, made.page), made.page, 0));
    CHECK_EQ(check_access(made.at, false, NULL), SIGSEGV);
    own = open_case(0);
    CHECK(image_there(own.at, 0, own.length));
    close_case(&own);
    CHECK_OK(uffd_loop_close(made.loop)); /* only frees */
    _exit(0);
  }
  check_child(child);
  CHECK(image_there(made.at, 0, made.length));
  CHECK(image_there(memory_at(inherited, 0), 0, 2 * made.page));
  close_case(&made);
  uffd_memory_close(inherited);
}

/* Mappings that move */

static void telling_of_moves_is_refused(void) {
  check_event_is_refused(UFFD_FEAT_EVENT_REMAP, "mapping that moves");
}

/* Without the event, memory that moves leaves the loop: it keeps its pages, and has zeros where pages were missing. */
static void what_moves_is_ordinary_memory(void) {
  uint64_t page = check_page();
  uffd_loop *loop = open_inline(0);
  uffd_memory *memory = memory_make(MEMORY_ADOPTED, 8);
  region_add(loop, memory, image_resolver(8 * page), NULL);
  CHECK_EQ(*memory_at(memory, 3 * page), image_byte(3 * page));
  unsigned char *there = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(there != MAP_FAILED);
  CHECK(mremap(memory_at(memory, 2 * page), 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, there) == there);
  CHECK(check_filled(there, page, 0));
  CHECK(image_there(there + page, 3 * page, page));
  CHECK(image_there(memory_at(memory, 6 * page), 6 * page, page));
  CHECK_OK(uffd_loop_close(loop));
  munmap(there, 4 * page);
  uffd_memory_close(memory);
}

static const struct check_test tests[] = {
    TEST(pages_come_in_the_faulting_thread),
    TEST(minor_and_missing_faults_in_one_region),
    TEST(a_page_poisoned_while_the_tables_are_read_stays_poison),
    TEST(writes_are_told_from_reads),
    TEST(any_number_of_threads),
    TEST(others_go_to_the_handler_before),
    TEST(others_kill_without_a_handler),
    TEST(a_later_handler_may_call_ours),
    TEST(poison_stays_sigbus),
    TEST(a_callback_that_touches_its_own_memory_does_not_hang),
    TEST(system_calls_get_efault_and_prefault_helps),
    TEST(regions_come_and_go_while_others_fault),
    TEST(regions_that_were_never_there_take_no_others_along),
    TEST(removing_a_region_while_its_threads_fault),
    TEST(a_fault_that_is_very_late_ends_in_zeros),
    TEST(a_slow_answer_holds_up_nobody_but_who_removes_its_region),
    TEST(threads_sleep_while_all_slots_are_taken),
    TEST(a_thread_is_not_cancelled_in_an_access),
    TEST(a_thread_that_is_cancelled_anywhere_leaves_nothing_taken),
    TEST(a_signal_during_a_fault),
    TEST(dropped_pages_read_zeros_with_event_remove),
    TEST(a_thread_whose_stack_is_served),
    TEST(auto_tells_what_it_chose),
    TEST(an_object_of_the_wrong_kind_is_refused),
    TEST(telling_of_children_is_refused),
    TEST(a_child_serves_memory_of_its_own),
    TEST(telling_of_moves_is_refused),
    TEST(what_moves_is_ordinary_memory),
};

CHECK_MAIN(tests)
