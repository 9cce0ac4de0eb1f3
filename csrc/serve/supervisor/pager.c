/*
 * The pager as a whole: how it is made, what it does in a step, how it ends.
 */
#include "serve/supervisor/pager.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/paper/descriptors.h"
#include "serve/paper/template.h"
#include "serve/supervisor/adopt.h"
#include "serve/supervisor/arrival.h"
#include "serve/supervisor/children.h"
#include "serve/supervisor/client.h"
#include "serve/supervisor/control.h"
#include "serve/supervisor/forget.h"
#include "serve/supervisor/given.h"
#include "serve/supervisor/helper.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/link.h"
#include "serve/supervisor/liveness.h"
#include "serve/supervisor/looker.h"
#include "serve/supervisor/options.h"
#include "serve/supervisor/order.h"
#include "serve/supervisor/record.h"
#include "serve/supervisor/refused.h"
#include "serve/supervisor/scrape.h"
#include "serve/supervisor/slot.h"
#include "serve/supervisor/task.h"
#include "serve/supervisor/toll.h"

#define CLOSE_NS UINT64_C(5000000000) /* that closing waits for clients to die, and for workers to end */

static void drain(uffd_pager *pager) {
  pager->draining = true;
  uffd_links_shut(pager);
}

/* A reload waits for workers that are just starting: they may have been started from the old program. */
static void obey(uffd_pager *pager) {
  uint32_t orders = uffd_orders(pager);
  if ((orders & UFFD_ORDER_DRAIN) != 0 && !pager->draining) drain(pager);
  if ((orders & UFFD_ORDER_RELOAD) != 0 && !uffd_slots_starting(pager)) {
    uffd_order_done(pager, UFFD_ORDER_RELOAD);
    pager->reloads++;
    uffd_slots_reload(pager);
  }
}

static void take_time(uffd_pager *pager, void *owner) {
  uint64_t count;
  (void)owner;
  (void)!read(pager->timer_fd, &count, sizeof(count));
}

static void set_timer(uffd_pager *pager) {
  uint64_t due = min_u64(min_u64(uffd_links_due(pager), uffd_clients_due(pager)), uffd_slots_due(pager));
  due = min_u64(due, min_u64(uffd_images_due(pager), uffd_refused_due(pager)));
  due = min_u64(min_u64(due, uffd_keep_due(pager)), uffd_arrivals_due(pager));
  due = min_u64(due, uffd_helpers_due(pager));
  due = min_u64(due, uffd_liveness_due(pager));
  due = min_u64(min_u64(due, uffd_looker_due(pager)), uffd_toll_due(pager));
  struct itimerspec when = {{0, 0}, {0, 0}};
  if (due != UINT64_MAX) {
    due = max_u64(due, 1); /* 0 would disarm the timer */
    when.it_value = (struct timespec){.tv_sec = (time_t)(due / 1000000000), .tv_nsec = (long)(due % 1000000000)};
  }
  timerfd_settime(pager->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Does all that follows from what has happened. */
static void settle(uffd_pager *pager) {
  uint64_t now = uffd_now();
  obey(pager);
  uffd_images_look(pager, now);
  uffd_refused_check(pager, now);
  uffd_keep_push(pager, now);
  uffd_links_check(pager, now);
  uffd_helpers_check(pager, now);
  uffd_arrivals_step(pager);
  uffd_clients_check(pager, now);
  uffd_liveness_check(pager, now);
  uffd_slots_fill(pager, now);
  uffd_tasks_push(pager);
  uffd_clients_check(pager, now); /* those that no worker had to let go of */
  uffd_links_sweep(pager);
  if (pager->control != NULL) uffd_control_opened(pager->control);
  uffd_looker_check(pager, now);
  uffd_toll_count(pager);
  set_timer(pager);
}

/* Waits up to timeout_ms and deals with what has come. */
static int take_events(uffd_pager *pager, int timeout_ms) {
  int result = 1;
  settle(pager);
  for (int events = 0; events < 64 && result == 1; events++) {
    result = uffd_poll_one(pager, pager->epoll_fd, events == 0 ? timeout_ms : 0);
  }
  if (result < 0) return result;
  settle(pager);
  return 0;
}

static int check_process(const uffd_pager *pager) {
  if (pager->pid == getpid()) return 0;
  return fail(EOWNERDEAD, "This pager belongs to the parent process.");
}

static bool is_done(const uffd_pager *pager) {
  bool ends = pager->draining || ((pager->opts.flags & UFFD_PAGER_ONCE) != 0 && pager->clients_come != 0);
  return ends && pager->clients_count == 0 && pager->recording == 0 && uffd_arrivals_none(pager);
}

int uffd_pager_step(uffd_pager *pager, int timeout_ms) {
  int result = check_process(pager);
  if (result == 0) result = take_events(pager, timeout_ms);
  if (result < 0) return result;
  if (is_done(pager)) return 0;
  bool waits = pager->opts.on_crash == UFFD_PAGER_FREEZE && pager->clients_count != 0;
  return pager->error != 0 && !waits ? fail(pager->error, "No worker can be started.") : 1;
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

static int open_descriptors(uffd_pager *pager) {
  pager->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  pager->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (pager->epoll_fd < 0 || pager->timer_fd < 0) {
    return fail(errno, "No descriptors for a pager: %s.", strerror(errno));
  }
  pager->timer_poll = (struct uffd_poll){.ready = take_time, .owner = pager};
  int result = uffd_poll_add(pager, pager->timer_fd, &pager->timer_poll);
  if (result == 0) result = uffd_toll_open(pager);
  return result < 0 ? result : uffd_orders_open(pager);
}

static void step_control(uffd_pager *pager, void *owner) {
  (void)owner;
  uffd_control_step(pager->control);
}

static int open_control(uffd_pager *pager) {
  const struct uffd_pager_opts *opts = &pager->opts;
  int fd = uffd_given_take(pager, "control");
  if (opts->control == NULL && fd < 0) return 0;
  int result = uffd_control_open(opts->control, fd, opts->control_mode, opts->control_uid, pager, &pager->control);
  if (result < 0) return result;
  pager->control_poll = (struct uffd_poll){.ready = step_control, .outside = true};
  return uffd_poll_add(pager, uffd_control_fd(pager->control), &pager->control_poll);
}

static int open_pager(uffd_pager *pager) {
  int result = uffd_options_keep(&pager->opts);
  if (result < 0) return result;
  pager->slots = uffd_alloc(pager->opts.workers * sizeof(*pager->slots));
  if (pager->slots == NULL) return fail(ENOMEM, "No memory for a pager.");
  result = open_descriptors(pager);
  if (result == 0) result = uffd_given_open(pager);
  if (result == 0) result = uffd_keep_open(pager);
  if (result == 0) result = uffd_adopt_all(pager);
  const char *const one[] = {pager->opts.image, NULL}, *const *paths = pager->opts.images;
  if (paths == NULL && pager->opts.image != NULL) paths = one;
  if (result == 0 && paths != NULL && !uffd_options_template(&pager->opts)) {
    result = uffd_image_change(pager, paths, uffd_is_template(pager->opts.replay) ? NULL : pager->opts.replay);
  }
  if (result == 0) uffd_images_drop_unused(pager); /* that a dead supervisor's clients had */
  if (result == 0) result = uffd_record_open(pager);
  if (result == 0) result = uffd_links_open(pager);
  if (result == 0) result = uffd_scrape_open(pager);
  if (result == 0) result = open_control(pager);
  if (result == 0) uffd_looker_open(pager);
  return result;
}

static void free_pager(uffd_pager *pager) {
  uffd_pager_forget(pager);
  uffd_release(pager->slots, pager->opts.workers * sizeof(*pager->slots));
  uffd_options_release(&pager->opts);
  DELETE(pager);
}

int uffd_pager_create(const struct uffd_pager_opts *user_opts, uffd_pager **made) {
  struct uffd_pager_opts opts = UFFD_PAGER_OPTS_INIT;
  *made = NULL;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_pager_opts");
  if (result == 0) result = uffd_options_check(&opts);
  if (result < 0) return result;
  uffd_pager *pager = NEW(uffd_pager);
  if (pager == NULL) return fail(ENOMEM, "No memory for a pager.");
  pager->pid = getpid();
  uffd_reserve_standard_fds();
  pager->fds_limit = uffd_raise_fd_limit();
  pager->opts = opts;
  pager->epoll_fd = pager->toll.fd = pager->timer_fd = pager->order_fd = pager->keep.fd = pager->record_fd = -1;
  result = open_pager(pager);
  if (result < 0) {
    struct uffd_sentence kept = uffd_keep_sentence();
    free_pager(pager);
    uffd_restore_sentence(&kept);
    return result;
  }
  *made = pager;
  return 0;
}

static void step_until(uffd_pager *pager, bool (*done)(const uffd_pager *pager)) {
  uint64_t end = uffd_now() + CLOSE_NS;
  while (!done(pager) && uffd_now() < end) {
    if (take_events(pager, 10) < 0) return;
  }
}

static bool no_clients(const uffd_pager *pager) {
  return pager->clients_count == 0 && pager->recording == 0;
}

static bool no_workers(const uffd_pager *pager) {
  return pager->workers == NULL;
}

/* Clients that could not be killed are left to their workers, which go on without a supervisor. */
static void end(uffd_pager *pager) {
  pager->closing = true;
  uffd_links_shut(pager);
  uffd_links_refuse(pager);
  uffd_arrivals_refuse(pager);
  for (struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    (void)uffd_client_kill(pager, client);
  }
  step_until(pager, no_clients);
  uffd_slots_retire(pager);
  if (pager->clients_count == 0) step_until(pager, no_workers);
  uffd_slots_leave(pager);
  uffd_clients_leave(pager);
  uffd_children_leave(pager);
  uffd_refused_leave(pager);
  step_until(pager, uffd_looker_idle);
  uffd_looker_leave(pager);
}

void uffd_pager_close(uffd_pager *pager) {
  if (pager == NULL) return;
  if (pager->pid == getpid()) end(pager);
  free_pager(pager);
}
