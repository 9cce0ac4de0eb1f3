/*
 * Taking and giving slots: one word each. Where none is free, threads sleep: one that is taken may be so for long, and
 * by a thread that needs this one's processor.
 */
#include "loop/engine/inline/slot.h"

#include <limits.h>

#include "loop/engine/bell.h"

struct waiters {
  _Atomic uint32_t count;
  _Atomic uint32_t given; /* futex: how often a slot was given while they waited */
};

struct uffd_slots {
  struct waiters for_any; /* one goes on for each slot that is given */
  struct waiters for_one; /* each for one of its own: all look */
  struct uffd_slot slots[UFFD_HANDLERS_MAX];
};

static int open_slot(struct uffd_engine *engine, struct uffd_slot *slot) {
  slot->all = engine->slots;
  slot->lane.owner = engine;
  slot->lane.index = engine->lanes_count;
  slot->lane.crowded = true;
  slot->lane.failure = &engine->failure;
  slot->lane.trace = engine->trace;
  engine->lanes[engine->lanes_count++] = &slot->lane;
  slot->lane.bell = uffd_bell_open(-1);
  return slot->lane.bell == NULL || uffd_lane_open(&slot->lane) < 0 ? fail(ENOMEM, "No memory for a handler.") : 0;
}

int uffd_slots_open(struct uffd_engine *engine) {
  engine->slots = NEW(struct uffd_slots);
  if (engine->slots == NULL) return fail(ENOMEM, "No memory for a loop.");
  int result = 0;
  for (uint32_t i = 0; i < engine->slots_count && result == 0; i++) {
    result = open_slot(engine, &engine->slots->slots[i]);
  }
  return result;
}

void uffd_slots_close(struct uffd_engine *engine) {
  if (engine->slots == NULL) return;
  for (uint32_t i = 0; i < engine->slots_count; i++) {
    uffd_bell_close(engine->slots->slots[i].lane.bell);
    uffd_lane_close(&engine->slots->slots[i].lane);
  }
  DELETE(engine->slots);
}

static bool try_to_take(struct uffd_slot *slot) {
  return !atomic_load(&slot->taken) && !atomic_exchange(&slot->taken, true);
}

/* first: where to begin to look, so that threads do not meet. */
static struct uffd_slot *try_to_take_any(const struct uffd_engine *engine, uint32_t first) {
  uint32_t count = engine->slots_count;
  for (uint32_t i = 0; i < count; i++) {
    struct uffd_slot *slot = &engine->slots->slots[(first + i) % count];
    if (try_to_take(slot)) return slot;
  }
  return NULL;
}

struct uffd_slot *uffd_slot_take(struct uffd_engine *engine) {
  uint32_t first = (uint32_t)((uintptr_t)__builtin_frame_address(0) >> 12);
  struct uffd_slot *slot = try_to_take_any(engine, first);
  if (slot != NULL) return slot;
  struct waiters *waiters = &engine->slots->for_any;
  atomic_fetch_add(&waiters->count, 1); /* from here on each slot that is given is told */
  for (;;) {
    uint32_t given = atomic_load(&waiters->given);
    slot = try_to_take_any(engine, first);
    if (slot != NULL) break;
    BARRIER("waiting for a slot", engine);
    uffd_futex_wait(&waiters->given, given);
  }
  atomic_fetch_sub(&waiters->count, 1);
  return slot;
}

static void take(struct uffd_slot *slot) {
  if (try_to_take(slot)) return;
  struct waiters *waiters = &slot->all->for_one;
  atomic_fetch_add(&waiters->count, 1);
  for (;;) {
    uint32_t given = atomic_load(&waiters->given);
    if (try_to_take(slot)) break;
    uffd_futex_wait(&waiters->given, given);
  }
  atomic_fetch_sub(&waiters->count, 1);
}

struct uffd_slot *uffd_slot_take_this(struct uffd_engine *engine, uint32_t lane) {
  struct uffd_slot *slot = &engine->slots->slots[lane - engine->readers_count];
  take(slot);
  return slot;
}

static void tell(struct waiters *waiters, int count) {
  if (atomic_load(&waiters->count) == 0) return;
  atomic_fetch_add(&waiters->given, 1);
  uffd_futex_wake(&waiters->given, count);
}

void uffd_slot_give(struct uffd_slot *slot) {
  struct uffd_slots *all = slot->all;
  atomic_store(&slot->taken, false);
  tell(&all->for_any, 1);
  tell(&all->for_one, INT_MAX);
}

void uffd_slots_quiesce(struct uffd_engine *engine, bool quiet) {
  for (uint32_t i = 0; i < engine->slots_count; i++) {
    if (quiet) {
      take(&engine->slots->slots[i]);
    } else {
      uffd_slot_give(&engine->slots->slots[i]);
    }
  }
}
