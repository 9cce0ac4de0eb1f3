/*
 * For tests of resolvers: a view, which is fresh memory that one loop serves from one resolver; and random numbers
 * whose seed is printed.
 */
#ifndef UFFD_TESTS_RESOLVING_H
#define UFFD_TESTS_RESOLVING_H

#include "serving.h"

struct view_opts {
  int kind;                 /* MEMORY_* */
  uint64_t length;          /* bytes, whole pages of the kind */
  uint64_t resolver_offset; /* of the first byte */
  uint64_t around, modes;
  uint32_t on_error;
  int engine;             /* ENGINE_ONE, _TWO, _FIVE */
  struct serving *shared; /* a loop of the caller's that serves many views; NULL: the view has its own */
};

struct view {
  struct serving serving;
  bool shared;
  uffd_memory *memory;
  uffd_region *region;
  unsigned char *at;
  uint64_t length, page;
};

/* The resolver stays the caller's. */
struct view view_open(uffd_resolver *resolver, const struct view_opts *opts);
/* False if adding it is refused with -EINVAL. Close the view in either case. */
bool view_try(uffd_resolver *resolver, const struct view_opts *opts, struct view *view);
/* Adding it must be refused with this error, and these words must be in the sentence. */
void view_refused(uffd_resolver *resolver, const struct view_opts *opts, int error, const char *words);
void view_close(struct view *view);

/* Opens a view, reads every byte, from the last page to the first, and closes it. */
void view_expect(uffd_resolver *resolver, const struct view_opts *opts, const unsigned char *expected);
/* Both must be equal; names the first byte that differs. */
bool view_same(const unsigned char *at, const unsigned char *expected, uint64_t length);

struct view_random {
  uint64_t state;
};
/* From the environment variable CHECK_SEED, or the clock. Prints it. */
struct view_random view_seed(void);
uint64_t view_next(struct view_random *random, uint64_t below);

#endif
