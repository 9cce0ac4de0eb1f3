/*
 * The SIGBUS disposition after an inline loop was made: a SIGBUS that is not about a loop's fault reaches the former
 * handler as the kernel would have delivered it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "serving.h"

/* What a test does happens in a child, with a loop and without: both must end alike */

/* Shared with the children: what their handlers saw. */
struct seen {
  _Atomic int entered, code, value, blocked_usr1, blocked_usr2, blocked_bus;
};
static struct seen *seen;

static void forget(void) {
  if (seen == NULL) {
    seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(seen != MAP_FAILED);
  }
  memset(seen, 0, sizeof(*seen));
}

static uffd_loop *make_loop(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop;
  check_inline(&opts);
  CHECK_OK(uffd_loop_create(&opts, &loop));
  return loop;
}

static void set_action(void (*handler)(int, siginfo_t *, void *), int flags, int mask) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
  sigemptyset(&action.sa_mask);
  if (mask != 0) sigaddset(&action.sa_mask, mask);
  CHECK(sigaction(SIGBUS, &action, NULL) == 0);
}

/* How a loop may have been there: not at all, open, closed, closed and made again. */
enum { NO_LOOP, OPEN, CLOSED, AGAIN, WAYS };

/* The status of a child that prepares SIGBUS, makes loops in one of the ways, and acts. */
static int status_of(int way, void (*prepare)(void), void (*act)(void)) {
  forget();
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    signal(SIGBUS, SIG_DFL);
    prepare();
    uffd_loop *loop = way == NO_LOOP ? NULL : make_loop();
    if (way >= CLOSED) CHECK_OK(uffd_loop_close(loop));
    if (way == AGAIN) make_loop();
    act();
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  return status;
}

/* The same status, and the handlers have seen the same, in every way. */
static void same_in_all_ways(void (*prepare)(void), void (*act)(void)) {
  check_needs(UFFD_FEAT_SIGBUS);
  int expected = status_of(NO_LOOP, prepare, act);
  struct seen before;
  memcpy(&before, seen, sizeof(before));
  for (int way = OPEN; way < WAYS; way++) {
    CHECK_EQ(status_of(way, prepare, act), expected);
    CHECK(memcmp(&before, seen, sizeof(before)) == 0);
  }
}

#define NEEDS_THE_KERNELS_MASKS()                                                                                      \
  (check_under_tsan() ? SKIP("ThreadSanitizer calls the handlers of signals that were sent with masks of its own")     \
                      : (void)0)

/* Preparations and acts */

static void by_default(void) {}

static void ignored(void) {
  signal(SIGBUS, SIG_IGN);
}

/* A mapping that its file does not reach. */
static volatile unsigned char *map_beyond_the_end(void) {
  int fd = memfd_create("short", MFD_CLOEXEC);
  void *at = mmap(NULL, check_page(), PROT_READ, MAP_SHARED, fd, 0);
  CHECK(fd >= 0 && at != MAP_FAILED);
  close(fd);
  return at;
}

static void touch_beyond_the_end(void) {
  (void)*map_beyond_the_end();
}

static void raise_it(void) {
  raise(SIGBUS);
}

static void kill_oneself(void) {
  kill(getpid(), SIGBUS);
}

static void queue_it(void) {
  sigqueue(getpid(), SIGBUS, (union sigval){.sival_int = 77});
}

/*
 * A signal about a broken page that this thread has not touched: it arrives like a sent signal, with a code of the
 * kernel's.
 */
static void hear_of_memory_failure(void) {
  siginfo_t info = {.si_signo = SIGBUS, .si_code = BUS_MCEERR_AO};
  CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), (int)syscall(SYS_gettid), SIGBUS, &info) == 0);
}

static void (*const acts[])(void) = {touch_beyond_the_end, raise_it, kill_oneself, queue_it, hear_of_memory_failure};
#define ACTS (sizeof(acts) / sizeof(*acts))

static void the_default_action(void) {
  for (size_t i = 0; i < ACTS; i++) {
    same_in_all_ways(by_default, acts[i]);
  }
}

static void what_is_ignored(void) {
  for (size_t i = 0; i < ACTS; i++) {
    same_in_all_ways(ignored, acts[i]);
  }
}

static void note_mask(void) {
  sigset_t mask;
  CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
  atomic_store(&seen->blocked_usr1, sigismember(&mask, SIGUSR1));
  atomic_store(&seen->blocked_usr2, sigismember(&mask, SIGUSR2));
  atomic_store(&seen->blocked_bus, sigismember(&mask, SIGBUS));
}

/* A fault is mended: a page is mapped there, and the access goes on. */
static void note(int number, siginfo_t *info, void *context) {
  CHECK(number == SIGBUS && context != NULL);
  atomic_fetch_add(&seen->entered, 1);
  atomic_store(&seen->code, info->si_code);
  atomic_store(&seen->value, info->si_code == SI_QUEUE ? info->si_value.sival_int : 0);
  note_mask();
  if (info->si_code != BUS_ADRERR) return;
  CHECK(mmap(info->si_addr, check_page(), PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == info->si_addr);
}

static void note_number(int number) {
  CHECK_EQ(number, SIGBUS);
  atomic_fetch_add(&seen->entered, 1);
  note_mask();
}

static void handled(void) {
  set_action(note, 0, SIGUSR1);
}

static void handled_with_nodefer(void) {
  set_action(note, SA_NODEFER, SIGUSR2);
}

static void handled_once(void) {
  set_action(note, (int)SA_RESETHAND, 0);
}

static void handled_by_number(void) {
  struct sigaction action = {.sa_handler = note_number};
  sigaddset(&action.sa_mask, SIGUSR1);
  CHECK(sigaction(SIGBUS, &action, NULL) == 0);
}

static void a_handler_has_its_mask_and_its_siginfo(void) {
  NEEDS_THE_KERNELS_MASKS();
  for (size_t i = 0; i < ACTS; i++) {
    same_in_all_ways(handled, acts[i]);
    CHECK_EQ(atomic_load(&seen->entered), 1);
    same_in_all_ways(handled_with_nodefer, acts[i]);
    if (acts[i] != touch_beyond_the_end) same_in_all_ways(handled_by_number, acts[i]);
  }
}

static void act_twice(void) {
  raise_it();
  sigset_t mask;
  CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
  CHECK_EQ(sigismember(&mask, SIGUSR1) + sigismember(&mask, SIGBUS), 0);
  touch_beyond_the_end();
}

static void a_handler_is_called_again_unless_it_is_reset(void) {
  NEEDS_THE_KERNELS_MASKS();
  same_in_all_ways(handled, act_twice);
  CHECK_EQ(atomic_load(&seen->entered), 2);
  same_in_all_ways(handled_once, act_twice);
  CHECK_EQ(atomic_load(&seen->entered), 1);
}

/* System calls go on, or not, as they did */

static void read_a_byte(void *ctx) {
  char byte;
  atomic_store(&seen->value, read(*(const int *)ctx, &byte, 1) == 1 ? 1 : -errno);
}

static _Atomic bool restarted;

static void note_interruption(int number) {
  (void)number;
  atomic_store(&restarted, true);
}

/* SIGUSR1 comes after SIGBUS: when its handler has run, it is settled how the read goes on. */
static void interrupt_a_read(void) {
  int ends[2];
  struct sigaction restarts = {.sa_handler = note_interruption, .sa_flags = SA_RESTART};
  CHECK(pipe(ends) == 0 && sigaction(SIGUSR1, &restarts, NULL) == 0);
  struct check_thread thread;
  check_thread_start(&thread, read_a_byte, &ends[0]);
  check_asleep(atomic_load(&thread.tid), "pipe");
  CHECK(pthread_kill(thread.thread, SIGBUS) == 0);
  pthread_kill(thread.thread, SIGUSR1); /* which may have ended */
  while (!atomic_load(&restarted) && !atomic_load(&thread.done)) {
    check_pause();
  }
  CHECK(write(ends[1], "x", 1) == 1);
  check_thread_join(&thread);
}

static void handled_with_restart(void) {
  set_action(note, SA_RESTART, 0);
}

static void system_calls_are_interrupted_as_they_were(void) {
  if (check_under_tsan()) SKIP("ThreadSanitizer interrupts every system call");
  same_in_all_ways(ignored, interrupt_a_read);
  CHECK_EQ(atomic_load(&seen->value), 1);
  same_in_all_ways(handled, interrupt_a_read);
  CHECK_EQ(atomic_load(&seen->value), -EINTR);
  same_in_all_ways(handled_with_restart, interrupt_a_read);
  CHECK_EQ(atomic_load(&seen->value), 1);
}

/* Handlers that are put over ours */

static struct sigaction chained; /* what a program's handler has found, and goes on to */

static void go_on(int number, siginfo_t *info, void *context) {
  CHECK(atomic_fetch_add(&seen->entered, 1) < 100);
  if ((chained.sa_flags & SA_SIGINFO) != 0) {
    chained.sa_sigaction(number, info, context);
  } else if (chained.sa_handler != SIG_DFL && chained.sa_handler != SIG_IGN) {
    chained.sa_handler(number);
  } else {
    signal(SIGBUS, SIG_DFL);
    raise(SIGBUS);
  }
}

static void ask_first(int number, siginfo_t *info, void *context) {
  if (uffd_sigbus(number, info, context) == 0) go_on(number, info, context);
}

static void chain(void (*handler)(int, siginfo_t *, void *)) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGBUS, &action, &chained) == 0);
}

static void serve_a_page(uffd_loop *loop) {
  uffd_memory *memory = memory_make(MEMORY_ANON, 2);
  region_add(loop, memory, image_resolver(2 * check_page()), NULL);
  CHECK_EQ(*memory_at(memory, 0), image_byte(0));
  uffd_memory_close(memory); /* the loop has it as long as it serves it */
}

/* Each time a loop is made, and the same handler put over ours: what it has found is ours, over itself. */
static void chain_in_circles(void) {
  for (int i = 0; i < 30; i++) {
    uffd_loop *loop = make_loop();
    serve_a_page(loop);
    chain(i % 2 == 0 ? go_on : ask_first);
    serve_a_page(loop);
    CHECK_OK(uffd_loop_close(loop));
  }
  serve_a_page(make_loop());
  atomic_store(&seen->entered, 0); /* they were entered for pages of ours as well */
  touch_beyond_the_end();
}

static void chains_end(void) {
  int status = status_of(NO_LOOP, by_default, chain_in_circles);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
  CHECK(atomic_load(&seen->entered) > 0);
  status = status_of(NO_LOOP, handled, chain_in_circles); /* note() mends it */
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static sigjmp_buf landing;

static void jump_out(int number, siginfo_t *info, void *context) {
  (void)number, (void)info, (void)context;
  siglongjmp(landing, 1);
}

/* The same place on the stack each time: nothing may be left of a handler that did not return. */
static void land_on(volatile unsigned char *beyond) {
  if (sigsetjmp(landing, 1) == 0) {
    (void)*beyond;
    CHECK(!"no signal");
  }
}

static void handlers_that_jump_out_leave_nothing(void) {
  volatile unsigned char *beyond = map_beyond_the_end();
  set_action(jump_out, SA_NODEFER, 0);
  forget();
  uffd_loop *loop = make_loop();
  for (int i = 0; i < 3; i++) {
    land_on(beyond);
  }
  chain(go_on);
  for (int i = 0; i < 3; i++) {
    land_on(beyond);
  }
  serve_a_page(loop);
  CHECK_EQ(atomic_load(&seen->entered), 4); /* one of them for our page */
  CHECK_OK(uffd_loop_close(loop));
}

/*
 * An access is repeated once if a region was removed since the thread's last signal. Otherwise there is no doubt that
 * it fails.
 */
static void what_is_not_ours_goes_on_at_once(void) {
  volatile unsigned char *beyond = map_beyond_the_end();
  set_action(jump_out, SA_NODEFER, 0);
  forget();
  uffd_loop *loop = make_loop();
  serve_a_page(loop);
  chain(go_on);
  for (int i = 1; i <= 3; i++) {
    land_on(beyond);
    CHECK_EQ(atomic_load(&seen->entered), i);
  }
  CHECK_OK(uffd_loop_close(loop));
  land_on(beyond);
  CHECK_EQ(atomic_load(&seen->entered), 5);
  land_on(beyond);
  CHECK_EQ(atomic_load(&seen->entered), 6);
}

/*
 * The handler knows nothing of uffd, and does not call the one before it: the next loop works all the same, and the
 * handler gets the signals that are its own.
 */
static void a_handler_that_is_installed_later(void) {
  forget();
  uffd_loop *loop = make_loop();
  CHECK_OK(uffd_loop_close(loop));
  set_action(note, 0, 0);
  loop = make_loop();
  serve_a_page(loop);
  CHECK_EQ(atomic_load(&seen->entered), 0);
  touch_beyond_the_end();
  CHECK_EQ(atomic_load(&seen->entered), 1);
  CHECK_OK(uffd_loop_close(loop));
  touch_beyond_the_end();
  CHECK_EQ(atomic_load(&seen->entered), 2);
}

static void a_child_that_resets_it_makes_its_own_loop(void) {
  if (check_under_tsan()) SKIP("no threads after fork under ThreadSanitizer");
  uffd_loop *loop = make_loop();
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    CHECK_OK(uffd_loop_close(loop));
    signal(SIGBUS, SIG_DFL);
    loop = make_loop();
    serve_a_page(loop);
    CHECK_OK(uffd_loop_close(loop));
    _exit(0);
  }
  check_child(child);
  serve_a_page(loop);
  CHECK_OK(uffd_loop_close(loop));
}

/* Each of another mask, so that none is like another. */
static void too_many_different_handlers_are_refused(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop;
  check_inline(&opts);
  int result = 0;
  for (int i = 1; i < 20 && result == 0; i++) {
    set_action(note, 0, SIGRTMIN + i);
    result = uffd_loop_create(&opts, &loop);
    if (result == 0) {
      serve_a_page(loop);
      CHECK_OK(uffd_loop_close(loop));
    }
  }
  CHECK_ERR(result, -EBUSY);
  CHECK_SAYS("SIGBUS handlers");
}

static const struct check_test tests[] = {
    TEST(the_default_action),
    TEST(what_is_ignored),
    TEST(a_handler_has_its_mask_and_its_siginfo),
    TEST(a_handler_is_called_again_unless_it_is_reset),
    TEST(system_calls_are_interrupted_as_they_were),
    TEST(chains_end),
    TEST(handlers_that_jump_out_leave_nothing),
    TEST(what_is_not_ours_goes_on_at_once),
    TEST(a_handler_that_is_installed_later),
    TEST(a_child_that_resets_it_makes_its_own_loop),
    TEST(too_many_different_handlers_are_refused),
};

CHECK_MAIN(tests)
