/*
 * Where a memory lies: after munmap and mremap, with events and without, claims, copies and closing have the same
 * answer, and closing leaves alone what the program has mapped there since.
 */
#define _GNU_SOURCE
#include "check.h"

#include <sys/mman.h>

#include "kernel/object.h"
#include "serving.h"

#define PAGES 64

static uint64_t page;

static const int own_kinds[] = {MEMORY_ANON, MEMORY_THP, MEMORY_MEMFD, MEMORY_MEMFD_PRIVATE};
#define OWN_KINDS (sizeof(own_kinds) / sizeof(own_kinds[0]))

/*
 * A memory below a gap that is free, and below no other room of its size. The kernel uses the highest room first, so
 * what a sanitizer maps during a test goes into the gap, and not to addresses that the test has just freed.
 */
static uffd_memory *make_memory(int kind) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const size_t gap_bytes = (size_t)1 << 30;
  page = check_page();
  unsigned char *gap = mmap(NULL, gap_bytes, PROT_NONE, flags, -1, 0), *filler;
  CHECK(gap != MAP_FAILED);
  do { /* these stay mapped until the test ends */
    filler = mmap(NULL, PAGES * page, PROT_NONE, flags, -1, 0);
    CHECK(filler != MAP_FAILED);
  } while (filler > gap);
  CHECK(munmap(filler, PAGES * page) == 0);
  uffd_memory *memory = memory_make(kind, PAGES);
  CHECK(munmap(gap, gap_bytes) == 0);
  return memory;
}

static bool is_mapped(const void *address) {
  struct uffd_mapping mapping;
  return uffd_find_mapping(CHECK_ADDRESS(address), &mapping) == 0;
}

/* Room for so many pages, which is given up again by whoever moves something there. */
static unsigned char *find_room(uint64_t pages) {
  void *room = mmap(NULL, pages * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(room != MAP_FAILED);
  return room;
}

static unsigned char *move_to(unsigned char *from, uint64_t pages, unsigned char *to) {
  CHECK(mremap(from, pages * page, pages * page, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
  return to;
}

static unsigned char *map_at(unsigned char *at, uint64_t pages) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  CHECK(mmap(at, pages * page, PROT_READ | PROT_WRITE, flags, -1, 0) == at);
  *at = 'M';
  return at;
}

static void serve(struct serving *serving, uint64_t features, uffd_memory *memory) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.features = features;
  serving_open(serving, ENGINE_ONE, &opts);
  region_add(serving->loop, memory, image_resolver(uffd_memory_length(memory)), NULL);
  CHECK_EQ(*memory_at(memory, page), image_byte(page));
}

/* Moved */

static void what_took_its_place_stays(uint64_t features) {
  for (size_t i = 0; i < OWN_KINDS; i++) {
    struct serving serving;
    uffd_memory *memory = make_memory(own_kinds[i]);
    serve(&serving, features, memory);
    unsigned char *old = memory_at(memory, 0), *moved = move_to(old, PAGES, find_room(PAGES));
    map_at(old, PAGES);
    serving_close(&serving);
    uffd_memory_close(memory);
    CHECK_EQ(*old, 'M');
    CHECK(is_mapped(old + (PAGES - 1) * page));
    CHECK_EQ(is_mapped(moved), features == 0); /* followed, it is ours, and is unmapped */
  }
}
static void moved_without_an_event(void) {
  what_took_its_place_stays(0);
}
static void moved_with_an_event(void) {
  serving_needs_handlers("EVENT_REMAP is refused.");
  what_took_its_place_stays(UFFD_FEAT_EVENT_REMAP);
}

/* Reading, writing, prefaulting, and what is refused to resolvers, are where the memory is. */
static void the_handle_follows(void) {
  serving_needs_handlers("EVENT_REMAP is refused.");
  struct serving serving;
  uffd_memory *memory = make_memory(MEMORY_ANON), *adopted = NULL;
  uffd_resolver *resolver = NULL;
  serve(&serving, UFFD_FEAT_EVENT_REMAP | UFFD_FEAT_EVENT_UNMAP, memory);
  unsigned char *old = memory_at(memory, 0), *moved = move_to(old, PAGES, find_room(PAGES)), bytes[2];
  CHECK(uffd_memory_address(memory) == moved);
  CHECK_EQ(uffd_memory_start(memory), CHECK_ADDRESS(moved));
  map_at(old, PAGES);
  CHECK_OK(uffd_memory_write(memory, 5 * page, "x", 1));
  CHECK_OK(uffd_memory_read(memory, 5 * page, bytes, 2));
  CHECK(bytes[0] == 'x' && bytes[1] == image_byte(5 * page));
  CHECK(moved[5 * page] == 'x' && old[5 * page] == 0);
  CHECK_OK(uffd_memory_prefault(memory, 6 * page, page, 1));
  CHECK_OK(uffd_memory_adopt(moved, PAGES * page, &adopted));
  CHECK_ERR(uffd_resolver_memory(adopted, 0, &resolver), -EBUSY);
  uffd_memory_close(adopted);
  CHECK_OK(uffd_memory_adopt(old, PAGES * page, &adopted)); /* nobody serves this */
  CHECK_OK(uffd_resolver_memory(adopted, 0, &resolver));
  uffd_resolver_close(resolver);
  uffd_memory_close(adopted);
  serving_close(&serving);
  uffd_memory_close(memory);
  CHECK_EQ(*old, 'M');
}

/* A part in the middle moves: the memory lies in three places. */
static void a_part_moves(void) {
  serving_needs_handlers("EVENT_REMAP is refused.");
  struct serving serving;
  uffd_memory *memory = make_memory(MEMORY_ANON);
  serve(&serving, UFFD_FEAT_EVENT_REMAP | UFFD_FEAT_EVENT_UNMAP, memory);
  unsigned char *old = memory_at(memory, 0), *moved = move_to(old + 10 * page, 20, find_room(20));
  unsigned char bytes[PAGES];
  map_at(old + 10 * page, 20);
  CHECK(uffd_memory_address(memory) == old);
  for (uint64_t i = 0; i < PAGES; i++) {
    CHECK_OK(uffd_memory_read(memory, i * page, &bytes[i], 1));
    CHECK_EQ(bytes[i], image_byte(i * page));
  }
  CHECK_EQ(moved[19 * page], image_byte(29 * page));
  uint64_t length = 3 * page;
  unsigned char *across = image_make(length);
  CHECK_OK(uffd_memory_read(memory, 9 * page, across, length)); /* one copy from two places */
  CHECK(image_there(across, 9 * page, length));
  serving_close(&serving);
  uffd_memory_close(memory);
  CHECK_EQ(old[10 * page], 'M');
  CHECK(!is_mapped(old) && !is_mapped(moved) && !is_mapped(old + 30 * page));
}

/* Unmapped */

static void addresses_are_free_again(uint64_t features) {
  struct serving serving, other;
  uffd_memory *memory = make_memory(MEMORY_ADOPTED), *next = NULL, *none = NULL;
  uffd_resolver *resolver = NULL;
  serve(&serving, features, memory);
  unsigned char *at = memory_at(memory, 0), *half = at + PAGES / 2 * page;
  CHECK(munmap(half, PAGES / 2 * page) == 0);
  CHECK_OK(uffd_memory_adopt(map_at(half, PAGES / 2), PAGES / 2 * page, &next));
  CHECK_OK(uffd_resolver_memory(next, 0, &resolver));
  uffd_resolver_close(resolver);
  madvise(half, page, MADV_DONTNEED);
  serving_open(&other, ENGINE_ONE, NULL);
  region_add(other.loop, next, image_resolver(PAGES / 2 * page), NULL);
  CHECK_EQ(*half, image_byte(0));
  if (features != 0) {
    CHECK_ERR(uffd_memory_write(memory, 40 * page, "x", 1), -EFAULT);
    CHECK_SAYS("not mapped any more");
  }
  CHECK_EQ(half[8 * page], image_byte(8 * page));
  CHECK_ERR(uffd_memory_adopt(NULL, page, &none), -EINVAL); /* an error, as ever, leaves a sentence */
  serving_close(&serving);                                  /* does not unregister what is another loop's */
  CHECK_EQ(half[9 * page], image_byte(9 * page));
  serving_close(&other);
  uffd_memory_close(next);
  uffd_memory_close(memory);
}
static void unmapped_without_an_event(void) {
  addresses_are_free_again(0);
}
static void unmapped_with_an_event(void) {
  addresses_are_free_again(UFFD_FEAT_EVENT_UNMAP);
}

/* The same loop serves other memory at the same addresses: ending the old region leaves the new one served. */
static void served_again_by(uint64_t features) {
  struct serving serving;
  uffd_memory *memory = make_memory(MEMORY_ADOPTED), *next = NULL;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.features = features;
  serving_open(&serving, ENGINE_ONE, &opts);
  uffd_region *region = region_add(serving.loop, memory, image_resolver(PAGES * page), NULL);
  unsigned char *half = memory_at(memory, PAGES / 2 * page);
  CHECK(munmap(half, PAGES / 2 * page) == 0);
  map_at(half, PAGES / 2);
  madvise(half, page, MADV_DONTNEED);
  CHECK_OK(uffd_memory_adopt(half, PAGES / 2 * page, &next));
  region_add(serving.loop, next, image_resolver(PAGES / 2 * page), NULL);
  CHECK_OK(uffd_region_remove(region));
  CHECK(image_there(half, 0, PAGES / 2 * page));
  serving_close(&serving);
  uffd_memory_close(next);
  uffd_memory_close(memory);
}

static void another_region_of_the_same_loop(void) {
  served_again_by(UFFD_FEAT_EVENT_UNMAP);
}
static void the_same_without_an_event(void) {
  served_again_by(0);
}

/* What was never served: a memfd shows whose it is, an anonymous memory where the kernel has names. */
static void closed_without_being_served(void) {
  for (size_t i = 0; i < OWN_KINDS; i++) {
    uffd_memory *memory = make_memory(own_kinds[i]);
    struct uffd_mapping mapping;
    CHECK_EQ(uffd_find_mapping(CHECK_ADDRESS(memory_at(memory, 0)), &mapping), 0);
    bool named = strncmp(mapping.name, "/memfd:", 7) == 0 || strncmp(mapping.name, "[anon:uffd-", 11) == 0;
    unsigned char *old = memory_at(memory, 0), *moved = find_room(PAGES);
    if (named) move_to(old, PAGES, moved);
    if (named) map_at(old, PAGES);
    uffd_memory_close(memory);
    CHECK_EQ(is_mapped(old), named);
  }
}

static const struct check_test tests[] = {
    TEST(moved_without_an_event),
    TEST(moved_with_an_event),
    TEST(the_handle_follows),
    TEST(a_part_moves),
    TEST(unmapped_without_an_event),
    TEST(unmapped_with_an_event),
    TEST(another_region_of_the_same_loop),
    TEST(the_same_without_an_event),
    TEST(closed_without_being_served),
};

CHECK_MAIN(tests)
