/* Decoding ahead: what a prefetch will ask for is decoded by threads of the image. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "imaging.h"

#define COUNT  UINT64_C(1024) /* pages: 16 slots of 256 KiB, twice what a queue has */
#define LENGTH (COUNT * PAGE + 100)

struct served {
  unsigned char *pages; /* what must be there; room for whole pages */
  uffd_image *image;
  uffd_resolver *resolver;
  uffd_memory *memory;
  uffd_loop *loop;
  uffd_region *region;
  const char *address;
};

/* Zero pages lie in the image, and frames end amid runs of others. */
static unsigned char *contents(void) {
  unsigned char *pages = imaging_pages(1, COUNT + 1);
  memset(pages + 100 * PAGE, 0, PAGE);
  memset(pages + 333 * PAGE, 0, 90 * PAGE);
  memset(pages + LENGTH, 0, (COUNT + 1) * PAGE - LENGTH);
  return pages;
}

static uffd_store *layer(const char *name, uffd_image *below, uint64_t frame) {
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  uffd_store *store = NULL;
  opts.length = below == NULL ? LENGTH : 0;
  opts.below = below;
  opts.frame_bytes = frame;
  CHECK_OK(uffd_store_layer(imaging_path(name), &opts, &store));
  return store;
}

static void finish(uffd_store *store) {
  CHECK_OK(uffd_store_finish(store));
  uffd_store_close(store);
}

static void write_image(const unsigned char *pages, uint64_t frame) {
  uffd_store *store = layer("one", NULL, frame);
  CHECK_OK(uffd_store_put(store, 0, UFFD_STORE_DATA, pages, LENGTH));
  finish(store);
}

static uffd_image *open_image(const char *name, int32_t decoders) {
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  const char *path = imaging_path(name);
  uffd_image *image = NULL;
  opts.decoders = decoders;
  CHECK_OK(uffd_image_open(&path, 1, &opts, &image));
  return image;
}

static void serve(struct served *served, const char *name, int32_t decoders, uint32_t engine) {
  struct uffd_loop_opts loop = UFFD_LOOP_OPTS_INIT;
  struct uffd_map_opts map = UFFD_MAP_OPTS_INIT;
  if (engine == UFFD_ENGINE_INLINE) check_inline(&loop);
  loop.engine = engine;
  served->image = open_image(name, decoders);
  CHECK_OK(uffd_image_resolver(served->image, &served->resolver));
  CHECK_OK(uffd_map((COUNT + 1) * PAGE, &map, &served->memory));
  CHECK_OK(uffd_loop_create(&loop, &served->loop));
  CHECK_OK(uffd_loop_add(served->loop, served->memory, served->resolver, NULL, &served->region));
  served->address = uffd_memory_address(served->memory);
}

static void end(struct served *served) {
  CHECK_OK(uffd_loop_close(served->loop));
  uffd_memory_close(served->memory);
  uffd_resolver_close(served->resolver);
  uffd_image_close(served->image);
}

static void holds_all(const struct served *served) {
  CHECK(memcmp(served->address, served->pages, (COUNT + 1) * PAGE) == 0);
}

static uffd_prefetch *start(const struct served *served) {
  uffd_prefetch *prefetch = NULL;
  CHECK_OK(uffd_region_prefetch_start(served->region, NULL, 0, NULL, &prefetch));
  return prefetch;
}

/* Any number of threads, frames that fill a slot or do not, each engine: the bytes are the image's. */
static void all_is_right(void) {
  static const uint32_t engines[] = {UFFD_ENGINE_THREADS, UFFD_ENGINE_INLINE};
  static const uint64_t frames[] = {20000, 65536, 262144, 524288 /* beyond a slot: handlers decode */};
  struct served served = {.pages = contents()};
  for (unsigned i = 0; i < 16; i++) {
    if (i % 4 == 0) write_image(served.pages, frames[i / 4]);
    int32_t decoders = i % 4 == 3 ? -1 : 1 << i % 4;
    serve(&served, "one", decoders, engines[i % 2]);
    CHECK_OK(uffd_region_prefetch(served.region, 0, 0));
    holds_all(&served);
    end(&served);
  }
  free(served.pages);
}

/* Parts that others have filled, parts that are asked for twice, many small ranges, and two regions of one handler. */
static void parts(void) {
  struct served served = {.pages = contents()};
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  struct uffd_map_opts map = UFFD_MAP_OPTS_INIT;
  struct uffd_range ranges[100];
  uffd_memory *other;
  uffd_region *region;
  uffd_prefetch *both[2] = {NULL, NULL};
  write_image(served.pages, 65536);
  serve(&served, "one", 2, UFFD_ENGINE_THREADS);
  opts.around = UFFD_AROUND_PAGE;
  CHECK_OK(uffd_map((COUNT + 1) * PAGE, &map, &other));
  CHECK_OK(uffd_loop_add(served.loop, other, served.resolver, &opts, &region));
  for (uint64_t i = 0; i < 100; i++) {
    ranges[i] = (struct uffd_range){i * 10 * PAGE, PAGE};
  }
  CHECK_OK(uffd_region_prefetch_start(region, ranges, 100, NULL, &both[0]));
  for (uint64_t page = 5; page < COUNT; page += 50) {
    CHECK(memcmp(served.address + page * PAGE, served.pages + page * PAGE, PAGE) == 0);
  }
  CHECK_EQ(uffd_prefetch_wait(both[0], -1), 1);
  uffd_prefetch_close(both[0]);
  CHECK_OK(uffd_region_prefetch_start(region, NULL, 0, NULL, &both[0]));
  both[1] = start(&served);
  for (unsigned i = 0; i < 2; i++) {
    CHECK_EQ(uffd_prefetch_wait(both[i], -1), 1);
    uffd_prefetch_close(both[i]);
  }
  holds_all(&served);
  CHECK(memcmp(uffd_memory_address(other), served.pages, (COUNT + 1) * PAGE) == 0);
  CHECK_OK(uffd_region_remove(region));
  uffd_memory_close(other);
  end(&served);
  free(served.pages);
}

/* An increment whose pages lie scattered over the base, and a writable layer on both. */
static void a_chain(void) {
  struct served served = {.pages = contents()};
  struct uffd_store_writable_opts opts = UFFD_STORE_WRITABLE_OPTS_INIT;
  write_image(served.pages, 65536);
  uffd_image *below = open_image("one", 0);
  uffd_store *store = layer("two", below, 0), *writable = NULL;
  for (uint64_t page = 3; page < COUNT; page += 7) {
    memset(served.pages + page * PAGE, (int)page, PAGE);
    CHECK_OK(uffd_store_put(store, page * PAGE, UFFD_STORE_DATA, served.pages + page * PAGE, PAGE));
  }
  finish(store);
  uffd_image_close(below);
  serve(&served, "two", 2, UFFD_ENGINE_THREADS);
  CHECK_OK(uffd_region_prefetch(served.region, 0, 0));
  holds_all(&served);
  CHECK_OK(uffd_region_remove(served.region));
  opts.below = served.image;
  CHECK_OK(uffd_store_writable(imaging_path("top"), &opts, &writable));
  for (uint64_t page = 11; page < COUNT; page += 200) {
    memset(served.pages + page * PAGE, 77, 3 * PAGE);
    CHECK_OK(uffd_store_put(writable, page * PAGE, UFFD_STORE_DATA, served.pages + page * PAGE, 3 * PAGE));
  }
  uffd_resolver_close(served.resolver);
  CHECK_OK(uffd_store_resolver(writable, &served.resolver));
  uffd_memory_close(served.memory);
  struct uffd_map_opts map = UFFD_MAP_OPTS_INIT;
  CHECK_OK(uffd_map((COUNT + 1) * PAGE, &map, &served.memory));
  CHECK_OK(uffd_loop_add(served.loop, served.memory, served.resolver, NULL, &served.region));
  served.address = uffd_memory_address(served.memory);
  CHECK_OK(uffd_region_prefetch(served.region, 0, 0));
  holds_all(&served);
  uffd_store_close(writable);
  end(&served);
  free(served.pages);
}

/* A prefetch that has told what it wants, and a thread that is held when it decodes the first of it. */
static uffd_prefetch *start_held(const struct served *served) {
  check_barrier_hold("decoding ahead");
  check_barrier_hold("asking"); /* else the handler may have decoded all before a thread has woken */
  uffd_prefetch *prefetch = start(served);
  check_barrier_await("asking");
  check_barrier_await("decoding ahead");
  check_barrier_release("asking");
  return prefetch;
}

/* Whoever waits for a page has it while a thread still decodes it ahead, and the prefetch goes on when that is done. */
static void a_fault_does_not_wait(void) {
  struct served served = {.pages = contents()};
  write_image(served.pages, 65536);
  serve(&served, "one", 1, UFFD_ENGINE_THREADS);
  uffd_prefetch *prefetch = start_held(&served);
  for (uint64_t page = COUNT; page > 0; page -= 64) {
    CHECK(memcmp(served.address + (page - 1) * PAGE, served.pages + (page - 1) * PAGE, PAGE) == 0);
  }
  check_barrier_release("decoding ahead");
  CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
  uffd_prefetch_close(prefetch);
  holds_all(&served);
  end(&served);
  free(served.pages);
}

static void *close_loop(void *argument) {
  const struct served *served = argument;
  CHECK_OK(uffd_loop_close(served->loop));
  return NULL;
}

/* The loop, with the handler and its queue, goes when the thread that decodes for it has come back. */
static void closing_meanwhile(void) {
  struct served served = {.pages = contents()};
  pthread_t closer;
  write_image(served.pages, 65536);
  serve(&served, "one", 1, UFFD_ENGINE_THREADS);
  uffd_prefetch *prefetch = start_held(&served);
  check_barrier_hold("leaving ahead");
  uffd_prefetch_close(prefetch);
  CHECK_EQ(pthread_create(&closer, NULL, close_loop, &served), 0);
  check_barrier_await("leaving ahead");
  check_barrier_release("leaving ahead");
  check_barrier_release("decoding ahead");
  pthread_join(closer, NULL);
  uffd_memory_close(served.memory);
  uffd_resolver_close(served.resolver);
  uffd_image_close(served.image);
  free(served.pages);
}

/* What was decoded for a prefetch that is over costs no memory. */
static void memory_is_given_back(void) {
  struct served served = {.pages = contents()};
  write_image(served.pages, 65536);
  serve(&served, "one", 1, UFFD_ENGINE_THREADS);
  check_barrier_hold("ahead tidied");
  uffd_prefetch *prefetch = start(&served);
  check_barrier_await("ahead tidied");
  check_barrier_release("ahead tidied");
  CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
  uffd_prefetch_close(prefetch);
  holds_all(&served);
  end(&served);
  free(served.pages);
}

/* The handler says what is wrong with a frame that a thread could not decode; all others are right. */
static void damage(void) {
  struct served served = {.pages = contents()};
  char words[2][1024];
  for (unsigned i = 0; i < 2; i++) {
    struct zstd_file file = {.checksums = true};
    zstd_file_frames(&file, served.pages, (COUNT + 1) * PAGE, 16 * PAGE);
    file.bytes.at[file.bytes.length / 2] ^= 0x55; /* of some frame in the middle */
    zstd_file_finish(&file, imaging_path("damaged"));
    serve(&served, "damaged", i == 0 ? -1 : 2, UFFD_ENGINE_THREADS);
    CHECK_EQ(uffd_region_prefetch(served.region, 0, 0), -EIO);
    snprintf(words[i], sizeof(words[i]), "%s", uffd_errmsg());
    CHECK(memcmp(served.address, served.pages, 256 * PAGE) == 0);
    CHECK(memcmp(served.address + 800 * PAGE, served.pages + 800 * PAGE, (COUNT - 800) * PAGE) == 0);
    end(&served);
  }
  CHECK(strcmp(words[0], words[1]) == 0);
  free(served.pages);
}

/* A forked child has the handle, and no threads: it ends its copy, and the parent's goes on. */
static void a_child_ends_its_copy(void) {
  struct served served = {.pages = contents()};
  int status;
  write_image(served.pages, 65536);
  serve(&served, "one", 2, UFFD_ENGINE_THREADS);
  pid_t child = fork();
  if (child == 0) {
    uffd_loop_close(served.loop);
    uffd_resolver_close(served.resolver);
    uffd_image_close(served.image);
    _exit(0);
  }
  CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
  CHECK_OK(uffd_region_prefetch(served.region, 0, 0));
  holds_all(&served);
  end(&served);
  free(served.pages);
}

static void wrong_numbers(void) {
  unsigned char *pages = contents();
  const char *path = imaging_path("one");
  write_image(pages, 65536);
  for (int32_t i = 0; i < 2; i++) {
    struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
    uffd_image *image = NULL;
    opts.decoders = i == 0 ? -2 : (int32_t)UFFD_IMAGE_DECODERS + 1;
    CHECK_ERR(uffd_image_open(&path, 1, &opts, &image), -EINVAL);
    CHECK(image == NULL && strstr(uffd_errmsg(), "decode ahead") != NULL);
  }
  free(pages);
}

static const struct check_test tests[] = {
    TEST(all_is_right),
    TEST(parts),
    TEST(a_chain),
    TEST(a_fault_does_not_wait),
    TEST(closing_meanwhile),
    TEST(memory_is_given_back),
    TEST(damage),
    TEST(a_child_ends_its_copy),
    TEST(wrong_numbers),
};
CHECK_MAIN(tests)
