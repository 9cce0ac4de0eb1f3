/*
 * Telling a region's handlers that bytes have come for which a resolver said LATER.
 */
#include <inttypes.h>

#include "loop/engine/bell.h"
#include "loop/loop.h"

/* Inline, whoever waits sleeps at the bell of the slot that it had. */
static void ring_slots(const struct uffd_engine *engine, uint64_t low, uint64_t high) {
  for (uint32_t i = engine->readers_count; i < engine->lanes_count; i++) {
    uffd_bell_ring(engine->lanes[i]->bell, low, high);
  }
}

int uffd_region_ready(uffd_region *region, uint64_t offset, uint64_t length) {
  const struct uffd_engine *engine = &region->loop->engine;
  uint64_t all = region->terms.length;
  int result = uffd_loop_check_process(region->loop);
  if (result < 0) return result;
  if (offset > all || length > all - offset) {
    return fail(ERANGE, "%" PRIu64 " bytes at offset %" PRIu64 " are outside a region of %" PRIu64 " bytes.", length,
                offset, all);
  }
  uint64_t high = length == 0 ? all : offset + length;
  if (offset == high) return 0;
  uint64_t first = offset / region->slice_bytes, last = (high - 1) / region->slice_bytes;
  for (uint64_t i = first; i <= last; i++) {
    uffd_bell_ring(engine->lanes[uffd_region_lane(region, (uint32_t)i)]->bell, offset, high);
  }
  ring_slots(engine, offset, high);
  return 0;
}
