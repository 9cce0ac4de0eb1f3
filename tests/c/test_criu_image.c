/*
 * Dumps of CRIU as one image: which memory is lazy, where each page's bytes are, chains of parents, and what is refused
 * because it could not be served right.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>

#include "dumping.h"
#include "resolver/criu.h"
#include "serving.h"

#define A UINT64_C(0x10000000)
#define B UINT64_C(0x20000000)
#define C UINT64_C(0x7f0000000000)
#define P DUMP_PAGE

static struct uffd_criu *open_dump(const char *directory) {
  struct uffd_criu *criu = NULL;
  CHECK_OK(uffd_criu_open(-1, directory, &criu));
  return criu;
}

static void refuse(const char *directory, int error, const char *words) {
  struct uffd_criu *criu = (struct uffd_criu *)(uintptr_t)directory;
  CHECK_ERR(uffd_criu_open(-1, directory, &criu), error);
  CHECK_SAYS(words);
  CHECK_SAYS(directory);
  CHECK(criu == NULL);
}

/* What the image has at an offset, as an importer reads it: zeros where no extent is. */
static void read_page(const struct uffd_criu *criu, uint64_t offset, void *page) {
  size_t count;
  const struct uffd_criu_extent *extents = uffd_criu_extents(criu, &count);
  memset(page, 0, P);
  for (size_t i = 0; i < count; i++) {
    uint64_t into = offset - extents[i].offset;
    if (offset < extents[i].offset || into >= extents[i].length) continue;
    int fd = uffd_criu_fd(criu, extents[i].file);
    CHECK_EQ(pread(fd, page, P, (off_t)(extents[i].position + into)), P);
  }
}

struct expected {
  uint64_t address, pages;
  uint32_t seed; /* 0: zeros */
};

static bool is_right(const unsigned char *page, uint64_t address, uint32_t seed) {
  static const unsigned char zeros[DUMP_PAGE];
  return seed == 0 ? memcmp(page, zeros, P) == 0 : dump_is(page, address, seed);
}

/* The whole image must be these pages, by the extents and by the faults of a loop. */
static void expect(const struct uffd_criu *criu, const struct expected *expected, size_t count) {
  struct serving serving;
  uffd_resolver *resolver = NULL;
  uint64_t offset = 0;
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, uffd_criu_length(criu) / P);
  CHECK_OK(uffd_criu_resolver(criu, &resolver));
  region_add(serving.loop, memory, resolver, NULL);
  for (size_t i = 0; i < count; i++) {
    for (uint64_t page = 0; page < expected[i].pages; page++, offset += P) {
      unsigned char bytes[DUMP_PAGE];
      uint64_t address = expected[i].address + page * P;
      read_page(criu, offset, bytes);
      CHECK(is_right(bytes, address, expected[i].seed));
      CHECK(is_right(memory_at(memory, offset), address, expected[i].seed));
    }
  }
  CHECK_EQ(offset, uffd_criu_length(criu));
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Two tasks and a zombie */

static const char *make_tree(void) {
  const char *directory = dump_directory();
  const int32_t pids[] = {7, 9, 12};
  const struct dump_vma first[] = {
      {A, 16, 0, 0},
      {A + 16 * P, 4, 0x02, 0},           /* a file's: restored eagerly */
      {B, 8, DUMP_ANON | 0x100, 0},       /* the stack grows down: lazy */
      {C, 4, DUMP_ANON | 0x2000, 0},      /* locked */
      {C + 8 * P, 4, DUMP_ANON, 1u << 3}, /* the vDSO */
      {C + 16 * P, 2, DUMP_ANON | 0x40000, 0},
      {C + 32 * P, 3, 0x21, 0}, /* shared */
      {UINT64_C(0xffffffffff600000), 1, DUMP_ANON, 1u << 2},
  };
  const struct dump_run first_runs[] = {
      {A, 4, DUMP_PRESENT | DUMP_LAZY, 1, false},
      {A + 6 * P, 2, DUMP_PRESENT, 2, false},              /* one that was touched: eager, and right all the same */
      {A + 12 * P, 6, DUMP_PRESENT | DUMP_LAZY, 3, false}, /* over the border of two mappings */
      {B + 7 * P, 1, DUMP_PRESENT, 4, true},
      {C, 4, DUMP_PRESENT, 5, false},
  };
  const struct dump_vma second[] = {{A, 2, 0, 0}};
  dump_pstree(directory, pids, 3);
  dump_mm(directory, 7, first, 8);
  dump_pages(directory, 7, 1, first_runs, 5);
  dump_mm(directory, 9, second, 1);
  dump_pages(directory, 9, 2, (const struct dump_run[]){{A, 2, DUMP_PRESENT | DUMP_LAZY, 6, false}}, 1);
  return directory;
}

static void tasks_lie_one_after_the_other(void) {
  struct uffd_criu *criu = open_dump(make_tree());
  size_t count;
  const struct uffd_criu_task *tasks = uffd_criu_tasks(criu, &count);
  CHECK_EQ(count, 3);
  CHECK(tasks[0].pid == 7 && tasks[0].count == 2 && tasks[0].first_region == 0);
  CHECK(tasks[1].pid == 9 && tasks[1].count == 1 && tasks[1].first_region == 2);
  CHECK(tasks[2].pid == 12 && tasks[2].count == 0);
  CHECK(uffd_criu_find(criu, 9) == &tasks[1] && uffd_criu_find(criu, 8) == NULL);
  const struct uffd_criu_region *regions = uffd_criu_regions(criu, &count);
  CHECK_EQ(count, 3);
  CHECK(regions[0].address == A && regions[0].length == 16 * P && regions[0].offset == 0);
  CHECK(regions[1].address == B && regions[1].length == 8 * P && regions[1].offset == 16 * P);
  CHECK(regions[2].address == A && regions[2].length == 2 * P && regions[2].offset == 24 * P);
  const struct expected expected[] = {{A, 4, 1},          {0, 2, 0}, {A + 6 * P, 2, 2}, {0, 4, 0},
                                      {A + 12 * P, 4, 3}, {0, 7, 0}, {B + 7 * P, 1, 4}, {A, 2, 6}};
  expect(criu, expected, 8);
  uffd_criu_close(criu);
}

static void copy_has_the_same_identity(void) {
  struct uffd_criu *one = open_dump(make_tree()), *two = open_dump(make_tree());
  CHECK(uffd_criu_identity(one) == uffd_criu_identity(two) && uffd_criu_identity(one) != 0);
  CHECK(uffd_criu_version(one) != uffd_criu_version(two));
  CHECK(uffd_criu_holds(one));
  uffd_criu_close(one);
  uffd_criu_close(two);
}

static void file_that_changes_is_noticed(void) {
  const char *directory = make_tree();
  struct uffd_criu *criu = open_dump(directory);
  char path[128];
  snprintf(path, sizeof(path), "%s/pages-2.img", directory);
  CHECK(truncate(path, P) == 0);
  CHECK(!uffd_criu_holds(criu));
  uffd_criu_close(criu);
  refuse(directory, -EINVAL, "cut short");
}

static void memory_without_pages_is_zero(void) {
  const char *directory = dump_directory();
  dump_pstree(directory, (const int32_t[]){5}, 1);
  dump_mm(directory, 5, (const struct dump_vma[]){{A, 3, 0, 0}}, 1);
  dump_pages(directory, 5, 1, NULL, 0);
  struct uffd_criu *criu = open_dump(directory);
  expect(criu, (const struct expected[]){{0, 3, 0}}, 1);
  uffd_criu_close(criu);
}

/* Parents */

/* Three levels of one task, as iterative dumps make them. top: flags of what the upper levels leave to a parent. */
static const char *make_chain(uint32_t below) {
  const char *low = dump_directory(), *middle = dump_directory(), *top = dump_directory();
  const struct dump_run low_runs[] = {{A, 12, DUMP_PRESENT | DUMP_LAZY, 1, false}};
  const struct dump_run middle_runs[] = {{A, 4, below, 0, false},
                                         {A + 4 * P, 4, DUMP_PRESENT | DUMP_LAZY, 2, false},
                                         {A + 8 * P, 2, below, 0, (below & DUMP_LAZY) == 0},
                                         {A + 10 * P, 2, DUMP_PRESENT, 3, false}};
  const struct dump_run top_runs[] = {{A, 2, DUMP_PRESENT | DUMP_LAZY, 4, false},
                                      {A + 2 * P, 9, below, 0, false}, /* over the borders of the parent's entries */
                                      {A + 12 * P, 1, DUMP_PRESENT | DUMP_LAZY, 5, false}};
  dump_pages(low, 5, 1, low_runs, 1);
  dump_pages(middle, 5, 1, middle_runs, 4);
  dump_parent(middle, low);
  dump_pages(top, 5, 1, top_runs, 3);
  dump_parent(top, middle);
  dump_pstree(top, (const int32_t[]){5}, 1);
  dump_mm(top, 5, (const struct dump_vma[]){{A, 8, 0, 0}, {A + 8 * P, 8, 0, 0}}, 2);
  return top;
}

static void check_chain(uint32_t below) {
  struct uffd_criu *criu = open_dump(make_chain(below));
  const struct expected expected[] = {{A, 2, 4},          {A + 2 * P, 2, 1}, {A + 4 * P, 4, 2},  {A + 8 * P, 2, 1},
                                      {A + 10 * P, 1, 3}, {0, 1, 0},         {A + 12 * P, 1, 5}, {0, 3, 0}};
  expect(criu, expected, 8);
  uffd_criu_close(criu);
}

static void pages_come_from_parents(void) {
  check_chain(DUMP_PARENT);
}
/* With CRIU's own daemon such pages never arrive. */
static void lazy_pages_come_from_parents(void) {
  check_chain(DUMP_PARENT | DUMP_LAZY);
}

static void chains_that_break(void) {
  const char *low = dump_directory(), *top = dump_directory();
  dump_pstree(top, (const int32_t[]){5}, 1);
  dump_mm(top, 5, (const struct dump_vma[]){{A, 4, 0, 0}}, 1);
  dump_pages(top, 5, 1, (const struct dump_run[]){{A, 4, DUMP_PARENT, 0, false}}, 1);
  refuse(top, -EINVAL, "said to be in the parent");
  dump_parent(top, low);
  refuse(top, -ENOENT, "parent/pagemap-5.img");
  dump_pages(low, 5, 3,
             (const struct dump_run[]){{A, 2, DUMP_PRESENT, 1, false}, {A + 3 * P, 1, DUMP_PRESENT, 1, false}}, 2);
  refuse(top, -EINVAL, "page at 0x10002000 of task 5 is said to be in the parent");
  dump_pages(low, 5, 3, (const struct dump_run[]){{A, 3, DUMP_PRESENT, 1, false}}, 1);
  refuse(top, -EINVAL, "page at 0x10003000");
  dump_parent(low, top);
  refuse(top, -ELOOP, "circle");
}

static void parent_that_is_not_there(void) {
  const char *top = make_tree();
  dump_parent(top, "../nowhere");
  refuse(top, -ENOENT, "parent");
}

/* Refused in words */

static const char *make_one(const struct dump_run *runs, size_t count) {
  const char *directory = dump_directory();
  dump_pstree(directory, (const int32_t[]){5}, 1);
  dump_mm(directory, 5, (const struct dump_vma[]){{A, 16, 0, 0}}, 1);
  dump_pages(directory, 5, 1, runs, count);
  return directory;
}

static void pages_at_a_page_server(void) {
  refuse(make_one((const struct dump_run[]){{A + P, 1, DUMP_LAZY, 0, false}}, 1), -ENOTSUP, "page server");
}

static void unknown_flags(void) {
  refuse(make_one((const struct dump_run[]){{A, 1, DUMP_PRESENT | 8, 0, false}}, 1), -ENOTSUP, "0xc");
  refuse(make_one((const struct dump_run[]){{A, 1, 0, 0, false}}, 1), -ENOTSUP, "0x0");
}

static void compressed_pages(void) {
  const char *directory = make_one(NULL, 0);
  struct dump_bytes file, record = {0};
  dump_begin(&file, DUMP_PAGEMAP);
  dump_number(&record, 1, 1);
  dump_record(&file, &record);
  dump_number(&record, 1, A);
  dump_number(&record, 2, 1);
  dump_number(&record, 4, DUMP_PRESENT);
  dump_number(&record, 6, 100);
  dump_record(&file, &record);
  dump_write(directory, "pagemap-5.img", &file);
  refuse(directory, -ENOTSUP, "compressed");
}

static void pages_in_disorder(void) {
  const struct dump_run runs[] = {{A + P, 2, DUMP_PRESENT, 1, false}, {A + 2 * P, 1, DUMP_PRESENT, 1, false}};
  refuse(make_one(runs, 2), -EINVAL, "before the end");
  refuse(make_one((const struct dump_run[]){{A + 1, 1, DUMP_PRESENT, 1, false}}, 1), -EINVAL, "do not begin at a page");
  refuse(make_one((const struct dump_run[]){{A, 0, DUMP_PRESENT, 1, false}}, 1), -EINVAL, "no pages");
}

static void what_is_no_dump(void) {
  const char *empty = dump_directory();
  refuse(empty, -ENOENT, "not the directory of a dump");
  refuse("/dev/null", -EINVAL, "not a directory");
  refuse("/nowhere", -ENOENT, "No such file");
  dump_pstree(empty, (const int32_t[]){5}, 1);
  refuse(empty, -EINVAL, "lazy memory");
  dump_mm(empty, 5, (const struct dump_vma[]){{A, 16, 0, 0}}, 1);
  refuse(empty, -ENOENT, "pagemap-5.img");
  dump_pages(empty, 5, 1, (const struct dump_run[]){{A, 1, DUMP_PRESENT, 1, false}}, 1);
  dump_pstree(empty, (const int32_t[]){5, 5}, 2);
  refuse(empty, -EINVAL, "twice");
}

/* Each file cut at each byte: it is refused, or what remains is whole. Never are pages lost. */
static void files_cut_short(void) {
  static const char *const names[] = {"mm-7.img", "pagemap-7.img", "pages-1.img"};
  const char *directory = make_tree();
  for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
    char path[128];
    static unsigned char bytes[1 << 17];
    snprintf(path, sizeof(path), "%s/%s", directory, names[i]);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ssize_t length = read(fd, bytes, sizeof(bytes));
    CHECK(fd >= 0 && length > 0);
    for (ssize_t cut = 0; cut<length; cut += length> 4096 ? 997 : 1) {
      struct uffd_criu *criu = NULL;
      CHECK(ftruncate(fd, cut) == 0);
      CHECK(uffd_criu_open(-1, directory, &criu) < 0 && criu == NULL);
      CHECK_SAYS(directory);
      CHECK(ftruncate(fd, length) == 0);
      CHECK(pwrite(fd, bytes, (size_t)length, 0) == length);
    }
    close(fd);
    check_progress();
  }
  uffd_criu_close(open_dump(directory));
}

static const struct check_test tests[] = {
    TEST(tasks_lie_one_after_the_other),
    TEST(copy_has_the_same_identity),
    TEST(file_that_changes_is_noticed),
    TEST(memory_without_pages_is_zero),
    TEST(pages_come_from_parents),
    TEST(lazy_pages_come_from_parents),
    TEST(chains_that_break),
    TEST(parent_that_is_not_there),
    TEST(pages_at_a_page_server),
    TEST(unknown_flags),
    TEST(compressed_pages),
    TEST(pages_in_disorder),
    TEST(what_is_no_dump),
    TEST(files_cut_short),
};
CHECK_MAIN(tests)
