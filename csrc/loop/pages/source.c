/*
 * Sources and their slices: made, found, split and moved as the owner of the memory changes its mappings.
 */
#include "loop/pages/source.h"

#include <string.h>

#define STATE_PAGES     4096u /* of page states, that the kernel is asked about at once */
#define STATE_PAGES_FEW 16u   /* that are read faster than asked about */

struct uffd_source *uffd_source_create(uffd_object *object) {
  struct uffd_source *source = uffd_pages_map(sizeof(*source));
  if (source == NULL) return NULL;
  source->object = object;
  source->fd = object->fd;
  return source;
}

void uffd_source_destroy(struct uffd_source *source) {
  if (source->child) uffd_close(source->object); /* the others belong to the lane or to the user */
  uffd_pages_unmap(source->slices, source->capacity * sizeof(*source->slices));
  uffd_pages_unmap((void *)(uintptr_t)source->pages, source->pages_count);
  uffd_pages_unmap(source, sizeof(*source));
}

uint32_t uffd_source_pid(const struct uffd_source *source) {
  bool own = source->child || source->count == 0;
  return own ? 0 : (uint32_t)source->slices[0].terms->pid;
}

void uffd_slice_unregister(const struct uffd_source *source, const struct uffd_slice *slice) {
  uffd_raw_unregister(source->fd, slice->start, slice->end - slice->start);
  uffd_raw_wake(source->fd, slice->start, slice->end - slice->start);
}

/* The first slice that ends after address; count if there is none. */
static uint32_t find_after(const struct uffd_source *source, uint64_t address) {
  uint32_t low = 0, high = source->count;
  while (low < high) {
    uint32_t middle = low + (high - low) / 2;
    if (source->slices[middle].end <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

struct uffd_slice *uffd_slice_find(const struct uffd_source *source, uint64_t address) {
  uint32_t i = find_after(source, address);
  return i < source->count && source->slices[i].start <= address ? &source->slices[i] : NULL;
}

static uint64_t page_count(const struct uffd_slice *slice) {
  return (slice->end - slice->start) / slice->terms->page_size;
}

int uffd_slices_reserve(struct uffd_source *source, uint32_t more) {
  uint32_t needed = source->count + more;
  if (needed <= source->capacity) return 0;
  uint32_t capacity = needed * 2;
  struct uffd_slice *slices = uffd_pages_map(capacity * sizeof(*slices));
  if (slices == NULL) return -ENOMEM;
  if (source->count != 0) memcpy(slices, source->slices, source->count * sizeof(*slices));
  uffd_pages_unmap(source->slices, source->capacity * sizeof(*slices));
  source->slices = slices;
  source->capacity = capacity;
  return 0;
}

void uffd_slices_insert(struct uffd_source *source, const struct uffd_slice *slice) {
  uint32_t i = find_after(source, slice->start);
  if (i < source->count) memmove(&source->slices[i + 1], &source->slices[i], (source->count - i) * sizeof(*slice));
  source->slices[i] = *slice; /* NOLINT(clang-analyzer-core.NullDereference): room was reserved */
  source->count++;
}

static void take_out(struct uffd_source *source, uint32_t i) {
  source->count--;
  memmove(&source->slices[i], &source->slices[i + 1], (source->count - i) * sizeof(source->slices[0]));
}

void uffd_slices_forget(struct uffd_source *source, const struct uffd_terms *terms) {
  for (uint32_t i = source->count; i-- > 0;) {
    if (source->slices[i].terms == terms) take_out(source, i);
  }
}

bool uffd_slices_overlap(const struct uffd_source *source, uint64_t start, uint64_t end) {
  for (uint32_t i = find_after(source, start); i < source->count && source->slices[i].start < end; i++) {
    if (!source->slices[i].left) return true;
  }
  return false;
}

void uffd_slice_discard(const struct uffd_slice *slice, uint64_t start, uint64_t end) {
  for (uint64_t at = max_u64(start, slice->start); at < min_u64(end, slice->end); at += slice->terms->page_size) {
    set_page_state(slice, page_index(slice, at), UFFD_PAGE_ABSENT);
  }
}

void uffd_slices_remove(struct uffd_source *source, uint64_t start, uint64_t end) {
  for (uint32_t i = find_after(source, start); i < source->count && source->slices[i].start < end; i++) {
    const struct uffd_slice *slice = &source->slices[i];
    uint64_t page_size = slice->terms->page_size;
    uint64_t last = min_u64(end, slice->end);
    for (uint64_t at = max_u64(start, slice->start); at < last; at += page_size) {
      bool discarded = at >= source->discard_start && at < source->discard_end;
      set_page_state(slice, page_index(slice, at), discarded ? UFFD_PAGE_ABSENT : UFFD_PAGE_REMOVED);
    }
  }
}

/* The part of slice from address on, as a slice of its own. */
static struct uffd_slice tail_of(const struct uffd_slice *slice, uint64_t address) {
  struct uffd_slice tail = *slice;
  tail.start = address;
  tail.offset += address - slice->start;
  tail.pages += (address - slice->start) / slice->terms->page_size;
  return tail;
}

/* Without memory for a piece that is cut off, the piece is left out: its place becomes unknown, never another's. */
int uffd_slices_unmap(struct uffd_source *source, uint64_t start, uint64_t end) {
  bool room = uffd_slices_reserve(source, 1) == 0, left_out = false;
  for (uint32_t i = find_after(source, start); i < source->count && source->slices[i].start < end;) {
    struct uffd_slice *slice = &source->slices[i];
    bool head = slice->start<start, tail = slice->end> end;
    struct uffd_slice rest = tail_of(slice, tail ? end : slice->start);
    if (head) slice->end = start;
    if (head && tail && room) uffd_slices_insert(source, &rest);
    left_out = left_out || (head && tail && !room);
    if (!head && tail) *slice = rest;
    if (!head && !tail) {
      take_out(source, i);
    } else {
      i++;
    }
  }
  return left_out ? -ENOMEM : 0;
}

int uffd_slices_remap(struct uffd_source *source, uint64_t from, uint64_t to, uint64_t length) {
  struct uffd_source moved = {0};
  uint64_t end = from + length;
  int result = uffd_slices_reserve(&moved, source->count + 1);
  for (uint32_t i = find_after(source, from); result == 0 && i < source->count && source->slices[i].start < end; i++) {
    struct uffd_slice part = tail_of(&source->slices[i], max_u64(from, source->slices[i].start));
    part.end = min_u64(end, part.end) - from + to;
    part.start = part.start - from + to;
    part.moved = true;
    uffd_slices_insert(&moved, &part);
  }
  if (result == 0) result = uffd_slices_reserve(source, moved.count + 2);
  if (uffd_slices_unmap(source, from, end) != 0) result = -ENOMEM;
  if (uffd_slices_unmap(source, to, to + length) != 0) result = -ENOMEM; /* what was there is gone */
  for (uint32_t i = 0; result == 0 && i < moved.count; i++) {
    uffd_slices_insert(source, &moved.slices[i]);
  }
  uffd_pages_unmap(moved.slices, moved.capacity * sizeof(*moved.slices));
  return result;
}

/* Reads a word at a time; the copy, which is new memory, is written only where states are not ABSENT. */
static void copy_run(_Atomic uint8_t *to, const _Atomic uint8_t *from, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    while ((uintptr_t)(from + i) % sizeof(uint64_t) == 0 && count - i >= sizeof(uint64_t)) {
      uint64_t word;
      memcpy(&word, (const void *)(uintptr_t)(from + i), sizeof(word));
      if (word != 0) break;
      i += sizeof(uint64_t);
    }
    if (i == count) return;
    uint8_t state = atomic_load_explicit(&from[i], memory_order_relaxed);
    if (state != UFFD_PAGE_ABSENT) atomic_store_explicit(&to[i], state, memory_order_relaxed);
  }
}

/*
 * Copies count states. Most of a large region has never been touched, nor have the pages that hold its states: reading
 * those would map them one by one, a fault each, so the kernel is asked which of them are there.
 */
static void copy_states(_Atomic uint8_t *to, const _Atomic uint8_t *from, uint64_t count) {
  bool there[STATE_PAGES];
  uint64_t start = (uintptr_t)from, end = start + count;
  for (uint64_t at = round_down(start, BASE_PAGE); at < end; at += STATE_PAGES * BASE_PAGE) {
    uint32_t pages = (uint32_t)min_u64(STATE_PAGES, (round_up(end, BASE_PAGE) - at) / BASE_PAGE);
    bool known = pages > STATE_PAGES_FEW && uffd_pagemap_read(0, at, BASE_PAGE, pages, there) == 0;
    for (uint32_t i = 0; i < pages; i++) {
      uint64_t low = max_u64(at + i * BASE_PAGE, start), high = min_u64(at + (i + 1) * BASE_PAGE, end);
      if (!known || there[i]) copy_run(to + (low - start), from + (low - start), high - low);
    }
  }
}

int uffd_slices_clone(const struct uffd_source *parent, struct uffd_source *child) {
  uint64_t pages = 0;
  for (uint32_t i = 0; i < parent->count; i++) {
    pages += page_count(&parent->slices[i]);
  }
  if (pages == 0) return 0;
  child->pages = uffd_pages_map_sparse(pages);
  child->pages_count = pages;
  if (child->pages == NULL || uffd_slices_reserve(child, parent->count) != 0) return -ENOMEM;
  _Atomic uint8_t *next = child->pages;
  for (uint32_t i = 0; i < parent->count; i++) {
    struct uffd_slice slice = parent->slices[i];
    slice.pages = next;
    next += page_count(&slice);
    copy_states(slice.pages, parent->slices[i].pages, page_count(&slice));
    child->slices[child->count++] = slice;
  }
  return 0;
}
