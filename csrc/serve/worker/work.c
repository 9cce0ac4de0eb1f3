/*
 * The worker process: does what the supervisor says, one message after the other, and ends when there is nothing left
 * to serve. Without a supervisor it goes on with the clients that it has.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/paper/alive.h"
#include "serve/paper/channel.h"
#include "serve/paper/closer.h"
#include "serve/worker/guard.h"
#include "serve/worker/prefetch.h"
#include "serve/worker/roster.h"

#define ALONE_MS 100 /* how often a worker without a supervisor looks after its clients */

struct uffd_work {
  struct uffd_shop shop;
  struct uffd_roster roster;
  bool alone; /* the supervisor has died, or has told this worker to end */
};

static void end(struct uffd_work *work, struct uffd_serving *serving, uint32_t phase) {
  uffd_roster_remove(&work->roster, serving);
  uffd_serving_end(serving, phase);
}

/* Makes a client and, unless it is to be held, starts it. 0 or -errno. */
static int make(struct uffd_work *work, struct uffd_parcel *parcel, bool hold, bool unsupervised) {
  struct uffd_serving *serving;
  /* If this process dies while it makes the client, the supervisor finds out which client it was. */
  if (hold) {
    atomic_store_explicit(&parcel->book.head->preparing, 1, memory_order_release);
  } else {
    atomic_store_explicit(&parcel->book.head->phase, UFFD_BOOK_MAKING, memory_order_release);
  }
  int result = uffd_serving_make(&work->shop, parcel, &serving);
  if (result < 0) return result;
  atomic_store_explicit(&serving->book.head->preparing, 0, memory_order_release);
  serving->unsupervised = unsupervised;
  if (!hold) result = uffd_serving_start(serving);
  if (result == 0) {
    uffd_roster_add(&work->roster, serving);
  } else {
    struct uffd_sentence why = uffd_keep_sentence();
    uffd_serving_end(serving, UFFD_BOOK_NOBODY);
    uffd_restore_sentence(&why);
  }
  return result;
}

/* The image of the parcel; 0: none. Where it cannot be had, the parcel is closed. */
static int take_stock(struct uffd_work *work, struct uffd_parcel *parcel, uint64_t image) {
  int error = 0;
  if (image == 0) return 0;
  parcel->stock = uffd_supply_find(&work->shop.supply, image, &error);
  if (parcel->stock != NULL) return 0;
  uffd_parcel_close(parcel);
  return -error;
}

/* Serves a forked child here, unless the supervisor had taken it in before it died and another worker has it. */
static void keep_orphan(struct uffd_work *work, struct uffd_orphan *orphan) {
  struct uffd_parcel parcel = {.object_fd = orphan->object_fd, .pidfd = -1};
  memset(parcel.fds, -1, sizeof(parcel.fds));
  int result = uffd_book_open(orphan->book_fd, &parcel.book);
  if (result == 0 && atomic_load(&parcel.book.head->phase) != UFFD_BOOK_NOBODY) {
    uffd_book_close(&parcel.book);
    close(orphan->object_fd);
  } else if (result == 0) {
    result = take_stock(work, &parcel, orphan->image);
    if (result == 0) result = make(work, &parcel, false, true);
  }
  if (result < 0) (void)uffd_say_error(&work->shop.mouth, 0, -result);
  DELETE(orphan);
}

static void keep_orphans(struct uffd_work *work) {
  struct uffd_orphan *orphan;
  while ((orphan = uffd_orphan_take_any(&work->shop.orphans)) != NULL) {
    keep_orphan(work, orphan);
  }
}

static void serve(struct uffd_work *work, const struct uffd_message *message, int *fds) {
  struct uffd_parcel parcel = {.object_fd = fds[0], .pidfd = -1};
  uint64_t begun = uffd_now();
  bool hold = (message->flags & UFFD_SAY_HOLD) != 0;
  uint32_t first = 2, kind = hold ? UFFD_SAY_HELD : UFFD_SAY_SERVING;
  memset(parcel.fds, -1, sizeof(parcel.fds));
  if ((message->flags & UFFD_SAY_PIDFD) != 0) parcel.pidfd = fds[first++];
  int result = 0;
  for (uint32_t i = 0; i < message->fds_count && i < UFFD_MESSAGE_FDS; i++) {
    if (fds[i] < 0)
      result = fail(EMFILE, "A worker has no descriptors left for a client: raise its limit (ulimit -n).");
  }
  if (result == 0) result = uffd_book_open(fds[1], &parcel.book);
  if (result < 0) {
    uffd_close_foreign(fds, UFFD_MESSAGE_FDS);
  } else {
    parcel.fds_count = message->fds_count - first;
    memcpy(parcel.fds, &fds[first], parcel.fds_count * sizeof(int));
    result = take_stock(work, &parcel, message->number);
    if (result == 0) result = make(work, &parcel, hold, false);
  }
  struct uffd_message answer = {.kind = kind, .client = message->client, .error = -result};
  answer.number = uffd_now() - begun;
  snprintf(answer.text, sizeof(answer.text), "%s", result < 0 ? uffd_errmsg() : "");
  (void)uffd_say_message(&work->shop.mouth, &answer, NULL, 0);
}

static void start(struct uffd_work *work, uint64_t client) {
  struct uffd_serving *serving = uffd_roster_find(&work->roster, client);
  int result = serving != NULL ? uffd_serving_start(serving) : fail(ENOENT, "There is no such client.");
  char why[UFFD_MESSAGE_TEXT] = "";
  if (result < 0) snprintf(why, sizeof(why), "%s", uffd_errmsg());
  if (result < 0 && serving != NULL) end(work, serving, UFFD_BOOK_NOBODY);
  uffd_say(&work->shop.mouth, UFFD_SAY_SERVING, client, -result, why);
}

static void let_go(struct uffd_work *work, uint64_t client, uint32_t phase, uint32_t kind) {
  struct uffd_serving *serving = uffd_roster_find(&work->roster, client);
  if (serving != NULL) end(work, serving, phase);
  uffd_say(&work->shop.mouth, kind, client, 0, "");
}

static void adopted(struct uffd_work *work, const struct uffd_message *message) {
  struct uffd_orphan *orphan = uffd_orphan_take(&work->shop.orphans, message->number);
  if (orphan == NULL) return;
  if (message->error != 0) {
    keep_orphan(work, orphan);
    return;
  }
  close(orphan->object_fd);
  close(orphan->book_fd);
  DELETE(orphan);
}

static void take_image(struct uffd_work *work, const struct uffd_message *message, int *fds) {
  int result = uffd_supply_add(&work->shop.supply, message, fds);
  if (result < 0) (void)uffd_say_error(&work->shop.mouth, 0, -result); /* clients are served without the working set */
}

/* Clients that the supervisor does not know of may still have it: then it stays. */
static void drop_image(struct uffd_work *work, uint64_t number) {
  for (const struct uffd_serving *serving = work->roster.clients; serving != NULL; serving = serving->next) {
    if (serving->stock != NULL && serving->stock->backing.number == number) return;
  }
  if (!uffd_orphans_of(&work->shop.orphans, number)) uffd_supply_drop(&work->shop.supply, number);
}

static void obey(struct uffd_work *work, const struct uffd_message *message, int *fds) {
  struct uffd_serving *serving;
  switch (message->kind) {
  case UFFD_SAY_PING:
    uffd_say(&work->shop.mouth, UFFD_SAY_PONG, 0, 0, "");
    break;
  case UFFD_SAY_IMAGE:
    take_image(work, message, fds);
    break;
  case UFFD_SAY_DROP:
    drop_image(work, message->number);
    break;
  case UFFD_SAY_SERVE:
    serve(work, message, fds);
    break;
  case UFFD_SAY_START:
    start(work, message->client);
    break;
  case UFFD_SAY_YIELD:
    let_go(work, message->client, UFFD_BOOK_YIELDED, UFFD_SAY_YIELDED);
    break;
  case UFFD_SAY_RELEASE:
    let_go(work, message->client, UFFD_BOOK_NOBODY, UFFD_SAY_RELEASED);
    break;
  case UFFD_SAY_COMPLETE:
    serving = uffd_roster_find(&work->roster, message->client);
    if (serving != NULL) uffd_serving_complete(serving);
    break;
  case UFFD_SAY_FILL:
    serving = uffd_roster_find(&work->roster, message->client);
    if (serving != NULL && !serving->held) uffd_serving_prefetch(serving);
    break;
  case UFFD_SAY_ADOPTED:
    adopted(work, message);
    break;
  case UFFD_SAY_RETIRE:
    work->alone = true;
    break; /* this worker ends when the clients that only it has are gone */
  default:
    break;
  }
}

static bool gone(const struct uffd_serving *serving) {
  if (serving->pidfd >= 0 && uffd_ready(serving->pidfd, POLLIN) == 0) return false;
  return uffd_memory_gone(uffd_fd(serving->object), serving->client.regions[0].address);
}

/*
 * Without a supervisor. A client that is held here is still served by the old worker, which has no supervisor either;
 * or the old worker let go of it just before the supervisor died: then it is started.
 */
static void look_after(struct uffd_work *work) {
  struct uffd_serving *next;
  for (struct uffd_serving *serving = work->roster.clients; serving != NULL; serving = next) {
    next = serving->next;
    uint32_t phase = atomic_load_explicit(&serving->book.head->phase, memory_order_acquire);
    bool wanted =
        serving->stock != NULL && !serving->held && uffd_backing_look(&serving->stock->backing) != UFFD_BACKING_INTACT;
    bool taken = atomic_load_explicit(&serving->book.head->epoch, memory_order_acquire) != serving->epoch;
    if (taken) { /* by a new supervisor, whose worker waits until this one has let go */
      end(work, serving, UFFD_BOOK_YIELDED);
    } else if (gone(serving)) {
      end(work, serving, UFFD_BOOK_NOBODY);
    } else if (wanted) { /* as the supervisor would have it */
      uffd_serving_complete(serving);
    } else if (serving->held && phase != UFFD_BOOK_SERVING) {
      (void)uffd_serving_start(serving);
    }
  }
}

static void hear(struct uffd_work *work) {
  struct uffd_message message;
  int fds[UFFD_MESSAGE_FDS];
  int result = uffd_channel_receive(work->shop.mouth.channel, &message, fds);
  if (result == 1) obey(work, &message, fds);
  if (result == 0) work->alone = true;
}

static void go_on(struct uffd_work *work) {
  while (!work->alone || work->roster.clients != NULL) {
    struct pollfd polls[2] = {{.fd = work->alone ? -1 : work->shop.mouth.channel, .events = POLLIN},
                              {.fd = work->shop.orphans.wake_fd, .events = POLLIN}};
    if (poll(polls, 2, work->alone ? ALONE_MS : -1) < 0 && errno != EINTR) break;
    uint64_t count;
    (void)!read(work->shop.orphans.wake_fd, &count, sizeof(count));
    if (polls[0].revents != 0) hear(work);
    if (!work->alone) continue;
    keep_orphans(work);
    look_after(work);
  }
}

static int prepare(struct uffd_work *work) {
  work->shop.orphans.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (work->shop.orphans.wake_fd < 0) return fail(errno, "No descriptor for a worker: %s.", strerror(errno));
  return uffd_roster_open(&work->roster, &work->shop.supply);
}

static void finish(struct uffd_work *work) {
  uffd_roster_close(&work->roster);
  while (work->roster.clients != NULL) {
    end(work, work->roster.clients, UFFD_BOOK_NOBODY);
  }
}

/* What a terminal or a service manager sends to all processes is meant for the supervisor. */
static void ignore_signals(void) {
  (void)signal(SIGINT, SIG_IGN);
  (void)signal(SIGTERM, SIG_IGN);
  (void)signal(SIGHUP, SIG_IGN);
  (void)signal(SIGQUIT, SIG_IGN);
  (void)signal(SIGTSTP, SIG_IGN);
  (void)signal(SIGPIPE, SIG_IGN); /* what it prints goes through the supervisor, which may die */
}

int uffd_pager_work(int fd, const struct uffd_pager_opts *user_opts) {
  struct uffd_work work = {.shop = {.supply = {.opts = UFFD_PAGER_OPTS_INIT, .lock = PTHREAD_MUTEX_INITIALIZER},
                                    .mouth = {.channel = fd},
                                    .orphans = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake_fd = -1}}};
  struct uffd_pager_opts *opts = &work.shop.supply.opts;
  int result = uffd_take_opts(opts, sizeof(*opts), user_opts, "uffd_pager_opts");
  if (result < 0) return result;
  if (opts->watchdog_ms == 0) opts->watchdog_ms = 1000;
  ignore_signals();
  uffd_reserve_standard_fds();
  (void)uffd_raise_fd_limit();
  result = uffd_guard_start(&work.shop.mouth);
  if (result < 0) (void)uffd_say_error(&work.shop.mouth, 0, -result); /* it works without */
  result = prepare(&work);
  if (result == 0) {
    uffd_say(&work.shop.mouth, UFFD_SAY_READY, 0, 0, "");
    go_on(&work);
    finish(&work);
  } else {
    (void)uffd_say_error(&work.shop.mouth, 0, -result);
  }
  uffd_supply_close(&work.shop.supply);
  uffd_close_fds(&work.shop.orphans.wake_fd, 1);
  close(fd);
  return result;
}
