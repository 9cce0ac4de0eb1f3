/* Poison: every access raises SIGBUS, nothing else is touched. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>

#include "check.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

static uffd_object *object;

static struct check_area registered(int kind, uint64_t count, uint64_t modes) {
  if (object == NULL) object = check_open(0);
  check_needs(UFFD_FEAT_POISON);
  struct check_area area = check_map(kind, count);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, modes, NULL));
  return area;
}

static struct check_area served;
static unsigned char *source;

static void answer(void *ctx) {
  (void)ctx;
  for (;;) {
    struct uffd_event event;
    int rc = uffd_read(object, &event, 1, -1);
    if (rc == -EBADF) return;
    CHECK_OK(rc);
    uint64_t offset = event.address - CHECK_ADDRESS(served.at);
    if ((offset / served.page) % 2 == 0)
      CHECK_OK(uffd_poison(object, event.address, served.page, 0, NULL));
    else
      CHECK_OK(uffd_copy(object, event.address, source + offset, served.page, 0, NULL));
  }
}

/* uffd-unit-tests, "poison": even pages poisoned, odd ones copied: exactly half raise SIGBUS. */
static void poison(int kind) {
  uint64_t count = kind == CHECK_HUGETLB || kind == CHECK_HUGETLB_PRIVATE ? 4 : 64;
  served = registered(kind, count, UFFD_MODE_MISSING);
  source = check_pattern(served.page, count, 1);
  struct check_thread handler;
  check_thread_start(&handler, answer, NULL);
  unsigned raised = 0;
  for (unsigned i = 0; i < count; i++) {
    unsigned value = 0;
    int signal = check_access(served.at + i * served.page + 3, false, &value);
    CHECK_EQ(signal, i % 2 == 0 ? SIGBUS : 0);
    if (signal != 0)
      raised++;
    else
      CHECK_EQ(value, i + 1);
  }
  CHECK_EQ(raised, count / 2);
  CHECK_EQ(check_access(served.at, true, NULL), SIGBUS); /* again, and for a write */
  check_asleep(handler.tid, "poll"); /* inside a call: between two of them the handle must not go away */
  uffd_close(object);
  check_thread_join(&handler);
  CHECK_EQ(check_access(served.at, false, NULL), SIGBUS); /* it outlives the object */
}
static void poison_anon(void) {
  poison(CHECK_ANON);
}
static void poison_shmem(void) {
  poison(CHECK_SHMEM);
}
static void poison_shmem_private(void) {
  poison(CHECK_SHMEM_PRIVATE);
}
static void poison_hugetlb(void) {
  poison(CHECK_HUGETLB);
}
static void poison_hugetlb_private(void) {
  poison(CHECK_HUGETLB_PRIVATE);
}

static void nothing_is_overwritten(void) {
  struct check_area area = registered(CHECK_ANON, 5, UFFD_MODE_MISSING | UFFD_MODE_WP);
  uint64_t at = CHECK_ADDRESS(area.at), page = area.page, done = 99;
  CHECK_OK(uffd_zeropage(object, at + 2 * page, page, 0, NULL));
  CHECK_ERR(uffd_poison(object, at, area.length, 0, &done), -EEXIST);
  CHECK_EQ(done, 2 * page);
  CHECK_ERR(uffd_poison(object, at, page, 0, &done), -EEXIST); /* poison over poison neither */
  CHECK_ERR(uffd_zeropage(object, at, page, 0, &done), -EEXIST);
  if (madvise(area.at + 3 * page, page, MADV_GUARD_INSTALL) == 0)
    CHECK_ERR(uffd_poison(object, at + 3 * page, page, 0, NULL), -EEXIST);
  CHECK_EQ(check_access(area.at + 2 * page, false, NULL), 0);
  uffd_close(object);
}

static void dropping_the_page_heals_it(void) {
  struct check_area area = registered(CHECK_ANON, 2, UFFD_MODE_MISSING);
  uint64_t at = CHECK_ADDRESS(area.at);
  CHECK_OK(uffd_poison(object, at, area.length, 0, NULL));
  CHECK_OK(uffd_unregister(object, at, area.length));
  CHECK_EQ(check_access(area.at, false, NULL), SIGBUS);
  CHECK(madvise(area.at, area.page, MADV_DONTNEED) == 0);
  CHECK_EQ(check_access(area.at, false, NULL), 0);
  CHECK_EQ(check_access(area.at + area.page, false, NULL), SIGBUS);
  uffd_close(object);
}

static void sleepers_get_the_signal(void) {
  struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_MISSING);
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  check_fault(object);
  check_touch_asleep(&touch);
  CHECK_OK(uffd_poison(object, CHECK_ADDRESS(area.at), area.page, UFFD_POISON_DONTWAKE, NULL));
  check_touch_asleep(&touch);
  CHECK_OK(uffd_wake(object, CHECK_ADDRESS(area.at), area.page));
  CHECK(pthread_join(touch.thread, NULL) == 0);
  CHECK_EQ(touch.signal, SIGBUS);
  uffd_close(object);
}

static void system_calls_get_efault(void) {
  struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_MISSING);
  CHECK_OK(uffd_poison(object, CHECK_ADDRESS(area.at), area.page, 0, NULL));
  int ends[2];
  CHECK(pipe(ends) == 0);
  CHECK(write(ends[1], area.at, 1) < 0 && errno == EFAULT);
  CHECK(madvise(area.at, area.page, MADV_POPULATE_READ) < 0);
  CHECK(errno == EHWPOISON || errno == EFAULT);
  uffd_close(object);
}

/* Poison belongs to the mapping: the file and its other mappings are untouched. */
static void the_file_is_untouched(void) {
  struct check_area area = registered(CHECK_SHMEM, 1, UFFD_MODE_MISSING);
  CHECK_OK(uffd_poison(object, CHECK_ADDRESS(area.at), area.page, 0, NULL));
  CHECK_EQ(check_access(area.at, false, NULL), SIGBUS);
  area.alias[0] = 5;
  CHECK_EQ(area.alias[0], 5);
  CHECK_EQ(check_access(area.at, false, NULL), SIGBUS);
  uffd_close(object);
}

static void bad_ranges(void) {
  struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_MISSING);
  struct check_area other = check_map(CHECK_ANON, 1);
  CHECK_ERR(uffd_poison(object, CHECK_ADDRESS(area.at) + 1, area.page, 0, NULL), -EINVAL);
  CHECK_ERR(uffd_poison(object, CHECK_ADDRESS(area.at), 0, 0, NULL), -EINVAL);
  CHECK_ERR(uffd_poison(object, CHECK_ADDRESS(area.at), area.page, 2, NULL), -EINVAL);
  CHECK_ERR(uffd_poison(object, CHECK_ADDRESS(other.at), area.page, 0, NULL), -ENOENT);
  uffd_close(object);
}

static const struct check_test tests[] = {
    TEST(poison_anon),
    TEST(poison_shmem),
    TEST(poison_shmem_private),
    TEST(poison_hugetlb),
    TEST(poison_hugetlb_private),
    TEST(nothing_is_overwritten),
    TEST(dropping_the_page_heals_it),
    TEST(sleepers_get_the_signal),
    TEST(system_calls_get_efault),
    TEST(the_file_is_untouched),
    TEST(bad_ranges),
};
CHECK_MAIN(tests)
