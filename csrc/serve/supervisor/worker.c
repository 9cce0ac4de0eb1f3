/*
 * One worker process: its channel, and how it is killed and forgotten.
 */
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/worker.h"

struct uffd_worker *uffd_worker_of(const uffd_pager *pager, uint32_t slot) {
  struct uffd_worker *worker = pager->workers, *best = NULL;
  for (; worker != NULL; worker = worker->next) {
    if (worker->index != slot || worker->state == UFFD_WORKER_RETIRING) continue;
    if (best == NULL || worker->state == UFFD_WORKER_READY) best = worker;
  }
  return best;
}

static bool send_now(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message, const int *fds,
                     uint32_t count) {
  if (worker->full || worker->closed || worker->dead) return false;
  int result = uffd_channel_send(worker->channel, message, fds, count, false);
  if (result == 0) return true;
  /* Too many descriptors in flight, or no memory: there is room again when the worker has read some messages. */
  worker->full = result == -EAGAIN || result == -ETOOMANYREFS || result == -ENOBUFS || result == -ENOMEM;
  if (worker->full) uffd_poll_write(pager, worker->channel, &worker->said, true);
  return false;
}

/* What is owed goes first: messages keep their order. */
bool uffd_worker_say(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message, const int *fds,
                     uint32_t count) {
  return worker->debts == NULL && send_now(pager, worker, message, fds, count);
}

void uffd_worker_owe(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message) {
  if (uffd_worker_say(pager, worker, message, NULL, 0)) return;
  struct uffd_debt *debt = NEW(struct uffd_debt), **at = &worker->debts;
  if (debt == NULL) return;
  debt->message = *message;
  while (*at != NULL) {
    at = &(*at)->next;
  }
  *at = debt;
}

void uffd_worker_pay(uffd_pager *pager, struct uffd_worker *worker) {
  worker->full = false;
  uffd_poll_write(pager, worker->channel, &worker->said, false);
  while (worker->debts != NULL && send_now(pager, worker, &worker->debts->message, NULL, 0)) {
    struct uffd_debt *paid = worker->debts;
    worker->debts = paid->next;
    DELETE(paid);
  }
}

void uffd_worker_heard(struct uffd_worker *worker) {
  worker->asked = false;
  if (!worker->hung) worker->waited_ns = 0;
}

void uffd_worker_kill(const struct uffd_worker *worker) {
  (void)syscall(SYS_pidfd_send_signal, worker->pidfd, SIGKILL, NULL, 0);
}

void uffd_worker_kill_guard(const struct uffd_worker *worker) {
  if (worker->guard_fd >= 0) (void)syscall(SYS_pidfd_send_signal, worker->guard_fd, SIGKILL, NULL, 0);
}

void uffd_worker_unlink(uffd_pager *pager, struct uffd_worker *worker) {
  struct uffd_worker **at = &pager->workers;
  while (*at != worker) {
    at = &(*at)->next;
  }
  *at = worker->next;
}

void uffd_worker_free(struct uffd_worker *worker) {
  while (worker->debts != NULL) {
    struct uffd_debt *debt = worker->debts;
    worker->debts = debt->next;
    DELETE(debt);
  }
  uffd_close_fds(&worker->channel, 1);
  uffd_close_fds(&worker->pidfd, 1);
  uffd_close_fds(&worker->guard_fd, 1);
  DELETE(worker);
}

static void forget(struct uffd_worker **list) {
  while (*list != NULL) {
    struct uffd_worker *worker = *list;
    *list = worker->next;
    uffd_worker_free(worker);
  }
}

void uffd_workers_forget(uffd_pager *pager) {
  forget(&pager->workers);
  forget(&pager->abandoned);
}
