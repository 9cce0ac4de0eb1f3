/*
 * The queue of log lines and trace records. Each cell has a turn, a number. A writer may fill the cell when the turn is
 * the writer's position, and a reader may empty it when the turn is its position plus one. So writers wait neither
 * for each other nor for the reader.
 */
#include "ring.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct uffd_lua_ring {
  atomic_uint shares;
  size_t record;
  size_t stride;
  uint64_t mask;
  char *cells;
  _Atomic uint64_t head; /* writers */
  _Atomic uint64_t tail; /* readers */
  _Atomic uint64_t dropped;
};

static _Atomic uint64_t *turn_of(const struct uffd_lua_ring *ring, uint64_t position) {
  return (_Atomic uint64_t *)(void *)(ring->cells + (position & ring->mask) * ring->stride);
}

static void *record_of(const struct uffd_lua_ring *ring, uint64_t position) {
  return ring->cells + (position & ring->mask) * ring->stride + sizeof(uint64_t);
}

struct uffd_lua_ring *uffd_lua_ring_new(size_t record, size_t count) {
  size_t cells = 2;
  while (cells < count)
    cells *= 2;
  struct uffd_lua_ring *ring = calloc(1, sizeof(*ring));
  if (ring == NULL) return NULL;
  ring->record = record;
  ring->stride = (sizeof(uint64_t) + record + 7) / 8 * 8;
  ring->mask = cells - 1;
  ring->cells = malloc(cells * ring->stride);
  if (ring->cells == NULL) {
    free(ring);
    return NULL;
  }
  memset(ring->cells, 0, cells * ring->stride); /* so that no handler is the first to touch it */
  for (uint64_t i = 0; i < cells; i++)
    atomic_init(turn_of(ring, i), i);
  atomic_init(&ring->shares, 1);
  return ring;
}

struct uffd_lua_ring *uffd_lua_ring_share(struct uffd_lua_ring *ring) {
  if (ring != NULL) atomic_fetch_add(&ring->shares, 1);
  return ring;
}

void uffd_lua_ring_release(struct uffd_lua_ring *ring) {
  if (ring == NULL || atomic_fetch_sub(&ring->shares, 1) > 1) return;
  free(ring->cells);
  free(ring);
}

/* The position that this thread may use next, or false: ahead is 0 for a writer, 1 for a reader. */
static bool claim(struct uffd_lua_ring *ring, _Atomic uint64_t *end, uint64_t ahead, uint64_t *position) {
  uint64_t at = atomic_load_explicit(end, memory_order_relaxed);
  for (;;) {
    uint64_t turn = atomic_load_explicit(turn_of(ring, at), memory_order_acquire);
    int64_t early = (int64_t)(turn - (at + ahead));
    if (early < 0) return false;
    if (early > 0)
      at = atomic_load_explicit(end, memory_order_relaxed);
    else if (atomic_compare_exchange_weak_explicit(end, &at, at + 1, memory_order_relaxed, memory_order_relaxed))
      break;
  }
  *position = at;
  return true;
}

bool uffd_lua_ring_push(struct uffd_lua_ring *ring, const void *record) {
  uint64_t at = 0;
  if (!claim(ring, &ring->head, 0, &at)) {
    atomic_fetch_add(&ring->dropped, 1);
    return false;
  }
  memcpy(record_of(ring, at), record, ring->record);
  atomic_store_explicit(turn_of(ring, at), at + 1, memory_order_release);
  return true;
}

bool uffd_lua_ring_pop(struct uffd_lua_ring *ring, void *record) {
  uint64_t at = 0;
  if (!claim(ring, &ring->tail, 1, &at)) return false;
  memcpy(record, record_of(ring, at), ring->record);
  atomic_store_explicit(turn_of(ring, at), at + ring->mask + 1, memory_order_release);
  return true;
}

uint64_t uffd_lua_ring_dropped(struct uffd_lua_ring *ring) {
  return atomic_exchange(&ring->dropped, 0);
}
