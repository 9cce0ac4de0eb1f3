/* Regions behind the user's own object, and what the loop makes of events: dropped, unmapped and moved ranges. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "serving.h"

static uffd_object *open_object(uint64_t features, uint32_t flags) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  uffd_object *object = NULL;
  check_needs(features);
  opts.features = features;
  opts.flags = flags;
  CHECK_OK(uffd_open(&opts, &object));
  return object;
}

/* One that the loop can read. */
static uffd_object *open_for(const struct serving *serving, uint64_t features) {
  return open_object(features | (serving_is_inline(serving) ? UFFD_FEAT_SIGBUS : 0), 0);
}

static uffd_region *serve(uffd_loop *loop, uffd_memory *memory, uffd_object *object) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.object = object;
  return region_add(loop, memory, image_resolver(uffd_memory_length(memory)), &opts);
}

/* Whose it is */

static void the_loop_reads_it_and_leaves_it_open(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct serving serving;
    uint64_t page = check_page();
    serving_open(&serving, engine, NULL);
    uffd_object *object = open_for(&serving, 0);
    bool inlined = serving_is_inline(&serving);
    uffd_memory *memory = memory_make(MEMORY_MEMFD, 1100);
    serve(serving.loop, memory, object);
    CHECK_ERR(uffd_loop_user_mode_only(serving.loop), -ENOENT); /* no need for its own */
    serving_start(&serving);
    for (uint64_t i = 0; i < 1100; i += 100) {
      CHECK(image_there(memory_at(memory, i * page), i * page, page));
    }
    serving_close(&serving);
    CHECK(!memory_has(memory, 0, "um"));
    CHECK_OK(uffd_register(object, CHECK_ADDRESS(memory_at(memory, page)), page, UFFD_MODE_MISSING, NULL));
    if (inlined) {
      CHECK_EQ(check_access(memory_at(memory, page), false, NULL), SIGBUS); /* nobody answers now */
    } else {
      struct check_touch touch;
      check_touch_read(&touch, memory_at(memory, page));
      struct uffd_event event = check_fault(object);
      CHECK_OK(uffd_zeropage(object, event.address, page, 0, NULL));
      CHECK_EQ(check_touch_join(&touch), 0);
    }
    uffd_close(object);
    uffd_memory_close(memory);
  }
}

/* Two readers would take each other's faults, and answer them as faults of no region. */
static void one_handler_reads_it_for_all_its_regions(void) {
  struct serving serving;
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_FIVE, NULL);
  uffd_object *object = open_for(&serving, 0);
  uffd_memory *memories[4], *other = memory_make(MEMORY_ANON, 64);
  for (unsigned i = 0; i < 4; i++) {
    memories[i] = memory_make(MEMORY_ANON, 256);
    serve(serving.loop, memories[i], object);
    if (i == 1) serve(serving.loop, other, NULL);
  }
  uffd_memory *gone = memory_make(MEMORY_ANON, 1);
  CHECK_OK(uffd_region_remove(serve(serving.loop, gone, object)));
  for (uint64_t at = 0; at < 256; at++) {
    for (unsigned i = 0; i < 4; i++) {
      CHECK_EQ(*memory_at(memories[i], at * page), image_byte(at * page));
    }
  }
  CHECK(image_there(memory_at(other, 0), 0, 64 * page));
  CHECK_EQ(serving_stats(serving.loop).copied, 4 * 256 + 64);
  serving_close(&serving);
  uffd_close(object);
  for (unsigned i = 0; i < 4; i++) {
    uffd_memory_close(memories[i]);
  }
  uffd_memory_close(other);
  uffd_memory_close(gone);
}

/* An object that a loop refused stays its owner's: after it is closed, its number may become another file's. */
static void after_a_refusal_it_is_left_alone(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct serving serving;
    uint64_t page = check_page();
    serving_open(&serving, engine, NULL);
    uffd_object *object = open_for(&serving, 0), *owner = open_object(0, 0);
    uffd_memory *taken = memory_make(MEMORY_ANON, 4), *free_one = memory_make(MEMORY_ANON, 4);
    CHECK_OK(uffd_register(owner, CHECK_ADDRESS(memory_at(taken, page)), page, UFFD_MODE_MISSING, NULL));
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    opts.object = object;
    uffd_resolver *image = image_resolver(4 * page);
    uffd_region *region = (uffd_region *)&opts;
    CHECK_ERR(uffd_loop_add(serving.loop, taken, image, &opts, &region), -EBUSY);
    CHECK_SAYS("another userfaultfd");
    CHECK(region == NULL);
    int fd = CHECK_OK(uffd_fd(object));
    uffd_close(object);
    int event = eventfd(7, EFD_NONBLOCK | EFD_CLOEXEC);
    if (event != fd) CHECK_EQ(dup3(event, fd, O_CLOEXEC), fd);
    serving_start(&serving);
    serving_pause(&serving);
    serve(serving.loop, free_one, NULL);
    serving_start(&serving);
    CHECK(image_there(memory_at(free_one, 0), 0, 4 * page));
    serving_pause(&serving);
    uint64_t value = 0;
    CHECK_EQ(read(fd, &value, sizeof(value)), sizeof(value)); /* nobody else has read it */
    CHECK_EQ(value, 7);
    uffd_close(owner);
    serve(serving.loop, taken, NULL); /* the refusal left nothing behind */
    serving_start(&serving);
    CHECK(image_there(memory_at(taken, 0), 0, 4 * page));
    serving_close(&serving);
    uffd_resolver_close(image);
    uffd_memory_close(taken);
    uffd_memory_close(free_one);
    close(event);
    close(fd);
  }
}

static void objects_that_a_loop_cannot_read(void) {
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, 1);
  uffd_resolver *image = image_resolver(check_page());
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.object = open_object(0, UFFD_OPEN_BLOCKING);
  CHECK_ERR(uffd_loop_add(serving.loop, memory, image, &opts, NULL), -EINVAL);
  CHECK_SAYS("UFFD_OPEN_BLOCKING");
  uffd_close(opts.object);
  opts.object = open_object(serving_inline() ? 0 : UFFD_FEAT_SIGBUS, 0); /* the other engine's */
  CHECK_ERR(uffd_loop_add(serving.loop, memory, image, &opts, NULL), -EINVAL);
  CHECK_SAYS("sigbus");
  uffd_close(opts.object);
  opts.object = open_object(UFFD_FEAT_WP_ASYNC, 0);
  CHECK_ERR(uffd_loop_add(serving.loop, memory, image, &opts, NULL), -EINVAL);
  uffd_close(opts.object);
  serving_close(&serving);
  uffd_resolver_close(image);
  uffd_memory_close(memory);
}

/* Unmapped ranges */

/* Both edges of the hole lie within slices of different handlers. */
static void what_is_unmapped_is_forgotten(void) {
  struct serving serving;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uint64_t page = check_page();
  opts.features = UFFD_FEAT_EVENT_UNMAP;
  serving_open(&serving, ENGINE_TWO, &opts);
  uffd_memory *memory = memory_make(MEMORY_ADOPTED, 1024);
  uffd_region *region = serve(serving.loop, memory, NULL);
  CHECK(image_there(memory_at(memory, 400 * page), 400 * page, page));
  CHECK_EQ(munmap(memory_at(memory, 300 * page), 500 * page), 0);
  CHECK_EQ(munmap(memory_at(memory, 10 * page), page), 0);
  CHECK_EQ(munmap(memory_at(memory, 0), page), 0);
  /* something else takes the place: it is not served */
  unsigned char *place = mmap(memory_at(memory, 500 * page), page, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(place == memory_at(memory, 500 * page));
  CHECK_EQ(*place, 0);
  CHECK(image_there(memory_at(memory, 299 * page), 299 * page, page));
  CHECK(image_there(memory_at(memory, 800 * page), 800 * page, page));
  CHECK_OK(uffd_region_prefetch(region, 5 * page, 800 * page));
  CHECK_EQ(serving_stats(serving.loop).copied, 3 + 5 + 288 + 4); /* three by faults */
  CHECK_OK(uffd_region_complete(region));
  CHECK_EQ(serving_stats(serving.loop).copied, 1024 - 500 - 2 + 1);
  CHECK_EQ(serving_stats(serving.loop).events, serving_inline() ? 3 : 4); /* one unmapping told to two handlers */
  CHECK(!memory_has(memory, page, "um"));
  CHECK(!memory_has(memory, 1023 * page, "um"));
  CHECK(image_there(memory_at(memory, page), page, 9 * page));
  CHECK(image_there(memory_at(memory, 11 * page), 11 * page, 289 * page));
  CHECK(image_there(memory_at(memory, 800 * page), 800 * page, 224 * page));
  CHECK_EQ(*place, 0);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void prefetching_what_was_unmapped_unseen(void) {
  struct serving serving;
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ADOPTED, 16);
  uffd_region *region = serve(serving.loop, memory, NULL);
  CHECK_EQ(munmap(memory_at(memory, 4 * page), 2 * page), 0);
  CHECK_OK(uffd_region_prefetch(region, 0, 0)); /* no event told it: what is not there is not missing */
  CHECK_EQ(serving_stats(serving.loop).copied, 14);
  CHECK(image_there(memory_at(memory, 6 * page), 6 * page, 10 * page));
  CHECK_EQ(serving_stats(serving.loop).faults, 0);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Moved ranges */

struct moved {
  struct serving serving;
  uffd_memory *memory;
  uffd_region *region;
  unsigned char *there; /* where pages 4 to 11 have gone */
};

#define MOVING (UFFD_FEAT_EVENT_REMAP | UFFD_FEAT_EVENT_UNMAP)

/* Room for twice the pages that move. */
static void move(struct moved *moved, uffd_object *object) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uint64_t page = check_page();
  serving_needs_handlers("What moves is not followed.");
  opts.features = object == NULL ? MOVING : 0;
  serving_open(&moved->serving, ENGINE_ONE, &opts);
  moved->memory = memory_make(MEMORY_ADOPTED, 16);
  moved->region = serve(moved->serving.loop, moved->memory, object);
  CHECK(image_there(memory_at(moved->memory, 5 * page), 5 * page, page));
  moved->there = mmap(NULL, 16 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(moved->there != MAP_FAILED);
  void *at =
      mremap(memory_at(moved->memory, 4 * page), 8 * page, 8 * page, MREMAP_MAYMOVE | MREMAP_FIXED, moved->there);
  CHECK(at == moved->there);
}

static void end(struct moved *moved) {
  serving_close(&moved->serving);
  uffd_memory_close(moved->memory);
}

static bool is_registered(void *address) {
  uffd_memory *memory;
  CHECK_OK(uffd_memory_adopt(address, check_page(), &memory));
  bool registered = memory_has(memory, 0, "um");
  uffd_memory_close(memory);
  return registered;
}

static void what_moves_takes_its_contents_along(void) {
  struct moved moved;
  uint64_t page = check_page();
  move(&moved, NULL);
  CHECK(is_registered(moved.there));
  CHECK(image_there(moved.there, 4 * page, 4 * page));
  CHECK(image_there(memory_at(moved.memory, 3 * page), 3 * page, page));
  CHECK(image_there(memory_at(moved.memory, 12 * page), 12 * page, page));
  CHECK_EQ(serving_stats(moved.serving.loop).copied, 4 + 2);
  CHECK_OK(uffd_region_prefetch(moved.region, 6 * page, 4 * page));
  CHECK_EQ(serving_stats(moved.serving.loop).copied, 6 + 2);
  CHECK(image_there(moved.there + 4 * page, 8 * page, 2 * page));
  CHECK_EQ(serving_stats(moved.serving.loop).faults, 6);
  /* back again, half of it, over what is left of the other half */
  void *back = mmap(memory_at(moved.memory, 4 * page), 4 * page, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (back == MAP_FAILED) back = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); /* taken since */
  CHECK(back != MAP_FAILED);
  CHECK(mremap(moved.there + 4 * page, 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, back) == back);
  CHECK(image_there(back, 8 * page, 4 * page));
  end(&moved);
  CHECK(!is_registered(moved.there));
  CHECK(!is_registered(back));
}

/* In place, and by moving: what a mapping gains is zeros. */
static void what_grows_gains_zeros(void) {
  struct moved moved;
  uint64_t page = check_page();
  move(&moved, NULL);
  CHECK_EQ(munmap(moved.there + 8 * page, 4 * page), 0);
  CHECK(mremap(moved.there, 8 * page, 12 * page, 0) == moved.there);
  CHECK(check_filled(moved.there + 8 * page, 4 * page, 0));
  CHECK(image_there(moved.there, 4 * page, 8 * page));
  end(&moved);
}

static void what_moved_is_completed_there(void) {
  struct moved moved;
  uint64_t page = check_page();
  move(&moved, NULL);
  CHECK_OK(uffd_region_complete(moved.region));
  CHECK(!is_registered(moved.there));
  CHECK(!memory_has(moved.memory, 0, "um"));
  CHECK(image_there(moved.there, 4 * page, 8 * page));
  CHECK(image_there(memory_at(moved.memory, 0), 0, 4 * page));
  CHECK(image_there(memory_at(moved.memory, 12 * page), 12 * page, 4 * page));
  CHECK_EQ(serving_stats(moved.serving.loop).copied, 16);
  end(&moved);
}

static void what_moved_is_unregistered_there(void) {
  for (int closing = 0; closing < 2; closing++) {
    uffd_object *object = open_object(MOVING, 0);
    struct moved moved;
    move(&moved, object);
    CHECK(is_registered(moved.there));
    unsigned char *here = memory_at(moved.memory, 0);
    if (!closing) CHECK_OK(uffd_region_remove(moved.region));
    if (closing) end(&moved);
    CHECK(!is_registered(moved.there)); /* the object still lives */
    CHECK(!is_registered(here));
    CHECK_EQ(*moved.there, 0);
    if (!closing) end(&moved);
    uffd_close(object);
  }
}

/* A page of the grown part that the file has already: mapped, not asked for again and again. */
static void a_grown_file_mapping_shows_the_file(void) {
  struct serving serving;
  uint64_t page = check_page();
  serving_needs_handlers("What grows is not followed.");
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  serving_open(&serving, ENGINE_ONE, NULL);
  int fd = memfd_create("grown", MFD_CLOEXEC);
  CHECK_EQ(ftruncate(fd, (off_t)(8 * page)), 0);
  CHECK_EQ(pwrite(fd, "grown", 5, (off_t)(6 * page)), 5);
  CHECK_EQ(pwrite(fd, "small", 5, 0), 5);
  unsigned char *room = mmap(NULL, 8 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mmap(room, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == room);
  uffd_memory *memory;
  CHECK_OK(uffd_memory_adopt(room, 4 * page, &memory));
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.modes = UFFD_MODE_MISSING | UFFD_MODE_MINOR;
  region_add(serving.loop, memory, image_resolver(4 * page), &opts);
  CHECK_EQ(munmap(room + 4 * page, 4 * page), 0);
  CHECK(mremap(room, 4 * page, 8 * page, 0) == room);
  CHECK_EQ(memcmp(room + 6 * page, "grown", 5), 0);
  CHECK_EQ(room[7 * page], 0);
  CHECK(image_there(room + page, page, page));
  CHECK_EQ(serving_stats(serving.loop).minor, 1);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static const struct check_test tests[] = {
    TEST(the_loop_reads_it_and_leaves_it_open), TEST(one_handler_reads_it_for_all_its_regions),
    TEST(after_a_refusal_it_is_left_alone),     TEST(objects_that_a_loop_cannot_read),
    TEST(what_is_unmapped_is_forgotten),        TEST(prefetching_what_was_unmapped_unseen),
    TEST(what_moves_takes_its_contents_along),  TEST(what_grows_gains_zeros),
    TEST(what_moved_is_completed_there),        TEST(what_moved_is_unregistered_there),
    TEST(a_grown_file_mapping_shows_the_file),
};
CHECK_MAIN(tests)
