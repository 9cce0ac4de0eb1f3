/*
 * Where a memory lies now: where it was mapped, less what events said was unmapped, and with what events said was
 * moved. Closing unmaps what is still ours. It asks /proc/self/maps first, because the program may have unmapped or
 * moved a part without an event and mapped something else there.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "memory/memory.h"

static char *end_of(const struct uffd_place *place) {
  return place->address + place->length;
}

void uffd_places_init(uffd_memory *memory, char *address) {
  memory->whole = (struct uffd_place){.length = memory->length};
  memory->whole.address = address;
  memory->places = &memory->whole;
  memory->places_count = address != NULL ? 1 : 0;
  memory->places_capacity = 1;
  atomic_store(&memory->start, address);
}

/* The first place that ends after offset. */
static uint32_t find_index(const uffd_memory *memory, uint64_t offset) {
  uint32_t i = 0;
  while (i < memory->places_count && memory->places[i].offset + memory->places[i].length <= offset) {
    i++;
  }
  return i;
}

char *uffd_place_find(uffd_memory *memory, uint64_t offset, uint64_t *run) {
  char *address = NULL;
  pthread_mutex_lock(&memory->lock);
  uint32_t i = find_index(memory, offset);
  const struct uffd_place *place = &memory->places[i];
  if (i == memory->places_count) {
    *run = memory->length - offset;
  } else if (place->offset > offset) {
    *run = place->offset - offset;
  } else {
    *run = place->length - (offset - place->offset);
    address = place->address + (offset - place->offset);
  }
  pthread_mutex_unlock(&memory->lock);
  return address;
}

uint64_t uffd_place_offset(uffd_memory *memory, uint64_t address) {
  uint64_t offset = 0;
  pthread_mutex_lock(&memory->lock);
  for (uint32_t i = 0; i < memory->places_count; i++) {
    const struct uffd_place *place = &memory->places[i];
    uint64_t within = address - (uintptr_t)place->address; /* wraps to a huge number before it */
    if (within < place->length) offset = place->offset + within;
  }
  pthread_mutex_unlock(&memory->lock);
  return offset;
}

/* The address of byte 0, if the first part that is left still begins with it. */
static void note_start(uffd_memory *memory) {
  const struct uffd_place *first = memory->places;
  atomic_store(&memory->start, memory->places_count != 0 ? first->address - first->offset : NULL);
}

/* Makes room for so many more. Handlers read the events, and must not wait for an allocator. */
static bool reserve(uffd_memory *memory, uint32_t more) {
  if (memory->places_count + more <= memory->places_capacity) return true;
  uint32_t capacity = memory->places_capacity;
  while (capacity < memory->places_count + more) {
    capacity *= 2;
  }
  capacity = (uint32_t)max_u64(capacity, BASE_PAGE / sizeof(struct uffd_place));
  struct uffd_place *places = uffd_pages_map(capacity * sizeof(*places));
  if (places == NULL) return false;
  memcpy(places, memory->places, memory->places_count * sizeof(*places));
  if (memory->places != &memory->whole)
    uffd_pages_unmap(memory->places, memory->places_capacity * sizeof(*memory->places));
  memory->places = places;
  memory->places_capacity = capacity;
  return true;
}

static void insert(uffd_memory *memory, const struct uffd_place *place) {
  uint32_t i = find_index(memory, place->offset);
  memmove(&memory->places[i + 1], &memory->places[i], (memory->places_count - i) * sizeof(*place));
  memory->places[i] = *place;
  memory->places_count++;
}

static void take_out(uffd_memory *memory, uint32_t i) {
  memory->places_count--;
  memmove(&memory->places[i], &memory->places[i + 1], (memory->places_count - i) * sizeof(*memory->places));
}

/* Takes out a place that overlaps [start, end), and puts back its parts outside the range. *inside: its part within. */
static bool cut_one(uffd_memory *memory, uint64_t start, uint64_t end, struct uffd_place *inside) {
  for (uint32_t i = 0; i < memory->places_count; i++) {
    const struct uffd_place place = memory->places[i];
    uint64_t low = (uintptr_t)place.address, high = (uintptr_t)end_of(&place);
    if (high <= start || low >= end) continue;
    uint64_t before = start > low ? start - low : 0, after = end < high ? high - end : 0;
    *inside = (struct uffd_place){place.offset + before, place.length - before - after, place.address + before};
    take_out(memory, i);
    /* without room for the rest it is forgotten, and stays mapped */
    if (!reserve(memory, 3)) return true;
    const struct uffd_place head = {place.offset, before, place.address};
    const struct uffd_place tail = {place.offset + place.length - after, after, end_of(&place) - after};
    if (before != 0) insert(memory, &head);
    if (after != 0) insert(memory, &tail);
    return true;
  }
  return false;
}

static void forget(uffd_memory *memory, uint64_t start, uint64_t end) {
  struct uffd_place inside;
  while (cut_one(memory, start, end, &inside)) {
  }
}

void uffd_places_unmapped(uffd_memory *memory, uint64_t start, uint64_t end) {
  pthread_mutex_lock(&memory->lock);
  forget(memory, start, end);
  note_start(memory);
  pthread_mutex_unlock(&memory->lock);
}

/* The kernel never moves a mapping onto itself. What lay at the new addresses is gone. */
void uffd_places_moved(uffd_memory *memory, uint64_t from, uint64_t to, uint64_t length) {
  struct uffd_place inside;
  pthread_mutex_lock(&memory->lock);
  forget(memory, to, to + length);
  while (cut_one(memory, from, from + length, &inside)) {
    inside.address += to - from; /* modulo 2^64 */
    if (reserve(memory, 1)) insert(memory, &inside);
  }
  note_start(memory);
  pthread_mutex_unlock(&memory->lock);
}

/*
 * A file is recognised by its inode and offset, an anonymous mapping by its name. Where anonymous mappings have no
 * names, they look alike: uffd_places_verify() has noticed at unregistering what was moved away without an event.
 */
static bool is_ours(const uffd_memory *memory, const struct uffd_mapping *mapping, uint64_t at, uint64_t offset) {
  char name[32];
  if (memory->inode != 0) return mapping->inode == memory->inode && mapping->offset + (at - mapping->start) == offset;
  if (memory->number == 0) return uffd_mapping_is_anonymous(mapping) && mapping->name[0] != '/';
  snprintf(name, sizeof(name), "[anon:uffd-%" PRIu32 "]", memory->number);
  return strcmp(mapping->name, name) == 0;
}

/* Before it is unregistered, served memory is recognised by its registration. */
void uffd_places_verify(uffd_memory *memory, int fd, uint64_t start, uint64_t end) {
  struct uffd_maps maps;
  struct uffd_mapping mapping;
  bool anonymous = memory->kind == UFFD_MEMORY_ANONYMOUS || memory->kind == UFFD_MEMORY_THP;
  if (!anonymous || uffd_maps_open(&maps, false) < 0) return;
  for (uint64_t at = start; at < end;) {
    bool found = uffd_maps_find(&maps, at, &mapping) == 0;
    uint64_t low = found ? max_u64(at, min_u64(mapping.start, end)) : end;
    uint64_t high = found ? max_u64(low, min_u64(mapping.end, end)) : end;
    if (low > at) uffd_places_unmapped(memory, at, low);
    if (high > low && !uffd_raw_is_registered(fd, low)) uffd_places_unmapped(memory, low, high);
    at = high;
  }
  uffd_maps_close(&maps);
}

/* Without /proc nothing says that the mapping is not ours. */
static void unmap_range(const uffd_memory *memory, char *address, uint64_t offset, uint64_t length) {
  struct uffd_maps maps;
  struct uffd_mapping mapping;
  if (uffd_maps_open(&maps, false) < 0) {
    munmap(address, length);
    return;
  }
  uint64_t start = (uintptr_t)address, end = start + length;
  for (uint64_t at = start; at < end && uffd_maps_find(&maps, at, &mapping) == 0 && mapping.start < end;) {
    uint64_t low = max_u64(at, mapping.start), high = min_u64(end, mapping.end);
    if (is_ours(memory, &mapping, low, offset + (low - start))) munmap(address + (low - start), high - low);
    at = high;
  }
  uffd_maps_close(&maps);
}

void uffd_places_unmap(uffd_memory *memory) {
  for (uint32_t i = 0; i < memory->places_count; i++) {
    unmap_range(memory, memory->places[i].address, memory->places[i].offset, memory->places[i].length);
  }
  if (memory->alias != NULL) unmap_range(memory, memory->alias, 0, memory->length);
}
