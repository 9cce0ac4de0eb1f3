/*
 * A bounded queue of records of one size, from handlers to the program: it takes no lock, and allocates only when it is
 * made. A record without room is counted and dropped.
 */
#ifndef UFFD_LUA_RING_H
#define UFFD_LUA_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uffd_lua_ring;

/* A line that a policy logged, or a failure of the loop. */
struct uffd_lua_message {
  uint32_t handler;
  uint32_t length;
  char text[504];
  bool failure;
};

/* count is rounded up to a power of two. NULL: no memory. The maker holds one share of it. */
struct uffd_lua_ring *uffd_lua_ring_new(size_t record, size_t count);
struct uffd_lua_ring *uffd_lua_ring_share(struct uffd_lua_ring *ring); /* NULL is allowed */
void uffd_lua_ring_release(struct uffd_lua_ring *ring);                /* NULL is allowed */
/* Any thread. False when it is full. */
bool uffd_lua_ring_push(struct uffd_lua_ring *ring, const void *record);
/* Any thread. False when there is none. */
bool uffd_lua_ring_pop(struct uffd_lua_ring *ring, void *record);
/* Records dropped since the last call. */
uint64_t uffd_lua_ring_dropped(struct uffd_lua_ring *ring);

#endif
