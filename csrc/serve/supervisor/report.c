/*
 * Reports to the pager's user, and what a client looks like to it.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"
#include "serve/supervisor/worker.h"

void uffd_add_stats(struct uffd_stats *sum, const struct uffd_stats *newer) {
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  for (size_t i = 0; i < count; i++) {
    uint64_t *into = (uint64_t *)(void *)((char *)sum + fields[i].offset);
    uint64_t value = *(const uint64_t *)(const void *)((const char *)newer + fields[i].offset);
    switch (fields[i].kind) {
    case UFFD_STATS_COUNT:
      *into += value;
      break;
    case UFFD_STATS_LARGEST:
      *into = max_u64(*into, value);
      break;
    case UFFD_STATS_NOW:
      *into = value;
      break;
    default: /* a percentile: they cannot be added, the newest one stays */
      if (newer->latency_count != 0) *into = value;
      break;
    }
  }
}

void uffd_client_describe(const struct uffd_supervised *client, struct uffd_client_status *status) {
  struct uffd_figures figures;
  struct uffd_client_status full = UFFD_CLIENT_STATUS_INIT;
  full.client = client->who;
  full.state = uffd_stage_is_leaving(client->stage) ? client->left_as : uffd_stage_state(client->stage);
  full.worker = client->slot;
  full.restarts = client->begun > 1 ? client->begun - 1 : 0;
  full.since_ns = client->since_ns;
  full.stats = client->former;
  full.stats.size = sizeof(full.stats);
  if (uffd_book_figures(&client->book, &figures)) {
    uffd_add_stats(&full.stats, &figures.stats);
    full.oldest_ns = figures.oldest_ns;
  }
  full.size = status->size;
  memcpy(status, &full, min_u64(status->size, sizeof(full)));
}

void uffd_report(uffd_pager *pager, uint32_t kind, int error, const struct uffd_supervised *client,
                 const struct uffd_worker *worker, const char *format, ...) {
  if (pager->opts.report == NULL) return;
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  struct uffd_client_status status = UFFD_CLIENT_STATUS_INIT;
  if (client != NULL) uffd_client_describe(client, &status);
  struct uffd_pager_report report = {
      .kind = kind,
      .error = error,
      .worker = worker != NULL   ? worker->index
                : client != NULL ? client->slot
                                 : 0,
      .pid = worker != NULL ? worker->pid : 0,
      .time_ns = uffd_now(),
      .client = client != NULL ? &status : NULL,
      .text = text,
  };
  pager->opts.report(pager->opts.report_ctx, &report);
}
