/*
 * The clients of a worker, and its watchdog.
 */
#include "serve/worker/roster.h"

#include <time.h>

#include "base/base.h"

#define TICK_NS UINT64_C(100000000) /* between two looks of the watchdog */

static void sleep_until(uint64_t time_ns) {
  struct timespec until = {.tv_sec = (time_t)(time_ns / 1000000000), .tv_nsec = (long)(time_ns % 1000000000)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
  }
}

/* Looks at each client without holding the lock: a look may have to wait for a slow resolver. False: stop. */
static bool inspect_all(struct uffd_roster *roster) {
  uffd_supply_look(roster->supply);
  pthread_mutex_lock(&roster->lock);
  struct uffd_serving *serving = roster->clients;
  while (serving != NULL && !roster->stop) {
    roster->inspected = serving;
    pthread_mutex_unlock(&roster->lock);
    uffd_serving_inspect(serving);
    pthread_mutex_lock(&roster->lock);
    serving = serving->next;
    roster->inspected = NULL;
    pthread_cond_broadcast(&roster->left);
  }
  bool stop = roster->stop;
  pthread_mutex_unlock(&roster->lock);
  return !stop;
}

static void *watch_clients(void *argument) {
  uint64_t time_ns = uffd_now();
  while (inspect_all(argument)) {
    time_ns = max_u64(time_ns + TICK_NS, uffd_now());
    sleep_until(time_ns);
  }
  return NULL;
}

int uffd_roster_open(struct uffd_roster *roster, struct uffd_supply *supply) {
  roster->supply = supply;
  pthread_mutex_init(&roster->lock, NULL);
  pthread_cond_init(&roster->left, NULL);
  return uffd_thread_start(&roster->watchdog, watch_clients, roster, "uffd-watchdog");
}

void uffd_roster_close(struct uffd_roster *roster) {
  pthread_mutex_lock(&roster->lock);
  roster->stop = true;
  pthread_mutex_unlock(&roster->lock);
  pthread_join(roster->watchdog, NULL);
}

void uffd_roster_add(struct uffd_roster *roster, struct uffd_serving *serving) {
  pthread_mutex_lock(&roster->lock);
  serving->next = roster->clients;
  roster->clients = serving;
  pthread_mutex_unlock(&roster->lock);
}

void uffd_roster_remove(struct uffd_roster *roster, struct uffd_serving *serving) {
  pthread_mutex_lock(&roster->lock);
  while (roster->inspected == serving) {
    pthread_cond_wait(&roster->left, &roster->lock);
  }
  struct uffd_serving **at = &roster->clients;
  while (*at != serving) {
    at = &(*at)->next;
  }
  *at = serving->next;
  pthread_mutex_unlock(&roster->lock);
}

struct uffd_serving *uffd_roster_find(const struct uffd_roster *roster, uint64_t client) {
  struct uffd_serving *serving = roster->clients;
  while (serving != NULL && (serving->client.id != client || serving->unsupervised)) {
    serving = serving->next;
  }
  return serving;
}
