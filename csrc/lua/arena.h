/*
 * The memory of one handler's Lua state: one mapping of limited size, populated when it is made. On the fault path it
 * takes no lock, makes no system call, and never faults.
 */
#ifndef UFFD_LUA_ARENA_H
#define UFFD_LUA_ARENA_H

#include <stddef.h>
#include <stdint.h>

enum { ARENA_UNIT = 512, ARENA_SLAB = 8 * ARENA_UNIT, ARENA_STEP = 16, ARENA_CLASSES = ARENA_UNIT / ARENA_STEP };

struct arena_block {
  struct arena_block *next;
};

/* Eight units cut into blocks of one size. */
struct arena_slab {
  struct arena_block *free;
  uint32_t next; /* in the list of slabs of its class that have free blocks */
  uint32_t previous;
  uint16_t live;
  uint16_t class; /* ARENA_CLASSES: these units are no slab */
};

struct uffd_lua_arena {
  char *base;
  uint64_t *taken;          /* a bit a unit */
  struct arena_slab *slabs; /* one for every eight units */
  size_t units;
  size_t rover; /* where the search for free units begins */
  size_t used;  /* bytes handed out, rounded as they are kept */
  size_t mapped;
  uint32_t partial[ARENA_CLASSES]; /* the first slab with free blocks, of each class */
};

/* 0, or -ENOMEM. length is rounded down to whole slabs. */
int uffd_lua_arena_open(struct uffd_lua_arena *arena, size_t length);
void uffd_lua_arena_close(struct uffd_lua_arena *arena);
/* A lua_Alloc: NULL when the cap is reached. */
void *uffd_lua_arena_alloc(void *ctx, void *block, size_t old_size, size_t new_size);

#endif
