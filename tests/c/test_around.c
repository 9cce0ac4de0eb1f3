/* around auto, with a loop: how many faults there are for what is touched, and that nothing else is brought in. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "serving.h"

#define PAGES 4096u /* 16 MiB */

static uint64_t page;

static uffd_region *serve(struct serving *serving, uffd_memory *memory, uffd_resolver *resolver) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.around = UFFD_AROUND_AUTO;
  return region_add(serving->loop, memory, resolver, &opts);
}

/* Runs of 1 to 31 pages of the image, and holes of as many, take turns. */
static bool is_hole(uint64_t index) {
  static unsigned char holes[PAGES];
  static bool made;
  for (unsigned i = 0, seed = 7, hole = 0; !made && i < PAGES; hole = !hole) {
    seed = seed * 1103515245 + 12345;
    for (unsigned end = i + 1 + (seed >> 16) % 31; i < end && i < PAGES; i++) {
      holes[i] = (unsigned char)hole;
    }
  }
  made = true;
  return holes[index] != 0;
}

static uffd_resolver *sparse_file(void) {
  int fd = memfd_create("sparse", MFD_CLOEXEC);
  CHECK(fd >= 0 && ftruncate(fd, (off_t)(PAGES * page)) == 0);
  unsigned char *image = image_make(PAGES * page);
  for (uint64_t i = 0; i < PAGES; i++) {
    if (!is_hole(i)) CHECK_EQ(pwrite(fd, image + i * page, page, (off_t)(i * page)), page);
  }
  uffd_resolver *resolver;
  CHECK_OK(uffd_resolver_file_fd(fd, NULL, &resolver));
  munmap(image, PAGES * page);
  close(fd);
  return resolver;
}

static void check_sparse(uffd_memory *memory, uint64_t index) {
  static const unsigned char zeros[4096];
  const unsigned char *there = memory_at(memory, index * page);
  CHECK(is_hole(index) ? memcmp(there, zeros, page) == 0 : image_there(there, index * page, page));
}

static void holes_do_not_end_a_sequence(void) {
  for (int backwards = 0; backwards < 2; backwards++) {
    struct serving serving;
    page = check_page();
    serving_open(&serving, ENGINE_ONE, NULL);
    uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
    serve(&serving, memory, sparse_file());
    for (uint64_t i = 0; i < PAGES; i++) {
      check_sparse(memory, backwards ? PAGES - 1 - i : i);
    }
    struct uffd_stats stats = serving_stats(serving.loop);
    CHECK(stats.faults < 40);
    CHECK(stats.zero > PAGES / 3 && stats.copied > PAGES / 3 && stats.zero + stats.copied == PAGES);
    CHECK_EQ(stats.prefetched, 0);
    serving_adds_up(serving.loop, page);
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

/* Every other block of 32 pages is there already. */
static void pages_that_are_there_do_not_end_a_sequence(void) {
  struct serving serving;
  static struct uffd_range ranges[PAGES / 64];
  page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
  uffd_region *region = serve(&serving, memory, image_resolver(PAGES * page));
  for (uint64_t i = 0; i < PAGES / 64; i++) {
    ranges[i] = (struct uffd_range){i * 64 * page, 32 * page};
  }
  uffd_prefetch *prefetch;
  CHECK_OK(uffd_region_prefetch_start(region, ranges, PAGES / 64, NULL, &prefetch));
  CHECK_EQ(uffd_prefetch_wait(prefetch, -1), 1);
  uffd_prefetch_close(prefetch);
  CHECK(image_there(memory_at(memory, 0), 0, PAGES * page));
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK(stats.faults < 40);
  CHECK_EQ(stats.copied, PAGES);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static unsigned char *frames;

/* 16 pages at a time, as a compressed image would have them. */
static int answer_frame(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  uint64_t length = 16 * fault->page_size;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->offset = fault->offset - fault->offset % length;
  answer->length = length;
  answer->data = frames + answer->offset;
  return 0;
}

static int answer_one(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = frames + fault->offset;
  return 0;
}

static void callbacks_are_asked_once_a_fault(void) {
  struct asked by_frame = {.answer = answer_frame}, by_page = {.answer = answer_one};
  page = check_page();
  frames = image_make(PAGES * page);
  for (int single = 0; single < 2; single++) {
    struct asked *asked = single ? &by_page : &by_frame;
    struct serving serving;
    serving_open(&serving, ENGINE_ONE, NULL);
    uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
    serve(&serving, memory, asked_resolver(asked));
    CHECK(image_there(memory_at(memory, 0), 0, PAGES * page));
    CHECK_EQ(serving_stats(serving.loop).faults, single ? PAGES : PAGES / 16);
    CHECK_EQ(atomic_load(&asked->hits), single ? PAGES : PAGES / 16);
    serving_close(&serving);
    uffd_memory_close(memory);
  }
  munmap(frames, PAGES * page);
}

/* Far from each other, in no order: what is not touched is not brought in. */
static void random_accesses_bring_one_page(void) {
  struct serving serving;
  page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
  serve(&serving, memory, sparse_file());
  for (uint64_t i = 0; i < PAGES / 64; i++) {
    check_sparse(memory, (i * 37 + 11) % (PAGES / 64) * 64 + 20);
  }
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.faults, PAGES / 64);
  CHECK_EQ(stats.zero + stats.copied, PAGES / 64);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* A page that its owner has dropped is neither filled with its neighbours, nor an end to the sequence. */
static void dropped_pages_stay_dropped(void) {
  struct serving serving;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  page = check_page();
  opts.features = UFFD_FEAT_EVENT_REMOVE;
  serving_open(&serving, ENGINE_ONE, &opts);
  uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
  serve(&serving, memory, image_resolver(PAGES * page));
  for (uint64_t i = 10; i < PAGES; i += 100) {
    CHECK_EQ(madvise(memory_at(memory, i * page), page, MADV_DONTNEED), 0);
  }
  for (uint64_t i = 0; i < PAGES; i++) {
    const unsigned char *there = memory_at(memory, i * page);
    CHECK(i % 100 == 10 ? there[7] == 0 : image_there(there, i * page, page));
  }
  CHECK(serving_stats(serving.loop).faults < 40 + PAGES / 100 + 1);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static const struct check_test tests[] = {
    TEST(holes_do_not_end_a_sequence),      TEST(pages_that_are_there_do_not_end_a_sequence),
    TEST(callbacks_are_asked_once_a_fault), TEST(random_accesses_bring_one_page),
    TEST(dropped_pages_stay_dropped),
};

CHECK_MAIN(tests)
