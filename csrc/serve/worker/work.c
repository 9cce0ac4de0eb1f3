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

#define ALONE_MS 100                /* how often a worker without a supervisor looks after its clients */
#define LINE_MAX 64u                /* clients that are made and not started */
#define LINE_NS  UINT64_C(20000000) /* that the first of them waits for the others */

/* A client that is made, and waits until those that came with it are made, too. */
struct made {
  struct uffd_serving *serving;
  uint64_t ns; /* that making it took */
};

struct uffd_work {
  struct uffd_shop shop;
  struct uffd_roster roster;
  bool alone; /* the supervisor has died, or has told this worker to end */
  struct made line[LINE_MAX];
  uint32_t line_count;
  uint64_t line_ns; /* when the first of them was made */
};

static void end(struct uffd_work *work, struct uffd_serving *serving, uint32_t phase) {
  uffd_roster_remove(&work->roster, serving);
  uffd_serving_end(serving, phase);
}

static int make(struct uffd_work *work, struct uffd_parcel *parcel, bool hold, struct uffd_serving **made) {
  /* If this process dies while it makes the client, the supervisor finds out which client it was. */
  if (hold) {
    atomic_store_explicit(&parcel->book.head->preparing, 1, memory_order_release);
  } else {
    atomic_store_explicit(&parcel->book.head->phase, UFFD_BOOK_MAKING, memory_order_release);
  }
  int result = uffd_serving_make(&work->shop, parcel, made);
  if (result < 0) return result;
  struct uffd_book_head *head = (*made)->book.head;
  atomic_store_explicit(&head->preparing, 0, memory_order_release);
  if (!hold) atomic_store_explicit(&head->phase, UFFD_BOOK_NOBODY, memory_order_release);
  return 0;
}

static int start_made(struct uffd_work *work, struct uffd_serving *serving) {
  int result = uffd_serving_start(serving);
  if (result == 0) {
    uffd_roster_add(&work->roster, serving);
    return 0;
  }
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_serving_end(serving, UFFD_BOOK_NOBODY);
  uffd_restore_sentence(&why);
  return result;
}

static void say_made(struct uffd_work *work, uint32_t kind, uint64_t client, int result, uint64_t ns) {
  struct uffd_message answer = {.kind = kind, .client = client, .error = -result, .number = ns};
  snprintf(answer.text, sizeof(answer.text), "%s", result < 0 ? uffd_errmsg() : "");
  (void)uffd_say_message(&work->shop.mouth, &answer, NULL, 0);
}

/* Those that wait in the line. */
static void start_all(struct uffd_work *work) {
  for (uint32_t i = 0; i < work->line_count; i++) {
    struct made *made = &work->line[i];
    uint64_t client = made->serving->client.id, begun = uffd_now();
    int result = start_made(work, made->serving);
    say_made(work, UFFD_SAY_SERVING, client, result, made->ns + uffd_now() - begun);
  }
  work->line_count = 0;
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
    struct uffd_serving *made;
    result = take_stock(work, &parcel, orphan->image);
    if (result == 0) result = make(work, &parcel, false, &made);
    if (result == 0) {
      made->unsupervised = true;
      result = start_made(work, made);
    }
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

/*
 * When a worker has died, the next one gets all of its clients at once. A client that goes on while others are still
 * made takes processor time from that, and who comes last waits long: they are started together.
 */
static void serve(struct uffd_work *work, const struct uffd_message *message, int *fds) {
  struct uffd_serving *made = NULL;
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
    if (result == 0) result = make(work, &parcel, hold, &made);
  }
  uint64_t now = uffd_now();
  if (result == 0 && !hold) {
    if (work->line_count == 0) work->line_ns = now;
    work->line[work->line_count++] = (struct made){made, now - begun};
    if ((message->flags & UFFD_SAY_ALONE) != 0) start_all(work);
    return;
  }
  if (result == 0) uffd_roster_add(&work->roster, made);
  say_made(work, kind, message->client, result, now - begun);
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
  bool joins = message->kind == UFFD_SAY_SERVE && (message->flags & UFFD_SAY_ALONE) == 0;
  if (!joins || work->line_count == LINE_MAX || uffd_now() > work->line_ns + LINE_NS) start_all(work);
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
  if (work->alone) start_all(work);
}

static void go_on(struct uffd_work *work) {
  while (!work->alone || work->roster.clients != NULL) {
    struct pollfd polls[2] = {{.fd = work->alone ? -1 : work->shop.mouth.channel, .events = POLLIN},
                              {.fd = work->shop.orphans.wake_fd, .events = POLLIN}};
    int wait_ms = work->line_count != 0 ? 0 : work->alone ? ALONE_MS : -1;
    if (poll(polls, 2, wait_ms) < 0 && errno != EINTR) break;
    uint64_t count;
    (void)!read(work->shop.orphans.wake_fd, &count, sizeof(count));
    if (polls[0].revents == 0) start_all(work);
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
