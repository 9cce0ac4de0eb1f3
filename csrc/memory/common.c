/*
 * What several private mappings of one memfd have in common: the pages that are the same for all of them, and which of
 * these are filled. That is noted here and nowhere else: the page cache may have a page that nobody has filled.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/memory.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* 5.1 */
#endif

static size_t states_size(const struct uffd_common *common) {
  return (size_t)(common->length >> common->page_shift);
}

void uffd_common_hold(struct uffd_common *common) {
  atomic_fetch_add_explicit(&common->references, 1, memory_order_relaxed);
}

/* A forked child has no copy of the alias. */
void uffd_common_drop(struct uffd_common *common) {
  if (common == NULL || atomic_fetch_sub_explicit(&common->references, 1, memory_order_acq_rel) != 1) return;
  if (common->alias != NULL && common->process == uffd_process()) munmap(common->alias, common->length);
  uffd_pages_unmap((void *)common->states, states_size(common));
  DELETE(common);
}

/*
 * Filled by us through the alias, and by nobody else from now on: a program that writes to the file would write to all
 * mappings. Only a wish: an older kernel seals less, and a memfd that came sealed stays as it is.
 */
static void seal(int fd) {
  const int size = F_SEAL_SHRINK | F_SEAL_GROW;
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | size | F_SEAL_SEAL) != 0) fcntl(fd, F_ADD_SEALS, size);
}

static int map_alias(struct uffd_common *common, int fd) {
  char *alias = mmap(NULL, common->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (alias == MAP_FAILED) return -errno;
  common->alias = alias;
  madvise(alias, common->length, MADV_NOHUGEPAGE); /* EINVAL: hugetlb, or a kernel without THP */
  return madvise(alias, common->length, MADV_DONTFORK) == 0 ? 0 : -errno;
}

int uffd_common_of(uffd_memory *memory, struct uffd_common **found) {
  int result = 0;
  pthread_mutex_lock(&memory->lock);
  struct uffd_common *common = memory->common;
  if (common == NULL) {
    common = NEW(struct uffd_common);
    if (common == NULL) result = -ENOMEM;
    if (result == 0) {
      common->process = uffd_process();
      common->length = memory->length;
      common->page_shift = (uint32_t)__builtin_ctzll(memory->page_size);
      common->states = uffd_pages_map(states_size(common));
      atomic_init(&common->references, 1);
      result = common->states == NULL ? -ENOMEM : map_alias(common, memory->fd);
    }
    if (result == 0) {
      seal(memory->fd);
      memory->common = common;
    } else {
      uffd_common_drop(common);
    }
  }
  pthread_mutex_unlock(&memory->lock);
  if (result < 0) return fail(-result, "Cannot share the pages of a memory: %s.", strerror(-result));
  uffd_common_hold(common);
  *found = common;
  return 0;
}

static _Atomic uint8_t *state_at(const struct uffd_common *common, uint64_t offset) {
  return &common->states[offset >> common->page_shift];
}

bool uffd_common_has(const struct uffd_common *common, uint64_t offset) {
  return atomic_load_explicit(state_at(common, offset), memory_order_acquire) == UFFD_COMMON_FILLED;
}

enum uffd_common_state uffd_common_claim(struct uffd_common *common, uint64_t offset) {
  uint8_t absent = UFFD_COMMON_ABSENT;
  if (atomic_compare_exchange_strong(state_at(common, offset), &absent, UFFD_COMMON_CLAIMED)) return UFFD_COMMON_ABSENT;
  return (enum uffd_common_state)absent;
}

void uffd_common_settle(struct uffd_common *common, uint64_t low, uint64_t high, enum uffd_common_state state) {
  for (uint64_t at = low; at < high; at += UINT64_C(1) << common->page_shift) {
    atomic_store_explicit(state_at(common, at), (uint8_t)state, memory_order_release);
  }
}
