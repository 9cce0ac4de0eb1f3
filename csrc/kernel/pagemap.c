/*
 * Which pages are in the page tables. Each question opens a file of /proc: not for the fault path.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel/object.h"

#define ENTRIES 512u

#define ENTRY_THERE (UINT64_C(3) << 62) /* present, or swapped; poison and other markers look like swapped pages */

static int open_pagemap(int32_t pid) {
  char path[64];
  if (pid == 0) return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  snprintf(path, sizeof(path), "/proc/%" PRId32 "/pagemap", pid);
  return open(path, O_RDONLY | O_CLOEXEC);
}

int uffd_pagemap_read(int32_t pid, uint64_t address, uint64_t page_size, uint32_t count, bool *there) {
  uint64_t entries[ENTRIES];
  uint64_t step = page_size / uffd_page_size();
  int fd = open_pagemap(pid), result = fd < 0 ? -errno : 0;
  uint32_t at_once = step == 1 ? ENTRIES : 1;
  for (uint32_t i = 0; i < count && result == 0; i += at_once) {
    uint32_t wanted = at_once < count - i ? at_once : count - i;
    off_t place = (off_t)((address / uffd_page_size() + i * step) * sizeof(entries[0]));
    ssize_t length = pread(fd, entries, wanted * sizeof(entries[0]), place);
    if (length != (ssize_t)(wanted * sizeof(entries[0]))) result = length < 0 ? -errno : -EIO;
    for (uint32_t j = 0; j < wanted && result == 0; j++) {
      there[i + j] = (entries[j] & ENTRY_THERE) != 0;
    }
  }
  if (fd >= 0) close(fd);
  return result;
}
