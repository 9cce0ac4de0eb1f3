/*
 * Who serves whom. Each client says what it wants of which worker; workers are told as fast as they listen, a few
 * clients at a time, and what they answer changes what is wanted next.
 *
 *   WAITING -> MAKING -> SERVING -> RELEASING -> NONE         the client is gone, or complete
 *                           `-----> YIELDING --> the heir's   another worker has it HELD, and is told to start
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "serve/supervisor/pager.h"

#define HEIR_STRIKES 2u /* heirs that died of a client: it stays where it is */

/* ---- telling */

static bool tell(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_served *served, uint32_t kind) {
  struct uffd_message message = {.kind = kind, .client = served->client.id};
  return uffd_worker_say(pager, worker, &message, NULL, 0);
}

static bool hand_over(uffd_pager *pager, struct uffd_worker *worker, struct uffd_served *served, bool hold) {
  struct uffd_message message = {
      .kind = UFFD_SAY_SERVE, .client = served->client.id, .flags = hold ? UFFD_SAY_HOLD : 0};
  int fds[UFFD_MESSAGE_FDS] = {served->object_fd, served->book.fd};
  uint32_t count = 2;
  if (served->pidfd >= 0) {
    message.flags |= UFFD_SAY_PIDFD;
    fds[count++] = served->pidfd;
  }
  for (uint32_t i = 0; i < served->client.fds_count; i++) {
    fds[count++] = served->fds[i];
  }
  if (!uffd_worker_say(pager, worker, &message, fds, count)) return false;
  worker->making++;
  return true;
}

/*
 * Who is begun first: those that no worker died of, and of them those that are made quickly. Among the others the order
 * changes by turns, so that nobody is always behind the guilty one.
 */
static bool is_before(const uffd_pager *pager, const struct uffd_served *a, const struct uffd_served *b) {
  if (a->strikes != b->strikes) return a->strikes < b->strikes;
  if (a->strikes == 0 && a->make_ns != b->make_ns) return a->make_ns < b->make_ns;
  return pager->restarts % 2 == 0 ? a->client.id < b->client.id : a->client.id > b->client.id;
}

static struct uffd_served *choose(const uffd_pager *pager, const struct uffd_worker *worker) {
  struct uffd_served *best = NULL;
  for (struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    if (served->now.worker != worker || served->now.task != UFFD_TASK_WAITING || served->leaving) continue;
    if (best == NULL || is_before(pager, served, best)) best = served;
  }
  return best;
}

/* Nobody serves a client between its YIELD and its START, and a worker does one thing at a time. */
static bool takes_over(const uffd_pager *pager, const struct uffd_worker *worker) {
  for (const struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    if (served->heir.worker == worker && served->heir.task == UFFD_TASK_HELD) return true;
    if (served->now.worker == worker && served->now.task == UFFD_TASK_HELD) return true;
  }
  return false;
}

static void begin_some(uffd_pager *pager, struct uffd_worker *worker) {
  while (worker->making < UFFD_MAKING_MAX) {
    struct uffd_served *served = choose(pager, worker);
    if (served == NULL) return;
    uffd_book_turn(&served->book);
    served->answered = atomic_load(&served->book.head->answered);
    served->task_ns = uffd_now();
    if (!hand_over(pager, worker, served, false)) return;
    served->now.task = UFFD_TASK_MAKING;
    served->complete_sent = false;
  }
}

/* What the worker that serves it is to do: false when it did not fit. */
static bool push_now(uffd_pager *pager, struct uffd_served *served) {
  struct uffd_share *now = &served->now;
  bool busy = now->task == UFFD_TASK_MAKING || now->task == UFFD_TASK_SERVING || now->task == UFFD_TASK_HELD;
  if (served->leaving) {
    if (now->task == UFFD_TASK_WAITING) *now = (struct uffd_share){0};
    if (!busy) return true;
    if (!tell(pager, now->worker, served, UFFD_SAY_RELEASE)) return false;
    now->task = UFFD_TASK_RELEASING;
  } else if (now->task == UFFD_TASK_HELD) {
    if (!tell(pager, now->worker, served, UFFD_SAY_START)) return false;
    now->worker->making++;
    now->task = UFFD_TASK_MAKING;
    served->answered = atomic_load(&served->book.head->answered);
    served->task_ns = uffd_now();
    served->complete_sent = false;
  } else if (now->task == UFFD_TASK_SERVING && served->heir.task == UFFD_TASK_HELD &&
             served->heir.worker->making == 0) {
    if (!tell(pager, now->worker, served, UFFD_SAY_YIELD)) return false;
    now->task = UFFD_TASK_YIELDING;
  } else if (now->task == UFFD_TASK_SERVING && served->completing && !served->complete_sent) {
    if (!tell(pager, now->worker, served, UFFD_SAY_COMPLETE)) return false;
    served->complete_sent = true;
  }
  return true;
}

static bool push_heir(uffd_pager *pager, struct uffd_served *served) {
  struct uffd_share *heir = &served->heir;
  bool busy = heir->task == UFFD_TASK_MAKING || heir->task == UFFD_TASK_HELD;
  if (served->leaving) {
    if (heir->task == UFFD_TASK_WAITING) *heir = (struct uffd_share){0};
    if (!busy) return true;
    if (!tell(pager, heir->worker, served, UFFD_SAY_RELEASE)) return false;
    heir->task = UFFD_TASK_RELEASING;
  } else if (heir->task == UFFD_TASK_WAITING && served->now.task == UFFD_TASK_SERVING &&
             heir->worker->making < UFFD_MAKING_MAX) {
    if (!hand_over(pager, heir->worker, served, true)) return false;
    heir->task = UFFD_TASK_MAKING;
  }
  return true;
}

/* A client without a worker gets the newest of its slot, once that is ready. */
static void assign(const uffd_pager *pager, struct uffd_served *served) {
  if (served->now.task != UFFD_TASK_WAITING || served->now.worker != NULL) return;
  struct uffd_worker *worker = uffd_worker_of(pager, served->slot);
  if (worker != NULL && worker->state == UFFD_WORKER_READY) served->now.worker = worker;
}

void uffd_tasks_push(uffd_pager *pager) {
  for (struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    assign(pager, served);
    push_now(pager, served);
    push_heir(pager, served);
  }
  for (struct uffd_worker *worker = pager->workers; worker != NULL; worker = worker->next) {
    if (worker->state == UFFD_WORKER_READY && !takes_over(pager, worker)) begin_some(pager, worker);
  }
}

bool uffd_tasks_none(const uffd_pager *pager, const struct uffd_worker *worker) {
  for (const struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    if (served->now.worker == worker || served->heir.worker == worker) return false;
  }
  return true;
}

/* The slot with the fewest clients. */
uint32_t uffd_tasks_slot(const uffd_pager *pager) {
  uint32_t best = 0, fewest = UINT32_MAX;
  for (uint32_t slot = 0; slot < pager->opts.workers; slot++) {
    uint32_t count = 0;
    for (const struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
      if (served->slot == slot) count++;
    }
    if (count >= fewest) continue;
    best = slot;
    fewest = count;
  }
  return best;
}

/* ---- a worker goes */

void uffd_tasks_fold(struct uffd_served *served) {
  struct uffd_figures figures;
  if (uffd_book_figures(&served->book, &figures)) uffd_add_stats(&served->base, &figures.stats);
  served->base.queue = 0;
  uffd_book_turn(&served->book);
}

static void inherit(struct uffd_served *served) {
  served->now = served->heir;
  served->heir = (struct uffd_share){0};
  if (served->now.task == UFFD_TASK_NONE && !served->leaving) served->now.task = UFFD_TASK_WAITING;
}

/* Faults that were told and not answered, or not told yet: of fdinfo. */
static bool has_faults(const struct uffd_served *served) {
  char path[64], line[256];
  bool waiting = false;
  snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", served->object_fd);
  FILE *file = fopen(path, "re");
  if (file == NULL) return true;
  while (fgets(line, sizeof(line), file) != NULL) {
    if (strncmp(line, "total:", 6) == 0) waiting = strtoul(line + 6, NULL, 10) != 0;
  }
  (void)fclose(file);
  return waiting;
}

/*
 * Did the worker die of this client? It was making it, or it left its faults unanswered and answered none since it
 * began. Others may have been caught as well, so one death proves nothing: those that are struck are served after the
 * others next time.
 */
static void blame(struct uffd_served *served, uint64_t now, bool killed) {
  struct uffd_book_head *head = served->book.head;
  uint32_t phase = atomic_load(&head->phase);
  bool progress = phase == UFFD_BOOK_SERVING && atomic_load(&head->answered) != served->answered;
  bool suspect = phase == UFFD_BOOK_MAKING || (phase == UFFD_BOOK_SERVING && has_faults(served));
  if (progress) {
    served->strikes = served->kills = 0;
  } else if (suspect && killed) {
    if (served->kills++ == 0) served->first_kill_ns = now;
  } else if (suspect) {
    if (now - served->first_strike_ns > UFFD_STRIKES_NS) served->strikes = 0;
    if (served->strikes++ == 0) served->first_strike_ns = now;
  }
}

static bool is_guilty(const struct uffd_served *served, uint64_t now) {
  return served->strikes >= UFFD_STRIKES ||
         (served->kills >= UFFD_KILLS && now - served->first_kill_ns > UFFD_STRIKES_NS);
}

static void lose(uffd_pager *pager, struct uffd_served *served, uint64_t now, bool killed) {
  blame(served, now, killed);
  uffd_tasks_fold(served);
  inherit(served);
  served->complete_sent = false;
  if (served->state == UFFD_CLIENT_SERVED) served->state = UFFD_CLIENT_STARTING;
  if (is_guilty(served, now) && served->now.worker == NULL) { /* an heir, of a new program perhaps, may try */
    uffd_served_give_up(pager, served, ECHILD, "Its workers died again and again while they served it.");
  }
}

static void lose_heir(uffd_pager *pager, struct uffd_served *served, const struct uffd_worker *worker) {
  served->heir = (struct uffd_share){0};
  if (atomic_exchange(&served->book.head->preparing, 0) == 0) return;
  if (++served->heir_strikes < HEIR_STRIKES) return;
  uffd_report(pager, UFFD_REPORT_ERROR, ECHILD, served, worker,
              "New workers die while they prepare to serve it: it stays with the old one.");
}

void uffd_tasks_died(uffd_pager *pager, const struct uffd_worker *worker, bool killed) {
  uint64_t now = uffd_now();
  for (struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    if (served->heir.worker == worker) lose_heir(pager, served, worker);
    if (served->now.worker == worker) lose(pager, served, now, killed);
  }
}

/* ---- a worker comes */

static void take_over(uffd_pager *pager, struct uffd_served *served, struct uffd_worker *worker) {
  struct uffd_worker *old = served->now.worker;
  if (served->slot != worker->index || served->leaving || old == worker) return;
  if (served->state == UFFD_CLIENT_FROZEN) {
    if (pager->opts.on_crash != UFFD_PAGER_FREEZE) return;
    served->state = UFFD_CLIENT_STARTING;
    served->strikes = 0;
    served->now = (struct uffd_share){worker, UFFD_TASK_WAITING};
  } else if (served->now.task == UFFD_TASK_WAITING) {
    served->now.worker = worker;
  } else if (old != NULL && served->heir.worker == NULL && served->heir_strikes < HEIR_STRIKES) {
    served->heir = (struct uffd_share){worker, UFFD_TASK_WAITING};
  }
}

void uffd_tasks_ready(uffd_pager *pager, struct uffd_worker *worker) {
  for (struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    if (worker->reloaded) served->heir_strikes = 0;
    take_over(pager, served, worker);
  }
}

/* ---- what they say */

static void serving(uffd_pager *pager, struct uffd_served *served, struct uffd_worker *worker,
                    const struct uffd_message *message) {
  if (served->now.worker != worker || served->now.task != UFFD_TASK_MAKING) return;
  if (message->error != 0) {
    char why[sizeof(message->text) + 64];
    snprintf(why, sizeof(why), "A worker cannot serve it: %s", message->text);
    uffd_tasks_fold(served);
    inherit(served);
    if (served->now.worker == NULL) uffd_served_give_up(pager, served, message->error, why);
    return;
  }
  served->now.task = UFFD_TASK_SERVING;
  if (message->number != 0) served->make_ns = message->number;
  if (served->begun) served->restarts++;
  served->begun = true;
  if (!served->leaving) served->state = UFFD_CLIENT_SERVED; /* it may have ended while it was being made */
}

static void held(uffd_pager *pager, struct uffd_served *served, struct uffd_worker *worker,
                 const struct uffd_message *message) {
  struct uffd_share *share = served->now.worker == worker ? &served->now : &served->heir;
  if (share->worker != worker || share->task != UFFD_TASK_MAKING) return;
  if (message->error == 0) {
    share->task = UFFD_TASK_HELD;
  } else if (share == &served->now) { /* the old one has died meanwhile */
    uffd_served_give_up(pager, served, message->error, message->text);
  } else {
    served->heir = (struct uffd_share){0};
    uffd_report(pager, UFFD_REPORT_ERROR, message->error, served, worker,
                "The new worker cannot serve it, the old one goes on: %s", message->text);
  }
}

static void yielded(struct uffd_served *served, const struct uffd_worker *worker) {
  if (served->now.worker != worker || served->now.task != UFFD_TASK_YIELDING) return;
  uffd_tasks_fold(served);
  inherit(served);
}

static void released(struct uffd_served *served, const struct uffd_worker *worker) {
  struct uffd_share *share = served->now.worker == worker ? &served->now : &served->heir;
  if (share->worker == worker && share->task == UFFD_TASK_RELEASING) *share = (struct uffd_share){0};
}

static void completed(uffd_pager *pager, struct uffd_served *served, const struct uffd_message *message) {
  if (message->error == 0) {
    uffd_served_leave(pager, served, UFFD_CLIENT_COMPLETE, "All its memory is there.");
  } else if (!served->leaving) {
    uffd_report(pager, UFFD_REPORT_ERROR, message->error, served, NULL,
                "Its memory cannot be completed, it is served until it is gone: %s", message->text);
  }
}

/* Until it is told otherwise the worker keeps the descriptors, too. */
static void forked(uffd_pager *pager, const struct uffd_served *parent, struct uffd_worker *worker,
                   const struct uffd_message *message, int *fds) {
  struct uffd_message answer = {.kind = UFFD_SAY_ADOPTED, .number = message->number};
  int result = 0;
  if (parent == NULL || fds[0] < 0 || fds[1] < 0) {
    result = fail(EMFILE, "A forked child cannot be taken in: no descriptors are left, raise the limit (ulimit -n).");
  }
  if (result == 0) result = uffd_served_fork(pager, parent, fds[0], fds[1]);
  answer.error = -result;
  if (result == 0) {
    fds[0] = fds[1] = -1;
  } else {
    uffd_report(pager, UFFD_REPORT_ERROR, -result, parent, worker, "Its worker keeps a forked child of it: %s",
                uffd_errmsg());
  }
  uffd_worker_owe(pager, worker, &answer);
}

void uffd_tasks_said(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message, int *fds) {
  struct uffd_served *served = uffd_served_find(pager, message->client);
  if ((message->kind == UFFD_SAY_SERVING || message->kind == UFFD_SAY_HELD) && worker->making != 0) worker->making--;
  if (message->kind == UFFD_SAY_FORKED) {
    forked(pager, served, worker, message, fds);
  } else if (message->kind == UFFD_SAY_ERROR) {
    uffd_report(pager, UFFD_REPORT_ERROR, message->error, served, worker, "%s", message->text);
  }
  if (served == NULL) return;
  switch (message->kind) {
  case UFFD_SAY_SERVING:
    serving(pager, served, worker, message);
    break;
  case UFFD_SAY_HELD:
    held(pager, served, worker, message);
    break;
  case UFFD_SAY_YIELDED:
    yielded(served, worker);
    break;
  case UFFD_SAY_RELEASED:
    released(served, worker);
    break;
  case UFFD_SAY_COMPLETED:
    completed(pager, served, message);
    break;
  case UFFD_SAY_LATE:
    uffd_report(pager, UFFD_REPORT_LATE, 0, served, worker, "%s", message->text);
    break;
  default:
    break;
  }
}
