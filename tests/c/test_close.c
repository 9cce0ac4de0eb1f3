/* Closing: with sleepers, with readers, during calls, with copies of the descriptor elsewhere. It never hangs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"
#include "kernel/object.h"

static uffd_object *object;

static struct check_area registered(int kind, uint64_t count, uint64_t modes) {
  if (object == NULL) object = check_open(0);
  struct check_area area = check_map(kind, count);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, modes, NULL));
  return area;
}

static void missing_sleepers_go_on_and_read_zeros(void) {
  struct check_area area = registered(CHECK_ANON, 3, UFFD_MODE_MISSING);
  struct check_touch read, unread;
  check_touch_read(&read, area.at);
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(area.at));
  check_touch_read(&unread, area.at + area.page);
  check_touch_asleep(&read);
  check_touch_asleep(&unread);
  uffd_close(object);
  CHECK_EQ(check_touch_join(&read), 0);
  CHECK_EQ(check_touch_join(&unread), 0);
  CHECK_EQ(area.at[2 * area.page], 0);
}

static void wp_sleepers_go_on(void) {
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP);
  struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_MISSING | UFFD_MODE_WP);
  unsigned char *source = check_pattern(area.page, 1, 5);
  CHECK_OK(uffd_copy(object, CHECK_ADDRESS(area.at), source, area.page, UFFD_COPY_WP, NULL));
  struct check_touch touch;
  check_touch_write(&touch, area.at, 7);
  check_touch_asleep(&touch);
  uffd_close(object);
  check_touch_join(&touch);
  CHECK_EQ(area.at[0], 7);
  CHECK_EQ(area.at[1], 5);
}

static void minor_sleepers_go_on(void) {
  check_needs(UFFD_FEAT_MINOR_SHMEM);
  struct check_area area = registered(CHECK_SHMEM, 1, UFFD_MODE_MINOR);
  area.alias[0] = 5;
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  check_touch_asleep(&touch);
  uffd_close(object);
  CHECK_EQ(check_touch_join(&touch), 5);
}

static struct drop {
  unsigned char *at;
  uint64_t length;
} drop;

static void drop_pages(void *ctx) {
  (void)ctx;
  CHECK(madvise(drop.at, drop.length, MADV_DONTNEED) == 0);
}

static void madvise_that_waits_goes_on(void) {
  object = check_open(UFFD_FEAT_EVENT_REMOVE);
  struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_MISSING);
  drop = (struct drop){area.at, area.length};
  struct check_thread thread;
  check_thread_start(&thread, drop_pages, NULL);
  check_asleep(thread.tid, "userfault");
  uffd_close(object);
  check_thread_join(&thread);
}

/* Readers */

struct reader {
  struct check_thread thread;
  int rc;
  char sentence[256];
};

static void read_once(void *ctx) {
  struct reader *reader = ctx;
  struct uffd_event event;
  reader->rc = uffd_read(object, &event, 1, -1);
  snprintf(reader->sentence, sizeof(reader->sentence), "%s", uffd_errmsg());
}

static void readers_come_out(uint32_t flags) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.flags = flags;
  check_needs(0);
  CHECK_OK(uffd_open(&opts, &object));
  struct reader readers[3];
  for (int i = 0; i < 3; i++)
    check_thread_start(&readers[i].thread, read_once, &readers[i]);
  for (int i = 0; i < 3; i++)
    check_asleep(readers[i].thread.tid, "poll");
  int fd = CHECK_OK(uffd_fd(object));
  uffd_close(object);
  for (int i = 0; i < 3; i++) {
    check_thread_join(&readers[i].thread);
    CHECK_EQ(readers[i].rc, -EBADF);
    CHECK(strstr(readers[i].sentence, "closed") != NULL);
  }
  CHECK(fcntl(fd, F_GETFD) < 0);
}
static void readers_come_out_polling(void) {
  readers_come_out(0);
}
static void readers_come_out_blocking(void) {
  readers_come_out(UFFD_OPEN_BLOCKING);
}

static void close_it(void *ctx) {
  (void)ctx;
  uffd_close(object);
}

/* field: the descriptor's number must not be given back while a reader may still use it. */
static void the_number_is_kept_until_the_reader_is_out(void) {
  object = check_open(0);
  int fd = CHECK_OK(uffd_fd(object));
  check_barrier_hold("read.waiting"); /* has seen that nothing closes, and has not yet waited */
  struct reader reader;
  check_thread_start(&reader.thread, read_once, &reader);
  check_barrier_await("read.waiting");
  struct check_thread closer;
  check_thread_start(&closer, close_it, NULL);
  check_asleep(closer.tid, "futex");
  CHECK(!atomic_load(&closer.done));
  CHECK(fcntl(fd, F_GETFD) >= 0);
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EBADF); /* nobody gets in any more */
  CHECK_ERR(uffd_fd(object), -EBADF);
  check_barrier_release("read.waiting");
  check_thread_join(&reader.thread);
  CHECK_EQ(reader.rc, -EBADF);
  check_thread_join(&closer);
  CHECK(fcntl(fd, F_GETFD) < 0);
}

/*
 * Many readers and writers while the object is closed, again and again. A program could use a freed handle between two
 * calls. Here its memory is kept, so that calls that come too late are tested as well.
 */
static void *keep_alloc(void *ctx, size_t length) {
  (void)ctx;
  return malloc(length);
}

static void keep_free(void *ctx, void *pointer, size_t length) {
  (void)length;
  (void)ctx;
  static void *kept[64]; /* reachable: not a leak */
  static _Atomic unsigned count;
  unsigned i = atomic_fetch_add(&count, 1) % 64;
  CHECK(kept[i] == NULL);
  kept[i] = pointer;
}

static void pump(void *ctx) {
  (void)ctx;
  for (;;) {
    struct uffd_event events[8];
    int count = uffd_read(object, events, 8, -1);
    if (count == -EBADF) return;
    CHECK_OK(count);
    for (int i = 0; i < count; i++) {
      int rc = uffd_zeropage(object, events[i].address, check_page(), 0, NULL);
      if (rc == -EBADF) return;
      if (rc < 0) CHECK_EQ(rc, -EEXIST);
    }
  }
}

static struct check_area shared_area;
static _Atomic bool go;

static void touch_all(void *ctx) {
  (void)ctx;
  while (!atomic_load(&go))
    check_pause();
  for (uint64_t at = 0; at < shared_area.length; at += shared_area.page)
    CHECK_EQ(((volatile unsigned char *)shared_area.at)[at], 0);
}

static void closed_in_the_midst(void) {
  struct uffd_allocator allocator = {sizeof(allocator), keep_alloc, keep_free, NULL};
  CHECK_OK(uffd_set_allocator(&allocator));
  for (int round = 0; round < 20; round++) {
    object = NULL;
    shared_area = registered(CHECK_ANON, 256, UFFD_MODE_MISSING);
    struct check_thread pumps[2], touchers[2];
    atomic_store(&go, false);
    for (int i = 0; i < 2; i++) {
      check_thread_start(&pumps[i], pump, NULL);
      check_thread_start(&touchers[i], touch_all, NULL);
    }
    atomic_store(&go, true);
    while (((volatile unsigned char *)shared_area.at)[(unsigned)round * shared_area.page] != 0)
      check_pause();
    uffd_close(object);
    for (int i = 0; i < 2; i++) {
      check_thread_join(&pumps[i]);
      check_thread_join(&touchers[i]);
    }
    check_unmap(&shared_area);
  }
}

/* A call that sleeps on a fault of the object's own */

struct copier {
  struct check_thread thread;
  struct check_area *from;
  struct check_area *to;
  int rc;
};

static void copy_from_missing(void *ctx) {
  struct copier *copier = ctx;
  copier->rc = uffd_copy(object, CHECK_ADDRESS(copier->to->at), copier->from->at, copier->to->page, 0, NULL);
}

static void a_copy_whose_source_is_missing(void) {
  struct check_area from = registered(CHECK_ANON, 1, UFFD_MODE_MISSING);
  check_needs_kernel_faults(object);
  struct check_area to = registered(CHECK_ANON, 1, UFFD_MODE_MISSING);
  struct copier copier = {.from = &from, .to = &to};
  check_thread_start(&copier.thread, copy_from_missing, &copier);
  check_asleep(copier.thread.tid, "userfault");
  uffd_close(object); /* waits for the call, which waits for us: the range is let go first */
  check_thread_join(&copier.thread);
  if (copier.rc < 0) CHECK_EQ(copier.rc, -EBADF);
}

/* Copies of the descriptor elsewhere */

/* A forked child holds the descriptor: closing unregisters the ranges all the same. */
static void a_forked_child_holds_the_descriptor(void) {
  struct check_area area = registered(CHECK_ANON, 2, UFFD_MODE_MISSING);
  int ends[2];
  CHECK(pipe(ends) == 0);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    char letter;
    close(ends[1]);
    _exit(read(ends[0], &letter, 1) == 0 ? 0 : 1); /* until the parent is done, with the descriptor open */
  }
  close(ends[0]);
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  check_touch_asleep(&touch);
  uffd_close(object);
  CHECK_EQ(check_touch_join(&touch), 0);
  CHECK_EQ(area.at[area.page], 0); /* not registered any more either */
  close(ends[1]);
  check_child(child);
}

/* A range that was unmapped, mapped again and registered with another object belongs to that object. */
static void closing_leaves_other_objects_alone(void) {
  struct check_area area = registered(CHECK_ANON, 2, UFFD_MODE_MISSING);
  CHECK(mmap(area.at, area.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == area.at);
  uffd_object *second = check_open(0);
  CHECK_OK(uffd_register(second, CHECK_ADDRESS(area.at), area.length, UFFD_MODE_MISSING, NULL));
  uffd_close(object);
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  CHECK_EQ(check_fault(second).address, CHECK_ADDRESS(area.at));
  CHECK_OK(uffd_zeropage(second, CHECK_ADDRESS(area.at), area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(second);
}

static void protection_and_markers_are_dropped(void) {
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP);
  struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_WP);
  area.at[0] = 3;
  CHECK_OK(uffd_writeprotect(object, CHECK_ADDRESS(area.at), area.page, UFFD_WRITEPROTECT_WP));
  uffd_close(object);
  area.at[0] = 4; /* no fault any more */
  CHECK_EQ(area.at[0], 4);
}

static void nothing_is_lost_by_opening_and_closing(void) {
  check_needs(0);
  int before = dup(0);
  close(before);
  for (int i = 0; i < 300; i++) {
    CHECK_OK(uffd_open(NULL, &object));
    struct uffd_event event;
    CHECK_EQ(uffd_read(object, &event, 1, 1), 0); /* makes the eventfd too */
    uffd_close(object);
  }
  int after = dup(0);
  CHECK_EQ(after, before);
}

static const struct check_test tests[] = {
    TEST(missing_sleepers_go_on_and_read_zeros),
    TEST(wp_sleepers_go_on),
    TEST(minor_sleepers_go_on),
    TEST(madvise_that_waits_goes_on),
    TEST(readers_come_out_polling),
    TEST(readers_come_out_blocking),
    TEST(the_number_is_kept_until_the_reader_is_out),
    TEST(closed_in_the_midst),
    TEST(a_copy_whose_source_is_missing),
    TEST(a_forked_child_holds_the_descriptor),
    TEST(closing_leaves_other_objects_alone),
    TEST(protection_and_markers_are_dropped),
    TEST(nothing_is_lost_by_opening_and_closing),
};
CHECK_MAIN(tests)
