/*
 * Reports to the pager's user, and what a client looks like to it.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"
#include "serve/supervisor/sum.h"
#include "serve/supervisor/worker.h"

/* Callers that were built against 0.1 have a client that ends before its label. */
static void give_status(const struct uffd_client_status *full, struct uffd_client_status *status) {
  static const size_t grown = sizeof(struct uffd_client) - offsetof(struct uffd_client, label);
  static const size_t oldest = offsetof(struct uffd_client_status, label) + UFFD_LABEL - grown;
  static const size_t head = offsetof(struct uffd_client_status, client) + offsetof(struct uffd_client, label);
  if (status->size > oldest) {
    memcpy(status, full, min_u64(status->size, sizeof(*full)));
  } else if (status->size <= head) {
    memcpy(status, full, status->size);
  } else {
    char *to = (char *)status;
    size_t rest = status->size - head;
    memcpy(to, full, head);
    memcpy(to + head, (const char *)full + head + grown, rest);
  }
}

void uffd_client_describe(const struct uffd_supervised *client, struct uffd_client_status *status) {
  struct uffd_figures figures;
  struct uffd_client_status full = UFFD_CLIENT_STATUS_INIT;
  full.client = client->who;
  full.state = uffd_stage_state(client->stage, client->end);
  full.end = client->end;
  snprintf(full.label, sizeof(full.label), "%s", client->book.head->label);
  full.image = client->image != NULL ? client->image->backing.name : NULL;
  full.shared = client->book.head->shared != 0;
  full.worker = client->slot;
  full.restarts = client->begun > 1 ? client->begun - 1 : 0;
  full.since_ns = client->since_ns;
  uffd_sum_client(client, &figures);
  full.stats = figures.stats;
  full.oldest_ns = figures.oldest_ns;
  full.size = status->size;
  give_status(&full, status);
}

static uint64_t wall_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static bool is_trouble(uint32_t kind) {
  return kind == UFFD_REPORT_REFUSED || kind == UFFD_REPORT_DIED || kind == UFFD_REPORT_LATE ||
         kind == UFFD_REPORT_ERROR || kind == UFFD_REPORT_FROZEN || kind == UFFD_REPORT_HUNG;
}

static void keep_trouble(uffd_pager *pager, const struct uffd_pager_report *report) {
  struct uffd_trouble *trouble = &pager->troubles[pager->troubles_count++ % UFFD_TROUBLES];
  trouble->report = *report;
  snprintf(trouble->text, sizeof(trouble->text), "%s", report->text);
  trouble->report.text = trouble->text;
}

int uffd_pager_trouble(const uffd_pager *pager, uint32_t index, struct uffd_pager_report *report) {
  if (pager == NULL || report == NULL) return fail(EINVAL, "uffd_pager_trouble: it needs a pager and a report.");
  if (index >= UFFD_TROUBLES || index >= pager->troubles_count) return 0;
  *report = pager->troubles[(pager->troubles_count - 1 - index) % UFFD_TROUBLES].report;
  return 1;
}

void uffd_report(uffd_pager *pager, uint32_t kind, int error, const struct uffd_supervised *client,
                 const struct uffd_worker *worker, const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  struct uffd_pager_report report = {
      .kind = kind,
      .error = error,
      .worker = worker != NULL   ? worker->index
                : client != NULL ? client->slot
                                 : 0,
      .pid = worker != NULL ? worker->pid : 0,
      .time_ns = uffd_now(),
      .text = text,
      .wall_ns = wall_clock(),
      .client_id = client != NULL ? client->who.id : 0,
  };
  if (is_trouble(kind)) keep_trouble(pager, &report);
  if (pager->opts.report == NULL) return;
  struct uffd_client_status status = UFFD_CLIENT_STATUS_INIT;
  if (client != NULL) uffd_client_describe(client, &status);
  if (client != NULL) report.client = &status;
  pager->opts.report(pager->opts.report_ctx, &report);
}
