/*
 * No free huge page. Linux (6.18 and before) answers EEXIST to a COPY for which hugetlb has no free page. A caller that
 * believes it wakes the faulting thread, which faults again, for ever.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel/create.h"
#include "kernel/object.h"

static long long read_pool(uint64_t page_size, const char *file) {
  char path[96];
  snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/%s", page_size / 1024, file);
  return uffd_read_number(path);
}

static bool is_free(uint64_t page_size) {
  return read_pool(page_size, "free_hugepages") > read_pool(page_size, "resv_hugepages");
}

int uffd_check_present(uint64_t address) {
  unsigned char resident = 1;
  if (mincore((void *)(uintptr_t)address, (size_t)uffd_page_size(), &resident) < 0 || (resident & 1) != 0)
    return -EEXIST;
  struct uffd_mapping mapping;
  if (uffd_find_mapping(address, &mapping) < 0 || mapping.page_size == uffd_page_size()) return -EEXIST;
  /* A shared file may have the page although this mapping does not map it: then only the pool can tell. */
  if (mapping.protection[3] == 's' && is_free(mapping.page_size)) return -EEXIST;
  return -ENOMEM;
}

#define IN_PAGEMAP (UINT64_C(3) << 62) /* present, or swapped: for huge pages, a poison marker */

/* The page first, then the pool: if the owner drops the page in between, the pool has a free page. */
bool uffd_is_present(int32_t pid, uint64_t address, uint64_t page_size) {
  char path[64];
  uint64_t entry = 0;
  snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
  int fd = pid == 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return true;
  ssize_t length = pread(fd, &entry, sizeof(entry), (off_t)(address / uffd_page_size() * sizeof(entry)));
  close(fd);
  return length != (ssize_t)sizeof(entry) || (entry & IN_PAGEMAP) != 0 || is_free(page_size);
}
