/*
 * Taking and giving slots: one word each.
 */
#include "loop/engine/inline/slot.h"

#include <sched.h>

struct uffd_slots {
  struct uffd_slot slots[UFFD_HANDLERS_MAX];
};

static int open_slot(struct uffd_engine *engine, struct uffd_slot *slot) {
  slot->lane.owner = engine;
  slot->lane.index = engine->lanes_count;
  slot->lane.crowded = true;
  slot->lane.failure = &engine->failure;
  slot->lane.trace = &engine->trace;
  engine->lanes[engine->lanes_count++] = &slot->lane;
  return uffd_lane_open(&slot->lane) < 0 ? fail(ENOMEM, "No memory for a handler.") : 0;
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
    uffd_lane_close(&engine->slots->slots[i].lane);
  }
  DELETE(engine->slots);
}

static bool try_to_take(struct uffd_slot *slot) {
  return !atomic_load_explicit(&slot->taken, memory_order_relaxed) &&
         !atomic_exchange_explicit(&slot->taken, true, memory_order_acquire);
}

struct uffd_slot *uffd_slot_take(struct uffd_engine *engine) {
  uint32_t count = engine->slots_count;
  uint32_t first = (uint32_t)((uintptr_t)__builtin_frame_address(0) >> 12);
  for (;;) {
    for (uint32_t i = 0; i < count; i++) {
      struct uffd_slot *slot = &engine->slots->slots[(first + i) % count];
      if (try_to_take(slot)) return slot;
    }
    sched_yield(); /* as many faults as there are slots are being resolved right now */
  }
}

static void take(struct uffd_slot *slot) {
  while (!try_to_take(slot)) {
    sched_yield();
  }
}

struct uffd_slot *uffd_slot_take_this(struct uffd_engine *engine, uint32_t lane) {
  struct uffd_slot *slot = &engine->slots->slots[lane - engine->readers_count];
  take(slot);
  return slot;
}

void uffd_slot_give(struct uffd_slot *slot) {
  atomic_store_explicit(&slot->taken, false, memory_order_release);
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
