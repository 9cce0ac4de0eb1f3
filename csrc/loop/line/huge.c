/*
 * A lane has room for one huge page: it is mapped when the lane first needs it, and is a hole again after each move.
 */
#include "loop/line/huge.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Without huge pages of its own the staging area would be moved page by page. */
static bool has_thp(void) {
  char text[64] = "";
  int fd = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  bool known = read(fd, text, sizeof(text) - 1) > 0;
  close(fd);
  return known && strstr(text, "[never]") == NULL;
}

bool uffd_huge_serves(const uffd_memory *memory, uint64_t modes) {
  bool moves = memory->kind == UFFD_MEMORY_THP && (modes & UFFD_MODE_WP) == 0;
  return moves && (uffd_kernel_features() & UFFD_FEAT_MOVE) != 0 && has_thp();
}

bool uffd_huge_fits(const struct uffd_install *install, uint64_t at) {
  const struct uffd_slice *slice = install->slice;
  if (at % HUGE_PAGE != 0 || at < install->dst || install->length < HUGE_PAGE) return false;
  if (at - install->dst > install->length - HUGE_PAGE) return false;
  uint64_t first = (at - slice->start) / BASE_PAGE;
  for (uint64_t i = 0; i < HUGE_PAGE / BASE_PAGE; i++) {
    if (page_state(slice, first + i) != UFFD_PAGE_ABSENT) return false;
  }
  return true;
}

/* A forked child's copy would keep the pages from being moved. */
char *uffd_huge_staging(struct uffd_lane *lane) {
  if (lane->huge != NULL) return lane->huge;
  lane->huge_mapping = uffd_pages_map(2 * HUGE_PAGE);
  if (lane->huge_mapping == NULL) return NULL;
  uintptr_t aligned = round_up((uintptr_t)lane->huge_mapping, HUGE_PAGE);
  char *huge = (char *)aligned; /* NOLINT(performance-no-int-to-ptr) */
  if (madvise(huge, HUGE_PAGE, MADV_HUGEPAGE) == 0 && madvise(huge, HUGE_PAGE, MADV_DONTFORK) == 0) {
    lane->huge = huge;
  } else {
    uffd_huge_unmap(lane);
  }
  return lane->huge;
}

void uffd_huge_unmap(struct uffd_lane *lane) {
  uffd_pages_unmap(lane->huge_mapping, 2 * HUGE_PAGE);
  lane->huge_mapping = lane->huge = NULL;
}
