/* Registering, unregistering, waking: which memory, which modes, and every refusal named. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "check.h"
#include "kernel/object.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

#define BASE_IOCTLS (UFFD_IOCTL_WAKE | UFFD_IOCTL_COPY)

static uffd_object *object;

static int register_at(const void *at, uint64_t length, uint64_t modes) {
  return uffd_register(object, CHECK_ADDRESS(at), length, modes, NULL);
}

/* What smaps says of the registration: "um" missing, "uw" write-protect, "ui" minor. */
static uint64_t modes_at(const void *at) {
  struct uffd_mapping mapping;
  CHECK_EQ(uffd_find_mapping(CHECK_ADDRESS(at), &mapping), 0);
  return (uffd_mapping_has(&mapping, "um") ? UFFD_MODE_MISSING : 0) |
         (uffd_mapping_has(&mapping, "uw") ? UFFD_MODE_WP : 0) |
         (uffd_mapping_has(&mapping, "ui") ? UFFD_MODE_MINOR : 0);
}

/* uffd-unit-tests, "register-ioctls": all eight combinations of modes, and the operations that each offers. */
static void register_ioctls(int kind) {
  object = check_open(0);
  check_needs(UFFD_FEAT_WP_HUGETLBFS_SHMEM | UFFD_FEAT_MINOR_SHMEM | UFFD_FEAT_MINOR_HUGETLBFS);
  struct check_area area = check_map(kind, 2);
  for (uint64_t modes = 0; modes < 8; modes++) {
    uint64_t ioctls = 0;
    int rc = uffd_register(object, CHECK_ADDRESS(area.at), area.length, modes, &ioctls);
    if (modes == 0 || (kind == CHECK_ANON && (modes & UFFD_MODE_MINOR) != 0)) {
      CHECK_ERR(rc, -EINVAL);
      if (modes != 0) CHECK_SAYS("MINOR");
      CHECK_EQ(modes_at(area.at), 0);
      continue;
    }
    CHECK_OK(rc);
    CHECK_EQ(ioctls & BASE_IOCTLS, BASE_IOCTLS);
    CHECK_EQ((ioctls & UFFD_IOCTL_WRITEPROTECT) != 0, (modes & UFFD_MODE_WP) != 0);
    CHECK_EQ((ioctls & UFFD_IOCTL_CONTINUE) != 0, (modes & UFFD_MODE_MINOR) != 0);
    CHECK_EQ((ioctls & UFFD_IOCTL_ZEROPAGE) != 0, area.page == check_page());
    CHECK_EQ(modes_at(area.at), modes);
    CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length));
    CHECK_EQ(modes_at(area.at), 0);
  }
  CHECK_ERR(register_at(area.at, area.length, UINT64_C(1) << 40),
            -EINVAL); /* unknown modes are the kernel's to refuse */
  uffd_close(object);
}
static void register_ioctls_anon(void) {
  register_ioctls(CHECK_ANON);
}
static void register_ioctls_shmem(void) {
  register_ioctls(CHECK_SHMEM);
}
static void register_ioctls_shmem_private(void) {
  register_ioctls(CHECK_SHMEM_PRIVATE);
}
static void register_ioctls_hugetlb(void) {
  register_ioctls(CHECK_HUGETLB);
}
static void register_ioctls_hugetlb_private(void) {
  register_ioctls(CHECK_HUGETLB_PRIVATE);
}

static void bad_ranges(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_ANON, 2);
  uint64_t at = CHECK_ADDRESS(area.at), page = area.page;
  CHECK_ERR(uffd_register(object, at, 0, UFFD_MODE_MISSING, NULL), -EINVAL);
  CHECK_SAYS("length is 0");
  CHECK_ERR(uffd_register(object, at + 1, page, UFFD_MODE_MISSING, NULL), -EINVAL);
  CHECK_SAYS("aligned");
  CHECK_ERR(uffd_register(object, at, page + 1, UFFD_MODE_MISSING, NULL), -EINVAL);
  CHECK_SAYS("aligned");
  CHECK_ERR(uffd_register(object, at, -page, UFFD_MODE_MISSING, NULL), -EINVAL);
  CHECK_SAYS("wraps");
  CHECK_ERR(uffd_register(object, 0, page, UFFD_MODE_MISSING, NULL), -EINVAL);
  CHECK_ERR(uffd_register(object, UINT64_C(1) << 62, page, UFFD_MODE_MISSING, NULL), -EINVAL);
  CHECK_ERR(uffd_register(object, at, page, 0, NULL), -EINVAL);
  CHECK_SAYS("mode");
  CHECK_ERR(uffd_unregister(object, at, 0), -EINVAL);
  CHECK_ERR(uffd_unregister(object, at + 1, page), -EINVAL);
  CHECK_ERR(uffd_wake(object, at, 0), -EINVAL);
  CHECK_ERR(uffd_wake(object, at + 8, page), -EINVAL);
  CHECK_ERR(uffd_wake(object, at, -page), -EINVAL);
  CHECK_ERR(uffd_wake(object, UINT64_C(1) << 62, page), -EINVAL);
  uffd_close(object);
}

static void nothing_mapped(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_ANON, 2);
  munmap(area.at - area.page, area.length + 2 * area.page);
  CHECK_ERR(register_at(area.at, area.length, UFFD_MODE_MISSING), -EINVAL);
  CHECK_SAYS("Nothing is mapped");
  CHECK_ERR(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length), -EINVAL);
  CHECK_SAYS("Nothing is mapped");
  uffd_close(object);
}

static void holes_are_allowed(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_ANON, 5);
  munmap(area.at + area.page, area.page);
  munmap(area.at + 3 * area.page, area.page);
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING));
  for (int i = 0; i < 5; i += 2)
    CHECK_EQ(modes_at(area.at + (uint64_t)i * area.page), UFFD_MODE_MISSING);
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length));
  uffd_close(object);
}

static void registration_subset_and_replace(void) {
  object = check_open(0);
  check_needs(UFFD_FEAT_WP_HUGETLBFS_SHMEM | UFFD_FEAT_MINOR_SHMEM);
  struct check_area area = check_map(CHECK_SHMEM, 1);
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING));
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING | UFFD_MODE_WP));
  CHECK_EQ(modes_at(area.at), UFFD_MODE_MISSING | UFFD_MODE_WP);
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING)); /* a subset changes nothing */
  CHECK_EQ(modes_at(area.at), UFFD_MODE_MISSING | UFFD_MODE_WP);
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length));
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING));
  CHECK_EQ(modes_at(area.at), UFFD_MODE_MISSING);
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length));
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length)); /* none registered: nothing to do */
  uffd_close(object);
}

static void owned_by_another(void) {
  object = check_open(0);
  uffd_object *owner = check_open(0);
  struct check_area area = check_map(CHECK_ANON, 4);
  uint64_t at = CHECK_ADDRESS(area.at);
  CHECK_OK(uffd_register(owner, at + area.page, area.page, UFFD_MODE_MISSING, NULL));
  CHECK_ERR(register_at(area.at, area.length, UFFD_MODE_MISSING), -EBUSY);
  CHECK_SAYS("another userfaultfd");
  CHECK_EQ(modes_at(area.at), 0); /* all is checked before anything is changed */
  uffd_close(owner);
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING));
  uffd_close(object);
}

static void shared_read_only(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_SHMEM, 1);
  char path[64];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", area.fd);
  int reader = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(reader >= 0);
  void *mapped = mmap(NULL, area.length, PROT_READ, MAP_SHARED, reader, 0);
  CHECK_ERR(register_at(mapped, area.length, UFFD_MODE_MISSING), -EPERM);
  CHECK_SAYS("never be written");
  uffd_close(object);
}

static void sealed_memfd(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_SHMEM, 1);
  munmap(area.at, area.length);
  munmap(area.alias, area.length);
  CHECK(fcntl(area.fd, F_ADD_SEALS, F_SEAL_WRITE) == 0);
  void *mapped = mmap(NULL, area.length, PROT_READ, MAP_SHARED, area.fd, 0);
  if (mapped == MAP_FAILED) SKIP("this kernel does not map sealed memfds shared");
  CHECK_ERR(register_at(mapped, area.length, UFFD_MODE_MISSING), -EPERM);
  CHECK_SAYS("sealed");
  mapped = mmap(NULL, area.length, PROT_READ, MAP_PRIVATE, area.fd, 0); /* a private copy may be written */
  CHECK_OK(register_at(mapped, area.length, UFFD_MODE_MISSING));
  uffd_close(object);
}

static void read_only_and_no_access_memory(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_ANON, 2);
  CHECK(mprotect(area.at, area.page, PROT_READ) == 0);
  CHECK(mprotect(area.at + area.page, area.page, PROT_NONE) == 0);
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING));
  uffd_close(object);
}

static void sysv_shm(void) {
  object = check_open(0);
  int id = shmget(IPC_PRIVATE, check_page(), IPC_CREAT | 0600);
  if (id < 0) SKIP("no System V shared memory: %s", strerror(errno));
  void *at = shmat(id, NULL, 0);
  shmctl(id, IPC_RMID, NULL);
  CHECK(at != (void *)-1);
  CHECK_ERR(register_at(at, check_page(), UFFD_MODE_MISSING), -EINVAL);
  CHECK_SAYS("System V");
  CHECK_ERR(register_at(at, check_page(), UFFD_MODE_WP), -EINVAL);
  shmdt(at);
  uffd_close(object);
}

static void ordinary_files(void) {
  object = check_open(0);
  int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
  void *at = mmap(NULL, check_page(), PROT_READ, MAP_PRIVATE, fd, 0);
  CHECK(at != MAP_FAILED);
  struct uffd_mapping mapping;
  CHECK_EQ(uffd_find_mapping(CHECK_ADDRESS(at), &mapping), 0);
  int rc = register_at(at, check_page(), UFFD_MODE_MISSING);
  if (rc == 0) SKIP("/etc/passwd lies on tmpfs");
  CHECK_ERR(rc, -EINVAL);
  CHECK_SAYS("ordinary file");
  CHECK_SAYS(mapping.name);
  /* Nor in the middle of memory that can be registered. */
  struct check_area area = check_map(CHECK_ANON, 3);
  CHECK(mmap(area.at + area.page, area.page, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) != MAP_FAILED);
  CHECK_ERR(register_at(area.at, area.length, UFFD_MODE_MISSING), -EINVAL);
  CHECK_SAYS("ordinary file");
  uffd_close(object);
}

static void files_with_wp_async(void) {
  object = check_open(UFFD_FEAT_WP_ASYNC);
  int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
  void *at = mmap(NULL, check_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK(at != MAP_FAILED);
  CHECK_OK(register_at(at, check_page(), UFFD_MODE_WP));
  CHECK_EQ(modes_at(at), UFFD_MODE_WP);
  uffd_close(object);
}

static void files_on_tmpfs(void) {
  object = check_open(0);
  char path[] = "/dev/shm/uffd-test-XXXXXX";
  int fd = mkstemp(path);
  if (fd < 0) SKIP("no /dev/shm: %s", strerror(errno));
  unlink(path);
  CHECK(ftruncate(fd, (off_t)check_page()) == 0);
  void *at = mmap(NULL, check_page(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK_OK(register_at(at, check_page(), UFFD_MODE_MISSING));
  uffd_close(object);
}

static void shared_anonymous_and_dev_zero(void) {
  object = check_open(0);
  void *at = mmap(NULL, check_page(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK_OK(register_at(at, check_page(), UFFD_MODE_MISSING));
  int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
  at = mmap(NULL, check_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK(at != MAP_FAILED);
  CHECK_OK(register_at(at, check_page(), UFFD_MODE_MISSING));
  at = mmap(NULL, check_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK_ERR(register_at(at, check_page(), UFFD_MODE_MINOR), -EINVAL);
  CHECK_SAYS("MINOR");
  uffd_close(object);
}

static void memfd_secret_memory(void) {
  object = check_open(0);
  int fd = (int)syscall(SYS_memfd_secret, 0);
  if (fd < 0) SKIP("no memfd_secret: %s", strerror(errno));
  CHECK(ftruncate(fd, (off_t)check_page()) == 0);
  void *at = mmap(NULL, check_page(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) SKIP("no memory to lock: %s", strerror(errno));
  CHECK_ERR(register_at(at, check_page(), UFFD_MODE_MISSING), -EINVAL);
  CHECK_SAYS("memfd_secret");
  uffd_close(object);
}

static void droppable_memory(void) {
  object = check_open(0);
  void *at = mmap(NULL, check_page(), PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) SKIP("no MAP_DROPPABLE (6.11)");
  int rc = register_at(at, check_page(), UFFD_MODE_MISSING);
  if (rc == 0) SKIP("this kernel takes droppable memory, as Linux 6.12 does");
  CHECK_ERR(rc, -EINVAL);
  CHECK_SAYS("droppable");
  uffd_close(object);
}

static void the_kernel_s_own_mappings(void) {
  object = check_open(0);
  struct uffd_maps maps;
  struct uffd_mapping mapping;
  CHECK_EQ(uffd_maps_open(&maps, false), 0);
  for (uint64_t at = 0; uffd_maps_find(&maps, at, &mapping) == 0; at = mapping.end)
    if (strcmp(mapping.name, "[vdso]") == 0) break;
  uffd_maps_close(&maps);
  if (strcmp(mapping.name, "[vdso]") != 0) SKIP("no vdso");
  CHECK_ERR(uffd_register(object, mapping.start, mapping.end - mapping.start, UFFD_MODE_MISSING, NULL), -EINVAL);
  CHECK_SAYS("[vdso]");
  CHECK_SAYS("belongs to the kernel");
  uffd_close(object);
}

static void huge_pages_misaligned(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_HUGETLB, 2);
  CHECK_ERR(register_at(area.at, check_page(), UFFD_MODE_MISSING), -EINVAL);
  CHECK_SAYS("2097152");
  CHECK_ERR(register_at(area.at + check_page(), area.page, UFFD_MODE_MISSING), -EINVAL);
  CHECK_SAYS("huge pages");
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING));
  CHECK_ERR(uffd_unregister(object, CHECK_ADDRESS(area.at) + check_page(), area.page), -EINVAL);
  CHECK_SAYS("huge pages");
  uffd_close(object);
}

/* Alternate pages split the mapping until vm.max_map_count is reached. */
static void too_many_mappings(void) {
  object = check_open(0);
  uint64_t limit = check_number("/proc/sys/vm/max_map_count"), page = check_page();
  if (limit == 0 || limit > 200000) SKIP("vm.max_map_count is %llu", (unsigned long long)limit);
  unsigned char *at = mmap(NULL, 2 * limit * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED);
  int rc = 0;
  uint64_t i = 0;
  for (; i < limit && rc == 0; i++)
    rc = register_at(at + 2 * i * page, page, UFFD_MODE_MISSING);
  CHECK_ERR(rc, -ENOMEM);
  CHECK_SAYS("vm.max_map_count");
  CHECK(i < limit);
  uffd_close(object); /* unregisters them all */
  CHECK_EQ(modes_at(at), 0);
  CHECK_EQ(modes_at(at + 2 * (i / 2) * page), 0);
}

/* Waking */

static void unregister_wakes_missing_sleepers(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_ANON, 1);
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING));
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  check_touch_asleep(&touch);
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

/* The kernel leaves these asleep for ever. */
static void unregister_wakes_wp_sleepers(void) {
  object = check_open(0);
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP);
  struct check_area area = check_map(CHECK_ANON, 1);
  area.at[0] = 1;
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_WP));
  CHECK_OK(uffd_writeprotect(object, CHECK_ADDRESS(area.at), area.length, UFFD_WRITEPROTECT_WP));
  struct check_touch touch;
  check_touch_write(&touch, area.at, 7);
  check_touch_asleep(&touch);
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length));
  check_touch_join(&touch);
  CHECK_EQ(area.at[0], 7);
  uffd_close(object);
}

static void unregister_wakes_minor_sleepers(void) {
  object = check_open(0);
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  struct check_area area = check_map(CHECK_SHMEM, 1);
  area.alias[0] = 5;
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MINOR));
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  check_touch_asleep(&touch);
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length));
  CHECK_EQ(check_touch_join(&touch), 5);
  uffd_close(object);
}

static void unmapped_under_a_sleeper(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_ANON, 1);
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING));
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  check_touch_asleep(&touch);
  CHECK(munmap(area.at, area.length) == 0);
  check_touch_asleep(&touch); /* still */
  CHECK_ERR(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length), -EINVAL);
  CHECK(pthread_join(touch.thread, NULL) == 0);
  CHECK_EQ(touch.signal, 11); /* SIGSEGV: the memory is gone, the thread is not */
  uffd_close(object);
}

static void wake_without_a_page_faults_again(void) {
  object = check_open(0);
  struct check_area area = check_map(CHECK_ANON, 2);
  CHECK_OK(register_at(area.at, area.length, UFFD_MODE_MISSING));
  struct check_touch touch;
  check_touch_read(&touch, area.at + area.page);
  for (int i = 0; i < 3; i++) {
    CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(area.at) + area.page);
    CHECK_OK(uffd_wake(object, CHECK_ADDRESS(area.at), area.page)); /* not that page: the thread sleeps on */
    check_touch_asleep(&touch);
    CHECK_OK(uffd_wake(object, CHECK_ADDRESS(area.at), area.length));
  }
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(area.at) + area.page);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(area.at) + area.page, area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  CHECK_OK(uffd_wake(object, 1 << 20, UINT64_C(1) << 40)); /* any range, registered or not */
  uffd_close(object);
}

/* The record of what is registered */

static void spans_equal(const struct uffd_span *expected, size_t count) {
  CHECK_EQ(object->spans.count, count);
  for (size_t i = 0; i < count; i++) {
    CHECK_EQ(uffd_spans_first(&object->spans)[i].start, expected[i].start);
    CHECK_EQ(uffd_spans_first(&object->spans)[i].end, expected[i].end);
  }
}

static void add_span(uint64_t start, uint64_t end) {
  CHECK_EQ(uffd_spans_reserve(&object->spans), 0);
  uffd_spans_add(&object->spans, start, end);
}

static void remove_span(uint64_t start, uint64_t end) {
  CHECK_EQ(uffd_spans_reserve(&object->spans), 0);
  uffd_spans_remove(&object->spans, start, end);
}

static void spans_are_kept_sorted(void) {
  object = uffd_object_new();
  object->route = UFFD_ROUTE_ADOPTED; /* closing leaves these invented ranges alone */
  add_span(30, 40);
  add_span(10, 20);
  add_span(50, 60);
  spans_equal((struct uffd_span[]){{10, 20}, {30, 40}, {50, 60}}, 3);
  add_span(20, 30); /* neighbours stay apart, as mappings do */
  spans_equal((struct uffd_span[]){{10, 20}, {20, 30}, {30, 40}, {50, 60}}, 4);
  add_span(15, 55);
  spans_equal((struct uffd_span[]){{10, 60}}, 1);
  remove_span(20, 30);
  spans_equal((struct uffd_span[]){{10, 20}, {30, 60}}, 2);
  remove_span(0, 12);
  remove_span(55, 99);
  spans_equal((struct uffd_span[]){{12, 20}, {30, 55}}, 2);
  remove_span(20, 30); /* nothing there */
  spans_equal((struct uffd_span[]){{12, 20}, {30, 55}}, 2);
  remove_span(0, 100);
  spans_equal(NULL, 0);
  for (uint64_t i = 0; i < 3000; i++)
    add_span(10 * i, 10 * i + 5);
  CHECK_EQ(object->spans.count, 3000);
  remove_span(7, 29990);
  spans_equal((struct uffd_span[]){{0, 5}, {29990, 29995}}, 2);
  uffd_close(object);
}

static const struct check_test tests[] = {
    TEST(register_ioctls_anon),
    TEST(register_ioctls_shmem),
    TEST(register_ioctls_shmem_private),
    TEST(register_ioctls_hugetlb),
    TEST(register_ioctls_hugetlb_private),
    TEST(bad_ranges),
    TEST(nothing_mapped),
    TEST(holes_are_allowed),
    TEST(registration_subset_and_replace),
    TEST(owned_by_another),
    TEST(shared_read_only),
    TEST(sealed_memfd),
    TEST(read_only_and_no_access_memory),
    TEST(sysv_shm),
    TEST(ordinary_files),
    TEST(files_with_wp_async),
    TEST(files_on_tmpfs),
    TEST(shared_anonymous_and_dev_zero),
    TEST(memfd_secret_memory),
    TEST(droppable_memory),
    TEST(the_kernel_s_own_mappings),
    TEST(huge_pages_misaligned),
    TEST(too_many_mappings),
    TEST(unregister_wakes_missing_sleepers),
    TEST(unregister_wakes_wp_sleepers),
    TEST(unregister_wakes_minor_sleepers),
    TEST(unmapped_under_a_sleeper),
    TEST(wake_without_a_page_faults_again),
    TEST(spans_are_kept_sorted),
};
CHECK_MAIN(tests)
