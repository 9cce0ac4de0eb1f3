/* A resolver that is made slow and unreliable: the same pages for the same seed, and they alone. */
#include <signal.h>

#include "resolving.h"

#define PAGE  UINT64_C(4096)
#define PAGES 400u

static uffd_resolver *faulty_image(const struct uffd_faulty_opts *opts) {
  uffd_resolver *below = image_resolver(PAGES * PAGE), *resolver;
  CHECK_OK(uffd_resolver_faulty(below, opts, &resolver));
  uffd_resolver_close(below); /* it is held */
  CHECK(strcmp(uffd_resolver_kind(resolver), "faulty") == 0);
  CHECK_EQ(uffd_resolver_size(resolver), PAGES * PAGE);
  return resolver;
}

/* What a page is when it is touched: 'g' the image, 'z' zeros, 'p' poison. */
static char look_at(const struct view *view, unsigned i) {
  unsigned char *at = view->at + i * PAGE;
  if (check_access(at, false, NULL) == SIGBUS) return 'p';
  if (image_there(at, i * PAGE, PAGE)) return 'g';
  CHECK(check_filled(at, PAGE, 0));
  return 'z';
}

/* Pages that fail read as zeros. step: in which order they are touched. */
static struct uffd_stats look(const struct uffd_faulty_opts *opts, int engine, uint64_t around, unsigned step,
                              char *seen) {
  uffd_resolver *resolver = faulty_image(opts);
  struct view_opts view_opts = {
      .length = PAGES * PAGE, .engine = engine, .around = around, .on_error = UFFD_ON_ERROR_ZERO};
  struct view view = view_open(resolver, &view_opts);
  for (unsigned i = 0, at = 0; i < PAGES; i++, at = (at + step) % PAGES) {
    seen[at] = look_at(&view, at);
  }
  struct uffd_stats stats = serving_stats(view.serving.loop);
  view_close(&view);
  uffd_resolver_close(resolver);
  return stats;
}

static unsigned count(const char *seen, char what) {
  unsigned sum = 0;
  for (unsigned i = 0; i < PAGES; i++) {
    sum += seen[i] == what;
  }
  return sum;
}

static void the_same_pages_whatever_the_order(void) {
  char first[PAGES], seen[PAGES];
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  check_needs(UFFD_FEAT_POISON);
  opts.error = 0.1;
  opts.poison = 0.05;
  opts.seed = 42;
  look(&opts, ENGINE_ONE, 0, 1, first);
  CHECK(count(first, 'z') >= 20 && count(first, 'z') <= 60);
  CHECK(count(first, 'p') >= 6 && count(first, 'p') <= 40);
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    look(&opts, engine, 0, 397, seen);
    CHECK(memcmp(seen, first, PAGES) == 0);
    look(&opts, engine, UFFD_AROUND_AUTO, 1, seen);
    CHECK(memcmp(seen, first, PAGES) == 0);
    check_progress();
  }
  opts.seed = 43;
  look(&opts, ENGINE_ONE, 0, 1, seen);
  CHECK(memcmp(seen, first, PAGES) != 0);
}

static void nothing_goes_wrong_unless_it_is_asked_for(void) {
  char seen[PAGES];
  struct uffd_stats stats = look(NULL, ENGINE_ONE, 16 * PAGE, 1, seen);
  CHECK_EQ(count(seen, 'g'), PAGES);
  CHECK_EQ(stats.faults, PAGES / 16); /* answers reach as far as those of the resolver below */
  CHECK_EQ(stats.errors + stats.deferred + stats.poisoned, 0);
}

static void all_pages_may_fail(void) {
  char seen[PAGES];
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  opts.error = 1;
  CHECK_EQ(look(&opts, ENGINE_ONE, 0, 1, seen).errors, PAGES);
  CHECK_EQ(count(seen, 'z'), PAGES);
}

/* One page fails amid an answer for many: the others have what they should. */
static void an_error_is_its_pages_alone(void) {
  char seen[PAGES];
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  opts.error = 0.02;
  opts.seed = 7;
  struct uffd_stats stats = look(&opts, ENGINE_ONE, 16 * PAGE, 1, seen);
  unsigned bad = count(seen, 'z');
  CHECK(bad >= 2 && bad <= 20);
  CHECK_EQ(stats.errors, bad);
  CHECK_EQ(stats.copied, PAGES - bad);
  CHECK(stats.faults < PAGES / 16 + 3 * bad);
}

static void the_errno_and_the_sentence(void) {
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  char text[512];
  opts.error = 1;
  opts.error_number = ENOSPC;
  opts.seed = 99;
  uffd_resolver *resolver = faulty_image(&opts);
  struct view_opts view_opts = {.length = 2 * PAGE, .on_error = UFFD_ON_ERROR_ZERO};
  struct view view = view_open(resolver, &view_opts);
  CHECK_EQ(view.at[PAGE], 0);
  CHECK_EQ(uffd_loop_error(view.serving.loop, text, sizeof(text)), ENOSPC);
  CHECK(strstr(text, "The faulty resolver fails at offset 4096 (seed 99): ") != NULL);
  view_close(&view);
  uffd_resolver_close(resolver);
}

static void later_is_said_so_often_before_each_answer(void) {
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  opts.later = 3;
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    uffd_resolver *resolver = faulty_image(&opts);
    struct view_opts view_opts = {.length = 6 * PAGE, .engine = engine, .around = 4 * PAGE};
    struct view view = view_open(resolver, &view_opts);
    for (unsigned i = 0; i < 6; i++) {
      CHECK_EQ(look_at(&view, i), 'g');
    }
    CHECK_EQ(serving_stats(view.serving.loop).deferred, 18);
    CHECK_OK(uffd_memory_discard(view.memory, 0, PAGE));
    CHECK_EQ(look_at(&view, 0), 'g');
    CHECK_EQ(serving_stats(view.serving.loop).deferred, 21);
    view_close(&view);
    uffd_resolver_close(resolver);
  }
}

static void an_answer_takes_its_time(void) {
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  opts.delay_ns = 3000000;
  uffd_resolver *resolver = faulty_image(&opts);
  struct view_opts view_opts = {.length = 6 * PAGE};
  struct view view = view_open(resolver, &view_opts);
  for (unsigned i = 0; i < 6; i++) {
    CHECK_EQ(look_at(&view, i), 'g');
  }
  struct uffd_bucket buckets[UFFD_HISTOGRAM_BUCKETS];
  CHECK(uffd_region_histogram(view.region, buckets, UFFD_HISTOGRAM_BUCKETS) > 0);
  CHECK(buckets[0].up_to_ns >= opts.delay_ns); /* the fastest */
  view_close(&view);
  uffd_resolver_close(resolver);
}

/* A page that fails stays missing; what else there is comes in. */
static void prefetch_goes_on_around_errors(void) {
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  opts.error = 0.05;
  opts.later = 1;
  uffd_resolver *resolver = faulty_image(&opts);
  struct view_opts view_opts = {.length = PAGES * PAGE, .on_error = UFFD_ON_ERROR_ZERO};
  struct view view = view_open(resolver, &view_opts);
  CHECK_ERR(uffd_region_prefetch(view.region, 0, 0), -EIO);
  struct uffd_stats before = serving_stats(view.serving.loop);
  CHECK(before.prefetched >= PAGES * 8 / 10 && before.prefetched < PAGES);
  for (unsigned i = 0; i < PAGES; i++) {
    look_at(&view, i);
  }
  CHECK_EQ(serving_stats(view.serving.loop).faults, PAGES - before.prefetched);
  view_close(&view);
  uffd_resolver_close(resolver);
}

static void pages_of_huge_memory_have_lots_of_their_own(void) {
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  uffd_resolver *zero, *resolver;
  opts.error = 1;
  opts.later = 2;
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_OK(uffd_resolver_faulty(zero, &opts, &resolver));
  CHECK_EQ(uffd_resolver_size(resolver), UINT64_MAX);
  struct view_opts view_opts = {.kind = MEMORY_HUGETLB, .length = 2 << 20, .on_error = UFFD_ON_ERROR_ZERO};
  struct view view = view_open(resolver, &view_opts);
  CHECK_EQ(view.at[5], 0);
  CHECK_EQ(serving_stats(view.serving.loop).errors, 1);
  CHECK_EQ(serving_stats(view.serving.loop).deferred, 2);
  view_close(&view);
  uffd_resolver_close(resolver);
  uffd_resolver_close(zero);
}

static void refused(const struct uffd_faulty_opts *opts, const char *words) {
  uffd_resolver *zero, *resolver;
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_ERR(uffd_resolver_faulty(zero, opts, &resolver), -EINVAL);
  CHECK_SAYS(words);
  CHECK(resolver == NULL);
  uffd_resolver_close(zero);
}

static void options_that_cannot_be(void) {
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  uffd_resolver *resolver;
  CHECK_ERR(uffd_resolver_faulty(NULL, NULL, &resolver), -EINVAL);
  CHECK_SAYS("below");
  opts.error = -0.1;
  refused(&opts, "error -0.1");
  opts.error = 0.0 / 0.0;
  refused(&opts, "error ");
  opts.error = 0.6;
  opts.poison = 1.01;
  refused(&opts, "poison 1.01");
  opts.poison = 0.6;
  refused(&opts, "error 0.6 and poison 0.6");
  opts.poison = 0.4;
  opts.later = 256;
  refused(&opts, "later 256");
  opts.later = 0;
  opts.delay_ns = UINT64_C(60000000001);
  refused(&opts, "delay_ns 60000000001");
  opts.delay_ns = 0;
  opts.error_number = -5;
  refused(&opts, "error_number -5");
}

static const struct check_test tests[] = {
    TEST(the_same_pages_whatever_the_order),
    TEST(nothing_goes_wrong_unless_it_is_asked_for),
    TEST(all_pages_may_fail),
    TEST(an_error_is_its_pages_alone),
    TEST(the_errno_and_the_sentence),
    TEST(later_is_said_so_often_before_each_answer),
    TEST(an_answer_takes_its_time),
    TEST(prefetch_goes_on_around_errors),
    TEST(pages_of_huge_memory_have_lots_of_their_own),
    TEST(options_that_cannot_be),
};
CHECK_MAIN(tests)
