/*
 * Units that were fetched and find no room in the cache: the disk is full, or its limit is reached. They are kept in
 * memory, few of them, until others take their slots. A reader looks at the slot before and after it reads.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "image/remote/fetch.h"

#define SPILL_BYTES (UINT64_C(64) << 20)
#define SLOTS_LEAST 4u
#define SLOTS_MOST  1024u
#define UNIT_BITS   40u
#define UNIT_MASK   ((UINT64_C(1) << UNIT_BITS) - 1)

int uffd_spill_make(struct uffd_spill *spill, uint64_t longest) {
  spill->fd = -1;
  spill->slot_bytes = longest;
  spill->slots = min_u64(max_u64(SPILL_BYTES / longest, SLOTS_LEAST), SLOTS_MOST);
  spill->holds = uffd_alloc(spill->slots * sizeof(*spill->holds));
  if (spill->holds == NULL) return fail(ENOMEM, "No memory for a source.");
  spill->fd = memfd_create("uffd-spill", MFD_CLOEXEC);
  return spill->fd < 0 ? fail(errno, "Cannot make a file for what is fetched.") : 0;
}

void uffd_spill_free(struct uffd_spill *spill) {
  if (spill->holds == NULL) return;
  uffd_release((void *)spill->holds, spill->slots * sizeof(*spill->holds));
  if (spill->fd >= 0) close(spill->fd);
}

bool uffd_spill_has(const struct uffd_spill *spill, uint64_t unit) {
  return (atomic_load_explicit(&spill->holds[unit % spill->slots], memory_order_acquire) & UNIT_MASK) == unit + 1;
}

bool uffd_spill_read(const struct uffd_spill *spill, uint64_t unit, uint64_t from, void *buffer, uint64_t length) {
  uint64_t slot = unit % spill->slots;
  uint64_t before = atomic_load(&spill->holds[slot]);
  if ((before & UNIT_MASK) != unit + 1) return false;
  ssize_t got = pread(spill->fd, buffer, length, (off_t)(slot * spill->slot_bytes + from));
  return got == (ssize_t)length && atomic_load(&spill->holds[slot]) == before;
}

int uffd_spill_put(struct uffd_spill *spill, uint64_t unit, const void *bytes, uint64_t length) {
  uint64_t slot = unit % spill->slots, turn = (atomic_load(&spill->holds[slot]) >> UNIT_BITS) + 1;
  atomic_store(&spill->holds[slot], turn << UNIT_BITS);
  int result = uffd_write_exactly(spill->fd, "memory for what is fetched", slot * spill->slot_bytes, bytes, length);
  if (result == 0) atomic_store(&spill->holds[slot], turn << UNIT_BITS | (unit + 1));
  return result;
}
