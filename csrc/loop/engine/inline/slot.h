/*
 * Slots: lanes that no reader has. A thread that has a fault, or a job for one, takes a slot meanwhile.
 */
#ifndef UFFD_LOOP_ENGINE_INLINE_SLOT_H
#define UFFD_LOOP_ENGINE_INLINE_SLOT_H

#include "loop/engine/engine.h"

struct uffd_slot {
  struct uffd_lane lane; /* first */
  struct uffd_slots *all;
  _Atomic bool taken;
  uint32_t faults; /* resolved */
};

int uffd_slots_open(struct uffd_engine *engine); /* engine->slots_count of them: 0, or -errno with a sentence */
void uffd_slots_close(struct uffd_engine *engine);

/* They sleep until a slot is free, or this one. */
struct uffd_slot *uffd_slot_take(struct uffd_engine *engine);
struct uffd_slot *uffd_slot_take_this(struct uffd_engine *engine, uint32_t lane);
void uffd_slot_give(struct uffd_slot *slot);
/* Waits until no fault is being resolved, and holds up those that come; or lets them go on. */
void uffd_slots_quiesce(struct uffd_engine *engine, bool quiet);

#endif
