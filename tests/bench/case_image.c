/*
 * Images: compressed ones beside the raw file, chains beside one file.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uffd_image.h>

#include "bench.h"

#define DEPTH  16u /* layers of the chain */
#define CHANGE 40u /* of so many pages, each increment changes one, in runs */
#define UNIT   (64 * KIB)

/* The layers that the cases read: the whole of the typical image, and a chain of the same contents. */
struct layers {
  uffd_image *one, *chain;
};

#define FAST (DEPTH + 1) /* the number of the layer that is packed to be decoded fast */

static char layer_paths[DEPTH + 2][4096];

static void remove_layers(void) {
  for (unsigned i = 0; i <= FAST; i++) {
    if (layer_paths[i][0] != '\0') unlink(layer_paths[i]);
  }
}

static const char *name_layer(unsigned number) {
  char name[32];
  snprintf(name, sizeof(name), "layer-%u", number);
  temporary_path(layer_paths[number], sizeof(layer_paths[number]), name);
  return layer_paths[number];
}

static void finish(uffd_store *store) {
  must(uffd_store_finish(store));
  uffd_store_close(store);
}

static uffd_image *open_with(const char *path, int32_t decoders) {
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  uffd_image *image;
  opts.decoders = decoders;
  must(uffd_image_open(&path, 1, &opts, &image));
  return image;
}

static uffd_image *open_one(const char *path) {
  return open_with(path, 0);
}

/* Which increment has a page: 0 the base. Runs of 1 to 32 pages. */
static unsigned char *draw_owners(uint64_t pages) {
  unsigned char *owners = calloc(pages, 1);
  uint64_t state = 5;
  for (unsigned layer = 1; layer < DEPTH; layer++) {
    for (uint64_t changed = 0; changed < pages / CHANGE;) {
      state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
      uint64_t first = (state >> 33) % pages, count = 1 + (state >> 28) % 32;
      for (uint64_t page = first; page < first + count && page < pages; page++) {
        owners[page] = (unsigned char)layer;
      }
      changed += count;
    }
  }
  return owners;
}

static void put_owned(uffd_store *store, const struct image *image, const unsigned char *owners, unsigned layer) {
  for (uint64_t page = 0; page < image->length / PAGE; page++) {
    if (owners[page] == layer)
      must(uffd_store_put(store, page * PAGE, UFFD_STORE_DATA, image->mapping + page * PAGE, PAGE));
  }
}

/* Page by page the newest layer that has it holds the right bytes; below are others. */
static uffd_image *make_chain(const struct image *image) {
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  unsigned char *owners = draw_owners(image->length / PAGE);
  uffd_store *store;
  for (unsigned layer = 0; layer < DEPTH; layer++) {
    const char *below = layer == 0 ? NULL : layer_paths[layer];
    if (below != NULL) opts.below = open_one(below);
    opts.length = layer == 0 ? image->length : 0;
    must(uffd_store_layer(name_layer(layer + 1), &opts, &store));
    put_owned(store, image, owners, layer);
    finish(store);
    uffd_image_close(opts.below);
  }
  free(owners);
  return open_one(layer_paths[DEPTH]);
}

static const struct layers *layers(void) {
  static struct layers made;
  if (made.one != NULL) return &made;
  const struct image *image = image_typical();
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  uffd_store *store;
  atexit(remove_layers);
  opts.length = image->length;
  for (unsigned i = 0; i < 2; i++) {
    opts.level = i == 0 ? 0 : -1;
    must(uffd_store_layer(name_layer(i == 0 ? 0 : FAST), &opts, &store));
    must(uffd_store_put(store, 0, UFFD_STORE_DATA, image->mapping, image->length));
    finish(store);
  }
  made.one = open_one(layer_paths[0]);
  made.chain = make_chain(image);
  return &made;
}

/* A plan whose pages come from an image: plan->special. */
static void serve_image(const struct plan *plan, bool check, double figures[FIGURES]) {
  uffd_resolver *resolver;
  must(uffd_image_resolver((uffd_image *)(uintptr_t)plan->special, &resolver));
  serve_from(plan, resolver, check, figures);
}

static struct plan plan_of(enum order order, unsigned threads, const uffd_image *image) {
  return (struct plan){
      .length = TYPICAL_BYTES,
      .order = order,
      .share = 32,
      .contents = IMAGE,
      .image = image_typical(),
      .threads = threads,
      .engine = UFFD_ENGINE_INLINE,
      .around = order == RANDOM ? 0 : SERVE_AROUND,
      .special = image,
  };
}

static void explain_ratio(struct row *row, const uffd_image *image) {
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  must(uffd_image_layer(image, 0, &layer));
  explain(row, "compressed to %.0f%%", 100.0 * (double)layer.file_bytes / (double)layer.stream_bytes);
}

/* What decoding takes by itself: the image is read to a buffer that stays warm, and nothing is filled. */
static void read_alone(const struct plan *plan, bool check, double figures[FIGURES]) {
  static char buffer[UNIT];
  uint64_t begin = now_ns();
  (void)check;
  for (uint64_t at = 0; at < plan->length; at += UNIT) {
    must(uffd_image_read((uffd_image *)(uintptr_t)plan->special, at, buffer, UNIT));
  }
  figures[MAIN] = (double)(now_ns() - begin) / (double)plan_pages(plan);
}

/* All of it by prefetch, and then each page is touched. */
static void restore_from(const struct plan *plan, uffd_resolver *resolver, bool check, double figures[FIGURES]) {
  uffd_memory *memory = serve_memory(plan);
  uffd_loop *loop = serve_loop(plan);
  uffd_region *region;
  must(uffd_loop_add(loop, memory, resolver, NULL, &region));
  struct usage before = usage_now();
  uint64_t begin = now_ns();
  must(uffd_region_prefetch(region, 0, plan->length));
  double filled = (double)(now_ns() - begin) / (double)plan_pages(plan);
  plan_touch(plan, uffd_memory_address(memory), figures);
  struct usage after = usage_now();
  figures[MAIN] += filled;
  figures[CPU] = (double)(after.cpu_ns - before.cpu_ns) / (double)plan_pages(plan);
  figures[SWITCHES] = (double)(after.switches - before.switches) / (double)plan_pages(plan);
  if (check) plan_check(plan, uffd_memory_address(memory));
  must(uffd_loop_close(loop));
  uffd_memory_close(memory);
  uffd_resolver_close(resolver);
}

static void restore_image(const struct plan *plan, bool check, double figures[FIGURES]) {
  uffd_resolver *resolver;
  must(uffd_image_resolver((uffd_image *)(uintptr_t)plan->special, &resolver));
  restore_from(plan, resolver, check, figures);
}

static void restore_raw(const struct plan *plan, bool check, double figures[FIGURES]) {
  uffd_resolver *resolver;
  must(uffd_resolver_file_fd(plan->image->fd, NULL, &resolver));
  restore_from(plan, resolver, check, figures);
}

/* At zstd's level 3, which is the default, and at -1: by one thread that decodes ahead, and by two. */
static void restore_rows(const char *name) {
  static const char *const names[] = {"threads, 1 decodes ahead", "threads, 2 decode ahead"};
  static const double targets[] = {2.2, 1.3};
  struct plan plans[5];
  struct contender list[5];
  for (int32_t i = 0; i < 4; i++) {
    plans[i] = plan_of(FORWARD, 1, open_with(layer_paths[i < 2 ? 0 : FAST], i % 2 + 1));
    plans[i].engine = UFFD_ENGINE_THREADS;
    list[i] = (struct contender){.run = restore_image, .plan = &plans[i]};
  }
  plans[4] = plan_of(FORWARD, 1, NULL);
  plans[4].engine = UFFD_ENGINE_THREADS;
  list[4] = (struct contender){.run = restore_raw, .plan = &plans[4]};
  struct row row = {.name = name, .unit = "ns/page", .limit_name = "the raw file, prefetched"};
  row.runs = RUNS_OF(list);
  row.limit = list[4].figures[MAIN];
  for (unsigned i = 0; i < 4; i++) {
    row.note[0] = '\0';
    row.unit = i < 2 ? "ns/page" : "ns/page, level -1";
    row.engine = names[i % 2];
    row.uffd = list[i].figures[MAIN];
    row.at_most = targets[i % 2];
    explain(&row, "all of it by prefetch, touched");
    explain_ratio(&row, plans[i].special);
    explain_usage(&row, "uffd", &list[i]);
    explain_usage(&row, "limit", &list[4]);
    report(&row);
    uffd_image_close((uffd_image *)(uintptr_t)plans[i].special);
  }
}

/* All of an image, in order: compressed, by one thread and by two, beside the raw file by one. */
void case_image_zstd(const char *name) {
  const struct plan packed = plan_of(FORWARD, 1, layers()->one), two = plan_of(FORWARD, 2, layers()->one);
  const struct plan raw = plan_of(FORWARD, 1, NULL);
  struct contender list[] = {{.run = serve_image, .plan = &packed},
                             {.run = serve_image, .plan = &two},
                             {.run = serve, .plan = &raw},
                             {.run = read_alone, .plan = &packed}};
  restore_rows(name);
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline", .limit_name = "the raw file, one thread"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.limit = list[2].figures[MAIN];
  row.base = list[3].figures[MAIN];
  row.base_name = "decoding alone";
  explain(&row, "touched in order, nothing is decoded ahead");
  explain_ratio(&row, layers()->one);
  explain_faults(&row, &list[0]);
  explain_usage(&row, "uffd", &list[0]);
  explain_usage(&row, "limit", &list[2]);
  report(&row);
  row.note[0] = '\0';
  row.uffd = list[1].figures[MAIN];
  row.engine = "inline, 2 threads";
  explain_usage(&row, "uffd", &list[1]);
  report(&row);
}

/*
 * Random pages, by a handler's thread: a compressed one brings its frame, 16 pages; a raw one comes alone, or with as
 * many.
 */
void case_image_fault(const char *name) {
  struct plan packed = plan_of(RANDOM, 1, layers()->one), raw = plan_of(RANDOM, 1, NULL);
  packed.around = UNIT;
  packed.engine = raw.engine = UFFD_ENGINE_THREADS;
  struct plan wide = raw;
  wide.around = UNIT;
  struct contender list[] = {
      {.run = serve_image, .plan = &packed}, {.run = serve, .plan = &raw}, {.run = serve, .plan = &wide}};
  struct row row = {.name = name, .unit = "ns/fault", .engine = "threads", .limit_name = "the raw file, a page"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.limit = list[1].figures[MAIN];
  row.base = list[2].figures[MAIN];
  row.base_name = "the raw file, 16 pages";
  row.at_most = 1.9;
  explain(&row, "a fault brings %u pages", (unsigned)(UNIT / PAGE));
  explain_usage(&row, "uffd", &list[0]);
  explain_usage(&row, "limit", &list[1]);
  report(&row);
}

/* A chain beside one file of the same contents, both compressed. */
static void chain_row(const char *name, enum order order) {
  struct plan chain = plan_of(order, 1, layers()->chain), one = plan_of(order, 1, layers()->one);
  if (order == RANDOM) chain.around = one.around = UNIT;
  struct contender list[] = {{.run = serve_image, .plan = &chain}, {.run = serve_image, .plan = &one}};
  struct row row = {.name = name, .unit = "ns/page", .engine = "inline", .limit_name = "one file"};
  row.runs = RUNS_OF(list);
  row.uffd = list[0].figures[MAIN];
  row.limit = list[1].figures[MAIN];
  row.at_most = 1.1;
  explain(&row, "%u layers, %s", DEPTH, order == RANDOM ? "random pages" : "in order");
  explain_faults(&row, &list[0]);
  explain_usage(&row, "uffd", &list[0]);
  explain_usage(&row, "limit", &list[1]);
  report(&row);
}

void case_image_chain(const char *name) {
  chain_row(name, FORWARD);
  chain_row(name, RANDOM);
}
