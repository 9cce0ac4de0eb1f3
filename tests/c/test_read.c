/* Reading events: one and many, waiting and not, alone and with others; signals; what becomes of a message. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "check.h"
#include "kernel/object.h"

static uffd_object *object;

static struct check_area registered(uint64_t features, uint64_t count) {
  if (object == NULL) object = check_open(features);
  struct check_area area = check_map(CHECK_ANON, count);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, UFFD_MODE_MISSING, NULL));
  return area;
}

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void bad_arguments(void) {
  object = check_open(0);
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 0, 0), -EINVAL);
  CHECK_ERR(uffd_read(object, &event, 1, -2), -EINVAL);
  uffd_close(object);
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.flags = UFFD_OPEN_BLOCKING;
  CHECK_OK(uffd_open(&opts, &object));
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EINVAL);
  CHECK_ERR(uffd_read(object, &event, 1, 100), -EINVAL);
  CHECK_SAYS("UFFD_OPEN_BLOCKING");
  uffd_close(object);
}

static void nothing_there(void) {
  object = check_open(0);
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  int64_t start = now_ms();
  CHECK_EQ(uffd_read(object, &event, 1, 30), 0);
  CHECK(now_ms() - start >= 30); /* never early */
  uffd_close(object);
}

static void a_fault_ends_the_wait(void) {
  struct check_area area = registered(UFFD_FEAT_THREAD_ID, 1);
  struct check_touch touch;
  check_touch_write(&touch, area.at + 100, 7);
  struct uffd_event event;
  CHECK_EQ(uffd_read(object, &event, 1, 60000), 1);
  CHECK_EQ(event.type, UFFD_PAGEFAULT);
  CHECK_EQ(event.address, CHECK_ADDRESS(area.at));
  CHECK_EQ(event.flags, UFFD_FAULT_WRITE);
  CHECK_EQ(event.tid, touch.tid);
  CHECK(event.object == NULL);
  CHECK_OK(uffd_zeropage(object, event.address, area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 7);
  CHECK_EQ(area.at[100], 7);
  uffd_close(object);
}

static void exact_address(void) {
  struct check_area area = registered(UFFD_FEAT_EXACT_ADDRESS, 1);
  struct check_touch touch;
  check_touch_read(&touch, area.at + 1234);
  struct uffd_event event = check_fault(object);
  CHECK_EQ(event.address, CHECK_ADDRESS(area.at) + 1234);
  CHECK_EQ(event.tid, 0);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(area.at), area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

/* More faults than one read gives: all come, in the order in which they were raised. */
#define CROWD 70

static void many_at_once(void) {
  struct check_area area = registered(0, CROWD);
  static struct check_touch touches[CROWD];
  for (unsigned i = 0; i < CROWD; i++) {
    check_touch_read(&touches[i], area.at + i * area.page);
    check_touch_asleep(&touches[i]);
  }
  uint64_t pending = 0, total = 0;
  CHECK_OK(uffd_pending(object, &pending, &total));
  CHECK_EQ(pending, CROWD);
  CHECK_EQ(total, CROWD);
  static struct uffd_event events[2 * CROWD];
  CHECK_EQ(uffd_read(object, events, 3, 0), 3);
  CHECK_EQ(uffd_read(object, events + 3, 2 * CROWD, 0), UFFD_READ_MAX);
  CHECK_OK(uffd_pending(object, &pending, &total));
  CHECK_EQ(pending, CROWD - 3 - UFFD_READ_MAX);
  CHECK_EQ(total, CROWD);
  CHECK_EQ(uffd_read(object, events + 3 + UFFD_READ_MAX, CROWD, 0), CROWD - 3 - (int)UFFD_READ_MAX);
  CHECK_ERR(uffd_read(object, events, 1, 0), -EAGAIN);
  for (unsigned i = 0; i < CROWD; i++)
    CHECK_EQ(events[i].address, CHECK_ADDRESS(area.at) + i * area.page);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(area.at), area.length, 0, NULL));
  for (unsigned i = 0; i < CROWD; i++)
    CHECK_EQ(check_touch_join(&touches[i]), 0);
  CHECK_OK(uffd_pending(object, NULL, &total));
  CHECK_EQ(total, 0);
  uffd_close(object);
}

/* poll says yes, then the page comes from elsewhere, and the message is gone: not an error. */
static void resolved_before_it_was_read(void) {
  struct check_area area = registered(0, 1);
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  check_touch_asleep(&touch);
  struct pollfd descriptor = {.fd = CHECK_OK(uffd_fd(object)), .events = POLLIN};
  CHECK_EQ(poll(&descriptor, 1, 0), 1);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(area.at), area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  uffd_close(object);
}

/* Blocking objects */

static void a_blocking_object_reads_and_stays_blocking(void) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.flags = UFFD_OPEN_BLOCKING;
  check_needs(0);
  CHECK_OK(uffd_open(&opts, &object));
  struct check_area area = registered(0, 2);
  int fd = CHECK_OK(uffd_fd(object));
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(area.at));
  CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(area.at), area.length, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

/* Several readers */

struct reader {
  struct check_thread thread;
  int count;
};

static void read_and_answer(void *ctx) {
  struct reader *reader = ctx;
  for (;;) {
    struct uffd_event event;
    int rc = uffd_read(object, &event, 1, -1);
    if (rc == -EBADF) return;
    CHECK_EQ(CHECK_OK(rc), 1);
    reader->count++;
    CHECK_OK(uffd_zeropage(object, event.address, check_page(), 0, NULL));
  }
}

static void several_readers(uint32_t flags) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.flags = flags;
  check_needs(0);
  CHECK_OK(uffd_open(&opts, &object));
  struct check_area area = registered(0, 200);
  struct reader readers[3] = {{.count = 0}};
  for (int i = 0; i < 3; i++)
    check_thread_start(&readers[i].thread, read_and_answer, &readers[i]);
  unsigned sum = 0;
  for (unsigned i = 0; i < 200; i++)
    sum += area.at[i * area.page];
  CHECK_EQ(sum, 0);
  for (int i = 0; i < 3; i++)
    check_asleep(readers[i].thread.tid, "poll"); /* inside a call: between two of them the handle must not go away */
  uffd_close(object);
  for (int i = 0; i < 3; i++)
    check_thread_join(&readers[i].thread);
  CHECK_EQ(readers[0].count + readers[1].count + readers[2].count, 200);
}
static void several_readers_polling(void) {
  several_readers(0);
}
static void several_readers_blocking(void) {
  several_readers(UFFD_OPEN_BLOCKING);
}

/* Signals */

static _Atomic int handled;

static void on_signal(int signal) {
  (void)signal;
  atomic_fetch_add(&handled, 1);
}

static void read_one(void *ctx) {
  *(struct uffd_event *)ctx = check_fault(object);
}

static void a_signal_does_not_end_the_wait(void) {
  struct check_area area = registered(0, 1);
  struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART */
  sigaction(SIGUSR1, &action, NULL);
  struct uffd_event event = {0};
  struct check_thread reader;
  check_thread_start(&reader, read_one, &event);
  for (int i = 1; i <= 3; i++) {
    check_asleep(reader.tid, "poll");
    pthread_kill(reader.thread, SIGUSR1);
    while (atomic_load(&handled) < i)
      check_pause();
  }
  CHECK(!atomic_load(&reader.done));
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  check_thread_join(&reader);
  CHECK_EQ(event.address, CHECK_ADDRESS(area.at));
  CHECK_OK(uffd_zeropage(object, event.address, area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

/* A handled signal interrupts the sleep in a fault: the access faults again, and the message comes twice. */
static void a_signal_in_a_fault_brings_a_second_message(void) {
  struct check_area area = registered(0, 1);
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, NULL);
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(area.at));
  check_touch_asleep(&touch);
  pthread_kill(touch.thread, SIGUSR1);
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(area.at));
  if (!check_under_tsan())
    CHECK_EQ(atomic_load(&handled), 1); /* there it is held back until the thread calls something */
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(area.at), area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

/* A raw read with a bad buffer loses its message: what uffd_read() must never do. The thread is woken to fault again.
 */
static void a_bad_buffer_loses_the_message(void) {
  struct check_area area = registered(0, 1);
  int fd = CHECK_OK(uffd_fd(object));
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  check_touch_asleep(&touch);
  /* By the bare system call: a sanitizer would look at the buffer. */
  CHECK_EQ(syscall(SYS_read, fd, (void *)64, sizeof(struct uffd_raw_msg)), -1);
  CHECK_EQ(errno, EFAULT);
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  uint64_t pending = 9, total = 0;
  CHECK_OK(uffd_pending(object, &pending, &total));
  CHECK_EQ(pending, 0);
  CHECK_EQ(total, 1);
  CHECK_OK(uffd_wake(object, CHECK_ADDRESS(area.at), area.page));
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(area.at));
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(area.at), area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

/* Somebody who made the descriptor blocking is told, and nobody spins. */
static void wait_for_nothing(void *ctx) {
  (void)ctx;
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, -1), -EINVAL);
  CHECK_SAYS("blocking");
}

static void made_blocking_by_somebody(void) {
  object = check_open(0);
  int fd = CHECK_OK(uffd_fd(object));
  check_barrier_hold("read.waiting");
  struct check_thread reader;
  check_thread_start(&reader, wait_for_nothing, NULL);
  check_barrier_await("read.waiting");
  CHECK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) == 0);
  check_barrier_release("read.waiting");
  check_thread_join(&reader);
  uffd_close(object);
}

static const struct check_test tests[] = {
    TEST(bad_arguments),
    TEST(nothing_there),
    TEST(a_fault_ends_the_wait),
    TEST(exact_address),
    TEST(many_at_once),
    TEST(resolved_before_it_was_read),
    TEST(a_blocking_object_reads_and_stays_blocking),
    TEST(several_readers_polling),
    TEST(several_readers_blocking),
    TEST(a_signal_does_not_end_the_wait),
    TEST(a_signal_in_a_fault_brings_a_second_message),
    TEST(a_bad_buffer_loses_the_message),
    TEST(made_blocking_by_somebody),
};
CHECK_MAIN(tests)
