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

/* Entries are valid between enter and leave. Any thread, any context. */
struct uffd_visit {
  uint32_t stripe, phase;
};
struct uffd_visit uffd_directory_enter(void);
void uffd_directory_leave(struct uffd_visit visit);
const struct uffd_entry *uffd_directory_find(uint64_t address);
/* No entry holds address now, but one did a short while ago. */
bool uffd_directory_had(uint64_t address);
/* Ordinary threads only: they wait for the signal handlers that are inside. */
int uffd_directory_add(const struct uffd_entry *entry); /* 0 or -ENOMEM */
void uffd_directory_remove(const struct uffd_terms *terms);

#endif
