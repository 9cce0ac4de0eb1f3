/*
 * Clocks, processors, medians: how a figure is measured. Knows nothing of userfaultfd.
 */
#ifndef UFFD_BENCH_MEASURE_H
#define UFFD_BENCH_MEASURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE      UINT64_C(4096)
#define HUGE_PAGE (UINT64_C(2) << 20)
#define KIB       (UINT64_C(1) << 10)
#define MIB       (UINT64_C(1) << 20)

/* Ends the program because the benchmark's own set-up failed. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

uint64_t now_ns(void); /* CLOCK_MONOTONIC */

/* Where a file of this process may be, in TMPDIR. */
void temporary_path(char *path, size_t size, const char *name);

/* The calling thread, and those that it makes from then on, stay on one processor; -1: on any. */
void pin(int cpu);
int current_cpu(void);

/* What the process has used so far. */
struct usage {
  uint64_t cpu_ns;
  uint64_t switches;  /* of context, voluntary and not */
  uint64_t anonymous; /* bytes of anonymous memory that it has now, without the kernel's zero pages */
};
struct usage usage_now(void);

struct spread {
  double median, low, high; /* low, high: the extremes of all runs */
};
/* Sorts values. */
struct spread spread_of(double *values, size_t count);
/* The sample below which the share of all lies; sorts samples. */
double percentile(uint32_t *samples, size_t count, double share);

/*
 * The result of one run: the main figure; for timed plans a percentile and the longest; what else a page took; whether
 * the companion had the charge at the end.
 */
enum figure { MAIN, TAIL, LONGEST, CPU, SWITCHES, ANONYMOUS, FAULTS, PLACED, FIGURES };

struct plan;
/* One way to do a plan's work. check: compare the contents afterwards, outside the timing. */
typedef void run_fn(const struct plan *plan, bool check, double figures[FIGURES]);

struct contender {
  run_fn *run;
  const struct plan *plan;
  struct spread figures[FIGURES];
};

/*
 * Runs the contenders in turn, A B C A B C, so that a disturbance of the machine hits all of them. The first round
 * warms up and checks the contents. Then 5 to 9 rounds, as many as budget_ns allows. Returns how many.
 */
unsigned interleave(struct contender *contenders, size_t count, uint64_t budget_ns);

#endif
