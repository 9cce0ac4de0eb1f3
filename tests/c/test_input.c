/*
 * Bad input to memories, resolvers and loops: each is refused with its errno and a sentence that names cause and mend.
 * Nothing is lost, and what was served before is still served. test_memory*.c and test_resolver*.c test their own
 * options.
 */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "resolving.h"

#define PAGE UINT64_C(4096)
#define HUGE (UINT64_C(2) << 20)

/* A loop with one good region, which must still be served after every refusal. */
static struct fixture {
  struct serving serving;
  uffd_memory *memory, *other; /* other: eight pages, not served */
  uffd_resolver *resolver;     /* eight pages */
  uint64_t looked_at;
} fixture;

static void set_up(void) {
  check_needs(UFFD_FEAT_POISON);
  serving_open(&fixture.serving, ENGINE_ONE, NULL);
  fixture.memory = memory_make(MEMORY_ANON, 64);
  fixture.other = memory_make(MEMORY_ANON, 8);
  fixture.resolver = image_resolver(8 * PAGE);
  region_add(fixture.serving.loop, fixture.memory, image_resolver(64 * PAGE), NULL);
}

static void goes_on(void) {
  uint64_t at = fixture.looked_at++ % 64 * PAGE;
  CHECK(image_there(memory_at(fixture.memory, at), at, PAGE));
}

static void tear_down(void) {
  goes_on();
  CHECK_EQ(uffd_loop_error(fixture.serving.loop, NULL, 0), 0);
  serving_close(&fixture.serving);
  uffd_resolver_close(fixture.resolver);
  uffd_memory_close(fixture.other);
  uffd_memory_close(fixture.memory);
}

static void refuse_region(uffd_memory *memory, uffd_resolver *resolver, const struct uffd_region_opts *opts, int error,
                          const char *words) {
  uffd_region *region = (uffd_region *)&fixture;
  CHECK_ERR(uffd_loop_add(fixture.serving.loop, memory, resolver, opts, &region), error);
  CHECK_SAYS(words);
  CHECK(region == NULL);
  goes_on();
}

/* Regions */

static void ranges_of_regions(void) {
  set_up();
  const struct {
    uint64_t offset, length, resolver_offset;
    const char *words;
  } ranges[] = {
      {1, 0, 0, "not whole pages of 4096"},
      {PAGE - 1, PAGE, 0, "not whole pages of 4096"},
      {0, PAGE + 1, 0, "not whole pages of 4096"},
      {0, 1, 0, "not whole pages of 4096"},
      {0, UINT64_MAX, 0, "not whole pages of 4096"},
      {8 * PAGE, 0, 0, "outside a memory of 32768"},
      {8 * PAGE, PAGE, 0, "outside a memory of 32768"},
      {0, 9 * PAGE, 0, "outside a memory of 32768"},
      {7 * PAGE, 2 * PAGE, 0, "outside a memory of 32768"},
      {PAGE, UINT64_MAX - PAGE + 1, 0, "outside a memory of 32768"},
      {UINT64_MAX - PAGE + 1, PAGE, 0, "outside a memory of 32768"},
      {UINT64_C(1) << 63, UINT64_C(1) << 63, 0, "outside a memory of 32768"},
      {0, PAGE, 1, "resolver_offset 1 is not whole pages"},
      {0, PAGE, 8 * PAGE, "make the region shorter"},
      {0, 0, PAGE, "make the region shorter"},
      {0, PAGE, UINT64_MAX - PAGE + 1, "overflows"},
  };
  for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    opts.offset = ranges[i].offset;
    opts.length = ranges[i].length;
    opts.resolver_offset = ranges[i].resolver_offset;
    refuse_region(fixture.other, fixture.resolver, &opts, -EINVAL, ranges[i].words);
  }
  tear_down();
}

static void options_of_regions(void) {
  set_up();
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.on_error = 5;
  refuse_region(fixture.other, fixture.resolver, &opts, -EINVAL, "on_error 5");
  opts = (struct uffd_region_opts)UFFD_REGION_OPTS_INIT;
  opts.reserved = 1;
  refuse_region(fixture.other, fixture.resolver, &opts, -EINVAL, "reserved");
  opts = (struct uffd_region_opts)UFFD_REGION_OPTS_INIT;
  opts.modes = UFFD_MODE_WP;
  refuse_region(fixture.other, fixture.resolver, &opts, -EINVAL, "missing or minor");
  opts.modes = UFFD_MODE_MISSING | UFFD_MODE_MINOR;
  refuse_region(fixture.other, fixture.resolver, &opts, -EINVAL, "memfd"); /* anonymous memory has no page cache */
  opts.modes = UFFD_MODE_MISSING | UINT64_C(1) << 40;
  refuse_region(fixture.other, fixture.resolver, &opts, -EINVAL, "unknown mode");
  opts = (struct uffd_region_opts)UFFD_REGION_OPTS_INIT;
  opts.size = 0;
  refuse_region(fixture.other, fixture.resolver, &opts, -EINVAL, "uffd_region_opts");
  struct {
    struct uffd_region_opts known;
    uint64_t newer;
  } tail = {UFFD_REGION_OPTS_INIT, 1};
  tail.known.size = sizeof(tail);
  refuse_region(fixture.other, fixture.resolver, &tail.known, -EINVAL, "newer library");
  refuse_region(NULL, fixture.resolver, NULL, -EINVAL, "needs a memory and a resolver");
  refuse_region(fixture.other, NULL, NULL, -EINVAL, "needs a memory and a resolver");
  tear_down();
}

static void ranges_to_prefetch(void) {
  set_up();
  uffd_region *region = NULL;
  CHECK_OK(uffd_loop_add(fixture.serving.loop, fixture.other, fixture.resolver, NULL, &region));
  const uint64_t ranges[][2] = {
      {8 * PAGE + 1, 0}, {8 * PAGE, 1},   {0, 8 * PAGE + 1}, {UINT64_MAX, 0},
      {UINT64_MAX, 1},   {1, UINT64_MAX}, {0, UINT64_MAX},   {UINT64_C(1) << 63, UINT64_C(1) << 63}};
  for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
    CHECK_ERR(uffd_region_prefetch(region, ranges[i][0], ranges[i][1]), -ERANGE);
    CHECK_SAYS("outside a region of 32768 bytes");
  }
  CHECK_OK(uffd_region_prefetch(region, 8 * PAGE, 0)); /* nothing, but not outside */
  CHECK_EQ(serving_stats(fixture.serving.loop).prefetched, 0);
  CHECK_OK(uffd_region_remove(region));
  CHECK_ERR(uffd_region_prefetch(region, 0, 0), -ENOENT);
  CHECK_SAYS("removed");
  CHECK_ERR(uffd_region_complete(region), -ENOENT);
  CHECK_OK(uffd_region_remove(region)); /* again: nothing */
  tear_down();
}

/* Memory that cannot be served */

static void refuse_mapping(void *address, uint64_t length, int error, const char *words) {
  uffd_memory *memory = NULL;
  CHECK(address != MAP_FAILED);
  CHECK_OK(uffd_memory_adopt(address, length, &memory));
  refuse_region(memory, fixture.resolver, NULL, error, words);
  uffd_resolver *reader = NULL;
  CHECK_OK(uffd_resolver_memory(memory, 0, &reader)); /* no claim was left on it */
  uffd_resolver_close(reader);
  uffd_memory_close(memory);
}

static void system_v_shared_memory(void) {
  set_up();
  int id = shmget(IPC_PRIVATE, 2 * PAGE, IPC_CREAT | 0600);
  if (id < 0) SKIP("no System V shared memory here: %s", strerror(errno));
  void *at = shmat(id, NULL, 0);
  shmctl(id, IPC_RMID, NULL);
  refuse_mapping(at, 2 * PAGE, -EINVAL, "use a memfd");
  CHECK_SAYS("System V");
  shmdt(at);
  tear_down();
}

static void ordinary_files(void) {
  set_up();
  char path[] = "/var/tmp/uffd-test-XXXXXX";
  int fd = mkstemp(path);
  struct statfs where;
  if (fd < 0 && errno == ENOENT) SKIP("there is no /var/tmp");
  CHECK_EQ(fstatfs(fd, &where), 0);
  if (where.f_type == TMPFS_MAGIC) {
    unlink(path);
    SKIP("/var/tmp is a tmpfs, whose files can be served");
  }
  CHECK(fd >= 0 && ftruncate(fd, 2 * (off_t)PAGE) == 0);
  for (int flags = MAP_SHARED; flags <= MAP_PRIVATE; flags++) {
    void *at = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    refuse_mapping(at, 2 * PAGE, -EINVAL, "ordinary file");
    munmap(at, 2 * PAGE);
  }
  unlink(path);
  close(fd);
  tear_down();
}

static void sealed_and_read_only_memfds(void) {
  set_up();
  int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  CHECK(ftruncate(fd, 2 * (off_t)PAGE) == 0);
  CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0);
  void *at = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 0);
  refuse_mapping(at, 2 * PAGE, -EPERM, "before sealing");
  munmap(at, 2 * PAGE);
  close(fd);
  fd = memfd_create("read-only", MFD_CLOEXEC);
  CHECK(ftruncate(fd, 2 * (off_t)PAGE) == 0);
  char path[64];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  int reader = open(path, O_RDONLY | O_CLOEXEC);
  at = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, reader, 0);
  refuse_mapping(at, 2 * PAGE, -EPERM, "open it for writing");
  munmap(at, 2 * PAGE);
  tear_down();
}

static void the_kernels_own_pages(void) {
  set_up();
  uint64_t vdso = getauxval(AT_SYSINFO_EHDR);
  if (vdso == 0) SKIP("no vdso here");
  refuse_mapping((void *)(uintptr_t)vdso, PAGE, -EINVAL, "belongs to the kernel"); /* NOLINT */
  tear_down();
}

/* Far from where the kernel puts new mappings: the hole must stay one. */
static void memory_that_was_unmapped(void) {
  if (check_under_tsan()) SKIP("ThreadSanitizer keeps the addresses for itself");
  set_up();
  void *wish = (void *)(uintptr_t)(UINT64_C(1) << 44); /* NOLINT(performance-no-int-to-ptr) */
  void *at = mmap(wish, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (at == MAP_FAILED) SKIP("the address %p is not to be had", wish);
  uffd_memory *memory = NULL;
  CHECK_OK(uffd_memory_adopt(at, 4 * PAGE, &memory));
  munmap(at, 4 * PAGE);
  refuse_region(memory, fixture.resolver, NULL, -EINVAL, "Nothing is mapped");
  char byte;
  CHECK_ERR(uffd_memory_read(memory, 0, &byte, 1), -EFAULT);
  CHECK_SAYS("unmapped");
  uffd_memory_close(memory);
  tear_down();
}

/* Twice, or somebody else's */

static void a_region_twice(void) {
  set_up();
  struct serving other;
  serving_open(&other, ENGINE_ONE, NULL);
  refuse_region(fixture.memory, fixture.resolver, NULL, -EINVAL,
                "make the region shorter"); /* the first fault counts */
  uffd_resolver *image = image_resolver(64 * PAGE);
  refuse_region(fixture.memory, image, NULL, -EBUSY, "served already");
  uffd_region *region = NULL;
  CHECK_ERR(uffd_loop_add(other.loop, fixture.memory, image, NULL, &region), -EBUSY);
  CHECK_SAYS("a range is served once");
  uffd_resolver_close(image);
  goes_on();
  serving_close(&other);
  tear_down();
}

static void registered_with_another_object(void) {
  set_up();
  uffd_object *object = check_open(0);
  uint64_t start = CHECK_ADDRESS(memory_at(fixture.other, 0));
  CHECK_OK(uffd_register(object, start + 3 * PAGE, PAGE, UFFD_MODE_MISSING, NULL));
  refuse_region(fixture.other, fixture.resolver, NULL, -EBUSY, "another userfaultfd");
  CHECK_SAYS("unregister it there first");
  CHECK_OK(uffd_unregister(object, start + 3 * PAGE, PAGE));
  uffd_region *region = NULL;
  CHECK_OK(uffd_loop_add(fixture.serving.loop, fixture.other, fixture.resolver, NULL, &region)); /* as if nothing was */
  CHECK(image_there(memory_at(fixture.other, 0), 0, 8 * PAGE));
  CHECK_ERR(uffd_register(object, start, PAGE, UFFD_MODE_MISSING, NULL), -EBUSY); /* and the other way round */
  uffd_close(object);
  tear_down();
}

static void layers_and_resolvers_that_do_not_fit(void) {
  set_up();
  uffd_resolver *layers = NULL;
  struct uffd_layer two[] = {{0, 3 * PAGE, fixture.resolver, 0}, {2 * PAGE, 2 * PAGE, fixture.resolver, 0}};
  CHECK_ERR(uffd_resolver_layers(two, 2, &layers), -EINVAL);
  CHECK_SAYS("Layers 0-12288 and 8192-16384 overlap");
  two[1].offset = 3 * PAGE + 1;
  CHECK_OK(uffd_resolver_layers(two, 2, &layers));
  refuse_region(fixture.other, layers, NULL, -EINVAL, "Layer 12289-20481 is not whole pages of 4096 bytes");
  uffd_resolver_close(layers);
  uffd_resolver *shorter = image_resolver(7 * PAGE);
  refuse_region(fixture.other, shorter, NULL, -EINVAL,
                "The bytes resolver has 28672 bytes, but is to answer for 32768");
  uffd_resolver_close(shorter);
  tear_down();
}

/* Loops */

static void refuse_loop(const struct uffd_loop_opts *opts, const char *words) {
  uffd_loop *loop = (uffd_loop *)&fixture;
  CHECK_ERR(uffd_loop_create(opts, &loop), -EINVAL);
  CHECK_SAYS(words);
  CHECK(loop == NULL);
}

static void options_of_loops(void) {
  const struct uffd_loop_opts defaults = UFFD_LOOP_OPTS_INIT;
  struct uffd_loop_opts opts = defaults;
  opts.engine = 4;
  refuse_loop(&opts, "engine 4");
  opts = defaults;
  opts.handlers = 65;
  refuse_loop(&opts, "1 to 64");
  opts.handlers = UINT32_MAX;
  refuse_loop(&opts, "1 to 64");
  opts.handlers = 2;
  opts.engine = UFFD_ENGINE_PUMP;
  refuse_loop(&opts, "one handler");
  opts = defaults;
  opts.on_error = 5;
  refuse_loop(&opts, "on_error 5");
  opts = defaults;
  opts.route = UFFD_ROUTE_ADOPTED;
  refuse_loop(&opts, "route 3");
  opts = defaults;
  opts.open_flags = UFFD_OPEN_BLOCKING;
  refuse_loop(&opts, "user-mode-only");
  opts.open_flags = UINT32_C(1) << 31;
  refuse_loop(&opts, "open_flags 0x80000000");
  opts = defaults;
  opts.features = UFFD_FEAT_SIGBUS;
  refuse_loop(&opts, "no faults come");
  opts.features = UFFD_FEAT_WP_ASYNC;
  refuse_loop(&opts, "no faults come");
  opts = defaults;
  opts.placement = 2;
  refuse_loop(&opts, "placement 2");
  opts = defaults;
  opts.size = 0;
  refuse_loop(&opts, "uffd_loop_opts");
  opts.size = 1 << 20;
  refuse_loop(&opts, "uffd_loop_opts");
  struct {
    struct uffd_loop_opts known;
    uint64_t newer;
  } tail = {UFFD_LOOP_OPTS_INIT, UINT64_C(1) << 63};
  tail.known.size = sizeof(tail);
  refuse_loop(&tail.known, "newer library");
}

static void features_that_the_kernel_lacks(void) {
  check_needs(UFFD_FEAT_POISON);
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.features = UINT64_C(1) << 40;
  uffd_loop *loop = NULL;
  CHECK_OK(uffd_loop_create(&opts, &loop)); /* it opens objects with the first region */
  uffd_memory *memory = memory_make(MEMORY_ANON, 1);
  uffd_resolver *zero = NULL;
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_ERR(uffd_loop_add(loop, memory, zero, NULL, NULL), -EINVAL);
  CHECK_SAYS("40");
  uffd_resolver_close(zero);
  uffd_memory_close(memory);
  CHECK_OK(uffd_loop_close(loop));
}

static void calls_for_another_engine(void) {
  set_up();
  CHECK_ERR(uffd_loop_step(fixture.serving.loop, 0), -EINVAL);
  CHECK_SAYS("Not a pump");
  CHECK_ERR(uffd_loop_fd(fixture.serving.loop), -EINVAL);
  CHECK_ERR(uffd_loop_timeout(fixture.serving.loop), -EINVAL);
  struct uffd_stats stats = {.size = 3};
  CHECK_ERR(uffd_loop_stats(fixture.serving.loop, &stats), -EINVAL);
  CHECK_ERR(uffd_loop_stats(fixture.serving.loop, NULL), -EINVAL);
  tear_down();
}

/* Nothing there */

static void handles_that_are_null(void) {
  unsigned char byte = 0;
  uffd_resolver *resolver = NULL;
  uffd_memory_close(NULL);
  uffd_resolver_close(NULL);
  CHECK_OK(uffd_loop_close(NULL));
  CHECK_ERR(uffd_memory_read(NULL, 0, &byte, 1), -EBADF);
  CHECK_ERR(uffd_memory_write(NULL, 0, &byte, 1), -EBADF);
  CHECK_SAYS("NULL");
  CHECK_ERR(uffd_memory_fd(NULL), -EBADF);
  CHECK_ERR(uffd_memory_kind(NULL), -EBADF);
  CHECK(uffd_memory_address(NULL) == NULL && uffd_memory_alias(NULL) == NULL);
  CHECK_EQ(uffd_memory_length(NULL) + uffd_memory_page_size(NULL) + uffd_resolver_size(NULL), 0);
  CHECK(strcmp(uffd_resolver_kind(NULL), "none") == 0);
  CHECK_ERR(uffd_resolver_memory(NULL, 0, &resolver), -EBADF);
  CHECK_ERR(uffd_resolver_move(NULL, 0, &resolver), -EBADF);
  CHECK_ERR(uffd_memory_adopt(NULL, PAGE, &(uffd_memory *){NULL}), -EINVAL);
}

/* A forked child */

static void use_in_child(void *ctx) {
  uffd_loop *loop = fixture.serving.loop;
  uffd_region *region = ctx;
  struct uffd_stats stats = UFFD_STATS_INIT;
  CHECK_ERR(uffd_loop_add(loop, fixture.other, fixture.resolver, NULL, NULL), -EOWNERDEAD);
  CHECK_SAYS("parent");
  CHECK_ERR(uffd_region_prefetch(region, 0, 0), -EOWNERDEAD);
  CHECK_ERR(uffd_region_complete(region), -EOWNERDEAD);
  CHECK_ERR(uffd_region_remove(region), -EOWNERDEAD);
  CHECK_ERR(uffd_loop_complete(loop), -EOWNERDEAD);
  CHECK_ERR(uffd_loop_stats(loop, &stats), -EOWNERDEAD);
  CHECK_ERR(uffd_loop_trace(loop, NULL, NULL), -EOWNERDEAD);
  CHECK_ERR(uffd_loop_step(loop, 0), -EOWNERDEAD);
  CHECK_ERR(uffd_loop_fd(loop), -EOWNERDEAD);
  CHECK_ERR(uffd_loop_timeout(loop), -EOWNERDEAD);
  CHECK_ERR(uffd_loop_user_mode_only(loop), -EOWNERDEAD);
  char byte;
  CHECK_ERR(uffd_memory_read(fixture.memory, 0, &byte, 1), -EOWNERDEAD);
  CHECK_OK(uffd_loop_close(loop)); /* only frees */
  uffd_resolver_close(fixture.resolver);
  uffd_memory_close(fixture.other);
  uffd_memory_close(fixture.memory);
}

static void everything_is_dead_in_a_forked_child(void) {
  set_up();
  uffd_memory *memory = memory_make(MEMORY_MEMFD, 8);
  uffd_region *region = NULL;
  CHECK_OK(uffd_loop_add(fixture.serving.loop, memory, fixture.resolver, NULL, &region));
  CHECK_EQ(*memory_at(memory, 0), image_byte(0));
  for (int i = 0; i < 3; i++) {
    check_in_child(use_in_child, region);
    goes_on(); /* the child's closing was its own */
  }
  CHECK(image_there(memory_at(memory, 0), 0, 8 * PAGE));
  uffd_memory_close(memory);
  tear_down();
}

/* Out of descriptors */

static struct rlimit forbid_descriptors(unsigned more) {
  struct rlimit before, limit;
  int next = dup(0);
  CHECK(next >= 0 && close(next) == 0 && getrlimit(RLIMIT_NOFILE, &before) == 0);
  limit = (struct rlimit){(rlim_t)next + more, before.rlim_max};
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  return before;
}

static void out_of_descriptors(void) {
  check_needs(UFFD_FEAT_POISON);
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  uffd_resolver *resolver = image_resolver(8 * PAGE), *file = NULL;
  uffd_loop *loop = NULL;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.handlers = 4;
  struct rlimit before = forbid_descriptors(2);
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EMFILE); /* two of four handlers */
  CHECK_SAYS("Too many open files");
  CHECK(loop == NULL);
  CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK_OK(uffd_loop_create(&opts, &loop));
  before = forbid_descriptors(0);
  CHECK_ERR(uffd_loop_add(loop, memory, resolver, NULL, NULL), -EMFILE); /* no object */
  CHECK_SAYS("ulimit -n");
  CHECK_ERR(uffd_resolver_file("/proc/self/exe", NULL, &file), -EMFILE);
  CHECK_SAYS("Too many open files");
  CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK_OK(uffd_loop_add(loop, memory, resolver, NULL, NULL)); /* nothing was lost */
  CHECK(image_there(memory_at(memory, 0), 0, 8 * PAGE));
  CHECK_OK(uffd_loop_close(loop));
  opts.handlers = 0;
  opts.engine = UFFD_ENGINE_PUMP;
  before = forbid_descriptors(1);
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EMFILE); /* a pump has two of its own */
  CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
  uffd_resolver_close(resolver);
  uffd_memory_close(memory);
}

/* No permission, no support */

static void refuse_objects(uint32_t flags, uint32_t route, int error, const char *words) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.open_flags = flags;
  opts.route = route;
  opts.on_error = UFFD_ON_ERROR_ZERO; /* does not ask the kernel for poison */
  uffd_loop *loop = NULL;
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  uffd_resolver *resolver = image_resolver(8 * PAGE);
  CHECK_OK(uffd_loop_create(&opts, &loop));
  CHECK_ERR(uffd_loop_user_mode_only(loop), -ENOENT);
  CHECK_ERR(uffd_loop_add(loop, memory, resolver, NULL, NULL), error);
  CHECK_SAYS(words);
  *memory_at(memory, 0) = 1; /* the memory is what it was */
  CHECK_OK(uffd_loop_close(loop));
  uffd_resolver_close(resolver);
  uffd_memory_close(memory);
}

static void as_nobody(void *ctx) {
  (void)ctx;
  check_drop_privileges();
  refuse_objects(UFFD_OPEN_NO_USER_MODE_ONLY, UFFD_ROUTE_SYSCALL, -EPERM, "vm.unprivileged_userfaultfd");
  if (access("/dev/userfaultfd", R_OK) == 0) return;
  refuse_objects(UFFD_OPEN_NO_USER_MODE_ONLY, UFFD_ROUTE_AUTO, -EPERM, "CAP_SYS_PTRACE");
  struct serving serving; /* the other way is open */
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 8);
  region_add(serving.loop, memory, image_resolver(8 * PAGE), NULL);
  CHECK_EQ(uffd_loop_user_mode_only(serving.loop), 1);
  CHECK(image_there(memory_at(memory, 0), 0, 8 * PAGE));
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void without_permission(void) {
  if (check_number("/proc/sys/vm/unprivileged_userfaultfd") != 0) SKIP("vm.unprivileged_userfaultfd allows it to all");
  if (check_under_tsan()) SKIP("ThreadSanitizer lets no forked child start threads");
  check_needs(UFFD_FEAT_POISON);
  check_in_child(as_nobody, NULL);
}

static void forbid_userfaultfd(unsigned error) {
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) SKIP("no seccomp here");
}

static void filtered_with_eperm(void) {
  forbid_userfaultfd(EPERM);
  refuse_objects(0, UFFD_ROUTE_SYSCALL, -EPERM, "seccomp");
}

static void filtered_with_enosys(void) {
  forbid_userfaultfd(ENOSYS);
  refuse_objects(0, UFFD_ROUTE_SYSCALL, -ENOSYS, "seccomp");
}

static const struct check_test tests[] = {
    TEST(ranges_of_regions),
    TEST(options_of_regions),
    TEST(ranges_to_prefetch),
    TEST(system_v_shared_memory),
    TEST(ordinary_files),
    TEST(sealed_and_read_only_memfds),
    TEST(the_kernels_own_pages),
    TEST(memory_that_was_unmapped),
    TEST(a_region_twice),
    TEST(registered_with_another_object),
    TEST(layers_and_resolvers_that_do_not_fit),
    TEST(options_of_loops),
    TEST(features_that_the_kernel_lacks),
    TEST(calls_for_another_engine),
    TEST(handles_that_are_null),
    TEST(everything_is_dead_in_a_forked_child),
    TEST(out_of_descriptors),
    TEST(without_permission),
    TEST(filtered_with_eperm),
    TEST(filtered_with_enosys),
};
CHECK_MAIN(tests)
