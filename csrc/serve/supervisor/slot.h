/*
 * Slots: places for workers. Worker processes are started, heard and replaced here.
 */
#ifndef UFFD_SERVE_SLOT_H
#define UFFD_SERVE_SLOT_H

#include <stdbool.h>
#include <stdint.h>

#include "uffd_pager.h"

struct uffd_worker;

/* While a worker is being replaced there are two workers in its slot. */
struct uffd_slot {
  uint32_t failures;   /* starts in a row that failed */
  uint64_t failing_ns; /* since when */
  uint64_t retry_ns;   /* when the next start may be tried; 0: at once */
  bool given_up;       /* the pager has never had a worker: no further start is tried before a reload */
};

void uffd_slots_fill(uffd_pager *pager, uint64_t now); /* starts missing workers, ends idle ones that retire */
uint64_t uffd_slots_due(const uffd_pager *pager);      /* when a start may be tried again; UINT64_MAX: none waits */
bool uffd_slots_starting(const uffd_pager *pager);     /* is there a worker that is not ready yet? */
/* A killed worker that does not die: its clients go on elsewhere. */
void uffd_slot_abandon(uffd_pager *pager, struct uffd_worker *worker);
void uffd_slots_reload(uffd_pager *pager); /* starts a worker beside each one that is there */
void uffd_slots_retire(uffd_pager *pager); /* tells all workers to end when they have no clients */
/* Forgets all workers. Those that have no clients are killed, the others go on without a supervisor. */
void uffd_slots_leave(uffd_pager *pager);

#endif
