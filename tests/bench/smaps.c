/*
 * What a mapping of this process costs: see smaps.h.
 */
#include "smaps.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "measure.h"

uint64_t smaps_kib(const void *address, const char *name) {
  char line[256];
  uint64_t start, end, value = 0;
  bool inside = false;
  FILE *smaps = fopen("/proc/self/smaps", "re");
  if (smaps == NULL) die("/proc/self/smaps: %m");
  while (fgets(line, sizeof(line), smaps) != NULL) {
    bool head = sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2;
    if (head) inside = start <= (uintptr_t)address && (uintptr_t)address < end;
    if (!head && inside && strncmp(line, name, strlen(name)) == 0) sscanf(line + strlen(name), "%" SCNu64, &value);
  }
  fclose(smaps);
  return value;
}
