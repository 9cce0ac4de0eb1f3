/*
 * Faults that wait together: one answer for neighbours, no page answered twice, no thread forgotten. The test steps a
 * pump.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>

#include "serving.h"

#define PAGES   64u
#define TOUCHES 32u

static struct serving serving;
static uffd_memory *memory;
static uffd_region *region;
static unsigned char *image;
static uint64_t page;

static unsigned char *at(uint64_t index) {
  return memory_at(memory, index * page);
}

/* The callback: the image, for as much as is asked; what it was asked, by call */

static uint64_t covers[TOUCHES * 4], places[TOUCHES * 4];
static uint64_t fails_at, later_at; /* pages; 0: none */

static int answer_cover(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  unsigned call = atomic_load(&asked->hits) - 1;
  CHECK(call < TOUCHES * 4);
  places[call] = fault->offset / fault->page_size;
  covers[call] = fault->cover_length / fault->page_size;
  if (fails_at != 0 && places[call] == fails_at) return uffd_set_errmsg(EIO, "Not there.");
  answer->kind = UFFD_ANSWER_BYTES;
  answer->offset = fault->cover_offset;
  answer->length = fault->cover_length;
  answer->data = image + fault->cover_offset;
  if (later_at != 0 && places[call] == later_at) answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

static struct asked asked = {.answer = answer_cover};

static void open_with(uint64_t features, int kind) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.features = features;
  page = check_page();
  image = image_make(PAGES * page);
  serving_open(&serving, ENGINE_PUMP, &opts);
  memory = memory_make(kind, PAGES);
}

static void serve(uint64_t modes) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.modes = modes;
  open_with(0, MEMORY_ANON);
  region = region_add(serving.loop, memory, asked_resolver(&asked), &opts);
}

static void end(void) {
  serving_adds_up(serving.loop, page);
  serving_close(&serving);
  uffd_memory_close(memory);
  munmap(image, PAGES * page);
}

/* Threads that wait, all before one step */

static struct check_touch touches[TOUCHES];
static unsigned touching;

static void touch(uint64_t index, bool write) {
  struct check_touch *one = &touches[touching++];
  if (write) {
    check_touch_write(one, at(index) + 512 + touching, 'w');
  } else {
    check_touch_read(one, at(index) + touching);
  }
  check_touch_asleep(one);
}

static void touch_all(const uint8_t *pages, unsigned count, bool write) {
  for (unsigned i = 0; i < count; i++) {
    touch(pages[i], write);
  }
}
#define TOUCH(write, ...) touch_all((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), write)

/* All threads that wait are answered in one pass, and go on. */
static void step(void) {
  CHECK_EQ(CHECK_OK(uffd_loop_step(serving.loop, 0)), touching);
  for (unsigned i = 0; i < touching; i++) {
    CHECK_EQ(pthread_join(touches[i].thread, NULL), 0);
  }
}

/* The same, and what was read is the image. */
static void step_and_check(void) {
  step();
  for (unsigned i = 0; i < touching; i++) {
    const struct check_touch *one = &touches[i];
    uint64_t offset = CHECK_ADDRESS(one->address) - CHECK_ADDRESS(at(0));
    CHECK_EQ(one->signal, 0);
    if (!one->write) CHECK_EQ(one->value, image_byte(offset));
    if (one->write) CHECK_EQ(*one->address, 'w');
  }
  touching = 0;
}

static void check_asked(unsigned call, uint64_t place, uint64_t cover) {
  CHECK_EQ(places[call], place);
  CHECK_EQ(covers[call], cover);
}

/* Neighbours and twins */

static void neighbours_are_one_answer(void) {
  serve(0);
  TOUCH(false, 6, 4, 3, 5);
  step_and_check();
  CHECK_EQ(atomic_load(&asked.hits), 1);
  check_asked(0, 3, 4);
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.faults, 4);
  CHECK_EQ(stats.copied, 4);
  CHECK_EQ(stats.present, 3);
  CHECK_EQ(stats.policy_calls, 1);
  end();
}

static void twins_are_answered_once(void) {
  serve(0);
  TOUCH(false, 9, 2, 9, 2, 9);
  TOUCH(true, 2);
  step_and_check();
  CHECK_EQ(atomic_load(&asked.hits), 2);
  check_asked(0, 2, 1);
  check_asked(1, 9, 1);
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.faults, 6);
  CHECK_EQ(stats.writes, 1);
  CHECK_EQ(stats.copied, 2);
  CHECK_EQ(stats.present, 4);
  end();
}

static void runs_end_with_their_region(void) {
  open_with(0, MEMORY_ANON);
  for (unsigned i = 0; i < 2; i++) {
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    opts.offset = i * PAGES / 2 * page;
    opts.length = PAGES / 2 * page;
    opts.resolver_offset = opts.offset;
    region_add(serving.loop, memory, asked_resolver(&asked), &opts);
  }
  TOUCH(false, 32, 0, 63, 1, 31, 62, 30, 33);
  step_and_check();
  CHECK_EQ(atomic_load(&asked.hits), 4);
  check_asked(0, 0, 2);
  check_asked(1, 30, 2);
  check_asked(2, 32, 2);
  check_asked(3, 62, 2);
  end();
}

/* The first of a run sleeps until the last is there. */
static void long_runs_are_cut(void) {
  serve(0);
  for (unsigned i = 0; i < 24; i++) {
    touch(8 + i, false);
  }
  step_and_check();
  CHECK_EQ(atomic_load(&asked.hits), 2);
  check_asked(0, 8, 16);
  check_asked(1, 24, 8);
  end();
}

static struct uffd_trace records[TOUCHES];
static unsigned recorded;

static void record(void *ctx, const struct uffd_trace *trace) {
  (void)ctx;
  CHECK(recorded < TOUCHES);
  records[recorded++] = *trace;
}

static void every_fault_is_traced(void) {
  serve(0);
  CHECK_OK(uffd_loop_trace(serving.loop, record, NULL));
  TOUCH(false, 5, 4, 5);
  step_and_check();
  CHECK_EQ(recorded, 3);
  for (unsigned i = 0; i < 3; i++) {
    CHECK_EQ(records[i].offset, (i == 0 ? 4 : 5) * page);
    CHECK_EQ(records[i].cover, i == 0 ? 2 * page : 0);
    CHECK_EQ(records[i].outcome, i == 0 ? UFFD_OUTCOME_INSTALLED : UFFD_OUTCOME_PRESENT);
    CHECK_EQ(records[i].tid, touches[i == 0 ? 1 : i == 1 ? 0 : 2].tid);
  }
  end();
}

static void minor_faults_are_one_answer(void) {
  uffd_resolver *resolver;
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  open_with(0, MEMORY_MEMFD);
  CHECK_OK(uffd_resolver_continue(NULL, &resolver));
  region_add(serving.loop, memory, resolver, NULL);
  memcpy(uffd_memory_alias(memory), image, 8 * page); /* 8 is a hole of the file: another kind of fault */
  CHECK_OK(uffd_loop_trace(serving.loop, record, NULL));
  TOUCH(false, 7, 6, 7, 5, 8);
  step();
  CHECK(image_there(at(5), 5 * page, 3 * page));
  CHECK_EQ(touches[4].value, 0);
  CHECK_EQ(recorded, 5);
  CHECK_EQ(records[0].cover, 3 * page);
  CHECK_EQ(records[4].cover, page);
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.minor, 4);
  CHECK_EQ(stats.continued, 3);
  CHECK_EQ(stats.zero, 1);
  CHECK_EQ(stats.present, 3);
  end();
}

/* What breaks a run */

static void dropped_pages_break_a_run(void) {
  open_with(UFFD_FEAT_EVENT_REMOVE, MEMORY_ANON);
  region = region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  serving_start(&serving);
  CHECK_EQ(madvise(at(2), page, MADV_DONTNEED), 0);
  serving_pause(&serving);
  TOUCH(false, 3, 2, 1, 2);
  step();
  CHECK(touches[1].value == 0 && touches[3].value == 0);
  CHECK(image_there(at(1), page, page) && image_there(at(3), 3 * page, page));
  CHECK_EQ(atomic_load(&asked.hits), 2);
  check_asked(0, 1, 1);
  check_asked(1, 3, 1);
  CHECK_EQ(serving_stats(serving.loop).zero, 1);
  CHECK_EQ(serving_stats(serving.loop).present, 1);
  end();
}

static void a_failure_is_its_pages_alone(void) {
  check_needs(UFFD_FEAT_POISON);
  serve(0);
  fails_at = 2;
  TOUCH(false, 3, 2, 2, 4);
  CHECK_EQ(uffd_loop_step(serving.loop, 0), 4);
  for (unsigned i = 0; i < 4; i++) {
    CHECK_EQ(pthread_join(touches[i].thread, NULL), 0);
    CHECK_EQ(touches[i].signal, i == 1 || i == 2 ? SIGBUS : 0);
  }
  CHECK(image_there(at(3), 3 * page, 2 * page));
  CHECK_EQ(atomic_load(&asked.hits), 2);
  check_asked(0, 2, 3);
  check_asked(1, 3, 2);
  CHECK_EQ(serving_stats(serving.loop).errors, 1);
  CHECK_EQ(serving_stats(serving.loop).poisoned, 1);
  end();
}

/* EEXIST wakes nobody: a neighbour that was there all along is woken by an answer of its own. */
static void present_neighbours_are_woken(void) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  unsigned char other[4096];
  open_with(0, MEMORY_ANON);
  opts.object = check_open(0);
  region = region_add(serving.loop, memory, asked_resolver(&asked), &opts);
  TOUCH(false, 4, 3, 2, 3);
  memset(other, 'o', sizeof(other));
  CHECK_OK(uffd_copy(opts.object, CHECK_ADDRESS(at(3)), other, page, UFFD_COPY_DONTWAKE, NULL));
  step();
  CHECK(touches[1].value == 'o' && touches[3].value == 'o');
  CHECK(image_there(at(2), 2 * page, page) && image_there(at(4), 4 * page, page));
  CHECK_EQ(atomic_load(&asked.hits), 2);
  check_asked(0, 2, 3);
  check_asked(1, 3, 1);
  CHECK_EQ(serving_stats(serving.loop).present, 3);
  end();
  uffd_close(opts.object);
}

/* Writes that are watched */

static void first_writes_come_alone(void) {
  serve(UFFD_MODE_MISSING | UFFD_MODE_WP);
  TOUCH(true, 2, 1, 3);
  TOUCH(false, 4, 5);
  step_and_check();
  CHECK_EQ(atomic_load(&asked.hits), 4);
  check_asked(2, 3, 1);
  check_asked(3, 4, 2);
  CHECK_EQ(serving_stats(serving.loop).wp, 0);
  TOUCH(true, 5, 4, 5, 5);
  step_and_check();
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.wp, 4);
  CHECK_EQ(stats.unprotected, 2 + 3); /* three have come unprotected */
  CHECK_EQ(stats.present, 1 + 2);
  end();
}

/* What is put off */

static void later_faults_keep_their_order(void) {
  struct uffd_waiting waiting = UFFD_WAITING_INIT;
  serve(0);
  later_at = 9;
  TOUCH(false, 9, 2, 9, 10);
  CHECK_EQ(uffd_loop_step(serving.loop, 0), 2);
  check_asked(0, 2, 1);
  check_asked(1, 9, 2);
  check_asked(2, 9, 2); /* nobody was woken: the twin asks by itself */
  check_asked(3, 10, 1);
  CHECK_EQ(uffd_loop_oldest(serving.loop, &waiting), 1);
  CHECK_EQ(waiting.address, CHECK_ADDRESS(at(9)));
  CHECK_EQ(waiting.tid, touches[0].tid);
  TOUCH(false, 8);
  CHECK_EQ(serving_stats(serving.loop).queue, 2);
  later_at = 0;
  unsigned answered = 0;
  while (answered < 3) {
    answered += (unsigned)CHECK_OK(uffd_loop_step(serving.loop, 100));
  }
  for (unsigned i = 0; i < touching; i++) {
    CHECK_EQ(pthread_join(touches[i].thread, NULL), 0);
  }
  CHECK_EQ(uffd_loop_oldest(serving.loop, &waiting), 0);
  CHECK(image_there(at(8), 8 * page, 3 * page));
  end();
}

/* While another fault is answered first, the oldest is the one that was read first. */
static struct uffd_waiting named = UFFD_WAITING_INIT;

static void name_oldest(void *ctx, const struct uffd_trace *trace) {
  (void)ctx;
  if (trace->offset == 3 * page) CHECK_EQ(uffd_loop_oldest(serving.loop, &named), 1);
}

static void the_oldest_is_the_first_that_was_read(void) {
  serve(0);
  CHECK_OK(uffd_loop_trace(serving.loop, name_oldest, NULL));
  TOUCH(false, 7, 3, 5);
  step_and_check();
  CHECK_EQ(named.address, CHECK_ADDRESS(at(7)));
  end();
}

/* Anything at once */

static void crowds_in_any_order(void) {
  unsigned seed = 11, faults = 0;
  for (unsigned round = 0; round < 20; round++) {
    atomic_store(&asked.hits, 0);
    serve(round % 2 == 0 ? 0 : UFFD_MODE_MISSING | UFFD_MODE_WP);
    for (unsigned i = 0; i < TOUCHES; i++) {
      seed = seed * 1103515245 + 12345;
      touch((seed >> 16) % (PAGES / 2), (seed >> 24) % 4 == 0);
    }
    bool over = false;
    while (!over) { /* who reads and then writes a watched page comes again */
      faults += (unsigned)CHECK_OK(uffd_loop_step(serving.loop, 10));
      over = true;
      for (unsigned i = 0; i < TOUCHES; i++) {
        over = over && atomic_load(&touches[i].done);
      }
    }
    for (touching = 0; touching < TOUCHES; touching++) {
      CHECK_EQ(pthread_join(touches[touching].thread, NULL), 0);
    }
    bool touched[PAGES] = {false};
    unsigned distinct = 0;
    for (unsigned i = 0; i < TOUCHES; i++) {
      uint64_t offset = CHECK_ADDRESS(touches[i].address) - CHECK_ADDRESS(at(0));
      CHECK_EQ(*touches[i].address, touches[i].write ? 'w' : image_byte(offset));
      distinct += touched[offset / page] ? 0 : 1;
      touched[offset / page] = true;
    }
    struct uffd_stats stats = serving_stats(serving.loop);
    CHECK_EQ(stats.copied, distinct);
    CHECK_EQ(stats.errors + stats.deferred + stats.gone, 0);
    touching = 0;
    end();
  }
  CHECK(faults >= 20 * TOUCHES);
}

static const struct check_test tests[] = {
    TEST(neighbours_are_one_answer), TEST(twins_are_answered_once),       TEST(runs_end_with_their_region),
    TEST(long_runs_are_cut),         TEST(every_fault_is_traced),         TEST(minor_faults_are_one_answer),
    TEST(dropped_pages_break_a_run), TEST(a_failure_is_its_pages_alone),  TEST(present_neighbours_are_woken),
    TEST(first_writes_come_alone),   TEST(later_faults_keep_their_order), TEST(the_oldest_is_the_first_that_was_read),
    TEST(crowds_in_any_order),
};
CHECK_MAIN(tests)
