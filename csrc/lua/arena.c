/*
 * An allocator for one Lua state. Lua tells a block's size when it frees it, so blocks have no headers. Large blocks
 * are runs of units in a bitmap: free neighbours join without any work, and a block that grows can often stay where it
 * is. Small blocks (up to a unit) come from slabs. An empty slab goes back to the bitmap, so an arena that was once
 * full of small tables has room for strings again.
 */
#include "arena.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

static const uint32_t NONE = UINT32_MAX;

int uffd_lua_arena_open(struct uffd_lua_arena *arena, size_t length) {
  size_t slabs = length / ARENA_SLAB;
  size_t words = slabs / 8 + 1;
  size_t mapped = slabs * ARENA_SLAB + words * sizeof(uint64_t) + slabs * sizeof(struct arena_slab);
  char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (base == MAP_FAILED) return -ENOMEM;
  memset(arena, 0, sizeof(*arena));
  arena->base = base;
  arena->taken = (uint64_t *)(void *)(base + slabs * ARENA_SLAB);
  arena->slabs = (struct arena_slab *)(void *)(arena->taken + words);
  arena->units = slabs * 8;
  arena->mapped = mapped;
  for (size_t i = 0; i < slabs; i++)
    arena->slabs[i].class = ARENA_CLASSES;
  for (size_t i = 0; i < ARENA_CLASSES; i++)
    arena->partial[i] = NONE;
  return 0;
}

void uffd_lua_arena_close(struct uffd_lua_arena *arena) {
  if (arena->base != NULL) munmap(arena->base, arena->mapped);
  arena->base = NULL;
}

/* Runs of units */

/* The first unit from at on that is taken (or that is free), or end. */
static size_t find(const struct uffd_lua_arena *arena, size_t at, size_t end, bool taken) {
  while (at < end) {
    uint64_t word = arena->taken[at / 64] ^ (taken ? 0 : UINT64_MAX);
    word >>= at % 64;
    if (word != 0) {
      at += (size_t)__builtin_ctzll(word);
      break;
    }
    at = (at / 64 + 1) * 64;
  }
  return at < end ? at : end;
}

static void mark(struct uffd_lua_arena *arena, size_t first, size_t count, bool taken) {
  while (count > 0) {
    size_t in_word = 64 - first % 64;
    size_t now = count < in_word ? count : in_word;
    uint64_t bits = (now == 64 ? UINT64_MAX : (UINT64_C(1) << now) - 1) << (first % 64);
    if (taken)
      arena->taken[first / 64] |= bits;
    else
      arena->taken[first / 64] &= ~bits;
    first += now;
    count -= now;
  }
}

static bool find_run(const struct uffd_lua_arena *arena, size_t from, size_t count, size_t *first) {
  size_t units = arena->units;
  for (size_t at = find(arena, from, units, false); at + count <= units; at = find(arena, at, units, false)) {
    size_t end = find(arena, at, at + count, true);
    if (end == at + count) {
      *first = at;
      return true;
    }
    at = end;
  }
  return false;
}

static size_t units_of(size_t size) {
  return (size + ARENA_UNIT - 1) / ARENA_UNIT;
}

static size_t unit_at(const struct uffd_lua_arena *arena, const void *block) {
  return (size_t)((const char *)block - arena->base) / ARENA_UNIT;
}

static void *take_run(struct uffd_lua_arena *arena, size_t size) {
  size_t count = units_of(size);
  size_t first = 0;
  if (!find_run(arena, arena->rover, count, &first) && !find_run(arena, 0, count, &first)) return NULL;
  mark(arena, first, count, true);
  arena->rover = first + count;
  arena->used += count * ARENA_UNIT;
  return arena->base + first * ARENA_UNIT;
}

static void give_run(struct uffd_lua_arena *arena, void *block, size_t size) {
  mark(arena, unit_at(arena, block), units_of(size), false);
  arena->used -= units_of(size) * ARENA_UNIT;
}

/* Grows or shrinks a run without moving it. */
static bool resize_run(struct uffd_lua_arena *arena, void *block, size_t old_size, size_t new_size) {
  size_t first = unit_at(arena, block);
  size_t had = units_of(old_size);
  size_t want = units_of(new_size);
  if (want > had) {
    if (first + want > arena->units || find(arena, first + had, first + want, true) != first + want) return false;
    mark(arena, first + had, want - had, true);
  } else {
    mark(arena, first + want, had - want, false);
  }
  arena->used = arena->used - had * ARENA_UNIT + want * ARENA_UNIT;
  return true;
}

/* Slabs */

static size_t class_of(size_t size) {
  return (size - 1) / ARENA_STEP;
}
static size_t class_size(size_t class) {
  return (class + 1) * ARENA_STEP;
}

static struct arena_slab *slab_at(const struct uffd_lua_arena *arena, const void *block) {
  return &arena->slabs[unit_at(arena, block) / 8];
}

static void enlist(struct uffd_lua_arena *arena, uint32_t index) {
  struct arena_slab *slab = &arena->slabs[index];
  slab->previous = NONE;
  slab->next = arena->partial[slab->class];
  if (slab->next != NONE) arena->slabs[slab->next].previous = index;
  arena->partial[slab->class] = index;
}

static void delist(struct uffd_lua_arena *arena, uint32_t index) {
  struct arena_slab *slab = &arena->slabs[index];
  if (slab->previous != NONE)
    arena->slabs[slab->previous].next = slab->next;
  else
    arena->partial[slab->class] = slab->next;
  if (slab->next != NONE) arena->slabs[slab->next].previous = slab->previous;
}

/* The first of eight neighbouring free units, or NONE. */
static uint32_t find_slab(const struct uffd_lua_arena *arena) {
  for (uint32_t index = 0; index < arena->units / 8; index++) {
    if ((arena->taken[index / 8] >> (index % 8 * 8) & 0xff) == 0) return index;
  }
  return NONE;
}

static bool make_slab(struct uffd_lua_arena *arena, size_t class) {
  uint32_t index = find_slab(arena);
  if (index == NONE) return false;
  mark(arena, (size_t)index * 8, 8, true);
  struct arena_slab *slab = &arena->slabs[index];
  char *base = arena->base + (size_t)index * ARENA_SLAB;
  size_t size = class_size(class);
  slab->free = NULL;
  for (size_t at = ARENA_SLAB / size * size; at > 0; at -= size) {
    struct arena_block *block = (struct arena_block *)(void *)(base + at - size);
    block->next = slab->free;
    slab->free = block;
  }
  slab->live = 0;
  slab->class = (uint16_t) class;
  enlist(arena, index);
  return true;
}

static void *take_small(struct uffd_lua_arena *arena, size_t class) {
  if (arena->partial[class] == NONE && !make_slab(arena, class)) return NULL;
  uint32_t index = arena->partial[class];
  struct arena_slab *slab = &arena->slabs[index];
  struct arena_block *block = slab->free;
  slab->free = block->next; /* a listed slab has one. NOLINT(clang-analyzer-core.NullDereference) */
  slab->live++;
  if (slab->free == NULL) delist(arena, index);
  arena->used += class_size(class);
  return block;
}

static void give_small(struct uffd_lua_arena *arena, void *block, struct arena_slab *slab) {
  uint32_t index = (uint32_t)(slab - arena->slabs);
  if (slab->free == NULL) enlist(arena, index);
  struct arena_block *head = block;
  head->next = slab->free;
  slab->free = head;
  arena->used -= class_size(slab->class);
  if (--slab->live > 0) return;
  delist(arena, index);
  slab->class = ARENA_CLASSES;
  mark(arena, (size_t)index * 8, 8, false);
}

/* lua_Alloc */

static void *take(struct uffd_lua_arena *arena, size_t size) {
  if (size > arena->units * ARENA_UNIT) return NULL;
  return size <= ARENA_UNIT ? take_small(arena, class_of(size)) : take_run(arena, size);
}

/* A block belongs to a slab by its address, not by its size: see shrink_in_place(). */
static void give(struct uffd_lua_arena *arena, void *block, size_t size) {
  struct arena_slab *slab = slab_at(arena, block);
  if (slab->class < ARENA_CLASSES)
    give_small(arena, block, slab);
  else
    give_run(arena, block, size);
}

/* Lua relies on it that making a block smaller never fails. */
static void shrink_in_place(struct uffd_lua_arena *arena, void *block, size_t old_size, size_t new_size) {
  if (old_size > ARENA_UNIT) resize_run(arena, block, old_size, new_size);
}

void *uffd_lua_arena_alloc(void *ctx, void *block, size_t old_size, size_t new_size) {
  struct uffd_lua_arena *arena = ctx;
  if (block == NULL) /* old_size is then the kind of the object */
    return new_size > 0 ? take(arena, new_size) : NULL;
  if (new_size == 0) {
    give(arena, block, old_size);
    return NULL;
  }
  bool was_small = old_size <= ARENA_UNIT;
  bool is_small = new_size <= ARENA_UNIT;
  if (was_small && is_small && class_of(old_size) == class_of(new_size)) return block;
  if (!was_small && !is_small && resize_run(arena, block, old_size, new_size)) return block;
  void *moved = take(arena, new_size);
  if (moved == NULL && new_size < old_size) {
    shrink_in_place(arena, block, old_size, new_size);
    return block;
  }
  if (moved != NULL) {
    memcpy(moved, block, old_size < new_size ? old_size : new_size);
    give(arena, block, old_size);
  }
  return moved;
}
