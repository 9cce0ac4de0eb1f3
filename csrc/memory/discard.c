/*
 * Discarding pages: served pages are absent afterwards, and asked for again. The server of a range does it, so that its
 * page states agree with the kernel.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "memory/memory.h"

bool uffd_drop_tells(const uffd_memory *memory) {
  return memory->private_mapping || memory->fd < 0;
}

/* Of a shared file the pages are punched out, for every mapping of it. A private mapping loses only its own pages. */
int uffd_drop(uffd_memory *memory, uint64_t start, uint64_t length) {
  void *there = (void *)(uintptr_t)start; /* NOLINT(performance-no-int-to-ptr) */
  int result;
  if (memory->private_mapping) {
    result = madvise(there, length, MADV_DONTNEED);
  } else if (memory->fd >= 0) {
    off_t offset = (off_t)uffd_place_offset(memory, start);
    result = fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, (off_t)length);
  } else {
    result = madvise(there, length, MADV_REMOVE);
  }
  return result == 0 ? 0 : -errno;
}

static int explain(uint64_t offset, int error) {
  switch (error) {
  case ENOENT:
    return fail(error,
                "The page at offset %" PRIu64 " is not served: it would read as zeros from then on. Discard what a "
                "loop serves.",
                offset);
  case EDEADLK:
    return fail(error,
                "The pages at offset %" PRIu64 " are served by a loop that the calling thread answers for: discard "
                "them in another thread.",
                offset);
  case ECANCELED:
    return fail(error, "The loop that serves the page at offset %" PRIu64 " was closed.", offset);
  default:
    return fail(error, "Discarding the pages at offset %" PRIu64 ": %s%s.", offset, strerror(error),
                error == EINVAL ? " (are they locked by mlock?)" : "");
  }
}

/* The range to discard, and the part of it that lies in one place. */
struct discarding {
  uffd_memory *memory;
  uint64_t offset, length;
};

static int check_part(uffd_memory *memory, uint64_t offset, uint64_t start, uint64_t end) {
  (void)memory;
  for (uint64_t at = start, served; at < end; at = served) {
    served = uffd_claim_end(at);
    if (served == 0) return explain(offset + (at - start), ENOENT);
  }
  return 0;
}

static int discard_part(uffd_memory *memory, uint64_t offset, uint64_t start, uint64_t end) {
  for (uint64_t at = start, next; at < end; at = next) {
    next = min_u64(end, uffd_claim_end(at));
    int result = next <= at ? -ENOENT : uffd_claim_discard(memory, at, next);
    if (result < 0) return explain(offset + (at - start), -result);
  }
  return 0;
}

static int each_part(const struct discarding *all,
                     int (*run_part)(uffd_memory *memory, uint64_t offset, uint64_t start, uint64_t end)) {
  uint64_t end = all->offset + all->length, run;
  int result = 0;
  for (uint64_t at = all->offset; at < end && result == 0; at += run) {
    uint64_t start = (uintptr_t)uffd_place_find(all->memory, at, &run);
    run = min_u64(run, end - at);
    result = start == 0 ? explain(at, ENOENT) : run_part(all->memory, at, start, start + run);
  }
  return result;
}

int uffd_memory_discard(uffd_memory *memory, uint64_t offset, uint64_t length) {
  int result = uffd_memory_enter_own(memory);
  if (result < 0) return result;
  if (offset > memory->length || length > memory->length - offset) {
    return fail(ERANGE, "%" PRIu64 " bytes at offset %" PRIu64 " are outside a memory of %" PRIu64 " bytes.", length,
                offset, memory->length);
  }
  if (offset % memory->page_size != 0 || length % memory->page_size != 0) {
    return fail(EINVAL, "%" PRIu64 " bytes at offset %" PRIu64 " are not whole pages of %" PRIu64 " bytes.", length,
                offset, memory->page_size);
  }
  struct discarding all = {.memory = memory, .offset = offset, .length = length};
  result = each_part(&all, check_part); /* nothing is dropped before the whole range is known to be served */
  return result < 0 ? result : each_part(&all, discard_part);
}
