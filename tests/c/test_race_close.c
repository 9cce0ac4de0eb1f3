/* Races with closing, readers and locks: R11, R12, R18, R19, R20, R21. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "loop/loop.h"
#include "serving.h"

#define PAGES 16

static struct serving serving;
static uffd_memory *memory;
static uffd_region *region;
static uint64_t page;

static unsigned char *at(uint64_t index) {
  return memory_at(memory, index * page);
}

static void serve(int engine, uint64_t features, uffd_resolver *resolver) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  page = check_page();
  opts.features = features;
  serving_open(&serving, engine, &opts);
  memory = memory_make(MEMORY_ANON, PAGES);
  region = region_add(serving.loop, memory, resolver != NULL ? resolver : image_resolver(PAGES * page), NULL);
}

static void end(void) {
  serving_close(&serving);
  uffd_memory_close(memory);
}

static int answer_later(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault;
  answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

/* R11: what a handler reads is never what it serves */

static void R11_a_source_is_not_served(void) {
  uffd_resolver *resolver = NULL;
  serve(ENGINE_ONE, 0, NULL);
  CHECK_ERR(uffd_resolver_memory(memory, 0, &resolver), -EBUSY);
  CHECK_SAYS("served");
  CHECK_ERR(uffd_resolver_move(memory, page, &resolver), -EBUSY);
  uffd_memory *source = memory_make(MEMORY_ANON, 4);
  CHECK_OK(uffd_resolver_memory(source, 0, &resolver));
  CHECK_ERR(uffd_loop_add(serving.loop, source, resolver, NULL, NULL), -EBUSY);
  CHECK_SAYS("reads from");
  uffd_resolver_close(resolver);
  uffd_resolver *image = image_resolver(4 * page);
  CHECK_OK(uffd_loop_add(serving.loop, source, image, NULL, NULL)); /* nothing reads from it any more */
  CHECK_ERR(uffd_loop_add(serving.loop, source, image, NULL, NULL), -EBUSY);
  CHECK_SAYS("served already");
  uffd_resolver_close(image);
  end();
  uffd_memory_close(source);
}

/* R12: a faulting thread may hold any lock of the program's, the allocator's above all */

static pthread_mutex_t heap = PTHREAD_MUTEX_INITIALIZER;

static void *allocate(void *ctx, size_t length) {
  (void)ctx;
  pthread_mutex_lock(&heap);
  void *pointer = malloc(length);
  pthread_mutex_unlock(&heap);
  return pointer;
}

static void release(void *ctx, void *pointer, size_t length) {
  (void)ctx, (void)length;
  pthread_mutex_lock(&heap);
  free(pointer);
  pthread_mutex_unlock(&heap);
}

static int answer_page(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  if (fault->offset == 2 * fault->page_size) return uffd_set_errmsg(EIO, "Page 2 is bad.");
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = asked->ctx;
  answer->length = 5;
  return 0;
}

static bool child_reads(void) {
  return memcmp(at(6), "bytes", 5) == 0;
}

static void ignore_record(void *ctx, const struct uffd_trace *trace) {
  (void)ctx, (void)trace;
}

static unsigned char *move_away(void) {
  unsigned char *there = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mremap(at(401), 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, there) == there);
  return there;
}

/* Faults, failures, every kind of event and closing children: no handler asks the allocator for anything. */
static void R12_the_allocator_is_locked_while_faults_are_answered(void) {
  struct uffd_allocator allocator = {sizeof(allocator), allocate, release, NULL};
  CHECK_OK(uffd_set_allocator(&allocator));
  struct asked asked = {.answer = answer_page, .ctx = "bytes"};
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.features = UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_EVENT_UNMAP | UFFD_FEAT_POISON;
  bool inlined = serving_inline(); /* without children and moved mappings */
  if (!inlined) opts.features |= UFFD_FEAT_EVENT_FORK | UFFD_FEAT_EVENT_REMAP;
  page = check_page();
  serving_open(&serving, ENGINE_ONE, &opts);
  struct uffd_map_opts map_opts = UFFD_MAP_OPTS_INIT;
  map_opts.flags = UFFD_MAP_FORK;
  CHECK_OK(uffd_map(512 * page, &map_opts, &memory));
  region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  CHECK_OK(uffd_loop_trace(serving.loop, ignore_record, NULL));

  pthread_mutex_lock(&heap);
  for (unsigned i = 3; i < 7; i++) {
    CHECK_EQ(memcmp(at(i), "bytes", 5), 0);
  }
  CHECK_EQ(check_access(at(2), false, NULL), SIGBUS);
  CHECK_EQ(madvise(at(3), page, MADV_DONTNEED), 0);
  CHECK_EQ(*at(3), 0);
  for (unsigned i = 20; i < 400; i += 2) { /* each splits a slice */
    CHECK_EQ(munmap(at(i), page), 0);
  }
  if (!inlined) CHECK_EQ(memcmp(move_away(), "bytes", 5), 0);
  CHECK_EQ(memcmp(at(21), "bytes", 5), 0);
  for (unsigned i = 0; i < 3 && !inlined; i++) {
    pid_t child = fork();
    if (child == 0) _exit(child_reads() ? 0 : 1);
    check_child(child);
  }
  struct check_touch touches[8];
  for (unsigned i = 0; i < 8; i++) {
    check_touch_read(&touches[i], at(8 + i / 2));
  }
  for (unsigned i = 0; i < 8; i++) {
    CHECK_EQ(check_touch_join(&touches[i]), 'b');
  }
  pthread_mutex_unlock(&heap);
  CHECK(serving_stats(serving.loop).events >= 190 + (inlined ? 1 : 5));
  CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), EIO);
  end();
  CHECK_OK(uffd_set_allocator(NULL)); /* nothing is left allocated */
}

/* R18: numbers of closed descriptors are other files' */

struct caller {
  struct check_thread thread;
  int result;
};

/* Calls that closing must outlast. */
static uint32_t count_inside(void) {
  pthread_mutex_lock(&serving.loop->gate.lock);
  uint32_t count = serving.loop->gate.inside;
  pthread_mutex_unlock(&serving.loop->gate.lock);
  return count;
}

static void call_prefetch(void *ctx) {
  struct caller *caller = ctx;
  caller->result = uffd_region_prefetch(region, 0, 0);
}

static void call_complete(void *ctx) {
  struct caller *caller = ctx;
  caller->result = uffd_region_complete(region);
}

static void call_complete_all(void *ctx) {
  struct caller *caller = ctx;
  caller->result = uffd_loop_complete(serving.loop);
}

/* All numbers that were free when the loop was made are eventfds now, which tell whether somebody used them. */
static int fill_numbers(int fds[], int count) {
  for (int i = 0; i < count; i++) {
    fds[i] = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(fds[i] >= 0);
  }
  return count;
}

/* Calls that wait come out with -ECANCELED, and only then is everything gone: no write hits another's descriptor. */
static void R18_closing_during_calls(void) {
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    struct asked asked = {.answer = answer_later};
    page = check_page();
    serving_open(&serving, engine, NULL);
    memory = memory_make(MEMORY_ANON, 5 * 512);
    region = region_add(serving.loop, memory, asked_resolver(&asked), NULL);
    void (*const calls[])(void *) = {call_prefetch, call_prefetch, call_complete, call_complete_all};
    struct caller callers[4];
    for (unsigned i = 0; i < 4; i++) {
      check_thread_start(&callers[i].thread, calls[i], &callers[i]);
    }
    while (count_inside() < 4) {
      check_pause();
    }
    for (unsigned i = 0; i < 4; i++) { /* one waits for the handlers, the others for the first */
      check_asleep(atomic_load(&callers[i].thread.tid), "futex");
    }
    serving_close(&serving);
    int fds[32], count = fill_numbers(fds, 32);
    for (unsigned i = 0; i < 4; i++) {
      check_thread_join(&callers[i].thread);
      CHECK_EQ(callers[i].result, -ECANCELED);
    }
    for (int i = 0; i < count; i++) {
      uint64_t value = 0;
      CHECK_EQ(read(fds[i], &value, sizeof(value)), sizeof(value));
      CHECK_EQ(value, 1);
      close(fds[i]);
    }
    uffd_memory_close(memory);
  }
}

/* The call has begun, and asks handlers that have ended. */
static void close_loop(void *ctx) {
  (void)ctx;
  serving_close(&serving);
}

static void R18_the_handlers_have_ended(void) {
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    struct caller caller;
    struct check_thread closer;
    serve(engine, 0, NULL);
    check_barrier_hold("posting");
    check_thread_start(&caller.thread, call_prefetch, &caller);
    check_barrier_await("posting");
    check_barrier_hold("stopping");
    check_thread_start(&closer, close_loop, NULL);
    check_barrier_await("stopping");
    check_barrier_release("stopping");
    check_asleep(atomic_load(&closer.tid), "futex");
    check_barrier_release("posting");
    check_thread_join(&caller.thread);
    check_thread_join(&closer);
    CHECK(caller.result == -ECANCELED || caller.result == 0);
    uffd_memory_close(memory);
  }
}

/* However far the call has come. */
static void R18_closing_at_any_moment(void) {
  for (unsigned round = 0; round < 90; round++) {
    struct asked asked = {.answer = round % 2 == 0 ? answer_later : answer_page, .ctx = "bytes"};
    struct caller caller = {.result = 1};
    page = check_page();
    serving_open(&serving, (int)(round % 3), NULL);
    memory = memory_make(MEMORY_ANON, 1100);
    region = region_add(serving.loop, memory, asked_resolver(&asked), NULL);
    check_thread_start(&caller.thread, call_prefetch, &caller);
    while (count_inside() == 0 && !atomic_load(&caller.thread.done)) {
    }
    for (volatile unsigned i = 0; i < round * 200; i++) {
    }
    serving_close(&serving);
    check_thread_join(&caller.thread);
    CHECK(caller.result == -ECANCELED || (round % 2 == 1 && caller.result == -EIO));
    uffd_memory_close(memory);
  }
}

/* R19: readable, and nothing to read; interrupted; told twice */

/* The fault's page came by another way after poll saw the message: the pump finds nothing, and that is no error. */
static void R19_a_message_vanishes(void) {
  uffd_object *object = check_open(0);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  page = check_page();
  serving_open(&serving, ENGINE_PUMP, NULL);
  memory = memory_make(MEMORY_ANON, PAGES);
  opts.object = object;
  region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
  struct check_touch touch;
  check_touch_read(&touch, at(3));
  struct pollfd descriptor = {.fd = CHECK_OK(uffd_loop_fd(serving.loop)), .events = POLLIN};
  CHECK_EQ(poll(&descriptor, 1, -1), 1);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(at(3)), page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  CHECK_EQ(uffd_loop_step(serving.loop, 0), 0);
  CHECK_EQ(uffd_loop_step(serving.loop, 1), 0);
  CHECK_EQ(serving_stats(serving.loop).faults, 0);
  serving_start(&serving);
  CHECK(image_there(at(4), 4 * page, page));
  end();
  uffd_close(object);
}

static void on_signal(int number) {
  (void)number;
}

/* Signals at faulting threads bring their messages twice, at the pump they cut its waits short: nothing is lost. */
static void R19_signals_interrupt_all(void) {
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, NULL);
  struct asked asked = {.answer = answer_page, .ctx = "bytes"};
  serve(ENGINE_PUMP, 0, asked_resolver(&asked));
  serving_start(&serving);
  for (unsigned round = 0; round < 40; round++) {
    struct check_touch touches[4];
    for (unsigned i = 0; i < 4; i++) {
      check_touch_read(&touches[i], at(8 + i));
      pthread_kill(touches[i].thread, SIGUSR1);
      pthread_kill(serving.driver.thread, SIGUSR1);
    }
    for (unsigned i = 0; i < 4; i++) {
      CHECK_EQ(check_touch_join(&touches[i]), 'b');
    }
    CHECK_EQ(madvise(at(8), 4 * page, MADV_DONTNEED), 0);
  }
  CHECK(serving_stats(serving.loop).faults >= 160);
  end();
}

/* A sleeper that a signal wakes faults anew: two messages for one page, both answered. */
static void R19_one_fault_is_told_twice(void) {
  serving_needs_handlers("Faults are not told.");
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGUSR1, &action, NULL);
  serve(ENGINE_ONE, 0, NULL);
  struct check_touch first, touch;
  check_barrier_hold("drained");
  check_touch_read(&first, at(0));
  check_barrier_await("drained");
  check_touch_read(&touch, at(3));
  check_touch_asleep(&touch);
  check_barrier_hold("asking");
  check_barrier_release("drained");
  check_barrier_await("asking");
  check_barrier_hold("drained");
  check_barrier_release("asking");
  check_barrier_await("drained"); /* the message at page 3 is read, not answered */
  pthread_kill(touch.thread, SIGUSR1);
  uffd_object *object = serving.loop->engine.readers[0]->object;
  uint64_t pending = 0;
  while (pending == 0) {
    check_pause();
    CHECK_OK(uffd_pending(object, &pending, NULL));
  }
  check_barrier_release("drained");
  CHECK_EQ(check_touch_join(&touch), image_byte(3 * page));
  CHECK_EQ(check_touch_join(&first), image_byte(0));
  CHECK_OK(uffd_pending(object, &pending, NULL));
  CHECK_EQ(pending, 0);
  CHECK_EQ(serving_stats(serving.loop).copied, 2);
  serving_adds_up(serving.loop, page);
  end();
}

/* R20: every message that was read is answered */

/* The loop closes between reading and answering: the thread has its page, as long as the handler can give it. */
static void R20_closed_between_reading_and_answering(void) {
  serving_needs_handlers("Faults are not read; the next test closes the loop while a thread answers itself.");
  for (int later = 0; later < 2; later++) {
    struct asked asked = {.answer = answer_later};
    serve(ENGINE_ONE, 0, later ? asked_resolver(&asked) : NULL);
    struct check_touch touch;
    struct check_thread closer;
    check_barrier_hold("drained");
    check_touch_read(&touch, at(3));
    check_barrier_await("drained");
    check_thread_start(&closer, close_loop, NULL);
    check_asleep(atomic_load(&closer.tid), "futex"); /* joins the handler */
    check_barrier_hold("stopping");
    check_barrier_release("drained");
    check_barrier_await("stopping");
    if (!later) CHECK_EQ(check_touch_join(&touch), image_byte(3 * page));
    if (later) check_touch_asleep(&touch);
    check_barrier_release("stopping");
    if (later) CHECK_EQ(check_touch_join(&touch), 0);
    check_thread_join(&closer);
    uffd_memory_close(memory);
  }
}

/* The loop closes while threads have their faults in hand: nothing of it goes before they do. */
static void R20_closed_while_threads_answer_themselves(void) {
  if (!serving_inline()) SKIP("handlers answer");
  for (int later = 0; later < 2; later++) {
    struct asked asked = {.answer = answer_later};
    serve(ENGINE_FIVE, 0, later ? asked_resolver(&asked) : NULL);
    struct check_touch touches[3];
    struct check_thread closer;
    const char *place = later ? "deferred" : "installing";
    check_barrier_hold(place);
    for (unsigned i = 0; i < 3; i++) {
      check_touch_read(&touches[i], at(3 + i / 2));
    }
    check_barrier_await_all(place, 3);
    check_thread_start(&closer, close_loop, NULL);
    while (memory_has(memory, 0, "um")) { /* registered */
      check_pause();
    }
    if (!later) CHECK(!atomic_load(&closer.done));
    check_barrier_release(place);
    for (unsigned i = 0; i < 3; i++) {
      CHECK_EQ(check_touch_join(&touches[i]), 0);
    }
    check_thread_join(&closer);
    uffd_memory_close(memory);
  }
}

/* Outside of every region there is nothing to unregister: what is kept is woken all the same. */
static void R20_kept_faults_of_no_region_are_woken(void) {
  uffd_object *object = check_open(UFFD_FEAT_EVENT_REMOVE);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  page = check_page();
  serving_open(&serving, ENGINE_PUMP, NULL);
  memory = memory_make(MEMORY_ANON, PAGES);
  opts.object = object;
  opts.length = 4 * page;
  region_add(serving.loop, memory, image_resolver(4 * page), &opts);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(at(8)), page, UFFD_MODE_MISSING, NULL)); /* which the user should not */
  struct check_touch touch;
  check_touch_read(&touch, at(8));
  check_touch_asleep(&touch);
  CHECK_EQ(CHECK_OK(uffd_loop_step(serving.loop, 1000)), 1);
  CHECK_EQ(check_touch_join(&touch), 0);
  end();
  uffd_close(object);
}

/* R21: a blocking descriptor polls as an error, and a read of it would never end */

static void R21_a_blocking_descriptor_is_made_fit_or_refused(void) {
  struct uffd_open_opts blocking = UFFD_OPEN_OPTS_INIT;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  uffd_object *object, *adopted;
  page = check_page();
  check_needs(0);
  blocking.flags = UFFD_OPEN_BLOCKING;
  blocking.features = serving_inline() ? UFFD_FEAT_SIGBUS : 0;
  CHECK_OK(uffd_open(&blocking, &object));
  serving_open(&serving, ENGINE_ONE, NULL);
  memory = memory_make(MEMORY_ANON, PAGES);
  uffd_resolver *image = image_resolver(PAGES * page);
  opts.object = object;
  CHECK_ERR(uffd_loop_add(serving.loop, memory, image, &opts, NULL), -EINVAL);
  int fd = fcntl(CHECK_OK(uffd_fd(object)), F_DUPFD_CLOEXEC, 0); /* as if it had been received */
  uffd_close(object);
  CHECK_OK(uffd_adopt(fd, &adopted));
  CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
  opts.object = adopted;
  region_add(serving.loop, memory, image, &opts);
  CHECK(image_there(at(0), 0, PAGES * page));
  end();
  uffd_close(adopted);
}

static const struct check_test tests[] = {
    TEST(R11_a_source_is_not_served),
    TEST(R12_the_allocator_is_locked_while_faults_are_answered),
    TEST(R18_closing_during_calls),
    TEST(R18_the_handlers_have_ended),
    TEST(R18_closing_at_any_moment),
    TEST(R19_a_message_vanishes),
    TEST(R19_signals_interrupt_all),
    TEST(R19_one_fault_is_told_twice),
    TEST(R20_closed_between_reading_and_answering),
    TEST(R20_closed_while_threads_answer_themselves),
    TEST(R20_kept_faults_of_no_region_are_woken),
    TEST(R21_a_blocking_descriptor_is_made_fit_or_refused),
};
CHECK_MAIN(tests)
