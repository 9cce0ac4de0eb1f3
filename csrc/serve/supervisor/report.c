/*
 * What happened, told to the pager's user; and what a client looks like from outside.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "serve/supervisor/pager.h"

/* Percentiles cannot be added: they are the newest that there are. */
void uffd_add_stats(struct uffd_stats *sum, const struct uffd_stats *more) {
  sum->faults += more->faults;
  sum->missing += more->missing;
  sum->wp += more->wp;
  sum->minor += more->minor;
  sum->writes += more->writes;
  sum->events += more->events;
  sum->zero += more->zero;
  sum->copied += more->copied;
  sum->continued += more->continued;
  sum->moved += more->moved;
  sum->poisoned += more->poisoned;
  sum->unprotected += more->unprotected;
  sum->bytes += more->bytes;
  sum->prefetched += more->prefetched;
  sum->present += more->present;
  sum->deferred += more->deferred;
  sum->gone += more->gone;
  sum->errors += more->errors;
  sum->policy_calls += more->policy_calls;
  sum->queue = more->queue;
  sum->queue_max = max_u64(sum->queue_max, more->queue_max);
  sum->latency_max = max_u64(sum->latency_max, more->latency_max);
  if (more->latency_count == 0) return;
  sum->latency_count += more->latency_count;
  sum->latency_p50 = more->latency_p50;
  sum->latency_p99 = more->latency_p99;
}

void uffd_served_status(const struct uffd_served *served, struct uffd_client_status *status) {
  struct uffd_figures figures;
  struct uffd_client_status full = UFFD_CLIENT_STATUS_INIT;
  full.client = served->client;
  full.state = served->state;
  full.worker = served->slot;
  full.restarts = served->restarts;
  full.since_ns = served->since_ns;
  full.stats = served->base;
  full.stats.size = sizeof(full.stats);
  if (uffd_book_figures(&served->book, &figures)) {
    uffd_add_stats(&full.stats, &figures.stats);
    full.oldest_ns = figures.oldest_ns;
  }
  full.size = status->size;
  memcpy(status, &full, min_u64(status->size, sizeof(full)));
}

void uffd_report(uffd_pager *pager, uint32_t kind, int error, const struct uffd_served *served,
                 const struct uffd_worker *worker, const char *format, ...) {
  if (pager->opts.report == NULL) return;
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  struct uffd_client_status status = UFFD_CLIENT_STATUS_INIT;
  if (served != NULL) uffd_served_status(served, &status);
  struct uffd_pager_report report = {
      .kind = kind,
      .error = error,
      .worker = worker != NULL   ? worker->index
                : served != NULL ? served->slot
                                 : 0,
      .pid = worker != NULL ? worker->pid : 0,
      .time_ns = uffd_now(),
      .client = served != NULL ? &status : NULL,
      .text = text,
  };
  pager->opts.report(pager->opts.report_ctx, &report);
}
