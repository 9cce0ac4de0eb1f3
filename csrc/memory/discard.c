/*
 * Discarding pages: what is served is absent again afterwards, and asked for anew. The server of a range does it, so
 * that what it knows of the pages and what the kernel has agree.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "memory/memory.h"

bool uffd_drop_tells(const uffd_memory *memory) {
  return memory->private_mapping || memory->fd < 0;
}

/* A shared file is punched: its pages go, and every mapping of them. A private mapping loses its own pages alone. */
int uffd_drop(const uffd_memory *memory, uint64_t start, uint64_t length) {
  void *there = (void *)(uintptr_t)start; /* NOLINT(performance-no-int-to-ptr) */
  int result;
  if (memory->private_mapping) {
    result = madvise(there, length, MADV_DONTNEED);
  } else if (memory->fd >= 0) {
    off_t offset = (off_t)(start - (uintptr_t)memory->address);
    result = fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, (off_t)length);
  } else {
    result = madvise(there, length, MADV_REMOVE);
  }
  return result == 0 ? 0 : -errno;
}

static int explain(const uffd_memory *memory, uint64_t at, int error) {
  uint64_t offset = at - (uintptr_t)memory->address;
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
  uint64_t start = (uintptr_t)memory->address + offset, end = start + length;
  for (uint64_t at = start; at < end;) { /* nothing is dropped before all of it is known to be served */
    uint64_t served = uffd_claim_end(at);
    if (served == 0) return explain(memory, at, ENOENT);
    at = served;
  }
  for (uint64_t at = start, next; at < end; at = next) {
    next = min_u64(end, uffd_claim_end(at));
    result = next <= at ? -ENOENT : uffd_claim_discard(memory, at, next);
    if (result < 0) return explain(memory, at, -result);
  }
  return 0;
}
