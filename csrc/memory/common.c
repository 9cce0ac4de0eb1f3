/*
 * What several private mappings of one memfd have in common: the pages that are the same for all of them, and which of
 * these are filled. That is noted here and nowhere else: the page cache may have a page that nobody has filled.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory/memory.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif

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
  if (common->alias != NULL && common->process == uffd_process()) munmap(common->alias, common->mapped);
  if (!common->among_processes) uffd_pages_unmap((void *)common->states, states_size(common));
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
  char *alias = mmap(NULL, common->mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (alias == MAP_FAILED) return -errno;
  common->alias = alias;
  madvise(alias, common->mapped, MADV_NOHUGEPAGE); /* EINVAL: hugetlb, or a kernel without THP */
  return madvise(alias, common->mapped, MADV_DONTFORK) == 0 ? 0 : -errno;
}

static struct uffd_common *new_common(uint64_t length, uint64_t page_size) {
  struct uffd_common *common = NEW(struct uffd_common);
  if (common == NULL) return NULL;
  common->process = uffd_process();
  common->length = common->mapped = length;
  common->page_shift = (uint32_t)__builtin_ctzll(page_size);
  atomic_init(&common->references, 1);
  return common;
}

int uffd_common_of(uffd_memory *memory, struct uffd_common **found) {
  int result = 0;
  pthread_mutex_lock(&memory->lock);
  struct uffd_common *common = memory->common;
  if (common == NULL) {
    common = new_common(memory->length, memory->page_size);
    if (common == NULL) result = -ENOMEM;
    if (result == 0) {
      common->states = uffd_pages_map(states_size(common));
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

/* ---- among processes */

static uint64_t file_length(uint64_t length, uint64_t page_size) {
  return length + round_up(length / page_size, page_size);
}

/* Its mode keeps those who have a descriptor for reading from opening it for writing by way of /proc. */
static int make_file(int fd, uint64_t length) {
  if (fd < 0 || ftruncate(fd, (off_t)length) != 0 || fchmod(fd, 0400) != 0) return -errno;
  return fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0 ? 0 : -errno;
}

int uffd_common_create(uint64_t length, uint64_t page_size, int *fd) {
  unsigned huge = page_size != BASE_PAGE ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
  *fd = memfd_create("uffd-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge);
  int result = make_file(*fd, file_length(length, page_size));
  if (result == 0) return 0;
  if (*fd >= 0) close(*fd);
  *fd = -1;
  return fail(-result, "Cannot make a memfd of %" PRIu64 " bytes for pages that are shared: %s.", length,
              strerror(-result));
}

int uffd_common_lend(int fd) {
  char path[32];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  int lent = open(path, O_RDONLY | O_CLOEXEC);
  return lent >= 0 ? lent : fail(errno, "Cannot open the memfd of shared pages for reading: %s.", strerror(errno));
}

int uffd_common_open(int fd, uint64_t length, uint64_t page_size, struct uffd_common **opened) {
  struct stat status;
  *opened = NULL;
  if (fstat(fd, &status) != 0 || (uint64_t)status.st_size != file_length(length, page_size)) {
    return fail(EINVAL, "The memfd of shared pages is not one of %" PRIu64 " bytes and their states.", length);
  }
  struct uffd_common *common = new_common(length, page_size);
  if (common == NULL) return fail(ENOMEM, "No memory for pages that are shared.");
  common->among_processes = true;
  common->mapped = file_length(length, page_size);
  int result = map_alias(common, fd);
  if (result < 0) {
    uffd_common_drop(common);
    return fail(-result, "Cannot map the memfd of shared pages: %s.", strerror(-result));
  }
  common->states = (_Atomic uint8_t *)(void *)(common->alias + length);
  *opened = common;
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
  if (common->among_processes) return uffd_common_has(common, offset) ? UFFD_COMMON_FILLED : UFFD_COMMON_ABSENT;
  if (atomic_compare_exchange_strong(state_at(common, offset), &absent, UFFD_COMMON_CLAIMED)) return UFFD_COMMON_ABSENT;
  return (enum uffd_common_state)absent;
}

void uffd_common_settle(struct uffd_common *common, uint64_t low, uint64_t high, enum uffd_common_state state) {
  if (common->among_processes && state != UFFD_COMMON_FILLED) return; /* another process may have filled it */
  for (uint64_t at = low; at < high; at += UINT64_C(1) << common->page_shift) {
    atomic_store_explicit(state_at(common, at), (uint8_t)state, memory_order_release);
  }
}
