/*
 * Making and ending lanes; their counts.
 */
#include "loop/line/lane.h"

#include "loop/line/fetch.h"
#include "loop/line/huge.h"

_Thread_local struct uffd_lane *uffd_current_lane UFFD_SIGNAL_TLS;

int uffd_lane_open(struct uffd_lane *lane) {
  lane->staging = uffd_pages_map(HUGE_PAGE + UFFD_FETCH_SLACK);
  lane->zeros = uffd_zeros();
  return lane->staging != NULL && lane->zeros != NULL ? 0 : -ENOMEM;
}

void uffd_lane_close(struct uffd_lane *lane) {
  uffd_pages_unmap(lane->staging, HUGE_PAGE + UFFD_FETCH_SLACK);
  uffd_huge_unmap(lane);
  uffd_release(lane->asker.states, lane->asker.count * sizeof(*lane->asker.states));
}

bool uffd_lane_idle(struct uffd_lane *lane) {
  bool more = false;
  for (uint32_t i = 0; i < lane->asker.count; i++) {
    const struct uffd_callback_state *entry = &lane->asker.states[i];
    if (entry->callback != NULL && uffd_callback_idle(entry->callback, entry->state) > 0) more = true;
  }
  return more;
}

void uffd_lane_count_fault(struct uffd_lane *lane, uint64_t flags) {
  struct uffd_counters *counters = &lane->counters;
  uffd_count((flags & UFFD_FAULT_WP) != 0      ? &counters->wp
             : (flags & UFFD_FAULT_MINOR) != 0 ? &counters->minor
                                               : &counters->missing,
             1);
  if ((flags & UFFD_FAULT_WRITE) != 0) uffd_count(&counters->writes, 1);
}
