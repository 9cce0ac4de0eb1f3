/*
 * The work that contenders do, each in its own way: which pages are touched, in which order, and what they must hold.
 */
#ifndef UFFD_BENCH_PLAN_H
#define UFFD_BENCH_PLAN_H

#include "measure.h"

/* A file in the page cache. */
struct image {
  int fd;
  uint64_t length;
  const char *mapping; /* shared, and all of it mapped in */
};

/* What the pages hold. */
enum contents { ZEROS, IMAGE, CONSTANT, NUMBERED /* each 8 bytes are the page's offset */ };
#define CONSTANT_BYTE 'u'
extern const char *constant_page(void);

enum order {
  FORWARD,
  BACKWARD,
  EVERY_4TH,
  RANDOM /* within each thread's part of the memory; every 4th page of it */
};

struct plan {
  uint64_t length; /* bytes of memory */
  uint64_t part;   /* bytes of it that are touched, 0: all. For those who are too slow for all of it */
  enum order order;
  enum contents contents;
  const struct image *image;
  bool write;
  bool timed;          /* each access by itself: MAIN is the median, TAIL the percentile below */
  double tail;         /* share */
  uint64_t limit_ns;   /* timed: no more accesses after so long; 0: none */
  unsigned threads;    /* that touch, each in a part of its own; 0: 1 */
  uint32_t engine;     /* UFFD_ENGINE_* */
  uint64_t around;     /* bytes, or UFFD_AROUND_AUTO */
  uint32_t kind;       /* UFFD_MEMORY_* */
  const void *special; /* for the case's own contenders */
};

/* Pages that the plan touches. */
size_t plan_pages(const struct plan *plan);
/* Touches them, and fills figures in, a page. */
void plan_touch(const struct plan *plan, char *memory, double figures[FIGURES]);
/* Ends the program when a page that was touched does not hold what it should. */
void plan_check(const struct plan *plan, const char *memory);

#endif
