/*
 * Where signal handlers look addresses up: a sorted copy of the slices of all inline loops, read without locks while
 * regions come and go. A writer publishes a new copy, and frees the old one when nobody who may have seen it is inside.
 */
#include "loop/engine/inline/directory.h"

#include <sched.h>
#include <string.h>

#define STRIPES 64u /* readers count in lines of their own, so that faulting threads do not share one */

struct directory {
  size_t count, capacity;
  struct uffd_entry entries[];
};

static struct { _Alignas(64) _Atomic uint32_t inside[2]; } readers[STRIPES];
static _Atomic uint32_t phase;
static struct directory *_Atomic current;
static struct directory *spare; /* nobody reads it: the next copy is made here. As large as the last current one */
static struct uffd_lock writing = UFFD_LOCK_INIT;

/* The last ranges that were taken out: a thread may have faulted there before, and look only now. */
#define PAST 64u
static struct { _Atomic uint64_t start, end; } past[PAST];
static uint32_t past_next; /* under writing */

struct uffd_visit uffd_directory_enter(void) {
  /* stacks differ between threads and cost nothing to tell apart */
  uintptr_t stack = (uintptr_t)__builtin_frame_address(0);
  struct uffd_visit visit = {.stripe = (uint32_t)((stack >> 12) * UINT64_C(0x9E3779B97F4A7C15) >> 58)};
  visit.phase = atomic_load(&phase) & 1;
  atomic_fetch_add(&readers[visit.stripe].inside[visit.phase], 1);
  return visit;
}

void uffd_directory_leave(struct uffd_visit visit) {
  atomic_fetch_sub_explicit(&readers[visit.stripe].inside[visit.phase], 1, memory_order_release);
}

const struct uffd_entry *uffd_directory_find(uint64_t address) {
  const struct directory *directory = atomic_load(&current);
  size_t low = 0, high = directory == NULL ? 0 : directory->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (directory->entries[middle].slice.end <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (directory == NULL || low == directory->count || directory->entries[low].slice.start > address) return NULL;
  return &directory->entries[low];
}

bool uffd_directory_had(uint64_t address) {
  for (uint32_t i = 0; i < PAST; i++) {
    if (address >= atomic_load(&past[i].start) && address < atomic_load(&past[i].end)) return true;
  }
  return false;
}

/*
 * Waits until everybody who came before has left. Twice, because a reader may have read the phase just before it turned
 * and counts itself in the old one afterwards.
 */
static void wait_for_readers(void) {
  for (int round = 0; round < 2; round++) {
    uint32_t old = atomic_fetch_add(&phase, 1) & 1;
    for (uint32_t i = 0; i < STRIPES; i++) {
      while (atomic_load(&readers[i].inside[old]) != 0) {
        sched_yield();
      }
    }
  }
}

static size_t directory_size(size_t capacity) {
  return sizeof(struct directory) + capacity * sizeof(struct uffd_entry);
}

/* Nobody is inside in a forked child: the counts are of threads that it does not have. */
static void begin_writing(void) {
  if (uffd_lock(&writing)) {
    memset(readers, 0, sizeof(readers));
    atomic_store(&current, NULL); /* the parent's: of no use here, and not worth freeing */
    spare = NULL;
  }
  BARRIER("directory", NULL);
}

/* Makes the spare copy the current one; the old one is the spare as soon as nobody reads it any more. */
static void publish(void) {
  struct directory *old = atomic_exchange(&current, spare);
  wait_for_readers();
  spare = old;
}

/* Not from the user's allocator: the copies outlast every loop. */
static int reserve(size_t count) {
  if (spare != NULL && spare->capacity >= count) return 0;
  struct directory *made = uffd_pages_map(directory_size(2 * count));
  if (made == NULL) return -ENOMEM;
  made->capacity = 2 * count;
  if (spare != NULL) uffd_pages_unmap(spare, directory_size(spare->capacity));
  spare = made;
  return 0;
}

static void copy_entries(const struct directory *from, const struct uffd_terms *without) {
  spare->count = 0;
  for (size_t i = 0; from != NULL && i < from->count; i++) {
    if (from->entries[i].slice.terms != without) spare->entries[spare->count++] = from->entries[i];
  }
}

int uffd_directory_add(const struct uffd_entry *entry) {
  begin_writing();
  const struct directory *old = atomic_load(&current);
  int result = reserve(old == NULL ? 1 : old->count + 1);
  if (result == 0) {
    copy_entries(old, NULL);
    size_t at = spare->count++;
    for (; at > 0 && spare->entries[at - 1].slice.start > entry->slice.start; at--) {
      spare->entries[at] = spare->entries[at - 1];
    }
    spare->entries[at] = *entry;
    publish();
  }
  uffd_unlock(&writing);
  return result;
}

/* False when the region is in no entry. */
static bool remember(const struct directory *directory, const struct uffd_terms *terms) {
  bool found = false;
  for (size_t i = 0; directory != NULL && i < directory->count; i++) {
    const struct uffd_slice *slice = &directory->entries[i].slice;
    if (slice->terms != terms) continue;
    atomic_store(&past[past_next].end, 0); /* never half of one range and half of another */
    atomic_store(&past[past_next].start, slice->start);
    atomic_store(&past[past_next].end, slice->end);
    past_next = (past_next + 1) % PAST;
    found = true;
  }
  return found;
}

/*
 * Always possible: the spare copy is what the current one was before its last entry was added, or larger. A region that
 * has no entry, as one that was refused or is removed already, needs none.
 */
void uffd_directory_remove(const struct uffd_terms *terms) {
  begin_writing();
  const struct directory *old = atomic_load(&current);
  if (remember(old, terms)) {
    if (spare != NULL) copy_entries(old, terms);
    publish(); /* without a spare there is but the one entry */
  }
  uffd_unlock(&writing);
}
