/*
 * The names of reports and of clients' states, as people, JSON and Lua see them.
 */
#include "uffd_pager.h"

#define COUNT(table) (sizeof(table) / sizeof(*(table)))

const char *uffd_report_name(uint32_t kind) {
  static const char *const names[] = {"client", "refused", "gone", "complete", "worker",
                                      "died",   "retired", "late", "error",    "frozen"};
  return kind < COUNT(names) ? names[kind] : NULL;
}

const char *uffd_client_state_name(uint32_t state) {
  static const char *const names[] = {"starting", "served", "complete", "frozen", "gone"};
  return state < COUNT(names) ? names[state] : NULL;
}
