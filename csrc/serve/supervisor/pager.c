/*
 * The pager as a whole: its options, its turn, its orders, its end.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "serve/supervisor/pager.h"

#define CLOSE_NS UINT64_C(5000000000) /* closing waits so long for clients to die, and for workers to end */

/* ---- descriptors */

int uffd_watch_add(uffd_pager *pager, int fd, struct uffd_watch *watch) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = watch};
  if (epoll_ctl(pager->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0) return 0;
  return fail(errno, "A descriptor cannot be waited for: %s.", strerror(errno));
}

void uffd_watch_write(uffd_pager *pager, int fd, struct uffd_watch *watch, bool write) {
  struct epoll_event event = {.events = write ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = watch};
  (void)epoll_ctl(pager->epoll_fd, EPOLL_CTL_MOD, fd, &event);
}

void uffd_watch_drop(uffd_pager *pager, int fd) {
  (void)epoll_ctl(pager->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

/* ---- orders: from any thread, and from signal handlers */

static int order(uffd_pager *pager, uint32_t what) {
  uint64_t one = 1;
  int saved = errno;
  uint32_t before = atomic_fetch_or(&pager->orders, what);
  (void)!write(pager->order_fd, &one, sizeof(one));
  errno = saved;
  return (before & what) != 0 ? -EALREADY : 0;
}

int uffd_pager_reload(uffd_pager *pager) {
  (void)order(pager, UFFD_ORDER_RELOAD);
  return 0;
}

int uffd_pager_drain(uffd_pager *pager) {
  return order(pager, UFFD_ORDER_DRAIN);
}

static void drain(uffd_pager *pager) {
  pager->draining = true;
  uffd_links_shut(pager);
  if (pager->opts.on_drain != UFFD_PAGER_COMPLETE) return;
  for (struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    served->completing = true;
  }
}

/* A reload waits for workers that are just starting: they may be of the old program. */
static void obey(uffd_pager *pager) {
  uint32_t orders = atomic_load(&pager->orders);
  if ((orders & UFFD_ORDER_DRAIN) != 0 && !pager->draining) drain(pager);
  if ((orders & UFFD_ORDER_RELOAD) != 0 && !uffd_workers_starting(pager)) {
    atomic_fetch_and(&pager->orders, ~(uint32_t)UFFD_ORDER_RELOAD);
    uffd_workers_reload(pager);
  }
}

static void take_order(uffd_pager *pager, void *owner) {
  uint64_t count;
  (void)owner;
  (void)!read(pager->order_fd, &count, sizeof(count));
}

/* ---- the turn */

static void take_time(uffd_pager *pager, void *owner) {
  uint64_t count;
  (void)owner;
  (void)!read(pager->timer_fd, &count, sizeof(count));
}

static void set_timer(uffd_pager *pager) {
  uint64_t due = min_u64(min_u64(uffd_links_due(pager), uffd_served_due(pager)), uffd_workers_due(pager));
  struct itimerspec when = {{0, 0}, {0, 0}};
  if (due != UINT64_MAX) {
    due = max_u64(due, 1); /* 0 would switch it off */
    when.it_value = (struct timespec){.tv_sec = (time_t)(due / 1000000000), .tv_nsec = (long)(due % 1000000000)};
  }
  timerfd_settime(pager->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* What follows from what has happened, until nothing more does. */
static void settle(uffd_pager *pager) {
  uint64_t now = uffd_now();
  obey(pager);
  uffd_links_check(pager, now);
  uffd_served_check(pager, now);
  uffd_workers_need(pager, now);
  uffd_tasks_push(pager);
  uffd_served_check(pager, now); /* those that no worker had to let go of */
  set_timer(pager);
}

/* One event at a time: what an event frees may have others. */
int uffd_pager_turn(uffd_pager *pager, int timeout_ms) {
  struct epoll_event event;
  int count;
  settle(pager);
  for (int events = 0; events < 64; events++) {
    count = epoll_wait(pager->epoll_fd, &event, 1, events == 0 ? timeout_ms : 0);
    if (count < 0 && errno != EINTR) return fail(errno, "The pager cannot wait: %s.", strerror(errno));
    if (count <= 0) break;
    const struct uffd_watch *watch = event.data.ptr;
    watch->ready(pager, watch->owner);
  }
  settle(pager);
  return 0;
}

static int check_process(const uffd_pager *pager) {
  if (pager->pid == getpid()) return 0;
  return fail(EOWNERDEAD, "This pager belongs to the parent process.");
}

static bool is_done(const uffd_pager *pager) {
  bool ends = pager->draining || ((pager->opts.flags & UFFD_PAGER_ONCE) != 0 && pager->served != 0);
  return ends && pager->clients_count == 0;
}

int uffd_pager_step(uffd_pager *pager, int timeout_ms) {
  int result = check_process(pager);
  if (result == 0) result = uffd_pager_turn(pager, timeout_ms);
  if (result < 0) return result;
  if (is_done(pager)) return 0;
  return pager->error != 0 ? fail(pager->error, "No worker can be started any more.") : 1;
}

int uffd_pager_run(uffd_pager *pager) {
  int result;
  do {
    result = uffd_pager_step(pager, -1);
  } while (result > 0);
  return result;
}

int uffd_pager_fd(const uffd_pager *pager) {
  int result = check_process(pager);
  return result < 0 ? result : pager->epoll_fd;
}

/* ---- what is seen */

int uffd_pager_status(const uffd_pager *pager, struct uffd_pager_status *status) {
  struct uffd_pager_status full = UFFD_PAGER_STATUS_INIT;
  if (status == NULL || status->size < 2 * sizeof(size_t)) {
    return fail(EINVAL, "uffd_pager_status: set size, UFFD_PAGER_STATUS_INIT does.");
  }
  full.clients = pager->clients_count;
  for (const struct uffd_worker *worker = pager->workers; worker != NULL; worker = worker->next) {
    full.workers++;
  }
  full.served = pager->served;
  full.refused = pager->refused;
  full.restarts = pager->restarts;
  full.draining = pager->draining;
  full.size = status->size;
  memcpy(status, &full, min_u64(status->size, sizeof(full)));
  return 0;
}

/* In the order of coming: the list has the newest first. */
int uffd_pager_client(const uffd_pager *pager, uint32_t index, struct uffd_client_status *status) {
  if (status == NULL || status->size < 2 * sizeof(size_t)) {
    return fail(EINVAL, "uffd_client_status: set size, UFFD_CLIENT_STATUS_INIT does.");
  }
  if (index >= pager->clients_count) return 0;
  const struct uffd_served *served = pager->clients;
  for (uint32_t i = pager->clients_count - 1; i > index; i--) {
    served = served->next;
  }
  uffd_served_status(served, status);
  return 1;
}

/* ---- making */

#if defined(__SANITIZE_THREAD__)
#define OWN_THREADS 2u /* ThreadSanitizer has one, too */
#else
#define OWN_THREADS 1u
#endif

/* Forking copies only the calling thread, and whatever the others hold locked. */
static int check_threads(const struct uffd_pager_opts *opts) {
  if (opts->worker != NULL) return 0;
  uint32_t count = 0;
  DIR *threads = opendir("/proc/self/task");
  for (struct dirent *entry; threads != NULL && (entry = readdir(threads)) != NULL;) {
    if (entry->d_name[0] != '.') count++;
  }
  if (threads != NULL) (void)closedir(threads);
  if (count <= OWN_THREADS) return 0;
  return fail(EBUSY,
              "This process has %u threads, and workers are forked children of it: give a command line for them "
              "(worker), or create the pager before any thread.",
              count);
}

static int check_opts(const struct uffd_pager_opts *opts) {
  if (opts->socket == NULL) return fail(EINVAL, "socket: a pager needs the path of its front door.");
  if (opts->image == NULL && opts->resolver == NULL) {
    return fail(EINVAL, "image: a pager needs an image, or a resolver that makes all contents.");
  }
  if (opts->image == NULL && opts->replay != NULL) {
    return fail(EINVAL, "replay: a working set belongs to an image, and there is none.");
  }
  if (opts->on_crash > UFFD_PAGER_FREEZE) return fail(EINVAL, "on_crash: unknown value %u.", opts->on_crash);
  if (opts->on_drain > UFFD_PAGER_REFUSE) return fail(EINVAL, "on_drain: unknown value %u.", opts->on_drain);
  if ((opts->flags & ~(uint32_t)(UFFD_PAGER_ONCE | UFFD_PAGER_PREFETCH)) != 0) {
    return fail(EINVAL, "flags: unknown bits in 0x%x.", opts->flags);
  }
  if (opts->socket_mode > 0777) return fail(EINVAL, "socket_mode: 0%o is no mode of a socket.", opts->socket_mode);
  if (opts->workers > 64) return fail(EINVAL, "workers: %u are too many, 64 are the most.", opts->workers);
  if (opts->worker != NULL && opts->worker[0] == NULL) return fail(EINVAL, "worker: the command line is empty.");
  return 0;
}

static uint32_t or_else(uint32_t value, uint32_t instead) {
  return value != 0 ? value : instead;
}

static int keep_string(const char **string) {
  if (*string == NULL) return 0;
  *string = strdup(*string);
  return *string != NULL ? 0 : fail(ENOMEM, "No memory for a pager.");
}

static int keep_command(const char *const **command) {
  size_t count = 0;
  if (*command == NULL) return 0;
  while ((*command)[count] != NULL) {
    count++;
  }
  const char **copy = calloc(count + 1, sizeof(char *));
  int result = 0;
  for (size_t i = 0; copy != NULL && i < count && result == 0; i++) {
    copy[i] = (*command)[i];
    result = keep_string(&copy[i]);
  }
  *command = copy;
  return copy != NULL ? result : fail(ENOMEM, "No memory for a pager.");
}

static void free_command(const char *const *command) {
  for (size_t i = 0; command != NULL && command[i] != NULL; i++) {
    free((void *)(uintptr_t)command[i]);
  }
  free((void *)(uintptr_t)command);
}

static int keep_opts(struct uffd_pager_opts *opts) {
  opts->socket_mode = or_else(opts->socket_mode, 0600);
  opts->max_clients = or_else(opts->max_clients, 256);
  opts->max_regions = or_else(opts->max_regions, 64);
  opts->max_bytes = or_else(opts->max_bytes, 64 << 10);
  opts->handshake_ms = or_else(opts->handshake_ms, 5000);
  opts->workers = or_else(opts->workers, 1);
  opts->watchdog_ms = or_else(opts->watchdog_ms, 1000);
  const char **strings[] = {&opts->socket, &opts->control, &opts->image, &opts->record, &opts->replay};
  int result = 0;
  for (size_t i = 0; i < sizeof(strings) / sizeof(*strings); i++) {
    if (result == 0) {
      result = keep_string(strings[i]);
    } else {
      *strings[i] = NULL; /* still the user's */
    }
  }
  if (result == 0) {
    result = keep_command(&opts->worker);
  } else {
    opts->worker = NULL;
  }
  return result;
}

static int look_at_image(uffd_pager *pager) {
  if (pager->opts.image == NULL) return 0;
  uffd_resolver *image;
  int result = uffd_resolver_file(pager->opts.image, NULL, &image); /* all that it refuses is refused here */
  if (result < 0) return result;
  uffd_resolver_close(image);
  int fd = open(pager->opts.image, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail(errno, "Cannot open %s: %s.", pager->opts.image, strerror(errno));
  result = uffd_image_identity(fd, &pager->image_length, &pager->image_identity);
  close(fd);
  return result;
}

static int look_at_replay(const uffd_pager *pager) {
  uffd_workingset *set;
  if (pager->opts.replay == NULL) return 0;
  int result = uffd_workingset_load(pager->opts.replay, &set);
  if (result < 0) return result;
  result = uffd_workingset_check(set, pager->image_length, pager->image_identity);
  uffd_workingset_close(set);
  return result;
}

static int open_descriptors(uffd_pager *pager) {
  pager->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  pager->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  pager->order_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK); /* the first turn starts the workers */
  if (pager->epoll_fd < 0 || pager->timer_fd < 0 || pager->order_fd < 0) {
    return fail(errno, "No descriptors for a pager: %s.", strerror(errno));
  }
  pager->timer_watch = (struct uffd_watch){take_time, pager};
  pager->order_watch = (struct uffd_watch){take_order, pager};
  int result = uffd_watch_add(pager, pager->timer_fd, &pager->timer_watch);
  return result < 0 ? result : uffd_watch_add(pager, pager->order_fd, &pager->order_watch);
}

static void step_control(uffd_pager *pager, void *owner) {
  (void)owner;
  uffd_control_step(pager->control);
}

static int open_control(uffd_pager *pager) {
  const struct uffd_pager_opts *opts = &pager->opts;
  if (opts->control == NULL) return 0;
  int result = uffd_control_open(opts->control, opts->socket_mode, opts->uid, pager, &pager->control);
  if (result < 0) return result;
  pager->control_watch = (struct uffd_watch){step_control, pager};
  return uffd_watch_add(pager, uffd_control_fd(pager->control), &pager->control_watch);
}

static void free_pager(uffd_pager *pager) {
  uffd_links_close(pager);
  uffd_door_close(pager->door);
  uffd_control_close(pager->control);
  uffd_close_fds(&pager->timer_fd, 1);
  uffd_close_fds(&pager->order_fd, 1);
  uffd_close_fds(&pager->epoll_fd, 1);
  const char *strings[] = {pager->opts.socket, pager->opts.control, pager->opts.image, pager->opts.record,
                           pager->opts.replay};
  for (size_t i = 0; i < sizeof(strings) / sizeof(*strings); i++) {
    free((void *)(uintptr_t)strings[i]);
  }
  free_command(pager->opts.worker);
  free(pager->slots);
  free(pager);
}

static int open_pager(uffd_pager *pager) {
  int result = keep_opts(&pager->opts);
  if (result < 0) return result;
  pager->slots = calloc(pager->opts.workers, sizeof(*pager->slots));
  if (pager->slots == NULL) return fail(ENOMEM, "No memory for a pager.");
  result = look_at_image(pager);
  if (result == 0) result = look_at_replay(pager);
  if (result == 0) result = open_descriptors(pager);
  if (result == 0) result = uffd_links_open(pager);
  return result < 0 ? result : open_control(pager);
}

int uffd_pager_create(const struct uffd_pager_opts *user_opts, uffd_pager **made) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  *made = NULL;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_pager_opts");
  if (result == 0) result = check_opts(&opts);
  if (result == 0) result = check_threads(&opts);
  if (result < 0) return result;
  uffd_pager *pager = calloc(1, sizeof(*pager));
  if (pager == NULL) return fail(ENOMEM, "No memory for a pager.");
  pager->pid = getpid();
  pager->opts = opts;
  pager->epoll_fd = pager->timer_fd = pager->order_fd = -1;
  result = open_pager(pager);
  if (result < 0) {
    free_pager(pager);
    return result;
  }
  *made = pager;
  return 0;
}

/* ---- ending */

/*
 * Closes what the parent has open. The epoll descriptor is the parent's too: nothing is taken out of it here. Options
 * stay, for whoever works here.
 */
void uffd_pager_forget(uffd_pager *pager) {
  uffd_close_fds(&pager->epoll_fd, 1);
  uffd_close_fds(&pager->timer_fd, 1);
  uffd_close_fds(&pager->order_fd, 1);
  uffd_links_close(pager);
  uffd_door_close(pager->door);
  uffd_control_close(pager->control);
  pager->door = NULL;
  pager->control = NULL;
  uffd_workers_forget(pager);
  while (pager->clients != NULL) {
    struct uffd_served *served = pager->clients;
    pager->clients = served->next;
    uffd_served_free(pager, served);
  }
}

static void turn_until(uffd_pager *pager, bool (*done)(const uffd_pager *pager)) {
  uint64_t end = uffd_now() + CLOSE_NS;
  while (!done(pager) && uffd_now() < end) {
    if (uffd_pager_turn(pager, 10) < 0) return;
  }
}

static bool no_clients(const uffd_pager *pager) {
  return pager->clients_count == 0;
}

static bool no_workers(const uffd_pager *pager) {
  return pager->workers == NULL;
}

/* Clients that nobody could kill are left to their workers, which go on without us. */
static void end(uffd_pager *pager) {
  pager->closing = true;
  uffd_links_shut(pager);
  for (struct uffd_served *served = pager->clients; served != NULL; served = served->next) {
    (void)uffd_served_kill(served);
  }
  turn_until(pager, no_clients);
  uffd_workers_retire(pager);
  if (pager->clients_count == 0) turn_until(pager, no_workers);
  uffd_workers_leave(pager);
}

void uffd_pager_close(uffd_pager *pager) {
  if (pager == NULL) return;
  if (pager->pid == getpid()) end(pager);
  uffd_pager_forget(pager);
  free_pager(pager);
}
