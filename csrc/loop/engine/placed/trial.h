/*
 * What placement auto goes by: faults are served in two ways by turns, and the faster way stays. Knows no threads.
 */
#ifndef UFFD_LOOP_TRIAL_H
#define UFFD_LOOP_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

#define UFFD_TRIAL_SAMPLES 5u

enum uffd_trial_phase { UFFD_TRIAL_INCUMBENT, UFFD_TRIAL_CHALLENGER, UFFD_TRIAL_REST };

struct uffd_trial {
  uint32_t incumbent; /* the way that is the faster one so far: 0 or 1 */
  uint32_t running;   /* the way that is to be used now */
  enum uffd_trial_phase phase;
  bool settled;                         /* has compared at least once */
  uint64_t samples[UFFD_TRIAL_SAMPLES]; /* nanoseconds a fault */
  uint32_t warm, count, skip, drifts;
  uint64_t value; /* of the incumbent, when it was measured last */
  uint64_t rest, left;
  uint64_t faults, begin_ns, last_ns; /* of the sample under way */
};

/* `faults` more were answered, the last of them read at now_ns. Returns the way to go on with. */
uint32_t uffd_trial_note(struct uffd_trial *trial, uint64_t faults, uint64_t now_ns);
/* The way that is being tried does not work now: back to the other one, and a rest. */
void uffd_trial_fail(struct uffd_trial *trial);

#endif
