/* Contents of another memory: copied (memory), moved (move), or in the page cache already (continue). */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "resolving.h"

#define HUGE (UINT64_C(2) << 20)
#define PAGE UINT64_C(4096)

static bool is_huge(int kind) {
  return kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_PRIVATE;
}

static unsigned char *map_zeros(uint64_t length) {
  unsigned char *zeros = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(zeros != MAP_FAILED);
  return zeros;
}

/* A memory that holds the image. */
static uffd_memory *make_source(int kind, uint64_t pages) {
  uffd_memory *source = memory_make(kind, pages);
  uint64_t length = uffd_memory_length(source);
  unsigned char *image = image_make(length);
  CHECK_EQ(uffd_memory_write(source, 0, image, length), 0);
  munmap(image, length);
  return source;
}

static uffd_resolver *copy_of(uffd_memory *source, uint64_t offset) {
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_memory(source, offset, &resolver));
  return resolver;
}

static uffd_resolver *move_of(uffd_memory *source, uint64_t offset) {
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_move(source, offset, &resolver));
  return resolver;
}

/* Memory: copies */

static struct serving served; /* the loop of a test with many views */

static void copy_from(int kind, int target, uint64_t around) {
  uffd_memory *source = make_source(kind, is_huge(kind) ? 1 : 6);
  uint64_t size = uffd_memory_length(source), page = is_huge(target) ? HUGE : PAGE;
  const uint64_t offsets[] = {0, 1, 100, PAGE - 1, PAGE, PAGE + 1, size - PAGE, size - 1};
  for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
    uint64_t length = size - offsets[i], whole = (length + page - 1) / page * page;
    uffd_resolver *resolver = copy_of(source, offsets[i]);
    CHECK(strcmp(uffd_resolver_kind(resolver), "memory") == 0);
    CHECK_EQ(uffd_resolver_size(resolver), length);
    unsigned char *expected = map_zeros(whole);
    memcpy(expected, memory_at(source, offsets[i]), length);
    struct view_opts opts = {.kind = target, .length = whole, .around = around, .shared = &served};
    view_expect(resolver, &opts, expected);
    uffd_resolver_close(resolver);
    munmap(expected, whole);
  }
  uffd_memory_close(source);
}

static void copies_from_every_kind(void) {
  serving_open(&served, ENGINE_TWO, NULL);
  for (int kind = 0; kind < MEMORY_KINDS; kind++) {
    if (is_huge(kind)) continue;
    copy_from(kind, MEMORY_ANON, 0);
    copy_from(kind, MEMORY_MEMFD, 4 * PAGE);
  }
  serving_close(&served);
}

static void copies_from_and_into_huge_pages(void) {
  serving_open(&served, ENGINE_ONE, NULL);
  check_hugepages(8);
  copy_from(MEMORY_HUGETLB, MEMORY_HUGETLB, 0);
  copy_from(MEMORY_HUGETLB_PRIVATE, MEMORY_HUGETLB_PRIVATE, 0);
  copy_from(MEMORY_ANON, MEMORY_HUGETLB, 0); /* a source that ends within the page */
  copy_from(MEMORY_HUGETLB, MEMORY_ANON, 64 * PAGE);
  serving_close(&served);
}

static void contents_are_those_at_the_time_of_the_fault(void) {
  uffd_memory *source = make_source(MEMORY_ANON, 3);
  uffd_resolver *resolver = copy_of(source, 10);
  struct view view = view_open(resolver, &(struct view_opts){.length = 3 * PAGE});
  CHECK_EQ(view.at[0], image_byte(10));
  memset(memory_at(source, 0), 0xcc, 3 * PAGE);
  CHECK_EQ(view.at[1], image_byte(11));
  CHECK(check_filled(view.at + PAGE, 2 * PAGE - 10, 0xcc));
  CHECK(check_filled(view.at + 3 * PAGE - 10, 10, 0)); /* the source ends there */
  view_close(&view);
  uffd_resolver_close(resolver);
  uffd_memory_close(source);
}

/* Memory: sources that cannot be read */

static void check_unreadable(uffd_memory *source, uint64_t bad_page, uint64_t offset) {
  uffd_resolver *resolver = copy_of(source, offset);
  uint64_t length = (uffd_resolver_size(resolver) + PAGE - 1) / PAGE * PAGE;
  struct view view = view_open(resolver, &(struct view_opts){.length = length, .around = 4 * PAGE});
  for (uint64_t at = length; at > 0; at -= PAGE) {
    bool bad = at - PAGE + offset < (bad_page + 1) * PAGE && at + offset > bad_page * PAGE;
    unsigned value = 0;
    CHECK_EQ(check_access(view.at + at - 1, false, &value), bad ? SIGBUS : 0);
  }
  char text[256];
  CHECK_EQ(uffd_loop_error(view.serving.loop, text, sizeof(text)), EFAULT);
  view_close(&view);
  uffd_resolver_close(resolver);
}

static void a_source_that_is_protected(void) {
  check_needs(UFFD_FEAT_POISON);
  for (uint64_t bad = 0; bad < 4; bad++) {
    struct check_area area = check_map(CHECK_ANON, 4);
    uffd_memory *source = NULL;
    CHECK_OK(uffd_memory_adopt(area.at, area.length, &source));
    CHECK(mprotect(area.at + bad * PAGE, PAGE, PROT_NONE) == 0);
    check_unreadable(source, bad, 0);
    check_unreadable(source, bad, 100); /* its last page is copied byte by byte */
    uffd_memory_close(source);
  }
}

static void a_source_that_is_poisoned(void) {
  check_needs(UFFD_FEAT_POISON);
  for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD; kind++) {
    uffd_memory *source = memory_make(kind, 4);
    uffd_object *object = check_open(0);
    uint64_t start = CHECK_ADDRESS(memory_at(source, 0));
    CHECK_OK(uffd_register(object, start, 4 * PAGE, UFFD_MODE_MISSING, NULL));
    CHECK_OK(uffd_poison(object, start + 3 * PAGE, PAGE, 0, NULL));
    uffd_close(object);
    check_unreadable(source, 3, 0);
    check_unreadable(source, 3, 1);
    uffd_memory_close(source);
  }
}

static void a_source_that_was_truncated(void) {
  check_needs(UFFD_FEAT_POISON);
  uffd_memory *source = make_source(MEMORY_MEMFD, 4);
  CHECK(ftruncate(uffd_memory_fd(source), (off_t)(3 * PAGE)) == 0);
  check_unreadable(source, 3, 0);
  check_unreadable(source, 3, 4000);
  uffd_memory_close(source);
}

/* Claims: what is read is not served, and what is served is not read */

static void refuse_source(uffd_memory *source, uint64_t offset) {
  uffd_resolver *resolver = NULL;
  CHECK_ERR(uffd_resolver_memory(source, offset, &resolver), -EBUSY);
  CHECK_SAYS("is served");
  CHECK(resolver == NULL);
  CHECK_ERR(uffd_resolver_move(source, offset, &resolver), -EBUSY);
}

static void a_source_that_is_served_is_refused(void) {
  uffd_memory *memory = memory_make(MEMORY_ANON, 8), *part = NULL;
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.offset = 2 * PAGE;
  opts.length = 3 * PAGE;
  uffd_region *region = region_add(serving.loop, memory, image_resolver(3 * PAGE), &opts);
  refuse_source(memory, 0);
  refuse_source(memory, 4 * PAGE);
  CHECK_OK(uffd_memory_adopt(memory_at(memory, PAGE), 2 * PAGE, &part)); /* the same addresses by another name */
  refuse_source(part, 0);
  refuse_source(part, PAGE);
  uffd_memory_close(part);
  CHECK_OK(uffd_memory_adopt(memory_at(memory, 0), 2 * PAGE, &part)); /* ends where the region begins */
  uffd_resolver_close(copy_of(part, 0));
  uffd_memory_close(part);
  uffd_resolver_close(copy_of(memory, 5 * PAGE)); /* begins where it ends */
  CHECK_OK(uffd_region_remove(region));
  uffd_resolver_close(copy_of(memory, 0));
  region = region_add(serving.loop, memory, image_resolver(3 * PAGE), &opts);
  refuse_source(memory, 0);
  CHECK_OK(uffd_region_complete(region)); /* ordinary memory from then on */
  uffd_resolver_close(move_of(memory, 0));
  region = region_add(serving.loop, memory, image_resolver(3 * PAGE), &opts);
  refuse_source(memory, 0);
  serving_close(&serving);
  uffd_resolver_close(copy_of(memory, 0));
  uffd_memory_close(memory);
}

static void refuse_region(struct serving *serving, uffd_memory *memory, uint64_t offset, uint64_t length,
                          const char *words) {
  uffd_resolver *zero = NULL;
  uffd_region *region = NULL;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.offset = offset;
  opts.length = length;
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_ERR(uffd_loop_add(serving->loop, memory, zero, &opts, &region), -EBUSY);
  CHECK_SAYS(words);
  uffd_resolver_close(zero);
}

static void what_a_resolver_reads_is_not_served(void) {
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_resolver *one = copy_of(memory, 3 * PAGE + 1), *two = move_of(memory, 4 * PAGE); /* many may read */
  refuse_region(&serving, memory, 0, 0, "reads from");
  refuse_region(&serving, memory, 3 * PAGE, PAGE, "reads from"); /* but for its first byte */
  refuse_region(&serving, memory, 7 * PAGE, PAGE, "reads from");
  /* not even from itself */
  uffd_region *region = NULL;
  CHECK_ERR(uffd_loop_add(serving.loop, memory, two, NULL, &region), -EINVAL); /* it is shorter, too */
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.offset = 4 * PAGE;
  CHECK_ERR(uffd_loop_add(serving.loop, memory, two, &opts, &region), -EBUSY);
  opts.offset = 0;
  opts.length = 3 * PAGE; /* ends where the source begins */
  CHECK_OK(uffd_loop_add(serving.loop, memory, two, &opts, &region));
  CHECK_OK(uffd_region_remove(region));
  uffd_resolver_close(one);
  refuse_region(&serving, memory, 4 * PAGE, PAGE, "reads from"); /* the other is open */
  uffd_resolver_close(two); /* the region that asked it has ended, and keeps nothing */
  region_add(serving.loop, memory, image_resolver(8 * PAGE), NULL);
  CHECK(image_there(memory_at(memory, 0), 0, 8 * PAGE));
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void served_twice_is_refused(void) {
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  struct serving serving, other;
  serving_open(&serving, ENGINE_ONE, NULL);
  serving_open(&other, ENGINE_ONE, NULL);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.offset = 2 * PAGE;
  opts.length = 2 * PAGE;
  region_add(serving.loop, memory, image_resolver(2 * PAGE), &opts);
  refuse_region(&serving, memory, 0, 0, "served already");
  refuse_region(&other, memory, 3 * PAGE, PAGE, "served already");
  refuse_region(&other, memory, 0, 3 * PAGE, "served already");
  opts.offset = 0;
  region_add(other.loop, memory, image_resolver(2 * PAGE), &opts);
  opts.offset = 4 * PAGE;
  region_add(other.loop, memory, image_resolver(2 * PAGE), &opts);
  for (uint64_t at = 0; at < 6 * PAGE; at += 2 * PAGE) {
    CHECK(image_there(memory_at(memory, at), 0, 2 * PAGE));
  }
  serving_close(&other);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void offsets_outside_the_source(void) {
  uffd_memory *source = memory_make(MEMORY_ANON, 2);
  uffd_resolver *resolver = NULL;
  const uint64_t offsets[] = {2 * PAGE, 2 * PAGE + PAGE, UINT64_MAX, UINT64_C(1) << 63, UINT64_MAX - PAGE + 1};
  for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
    CHECK_ERR(uffd_resolver_memory(source, offsets[i], &resolver), -ERANGE);
    CHECK_SAYS("outside a memory of 8192 bytes");
    if (offsets[i] % PAGE == 0) CHECK_ERR(uffd_resolver_move(source, offsets[i], &resolver), -ERANGE);
  }
  CHECK_ERR(uffd_resolver_memory(NULL, 0, &resolver), -EBADF);
  CHECK_ERR(uffd_resolver_move(NULL, 0, &resolver), -EBADF);
  CHECK(resolver == NULL);
  uffd_memory_close(source);
}

/* Move */

static void pages_move_once(void) {
  check_needs(UFFD_FEAT_MOVE);
  static const int kinds[] = {MEMORY_ANON, MEMORY_THP, MEMORY_ADOPTED};
  for (int i = 0; i < 9; i++) {
    uffd_memory *source = make_source(kinds[i / 3], 16);
    uffd_resolver *resolver = move_of(source, 4 * PAGE);
    CHECK(strcmp(uffd_resolver_kind(resolver), "move") == 0);
    CHECK_EQ(uffd_resolver_size(resolver), 12 * PAGE);
    struct view view = view_open(resolver, &(struct view_opts){.kind = kinds[i % 3],
                                                               .length = 8 * PAGE,
                                                               .resolver_offset = 2 * PAGE,
                                                               .around = (uint64_t)(i % 2) * 4 * PAGE});
    CHECK(image_there(view.at + 5 * PAGE, 11 * PAGE, PAGE));
    CHECK(image_there(view.at, 6 * PAGE, 8 * PAGE));
    CHECK_OK(uffd_region_prefetch(view.region, 0, 0));
    CHECK_EQ(serving_stats(view.serving.loop).moved, 8);
    CHECK_EQ(serving_stats(view.serving.loop).copied, 0);
    CHECK(image_there(memory_at(source, 0), 0, 6 * PAGE)); /* what was not asked for stays */
    CHECK(check_filled(memory_at(source, 6 * PAGE), 8 * PAGE, 0));
    CHECK(image_there(memory_at(source, 14 * PAGE), 14 * PAGE, 2 * PAGE));
    view_close(&view);
    uffd_resolver_close(resolver);
    uffd_memory_close(source);
  }
}

static void a_second_fault_reads_zeros(void) {
  check_needs(UFFD_FEAT_MOVE);
  uffd_memory *source = make_source(MEMORY_ANON, 4);
  uffd_resolver *resolver = move_of(source, 0);
  struct view view = view_open(resolver, &(struct view_opts){.length = 4 * PAGE});
  struct view second = view_open(resolver, &(struct view_opts){.length = 4 * PAGE, .around = 4 * PAGE});
  CHECK(image_there(view.at + PAGE, PAGE, 2 * PAGE));
  CHECK(check_filled(second.at + PAGE, 2 * PAGE, 0)); /* the source has them no more */
  CHECK(image_there(second.at, 0, PAGE));             /* its cover took the others */
  CHECK(image_there(second.at + 3 * PAGE, 3 * PAGE, PAGE));
  CHECK(check_filled(view.at, PAGE, 0));
  CHECK(check_filled(view.at + 3 * PAGE, PAGE, 0));
  CHECK_EQ(madvise(view.at + PAGE, PAGE, MADV_DONTNEED), 0); /* the page is asked for once more */
  CHECK(check_filled(view.at + PAGE, PAGE, 0));
  CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), 0);
  view_close(&view);
  view_close(&second);
  uffd_resolver_close(resolver);
  uffd_memory_close(source);
}

static void a_source_with_holes(void) {
  uffd_memory *source = memory_make(MEMORY_ANON, 16);
  unsigned char *expected = map_zeros(16 * PAGE);
  for (uint64_t i = 0; i < 16; i += 3) {
    memset(memory_at(source, i * PAGE), (int)i + 1, PAGE);
    memset(expected + i * PAGE, (int)i + 1, PAGE);
  }
  uffd_resolver *resolver = move_of(source, 0);
  view_expect(resolver, &(struct view_opts){.length = 16 * PAGE, .around = 8 * PAGE}, expected);
  uffd_resolver_close(resolver);
  uffd_memory_close(source);
}

static void huge_pages_of_the_source_are_taken_apart_or_move_whole(void) {
  uint64_t pages = 2 * HUGE / PAGE;
  for (uint64_t around = 0; around <= HUGE; around += HUGE) {
    uffd_memory *source = make_source(MEMORY_THP, pages); /* huge, if this kernel does such things */
    uffd_resolver *resolver = move_of(source, 0);
    struct view view =
        view_open(resolver, &(struct view_opts){.kind = MEMORY_THP, .length = 2 * HUGE, .around = around});
    CHECK(image_there(view.at + HUGE + 7 * PAGE, HUGE + 7 * PAGE, PAGE));
    CHECK(image_there(view.at, 0, 16 * PAGE));
    CHECK_OK(uffd_region_complete(view.region));
    CHECK(image_there(view.at, 0, 2 * HUGE));
    view_close(&view);
    uffd_resolver_close(resolver);
    uffd_memory_close(source);
  }
}

/* A page that a child shares does not move: it is copied, and the source keeps it. */
static void pages_shared_by_fork_are_copied(void) {
  check_needs(UFFD_FEAT_MOVE);
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  opts.flags = UFFD_MAP_FORK;
  uffd_memory *source = NULL;
  CHECK_OK(uffd_map(4 * PAGE, &opts, &source));
  unsigned char *image = image_make(4 * PAGE);
  CHECK_EQ(uffd_memory_write(source, 0, image, 4 * PAGE), 0);
  pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  CHECK(child > 0);
  *memory_at(source, 2 * PAGE) = image[2 * PAGE]; /* written again: the parent's own */
  uffd_resolver *resolver = move_of(source, 0);
  if (!check_under_tsan()) { /* whose fork() ends its interest in new threads */
    struct view view = view_open(resolver, &(struct view_opts){.length = 4 * PAGE, .around = 4 * PAGE});
    CHECK(image_there(view.at, 0, 4 * PAGE));
    CHECK_OK(uffd_region_prefetch(view.region, 0, 0));
    CHECK_EQ(serving_stats(view.serving.loop).copied, 3);
    CHECK_EQ(serving_stats(view.serving.loop).moved, 1);
    CHECK(image_there(memory_at(source, 0), 0, 2 * PAGE));
    CHECK(check_filled(memory_at(source, 2 * PAGE), PAGE, 0));
    view_close(&view);
  }
  CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
  uffd_resolver_close(resolver);
  uffd_memory_close(source);
}

/* Moving would lose the protection: with WP all but a single written page is copied. */
static void protected_pages_are_copied(void) {
  check_needs(UFFD_FEAT_MOVE | UFFD_FEAT_PAGEFAULT_FLAG_WP);
  uffd_memory *source = make_source(MEMORY_ANON, 4);
  uffd_resolver *resolver = move_of(source, 0);
  struct view view =
      view_open(resolver, &(struct view_opts){.length = 4 * PAGE, .modes = UFFD_MODE_MISSING | UFFD_MODE_WP});
  CHECK(image_there(view.at, 0, 2 * PAGE));
  view.at[5] = 77;            /* a first write to a page that is there: let through */
  view.at[3 * PAGE + 5] = 78; /* one that is missing comes unprotected */
  CHECK_OK(uffd_region_prefetch(view.region, 0, 0));
  struct uffd_stats stats = serving_stats(view.serving.loop);
  CHECK_EQ(stats.copied, 3);
  CHECK_EQ(stats.moved, 1);
  CHECK_EQ(stats.unprotected, 2);
  CHECK(image_there(memory_at(source, 0), 0, 3 * PAGE));
  CHECK_EQ(view.at[5] + view.at[3 * PAGE + 5], 155);
  CHECK(image_there(view.at + 6, 6, PAGE - 6));
  view_close(&view);
  uffd_resolver_close(resolver);
  uffd_memory_close(source);
}

static void where_pages_cannot_move_to(void) {
  uffd_memory *source = memory_make(MEMORY_ANON, 2 * HUGE / PAGE);
  uffd_resolver *resolver = move_of(source, 0);
  struct view_opts opts = {.length = 2 * PAGE};
  for (opts.kind = MEMORY_MEMFD; opts.kind <= MEMORY_MEMFD_PRIVATE; opts.kind++) {
    view_refused(resolver, &opts, -EINVAL, "move only into private anonymous memory");
  }
  struct check_area area = check_map(CHECK_SHMEM_PRIVATE, 2);
  uffd_memory *target = NULL;
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  CHECK_OK(uffd_memory_adopt(area.at, area.length, &target));
  CHECK_ERR(uffd_loop_add(serving.loop, target, resolver, NULL, NULL), -EINVAL);
  serving_close(&serving);
  uffd_memory_close(target);
  uffd_resolver_close(resolver);
  uffd_memory_close(source);
}

static void huge_pages_do_not_move(void) {
  check_hugepages(8);
  uffd_memory *source = memory_make(MEMORY_ANON, 2 * HUGE / PAGE), *huge = memory_make(MEMORY_HUGETLB_PRIVATE, 2);
  uffd_resolver *resolver = move_of(source, 0);
  view_refused(resolver, &(struct view_opts){.kind = MEMORY_HUGETLB_PRIVATE, .length = 2 * HUGE}, -EINVAL,
               "move only into");
  uffd_resolver_close(resolver);
  CHECK_ERR(uffd_resolver_move(huge, 0, &resolver), -EINVAL);
  CHECK_SAYS("move only out of");
  uffd_memory_close(huge);
  uffd_memory_close(source);
}

static void where_pages_cannot_move_from(void) {
  uffd_resolver *resolver = NULL;
  for (int kind = MEMORY_MEMFD; kind <= MEMORY_MEMFD_PRIVATE; kind++) {
    uffd_memory *source = memory_make(kind, 2);
    CHECK_ERR(uffd_resolver_move(source, 0, &resolver), -EINVAL);
    CHECK_SAYS("move only out of");
    uffd_memory_close(source);
  }
  uffd_memory *source = memory_make(MEMORY_ANON, 4);
  CHECK_ERR(uffd_resolver_move(source, 1, &resolver), -EINVAL);
  CHECK_SAYS("Whole pages move");
  CHECK_ERR(uffd_resolver_move(source, UINT64_MAX, &resolver), -EINVAL);
  resolver = move_of(source, 0);
  uffd_resolver *layers = NULL;
  const struct uffd_layer layer = {.length = 2 * PAGE, .resolver = resolver, .resolver_offset = 100};
  CHECK_OK(uffd_resolver_layers(&layer, 1, &layers));
  view_refused(layers, &(struct view_opts){.length = 2 * PAGE}, -EINVAL, "Whole pages move");
  uffd_resolver_close(layers);
  uffd_resolver_close(resolver);
  uffd_memory_close(source);
}

/* Continue */

/* Every third page is in the page cache, written through the alias; the others come from fill, or are zeros. */
static void continue_in(int kind, bool with_fill, uint64_t around_pages, bool backwards) {
  uint64_t page = is_huge(kind) ? HUGE : PAGE, pages = is_huge(kind) ? 3 : 32, length = pages * page;
  uffd_memory *memory = memory_make(kind, pages);
  unsigned char *alias = uffd_memory_alias(memory);
  unsigned char *expected = with_fill ? image_make(length) : map_zeros(length);
  for (uint64_t i = 0; i < pages; i += 3) {
    memset(alias + i * page, 0xc0, page);
    memset(expected + i * page, 0xc0, page);
  }
  uffd_resolver *fill = with_fill ? image_resolver(length) : NULL, *resolver = NULL;
  CHECK_OK(uffd_resolver_continue(fill, &resolver));
  CHECK(strcmp(uffd_resolver_kind(resolver), "continue") == 0);
  CHECK(uffd_resolver_size(resolver) == (with_fill ? length : UINT64_MAX));
  uffd_resolver_close(fill);
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.around = around_pages * page;
  uffd_region *region = region_add(serving.loop, memory, resolver, &opts);
  for (uint64_t i = 0; i < pages; i++) {
    uint64_t at = (backwards ? pages - 1 - i : i) * page;
    CHECK(view_same(memory_at(memory, at), expected + at, page));
  }
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.continued, (pages + 2) / 3);
  CHECK_EQ(stats.continued + stats.copied + stats.zero, pages);
  CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), 0);
  serving_close(&serving);
  uffd_memory_close(memory);
  munmap(expected, length);
}

static void continue_with_every_cover(int kind) {
  check_needs(is_huge(kind) ? UFFD_FEAT_MINOR_HUGETLBFS : UFFD_FEAT_MINOR_SHMEM);
  for (uint64_t around = 0; around <= 8; around += 8) {
    continue_in(kind, true, around, false);
    continue_in(kind, true, around, true);
    continue_in(kind, false, around, false);
    continue_in(kind, false, around, true);
  }
}

static void continue_in_a_memfd(void) {
  continue_with_every_cover(MEMORY_MEMFD);
}

/* Its neighbours in the page cache must not be filled over: the kernel does not look there for a private mapping. */
static void continue_in_a_private_memfd(void) {
  continue_with_every_cover(MEMORY_MEMFD_PRIVATE);
}

static void continue_in_huge_pages(void) {
  check_hugepages(16);
  continue_with_every_cover(MEMORY_HUGETLB);
}

static void continue_in_private_huge_pages(void) {
  check_hugepages(16);
  continue_with_every_cover(MEMORY_HUGETLB_PRIVATE);
}

static void continue_by_prefetch_and_complete(void) {
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  for (int kind = MEMORY_MEMFD; kind <= MEMORY_MEMFD_PRIVATE; kind++) {
    uffd_memory *memory = memory_make(kind, 64);
    unsigned char *alias = uffd_memory_alias(memory), *expected = image_make(64 * PAGE);
    for (uint64_t i = 0; i < 64; i += 1 + i % 5) {
      memset(alias + i * PAGE, 0xc0, PAGE);
      memset(expected + i * PAGE, 0xc0, PAGE);
    }
    uffd_resolver *fill = image_resolver(64 * PAGE), *resolver = NULL;
    CHECK_OK(uffd_resolver_continue(fill, &resolver));
    uffd_resolver_close(fill);
    struct serving serving;
    serving_open(&serving, ENGINE_ONE, NULL);
    uffd_region *region = region_add(serving.loop, memory, resolver, NULL);
    CHECK_OK(uffd_region_prefetch(region, 3 * PAGE, 20 * PAGE));
    CHECK(view_same(memory_at(memory, 3 * PAGE), expected + 3 * PAGE, 20 * PAGE));
    CHECK_EQ(serving_stats(serving.loop).faults, 0);
    CHECK_OK(uffd_region_complete(region));
    CHECK(view_same(memory_at(memory, 0), expected, 64 * PAGE));
    CHECK_EQ(serving_stats(serving.loop).prefetched, 64);
    serving_close(&serving);
    uffd_memory_close(memory);
    munmap(expected, 64 * PAGE);
  }
}

static void where_nothing_can_be_continued(void) {
  uffd_resolver *fill = image_resolver(4 * PAGE), *resolver = NULL, *layers = NULL;
  CHECK_OK(uffd_resolver_continue(fill, &resolver));
  view_refused(resolver, &(struct view_opts){.length = PAGE}, -EINVAL, "Only memfd and hugetlb memory");
  view_refused(resolver, &(struct view_opts){.kind = MEMORY_THP, .length = PAGE}, -EINVAL, "Only memfd");
  view_refused(resolver, &(struct view_opts){.kind = MEMORY_ADOPTED, .length = PAGE}, -EINVAL, "Only memfd");
  view_refused(resolver, &(struct view_opts){.kind = MEMORY_MEMFD, .length = 5 * PAGE}, -EINVAL, "16384 bytes");
  const struct uffd_layer layer = {.length = PAGE, .resolver = resolver, .resolver_offset = 1};
  CHECK_OK(uffd_resolver_layers(&layer, 1, &layers));
  view_refused(layers, &(struct view_opts){.kind = MEMORY_MEMFD, .length = PAGE}, -EINVAL, "Whole pages");
  uffd_resolver_close(layers);
  uffd_resolver_close(resolver);
  uffd_resolver_close(fill);
}

static const struct check_test tests[] = {
    TEST(copies_from_every_kind),
    TEST(copies_from_and_into_huge_pages),
    TEST(contents_are_those_at_the_time_of_the_fault),
    TEST(a_source_that_is_protected),
    TEST(a_source_that_is_poisoned),
    TEST(a_source_that_was_truncated),
    TEST(a_source_that_is_served_is_refused),
    TEST(what_a_resolver_reads_is_not_served),
    TEST(served_twice_is_refused),
    TEST(offsets_outside_the_source),
    TEST(pages_move_once),
    TEST(a_second_fault_reads_zeros),
    TEST(a_source_with_holes),
    TEST(huge_pages_of_the_source_are_taken_apart_or_move_whole),
    TEST(pages_shared_by_fork_are_copied),
    TEST(protected_pages_are_copied),
    TEST(where_pages_cannot_move_to),
    TEST(huge_pages_do_not_move),
    TEST(where_pages_cannot_move_from),
    TEST(continue_in_a_memfd),
    TEST(continue_in_a_private_memfd),
    TEST(continue_in_huge_pages),
    TEST(continue_in_private_huge_pages),
    TEST(continue_by_prefetch_and_complete),
    TEST(where_nothing_can_be_continued),
};
CHECK_MAIN(tests)
