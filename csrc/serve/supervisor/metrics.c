/*
 * The pager in figures, as OpenMetrics text 1.0. Counts are of all clients so far, also of those that are gone, since
 * the supervisor started.
 *
 * Every field of struct uffd_stats is here: those that belong together are one family with a label, as the table says;
 * each other one is a family of its own name. What the latency histogram says is not said a second time.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/refusal.h"
#include "serve/supervisor/sum.h"

struct group {
  const char *family, *label, *help;
  const char *fields[8];
};

/* Faults that are read, by kind; pages that are answered, by what was done. */
static const struct group groups[] = {
    {"uffd_faults", "kind", "Page faults read.", {"missing", "wp", "minor"}},
    {"uffd_pages",
     "outcome",
     "Pages answered, by what was done with them.",
     {"zero", "copied", "continued", "moved", "poisoned", "unprotected", "present"}},
};
enum { GROUPS = sizeof(groups) / sizeof(groups[0]) };

/* Said by the groups' sums or by the histogram. The longest queue is one client's and never falls: it tells nothing. */
static const char *const left_out[] = {"faults",      "latency_count", "latency_p50",
                                       "latency_p99", "latency_max",   "queue_max"};

static bool is_among(const char *const *names, size_t count, const char *name) {
  for (size_t i = 0; i < count && names[i] != NULL; i++) {
    if (strcmp(names[i], name) == 0) return true;
  }
  return false;
}

static uint64_t value_of(const struct uffd_stats *stats, const struct uffd_stats_field *field) {
  return *(const uint64_t *)(const void *)((const char *)stats + field->offset);
}

static void begin(FILE *text, const char *family, const char *type, const char *unit, const char *help) {
  fprintf(text, "# TYPE %s %s\n", family, type);
  if (unit != NULL) fprintf(text, "# UNIT %s %s\n", family, unit);
  fprintf(text, "# HELP %s %s\n", family, help);
}

static void write_one(FILE *text, const char *family, bool counts, const char *unit, const char *help, uint64_t value) {
  begin(text, family, counts ? "counter" : "gauge", unit, help);
  fprintf(text, "%s%s %" PRIu64 "\n", family, counts ? "_total" : "", value);
}

/* Nanoseconds as seconds: digits only, whatever the locale. */
static void write_seconds(FILE *text, uint64_t ns) {
  fprintf(text, "%" PRIu64 ".%09" PRIu64, ns / 1000000000, ns % 1000000000);
}

static void write_group(FILE *text, const struct group *group, const struct uffd_stats *stats) {
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  begin(text, group->family, "counter", NULL, group->help);
  for (size_t i = 0; i < count; i++) {
    if (!is_among(group->fields, sizeof(group->fields) / sizeof(group->fields[0]), fields[i].name)) continue;
    fprintf(text, "%s_total{%s=\"%s\"} %" PRIu64 "\n", group->family, group->label, fields[i].name,
            value_of(stats, &fields[i]));
  }
}

static bool is_grouped(const char *name) {
  bool found = is_among(left_out, sizeof(left_out) / sizeof(left_out[0]), name);
  for (size_t i = 0; i < GROUPS && !found; i++) {
    found = is_among(groups[i].fields, sizeof(groups[i].fields) / sizeof(groups[i].fields[0]), name);
  }
  return found;
}

static void write_stats(FILE *text, const struct uffd_stats *stats) {
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  for (size_t i = 0; i < GROUPS; i++) {
    write_group(text, &groups[i], stats);
  }
  for (size_t i = 0; i < count; i++) {
    if (is_grouped(fields[i].name)) continue;
    bool counts = fields[i].kind == UFFD_STATS_COUNT, bytes = strcmp(fields[i].name, "bytes") == 0;
    char family[64], help[128];
    snprintf(family, sizeof(family), "uffd_%s%s", bytes ? "installed_" : "", fields[i].name);
    snprintf(help, sizeof(help), "%s.", fields[i].help);
    if (help[0] >= 'a' && help[0] <= 'z') help[0] = (char)(help[0] - 'a' + 'A');
    write_one(text, family, counts, bytes ? "bytes" : NULL, help, value_of(stats, &fields[i]));
  }
}

static void write_latencies(FILE *text, const struct uffd_latencies *latencies) {
  static const char family[] = "uffd_fault_latency_seconds";
  uint64_t seen = 0;
  begin(text, family, "histogram", "seconds", "Time from reading a fault to waking its thread.");
  for (uint32_t i = 0; i < UFFD_LATENCY_BOUNDS; i++) {
    uint64_t bound = uffd_latency_bound(i);
    char digits[32];
    int length = snprintf(digits, sizeof(digits), "%" PRIu64 ".%09" PRIu64, bound / 1000000000, bound % 1000000000);
    while (digits[length - 1] == '0' && digits[length - 2] != '.') {
      length--;
    }
    seen += latencies->counts[i];
    fprintf(text, "%s_bucket{le=\"%.*s\"} %" PRIu64 "\n", family, length, digits, seen);
  }
  seen += latencies->counts[UFFD_LATENCY_BOUNDS];
  fprintf(text, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_count %" PRIu64 "\n%s_sum ", family, seen, family, seen,
          family);
  write_seconds(text, latencies->sum_ns);
  fputc('\n', text);
}

/* A label's value: quotes, backslashes and newlines are escaped, and what is no printable ASCII is '?': a path may hold
 * any byte, and the text must be UTF-8. */
static void write_label(FILE *text, const char *value) {
  for (; *value != '\0'; value++) {
    if (*value == '\n') {
      fputs("\\n", text);
    } else if (*value < ' ' || *value > '~') {
      fputc('?', text);
    } else {
      if (*value == '"' || *value == '\\') fputc('\\', text);
      fputc(*value, text);
    }
  }
}

static void write_clients(FILE *text, const uffd_pager *pager) {
  begin(text, "uffd_clients", "gauge", NULL, "Clients now, by state.");
  for (uint32_t state = 0; uffd_client_state_name(state) != NULL; state++) {
    uint64_t count = 0;
    for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
      count += uffd_stage_state(client->stage, client->end) == state;
    }
    fprintf(text, "uffd_clients{state=\"%s\"} %" PRIu64 "\n", uffd_client_state_name(state), count);
  }
}

static void write_names(FILE *text, const uffd_pager *pager) {
  begin(text, "uffd_client", "info", NULL, "Clients that are there, what they are called, and where they came.");
  for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    fprintf(text, "uffd_client_info{client=\"%" PRIu64 "\",label=\"", client->who.id);
    write_label(text, client->book.head->label);
    fputs("\",socket=\"", text);
    write_label(text, client->book.head->socket);
    fprintf(text, "\",shared=\"%s\"} 1\n", client->book.head->shared != 0 ? "true" : "false");
  }
}

static void write_refusals(FILE *text, const uffd_pager *pager) {
  begin(text, "uffd_refusals", "counter", NULL, "Connections and handshakes that were refused, by reason.");
  for (uint32_t reason = 0; reason < UFFD_REFUSALS; reason++) {
    fprintf(text, "uffd_refusals_total{reason=\"%s\"} %" PRIu64 "\n", uffd_refusal_name(reason),
            pager->refusals[reason]);
  }
}

static void write_images(FILE *text, const uffd_pager *pager) {
  static const char *const states[] = {"intact", "wanted", "changed"};
  begin(text, "uffd_image", "info", NULL, "Images that clients are served from.");
  for (const struct uffd_image *image = pager->images; image != NULL; image = image->next) {
    fprintf(text, "uffd_image_info{number=\"%" PRIu64 "\",path=\"", image->backing.number);
    write_label(text, image->backing.name);
    fprintf(text, "\",identity=\"%016" PRIx64 "\",state=\"%s\"} 1\n", image->backing.identity, states[image->state]);
  }
  begin(text, "uffd_image_bytes", "gauge", "bytes", "Length of an image.");
  for (const struct uffd_image *image = pager->images; image != NULL; image = image->next) {
    fprintf(text, "uffd_image_bytes{number=\"%" PRIu64 "\"} %" PRIu64 "\n", image->backing.number,
            image->backing.length);
  }
  begin(text, "uffd_image_shared_bytes", "gauge", "bytes", "Memory of the pages that an image's clients share.");
  for (const struct uffd_image *image = pager->images; image != NULL; image = image->next) {
    struct stat status;
    if (image->backing.shared_fd < 0 || fstat(image->backing.shared_fd, &status) != 0) continue;
    fprintf(text, "uffd_image_shared_bytes{number=\"%" PRIu64 "\"} %" PRIu64 "\n", image->backing.number,
            (uint64_t)status.st_blocks * 512);
  }
  begin(text, "uffd_image_clients", "gauge", NULL, "Clients of an image now.");
  for (const struct uffd_image *image = pager->images; image != NULL; image = image->next) {
    fprintf(text, "uffd_image_clients{number=\"%" PRIu64 "\"} %u\n", image->backing.number, image->clients_count);
  }
}

static uint64_t count_descriptors(void) {
  uint64_t count = 0;
  DIR *directory = opendir("/proc/self/fd");
  for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
    if (entry->d_name[0] != '.') count++;
  }
  if (directory != NULL) (void)closedir(directory);
  return count != 0 ? count - 1 : 0; /* the directory's own */
}

static void write_pager(FILE *text, const uffd_pager *pager) {
  uint64_t workers = 0;
  for (const struct uffd_worker *worker = pager->workers; worker != NULL; worker = worker->next) {
    workers++;
  }
  begin(text, "uffd_pager", "info", NULL, "This pager.");
  fprintf(text, "uffd_pager_info{version=\"%s\"} 1\n", uffd_version());
  write_one(text, "uffd_clients_come", true, NULL, "Clients that were taken in.", pager->clients_come);
  write_one(text, "uffd_clients_ended", true, NULL, "Clients that are gone or complete.", pager->clients_ended);
  write_one(text, "uffd_workers", false, NULL, "Worker processes now.", workers);
  write_one(text, "uffd_worker_restarts", true, NULL, "Workers that died and were replaced.", pager->restarts);
  write_one(text, "uffd_worker_hangs", true, NULL, "Workers that hung and were killed.", pager->hangs);
  write_one(text, "uffd_draining", false, NULL, "1 when no new clients are taken in.", pager->draining);
  write_one(text, "uffd_open_fds", false, NULL, "Descriptors that the supervisor has open.", count_descriptors());
  write_one(text, "uffd_max_fds", false, NULL, "Descriptors that it may have open.", pager->fds_limit);
}

static void write_all(FILE *text, const uffd_pager *pager) {
  struct uffd_figures figures;
  uffd_sum_pager(pager, &figures);
  write_pager(text, pager);
  write_clients(text, pager);
  write_names(text, pager);
  write_refusals(text, pager);
  write_images(text, pager);
  write_stats(text, &figures.stats);
  write_latencies(text, &figures.latencies);
  begin(text, "uffd_oldest_fault_seconds", "gauge", "seconds", "Age of the oldest fault that is not answered.");
  fputs("uffd_oldest_fault_seconds ", text);
  write_seconds(text, figures.oldest_ns);
  fputs("\n# EOF\n", text);
}

int uffd_pager_metrics(const uffd_pager *pager, uffd_reply_fn *reply, void *ctx) {
  char *bytes = NULL;
  size_t length = 0;
  if (pager == NULL || reply == NULL) return fail(EINVAL, "uffd_pager_metrics: it needs a pager and a function.");
  FILE *text = open_memstream(&bytes, &length);
  if (text != NULL) write_all(text, pager);
  bool whole = text != NULL && ferror(text) == 0;
  if (text != NULL) whole = fclose(text) == 0 && whole;
  if (whole) reply(ctx, bytes, length);
  free(bytes);
  return whole ? 0 : fail(ENOMEM, "No memory for the metrics.");
}
