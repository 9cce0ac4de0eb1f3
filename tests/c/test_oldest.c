/* The fault that has waited longest: named while it waits, and not afterwards. */
#define _GNU_SOURCE
#include "serving.h"

static _Atomic bool go_on;

static int answer_when_told(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault;
  if (!atomic_load(&go_on)) answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

static void check_none(const uffd_loop *loop) {
  struct uffd_waiting waiting = UFFD_WAITING_INIT;
  while (uffd_loop_oldest(loop, &waiting) != 0)
    check_pause(); /* the handler has yet to say so */
  CHECK_EQ(waiting.age_ns, 0);
}

static void check_oldest(const uffd_loop *loop, uint64_t address, uint64_t offset, void *cookie) {
  struct uffd_waiting waiting = UFFD_WAITING_INIT, later = UFFD_WAITING_INIT;
  while (CHECK_OK(uffd_loop_oldest(loop, &waiting)) == 0)
    check_pause();
  CHECK_EQ(waiting.address, address);
  CHECK_EQ(waiting.offset, offset);
  CHECK_EQ(waiting.flags & UFFD_FAULT_WRITE, 0);
  CHECK(waiting.cookie == cookie);
  CHECK(strcmp(waiting.resolver, "callback") == 0);
  CHECK_EQ(waiting.handler, 0);
  check_pause();
  CHECK_EQ(uffd_loop_oldest(loop, &later), 1);
  CHECK(later.age_ns > waiting.age_ns);
}

static struct serving serving;
static uffd_memory *memory;
static char cookie;

static struct asked asked = {.answer = answer_when_told};

static void serve(int engine) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.cookie = &cookie;
  opts.offset = check_page();
  serving_open(&serving, engine, NULL);
  memory = memory_make(MEMORY_ANON, 8);
  region_add(serving.loop, memory, asked_resolver(&asked), &opts);
  check_none(serving.loop);
}

static void end(void) {
  check_none(serving.loop);
  serving_close(&serving);
  uffd_memory_close(memory);
}

static void in_a_resolver(void) {
  serving_needs_handlers("Faults that are answered inline are not told.");
  struct check_touch touch;
  atomic_store(&go_on, true);
  serve(ENGINE_ONE);
  check_barrier_hold("asking");
  check_touch_read(&touch, memory_at(memory, 3 * check_page()));
  check_barrier_await("asking");
  check_oldest(serving.loop, CHECK_ADDRESS(memory_at(memory, 3 * check_page())), 2 * check_page(), &cookie);
  check_barrier_release("asking");
  check_touch_join(&touch);
  end();
}

/* Of two that are put off, the one that was read first. */
static void put_off(void) {
  struct check_touch first, second;
  atomic_store(&go_on, false);
  serve(ENGINE_PUMP);
  serving_start(&serving);
  check_touch_read(&first, memory_at(memory, 5 * check_page()));
  while (atomic_load(&asked.hits) < 2)
    check_pause();
  check_touch_read(&second, memory_at(memory, 2 * check_page()));
  unsigned hits = atomic_load(&asked.hits);
  while (atomic_load(&asked.hits) < hits + 4)
    check_pause();
  check_oldest(serving.loop, CHECK_ADDRESS(memory_at(memory, 5 * check_page())), 4 * check_page(), &cookie);
  atomic_store(&go_on, true);
  check_touch_join(&first);
  check_touch_join(&second);
  end();
}

static void bad_structs(void) {
  struct uffd_waiting waiting = UFFD_WAITING_INIT;
  serve(ENGINE_ONE);
  CHECK_ERR(uffd_loop_oldest(serving.loop, NULL), -EINVAL);
  waiting.size = 8;
  CHECK_ERR(uffd_loop_oldest(serving.loop, &waiting), -EINVAL);
  end();
}

static const struct check_test tests[] = {
    TEST(in_a_resolver),
    TEST(put_off),
    TEST(bad_structs),
};
CHECK_MAIN(tests)
