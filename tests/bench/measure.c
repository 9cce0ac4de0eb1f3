/*
 * Clocks, processors, medians.
 */
#include "measure.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <uffd.h>

#include "plan.h"

#define RUNS_MIN 5u
#define RUNS_MAX 9u

void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("uffd-bench: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

void temporary_path(char *path, size_t size, const char *name) {
  const char *folder = getenv("TMPDIR");
  snprintf(path, size, "%s/uffd-bench-%d-%s", folder != NULL ? folder : "/tmp", (int)getpid(), name);
}

void pin(int cpu) {
  static cpu_set_t all;
  if (CPU_COUNT(&all) == 0) sched_getaffinity(0, sizeof(all), &all);
  cpu_set_t set = all;
  if (cpu >= 0) {
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
  }
  sched_setaffinity(0, sizeof(set), &set);
}

int current_cpu(void) {
  return sched_getcpu();
}

static uint64_t nanoseconds(struct timeval time) {
  return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_usec * 1000;
}

static uint64_t anonymous_bytes(void) {
  unsigned long long size, resident, shared;
  FILE *file = fopen("/proc/self/statm", "re");
  if (file == NULL || fscanf(file, "%llu %llu %llu", &size, &resident, &shared) != 3)
    die("cannot read /proc/self/statm");
  fclose(file);
  return (resident - shared) * PAGE;
}

struct usage usage_now(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (struct usage){nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime),
                        (uint64_t)usage.ru_nvcsw + (uint64_t)usage.ru_nivcsw, anonymous_bytes()};
}

static int compare_double(const void *left, const void *right) {
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

struct spread spread_of(double *values, size_t count) {
  qsort(values, count, sizeof(*values), compare_double);
  return (struct spread){values[count / 2], values[0], values[count - 1]};
}

static int compare_sample(const void *left, const void *right) {
  uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
  return (a > b) - (a < b);
}

double percentile(uint32_t *samples, size_t count, double share) {
  if (count == 0) return 0;
  qsort(samples, count, sizeof(*samples), compare_sample);
  size_t index = (size_t)((double)count * share);
  return samples[index < count ? index : count - 1];
}

/*
 * A virtual machine's memory costs much more while its host has to find it. So the pages that the next run will get are
 * written to first, and freed again.
 */
static void warm(uint64_t length, bool huge) {
  char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) die("no memory for %llu bytes", (unsigned long long)length);
  if (huge) madvise(memory, length, MADV_HUGEPAGE); /* such pages come from elsewhere */
  memset(memory, 1, length);
  munmap(memory, length);
}

static void run(const struct contender *contender, bool check, double figures[FIGURES]) {
  memset(figures, 0, FIGURES * sizeof(*figures));
  contender->run(contender->plan, check, figures);
  pin(-1);
}

static unsigned choose_runs(uint64_t round_ns, uint64_t budget_ns) {
  uint64_t runs = budget_ns / (round_ns + 1);
  if (runs < RUNS_MIN) return RUNS_MIN;
  return runs > RUNS_MAX ? RUNS_MAX : (unsigned)runs | 1; /* odd: the median is a run */
}

static uint64_t largest(const struct contender *contenders, size_t count) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < count; i++) {
    uint64_t touched = plan_pages(contenders[i].plan) * PAGE;
    if (touched > bytes) bytes = touched;
  }
  return bytes;
}

unsigned interleave(struct contender *contenders, size_t count, uint64_t budget_ns) {
  double(*values)[FIGURES][RUNS_MAX] = calloc(count, sizeof(*values)), figures[FIGURES];
  if (values == NULL) die("no memory");
  uint64_t begin = now_ns(), bytes = largest(contenders, count);
  bool huge = contenders[0].plan->kind == UFFD_MEMORY_THP;
  warm(bytes, huge);
  for (size_t i = 0; i < count; i++) {
    run(&contenders[i], true, figures);
  }
  unsigned runs = choose_runs(now_ns() - begin, budget_ns);
  for (unsigned round = 0; round < runs; round++) {
    warm(bytes, huge);
    for (size_t i = 0; i < count; i++) {
      run(&contenders[i], false, figures);
      for (int figure = 0; figure < FIGURES; figure++) {
        values[i][figure][round] = figures[figure];
      }
    }
  }
  for (size_t i = 0; i < count; i++) {
    for (int figure = 0; figure < FIGURES; figure++) {
      contenders[i].figures[figure] = spread_of(values[i][figure], runs);
    }
  }
  free(values);
  return runs;
}
