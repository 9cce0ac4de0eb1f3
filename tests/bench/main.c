/*
 * uffd-bench [--case NAME]... [--list] [--json]: what a fault costs, beside other ways to do it, and beside the least
 * that the kernel takes.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "client.h"
#include "machine.h"

static const struct {
  const char *name, *what;
  case_fn *run;
} cases[] = {
    {"random-zero", "one thread, random pages, the zero resolver", case_random_zero},
    {"random-file", "the same from a file in the page cache", case_random_file},
    {"random-file-threads", "the same, threads engine, nothing pinned", case_random_file_threads},
    {"hog", "the same with a busy loop on every processor", case_hog},
    {"sequential-file", "256 MiB touched in order, around auto", case_sequential_file},
    {"sequential-file-thp", "the same on memory for huge pages", case_sequential_file_thp},
    {"reverse-file", "the same backwards", case_reverse_file},
    {"stride-file", "every 4th page", case_stride_file},
    {"sparse-file", "half the pages zero: holes, and written zeros", case_sparse_file},
    {"umap-sequential", "64 MiB in order, beside UMap's way", case_umap_sequential},
    {"umap-random", "random pages, beside UMap's way", case_umap_random},
    {"arrival", "pages that arrive write-protected, beside those that do not", case_arrival},
    {"later", "pages whose resolver says LATER, and rings when it has them", case_later},
    {"continue-memfd", "256 MiB in the page cache", case_continue_memfd},
    {"two-threads", "two threads fault, each in its half", case_two_threads},
    {"regions", "random-file in 1024 regions, beside one", case_regions},
    {"callback", "a callback in C, one constant page", case_callback},
    {"policy-constant", "a Lua policy, one constant page", case_policy_constant},
    {"policy-fresh", "a Lua policy, a page built for each fault", case_policy_fresh},
    {"wp-inline", "first writes to protected pages", case_wp_inline},
    {"memory", "bookkeeping for a GiB of 4 KiB pages", case_memory},
    {"cost-fork", "a fork, regions of 1 to 1024 GiB", case_cost_fork},
    {"cost-children", "a fork beside 0 to 400 living children", case_cost_children},
    {"cost-adopt", "adopting 100 to 4000 mappings", case_cost_adopt},
    {"cost-stats", "statistics beside 1 to 16 slow callbacks", case_cost_stats},
    {"cost-prefetch", "a fault beside 0 to 5000 prefetches", case_cost_prefetch},
    {"cost-add", "adding a region beside 0 to 8 slow callbacks", case_cost_add},
    {"clones", "the second clone of one memfd, beside filling by copying", case_clones},
#ifdef UFFD_BENCH_IMAGE
    {"image-zstd", "all of a compressed image, beside the raw file", case_image_zstd},
    {"image-fault", "random pages of it, beside the raw file", case_image_fault},
    {"image-chain", "a chain of 16 layers, beside one file", case_image_chain},
    {"remote", "all of an image that is 20 ms away, and single faults meanwhile", case_remote},
    {"remote-cached", "what was fetched before, beside the local file", case_remote_cached},
    {"remote-clones", "four processes that read one at once, cold", case_remote_clones},
    {"remote-peers", "an image that is 20 ms away, beside nbdcopy and nbdfuse", case_remote_peers},
    {"remote-http", "an image on a web server, beside nbdkit's curl plugin", case_remote_http},
#endif
#ifdef UFFD_BENCH_PAGER
    {"serve-random", "another process, a random eighth of 256 MiB", case_serve_random},
    {"serve-replay", "the same pages, replayed from a record", case_serve_replay},
    {"serve-full", "another process, 256 MiB touched in order", case_serve_full},
    {"serve-policy", "serve-random, the pages from a Lua policy", case_serve_policy},
    {"serve-share", "clients 2 to 4 that share the pager's copy, beside a copy each", case_serve_share},
    {"serve-regions", "serve-random in 1024 regions, beside one", case_serve_regions},
#endif
};
#define CASES     (sizeof(cases) / sizeof(*cases))
#define ROWS_MAX  128
#define COSTS_MAX 8

#define PATIENCE_S 60 /* for a case: a thread that faults for ever is not waited for */

static bool json;
static struct row rows[ROWS_MAX];
static size_t rows_count;
static struct cost costs[COSTS_MAX];
static size_t costs_count;
static const struct machine *machine;

/* Rows */

void explain(struct row *row, const char *format, ...) {
  size_t length = strlen(row->note);
  va_list arguments;
  va_start(arguments, format);
  if (length > 0) length += (size_t)snprintf(row->note + length, sizeof(row->note) - length, "; ");
  if (length < sizeof(row->note)) vsnprintf(row->note + length, sizeof(row->note) - length, format, arguments);
  va_end(arguments);
}

void explain_usage(struct row *row, const char *who, const struct contender *contender) {
  explain(row, "%s: %.0f ns of CPU and %.2f switches a page", who, contender->figures[CPU].median,
          contender->figures[SWITCHES].median);
}

void explain_faults(struct row *row, const struct contender *contender) {
  explain(row, "a fault for %.3g pages", 1 / contender->figures[FAULTS].median);
}

static double ratio_of(const struct row *row) {
  return row->base.median / row->uffd.median;
}

static double of_limit(const struct row *row) {
  return row->uffd.median / row->limit.median;
}

static void print_number(const char *key, const char *name, double value) {
  if (name == NULL) {
    printf(",\"%s\":null", key);
  } else {
    printf(",\"%s\":%.6g", key, value);
  }
}

static void print_name(const char *key, const char *name) {
  if (name == NULL) {
    printf(",\"%s\":null", key);
  } else {
    printf(",\"%s\":\"%s\"", key, name);
  }
}

static void print_json(const struct row *row) {
  printf("{\"case\":\"%s\",\"unit\":\"%s\"", row->name, row->unit);
  print_number("uffd", "", row->uffd.median);
  print_name("engine", row->engine);
  print_number("base", row->base_name, row->base.median);
  print_name("base_name", row->base_name);
  print_number("ratio", row->base_name, ratio_of(row));
  print_number("limit", row->limit_name, row->limit.median);
  print_name("limit_name", row->limit_name);
  print_number("of_limit", row->limit_name, of_limit(row));
  printf(",\"runs\":%u}\n", row->runs);
  fflush(stdout);
}

void report(const struct row *row) {
  if (json) {
    print_json(row);
  } else if (rows_count < ROWS_MAX) {
    rows[rows_count++] = *row;
  }
}

static void print_cost_json(const struct cost *cost) {
  for (unsigned i = 0; i < cost->count; i++) {
    printf("{\"case\":\"%s\",\"unit\":\"%s\",\"size\":%.6g,\"size_unit\":\"%s\"", cost->name, cost->unit,
           cost->sizes[i], cost->size_unit);
    printf(",\"uffd\":%.6g,\"low\":%.6g,\"high\":%.6g}\n", cost->costs[i].median, cost->costs[i].low,
           cost->costs[i].high);
  }
  fflush(stdout);
}

void report_cost(const struct cost *cost) {
  if (json) {
    print_cost_json(cost);
  } else if (costs_count < COSTS_MAX) {
    costs[costs_count++] = *cost;
  }
}

/* The table */

enum column { CASE, UNIT, UFFD, ENGINE, BASE, RATIO, LIMIT, OF_LIMIT, TARGET, MET, COLUMNS };
static const char *const titles[COLUMNS] = {"case",  "unit",  "uffd",     "engine", "base",
                                            "ratio", "limit", "of limit", "target", "met"};
struct line {
  char cells[COLUMNS][480];
};

static void put_spread(char *cell, size_t size, const struct spread *spread, const char *name) {
  const char *format = spread->median < 100 ? "%.3g (%.3g-%.3g)%s%s" : "%.0f (%.0f-%.0f)%s%s";
  snprintf(cell, size, format, spread->median, spread->low, spread->high, name[0] != '\0' ? " " : "", name);
}

static bool is_met(const struct row *row) {
  if (row->at_least > 0 && ratio_of(row) < row->at_least) return false;
  if (row->at_most > 0 && of_limit(row) > row->at_most) return false;
  return row->most <= 0 || row->uffd.median <= row->most;
}

static void put_target(char *cell, size_t size, const struct row *row) {
  int length = 0;
  cell[0] = '\0';
  if (row->at_least > 0) length += snprintf(cell, size, "ratio >= %.3g", row->at_least);
  const char *comma = length > 0 ? ", " : "";
  if (row->at_most > 0) {
    snprintf(cell + length, size - (size_t)length, "%sof limit <= %.3g", comma, row->at_most);
  } else if (row->most > 0) {
    snprintf(cell + length, size - (size_t)length, "%suffd <= %.4g", comma, row->most);
  }
}

/*
 * Says whether the target is met, and writes the note. If even the limit does not reach a ratio, the machine sets the
 * limit.
 */
static void put_met(char *cell, size_t size, const struct row *row) {
  struct row noted = *row;
  bool has_target = row->at_least > 0 || row->at_most > 0 || row->most > 0;
  double limit_ratio = row->base.median / row->limit.median;
  if (row->limit_name != NULL && row->at_least > limit_ratio)
    explain(&noted, "the limit has a ratio of %.2f", limit_ratio);
  const char *met = !has_target ? "" : is_met(row) ? "yes" : "no";
  snprintf(cell, size, "%s%s%s", met, has_target && noted.note[0] != '\0' ? ": " : "", noted.note);
}

static void fill_line(const struct row *row, struct line *line) {
  memset(line, 0, sizeof(*line));
  size_t size = sizeof(line->cells[0]);
  snprintf(line->cells[CASE], size, "%s", row->name);
  snprintf(line->cells[UNIT], size, "%s", row->unit);
  put_spread(line->cells[UFFD], size, &row->uffd, "");
  snprintf(line->cells[ENGINE], size, "%s", row->engine);
  if (row->base_name != NULL) {
    put_spread(line->cells[BASE], size, &row->base, row->base_name);
    snprintf(line->cells[RATIO], size, "%.2f", ratio_of(row));
  }
  if (row->limit_name != NULL) {
    put_spread(line->cells[LIMIT], size, &row->limit, row->limit_name);
    snprintf(line->cells[OF_LIMIT], size, "%.2f", of_limit(row));
  }
  struct row shown = *row;
  if (machine->host != HOST_BARE_METAL)
    shown.at_least = shown.at_most = shown.most = 0; /* set on another kind of host */
  put_target(line->cells[TARGET], size, &shown);
  put_met(line->cells[MET], size, &shown);
}

static void print_line(const struct line *line, const size_t widths[COLUMNS]) {
  for (int column = 0; column < COLUMNS; column++) {
    printf("| %-*s ", (int)widths[column], line->cells[column]);
  }
  puts("|");
}

static void print_table(void) {
  struct line line;
  size_t widths[COLUMNS] = {0};
  for (size_t i = 0; i < rows_count; i++) {
    fill_line(&rows[i], &line);
    for (int column = 0; column < COLUMNS; column++) {
      size_t length = strlen(line.cells[column]), title = strlen(titles[column]);
      if (length < title) length = title;
      if (length > widths[column]) widths[column] = length;
    }
  }
  widths[MET] = 0; /* the last column is as long as its text */
  for (int column = 0; column < COLUMNS; column++) {
    snprintf(line.cells[column], sizeof(line.cells[column]), "%s", titles[column]);
  }
  print_line(&line, widths);
  for (int column = 0; column < COLUMNS; column++) {
    printf("|%.*s", (int)(widths[column] > 0 ? widths[column] : 3) + (column == MET ? 0 : 2),
           "--------------------------------------------------------------------------------");
  }
  puts("|");
  for (size_t i = 0; i < rows_count; i++) {
    fill_line(&rows[i], &line);
    print_line(&line, widths);
  }
}

/* Cost against size */

/* Twice as much is noise: a cost that grows with its size is many times as much. */
static enum growth growth_of(const struct cost *cost, double *times, double *larger) {
  unsigned last = cost->count - 1;
  double first_size = cost->sizes[0] > 1 ? cost->sizes[0] : 1;
  *times = cost->costs[last].median / cost->costs[0].median;
  *larger = cost->sizes[last] / first_size;
  if (*times <= 2) return GROWTH_FLAT;
  return *times <= 1.5 * *larger ? GROWTH_LINEAR : GROWTH_WORSE;
}

static void print_cost(const struct cost *cost) {
  static const char *const words[] = {"flat", "linear", "worse than linear"};
  double times, larger;
  enum growth growth = growth_of(cost, &times, &larger);
  printf("| %s | %s | %s | ", cost->name, cost->unit, cost->engine);
  for (unsigned i = 0; i < cost->count; i++) {
    char cell[64];
    put_spread(cell, sizeof(cell), &cost->costs[i], "");
    printf("%s%.0f: %s", i == 0 ? "" : ", ", cost->sizes[i], cell);
  }
  printf(" | %s | %s, %.3g times as much for %.3g times the size | %s: %s |\n", cost->size_unit, words[growth], times,
         larger, growth <= cost->promised ? "yes" : "no", cost->reason);
}

static void print_costs(void) {
  if (costs_count == 0) return;
  puts("\n| case | unit | engine | cost at each size | size | growth | as promised, and why |");
  puts("|---|---|---|---|---|---|---|");
  for (size_t i = 0; i < costs_count; i++) {
    print_cost(&costs[i]);
  }
}

/* Options */

static int usage(FILE *file) {
  fputs("usage: uffd-bench [--case NAME]... [--list] [--json]\n", file);
  return file == stdout ? 0 : 2;
}

static void list_cases(void) {
  for (size_t i = 0; i < CASES; i++) {
    printf("%-20s %s\n", cases[i].name, cases[i].what);
  }
}

/* Returns CASES when there is no such case. */
static size_t find_case(const char *name) {
  size_t i = 0;
  while (i < CASES && strcmp(cases[i].name, name) != 0) {
    i++;
  }
  return i;
}

/* Skipped, as the tests are, where the kernel or the permissions have no userfaultfd. */
static bool can_run(void) {
  struct uffd_probe probe = UFFD_PROBE_INIT;
  char advice[512];
  must(uffd_probe(&probe));
  if (probe.usable) return true;
  for (unsigned i = 0; uffd_probe_advice(&probe, i, advice, sizeof(advice)) > 0; i++) {
    fprintf(stderr, "uffd-bench: %s\n", advice);
  }
  return false;
}

static const char *running = "";

static void give_up(int number) {
  (void)number;
  static const char text[] = "uffd-bench: a minute has passed in the case ";
  bool told = write(STDERR_FILENO, text, sizeof(text) - 1) > 0 && write(STDERR_FILENO, running, strlen(running)) > 0 &&
              write(STDERR_FILENO, "\n", 1) > 0;
  _exit(told ? 1 : 3);
}

static void run_case(size_t i) {
  running = cases[i].name;
  if (isatty(STDERR_FILENO)) fprintf(stderr, "\r\033[K%s", running);
  alarm(PATIENCE_S);
  cases[i].run(running);
  alarm(0);
}

int main(int argc, char **argv) {
  bool chosen[CASES] = {false}, all = true;
  if (argc == 2 && strcmp(argv[1], CLIENT_OPTION) == 0) return client_main();
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--list") == 0) {
      list_cases();
      return 0;
    } else if (strcmp(argv[i], "--help") == 0) {
      return usage(stdout);
    } else if (strcmp(argv[i], "--json") == 0) {
      json = true;
    } else if (strcmp(argv[i], "--case") == 0 && i + 1 < argc) {
      size_t found = find_case(argv[++i]);
      if (found == CASES) {
        fprintf(stderr, "uffd-bench: there is no case '%s'; --list tells which there are\n", argv[i]);
        return 2;
      }
      chosen[found] = true;
      all = false;
    } else {
      return usage(stderr);
    }
  }
  if (!can_run()) return 77;
  signal(SIGALRM, give_up);
  machine = machine_measure();
  if (json) print_machine_json(machine);
  for (size_t i = 0; i < CASES; i++) {
    if (all || chosen[i]) run_case(i);
  }
  if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
  if (!json) {
    print_machine(machine);
    if (rows_count > 0) print_table();
    print_costs();
  }
  return 0;
}
