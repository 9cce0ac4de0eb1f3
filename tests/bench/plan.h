/*
 * The work that contenders do: which pages are touched, in which order, and what they must hold.
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
  RANDOM /* within each thread's part of the memory */
};

struct plan {
  uint64_t length; /* bytes of memory */
  uint64_t part;   /* bytes of it that are touched, 0: all. For contenders that are too slow for all of it */
  enum order order;
  unsigned share; /* RANDOM: of so many pages one is touched; 0: 4 */
  enum contents contents;
  const struct image *image;
  bool write;
  bool timed;         /* each access by itself: MAIN is the median, TAIL the percentile below */
  double tail;        /* share */
  uint64_t limit_ns;  /* timed: no more accesses after so long; 0: none */
  unsigned threads;   /* that touch, each in a part of its own; 0: 1 */
  uint32_t engine;    /* UFFD_ENGINE_* */
  uint32_t placement; /* UFFD_PLACEMENT_*, of the threads engine */
  uint64_t around;    /* bytes, or UFFD_AROUND_AUTO; 0: one page */
  uint32_t kind;      /* UFFD_MEMORY_* */
  unsigned regions;   /* of equal length, each a mapping of its own for the kernel; 0: 1 */
  void (*begin)(const struct plan *plan,
                const char *memory); /* right before the touches, and timed with them; or NULL */
  const void *special;               /* for the case's own contenders */
};

/* Splits fresh memory into the plan's regions; the length of each. */
uint64_t plan_split(const struct plan *plan, char *memory);
/* Pages that the plan touches. */
size_t plan_pages(const struct plan *plan);
/* Their numbers, in the order of touching; for free(). */
uint32_t *plan_list(const struct plan *plan);
/* Touches them, and fills figures in, a page. */
void plan_touch(const struct plan *plan, char *memory, double figures[FIGURES]);
/* Ends the program when a page that was touched does not hold what it should. */
void plan_check(const struct plan *plan, const char *memory);

#endif
