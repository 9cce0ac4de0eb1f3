/*
 * Which pages are touched, and what they must hold.
 */
#include "plan.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RANDOM_SHARE 4u /* of the pages one is touched */
#define STRIDE       4u
#define THREADS_MAX  2u
#define SAMPLES_MAX  (1u << 16)
#define CACHE_LINE   64

const char *constant_page(void) {
  static char page[PAGE] __attribute__((aligned(4096)));
  if (page[0] == 0) memset(page, CONSTANT_BYTE, sizeof(page));
  return page;
}

/* One thread's share of the work. */
struct part {
  const struct plan *plan;
  char *memory;
  const uint32_t *pages;
  size_t count, done;
  uint32_t *samples; /* NULL: not timed */
  pthread_barrier_t *barrier;
  uint64_t begin, end; /* of the touching */
} __attribute__((aligned(CACHE_LINE)));

static unsigned threads_of(const struct plan *plan) {
  return plan->threads == 0 ? 1 : plan->threads;
}

static size_t all_pages(const struct plan *plan) {
  return (plan->part == 0 ? plan->length : plan->part) / PAGE;
}

/* Mappings that differ in what a core dump would have of them are not merged. */
uint64_t plan_split(const struct plan *plan, char *memory) {
  uint64_t length = plan->regions != 0 ? plan->length / plan->regions : plan->length;
  for (uint64_t at = length; at < plan->length; at += 2 * length) {
    if (madvise(memory + at, length, MADV_DONTDUMP) != 0) die("cannot split the memory: %m");
  }
  return length;
}

size_t plan_pages(const struct plan *plan) {
  size_t all = all_pages(plan);
  if (plan->order == RANDOM) return all / (plan->share == 0 ? RANDOM_SHARE : plan->share);
  return plan->order == EVERY_4TH ? all / STRIDE : all;
}

static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
  return *state;
}

/* The first `count` of a shuffle of [first, first + among). The same every time. */
static void shuffle(uint32_t *pages, uint32_t first, size_t among, size_t count) {
  uint64_t state = UINT64_C(0x9E3779B97F4A7C15);
  uint32_t *all = malloc(among * sizeof(*all));
  if (all == NULL) die("no memory");
  for (size_t i = 0; i < among; i++) {
    all[i] = first + (uint32_t)i;
  }
  for (size_t i = 0; i < count; i++) {
    size_t other = i + next_random(&state) % (among - i);
    uint32_t page = all[other];
    all[other] = all[i];
    pages[i] = all[i] = page;
  }
  free(all);
}

uint32_t *plan_list(const struct plan *plan) {
  size_t count = plan_pages(plan), last = plan->length / PAGE - 1;
  uint32_t *pages = malloc(count * sizeof(*pages));
  if (pages == NULL) die("no memory");
  if (plan->order == RANDOM) {
    size_t threads = threads_of(plan), among = all_pages(plan) / threads;
    for (size_t i = 0; i < threads; i++) {
      shuffle(pages + i * (count / threads), (uint32_t)(i * among), among, count / threads);
    }
    return pages;
  }
  for (size_t i = 0; i < count; i++) {
    pages[i] = (uint32_t)(plan->order == BACKWARD ? last - i : plan->order == EVERY_4TH ? i * STRIDE : i);
  }
  return pages;
}

static inline void touch_page(const struct plan *plan, volatile char *byte) {
  if (plan->write) {
    *byte = CONSTANT_BYTE;
  } else {
    (void)*byte;
  }
}

static void touch_timed(struct part *part) {
  uint64_t limit = part->plan->limit_ns == 0 ? UINT64_MAX : part->begin + part->plan->limit_ns, before = part->begin;
  for (size_t i = 0; i < part->count && before < limit; i++) {
    before = now_ns();
    touch_page(part->plan, part->memory + part->pages[i] * PAGE);
    uint64_t taken = now_ns() - before;
    part->samples[i] = taken < UINT32_MAX ? (uint32_t)taken : UINT32_MAX;
    part->done++;
  }
}

static void *touch_part(void *argument) {
  struct part *part = argument;
  if (part->barrier != NULL) pthread_barrier_wait(part->barrier);
  part->begin = now_ns();
  if (part->samples != NULL) {
    touch_timed(part);
  } else {
    for (size_t i = 0; i < part->count; i++) {
      touch_page(part->plan, part->memory + part->pages[i] * PAGE);
    }
    part->done = part->count;
  }
  part->end = now_ns();
  return NULL;
}

static void touch_parts(struct part *parts, unsigned count) {
  pthread_t others[THREADS_MAX];
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, NULL, count);
  for (unsigned i = 1; i < count; i++) {
    parts[i].barrier = &barrier;
    if (pthread_create(&others[i], NULL, touch_part, &parts[i]) != 0) die("no thread");
  }
  if (count > 1) parts[0].barrier = &barrier;
  touch_part(&parts[0]);
  for (unsigned i = 1; i < count; i++) {
    pthread_join(others[i], NULL);
  }
  pthread_barrier_destroy(&barrier);
}

void plan_touch(const struct plan *plan, char *memory, double figures[FIGURES]) {
  static uint32_t samples[SAMPLES_MAX];
  unsigned threads = threads_of(plan);
  size_t count = plan_pages(plan);
  uint32_t *pages = plan_list(plan);
  struct part parts[THREADS_MAX] = {{0}};
  if (threads > THREADS_MAX || (plan->timed && count > SAMPLES_MAX)) die("the plan is too large");
  memset(samples, 0, sizeof(samples)); /* mapped before the clock runs */
  for (unsigned i = 0; i < threads; i++) {
    size_t first = count / threads * i;
    parts[i] = (struct part){.plan = plan, .memory = memory, .pages = pages + first, .count = count / threads};
    if (plan->timed) parts[i].samples = samples + first;
  }
  struct usage before = usage_now();
  uint64_t begin = now_ns();
  if (plan->begin != NULL) plan->begin(plan, memory);
  touch_parts(parts, threads);
  struct usage after = usage_now();
  uint64_t end = parts[0].end;
  if (plan->begin == NULL) begin = parts[0].begin;
  for (unsigned i = 1; i < threads; i++) {
    if (parts[i].begin < begin) begin = parts[i].begin;
    if (parts[i].end > end) end = parts[i].end;
  }
  double done = (double)(plan->timed ? parts[0].done : count);
  figures[MAIN] = plan->timed ? percentile(samples, parts[0].done, 0.5) : (double)(end - begin) / done;
  if (plan->timed) {
    figures[TAIL] = percentile(samples, parts[0].done, plan->tail);
    figures[LONGEST] = percentile(samples, parts[0].done, 1);
  }
  figures[CPU] = (double)(after.cpu_ns - before.cpu_ns) / done;
  figures[SWITCHES] = (double)(after.switches - before.switches) / done;
  figures[ANONYMOUS] = ((double)after.anonymous - (double)before.anonymous) / done;
  free(pages);
}

static bool holds(const struct plan *plan, const char *page, uint64_t offset) {
  uint64_t word;
  switch (plan->contents) {
  case IMAGE:
    return memcmp(page, plan->image->mapping + offset, PAGE) == 0;
  case CONSTANT:
    return memcmp(page, constant_page(), PAGE) == 0;
  case NUMBERED:
    memcpy(&word, page, sizeof(word));
    return word == offset && memcmp(page, page + sizeof(word), PAGE - sizeof(word)) == 0;
  default:
    return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
  }
}

void plan_check(const struct plan *plan, const char *memory) {
  uint32_t *pages = plan_list(plan);
  if (plan->limit_ns != 0 || plan->write) die("such a plan cannot be checked");
  for (size_t i = 0; i < plan_pages(plan); i++) {
    uint64_t offset = pages[i] * PAGE;
    if (!holds(plan, memory + offset, offset)) die("page %u does not hold what it should", pages[i]);
  }
  free(pages);
}
