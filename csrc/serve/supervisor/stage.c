/*
 * The table of a client's states.
 */
#include <stdlib.h>

#include "base/base.h"
#include "serve/supervisor/stage.h"
#include "uffd_pager.h"

#define TO(stage) (1u << UFFD_STAGE_##stage)

static const struct {
  uint32_t next;  /* what may follow, a bit a stage */
  uint32_t state; /* as the public interface names it */
} stages[UFFD_STAGES] = {
    [UFFD_STAGE_ADOPTED] = {TO(QUEUED) | TO(LEFT), UFFD_CLIENT_SERVED},
    [UFFD_STAGE_QUEUED] = {TO(MAKING) | TO(FROZEN) | TO(LEFT), UFFD_CLIENT_STARTING},
    [UFFD_STAGE_MAKING] = {TO(SERVED) | TO(HEIR_QUEUED) | TO(QUEUED) | TO(FROZEN) | TO(LEAVING), UFFD_CLIENT_STARTING},
    [UFFD_STAGE_PREPARING] = {TO(HELD) | TO(QUEUED) | TO(FROZEN) | TO(LEAVING), UFFD_CLIENT_STARTING},
    [UFFD_STAGE_HELD] = {TO(MAKING) | TO(QUEUED) | TO(FROZEN) | TO(LEAVING), UFFD_CLIENT_STARTING},
    [UFFD_STAGE_SERVED] = {TO(HEIR_QUEUED) | TO(QUEUED) | TO(FROZEN) | TO(LEAVING), UFFD_CLIENT_SERVED},
    [UFFD_STAGE_HEIR_QUEUED] = {TO(HEIR_MAKING) | TO(SERVED) | TO(QUEUED) | TO(LEAVING), UFFD_CLIENT_SERVED},
    [UFFD_STAGE_HEIR_MAKING] = {TO(HEIR_HELD) | TO(SERVED) | TO(PREPARING) | TO(LEAVING), UFFD_CLIENT_SERVED},
    [UFFD_STAGE_HEIR_HELD] = {TO(YIELDING) | TO(SERVED) | TO(HELD) | TO(LEAVING), UFFD_CLIENT_SERVED},
    [UFFD_STAGE_YIELDING] = {TO(HELD) | TO(YIELDING_BACK) | TO(LEAVING_HEIR), UFFD_CLIENT_SERVED},
    [UFFD_STAGE_YIELDING_BACK] = {TO(QUEUED) | TO(FROZEN) | TO(LEFT), UFFD_CLIENT_SERVED},
    [UFFD_STAGE_FROZEN] = {TO(QUEUED) | TO(LEFT), UFFD_CLIENT_FROZEN},
    [UFFD_STAGE_LEAVING] = {TO(LEAVING_HEIR), UFFD_CLIENT_GONE},
    [UFFD_STAGE_LEAVING_HEIR] = {TO(LEFT), UFFD_CLIENT_GONE},
    [UFFD_STAGE_LEFT] = {0, UFFD_CLIENT_GONE},
};

void uffd_stage_enter(enum uffd_stage *stage, enum uffd_stage next) {
  if ((stages[*stage].next >> next & 1) == 0) {
    uffd_log(UFFD_LOG_ERROR, "The pager moves a client from stage %d to %d, which must not follow.", (int)*stage,
             (int)next);
#ifdef UFFD_BARRIERS
    abort(); /* in the test builds a defect ends the test */
#endif
  }
  *stage = next;
}

bool uffd_stage_is_served(enum uffd_stage stage) {
  return stage >= UFFD_STAGE_SERVED && stage <= UFFD_STAGE_HEIR_HELD;
}

bool uffd_stage_is_leaving(enum uffd_stage stage) {
  return stage >= UFFD_STAGE_LEAVING;
}

uint32_t uffd_stage_state(enum uffd_stage stage, uint32_t end) {
  if (uffd_stage_is_leaving(stage) && end == UFFD_END_COMPLETE) return UFFD_CLIENT_COMPLETE;
  return stages[stage].state;
}
