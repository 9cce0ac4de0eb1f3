/*
 * The names of reports, of clients' states and of their ends, as people, JSON and Lua see them.
 */
#include "uffd_pager.h"

#define COUNT(table) (sizeof(table) / sizeof(*(table)))

const char *uffd_report_name(uint32_t kind) {
  static const char *const names[] = {"client", "refused", "gone",   "complete", "worker",  "died", "retired",
                                      "late",   "error",   "frozen", "record",   "adopted", "hung", "image"};
  return kind < COUNT(names) ? names[kind] : NULL;
}

const char *uffd_client_end_name(uint32_t end) {
  static const char *const names[] = {"", "done", "exited", "killed", "unmapped", "complete"};
  return end < COUNT(names) ? names[end] : NULL;
}

const char *uffd_client_state_name(uint32_t state) {
  static const char *const names[] = {"starting", "served", "complete", "frozen", "gone"};
  return state < COUNT(names) ? names[state] : NULL;
}
