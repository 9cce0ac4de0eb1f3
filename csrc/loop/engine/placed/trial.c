/*
 * Measuring two ways of serving: medians of short samples, one way after the other; then a rest, which becomes longer
 * as long as the outcome is the same and ends early when faults take another time than they did.
 */
#include "loop/engine/placed/trial.h"

#include <string.h>

#define SAMPLE_FAULTS 16u
#define WARM_SAMPLES  8u             /* a loop's first faults are slow in any way: page tables, caches */
#define REST_MIN      UINT64_C(1024) /* faults */
#define REST_FAILED   UINT64_C(4096) /* somebody had to wait for long */
#define REST_MAX      UINT64_C(65536)
#define DRIFTS        8u                /* samples in a row that take twice or half as long: the load is another one */
#define GAP_NS        UINT64_C(1000000) /* a sample with such a pause in it measures the pause */

static uint64_t median(uint64_t samples[UFFD_TRIAL_SAMPLES]) {
  for (uint32_t i = 1; i < UFFD_TRIAL_SAMPLES; i++) {
    for (uint32_t j = i; j > 0 && samples[j - 1] > samples[j]; j--) {
      uint64_t larger = samples[j - 1];
      samples[j - 1] = samples[j];
      samples[j] = larger;
    }
  }
  return samples[UFFD_TRIAL_SAMPLES / 2];
}

static void begin(struct uffd_trial *trial, enum uffd_trial_phase phase, uint32_t running) {
  trial->phase = phase;
  trial->skip = trial->running != running ? 1 : 0; /* threads settle in */
  trial->running = running;
  trial->count = trial->drifts = 0;
}

static void rest(struct uffd_trial *trial, uint64_t faults) {
  trial->rest = faults < REST_MIN ? REST_MIN : faults > REST_MAX ? REST_MAX : faults;
  trial->left = trial->rest;
  trial->settled = true;
  begin(trial, UFFD_TRIAL_REST, trial->incumbent);
}

/* The challenger must be a tenth faster: two ways that are as fast as each other do not take turns. */
static void compare(struct uffd_trial *trial) {
  uint64_t value = median(trial->samples);
  if (trial->phase == UFFD_TRIAL_INCUMBENT) {
    trial->value = value;
    begin(trial, UFFD_TRIAL_CHALLENGER, 1 - trial->incumbent);
  } else if (value + value / 10 < trial->value) {
    trial->value = value;
    trial->incumbent = trial->running;
    rest(trial, REST_MIN);
  } else {
    rest(trial, trial->rest * 2);
  }
}

static void watch_drift(struct uffd_trial *trial, uint64_t value) {
  bool drifts = value > trial->value * 2 || value < trial->value / 2;
  trial->drifts = drifts ? trial->drifts + 1 : 0;
  trial->left -= trial->left < SAMPLE_FAULTS ? trial->left : SAMPLE_FAULTS;
  if (trial->left != 0 && trial->drifts < DRIFTS) return;
  if (trial->drifts >= DRIFTS) trial->rest = 0;
  begin(trial, UFFD_TRIAL_INCUMBENT, trial->incumbent);
}

static void take_sample(struct uffd_trial *trial, uint64_t value) {
  if (trial->warm < WARM_SAMPLES) {
    trial->warm++;
  } else if (trial->phase == UFFD_TRIAL_REST) {
    watch_drift(trial, value);
  } else if (trial->skip != 0) {
    trial->skip--;
  } else {
    trial->samples[trial->count++] = value;
    if (trial->count == UFFD_TRIAL_SAMPLES) compare(trial);
  }
}

uint32_t uffd_trial_note(struct uffd_trial *trial, uint64_t faults, uint64_t now_ns) {
  bool gap = now_ns - trial->last_ns > GAP_NS;
  trial->last_ns = now_ns;
  if (gap) {
    trial->begin_ns = now_ns;
    trial->faults = 0;
    return trial->running;
  }
  trial->faults += faults;
  if (trial->faults >= SAMPLE_FAULTS) {
    take_sample(trial, (now_ns - trial->begin_ns) / trial->faults);
    trial->begin_ns = now_ns;
    trial->faults = 0;
  }
  return trial->running;
}

void uffd_trial_fail(struct uffd_trial *trial) {
  trial->incumbent = 1 - trial->running;
  rest(trial, trial->rest * 2 > REST_FAILED ? trial->rest * 2 : REST_FAILED);
}
