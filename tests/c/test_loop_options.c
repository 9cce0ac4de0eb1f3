/* Options that cannot be, each with its sentence; handles in a forked child; what the kernel or the limits refuse. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "serving.h"

#define PAGES 16

static uint64_t page;

/* Making a loop */

static void refuse_loop(const struct uffd_loop_opts *opts, int error, const char *words) {
  uffd_loop *loop = (uffd_loop *)&page; /* must become NULL */
  CHECK_ERR(uffd_loop_create(opts, &loop), error);
  CHECK_SAYS(words);
  CHECK(loop == NULL);
}

static void options_of_a_loop(void) {
  const struct uffd_loop_opts defaults = UFFD_LOOP_OPTS_INIT;
  struct uffd_loop_opts opts = defaults;
  opts.engine = 4;
  refuse_loop(&opts, -EINVAL, "engine 4");
  opts = defaults;
  opts.handlers = 65;
  refuse_loop(&opts, -EINVAL, "1 to 64");
  opts = defaults;
  opts.engine = UFFD_ENGINE_PUMP;
  opts.handlers = 2;
  refuse_loop(&opts, -EINVAL, "pump");
  opts = defaults;
  opts.on_error = 5;
  refuse_loop(&opts, -EINVAL, "on_error 5");
  opts = defaults;
  opts.route = UFFD_ROUTE_ADOPTED;
  refuse_loop(&opts, -EINVAL, "route 3");
  opts = defaults;
  opts.open_flags = UFFD_OPEN_BLOCKING;
  refuse_loop(&opts, -EINVAL, "open_flags");
  opts = defaults;
  opts.open_flags = UFFD_OPEN_USER_MODE_ONLY | UFFD_OPEN_NO_USER_MODE_ONLY;
  refuse_loop(&opts, -EINVAL, "exclude each other");
  opts = defaults;
  opts.features = UFFD_FEAT_SIGBUS;
  refuse_loop(&opts, -EINVAL, "sigbus");
  opts = defaults;
  opts.features = UFFD_FEAT_WP_ASYNC;
  refuse_loop(&opts, -EINVAL, "wp_async");
  opts = defaults;
  opts.placement = 2;
  refuse_loop(&opts, -EINVAL, "placement 2");
  opts = defaults;
  opts.size = 0;
  refuse_loop(&opts, -EINVAL, "uffd_loop_opts");
  struct {
    struct uffd_loop_opts opts;
    uint64_t newer;
  } longer = {defaults, 1};
  longer.opts.size = sizeof(longer);
  refuse_loop(&longer.opts, -EINVAL, "newer library");
  longer.newer = 0;
  uffd_loop *loop;
  CHECK_OK(uffd_loop_create(&longer.opts, &loop));
  CHECK_OK(uffd_loop_close(loop));
  opts = defaults;
  opts.size = 2 * sizeof(uint64_t); /* an older program's: engine and handlers */
  opts.handlers = 3;
  opts.features = UFFD_FEAT_SIGBUS; /* not looked at */
  CHECK_OK(uffd_loop_create(&opts, &loop));
  CHECK_OK(uffd_loop_close(loop));
  CHECK_OK(uffd_loop_create(NULL, &loop));
  CHECK_OK(uffd_loop_close(loop));
}

/* Features are looked at when the first region needs an object. */
static void features_that_the_kernel_lacks(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_probe probe = UFFD_PROBE_INIT;
  CHECK_OK(uffd_probe(&probe));
  if (!probe.usable || (probe.features & UFFD_FEAT_RWP) != 0) SKIP("needs a kernel without read-write protection");
  opts.features = UFFD_FEAT_RWP;
  uffd_loop *loop;
  CHECK_OK(uffd_loop_create(&opts, &loop));
  uffd_memory *memory = memory_make(MEMORY_ANON, 1);
  uffd_resolver *image = image_resolver(check_page());
  CHECK_ERR(uffd_loop_add(loop, memory, image, NULL, NULL), -EINVAL);
  CHECK_SAYS("rwp");
  CHECK_OK(uffd_loop_close(loop));
  uffd_resolver_close(image);
  uffd_memory_close(memory);
}

static void no_thread_or_descriptor_is_left(void) {
  struct rlimit none = {8, 8};
  uffd_loop *loop = NULL;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  int fds[8], count = 0;
  opts.handlers = 4;
  CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  while (count < 8 && (fds[count] = dup(STDERR_FILENO)) >= 0) {
    count++;
  }
  for (int free_ones = 0; free_ones < 4; free_ones++) {
    CHECK_ERR(uffd_loop_create(&opts, &loop), -EMFILE);
    CHECK(loop == NULL);
    close(fds[--count]);
    if (count == 0) break;
  }
  CHECK(open("/dev/null", O_RDONLY) >= 0); /* what was opened on the way is closed again */
}

/* Adding a region */

static uffd_loop *loop;
static uffd_memory *memory;

static void refuse(uffd_resolver *resolver, const struct uffd_region_opts *opts, int error, const char *words) {
  uffd_region *region = (uffd_region *)&page; /* must become NULL */
  CHECK_ERR(uffd_loop_add(loop, memory, resolver, opts, &region), error);
  CHECK_SAYS(words);
  CHECK(region == NULL);
}

static void options_of_a_region(void) {
  const struct uffd_region_opts defaults = UFFD_REGION_OPTS_INIT;
  struct uffd_region_opts opts = defaults;
  page = check_page();
  CHECK_OK(uffd_loop_create(NULL, &loop));
  memory = memory_make(MEMORY_ANON, PAGES);
  uffd_resolver *image = image_resolver(PAGES * page), *short_one = image_resolver(PAGES * page - 1),
                *shorter = image_resolver((PAGES - 1) * page);
  opts.offset = 1;
  refuse(image, &opts, -EINVAL, "whole pages");
  opts = defaults;
  opts.length = page + 1;
  refuse(image, &opts, -EINVAL, "whole pages");
  opts = defaults;
  opts.offset = PAGES * page;
  refuse(image, &opts, -EINVAL, "outside");
  opts = defaults;
  opts.length = (PAGES + 1) * page;
  refuse(image, &opts, -EINVAL, "outside");
  opts = defaults;
  opts.offset = page;
  opts.length = 0 - page; /* wraps */
  refuse(image, &opts, -EINVAL, "outside");
  opts = defaults;
  opts.resolver_offset = 100;
  refuse(image, &opts, -EINVAL, "resolver_offset");
  opts = defaults;
  opts.resolver_offset = page; /* then it is too short by a page */
  refuse(image, &opts, -EINVAL, "bytes resolver has");
  opts = defaults;
  opts.resolver_offset = 0 - page;
  refuse(image, &opts, -EINVAL, "overflow");
  refuse(shorter, &defaults, -EINVAL, "bytes resolver has");
  opts = defaults;
  opts.modes = UFFD_MODE_WP;
  refuse(image, &opts, -EINVAL, "missing or minor");
  opts = defaults;
  opts.modes = UFFD_MODE_MISSING | UFFD_MODE_MINOR; /* anonymous memory has no page cache */
  refuse(image, &opts, -EINVAL, "page cache");
  opts = defaults;
  opts.modes = UFFD_MODE_MISSING | (UINT64_C(1) << 40);
  refuse(image, &opts, -EINVAL, "");
  opts = defaults;
  opts.on_error = 9;
  refuse(image, &opts, -EINVAL, "on_error 9");
  opts = defaults;
  opts.reserved = 1;
  refuse(image, &opts, -EINVAL, "reserved");
  opts = defaults;
  opts.size = 3;
  refuse(image, &opts, -EINVAL, "uffd_region_opts");
  refuse(NULL, &defaults, -EINVAL, "resolver");
  uffd_memory *kept = memory;
  memory = NULL;
  refuse(image, &defaults, -EINVAL, "memory");
  memory = kept;
  /* nothing of all that is left behind: the range is free */
  CHECK_OK(uffd_loop_add(loop, memory, short_one, NULL, NULL)); /* zeros to the end of the last page */
  CHECK_EQ(memory_at(memory, PAGES * page - 1)[0], 0);
  CHECK_EQ(memory_at(memory, PAGES * page - 2)[0], image_byte(PAGES * page - 2));
  refuse(image, &defaults, -EBUSY, "served already");
  opts = defaults;
  opts.offset = 3 * page;
  opts.length = page;
  refuse(image, &opts, -EBUSY, "served already");
  CHECK_OK(uffd_loop_close(loop));
  uffd_resolver_close(image);
  uffd_resolver_close(short_one);
  uffd_resolver_close(shorter);
  uffd_memory_close(memory);
}

/* A page moves once: a child that misses it after its parent took it would read zeros. */
static void moving_and_forking(void) {
  page = check_page();
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.engine = UFFD_ENGINE_THREADS;
  uffd_object *forking = check_open(UFFD_FEAT_EVENT_FORK);
  uffd_memory *source = memory_make(MEMORY_ANON, PAGES);
  uffd_resolver *moving, *layered;
  CHECK_OK(uffd_resolver_move(source, 0, &moving));
  const struct uffd_layer inner[] = {{0, page, moving, 0}};
  CHECK_OK(uffd_resolver_layers(inner, 1, &layered));
  memory = memory_make(MEMORY_ANON, PAGES);
  struct uffd_region_opts region_opts = UFFD_REGION_OPTS_INIT;
  region_opts.object = forking;
  CHECK_OK(uffd_loop_create(&opts, &loop));
  refuse(moving, &region_opts, -EINVAL, "event_fork");
  refuse(layered, &region_opts, -EINVAL, "event_fork");
  CHECK_OK(uffd_loop_close(loop));
  opts.features = UFFD_FEAT_EVENT_FORK;
  CHECK_OK(uffd_loop_create(&opts, &loop));
  refuse(moving, NULL, -EINVAL, "event_fork");
  CHECK_OK(uffd_loop_close(loop));
  uffd_close(forking);
  uffd_resolver_close(layered);
  uffd_resolver_close(moving);
  uffd_memory_close(memory);
  uffd_memory_close(source);
}

/* What a resolver cannot give to a memory. */
static void resolvers_that_a_memory_cannot_have(void) {
  page = check_page();
  CHECK_OK(uffd_loop_create(NULL, &loop));
  uffd_memory *anonymous = memory_make(MEMORY_ANON, PAGES), *shared = memory_make(MEMORY_MEMFD, PAGES),
              *huge = memory_make(MEMORY_HUGETLB, 1), *source = memory_make(MEMORY_ANON, 512);
  uffd_resolver *proceeding, *moving, *layered, *image = image_resolver(PAGES * page);
  CHECK_OK(uffd_resolver_continue(NULL, &proceeding));
  CHECK_OK(uffd_resolver_move(source, 0, &moving));
  memory = anonymous;
  refuse(proceeding, NULL, -EINVAL, "page cache");
  memory = shared;
  refuse(moving, NULL, -EINVAL, "private anonymous");
  memory = huge;
  refuse(moving, NULL, -EINVAL, "private anonymous");
  const struct uffd_layer layers[] = {{page, page, image, 0}}; /* whole pages, but not huge ones */
  CHECK_OK(uffd_resolver_layers(layers, 1, &layered));
  refuse(layered, NULL, -EINVAL, "whole pages");
  const struct uffd_layer inner[] = {{0, page, proceeding, 0}};
  uffd_resolver_close(layered);
  CHECK_OK(uffd_resolver_layers(inner, 1, &layered));
  memory = anonymous;
  refuse(layered, NULL, -EINVAL, "page cache");
  CHECK_OK(uffd_loop_close(loop));
  uffd_resolver_close(layered);
  uffd_resolver_close(proceeding);
  uffd_resolver_close(moving);
  uffd_resolver_close(image);
  uffd_memory_close(anonymous);
  uffd_memory_close(shared);
  uffd_memory_close(huge);
  uffd_memory_close(source);
}

/* The pump's own calls */

static void calls_of_a_pump_on_other_engines(void) {
  CHECK_OK(uffd_loop_create(NULL, &loop));
  CHECK_ERR(uffd_loop_step(loop, 0), -EINVAL);
  CHECK_SAYS("Not a pump");
  CHECK_ERR(uffd_loop_fd(loop), -EINVAL);
  CHECK_ERR(uffd_loop_timeout(loop), -EINVAL);
  CHECK_OK(uffd_loop_close(loop));
}

/* A forked child */

static uffd_region *region;
static uffd_resolver *shared_image;

static void no_hook(void *ctx, const struct uffd_trace *trace) {
  (void)ctx, (void)trace;
}

static int use_in_child(void) {
  struct uffd_stats stats = UFFD_STATS_INIT;
  char text[64];
  int wrong = 0;
  wrong += uffd_loop_add(loop, memory, shared_image, NULL, NULL) != -EOWNERDEAD;
  wrong += strstr(uffd_errmsg(), "parent process") == NULL;
  wrong += uffd_region_prefetch(region, 0, 0) != -EOWNERDEAD;
  wrong += uffd_region_complete(region) != -EOWNERDEAD;
  wrong += uffd_region_remove(region) != -EOWNERDEAD;
  wrong += uffd_loop_complete(loop) != -EOWNERDEAD;
  wrong += uffd_loop_stats(loop, &stats) != -EOWNERDEAD;
  wrong += uffd_loop_trace(loop, no_hook, NULL) != -EOWNERDEAD;
  wrong += uffd_loop_trace(loop, NULL, NULL) != -EOWNERDEAD;
  wrong += uffd_loop_user_mode_only(loop) != -EOWNERDEAD;
  wrong += uffd_loop_error(loop, text, sizeof(text)) != 0;
  wrong += uffd_loop_step(loop, 0) != -EOWNERDEAD;
  wrong += uffd_loop_fd(loop) != -EOWNERDEAD;
  wrong += uffd_loop_timeout(loop) != -EOWNERDEAD;
  wrong += uffd_memory_read(memory, 0, text, 1) != -EOWNERDEAD;
  wrong += uffd_loop_close(loop) != 0;
  uffd_memory_close(memory);
  uffd_resolver_close(shared_image);
  return wrong;
}

static void handles_are_dead_in_a_forked_child(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    for (int raw = 0; raw < 2; raw++) {
      if (raw && check_under_tsan()) continue;
      struct serving serving;
      page = check_page();
      serving_open(&serving, engine, NULL);
      memory = memory_make(MEMORY_ANON, 1500);
      shared_image = image_resolver(1500 * page);
      loop = serving.loop;
      CHECK_OK(uffd_loop_add(loop, memory, shared_image, NULL, &region));
      serving_start(&serving);
      CHECK_EQ(*memory_at(memory, 0), image_byte(0));
      serving_pause(&serving);
      pid_t child = raw ? (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) : fork();
      if (child == 0) _exit(use_in_child());
      check_child(child);
      serving_start(&serving);
      CHECK(image_there(memory_at(memory, 700 * page), 700 * page, page)); /* the parent's live */
      CHECK(memory_has(memory, 0, "um"));
      uffd_resolver_close(shared_image);
      serving_close(&serving);
      uffd_memory_close(memory);
    }
  }
}

static const struct check_test tests[] = {
    TEST(options_of_a_loop),
    TEST(features_that_the_kernel_lacks),
    TEST(no_thread_or_descriptor_is_left),
    TEST(options_of_a_region),
    TEST(resolvers_that_a_memory_cannot_have),
    TEST(moving_and_forking),
    TEST(calls_of_a_pump_on_other_engines),
    TEST(handles_are_dead_in_a_forked_child),
};
CHECK_MAIN(tests)
