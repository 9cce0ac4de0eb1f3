/*
 * Figures put together. Counts of clients that are gone are kept, so that what an exporter sees never falls.
 */
#include "serve/supervisor/sum.h"

#include <string.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"

static uint64_t *value_of(struct uffd_stats *stats, const struct uffd_stats_field *field) {
  return (uint64_t *)(void *)((char *)stats + field->offset);
}

static void add_latencies(struct uffd_latencies *sum, const struct uffd_latencies *more) {
  for (uint32_t i = 0; i <= UFFD_LATENCY_BOUNDS; i++) {
    sum->counts[i] += more->counts[i];
  }
  sum->sum_ns += more->sum_ns;
}

void uffd_figures_follow(struct uffd_figures *sum, const struct uffd_figures *newer) {
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  struct uffd_stats stats = newer->stats;
  for (size_t i = 0; i < count; i++) {
    uint64_t *into = value_of(&sum->stats, &fields[i]), value = *value_of(&stats, &fields[i]);
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
      if (stats.latency_count != 0) *into = value;
      break;
    }
  }
  add_latencies(&sum->latencies, &newer->latencies);
  sum->oldest_ns = newer->oldest_ns;
}

void uffd_figures_join(struct uffd_figures *all, const struct uffd_figures *client) {
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  struct uffd_stats stats = client->stats;
  for (size_t i = 0; i < count; i++) {
    uint64_t *into = value_of(&all->stats, &fields[i]), value = *value_of(&stats, &fields[i]);
    bool adds = fields[i].kind == UFFD_STATS_COUNT || fields[i].kind == UFFD_STATS_NOW;
    *into = adds ? *into + value : max_u64(*into, value);
  }
  add_latencies(&all->latencies, &client->latencies);
  all->oldest_ns = max_u64(all->oldest_ns, client->oldest_ns);
}

void uffd_sum_client(const struct uffd_supervised *client, struct uffd_figures *figures) {
  struct uffd_figures newer;
  *figures = client->former;
  figures->stats.size = sizeof(figures->stats);
  if (uffd_book_figures(&client->book, &newer)) uffd_figures_follow(figures, &newer);
}

void uffd_sum_pager(const uffd_pager *pager, struct uffd_figures *figures) {
  *figures = pager->past;
  figures->stats.size = sizeof(figures->stats);
  for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    struct uffd_figures one;
    uffd_sum_client(client, &one);
    uffd_figures_join(figures, &one);
  }
}

/* Nothing of it waits any more. */
void uffd_sum_keep(uffd_pager *pager, const struct uffd_supervised *client) {
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  struct uffd_figures last;
  uffd_sum_client(client, &last);
  last.oldest_ns = 0;
  for (size_t i = 0; i < count; i++) {
    if (fields[i].kind == UFFD_STATS_NOW) *value_of(&last.stats, &fields[i]) = 0;
  }
  uffd_figures_join(&pager->past, &last);
}
