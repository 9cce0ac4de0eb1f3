/*
 * Pages that the page cache has though nobody has filled them: a hole of a memfd that somebody has read, the rest of a
 * huge folio. What is served is what the resolver says, never those zeros; and what somebody has written stays.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "serving.h"

#define PAGES UINT64_C(24)

static struct serving serving;
static uffd_memory *memory;
static uint64_t page;

/* ---- how pages of zeros come into the page cache */

/* By the kernel: ThreadSanitizer does not know that a fault orders this read before the handler's write. */
static void by_alias(void) {
  char *alias = uffd_memory_alias(memory), byte;
  for (uint64_t i = 0; i < PAGES; i += 2) {
    struct iovec local = {&byte, 1}, remote = {alias + i * page, 1};
    CHECK_EQ(process_vm_readv(getpid(), &local, 1, &remote, 1, 0), 1);
  }
}
static void by_another_process(void) {
  int fd = uffd_memory_fd(memory);
  pid_t child = fork();
  if (child == 0) {
    volatile char *at = mmap(NULL, PAGES * page, PROT_READ, MAP_PRIVATE, fd, 0);
    for (uint64_t i = 0; i < PAGES; i += 3) {
      (void)at[i * page];
    }
    _exit(at == MAP_FAILED);
  }
  check_child(child);
}
static void by_populating(void) {
  void *at = mmap(NULL, PAGES * page, PROT_READ, MAP_SHARED | MAP_POPULATE, uffd_memory_fd(memory), 0);
  CHECK(at != MAP_FAILED && munmap(at, PAGES * page) == 0);
}
static void by_allocating(void) {
  CHECK(fallocate(uffd_memory_fd(memory), 0, 0, (off_t)(PAGES * page)) == 0);
}
static void (*const ways[])(void) = {by_alias, by_another_process, by_populating, by_allocating};

/* ---- who answers */

static int answer_bytes(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = (const char *)asked->ctx + fault->offset;
  return 0;
}

static uffd_resolver *make_resolver(int which) {
  static struct asked asked;
  uffd_resolver *image = image_resolver(PAGES * page), *made = image;
  if (which == 1) {
    CHECK_OK(uffd_resolver_continue(image, &made));
    uffd_resolver_close(image);
  } else if (which == 2) {
    const struct uffd_layer layers[] = {{0, 2 * page, image, 0}, {0, 0, image, 0}};
    CHECK_OK(uffd_resolver_layers(layers, 2, &made));
    uffd_resolver_close(image);
  } else if (which == 3) {
    uffd_resolver_close(image);
    asked = (struct asked){.answer = answer_bytes, .ctx = image_make(PAGES * page)};
    made = asked_resolver(&asked);
  }
  return made;
}
#define RESOLVERS 4

/* ---- how it is looked at */

static void touch_all(uffd_region *region) {
  (void)region;
}
static void complete(uffd_region *region) {
  serving_pause(&serving); /* a pump is one thread's at a time */
  CHECK_OK(uffd_region_complete(region));
}
static void prefetch(uffd_region *region) {
  serving_pause(&serving);
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
  serving_start(&serving);
}
static void read_all(uffd_region *region) {
  unsigned char *copy = malloc(PAGES * page);
  (void)region;
  CHECK_OK(uffd_memory_read(memory, 0, copy, PAGES * page));
  CHECK(image_there(copy, 0, PAGES * page));
  free(copy);
}
static void write_each(uffd_region *region) {
  (void)region;
  for (uint64_t i = 0; i < PAGES; i++) {
    *memory_at(memory, i * page) = (unsigned char)image_byte(i * page); /* the same, by a write fault */
  }
}
static void (*const looks[])(uffd_region *region) = {touch_all, complete, prefetch, read_all, write_each};

static void open_memory(int kind, int engine) {
  serving_open(&serving, engine, NULL);
  memory = memory_make(kind, PAGES);
  page = uffd_memory_page_size(memory);
}

static void close_memory(void) {
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void look(int kind, int engine, void (*cache)(void), int resolver, void (*how)(uffd_region *region),
                 uint64_t around) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  open_memory(kind, engine);
  opts.around = around;
  uffd_region *region = region_add(serving.loop, memory, make_resolver(resolver), &opts);
  serving_start(&serving);
  CHECK(image_there(memory_at(memory, 4 * page), 4 * page, page));
  cache();
  how(region);
  CHECK(image_there(memory_at(memory, 0), 0, PAGES * page));
  CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), 0);
  close_memory();
}

static void holes_that_were_read_are_asked_for(void) {
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  for (size_t way = 0; way < sizeof(ways) / sizeof(ways[0]); way++) {
    for (int resolver = 0; resolver < RESOLVERS; resolver++) {
      for (size_t how = 0; how < sizeof(looks) / sizeof(looks[0]); how++) {
        int engine = (int)(way + how) % ENGINES;
        look(MEMORY_MEMFD, engine, ways[way], resolver, looks[how], how % 2 == 0 ? 0 : UFFD_AROUND_AUTO);
      }
    }
    check_progress();
  }
}

static void private_memory_too(void) {
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  for (size_t way = 0; way < sizeof(ways) / sizeof(ways[0]); way++) {
    for (int resolver = 0; resolver < RESOLVERS; resolver++) {
      look(MEMORY_MEMFD_PRIVATE, (int)way % ENGINES, ways[way], resolver, looks[resolver % 2], UFFD_AROUND_AUTO);
    }
  }
}

static void huge_pages_too(void) {
  check_needs(UFFD_FEAT_MINOR_HUGETLBFS);
  for (int resolver = 0; resolver < RESOLVERS; resolver++) {
    look(MEMORY_HUGETLB, ENGINE_ONE, ways[resolver == 0 ? 3 : 0], resolver, looks[resolver], 0);
  }
}

/* ---- what was written stays */

static void keep_written(int resolver, void (*how)(uffd_region *region)) {
  open_memory(MEMORY_MEMFD, ENGINE_ONE);
  uffd_region *region = region_add(serving.loop, memory, make_resolver(resolver), NULL);
  unsigned char *alias = uffd_memory_alias(memory);
  memset(alias + 3 * page, 'w', page);
  alias[5 * page + page - 1] = 'w'; /* as little as that */
  how(region);
  CHECK(check_filled(memory_at(memory, 3 * page), page, 'w'));
  CHECK(check_filled(memory_at(memory, 5 * page), page - 1, 0));
  CHECK_EQ(*memory_at(memory, 5 * page + page - 1), 'w');
  CHECK(image_there(memory_at(memory, 4 * page), 4 * page, page));
  close_memory();
}

static void what_somebody_has_written_stays(void) {
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  for (int resolver = 0; resolver < RESOLVERS; resolver++) {
    keep_written(resolver, touch_all);
    keep_written(resolver, complete);
  }
}

/* Pages of zeros that a callback has put there itself, through the alias, are what it says. */
static int fill_by_alias(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  memset((char *)uffd_memory_alias(memory) + fault->offset, fault->offset / page % 2 == 0 ? 0 : 'a', page);
  answer->kind = UFFD_ANSWER_CONTINUE;
  return 0;
}

static void a_callback_may_continue_zeros(void) {
  struct asked asked = {.answer = fill_by_alias};
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  for (uint64_t modes = 0; modes <= (UFFD_MODE_MISSING | UFFD_MODE_MINOR);
       modes += UFFD_MODE_MISSING | UFFD_MODE_MINOR) {
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    open_memory(MEMORY_MEMFD, ENGINE_ONE);
    opts.modes = modes;
    region_add(serving.loop, memory, asked_resolver(&asked), &opts);
    by_alias();
    for (uint64_t i = 0; i < PAGES; i++) {
      CHECK(check_filled(memory_at(memory, i * page), page, i % 2 == 0 ? 0 : 'a'));
    }
    CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), 0);
    close_memory();
  }
}

/* ---- two threads answer for one page */

static void store(void *ctx) {
  *memory_at(memory, page + 7) = 's';
  (void)ctx;
}

/*
 * Inline, each thread answers for itself. The page is in the page cache, and the one that writes the bytes there waits
 * before it does so. The other one must neither see the zeros nor have its store overwritten.
 */
static void a_page_is_written_once(void) {
  struct check_touch reader;
  struct check_thread writer;
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  if (!serving_inline()) SKIP("only inline threads answer for one page at the same time");
  open_memory(MEMORY_MEMFD, ENGINE_TWO);
  region_add(serving.loop, memory, make_resolver(0), NULL);
  by_populating();
  check_barrier_hold("claimed");
  check_touch_read(&reader, memory_at(memory, page + 3));
  check_barrier_await("claimed");
  check_thread_start(&writer, store, NULL);
  while (serving_stats(serving.loop).deferred == 0) {
    check_pause();
  }
  CHECK(!atomic_load(&writer.done));
  check_barrier_release("claimed");
  CHECK_EQ(check_touch_join(&reader), image_byte(page + 3));
  check_thread_join(&writer);
  CHECK_EQ(*memory_at(memory, page + 7), 's');
  *memory_at(memory, page + 7) = (unsigned char)image_byte(page + 7);
  CHECK(image_there(memory_at(memory, 0), 0, PAGES * page));
  close_memory();
}

static const struct check_test tests[] = {
    TEST(holes_that_were_read_are_asked_for),
    TEST(private_memory_too),
    TEST(huge_pages_too),
    TEST(what_somebody_has_written_stays),
    TEST(a_callback_may_continue_zeros),
    TEST(a_page_is_written_once),
};
CHECK_MAIN(tests)
