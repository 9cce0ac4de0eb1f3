/*
 * Where signal handlers look addresses up: the slices of all inline loops of the process.
 */
#ifndef UFFD_LOOP_ENGINE_INLINE_DIRECTORY_H
#define UFFD_LOOP_ENGINE_INLINE_DIRECTORY_H

#include "loop/engine/engine.h"

struct uffd_entry {
  struct uffd_slice slice;
  struct uffd_source *source;
  struct uffd_engine *engine;
};

/*
 * The entry that holds address, which stays until it is dropped; NULL: there is none. Any thread, any context: no lock,
 * no system call, and nobody waits but whoever removes this very entry.
 */
const struct uffd_entry *uffd_entry_hold(uint64_t address);
void uffd_entry_drop(const struct uffd_entry *entry);
/* How many entries have been removed so far. Counted before an entry is not found any more. */
uint64_t uffd_directory_removals(void);
/* Ordinary threads only. */
int uffd_directory_add(const struct uffd_entry *entry); /* 0 or -ENOMEM */
/* Sleeps until nobody holds the region's entry. It may have none. */
void uffd_directory_remove(const struct uffd_terms *terms);

#endif
