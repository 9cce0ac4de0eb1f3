/*
 * Who serves whom. Each client's stage says what it wants of its worker and its heir. Workers are told as fast as they
 * listen, a few clients at a time; what they answer moves the client to its next stage.
 */
#include "serve/supervisor/task.h"

#include <stdio.h>

#include "base/base.h"
#include "serve/supervisor/blame.h"
#include "serve/supervisor/children.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"
#include "serve/supervisor/slot.h"
#include "serve/supervisor/sum.h"

#define MAKING_MAX   16u                 /* clients that a worker makes at a time: the channel holds so many messages */
#define SHORTAGE_NS  UINT64_C(500000000) /* a client is tried again after so long when we lack descriptors or memory */
#define HEIR_STRIKES 2u                  /* heirs that died while they made the client: it stays where it is */

static bool tell(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_supervised *client, uint32_t kind) {
  struct uffd_message message = {.kind = kind, .client = client->who.id};
  return uffd_worker_say(pager, worker, &message, NULL, 0);
}

static bool hand_over(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_supervised *client, bool hold) {
  struct uffd_message message = {.kind = UFFD_SAY_SERVE,
                                 .client = client->who.id,
                                 .number = client->image != NULL ? client->image->backing.number : 0,
                                 .flags = hold ? UFFD_SAY_HOLD : 0};
  int fds[UFFD_MESSAGE_FDS] = {client->object_fd, client->book.fd};
  uint32_t count = 2;
  if (client->strikes + client->hangs != 0) message.flags |= UFFD_SAY_ALONE;
  if (client->pidfd >= 0) {
    message.flags |= UFFD_SAY_PIDFD;
    fds[count++] = client->pidfd;
  }
  for (uint32_t i = 0; i < client->who.fds_count; i++) {
    fds[count++] = client->fds[i];
  }
  if (!uffd_images_tell(pager, worker)) return false;
  if (!uffd_worker_say(pager, worker, &message, fds, count)) return false;
  worker->making++;
  return true;
}

/* Its worker begins now: the death of the worker is judged by what it has achieved since. */
static void begins(struct uffd_supervised *client) {
  client->answered = atomic_load(&client->book.head->answered);
  if (client->late_ns != UINT64_MAX) client->late_ns = uffd_now() + UFFD_BEGIN_NS;
}

/*
 * Clients that no worker died of are made first, and of them those that are made quickly. The order of the others
 * changes with each restart, so that none of them is always behind the guilty one.
 */
static bool is_before(const uffd_pager *pager, const struct uffd_supervised *a, const struct uffd_supervised *b) {
  uint32_t a_strikes = a->strikes + a->hangs, b_strikes = b->strikes + b->hangs;
  if (a_strikes != b_strikes) return a_strikes < b_strikes;
  if (a_strikes == 0 && a->make_ns != b->make_ns) return a->make_ns < b->make_ns;
  return pager->restarts % 2 == 0 ? a->who.id < b->who.id : a->who.id > b->who.id;
}

static struct uffd_supervised *choose(const uffd_pager *pager, const struct uffd_worker *worker) {
  struct uffd_supervised *best = NULL;
  uint64_t now = uffd_now();
  for (struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    if (client->worker != worker || client->stage != UFFD_STAGE_QUEUED || client->retry_ns > now) continue;
    if (best == NULL || is_before(pager, client, best)) best = client;
  }
  return best;
}

/* Nobody serves a client between its YIELD and its START, and a worker does one thing at a time. */
static bool takes_over(const uffd_pager *pager, const struct uffd_worker *worker) {
  for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    bool yields = client->stage == UFFD_STAGE_HEIR_HELD || client->stage == UFFD_STAGE_YIELDING;
    if (yields && client->heir == worker) return true;
    if (client->stage == UFFD_STAGE_HELD && client->worker == worker) return true;
  }
  return false;
}

static void begin_some(uffd_pager *pager, struct uffd_worker *worker) {
  while (worker->making < MAKING_MAX) {
    struct uffd_supervised *client = choose(pager, worker);
    if (client == NULL) return;
    uffd_book_reset(&client->book);
    begins(client);
    if (!hand_over(pager, worker, client, false)) return;
    uffd_stage_enter(&client->stage, UFFD_STAGE_MAKING);
  }
}

static void push_start(uffd_pager *pager, struct uffd_supervised *client) {
  if (!tell(pager, client->worker, client, UFFD_SAY_START)) return;
  client->worker->making++;
  begins(client);
  uffd_stage_enter(&client->stage, UFFD_STAGE_MAKING);
}

static void push_heir(uffd_pager *pager, struct uffd_supervised *client) {
  if (client->stage == UFFD_STAGE_HEIR_HELD && client->heir->making == 0) {
    if (tell(pager, client->worker, client, UFFD_SAY_YIELD)) uffd_stage_enter(&client->stage, UFFD_STAGE_YIELDING);
  } else if (client->stage == UFFD_STAGE_HEIR_QUEUED && client->heir->making < MAKING_MAX) {
    if (hand_over(pager, client->heir, client, true)) uffd_stage_enter(&client->stage, UFFD_STAGE_HEIR_MAKING);
  }
}

/* All of its memory is to be filled: the pager ends, or its image is wanted by who changes it. */
static bool is_to_complete(const uffd_pager *pager, const struct uffd_supervised *client) {
  if (client->restored && client->book.head->later != 0) return false; /* not all of it is registered yet */
  if (client->to_complete) return true;
  if (pager->draining && pager->opts.on_drain == UFFD_PAGER_COMPLETE) return true;
  return client->image != NULL && client->image->state == UFFD_BACKING_WANTED;
}

static void push_complete(uffd_pager *pager, struct uffd_supervised *client) {
  if (!is_to_complete(pager, client)) return;
  if (client->completer == client->worker->number) return;
  if (tell(pager, client->worker, client, UFFD_SAY_COMPLETE)) client->completer = client->worker->number;
}

/* A worker that begins to serve it later reads in its book that it is to be filled. */
static void push_fill(uffd_pager *pager, struct uffd_supervised *client) {
  if (!client->later || client->book.head->later != 0 || client->filler == client->worker->number) return;
  if (tell(pager, client->worker, client, UFFD_SAY_FILL)) client->filler = client->worker->number;
}

static void push_release(uffd_pager *pager, struct uffd_supervised *client) {
  if (client->stage == UFFD_STAGE_LEAVING) {
    if (client->worker != NULL && !tell(pager, client->worker, client, UFFD_SAY_RELEASE)) return;
    uffd_stage_enter(&client->stage, UFFD_STAGE_LEAVING_HEIR);
  }
  if (client->stage == UFFD_STAGE_LEAVING_HEIR) {
    if (client->heir != NULL && !tell(pager, client->heir, client, UFFD_SAY_RELEASE)) return;
    uffd_stage_enter(&client->stage, UFFD_STAGE_LEFT);
  }
}

/* A slot whose worker cannot be started leaves its clients to others. */
static struct uffd_worker *find_worker(const uffd_pager *pager, uint32_t slot) {
  struct uffd_worker *worker = uffd_worker_of(pager, slot);
  if (worker != NULL || pager->slots[slot].failures < 2) return worker;
  for (uint32_t i = 0; worker == NULL && i < pager->opts.workers; i++) {
    worker = uffd_worker_of(pager, i);
    if (worker != NULL && worker->state != UFFD_WORKER_READY) worker = NULL;
  }
  return worker;
}

/* A client without a worker gets the newest one of its slot, once that is ready. */
static void assign(const uffd_pager *pager, struct uffd_supervised *client) {
  struct uffd_worker *worker = client->worker == NULL ? find_worker(pager, client->slot) : NULL;
  if (worker == NULL || worker->state != UFFD_WORKER_READY) return;
  client->worker = worker;
  client->slot = worker->index;
}

static void push(uffd_pager *pager, struct uffd_supervised *client) {
  if (client->stage == UFFD_STAGE_QUEUED) assign(pager, client);
  if (client->stage == UFFD_STAGE_HELD) push_start(pager, client);
  if (uffd_stage_is_served(client->stage)) push_heir(pager, client);
  if (uffd_stage_is_served(client->stage)) push_complete(pager, client);
  if (uffd_stage_is_served(client->stage)) push_fill(pager, client);
  if (uffd_stage_is_leaving(client->stage)) push_release(pager, client);
}

void uffd_tasks_push(uffd_pager *pager) {
  for (struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    push(pager, client);
  }
  for (struct uffd_worker *worker = pager->workers; worker != NULL; worker = worker->next) {
    if (worker->state == UFFD_WORKER_READY && !takes_over(pager, worker)) begin_some(pager, worker);
  }
}

bool uffd_tasks_none(const uffd_pager *pager, const struct uffd_worker *worker) {
  for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    if (client->worker == worker || client->heir == worker) return false;
  }
  return true;
}

/* Its worker does not serve it any more: keeps that worker's figures. */
static void fold(struct uffd_supervised *client) {
  struct uffd_figures figures;
  if (uffd_book_figures(&client->book, &figures)) uffd_figures_follow(&client->former, &figures);
  client->former.stats.queue = 0;
  uffd_book_reset(&client->book);
}

/* What the client is for its heir, which becomes its worker. */
static enum uffd_stage stage_for_heir(enum uffd_stage stage) {
  switch (stage) {
  case UFFD_STAGE_HEIR_MAKING:
    return UFFD_STAGE_PREPARING;
  case UFFD_STAGE_HEIR_HELD:
  case UFFD_STAGE_YIELDING:
    return UFFD_STAGE_HELD;
  default:
    return UFFD_STAGE_QUEUED; /* the heir, if there is one, has not been told */
  }
}

/* Its worker does not have it any more: the heir has it now, or nobody. */
static void inherit(struct uffd_supervised *client) {
  client->worker = client->heir;
  client->heir = NULL;
  if (client->stage == UFFD_STAGE_QUEUED) return;
  uffd_stage_enter(&client->stage, stage_for_heir(client->stage));
}

/* Killed because it hung: whose policy hung is charged, and nobody else. */
static void charge(const uffd_pager *pager, const struct uffd_worker *worker, struct uffd_supervised *client,
                   uint64_t now, bool killed) {
  if (worker->hung) {
    uffd_blame_hang(pager, client, now);
  } else {
    uffd_blame(client, now, killed);
  }
}

static void lose(uffd_pager *pager, const struct uffd_worker *worker, struct uffd_supervised *client, uint64_t now,
                 bool killed) {
  charge(pager, worker, client, now, killed);
  fold(client);
  if (uffd_stage_is_leaving(client->stage)) {
    client->worker = NULL;
    return;
  }
  inherit(client);
  if (client->worker != NULL) return; /* an heir, perhaps of a new program, may try */
  if (uffd_is_guilty(client, now)) {
    uffd_client_give_up(pager, client, ECHILD, "Its workers died again and again while they served it.");
  } else if (uffd_hangs_again(client)) {
    uffd_client_give_up(pager, client, ETIMEDOUT, "Its policy does not come back.");
  }
}

static void lose_heir(uffd_pager *pager, struct uffd_supervised *client, const struct uffd_worker *worker) {
  client->heir = NULL;
  if (client->stage == UFFD_STAGE_YIELDING) {
    uffd_stage_enter(&client->stage, UFFD_STAGE_YIELDING_BACK);
  } else if (uffd_stage_is_served(client->stage)) {
    uffd_stage_enter(&client->stage, UFFD_STAGE_SERVED);
  }
  client->hung = false;
  if (atomic_exchange(&client->book.head->preparing, 0) == 0) return;
  if (++client->heir_strikes < HEIR_STRIKES) return;
  uffd_report(pager, UFFD_REPORT_ERROR, ECHILD, client, worker,
              "New workers die while they prepare to serve it: it stays with the old one.");
}

void uffd_tasks_died(uffd_pager *pager, const struct uffd_worker *worker, bool killed) {
  uint64_t now = uffd_now();
  uffd_children_inherit(pager, worker);
  for (struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    if (client->heir == worker) lose_heir(pager, client, worker);
    if (client->worker == worker) lose(pager, worker, client, now, killed);
  }
}

static void take_over(const uffd_pager *pager, struct uffd_supervised *client, struct uffd_worker *worker) {
  if (client->slot != worker->index || uffd_stage_is_leaving(client->stage) || client->worker == worker) return;
  if (client->stage == UFFD_STAGE_ADOPTED) return; /* its former worker lets go of it first */
  if (client->stage == UFFD_STAGE_FROZEN) {
    if (pager->opts.on_crash != UFFD_PAGER_FREEZE) return;
    client->strikes = client->hangs = 0;
    client->worker = worker;
    uffd_stage_enter(&client->stage, UFFD_STAGE_QUEUED);
  } else if (client->stage == UFFD_STAGE_QUEUED) {
    client->worker = worker;
  } else if (client->heir == NULL && client->heir_strikes < HEIR_STRIKES) {
    client->heir = worker; /* it is told when the client is served */
    if (client->stage == UFFD_STAGE_SERVED) uffd_stage_enter(&client->stage, UFFD_STAGE_HEIR_QUEUED);
  }
}

void uffd_tasks_ready(uffd_pager *pager, struct uffd_worker *worker) {
  for (struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    if (worker->reloaded) client->heir_strikes = 0;
    take_over(pager, client, worker);
  }
}

/* What we lack is not the client's guilt. */
static bool is_shortage(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == EBUSY; /* busy: with its former worker */
}

/* It is tried again in a while: others may have gone. */
static void wait_for_room(uffd_pager *pager, struct uffd_supervised *client, int error, const char *why) {
  bool first = client->retry_ns == 0;
  client->retry_ns = uffd_now() + SHORTAGE_NS;
  if (first) uffd_report(pager, UFFD_REPORT_ERROR, error, client, NULL, "%s It waits until there is room.", why);
}

/* Its worker cannot serve it. */
static void fail_making(uffd_pager *pager, struct uffd_supervised *client, int error, const char *why) {
  fold(client);
  inherit(client);
  if (client->worker != NULL) return;
  if (is_shortage(error)) {
    wait_for_room(pager, client, error, why);
  } else {
    uffd_client_give_up(pager, client, error, why);
  }
}

static void serving(uffd_pager *pager, struct uffd_supervised *client, const struct uffd_worker *worker,
                    const struct uffd_message *message) {
  if (client->worker != worker || client->stage != UFFD_STAGE_MAKING) return; /* it may have left meanwhile */
  if (message->error != 0) {
    char why[UFFD_MESSAGE_TEXT + 64];
    snprintf(why, sizeof(why), "A worker cannot serve it: %s", message->text);
    fail_making(pager, client, message->error, why);
    return;
  }
  if (message->number != 0) client->make_ns = message->number;
  client->begun++;
  client->retry_ns = 0;
  uffd_stage_enter(&client->stage, client->heir != NULL ? UFFD_STAGE_HEIR_QUEUED : UFFD_STAGE_SERVED);
}

static void held(uffd_pager *pager, struct uffd_supervised *client, const struct uffd_worker *worker,
                 const struct uffd_message *message) {
  bool by_worker = client->stage == UFFD_STAGE_PREPARING && client->worker == worker;
  bool by_heir = client->stage == UFFD_STAGE_HEIR_MAKING && client->heir == worker;
  if (!by_worker && !by_heir) return;
  if (message->error == 0) {
    uffd_stage_enter(&client->stage, by_worker ? UFFD_STAGE_HELD : UFFD_STAGE_HEIR_HELD);
  } else if (by_worker) { /* the old worker has died meanwhile */
    fail_making(pager, client, message->error, message->text);
  } else {
    client->heir = NULL;
    uffd_stage_enter(&client->stage, UFFD_STAGE_SERVED);
    uffd_report(pager, UFFD_REPORT_ERROR, message->error, client, worker,
                "The new worker cannot serve it, the old one goes on: %s", message->text);
  }
}

static void yielded(struct uffd_supervised *client, const struct uffd_worker *worker) {
  bool yields = client->stage == UFFD_STAGE_YIELDING || client->stage == UFFD_STAGE_YIELDING_BACK;
  bool leaving = uffd_stage_is_leaving(client->stage);
  if (client->worker != worker || (!yields && !leaving)) return;
  fold(client);
  if (yields) inherit(client);
  if (leaving) client->worker = NULL;
}

static void released(struct uffd_supervised *client, const struct uffd_worker *worker) {
  if (!uffd_stage_is_leaving(client->stage)) return;
  if (client->worker == worker) client->worker = NULL;
  if (client->heir == worker) client->heir = NULL;
}

static void completed(uffd_pager *pager, struct uffd_supervised *client, const struct uffd_message *message) {
  if (message->error == 0) {
    uffd_client_leave(client, UFFD_END_COMPLETE);
  } else if (!uffd_stage_is_leaving(client->stage)) {
    uffd_report(pager, UFFD_REPORT_ERROR, message->error, client, NULL,
                "Its memory cannot be completed, it is served until it is gone: %s", message->text);
  }
}

/* Others may speak while that one hangs. */
static bool is_of_main_thread(uint32_t kind) {
  return kind == UFFD_SAY_PONG || kind == UFFD_SAY_SERVING || kind == UFFD_SAY_HELD || kind == UFFD_SAY_YIELDED ||
         kind == UFFD_SAY_RELEASED;
}

void uffd_tasks_said(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message, int *fds) {
  struct uffd_supervised *client = uffd_client_find(pager, message->client);
  if (is_of_main_thread(message->kind)) uffd_worker_heard(worker);
  if ((message->kind == UFFD_SAY_SERVING || message->kind == UFFD_SAY_HELD) && worker->making != 0) worker->making--;
  if (message->kind == UFFD_SAY_FORKED) {
    uffd_children_announced(pager, worker, message, fds);
  } else if (message->kind == UFFD_SAY_BOOK) {
    uffd_children_booked(pager, client, worker, message, fds);
  } else if (message->kind == UFFD_SAY_ERROR) {
    uffd_report(pager, UFFD_REPORT_ERROR, message->error, client, worker, "%s", message->text);
  }
  if (client == NULL) return;
  switch (message->kind) {
  case UFFD_SAY_SERVING:
    serving(pager, client, worker, message);
    break;
  case UFFD_SAY_HELD:
    held(pager, client, worker, message);
    break;
  case UFFD_SAY_YIELDED:
    yielded(client, worker);
    break;
  case UFFD_SAY_RELEASED:
    released(client, worker);
    break;
  case UFFD_SAY_COMPLETED:
    completed(pager, client, message);
    break;
  case UFFD_SAY_LATE:
    uffd_report(pager, UFFD_REPORT_LATE, 0, client, worker, "%s", message->text);
    break;
  default:
    break;
  }
}
