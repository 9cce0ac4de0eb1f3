/*
 * Stores: where pages go. One vtable; one file a store. A store never touches the memory whose pages it is given.
 */
#ifndef UFFD_STORE_STORE_H
#define UFFD_STORE_STORE_H

#include "base/base.h"

struct uffd_store_class {
  const char *kind;
  bool lasting; /* what was put stays, whatever fails later: nothing is given up */
  /* As the public functions, which check kind, length and overflow first. flush and abort may be NULL. */
  int (*put)(uffd_store *store, uint64_t offset, uint32_t kind, const void *data, uint64_t length);
  int (*flush)(uffd_store *store);
  int (*finish)(uffd_store *store);
  void (*abort)(
      uffd_store *store); /* called when the store was not finished, or finishing failed: nothing must be left behind */
  void (*destroy)(uffd_store *store); /* frees it */
};

enum { UFFD_STORE_OPEN = 0, UFFD_STORE_FAILED = 1, UFFD_STORE_FINISHED = 2 };

/* The head of every store. */
struct uffd_store {
  const struct uffd_store_class *class;
  const char *kind;
  uint64_t process;
  uint32_t state; /* UFFD_STORE_OPEN, ... */
};

/* Fills in the head of a store that its maker has allocated. */
static inline void uffd_store_init(uffd_store *store, const struct uffd_store_class *class) {
  store->class = class;
  store->kind = class->kind;
  store->process = uffd_process();
}

#endif
