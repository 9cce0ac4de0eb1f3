/*
 * uffd_memory_discard(): the pages are asked for anew, on every kind of memory and in every engine, also where the
 * kernel tells of the drop; and a pump's driver that touches what it serves.
 */
#include "check.h"

#include <signal.h>
#include <sys/mman.h>

#include "serving.h"

/* Each call tells its number in the first byte of the page. */
static int count_calls(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  static _Thread_local unsigned char page[UINT64_C(2) << 20];
  memset(page, (int)atomic_load(&asked->hits), fault->page_size);
  answer->kind = UFFD_ANSWER_BYTES;
  answer->offset = fault->offset;
  answer->length = fault->page_size;
  answer->data = page;
  return 0;
}

static unsigned char look(uffd_memory *memory, uint64_t offset) {
  unsigned char byte = 0;
  CHECK_OK(uffd_memory_read(memory, offset, &byte, 1));
  return byte;
}

static void discard_and_look(int engine, int kind, uint64_t features, uint64_t modes) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts region = UFFD_REGION_OPTS_INIT;
  struct asked asked = {.answer = count_calls};
  struct serving serving;
  uffd_memory *memory = memory_make(kind, 4);
  uint64_t page = uffd_memory_page_size(memory);
  opts.features = features;
  region.modes = modes;
  serving_open(&serving, engine, &opts);
  region_add(serving.loop, memory, asked_resolver(&asked), &region);
  serving_start(&serving);
  for (uint64_t i = 0; i < 4; i++)
    CHECK_EQ(look(memory, i * page), i + 1);
  CHECK_OK(uffd_memory_write(memory, page, "written", 7));
  CHECK_OK(uffd_memory_discard(memory, page, 2 * page));
  CHECK_EQ(look(memory, 0), 1);
  CHECK_EQ(look(memory, page), 5);
  CHECK_EQ(look(memory, 2 * page), 6);
  CHECK_EQ(look(memory, 3 * page), 4);
  CHECK_OK(uffd_memory_discard(memory, 0, 4 * page));
  CHECK_OK(uffd_memory_discard(memory, 0, 4 * page)); /* what is absent already */
  CHECK_OK(uffd_memory_discard(memory, 0, 0));
  serving_pause(&serving); /* completing drives a pump, and two threads must not */
  if ((modes & UFFD_MODE_MINOR) == 0) CHECK_OK(uffd_loop_complete(serving.loop));
  for (uint64_t i = 0; i < 4 && (modes & UFFD_MODE_MINOR) == 0; i++)
    CHECK(look(memory, i * page) > 6);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void every_kind_in_every_engine(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    for (int i = 0; i < MEMORY_KINDS; i++) {
      if (memory_kinds[i] == MEMORY_HUGETLB || memory_kinds[i] == MEMORY_HUGETLB_PRIVATE) continue;
      discard_and_look(engine, memory_kinds[i], 0, 0);
    }
  }
}

static void huge_pages(void) {
  discard_and_look(ENGINE_ONE, MEMORY_HUGETLB, 0, 0);
  discard_and_look(ENGINE_TWO, MEMORY_HUGETLB_PRIVATE, 0, 0);
}

static void write_protected_pages(void) {
  check_needs(UFFD_FEAT_WP_UNPOPULATED);
  discard_and_look(ENGINE_ONE, MEMORY_ANON, 0, UFFD_MODE_MISSING | UFFD_MODE_WP);
  discard_and_look(ENGINE_TWO, MEMORY_MEMFD, 0, UFFD_MODE_MISSING | UFFD_MODE_WP);
}

/* The kernel waits until the event is read. The pages of the event must not become zeros. */
static void where_the_kernel_tells_of_the_drop(void) {
  check_needs(UFFD_FEAT_EVENT_REMOVE);
  for (int i = 0; i < MEMORY_KINDS; i++) {
    if (memory_kinds[i] == MEMORY_HUGETLB || memory_kinds[i] == MEMORY_HUGETLB_PRIVATE) continue;
    discard_and_look(ENGINE_ONE, memory_kinds[i], UFFD_FEAT_EVENT_REMOVE, 0);
    discard_and_look(ENGINE_TWO, memory_kinds[i], UFFD_FEAT_EVENT_REMOVE, 0);
    discard_and_look(ENGINE_PUMP, memory_kinds[i], UFFD_FEAT_EVENT_REMOVE, 0);
  }
}

/* Poison is discarded like other pages; so is what the owner had dropped, which read as zeros. */
static void poison_and_dropped_pages(void) {
  check_needs(UFFD_FEAT_POISON | UFFD_FEAT_EVENT_REMOVE);
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct serving serving;
  uffd_resolver *poison = NULL;
  struct asked asked = {.answer = count_calls};
  unsigned char byte = 0;
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  uint64_t page = uffd_memory_page_size(memory);
  struct uffd_region_opts region = UFFD_REGION_OPTS_INIT;
  opts.features = UFFD_FEAT_EVENT_REMOVE;
  serving_open(&serving, ENGINE_ONE, &opts);
  CHECK_OK(uffd_resolver_poison(&poison));
  region.length = 2 * page;
  region_add(serving.loop, memory, poison, &region);
  region.offset = 2 * page;
  region_add(serving.loop, memory, asked_resolver(&asked), &region);
  serving_start(&serving);
  CHECK_EQ(uffd_memory_read(memory, 0, &byte, 1), -EHWPOISON);
  CHECK_OK(uffd_memory_discard(memory, 0, page));
  CHECK_EQ(uffd_memory_read(memory, 0, &byte, 1), -EHWPOISON);
  CHECK_EQ(serving_stats(serving.loop).poisoned, 2);
  CHECK_EQ(look(memory, 2 * page), 1);
  CHECK_EQ(madvise(memory_at(memory, 2 * page), page, MADV_DONTNEED), 0);
  CHECK_EQ(look(memory, 2 * page), 0);
  CHECK_OK(uffd_memory_discard(memory, page, 3 * page)); /* over two regions */
  CHECK_EQ(look(memory, 2 * page), 2);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void what_is_refused(void) {
  uffd_memory *memory = memory_make(MEMORY_ANON, 4);
  uint64_t page = uffd_memory_page_size(memory);
  struct uffd_region_opts region = UFFD_REGION_OPTS_INIT;
  struct asked asked = {.answer = count_calls};
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  region.length = 2 * page;
  region_add(serving.loop, memory, asked_resolver(&asked), &region);
  serving_start(&serving);
  CHECK_EQ(look(memory, 0), 1);
  CHECK_EQ(uffd_memory_discard(memory, 0, 3 * page), -ENOENT);
  CHECK(strstr(uffd_errmsg(), "not served") != NULL);
  CHECK_EQ(look(memory, 0), 1); /* nothing was discarded */
  CHECK_EQ(uffd_memory_discard(memory, 1, page), -EINVAL);
  CHECK_EQ(uffd_memory_discard(memory, 0, page - 1), -EINVAL);
  CHECK_EQ(uffd_memory_discard(memory, 0, 5 * page), -ERANGE);
  CHECK_EQ(uffd_memory_discard(memory, 5 * page, 0), -ERANGE);
  CHECK_EQ(uffd_memory_discard(NULL, 0, 0), -EBADF);
  if (check_mlock_works()) {
    CHECK_EQ(mlock(memory_at(memory, 0), page), 0);
    CHECK_EQ(uffd_memory_discard(memory, 0, page), -EINVAL);
    CHECK(strstr(uffd_errmsg(), "mlock") != NULL);
    munlock(memory_at(memory, 0), page);
  }
  serving_close(&serving);
  CHECK_EQ(uffd_memory_discard(memory, 0, page), -ENOENT);
  uffd_memory_close(memory);
}

static int discard_own(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  CHECK_EQ(uffd_memory_discard(asked->ctx, 0, fault->page_size), -EDEADLK);
  answer->kind = UFFD_ANSWER_ZERO;
  return 0;
}

static void a_callback_must_not(void) {
  struct asked asked = {.answer = discard_own};
  struct serving serving;
  uffd_memory *memory = memory_make(MEMORY_ANON, 2);
  asked.ctx = memory;
  serving_open(&serving, ENGINE_ONE, NULL);
  region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  serving_start(&serving);
  CHECK_EQ(look(memory, 0), 0);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Pages are read and discarded by two threads: no byte is anything but what the resolver said. */
struct reading {
  uffd_memory *memory;
  _Atomic bool stop;
};

static void read_on(void *ctx) {
  struct reading *reading = ctx;
  uint64_t length = uffd_memory_length(reading->memory);
  unsigned char *buffer = malloc(length);
  while (!atomic_load(&reading->stop)) {
    CHECK_OK(uffd_memory_read(reading->memory, 0, buffer, length));
    CHECK(image_there(buffer, 0, length));
  }
  free(buffer);
}

static void while_others_read(void) {
  const int kinds[] = {MEMORY_ANON, MEMORY_MEMFD, MEMORY_THP};
  for (int engine = 0; engine < ENGINE_PUMP; engine++) {
    for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
      struct serving serving;
      uffd_memory *memory = memory_make(kinds[k], 16);
      uint64_t page = uffd_memory_page_size(memory);
      struct reading reading = {.memory = memory};
      struct check_thread reader;
      serving_open(&serving, engine, NULL);
      region_add(serving.loop, memory, image_resolver(16 * page), NULL);
      serving_start(&serving);
      check_thread_start(&reader, read_on, &reading);
      for (uint64_t i = 0; i < 200; i++)
        CHECK_OK(uffd_memory_discard(memory, i % 13 * page, 3 * page));
      atomic_store(&reading.stop, true);
      check_thread_join(&reader);
      serving_close(&serving);
      uffd_memory_close(memory);
    }
  }
}

/* An access that would wait for ever is refused. Pages that are there can be read and written. */
static void a_pumps_driver_touches_its_own(void) {
  struct serving serving;
  struct asked asked = {.answer = count_calls};
  uffd_memory *memory = memory_make(MEMORY_ANON, 4), *other = memory_make(MEMORY_ANON, 2);
  uint64_t page = uffd_memory_page_size(memory);
  unsigned char *buffer = malloc(4 * page);
  serving_open(&serving, ENGINE_PUMP, NULL);
  uffd_region *region = region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  if (uffd_loop_user_mode_only(serving.loop) == 1) SKIP("user mode only: a pump's driver brings its pages in itself");
  CHECK_EQ(uffd_memory_read(memory, 2 * page, buffer, page), -EDEADLK);
  CHECK(strstr(uffd_errmsg(), "drives") != NULL);
  CHECK_EQ(uffd_memory_write(memory, 0, "x", 1), -EDEADLK);
  CHECK_EQ(uffd_memory_prefault(memory, 0, page, 0), -EDEADLK);
  CHECK_EQ(uffd_memory_read(other, 0, memory_at(memory, 0), page), -EDEADLK); /* into it */
  CHECK_OK(uffd_region_prefetch(region, 0, page));
  CHECK_EQ(look(memory, 0), 1);
  CHECK_EQ(uffd_memory_read(memory, 0, buffer, 2 * page), -EDEADLK); /* the second page is missing */
  CHECK_OK(uffd_memory_write(memory, 5, "x", 1));
  CHECK_OK(uffd_memory_discard(memory, 0, page)); /* the driver does that itself */
  CHECK_EQ(uffd_memory_read(memory, 0, buffer, 1), -EDEADLK);
  serving_start(&serving); /* another thread drives from here on */
  CHECK_EQ(look(memory, 0), 2);
  serving_close(&serving);
  free(buffer);
  uffd_memory_close(other);
  uffd_memory_close(memory);
}

/* ---- another resolver for a region, which has its pages anew when they are discarded */

static uffd_resolver *letters(char letter) {
  uffd_resolver *resolver;
  CHECK_OK(uffd_resolver_pattern(&letter, 1, &resolver));
  return resolver;
}

static void set(uffd_region *region, uffd_resolver *resolver) {
  CHECK_OK(uffd_region_set_resolver(region, resolver));
  uffd_resolver_close(resolver);
}

static void another_resolver_answers(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct serving serving;
    uffd_memory *memory = memory_make(MEMORY_ANON, 4);
    uint64_t page = uffd_memory_page_size(memory);
    serving_open(&serving, engine, NULL);
    uffd_region *region = region_add(serving.loop, memory, letters('a'), NULL);
    serving_start(&serving);
    CHECK_EQ(look(memory, 0), 'a');
    CHECK_OK(uffd_memory_write(memory, page, "w", 1));
    serving_pause(&serving);
    set(region, letters('b'));
    serving_start(&serving);
    CHECK_EQ(look(memory, 0), 'a'); /* is there */
    CHECK_EQ(look(memory, page), 'w');
    CHECK_EQ(look(memory, 2 * page), 'b');
    CHECK_OK(uffd_memory_discard(memory, 0, 4 * page));
    for (uint64_t i = 0; i < 4; i++)
      CHECK_EQ(look(memory, i * page + 1), 'b');
    serving_pause(&serving);
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

/* A callback that was let go is not asked, and has nothing left. */
struct mortal {
  char letter;
  _Atomic int states;
  _Atomic bool dead;
};

static int mortal_setup(void *ctx, const struct uffd_handler *handler, void **state) {
  struct mortal *mortal = ctx;
  (void)handler;
  atomic_fetch_add(&mortal->states, 1);
  *state = mortal;
  return 0;
}

static int mortal_resolve(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  static _Thread_local char page[4096];
  struct mortal *mortal = ctx;
  CHECK(state == mortal && !atomic_load(&mortal->dead));
  memset(page, mortal->letter, sizeof(page));
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = page;
  answer->length = fault->page_size;
  return 0;
}

static void mortal_teardown(void *ctx, void *state) {
  CHECK(state == ctx);
  atomic_fetch_sub(&((struct mortal *)ctx)->states, 1);
}

static void mortal_destroy(void *ctx) {
  atomic_store(&((struct mortal *)ctx)->dead, true);
}

static uffd_resolver *mortal_resolver(struct mortal *mortal, char letter) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *resolver;
  *mortal = (struct mortal){.letter = letter};
  ops.setup = mortal_setup;
  ops.resolve = mortal_resolve;
  ops.teardown = mortal_teardown;
  ops.destroy = mortal_destroy;
  CHECK_OK(uffd_resolver_callback(&ops, mortal, NULL, NULL, 0, &resolver));
  return resolver;
}

static void the_old_resolver_is_let_go(void) {
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    struct serving serving;
    struct mortal first, second;
    uffd_memory *memory = memory_make(MEMORY_ANON, 2);
    serving_open(&serving, engine, NULL);
    uffd_region *region = region_add(serving.loop, memory, mortal_resolver(&first, 'a'), NULL);
    CHECK_EQ(look(memory, 0), 'a');
    set(region, mortal_resolver(&second, 'b'));
    CHECK(first.dead && first.states == 0);
    CHECK(!second.dead && second.states > 0);
    CHECK_EQ(look(memory, 4096), 'b');
    serving_close(&serving);
    CHECK(second.dead && second.states == 0);
    uffd_memory_close(memory);
  }
}

struct toucher {
  uffd_memory *memory;
  _Atomic bool stop;
  _Atomic unsigned rounds;
};

static void touch_all(void *ctx) {
  struct toucher *toucher = ctx;
  uint64_t length = uffd_memory_length(toucher->memory);
  while (!atomic_load(&toucher->stop)) {
    for (uint64_t at = 0; at < length; at += 4096) {
      unsigned char byte = *(volatile unsigned char *)memory_at(toucher->memory, at);
      CHECK(byte >= 'a' && byte <= 'z');
    }
    atomic_fetch_add(&toucher->rounds, 1);
  }
}

/* Two threads fault all the while. What is read after a discard is the new resolver's, and no dead one is asked. */
static void replaced_under_faults(void) {
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    struct serving serving;
    static struct mortal mortals[26];
    struct toucher toucher = {.memory = memory_make(MEMORY_ANON, 64)};
    struct check_thread threads[2];
    serving_open(&serving, engine, NULL);
    uffd_region *region = region_add(serving.loop, toucher.memory, mortal_resolver(&mortals[0], 'a'), NULL);
    check_thread_start(&threads[0], touch_all, &toucher);
    check_thread_start(&threads[1], touch_all, &toucher);
    for (int i = 1; i < 26; i++) {
      set(region, mortal_resolver(&mortals[i], (char)('a' + i)));
      CHECK(mortals[i - 1].dead);
      CHECK_OK(uffd_memory_discard(toucher.memory, 0, uffd_memory_length(toucher.memory)));
      for (uint64_t at = 0; at < uffd_memory_length(toucher.memory); at += 4096)
        CHECK_EQ(look(toucher.memory, at), 'a' + i);
      unsigned before = atomic_load(&toucher.rounds);
      while (atomic_load(&toucher.rounds) == before)
        check_pause();
      check_progress();
    }
    atomic_store(&toucher.stop, true);
    check_thread_join(&threads[0]);
    check_thread_join(&threads[1]);
    serving_close(&serving);
    uffd_memory_close(toucher.memory);
  }
}

/* Where minor faults are told, who continues pages and fills others is not exchanged for one who does not. */
static void continuing_is_not_exchanged_for_another_kind(void) {
  struct serving serving;
  uffd_resolver *filling, *again, *plain = letters('a');
  uffd_memory *memory = memory_make(MEMORY_MEMFD, 2);
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  serving_open(&serving, ENGINE_ONE, NULL);
  CHECK_OK(uffd_resolver_continue(plain, &filling));
  CHECK_OK(uffd_resolver_continue(plain, &again));
  uffd_region *region = region_add(serving.loop, memory, filling, NULL);
  CHECK_EQ(look(memory, 0), 'a');
  CHECK_ERR(uffd_region_set_resolver(region, plain), -EINVAL);
  CHECK_SAYS("only one continues pages");
  set(region, again);
  CHECK_EQ(look(memory, uffd_memory_page_size(memory)), 'a');
  uffd_resolver_close(plain);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static uffd_region *_Atomic of_the_callback;

static int replace_myself(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault, (void)answer;
  uffd_resolver *resolver = letters('c');
  int result = uffd_region_set_resolver(atomic_load(&of_the_callback), resolver);
  uffd_resolver_close(resolver);
  return result;
}

static void resolvers_that_cannot_be(void) {
  struct serving serving;
  uffd_memory *memory = memory_make(MEMORY_ANON, 2);
  struct asked asked = {.answer = replace_myself};
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.on_error = UFFD_ON_ERROR_ZERO;
  serving_open(&serving, ENGINE_ONE, &opts);
  uffd_region *region = region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  atomic_store(&of_the_callback, region);
  CHECK_EQ(look(memory, 0), 0);
  CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), EDEADLK);
  CHECK_ERR(uffd_region_set_resolver(region, NULL), -EINVAL);
  uffd_resolver *resolver;
  CHECK_OK(uffd_resolver_bytes("short", 5, &resolver));
  CHECK_ERR(uffd_region_set_resolver(region, resolver), -EINVAL);
  CHECK_SAYS("has 5 bytes, but is to answer for 8192");
  uffd_resolver_close(resolver);
  CHECK_OK(uffd_resolver_continue(NULL, &resolver));
  CHECK_ERR(uffd_region_set_resolver(region, resolver), -EINVAL);
  uffd_resolver_close(resolver);
  resolver = letters('d');
  CHECK_OK(uffd_region_remove(region));
  CHECK_ERR(uffd_region_set_resolver(region, resolver), -ENOENT);
  CHECK_SAYS("removed");
  uffd_resolver_close(resolver);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static const struct check_test tests[] = {
    TEST(every_kind_in_every_engine),
    TEST(huge_pages),
    TEST(write_protected_pages),
    TEST(where_the_kernel_tells_of_the_drop),
    TEST(poison_and_dropped_pages),
    TEST(what_is_refused),
    TEST(a_callback_must_not),
    TEST(while_others_read),
    TEST(a_pumps_driver_touches_its_own),
    TEST(another_resolver_answers),
    TEST(the_old_resolver_is_let_go),
    TEST(replaced_under_faults),
    TEST(continuing_is_not_exchanged_for_another_kind),
    TEST(resolvers_that_cannot_be),
};
CHECK_MAIN(tests)
