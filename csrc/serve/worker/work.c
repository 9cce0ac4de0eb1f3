/*
 * The worker process: does what the supervisor says, one message after the other, and ends when there is nothing left
 * to serve. Without a supervisor it goes on with the clients it has.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "serve/supervisor/pager.h"
#include "serve/worker/serving.h"

#define TICK_NS  UINT64_C(100000000) /* of the watch */
#define ALONE_MS 100                 /* how often a worker without a supervisor looks after its clients */

/* ---- saying */

bool uffd_work_say(struct uffd_work *work, uint32_t kind, uint64_t client, int error, const char *text) {
  struct uffd_message message = {.kind = kind, .client = client, .error = error};
  snprintf(message.text, sizeof(message.text), "%s", text);
  return uffd_channel_send(work->channel, &message, NULL, 0, true) == 0;
}

static void wake(const struct uffd_work *work) {
  uint64_t one = 1;
  (void)!write(work->wake_fd, &one, sizeof(one));
}

/* ---- forked children */

int uffd_work_forked(struct uffd_work *work, uint64_t client, int object_fd, int book_fd) {
  struct uffd_orphan *orphan = calloc(1, sizeof(*orphan));
  if (orphan == NULL) return -ENOMEM;
  int fds[2] = {object_fd, book_fd};
  struct uffd_message message = {.kind = UFFD_SAY_FORKED, .client = client};
  *orphan = (struct uffd_orphan){.object_fd = object_fd, .book_fd = book_fd};
  pthread_mutex_lock(&work->lock);
  message.number = orphan->number = ++work->orphans_number;
  orphan->next = work->orphans;
  work->orphans = orphan;
  pthread_mutex_unlock(&work->lock);
  if (uffd_channel_send(work->channel, &message, fds, 2, true) != 0) wake(work); /* the main thread keeps it */
  return 0;
}

static struct uffd_orphan *take_orphan(struct uffd_work *work, uint64_t number) {
  pthread_mutex_lock(&work->lock);
  struct uffd_orphan **at = &work->orphans;
  while (*at != NULL && (*at)->number != number) {
    at = &(*at)->next;
  }
  struct uffd_orphan *orphan = *at;
  if (orphan != NULL) *at = orphan->next;
  pthread_mutex_unlock(&work->lock);
  return orphan;
}

/* ---- the clients of this worker */

static struct uffd_serving *find(const struct uffd_work *work, uint64_t client) {
  struct uffd_serving *serving = work->clients;
  while (serving != NULL && (serving->client.id != client || serving->unsupervised)) {
    serving = serving->next;
  }
  return serving;
}

static void link_in(struct uffd_work *work, struct uffd_serving *serving) {
  pthread_mutex_lock(&work->lock);
  serving->next = work->clients;
  work->clients = serving;
  pthread_mutex_unlock(&work->lock);
}

static void link_out(struct uffd_work *work, struct uffd_serving *serving) {
  pthread_mutex_lock(&work->lock);
  while (work->watching == serving) {
    pthread_cond_wait(&work->left, &work->lock);
  }
  struct uffd_serving **at = &work->clients;
  while (*at != serving) {
    at = &(*at)->next;
  }
  *at = serving->next;
  pthread_mutex_unlock(&work->lock);
}

static void end(struct uffd_work *work, struct uffd_serving *serving, uint32_t phase) {
  link_out(work, serving);
  uffd_serving_end(serving, phase);
}

/* Made and, unless it is held, started: 0 or -errno. */
static int make(struct uffd_work *work, struct uffd_parcel *parcel, bool hold, bool unsupervised) {
  struct uffd_serving *serving;
  /* Should this be the end of this process, then the supervisor sees whose fault it was. */
  if (hold) {
    atomic_store_explicit(&parcel->book.head->preparing, 1, memory_order_release);
  } else {
    atomic_store_explicit(&parcel->book.head->phase, UFFD_BOOK_MAKING, memory_order_release);
  }
  int result = uffd_serving_make(work, parcel, &serving);
  if (result < 0) return result;
  atomic_store_explicit(&serving->book.head->preparing, 0, memory_order_release);
  serving->unsupervised = unsupervised;
  if (!hold) result = uffd_serving_start(serving);
  if (result == 0) {
    link_in(work, serving);
  } else {
    char why[512];
    snprintf(why, sizeof(why), "%s", uffd_errmsg());
    uffd_serving_end(serving, UFFD_BOOK_NOBODY);
    fail(-result, "%s", why);
  }
  return result;
}

/* Unless the supervisor had taken it in before it died, and another worker has it. */
static void keep_orphan(struct uffd_work *work, struct uffd_orphan *orphan) {
  struct uffd_parcel parcel = {.object_fd = orphan->object_fd, .pidfd = -1};
  memset(parcel.fds, -1, sizeof(parcel.fds));
  int result = uffd_book_open(orphan->book_fd, &parcel.book);
  if (result == 0 && atomic_load(&parcel.book.head->phase) != UFFD_BOOK_NOBODY) {
    uffd_book_close(&parcel.book);
    close(orphan->object_fd);
  } else if (result == 0) {
    result = make(work, &parcel, false, true);
  }
  if (result < 0) uffd_work_say(work, UFFD_SAY_ERROR, 0, -result, uffd_errmsg());
  free(orphan);
}

static void keep_orphans(struct uffd_work *work) {
  for (;;) {
    pthread_mutex_lock(&work->lock);
    struct uffd_orphan *orphan = work->orphans;
    if (orphan != NULL) work->orphans = orphan->next;
    pthread_mutex_unlock(&work->lock);
    if (orphan == NULL) return;
    keep_orphan(work, orphan);
  }
}

/* ---- what the supervisor says */

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
    uffd_close_fds(fds, UFFD_MESSAGE_FDS);
  } else {
    parcel.fds_count = message->fds_count - first;
    memcpy(parcel.fds, &fds[first], parcel.fds_count * sizeof(int));
    result = make(work, &parcel, hold, false);
  }
  struct uffd_message answer = {.kind = kind, .client = message->client, .error = -result};
  answer.number = uffd_now() - begun;
  snprintf(answer.text, sizeof(answer.text), "%s", result < 0 ? uffd_errmsg() : "");
  (void)uffd_channel_send(work->channel, &answer, NULL, 0, true);
}

static void start(struct uffd_work *work, uint64_t client) {
  struct uffd_serving *serving = find(work, client);
  int result = serving != NULL ? uffd_serving_start(serving) : fail(ENOENT, "There is no such client.");
  char why[sizeof(((struct uffd_message *)NULL)->text)] = "";
  if (result < 0) snprintf(why, sizeof(why), "%s", uffd_errmsg());
  if (result < 0 && serving != NULL) end(work, serving, UFFD_BOOK_NOBODY);
  uffd_work_say(work, UFFD_SAY_SERVING, client, -result, why);
}

static void let_go(struct uffd_work *work, uint64_t client, uint32_t phase, uint32_t kind) {
  struct uffd_serving *serving = find(work, client);
  if (serving != NULL) end(work, serving, phase);
  uffd_work_say(work, kind, client, 0, "");
}

static void adopted(struct uffd_work *work, const struct uffd_message *message) {
  struct uffd_orphan *orphan = take_orphan(work, message->number);
  if (orphan == NULL) return;
  if (message->error != 0) {
    keep_orphan(work, orphan);
    return;
  }
  close(orphan->object_fd);
  close(orphan->book_fd);
  free(orphan);
}

static void obey(struct uffd_work *work, const struct uffd_message *message, int *fds) {
  struct uffd_serving *serving;
  switch (message->kind) {
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
    serving = find(work, message->client);
    if (serving != NULL) uffd_serving_complete(serving);
    break;
  case UFFD_SAY_ADOPTED:
    adopted(work, message);
    break;
  case UFFD_SAY_RETIRE:
    work->alone = true;
    break; /* ends when those are gone that only this worker has */
  default:
    break;
  }
}

/* ---- without a supervisor */

static bool gone(const struct uffd_serving *serving) {
  if (serving->pidfd >= 0 && uffd_ready(serving->pidfd, POLLIN) == 0) return false;
  return uffd_memory_gone(uffd_fd(serving->object), serving->client.regions[0].address);
}

/*
 * A client that is held here is served by another worker, which has no supervisor either, or was let go of by it just
 * before the supervisor died.
 */
static void look_after(struct uffd_work *work) {
  struct uffd_serving *next;
  for (struct uffd_serving *serving = work->clients; serving != NULL; serving = next) {
    next = serving->next;
    uint32_t phase = atomic_load_explicit(&serving->book.head->phase, memory_order_acquire);
    if (gone(serving)) {
      end(work, serving, UFFD_BOOK_NOBODY);
    } else if (serving->held && phase != UFFD_BOOK_SERVING) {
      (void)uffd_serving_start(serving);
    }
  }
}

/* ---- the watch */

static void sleep_until(uint64_t time_ns) {
  struct timespec until = {.tv_sec = (time_t)(time_ns / 1000000000), .tv_nsec = (long)(time_ns % 1000000000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
  }
}

/* Looks at each client without holding the lock: figures may have to wait for a slow resolver. */
static void look_at_all(struct uffd_work *work) {
  pthread_mutex_lock(&work->lock);
  struct uffd_serving *serving = work->clients;
  while (serving != NULL && !work->stop) {
    work->watching = serving;
    pthread_mutex_unlock(&work->lock);
    uffd_serving_watch(serving);
    pthread_mutex_lock(&work->lock);
    serving = serving->next;
    work->watching = NULL;
    pthread_cond_broadcast(&work->left);
  }
  pthread_mutex_unlock(&work->lock);
}

static void *watch(void *argument) {
  struct uffd_work *work = argument;
  uint64_t time_ns = uffd_now();
  for (;;) {
    pthread_mutex_lock(&work->lock);
    bool stop = work->stop;
    pthread_mutex_unlock(&work->lock);
    if (stop) return NULL;
    look_at_all(work);
    time_ns = max_u64(time_ns + TICK_NS, uffd_now());
    sleep_until(time_ns);
  }
}

/* ---- the whole */

static int load_replay(struct uffd_work *work) {
  uffd_workingset *set;
  if (work->opts.replay == NULL) return 0;
  int result = uffd_workingset_load(work->opts.replay, &set);
  if (result < 0) return result;
  int64_t count = uffd_workingset_ranges(set, NULL, 0);
  if (count > 0) {
    work->replay = calloc((size_t)count, sizeof(*work->replay));
    if (work->replay != NULL) work->replay_count = (size_t)uffd_workingset_ranges(set, work->replay, (size_t)count);
  }
  uffd_workingset_close(set);
  return count > 0 && work->replay == NULL ? fail(ENOMEM, "No memory for a working set.") : 0;
}

static int prepare(struct uffd_work *work) {
  int result = 0;
  if (work->opts.image != NULL) result = uffd_resolver_file(work->opts.image, NULL, &work->image);
  if (result < 0) return result;
  /* The supervisor has seen a good one: without it clients are only slower. */
  if (load_replay(work) < 0) uffd_work_say(work, UFFD_SAY_ERROR, 0, EINVAL, uffd_errmsg());
  work->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (work->wake_fd < 0) return fail(errno, "No descriptor for a worker: %s.", strerror(errno));
  int error = pthread_create(&work->watch, NULL, watch, work);
  return error != 0 ? fail(error, "A worker cannot start its watch: %s.", strerror(error)) : 0;
}

static void hear(struct uffd_work *work) {
  struct uffd_message message;
  int fds[UFFD_MESSAGE_FDS];
  int result = uffd_channel_receive(work->channel, &message, fds);
  if (result == 1) obey(work, &message, fds);
  if (result == 0) work->alone = true;
}

static void go_on(struct uffd_work *work) {
  while (!work->alone || work->clients != NULL) {
    struct pollfd polls[2] = {{.fd = work->alone ? -1 : work->channel, .events = POLLIN},
                              {.fd = work->wake_fd, .events = POLLIN}};
    if (poll(polls, 2, work->alone ? ALONE_MS : -1) < 0 && errno != EINTR) break;
    uint64_t count;
    (void)!read(work->wake_fd, &count, sizeof(count));
    if (polls[0].revents != 0) hear(work);
    if (!work->alone) continue;
    keep_orphans(work);
    look_after(work);
  }
}

static void finish(struct uffd_work *work) {
  pthread_mutex_lock(&work->lock);
  work->stop = true;
  pthread_mutex_unlock(&work->lock);
  pthread_join(work->watch, NULL);
  while (work->clients != NULL) {
    end(work, work->clients, UFFD_BOOK_NOBODY);
  }
}

int uffd_pager_work(int fd, const struct uffd_pager_opts *user_opts) {
  struct uffd_work work = {.channel = fd, .wake_fd = -1, .opts = UFFD_PAGER_OPTS_INIT};
  int result = uffd_take_opts(&work.opts, sizeof(work.opts), user_opts, "uffd_pager_opts");
  if (result < 0) return result;
  if (work.opts.watchdog_ms == 0) work.opts.watchdog_ms = 1000;
  /* What a terminal or a service manager sends to all is meant for the supervisor. */
  (void)signal(SIGINT, SIG_IGN);
  (void)signal(SIGTERM, SIG_IGN);
  (void)signal(SIGHUP, SIG_IGN);
  pthread_mutex_init(&work.lock, NULL);
  pthread_cond_init(&work.left, NULL);
  result = prepare(&work);
  if (result == 0) {
    uffd_work_say(&work, UFFD_SAY_READY, 0, 0, "");
    go_on(&work);
    finish(&work);
  } else {
    uffd_work_say(&work, UFFD_SAY_ERROR, 0, -result, uffd_errmsg());
  }
  uffd_resolver_close(work.image);
  free(work.replay);
  if (work.wake_fd >= 0) close(work.wake_fd);
  pthread_mutex_destroy(&work.lock);
  pthread_cond_destroy(&work.left);
  close(fd);
  return result;
}
