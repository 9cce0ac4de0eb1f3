/*
 * What the pager's user can see of the pager and its clients.
 */
#include <string.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"
#include "serve/supervisor/sum.h"
#include "serve/supervisor/worker.h"

_Static_assert((int)UFFD_WORKER_IS_STARTING == (int)UFFD_WORKER_STARTING &&
                   (int)UFFD_WORKER_IS_READY == (int)UFFD_WORKER_READY &&
                   (int)UFFD_WORKER_IS_RETIRING == (int)UFFD_WORKER_RETIRING,
               "the states of a worker are the public ones");

int uffd_pager_status(const uffd_pager *pager, struct uffd_pager_status *status) {
  struct uffd_pager_status full = UFFD_PAGER_STATUS_INIT;
  if (status == NULL || status->size < 2 * sizeof(size_t)) {
    return fail(EINVAL, "uffd_pager_status: set size, UFFD_PAGER_STATUS_INIT does.");
  }
  full.clients = pager->clients_count;
  for (const struct uffd_worker *worker = pager->workers; worker != NULL; worker = worker->next) {
    full.workers++;
    if (pager->reloads != 0 && worker->state != UFFD_WORKER_READY) full.reloading = 1;
  }
  full.served = pager->clients_come;
  full.refused = pager->refused;
  full.restarts = pager->restarts;
  full.draining = pager->draining;
  full.hangs = pager->hangs;
  full.reloads = pager->reloads;
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
  const struct uffd_supervised *client = pager->clients;
  for (uint32_t i = pager->clients_count - 1; i > index; i--) {
    client = client->next;
  }
  uffd_client_describe(client, status);
  return 1;
}

int uffd_pager_worker(const uffd_pager *pager, uint32_t index, struct uffd_worker_status *status) {
  struct uffd_worker_status full = UFFD_WORKER_STATUS_INIT;
  const struct uffd_worker *worker = pager->workers;
  if (status == NULL || status->size < 2 * sizeof(size_t)) {
    return fail(EINVAL, "uffd_worker_status: set size, UFFD_WORKER_STATUS_INIT does.");
  }
  for (uint32_t i = 0; i < index && worker != NULL; i++) {
    worker = worker->next;
  }
  if (worker == NULL) return 0;
  for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    full.clients += client->worker == worker;
  }
  full.pid = worker->pid;
  full.worker = worker->index;
  full.state = (uint32_t)worker->state;
  full.since_ns = worker->since_ns;
  full.size = status->size;
  memcpy(status, &full, min_u64(status->size, sizeof(full)));
  return 1;
}

int uffd_pager_stats(const uffd_pager *pager, struct uffd_stats *stats) {
  struct uffd_figures figures;
  if (stats == NULL || stats->size < 2 * sizeof(size_t)) {
    return fail(EINVAL, "uffd_pager_stats: set size, UFFD_STATS_INIT does.");
  }
  uffd_sum_pager(pager, &figures);
  figures.stats.size = stats->size;
  memcpy(stats, &figures.stats, min_u64(stats->size, sizeof(figures.stats)));
  return 0;
}
