/*
 * The state of a client in the supervisor: one value, and a table of what may follow it.
 */
#ifndef UFFD_SERVE_STAGE_H
#define UFFD_SERVE_STAGE_H

#include <stdbool.h>
#include <stdint.h>

/*
 *   ADOPTED -> QUEUED
 *   QUEUED -> MAKING -> SERVED --------------------------> LEAVING -> LEAVING_HEIR -> LEFT
 *                        |  \ HEIR_QUEUED -> HEIR_MAKING -> HEIR_HELD -> YIELDING -> HELD -> MAKING (by the heir)
 *                        `-> QUEUED, PREPARING or HELD when its worker dies; FROZEN when no worker can serve it
 */
enum uffd_stage {
  UFFD_STAGE_ADOPTED,       /* a worker of a supervisor that is dead may still serve it: that one lets go of it first */
  UFFD_STAGE_QUEUED,        /* its worker, if there is one yet, has not been told */
  UFFD_STAGE_MAKING,        /* its worker makes it, and will start it */
  UFFD_STAGE_PREPARING,     /* its worker makes it, and will wait for START: it was the heir of one that has died */
  UFFD_STAGE_HELD,          /* its worker has made it, and waits to be told START */
  UFFD_STAGE_SERVED,        /* its worker serves it */
  UFFD_STAGE_HEIR_QUEUED,   /* served; its heir has not been told */
  UFFD_STAGE_HEIR_MAKING,   /* served; its heir makes it */
  UFFD_STAGE_HEIR_HELD,     /* served; its heir waits for START */
  UFFD_STAGE_YIELDING,      /* its worker has been told to yield it; its heir waits for START */
  UFFD_STAGE_YIELDING_BACK, /* its worker has been told to yield it, but its heir has died */
  UFFD_STAGE_FROZEN,        /* no worker can serve it */
  UFFD_STAGE_LEAVING,       /* it needs no worker any more: its worker, then its heir are to be told */
  UFFD_STAGE_LEAVING_HEIR,  /* its heir is to be told */
  UFFD_STAGE_LEFT,          /* both have been told; it ends when they have answered */
  UFFD_STAGES
};

/* Sets *stage to next. A step that the table does not have is a defect of ours. */
void uffd_stage_enter(enum uffd_stage *stage, enum uffd_stage next);
bool uffd_stage_is_served(enum uffd_stage stage);  /* does a worker answer its faults? */
bool uffd_stage_is_leaving(enum uffd_stage stage); /* does it need no worker any more? */
/* UFFD_CLIENT_*. end: UFFD_END_*, how one ends that leaves. */
uint32_t uffd_stage_state(enum uffd_stage stage, uint32_t end);

#endif
