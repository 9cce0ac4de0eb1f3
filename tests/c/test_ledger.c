/* The ledger: a serving process is killed at any point, and its successor answers as if nothing had happened. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "client.h"
#include "loop/pages/ledger.h"

#define EVENTS (UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_EVENT_UNMAP | UFFD_FEAT_EVENT_REMAP)

static struct client client;
static void *ledger;
static uint64_t ledger_size;

static void make_ledger(uint64_t pages) {
  ledger_size = uffd_ledger_size(pages, CLIENT_REGIONS);
  CHECK(ledger_size != 0 && ledger_size % check_page() == 0);
  ledger = mmap(NULL, ledger_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(ledger != MAP_FAILED);
}

static int open_loop(int engine, uffd_loop **loop) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.engine = engine == ENGINE_PUMP ? UFFD_ENGINE_PUMP : UFFD_ENGINE_THREADS;
  opts.flags = UFFD_LOOP_PAUSED;
  opts.ledger = ledger;
  opts.ledger_size = ledger_size;
  return uffd_loop_create(&opts, loop);
}

static uffd_region *add(uffd_loop *loop, uffd_object *object, unsigned i, uint64_t around) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.object = object;
  opts.around = around;
  opts.resolver_offset = i * client.length;
  uffd_memory *memory = client_memory(&client, i);
  uffd_region *region = region_add(loop, memory, image_resolver((i + 1) * client.length), &opts);
  uffd_memory_close(memory);
  return region;
}

/* A serving process */

static struct {
  _Atomic unsigned passed; /* barriers, by all servers */
  _Atomic unsigned fatal;  /* at this one the server dies; 0: none */
} * points;

static void die_at_point(const char *name, void *ctx) {
  (void)name, (void)ctx;
  if (atomic_fetch_add(&points->passed, 1) + 1 == atomic_load(&points->fatal)) kill(getpid(), SIGKILL);
}

static pid_t start_server(unsigned regions, uint64_t around) {
  fflush(NULL);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid != 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  atomic_store(&uffd_barrier_hook, die_at_point);
  uffd_loop *loop = NULL;
  uffd_object *object = client_object(&client);
  CHECK_OK(open_loop(ENGINE_ONE, &loop));
  for (unsigned i = 0; i < regions; i++) {
    add(loop, object, i, around);
  }
  CHECK_OK(uffd_loop_start(loop));
  for (;;) {
    pause();
  }
}

static bool was_killed(pid_t pid) {
  int status;
  CHECK(waitpid(pid, &status, 0) == pid);
  if (WIFEXITED(status)) CHECK_EQ(WEXITSTATUS(status), 0);
  return WIFSIGNALED(status);
}

static void kill_server(pid_t pid) {
  kill(pid, SIGKILL);
  CHECK(was_killed(pid));
}

/* Killed at every point */

#define PAGES 12u

static bool holds(const unsigned char *at, uint64_t page, uint64_t offset, uint64_t count) {
  return image_there(at, offset * page, count * page);
}

/* Everything once: faults, dropping, unmapping, moving, growing, dropping where it was moved to. */
static void live(struct client *self) {
  unsigned char *at = self->regions[0], *second = self->regions[1];
  uint64_t page = self->page;
  CHECK(holds(at, page, 0, 2));
  CHECK_EQ(madvise(at + page, 2 * page, MADV_DONTNEED), 0);
  CHECK(check_filled(at + page, 2 * page, 0));
  CHECK(holds(second, page, PAGES, 1));
  CHECK_EQ(munmap(at + 3 * page, page), 0);
  unsigned char *place = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(place != MAP_FAILED);
  CHECK(holds(at, page, 0, 1) && holds(at + 5 * page, page, 5, 1));
  CHECK(mremap(at + 4 * page, 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
  CHECK(holds(place, page, 4, 2));
  /* another mapping has taken its old place, and nobody serves that */
  CHECK_EQ(madvise(place + 2 * page, page, MADV_DONTNEED), 0);
  CHECK(check_filled(place + 2 * page, page, 0));
  CHECK(mremap(at + 8 * page, 4 * page, 6 * page, 0) == at + 8 * page);
  CHECK(check_filled(at + 12 * page, 2 * page, 0));
  /* and back: the pages that were dropped stay dropped */
  CHECK(mremap(place, 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, at + 4 * page) == at + 4 * page);
  CHECK(holds(at + 4 * page, page, 4, 2) && holds(at + 7 * page, page, 7, 5));
  CHECK(check_filled(at + 6 * page, page, 0) && check_filled(at + page, 2 * page, 0));
  CHECK(holds(second, page, PAGES, PAGES));
}

/* True when the server came to the point and died of it. */
static bool live_through(unsigned point) {
  struct client_opts opts = {.pages = PAGES, .count = 2, .features = EVENTS};
  client = client_start(&opts, live);
  make_ledger(2 * (uint64_t)PAGES);
  atomic_store(&points->passed, 0);
  atomic_store(&points->fatal, point);
  pid_t server = start_server(2, 2 * check_page());
  int status;
  pid_t ended = waitpid(-1, &status, 0); /* the client, or the server that has died */
  bool died = ended == server;
  if (died) {
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    server = start_server(2, 2 * check_page());
    ended = waitpid(client.pid, &status, 0);
  }
  CHECK(ended == client.pid);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fprintf(stderr, "the server died at point %u\n", point);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  kill_server(server);
  close(client.fd);
  munmap(ledger, ledger_size);
  return died;
}

/* One in four, so that no test takes long. */
static void kill_at_points(unsigned first) {
  points = mmap(NULL, check_page(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  unsigned point = first;
  while (live_through(point)) {
    check_progress();
    point += 4;
  }
  CHECK(point > 50);
}

static void killed_at_every_point_1(void) {
  kill_at_points(1);
}
static void killed_at_every_point_2(void) {
  kill_at_points(2);
}
static void killed_at_every_point_3(void) {
  kill_at_points(3);
}
static void killed_at_every_point_4(void) {
  kill_at_points(4);
}

/* Killed at any moment */

#define MANY  4096u
#define KILLS 200u

static struct { _Atomic bool begun, ended; /* dropping */ } drops[MANY];

static void check_one(const struct client *self, uint64_t i) {
  bool dropped = atomic_load(&drops[i].ended);
  const unsigned char *at = self->regions[0] + i * self->page;
  unsigned byte = *(const volatile unsigned char *)at, last = *(const volatile unsigned char *)(at + self->page - 1);
  bool dropping = atomic_load(&drops[i].begun);
  uint64_t offset = i * self->page;
  if (dropped) CHECK(byte == 0 && last == 0);
  if (!dropping) CHECK(byte == image_byte(offset) && last == image_byte(offset + self->page - 1));
  if (!dropped && dropping) CHECK(byte == 0 || byte == image_byte(offset));
}

/* More and more of the pages, as time goes on: there are always some that nobody has touched. */
static void touch_pages(void *ctx) {
  const struct client *self = ctx;
  unsigned seed = (unsigned)gettid(), kills;
  while ((kills = atomic_load(&self->shared->said[1])) < KILLS) {
    check_one(self, (uint64_t)rand_r(&seed) % (MANY * (kills + 1) / KILLS));
  }
}

static void drop_pages(void *ctx) {
  const struct client *self = ctx;
  unsigned seed = 7, kills;
  while ((kills = atomic_load(&self->shared->said[1])) < KILLS) {
    uint64_t i = (uint64_t)rand_r(&seed) % (MANY * (kills + 1) / KILLS);
    if (i % 3 != 0) continue;
    atomic_store(&drops[i].begun, true);
    CHECK_EQ(madvise(self->regions[0] + i * self->page, self->page, MADV_DONTNEED), 0);
    atomic_store(&drops[i].ended, true);
    sched_yield();
  }
}

static void live_on(struct client *self) {
  struct check_thread threads[3];
  check_thread_start(&threads[0], touch_pages, self);
  check_thread_start(&threads[1], touch_pages, self);
  check_thread_start(&threads[2], drop_pages, self);
  for (unsigned i = 0; i < 3; i++) {
    check_thread_join(&threads[i]);
  }
  for (uint64_t i = 0; i < MANY; i++) {
    check_one(self, i);
  }
}

static void killed_at_any_moment(void) {
  points = mmap(NULL, check_page(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  client = client_start(&(struct client_opts){.pages = MANY, .features = EVENTS}, live_on);
  make_ledger(MANY);
  unsigned seed = (unsigned)getpid();
  for (unsigned i = 0; i < KILLS; i++) {
    pid_t server = start_server(1, 4 * check_page());
    struct timespec moment = {.tv_nsec = (long)(rand_r(&seed) % 12) * 1000000};
    nanosleep(&moment, NULL);
    kill_server(server);
    client_say(&client, i + 1);
    check_progress();
  }
  pid_t server = start_server(1, 4 * check_page());
  client_end(&client);
  kill_server(server);
}

/* More pieces than the ledger holds */

/* Who says that it has a terabyte does not make the server use memory for it: neither the first nor a successor. */
static void a_ledger_takes_memory_for_what_was_touched(void) {
  const uint64_t pages = UINT64_C(1) << 28, size = uffd_ledger_size(pages, 1);
  struct stat status;
  int fd = memfd_create("ledger", MFD_CLOEXEC);
  CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(memory != MAP_FAILED);
  for (int i = 0; i < 2; i++) {
    struct uffd_terms terms = {.address = UINT64_C(1) << 40, .length = pages * 4096, .page_size = 4096};
    struct uffd_ledger *opened;
    CHECK_OK(uffd_ledger_open(memory, size, &opened));
    CHECK_OK(uffd_ledger_enter(opened, &terms));
    void *child = uffd_ledger_copy(opened);
    CHECK(child != NULL);
    uffd_pages_unmap(child, size);
    DELETE(opened);
    atomic_store(&((struct uffd_ledger_book *)memory)->pages[pages / 2 + 7], UFFD_PAGE_REMOVED);
  }
  CHECK_EQ(fstat(fd, &status), 0);
  CHECK(status.st_blocks * 512 < (8 << 20));
  munmap(memory, size);
  close(fd);
}

#define MOVED     4u
#define FRAGMENTS (2 * (UFFD_LEDGER_SLICES + 16))

static sigjmp_buf from_sigbus;

static void on_sigbus(int number) {
  siglongjmp(from_sigbus, number);
}

static bool is_poison(const unsigned char *at) {
  if (sigsetjmp(from_sigbus, 1) != 0) return true;
  (void)*(const volatile unsigned char *)at;
  return false;
}

/* The last piece is moved when there is no room for it any more. What the ledger cannot tell is poison, not zeros. */
static void cut_to_pieces(struct client *self) {
  unsigned char *at = self->regions[0];
  uint64_t page = self->page;
  const struct sigaction action = {.sa_handler = on_sigbus};
  CHECK_EQ(sigaction(SIGBUS, &action, NULL), 0);
  for (uint64_t i = 1; i < FRAGMENTS; i += 2) {
    CHECK_EQ(munmap(at + i * page, page), 0);
    if (i % 4096 == 1) check_progress();
  }
  unsigned char *place = mmap(NULL, MOVED * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(place != MAP_FAILED);
  CHECK(mremap(at + FRAGMENTS * page, MOVED * page, MOVED * page, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
  CHECK(holds(place, page, FRAGMENTS, 1)); /* the one that has followed it knows */
  client_say(self, 1);
  client_await(self, 1);
  for (uint64_t i = 1; i < MOVED; i++) {
    CHECK(is_poison(place + i * page) || holds(place + i * page, page, FRAGMENTS + i, 1));
  }
  CHECK(is_poison(at + (FRAGMENTS - 2) * page) || holds(at + (FRAGMENTS - 2) * page, page, FRAGMENTS - 2, 1));
  CHECK(holds(at + 2 * page, page, 2, 1));
}

static void what_the_ledger_cannot_hold_is_poison(void) {
  const uint64_t pages = FRAGMENTS + MOVED;
  check_needs(UFFD_FEAT_POISON);
  points = mmap(NULL, check_page(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  client = client_start(&(struct client_opts){.pages = pages, .features = EVENTS | UFFD_FEAT_POISON}, cut_to_pieces);
  make_ledger(pages);
  pid_t server = start_server(1, check_page());
  client_await(&client, 1);
  kill_server(server);
  server = start_server(1, check_page());
  client_say(&client, 1);
  client_end(&client);
  kill_server(server);
}

/* Closed, and taken up again */

static void live_in_two_halves(struct client *self) {
  unsigned char *at = self->regions[0];
  uint64_t page = self->page;
  CHECK(holds(at, page, 0, 2));
  CHECK_EQ(madvise(at + page, 2 * page, MADV_DONTNEED), 0);
  unsigned char *place = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mremap(at + 4 * page, 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
  client_say(self, 1);
  client_await(self, 1);
  CHECK(check_filled(at + page, 2 * page, 0));
  CHECK(holds(place, page, 4, 4) && holds(at + 3 * page, page, 3, 1) && holds(at + 8 * page, page, 8, 4));
}

static void closed_and_taken_up(void) {
  client = client_start(&(struct client_opts){.pages = PAGES, .features = EVENTS}, live_in_two_halves);
  make_ledger(PAGES);
  struct serving serving = {.engine = ENGINE_PUMP};
  uffd_object *object = client_object(&client);
  CHECK_OK(open_loop(ENGINE_PUMP, &serving.loop));
  add(serving.loop, object, 0, 0);
  CHECK_OK(uffd_loop_start(serving.loop));
  serving_start(&serving);
  client_await(&client, 1);
  serving_close(&serving);
  uffd_loop *loop = NULL;
  CHECK_OK(open_loop(ENGINE_ONE, &loop));
  uffd_region *region = add(loop, object, 0, 0);
  CHECK_ERR(uffd_region_prefetch(region, 0, 0), -EINVAL);
  CHECK_SAYS("uffd_loop_start");
  CHECK_OK(uffd_loop_start(loop));
  CHECK_OK(uffd_region_prefetch(region, 0, 0));
  CHECK_EQ(serving_stats(loop).prefetched, PAGES - 3); /* one is there, two are dropped: they stay so */
  client_say(&client, 1);
  client_end(&client);
  CHECK_EQ(uffd_loop_error(loop, NULL, 0), 0);
  CHECK_OK(uffd_loop_close(loop));
  uffd_close(object);
}

/* Changes that the serving process makes after its successor has been prepared count. */
static void successor_is_prepared_beforehand(void) {
  client = client_start(&(struct client_opts){.pages = PAGES, .features = EVENTS}, live_in_two_halves);
  make_ledger(PAGES);
  uffd_object *object = client_object(&client), *next_object = client_object(&client);
  uffd_loop *loop = NULL, *next = NULL;
  CHECK_OK(open_loop(ENGINE_ONE, &loop));
  add(loop, object, 0, 0);
  CHECK_OK(open_loop(ENGINE_ONE, &next));
  add(next, next_object, 0, 0);
  CHECK_OK(uffd_loop_start(loop));
  client_await(&client, 1);
  CHECK_OK(uffd_loop_close(loop));
  CHECK_OK(uffd_loop_start(next));
  client_say(&client, 1);
  client_end(&client);
  CHECK_EQ(uffd_loop_error(next, NULL, 0), 0);
  CHECK_OK(uffd_loop_close(next));
  uffd_close(object);
  uffd_close(next_object);
}

/* A region that is complete has nothing left, whoever comes next. */
static void complete_stays_complete(void) {
  client = client_start(&(struct client_opts){.pages = PAGES, .count = 2, .features = EVENTS}, live_in_two_halves);
  make_ledger(2 * (uint64_t)PAGES);
  uffd_object *object = client_object(&client);
  uffd_loop *loop = NULL;
  CHECK_OK(open_loop(ENGINE_ONE, &loop));
  add(loop, object, 0, 0);
  uffd_region *second = add(loop, object, 1, 0);
  CHECK_OK(uffd_loop_start(loop));
  CHECK_OK(uffd_region_complete(second));
  CHECK_OK(uffd_loop_close(loop));
  CHECK_OK(open_loop(ENGINE_ONE, &loop));
  add(loop, object, 0, 0);
  CHECK_ERR(uffd_loop_start(loop), -EINVAL);
  CHECK_SAYS("not added");
  second = add(loop, object, 1, 0);
  CHECK_OK(uffd_loop_start(loop));
  CHECK_OK(uffd_region_prefetch(second, 0, 0));
  CHECK_EQ(serving_stats(loop).prefetched, 0);
  client_say(&client, 1);
  client_end(&client);
  CHECK_OK(uffd_loop_close(loop));
  uffd_close(object);
}

/* Refused */

static void other_regions_are_refused(void) {
  client = client_start(&(struct client_opts){.pages = 8192, .count = 2}, live);
  make_ledger(PAGES);
  uffd_object *object = client_object(&client), *other = client_object(&client);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  uffd_memory *memory = client_memory(&client, 0), *second = client_memory(&client, 1), *own = NULL;
  uffd_resolver *zero = NULL;
  uffd_loop *loop = NULL;
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_OK(uffd_map(check_page(), NULL, &own));
  CHECK_OK(open_loop(ENGINE_ONE, &loop));
  CHECK_ERR(uffd_loop_add(loop, own, zero, NULL, NULL), -EINVAL);
  CHECK_SAYS("another process");
  opts.object = object;
  opts.length = 4 * client.page;
  CHECK_OK(uffd_loop_add(loop, memory, zero, &opts, NULL));
  opts.length = 0;
  CHECK_ERR(uffd_loop_add(loop, second, zero, &opts, NULL), -EINVAL); /* more pages than there is room for */
  CHECK_SAYS("room");
  opts.object = other;
  CHECK_ERR(uffd_loop_add(loop, second, zero, &opts, NULL), -EINVAL);
  CHECK_SAYS("one object");
  CHECK_OK(uffd_loop_close(loop));
  CHECK_OK(open_loop(ENGINE_ONE, &loop));
  opts.object = object;
  CHECK_ERR(uffd_loop_add(loop, second, zero, &opts, NULL), -EINVAL);
  CHECK_SAYS("same regions");
  CHECK_OK(uffd_loop_close(loop));
  uffd_resolver_close(zero);
  uffd_memory_close(own);
  uffd_memory_close(memory);
  uffd_memory_close(second);
  uffd_close(object);
  uffd_close(other);
  client_kill(&client);
}

static void refuse(const char *words) {
  uffd_loop *loop = NULL;
  CHECK_ERR(open_loop(ENGINE_ONE, &loop), -EINVAL);
  CHECK_SAYS(words);
}

static void damaged_ledgers_are_refused(void) {
  client = client_start(&(struct client_opts){.pages = PAGES}, live_in_two_halves);
  make_ledger(PAGES);
  uffd_object *object = client_object(&client);
  uffd_loop *loop = NULL;
  CHECK_OK(open_loop(ENGINE_ONE, &loop));
  add(loop, object, 0, 0);
  CHECK_OK(uffd_loop_close(loop));
  client_kill(&client);
  uffd_close(object);

  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.ledger = ledger;
  opts.ledger_size = ledger_size;
  opts.engine = UFFD_ENGINE_THREADS;
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EINVAL);
  CHECK_SAYS("UFFD_LOOP_PAUSED");
  opts.handlers = 2;
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EINVAL);
  CHECK_SAYS("one handler");
  ledger_size -= check_page();
  refuse("bytes");
  ledger_size = check_page();
  refuse("too small");
  ledger_size = uffd_ledger_size(PAGES, CLIENT_REGIONS);

  struct uffd_ledger_book *book = ledger,
                          *good = mmap(NULL, ledger_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(good, book, ledger_size);
  struct uffd_ledger_table *table = &book->tables[atomic_load(&book->sequence) % 2];
#define DAMAGE(change, words)                                                                                          \
  change;                                                                                                              \
  refuse(words);                                                                                                       \
  memcpy(book, good, ledger_size)
  DAMAGE(book->magic = 1, "no ledger");
  DAMAGE(book->version = 2, "version");
  DAMAGE(book->regions_count = UFFD_LEDGER_REGIONS + 1, "damaged");
  DAMAGE(book->regions_count = 2, "damaged");
  DAMAGE(book->regions[0].page_size = 4095, "damaged");
  DAMAGE(book->regions[0].length = 0, "damaged");
  DAMAGE(book->regions[0].length *= 1024, "damaged");
  DAMAGE(book->regions[0].first = 1, "damaged");
  DAMAGE(table->count = UFFD_LEDGER_SLICES + 1, "damaged");
  DAMAGE(table->slices[0].region = 1, "damaged");
  DAMAGE(table->slices[0].end = table->slices[0].start, "damaged");
  DAMAGE(table->slices[0].offset += check_page(), "damaged");
  DAMAGE(table->slices[0].start++, "damaged");
  DAMAGE(book->pages[3] = 4, "damaged");
  CHECK_OK(open_loop(ENGINE_ONE, &loop));
  CHECK_OK(uffd_loop_close(loop));
  CHECK_EQ(uffd_ledger_size(1, UFFD_LEDGER_REGIONS + 1), 0);
  CHECK_EQ(uffd_ledger_size(UINT64_MAX, 1), 0);
}

/* Forks */

static struct {
  _Atomic int fd;
  _Atomic unsigned calls;
  void *ledger;
  int result;
} hook;

static int take_child(void *ctx, uffd_object *child, const void *its_ledger, uint64_t its_size) {
  CHECK(ctx == &hook && child != NULL);
  if (hook.result == 0) {
    atomic_store(&hook.fd, fcntl(uffd_fd(child), F_DUPFD_CLOEXEC, 3));
    uffd_close(child);
  }
  CHECK_EQ(its_size, ledger == NULL ? 0 : ledger_size);
  if (its_ledger != NULL) memcpy(hook.ledger, its_ledger, its_size);
  atomic_fetch_add(&hook.calls, 1);
  return hook.result;
}

static void fork_once(struct client *self) {
  unsigned char *at = self->regions[0];
  uint64_t page = self->page;
  CHECK(holds(at, page, 0, 2));
  CHECK_EQ(madvise(at + page, 2 * page, MADV_DONTNEED), 0);
  unsigned char *place = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mremap(at + 4 * page, 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
  pid_t child = fork();
  if (child == 0) {
    client_await(self, 1);
    CHECK(holds(at, page, 0, 1) && holds(at + 3 * page, page, 3, 1) && holds(at + 9 * page, page, 9, 1));
    CHECK(check_filled(at + page, 2 * page, 0));
    CHECK(holds(place, page, 4, 4));
    _exit(0);
  }
  /* what the parent does afterwards does not concern the child */
  CHECK_EQ(madvise(at + 9 * page, page, MADV_DONTNEED), 0);
  CHECK(check_filled(at + 9 * page, page, 0));
  client_say(self, 1);
  check_child(child);
}

static void start_forking(uffd_loop **loop, uffd_object **object, bool with_ledger, int result) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  client = client_start(&(struct client_opts){.pages = PAGES, .features = EVENTS | UFFD_FEAT_EVENT_FORK}, fork_once);
  make_ledger(PAGES);
  hook.ledger = mmap(NULL, ledger_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  hook.result = result;
  opts.engine = UFFD_ENGINE_THREADS;
  opts.forked = take_child;
  opts.forked_ctx = &hook;
  if (with_ledger) {
    opts.ledger = ledger;
    opts.ledger_size = ledger_size;
  } else {
    ledger = NULL;
  }
  CHECK_OK(uffd_loop_create(&opts, loop));
  *object = client_object(&client);
  add(*loop, *object, 0, 0);
  client_await(&client, 1);
  CHECK_EQ(hook.calls, 1);
}

static void end_forking(uffd_loop *loop, uffd_object *object) {
  client_say(&client, 1);
  client_end(&client);
  CHECK_EQ(uffd_loop_error(loop, NULL, 0), 0);
  CHECK_OK(uffd_loop_close(loop));
  uffd_close(object);
}

static void a_child_is_handed_over(void) {
  if (!check_is_root()) SKIP("EVENT_FORK needs CAP_SYS_PTRACE");
  uffd_loop *loop = NULL, *second = NULL;
  uffd_object *object = NULL, *child = NULL;
  start_forking(&loop, &object, true, 0);
  CHECK_OK(uffd_adopt(hook.fd, &child));
  ledger = hook.ledger;
  CHECK_OK(open_loop(ENGINE_ONE, &second));
  add(second, child, 0, 0);
  CHECK_OK(uffd_loop_start(second));
  end_forking(loop, object);
  CHECK(serving_stats(second).faults >= 6);
  CHECK_OK(uffd_loop_close(second));
  uffd_close(child);
}

static void a_child_that_is_not_taken(void) {
  if (!check_is_root()) SKIP("EVENT_FORK needs CAP_SYS_PTRACE");
  uffd_loop *loop = NULL;
  uffd_object *object = NULL;
  start_forking(&loop, &object, true, -EAGAIN);
  end_forking(loop, object);
}

static void a_hook_without_a_ledger(void) {
  if (!check_is_root()) SKIP("EVENT_FORK needs CAP_SYS_PTRACE");
  uffd_loop *loop = NULL;
  uffd_object *object = NULL;
  start_forking(&loop, &object, false, -EAGAIN);
  end_forking(loop, object);
}

static const struct check_test tests[] = {
    TEST(killed_at_every_point_1),
    TEST(killed_at_every_point_2),
    TEST(killed_at_every_point_3),
    TEST(killed_at_every_point_4),
    TEST(killed_at_any_moment),
    TEST(closed_and_taken_up),
    TEST(a_ledger_takes_memory_for_what_was_touched),
    TEST(what_the_ledger_cannot_hold_is_poison),
    TEST(successor_is_prepared_beforehand),
    TEST(complete_stays_complete),
    TEST(other_regions_are_refused),
    TEST(damaged_ledgers_are_refused),
    TEST(a_child_is_handed_over),
    TEST(a_child_that_is_not_taken),
    TEST(a_hook_without_a_ledger),
};
CHECK_MAIN(tests)
