/*
 * Who keeps a mapping: its handle, the regions that serve it, the resolvers that read it; and the last to go unmaps it.
 * What the library allocates it gives back, byte for byte, also when there is no more to be had.
 */
#define _GNU_SOURCE
#include "check.h"

#include <sys/mman.h>

#include "kernel/object.h"
#include "resolving.h"

#define PAGE UINT64_C(4096)

static bool is_mapped(const void *address) {
  struct uffd_mapping mapping;
  return uffd_find_mapping(CHECK_ADDRESS(address), &mapping) == 0;
}

/* References */

static void closed_while_it_is_served(void) {
  for (int kind = MEMORY_ANON; kind <= MEMORY_MEMFD_PRIVATE; kind++) {
    uffd_memory *memory = memory_make(kind, 8);
    unsigned char *at = memory_at(memory, 0), *alias = uffd_memory_alias(memory);
    struct serving serving;
    serving_open(&serving, ENGINE_ONE, NULL);
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    opts.length = 4 * PAGE;
    region_add(serving.loop, memory, image_resolver(8 * PAGE), &opts);
    opts.offset = 4 * PAGE; /* a second region of the same memory */
    uffd_region *second = region_add(serving.loop, memory, image_resolver(8 * PAGE), &opts);
    uffd_memory_close(memory);
    CHECK(image_there(at, 0, 2 * PAGE)); /* faults are still answered */
    CHECK_OK(uffd_region_remove(second));
    CHECK(is_mapped(at));
    CHECK(image_there(at + 2 * PAGE, 2 * PAGE, 2 * PAGE));
    CHECK(alias == NULL || is_mapped(alias));
    serving_close(&serving);
    CHECK(!is_mapped(at));
    CHECK(alias == NULL || !is_mapped(alias));
  }
}

static void closed_while_it_is_read(void) {
  for (int moves = 0; moves < 2; moves++) {
    uffd_memory *source = memory_make(MEMORY_ANON, 4);
    unsigned char *at = memory_at(source, 0);
    memset(at, 7, 4 * PAGE);
    uffd_resolver *resolver = NULL, *layers = NULL;
    CHECK_OK(moves ? uffd_resolver_move(source, 0, &resolver) : uffd_resolver_memory(source, 0, &resolver));
    uffd_memory_close(source);
    CHECK(is_mapped(at));
    const struct uffd_layer layer = {0, 0, resolver, 0};
    CHECK_OK(uffd_resolver_layers(&layer, 1, &layers));
    uffd_resolver_close(resolver);
    CHECK(is_mapped(at));
    struct view view = view_open(layers, &(struct view_opts){.length = 8 * PAGE});
    uffd_resolver_close(layers);
    CHECK(check_filled(view.at, 4 * PAGE, 7));
    CHECK(is_mapped(at));
    view_close(&view);
    CHECK(!is_mapped(at));
  }
}

static void adopted_memory_is_never_unmapped(void) {
  struct check_area area = check_map(CHECK_ANON, 4);
  uffd_memory *memory = NULL;
  CHECK_OK(uffd_memory_adopt(area.at, area.length, &memory));
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  region_add(serving.loop, memory, image_resolver(4 * PAGE), NULL);
  uffd_memory_close(memory);
  CHECK(image_there(area.at, 0, 4 * PAGE));
  serving_close(&serving);
  CHECK(image_there(area.at, 0, 4 * PAGE));
  check_unmap(&area);
}

/* A source that is served by another loop once its reader is gone; readers come and go in several threads. */
static void make_and_close_readers(void *ctx) {
  for (int i = 0; i < 500; i++) {
    uffd_resolver *resolver = NULL;
    CHECK_OK(uffd_resolver_memory(ctx, (uint64_t)i % 4 * PAGE, &resolver));
    uffd_resolver_close(resolver);
  }
}

static void readers_come_and_go(void) {
  uffd_memory *source = memory_make(MEMORY_ANON, 4);
  struct check_thread threads[2];
  check_thread_start(&threads[0], make_and_close_readers, source);
  check_thread_start(&threads[1], make_and_close_readers, source);
  check_thread_join(&threads[0]);
  check_thread_join(&threads[1]);
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  region_add(serving.loop, source, image_resolver(4 * PAGE), NULL); /* nobody reads it any more */
  serving_close(&serving);
  unsigned char *at = memory_at(source, 0);
  uffd_memory_close(source);
  CHECK(!is_mapped(at));
}

static void no_descriptor_is_left_open(void) {
  int before = dup(0);
  close(before);
  for (int i = 0; i < 3; i++) {
    uffd_memory *memory = memory_make(MEMORY_MEMFD, 2);
    uffd_resolver *resolver = NULL;
    struct serving serving;
    CHECK_OK(uffd_resolver_file("/proc/self/exe", NULL, &resolver));
    serving_open(&serving, i == 2 ? ENGINE_PUMP : ENGINE_TWO, NULL);
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    opts.length = PAGE;
    region_add(serving.loop, memory, resolver, &opts);
    uffd_memory_close(memory);
    serving_close(&serving);
  }
  int after = dup(0);
  CHECK_EQ(after, before);
}

/* The allocator */

static struct ledger {
  pthread_mutex_t lock;
  size_t living, bytes, calls;
  size_t fail_at; /* the call that finds no memory; 0: none */
} ledger = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct entry { /* before what is given out */
  size_t length;
  size_t magic;
};
#define MAGIC ((size_t)0x75666664)

static void *ledger_alloc(void *ctx, size_t length) {
  CHECK(ctx == &ledger);
  pthread_mutex_lock(&ledger.lock);
  bool refuse = ++ledger.calls == ledger.fail_at;
  struct entry *entry = refuse ? NULL : malloc(sizeof(*entry) + length);
  if (entry != NULL) {
    ledger.living++;
    ledger.bytes += length;
    *entry = (struct entry){length, MAGIC};
    memset(entry + 1, 0xdb, length); /* it need not be zeroed */
  }
  pthread_mutex_unlock(&ledger.lock);
  return entry == NULL ? NULL : entry + 1;
}

static void ledger_free(void *ctx, void *pointer, size_t length) {
  CHECK(ctx == &ledger);
  if (pointer == NULL) return;
  struct entry *entry = (struct entry *)pointer - 1;
  CHECK_EQ(entry->magic, MAGIC);
  CHECK_EQ(entry->length, length); /* the very length that was asked for */
  pthread_mutex_lock(&ledger.lock);
  ledger.living--;
  ledger.bytes -= length;
  entry->magic = 0;
  pthread_mutex_unlock(&ledger.lock);
  free(entry);
}

static const struct uffd_allocator ledger_allocator = {sizeof(ledger_allocator), ledger_alloc, ledger_free, &ledger};

static int answer_zero(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)ctx, (void)state, (void)fault, (void)answer;
  return 0;
}

/* One of everything. Every handle is made even when others could not be: 0, or the first error. */
struct everything {
  uffd_memory *memories[3];
  uffd_resolver *resolvers[9];
  uffd_loop *loops[2];
  uffd_object *object;
  int result;
};

static bool keep(struct everything *all, int result) {
  if (result < 0 && all->result == 0) all->result = result;
  if (result < 0) CHECK_EQ(result, -ENOMEM);
  return result >= 0;
}

static void make_memories(struct everything *all, void *adopted) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  keep(all, uffd_map(8 * PAGE, &opts, &all->memories[0]));
  opts.kind = UFFD_MEMORY_MEMFD;
  keep(all, uffd_map(8 * PAGE, &opts, &all->memories[1]));
  keep(all, uffd_memory_adopt(adopted, 4 * PAGE, &all->memories[2]));
}

static void make_resolvers(struct everything *all, int fd) {
  uffd_resolver **resolvers = all->resolvers;
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  ops.resolve = answer_zero;
  keep(all, uffd_resolver_zero(&resolvers[0]));
  keep(all, uffd_resolver_bytes("bytes", 5, &resolvers[1]));
  keep(all, uffd_resolver_pattern("abc", 3, &resolvers[2]));
  keep(all, uffd_resolver_file_fd(fd, NULL, &resolvers[3]));
  if (all->memories[2] != NULL) keep(all, uffd_resolver_memory(all->memories[2], 0, &resolvers[4]));
  if (resolvers[1] != NULL) keep(all, uffd_resolver_callback(&ops, NULL, NULL, &resolvers[1], 1, &resolvers[5]));
  struct uffd_layer layers[3] = {
      {0, 4 * PAGE, resolvers[3], 0}, {4 * PAGE, 0, resolvers[5], 0}, {PAGE, 0, resolvers[2], 0}};
  if (resolvers[2] != NULL && resolvers[3] != NULL && resolvers[5] != NULL) {
    keep(all, uffd_resolver_layers(layers, 3, &resolvers[6]));
  }
  keep(all, uffd_resolver_continue(resolvers[6], &resolvers[7]));
  keep(all, uffd_resolver_poison(&resolvers[8]));
}

static void add_region(struct everything *all, uffd_memory *memory, uffd_resolver *resolver) {
  uffd_region *region = NULL;
  if (all->loops[0] == NULL || memory == NULL || resolver == NULL) return;
  if (!keep(all, uffd_loop_add(all->loops[0], memory, resolver, NULL, &region))) {
    CHECK(region == NULL);
    return;
  }
  uint64_t length = uffd_memory_length(memory);
  for (uint64_t at = 0; at < length; at += PAGE) {
    (void)*(volatile unsigned char *)memory_at(memory, at);
  }
}

static void make_loops(struct everything *all) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.handlers = 2;
  keep(all, uffd_loop_create(&opts, &all->loops[0]));
  opts.engine = UFFD_ENGINE_PUMP;
  opts.handlers = 0;
  keep(all, uffd_loop_create(&opts, &all->loops[1]));
  keep(all, uffd_open(NULL, &all->object));
  add_region(all, all->memories[0], all->resolvers[6]);
  add_region(all, all->memories[1], all->resolvers[7]);
}

static void end_everything(struct everything *all) {
  for (int i = 0; i < 2; i++) {
    CHECK_OK(uffd_loop_close(all->loops[i]));
  }
  for (int i = 0; i < 9; i++) {
    uffd_resolver_close(all->resolvers[i]);
  }
  for (int i = 0; i < 3; i++) {
    uffd_memory_close(all->memories[i]);
  }
  uffd_close(all->object);
}

static int run_everything(void *adopted, int fd) {
  struct everything all = {0};
  make_memories(&all, adopted);
  make_resolvers(&all, fd);
  make_loops(&all);
  end_everything(&all);
  return all.result;
}

static int make_sparse_file(void) {
  int fd = memfd_create("sparse", MFD_CLOEXEC);
  CHECK(ftruncate(fd, (off_t)(128 * PAGE)) == 0);
  for (uint64_t i = 0; i < 128; i += 2) { /* more extents than are allocated at first */
    CHECK_EQ(pwrite(fd, "x", 1, (off_t)(i * PAGE)), 1);
  }
  return fd;
}

static void every_byte_is_given_back(void) {
  check_needs(UFFD_FEAT_POISON | UFFD_FEAT_MINOR_SHMEM);
  struct check_area area = check_map(CHECK_ANON, 4);
  int fd = make_sparse_file();
  CHECK_OK(uffd_set_allocator(&ledger_allocator));
  CHECK_EQ(run_everything(area.at, fd), 0);
  CHECK(ledger.calls > 20);
  CHECK_EQ(ledger.living, 0);
  CHECK_EQ(ledger.bytes, 0);
  size_t calls = ledger.calls;
  CHECK_OK(uffd_set_allocator(NULL));
  CHECK_EQ(run_everything(area.at, fd), 0);
  CHECK_EQ(ledger.calls, calls); /* malloc again */
  close(fd);
  check_unmap(&area);
}

/* Each allocation in its turn finds no memory: -ENOMEM, and nothing is left behind. */
static void no_memory_at_any_place(void) {
  check_needs(UFFD_FEAT_POISON | UFFD_FEAT_MINOR_SHMEM);
  struct check_area area = check_map(CHECK_ANON, 4);
  int fd = make_sparse_file();
  CHECK_OK(uffd_set_allocator(&ledger_allocator));
  for (size_t fail_at = 1;; fail_at++) {
    ledger.calls = 0;
    ledger.fail_at = fail_at;
    int result = run_everything(area.at, fd);
    CHECK_EQ(ledger.living, 0);
    CHECK_EQ(ledger.bytes, 0);
    if (ledger.calls < fail_at) {
      CHECK_EQ(result, 0);
      CHECK(fail_at > 20);
      break;
    }
    CHECK_EQ(result, -ENOMEM);
  }
  CHECK_OK(uffd_set_allocator(NULL));
  close(fd);
  check_unmap(&area);
}

static void an_allocator_does_not_change_under_a_handle(void) {
  uffd_resolver *zero = NULL;
  uffd_memory *memory = NULL;
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_ERR(uffd_set_allocator(&ledger_allocator), -EBUSY);
  CHECK_ERR(uffd_set_allocator(NULL), -EBUSY);
  uffd_resolver_close(zero);
  CHECK_OK(uffd_set_allocator(&ledger_allocator));
  CHECK_OK(uffd_map(1, NULL, &memory));
  CHECK_ERR(uffd_set_allocator(NULL), -EBUSY);
  CHECK_EQ(ledger.living, 1);
  uffd_memory_close(memory);
  CHECK_EQ(ledger.living, 0);
  CHECK_OK(uffd_set_allocator(NULL));
  struct uffd_allocator half = ledger_allocator;
  half.free = NULL;
  CHECK_ERR(uffd_set_allocator(&half), -EINVAL);
  CHECK_SAYS("both functions");
  half = ledger_allocator;
  half.alloc = NULL;
  CHECK_ERR(uffd_set_allocator(&half), -EINVAL);
  half = ledger_allocator;
  half.size = 0;
  CHECK_ERR(uffd_set_allocator(&half), -EINVAL);
}

static const struct check_test tests[] = {
    TEST(closed_while_it_is_served),        TEST(closed_while_it_is_read),
    TEST(adopted_memory_is_never_unmapped), TEST(readers_come_and_go),
    TEST(no_descriptor_is_left_open),       TEST(every_byte_is_given_back),
    TEST(no_memory_at_any_place),           TEST(an_allocator_does_not_change_under_a_handle),
};
CHECK_MAIN(tests)
