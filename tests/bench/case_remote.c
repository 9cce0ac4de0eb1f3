/*
 * Images that lie elsewhere, 20 ms away: all of one, a page that somebody waits for meanwhile, what is in the cache,
 * and four processes that read the same one at once.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <uffd_image.h>

#include "bench.h"
#include "kit.h"

#define DELAY_MS 20
#define FLIGHTS  16u
#define REQUEST  MIB
#define APART    (512 * KIB) /* between pages that are touched: each is in a part that no other one brings */
#define TOUCHES  16u
#define CLONES   4u

static struct kit kit;

static bool start(const char *name, const struct image *image, unsigned delay_ms) {
  if (kit_start(&kit, image, delay_ms)) return true;
  fprintf(stderr, "uffd-bench: %s: nbdkit is not installed\n", name);
  return false;
}

/* cache "": what is fetched is gone when the image is closed. */
static uffd_image *open_remote(const char *cache) {
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  const char *uri = kit.uri;
  uffd_image *image;
  opts.cache = cache;
  opts.flags = UFFD_IMAGE_UNVERSIONED;
  must(uffd_image_open(&uri, 1, &opts, &image));
  return image;
}

/* An image that is served, and nothing of it fetched. */
struct served {
  uffd_image *image;
  uffd_memory *memory;
  uffd_loop *loop;
  uffd_region *region;
};

static void open_served(struct served *served, const struct plan *plan) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  uffd_resolver *resolver;
  served->image = open_remote("");
  must(uffd_image_resolver(served->image, &resolver));
  served->memory = serve_memory(plan);
  served->loop = serve_loop(plan);
  opts.around = UFFD_AROUND_PAGE;
  must(uffd_loop_add(served->loop, served->memory, resolver, &opts, &served->region));
  uffd_resolver_close(resolver);
}

static void close_served(struct served *served) {
  must(uffd_loop_close(served->loop));
  uffd_memory_close(served->memory);
  uffd_image_close(served->image);
}

/* All of it by prefetch. */
static void prefetch_all(const struct plan *plan, bool check, double figures[FIGURES]) {
  struct served served;
  open_served(&served, plan);
  struct usage before = usage_now();
  uint64_t begin = now_ns();
  must(uffd_region_prefetch(served.region, 0, plan->length));
  figures[MAIN] = (double)(now_ns() - begin) / (double)plan_pages(plan);
  figures[CPU] = (double)(usage_now().cpu_ns - before.cpu_ns) / (double)plan_pages(plan);
  if (check) plan_check(plan, uffd_memory_address(served.memory));
  close_served(&served);
}

static void by_libnbd(const struct plan *plan, bool check, double figures[FIGURES]) {
  (void)check;
  figures[MAIN] = (double)kit_read_all(&kit, plan->length, REQUEST, FLIGHTS) / (double)plan_pages(plan);
}

/* Single pages from the end backwards, each of a part that nothing has fetched yet: the time of one. */
static void touch_apart(const struct plan *plan, bool meanwhile, double figures[FIGURES]) {
  struct served served;
  uffd_prefetch *prefetch = NULL;
  const struct uffd_range all = {0, plan->length};
  struct uffd_prefetch_status status = UFFD_PREFETCH_STATUS_INIT;
  uint32_t samples[TOUCHES];
  size_t count = 0;
  open_served(&served, plan);
  const volatile char *memory = uffd_memory_address(served.memory);
  if (meanwhile) must(uffd_region_prefetch_start(served.region, &all, 1, NULL, &prefetch));
  for (; count < TOUCHES; count++) {
    uint64_t begin = now_ns();
    (void)memory[plan->length - (count + 1) * APART];
    uint64_t taken = now_ns() - begin;
    if (meanwhile) must(uffd_prefetch_status(prefetch, &status));
    if (meanwhile && uffd_prefetch_wait(prefetch, 0) != 0) break; /* it was over before the page came */
    samples[count] = (uint32_t)(taken / 1000);
  }
  if (count < 4) die("the prefetch was over after %zu faults", count);
  figures[MAIN] = percentile(samples, count, 0.5);
  figures[LONGEST] = percentile(samples, count, 1);
  if (meanwhile) must(uffd_prefetch_wait(prefetch, -1));
  if (meanwhile) uffd_prefetch_close(prefetch);
  close_served(&served);
}

static void touch_alone(const struct plan *plan, bool check, double figures[FIGURES]) {
  (void)check;
  touch_apart(plan, false, figures);
}

static void touch_meanwhile(const struct plan *plan, bool check, double figures[FIGURES]) {
  (void)check;
  touch_apart(plan, true, figures);
}

void case_remote(const char *name) {
  const struct plan plan = {
      .length = IMAGE_BYTES, .contents = IMAGE, .image = image_dense(), .engine = UFFD_ENGINE_THREADS};
  struct contender whole[] = {{.run = prefetch_all, .plan = &plan}, {.run = by_libnbd, .plan = &plan}};
  struct contender single[] = {{.run = touch_meanwhile, .plan = &plan}, {.run = touch_alone, .plan = &plan}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "threads"};
  if (!start(name, plan.image, DELAY_MS)) return;
  row.runs = RUNS_OF(whole);
  row.uffd = whole[0].figures[MAIN];
  if (whole[1].figures[MAIN].median > 0) {
    row.limit = whole[1].figures[MAIN];
    row.limit_name = "libnbd to a buffer, 16 of 1 MiB in flight";
    row.at_most = 1.25;
  }
  explain(&row, "%u ms away, all by prefetch: %.0f MB/s", DELAY_MS, 1000.0 * PAGE / row.uffd.median);
  report(&row);
  row = (struct row){.name = name, .unit = "us a fault meanwhile", .engine = "threads", .limit_name = "alone"};
  row.runs = RUNS_OF(single);
  row.uffd = single[0].figures[MAIN];
  row.limit = single[1].figures[MAIN];
  row.at_most = 1.5;
  explain(&row, "the longest %.0f us, alone %.0f us", single[0].figures[LONGEST].median,
          single[1].figures[LONGEST].median);
  report(&row);
  kit_end(&kit);
}

/* What is in the cache, beside a local file */

static char cache[128];

static void serve_cached(const struct plan *plan, bool check, double figures[FIGURES]) {
  uffd_resolver *resolver;
  uffd_image *image = open_remote(cache);
  must(uffd_image_resolver(image, &resolver));
  uffd_image_close(image);
  serve_from(plan, resolver, check, figures);
}

static void cached_row(const char *name, enum order order) {
  const struct plan plan = {.length = TYPICAL_BYTES,
                            .order = order,
                            .share = 8,
                            .contents = IMAGE,
                            .image = image_typical(),
                            .engine = UFFD_ENGINE_INLINE,
                            .around = order == RANDOM ? 0 : SERVE_AROUND};
  struct contender list[] = {{.run = serve_cached, .plan = &plan}, {.run = serve, .plan = &plan}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline", .limit_name = "the local file"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.limit = list[1].figures[MAIN];
  row.at_most = 1.1;
  explain(&row, "%s", order == RANDOM ? "random pages" : "in order");
  explain_faults(&row, &list[0]);
  report(&row);
}

static void remove_cache(void) {
  char command[192];
  snprintf(command, sizeof(command), "rm -rf '%s'", cache);
  if (cache[0] != '\0' && system(command) != 0) fprintf(stderr, "uffd-bench: %s is left\n", cache);
}

static void make_cache(void) {
  temporary_path(cache, sizeof(cache), "cache");
  remove_cache();
}

void case_remote_cached(const char *name) {
  char *bytes = malloc(TYPICAL_BYTES);
  if (bytes == NULL || !start(name, image_typical(), 0)) {
    free(bytes);
    return;
  }
  make_cache();
  uffd_image *image = open_remote(cache);
  must(uffd_image_read(image, 0, bytes, TYPICAL_BYTES));
  uffd_image_close(image);
  free(bytes);
  cached_row(name, FORWARD);
  cached_row(name, RANDOM);
  remove_cache();
  kit_end(&kit);
}

/* Processes that read the same image at once, cold */

static uint64_t read_all(void) {
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  char *bytes = malloc(TYPICAL_BYTES);
  uffd_image *image = open_remote(cache);
  if (bytes == NULL) die("no memory");
  must(uffd_image_read(image, 0, bytes, TYPICAL_BYTES));
  if (memcmp(bytes, image_typical()->mapping, TYPICAL_BYTES) != 0) die("what a clone has read is wrong");
  must(uffd_image_layer(image, 0, &layer));
  uffd_image_close(image);
  free(bytes);
  return layer.fetched_bytes;
}

static uint64_t read_by_clones(void) {
  int ends[2];
  uint64_t sum = 0, part;
  if (pipe(ends) != 0) die("pipe: %m");
  for (unsigned i = 0; i < CLONES; i++) {
    pid_t pid = fork();
    if (pid < 0) die("fork: %m");
    if (pid > 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    part = read_all();
    _exit(write(ends[1], &part, sizeof(part)) == sizeof(part) ? 0 : 1);
  }
  close(ends[1]);
  for (unsigned i = 0; i < CLONES; i++) {
    if (read(ends[0], &part, sizeof(part)) != sizeof(part)) die("a clone has failed");
    sum += part;
  }
  for (unsigned i = 0; i < CLONES; i++) {
    wait(NULL);
  }
  close(ends[0]);
  return sum;
}

void case_remote_clones(const char *name) {
  struct row row = {.name = name, .unit = "bytes fetched for one", .engine = "4 processes", .most = 1};
  double figures[3];
  image_typical();
  if (!start(name, image_typical(), DELAY_MS)) return;
  for (row.runs = 0; row.runs < 3; row.runs++) {
    make_cache();
    figures[row.runs] = (double)read_by_clones() / (double)TYPICAL_BYTES;
    remove_cache();
  }
  row.uffd = spread_of(figures, row.runs);
  explain(&row, "cold, at once, one cache");
  report(&row);
  kit_end(&kit);
}
