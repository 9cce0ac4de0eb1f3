/* A callback's life in a loop: set up, asked, tidied up, torn down; and what it may not call. */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "serving.h"

#define PAGES      16
#define STATES_MAX 16

/* One callback, all of whose functions are watched. */
struct watched {
  _Atomic unsigned setups, teardowns, destroys, resolves, idles;
  unsigned failing_setup; /* this one fails, counted from 1; 0: none */
  int setup_tid, teardown_tid;
  bool tells_more; /* idle says that there is more to tidy, once */
  bool talks;      /* teardown sets a sentence of its own */
  struct state {
    struct watched *owner;
    uint32_t index, count;
    const void *key;
    uint64_t page_size;
    unsigned asked;      /* not atomic: one thread at a time asks, whichever it is */
    _Atomic bool asking; /* now */
    bool alive;
    _Atomic unsigned idles;
  } states[STATES_MAX];
  int (*in_setup)(void);
  int (*in_resolve)(void);
  int (*in_teardown)(void);
};

static int own_tid(void) {
  return (int)syscall(SYS_gettid);
}

static int set_up(void *ctx, const struct uffd_handler *handler, void **state) {
  struct watched *watched = ctx;
  unsigned number = atomic_fetch_add(&watched->setups, 1) + 1;
  watched->setup_tid = own_tid();
  if (watched->in_setup != NULL) return watched->in_setup();
  if (number == watched->failing_setup) return uffd_set_errmsg(ENODEV, "The %u. set-up fails.", number);
  struct state *made = &watched->states[handler->index];
  CHECK(!made->alive);
  *made = (struct state){.owner = watched,
                         .index = handler->index,
                         .count = handler->count,
                         .key = handler->key,
                         .page_size = handler->page_size,
                         .alive = true};
  *state = made;
  return 0;
}

static int resolve(void *ctx, void *opaque, const struct uffd_fault *fault, struct uffd_answer *answer) {
  struct watched *watched = ctx;
  struct state *state = opaque;
  atomic_fetch_add(&watched->resolves, 1);
  CHECK(state != NULL && state->owner == watched && state->alive);
  CHECK_EQ(fault->handler, state->index);
  CHECK(fault->page_size <= state->page_size);
  CHECK(!atomic_exchange(&state->asking, true));
  state->asked++;
  int result = watched->in_resolve != NULL ? watched->in_resolve() : 0;
  atomic_store(&state->asking, false);
  if (watched->in_resolve != NULL) return result;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = "watched";
  answer->length = 7;
  return 0;
}

static int tidy(void *ctx, void *opaque) {
  struct watched *watched = ctx;
  struct state *state = opaque;
  CHECK(state->alive);
  atomic_fetch_add(&watched->idles, 1);
  return atomic_fetch_add(&state->idles, 1) == 0 && watched->tells_more;
}

static void tear_down(void *ctx, void *opaque) {
  struct watched *watched = ctx;
  struct state *state = opaque;
  atomic_fetch_add(&watched->teardowns, 1);
  watched->teardown_tid = own_tid();
  if (watched->in_teardown != NULL) watched->in_teardown();
  if (watched->talks) uffd_set_errmsg(EBADMSG, "This is about tearing down.");
  if (state == NULL) return;
  CHECK(state->alive);
  state->alive = false;
}

static void destroy(void *ctx) {
  struct watched *watched = ctx;
  atomic_fetch_add(&watched->destroys, 1);
  CHECK_EQ(watched->destroys, 1);
}

static uffd_resolver *watch(struct watched *watched, uffd_resolver *const *uses, size_t count) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *resolver;
  ops.setup = set_up;
  ops.resolve = resolve;
  ops.idle = tidy;
  ops.teardown = tear_down;
  ops.destroy = destroy;
  CHECK_OK(uffd_resolver_callback(&ops, watched, "watched", uses, count, &resolver));
  return resolver;
}

/* Once for each handler */

static void set_up_once_for_each_handler(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct serving serving;
    struct watched watched = {0};
    serving_open(&serving, engine, NULL);
    uint32_t count = serving_handlers(&serving);
    uffd_memory *memory = memory_make(MEMORY_ANON, 5 * 512), *other = memory_make(MEMORY_ANON, PAGES);
    uffd_resolver *resolver = watch(&watched, NULL, 0);
    uffd_region *region, *second;
    CHECK_OK(uffd_loop_add(serving.loop, memory, resolver, NULL, &region));
    CHECK_EQ(watched.setups, count);
    CHECK_EQ(watched.setup_tid, own_tid());
    for (uint32_t i = 0; i < count; i++) {
      CHECK(watched.states[i].alive);
      CHECK_EQ(watched.states[i].index, i);
      CHECK_EQ(watched.states[i].count, count);
      CHECK_EQ(watched.states[i].page_size, check_page());
      CHECK(watched.states[i].key != NULL);
      for (uint32_t j = 0; j < i; j++) {
        CHECK(watched.states[i].key != watched.states[j].key);
      }
    }
    CHECK_OK(uffd_loop_add(serving.loop, other, resolver, NULL, &second)); /* again: set up already */
    CHECK_EQ(watched.setups, count);
    serving_start(&serving);
    for (uint64_t i = 0; i < 5 * 512; i += 100) {
      CHECK_EQ(*memory_at(memory, i * check_page()), 'w');
    }
    CHECK_EQ(*memory_at(other, 0), 'w');
    serving_pause(&serving);
    serving_stats(serving.loop); /* the last pass has ended */
    uint32_t askers = 0;
    for (uint32_t i = 0; i < count; i++) {
      askers += watched.states[i].asked != 0;
    }
    if (!serving_is_inline(&serving)) CHECK_EQ(askers, count);
    if (serving_is_inline(&serving)) CHECK(askers >= 1 && watched.states[0].asked == 0); /* this thread's faults */
    CHECK_OK(uffd_region_remove(region));
    CHECK_EQ(watched.teardowns, 0); /* another region asks it */
    CHECK_OK(uffd_region_remove(second));
    CHECK_EQ(watched.teardowns, count);
    CHECK_EQ(watched.teardown_tid, own_tid());
    CHECK_EQ(watched.destroys, 0);
    CHECK_OK(uffd_loop_add(serving.loop, other, resolver, NULL, NULL));
    CHECK_EQ(watched.setups, 2 * count);
    uffd_resolver_close(resolver);
    CHECK_EQ(watched.destroys, 0); /* the region holds it */
    serving_close(&serving);
    CHECK_EQ(watched.teardowns, 2 * count);
    CHECK_EQ(watched.destroys, 1);
    uffd_memory_close(memory);
    uffd_memory_close(other);
  }
}

/* In a layer, behind a continue resolver, and among the uses of another callback; each once, however often it occurs.
 */
static void set_up_wherever_it_may_be_asked(void) {
  struct serving serving;
  struct watched inner = {0}, outer = {0};
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_TWO, NULL);
  uint32_t count = serving_handlers(&serving);
  uffd_memory *memory = memory_make(MEMORY_MEMFD, PAGES);
  uffd_resolver *used = watch(&inner, NULL, 0), *uses[] = {used, used}, *user = watch(&outer, uses, 2), *layered,
                *proceeding;
  const struct uffd_layer layers[] = {{0, 2 * page, user, 0}, {4 * page, page, used, 0}, {8 * page, page, user, 0}};
  CHECK_OK(uffd_resolver_layers(layers, 3, &layered));
  CHECK_OK(uffd_resolver_continue(layered, &proceeding));
  CHECK_OK(uffd_loop_add(serving.loop, memory, proceeding, NULL, NULL));
  CHECK_EQ(inner.setups, count);
  CHECK_EQ(outer.setups, count);
  CHECK_EQ(*memory_at(memory, page), 'w');
  CHECK_EQ(*memory_at(memory, 4 * page), 'w');
  CHECK_EQ(*memory_at(memory, 6 * page), 0);
  CHECK_EQ(inner.resolves, 1);
  CHECK_EQ(outer.resolves, 1);
  uffd_resolver_close(proceeding);
  uffd_resolver_close(layered);
  uffd_resolver_close(user);
  uffd_resolver_close(used);
  CHECK_EQ(inner.destroys + outer.destroys, 0);
  serving_close(&serving);
  CHECK_EQ(inner.teardowns, count);
  CHECK_EQ(outer.teardowns, count);
  CHECK_EQ(inner.destroys, 1);
  CHECK_EQ(outer.destroys, 1);
  uffd_memory_close(memory);
}

static void told_of_the_page_size(void) {
  struct serving serving;
  struct watched watched = {0};
  serving_open(&serving, ENGINE_ONE, NULL);
  uffd_memory *memory = memory_make(MEMORY_HUGETLB, 1);
  region_add(serving.loop, memory, watch(&watched, NULL, 0), NULL);
  CHECK_EQ(watched.states[0].page_size, 2 << 20);
  CHECK_EQ(*memory_at(memory, 0), 'w');
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Set-up fails in the middle */

static void a_failing_setup_unwinds(void) {
  uint32_t count = 2;
  for (unsigned failing = 1; failing <= 2 * count; failing++) {
    struct serving serving;
    struct watched first = {.talks = true}, second = {.talks = true};
    serving_open(&serving, ENGINE_TWO, NULL);
    count = serving_handlers(&serving);
    bool at_first = failing <= count;
    if (at_first) first.failing_setup = failing;
    if (!at_first) second.failing_setup = failing - count;
    uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
    uffd_resolver *a = watch(&first, NULL, 0), *b = watch(&second, NULL, 0), *layered;
    uint64_t page = check_page();
    const struct uffd_layer layers[] = {{0, page, a, 0}, {page, page, b, 0}, {2 * page, page, a, 0}};
    CHECK_OK(uffd_resolver_layers(layers, 3, &layered));
    CHECK_ERR(uffd_loop_add(serving.loop, memory, layered, NULL, NULL), -ENODEV);
    CHECK_SAYS("set-up fails"); /* not what tearing down has said since */
    CHECK_EQ(first.setups, at_first ? failing : count);
    CHECK_EQ(first.teardowns, at_first ? failing - 1 : count);
    CHECK_EQ(second.setups, at_first ? 0 : failing - count);
    CHECK_EQ(second.teardowns, at_first ? 0 : failing - count - 1);
    CHECK(!memory_has(memory, 0, "um"));
    first.failing_setup = second.failing_setup = 0;
    CHECK_OK(uffd_loop_add(serving.loop, memory, layered, NULL, NULL));
    CHECK_EQ(*memory_at(memory, 2 * page), 'w');
    CHECK_EQ(*memory_at(memory, page), 'w');
    serving_close(&serving);
    CHECK_EQ(first.teardowns, first.setups - at_first);
    CHECK_EQ(second.teardowns, second.setups - !at_first);
    uffd_resolver_close(layered);
    uffd_resolver_close(a);
    uffd_resolver_close(b);
    CHECK_EQ(first.destroys, 1);
    CHECK_EQ(second.destroys, 1);
    uffd_memory_close(memory);
  }
}

/* A region that is refused after its callbacks were set up. */
static void a_refused_region_tears_down(void) {
  struct serving serving;
  struct watched watched = {.talks = true};
  serving_open(&serving, ENGINE_TWO, NULL);
  uffd_object *owner = check_open(0);
  uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
  CHECK_OK(uffd_register(owner, CHECK_ADDRESS(memory_at(memory, 0)), check_page(), UFFD_MODE_MISSING, NULL));
  uffd_resolver *resolver = watch(&watched, NULL, 0);
  CHECK_ERR(uffd_loop_add(serving.loop, memory, resolver, NULL, NULL), -EBUSY);
  CHECK_SAYS("another userfaultfd");
  CHECK_EQ(watched.setups, serving_handlers(&serving));
  CHECK_EQ(watched.teardowns, watched.setups);
  uffd_close(owner);
  region_add(serving.loop, memory, resolver, NULL);
  CHECK_EQ(*memory_at(memory, 0), 'w');
  uint32_t count = serving_handlers(&serving);
  serving_close(&serving);
  CHECK_EQ(watched.setups, 2 * count);
  CHECK_EQ(watched.teardowns, 2 * count);
  CHECK_EQ(watched.destroys, 1);
  uffd_memory_close(memory);
}

/* Idle */

static void idle_comes_after_work(void) {
  serving_needs_handlers("Nobody is ever idle.");
  for (int engine = 0; engine < ENGINES; engine += 3) {
    struct serving serving;
    struct watched watched = {.tells_more = true};
    serving_open(&serving, engine, NULL);
    uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
    region_add(serving.loop, memory, watch(&watched, NULL, 0), NULL);
    CHECK_EQ(watched.idles, 0);
    serving_start(&serving);
    CHECK_EQ(*memory_at(memory, 0), 'w');
    while (watched.idles < 2) { /* the first time it said that there was more */
      check_pause();
    }
    CHECK_EQ(*memory_at(memory, check_page()), 'w');
    while (watched.idles < 3) {
      check_pause();
    }
    serving_pause(&serving);
    if (engine == ENGINE_PUMP) { /* its waits are told */
      CHECK_EQ(uffd_loop_timeout(serving.loop), -1);
      CHECK_EQ(watched.idles, 3);
    }
    serving_close(&serving);
    uffd_memory_close(memory);
  }
}

/* Inline nobody waits: a handler tidies once in 64 faults. */
static void idle_comes_amid_work_inline(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct watched watched = {0};
  uffd_loop *loop;
  check_inline(&opts);
  opts.handlers = 1;
  CHECK_OK(uffd_loop_create(&opts, &loop));
  uffd_memory *memory = memory_make(MEMORY_ANON, 200);
  region_add(loop, memory, watch(&watched, NULL, 0), NULL);
  for (uint64_t i = 0; i < 200; i++) {
    CHECK_EQ(watched.idles, i / 64);
    CHECK_EQ(*memory_at(memory, i * check_page()), 'w');
  }
  CHECK_EQ(watched.states[1].idles, 3);
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
}

/* A pump whose driver waits by itself: the timeout says when to come back for tidying. */
static void the_pump_tells_when_to_tidy(void) {
  struct serving serving;
  struct watched watched = {0};
  serving_open(&serving, ENGINE_PUMP, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, PAGES);
  region_add(serving.loop, memory, watch(&watched, NULL, 0), NULL);
  CHECK_EQ(uffd_loop_timeout(serving.loop), -1);
  struct check_touch touch;
  check_touch_read(&touch, memory_at(memory, 0));
  CHECK_EQ(CHECK_OK(uffd_loop_step(serving.loop, -1)), 1);
  CHECK_EQ(check_touch_join(&touch), 'w');
  int timeout = uffd_loop_timeout(serving.loop);
  CHECK(timeout >= 0 && timeout <= 10);
  CHECK_EQ(uffd_loop_step(serving.loop, 0), 0);
  CHECK_EQ(watched.idles, 1);
  CHECK_EQ(uffd_loop_timeout(serving.loop), -1);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* What a callback may not call */

static struct serving deadlocking;
static uffd_memory *deadlocking_memory;
static uffd_region *deadlocking_region;
static uffd_resolver *deadlocking_zero;
static _Atomic unsigned refused;

static int call_all(void) {
  uffd_loop *loop = deadlocking.loop;
  CHECK_ERR(uffd_loop_add(loop, deadlocking_memory, deadlocking_zero, NULL, NULL), -EDEADLK);
  CHECK_SAYS("callback");
  if (deadlocking_region != NULL) {
    CHECK_ERR(uffd_region_prefetch(deadlocking_region, 0, 0), -EDEADLK);
    CHECK_ERR(uffd_region_complete(deadlocking_region), -EDEADLK);
    CHECK_ERR(uffd_region_remove(deadlocking_region), -EDEADLK);
  }
  CHECK_ERR(uffd_loop_complete(loop), -EDEADLK);
  CHECK_ERR(uffd_loop_close(loop), -EDEADLK);
  if (deadlocking.engine == ENGINE_PUMP) CHECK_ERR(uffd_loop_step(loop, -1), -EDEADLK);
  struct uffd_stats stats = UFFD_STATS_INIT;
  CHECK_OK(uffd_loop_stats(loop, &stats)); /* waits for nobody */
  CHECK_OK(uffd_loop_trace(loop, NULL, NULL));
  atomic_fetch_add(&refused, 1);
  return 0;
}

static int call_all_idle(void *ctx, void *state) {
  (void)ctx, (void)state;
  call_all();
  return 0;
}

static void call_all_traced(void *ctx, const struct uffd_trace *trace) {
  (void)ctx, (void)trace;
  call_all();
}

static int set_up_calling(void *ctx, const struct uffd_handler *handler, void **state) {
  (void)ctx, (void)handler, (void)state;
  return call_all();
}

static int resolve_calling(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)ctx, (void)state, (void)fault, (void)answer;
  return call_all();
}

static void tear_down_calling(void *ctx, void *state) {
  (void)ctx, (void)state;
  call_all();
}

static void calls_that_would_wait_are_refused(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
    uffd_resolver *resolver;
    ops.setup = set_up_calling;
    ops.resolve = resolve_calling;
    ops.idle = call_all_idle;
    ops.teardown = tear_down_calling;
    deadlocking_region = NULL;
    refused = 0;
    serving_open(&deadlocking, engine, NULL);
    deadlocking_memory = memory_make(MEMORY_ANON, 64);
    CHECK_OK(uffd_resolver_zero(&deadlocking_zero));
    CHECK_OK(uffd_resolver_callback(&ops, NULL, NULL, NULL, 0, &resolver));
    deadlocking_region = region_add(deadlocking.loop, deadlocking_memory, resolver, NULL);
    uint32_t count = serving_handlers(&deadlocking), faults = serving_is_inline(&deadlocking) ? 64 : 1;
    CHECK_EQ(refused, count);
    CHECK_OK(uffd_loop_trace(deadlocking.loop, call_all_traced, NULL));
    serving_start(&deadlocking);
    for (uint64_t i = 0; i < faults; i++) { /* inline, idle comes with the last one */
      CHECK_EQ(*memory_at(deadlocking_memory, i * check_page()), 0);
    }
    while (refused < count + faults + 1) { /* asked, and idle; the hook has been switched off by then */
      check_pause();
    }
    serving_pause(&deadlocking); /* a pump's calls belong to one thread at a time */
    CHECK_OK(uffd_loop_trace(deadlocking.loop, call_all_traced, NULL));
    CHECK_OK(uffd_region_remove(deadlocking_region));
    CHECK(refused >= 2 * count + faults + 1);
    serving_close(&deadlocking);
    uffd_resolver_close(deadlocking_zero);
    uffd_memory_close(deadlocking_memory);
  }
}

/* Another loop's callback is anybody. */
static uffd_region *elsewhere;

static int prefetch_elsewhere(void) {
  return uffd_region_prefetch(elsewhere, 0, 0);
}

static void another_loop_may_be_called(void) {
  struct serving serving, other;
  struct watched watched = {.in_resolve = prefetch_elsewhere};
  uint64_t page = check_page();
  serving_open(&serving, ENGINE_ONE, NULL);
  serving_open(&other, ENGINE_TWO, NULL);
  uffd_memory *memory = memory_make(MEMORY_ANON, PAGES), *source = memory_make(MEMORY_ANON, PAGES);
  elsewhere = region_add(other.loop, source, image_resolver(PAGES * page), NULL);
  region_add(serving.loop, memory, watch(&watched, NULL, 0), NULL);
  CHECK_EQ(*memory_at(memory, 0), 0);
  CHECK_EQ(serving_stats(other.loop).prefetched, PAGES);
  serving_close(&serving);
  serving_close(&other);
  uffd_memory_close(memory);
  uffd_memory_close(source);
}

static const struct check_test tests[] = {
    TEST(set_up_once_for_each_handler), TEST(set_up_wherever_it_may_be_asked), TEST(told_of_the_page_size),
    TEST(a_failing_setup_unwinds),      TEST(a_refused_region_tears_down),     TEST(idle_comes_after_work),
    TEST(idle_comes_amid_work_inline),  TEST(the_pump_tells_when_to_tidy),     TEST(calls_that_would_wait_are_refused),
    TEST(another_loop_may_be_called),
};
CHECK_MAIN(tests)
