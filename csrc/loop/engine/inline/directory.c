/*
 * Where signal handlers look addresses up: the slices of all inline loops, sorted, read without locks while regions
 * come and go. What is read is never given back to the system: a list that is overwritten meanwhile is read again, and
 * an entry that belongs to another region by now is noticed when it is held.
 */
#include "loop/engine/inline/directory.h"

#include <limits.h>

#define CLOSED       (UINT32_C(1) << 31) /* of users: nobody holds the record any more, or only for an instant */
#define SLAB_RECORDS 64u

struct record {
  struct uffd_entry entry; /* first; written while the record is closed and nobody has it */
  _Atomic uint32_t users;  /* who hold it, and CLOSED; a futex for the one who removes it */
  struct record *next;     /* of those that are free; under writing */
};

struct place {
  _Atomic uint64_t start, end;
  struct record *_Atomic record;
};

struct list {
  size_t capacity; /* set once */
  _Atomic size_t count;
  struct place places[];
};

static struct list *_Atomic current;
static _Atomic uint64_t version; /* counts up after current has changed, before what it was is overwritten */
static _Atomic uint64_t removals;
/* under writing */
static struct uffd_lock writing = UFFD_LOCK_INIT;
static struct list *spare; /* the next one is written here; as large as the current one */
static struct record *unused;

static bool hold(struct record *record) {
  if ((atomic_fetch_add_explicit(&record->users, 1, memory_order_acquire) & CLOSED) == 0) return true;
  uffd_entry_drop(&record->entry);
  return false;
}

void uffd_entry_drop(const struct uffd_entry *entry) {
  struct record *record = (struct record *)(uintptr_t)entry;
  uint32_t users = atomic_fetch_sub_explicit(&record->users, 1, memory_order_release);
  if (users == (CLOSED | 1)) uffd_futex_wake(&record->users, INT_MAX);
}

static struct record *search(const struct list *list, uint64_t address) {
  size_t count = list == NULL ? 0 : atomic_load_explicit(&list->count, memory_order_acquire), low = 0, high = count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (atomic_load_explicit(&list->places[middle].end, memory_order_acquire) <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == count || atomic_load_explicit(&list->places[low].start, memory_order_acquire) > address) return NULL;
  return atomic_load_explicit(&list->places[low].record, memory_order_acquire);
}

static bool has(const struct record *record, uint64_t address) {
  return record->entry.slice.start <= address && address < record->entry.slice.end;
}

const struct uffd_entry *uffd_entry_hold(uint64_t address) {
  uint64_t seen;
  do {
    seen = atomic_load(&version);
    struct record *record = search(atomic_load(&current), address);
    if (record != NULL && hold(record)) {
      if (has(record, address)) return &record->entry;
      uffd_entry_drop(&record->entry);
    }
  } while (atomic_load(&version) != seen);
  return NULL;
}

uint64_t uffd_directory_removals(void) {
  return atomic_load(&removals);
}

/* In a forked child the records are held by threads that it does not have, and describe what is not served there. */
static void begin_writing(void) {
  if (uffd_lock(&writing)) {
    atomic_store(&current, NULL);
    spare = NULL;
    unused = NULL;
  }
  BARRIER("directory", NULL);
}

static void append(struct list *list, uint64_t start, uint64_t end, struct record *record) {
  size_t at = atomic_load_explicit(&list->count, memory_order_relaxed);
  atomic_store_explicit(&list->places[at].start, start, memory_order_release);
  atomic_store_explicit(&list->places[at].end, end, memory_order_release);
  atomic_store_explicit(&list->places[at].record, record, memory_order_release);
  atomic_store_explicit(&list->count, at + 1, memory_order_release);
}

static void copy_part(const struct place *place, uint64_t start, uint64_t end) {
  append(spare, max_u64(start, atomic_load(&place->start)), min_u64(end, atomic_load(&place->end)),
         atomic_load(&place->record));
}

/* Makes the spare list the current one; the old one is the spare. */
static void publish(void) {
  spare = atomic_exchange(&current, spare);
  atomic_fetch_add(&version, 1);
}

/*
 * A list with room for so many places, if this one has not; NULL: no memory. Not from the user's allocator: lists and
 * records outlast every loop. A list that is too short is left: see above.
 */
static struct list *enlarge(struct list *list, size_t count) {
  if (list != NULL && list->capacity >= count) return list;
  struct list *made = uffd_pages_map(sizeof(*made) + 2 * count * sizeof(struct place));
  if (made != NULL) made->capacity = 2 * count;
  return made;
}

static struct record *take_unused(void) {
  if (unused == NULL) {
    struct record *slab = uffd_pages_map(SLAB_RECORDS * sizeof(*slab));
    for (uint32_t i = 0; slab != NULL && i < SLAB_RECORDS; i++) {
      atomic_store(&slab[i].users, CLOSED);
      slab[i].next = unused;
      unused = &slab[i];
    }
  }
  struct record *record = unused;
  if (record != NULL) unused = record->next;
  return record;
}

static size_t length(const struct list *list) {
  return list == NULL ? 0 : atomic_load(&list->count);
}

/*
 * What older records had in the same addresses is cut out: it was unmapped, or moved away, unseen. One of which nothing
 * is left keeps an empty place, where it is found when its region ends.
 */
static void insert(const struct list *old, struct record *record) {
  const struct uffd_slice *slice = &record->entry.slice;
  size_t count = length(old);
  atomic_store_explicit(&spare->count, 0, memory_order_release);
  for (size_t i = 0; i < count; i++) {
    const struct place *place = &old->places[i];
    uint64_t start = atomic_load(&place->start), end = atomic_load(&place->end);
    if (start < slice->start) {
      copy_part(place, start, slice->start);
    } else if (end <= slice->end) {
      append(spare, slice->start, slice->start, atomic_load(&place->record));
    }
  }
  append(spare, slice->start, slice->end, record);
  for (size_t i = 0; i < count; i++) {
    if (atomic_load(&old->places[i].end) > slice->end) copy_part(&old->places[i], slice->end, UINT64_MAX);
  }
}

/* One place may be cut in two. Both lists have room for all: the next removal cannot fail. */
int uffd_directory_add(const struct uffd_entry *entry) {
  begin_writing();
  struct list *old = atomic_load(&current), *next = enlarge(spare, length(old) + 2);
  struct list *after = next == NULL || old == NULL ? NULL : enlarge(old, length(old) + 2);
  struct record *record = next == NULL || (old != NULL && after == NULL) ? NULL : take_unused();
  if (next != NULL) spare = next;
  if (record != NULL) {
    record->entry = *entry;
    atomic_fetch_and_explicit(&record->users, ~CLOSED, memory_order_release);
    insert(old, record);
    publish();
    spare = after;
  }
  uffd_unlock(&writing);
  return record == NULL ? -ENOMEM : 0;
}

static struct record *find_record(const struct list *list, const struct uffd_terms *terms) {
  for (size_t i = 0; i < length(list); i++) {
    struct record *record = atomic_load(&list->places[i].record);
    if (record->entry.slice.terms == terms) return record;
  }
  return NULL;
}

/* There is room: the spare list is as large as the current one. */
static void leave_out(const struct list *old, const struct record *record) {
  if (spare == NULL) return; /* there is but the one entry */
  atomic_store_explicit(&spare->count, 0, memory_order_release);
  for (size_t i = 0; i < length(old); i++) {
    if (atomic_load(&old->places[i].record) != record) copy_part(&old->places[i], 0, UINT64_MAX);
  }
}

/* Whoever holds it may be in a slow callback: nobody else is kept waiting by that. */
static void wait_for_users(struct record *record) {
  uint32_t users;
  while ((users = atomic_load(&record->users)) != CLOSED) {
    uffd_futex_wait(&record->users, users);
  }
}

void uffd_directory_remove(const struct uffd_terms *terms) {
  begin_writing();
  const struct list *old = atomic_load(&current);
  struct record *record = find_record(old, terms);
  if (record != NULL) {
    atomic_fetch_add(&removals, 1);
    atomic_fetch_or(&record->users, CLOSED);
    leave_out(old, record);
    publish();
  }
  uffd_unlock(&writing);
  if (record == NULL) return;
  wait_for_users(record);
  begin_writing();
  record->next = unused;
  unused = record;
  uffd_unlock(&writing);
}
