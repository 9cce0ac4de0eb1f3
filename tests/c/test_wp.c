/* Write protection: armed, taken off, kept and lost; synchronous and asynchronous. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "check.h"
#include "kernel/create.h"
#include "kernel/object.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static uffd_object *object;

#define HUGE_WP (UFFD_FEAT_PAGEFAULT_FLAG_WP | UFFD_FEAT_WP_HUGETLBFS_SHMEM)

static struct check_area registered(uint64_t features, int kind, uint64_t count, uint64_t modes) {
  check_needs(HUGE_WP);
  if (object == NULL) object = check_open(features);
  struct check_area area = check_map(kind, count);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, modes, NULL));
  return area;
}

static int protect(const void *at, uint64_t length) {
  return uffd_writeprotect(object, CHECK_ADDRESS(at), length, UFFD_WRITEPROTECT_WP);
}
static int unprotect(const void *at, uint64_t length) {
  return uffd_writeprotect(object, CHECK_ADDRESS(at), length, 0);
}

#define PAGEMAP_WP      (UINT64_C(1) << 57)
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)

/* What the kernel's page tables say, without touching the page. */
static uint64_t pagemap(const void *at) {
  uint64_t entry = 0;
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(pread(fd, &entry, sizeof(entry), (off_t)(CHECK_ADDRESS(at) / check_page() * sizeof(entry))), sizeof(entry));
  close(fd);
  return entry;
}
static bool is_protected(const void *at) {
  return (pagemap(at) & PAGEMAP_WP) != 0;
}

/* Synchronous: the first write is a message */

static void a_write_is_told(int kind) {
  struct check_area area = registered(0, kind, 3, UFFD_MODE_WP);
  for (unsigned i = 0; i < 3; i++)
    area.at[i * area.page] = (unsigned char)(i + 1);
  CHECK_OK(protect(area.at, area.length));
  CHECK_EQ(area.at[area.page], 2); /* reading is free */
  struct check_touch touch;
  check_touch_write(&touch, area.at + area.page + 40, 7);
  struct uffd_event event = check_fault(object);
  CHECK_EQ(event.address, CHECK_ADDRESS(area.at) + area.page);
  CHECK_EQ(event.flags, UFFD_FAULT_WP | UFFD_FAULT_WRITE);
  check_touch_asleep(&touch);
  CHECK_OK(unprotect(area.at + area.page, area.page));
  check_touch_join(&touch);
  CHECK_EQ(area.at[area.page + 40], 7);
  area.at[area.page] = 8; /* once only */
  CHECK(is_protected(area.at) && !is_protected(area.at + area.page) && is_protected(area.at + 2 * area.page));
  uffd_close(object);
}
static void a_write_is_told_anon(void) {
  a_write_is_told(CHECK_ANON);
}
static void a_write_is_told_shmem(void) {
  a_write_is_told(CHECK_SHMEM);
}
static void a_write_is_told_shmem_private(void) {
  a_write_is_told(CHECK_SHMEM_PRIVATE);
}
static void a_write_is_told_hugetlb(void) {
  a_write_is_told(CHECK_HUGETLB);
}
static void a_write_is_told_hugetlb_private(void) {
  a_write_is_told(CHECK_HUGETLB_PRIVATE);
}

static void unprotect_dontwake(void) {
  struct check_area area = registered(0, CHECK_ANON, 1, UFFD_MODE_WP);
  area.at[0] = 1;
  CHECK_OK(protect(area.at, area.page));
  struct check_touch touch;
  check_touch_write(&touch, area.at, 7);
  check_fault(object);
  CHECK_OK(uffd_writeprotect(object, CHECK_ADDRESS(area.at), area.page, UFFD_WRITEPROTECT_DONTWAKE));
  check_touch_asleep(&touch);
  CHECK_OK(uffd_wake(object, CHECK_ADDRESS(area.at), area.page));
  check_touch_join(&touch);
  uffd_close(object);
}

/* R23: the page arrives protected, in one step: no write can slip in between. */
static void copy_and_protect_in_one(int kind) {
  struct check_area area = registered(0, kind, 2, UFFD_MODE_MISSING | UFFD_MODE_WP);
  unsigned char *source = check_pattern(area.page, 2, 1);
  struct check_touch touch;
  check_touch_write(&touch, area.at, 7);
  CHECK_EQ(check_fault(object).flags, UFFD_FAULT_WRITE);
  CHECK_OK(uffd_copy(object, CHECK_ADDRESS(area.at), source, area.length, UFFD_COPY_WP, NULL));
  CHECK_EQ(check_fault(object).flags, UFFD_FAULT_WRITE | UFFD_FAULT_WP); /* the same write, now on a protected page */
  CHECK_OK(unprotect(area.at, area.page));
  check_touch_join(&touch);
  CHECK(is_protected(area.at + area.page));
  CHECK_EQ(area.at[area.page], 2);
  uffd_close(object);
}
static void copy_and_protect_anon(void) {
  copy_and_protect_in_one(CHECK_ANON);
}
static void copy_and_protect_shmem(void) {
  copy_and_protect_in_one(CHECK_SHMEM);
}
static void copy_and_protect_hugetlb(void) {
  copy_and_protect_in_one(CHECK_HUGETLB);
}

/* An armed hole is filled as asked for: without UFFD_COPY_WP the protection is gone. */
static void an_armed_hole(void) {
  struct check_area area = registered(UFFD_FEAT_WP_UNPOPULATED, CHECK_ANON, 3, UFFD_MODE_MISSING | UFFD_MODE_WP);
  unsigned char *source = check_pattern(area.page, 1, 1);
  CHECK_OK(protect(area.at, area.length));
  CHECK(is_protected(area.at));
  CHECK_OK(uffd_copy(object, CHECK_ADDRESS(area.at), source, area.page, UFFD_COPY_WP, NULL));
  CHECK(is_protected(area.at));
  CHECK_OK(uffd_copy(object, CHECK_ADDRESS(area.at) + area.page, source, area.page, 0, NULL));
  CHECK(!is_protected(area.at + area.page));
  CHECK_ERR(uffd_zeropage(object, CHECK_ADDRESS(area.at) + 2 * area.page, area.page, 0, NULL), -EEXIST);
  uffd_close(object);
}

/* From Linux 6.4 on a range may have several mappings. */
static void needs_ranges_over_borders(void) {
  if (!uffd_kernel_at_least(6, 4)) SKIP("before Linux 6.4 UFFDIO_WRITEPROTECT takes one mapping");
}

static void arguments(void) {
  needs_ranges_over_borders();
  struct check_area area = registered(0, CHECK_ANON, 6, UFFD_MODE_WP);
  uint64_t at = CHECK_ADDRESS(area.at), page = area.page;
  CHECK_ERR(uffd_writeprotect(object, at, 0, 0), -EINVAL);
  CHECK_ERR(uffd_writeprotect(object, at + 1, page, 0), -EINVAL);
  CHECK_ERR(uffd_writeprotect(object, at, page, UFFD_WRITEPROTECT_WP | UFFD_WRITEPROTECT_DONTWAKE), -EINVAL);
  CHECK_ERR(uffd_writeprotect(object, at, page, 8), -EINVAL);
  CHECK_SAYS("mode");
  struct check_area other = check_map(CHECK_ANON, 1);
  CHECK_ERR(protect(other.at, page), -ENOENT);
  CHECK_SAYS("UFFD_MODE_WP");
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(other.at), page, UFFD_MODE_MISSING, NULL));
  CHECK_ERR(protect(other.at, page), -ENOENT);
  /* Several mappings, and a hole: fine, as long as each is registered. */
  memset(area.at, 1, area.length);
  CHECK(madvise(area.at + page, page, MADV_DONTDUMP) == 0);
  CHECK(munmap(area.at + 3 * page, page) == 0);
  CHECK_OK(protect(area.at, area.length));
  CHECK(is_protected(area.at + page) && is_protected(area.at + 5 * page));
  CHECK_OK(unprotect(area.at, area.length));
  /* One that is not: an error after those before it were changed. */
  CHECK_OK(uffd_unregister(object, at + 4 * page, page));
  CHECK_ERR(protect(area.at, area.length), -ENOENT);
  CHECK(is_protected(area.at));
  CHECK(!is_protected(area.at + 5 * page));
  uffd_close(object);
}

/* The kernel does not tell the place of ENOENT: the sentence has it from the mappings. */
static void refused_at(const unsigned char *start, uint64_t length, const unsigned char *place) {
  char words[64];
  snprintf(words, sizeof(words), "the page at %#" PRIx64, CHECK_ADDRESS(place));
  CHECK_ERR(uffd_writeprotect(object, CHECK_ADDRESS(start), length, UFFD_WRITEPROTECT_WP), -ENOENT);
  CHECK_SAYS(words);
}

static void the_sentence_names_the_page(int kind) {
  needs_ranges_over_borders();
  struct check_area area = registered(0, kind, 16, UFFD_MODE_WP);
  uint64_t page = area.page;
  memset(area.at, 1, area.length);
  CHECK(madvise(area.at + 3 * page, page, MADV_DONTDUMP) == 0); /* a border, and nothing else */
  CHECK_OK(protect(area.at, area.length));
  CHECK(is_protected(area.at) && is_protected(area.at + 15 * page));
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at) + 9 * page, 2 * page));
  refused_at(area.at, area.length, area.at + 9 * page);
  refused_at(area.at + 10 * page, 6 * page, area.at + 10 * page);
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at) + 15 * page, page));
  refused_at(area.at + 11 * page, 5 * page, area.at + 15 * page);
  CHECK(munmap(area.at + 13 * page, page) == 0);
  CHECK_OK(protect(area.at + 11 * page, 4 * page)); /* a hole is passed over */
  CHECK(is_protected(area.at + 14 * page));
  uffd_close(object);
  object = NULL;
}
static void the_sentence_names_the_page_anon(void) {
  the_sentence_names_the_page(CHECK_ANON);
}
static void the_sentence_names_the_page_shmem(void) {
  the_sentence_names_the_page(CHECK_SHMEM);
}

/* What takes protection away, or keeps it */

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

static bool has_flag(const void *at, const char *flag) {
  struct uffd_mapping mapping;
  CHECK_EQ(uffd_find_mapping(CHECK_ADDRESS(at), &mapping), 0);
  return uffd_mapping_has(&mapping, flag);
}

/* KSM does not carry the bit: what may be merged is taken out of it. */
static void memory_that_ksm_may_merge(void) {
  for (int whole_process = 0; whole_process < 2; whole_process++) {
    if (whole_process && prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) != 0) SKIP("no PR_SET_MEMORY_MERGE (6.4, CONFIG_KSM)");
    struct check_area area = check_map(CHECK_ANON, 16);
    memset(area.at, 7, area.length);
    if (!whole_process && madvise(area.at, area.length, MADV_MERGEABLE) != 0) SKIP("no KSM in this kernel");
    CHECK(has_flag(area.at, "mg"));
    object = check_open(0);
    CHECK(munmap(area.at + 5 * area.page, area.page) == 0); /* a hole is no obstacle */
    CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, UFFD_MODE_WP, NULL));
    CHECK(!has_flag(area.at, "mg") && !has_flag(area.at + 15 * area.page, "mg"));
    CHECK(has_flag(area.at, "uw"));
    uffd_close(object);
    object = NULL;
  }
}

static void arguments_hugetlb(void) {
  struct check_area area = registered(0, CHECK_HUGETLB, 1, UFFD_MODE_WP);
  CHECK_ERR(protect(area.at, check_page()), -EINVAL);
  CHECK_SAYS("huge pages");
  uffd_close(object);
}

static void unregistering_takes_it_off(void) {
  struct check_area area = registered(0, CHECK_ANON, 2, UFFD_MODE_WP);
  area.at[0] = 1;
  CHECK_OK(protect(area.at, area.page));
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length));
  CHECK(!is_protected(area.at));
  area.at[0] = 2;
  uffd_close(object);
}

static int ends[2];

static void read_into(void *ctx) {
  CHECK_EQ(read(ends[0], ctx, 1), 1);
}

static void the_kernel_s_writes_are_told(void) {
  struct check_area area = registered(0, CHECK_ANON, 1, UFFD_MODE_WP);
  check_needs_kernel_faults(object);
  area.at[0] = 1;
  CHECK_OK(protect(area.at, area.page));
  CHECK(pipe(ends) == 0);
  CHECK_EQ(write(ends[1], "x", 1), 1);
  struct check_thread reader;
  check_thread_start(&reader, read_into, area.at);
  CHECK_EQ(check_fault(object).flags, UFFD_FAULT_WP | UFFD_FAULT_WRITE);
  CHECK_OK(unprotect(area.at, area.page));
  check_thread_join(&reader);
  CHECK_EQ(area.at[0], 'x');
  uffd_close(object);
}

/* uffd-unit-tests, "wp-unpopulated" */

static void wp_unpopulated(void) {
  struct check_area area = registered(UFFD_FEAT_WP_UNPOPULATED, CHECK_ANON, 1, UFFD_MODE_WP);
  CHECK_OK(protect(area.at, area.page)); /* a marker on a hole */
  CHECK(is_protected(area.at));
  CHECK_OK(unprotect(area.at, area.page));
  CHECK(!is_protected(area.at));
  CHECK_OK(protect(area.at, area.page));
  CHECK(madvise(area.at, area.page, MADV_DONTNEED) == 0); /* drops it */
  CHECK(!is_protected(area.at));
  area.at[0] = 1; /* comes in clean */
  CHECK(!is_protected(area.at));
  CHECK(madvise(area.at, area.page, MADV_DONTNEED) == 0);
  CHECK_OK(protect(area.at, area.page));
  CHECK_EQ(*(volatile unsigned char *)area.at, 0); /* the zero page, read over a marker, is protected */
  CHECK((pagemap(area.at) & PAGEMAP_PRESENT) != 0 && is_protected(area.at));
  struct check_touch touch;
  check_touch_write(&touch, area.at, 7);
  CHECK_EQ(check_fault(object).flags, UFFD_FAULT_WP | UFFD_FAULT_WRITE);
  CHECK_OK(unprotect(area.at, area.page));
  check_touch_join(&touch);
  uffd_close(object);
}

static void without_wp_unpopulated_holes_are_not_armed(void) {
  struct check_area area = registered(0, CHECK_ANON, 1, UFFD_MODE_WP);
  CHECK_OK(protect(area.at, area.page));
  CHECK(!is_protected(area.at));
  area.at[0] = 1;
  uffd_close(object);
}

/* uffd-unit-tests, "wp-fork", "wp-fork-with-event" */

static struct check_area parent_area;
static bool expected;

static void look_in_child(void) {
  CHECK_EQ(is_protected(parent_area.at), expected);
  if (!expected) parent_area.at[0] = 9; /* no fault */
}

static void fork_child(void *ctx) {
  check_in_child((void (*)(void *))ctx, NULL);
}
static void child_body(void *ctx) {
  (void)ctx;
  look_in_child();
}

static void look_after_fork(bool with_event) {
  struct check_thread forker;
  expected = with_event;
  check_thread_start(&forker, fork_child, (void *)(uintptr_t)child_body);
  uffd_object *theirs = NULL;
  if (with_event) {
    struct uffd_event event;
    CHECK_EQ(uffd_read(object, &event, 1, -1), 1);
    CHECK_EQ(event.type, UFFD_FORK);
    theirs = event.object; /* closing it would take the protection off */
  }
  check_thread_join(&forker);
  uffd_close(theirs);
}

static void wp_fork(int kind, bool with_event) {
  bool keeps = kind == CHECK_HUGETLB_PRIVATE && !with_event && !uffd_kernel_at_least(6, 4);
  if (keeps) SKIP("before Linux 6.4 a child kept the protection of private huge pages");
  parent_area = registered(with_event ? UFFD_FEAT_EVENT_FORK : 0, kind, 1, UFFD_MODE_WP);
  unsigned char *at = parent_area.at;
  uint64_t page = parent_area.page;
  at[0] = 1;
  CHECK_OK(protect(at, page));
  CHECK(is_protected(at));
  look_after_fork(with_event);
  CHECK(is_protected(at)); /* the parent's stays */
  bool file = kind != CHECK_ANON && kind != CHECK_SHMEM_PRIVATE && kind != CHECK_HUGETLB_PRIVATE;
  if (kind == CHECK_SHMEM || kind == CHECK_HUGETLB) {
    CHECK(madvise(at, page, MADV_DONTNEED) == 0); /* a marker stays */
    CHECK((pagemap(at) & PAGEMAP_PRESENT) == 0 && is_protected(at));
    look_after_fork(with_event);
    CHECK(is_protected(at));
  }
  CHECK_OK(unprotect(at, page));
  CHECK(!is_protected(at));
  CHECK_EQ(at[0],
           file && !with_event ? 9 : 1); /* comes back clean; a child without protection has written to the file */
  CHECK(!is_protected(at));
  at[0] = 2;
  uffd_close(object);
}
static void wp_fork_anon(void) {
  wp_fork(CHECK_ANON, false);
}
static void wp_fork_shmem(void) {
  wp_fork(CHECK_SHMEM, false);
}
static void wp_fork_shmem_private(void) {
  wp_fork(CHECK_SHMEM_PRIVATE, false);
}
static void wp_fork_hugetlb(void) {
  wp_fork(CHECK_HUGETLB, false);
}
static void wp_fork_hugetlb_private(void) {
  wp_fork(CHECK_HUGETLB_PRIVATE, false);
}
static void wp_fork_with_event_anon(void) {
  wp_fork(CHECK_ANON, true);
}
static void wp_fork_with_event_shmem(void) {
  wp_fork(CHECK_SHMEM, true);
}
static void wp_fork_with_event_shmem_private(void) {
  wp_fork(CHECK_SHMEM_PRIVATE, true);
}
static void wp_fork_with_event_hugetlb(void) {
  wp_fork(CHECK_HUGETLB, true);
}
static void wp_fork_with_event_hugetlb_private(void) {
  wp_fork(CHECK_HUGETLB_PRIVATE, true);
}

/* The protection survives swapping out, and a write to the swapped page is told. */
static void wp_survives_swap(void) {
  struct check_area area = registered(0, CHECK_ANON, 1, UFFD_MODE_WP);
  area.at[0] = 1;
  CHECK_OK(protect(area.at, area.page));
  if (madvise(area.at, area.page, MADV_PAGEOUT) != 0 || (pagemap(area.at) & PAGEMAP_SWAPPED) == 0)
    SKIP("nothing is swapped out here");
  CHECK(is_protected(area.at));
  struct check_touch touch;
  check_touch_write(&touch, area.at, 7);
  CHECK_EQ(check_fault(object).flags, UFFD_FAULT_WP | UFFD_FAULT_WRITE);
  CHECK_OK(unprotect(area.at, area.page));
  check_touch_join(&touch);
  uffd_close(object);
}

/* uffd-wp-mremap: without EVENT_REMAP the moved mapping has lost registration and protection */

static void wp_mremap(int kind) {
  if (!uffd_kernel_at_least(6, 13)) SKIP("before 6.13 mremap kept the protection");
  struct check_area area = registered(0, kind, 2, UFFD_MODE_WP), target = check_map(kind, 2);
  area.at[0] = 1;
  area.at[area.page] = 2;
  CHECK_OK(protect(area.at, area.length));
  CHECK(is_protected(area.at));
  void *moved = mremap(area.at, area.length, area.length, MREMAP_MAYMOVE | MREMAP_FIXED, target.at);
  if (moved == MAP_FAILED) SKIP("mremap of %s: %s", check_kind_names[kind], strerror(errno));
  CHECK(!is_protected(target.at) && !is_protected(target.at + area.page));
  target.at[0] = 3;
  CHECK_EQ(target.at[area.page], 2);
  uffd_close(object);
}
static void wp_mremap_anon(void) {
  wp_mremap(CHECK_ANON);
}
static void wp_mremap_shmem(void) {
  wp_mremap(CHECK_SHMEM);
}
static void wp_mremap_shmem_private(void) {
  wp_mremap(CHECK_SHMEM_PRIVATE);
}
static void wp_mremap_hugetlb(void) {
  wp_mremap(CHECK_HUGETLB);
}
static void wp_mremap_hugetlb_private(void) {
  wp_mremap(CHECK_HUGETLB_PRIVATE);
}

static void wp_mremap_thp(void) {
  if (!uffd_kernel_at_least(6, 13)) SKIP("before 6.13 mremap kept the protection");
  object = check_open(0);
  uint64_t block = UINT64_C(2) << 20;
  unsigned char *room = mmap(NULL, 6 * block, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  unsigned char *at = room + block - (CHECK_ADDRESS(room) & (block - 1)), *target = at + 2 * block;
  CHECK(mmap(at, block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at);
  CHECK(madvise(at, block, MADV_HUGEPAGE) == 0);
  memset(at, 1, block);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(at), block, UFFD_MODE_WP, NULL));
  CHECK_OK(protect(at, block));
  CHECK(is_protected(at) && is_protected(at + block - 1));
  CHECK(mremap(at, block, block, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
  CHECK(!is_protected(target) && !is_protected(target + block - 1));
  target[0] = 2;
  uffd_close(object);
}

/* Asynchronous: the kernel takes the protection off by itself */

static void wp_async(int kind) {
  struct check_area area = registered(UFFD_FEAT_WP_ASYNC, kind, 3, UFFD_MODE_WP);
  memset(area.at, 1, area.length);
  CHECK_OK(protect(area.at, area.length));
  area.at[area.page + 5] = 2; /* in this thread: nobody need answer */
  CHECK(is_protected(area.at) && !is_protected(area.at + area.page) && is_protected(area.at + 2 * area.page));
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  CHECK_OK(protect(area.at, area.length));
  CHECK(is_protected(area.at + area.page));
  uffd_close(object);
}
static void wp_async_anon(void) {
  wp_async(CHECK_ANON);
}
static void wp_async_shmem(void) {
  wp_async(CHECK_SHMEM);
}
static void wp_async_shmem_private(void) {
  wp_async(CHECK_SHMEM_PRIVATE);
}
static void wp_async_hugetlb(void) {
  wp_async(CHECK_HUGETLB);
}

static const struct check_test tests[] = {
    TEST(a_write_is_told_anon),
    TEST(a_write_is_told_shmem),
    TEST(a_write_is_told_shmem_private),
    TEST(a_write_is_told_hugetlb),
    TEST(a_write_is_told_hugetlb_private),
    TEST(unprotect_dontwake),
    TEST(copy_and_protect_anon),
    TEST(copy_and_protect_shmem),
    TEST(copy_and_protect_hugetlb),
    TEST(an_armed_hole),
    TEST(arguments),
    TEST(arguments_hugetlb),
    TEST(memory_that_ksm_may_merge),
    TEST(the_sentence_names_the_page_anon),
    TEST(the_sentence_names_the_page_shmem),
    TEST(unregistering_takes_it_off),
    TEST(the_kernel_s_writes_are_told),
    TEST(wp_unpopulated),
    TEST(without_wp_unpopulated_holes_are_not_armed),
    TEST(wp_fork_anon),
    TEST(wp_fork_shmem),
    TEST(wp_fork_shmem_private),
    TEST(wp_fork_hugetlb),
    TEST(wp_fork_hugetlb_private),
    TEST(wp_fork_with_event_anon),
    TEST(wp_fork_with_event_shmem),
    TEST(wp_fork_with_event_shmem_private),
    TEST(wp_fork_with_event_hugetlb),
    TEST(wp_fork_with_event_hugetlb_private),
    TEST(wp_survives_swap),
    TEST(wp_mremap_anon),
    TEST(wp_mremap_shmem),
    TEST(wp_mremap_shmem_private),
    TEST(wp_mremap_hugetlb),
    TEST(wp_mremap_hugetlb_private),
    TEST(wp_mremap_thp),
    TEST(wp_async_anon),
    TEST(wp_async_shmem),
    TEST(wp_async_shmem_private),
    TEST(wp_async_hugetlb),
};
CHECK_MAIN(tests)
