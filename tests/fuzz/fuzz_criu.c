/*
 * Files of a CRIU dump: the first byte chooses which one. Each is refused with a sentence that names it, or gives
 * tables that are sorted, without overlaps, in whole pages.
 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "resolver/criu.h"

#define MUST(condition) ((condition) ? (void)0 : (fprintf(stderr, "not true: %s\n", #condition), abort()))

static void must_name(const void *table, size_t count) {
  MUST(strstr(uffd_errmsg(), "a.img") != NULL || strstr(uffd_errmsg(), "memory") != NULL);
  MUST(table == NULL && count == 0);
}

static void try_pstree(const uint8_t *data, size_t size) {
  struct uffd_criu_pids pids;
  if (uffd_criu_parse_pstree(data, size, "a.img", &pids) < 0) {
    must_name(pids.at, pids.count);
    return;
  }
  for (size_t i = 0; i < pids.count; i++)
    MUST(pids.at[i] > 0);
  uffd_criu_free_pids(&pids);
}

static void try_mm(const uint8_t *data, size_t size) {
  struct uffd_criu_vmas vmas;
  uint64_t last = 0;
  if (uffd_criu_parse_mm(data, size, "a.img", &vmas) < 0) {
    must_name(vmas.at, vmas.count);
    return;
  }
  for (size_t i = 0; i < vmas.count; last = vmas.at[i++].end)
    MUST(vmas.at[i].start >= last && vmas.at[i].start < vmas.at[i].end && vmas.at[i].start % BASE_PAGE == 0);
  uffd_criu_free_vmas(&vmas);
}

static void try_pagemap(const uint8_t *data, size_t size) {
  struct uffd_criu_pagemap map;
  uint64_t last = 0, length = 0;
  if (uffd_criu_parse_pagemap(data, size, "a.img", &map) < 0) {
    must_name(map.at, map.count);
    return;
  }
  for (size_t i = 0; i < map.count; last = map.at[i++].end) {
    const struct uffd_criu_entry *entry = &map.at[i];
    MUST(entry->start >= last && entry->start < entry->end && (entry->end - entry->start) % BASE_PAGE == 0);
    MUST((entry->flags & (UFFD_CRIU_PRESENT | UFFD_CRIU_PARENT)) != 0);
    MUST(entry->position == length);
    if ((entry->flags & UFFD_CRIU_PRESENT) != 0) length += entry->end - entry->start;
  }
  MUST(length == map.length);
  uffd_criu_free_pagemap(&map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  uint8_t *copy = size > 1 ? malloc(size - 1) : NULL; /* of exactly its size */
  if (size > 1) memcpy(copy, data + 1, size - 1);
  if (data[0] % 3 == 0) try_pstree(copy, size - 1);
  if (data[0] % 3 == 1) try_mm(copy, size - 1);
  if (data[0] % 3 == 2) try_pagemap(copy, size - 1);
  free(copy);
  return 0;
}
