/*
 * Everything at once, for every engine: faults, drops, writes, prefetching, regions that come and go, the trace, forks,
 * failures. Every byte read is checked. Half a second each; UFFD_SOAK_SECONDS=N goes round for N seconds.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "loop/loop.h"
#include "serving.h"

#define PAGES      1300 /* of each memory: slices in several handlers */
#define STORM_NS   UINT64_C(500000000)
#define PREFETCHES 4 /* under way at once */

/* What happens in the storm, each in a memory of its own. */
enum {
  SILENT,    /* dropped without a word: always the image */
  TOLD,      /* dropped and told: zeros ever after */
  PROTECTED, /* every write is a fault */
  CACHED,    /* shared with a second mapping that fills and punches */
  CHANGING,  /* its region comes and goes, in huge pages where they are to be had */
  FAILING,   /* its resolver waits, or fails */
  INHERITED, /* children read it */
  MEMORIES
};

static struct {
  struct serving serving;
  uffd_object *object; /* of the silent one */
  uffd_memory *memories[MEMORIES];
  uffd_region *regions[MEMORIES];
  uffd_resolver *image, *mixed; /* mixed: with zero pages */
  uffd_prefetch *prefetches[PREFETCHES];
  struct asked failing;
  _Atomic uint64_t records;
  bool forks;
} storm;

static uint64_t page;

static unsigned char *at(int memory, uint64_t index) {
  return memory_at(storm.memories[memory], index * page);
}

/* Threads */

struct actor {
  struct check_thread thread;
  void (*act)(struct actor *actor); /* one step */
  uint32_t seed, number;
  _Atomic bool stop;
};

static uint32_t pick(struct actor *actor, uint32_t below) {
  actor->seed ^= actor->seed << 13;
  actor->seed ^= actor->seed >> 17;
  actor->seed ^= actor->seed << 5;
  return actor->seed % below;
}

static void run(void *ctx) {
  struct actor *actor = ctx;
  while (!atomic_load(&actor->stop)) {
    actor->act(actor);
  }
}

/* Those who touch */

static void read_silent(struct actor *actor) {
  uint64_t index = pick(actor, PAGES), from = pick(actor, 4000);
  if (pick(actor, 4) == 0) {
    unsigned char bytes[64];
    CHECK_OK(uffd_memory_read(storm.memories[SILENT], index * page + from, bytes, sizeof(bytes)));
    CHECK(image_there(bytes, index * page + from, sizeof(bytes)));
  } else {
    CHECK(image_there(at(SILENT, index) + from, index * page + from, 64));
  }
}

static void drop_silent(struct actor *actor) {
  uint64_t index = pick(actor, PAGES - 20);
  CHECK_EQ(madvise(at(SILENT, index), (1 + pick(actor, 20)) * page, MADV_DONTNEED), 0);
}

/* Each has its own pages, and knows what must be in them: the image, or zeros, and perhaps a byte of its own. */
#define OWNERS 2
static struct {
  bool dropped;
  unsigned char byte; /* 0: not written since it was dropped */
} known[PAGES];

static void own_told(struct actor *actor) {
  uint64_t index = pick(actor, PAGES / OWNERS) * OWNERS + actor->number;
  switch (pick(actor, 4)) {
  case 0:
    CHECK_EQ(madvise(at(TOLD, index), page, MADV_DONTNEED), 0);
    known[index].dropped = true;
    known[index].byte = 0;
    break;
  case 1:
    known[index].byte = (unsigned char)(1 + pick(actor, 250));
    at(TOLD, index)[100] = known[index].byte;
    break;
  default:
    break;
  }
  const unsigned char *there = at(TOLD, index);
  unsigned byte = known[index].byte != 0 ? known[index].byte
                  : known[index].dropped ? 0
                                         : image_byte(index * page + 100);
  CHECK_EQ(there[100], byte);
  CHECK_EQ(there[3000], known[index].dropped ? 0 : image_byte(index * page + 3000));
}

/* Each writes its own byte of every page, and no write is lost. */
#define WRITERS 2
static unsigned char written[WRITERS][PAGES];

static void write_protected(struct actor *actor) {
  uint64_t index = pick(actor, PAGES);
  unsigned char *last = &written[actor->number][index], *byte = at(PROTECTED, index) + actor->number;
  CHECK_EQ(*byte, *last != 0 ? *last : image_byte(index * page));
  *last = (unsigned char)(1 + pick(actor, 250));
  *byte = *last;
  CHECK_EQ(at(PROTECTED, index)[99], image_byte(index * page + 99));
}

/* The image, or what the other mapping wrote, or zeros where a hole was punched between. */
static void share_cached(struct actor *actor) {
  uint64_t index = pick(actor, PAGES);
  unsigned char *other = (unsigned char *)uffd_memory_alias(storm.memories[CACHED]) + index * page;
  switch (pick(actor, 6)) {
  case 0:
    memset(other, 'c', page);
    break;
  case 1:
    CHECK_EQ(fallocate(uffd_memory_fd(storm.memories[CACHED]), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       (off_t)(index * page), (off_t)page),
             0);
    break;
  case 2:
    CHECK_EQ(madvise(at(CACHED, index), page, MADV_DONTNEED), 0);
    break;
  default:
    break;
  }
  unsigned byte = at(CACHED, index)[700];
  CHECK(byte == image_byte(index * page + 700) || byte == 'c' || byte == 0);
}

static void read_changing(struct actor *actor) {
  uint64_t index = pick(actor, PAGES);
  unsigned byte = at(CHANGING, index)[5];
  CHECK(byte == image_byte(index * page + 5) || byte == 0);
  if (pick(actor, 3) == 0) CHECK_EQ(madvise(at(CHANGING, index), page, MADV_DONTNEED), 0);
}

static int answer_or_fail(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  static const unsigned char page_of_f[3 * 4096] = {['F'] = 'F'};
  switch (atomic_load(&asked->hits) % 7) {
  case 0:
    return uffd_set_errmsg(EIO, "The storm.");
  case 1:
    answer->kind = UFFD_ANSWER_LATER;
    return 0;
  case 2:
    answer->kind = UFFD_ANSWER_RESOLVER; /* to a wrong place */
    return 0;
  default:
    answer->kind = UFFD_ANSWER_BYTES;
    answer->data = page_of_f;
    answer->length = (fault->offset % 3 + 1) * 4000;
    return 0;
  }
}

static void read_failing(struct actor *actor) {
  uint64_t index = pick(actor, PAGES);
  unsigned byte = at(FAILING, index)['F'];
  CHECK(byte == 'F' || byte == 0);
  if (pick(actor, 2) == 0) CHECK_EQ(madvise(at(FAILING, index), page, MADV_DONTNEED), 0);
}

static void fork_and_read(struct actor *actor) {
  if (!storm.forks) {
    check_pause();
    return;
  }
  uint64_t first = pick(actor, PAGES - 30);
  pid_t child = fork();
  if (child == 0) _exit(image_there(at(INHERITED, first), first * page, 30 * page) ? 0 : 1);
  CHECK(image_there(at(INHERITED, first), first * page, 30 * page));
  check_child(child);
}

/* Those who call */

static void record(void *ctx, const struct uffd_trace *trace) {
  (void)ctx;
  CHECK(trace->outcome <= UFFD_OUTCOME_FAILED && trace->offset < PAGES * 4096);
  atomic_fetch_add(&storm.records, 1);
}

static void add_changing(void) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.around = UFFD_AROUND_AUTO;
  CHECK_EQ(madvise(at(CHANGING, 0), PAGES * page, MADV_DONTNEED), 0);
  CHECK_OK(uffd_loop_add(storm.serving.loop, storm.memories[CHANGING], storm.mixed, &opts, &storm.regions[CHANGING]));
}

/* The handles of those that may still be under way are let go of at any time. */
static void prefetch_in_background(struct actor *actor, uint64_t from, uint64_t length) {
  uffd_prefetch **slot = &storm.prefetches[pick(actor, PREFETCHES)];
  struct uffd_prefetch_opts opts = UFFD_PREFETCH_OPTS_INIT;
  const struct uffd_range ranges[] = {{from, length}, {page * pick(actor, PAGES), page}, {from / 2, length}};
  opts.rate = pick(actor, 2) == 0 ? 0 : UINT64_C(1) << (12 + pick(actor, 20));
  uffd_prefetch_close(*slot);
  CHECK_OK(uffd_region_prefetch_start(storm.regions[pick(actor, CHANGING + 1)], ranges, pick(actor, 4), &opts, slot));
  if (pick(actor, 3) != 0) return;
  struct uffd_prefetch_status status = UFFD_PREFETCH_STATUS_INIT;
  CHECK_OK(uffd_prefetch_status(*slot, &status));
  CHECK(status.bytes_done <= status.bytes_wanted);
  int result = uffd_prefetch_wait(*slot, (int)pick(actor, 20));
  CHECK(result == 0 || result == 1 || result == -ESRCH);
}

static void call(struct actor *actor) {
  struct uffd_stats stats;
  uint64_t from = pick(actor, PAGES * 4096), length = pick(actor, 200 * 4096);
  if (from + length > PAGES * page) length = 0;
  switch (pick(actor, 10)) {
  case 5:
  case 6:
    prefetch_in_background(actor, from, length);
    break;
  case 0:
    CHECK_OK(uffd_loop_trace(storm.serving.loop, record, NULL));
    break;
  case 1:
    CHECK_OK(uffd_loop_trace(storm.serving.loop, NULL, NULL));
    break;
  case 2:
    CHECK_OK(uffd_region_remove(storm.regions[CHANGING]));
    add_changing();
    break;
  case 3:
    CHECK_OK(uffd_region_complete(storm.regions[CHANGING]));
    add_changing();
    break;
  case 4:
    stats = serving_stats(storm.serving.loop);
    CHECK_EQ(stats.faults, stats.missing + stats.wp + stats.minor);
    break;
  default:
    CHECK_OK(uffd_region_prefetch(storm.regions[pick(actor, CHANGING)], from, length));
    break;
  }
}

/* A pump's driver makes the calls, too. */
static void drive(struct actor *actor) {
  CHECK_OK(uffd_loop_step(storm.serving.loop, 1));
  if (pick(actor, 20) == 0) call(actor);
}

/* The storm */

static uffd_region *serve(int memory, uffd_resolver *resolver, uint64_t modes, uint64_t around) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.modes = modes;
  opts.around = around;
  if (memory == SILENT) opts.object = storm.object;
  uffd_region *region;
  CHECK_OK(uffd_loop_add(storm.serving.loop, storm.memories[memory], resolver, &opts, &region));
  storm.regions[memory] = region;
  return region;
}

static void map_memories(void) {
  struct uffd_map_opts inherited = UFFD_MAP_OPTS_INIT;
  inherited.flags = UFFD_MAP_FORK;
  for (int i = 0; i < MEMORIES; i++) {
    if (i != INHERITED)
      storm.memories[i] = memory_make(i == CACHED ? MEMORY_MEMFD : i == CHANGING ? MEMORY_THP : MEMORY_ANON, PAGES);
  }
  CHECK_OK(uffd_map(PAGES * page, &inherited, &storm.memories[INHERITED]));
}

/* The image, with runs of zero pages. */
static uffd_resolver *mixed_resolver(void) {
  unsigned char *image = image_make(PAGES * page);
  uffd_resolver *resolver;
  for (uint64_t i = 0; i + 5 < PAGES; i += 13) {
    memset(image + i * page, 0, 5 * page);
  }
  CHECK_OK(uffd_resolver_bytes(image, PAGES * page, &resolver));
  munmap(image, PAGES * page);
  return resolver;
}

static void begin(int engine) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_probe probe = UFFD_PROBE_INIT;
  page = check_page();
  CHECK_OK(uffd_probe(&probe));
  /*
   * fork() holds malloc's locks until its event is read, so a pump's driver must not allocate meanwhile, and call()
   * does
   */
  bool inlined = serving_inline() && engine != ENGINE_PUMP; /* children are not served */
  storm.forks = probe.event_fork && !check_under_tsan() && engine != ENGINE_PUMP && !inlined;
  opts.features = UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_EVENT_UNMAP | (storm.forks ? UFFD_FEAT_EVENT_FORK : 0);
  opts.on_error = UFFD_ON_ERROR_ZERO;
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP | UFFD_FEAT_MINOR_SHMEM);
  serving_open(&storm.serving, engine, &opts);
  storm.object = check_open(inlined ? UFFD_FEAT_SIGBUS : 0);
  storm.image = image_resolver(PAGES * page);
  storm.mixed = mixed_resolver();
  storm.failing.answer = answer_or_fail;
  map_memories();
  uffd_resolver *proceeding, *failing = asked_resolver(&storm.failing);
  CHECK_OK(uffd_resolver_continue(storm.image, &proceeding));
  serve(SILENT, storm.image, 0, 8 * page);
  serve(TOLD, storm.image, 0, 3 * page);
  serve(PROTECTED, storm.image, UFFD_MODE_MISSING | UFFD_MODE_WP, 2 * page);
  serve(CACHED, proceeding, 0, 4 * page);
  serve(FAILING, failing, 0, 0);
  serve(INHERITED, storm.image, 0, 0);
  add_changing();
  uffd_resolver_close(proceeding);
  uffd_resolver_close(failing);
}

static void look_once_more(void) {
  for (uint64_t i = 0; i < PAGES; i++) {
    CHECK(image_there(at(SILENT, i), i * page, page));
    CHECK(image_there(at(INHERITED, i), i * page, page));
    CHECK_EQ(at(TOLD, i)[3000], known[i].dropped ? 0 : image_byte(i * page + 3000));
    for (unsigned w = 0; w < WRITERS; w++) {
      if (written[w][i] != 0) CHECK_EQ(at(PROTECTED, i)[w], written[w][i]);
    }
  }
}

/* All that can happen has happened. */
static bool has_raged(void) {
  struct uffd_stats stats = serving_stats(storm.serving.loop);
  return stats.faults > 100 && stats.prefetched > 0 && stats.events > 0 && stats.errors > 0 && stats.deferred > 0 &&
         stats.copied > 0 && stats.continued > 0 && stats.zero > 0 && stats.unprotected > 0;
}

#define ACTORS 12

static void rage(int engine) {
  void (*const acts[])(struct actor *) = {
      engine == ENGINE_PUMP ? drive : call,
      read_silent,
      read_silent,
      drop_silent,
      own_told,
      own_told,
      write_protected,
      write_protected,
      share_cached,
      read_changing,
      read_failing,
      fork_and_read,
  };
  const uint32_t numbers[] = {0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0};
  struct actor actors[ACTORS];
  uint64_t end = uffd_now() + STORM_NS;
  for (uint32_t i = 0; i < ACTORS; i++) {
    actors[i] = (struct actor){.act = acts[i], .seed = ((uint32_t)end * 31 + i * 7919) | 1, .number = numbers[i]};
    check_thread_start(&actors[i].thread, run, &actors[i]);
  }
  while (uffd_now() < end || !has_raged()) { /* a busy machine may take longer; the test's watchdog ends it */
    check_pause();
  }
  for (uint32_t i = 1; i < ACTORS; i++) { /* a pump's driver answers them, up to the last */
    atomic_store(&actors[i].stop, true);
    check_thread_join(&actors[i].thread);
  }
  look_once_more();
  atomic_store(&actors[0].stop, true);
  check_thread_join(&actors[0].thread);
}

static void storm_of(int engine) {
  begin(engine);
  rage(engine);
  serving_adds_up(storm.serving.loop, page);
  CHECK_EQ(serving_stats(storm.serving.loop).poisoned, 0);
  int error = uffd_loop_error(storm.serving.loop, NULL, 0);
  CHECK(error == EIO || error == EINVAL); /* as that resolver fails, and in no other way */
  serving_close(&storm.serving);
  uffd_close(storm.object);
  uffd_resolver_close(storm.image);
  uffd_resolver_close(storm.mixed);
  for (int i = 0; i < PREFETCHES; i++) { /* the loop has ended them */
    uffd_prefetch_close(storm.prefetches[i]);
    storm.prefetches[i] = NULL;
  }
  for (int i = 0; i < MEMORIES; i++) {
    uffd_memory_close(storm.memories[i]);
  }
}

static void one_handler(void) {
  storm_of(ENGINE_ONE);
}
static void two_handlers(void) {
  storm_of(ENGINE_TWO);
}
static void five_handlers(void) {
  storm_of(ENGINE_FIVE);
}
static void pump(void) {
  storm_of(ENGINE_PUMP);
}

static const struct check_test tests[] = {TEST(one_handler), TEST(two_handlers), TEST(five_handlers), TEST(pump)};

int main(int argc, char **argv) {
  const char *soak = getenv("UFFD_SOAK_SECONDS");
  uint64_t end = uffd_now() + (soak != NULL ? strtoull(soak, NULL, 10) : 0) * UINT64_C(1000000000);
  int result;
  do {
    result = check_main(tests, sizeof(tests) / sizeof(tests[0]), argc, argv);
  } while (result == 0 && uffd_now() < end);
  return result;
}
