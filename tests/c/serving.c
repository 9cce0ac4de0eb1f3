/*
 * The tests' loop, memories and contents: see serving.h.
 */
#define _GNU_SOURCE
#include "serving.h"

#include <sys/mman.h>

#include "kernel/object.h"

/* The loop and its driver */

static const uint32_t engine_handlers[ENGINES] = {1, 2, 5, 0};

/* UFFD_TEST_PLACEMENT=none: handler threads without companions, also where a test does not ask for it. */
static bool unplaced(void) {
  const char *wanted = getenv("UFFD_TEST_PLACEMENT");
  CHECK(wanted == NULL || strcmp(wanted, "none") == 0);
  return wanted != NULL;
}

bool serving_inline(void) {
  const char *engine = getenv("UFFD_TEST_ENGINE");
  bool inlined = engine != NULL && strcmp(engine, "inline") == 0;
  CHECK(engine == NULL || inlined || strcmp(engine, "threads") == 0);
  return inlined;
}

void serving_needs_handlers(const char *why) {
  if (serving_inline()) SKIP("Not inline: %s", why);
}

uffd_object *serving_object(uint64_t features) {
  return check_open(features | (serving_inline() ? UFFD_FEAT_SIGBUS : 0));
}

void serving_open(struct serving *serving, int engine, const struct uffd_loop_opts *opts) {
  struct uffd_loop_opts taken = UFFD_LOOP_OPTS_INIT;
  if (opts != NULL) taken = *opts;
  taken.engine = engine == ENGINE_PUMP ? UFFD_ENGINE_PUMP : UFFD_ENGINE_THREADS;
  taken.handlers = engine_handlers[engine];
  if (serving_inline() && engine != ENGINE_PUMP) taken.engine = UFFD_ENGINE_INLINE;
  if (unplaced()) taken.placement = UFFD_PLACEMENT_NONE;
  check_needs(taken.features);
  bool inlined = taken.engine == UFFD_ENGINE_INLINE && taken.on_error == UFFD_ON_ERROR_DEFAULT;
  bool poisons = taken.on_error == UFFD_ON_ERROR_POISON || taken.on_error == UFFD_ON_ERROR_STOP;
  if (inlined || poisons) check_needs(UFFD_FEAT_POISON);
  memset(serving, 0, sizeof(*serving));
  serving->engine = engine;
  CHECK_OK(uffd_loop_create(&taken, &serving->loop));
}

bool serving_is_inline(const struct serving *serving) {
  return uffd_loop_engine(serving->loop, NULL) == UFFD_ENGINE_INLINE;
}

uint32_t serving_handlers(const struct serving *serving) {
  if (serving->engine == ENGINE_PUMP) return 1;
  return engine_handlers[serving->engine] + (serving_is_inline(serving) ? 1 : 0);
}

static void step(struct serving *serving, int timeout_ms) {
  int answered = uffd_loop_step(serving->loop, timeout_ms);
  if (answered != -ECANCELED) CHECK_OK(answered); /* a stopped loop still poisons */
}

static void drive(void *ctx) {
  struct serving *serving = ctx;
  step(serving, 0);
  atomic_store(&serving->drives, true);
  while (!atomic_load(&serving->stop)) {
    step(serving, 5);
  }
}

void serving_start(struct serving *serving) {
  if (serving->engine != ENGINE_PUMP || serving->driven) return;
  atomic_store(&serving->stop, false);
  atomic_store(&serving->drives, false);
  serving->driven = true;
  check_thread_start(&serving->driver, drive, serving);
  /* only one thread at a time may call a pump: from now on that is the driver */
  while (!atomic_load(&serving->drives))
    check_pause();
}

void serving_pause(struct serving *serving) {
  if (!serving->driven) return;
  atomic_store(&serving->stop, true);
  check_thread_join(&serving->driver);
  serving->driven = false;
}

void serving_close(struct serving *serving) {
  serving_pause(serving);
  CHECK_OK(uffd_loop_close(serving->loop));
  serving->loop = NULL;
}

struct uffd_stats serving_stats(const uffd_loop *loop) {
  struct uffd_stats stats = UFFD_STATS_INIT;
  CHECK_OK(uffd_loop_stats(loop, &stats));
  return stats;
}

/* A fault that was woken otherwise is still to be settled; a reader tells of its queue after it has woken. */
struct uffd_stats serving_settled(const uffd_loop *loop) {
  struct uffd_stats stats = serving_stats(loop);
  while (stats.latency_count < stats.faults || stats.queue != 0) {
    check_pause();
    stats = serving_stats(loop);
  }
  return stats;
}

void serving_adds_up(const uffd_loop *loop, uint64_t page_size) {
  struct uffd_stats stats = serving_settled(loop);
  CHECK_EQ(stats.faults, stats.missing + stats.wp + stats.minor);
  CHECK_EQ(stats.bytes, (stats.zero + stats.copied + stats.continued + stats.moved) * page_size);
  CHECK_EQ(stats.latency_count, stats.faults);
}

/* Memories */

const int memory_kinds[MEMORY_KINDS] = {MEMORY_ANON,    MEMORY_THP,     MEMORY_MEMFD,          MEMORY_MEMFD_PRIVATE,
                                        MEMORY_ADOPTED, MEMORY_HUGETLB, MEMORY_HUGETLB_PRIVATE};

uffd_memory *memory_make(int kind, uint64_t pages) {
  static const uint32_t kinds[] = {UFFD_MEMORY_ANONYMOUS, UFFD_MEMORY_THP,     UFFD_MEMORY_MEMFD,
                                   UFFD_MEMORY_MEMFD,     UFFD_MEMORY_HUGETLB, UFFD_MEMORY_HUGETLB};
  bool huge = kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_PRIVATE;
  uint64_t length = pages * (huge ? UINT64_C(2) << 20 : check_page());
  uffd_memory *memory = NULL;
  if (kind == MEMORY_ADOPTED) {
    struct check_area area = check_map(CHECK_ANON, pages);
    CHECK_OK(uffd_memory_adopt(area.at, area.length, &memory));
    return memory;
  }
  if (huge) check_hugepages(2 * pages);
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  opts.kind = kinds[kind];
  if (kind == MEMORY_MEMFD_PRIVATE || kind == MEMORY_HUGETLB_PRIVATE) opts.flags = UFFD_MAP_PRIVATE;
  CHECK_OK(uffd_map(length, &opts, &memory));
  return memory;
}

unsigned char *memory_at(uffd_memory *memory, uint64_t offset) {
  return (unsigned char *)uffd_memory_address(memory) + offset;
}

bool memory_has(uffd_memory *memory, uint64_t offset, const char *flag) {
  struct uffd_mapping mapping;
  CHECK_EQ(uffd_find_mapping(CHECK_ADDRESS(memory_at(memory, offset)), &mapping), 0);
  return uffd_mapping_has(&mapping, flag);
}

/* Contents */

unsigned image_byte(uint64_t offset) {
  uint64_t sector = offset / 512;
  return 1 + (unsigned)((sector * 37 + sector / 255) % 255);
}

unsigned char *image_make(uint64_t length) {
  unsigned char *image = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(image != MAP_FAILED);
  for (uint64_t at = 0; at < length; at += 512) {
    memset(image + at, (int)image_byte(at), length - at < 512 ? length - at : 512);
  }
  return image;
}

uffd_resolver *image_resolver(uint64_t length) {
  unsigned char *image = image_make(length);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_bytes(image, length, &resolver));
  munmap(image, length);
  return resolver;
}

bool image_there(const unsigned char *at, uint64_t offset, uint64_t length) {
  for (uint64_t i = 0; i < length; i++) {
    if (at[i] == image_byte(offset + i)) continue;
    fprintf(stderr, "byte %llu of the image is %u, not %u\n", (unsigned long long)(offset + i), at[i],
            image_byte(offset + i));
    return false;
  }
  return true;
}

/* Regions */

uffd_region *region_add(uffd_loop *loop, uffd_memory *memory, uffd_resolver *resolver,
                        const struct uffd_region_opts *opts) {
  struct uffd_region_opts exact = UFFD_REGION_OPTS_INIT;
  uffd_region *region = NULL;
  if (opts != NULL) exact = *opts;
  if (exact.around == 0) exact.around = UFFD_AROUND_PAGE; /* tests count faults */
  CHECK_OK(uffd_loop_add(loop, memory, resolver, &exact, &region));
  uffd_resolver_close(resolver);
  return region;
}

/* Callbacks */

static int resolve(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)state;
  struct asked *asked = ctx;
  atomic_fetch_add(&asked->hits, 1);
  return asked->answer(asked, fault, answer);
}

uffd_resolver *asked_resolver(struct asked *asked) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *resolver = NULL;
  ops.resolve = resolve;
  CHECK_OK(uffd_resolver_callback(&ops, asked, NULL, NULL, 0, &resolver));
  return resolver;
}
