/*
 * Views of resolvers: see resolving.h.
 */
#define _GNU_SOURCE
#include "resolving.h"

#include <time.h>

static bool is_huge(int kind) {
  return kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_PRIVATE;
}

static int add(struct view *view, uffd_resolver *resolver, const struct view_opts *opts) {
  struct uffd_region_opts region = UFFD_REGION_OPTS_INIT;
  region.resolver_offset = opts->resolver_offset;
  region.around = opts->around != 0 ? opts->around : UFFD_AROUND_PAGE;
  region.modes = opts->modes;
  region.on_error = opts->on_error;
  view->page = is_huge(opts->kind) ? UINT64_C(2) << 20 : check_page();
  view->length = opts->length;
  CHECK_EQ(view->length % view->page, 0);
  view->shared = opts->shared != NULL;
  if (view->shared) {
    view->serving = *opts->shared;
  } else {
    serving_open(&view->serving, opts->engine, NULL);
  }
  view->memory = memory_make(opts->kind, view->length / view->page);
  view->at = memory_at(view->memory, 0);
  return uffd_loop_add(view->serving.loop, view->memory, resolver, &region, &view->region);
}

struct view view_open(uffd_resolver *resolver, const struct view_opts *opts) {
  struct view view;
  CHECK_OK(add(&view, resolver, opts));
  return view;
}

bool view_try(uffd_resolver *resolver, const struct view_opts *opts, struct view *view) {
  int result = add(view, resolver, opts);
  if (result != -EINVAL) CHECK_OK(result);
  return result == 0;
}

void view_close(struct view *view) {
  if (!view->shared) {
    serving_close(&view->serving);
  } else if (view->region != NULL) {
    CHECK_OK(uffd_region_remove(view->region));
  }
  uffd_memory_close(view->memory);
}

void view_refused(uffd_resolver *resolver, const struct view_opts *opts, int error, const char *words) {
  struct view view;
  CHECK_ERR(add(&view, resolver, opts), error);
  CHECK_SAYS(words);
  CHECK(view.region == NULL);
  view_close(&view);
}

bool view_same(const unsigned char *at, const unsigned char *expected, uint64_t length) {
  if (memcmp(at, expected, length) == 0) return true;
  uint64_t i = 0;
  while (at[i] == expected[i]) {
    i++;
  }
  fprintf(stderr, "byte %#llx is %u, not %u\n", (unsigned long long)i, at[i], expected[i]);
  return false;
}

void view_expect(uffd_resolver *resolver, const struct view_opts *opts, const unsigned char *expected) {
  struct view view = view_open(resolver, opts);
  for (uint64_t i = view.length; i > 0; i -= view.page) {
    CHECK(view_same(view.at + i - view.page, expected + i - view.page, view.page));
  }
  CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), 0);
  view_close(&view);
}

struct view_random view_seed(void) {
  const char *given = getenv("CHECK_SEED");
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)now.tv_nsec * 1000 + (uint64_t)getpid();
  printf("  CHECK_SEED=%llu\n", (unsigned long long)seed);
  fflush(stdout);
  return (struct view_random){seed * 2 + 1};
}

uint64_t view_next(struct view_random *random, uint64_t below) { /* xorshift64* */
  random->state ^= random->state >> 12;
  random->state ^= random->state << 25;
  random->state ^= random->state >> 27;
  return random->state * UINT64_C(2685821657736338717) % below;
}
