/* Copy, zeropage and what all filling operations share: progress, present pages, borders of mappings, events. */
#define _GNU_SOURCE
#include <sys/mman.h>

#include "check.h"
#include "kernel/object.h"

static uffd_object *object;

static struct check_area registered(int kind, uint64_t count, uint64_t modes) {
  if (object == NULL) object = check_open(0);
  struct check_area area = check_map(kind, count);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, modes, NULL));
  return area;
}

static uint64_t page_at(const struct check_area *area, uint64_t index) {
  return CHECK_ADDRESS(area->at) + index * area->page;
}

/* Every kind of memory: a fault, its copy, the rest in bulk, and nothing twice */

static void copy_resolves(int kind) {
  struct check_area area = registered(kind, 4, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 4, 1);
  struct check_touch touch;
  check_touch_read(&touch, area.at + 2 * area.page + 5);
  struct uffd_event event = check_fault(object);
  CHECK_EQ(event.address, page_at(&area, 2));
  CHECK_EQ(event.flags, 0);
  uint64_t done = 99;
  CHECK_OK(uffd_copy(object, event.address, source + 2 * area.page, area.page, 0, &done));
  CHECK_EQ(done, area.page);
  CHECK_EQ(check_touch_join(&touch), 3);
  CHECK_OK(uffd_copy(object, page_at(&area, 0), source, 2 * area.page, 0, &done));
  CHECK_EQ(done, 2 * area.page);
  CHECK_ERR(uffd_copy(object, page_at(&area, 1), source, 3 * area.page, 0, &done), -EEXIST);
  CHECK_EQ(done, 0);
  CHECK_OK(uffd_copy(object, page_at(&area, 3), source + 3 * area.page, area.page, 0, NULL));
  for (unsigned i = 0; i < 4; i++)
    CHECK(check_filled(area.at + i * area.page, area.page, i + 1));
  uffd_close(object);
}
static void copy_resolves_anon(void) {
  copy_resolves(CHECK_ANON);
}
static void copy_resolves_shmem(void) {
  copy_resolves(CHECK_SHMEM);
}
static void copy_resolves_shmem_private(void) {
  copy_resolves(CHECK_SHMEM_PRIVATE);
}
static void copy_resolves_hugetlb(void) {
  copy_resolves(CHECK_HUGETLB);
}
static void copy_resolves_hugetlb_private(void) {
  copy_resolves(CHECK_HUGETLB_PRIVATE);
}

/* uffd-unit-tests, "zeropage": refused on huge pages; elsewhere zero, and not twice. */
static void zeropage(int kind) {
  struct check_area area = registered(kind, 2, UFFD_MODE_MISSING);
  uint64_t done = 99;
  if (area.page != check_page()) {
    CHECK_ERR(uffd_zeropage(object, page_at(&area, 0), area.page, 0, &done), -EINVAL);
    CHECK_SAYS("Huge pages have no zeropage");
    CHECK_EQ(done, 0);
    uffd_close(object);
    return;
  }
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  CHECK_EQ(check_fault(object).address, page_at(&area, 0));
  CHECK_OK(uffd_zeropage(object, page_at(&area, 0), area.length, 0, &done));
  CHECK_EQ(done, area.length);
  CHECK_EQ(check_touch_join(&touch), 0);
  CHECK(check_filled(area.at, area.length, 0));
  CHECK_ERR(uffd_zeropage(object, page_at(&area, 1), area.page, 0, &done), -EEXIST);
  CHECK_EQ(done, 0);
  uffd_close(object);
}
static void zeropage_anon(void) {
  zeropage(CHECK_ANON);
}
static void zeropage_shmem(void) {
  zeropage(CHECK_SHMEM);
}
static void zeropage_shmem_private(void) {
  zeropage(CHECK_SHMEM_PRIVATE);
}
static void zeropage_hugetlb(void) {
  zeropage(CHECK_HUGETLB);
}

/* Progress */

static void partial_copy_offsets(void) {
  struct check_area area = registered(CHECK_ANON, 16, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 16, 1);
  CHECK_OK(uffd_zeropage(object, page_at(&area, 5), area.page, 0, NULL));
  CHECK_OK(uffd_zeropage(object, page_at(&area, 9), area.page, 0, NULL));
  uint64_t at = 0, present[4] = {0}, count = 0;
  while (at < area.length) {
    uint64_t done = 99;
    int rc = uffd_copy(object, page_at(&area, 0) + at, source + at, area.length - at, 0, &done);
    at += done;
    if (rc == 0) break;
    CHECK_ERR(rc, -EEXIST);
    CHECK(count < 4);
    present[count++] = at / area.page;
    at += area.page;
  }
  CHECK_EQ(count, 2);
  CHECK_EQ(present[0], 5);
  CHECK_EQ(present[1], 9);
  for (unsigned i = 0; i < 16; i++)
    CHECK(check_filled(area.at + i * area.page, area.page, i == 5 || i == 9 ? 0 : i + 1));
  uffd_close(object);
}

static void source_ends_in_the_middle(void) {
  struct check_area area = registered(CHECK_ANON, 4, UFFD_MODE_MISSING);
  struct check_area source = check_map(CHECK_ANON, 4);
  memset(source.at, 7, 2 * area.page);
  CHECK(mprotect(source.at + 2 * area.page, area.page, PROT_NONE) == 0);
  uint64_t done = 99;
  CHECK_ERR(uffd_copy(object, page_at(&area, 0), source.at, area.length, 0, &done), -EFAULT);
  CHECK_EQ(done, 2 * area.page);
  CHECK_SAYS("source");
  CHECK(check_filled(area.at, 2 * area.page, 7));
  CHECK_ERR(uffd_copy(object, page_at(&area, 2), NULL, area.page, 0, &done), -EFAULT);
  CHECK_EQ(done, 0);
  uffd_close(object);
}

static void source_of_any_alignment(void) {
  struct check_area area = registered(CHECK_ANON, 2, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 3, 1);
  CHECK_OK(uffd_copy(object, page_at(&area, 0), source + 1, area.length, 0, NULL));
  CHECK_EQ(area.at[area.page - 1], 2);
  CHECK_EQ(area.at[area.page - 2], 1);
  CHECK_ERR(uffd_copy(object, page_at(&area, 0), (void *)UINTPTR_MAX, area.length, 0, NULL), -EINVAL);
  CHECK_SAYS("wraps");
  uffd_close(object);
}

static void bad_ranges_and_modes(void) {
  struct check_area area = registered(CHECK_ANON, 2, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 2, 1);
  uint64_t at = page_at(&area, 0), page = area.page, done = 99;
  CHECK_ERR(uffd_copy(object, at + 1, source, page, 0, &done), -EINVAL);
  CHECK_EQ(done, 0);
  CHECK_ERR(uffd_copy(object, at, source, 0, 0, NULL), -EINVAL);
  CHECK_ERR(uffd_copy(object, at, source, page + 5, 0, NULL), -EINVAL);
  CHECK_ERR(uffd_copy(object, -page, source, 2 * page, 0, NULL), -EINVAL);
  CHECK_ERR(uffd_copy(object, at, source, page, UINT64_C(1) << 40, NULL), -EINVAL);
  CHECK_SAYS("mode");
  CHECK_ERR(uffd_copy(object, at, source, page, UFFD_COPY_WP, NULL), -EINVAL);
  CHECK_SAYS("not registered for UFFD_MODE_WP");
  CHECK_ERR(uffd_zeropage(object, at, page, 2, NULL), -EINVAL);
  CHECK_ERR(uffd_zeropage(object, at, 0, 0, NULL), -EINVAL);
  CHECK_ERR(uffd_zeropage(object, at + 8, page, 0, NULL), -EINVAL);
  uffd_close(object);
}

static void huge_pages_in_parts(void) {
  struct check_area area = registered(CHECK_HUGETLB, 2, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 1, 1);
  CHECK_ERR(uffd_copy(object, page_at(&area, 0), source, check_page(), 0, NULL), -EINVAL);
  CHECK_SAYS("2097152");
  CHECK_ERR(uffd_copy(object, page_at(&area, 0) + check_page(), source, area.page, 0, NULL), -EINVAL);
  uffd_close(object);
}

/* The kernel answers EEXIST. A caller that believes it would wake the sleeper, which then faults for ever. */
static void no_free_huge_page(int flags) {
  check_hugepages(4); /* nobody else takes or gives any meanwhile */
  uint64_t count = check_number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  if (check_number("/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages") > 0)
    SKIP("huge pages are promised to others");
  if (check_number("/proc/sys/vm/nr_overcommit_hugepages") > 0) SKIP("vm.nr_overcommit_hugepages is set");
  if (count > 64) SKIP("%llu huge pages are too many to use them all", (unsigned long long)count);
  object = check_open(0);
  uint64_t page = UINT64_C(2) << 20, done = 99;
  unsigned char *at = mmap(NULL, (count + 1) * page, PROT_READ | PROT_WRITE,
                           MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE | flags, -1, 0);
  CHECK(at != MAP_FAILED);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(at), (count + 1) * page, UFFD_MODE_MISSING, NULL));
  unsigned char *source = check_pattern(page, count + 1, 1);
  int rc = uffd_copy(object, CHECK_ADDRESS(at), source, (count + 1) * page, 0, &done);
  if (done != count * page) SKIP("somebody else takes or gives huge pages meanwhile");
  CHECK_ERR(rc, -ENOMEM);
  CHECK_SAYS("nr_hugepages");
  CHECK_ERR(uffd_copy(object, CHECK_ADDRESS(at), source, page, 0, &done), -EEXIST);
  uffd_close(object);
}
static void no_free_huge_page_private(void) {
  no_free_huge_page(MAP_PRIVATE);
}
static void no_free_huge_page_shared(void) {
  no_free_huge_page(MAP_SHARED);
}

/* Not there */

static void not_registered(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_ANON, 4);
  unsigned char *source = check_pattern(area.page, 4, 1);
  uint64_t done = 99;
  CHECK_ERR(uffd_copy(object, page_at(&area, 0), source, area.length, 0, &done), -ENOENT);
  CHECK_EQ(done, 0);
  CHECK_SAYS("not registered");
  CHECK_ERR(uffd_zeropage(object, page_at(&area, 0), area.page, 0, &done), -ENOENT);
  munmap(area.at, area.length);
  CHECK_ERR(uffd_copy(object, page_at(&area, 0), source, area.length, 0, &done), -ENOENT);
  CHECK_EQ(done, 0);
  uffd_close(object);
}

static void beyond_the_end_of_the_file(void) {
  struct check_area area = registered(CHECK_SHMEM, 4, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 4, 1);
  uint64_t done = 99;
  CHECK(ftruncate(area.fd, (off_t)(2 * area.page)) == 0);
  CHECK_ERR(uffd_copy(object, page_at(&area, 0), source, area.length, 0, &done), -EFAULT);
  CHECK_EQ(done, 2 * area.page);
  CHECK_SAYS("end of the file");
  uffd_close(object);
}

/* Borders of mappings */

/* Cuts area into mappings that the kernel cannot merge. */
static void cut(const struct check_area *area, const uint64_t *lengths, size_t count) {
  unsigned char *at = area->at;
  for (size_t i = 0; i < count; at += lengths[i++] * area->page)
    CHECK(madvise(at, lengths[i] * area->page, i % 2 == 0 ? MADV_DONTDUMP : MADV_DODUMP) == 0);
}

static unsigned mappings_in(const struct check_area *area) {
  struct uffd_mapping mapping;
  unsigned count = 0;
  for (uint64_t at = page_at(area, 0); at < page_at(area, 0) + area->length; at = mapping.end, count++)
    CHECK_EQ(uffd_find_mapping(at, &mapping), 0);
  return count;
}

static void copy_over_borders(int kind, const uint64_t *lengths, size_t count) {
  uint64_t pages = 0;
  for (size_t i = 0; i < count; i++)
    pages += lengths[i];
  struct check_area area = registered(kind, pages, UFFD_MODE_MISSING);
  cut(&area, lengths, count);
  CHECK_EQ(mappings_in(&area), count);
  unsigned char *source = check_pattern(area.page, pages, 1);
  uint64_t done = 0;
  CHECK_OK(uffd_copy(object, page_at(&area, 0), source, area.length, 0, &done));
  CHECK_EQ(done, area.length);
  CHECK(memcmp(area.at, source, area.length) == 0);
  uffd_close(object);
}

static void borders_anon(void) {
  copy_over_borders(CHECK_ANON, (uint64_t[]){1, 1, 7, 100, 3, 512, 1}, 7);
}
static void borders_shmem(void) {
  copy_over_borders(CHECK_SHMEM, (uint64_t[]){5, 6, 4}, 3);
}
static void borders_hugetlb(void) {
  copy_over_borders(CHECK_HUGETLB, (uint64_t[]){1, 3, 1}, 3);
}

/* A hole in the mappings stops the operation at its first page. */
static void a_hole_in_the_middle(int kind) {
  struct check_area area = registered(kind, 7, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 7, 1);
  CHECK(munmap(area.at + 3 * area.page, area.page) == 0);
  uint64_t done = 99;
  CHECK_ERR(uffd_copy(object, page_at(&area, 0), source, area.length, 0, &done), -ENOENT);
  CHECK_EQ(done, 3 * area.page);
  CHECK(memcmp(area.at, source, 3 * area.page) == 0);
  CHECK_OK(uffd_copy(object, page_at(&area, 4), source + 4 * area.page, 3 * area.page, 0, NULL));
  uffd_close(object);
}
static void a_hole_anon(void) {
  a_hole_in_the_middle(CHECK_ANON);
}
static void a_hole_hugetlb(void) {
  a_hole_in_the_middle(CHECK_HUGETLB);
}

/* Present pages and sleepers */

static void touch_and_read(struct check_touch *touch, const struct check_area *area, uint64_t index) {
  check_touch_read(touch, area->at + index * area->page + 3);
  CHECK_EQ(check_fault(object).address & ~(area->page - 1), page_at(area, index));
  check_touch_asleep(touch);
}

/* A page that came without a wake-up: EEXIST alone would leave its sleeper asleep for ever. */
static void eexist_wakes(void) {
  struct check_area area = registered(CHECK_ANON, 4, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 4, 1);
  struct check_touch touch;
  touch_and_read(&touch, &area, 2);
  CHECK_OK(uffd_copy(object, page_at(&area, 2), source + 2 * area.page, area.page, UFFD_COPY_DONTWAKE, NULL));
  check_touch_asleep(&touch);
  uint64_t done = 99;
  CHECK_ERR(uffd_copy(object, page_at(&area, 2), source, area.page, UFFD_COPY_DONTWAKE, &done), -EEXIST);
  check_touch_asleep(&touch);
  CHECK_ERR(uffd_copy(object, page_at(&area, 0), source, area.length, 0, &done), -EEXIST);
  CHECK_EQ(done, 2 * area.page);
  CHECK_EQ(check_touch_join(&touch), 3);
  uffd_close(object);
}

/* With EXACT_ADDRESS the sleeper lies anywhere in its huge page. */
static void eexist_wakes_huge_pages(void) {
  object = check_open(UFFD_FEAT_EXACT_ADDRESS);
  struct check_area area = registered(CHECK_HUGETLB, 2, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 2, 1);
  struct check_touch touch;
  check_touch_read(&touch, area.at + area.page + 12345);
  CHECK_EQ(check_fault(object).address, page_at(&area, 1) + 12345);
  CHECK_OK(uffd_copy(object, page_at(&area, 1), source + area.page, area.page, UFFD_COPY_DONTWAKE, NULL));
  check_touch_asleep(&touch);
  CHECK_ERR(uffd_copy(object, page_at(&area, 1), source, area.page, 0, NULL), -EEXIST);
  CHECK_EQ(check_touch_join(&touch), 2);
  uffd_close(object);
}

static void zeropage_dontwake_then_wake(void) {
  struct check_area area = registered(CHECK_ANON, 2, UFFD_MODE_MISSING);
  struct check_touch touch;
  touch_and_read(&touch, &area, 0);
  CHECK_OK(uffd_zeropage(object, page_at(&area, 0), area.length, UFFD_ZEROPAGE_DONTWAKE, NULL));
  check_touch_asleep(&touch);
  CHECK_OK(uffd_wake(object, page_at(&area, 0), area.length));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

static void one_copy_wakes_all_who_wait(void) {
  struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 1, 9);
  struct check_touch touches[4];
  for (int i = 0; i < 4; i++)
    check_touch_read(&touches[i], area.at + i);
  for (int i = 0; i < 4; i++)
    CHECK_EQ(check_fault(object).address, page_at(&area, 0));
  CHECK_OK(uffd_copy(object, page_at(&area, 0), source, area.page, 0, NULL));
  for (int i = 0; i < 4; i++)
    CHECK_EQ(check_touch_join(&touches[i]), 9);
  uffd_close(object);
}

/* Events that wait */

struct drop {
  unsigned char *at;
  uint64_t length;
};

static void drop_pages(void *ctx) {
  const struct drop *drop = ctx;
  CHECK(madvise(drop->at, drop->length, MADV_DONTNEED) == 0);
}

/* While a REMOVE waits to be read, nothing can be filled, wherever it lies. */
static void eagain_with_an_unread_event(void) {
  object = check_open(UFFD_FEAT_EVENT_REMOVE);
  struct check_area area = registered(CHECK_ANON, 4, UFFD_MODE_MISSING | UFFD_MODE_WP);
  struct check_area other = registered(CHECK_SHMEM, 1, UFFD_MODE_MISSING | UFFD_MODE_MINOR);
  unsigned char *source = check_pattern(area.page, 4, 1);
  uint64_t done = 99;
  CHECK_OK(uffd_copy(object, page_at(&area, 0), source, area.page, 0, NULL));
  struct drop drop = {area.at, area.page};
  struct check_thread thread;
  check_thread_start(&thread, drop_pages, &drop);
  check_asleep(thread.tid, "userfault");
  CHECK_ERR(uffd_copy(object, page_at(&area, 2), source, 2 * area.page, 0, &done), -EAGAIN);
  CHECK_EQ(done, 0);
  CHECK_SAYS("event");
  CHECK_ERR(uffd_zeropage(object, page_at(&area, 2), area.page, 0, NULL), -EAGAIN);
  CHECK_ERR(uffd_copy(object, page_at(&other, 0), source, other.page, 0, NULL), -EAGAIN);
  CHECK_ERR(uffd_continue(object, page_at(&other, 0), other.page, 0, NULL), -EAGAIN);
  CHECK_ERR(uffd_writeprotect(object, page_at(&area, 2), area.page, UFFD_WRITEPROTECT_WP), -EAGAIN);
  if ((uffd_available(object) & UFFD_FEAT_POISON) != 0)
    CHECK_ERR(uffd_poison(object, page_at(&area, 2), area.page, 0, NULL), -EAGAIN);
  if ((uffd_available(object) & UFFD_FEAT_MOVE) != 0)
    CHECK_ERR(uffd_move(object, page_at(&area, 2), CHECK_ADDRESS(source), area.page, 0, NULL), -EAGAIN);
  CHECK_OK(uffd_wake(object, page_at(&area, 0), area.page));
  CHECK_OK(uffd_register(object, page_at(&other, 0), other.page, UFFD_MODE_MISSING, NULL));
  struct uffd_event event;
  CHECK_EQ(uffd_read(object, &event, 1, -1), 1);
  CHECK_EQ(event.type, UFFD_REMOVE);
  check_thread_join(&thread);
  CHECK_OK(uffd_copy(object, page_at(&area, 2), source, 2 * area.page, 0, &done));
  CHECK_EQ(done, 2 * area.page);
  uffd_close(object);
}

/* The driver alone. The common case must be one ioctl: the loop's speed depends on it. */

static void the_driver_sets_no_sentence(void) {
  struct check_area area = registered(CHECK_ANON, 2, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.page, 2, 1);
  uint64_t done = 99;
  uffd_set_errmsg(EIO, "kept");
  int fd = CHECK_OK(uffd_fd(object));
  CHECK_EQ(uffd_fill(fd, UFFD_FILL_COPY, page_at(&area, 1), CHECK_ADDRESS(source), area.page, 0, &done), 0);
  CHECK_EQ(uffd_fill(fd, UFFD_FILL_COPY, page_at(&area, 0), CHECK_ADDRESS(source), area.length, 0, &done), -EEXIST);
  CHECK_EQ(done, area.page);
  CHECK_EQ(uffd_fill(-1, UFFD_FILL_ZEROPAGE, page_at(&area, 0), 0, area.page, 0, &done), -EBADF);
  CHECK_EQ(done, 0);
  CHECK(strcmp(uffd_errmsg(), "kept") == 0);
  uffd_close(object);
}

/* Two threads fill the same range: every page by exactly one of them, and both get through. */
struct race {
  const struct check_area *area;
  unsigned char *source;
  uint64_t filled;
};

static void fill_all(void *ctx) {
  struct race *race = ctx;
  for (uint64_t at = 0; at < race->area->length;) {
    uint64_t done = 0;
    int rc = uffd_copy(object, page_at(race->area, 0) + at, race->source, race->area->length - at, 0, &done);
    race->filled += done;
    at += done;
    if (rc == 0) break;
    CHECK_ERR(rc, -EEXIST);
    at += race->area->page;
  }
}

static void two_threads_fill_one_range(void) {
  struct check_area area = registered(CHECK_ANON, 4096, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(area.length, 1, 3);
  struct race races[2] = {{&area, source, 0}, {&area, source, 0}};
  struct check_thread threads[2];
  for (int i = 0; i < 2; i++)
    check_thread_start(&threads[i], fill_all, &races[i]);
  for (int i = 0; i < 2; i++)
    check_thread_join(&threads[i]);
  CHECK_EQ(races[0].filled + races[1].filled, area.length);
  CHECK(check_filled(area.at, area.length, 3));
  uffd_close(object);
}

static const struct check_test tests[] = {
    TEST(copy_resolves_anon),
    TEST(copy_resolves_shmem),
    TEST(copy_resolves_shmem_private),
    TEST(copy_resolves_hugetlb),
    TEST(copy_resolves_hugetlb_private),
    TEST(zeropage_anon),
    TEST(zeropage_shmem),
    TEST(zeropage_shmem_private),
    TEST(zeropage_hugetlb),
    TEST(partial_copy_offsets),
    TEST(source_ends_in_the_middle),
    TEST(source_of_any_alignment),
    TEST(bad_ranges_and_modes),
    TEST(huge_pages_in_parts),
    TEST(no_free_huge_page_private),
    TEST(no_free_huge_page_shared),
    TEST(not_registered),
    TEST(beyond_the_end_of_the_file),
    TEST(borders_anon),
    TEST(borders_shmem),
    TEST(borders_hugetlb),
    TEST(a_hole_anon),
    TEST(a_hole_hugetlb),
    TEST(eexist_wakes),
    TEST(eexist_wakes_huge_pages),
    TEST(zeropage_dontwake_then_wake),
    TEST(one_copy_wakes_all_who_wait),
    TEST(eagain_with_an_unread_event),
    TEST(the_driver_sets_no_sentence),
    TEST(two_threads_fill_one_range),
};
CHECK_MAIN(tests)
