/*
 * Closing descriptors in arrays where -1 stands for "none".
 */
#include <unistd.h>

#include "serve/paper/descriptors.h"

void uffd_close_fds(int *fds, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if (fds[i] >= 0) close(fds[i]);
    fds[i] = -1;
  }
}
