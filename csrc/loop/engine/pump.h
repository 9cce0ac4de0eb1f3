/*
 * The pump engine: the caller runs the one reader's passes, and may wait for them with a descriptor of its own loop.
 */
#ifndef UFFD_LOOP_ENGINE_PUMP_H
#define UFFD_LOOP_ENGINE_PUMP_H

#include "loop/engine/engine.h"

/* The calls on a pump belong to one thread at a time, its driver, who runs the passes; other threads only touch. */
void uffd_pump_drive(struct uffd_engine *engine);

#endif
