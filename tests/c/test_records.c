/* A record (trace, count, first write) is there as soon as the thread that caused it goes on, and says what was done.
 */
#define _GNU_SOURCE
#include <stdlib.h>

#include "serving.h"

enum { PAGES = 400 };

static uint64_t page;
static struct serving serving;
static uffd_memory *memory;
static uffd_region *region;

struct records {
  _Atomic uint64_t count;
  struct uffd_trace last;
};

static void keep(void *ctx, const struct uffd_trace *trace) {
  struct records *records = ctx;
  records->last = *trace;
  atomic_fetch_add(&records->count, 1);
}

static void serve(int engine, uint64_t modes, uint64_t around) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  page = check_page();
  opts.modes = modes;
  opts.around = around;
  serving_open(&serving, engine, NULL);
  memory = memory_make(MEMORY_ANON, PAGES);
  region = region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
}

static void end(void) {
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void a_record_is_there_when_its_thread_goes_on(void) {
  for (int engine = 0; engine < ENGINE_PUMP; engine++) {
    struct records records = {0};
    serve(engine, UFFD_MODE_MISSING, 0);
    CHECK_OK(uffd_loop_trace(serving.loop, keep, &records));
    for (uint64_t i = 0; i < PAGES; i++) {
      CHECK_EQ(*memory_at(memory, i * page), image_byte(i * page));
      CHECK_EQ(atomic_load(&records.count), i + 1);
      struct uffd_stats stats = serving_stats(serving.loop);
      CHECK_EQ(stats.faults, i + 1);
      CHECK_EQ(stats.copied, i + 1);
      CHECK_EQ(stats.bytes, (i + 1) * page);
    }
    CHECK_OK(uffd_loop_trace(serving.loop, NULL, NULL));
    end();
  }
}

/* Each page is first written once, however it came. */
static void first_writes_are_counted_once(void) {
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP);
  const uint64_t arounds[] = {0, 8 * check_page(), UFFD_AROUND_AUTO};
  for (int engine = 0; engine < ENGINE_PUMP; engine++) {
    for (unsigned a = 0; a < 3; a++) {
      serve(engine, UFFD_MODE_MISSING | UFFD_MODE_WP, arounds[a]);
      for (uint64_t i = 0; i < PAGES; i++) {
        *memory_at(memory, i * page) = 'w';
        CHECK_EQ(serving_stats(serving.loop).unprotected, i + 1);
      }
      end();
    }
  }
}

static void a_write_that_is_let_through_says_so(void) {
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP);
  for (int engine = 0; engine < ENGINE_PUMP; engine++) {
    struct records records = {0};
    serve(engine, UFFD_MODE_MISSING | UFFD_MODE_WP, 0);
    CHECK_OK(uffd_loop_trace(serving.loop, keep, &records));
    CHECK_EQ(*memory_at(memory, 3 * page), image_byte(3 * page));
    *memory_at(memory, 3 * page) = 'w';
    CHECK_EQ(atomic_load(&records.count), 2);
    CHECK_EQ(records.last.answer, UFFD_ANSWER_UNPROTECT);
    CHECK_EQ(records.last.outcome, UFFD_OUTCOME_INSTALLED);
    CHECK_EQ(records.last.cover, page);
    CHECK_EQ(records.last.offset, 3 * page);
    end();
  }
}

static int answer_a_byte(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = "x";
  answer->length = 1;
  return 0;
}

static void a_short_answer_covers_its_page(void) {
  struct records records = {0};
  struct asked asked = {.answer = answer_a_byte};
  page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  memory = memory_make(MEMORY_ANON, 4);
  region = region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  CHECK_OK(uffd_loop_trace(serving.loop, keep, &records));
  CHECK_EQ(*memory_at(memory, page), 'x');
  CHECK_EQ(atomic_load(&records.count), 1);
  CHECK_EQ(records.last.cover, page);
  end();
}

static int fail_silently(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)answer;
  if (fault->offset == 0) return -EIO;
  return uffd_set_errmsg(ENODATA, "The store is closed.");
}

/* Whose resolver, which page, which cause: never an older failure's words. */
static void a_failure_is_told_in_its_own_words(void) {
  check_needs(UFFD_FEAT_POISON);
  struct asked asked = {.answer = fail_silently};
  char text[256];
  page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  memory = memory_make(MEMORY_ANON, 4);
  region = region_add(serving.loop, memory, asked_resolver(&asked), NULL);
  CHECK_ERR(uffd_region_prefetch(region, page, page), -ENODATA);
  CHECK_SAYS("The store is closed.");
  CHECK(check_access(memory_at(memory, 0), false, NULL) != 0);
  CHECK_EQ(uffd_loop_error(serving.loop, text, sizeof(text)), EIO);
  CHECK(strstr(text, "The page at offset 0 is poisoned") != NULL);
  CHECK(strstr(text, "resolver failed at offset 0: Input/output error") != NULL);
  end();
}

static const struct check_test tests[] = {
    TEST(a_record_is_there_when_its_thread_goes_on), TEST(first_writes_are_counted_once),
    TEST(a_write_that_is_let_through_says_so),       TEST(a_short_answer_covers_its_page),
    TEST(a_failure_is_told_in_its_own_words),
};
CHECK_MAIN(tests)
