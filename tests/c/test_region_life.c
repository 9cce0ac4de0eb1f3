/* What a region holds, and when it lets go of it; pages that are there when prefetch and complete say so. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "loop/loop.h"
#include "serving.h"

static uint64_t page;
static struct serving serving;
static uffd_memory *memory;
static uffd_region *region;

static void serve(int engine, const struct uffd_loop_opts *opts, int kind, uint64_t pages, uffd_resolver *resolver) {
  page = check_page();
  serving_open(&serving, engine, opts);
  memory = memory_make(kind, pages);
  page = uffd_memory_page_size(memory);
  region = region_add(serving.loop, memory, resolver, NULL);
}

static void end(void) {
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Giving up does not wait for what is given up */

static int answer_later(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault;
  answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

static void read_a_page(void *ctx) {
  unsigned char *byte = ctx;
  CHECK_OK(uffd_memory_read(memory, 0, byte, 1));
}

static void prefetch_all(void *ctx) {
  int *result = ctx;
  *result = uffd_region_prefetch(region, 0, 0);
}

static void complete_all(void *ctx) {
  int *result = ctx;
  *result = uffd_region_complete(region);
}

static void wait_for_hit(const struct asked *asked) {
  while (atomic_load(&asked->hits) == 0) {
    check_pause();
  }
}

static void removing_under_a_read_that_gets_no_answer(void) {
  for (int engine = 0; engine < ENGINE_PUMP; engine++) {
    struct asked asked = {.answer = answer_later};
    struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
    struct check_thread reader;
    unsigned char byte = 1;
    opts.open_flags = UFFD_OPEN_USER_MODE_ONLY;
    serve(engine, &opts, MEMORY_ANON, 4, asked_resolver(&asked));
    check_thread_start(&reader, read_a_page, &byte);
    wait_for_hit(&asked);
    CHECK_OK(uffd_region_remove(region));
    check_thread_join(&reader);
    CHECK_EQ(byte, 0);
    end();
  }
}

static void removing_under_a_prefetch_that_gets_no_answer(void) {
  for (int engine = 0; engine < ENGINE_PUMP; engine++) {
    for (int completing = 0; completing < 2; completing++) {
      struct asked asked = {.answer = answer_later};
      struct check_thread filler;
      int result = 1;
      serve(engine, NULL, MEMORY_ANON, 4, asked_resolver(&asked));
      check_thread_start(&filler, completing ? complete_all : prefetch_all, &result);
      wait_for_hit(&asked);
      CHECK_OK(uffd_region_remove(region));
      check_thread_join(&filler);
      CHECK_EQ(result, -ECANCELED);
      end();
    }
  }
}

/* References are released when serving ends, not when the handle is closed */

static _Atomic unsigned destroyed;

static int resolve_zero(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)ctx, (void)state, (void)fault, (void)answer;
  return 0;
}

static void note_destroyed(void *ctx) {
  (void)ctx;
  atomic_fetch_add(&destroyed, 1);
}

static uffd_resolver *mortal_resolver(void) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *resolver;
  ops.resolve = resolve_zero;
  ops.destroy = note_destroyed;
  CHECK_OK(uffd_resolver_callback(&ops, NULL, NULL, NULL, 0, &resolver));
  return resolver;
}

static bool is_mapped(const void *address) {
  unsigned char there;
  return mincore((void *)(uintptr_t)address, page, &there) == 0;
}

static void what_a_region_held_goes_when_it_ends(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    for (int removing = 0; removing < 2; removing++) {
      atomic_store(&destroyed, 0);
      serve(engine, NULL, MEMORY_ANON, 4, mortal_resolver());
      const void *at = memory_at(memory, 0);
      uffd_memory_close(memory);
      CHECK(is_mapped(at));
      CHECK_OK(removing ? uffd_region_remove(region) : uffd_region_complete(region));
      CHECK_EQ(atomic_load(&destroyed), 1);
      CHECK(!is_mapped(at));
      CHECK_ERR(uffd_region_prefetch(region, 0, 0), -ENOENT); /* the handle is there until the loop closes */
      CHECK_OK(uffd_region_remove(region));
      serving_close(&serving);
    }
  }
}

/* An errno of the user's means nothing else */

static int fail_with_enoent(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault, (void)answer;
  return -ENOENT;
}

static void a_resolver_that_finds_nothing_is_no_region_that_is_gone(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct asked asked = {.answer = fail_with_enoent};
    serve(engine, NULL, MEMORY_ANON, 4, asked_resolver(&asked));
    CHECK_ERR(uffd_loop_complete(serving.loop), -ENOENT);
    CHECK_OK(uffd_region_remove(region));
    CHECK_OK(uffd_loop_complete(serving.loop));
    end();
  }
}

/* The kernel is asked whether pages are there */

static void drop(uint64_t first, uint64_t count, bool punch) {
  int fd = uffd_memory_fd(memory);
  if (punch && fd >= 0) {
    CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(first * page), (off_t)(count * page)),
             0);
  } else {
    CHECK_EQ(madvise(memory_at(memory, first * page), count * page, MADV_DONTNEED), 0);
  }
}

static void dropped_pages_are_filled_again(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    for (int i = 0; i < MEMORY_HUGETLB; i++) {
      for (int completing = 0; completing < 2; completing++) {
        uint64_t pages = i == MEMORY_THP ? 1024 : 16;
        serve(engine, NULL, i, pages, image_resolver(pages * check_page()));
        serving_start(&serving);
        CHECK(image_there(memory_at(memory, 0), 0, pages * page));
        serving_pause(&serving);
        drop(2, 3, true);
        drop(pages - 1, 1, true);
        uint64_t before = serving_stats(serving.loop).faults;
        CHECK_OK(completing ? uffd_region_complete(region) : uffd_region_prefetch(region, 0, 0));
        CHECK(image_there(memory_at(memory, 0), 0, pages * page));
        CHECK_EQ(serving_stats(serving.loop).faults, before);
        end();
      }
    }
  }
}

/* Poison that its owner has dropped is a page like others; poison that is there stays. */
static int poison_first(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  if (atomic_load(&asked->hits) <= 2 && fault->offset / page < 2) answer->kind = UFFD_ANSWER_POISON;
  return 0;
}

static void dropped_poison_is_filled_again(void) {
  check_needs(UFFD_FEAT_POISON);
  for (int engine = 0; engine < ENGINE_PUMP; engine++) {
    struct asked asked = {.answer = poison_first};
    unsigned value = 1;
    serve(engine, NULL, MEMORY_ANON, 4, asked_resolver(&asked));
    CHECK(check_access(memory_at(memory, 0), false, NULL) != 0);
    CHECK(check_access(memory_at(memory, page), false, NULL) != 0);
    drop(1, 1, false);
    CHECK_OK(uffd_region_complete(region));
    CHECK(check_access(memory_at(memory, 0), false, NULL) != 0);
    CHECK_EQ(check_access(memory_at(memory, page), false, &value), 0);
    CHECK_EQ(value, 0);
    end();
  }
}

/* A page that nobody can miss any more is no failure. */
static void what_is_unregistered_is_not_missing(void) {
  serving_needs_handlers("The object is the test's.");
  uffd_object *object = serving_object(0);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  memory = memory_make(MEMORY_ANON, 8);
  opts.object = object;
  region = region_add(serving.loop, memory, image_resolver(8 * page), &opts);
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(memory_at(memory, 3 * page)), page));
  CHECK_OK(uffd_region_complete(region));
  CHECK(image_there(memory_at(memory, 0), 0, 3 * page));
  CHECK(image_there(memory_at(memory, 4 * page), 4 * page, 4 * page));
  end();
  uffd_close(object);
}

static void one_page_that_was_there_leaves_huge_pages_on(void) {
  check_needs(UFFD_FEAT_MOVE);
  page = check_page();
  const uint64_t pages = 8 * 512;
  serving_open(&serving, ENGINE_ONE, NULL);
  memory = memory_make(MEMORY_THP, pages);
  region = region_add(serving.loop, memory, image_resolver(pages * page), NULL);
  CHECK_OK(uffd_region_prefetch(region, 512 * page, page));
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
  CHECK(image_there(memory_at(memory, 0), 0, pages * page));
  if (serving_stats(serving.loop).moved == 0) SKIP("No huge page is moved on this machine.");
  CHECK(serving_stats(serving.loop).moved >= 6 * 512);
  end();
}

/* Costs follow what matters */

static void small_regions_are_shared_out(void) {
  serving_needs_handlers("Any thread answers for itself.");
  uffd_memory *memories[10];
  page = check_page();
  serving_open(&serving, ENGINE_FIVE, NULL);
  for (unsigned i = 0; i < 10; i++) {
    memories[i] = memory_make(MEMORY_ANON, 4);
    region_add(serving.loop, memories[i], image_resolver(4 * page), NULL);
  }
  bool answers[5] = {false};
  for (unsigned i = 0; i < 10; i++) {
    struct uffd_waiting waiting = UFFD_WAITING_INIT;
    struct check_touch touch;
    check_barrier_hold("asking");
    check_touch_read(&touch, memory_at(memories[i], 0));
    check_barrier_await("asking");
    CHECK_EQ(uffd_loop_oldest(serving.loop, &waiting), 1);
    CHECK(waiting.handler < 5);
    answers[waiting.handler] = true;
    check_barrier_release("asking");
    check_touch_join(&touch);
    (void)serving_settled(serving.loop); /* else this one may still be the oldest */
  }
  for (unsigned i = 0; i < 5; i++) {
    CHECK(answers[i]);
  }
  serving_close(&serving);
  for (unsigned i = 0; i < 10; i++) {
    uffd_memory_close(memories[i]);
  }
}

static _Atomic uint64_t steps;

static void count_steps(const char *name, void *ctx) {
  (void)ctx;
  if (strcmp(name, "prefetching") == 0) atomic_fetch_add(&steps, 1);
}

/* A prefetch that waits for its rate is not looked at while others fault. */
static void prefetches_that_wait_cost_nothing(void) {
  enum { COUNT = 1000, FAULTS = 200 };
  static uffd_prefetch *prefetches[COUNT];
  struct uffd_prefetch_opts slow = UFFD_PREFETCH_OPTS_INIT;
  slow.rate = 1;
  serve(ENGINE_ONE, NULL, MEMORY_ANON, COUNT * 2 + FAULTS, image_resolver((COUNT * 2 + FAULTS) * check_page()));
  atomic_store(&uffd_barrier_hook, count_steps);
  for (uint64_t i = 0; i < COUNT; i++) {
    const struct uffd_range two = {i * 2 * page, 2 * page};
    CHECK_OK(uffd_region_prefetch_start(region, &two, 1, &slow, &prefetches[i]));
  }
  while (serving_stats(serving.loop).prefetched < COUNT) { /* the first page of each; the second has to wait */
    check_pause();
  }
  CHECK_OK(uffd_loop_trace(serving.loop, NULL, NULL)); /* each handler has come by once more */
  while (atomic_load(&steps) < 2 * COUNT) {
    check_pause();
  }
  uint64_t before = atomic_load(&steps);
  for (uint64_t i = 0; i < FAULTS; i++) {
    CHECK(image_there(memory_at(memory, (COUNT * 2 + i) * page), (COUNT * 2 + i) * page, page));
  }
  CHECK_EQ(atomic_load(&steps), before);
  atomic_store(&uffd_barrier_hook, NULL);
  for (unsigned i = 0; i < COUNT; i++) {
    uffd_prefetch_close(prefetches[i]);
  }
  CHECK_OK(uffd_region_remove(region)); /* and waits for none of them */
  end();
}

static int wait_until_told(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)fault, (void)answer;
  while (!atomic_load((_Atomic bool *)asked->ctx)) {
    check_pause();
  }
  return 0;
}

/* Five handlers in callbacks are waited for together, and without processor time. */
static void statistics_wait_for_all_at_once(void) {
  serving_needs_handlers("There is one handler.");
  _Atomic bool told = false;
  struct asked asked = {.answer = wait_until_told, .ctx = &told};
  struct check_touch touches[5];
  const uint64_t slice = UINT64_C(2) << 20;
  serve(ENGINE_FIVE, NULL, MEMORY_ANON, 5 * slice / check_page(), asked_resolver(&asked));
  for (unsigned i = 0; i < 5; i++) {
    check_touch_read(&touches[i], memory_at(memory, i * slice));
  }
  while (atomic_load(&asked.hits) < 5) {
    check_pause();
  }
  struct timespec before, after;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  for (unsigned i = 0; i < 10; i++) {
    CHECK_EQ(serving_stats(serving.loop).faults, 5);
  }
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  uint64_t spent = (uint64_t)(after.tv_sec - before.tv_sec) * 1000000000 + (uint64_t)(after.tv_nsec - before.tv_nsec);
  CHECK(spent < 10 * UINT64_C(5000000)); /* of processor time: less than one deadline each, five of which were spun */
  atomic_store(&told, true);
  for (unsigned i = 0; i < 5; i++) {
    check_touch_join(&touches[i]);
  }
  end();
}

static uint64_t resident_pages(void) {
  unsigned long size = 0, resident = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL);
  CHECK_EQ(fscanf(file, "%lu %lu", &size, &resident), 2);
  fclose(file);
  return resident;
}

/* A thousand regions do not fault a thousand times for the states of their pages, which have no pages of their own. */
static void states_of_small_regions_have_no_pages_of_their_own(void) {
  enum { COUNT = 256 };
  static uffd_memory *memories[COUNT];
  unsigned alone = 0;
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_resolver *resolver;
  CHECK_OK(uffd_resolver_pattern("A", 1, &resolver));
  for (unsigned i = 0; i < COUNT; i++) {
    uffd_region *one;
    memories[i] = memory_make(MEMORY_ANON, 1);
    CHECK_OK(uffd_loop_add(serving.loop, memories[i], resolver, NULL, &one));
    if ((uintptr_t)one->terms.pages % BASE_PAGE == 0) alone++;
  }
  CHECK(alone < COUNT / 2);
  for (unsigned i = 0; i < COUNT; i++) {
    CHECK_EQ(*memory_at(memories[i], 0), 'A');
  }
  uffd_resolver_close(resolver);
  serving_close(&serving);
  for (unsigned i = 0; i < COUNT; i++) {
    uffd_memory_close(memories[i]);
  }
}

/* Bytes of large mappings of which huge pages are never made, whatever the machine does of itself. */
static uint64_t without_huge_pages(uint64_t least) {
  struct uffd_maps maps;
  struct uffd_mapping mapping;
  uint64_t bytes = 0;
  CHECK_OK(uffd_maps_open(&maps, true));
  for (uint64_t at = 0; uffd_maps_find(&maps, at, &mapping) == 0; at = mapping.end) {
    uint64_t length = mapping.end - mapping.start;
    if (length >= least && uffd_mapping_has(&mapping, "nh")) bytes += length;
  }
  uffd_maps_close(&maps);
  return bytes;
}

/*
 * A fork copies what is known of pages, not room for what is not: a byte for each page is 16 MiB here, and four of
 * their pages are written. Huge pages would make 8 MiB of those.
 */
static void forking_a_large_region_costs_no_memory(void) {
  serving_needs_handlers("event_fork.");
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.features = UFFD_FEAT_EVENT_FORK;
  page = check_page();
  const uint64_t length = UINT64_C(64) << 30;
  serving_open(&serving, ENGINE_ONE, &opts);
  struct uffd_map_opts inherited = UFFD_MAP_OPTS_INIT;
  inherited.flags = UFFD_MAP_FORK;
  CHECK_OK(uffd_map(length, &inherited, &memory));
  uffd_resolver *resolver;
  CHECK_OK(uffd_resolver_pattern("A", 1, &resolver));
  region = region_add(serving.loop, memory, resolver, NULL);
  CHECK_EQ(*memory_at(memory, 0), 'A');
  CHECK_EQ(*memory_at(memory, length - page), 'A');
  uint64_t before = resident_pages();
  int pair[2];
  char byte;
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  pid_t child = fork();
  if (child == 0) {
    byte = (char)*memory_at(memory, 7 * page);
    _exit(write(pair[1], &byte, 1) == 1 && read(pair[1], &byte, 1) == 1 ? 0 : 1);
  }
  CHECK_EQ(read(pair[0], &byte, 1), 1);
  CHECK_EQ(byte, 'A');
  if (access("/sys/kernel/mm/transparent_hugepage", F_OK) == 0) {
    CHECK(without_huge_pages(length / page) >= 2 * length / page); /* its own, and the child's */
  }
  CHECK_EQ(write(pair[0], &byte, 1), 1);
  check_child(child);
  CHECK(resident_pages() - before < length / page / BASE_PAGE / 4); /* a byte a page would be four times that */
  close(pair[0]);
  close(pair[1]);
  end();
}

static void a_paused_pump_has_nothing_to_read(void) {
  serving_needs_handlers("It is about the pump.");
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct check_touch touch;
  uffd_loop *loop;
  page = check_page();
  opts.engine = UFFD_ENGINE_PUMP;
  opts.flags = UFFD_LOOP_PAUSED;
  CHECK_OK(uffd_loop_create(&opts, &loop));
  memory = memory_make(MEMORY_ANON, 4);
  region_add(loop, memory, image_resolver(4 * page), NULL);
  while (CHECK_OK(uffd_loop_step(loop, 0)) != 0) {
  }
  check_touch_read(&touch, memory_at(memory, 0));
  check_touch_asleep(&touch);
  CHECK_EQ(uffd_ready(CHECK_OK(uffd_loop_fd(loop)), POLLIN), 0);
  CHECK_OK(uffd_loop_start(loop));
  CHECK(uffd_ready(CHECK_OK(uffd_loop_fd(loop)), POLLIN) != 0);
  while (!atomic_load(&touch.done)) {
    CHECK_OK(uffd_loop_step(loop, 10));
  }
  CHECK_EQ(check_touch_join(&touch), image_byte(0));
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
}

static const struct check_test tests[] = {
    TEST(removing_under_a_read_that_gets_no_answer),
    TEST(removing_under_a_prefetch_that_gets_no_answer),
    TEST(what_a_region_held_goes_when_it_ends),
    TEST(a_resolver_that_finds_nothing_is_no_region_that_is_gone),
    TEST(dropped_pages_are_filled_again),
    TEST(dropped_poison_is_filled_again),
    TEST(what_is_unregistered_is_not_missing),
    TEST(one_page_that_was_there_leaves_huge_pages_on),
    TEST(small_regions_are_shared_out),
    TEST(prefetches_that_wait_cost_nothing),
    TEST(statistics_wait_for_all_at_once),
    TEST(states_of_small_regions_have_no_pages_of_their_own),
    TEST(forking_a_large_region_costs_no_memory),
    TEST(a_paused_pump_has_nothing_to_read),
};
CHECK_MAIN(tests)
