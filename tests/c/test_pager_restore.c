/* A client's memory comes from the image, byte for byte, whatever becomes of the workers meanwhile. */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "paging.h"

#define MIB (UINT64_C(1) << 20)

static uint64_t random_state = 88172645463325252;

static uint64_t next_random(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

static bool runs(pid_t client) {
  int status;
  pid_t ended = waitpid(client, &status, WNOHANG);
  if (ended == 0) return true;
  CHECK_EQ(ended, client);
  CHECK(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) SKIP("no userfaultfd for this user");
  CHECK_EQ(WEXITSTATUS(status), 0);
  return false;
}

static void client_reads_the_image(void) {
  struct paging paging;
  paging_set_up(&paging, 8 * MIB);
  paging_start(&paging, NULL);
  struct paging_job job = {.paging = &paging, .regions = 3, .work = {.threads = 2, .write = true}};
  paging_client_ok(paging_client(&job));
  paging_await(&paging, UFFD_REPORT_GONE, 1);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_CLIENT), 1);
  CHECK_EQ(paging.seen->last.state, UFFD_CLIENT_GONE);
  CHECK_EQ(paging.seen->last.client.regions_count, 3);
  CHECK_EQ(paging.seen->last.stats.bytes, 8 * MIB);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/* A busy machine takes long for all pages of a client: as long as they come, it goes on. */
static void await_end(const struct paging *paging, pid_t client) {
  uint64_t before = 0;
  while (runs(client)) {
    uint64_t bytes = paging->seen->clients[0].stats.bytes;
    if (bytes != before) check_progress();
    before = bytes;
    check_pause();
  }
}

/* Until the client has ended: workers are killed, or replaced, at random moments. */
static void restore_while(bool (*disturb)(struct paging *paging), unsigned times, unsigned pause_us, uint64_t removes) {
  struct paging paging;
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  opts.image = "";
  opts.around = 4096; /* so that there is something left to do */
  paging_set_up(&paging, 256 * MIB / PAGING_SCALE);
  paging_start(&paging, &opts);
  struct paging_job job = {
      .paging = &paging,
      .features = removes != 0 ? UFFD_FEATURE_EVENT_REMOVE : 0,
      .regions = 2,
      .work = {.threads = 2, .removes = removes, .write = removes == 0},
  };
  unsigned done = 0;
  while (done < times) {
    job.work.seed++;
    pid_t client = paging_client(&job);
    bool running = true;
    while (running && done < times) {
      paging_sleep_us((unsigned)(next_random() % (2 * (uint64_t)pause_us)));
      if (disturb(&paging)) {
        done++;
        check_progress();
      }
      running = runs(client);
    }
    if (running) await_end(&paging, client);
  }
  printf("  %u times, %u clients, %u workers\n", done, job.work.seed, atomic_load(&paging.seen->begun));
  paging_await(&paging, UFFD_REPORT_GONE, job.work.seed);
  CHECK_EQ(paging_reports(&paging, UFFD_REPORT_FROZEN), 0);
  CHECK_EQ(paging_end(&paging), 1);
  paging_tear_down(&paging);
}

/*
 * The pager gives up a client whose workers are killed 40 times without an answer in between. On a busy machine a
 * worker may have had no time to answer, so after some kills the client's figures have to move.
 */
static bool kill_worker(struct paging *paging) {
  static unsigned kills;
  if (!paging_kill_worker(paging, 0)) return false;
  if (++kills % 16 != 0) return true;
  uint64_t before = paging->seen->clients[0].stats.bytes;
  while (atomic_load(&paging->seen->clients_count) != 0 && paging->seen->clients[0].stats.bytes == before) {
    paging_turn(paging);
  }
  return true;
}

static bool reload(struct paging *paging) {
  paging_signal(paging, SIGHUP);
  return true;
}

static void worker_is_killed_at_any_moment(void) {
  restore_while(kill_worker, 200 / PAGING_SCALE, 8000, 0);
}

static void worker_is_killed_while_pages_are_removed(void) {
  restore_while(kill_worker, 50 / PAGING_SCALE, 8000, 20000 / PAGING_SCALE);
}

static void worker_is_replaced_at_any_moment(void) {
  restore_while(reload, 50 / PAGING_SCALE, 10000, 0);
}

static void worker_is_replaced_while_pages_are_removed(void) {
  restore_while(reload, 50 / PAGING_SCALE, 10000, 20000 / PAGING_SCALE);
}

static const struct check_test tests[] = {
    TEST(client_reads_the_image),
    TEST(worker_is_killed_at_any_moment),
    TEST(worker_is_killed_while_pages_are_removed),
    TEST(worker_is_replaced_at_any_moment),
    TEST(worker_is_replaced_while_pages_are_removed),
};

CHECK_MAIN(tests)
