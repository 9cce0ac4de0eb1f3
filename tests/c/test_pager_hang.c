/* Workers that hang: stopped, or held up by a policy that does not come back. Others are served meanwhile, and after.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>

#include "paging.h"

#define MIB  (UINT64_C(1) << 20)
#define PAGE UINT64_C(4096)
#define HANG (500 * PAGING_SCALE) /* ms */

static struct uffd_pager_opts hang_opts(struct paging *paging) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = "";
  opts.around = PAGE;
  opts.hang_ms = HANG;
  opts.resolver_ctx = paging;
  return opts;
}

/* Touches when the flag is raised. */
static void wait_and_touch(struct paging_job *job) {
  while (atomic_load(&job->paging->seen->flags[1]) == 0) {
    paging_sleep_us(1000);
  }
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
}

static bool is_killed(pid_t client) {
  int status;
  CHECK_EQ(waitpid(client, &status, 0), client);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void a_stopped_worker_is_replaced(void) {
  struct paging paging;
  struct uffd_pager_opts opts = hang_opts(&paging);
  paging_set_up(&paging, 2 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = wait_and_touch};
  pid_t client = paging_client(&job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  kill(atomic_load(&paging.seen->workers[0]), SIGSTOP);
  atomic_store(&paging.seen->flags[1], 1);
  paging_client_ok(client);
  CHECK(paging_reports(&paging, UFFD_REPORT_HUNG) >= 1);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_HUNG], "stopped") != NULL);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_FROZEN), 0);
  paging_turn(&paging);
  CHECK(paging.seen->status.hangs >= 1);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static void never(void) {
  for (;;) {
    pause();
  }
}

/* The second client's factory does not return. */
static int hang_for_the_second(void *ctx, const struct uffd_client *client, uffd_resolver *image,
                               uffd_resolver **resolver) {
  const struct paging *paging = ctx;
  if (client->id == 2 && atomic_load(&paging->seen->flags[2]) == 0) never();
  *resolver = image;
  return 0;
}

static void a_factory_that_hangs_holds_up_nobody_else(void) {
  enum { OTHERS = 3 };
  struct paging paging;
  struct uffd_pager_opts opts = hang_opts(&paging);
  opts.resolver = hang_for_the_second;
  paging_set_up(&paging, 2 * MIB);
  paging_start(&paging, &opts);
  struct paging_job job = {.paging = &paging, .run = wait_and_touch};
  pid_t others[OTHERS] = {paging_client(&job)};
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  pid_t guilty = paging_client(&job);
  paging_await(&paging, UFFD_REPORT_CLIENT, 2);
  atomic_store(&paging.seen->flags[1], 1);
  for (unsigned i = 1; i < OTHERS; i++) {
    others[i] = paging_client(&job);
  }
  for (unsigned i = 0; i < OTHERS; i++) {
    paging_client_ok(others[i]);
  }
  CHECK(is_killed(guilty));
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_HUNG), 2);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_HUNG], "has not come back from making the client") != NULL);
  paging_await(&paging, UFFD_REPORT_FROZEN, 1);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static int hang_at_page_7(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  static const char contents[4096] = {1};
  (void)ctx, (void)state;
  if (fault->offset == 7 * PAGE) never();
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = contents;
  return 0;
}

static int hang_at_a_page(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  (void)ctx;
  ops.resolve = hang_at_page_7;
  if (client->id == 1) return uffd_resolver_callback(&ops, NULL, "hang", NULL, 0, resolver);
  *resolver = image;
  return 0;
}

static void touch_page_7(struct paging_job *job) {
  const volatile unsigned char *at = vmm_at(&job->vmm, 0);
  CHECK_EQ(at[3 * PAGE], 1);
  (void)at[7 * PAGE];
}

/* Its client is killed for it, and the others go on: before, and after the worker must let go of it. */
static void a_policy_that_hangs_at_a_fault_is_charged(void) {
  struct paging paging;
  struct uffd_pager_opts opts = hang_opts(&paging);
  opts.resolver = hang_at_a_page;
  paging_set_up(&paging, 2 * MIB);
  paging_start(&paging, &opts);
  struct paging_job guilty_job = {.paging = &paging, .run = touch_page_7}, job = {.paging = &paging};
  pid_t guilty = paging_client(&guilty_job);
  paging_await(&paging, UFFD_REPORT_CLIENT, 1);
  paging_client_ok(paging_client(&job));
  CHECK(is_killed(guilty));
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_HUNG), 2);
  CHECK(strstr(paging.seen->texts[UFFD_REPORT_HUNG], "Its policy has not answered a fault") != NULL);
  paging_client_ok(paging_client(&job));
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* The client is dead, and its worker cannot let go of it: a new client is served all the same. */
static void a_client_that_cannot_be_released_holds_up_nobody(void) {
  struct paging paging;
  struct uffd_pager_opts opts = hang_opts(&paging);
  opts.resolver = hang_at_a_page;
  paging_set_up(&paging, 2 * MIB);
  paging_start(&paging, &opts);
  struct paging_job guilty_job = {.paging = &paging, .run = touch_page_7}, job = {.paging = &paging};
  pid_t guilty = paging_client(&guilty_job);
  paging_await_clients(&paging, 1, UFFD_CLIENT_SERVED);
  kill(guilty, SIGKILL);
  CHECK(is_killed(guilty));
  paging_client_ok(paging_client(&job));
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_FROZEN), 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

static const struct check_test tests[] = {
    TEST(a_stopped_worker_is_replaced),
    TEST(a_factory_that_hangs_holds_up_nobody_else),
    TEST(a_policy_that_hangs_at_a_fault_is_charged),
    TEST(a_client_that_cannot_be_released_holds_up_nobody),
};
CHECK_MAIN(tests)
