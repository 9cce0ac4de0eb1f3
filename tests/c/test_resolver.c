/* Resolvers that need nothing else: zero, poison, bytes, patterns; what all of them have in common. */
#define _GNU_SOURCE
#include "check.h"

#include <signal.h>
#include <sys/mman.h>

#include "resolving.h"

#define HUGE (UINT64_C(2) << 20)
#define MIB  (UINT64_C(1) << 20)

static uint64_t round_to(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

static unsigned char *map_bytes(uint64_t length) {
  unsigned char *bytes = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(bytes != MAP_FAILED);
  return bytes;
}

static uffd_resolver *make_bytes(const void *data, uint64_t length) {
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_bytes(data, length, &resolver));
  return resolver;
}

static struct serving served; /* the loop of a test with many views */

/* Constants */

static void zero_is_zero(void) {
  uffd_resolver *zero = NULL;
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK(strcmp(uffd_resolver_kind(zero), "zero") == 0);
  CHECK(uffd_resolver_size(zero) == UINT64_MAX);
  for (int kind = 0; kind < MEMORY_KINDS; kind++) {
    if (kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_PRIVATE) continue;
    struct view_opts opts = {.kind = kind, .length = 16 * check_page(), .resolver_offset = UINT64_C(1) << 60};
    struct view view = view_open(zero, &opts);
    CHECK(check_filled(view.at, view.length, 0));
    view.at[0] = 1; /* and it can be written */
    CHECK_EQ(serving_stats(view.serving.loop).zero, 16);
    CHECK_EQ(serving_stats(view.serving.loop).copied, 0);
    view_close(&view);
  }
  uffd_resolver_close(zero);
}

static void zero_huge_pages(void) {
  uffd_resolver *zero = NULL;
  check_hugepages(8);
  CHECK_OK(uffd_resolver_zero(&zero));
  for (int kind = MEMORY_HUGETLB; kind <= MEMORY_HUGETLB_PRIVATE; kind++) {
    struct view view = view_open(zero, &(struct view_opts){.kind = kind, .length = 2 * HUGE});
    CHECK(check_filled(view.at, view.length, 0));
    CHECK_EQ(serving_stats(view.serving.loop).zero, 2);
    view_close(&view);
  }
  uffd_resolver_close(zero);
}

static void poison_in(int kind) {
  uffd_resolver *poison = NULL;
  CHECK_OK(uffd_resolver_poison(&poison));
  CHECK(strcmp(uffd_resolver_kind(poison), "poison") == 0);
  CHECK(uffd_resolver_size(poison) == UINT64_MAX);
  uint64_t page = kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_PRIVATE ? HUGE : check_page();
  struct view view = view_open(poison, &(struct view_opts){.kind = kind, .length = 2 * page});
  uffd_resolver_close(poison);
  for (uint64_t at = 0; at < 2 * page; at += page / 2) {
    CHECK_EQ(check_access(view.at + at, at % page != 0, NULL), SIGBUS);
  }
  CHECK_EQ(serving_stats(view.serving.loop).poisoned, 2);
  CHECK_EQ(serving_stats(view.serving.loop).bytes, 0);
  CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), 0); /* it is an answer, not a failure */
  view_close(&view);
}

static void poison_is_poison(void) {
  check_needs(UFFD_FEAT_POISON);
  for (int kind = 0; kind < MEMORY_KINDS; kind++) {
    if (kind != MEMORY_HUGETLB && kind != MEMORY_HUGETLB_PRIVATE) poison_in(kind);
  }
}

static void poisoned_huge_pages(void) {
  check_needs(UFFD_FEAT_POISON);
  check_hugepages(8);
  poison_in(MEMORY_HUGETLB);
  poison_in(MEMORY_HUGETLB_PRIVATE);
}

/* Bytes */

static void check_bytes(uint64_t length, int kind, uint64_t around) {
  uint64_t page = kind == MEMORY_HUGETLB ? HUGE : check_page(), whole = round_to(length, page);
  unsigned char *image = image_make(length), *expected = map_bytes(whole);
  memcpy(expected, image, length);
  uffd_resolver *resolver = make_bytes(image, length);
  CHECK(strcmp(uffd_resolver_kind(resolver), "bytes") == 0);
  CHECK_EQ(uffd_resolver_size(resolver), length);
  memset(image, 0xee, length); /* the resolver has its own copy */
  for (uint64_t from = 0; from<whole; from += whole / page> 8 ? page * 7 : page) {
    struct view_opts opts = {.kind = kind, .length = whole - from, .resolver_offset = from, .around = around};
    opts.shared = &served;
    view_expect(resolver, &opts, expected + from);
  }
  struct view_opts longer = {.kind = kind, .length = whole + page, .around = around};
  view_refused(resolver, &longer, -EINVAL, "make the region shorter");
  longer = (struct view_opts){.kind = kind, .length = page, .resolver_offset = whole};
  view_refused(resolver, &longer, -EINVAL, "bytes");
  uffd_resolver_close(resolver);
  munmap(image, length);
  munmap(expected, whole);
}

static void bytes_of_any_length(void) {
  serving_open(&served, ENGINE_ONE, NULL);
  uint64_t page = check_page();
  const uint64_t lengths[] = {1, 511, page - 1, page, page + 1, 3 * page + 5, 64 * page, 64 * page + 1};
  for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
    check_bytes(lengths[i], MEMORY_ANON, 0);
    check_bytes(lengths[i], MEMORY_ANON, 4 * page);
    check_bytes(lengths[i], MEMORY_MEMFD, UINT64_MAX);
  }
  serving_close(&served);
}

static void bytes_in_huge_pages(void) {
  serving_open(&served, ENGINE_TWO, NULL);
  check_hugepages(12);
  const uint64_t lengths[] = {1, 4096, HUGE - 1, HUGE, HUGE + 1, 2 * HUGE + MIB + 1};
  for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
    check_bytes(lengths[i], MEMORY_HUGETLB, 0);
    check_bytes(lengths[i], MEMORY_HUGETLB, 2 * HUGE);
  }
  serving_close(&served);
}

/* Patterns */

static uffd_resolver *make_pattern(uint64_t length, unsigned char *pattern) {
  for (uint64_t i = 0; i < length; i++) {
    pattern[i] = (unsigned char)(1 + (i * 131 + i / 251) % 255);
  }
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_pattern(pattern, length, &resolver));
  CHECK(strcmp(uffd_resolver_kind(resolver), "pattern") == 0);
  CHECK(uffd_resolver_size(resolver) == UINT64_MAX);
  return resolver;
}

/* The byte at offset is pattern[offset % length], wherever the region begins. */
static void check_pattern_at(uint64_t length, struct view_opts *opts) {
  unsigned char *pattern = map_bytes(length), *expected = map_bytes(opts->length);
  uffd_resolver *resolver = make_pattern(length, pattern);
  for (uint64_t i = 0, part; i < opts->length; i += part) {
    uint64_t phase = (opts->resolver_offset + i) % length;
    part = length - phase < opts->length - i ? length - phase : opts->length - i;
    memcpy(expected + i, pattern + phase, part);
  }
  memset(pattern, 0, length); /* it is a copy */
  opts->shared = &served;
  view_expect(resolver, opts, expected);
  uffd_resolver_close(resolver);
  munmap(pattern, length);
  munmap(expected, opts->length);
}

static void patterns_of_every_length(void) {
  serving_open(&served, ENGINE_TWO, NULL);
  const uint64_t lengths[] = {1, 2, 3, 255, 4095, 4096, 4097, 65537, MIB - 1, MIB};
  for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
    check_pattern_at(lengths[i], &(struct view_opts){.length = 40 * check_page()});
    check_pattern_at(lengths[i], &(struct view_opts){.length = 3 * MIB, .around = 64 << 10});
    check_pattern_at(lengths[i], &(struct view_opts){.length = 16 * check_page(),
                                                     .around = 5 * check_page(),
                                                     .resolver_offset = UINT64_MAX - 16 * check_page() + 1 - 4096});
  }
  serving_close(&served);
}

/* A pattern one byte shorter, or longer, than a page begins every page in another phase: all of them. */
static void patterns_in_every_phase(void) {
  serving_open(&served, ENGINE_TWO, NULL);
  check_pattern_at(4095, &(struct view_opts){.length = UINT64_C(4096) * 4096, .around = 1 << 20});
  check_pattern_at(4097, &(struct view_opts){.length = UINT64_C(4098) * 4096, .around = 1 << 20});
  serving_close(&served);
}

static void patterns_in_huge_pages(void) {
  serving_open(&served, ENGINE_ONE, NULL);
  check_hugepages(12);
  const uint64_t lengths[] = {1, 3, 4097, MIB - 1, MIB};
  for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
    for (int kind = MEMORY_HUGETLB; kind <= MEMORY_HUGETLB_PRIVATE; kind++) {
      check_pattern_at(lengths[i], &(struct view_opts){.kind = kind, .length = 3 * HUGE, .resolver_offset = 6 * HUGE});
      check_pattern_at(lengths[i], &(struct view_opts){.kind = kind, .length = 3 * HUGE, .around = UINT64_MAX});
    }
  }
  serving_close(&served);
}

/* More is wanted around the fault than a pattern lays out at once: never more than was wanted. */
static void a_pattern_keeps_within_the_cover(void) {
  unsigned char pattern[3];
  uffd_resolver *resolver = make_pattern(sizeof(pattern), pattern);
  struct view view = view_open(resolver, &(struct view_opts){.length = 16 * MIB, .around = 8 * MIB});
  CHECK_EQ(view.at[7 * MIB], pattern[7 * MIB % 3]);
  CHECK_EQ(serving_stats(view.serving.loop).copied * view.page, MIB); /* to the end of the 8 MiB around it */
  CHECK_EQ(view.at[8 * MIB + 5], pattern[(8 * MIB + 5) % 3]);
  CHECK_EQ(serving_stats(view.serving.loop).copied * view.page, 3 * MIB);
  for (uint64_t i = 0; i < view.length; i++) {
    if (view.at[i] != pattern[i % 3]) CHECK_EQ(i, UINT64_MAX);
  }
  view_close(&view);
  uffd_resolver_close(resolver);
}

/* In common */

static void one_resolver_in_several_loops_and_regions(void) {
  uint64_t page = check_page();
  uffd_resolver *resolver = image_resolver(8 * page);
  struct view views[3];
  for (int i = 0; i < 3; i++) {
    views[i] = view_open(resolver, &(struct view_opts){.length = 4 * page, .resolver_offset = (uint64_t)i * page});
  }
  uffd_memory *more = memory_make(MEMORY_ANON, 8);
  uffd_region *region = NULL;
  CHECK_OK(uffd_loop_add(views[1].serving.loop, more, resolver, NULL, &region));
  uffd_resolver_close(resolver); /* those who use it keep it */
  CHECK(image_there(views[0].at, 0, 4 * page));
  view_close(&views[0]);
  CHECK(image_there(memory_at(more, 0), 0, 4 * page));
  CHECK_OK(uffd_region_remove(region));
  CHECK(check_filled(memory_at(more, 4 * page), 4 * page, 0));
  CHECK(image_there(views[1].at, page, 4 * page));
  view_close(&views[1]);
  CHECK(image_there(views[2].at, 2 * page, 4 * page));
  view_close(&views[2]);
  uffd_memory_close(more);
}

static void held_by_two_it_is_closed_twice(void) {
  uint64_t page = check_page();
  uffd_resolver_hold(NULL);
  uffd_resolver *resolver = image_resolver(page);
  uffd_resolver_hold(resolver);
  uffd_resolver_close(resolver);
  struct view view = view_open(resolver, &(struct view_opts){.length = page});
  CHECK(image_there(view.at, 0, page));
  view_close(&view);
  uffd_resolver_close(resolver);
}

struct inherited {
  uffd_resolver *resolver;
  uffd_memory *memory;
};

static void use_as_child(void *ctx) {
  const struct inherited *inherited = ctx;
  uffd_resolver *made = NULL;
  const struct uffd_layer layer = {.resolver = inherited->resolver};
  CHECK_ERR(uffd_resolver_layers(&layer, 1, &made), -EOWNERDEAD);
  CHECK_ERR(uffd_resolver_continue(inherited->resolver, &made), -EOWNERDEAD);
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  ops.resolve = (int (*)(void *, void *, const struct uffd_fault *, struct uffd_answer *))abort;
  CHECK_ERR(uffd_resolver_callback(&ops, NULL, NULL, &inherited->resolver, 1, &made), -EOWNERDEAD);
  CHECK(made == NULL);
  if (!check_under_tsan()) { /* which does not let a forked child start threads */
    view_refused(inherited->resolver, &(struct view_opts){.length = check_page()}, -EOWNERDEAD, "parent");
  }
  uffd_resolver_close(inherited->resolver);
}

static void a_forked_child_can_only_close_it(void) {
  check_needs(0);
  uffd_memory *source = memory_make(MEMORY_ANON, 1);
  uffd_resolver *resolvers[4] = {NULL};
  struct asked asked = {0};
  CHECK_OK(uffd_resolver_zero(&resolvers[0]));
  resolvers[1] = image_resolver(1);
  CHECK_OK(uffd_resolver_memory(source, 0, &resolvers[2]));
  resolvers[3] = asked_resolver(&asked);
  for (int i = 0; i < 4; i++) {
    struct inherited inherited = {resolvers[i], source};
    check_in_child(use_as_child, &inherited);
    struct view view = view_open(resolvers[i], &(struct view_opts){.length = check_page()}); /* the parent still can */
    view_close(&view);
    uffd_resolver_close(resolvers[i]);
  }
  uffd_memory_close(source);
}

static void refusals(void) {
  unsigned char byte = 0;
  uffd_resolver *resolver = (uffd_resolver *)&byte;
  CHECK_ERR(uffd_resolver_bytes(&byte, 0, &resolver), -EINVAL);
  CHECK(resolver == NULL);
  CHECK_ERR(uffd_resolver_bytes(NULL, 1, &resolver), -EINVAL);
  CHECK_ERR(uffd_resolver_bytes(&byte, UINT64_MAX, &resolver), -ENOMEM);
  CHECK_ERR(uffd_resolver_bytes(&byte, UINT64_MAX / 2, &resolver), -ENOMEM);
  CHECK_ERR(uffd_resolver_bytes(&byte, UINT64_C(1) << 48, &resolver), -ENOMEM);
  CHECK_SAYS("281474976710656 bytes");
  CHECK_ERR(uffd_resolver_pattern(&byte, 0, &resolver), -EINVAL);
  CHECK_SAYS("1 byte to 1 MiB");
  CHECK_ERR(uffd_resolver_pattern(&byte, MIB + 1, &resolver), -EINVAL);
  CHECK_ERR(uffd_resolver_pattern(&byte, UINT64_MAX, &resolver), -EINVAL);
  CHECK_ERR(uffd_resolver_pattern(NULL, 1, &resolver), -EINVAL);
  CHECK(resolver == NULL);
  uffd_resolver_close(NULL);
}

static const struct check_test tests[] = {
    TEST(zero_is_zero),
    TEST(zero_huge_pages),
    TEST(poison_is_poison),
    TEST(poisoned_huge_pages),
    TEST(bytes_of_any_length),
    TEST(bytes_in_huge_pages),
    TEST(patterns_of_every_length),
    TEST(patterns_in_every_phase),
    TEST(patterns_in_huge_pages),
    TEST(a_pattern_keeps_within_the_cover),
    TEST(one_resolver_in_several_loops_and_regions),
    TEST(held_by_two_it_is_closed_twice),
    TEST(a_forked_child_can_only_close_it),
    TEST(refusals),
};
CHECK_MAIN(tests)
