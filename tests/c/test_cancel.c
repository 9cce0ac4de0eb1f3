/*
 * Threads that are cancelled (pthread_cancel) in calls that wait: nothing of theirs stays counted, locked or posted.
 */
#define _GNU_SOURCE
#include "serving.h"

/* A thread that makes one call, and is cancelled in it */

struct call {
  void (*make)(struct call *call);
  void *object; /* what it is made on */
  void *other;
  int result;
  pthread_t thread;
  _Atomic int tid;
  _Atomic bool returned;
};

static void *run(void *ctx) {
  struct call *call = ctx;
  atomic_store(&call->tid, gettid());
  call->make(call);
  atomic_store(&call->returned, true);
  pthread_testcancel();
  return NULL;
}

/* Returns when it sleeps in the kernel in a function whose name holds this text. */
static void start(struct call *call, const char *where) {
  CHECK_EQ(pthread_create(&call->thread, NULL, run, call), 0);
  while (atomic_load(&call->tid) == 0) {
    check_pause();
  }
  check_asleep(atomic_load(&call->tid), where);
}

static void cancel(struct call *call) {
  CHECK_EQ(pthread_cancel(call->thread), 0);
}

/* returns: it is cancelled when the call has returned, with result 0. Otherwise where it waited. */
static void join(struct call *call, bool returns) {
  void *result;
  CHECK_EQ(pthread_join(call->thread, &result), 0);
  CHECK(result == PTHREAD_CANCELED);
  CHECK_EQ(atomic_load(&call->returned), returns);
  CHECK_EQ(call->result, 0);
}

/* uffd_read() ends */

static void make_read(struct call *call) {
  struct uffd_event event;
  call->result = uffd_read(call->object, &event, 1, -1);
}

static void reading_ends_and_the_object_closes(void) {
  for (int blocking = 0; blocking < 2; blocking++) {
    struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
    uffd_object *object;
    opts.flags = blocking ? UFFD_OPEN_BLOCKING : 0;
    CHECK_OK(uffd_open(&opts, &object));
    struct call call = {.make = make_read, .object = object};
    start(&call, "poll");
    cancel(&call);
    join(&call, false);
    uffd_close(object); /* waits for whoever reads */
  }
}

/* Calls that wait for a loop return first */

struct busy {
  struct serving serving;
  uffd_memory *memory, *other;
  uffd_region *region;
};

static struct busy open_busy(void) {
  struct busy busy;
  serving_open(&busy.serving, ENGINE_ONE, NULL);
  busy.memory = memory_make(MEMORY_ANON, 8);
  busy.other = memory_make(MEMORY_ANON, 8);
  busy.region = region_add(busy.serving.loop, busy.memory, image_resolver(8 * check_page()), NULL);
  return busy;
}

static void close_busy(struct busy *busy) {
  serving_close(&busy->serving);
  uffd_memory_close(busy->memory);
  uffd_memory_close(busy->other);
}

static void make_prefetch(struct call *call) {
  call->result = uffd_region_prefetch(call->object, 0, 0);
}

static void make_complete(struct call *call) {
  call->result = uffd_region_complete(call->object);
}

static void make_remove(struct call *call) {
  call->result = uffd_region_remove(call->object);
}

static void make_add(struct call *call) {
  uffd_resolver *image = image_resolver(8 * check_page());
  call->result = uffd_loop_add(call->object, call->other, image, NULL, NULL);
  uffd_resolver_close(image);
}

/* The loop's reader stands at a barrier, in a prefetch; the call waits for it. */
static void cancel_while_the_reader_is_busy(void (*make)(struct call *), bool on_loop) {
  struct busy busy = open_busy();
  struct call prefetch = {.make = make_prefetch, .object = busy.region};
  struct call call = {.make = make, .object = busy.region, .other = busy.other};
  if (on_loop) call.object = busy.serving.loop;
  check_barrier_hold("asking");
  start(&prefetch, "futex");
  check_barrier_await("asking");
  if (make != make_prefetch) start(&call, "futex");
  cancel(make != make_prefetch ? &call : &prefetch);
  check_barrier_release("asking");
  if (make != make_prefetch) {
    join(&call, true);
    pthread_join(prefetch.thread, NULL);
  } else {
    join(&prefetch, true);
  }
  CHECK_EQ(*memory_at(busy.memory, 0), image_byte(0)); /* it was prefetched before it could be removed */
  if (make == make_add) CHECK_EQ(*memory_at(busy.other, 0), image_byte(0));
  close_busy(&busy);
}

static void prefetching(void) {
  cancel_while_the_reader_is_busy(make_prefetch, false);
}

static void completing(void) {
  cancel_while_the_reader_is_busy(make_complete, false);
}

static void removing(void) {
  cancel_while_the_reader_is_busy(make_remove, false);
}

static void adding(void) {
  cancel_while_the_reader_is_busy(make_add, true);
}

static void make_close(struct call *call) {
  call->result = uffd_loop_close(call->object);
}

static void closing(void) {
  struct busy busy = open_busy();
  struct call prefetch = {.make = make_prefetch, .object = busy.region};
  struct call call = {.make = make_close, .object = busy.serving.loop};
  check_barrier_hold("asking");
  start(&prefetch, "futex");
  check_barrier_await("asking");
  start(&call, "futex");
  cancel(&call);
  check_barrier_release("asking");
  join(&call, true);
  pthread_join(prefetch.thread, NULL);
  uffd_memory_close(busy.memory);
  uffd_memory_close(busy.other);
}

static void make_memory_read(struct call *call) {
  unsigned char byte;
  call->result = uffd_memory_read(call->object, 0, &byte, 1);
  if (call->result == 0) CHECK_EQ(byte, image_byte(0));
}

/* A page that the kernel may not ask for is asked for by a job, or by the thread itself. */
static void reading_memory(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct serving serving;
  opts.open_flags = UFFD_OPEN_USER_MODE_ONLY;
  serving_open(&serving, ENGINE_ONE, &opts);
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(8 * check_page()), NULL);
  struct call call = {.make = make_memory_read, .object = memory};
  check_barrier_hold("asking");
  start(&call, "futex");
  check_barrier_await("asking");
  cancel(&call);
  check_barrier_release("asking");
  join(&call, true);
  CHECK_OK(uffd_region_remove(region)); /* waits for whoever reads */
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* A pump: its driver is cancelled while it waits, not amid what it has read */

static void make_step(struct call *call) {
  call->result = uffd_loop_step(call->object, -1) >= 0 ? 0 : -1;
}

static void driving_a_pump(void) {
  serving_needs_handlers("a pump is a pump");
  for (int answering = 0; answering < 2; answering++) {
    struct serving serving;
    serving_open(&serving, ENGINE_PUMP, NULL);
    uffd_memory *memory = memory_make(MEMORY_ANON, 2);
    region_add(serving.loop, memory, image_resolver(2 * check_page()), NULL);
    struct call call = {.make = make_step, .object = serving.loop};
    struct check_touch touch;
    if (answering) check_barrier_hold("asking");
    if (answering) check_touch_read(&touch, memory_at(memory, 0));
    start(&call, answering ? "futex" : "poll");
    if (answering) check_barrier_await("asking");
    cancel(&call);
    if (answering) check_barrier_release("asking");
    join(&call, answering);
    if (answering) CHECK_EQ(check_touch_join(&touch), image_byte(0));
    CHECK_OK(uffd_loop_close(serving.loop));
    uffd_memory_close(memory);
  }
}

static const struct check_test tests[] = {
    TEST(reading_ends_and_the_object_closes),
    TEST(prefetching),
    TEST(completing),
    TEST(removing),
    TEST(adding),
    TEST(closing),
    TEST(reading_memory),
    TEST(driving_a_pump),
};

CHECK_MAIN(tests)
