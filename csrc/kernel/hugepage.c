/*
 * Out of huge pages. The kernel (6.18 and before) answers EEXIST to a copy for which hugetlb has no free page: whoever
 * believes it wakes the faulting thread, which faults again, for ever.
 */
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>

#include "kernel/create.h"
#include "kernel/object.h"

static long long read_pool(uint64_t page_size, const char *file) {
  char path[96];
  snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/%s", page_size / 1024, file);
  return uffd_read_number(path);
}

int uffd_check_present(uint64_t address) {
  unsigned char resident = 1;
  if (mincore((void *)(uintptr_t)address, (size_t)uffd_page_size(), &resident) < 0 || (resident & 1) != 0)
    return -EEXIST;
  struct uffd_mapping mapping;
  if (uffd_find_mapping(address, &mapping) < 0 || mapping.page_size == uffd_page_size()) return -EEXIST;
  /* A shared file may have the page although this mapping does not: then only the pool can tell. */
  if (mapping.protection[3] == 's' &&
      read_pool(mapping.page_size, "free_hugepages") > read_pool(mapping.page_size, "resv_hugepages"))
    return -EEXIST;
  return -ENOMEM;
}
