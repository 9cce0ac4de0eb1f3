/* Races between an answer and its installation: R4, R5, R7, R22, R23, R25. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>

#include "loop/loop.h"
#include "serving.h"

static uffd_object *object; /* the test's, so that it can install behind the loop's back */
static struct serving serving;
static uffd_memory *memory;
static uint64_t page;

static unsigned char *at(uint64_t index) {
  return memory_at(memory, index * page);
}

/* One handler; inline, as many threads at a time as these tests have. */
static int one_or_many(void) {
  return serving_inline() ? ENGINE_FIVE : ENGINE_ONE;
}

static uffd_region *serve(int kind, uint64_t pages, uffd_resolver *resolver, const struct uffd_region_opts *given) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  if (given != NULL) opts = *given;
  serving_open(&serving, one_or_many(), NULL);
  memory = memory_make(kind, pages);
  page = uffd_memory_page_size(memory);
  object = serving_object(0);
  opts.object = object;
  return region_add(serving.loop, memory, resolver, &opts);
}

static void end(void) {
  serving_close(&serving);
  uffd_close(object);
  uffd_memory_close(memory);
}

/* An answer of any kind, for as much as is asked. */
struct any {
  struct asked asked;
  uint32_t kind;
  const unsigned char *data;
};

static int answer_any(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  const struct any *any = asked->ctx;
  answer->kind = any->kind;
  answer->offset = fault->cover_offset;
  answer->length = fault->cover_length;
  answer->data = any->data + fault->cover_offset;
  return 0;
}

static uffd_resolver *any_resolver(struct any *any, uint32_t kind, const void *data) {
  *any = (struct any){.asked = {.answer = answer_any, .ctx = any}, .kind = kind, .data = data};
  return asked_resolver(&any->asked);
}

/* R4: progress in parts */

/* Pages within the cover are there, and the loop does not know: the rest goes in around them, whatever the answer. */
static void R4_pages_are_there_within_the_cover(void) {
  static const uint32_t kinds[] = {UFFD_ANSWER_ZERO, UFFD_ANSWER_BYTES, UFFD_ANSWER_MOVE, UFFD_ANSWER_POISON};
  for (unsigned k = 0; k < 4; k++) {
    if (kinds[k] == UFFD_ANSWER_POISON) check_needs(UFFD_FEAT_POISON); /* before Linux 6.8 what is moved is copied */
    for (uint64_t fault = 0; fault < 16; fault += 5) {
      struct any any;
      struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
      opts.around = 16 * check_page();
      unsigned char *image = image_make(16 * check_page()), other[4096];
      serve(MEMORY_ANON, 16, any_resolver(&any, kinds[k], image), &opts);
      memset(other, 'o', sizeof(other));
      for (uint64_t i = 2; i < 16; i += 6) { /* 2, 8, 14 */
        CHECK_OK(uffd_copy(object, CHECK_ADDRESS(at(i)), other, page, 0, NULL));
      }
      unsigned value = 0;
      int raised = check_access(at(fault), false, &value);
      CHECK_EQ(raised, kinds[k] == UFFD_ANSWER_POISON ? SIGBUS : 0);
      struct uffd_stats stats = serving_settled(serving.loop);
      CHECK_EQ(stats.zero + stats.copied + stats.moved + stats.poisoned, 13);
      CHECK_EQ(stats.faults, 1);
      for (uint64_t i = 0; i < 16; i++) {
        bool behind = i % 6 == 2;
        raised = check_access(at(i), false, &value);
        CHECK_EQ(raised, kinds[k] == UFFD_ANSWER_POISON && !behind ? SIGBUS : 0);
        if (raised == 0) {
          CHECK_EQ(value, behind ? 'o' : kinds[k] == UFFD_ANSWER_ZERO ? 0 : image_byte(i * page));
        }
      }
      CHECK_EQ(serving_settled(serving.loop).faults, 1);
      end();
      munmap(image, 16 * check_page());
    }
  }
}

static void R4_continue_goes_on_around_mapped_pages(void) {
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  uffd_resolver *resolver;
  opts.around = 16 * check_page();
  CHECK_OK(uffd_resolver_continue(NULL, &resolver));
  serve(MEMORY_MEMFD, 16, resolver, &opts);
  memset(uffd_memory_alias(memory), 'c', 12 * page); /* 12 to 15 are holes of the file */
  CHECK_OK(uffd_continue(object, CHECK_ADDRESS(at(3)), page, 0, NULL));
  CHECK_EQ(*at(6), 'c');
  CHECK_EQ(serving_settled(serving.loop).continued, 11);
  CHECK(check_filled(at(0), 12 * page, 'c'));
  CHECK_EQ(serving_settled(serving.loop).faults, 1);
  CHECK_EQ(*at(13), 0);
  CHECK_EQ(serving_settled(serving.loop).zero, 1);
  end();
}

static void R4_prefetch_goes_on_around_pages_that_are_there(void) {
  for (int kind = MEMORY_ANON; kind <= MEMORY_HUGETLB; kind += 2) {
    uint64_t pages = kind == MEMORY_HUGETLB ? 4 : 1000, there = kind == MEMORY_HUGETLB ? 2 : 700;
    struct any any;
    unsigned char *image = image_make(pages * (kind == MEMORY_HUGETLB ? UINT64_C(2) << 20 : check_page()));
    uffd_region *region = serve(kind, pages, any_resolver(&any, UFFD_ANSWER_BYTES, image), NULL);
    unsigned char *other = check_pattern(page, 1, 'o');
    CHECK_OK(uffd_copy(object, CHECK_ADDRESS(at(there)), other, page, 0, NULL));
    CHECK_OK(uffd_region_prefetch(region, 0, 0));
    CHECK_EQ(serving_stats(serving.loop).prefetched, pages - 1);
    CHECK(check_filled(at(there), page, 'o'));
    CHECK(image_there(at(0), 0, there * page));
    CHECK(image_there(at(there + 1), (there + 1) * page, (pages - there - 1) * page));
    end();
    munmap(image, pages * page);
  }
}

/* R5: EEXIST wakes nobody */

/*
 * The first thread faults at one address, the others at a page that is another one, and all of them before any of these
 * is answered: their messages are in one queue, or, inline, each has its answer in hand.
 */
static void fault_together(struct check_touch touches[], unsigned count, unsigned char *first, unsigned char *others,
                           uint64_t step) {
  const char *place = serving_inline() ? "installing" : "drained";
  check_barrier_hold(place);
  check_touch_read(&touches[0], first);
  check_barrier_await(place);
  for (unsigned i = 1; i < count; i++) {
    check_touch_read(&touches[i], others + i * step);
    if (!serving_inline()) check_touch_asleep(&touches[i]);
  }
  if (serving_inline()) check_barrier_await_all(place, count);
  check_barrier_release(place);
}

static void R5_a_present_page_is_woken(void) {
  static const uint32_t kinds[] = {UFFD_ANSWER_ZERO, UFFD_ANSWER_BYTES, UFFD_ANSWER_MOVE, UFFD_ANSWER_POISON};
  for (unsigned k = 0; k < 4; k++) {
    if (kinds[k] == UFFD_ANSWER_POISON) check_needs(UFFD_FEAT_POISON);
    for (int wp = 0; wp < 2; wp++) {
      struct any any;
      struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
      if (wp) opts.modes = UFFD_MODE_MISSING | UFFD_MODE_WP;
      unsigned char *image = image_make(4 * check_page()), other[4096];
      serve(MEMORY_ANON, 4, any_resolver(&any, kinds[k], image), &opts);
      memset(other, 'o', sizeof(other));
      struct check_touch touch;
      check_barrier_hold("installing");
      check_touch_read(&touch, at(1));
      check_barrier_await("installing");
      CHECK_OK(uffd_copy(object, CHECK_ADDRESS(at(1)), other, page, UFFD_COPY_DONTWAKE, NULL));
      if (!serving_inline()) check_touch_asleep(&touch);
      check_barrier_release("installing");
      CHECK_EQ(check_touch_join(&touch), 'o');
      while (serving_stats(serving.loop).latency_count == 0) {
        check_pause();
      }
      struct uffd_stats stats = serving_stats(serving.loop);
      CHECK_EQ(stats.present, 1);
      CHECK_EQ(stats.faults, 1);
      CHECK_EQ(stats.bytes + stats.errors, 0);
      end();
      munmap(image, 4 * check_page());
    }
  }
}

static void R5_huge_pages_too(void) {
  struct any any;
  unsigned char *image = image_make(UINT64_C(4) << 20);
  serve(MEMORY_HUGETLB, 2, any_resolver(&any, UFFD_ANSWER_BYTES, image), NULL);
  unsigned char *other = check_pattern(page, 1, 'o');
  struct check_touch touch;
  check_barrier_hold("installing");
  check_touch_read(&touch, at(1) + 70000);
  check_barrier_await("installing");
  CHECK_OK(uffd_copy(object, CHECK_ADDRESS(at(1)), other, page, UFFD_COPY_DONTWAKE, NULL));
  check_barrier_release("installing");
  CHECK_EQ(check_touch_join(&touch), 'o');
  end();
}

/* The second of two answers for one page finds it there. */
static void R5_two_threads_at_one_page(void) {
  struct any any;
  unsigned char *image = image_make(4 * check_page());
  serve(MEMORY_ANON, 4, any_resolver(&any, UFFD_ANSWER_BYTES, image), NULL);
  struct check_touch touches[4];
  fault_together(touches, 4, at(0), at(2), 1);
  for (unsigned i = 0; i < 4; i++) {
    check_touch_join(&touches[i]);
  }
  while (serving_stats(serving.loop).latency_count < 4) {
    check_pause();
  }
  CHECK_EQ(serving_stats(serving.loop).copied, 2);
  CHECK_EQ(serving_stats(serving.loop).present, 2);
  end();
}

/* The resolver fails for the first of two faults only: what the page has become then, it stays. */
static struct {
  _Atomic unsigned asked; /* for page 2 */
  _Atomic bool poisoned;
} heal;

static int fail_once(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  bool there = fault->offset == 2 * fault->page_size;
  if (there && atomic_fetch_add(&heal.asked, 1) == 0) {
    while (serving_inline() && atomic_load(&heal.asked) < 2) {
      check_pause();
    }
    return uffd_set_errmsg(EIO, "Not yet.");
  }
  while (serving_inline() && there && !atomic_load(&heal.poisoned)) {
    check_pause();
  }
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = "filled";
  answer->length = 6;
  return 0;
}

static void join_poisoned(struct check_touch *touch) {
  CHECK_EQ(pthread_join(touch->thread, NULL), 0);
  CHECK_EQ(touch->signal, SIGBUS);
}

/* Two messages in one queue; inline, two threads that have both asked before the first one's page is poisoned. */
static void R5_an_answer_never_heals_poison(void) {
  check_needs(UFFD_FEAT_POISON);
  struct asked asked = {.answer = fail_once};
  serve(MEMORY_ANON, 4, asked_resolver(&asked), NULL);
  struct check_touch touches[3];
  if (serving_inline()) {
    check_touch_read(&touches[1], at(2));
    while (atomic_load(&heal.asked) == 0) {
      check_pause();
    }
    check_touch_read(&touches[2], at(2));
  } else {
    fault_together(touches, 3, at(0), at(2), 0);
    CHECK_EQ(check_touch_join(&touches[0]), 'f');
  }
  join_poisoned(&touches[1]);
  atomic_store(&heal.poisoned, true);
  join_poisoned(&touches[2]);
  /* the poison has woken both: the handler may not have come to the second message yet */
  while (!serving_inline() && serving_stats(serving.loop).present == 0 && serving_stats(serving.loop).copied < 2) {
    check_pause();
  }
  CHECK_EQ(check_access(at(2), false, NULL), SIGBUS);
  CHECK_EQ(serving_stats(serving.loop).poisoned, 1);
  /* dropped, it is a page like any other */
  CHECK_EQ(madvise(at(2), page, MADV_DONTNEED), 0);
  CHECK_EQ(*at(2), 'f');
  end();
}

/* R7: the range is gone when the answer comes */

static void R7_unmapped_meanwhile(void) {
  struct any any;
  unsigned char *image = image_make(8 * check_page());
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.around = 8 * check_page();
  serve(MEMORY_ADOPTED, 8, any_resolver(&any, UFFD_ANSWER_BYTES, image), &opts);
  struct check_touch touch;
  check_barrier_hold("installing");
  check_touch_read(&touch, at(3));
  check_barrier_await("installing");
  CHECK_EQ(munmap(at(3), page), 0);
  check_barrier_release("installing");
  CHECK_EQ(pthread_join(touch.thread, NULL), 0);
  CHECK_EQ(touch.signal, SIGSEGV);
  while (serving_stats(serving.loop).latency_count == 0) {
    check_pause();
  }
  CHECK_EQ(serving_stats(serving.loop).gone, 1);
  CHECK_EQ(serving_stats(serving.loop).errors, 0);
  CHECK(image_there(at(0), 0, 3 * page)); /* its neighbours are served */
  CHECK(image_there(at(4), 4 * page, 4 * page));
  end();
}

static void R7_unregistered_meanwhile(void) {
  for (int kind = MEMORY_ANON; kind <= MEMORY_HUGETLB; kind += 2) {
    struct any any;
    unsigned char *image = image_make(UINT64_C(4) << 20);
    serve(kind, 2, any_resolver(&any, UFFD_ANSWER_BYTES, image), NULL);
    struct check_touch touch;
    check_barrier_hold("installing");
    check_touch_read(&touch, at(1) + 70);
    check_barrier_await("installing");
    CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(at(1)), page));
    if (serving_inline()) check_barrier_release("installing"); /* the thread itself is held */
    CHECK_EQ(check_touch_join(&touch), 0);
    check_barrier_release("installing");
    while (serving_stats(serving.loop).latency_count == 0) {
      check_pause();
    }
    CHECK_EQ(serving_stats(serving.loop).gone, 1);
    CHECK_EQ(*at(0), image_byte(0));
    end();
  }
}

/* The region is taken out, and perhaps put in again, while a fault of it is in the handler's queue, or in hand. */
static void remove_region(void *ctx) {
  CHECK_OK(uffd_region_remove(ctx));
}

static void R7_removed_meanwhile(void) {
  for (int again = 0; again < 2; again++) {
    struct any any;
    unsigned char *image = image_make(8 * check_page());
    uffd_region *region = serve(MEMORY_ANON, 8, any_resolver(&any, UFFD_ANSWER_BYTES, image), NULL);
    struct check_touch touch;
    struct check_thread remover;
    const char *place = serving_inline() ? "installing" : "drained";
    check_barrier_hold(place);
    check_touch_read(&touch, at(3));
    check_barrier_await(place);
    check_thread_start(&remover, remove_region, region);
    while (memory_has(memory, 0, "um")) { /* registered */
      check_pause();
    }
    CHECK(!atomic_load(&remover.done)); /* it waits for whoever has the fault */
    if (serving_inline()) check_barrier_release(place);
    CHECK_EQ(check_touch_join(&touch), 0); /* unregistering has woken it */
    check_barrier_release(place);
    check_thread_join(&remover);
    if (again) {
      struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
      opts.object = object;
      region_add(serving.loop, memory, any_resolver(&any, UFFD_ANSWER_BYTES, image), &opts);
    }
    CHECK_EQ(*at(4), again ? image_byte(4 * page) : 0);
    CHECK_EQ(*at(3), 0);
    CHECK_EQ(serving_stats(serving.loop).errors, 0);
    end();
  }
}

/* R22: huge pages */

/* Huge pages that nobody has reserved, and a hog that takes what is free of them. */
static uffd_memory *map_unreserved(int flags, uint64_t huge, unsigned char **room) {
  int fd = memfd_create("short", MFD_CLOEXEC | MFD_HUGETLB);
  uffd_memory *unreserved;
  CHECK_EQ(ftruncate(fd, (off_t)(2 * huge)), 0);
  *room = mmap(NULL, 3 * huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  *room += huge - (CHECK_ADDRESS(*room) & (huge - 1));
  CHECK(mmap(*room, 2 * huge, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE | MAP_FIXED, fd, 0) == *room);
  close(fd);
  CHECK_OK(uffd_memory_adopt(*room, 2 * huge, &unreserved));
  return unreserved;
}

static unsigned char *take_huge_pages(uint64_t huge, uint64_t *length) {
  *length = huge * check_number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  unsigned char *hog = mmap(NULL, *length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  if (hog == MAP_FAILED) SKIP("others hold on to huge pages");
  if (*length > 64 * huge) SKIP("this machine has more free huge pages than a test should take");
  for (uint64_t i = 0; i < *length; i += huge) {
    hog[i] = 1;
  }
  return hog;
}

/* No free huge page: poison needs none; zeros do, and the fault waits until there is one. */
static void run_short_of_huge_pages(int flags, bool zero) {
  uint64_t huge = UINT64_C(2) << 20, length;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  unsigned char *room;
  check_hugepages(4);
  uffd_memory *unreserved = map_unreserved(flags, huge, &room);
  if (zero) opts.on_error = UFFD_ON_ERROR_ZERO;
  serving_open(&serving, ENGINE_ONE, &opts);
  uffd_region *region = region_add(serving.loop, unreserved, image_resolver(2 * huge), NULL);
  CHECK_EQ(*memory_at(unreserved, 5), image_byte(5)); /* one is there */
  unsigned char *hog = take_huge_pages(huge, &length);
  CHECK_ERR(uffd_region_complete(region), -ENOMEM);
  CHECK_SAYS("vm.nr_hugepages");
  struct check_touch touch;
  check_touch_read(&touch, memory_at(unreserved, huge + 9));
  while (serving_stats(serving.loop).errors < 2) {
    check_pause();
  }
  char why[256];
  CHECK_EQ(uffd_loop_error(serving.loop, why, sizeof(why)), ENOMEM);
  CHECK(strstr(why, "vm.nr_hugepages") != NULL);
  while (zero && serving_stats(serving.loop).deferred == 0) {
    check_pause();
  }
  CHECK(!zero || !atomic_load(&touch.done));
  CHECK_EQ(munmap(hog, length), 0);
  CHECK_EQ(pthread_join(touch.thread, NULL), 0);
  CHECK_EQ(touch.signal, zero ? 0 : SIGBUS);
  CHECK_EQ(*memory_at(unreserved, 5), image_byte(5));
  serving_close(&serving);
  uffd_memory_close(unreserved);
  munmap(room, 2 * huge);
}

static void R22_no_huge_page_is_free(void) {
  run_short_of_huge_pages(MAP_SHARED, true);
  run_short_of_huge_pages(MAP_PRIVATE, true);
  check_needs(UFFD_FEAT_POISON);
  run_short_of_huge_pages(MAP_SHARED, false);
  run_short_of_huge_pages(MAP_PRIVATE, false);
}

/* The address may be any byte of the page; the kernel takes whole huge pages only, and wakes by what it has told. */
static void R22_exact_addresses(void) {
  for (int kind = MEMORY_ANON; kind <= MEMORY_HUGETLB; kind += 2) {
    struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
    opts.features = UFFD_FEAT_EXACT_ADDRESS;
    serving_open(&serving, one_or_many(), &opts);
    memory = memory_make(kind, 3);
    page = uffd_memory_page_size(memory);
    struct uffd_region_opts wp = UFFD_REGION_OPTS_INIT;
    wp.modes = UFFD_MODE_MISSING | UFFD_MODE_WP;
    check_needs(UFFD_FEAT_WP_HUGETLBFS_SHMEM);
    region_add(serving.loop, memory, image_resolver(3 * page), &wp);
    CHECK_EQ(at(1)[page - 1], image_byte(2 * page - 1));
    at(1)[page - 77] = 0;
    CHECK_EQ(at(1)[page - 77], 0);
    CHECK(image_there(at(1), page, page - 77));
    CHECK_EQ(serving_stats(serving.loop).faults, 2);
    CHECK_EQ(serving_stats(serving.loop).unprotected, 1);
    /* and one that finds its page there */
    struct check_touch touches[3];
    fault_together(touches, 3, at(0) + 99, at(2), 1000);
    for (unsigned i = 0; i < 3; i++) {
      check_touch_join(&touches[i]);
    }
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

/* R23: installing and protecting is one step */

static void R23_a_page_is_never_there_unprotected(void) {
  static const uint32_t kinds[] = {UFFD_ANSWER_ZERO, UFFD_ANSWER_BYTES, UFFD_ANSWER_MOVE};
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP);
  for (unsigned k = 0; k < 3; k++) {
    struct any any;
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    opts.modes = UFFD_MODE_MISSING | UFFD_MODE_WP;
    opts.around = 4 * check_page();
    unsigned char *image = image_make(4 * check_page());
    serve(MEMORY_ANON, 4, any_resolver(&any, kinds[k], image), &opts);
    struct check_touch reader, writers[2];
    check_barrier_hold("installed");
    check_touch_read(&reader, at(1));
    check_barrier_await("installed"); /* the ioctl is done, and nothing else */
    check_touch_write(&writers[0], at(1) + 1, 7);
    check_touch_write(&writers[1], at(2), 8);
    if (serving_inline()) { /* it is the reader that stands there */
      check_touch_join(&writers[0]);
      check_touch_join(&writers[1]);
      check_barrier_release("installed");
    } else {
      check_touch_asleep(&writers[0]);
      check_touch_asleep(&writers[1]);
    }
    CHECK_EQ(check_touch_join(&reader), kinds[k] == UFFD_ANSWER_ZERO ? 0 : image_byte(page));
    if (!serving_inline()) {
      check_barrier_release("installed");
      check_touch_join(&writers[0]);
      check_touch_join(&writers[1]);
    }
    CHECK_EQ(at(1)[1], 7);
    CHECK_EQ(*at(2), 8);
    while (serving_stats(serving.loop).latency_count < 3) {
      check_pause();
    }
    CHECK_EQ(serving_stats(serving.loop).wp, 2);
    CHECK_EQ(serving_stats(serving.loop).unprotected, 2);
    end();
    munmap(image, 4 * check_page());
  }
}

/* R25: what an answer does not have is zeros, never what happened to lie there */

static int answer_short(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  uint64_t length = fault->offset / fault->page_size % 2 == 0 ? 100 : 1;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = asked->ctx;
  answer->length = length;
  return 0;
}

static void R25_a_short_answer_ends_in_zeros(void) {
  for (int kind = MEMORY_ANON; kind <= MEMORY_HUGETLB; kind += 2) {
    struct asked asked = {.answer = answer_short, .ctx = image_make(4096)};
    serve(kind, 3, asked_resolver(&asked), NULL);
    for (uint64_t i = 0; i < 3; i++) {
      uint64_t length = i % 2 == 0 ? 100 : 1;
      CHECK(image_there(at(i), 0, length));
      CHECK(check_filled(at(i) + length, page - length, 0));
    }
    end();
  }
}

static void R25_a_file_that_shrinks_fails_there(void) {
  check_needs(UFFD_FEAT_POISON);
  uint64_t small = check_page();
  char name[] = "/tmp/uffd-test-XXXXXX";
  int fd = mkstemp(name);
  CHECK(fd >= 0);
  unlink(name);
  unsigned char *image = image_make(8 * small);
  CHECK_EQ(write(fd, image, 8 * small), 8 * small);
  uffd_resolver *resolver;
  struct uffd_file_opts file_opts = UFFD_FILE_OPTS_INIT;
  file_opts.flags = UFFD_FILE_CHANGES;
  CHECK_OK(uffd_resolver_file_fd(fd, &file_opts, &resolver));
  serve(MEMORY_ANON, 8, resolver, NULL);
  CHECK(image_there(at(5), 5 * page, page));
  CHECK_EQ(ftruncate(fd, (off_t)(3 * small)), 0);
  CHECK(image_there(at(2), 2 * page, page));
  CHECK_EQ(check_access(at(6), false, NULL), SIGBUS); /* not zeros */
  char why[256];
  CHECK_EQ(uffd_loop_error(serving.loop, why, sizeof(why)), ENODATA);
  CHECK(strstr(why, "file") != NULL);
  CHECK_EQ(serving_stats(serving.loop).errors, 1);
  end();
  close(fd);
}

static const struct check_test tests[] = {
    TEST(R4_pages_are_there_within_the_cover),
    TEST(R4_continue_goes_on_around_mapped_pages),
    TEST(R4_prefetch_goes_on_around_pages_that_are_there),
    TEST(R5_a_present_page_is_woken),
    TEST(R5_huge_pages_too),
    TEST(R5_two_threads_at_one_page),
    TEST(R5_an_answer_never_heals_poison),
    TEST(R7_unmapped_meanwhile),
    TEST(R7_unregistered_meanwhile),
    TEST(R7_removed_meanwhile),
    TEST(R22_no_huge_page_is_free),
    TEST(R22_exact_addresses),
    TEST(R23_a_page_is_never_there_unprotected),
    TEST(R25_a_short_answer_ends_in_zeros),
    TEST(R25_a_file_that_shrinks_fails_there),
};
CHECK_MAIN(tests)
