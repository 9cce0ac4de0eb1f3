/*
 * Memory for bookkeeping, from malloc or from the user's allocator. Allocations that live are counted: the allocator
 * cannot be changed while there are any.
 */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static struct uffd_allocator user; /* written before the first handle exists: see uffd_set_allocator() */
static atomic_size_t living;       /* allocations */

int uffd_set_allocator(const struct uffd_allocator *allocator) {
  struct uffd_allocator taken = {.size = sizeof(taken)};
  int rc = uffd_take_opts(&taken, sizeof(taken), allocator, "uffd_allocator");
  if (rc < 0) return rc;
  if (allocator != NULL && (taken.alloc == NULL || taken.free == NULL))
    return fail(EINVAL, "An allocator needs both functions, alloc and free.");
  if (atomic_load(&living) > 0)
    return fail(EBUSY, "The allocator cannot change while handles exist: set it first, or close them all.");
  user = taken;
  return 0;
}

void *uffd_alloc(size_t length) {
  void *pointer;
  if (user.alloc == NULL) {
    pointer = calloc(1, length);
  } else {
    pointer = user.alloc(user.ctx, length);
    if (pointer != NULL) memset(pointer, 0, length);
  }
  if (pointer != NULL) atomic_fetch_add(&living, 1);
  return pointer;
}

void uffd_release(void *pointer, size_t length) {
  if (pointer == NULL) return;
  if (user.free == NULL) {
    free(pointer);
  } else {
    user.free(user.ctx, pointer, length);
  }
  atomic_fetch_sub(&living, 1);
}
