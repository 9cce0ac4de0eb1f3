/*
 * How much a background job does in one step: all that it wants, until a fault comes; then little, and more with each
 * step that no fault disturbs. A thread that faults again and again waits for small steps, not for large ones.
 */
#ifndef UFFD_LOOP_ENGINE_PACE_H
#define UFFD_LOOP_ENGINE_PACE_H

#include <stdint.h>

#define UFFD_PACE_MIN  (UINT64_C(64) << 10) /* bytes: of the first step after a fault */
#define UFFD_PACE_MORE (UINT64_C(64) << 10) /* that each step without a fault adds */

struct uffd_pace {
  uint64_t fault_ns; /* when the last fault had been read that it knows of; 0: none */
  uint64_t bytes;    /* of a step; 0: no limit */
};

/* The bytes of the next step, at most limit. fault_ns: when a fault was last read. */
uint64_t uffd_pace_step(struct uffd_pace *pace, uint64_t fault_ns, uint64_t limit);

#endif
