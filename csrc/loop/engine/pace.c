/*
 * The size of a step between faults. It grows slowly and falls at once, so that a thread that walks over memory meets
 * small steps from its second fault on.
 */
#include "loop/engine/pace.h"

uint64_t uffd_pace_step(struct uffd_pace *pace, uint64_t fault_ns, uint64_t limit) {
  if (pace->fault_ns != fault_ns) {
    pace->fault_ns = fault_ns;
    pace->bytes = UFFD_PACE_MIN;
  } else if (pace->bytes != 0) {
    pace->bytes += UFFD_PACE_MORE;
  }
  if (pace->bytes >= limit) pace->bytes = 0;
  return pace->bytes == 0 ? limit : pace->bytes;
}
