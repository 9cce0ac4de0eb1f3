/* A library that a program loads late, for run.t. */
#include <stddef.h>
#include <sys/mman.h>

__attribute__((visibility("default"))) void *map_late(size_t length);

void *map_late(size_t length) {
  return mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
