/*
 * Images that are written: pages that are put in any order come back, and the digests are right. Random chains of
 * increments are compared with a model. Sidecars, copies. A failure at any moment leaves nothing behind.
 */
#define _GNU_SOURCE
#include "imaging.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "resolving.h"

static uffd_store *layer_store(const char *name, uint64_t length, uffd_image *below, uint32_t flags, uint32_t digest) {
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  uffd_store *store = NULL;
  opts.length = length;
  opts.below = below;
  opts.flags = flags;
  opts.digest = digest;
  CHECK_OK(uffd_store_layer(imaging_path(name), &opts, &store));
  return store;
}

static void put(uffd_store *store, uint64_t page, const void *data, uint64_t length) {
  CHECK_OK(uffd_store_put(store, page * PAGE, UFFD_STORE_DATA, data, length));
}

static void finish(uffd_store *store) {
  CHECK_OK(uffd_store_finish(store));
  uffd_store_close(store);
}

static struct uffd_image_layer top_of(uffd_image *image) {
  struct uffd_image_info info = UFFD_IMAGE_INFO_INIT;
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_info(image, &info));
  CHECK_OK(uffd_image_layer(image, info.layers - 1, &layer));
  return layer;
}

static void verified(uffd_image *image) {
  CHECK_EQ(uffd_image_verify(image, NULL), 0);
}

static unsigned files(const char *pattern) {
  char command[128];
  snprintf(command, sizeof(command), "test $(ls -A | grep -c '%s') = 0", pattern);
  return imaging_run(command) != 0;
}

/* Whole images */

#define COUNT  UINT64_C(437)
#define LENGTH (COUNT * PAGE + 100)

static unsigned char *contents(void) {
  unsigned char *pages = imaging_pages(1, COUNT + 1);
  memset(pages + 100 * PAGE, 0, PAGE);
  memset(pages + 160 * PAGE, 0, 48 * PAGE);
  return pages;
}

static void a_whole_image(void) {
  unsigned char *pages = contents();
  for (uint32_t digest = UFFD_DIGEST_XXH3; digest <= UFFD_DIGEST_SHA256; digest++) {
    uffd_store *store = layer_store("whole", LENGTH, NULL, 0, digest);
    put(store, 0, pages, LENGTH);
    finish(store);
    uffd_image *image = imaging_open(imaging_path("whole"), NULL, NULL);
    imaging_expect(image, pages, LENGTH);
    verified(image);
    struct uffd_image_layer layer = top_of(image);
    CHECK_EQ(layer.format, UFFD_IMAGE_INDEXED);
    CHECK_EQ(layer.digest, digest);
    CHECK_EQ(layer.bytes[UFFD_IMAGE_ZERO], 49 * PAGE);
    CHECK_EQ(layer.stream_bytes, LENGTH - 49 * PAGE);
    CHECK_EQ(layer.generation, 0);
    CHECK(layer.time_ns != 0 && layer.checksums == 1);
    uffd_image_close(image);
  }
  free(pages);
}

/* The id is the contents': not the order, the frames or the level. */
static void any_order(void) {
  unsigned char *pages = contents(), ids[2][32];
  struct view_random random = view_seed();
  for (unsigned i = 0; i < 2; i++) {
    struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
    uffd_store *store = NULL;
    opts.length = LENGTH;
    opts.level = i == 0 ? 0 : -1;
    opts.frame_bytes = i == 0 ? 0 : 20000;
    CHECK_OK(uffd_store_layer(imaging_path("layer"), &opts, &store));
    put(store, 0, pages + PAGE, 300 * PAGE); /* wrong ones, put anew below */
    CHECK_OK(uffd_store_put(store, 300 * PAGE, UFFD_STORE_ZERO, NULL, LENGTH - 300 * PAGE));
    for (unsigned n = 0; n < 3000 && i == 1; n++) {
      uint64_t page = view_next(&random, COUNT);
      put(store, page, pages + page * PAGE, PAGE);
    }
    for (uint64_t page = COUNT + 1; page > 0; page--) {
      put(store, page - 1, pages + (page - 1) * PAGE, page == COUNT + 1 ? 100 : PAGE);
    }
    finish(store);
    uffd_image *image = imaging_open(imaging_path("layer"), NULL, NULL);
    imaging_expect(image, pages, LENGTH);
    verified(image);
    memcpy(ids[i], top_of(image).id, 32);
    uffd_image_close(image);
  }
  CHECK(memcmp(ids[0], ids[1], 32) == 0);
  free(pages);
}

static void what_is_not_put_is_zero(void) {
  unsigned char *pages = imaging_pages(5, 1), *expected = calloc(COUNT, PAGE);
  CHECK(expected != NULL);
  uffd_store *store = layer_store("layer", COUNT * PAGE, NULL, 0, 0);
  put(store, 77, pages, PAGE);
  finish(store);
  memcpy(expected + 77 * PAGE, pages, PAGE);
  uffd_image *image = imaging_open(imaging_path("layer"), NULL, NULL);
  imaging_expect(image, expected, COUNT * PAGE);
  verified(image);
  uffd_image_close(image);
  store = layer_store("empty", PAGE, NULL, 0, 0);
  finish(store);
  memset(expected, 0, PAGE);
  image = imaging_open(imaging_path("empty"), NULL, NULL);
  imaging_expect(image, expected, PAGE);
  verified(image);
  uffd_image_close(image);
  free(expected);
  free(pages);
}

static void the_zstd_program_reads_it(void) {
  if (system("command -v zstd >/dev/null") != 0) SKIP("zstd is not installed"); /* NOLINT(cert-env33-c) */
  unsigned char *pages = contents();
  imaging_write(imaging_path("raw"), pages, LENGTH);
  uffd_store *store = layer_store("ours.zst", LENGTH, NULL, UFFD_STORE_PLAIN, 0);
  put(store, 0, pages, 170 * PAGE);
  CHECK_OK(uffd_store_put(store, 170 * PAGE, UFFD_STORE_ZERO, NULL, 10 * PAGE));
  put(store, 180, pages + 180 * PAGE, LENGTH - 180 * PAGE);
  finish(store);
  uffd_image *image = imaging_open(imaging_path("ours.zst"), NULL, NULL);
  CHECK_EQ(top_of(image).bytes[UFFD_IMAGE_ZERO], 49 * PAGE);
  imaging_expect(image, pages, LENGTH);
  verified(image);
  uffd_image_close(image);
  CHECK_EQ(imaging_run("zstd -q -t ours.zst && zstd -q -d ours.zst -o back && cmp raw back"), 0);
  free(pages);
}

/* Increments */

static void as_below_by_comparing(void) {
  unsigned char *pages = imaging_pages(1, 256);
  uffd_store *store = layer_store("base", 256 * PAGE, NULL, 0, 0);
  put(store, 0, pages, 256 * PAGE);
  finish(store);
  uffd_image *base = imaging_open(imaging_path("base"), NULL, NULL);
  pages[3 * PAGE + 5] = 99;
  memset(pages + 7 * PAGE, 0, PAGE);
  store = layer_store("top", 0, base, UFFD_STORE_COMPARE, 0);
  put(store, 0, pages, 256 * PAGE);
  finish(store);
  uffd_image_close(base);
  uffd_image *image = imaging_open(imaging_path("top"), NULL, NULL);
  imaging_expect(image, pages, 256 * PAGE);
  verified(image);
  struct uffd_image_layer layer = top_of(image);
  CHECK_EQ(layer.bytes[UFFD_IMAGE_DATA], PAGE);
  CHECK_EQ(layer.bytes[UFFD_IMAGE_ZERO], PAGE);
  CHECK_EQ(layer.generation, 1);
  CHECK(strcmp(layer.parent, "base") == 0);
  uffd_image_close(image);
  free(pages);
}

/* Lengths that differ, and end within a page; what is beyond the lower end is zero, whatever was never put. */
static void other_lengths(void) {
  unsigned char *pages = imaging_pages(1, 64), *expected = calloc(80, PAGE);
  CHECK(expected != NULL);
  uffd_store *store = layer_store("base", 40 * PAGE + 100, NULL, 0, 0);
  put(store, 0, pages, 40 * PAGE + 100);
  finish(store);
  uffd_image *base = imaging_open(imaging_path("base"), NULL, NULL);
  const uint64_t lengths[] = {40 * PAGE + 100, 40 * PAGE + 101, 40 * PAGE + 99, 41 * PAGE, 70 * PAGE + 3, 3 * PAGE, 9};
  for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
    store = layer_store("top", lengths[i], base, 0, 0);
    if (i % 2 == 1) CHECK_OK(uffd_store_put(store, 0, UFFD_STORE_BELOW, NULL, PAGE < lengths[i] ? PAGE : lengths[i]));
    finish(store);
    memset(expected, 0, 80 * PAGE);
    memcpy(expected, pages, lengths[i] < 40 * PAGE + 100 ? lengths[i] : 40 * PAGE + 100);
    uffd_image *image = imaging_open(imaging_path("top"), NULL, NULL);
    imaging_expect(image, expected, lengths[i]);
    verified(image);
    uffd_image_close(image);
  }
  store = layer_store("top", 70 * PAGE, base, 0, 0);
  CHECK_ERR(uffd_store_put(store, 41 * PAGE, UFFD_STORE_BELOW, NULL, PAGE), -EINVAL);
  CHECK_SAYS("the image below");
  uffd_store_close(store);
  uffd_image_close(base);
  free(expected);
  free(pages);
}

#define DEPTH 12u
#define MODEL UINT64_C(300) /* pages */

/* Each layer changes pages at random: data, zeros, as below, data that is as below. */
static void change(uffd_store *store, struct view_random *random, unsigned char *model, const unsigned char *before,
                   uint64_t length) {
  uint64_t count = length / PAGE;
  for (unsigned n = 0; n < 40; n++) {
    uint64_t page = view_next(random, count), run = 1 + view_next(random, 20);
    if (run > count - page) run = count - page;
    unsigned char *at = model + page * PAGE;
    switch (view_next(random, 4)) {
    case 0:
      memset(at, 0, run * PAGE);
      CHECK_OK(uffd_store_put(store, page * PAGE, UFFD_STORE_ZERO, NULL, run * PAGE));
      break;
    case 1:
      if (before == NULL) break;
      memcpy(at, before + page * PAGE, run * PAGE);
      CHECK_OK(uffd_store_put(store, page * PAGE, UFFD_STORE_BELOW, NULL, run * PAGE));
      break;
    default:
      for (uint64_t i = 0; i < run * PAGE / 4; i++) {
        ((uint32_t *)(void *)at)[i] = (uint32_t)view_next(random, 1 << 20);
      }
      put(store, page, at, run * PAGE);
    }
  }
}

static void a_chain_of_random_layers(void) {
  struct view_random random = view_seed();
  unsigned char *model = calloc(MODEL + 1, PAGE), *before = calloc(MODEL + 1, PAGE);
  CHECK(model != NULL && before != NULL);
  uffd_image *image = NULL;
  uint64_t length = MODEL * PAGE + 123;
  for (unsigned depth = 0; depth < DEPTH; depth++) {
    char name[16];
    snprintf(name, sizeof(name), "layer%u", depth);
    uint32_t flags = depth > 0 && view_next(&random, 2) == 0 ? UFFD_STORE_COMPARE : 0;
    memcpy(before, model, (MODEL + 1) * PAGE);
    uffd_store *store = layer_store(name, length, image, flags, 0);
    change(store, &random, model, image == NULL ? NULL : before, length);
    finish(store);
    uffd_image_close(image);
    image = imaging_open(imaging_path(name), NULL, NULL);
    verified(image);
    if (depth % 4 == 3) imaging_expect(image, model, length);
  }
  uffd_store *store = layer_store("flat", length, NULL, 0, 0);
  CHECK_OK(uffd_image_copy(image, store, NULL));
  finish(store);
  uffd_image *flat = imaging_open(imaging_path("flat"), NULL, NULL);
  imaging_expect(flat, model, length);
  CHECK(memcmp(top_of(flat).id, top_of(image).id, 32) == 0);
  uffd_image_close(flat);

  /* The upper half of the chain as one layer on the lower half. */
  uffd_image *lower = imaging_open(imaging_path("layer5"), NULL, NULL);
  struct uffd_image_copy_opts copy = UFFD_IMAGE_COPY_OPTS_INIT;
  copy.from_layer = 6;
  store = layer_store("upper", length, lower, 0, 0);
  CHECK_OK(uffd_image_copy(image, store, &copy));
  finish(store);
  uffd_image_close(lower);
  uffd_image_close(image);
  image = imaging_open(imaging_path("upper"), NULL, NULL);
  CHECK_EQ(top_of(image).generation, 6);
  imaging_expect(image, model, length);
  verified(image);
  uffd_image_close(image);
  free(before);
  free(model);
}

static int stop_at_once(void *ctx, uint64_t done, uint64_t total) {
  *(uint64_t *)ctx = done;
  return total > 0;
}

static void copies(void) {
  unsigned char *pages = contents();
  uint64_t done = 1;
  imaging_write(imaging_path("raw"), pages, LENGTH);
  uffd_image *image = imaging_open(imaging_path("raw"), NULL, NULL);
  uffd_store *store = NULL;
  CHECK_OK(uffd_store_file(imaging_path("copy"), LENGTH, &store));
  CHECK_OK(uffd_image_copy(image, store, NULL));
  finish(store);
  CHECK_EQ(imaging_run("cmp raw copy"), 0);
  struct uffd_image_copy_opts opts = UFFD_IMAGE_COPY_OPTS_INIT;
  opts.progress = stop_at_once;
  opts.progress_ctx = &done;
  CHECK_OK(uffd_store_file(imaging_path("copy"), LENGTH, &store));
  CHECK_ERR(uffd_image_copy(image, store, &opts), -ECANCELED);
  CHECK_EQ(done, 0);
  uffd_store_close(store);
  uffd_image_close(image);
  free(pages);
}

/* Sidecars, and checking */

static void a_sidecar(void) {
  unsigned char *pages = contents();
  imaging_write(imaging_path("raw"), pages, LENGTH);
  CHECK_OK(uffd_image_index(imaging_path("raw"), NULL));
  uffd_image *image = imaging_open(imaging_path("raw"), NULL, NULL);
  struct uffd_image_layer layer = top_of(image);
  CHECK_EQ(layer.format, UFFD_IMAGE_SIDECAR);
  CHECK_EQ(layer.bytes[UFFD_IMAGE_ZERO], 49 * PAGE);
  imaging_expect(image, pages, LENGTH);
  verified(image);
  uffd_store *store = layer_store("whole", LENGTH, NULL, 0, 0);
  put(store, 0, pages, LENGTH);
  finish(store);
  uffd_image *whole = imaging_open(imaging_path("whole"), NULL, NULL);
  CHECK(memcmp(top_of(whole).id, layer.id, 32) == 0); /* so that it may stand in for the raw file */
  uffd_image_close(whole);
  uffd_image_close(image);
  CHECK_ERR(uffd_image_index(imaging_path("whole"), NULL), -EINVAL);
  imaging_write(imaging_path("raw.uidx"), "damaged", 7);
  CHECK_OK(uffd_image_index(imaging_path("raw"), NULL));
  uffd_image_close(imaging_open(imaging_path("raw"), NULL, NULL));
  free(pages);
}

static void date(const char *path, time_t seconds, long ns) {
  const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = seconds, .tv_nsec = ns}};
  CHECK_EQ(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* What a sidecar calls zero is not read: it is of no use for a file that was written to since. */
static void a_sidecar_that_is_too_old(void) {
  unsigned char *pages = contents();
  const char *raw = imaging_path("raw"), *sidecar = imaging_path("raw.uidx");
  imaging_write(raw, pages, LENGTH);
  CHECK_OK(uffd_image_index(raw, NULL));
  date(sidecar, 1000000, 5);
  date(raw, 1000000, 5);
  uffd_image_close(imaging_open(raw, NULL, NULL));
  date(raw, 1000000, 6);
  imaging_refused(raw, NULL, ESTALE, "written to after its index");
  date(raw, 1000001, 0);
  imaging_refused(raw, NULL, ESTALE, "image index");
  date(raw, time(NULL) + 100000, 7); /* the clock was set back since */
  CHECK_OK(uffd_image_index(raw, NULL));
  uffd_image *image = imaging_open(raw, NULL, NULL);
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  free(pages);
}

struct problems {
  unsigned count;
  uint64_t offset, length;
  char sentence[512];
};

static void note(void *ctx, uint64_t offset, uint64_t length, const char *sentence) {
  struct problems *problems = ctx;
  problems->count++;
  problems->offset = offset;
  problems->length = length;
  snprintf(problems->sentence, sizeof(problems->sentence), "%s", sentence);
}

/* An image whose file was written to behind its index, and has the old date, as a disk that forgets would leave it. */
static uffd_image *open_written_behind(const unsigned char *pages, const void *bytes, size_t length, uint64_t offset) {
  imaging_write(imaging_path("raw"), pages, LENGTH);
  CHECK_OK(uffd_image_index(imaging_path("raw"), NULL));
  int fd = open(imaging_path("raw"), O_WRONLY | O_CLOEXEC);
  CHECK_EQ(pwrite(fd, bytes, length, (off_t)offset), length);
  CHECK_EQ(close(fd), 0);
  date(imaging_path("raw"), 1000000, 0);
  return imaging_open(imaging_path("raw"), NULL, NULL);
}

static void damage_is_found(void) {
  unsigned char *pages = contents();
  struct problems problems = {0};
  struct uffd_image_verify_opts opts = UFFD_IMAGE_VERIFY_OPTS_INIT;
  opts.problem = note;
  opts.problem_ctx = &problems;
  const unsigned char other = pages[50 * PAGE] ^ 1;
  uffd_image *image = open_written_behind(pages, &other, 1, 50 * PAGE);
  CHECK_EQ(uffd_image_verify(image, &opts), 1);
  CHECK_EQ(problems.count, 1);
  CHECK_EQ(problems.offset, 48 * PAGE);
  CHECK_EQ(problems.length, 65536);
  CHECK(strstr(problems.sentence, "raw") != NULL);
  opts.sample = 1;
  CHECK_EQ(uffd_image_verify(image, &opts), 0);
  uffd_image_close(image);
  free(pages);
}

/* Data where the sidecar says zeros, which no digest of what is served shows. */
static void data_instead_of_zeros_are_found(void) {
  unsigned char *pages = contents();
  struct problems problems = {0};
  struct uffd_image_verify_opts opts = UFFD_IMAGE_VERIFY_OPTS_INIT;
  opts.problem = note;
  opts.problem_ctx = &problems;
  uffd_image *image = open_written_behind(pages, "x", 1, 100 * PAGE + 9);
  CHECK_EQ(uffd_image_verify(image, &opts), 1);
  CHECK_EQ(problems.offset, 96 * PAGE);
  CHECK(strstr(problems.sentence, "raw has data at offset 409600") != NULL);
  uffd_image_close(image);
  free(pages);
}

/* What goes wrong */

static void wrong_options(void) {
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  uffd_store *store = NULL;
  const char *path = imaging_path("layer");
  CHECK_ERR(uffd_store_layer(path, &opts, &store), -EINVAL);
  CHECK_ERR(uffd_store_layer(NULL, &opts, &store), -EINVAL);
  opts.length = UINT64_MAX;
  CHECK_ERR(uffd_store_layer(path, &opts, &store), -EFBIG);
  opts.length = PAGE;
  opts.page_size = 5000;
  CHECK_ERR(uffd_store_layer(path, &opts, &store), -EINVAL);
  opts.page_size = 0;
  opts.level = 23;
  CHECK_ERR(uffd_store_layer(path, &opts, &store), -EINVAL);
  opts.level = 0;
  opts.flags = UFFD_STORE_COMPARE;
  CHECK_ERR(uffd_store_layer(path, &opts, &store), -EINVAL);
  opts.flags = 0;
  opts.parent = "../x";
  CHECK_ERR(uffd_store_layer(path, &opts, &store), -EINVAL);
  opts.parent = NULL;
  unsigned char *pages = imaging_pages(1, 1);
  imaging_write(imaging_path("raw"), pages, PAGE);
  opts.below = imaging_open(imaging_path("raw"), NULL, NULL);
  CHECK_ERR(uffd_store_layer(path, &opts, &store), -EINVAL);
  CHECK_SAYS("image index");
  uffd_image_close(opts.below);
  opts.below = NULL;
  opts.length = 3 * PAGE;
  CHECK_OK(uffd_store_layer(path, &opts, &store));
  CHECK_ERR(uffd_store_put(store, 100, UFFD_STORE_ZERO, NULL, PAGE), -EINVAL);
  CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_ZERO, NULL, 100), -EINVAL);
  CHECK_ERR(uffd_store_put(store, 2 * PAGE, UFFD_STORE_ZERO, NULL, 2 * PAGE), -EINVAL);
  CHECK_ERR(uffd_store_put(store, 0, UFFD_STORE_BELOW, NULL, PAGE), -EINVAL);
  uffd_store_close(store);
  CHECK(!files("layer"));
  free(pages);
}

/* A limit stands for a full disk: at any moment of writing, what was there before stays, and nothing is left beside. */
static void no_room(void) {
  unsigned char *pages = contents();
  struct rlimit limit;
  uffd_store *store = layer_store("layer", PAGE, NULL, 0, 0);
  put(store, 0, pages, PAGE);
  finish(store);
  signal(SIGXFSZ, SIG_IGN);
  CHECK_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  rlim_t max = limit.rlim_max;
  for (rlim_t room = 0, failed = 1; failed != 0; room += 1999) {
    limit = (struct rlimit){room, max};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    store = layer_store("layer", LENGTH, NULL, 0, 0);
    int result = uffd_store_put(store, 0, UFFD_STORE_DATA, pages, LENGTH);
    int finished = uffd_store_finish(store);
    uffd_store_close(store);
    CHECK(finished < 0 || result == 0);
    failed = finished < 0;
    limit = (struct rlimit){max, max};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    uffd_image *image = imaging_open(imaging_path("layer"), NULL, NULL);
    if (failed) imaging_expect(image, pages, PAGE);
    if (!failed) imaging_expect(image, pages, LENGTH);
    uffd_image_close(image);
    CHECK(!files("layer\\."));
  }
  free(pages);
}

/* 16 pages of text, the same each time. */
static uint64_t packed_bytes(int32_t level) {
  static const char *const words[] = {"page ", "fault ", "memory ", "is ", "not ", "there ", "yet ", "and "};
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  char text[16 * PAGE + 8];
  uint64_t draw = 1;
  uffd_store *store = NULL;
  for (size_t at = 0; at < 16 * PAGE;) {
    draw = draw * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    const char *word = words[draw >> 61];
    memcpy(text + at, word, strlen(word)); /* NOLINT(bugprone-not-null-terminated-result): more words follow */
    at += strlen(word);
  }
  opts.length = 16 * PAGE;
  opts.level = level;
  CHECK_OK(uffd_store_layer(imaging_path("packed"), &opts, &store));
  put(store, 0, text, 16 * PAGE);
  finish(store);
  uffd_image *image = imaging_open(imaging_path("packed"), NULL, NULL);
  uint64_t bytes = top_of(image).file_bytes;
  uffd_image_close(image);
  return bytes;
}

/* Without a level it is zstd's own, 3. */
static void the_level(void) {
  uint64_t plain = packed_bytes(0);
  CHECK_EQ(plain, packed_bytes(3));
  CHECK(plain < packed_bytes(-1));
}

static const struct check_test tests[] = {
    TEST(a_whole_image),
    TEST(any_order),
    TEST(the_level),
    TEST(what_is_not_put_is_zero),
    TEST(the_zstd_program_reads_it),
    TEST(as_below_by_comparing),
    TEST(other_lengths),
    TEST(a_chain_of_random_layers),
    TEST(copies),
    TEST(a_sidecar),
    TEST(a_sidecar_that_is_too_old),
    TEST(damage_is_found),
    TEST(data_instead_of_zeros_are_found),
    TEST(wrong_options),
    TEST(no_room),
};
CHECK_MAIN(tests)
