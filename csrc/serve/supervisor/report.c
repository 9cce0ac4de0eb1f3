/*
 * Reports to the pager's user, and what a client looks like to it.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"
#include "serve/supervisor/sum.h"
#include "serve/supervisor/worker.h"

void uffd_client_describe(const struct uffd_supervised *client, struct uffd_client_status *status) {
  struct uffd_figures figures;
  struct uffd_client_status full = UFFD_CLIENT_STATUS_INIT;
  full.client = client->who;
  full.state = uffd_stage_is_leaving(client->stage) ? client->left_as : uffd_stage_state(client->stage);
  full.worker = client->slot;
  full.restarts = client->begun > 1 ? client->begun - 1 : 0;
  full.since_ns = client->since_ns;
  uffd_sum_client(client, &figures);
  full.stats = figures.stats;
  full.oldest_ns = figures.oldest_ns;
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
