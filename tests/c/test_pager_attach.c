/*
 * Memory that was handed over once comes again: to the pager that serves it, and to another one when all processes of
 * the first were killed. The client is the test itself.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "paging.h"

#define PAGE UINT64_C(4096)
#define MIB  (UINT64_C(1) << 20)

static uffd_memory *memory;
static uffd_handoff *handoff;

static unsigned char *at(uint64_t page) {
  return (unsigned char *)uffd_memory_address(memory) + page * PAGE;
}

static bool is_image(const struct paging *paging, uint64_t page) {
  return memcmp(at(page), paging->bytes + page * PAGE, PAGE) == 0;
}

/* After the pagers were started: they have none of it but what they are handed. */
static void hand_over(const struct paging *paging, uint32_t flags) {
  struct uffd_handoff_opts opts = UFFD_HANDOFF_OPTS_INIT;
  opts.flags = flags;
  uffd_close(check_open(0)); /* skips where this user may have none */
  CHECK_OK(uffd_map(paging->length, NULL, &memory));
  struct uffd_handoff_part part = {memory, 0};
  CHECK_OK(uffd_handoff_send(paging->socket, &part, 1, &opts, &handoff));
}

/* The pager that has it serves it to the end. */
static void complete(struct paging *paging) {
  CHECK_OK(uffd_handoff_complete(handoff));
  paging_await(paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging->seen->last.end, UFFD_END_DONE);
  CHECK_EQ(paging_reports(paging, UFFD_REPORT_CLIENT), 1);
  CHECK_EQ(paging_reports(paging, UFFD_REPORT_REFUSED), 0);
}

static void let_go(void) {
  uffd_handoff_close(handoff);
  uffd_memory_close(memory);
}

static void replace_worker(struct paging *paging) {
  unsigned begun = atomic_load(&paging->seen->begun);
  CHECK(paging_kill_worker(paging, 0));
  while (atomic_load(&paging->seen->begun) == begun) {
    check_pause();
  }
}

/* It is the same client as before: what is known of its pages stays known. It speaks by the new connection. */
static void its_pager_lives(void) {
  struct paging paging;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = "";
  opts.around = UFFD_AROUND_PAGE;
  opts.flags = UFFD_PAGER_PREFETCH;
  paging_set_up(&paging, MIB);
  paging_start(&paging, &opts);
  hand_over(&paging, UFFD_HANDOFF_LATER);
  CHECK(is_image(&paging, 0) && is_image(&paging, 1));
  CHECK_EQ(madvise(at(1), PAGE, MADV_DONTNEED), 0);
  for (unsigned round = 0; round < 3; round++) {
    CHECK_OK(uffd_handoff_attach(handoff, paging.socket));
    CHECK_EQ(uffd_handoff_connected(handoff), 1);
    CHECK(is_image(&paging, 2 + round));
    if (round == 1) replace_worker(&paging);
  }
  CHECK(check_filled(at(1), PAGE, 0)); /* it was dropped: not the image's bytes */
  CHECK_OK(uffd_handoff_fill(handoff));
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  while (paging.seen->clients[0].stats.prefetched == 0) {
    check_pause();
  }
  complete(&paging);
  for (uint64_t page = 2; page < MIB / PAGE; page++) {
    CHECK(is_image(&paging, page));
  }
  let_go();
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* Two would each hear of half of what is dropped. */
static void another_pager_is_refused_while_it_lives(void) {
  struct paging first, second;
  paging_set_up(&first, MIB);
  paging_set_up(&second, MIB);
  paging_start(&first, NULL);
  paging_start(&second, NULL);
  hand_over(&first, 0);
  CHECK_ERR(uffd_handoff_attach(handoff, second.socket), -EBUSY);
  CHECK_SAYS("two cannot serve it");
  CHECK_EQ(uffd_handoff_connected(handoff), 1);
  complete(&first);
  for (uint64_t page = 0; page < MIB / PAGE; page++) {
    CHECK(is_image(&first, page));
  }
  paging_turn(&second);
  CHECK_EQ(paging_reports(&second, UFFD_REPORT_CLIENT), 0);
  let_go();
  CHECK_EQ(paging_end(&second), 1);
  CHECK_EQ(paging_end(&first), 1);
  paging_tear_down(&second);
  paging_tear_down(&first);
}

/* Answers one page never: its fault has been read, and its worker is killed with it. */
static int stop_at_page_7(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  const struct paging *paging = ctx;
  (void)state;
  while (fault->offset == 7 * PAGE) {
    atomic_store(&paging->seen->flags[0], 1);
    pause();
  }
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = paging->bytes + fault->offset;
  return 0;
}

static int stop_at_a_page(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  (void)client, (void)image;
  ops.resolve = stop_at_page_7;
  return uffd_resolver_callback(&ops, ctx, "stop", NULL, 0, resolver);
}

/* Of the first pager only the worker's guard is left, which holds the userfaultfd. */
static void kill_all(struct paging *paging) {
  kill(paging->supervisor, SIGKILL);
  CHECK_EQ(waitpid(paging->supervisor, NULL, 0), paging->supervisor);
  CHECK(paging_kill_worker(paging, 0));
  paging_await_dead(atomic_load(&paging->seen->workers[0]));
}

/*
 * Who sleeps in a fault wakes up with the bytes of the second pager's image, whether the fault was read by the worker
 * that was killed or by nobody. That page 1 was dropped was known to the first pager alone.
 */
static void all_of_its_pager_is_killed(void) {
  struct paging first, second;
  struct check_touch read_before, read_after;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  paging_set_up(&first, MIB);
  paging_set_up(&second, MIB);
  opts.image = "";
  opts.around = UFFD_AROUND_PAGE;
  opts.resolver = stop_at_a_page;
  opts.resolver_ctx = &first;
  paging_start(&first, &opts);
  opts.resolver = NULL;
  paging_start(&second, &opts);
  hand_over(&first, 0);
  CHECK(is_image(&first, 0) && is_image(&first, 1));
  CHECK_EQ(madvise(at(1), PAGE, MADV_DONTNEED), 0);
  check_touch_read(&read_before, at(7));
  while (atomic_load(&first.seen->flags[0]) == 0) {
    check_pause();
  }
  kill_all(&first);
  check_touch_read(&read_after, at(8));
  check_touch_asleep(&read_after);
  check_touch_asleep(&read_before);
  CHECK_EQ(uffd_handoff_connected(handoff), 0);
  CHECK_ERR(uffd_handoff_attach(handoff, first.socket), -ECONNREFUSED);
  CHECK_SAYS("start the pager first");
  CHECK_ERR(uffd_handoff_complete(handoff), -EPIPE);
  CHECK_OK(uffd_handoff_attach(handoff, second.socket));
  CHECK_EQ(uffd_handoff_connected(handoff), 1);
  CHECK_EQ(check_touch_join(&read_before), second.bytes[7 * PAGE]);
  CHECK_EQ(check_touch_join(&read_after), second.bytes[8 * PAGE]);
  CHECK(is_image(&second, 1));
  replace_worker(&second);
  complete(&second);
  for (uint64_t page = 0; page < MIB / PAGE; page++) {
    CHECK(is_image(&second, page));
  }
  let_go();
  CHECK_EQ(paging_end(&second), 1);
  paging_tear_down(&second);
  paging_tear_down(&first);
}

static const struct check_test tests[] = {
    TEST(its_pager_lives),
    TEST(another_pager_is_refused_while_it_lives),
    TEST(all_of_its_pager_is_killed),
};

CHECK_MAIN(tests)
