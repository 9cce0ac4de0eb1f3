/*
 * Deadlines of workers. Time counts only while the supervisor itself runs: after it was stopped, answers that are
 * waiting to be read are read first.
 */
#include "serve/supervisor/liveness.h"

#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "serve/supervisor/blame.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"
#include "serve/supervisor/slot.h"
#include "serve/supervisor/worker.h"

#define TICK_MAX_NS UINT64_C(1000000000) /* between two checks, at most */
#define ABANDON_NS  UINT64_C(1000000000) /* a killed worker that is not dead after so long sleeps in the kernel */

static uint64_t deadline_ns(const uffd_pager *pager) {
  return UINT64_C(1000000) * pager->opts.hang_ms;
}

static uint64_t tick_ns(const uffd_pager *pager) {
  return min_u64(TICK_MAX_NS, deadline_ns(pager) / 8);
}

/* What the kernel says a process does: "T (stopped)", "D (disk sleep)"; "" when it does not tell. */
static const char *describe_state(int pid, char *text, size_t length) {
  char path[64], line[128];
  snprintf(path, sizeof(path), "/proc/%d/status", pid);
  FILE *file = fopen(path, "re");
  text[0] = '\0';
  while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
    if (strncmp(line, "State:", 6) != 0) continue;
    line[strcspn(line, "\n")] = '\0';
    snprintf(text, length, "%s", line + 6 + strspn(line + 6, " \t"));
  }
  if (file != NULL) (void)fclose(file);
  return text;
}

static void kill_hung(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_supervised *client,
                      const char *what) {
  char state[64];
  worker->hung = true;
  worker->waited_ns = 0;
  pager->hangs++;
  uffd_report(pager, UFFD_REPORT_HUNG, ETIMEDOUT, client, worker,
              "%s for %u ms (process %d, state %s): it is killed, and its clients get another worker.", what,
              pager->opts.hang_ms, worker->pid, describe_state(worker->pid, state, sizeof(state)));
  uffd_worker_kill(worker);
}

/* It makes the client, and does not come back from the client's factory. A stopped process is nobody's fault. */
static struct uffd_supervised *find_made(const uffd_pager *pager, const struct uffd_worker *worker) {
  char state[64];
  if (describe_state(worker->pid, state, sizeof(state))[0] == 'T') return NULL;
  struct uffd_supervised *client = pager->clients;
  for (; client != NULL; client = client->next) {
    const struct uffd_book_head *head = client->book.head;
    if (client->worker == worker && atomic_load(&head->phase) == UFFD_BOOK_MAKING) break;
    if (client->heir == worker && atomic_load(&head->preparing) != 0) break;
  }
  return client;
}

/* Asks it, and counts how long it has not answered. */
static void check_worker(uffd_pager *pager, struct uffd_worker *worker, uint64_t passed) {
  const struct uffd_message ping = {.kind = UFFD_SAY_PING};
  worker->waited_ns += passed;
  if (worker->dead) {
    if (worker->waited_ns >= ABANDON_NS) uffd_worker_kill_guard(worker);
    return;
  }
  if (worker->hung) {
    if (worker->waited_ns >= ABANDON_NS) uffd_slot_abandon(pager, worker);
    return;
  }
  bool answers = worker->state != UFFD_WORKER_STARTING && !worker->retired;
  if (answers && !worker->asked) {
    worker->asked = worker->waited_ns >= deadline_ns(pager) / 8;
    if (worker->asked) (void)uffd_worker_say(pager, worker, &ping, NULL, 0);
    if (worker->asked) worker->waited_ns = 0;
    return;
  }
  if (worker->waited_ns < deadline_ns(pager)) return;
  struct uffd_supervised *client = answers ? find_made(pager, worker) : NULL;
  if (client != NULL) client->hung = true;
  kill_hung(pager, worker, client,
            client != NULL                          ? "A worker has not come back from making the client"
            : worker->state == UFFD_WORKER_STARTING ? "A worker has not become ready"
            : worker->retired                       ? "A worker has not ended"
                                                    : "A worker has not answered");
}

/* Its own handler does not come back, whatever the worker's main thread says. */
static void check_client(uffd_pager *pager, struct uffd_supervised *client, uint64_t passed) {
  uint64_t answered = atomic_load_explicit(&client->book.head->answered, memory_order_relaxed);
  bool served = uffd_stage_is_served(client->stage) && client->worker != NULL && !client->worker->hung;
  if (!served || answered != client->seen_answered || !uffd_has_faults(client)) {
    client->seen_answered = answered;
    client->stuck_ns = 0;
    return;
  }
  client->stuck_ns += passed;
  if (client->stuck_ns < deadline_ns(pager)) return;
  client->stuck_ns = 0;
  client->hung = true;
  kill_hung(pager, client->worker, client, "Its policy has not answered a fault");
}

void uffd_liveness_check(uffd_pager *pager, uint64_t now) {
  if (now < pager->alive_ns) return;
  uint64_t since = now - pager->alive_ns + tick_ns(pager);
  uint64_t passed = pager->alive_ns == 0 ? 0 : min_u64(since, 2 * tick_ns(pager));
  struct uffd_worker *next;
  pager->alive_ns = now + tick_ns(pager);
  /* Without a policy only the disk holds up a handler, which another worker would not better. */
  for (struct uffd_supervised *client = pager->clients; client != NULL && pager->opts.resolver != NULL;
       client = client->next) {
    check_client(pager, client, passed);
  }
  for (struct uffd_worker *worker = pager->workers; worker != NULL; worker = next) {
    next = worker->next;
    check_worker(pager, worker, passed);
  }
}

uint64_t uffd_liveness_due(const uffd_pager *pager) {
  return pager->workers != NULL ? pager->alive_ns : UINT64_MAX;
}
