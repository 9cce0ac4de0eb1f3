/* Minor faults and continue: pages that the page cache has, and this mapping has not. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "check.h"
#include "kernel/create.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static uffd_object *object;

static struct check_area registered(int kind, uint64_t count, uint64_t modes) {
  if (object == NULL) object = check_open(0);
  check_needs(UFFD_FEAT_MINOR_SHMEM | UFFD_FEAT_MINOR_HUGETLBFS | UFFD_FEAT_WP_HUGETLBFS_SHMEM);
  struct check_area area = check_map(kind, count);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, modes, NULL));
  return area;
}

static struct check_area served;
static uint64_t mode;
static _Atomic unsigned minor_faults, wp_faults;

/* Flips every bit of the page through the alias, then lets it be mapped. */
static void answer(void *ctx) {
  (void)ctx;
  for (;;) {
    struct uffd_event event;
    int rc = uffd_read(object, &event, 1, -1);
    if (rc == -EBADF) return;
    CHECK_OK(rc);
    uint64_t offset = event.address - CHECK_ADDRESS(served.at);
    if ((event.flags & UFFD_FAULT_WP) != 0) {
      atomic_fetch_add(&wp_faults, 1);
      CHECK_OK(uffd_writeprotect(object, event.address, served.page, 0));
      continue;
    }
    CHECK((event.flags & UFFD_FAULT_MINOR) != 0);
    atomic_fetch_add(&minor_faults, 1);
    for (uint64_t i = 0; i < served.page; i++)
      served.alias[offset + i] ^= 0xff;
    CHECK_OK(uffd_continue(object, event.address, served.page, mode, NULL));
  }
}

/* uffd-unit-tests, "minor", "minor-wp": the alias is filled, each page one minor fault; with WP then a WP fault. */
static void minor(int kind, bool wp) {
  if (wp && !uffd_kernel_at_least(6, 4)) SKIP("UFFDIO_CONTINUE protects from Linux 6.4 on");
  unsigned count = kind == CHECK_HUGETLB ? 3 : 32;
  served = registered(kind, count, UFFD_MODE_MINOR | (wp ? UFFD_MODE_WP : 0));
  mode = wp ? UFFD_CONTINUE_WP : 0;
  for (unsigned i = 0; i < count; i++)
    memset(served.alias + i * served.page, (int)(i + 1), served.page);
  struct check_thread handler;
  check_thread_start(&handler, answer, NULL);
  for (unsigned i = 0; i < count; i++) {
    volatile unsigned char *page = served.at + i * served.page;
    CHECK_EQ(page[17], (i + 1) ^ 0xff);
    CHECK_EQ(atomic_load(&minor_faults), i + 1);
    CHECK(check_filled(served.at + i * served.page, served.page, (i + 1) ^ 0xff));
    page[17] = 9;
    CHECK_EQ(atomic_load(&wp_faults), wp ? i + 1 : 0);
  }
  CHECK_EQ(atomic_load(&minor_faults), count);
  check_asleep(handler.tid, "poll"); /* inside a call: between two of them the handle must not go away */
  uffd_close(object);
  check_thread_join(&handler);
}
static void minor_shmem(void) {
  minor(CHECK_SHMEM, false);
}
static void minor_hugetlb(void) {
  minor(CHECK_HUGETLB, false);
}
static void minor_wp_shmem(void) {
  minor(CHECK_SHMEM, true);
}
static void minor_wp_hugetlb(void) {
  minor(CHECK_HUGETLB, true);
}

/* uffd-unit-tests, "minor-collapse": as minor, then MADV_COLLAPSE: the contents stay, and no fault comes any more. */
static void minor_collapse(void) {
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  object = check_open(0);
  uint64_t block = UINT64_C(2) << 20;
  served = check_map(CHECK_SHMEM, 2 * block / check_page());
  served.at += block - (CHECK_ADDRESS(served.at) & (block - 1));
  CHECK(mmap(served.at, block, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, served.fd, 0) == served.at);
  memset(served.alias, 0xaa, block);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(served.at), block, UFFD_MODE_MINOR, NULL));
  struct check_thread handler;
  check_thread_start(&handler, answer, NULL);
  for (uint64_t at = 0; at < block; at += served.page)
    CHECK_EQ(((volatile unsigned char *)served.at)[at], 0x55);
  CHECK_EQ(atomic_load(&minor_faults), block / served.page);
  if (madvise(served.at, block, MADV_COLLAPSE) != 0) SKIP("MADV_COLLAPSE: %s", strerror(errno));
  CHECK(check_filled(served.at, block, 0x55));
  CHECK_EQ(atomic_load(&minor_faults), block / served.page);
  check_asleep(handler.tid, "poll"); /* inside a call: between two of them the handle must not go away */
  uffd_close(object);
  check_thread_join(&handler);
}

static void flags_of_minor_faults(void) {
  struct check_area area = registered(CHECK_SHMEM, 2, UFFD_MODE_MINOR | UFFD_MODE_MISSING);
  area.alias[0] = 4;
  struct check_touch touch;
  check_touch_write(&touch, area.at, 5);
  CHECK_EQ(check_fault(object).flags, UFFD_FAULT_MINOR | UFFD_FAULT_WRITE);
  CHECK_OK(uffd_continue(object, CHECK_ADDRESS(area.at), area.page, 0, NULL));
  check_touch_join(&touch);
  CHECK_EQ(area.alias[0], 5);
  check_touch_read(&touch, area.at + area.page); /* the page cache has no page: missing, though MINOR is registered */
  CHECK_EQ(check_fault(object).flags, 0);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(area.at) + area.page, area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

static void continue_progress_and_errors(void) {
  struct check_area area = registered(CHECK_SHMEM, 8, UFFD_MODE_MINOR | UFFD_MODE_MISSING);
  uint64_t at = CHECK_ADDRESS(area.at), page = area.page, done = 99;
  memset(area.alias, 7, 3 * page);
  CHECK_ERR(uffd_continue(object, at, area.length, 0, &done), -EFAULT);
  CHECK_EQ(done, 3 * page);
  CHECK_SAYS("page cache has no page");
  CHECK_ERR(uffd_continue(object, at + 2 * page, page, 0, &done), -EEXIST);
  CHECK_EQ(done, 0);
  CHECK_ERR(uffd_continue(object, at + 3 * page, page, UFFD_CONTINUE_WP, NULL), -EINVAL);
  CHECK_SAYS(uffd_kernel_at_least(6, 4) ? "UFFD_MODE_WP" : "Linux 6.4");
  CHECK(ftruncate(area.fd, (off_t)(5 * page)) == 0);
  CHECK_ERR(uffd_continue(object, at + 6 * page, page, 0, NULL), -EFAULT);
  struct check_area anon = check_map(CHECK_ANON, 1), other = check_map(CHECK_SHMEM, 1);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(anon.at), anon.length, UFFD_MODE_MISSING, NULL));
  CHECK_ERR(uffd_continue(object, CHECK_ADDRESS(anon.at), page, 0, NULL), -EINVAL);
  CHECK_SAYS("anonymous");
  other.alias[0] = 1;
  CHECK_ERR(uffd_continue(object, CHECK_ADDRESS(other.at), page, 0, NULL), -ENOENT);
  uffd_close(object);
}

/* Shared memory: the page is in the cache, not in the mapping. Copying says it is there; continue maps it. */
static void copy_says_that_the_cache_has_it(void) {
  struct check_area area = registered(CHECK_SHMEM, 1, UFFD_MODE_MINOR | UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 1, 1);
  area.alias[0] = 8;
  CHECK_ERR(uffd_copy(object, CHECK_ADDRESS(area.at), source, area.page, 0, NULL), -EEXIST);
  CHECK_OK(uffd_continue(object, CHECK_ADDRESS(area.at), area.page, 0, NULL));
  CHECK_EQ(area.at[0], 8);
  uffd_close(object);
}

/* Dropped from the mapping, a page is still in the cache: a minor fault brings it back, contents and all. */
static void dontneed_makes_it_minor_again(void) {
  struct check_area area = registered(CHECK_SHMEM, 1, UFFD_MODE_MINOR);
  area.alias[0] = 8;
  for (int i = 0; i < 3; i++) {
    struct check_touch touch;
    check_touch_read(&touch, area.at);
    CHECK_EQ(check_fault(object).flags, UFFD_FAULT_MINOR);
    CHECK_OK(uffd_continue(object, CHECK_ADDRESS(area.at), area.page, 0, NULL));
    CHECK_EQ(check_touch_join(&touch), 8);
    CHECK(madvise(area.at, area.page, MADV_DONTNEED) == 0);
  }
  uffd_close(object);
}

static void private_mappings_copy_on_write(void) {
  struct check_area area = registered(CHECK_SHMEM_PRIVATE, 1, UFFD_MODE_MINOR);
  area.alias[0] = 8;
  struct check_touch touch;
  check_touch_write(&touch, area.at, 9);
  CHECK_EQ(check_fault(object).flags, UFFD_FAULT_MINOR | UFFD_FAULT_WRITE);
  CHECK_OK(uffd_continue(object, CHECK_ADDRESS(area.at), area.page, 0, NULL));
  check_touch_join(&touch);
  CHECK_EQ(area.at[0], 9);
  CHECK_EQ(area.alias[0], 8);
  uffd_close(object);
}

static const struct check_test tests[] = {
    TEST(minor_shmem),
    TEST(minor_hugetlb),
    TEST(minor_wp_shmem),
    TEST(minor_wp_hugetlb),
    TEST(minor_collapse),
    TEST(flags_of_minor_faults),
    TEST(continue_progress_and_errors),
    TEST(copy_says_that_the_cache_has_it),
    TEST(dontneed_makes_it_minor_again),
    TEST(private_mappings_copy_on_write),
};
CHECK_MAIN(tests)
