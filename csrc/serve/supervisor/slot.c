/*
 * Workers in their slots: processes that are started, heard, and replaced when they die.
 */
#include "serve/supervisor/slot.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/supervisor/forget.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"
#include "serve/supervisor/task.h"

#define STARTS         5u                    /* starts that fail before the first worker is ready: there will be none */
#define PATIENCE_NS    UINT64_C(60000000000) /* a client whose slot has had no worker for so long: on_crash */
#define LEAVE_MS       1000                  /* to wait for a killed worker at the end */
#define START_PAUSE_NS UINT64_C(20000000)    /* after a start that failed; doubles with each */

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

bool uffd_slots_starting(const uffd_pager *pager) {
  const struct uffd_worker *worker = pager->workers;
  while (worker != NULL && worker->state != UFFD_WORKER_STARTING) {
    worker = worker->next;
  }
  return worker != NULL;
}

static void ready(uffd_pager *pager, struct uffd_worker *worker) {
  struct uffd_slot *slot = &pager->slots[worker->index];
  worker->state = UFFD_WORKER_READY;
  worker->waited_ns = 0;
  pager->workers_ready++;
  slot->failures = 0;
  slot->retry_ns = 0;
  slot->given_up = false;
  for (struct uffd_worker *old = pager->workers; old != NULL; old = old->next) {
    if (old != worker && old->index == worker->index && old->state == UFFD_WORKER_READY) {
      old->state = UFFD_WORKER_RETIRING;
    }
  }
  uffd_report(pager, UFFD_REPORT_WORKER, 0, NULL, worker, "%s", "");
  (void)uffd_images_tell(pager, worker); /* it prepares them before the first client; what does not fit comes later */
  uffd_tasks_ready(pager, worker);
}

static void guard_died(uffd_pager *pager, void *owner);

/* It is our child, so its number is its own as long as we have not waited for it. */
static void meet_guard(uffd_pager *pager, struct uffd_worker *worker, int pid) {
  if (worker->guard_fd >= 0 || pid <= 0) return;
  worker->guard_fd = (int)syscall(SYS_pidfd_open, pid, 0);
  worker->guard_exit = (struct uffd_poll){.ready = guard_died, .owner = worker};
  if (worker->guard_fd >= 0 && uffd_poll_add(pager, worker->guard_fd, &worker->guard_exit) < 0)
    uffd_close_fds(&worker->guard_fd, 1);
}

/* Reads all that the worker has said. A worker that has died may have left messages. */
static void hear(uffd_pager *pager, struct uffd_worker *worker) {
  struct uffd_message message;
  int fds[UFFD_MESSAGE_FDS], result;
  while ((result = uffd_channel_receive(worker->channel, &message, fds)) == 1) {
    if (message.kind == UFFD_SAY_READY) {
      ready(pager, worker);
    } else if (message.kind == UFFD_SAY_GUARD) {
      meet_guard(pager, worker, (int)message.number);
    } else {
      uffd_tasks_said(pager, worker, &message, fds);
    }
    uffd_close_fds(fds, UFFD_MESSAGE_FDS);
  }
  if (result == -EAGAIN) return;
  if (result == -EPROTO) {
    uffd_report(pager, UFFD_REPORT_ERROR, EPROTO, NULL, worker, "%s", uffd_errmsg());
    uffd_worker_kill(worker);
  }
  uffd_poll_drop(pager, worker->channel);
  worker->closed = true;
}

static void said(uffd_pager *pager, void *owner) {
  struct uffd_worker *worker = owner;
  if (worker->full) uffd_worker_pay(pager, worker);
  hear(pager, worker);
}

static const char *describe(const struct uffd_worker *worker, char *text, size_t length, bool *killed) {
  siginfo_t status = {0};
  *killed = false;
  if (waitid((idtype_t)P_PIDFD, (id_t)worker->pidfd, &status, WEXITED | WNOHANG) != 0 || status.si_pid == 0) {
    return "It is dead.";
  }
  if (status.si_code == CLD_EXITED) {
    snprintf(text, length, "It exited with %d.", status.si_status);
  } else {
    snprintf(text, length, "Signal %d (%s) killed it.", status.si_status, strsignal(status.si_status));
    *killed = status.si_status == SIGKILL;
  }
  return text;
}

/* Clients that a living worker still has are left to it: a retiring worker goes on. */
static void give_up_clients(uffd_pager *pager, uint32_t index, uint64_t come_before, const char *why) {
  for (struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    if (client->slot == index && client->worker == NULL && client->since_ns <= come_before) {
      uffd_client_give_up(pager, client, ECHILD, why);
    }
  }
}

/* No worker of this pager has ever been ready: the command line is wrong, or the program. */
static void give_up_slot(uffd_pager *pager, uint32_t index) {
  pager->slots[index].given_up = true;
  pager->error = ECHILD;
  give_up_clients(pager, index, UINT64_MAX, "No worker can be started.");
}

static void fail_start(uffd_pager *pager, uint32_t index, bool reloaded) {
  struct uffd_slot *slot = &pager->slots[index];
  if (reloaded && uffd_worker_of(pager, index) != NULL) return; /* the old one goes on */
  if (slot->failures++ == 0) slot->failing_ns = uffd_now();
  slot->retry_ns = uffd_now() + (START_PAUSE_NS << min_u64(slot->failures, 8));
  if (slot->failures >= STARTS && pager->workers_ready == 0) give_up_slot(pager, index);
}

static void stop_hearing(uffd_pager *pager, struct uffd_worker *worker) {
  if (!worker->closed) hear(pager, worker);
  if (!worker->closed) uffd_poll_drop(pager, worker->channel);
  worker->closed = true;
}

/* Nobody has it any more: its slot and its clients need another. */
static void lose(uffd_pager *pager, const struct uffd_worker *worker, bool killed) {
  uffd_tasks_died(pager, worker, killed);
  if (worker->state == UFFD_WORKER_STARTING) {
    fail_start(pager, worker->index, worker->reloaded);
  } else if (!worker->retired) {
    pager->restarts++;
  }
}

void uffd_slot_abandon(uffd_pager *pager, struct uffd_worker *worker) {
  stop_hearing(pager, worker);
  uffd_worker_unlink(pager, worker);
  uffd_report(pager, UFFD_REPORT_DIED, 0, NULL, worker,
              "It was killed, and sleeps in the kernel: it ends when what it waits for comes.");
  lose(pager, worker, true);
  worker->abandoned = true;
  worker->next = pager->abandoned;
  pager->abandoned = worker;
}

static void bury(uffd_pager *pager, struct uffd_worker *worker) {
  struct uffd_worker **at = &pager->abandoned;
  while (*at != worker) {
    at = &(*at)->next;
  }
  *at = worker->next;
  uffd_worker_free(worker);
}

/* Neither it nor its guard has anything more to say. */
static void ended(uffd_pager *pager, struct uffd_worker *worker) {
  char text[128];
  bool killed;
  if (!worker->abandoned) stop_hearing(pager, worker);
  const char *how = describe(worker, text, sizeof(text), &killed);
  if (worker->abandoned) {
    bury(pager, worker);
    return;
  }
  uffd_worker_unlink(pager, worker);
  if (worker->retired) {
    uffd_report(pager, UFFD_REPORT_RETIRED, 0, NULL, worker, "%s", "");
  } else {
    uffd_report(pager, UFFD_REPORT_DIED, 0, NULL, worker, "%s%s", how,
                worker->state == UFFD_WORKER_STARTING ? " It was not ready yet." : "");
  }
  lose(pager, worker, killed);
  uffd_worker_free(worker);
}

static void died(uffd_pager *pager, void *owner) {
  struct uffd_worker *worker = owner;
  uffd_poll_drop(pager, worker->pidfd);
  if (!worker->closed) hear(pager, worker); /* its guard may have said that it is there */
  worker->dead = true;
  worker->waited_ns = 0;
  if (worker->guard_fd < 0) ended(pager, worker);
}

static void reap_guard(const struct uffd_worker *worker) {
  siginfo_t status;
  (void)waitid((idtype_t)P_PIDFD, (id_t)worker->guard_fd, &status, WEXITED | WNOHANG);
}

static void guard_died(uffd_pager *pager, void *owner) {
  struct uffd_worker *worker = owner;
  reap_guard(worker);
  uffd_poll_drop(pager, worker->guard_fd);
  uffd_close_fds(&worker->guard_fd, 1);
  if (worker->dead) ended(pager, worker);
}

/* In the child. It closes what the supervisor has open: copies would hide that a client or a worker has closed its end.
 */
_Noreturn static void work_here(uffd_pager *pager, const int ends[2]) {
  struct uffd_pager_opts opts = pager->opts;
  uffd_pager_forget(pager);
  close(ends[0]);
  _exit(uffd_pager_work(ends[1], &opts) < 0 ? 1 : 0);
}

static int fork_worker(uffd_pager *pager, const int ends[2], int *pid) {
  *pid = (int)fork();
  if (*pid == 0) work_here(pager, ends);
  return *pid < 0 ? fail(errno, "No process for a worker: %s.", strerror(errno)) : 0;
}

/* In the child, when its program cannot be had: a start that fails, with its reason. */
_Noreturn static void tell_and_exit(const char *program, int channel, int error) {
  struct uffd_message message = {.kind = UFFD_SAY_ERROR, .error = error};
  snprintf(message.text, sizeof(message.text), "Cannot start %s: %s.", program, strerror(error));
  (void)uffd_channel_send(channel, &message, NULL, 0, false);
  _exit(127);
}

/* Not by posix_spawn(): whoever calls it waits until the program has been read, from whatever disk it lies on. */
static int spawn_worker(const uffd_pager *pager, int channel, int *pid) {
  size_t count = 0;
  while (pager->opts.worker[count] != NULL) {
    count++;
  }
  char number[16], option[] = "--worker";
  size_t length = (count + 3) * sizeof(char *);
  char **line = uffd_alloc(length);
  if (line == NULL) return fail(ENOMEM, "No memory for a worker.");
  for (size_t i = 0; i < count; i++) {
    line[i] = (char *)(uintptr_t)pager->opts.worker[i]; /* execvp() does not change them */
  }
  snprintf(number, sizeof(number), "%d", channel);
  line[count] = option;
  line[count + 1] = number;
  *pid = (int)fork();
  if (*pid == 0) {
    (void)fcntl(channel, F_SETFD, 0);
    (void)execvp(line[0], line);
    tell_and_exit(line[0], channel, errno);
  }
  int error = errno;
  uffd_release(line, length);
  return *pid < 0 ? fail(error, "No process for a worker: %s.", strerror(error)) : 0;
}

static int poll_worker(uffd_pager *pager, struct uffd_worker *worker) {
  worker->pidfd = (int)syscall(SYS_pidfd_open, worker->pid, 0);
  if (worker->pidfd < 0) return fail(errno, "No descriptor for a worker's process: %s.", strerror(errno));
  worker->exit = (struct uffd_poll){.ready = died, .owner = worker};
  worker->said = (struct uffd_poll){.ready = said, .owner = worker};
  int result = uffd_poll_add(pager, worker->pidfd, &worker->exit);
  if (result == 0) result = uffd_poll_add(pager, worker->channel, &worker->said);
  return result;
}

static int start(uffd_pager *pager, uint32_t index, bool reloaded) {
  int ends[2];
  struct uffd_worker *worker = NEW(struct uffd_worker);
  if (worker == NULL) return fail(ENOMEM, "No memory for a worker.");
  *worker = (struct uffd_worker){.number = pager->workers_started + 1,
                                 .since_ns = uffd_now(),
                                 .index = index,
                                 .pidfd = -1,
                                 .channel = -1,
                                 .guard_fd = -1,
                                 .reloaded = reloaded};
  int result = uffd_channel_open(ends);
  if (result == 0) {
    worker->channel = ends[0];
    result = pager->opts.worker != NULL ? spawn_worker(pager, ends[1], &worker->pid)
                                        : fork_worker(pager, ends, &worker->pid);
    close(ends[1]);
  }
  if (result == 0) result = poll_worker(pager, worker);
  if (result < 0) { /* a process that was started ends when its channel does */
    if (worker->pidfd >= 0) uffd_poll_drop(pager, worker->pidfd);
    uffd_worker_free(worker);
    return result;
  }
  pager->workers_started++;
  worker->next = pager->workers;
  pager->workers = worker;
  return 0;
}

static void try_start(uffd_pager *pager, uint32_t index, bool reloaded) {
  int result = start(pager, index, reloaded);
  if (result >= 0) return;
  uffd_report(pager, UFFD_REPORT_ERROR, -result, NULL, NULL, "%s", uffd_errmsg());
  fail_start(pager, index, reloaded);
}

static void retire_idle(uffd_pager *pager) {
  const struct uffd_message message = {.kind = UFFD_SAY_RETIRE};
  for (struct uffd_worker *worker = pager->workers; worker != NULL; worker = worker->next) {
    if (worker->state != UFFD_WORKER_RETIRING || worker->retired || !uffd_tasks_none(pager, worker)) continue;
    worker->retired = uffd_worker_say(pager, worker, &message, NULL, 0);
  }
}

/* What is lacking now (a program that is being replaced, processes, memory) may come back. */
static void fill_slot(uffd_pager *pager, uint32_t index, uint64_t now) {
  const struct uffd_slot *slot = &pager->slots[index];
  if (uffd_worker_of(pager, index) != NULL) return;
  if (slot->failures != 0 && now - slot->failing_ns > PATIENCE_NS) {
    give_up_clients(pager, index, now - PATIENCE_NS, "No worker could be started for a minute.");
  }
  if (slot->retry_ns <= now) try_start(pager, index, false);
}

void uffd_slots_fill(uffd_pager *pager, uint64_t now) {
  retire_idle(pager);
  if (pager->closing) return;
  for (uint32_t index = 0; index < pager->opts.workers; index++) {
    const struct uffd_slot *slot = &pager->slots[index];
    if (slot->given_up) {
      give_up_slot(pager, index); /* clients that have come since */
    } else {
      fill_slot(pager, index, now);
    }
  }
}

uint64_t uffd_slots_due(const uffd_pager *pager) {
  uint64_t due = UINT64_MAX;
  for (uint32_t index = 0; index < pager->opts.workers && !pager->closing; index++) {
    const struct uffd_slot *slot = &pager->slots[index];
    if (!slot->given_up && uffd_worker_of(pager, index) == NULL) due = min_u64(due, slot->retry_ns);
  }
  return due;
}

void uffd_slots_reload(uffd_pager *pager) {
  pager->error = 0;
  for (uint32_t index = 0; index < pager->opts.workers; index++) {
    pager->slots[index].given_up = false;
    pager->slots[index].failures = 0;
    try_start(pager, index, true);
  }
}

void uffd_slots_retire(uffd_pager *pager) {
  for (struct uffd_worker *worker = pager->workers; worker != NULL; worker = worker->next) {
    worker->state = UFFD_WORKER_RETIRING;
  }
  retire_idle(pager);
}

void uffd_slots_leave(uffd_pager *pager) {
  while (pager->workers != NULL) {
    struct uffd_worker *worker = pager->workers;
    char text[128];
    bool killed;
    if (uffd_tasks_none(pager, worker)) {
      uffd_worker_kill(worker);
      struct pollfd end = {.fd = worker->pidfd, .events = POLLIN}; /* one that sleeps in the kernel does not die */
      if (poll(&end, 1, LEAVE_MS) == 1) (void)describe(worker, text, sizeof(text), &killed);
      uffd_worker_kill_guard(worker); /* there was no client whose forked child it could have */
      end = (struct pollfd){.fd = worker->guard_fd, .events = POLLIN};
      if (worker->guard_fd >= 0 && poll(&end, 1, LEAVE_MS) == 1) reap_guard(worker);
    }
    uffd_worker_unlink(pager, worker);
    uffd_worker_free(worker);
  }
}
