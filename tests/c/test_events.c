/* The five events: decoded, in which order they come, who waits for them; the objects that forks bring. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "check.h"
#include "kernel/object.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

static uffd_object *object;

static struct check_area registered(uint64_t features, int kind, uint64_t count, uint64_t modes) {
  if (object == NULL) object = check_open(features);
  struct check_area area = check_map(kind, count);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, modes, NULL));
  return area;
}

/* A thread does something to the memory, and waits until the event is read */

static struct deed {
  int (*act)(unsigned char *at, uint64_t length);
  unsigned char *at;
  uint64_t length;
  unsigned char *result;
} deed;
static struct check_thread doer;

static void act(void *ctx) {
  (void)ctx;
  CHECK_EQ(deed.act(deed.at, deed.length), 0);
}

static void start_deed(int (*what)(unsigned char *, uint64_t), unsigned char *at, uint64_t length) {
  deed.act = what;
  deed.at = at;
  deed.length = length;
  check_thread_start(&doer, act, NULL);
  check_asleep(doer.tid, "userfault");
}

static int dontneed(unsigned char *at, uint64_t length) {
  return madvise(at, length, MADV_DONTNEED);
}
static int free_pages(unsigned char *at, uint64_t length) {
  return madvise(at, length, MADV_FREE);
}
static int remove_pages(unsigned char *at, uint64_t length) {
  return madvise(at, length, MADV_REMOVE);
}
static int unmap(unsigned char *at, uint64_t length) {
  return munmap(at, length);
}
static int map_over(unsigned char *at, uint64_t length) {
  return mmap(at, length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at ? 0 : -1;
}
static int move_away(unsigned char *at, uint64_t length) {
  deed.result = mremap(at, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, deed.result);
  return deed.result == MAP_FAILED;
}
static int move_and_keep(unsigned char *at, uint64_t length) {
  deed.result = mremap(at, length, length, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
  return deed.result == MAP_FAILED;
}
static int shrink(unsigned char *at, uint64_t length) {
  return mremap(at, 2 * length, length, 0) == at ? 0 : -1;
}

static struct uffd_event read_event(unsigned type) {
  struct uffd_event event;
  CHECK_EQ(uffd_read(object, &event, 1, -1), 1);
  CHECK_EQ(event.type, type);
  CHECK_EQ(event.flags, 0);
  CHECK_EQ(event.tid, 0);
  CHECK(event.object == NULL);
  return event;
}

static void remove_event(int kind, int (*what)(unsigned char *, uint64_t)) {
  struct check_area area = registered(UFFD_FEAT_EVENT_REMOVE, kind, 4, UFFD_MODE_MISSING);
  start_deed(what, area.at + area.page, 2 * area.page);
  struct uffd_event event = read_event(UFFD_REMOVE);
  CHECK_EQ(event.address, CHECK_ADDRESS(area.at) + area.page);
  CHECK_EQ(event.length, 2 * area.page);
  check_thread_join(&doer);
  uffd_close(object);
}
static void remove_by_dontneed(void) {
  remove_event(CHECK_ANON, dontneed);
}
static void remove_by_free(void) {
  remove_event(CHECK_ANON, free_pages);
}
static void remove_by_dontneed_shmem(void) {
  remove_event(CHECK_SHMEM, dontneed);
}
static void remove_by_remove_shmem(void) {
  remove_event(CHECK_SHMEM, remove_pages);
}
static void remove_by_dontneed_hugetlb(void) {
  remove_event(CHECK_HUGETLB, dontneed);
}

static void unmap_event(int (*what)(unsigned char *, uint64_t)) {
  struct check_area area = registered(UFFD_FEAT_EVENT_UNMAP, CHECK_ANON, 4, UFFD_MODE_MISSING);
  start_deed(what, area.at + area.page, 2 * area.page);
  struct uffd_event event = read_event(UFFD_UNMAP);
  CHECK_EQ(event.address, CHECK_ADDRESS(area.at) + area.page);
  CHECK_EQ(event.length, 2 * area.page);
  check_thread_join(&doer);
  uffd_close(object);
}
static void unmap_by_munmap(void) {
  unmap_event(unmap);
}
static void unmap_by_mapping_over(void) {
  unmap_event(map_over);
}

static void unmap_by_shrinking(void) {
  struct check_area area = registered(UFFD_FEAT_EVENT_UNMAP, CHECK_ANON, 4, UFFD_MODE_MISSING);
  start_deed(shrink, area.at, 2 * area.page);
  struct uffd_event event = read_event(UFFD_UNMAP);
  CHECK_EQ(event.address, CHECK_ADDRESS(area.at) + 2 * area.page);
  CHECK_EQ(event.length, 2 * area.page);
  check_thread_join(&doer);
  uffd_close(object);
}

static void remap_then_unmap(void) {
  struct check_area area = registered(UFFD_FEAT_EVENT_REMAP | UFFD_FEAT_EVENT_UNMAP, CHECK_ANON, 4, UFFD_MODE_MISSING);
  struct check_area target = check_map(CHECK_ANON, 2);
  deed = (struct deed){move_away, area.at + area.page, 2 * area.page, target.at};
  check_thread_start(&doer, act, NULL);
  struct uffd_event event = read_event(UFFD_REMAP);
  CHECK_EQ(event.address, CHECK_ADDRESS(area.at) + area.page);
  CHECK_EQ(event.to, CHECK_ADDRESS(target.at));
  CHECK_EQ(event.length, 2 * area.page);
  event = read_event(UFFD_UNMAP);
  CHECK_EQ(event.address, CHECK_ADDRESS(area.at) + area.page);
  CHECK_EQ(event.length, 2 * area.page);
  check_thread_join(&doer);
  /* The registration moved along. */
  struct check_touch touch;
  check_touch_read(&touch, target.at);
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(target.at));
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(target.at), area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

static void remap_that_keeps_the_old_range(void) {
  struct check_area area = registered(UFFD_FEAT_EVENT_REMAP | UFFD_FEAT_EVENT_UNMAP, CHECK_ANON, 1, UFFD_MODE_MISSING);
  start_deed(move_and_keep, area.at, area.length);
  struct uffd_event event = read_event(UFFD_REMAP);
  check_thread_join(&doer);
  CHECK_EQ(event.to, CHECK_ADDRESS(deed.result));
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  struct check_touch touches[2];
  check_touch_read(&touches[0], area.at);
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(area.at));
  check_touch_read(&touches[1], deed.result);
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(deed.result));
  uffd_close(object);
  CHECK_EQ(check_touch_join(&touches[0]), 0);
  CHECK_EQ(check_touch_join(&touches[1]), 0);
}

/* Without the feature the registration is lost, and those who sleep in the old range stay until woken. */
static void remap_without_the_feature(void) {
  struct check_area area = registered(0, CHECK_ANON, 2, UFFD_MODE_MISSING);
  struct check_area target = check_map(CHECK_ANON, 2);
  struct check_touch touch;
  check_touch_read(&touch, area.at);
  check_touch_asleep(&touch);
  CHECK(mremap(area.at, area.length, area.length, MREMAP_MAYMOVE | MREMAP_FIXED, target.at) == target.at);
  CHECK_EQ(target.at[0], 0);
  check_touch_asleep(&touch);
  CHECK_OK(uffd_wake(object, CHECK_ADDRESS(area.at), area.length));
  CHECK(pthread_join(touch.thread, NULL) == 0);
  CHECK_EQ(touch.signal, 11); /* SIGSEGV */
  uffd_close(object);
}

/* Faults come before the events that precede them: R8. */
static void faults_before_older_events(void) {
  struct check_area area = registered(UFFD_FEAT_EVENT_REMOVE, CHECK_ANON, 4, UFFD_MODE_MISSING);
  start_deed(dontneed, area.at, area.page);
  struct check_touch touch;
  check_touch_read(&touch, area.at + 2 * area.page);
  check_touch_asleep(&touch);
  struct uffd_event events[4];
  CHECK_EQ(uffd_read(object, events, 4, 0), 2);
  CHECK_EQ(events[0].type, UFFD_PAGEFAULT);
  CHECK_EQ(events[1].type, UFFD_REMOVE);
  check_thread_join(&doer);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(area.at) + 2 * area.page, area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

static void what_makes_no_event(void) {
  struct check_area area = registered(UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_EVENT_UNMAP | UFFD_FEAT_EVENT_REMAP,
                                      CHECK_ANON, 4, UFFD_MODE_MISSING);
  CHECK(mprotect(area.at, area.length, PROT_READ) == 0);
  CHECK(madvise(area.at, area.length, MADV_WILLNEED) == 0);
  CHECK(madvise(area.at, area.length, MADV_DONTDUMP) == 0);
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  uffd_close(object);
}

/* Decoding */

static void unknown_events_are_carried(void) {
  object = check_open(0);
  struct uffd_raw_msg message = {.event = 0x99, .arg.raw = {1, 2, 3}};
  struct uffd_event event;
  uffd_decode(object, &message, &event);
  CHECK_EQ(event.type, 0x99);
  CHECK_EQ(event.flags, 1);
  CHECK_EQ(event.address, 2);
  CHECK_EQ(event.to, 3);
  message = (struct uffd_raw_msg){.event = UFFD_PAGEFAULT, .arg.pagefault = {UINT64_C(1) << 50 | 8, 4096, 77}};
  uffd_decode(object, &message, &event);
  CHECK_EQ(event.flags, UINT64_C(1) << 50 | 8);
  CHECK_EQ(event.tid, 77);
  uffd_close(object);
}

/* Fork */

static struct child {
  struct check_thread forker;
  void (*body)(void);
  pid_t pid;
} child;

static void fork_it(void *ctx) {
  (void)ctx;
  fflush(NULL);
  child.pid = fork();
  if (child.pid == 0) {
    child.body();
    _exit(0);
  }
}

static void start_fork(void (*body)(void)) {
  child.body = body;
  check_thread_start(&child.forker, fork_it, NULL);
}

static void end_fork(void) {
  check_thread_join(&child.forker);
  check_child(child.pid);
}

static uffd_object *read_fork(void) {
  struct uffd_event event;
  CHECK_EQ(uffd_read(object, &event, 1, -1), 1);
  CHECK_EQ(event.type, UFFD_FORK);
  CHECK(event.object != NULL);
  return event.object;
}

static struct check_area shared_area;

static void read_second_page(void) {
  CHECK_EQ(shared_area.at[shared_area.page], 0x21);
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EOWNERDEAD);
}

static void the_object_of_a_fork(void) {
  shared_area = registered(UFFD_FEAT_EVENT_FORK | UFFD_FEAT_THREAD_ID, CHECK_ANON, 4, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(shared_area.page, 1, 0x21);
  start_fork(read_second_page);
  uffd_object *theirs = read_fork();
  int fd = CHECK_OK(uffd_fd(theirs));
  CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
  CHECK_EQ(uffd_features(theirs), uffd_features(object));
  CHECK_EQ(uffd_available(theirs), uffd_available(object));
  CHECK_EQ(uffd_route(theirs), UFFD_ROUTE_ADOPTED);
  CHECK_EQ(uffd_user_mode_only(theirs), uffd_user_mode_only(object));
  struct uffd_event event = check_fault(theirs);
  CHECK_EQ(event.address, CHECK_ADDRESS(shared_area.at) + shared_area.page);
  CHECK(event.tid != 0);
  CHECK_OK(uffd_copy(theirs, event.address, source, shared_area.page, 0, NULL));
  end_fork();
  CHECK_ERR(uffd_copy(theirs, event.address, source, shared_area.page, 0, NULL), -ESRCH);
  /* The parent's own page is as missing as before. */
  CHECK_OK(uffd_zeropage(object, event.address, shared_area.page, 0, NULL));
  uffd_close(theirs);
  CHECK(fcntl(fd, F_GETFD) < 0);
  uffd_close(object);
}

static void read_zeros(void) {
  CHECK_EQ(shared_area.at[0], 0);
}

static void closing_the_object_of_a_fork(void) {
  shared_area = registered(UFFD_FEAT_EVENT_FORK, CHECK_ANON, 1, UFFD_MODE_MISSING);
  start_fork(read_zeros);
  uffd_object *theirs = read_fork();
  check_fault(theirs);
  uffd_close(theirs); /* the child goes on, with zeros */
  end_fork();
  struct check_touch touch; /* the parent's registration is its own */
  check_touch_read(&touch, shared_area.at);
  check_fault(object);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(shared_area.at), shared_area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

/* The children's objects outlive the parent's, and each other. */
static void objects_of_forks_outlive_the_parent_s(void) {
  shared_area = registered(UFFD_FEAT_EVENT_FORK, CHECK_ANON, 1, UFFD_MODE_MISSING);
  uffd_object *theirs[3];
  pid_t pids[3];
  for (int i = 0; i < 3; i++) {
    start_fork(read_zeros);
    theirs[i] = read_fork();
    check_thread_join(&child.forker);
    pids[i] = child.pid;
  }
  uffd_close(object);
  for (int i = 0; i < 3; i++) {
    check_fault(theirs[i]);
    CHECK_OK(uffd_zeropage(theirs[i], CHECK_ADDRESS(shared_area.at), shared_area.page, 0, NULL));
    check_child(pids[i]);
    uffd_close(theirs[i]);
  }
}

/*
 * A younger child holds a copy of the elder's descriptor. Closing the elder's object unregisters the elder's memory all
 * the same.
 */
static int leash[2];

static void wait_for_the_end(void) {
  char letter;
  close(leash[1]);
  CHECK_EQ(read(leash[0], &letter, 1), 0);
}

static void a_younger_child_holds_the_descriptor(void) {
  shared_area = registered(UFFD_FEAT_EVENT_FORK, CHECK_ANON, 1, UFFD_MODE_MISSING);
  CHECK(pipe(leash) == 0);
  start_fork(read_zeros);
  uffd_object *elder = read_fork();
  check_thread_join(&child.forker);
  pid_t elder_pid = child.pid;
  check_fault(elder);
  start_fork(wait_for_the_end);
  uffd_object *younger = read_fork();
  check_thread_join(&child.forker);
  uffd_close(elder);
  check_child(elder_pid);
  close(leash[1]);
  check_child(child.pid);
  uffd_close(younger);
  uffd_close(object);
}

/* The memory is moved while another process holds a copy of the descriptor: closing unregisters it where it is now. */
static void closing_follows_what_moved(void) {
  shared_area = registered(UFFD_FEAT_EVENT_REMAP | UFFD_FEAT_EVENT_UNMAP, CHECK_ANON, 2, UFFD_MODE_MISSING);
  struct check_area target = check_map(CHECK_ANON, 2);
  CHECK(pipe(leash) == 0);
  start_fork(wait_for_the_end);
  check_thread_join(&child.forker);
  deed = (struct deed){move_away, shared_area.at, shared_area.length, target.at};
  check_thread_start(&doer, act, NULL);
  read_event(UFFD_REMAP);
  read_event(UFFD_UNMAP);
  check_thread_join(&doer);
  struct check_touch touch;
  check_touch_read(&touch, target.at + target.page);
  check_touch_asleep(&touch);
  uffd_close(object);
  CHECK_EQ(check_touch_join(&touch), 0);
  close(leash[1]);
  check_child(child.pid);
}

/* So many forks that the spare objects are used up more than once. */
#define FORKS 300

static void many_forks(void) {
  shared_area = registered(UFFD_FEAT_EVENT_FORK, CHECK_ANON, 1, UFFD_MODE_MISSING);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(shared_area.at), shared_area.page, 0, NULL));
  static uffd_object *theirs[FORKS];
  for (int i = 0; i < FORKS; i++) {
    start_fork(read_zeros);
    theirs[i] = read_fork();
    end_fork();
  }
  for (int i = FORKS - 1; i >= 0; i--)
    uffd_close(theirs[i]);
  uffd_close(object);
}

static void do_nothing(void) {}

/* R13: no room for the child's descriptor: the fork waits, and its event is not lost. */
static void emfile_keeps_the_event(void) {
  shared_area = registered(UFFD_FEAT_EVENT_FORK, CHECK_ANON, 1, UFFD_MODE_MISSING);
  struct uffd_event event;
  CHECK_EQ(uffd_read(object, &event, 1, 1), 0); /* what reading needs is made */
  start_fork(do_nothing);
  check_asleep(child.forker.tid, "userfault");
  struct rlimit before, none = {0, 0};
  CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
  int next = dup(0);
  close(next);
  none.rlim_max = before.rlim_max;
  none.rlim_cur = (rlim_t)next;
  CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
  for (int i = 0; i < 3; i++) {
    CHECK_ERR(uffd_read(object, &event, 1, i == 0 ? 0 : -1), -EMFILE);
    CHECK_SAYS("read again");
  }
  CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
  uffd_object *theirs = read_fork();
  end_fork();
  uffd_close(theirs);
  uffd_close(object);
}

/* glibc's fork() holds malloc's locks while it waits for the reader, so the reader must not take them. */
static unsigned allocations;

static void *counting_alloc(void *ctx, size_t length) {
  (void)ctx;
  allocations++;
  return malloc(length);
}

static void counting_free(void *ctx, void *pointer, size_t length) {
  (void)ctx;
  (void)length;
  free(pointer);
}

static void reading_a_fork_allocates_nothing(void) {
  struct uffd_allocator allocator = {sizeof(allocator), counting_alloc, counting_free, NULL};
  CHECK_OK(uffd_set_allocator(&allocator));
  shared_area = registered(UFFD_FEAT_EVENT_FORK, CHECK_ANON, 1, UFFD_MODE_MISSING);
  unsigned before = allocations;
  start_fork(do_nothing);
  uffd_object *theirs = read_fork();
  CHECK_EQ(allocations, before);
  end_fork();
  uffd_close(theirs);
  uffd_close(object);
}

/* R14: without the feature the child has zeros where pages are missing, and is not registered. */
static void fork_without_the_feature(void) {
  shared_area = registered(0, CHECK_ANON, 2, UFFD_MODE_MISSING);
  unsigned char *source = check_pattern(shared_area.page, 1, 9);
  CHECK_OK(uffd_copy(object, CHECK_ADDRESS(shared_area.at) + shared_area.page, source, shared_area.page, 0, NULL));
  start_fork(read_zeros);
  end_fork();
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  uffd_close(object);
}

/* uffd-unit-tests, "events", "events-wp": a forked child faults half the area, moves it, faults the rest, drops it
 */

#define PAGES 16

static void live(void) {
  uint64_t page = shared_area.page, length = shared_area.length;
  unsigned char *at = shared_area.at;
  for (unsigned i = 0; i < PAGES / 2; i++)
    CHECK_EQ(at[i * page + 7], i + 1);
  unsigned char *room = mmap(NULL, length + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  room += page - 1;
  room -= CHECK_ADDRESS(room) & (page - 1);
  CHECK(mremap(at, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
  at = room;
  for (unsigned i = PAGES / 2; i < PAGES; i++)
    CHECK_EQ(at[i * page + 7], i + 1);
  for (unsigned i = 0; i < PAGES; i++) { /* with WP each first write is one more fault */
    at[i * page + 8] = 0xee;
    CHECK(at[i * page + 7] == i + 1 && at[i * page + 8] == 0xee);
  }
  bool shared = shared_area.kind == CHECK_SHMEM || shared_area.kind == CHECK_HUGETLB;
  CHECK(madvise(at, length, shared ? MADV_REMOVE : MADV_DONTNEED) == 0);
  for (unsigned i = 0; i < PAGES; i++)
    CHECK_EQ(at[i * page + 7], 0);
}

/* Drains, applies events, then resolves: the order of the loop. */
struct server {
  uffd_object *theirs;
  uint64_t base;
  uint64_t missing, writes;
  unsigned char *source;
  bool removed;
};

static void apply_event(struct server *server, const struct uffd_event *event) {
  if (event->type == UFFD_REMAP) server->base = event->to;
  if (event->type != UFFD_REMOVE) return;
  server->removed = true;
  CHECK_OK(uffd_unregister(server->theirs, event->address, event->length));
}

static void resolve_fault(struct server *server, const struct uffd_event *event, uint64_t mode) {
  uint64_t offset = event->address - server->base;
  CHECK(offset < shared_area.length);
  int rc;
  do { /* the maker of an event read just now may not have gone on yet */
    if ((event->flags & UFFD_FAULT_WP) != 0)
      rc = uffd_writeprotect(server->theirs, event->address, shared_area.page, 0);
    else
      rc = uffd_copy(server->theirs, event->address, server->source + offset, shared_area.page, mode, NULL);
  } while (rc == -EAGAIN);
  if (server->removed && (rc == -ENOENT || rc == -ESRCH))
    return; /* R7: a fault after the removal, woken by unregistering */
  CHECK_OK(rc);
  if ((event->flags & UFFD_FAULT_WP) != 0)
    server->writes++;
  else
    server->missing++;
}

static void events(int kind, bool wp) {
  uint64_t features =
      UFFD_FEAT_EVENT_FORK | UFFD_FEAT_EVENT_REMAP | UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_PAGEFAULT_FLAG_WP;
  if (wp) features |= UFFD_FEAT_WP_HUGETLBFS_SHMEM;
  shared_area = registered(features, kind, PAGES, UFFD_MODE_MISSING | (wp ? UFFD_MODE_WP : 0));
  struct server server = {.base = CHECK_ADDRESS(shared_area.at)};
  server.source = check_pattern(shared_area.page, PAGES, 1);
  start_fork(live);
  server.theirs = read_fork();
  while (!server.removed) {
    struct uffd_event read[64];
    int count = 0, rc = CHECK_OK(uffd_read(server.theirs, read, 64, -1));
    for (; rc > 0; rc = uffd_read(server.theirs, read + count, 64 - (unsigned)count, 0))
      count += rc;
    for (int i = 0; i < count; i++)
      if (read[i].type != UFFD_PAGEFAULT) apply_event(&server, &read[i]);
    for (int i = 0; i < count; i++)
      if (read[i].type == UFFD_PAGEFAULT) resolve_fault(&server, &read[i], wp ? UFFD_COPY_WP : 0);
  }
  end_fork();
  CHECK_EQ(server.missing, PAGES);
  CHECK_EQ(server.writes, wp ? PAGES : 0);
  uffd_close(server.theirs);
  uffd_close(object);
}
static void events_anon(void) {
  events(CHECK_ANON, false);
}
static void events_shmem(void) {
  events(CHECK_SHMEM, false);
}
static void events_shmem_private(void) {
  events(CHECK_SHMEM_PRIVATE, false);
}
static void events_hugetlb(void) {
  events(CHECK_HUGETLB, false);
}
static void events_wp_anon(void) {
  events(CHECK_ANON, true);
}
static void events_wp_shmem(void) {
  events(CHECK_SHMEM, true);
}
static void events_wp_shmem_private(void) {
  events(CHECK_SHMEM_PRIVATE, true);
}
static void events_wp_hugetlb(void) {
  events(CHECK_HUGETLB, true);
}

static const struct check_test tests[] = {
    TEST(remove_by_dontneed),
    TEST(remove_by_free),
    TEST(remove_by_dontneed_shmem),
    TEST(remove_by_remove_shmem),
    TEST(remove_by_dontneed_hugetlb),
    TEST(unmap_by_munmap),
    TEST(unmap_by_mapping_over),
    TEST(unmap_by_shrinking),
    TEST(remap_then_unmap),
    TEST(remap_that_keeps_the_old_range),
    TEST(remap_without_the_feature),
    TEST(faults_before_older_events),
    TEST(what_makes_no_event),
    TEST(unknown_events_are_carried),
    TEST(the_object_of_a_fork),
    TEST(closing_the_object_of_a_fork),
    TEST(objects_of_forks_outlive_the_parent_s),
    TEST(a_younger_child_holds_the_descriptor),
    TEST(closing_follows_what_moved),
    TEST(many_forks),
    TEST(emfile_keeps_the_event),
    TEST(reading_a_fork_allocates_nothing),
    TEST(fork_without_the_feature),
    TEST(events_anon),
    TEST(events_shmem),
    TEST(events_shmem_private),
    TEST(events_hugetlb),
    TEST(events_wp_anon),
    TEST(events_wp_shmem),
    TEST(events_wp_shmem_private),
    TEST(events_wp_hugetlb),
};
CHECK_MAIN(tests)
