/*
 * Files of working sets: any bytes are refused with a sentence, or are a set that adds up and is written again as it
 * was. Each input comes once as it is, and once with checksums that fit, or none would get past them.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "uffd_pager.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                                \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "not so: %s; %s\n", #condition, uffd_errmsg());                                                  \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

#define HEADER 64u
#define LEAST  72u
#define MOST   65536u

static int memory_file(void) {
  static int fd = -1;
  if (fd < 0) fd = memfd_create("workingset", MFD_CLOEXEC);
  MUST(fd >= 0);
  return fd;
}

static uint64_t fnv(const uint8_t *bytes, size_t length) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (size_t i = 0; i < length; i++)
    hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
  return hash;
}

static void put(uint8_t *at, uint64_t value) {
  for (unsigned i = 0; i < 8; i++)
    at[i] = (uint8_t)(value >> 8 * i);
}

static void check_ranges(const uffd_workingset *set, const struct uffd_workingset_info *info) {
  int64_t count = uffd_workingset_ranges(set, NULL, 0);
  MUST(count == (int64_t)info->runs);
  struct uffd_range *ranges = calloc((size_t)count + 1, sizeof(*ranges));
  MUST(ranges != NULL);
  MUST(uffd_workingset_ranges(set, ranges, (size_t)count) == count);
  uint64_t pages = 0;
  for (int64_t i = 0; i < count; i++) {
    MUST(ranges[i].length != 0 && ranges[i].offset < info->image_length);
    MUST(i == 0 || ranges[i].offset > ranges[i - 1].offset + ranges[i - 1].length);
    pages += ranges[i].length / info->page_size;
  }
  MUST(pages == info->pages);
  free(ranges);
}

static void check_pages(uffd_workingset *set, const struct uffd_workingset_info *info) {
  struct uffd_touch touch;
  for (uint64_t i = 0; i < info->pages; i++) {
    MUST(uffd_workingset_get(set, i, &touch) == 0);
    MUST(touch.offset % info->page_size == 0 && touch.offset < info->image_length);
    MUST(uffd_workingset_add(set, touch.offset, 0) == 0);
  }
  MUST(uffd_workingset_get(set, info->pages, &touch) < 0);
  MUST(uffd_workingset_merge(set, set) == 0);
  MUST(uffd_workingset_count(set) == info->pages);
}

static void check_saved(const uffd_workingset *set, const uint8_t *bytes, size_t size) {
  static char path[64];
  static uint8_t again[MOST + 1];
  snprintf(path, sizeof(path), "/dev/shm/uffd-fuzz-%ld", (long)getpid());
  if (uffd_workingset_save(set, path) < 0) return; /* no such place here */
  FILE *file = fopen(path, "rb");
  MUST(file != NULL);
  MUST(fread(again, 1, sizeof(again), file) == size && memcmp(again, bytes, size) == 0);
  fclose(file);
  unlink(path);
}

static void load(const uint8_t *bytes, size_t size) {
  char path[64];
  int fd = memory_file();
  uffd_workingset *set = NULL;
  struct uffd_workingset_info info = UFFD_WORKINGSET_INFO_INIT;
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  MUST(ftruncate(fd, 0) == 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size);
  if (uffd_workingset_load(path, &set) < 0) {
    MUST(set == NULL && strstr(uffd_errmsg(), path) != NULL);
    return;
  }
  MUST(uffd_workingset_info(set, &info) == 0);
  MUST(info.pages * 8 + LEAST == size);
  check_pages(set, &info);
  check_ranges(set, &info);
  check_saved(set, bytes, size);
  uffd_workingset_close(set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t sealed[MOST];
  if (size > MOST) return 0;
  load(data, size);
  if (size < LEAST) return 0;
  memcpy(sealed, data, size);
  put(sealed + HEADER - 8, fnv(sealed, HEADER - 8));
  put(sealed + size - 8, fnv(sealed, size - 8));
  load(sealed, size);
  return 0;
}
