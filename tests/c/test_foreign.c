/* Memory of another process: what is refused, who answers, and what the client may do meanwhile. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "client.h"
#include "loop/addition.h"
#include "loop/loop.h"

#define PAGES  16u
#define EVENTS (UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_EVENT_UNMAP | UFFD_FEAT_EVENT_REMAP | UFFD_FEAT_THREAD_ID)

/* The server's side */

static struct client client;
static struct serving serving;
static uffd_object *object;
static uffd_region *regions[CLIENT_REGIONS];

/* Paused; serve_with() starts it. */
static void open_loop(int engine) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.flags = UFFD_LOOP_PAUSED;
  memset(&serving, 0, sizeof(serving));
  serving.engine = engine;
  opts.engine = engine == ENGINE_PUMP ? UFFD_ENGINE_PUMP : UFFD_ENGINE_THREADS;
  CHECK_OK(uffd_loop_create(&opts, &serving.loop));
}

/* Region i of the client holds the image from its own place in it on. */
static void add(unsigned i, uffd_resolver *resolver, uint64_t modes, uint64_t around) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.object = object;
  opts.modes = modes;
  opts.around = around;
  opts.resolver_offset = i * client.length;
  uffd_memory *memory = client_memory(&client, i);
  regions[i] = region_add(serving.loop, memory, resolver, &opts);
  uffd_memory_close(memory);
}

static void serve_with(int engine, uffd_resolver *resolver) {
  object = client_object(&client);
  open_loop(engine);
  add(0, resolver, 0, 0);
  CHECK_OK(uffd_loop_start(serving.loop));
  serving_start(&serving);
}

static void serve(const struct client_opts *opts, void (*run)(struct client *client)) {
  client = client_start(opts, run);
  serve_with(ENGINE_ONE, image_resolver(client.length));
}

static void end_quietly(void) {
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.errors, 0);
  CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), 0);
  serving_close(&serving);
  uffd_close(object);
}

static void end(void) {
  client_end(&client);
  end_quietly();
}

/* The client's side */

static bool holds(const struct client *self, unsigned i, uint64_t page, uint64_t image_page) {
  return image_there(self->regions[i] + page * self->page, image_page * self->page, self->page);
}

static bool is_zero(const struct client *self, uint64_t page) {
  return check_filled(self->regions[0] + page * self->page, self->page, 0);
}

static void read_all(struct client *self) {
  CHECK(image_there(self->regions[0], 0, self->length));
}

/* A thread of the client: its tid is in shared->tids[slot]. */
struct actor {
  struct check_thread thread;
  const struct client *self;
  unsigned slot;
  uint64_t page, count;
  unsigned byte;
};

static void drop_now(void *ctx) {
  const struct actor *actor = ctx;
  atomic_store(&actor->self->shared->tids[actor->slot], gettid());
  CHECK_EQ(madvise(actor->self->regions[0] + actor->page * actor->self->page, actor->count * actor->self->page,
                   MADV_DONTNEED),
           0);
}

static void read_now(void *ctx) {
  struct actor *actor = ctx;
  atomic_store(&actor->self->shared->tids[actor->slot], gettid());
  actor->byte = *(volatile unsigned char *)(actor->self->regions[0] + actor->page * actor->self->page);
}

static void act(struct actor *actor, void (*what)(void *ctx)) {
  check_thread_start(&actor->thread, what, actor);
}

/* Handles */

static void a_handle(void) {
  struct uffd_foreign_opts opts = UFFD_FOREIGN_OPTS_INIT;
  uffd_memory *memory = NULL;
  const uint64_t start = UINT64_C(0x7f0000200000), huge = UINT64_C(2) << 20;
  CHECK_OK(uffd_memory_foreign(start, 4096, NULL, &memory));
  CHECK(uffd_memory_address(memory) == NULL);
  CHECK_EQ(uffd_memory_start(memory), start);
  CHECK_EQ(uffd_memory_length(memory), 4096);
  CHECK_EQ(uffd_memory_page_size(memory), check_page());
  CHECK_EQ(uffd_memory_kind(memory), UFFD_MEMORY_FOREIGN);
  CHECK_ERR(uffd_memory_fd(memory), -ENOENT);
  CHECK(uffd_memory_alias(memory) == NULL);
  char byte;
  CHECK_ERR(uffd_memory_read(memory, 0, &byte, 1), -EOPNOTSUPP);
  CHECK_SAYS("another process");
  CHECK_ERR(uffd_memory_write(memory, 0, &byte, 1), -EOPNOTSUPP);
  CHECK_ERR(uffd_memory_prefault(memory, 0, 4096, 0), -EOPNOTSUPP);
  uffd_resolver *resolver = NULL;
  CHECK_ERR(uffd_resolver_memory(memory, 0, &resolver), -EOPNOTSUPP);
  CHECK_ERR(uffd_resolver_move(memory, 0, &resolver), -EOPNOTSUPP);
  uffd_memory_close(memory);

  opts.page_size = huge;
  CHECK_OK(uffd_memory_foreign(start, huge, &opts, &memory));
  CHECK_EQ(uffd_memory_page_size(memory), huge);
  uffd_memory_close(memory);
  CHECK_ERR(uffd_memory_foreign(start, 4096, &opts, &memory), -EINVAL);
  CHECK(memory == NULL);
  CHECK_ERR(uffd_memory_foreign(start + 4096, huge, &opts, &memory), -EINVAL);
  opts.page_size = 12288;
  CHECK_ERR(uffd_memory_foreign(start, 12288, &opts, &memory), -EINVAL);
  opts.page_size = UINT64_C(1) << 30;
  CHECK_ERR(uffd_memory_foreign(0, UINT64_C(1) << 30, &opts, &memory), -EINVAL);
  opts.page_size = 0;
  opts.pid = -1;
  CHECK_ERR(uffd_memory_foreign(start, 4096, &opts, &memory), -EINVAL);
  CHECK_ERR(uffd_memory_foreign(start, 0, NULL, &memory), -EINVAL);
  CHECK_ERR(uffd_memory_foreign(UINT64_MAX - 4095, 8192, NULL, &memory), -EINVAL);
  CHECK_ERR(uffd_memory_foreign(UINT64_C(1) << 60, 4096, NULL, &memory), -EINVAL);
  uffd_memory *own = NULL;
  CHECK_OK(uffd_map(4096, NULL, &own));
  CHECK_EQ(uffd_memory_start(own), CHECK_ADDRESS(uffd_memory_address(own)));
  uffd_memory_close(own);
}

static void no_region_without_its_object(void) {
  uffd_memory *memory = NULL;
  uffd_resolver *zero = NULL;
  CHECK_OK(uffd_memory_foreign(UINT64_C(0x7f0000200000), 4096, NULL, &memory));
  CHECK_OK(uffd_resolver_zero(&zero));
  open_loop(ENGINE_ONE);
  CHECK_ERR(uffd_loop_add(serving.loop, memory, zero, NULL, NULL), -EINVAL);
  CHECK_SAYS("adopt");
  serving_close(&serving);
  uffd_memory_close(memory);
  uffd_resolver_close(zero);
}

static void no_inline_engine(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts region_opts = UFFD_REGION_OPTS_INIT;
  check_inline(&opts);
  client = client_start(&(struct client_opts){.pages = 1}, read_all);
  CHECK_OK(uffd_loop_create(&opts, &serving.loop));
  region_opts.object = object = client_object(&client);
  uffd_memory *memory = client_memory(&client, 0);
  uffd_resolver *zero = NULL;
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_ERR(uffd_loop_add(serving.loop, memory, zero, &region_opts, NULL), -EINVAL);
  CHECK_SAYS("another process");
  CHECK_OK(uffd_loop_close(serving.loop));
  uffd_resolver_close(zero);
  uffd_memory_close(memory);
  client_kill(&client);
  uffd_close(object);
}

static void what_a_region_cannot_have(void) {
  client = client_start(&(struct client_opts){.pages = PAGES}, read_all);
  serve_with(ENGINE_ONE, image_resolver(client.length));
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.object = object;
  uffd_memory *memory = client_memory(&client, 0), *own = NULL, *source = NULL;
  uffd_resolver *zero = NULL, *move = NULL, *cached = NULL;
  CHECK_OK(uffd_resolver_zero(&zero));
  opts.offset = client.page;
  opts.length = client.page;
  CHECK_ERR(uffd_loop_add(serving.loop, memory, zero, &opts, NULL), -EBUSY);
  CHECK_SAYS("served already");
  CHECK_OK(uffd_map(client.page, NULL, &own));
  opts.offset = opts.length = 0;
  CHECK_ERR(uffd_loop_add(serving.loop, own, zero, &opts, NULL), -EINVAL);
  CHECK_SAYS("another process");
  CHECK_OK(uffd_map(client.length, NULL, &source));
  CHECK_OK(uffd_resolver_move(source, 0, &move));
  CHECK_ERR(uffd_loop_add(serving.loop, memory, move, &opts, NULL), -EINVAL);
  CHECK_OK(uffd_resolver_continue(NULL, &cached));
  CHECK_ERR(uffd_loop_add(serving.loop, memory, cached, &opts, NULL), -EINVAL);
  uffd_resolver_close(cached);
  uffd_resolver_close(move);
  uffd_resolver_close(zero);
  uffd_memory_close(source);
  uffd_memory_close(own);
  uffd_memory_close(memory);
  end();
}

/*
 * The same numbers may be addresses in this process, served or read by resolvers: that does not matter for the client.
 */
static void addresses_are_not_ours(void) {
  client = client_start(&(struct client_opts){.pages = PAGES}, read_all);
  unsigned char *at = mmap(client.regions[0], client.length, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  CHECK(at == client.regions[0]);
  memset(at, 0xee, client.length);
  uffd_memory *own = NULL;
  uffd_resolver *reader = NULL;
  CHECK_OK(uffd_memory_adopt(at, client.length, &own));
  CHECK_OK(uffd_resolver_memory(own, 0, &reader));
  serve_with(ENGINE_ONE, image_resolver(client.length));
  end();
  CHECK(check_filled(at, client.length, 0xee));
  uffd_resolver_close(reader);
  uffd_memory_close(own);
}

/* Resolvers and engines */

static void read_zeros(struct client *self) {
  CHECK(check_filled(self->regions[0], self->length, 0));
  memset(self->regions[0], 7, self->length);
  CHECK(check_filled(self->regions[0], self->length, 7));
}

static int answer_image(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = (const char *)asked->ctx + fault->offset;
  return 0;
}

/* Handlers cannot move pages into another process: they are copied. */
static int answer_move(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  answer->kind = UFFD_ANSWER_MOVE;
  answer->data = (const char *)asked->ctx + fault->offset;
  return 0;
}

static uffd_resolver *file_resolver(uint64_t length) {
  unsigned char *image = image_make(length);
  int fd = memfd_create("image", MFD_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(write(fd, image, length), length);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_file_fd(fd, NULL, &resolver));
  close(fd);
  munmap(image, length);
  return resolver;
}

static uffd_resolver *callback_resolver(struct asked *asked, int (*answer)(struct asked *, const struct uffd_fault *,
                                                                           struct uffd_answer *)) {
  *asked = (struct asked){.answer = answer, .ctx = image_make(PAGES * check_page())};
  return asked_resolver(asked);
}

static void check_engine(int engine) {
  static struct asked asked[2];
  uint64_t length = PAGES * check_page();
  uffd_resolver *made[] = {image_resolver(length), file_resolver(length), callback_resolver(&asked[0], answer_image),
                           callback_resolver(&asked[1], answer_move)};
  for (unsigned i = 0; i < 4; i++) {
    client = client_start(&(struct client_opts){.pages = PAGES, .features = UFFD_FEAT_THREAD_ID}, read_all);
    serve_with(engine, made[i]);
    client_end(&client);
    CHECK_EQ(serving_stats(serving.loop).missing, PAGES);
    serving_adds_up(serving.loop, client.page);
    end_quietly();
  }
  CHECK_EQ(asked[0].hits, PAGES);
  CHECK_EQ(asked[1].hits, PAGES);
  uffd_resolver *zero = NULL;
  CHECK_OK(uffd_resolver_zero(&zero));
  client = client_start(&(struct client_opts){.pages = PAGES}, read_zeros);
  serve_with(engine, zero);
  end();
}

static void resolvers_threads(void) {
  check_engine(ENGINE_ONE);
}

static void resolvers_pump(void) {
  check_engine(ENGINE_PUMP);
}

/* A handler has an object each: one client among several handlers has one of them. */
static void one_of_several_handlers(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  client = client_start(&(struct client_opts){.pages = 1024}, read_all);
  object = client_object(&client);
  opts.engine = UFFD_ENGINE_THREADS;
  opts.handlers = 3;
  CHECK_OK(uffd_loop_create(&opts, &serving.loop));
  add(0, image_resolver(client.length), 0, UFFD_AROUND_AUTO);
  end();
}

static void write_all(struct client *self) {
  for (uint64_t i = 0; i < self->length; i += self->page) {
    CHECK_EQ(self->regions[0][i], image_byte(i));
    self->regions[0][i] = 0;
  }
}

/* What arrives protected is told when it is written. */
static void write_protected(void) {
  struct client_opts opts = {.pages = PAGES, .features = UFFD_FEAT_PAGEFAULT_FLAG_WP};
  opts.modes = UFFD_MODE_MISSING | UFFD_MODE_WP;
  client = client_start(&opts, write_all);
  object = client_object(&client);
  open_loop(ENGINE_ONE);
  add(0, image_resolver(client.length), opts.modes, 4 * client.page);
  CHECK_OK(uffd_loop_start(serving.loop));
  client_end(&client);
  CHECK_EQ(serving_stats(serving.loop).wp, PAGES);
  CHECK_EQ(serving_stats(serving.loop).unprotected, PAGES);
  end_quietly();
}

static void read_regions(struct client *self) {
  for (uint64_t i = 0; i < PAGES; i++) {
    for (unsigned r = 0; r < 3; r++) {
      CHECK(holds(self, r, i, (uint64_t)r * PAGES + i));
    }
  }
}

static void several_regions(void) {
  client = client_start(&(struct client_opts){.pages = PAGES, .count = 3}, read_regions);
  object = client_object(&client);
  open_loop(ENGINE_ONE);
  for (unsigned i = 3; i-- > 0;) {
    add(i, image_resolver(3 * client.length), 0, UFFD_AROUND_AUTO);
  }
  CHECK_EQ(serving_stats(serving.loop).faults, 0);
  CHECK_OK(uffd_loop_start(serving.loop));
  CHECK_OK(uffd_loop_start(serving.loop));
  end();
}

/* Regions 0, 1 and the last one, which is 2, or 0 once more. */
static int add_together(unsigned last) {
  const unsigned which[] = {0, 1, last};
  struct uffd_addition additions[3];
  uffd_resolver *resolver = image_resolver(3 * client.length);
  for (unsigned i = 0; i < 3; i++) {
    additions[i] = (struct uffd_addition){.memory = client_memory(&client, which[i]), .opts = UFFD_REGION_OPTS_INIT};
    additions[i].resolver = resolver;
    additions[i].opts.object = object;
    additions[i].opts.resolver_offset = which[i] * client.length;
  }
  int result = uffd_loop_add_all(serving.loop, additions, 3);
  for (unsigned i = 0; i < 3; i++) {
    CHECK((additions[i].region != NULL) == (result == 0));
    uffd_memory_close(additions[i].memory);
  }
  uffd_resolver_close(resolver);
  return result;
}

/* Where one cannot be added none is: all of them can be added afterwards. */
static void regions_are_added_together(void) {
  client = client_start(&(struct client_opts){.pages = PAGES, .count = 3}, read_regions);
  object = client_object(&client);
  open_loop(ENGINE_ONE);
  CHECK_OK(uffd_loop_add_all(serving.loop, NULL, 0));
  CHECK_ERR(add_together(0), -EBUSY);
  CHECK_SAYS("is served already");
  CHECK_OK(add_together(2));
  CHECK_ERR(add_together(2), -EBUSY);
  CHECK_OK(uffd_loop_start(serving.loop));
  end();
}

static void check_pause_of(int engine) {
  client = client_start(&(struct client_opts){.pages = PAGES, .count = 3}, read_regions);
  object = client_object(&client);
  open_loop(engine);
  add(1, image_resolver(3 * client.length), 0, 0);
  client_asleep(client.pid, "userfault");
  CHECK_OK(uffd_region_prefetch(regions[1], 0, client.page)); /* jobs are done meanwhile */
  add(0, image_resolver(3 * client.length), 0, 0);
  add(2, image_resolver(3 * client.length), 0, 0);
  CHECK_EQ(serving_stats(serving.loop).faults, 0);
  CHECK_OK(uffd_loop_start(serving.loop));
  serving_start(&serving);
  end();
}

static void no_fault_before_the_start(void) {
  check_pause_of(ENGINE_ONE);
  check_pause_of(ENGINE_PUMP);
}

/* Closed before it was started: nothing was read, and the next loop answers. */
static void never_started(void) {
  client = client_start(&(struct client_opts){.pages = PAGES}, read_all);
  object = client_object(&client);
  open_loop(ENGINE_ONE);
  add(0, image_resolver(client.length), 0, 0);
  client_asleep(client.pid, "userfault");
  serving_close(&serving);
  uffd_close(object);
  serve_with(ENGINE_ONE, image_resolver(client.length));
  end();
}

static void what_cannot_be_paused(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop = NULL;
  opts.flags = UFFD_LOOP_PAUSED;
  opts.engine = UFFD_ENGINE_INLINE;
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EINVAL);
  opts.flags = 2;
  opts.engine = UFFD_ENGINE_THREADS;
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EINVAL);
  CHECK_SAYS("0x2");
}

/* Events */

/* Zeros after dropping, whether the page was there or not; the neighbours keep the image. */
static void drop_some(struct client *self) {
  CHECK(holds(self, 0, 2, 2));
  CHECK_EQ(madvise(self->regions[0] + 2 * self->page, 2 * self->page, MADV_DONTNEED), 0);
  CHECK(is_zero(self, 2) && is_zero(self, 3));
  self->regions[0][3 * self->page] = 9;
  CHECK_EQ(madvise(self->regions[0] + 2 * self->page, 2 * self->page, MADV_DONTNEED), 0);
  CHECK(is_zero(self, 3) && is_zero(self, 2));
  CHECK(holds(self, 0, 1, 1) && holds(self, 0, 4, 4));
}

static void dropped_pages_are_zeros(void) {
  serve(&(struct client_opts){.pages = PAGES, .features = EVENTS}, drop_some);
  end();
}

/* R8: the fault is queued first, and told first; the event behind it counts. */
static void fault_and_drop(struct client *self) {
  struct actor reader = {.self = self, .slot = 0, .page = 5},
               dropper = {.self = self, .slot = 1, .page = 4, .count = 2};
  act(&reader, read_now);
  client_await(self, 1);
  act(&dropper, drop_now);
  check_thread_join(&reader.thread);
  check_thread_join(&dropper.thread);
  CHECK_EQ(reader.byte, 0);
  CHECK(is_zero(self, 4) && is_zero(self, 5) && holds(self, 0, 6, 6));
}

static void a_drop_behind_a_fault(void) {
  client = client_start(&(struct client_opts){.pages = PAGES, .features = EVENTS}, fault_and_drop);
  while (atomic_load(&client.shared->tids[0]) == 0)
    check_pause();
  client_asleep(client.shared->tids[0], "userfault");
  client_say(&client, 1);
  while (atomic_load(&client.shared->tids[1]) == 0)
    check_pause();
  client_asleep(client.shared->tids[1], "userfault");
  serve_with(ENGINE_ONE, image_resolver(client.length));
  end();
}

/* R9: the handler has the image's bytes when the page is dropped. */
static void a_drop_before_the_install(void) {
  client = client_start(&(struct client_opts){.pages = PAGES, .features = EVENTS}, fault_and_drop);
  check_barrier_hold("installing");
  serve_with(ENGINE_ONE, image_resolver(client.length));
  check_barrier_await("installing");
  client_say(&client, 1);
  while (atomic_load(&client.shared->tids[1]) == 0)
    check_pause();
  client_asleep(client.shared->tids[1], "userfault");
  check_barrier_release("installing");
  end();
}

static void change_mappings(struct client *self) {
  unsigned char *at = self->regions[0];
  uint64_t page = self->page;
  CHECK(holds(self, 0, 0, 0));
  CHECK_EQ(munmap(at + 3 * page, page), 0);
  /* four pages elsewhere, one of them touched before */
  CHECK(holds(self, 0, 8, 8));
  unsigned char *place = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(place != MAP_FAILED);
  CHECK(mremap(at + 8 * page, 4 * page, 4 * page, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
  CHECK(image_there(place, 8 * page, 4 * page));
  CHECK(holds(self, 0, 2, 2) && holds(self, 0, 4, 4) && holds(self, 0, 7, 7) && holds(self, 0, 12, 12));
  CHECK_EQ(madvise(place + page, page, MADV_DONTNEED), 0);
  CHECK(check_filled(place + page, page, 0));
  /* in place: what is gained is zeros */
  CHECK(mremap(at + 12 * page, 4 * page, 8 * page, 0) == at + 12 * page);
  CHECK(check_filled(at + 16 * page, 4 * page, 0));
  CHECK(holds(self, 0, 15, 15));
}

static void unmapping_moving_growing(void) {
  serve(&(struct client_opts){.pages = PAGES, .features = EVENTS}, change_mappings);
  end();
}

/* The client's end */

static void exit_in_a_fault(struct client *self) {
  struct actor reader = {.self = self, .slot = 0, .page = 1};
  act(&reader, read_now);
  client_await(self, 1);
}

static void the_client_exits_in_a_fault(void) {
  client = client_start(&(struct client_opts){.pages = PAGES}, exit_in_a_fault);
  check_barrier_hold("installing");
  serve_with(ENGINE_ONE, image_resolver(client.length));
  check_barrier_await("installing");
  client_say(&client, 1);
  client_end(&client);
  check_barrier_release("installing");
  while (serving_stats(serving.loop).gone == 0)
    check_pause();
  CHECK_ERR(uffd_region_prefetch(regions[0], 0, 0), -ESRCH);
  end_quietly();
}

static void the_client_is_killed(void) {
  client = client_start(&(struct client_opts){.pages = PAGES}, exit_in_a_fault);
  check_barrier_hold("asking");
  serve_with(ENGINE_ONE, image_resolver(client.length));
  check_barrier_await("asking");
  client_kill(&client);
  check_barrier_release("asking");
  while (serving_stats(serving.loop).gone == 0)
    check_pause();
  end_quietly();
}

/* Prefetching, completing, leaving */

static void read_when_told(struct client *self) {
  client_await(self, 1);
  read_all(self);
  /* no longer registered: no resolver is asked, and no event is sent */
  CHECK_EQ(madvise(self->regions[0], self->length, MADV_DONTNEED), 0);
  CHECK(check_filled(self->regions[0], self->length, 0));
}

static void prefetch_and_complete(void) {
  serve(&(struct client_opts){.pages = PAGES, .features = EVENTS}, read_when_told);
  CHECK_OK(uffd_region_prefetch(regions[0], client.page, 3 * client.page));
  CHECK_EQ(serving_stats(serving.loop).prefetched, 3);
  CHECK_OK(uffd_loop_complete(serving.loop));
  CHECK_OK(uffd_region_complete(regions[0]));
  CHECK_EQ(serving_stats(serving.loop).prefetched, PAGES);
  CHECK_EQ(serving_stats(serving.loop).faults, 0);
  serving_close(&serving);
  uffd_close(object);
  close(client.fd);
  client.fd = -1;
  client_say(&client, 1);
  check_child(client.pid);
}

static void read_twice(struct client *self) {
  CHECK(holds(self, 0, 0, 0));
  client_say(self, 1);
  client_await(self, 1);
  read_all(self);
}

static int answer_later(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault;
  answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

/* Closing loses no fault: a fault that was read is told again, and the next loop answers it. */
static void the_next_loop_goes_on(void) {
  serve(&(struct client_opts){.pages = PAGES}, read_twice);
  client_await(&client, 1);
  end_quietly();
  client_say(&client, 1);
  client_asleep(client.pid, "userfault");
  struct asked asked = {.answer = answer_later};
  serve_with(ENGINE_ONE, asked_resolver(&asked));
  while (atomic_load(&asked.hits) < 2)
    check_pause();
  end_quietly();
  client_asleep(client.pid, "userfault");
  serve_with(ENGINE_PUMP, image_resolver(client.length));
  end();
}

/* Faults in a region that is removed stay waiting, without zeros. Other regions of the object are served. */
static void read_second_region(struct client *self) {
  struct actor reader = {.self = self, .slot = 0, .page = 2};
  act(&reader, read_now);
  client_await(self, 1);
  CHECK(image_there(self->regions[1], self->length, self->length));
  client_say(self, 1);
  check_thread_join(&reader.thread);
  CHECK_EQ(reader.byte, image_byte(2 * self->page));
  read_all(self);
}

static void a_region_taken_out(void) {
  client = client_start(&(struct client_opts){.pages = PAGES, .count = 2}, read_second_region);
  struct asked asked = {.answer = answer_later};
  serve_with(ENGINE_ONE, asked_resolver(&asked));
  add(1, image_resolver(2 * client.length), 0, 0);
  while (atomic_load(&asked.hits) < 2)
    check_pause();
  CHECK_OK(uffd_region_remove(regions[0]));
  CHECK_OK(uffd_region_remove(regions[0]));
  CHECK_ERR(uffd_region_prefetch(regions[0], 0, 0), -ENOENT);
  client_say(&client, 1);
  client_await(&client, 1);
  uint64_t deferred = serving_stats(serving.loop).deferred;
  while (serving_stats(serving.loop).deferred == deferred)
    check_pause();
  add(0, image_resolver(client.length), 0, 0);
  end();
}

/* R28: a flood of drops */

#define STORM_PAGES 512u

static _Atomic unsigned touching;

/*
 * Each thread drops its own pages, thousands of times a second, while a thread waits for a page: its fault must be
 * answered. The pauses are needed because the kernel lets nobody fill while a drop is in progress.
 */
static void drop_on(void *ctx) {
  const struct actor *actor = ctx;
  unsigned char *at = actor->self->regions[0] + actor->page * actor->self->page;
  unsigned drops = 0;
  while (atomic_load(&touching) != 0 || drops < 500) {
    CHECK_EQ(madvise(at, actor->count * actor->self->page, MADV_DONTNEED), 0);
    if (++drops % 16 == 0) CHECK_EQ(*(volatile unsigned char *)at, 0);
    check_pause();
  }
}

static void touch_on(void *ctx) {
  const struct actor *actor = ctx;
  for (uint64_t i = actor->page; i < actor->page + actor->count; i++) {
    CHECK(holds(actor->self, 0, i, i));
  }
  atomic_fetch_sub(&touching, 1);
}

static void weather_a_storm(struct client *self) {
  struct actor droppers[4], touchers[2];
  atomic_store(&touching, 2);
  for (unsigned i = 0; i < 4; i++) {
    droppers[i] = (struct actor){.self = self, .page = 2 * STORM_PAGES + 8 * i, .count = 1 + i};
    act(&droppers[i], drop_on);
  }
  for (unsigned i = 0; i < 2; i++) {
    touchers[i] = (struct actor){.self = self, .page = i * STORM_PAGES, .count = STORM_PAGES};
    act(&touchers[i], touch_on);
  }
  for (unsigned i = 0; i < 2; i++) {
    check_thread_join(&touchers[i].thread);
  }
  for (unsigned i = 0; i < 4; i++) {
    check_thread_join(&droppers[i].thread);
  }
}

static void a_storm_of_drops(void) {
  serve(&(struct client_opts){.pages = 2 * STORM_PAGES + 64, .features = EVENTS}, weather_a_storm);
  client_end(&client);
  CHECK(serving_stats(serving.loop).events >= 2000);
  if (getenv("CHECK_VERBOSE") != NULL) {
    struct uffd_stats stats = serving_stats(serving.loop);
    fprintf(stderr, "%llu events, %llu faults, %llu deferred, p99 %llu us, max %llu us\n",
            (unsigned long long)stats.events, (unsigned long long)stats.faults, (unsigned long long)stats.deferred,
            (unsigned long long)stats.latency_p99 / 1000, (unsigned long long)stats.latency_max / 1000);
  }
  end_quietly();
}

/* Huge pages */

static void use_huge(struct client *self) {
  CHECK(holds(self, 0, 1, 1));
  CHECK_EQ(madvise(self->regions[0] + self->page, self->page, MADV_DONTNEED), 0);
  CHECK(is_zero(self, 1));
  client_say(self, 1);
  client_await(self, 1);
  CHECK(holds(self, 0, 0, 0));
  CHECK(image_there(self->regions[0] + 2 * self->page, 2 * self->page, self->page / 2));
  CHECK(check_filled(self->regions[0] + 2 * self->page + self->page / 2, self->page / 2, 0));
}

/*
 * The image ends within the last page. Later loops know nothing of the pages that are there: EEXIST is believed, though
 * no huge page is free. (A copy whose source must be faulted in takes one more for a moment.)
 */
static void huge_pages(void) {
  check_hugepages(4);
  client = client_start(&(struct client_opts){.pages = 3, .features = EVENTS, .huge = true}, use_huge);
  uint64_t length = client.length - client.page / 2;
  serve_with(ENGINE_ONE, image_resolver(length));
  client_await(&client, 1);
  end_quietly();
  serve_with(ENGINE_ONE, image_resolver(length));
  CHECK_OK(uffd_region_prefetch(regions[0], 0, 0));
  CHECK_EQ(serving_stats(serving.loop).prefetched, 2);
  end_quietly();
  struct check_area last = check_map(CHECK_HUGETLB, 1);
  last.at[0] = 1;
  serve_with(ENGINE_ONE, image_resolver(length));
  CHECK_OK(uffd_region_prefetch(regions[0], 0, 0));
  CHECK_EQ(serving_stats(serving.loop).prefetched, 0);
  client_say(&client, 1);
  end();
}

static const struct check_test tests[] = {
    TEST(a_handle),
    TEST(no_region_without_its_object),
    TEST(no_inline_engine),
    TEST(what_a_region_cannot_have),
    TEST(addresses_are_not_ours),
    TEST(resolvers_threads),
    TEST(resolvers_pump),
    TEST(one_of_several_handlers),
    TEST(write_protected),
    TEST(several_regions),
    TEST(regions_are_added_together),
    TEST(no_fault_before_the_start),
    TEST(never_started),
    TEST(what_cannot_be_paused),
    TEST(dropped_pages_are_zeros),
    TEST(a_drop_behind_a_fault),
    TEST(a_drop_before_the_install),
    TEST(unmapping_moving_growing),
    TEST(the_client_exits_in_a_fault),
    TEST(the_client_is_killed),
    TEST(prefetch_and_complete),
    TEST(the_next_loop_goes_on),
    TEST(a_region_taken_out),
    TEST(a_storm_of_drops),
    TEST(huge_pages),
};
CHECK_MAIN(tests)
