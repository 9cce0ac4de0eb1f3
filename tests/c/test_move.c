/* Moving pages: what it does, and the sentence for each rule that it has. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "check.h"
#include "kernel/object.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static uffd_object *object;
static struct check_area to, from;

static void open_both(uint64_t count) {
  object = check_open(0);
  check_needs(UFFD_FEAT_MOVE);
  to = check_map(CHECK_ANON, count);
  from = check_map(CHECK_ANON, count);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(to.at), to.length, UFFD_MODE_MISSING, NULL));
  for (uint64_t i = 0; i < count; i++)
    memset(from.at + i * from.page, (int)(i + 1), from.page);
}

static int move(uint64_t dst_page, uint64_t src_page, uint64_t count, uint64_t mode, uint64_t *done) {
  return uffd_move(object, CHECK_ADDRESS(to.at) + dst_page * to.page, CHECK_ADDRESS(from.at) + src_page * from.page,
                   count * to.page, mode, done);
}

/* uffd-unit-tests, "move": faults resolved by moving; the source is empty afterwards, and each page moved once. */
static void move_anon(void) {
  open_both(32);
  for (unsigned i = 0; i < 32; i++) {
    struct check_touch touch;
    check_touch_read(&touch, to.at + i * to.page + 9);
    CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(to.at) + i * to.page);
    uint64_t done = 0;
    CHECK_OK(move(i, i, 1, 0, &done));
    CHECK_EQ(done, to.page);
    CHECK_EQ(check_touch_join(&touch), i + 1);
    CHECK(check_filled(to.at + i * to.page, to.page, i + 1));
    CHECK(check_filled(from.at + i * from.page, from.page, 0));
  }
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  uffd_close(object);
}

static void many_pages_at_once(void) {
  open_both(200);
  uint64_t done = 0;
  CHECK_OK(move(0, 0, 200, 0, &done));
  CHECK_EQ(done, to.length);
  for (unsigned i = 0; i < 200; i++)
    CHECK(check_filled(to.at + i * to.page, to.page, i + 1));
  uffd_close(object);
}

static void dontwake(void) {
  open_both(1);
  struct check_touch touch;
  check_touch_read(&touch, to.at);
  check_fault(object);
  CHECK_OK(move(0, 0, 1, UFFD_MOVE_DONTWAKE, NULL));
  check_touch_asleep(&touch);
  CHECK_OK(uffd_wake(object, CHECK_ADDRESS(to.at), to.page));
  CHECK_EQ(check_touch_join(&touch), 1);
  uffd_close(object);
}

/* Huge pages of THP */

#define BLOCK (UINT64_C(2) << 20)
#define SMALL UINT64_C(4096)

static unsigned char *map_block(int advice) {
  unsigned char *room = mmap(NULL, 3 * BLOCK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(room != MAP_FAILED);
  unsigned char *at = room + BLOCK - (CHECK_ADDRESS(room) & (BLOCK - 1));
  CHECK(mmap(at, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
  CHECK(madvise(at, BLOCK, advice) == 0);
  return at;
}

static bool has_huge_page(const void *at) {
  char line[256];
  bool inside = false;
  unsigned long long start, end, size = 0;
  FILE *maps = fopen("/proc/self/smaps", "r");
  CHECK(maps != NULL);
  while (fgets(line, sizeof(line), maps) != NULL) {
    if (sscanf(line, "%llx-%llx ", &start, &end) == 2) inside = CHECK_ADDRESS(at) >= start && CHECK_ADDRESS(at) < end;
    if (inside && sscanf(line, "AnonHugePages: %llu", &size) == 1) break;
  }
  fclose(maps);
  return size > 0;
}

/* uffd-unit-tests, "move-pmd", "move-pmd-split": 2 MiB move as one page, or in pieces where the target must not have
 * it. */
static void move_block(int target_advice, bool stays_huge) {
  object = check_open(0);
  check_needs(UFFD_FEAT_MOVE);
  unsigned char *source = map_block(MADV_HUGEPAGE), *target = map_block(target_advice);
  for (uint64_t i = 0; i < BLOCK; i++)
    source[i] = (unsigned char)(i / SMALL);
  if (!has_huge_page(source)) SKIP("no transparent huge pages here");
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(target), BLOCK, UFFD_MODE_MISSING, NULL));
  struct check_touch touch;
  check_touch_read(&touch, target + 5 * SMALL);
  check_fault(object);
  uint64_t done = 0;
  if (stays_huge) {
    CHECK_OK(uffd_move(object, CHECK_ADDRESS(target), CHECK_ADDRESS(source), BLOCK, 0, &done));
    CHECK_EQ(done, BLOCK);
    stays_huge = has_huge_page(target);
  } else {
    for (uint64_t at = 0; at < BLOCK; at += 16 * SMALL) /* less than a huge page at a time */
      CHECK_OK(uffd_move(object, CHECK_ADDRESS(target) + at, CHECK_ADDRESS(source) + at, 16 * SMALL, 0, NULL));
    CHECK(!has_huge_page(target));
    stays_huge = true;
  }
  CHECK_EQ(check_touch_join(&touch), 5);
  for (uint64_t i = 0; i < BLOCK; i++)
    if (target[i] != (unsigned char)(i / SMALL)) CHECK_EQ(i, BLOCK);
  CHECK(check_filled(source, BLOCK, 0));
  uffd_close(object);
  if (!stays_huge) SKIP("the kernel split the huge page on the way, as it may when memory is short");
}
static void move_pmd(void) {
  move_block(MADV_HUGEPAGE, true);
}
static void move_pmd_split(void) {
  move_block(MADV_NOHUGEPAGE, false);
}

/* Holes */

static void a_hole_in_the_source(void) {
  open_both(4);
  CHECK(madvise(from.at + 2 * from.page, from.page, MADV_DONTNEED) == 0);
  uint64_t done = 99;
  CHECK_ERR(move(0, 0, 4, 0, &done), -ENOENT);
  CHECK_EQ(done, 2 * to.page);
  CHECK_SAYS("UFFD_MOVE_ALLOW_SRC_HOLES");
  CHECK_OK(move(2, 2, 2, UFFD_MOVE_ALLOW_SRC_HOLES, &done));
  CHECK_EQ(done, 2 * to.page);
  struct check_touch touch; /* the hole moved along: still missing */
  check_touch_read(&touch, to.at + 2 * to.page);
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(to.at) + 2 * to.page);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(to.at) + 2 * to.page, to.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  CHECK(check_filled(to.at + 3 * to.page, to.page, 4));
  uffd_close(object);
}

static void the_target_is_there(void) {
  open_both(4);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(to.at) + 2 * to.page, to.page, 0, NULL));
  uint64_t done = 99;
  CHECK_ERR(move(0, 0, 4, 0, &done), -EEXIST);
  CHECK_EQ(done, 2 * to.page);
  CHECK(check_filled(from.at + 2 * from.page, from.page, 3)); /* what did not move is still there */
  uffd_close(object);
}

/* Pages that are not ours alone */

static void shared_by_fork(void) {
  open_both(2);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) _exit(0);
  check_child(child);
  uint64_t done = 99;
  CHECK_ERR(move(0, 0, 2, 0, &done), -EBUSY); /* though the child is gone */
  CHECK_EQ(done, 0);
  CHECK_SAYS("fork");
  from.at[0] = 77; /* ours again */
  from.at[from.page] = 78;
  CHECK_OK(move(0, 0, 2, 0, NULL));
  CHECK_EQ(to.at[0], 77);
  uffd_close(object);
}

static void dontfork_keeps_the_source_ours(void) {
  open_both(1);
  CHECK(madvise(from.at, from.length, MADV_DONTFORK) == 0);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) _exit(0);
  check_child(child);
  CHECK_OK(move(0, 0, 1, 0, NULL));
  uffd_close(object);
}

/* The rules, checked before the kernel sees them */

static void rules_of_ranges(void) {
  open_both(4);
  uint64_t at = CHECK_ADDRESS(to.at), source = CHECK_ADDRESS(from.at), page = to.page, done = 99;
  CHECK_ERR(uffd_move(object, at, at + page, 2 * page, 0, &done), -EINVAL);
  CHECK_EQ(done, 0);
  CHECK_SAYS("overlap");
  CHECK_ERR(uffd_move(object, at, at, page, 0, NULL), -EINVAL);
  CHECK_SAYS("overlap");
  CHECK_ERR(uffd_move(object, at, source + 1, page, 0, NULL), -EINVAL);
  CHECK_SAYS("aligned");
  CHECK_ERR(uffd_move(object, at + 1, source, page, 0, NULL), -EINVAL);
  CHECK_ERR(uffd_move(object, at, source, 0, 0, NULL), -EINVAL);
  CHECK_ERR(uffd_move(object, at, source, page / 2, 0, NULL), -EINVAL);
  CHECK_ERR(uffd_move(object, at, -page, 2 * page, 0, NULL), -EINVAL);
  CHECK_SAYS("wraps");
  CHECK_ERR(uffd_move(object, at, source, page, 4, NULL), -EINVAL);
  CHECK_SAYS("mode");
  uffd_close(object);
}

static void check_rule(uint64_t dst, uint64_t src, const char *words) {
  uint64_t done = 99;
  CHECK_ERR(uffd_move(object, dst, src, to.page, 0, &done), -EINVAL);
  CHECK_EQ(done, 0);
  CHECK_SAYS(words);
}

static void rules_of_mappings(void) {
  open_both(4);
  struct check_area other = check_map(CHECK_ANON, 1), shmem = check_map(CHECK_SHMEM, 1);
  struct check_area private = check_map(CHECK_SHMEM_PRIVATE, 1);
  uint64_t at = CHECK_ADDRESS(to.at), source = CHECK_ADDRESS(from.at), page = to.page;
  check_rule(CHECK_ADDRESS(other.at), source, "destination");
  CHECK_SAYS("not registered");
  check_rule(at, CHECK_ADDRESS(shmem.at), "source");
  CHECK_SAYS("shared memory");
  private.at[0] = 1;
  check_rule(at, CHECK_ADDRESS(private.at), "private mapping of a file");
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(shmem.at), shmem.length, UFFD_MODE_MISSING, NULL));
  check_rule(CHECK_ADDRESS(shmem.at), source, "destination");
  CHECK_SAYS("shared memory");
  CHECK(mprotect(from.at, page, PROT_READ) == 0);
  check_rule(at, source, "not writable");
  CHECK(mprotect(from.at, page, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
  check_rule(at, source, "differ in protection");
  CHECK(mprotect(from.at, page, PROT_READ | PROT_WRITE) == 0);
  if (syscall(SYS_mlock, from.at, page) == 0) { /* the library's call does nothing under a sanitizer */
    check_rule(at, source, "mlock");
    syscall(SYS_munlock, from.at, page);
  }
  uffd_object *owner = check_open(0);
  CHECK_OK(uffd_register(owner, CHECK_ADDRESS(other.at), other.length, UFFD_MODE_MISSING, NULL));
  check_rule(CHECK_ADDRESS(other.at), source, "another userfaultfd");
  CHECK_OK(uffd_move(object, at, source, page, 0, NULL)); /* after all that: nothing had moved */
  CHECK_EQ(to.at[0], 1);
  uffd_close(owner);
  uffd_close(object);
}

static void rules_of_hugetlb(void) {
  open_both(1);
  struct check_area huge = check_map(CHECK_HUGETLB_PRIVATE, 1);
  huge.at[0] = 1;
  check_rule(CHECK_ADDRESS(to.at), CHECK_ADDRESS(huge.at), "hugetlb");
  uffd_close(object);
}

static void nothing_mapped(void) {
  open_both(2);
  munmap(from.at - from.page, from.length + 2 * from.page);
  uint64_t done = 99;
  CHECK_ERR(move(0, 0, 1, 0, &done), -ENOENT);
  CHECK_EQ(done, 0);
  uffd_close(object);
}

/* Both sides in several mappings: what fits moves, the rest follows. */
static void over_borders(void) {
  open_both(40);
  CHECK(madvise(to.at + 7 * to.page, 11 * to.page, MADV_DONTDUMP) == 0);
  CHECK(madvise(from.at + 9 * from.page, 3 * from.page, MADV_DONTDUMP) == 0);
  uint64_t done = 0;
  CHECK_OK(move(0, 0, 40, 0, &done));
  CHECK_EQ(done, to.length);
  for (unsigned i = 0; i < 40; i++)
    CHECK(check_filled(to.at + i * to.page, to.page, i + 1));
  uffd_close(object);
}

static void a_guard_page_stops_it(void) {
  open_both(3);
  if (madvise(to.at + to.page, to.page, MADV_GUARD_INSTALL) != 0) SKIP("no guard pages (6.13)");
  uint64_t done = 99;
  CHECK_ERR(move(0, 0, 3, 0, &done), -EEXIST);
  CHECK_EQ(done, to.page);
  uffd_close(object);
}

static const struct check_test tests[] = {
    TEST(move_anon),
    TEST(many_pages_at_once),
    TEST(dontwake),
    TEST(move_pmd),
    TEST(move_pmd_split),
    TEST(a_hole_in_the_source),
    TEST(the_target_is_there),
    TEST(shared_by_fork),
    TEST(dontfork_keeps_the_source_ours),
    TEST(rules_of_ranges),
    TEST(rules_of_mappings),
    TEST(rules_of_hugetlb),
    TEST(nothing_mapped),
    TEST(over_borders),
    TEST(a_guard_page_stops_it),
};
CHECK_MAIN(tests)
