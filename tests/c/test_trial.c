/* What placement auto goes by: two ways of serving, measured by turns. */
#include "check.h"
#include "loop/engine/placed/trial.h"

struct load {
  struct uffd_trial trial;
  uint64_t now_ns;
  uint64_t ns[2];     /* a fault takes, either way */
  uint64_t faults[2]; /* served, either way */
};

static void serve(struct load *load, unsigned faults) {
  for (unsigned i = 0; i < faults; i++) {
    uint32_t way = load->trial.running;
    load->now_ns += load->ns[way];
    load->faults[way]++;
    uint32_t next = uffd_trial_note(&load->trial, 1, load->now_ns);
    CHECK_EQ(next, load->trial.running);
  }
}

static struct load begin(uint64_t first, uint64_t second) {
  return (struct load){.now_ns = UINT64_C(5000000000), .ns = {first, second}};
}

static void the_faster_way_stays(void) {
  struct load load = begin(45000, 28000);
  serve(&load, 400);
  CHECK(load.trial.settled);
  CHECK_EQ(load.trial.running, 1);
  load.faults[0] = load.faults[1] = 0;
  serve(&load, 100000);
  CHECK_EQ(load.trial.incumbent, 1);
  CHECK(load.faults[0] < 100000 / 50); /* what measuring goes on taking */
  CHECK(load.faults[0] > 0);
}

static void a_way_that_is_hardly_faster_is_not_taken(void) {
  struct load load = begin(30000, 28000);
  serve(&load, 50000);
  CHECK_EQ(load.trial.incumbent, 0);
  load = begin(28000, 45000);
  serve(&load, 50000);
  CHECK_EQ(load.trial.incumbent, 0);
  CHECK(load.faults[1] < 50000 / 50);
}

/* Nothing is tried where faults are few, or far between. */
static void few_faults_are_left_alone(void) {
  struct load load = begin(45000, 28000);
  serve(&load, 64);
  CHECK_EQ(load.faults[1], 0);
  load = begin(2000000, 28000);
  serve(&load, 5000);
  CHECK_EQ(load.faults[1], 0);
  CHECK(!load.trial.settled);
}

static void another_load_is_measured_again_soon(void) {
  struct load load = begin(45000, 28000);
  serve(&load, 20000);
  CHECK_EQ(load.trial.incumbent, 1);
  load.ns[1] = 100000;
  serve(&load, 600);
  CHECK_EQ(load.trial.incumbent, 0);
}

/* Single slow faults, as any scheduler makes them, decide nothing. */
static void outliers_do_not_decide(void) {
  struct load load = begin(45000, 28000);
  for (unsigned i = 0; i < 400; i++) {
    serve(&load, 1);
    if (i % 50 == 0) load.now_ns += 900000;
  }
  CHECK_EQ(load.trial.incumbent, 1);
}

static void a_way_that_fails_rests(void) {
  struct load load = begin(45000, 28000);
  while (load.trial.running == 0) {
    serve(&load, 1);
  }
  uffd_trial_fail(&load.trial);
  CHECK_EQ(load.trial.running, 0);
  load.faults[1] = 0;
  serve(&load, 4000);
  CHECK_EQ(load.faults[1], 0);
  serve(&load, 1000);
  CHECK_EQ(load.trial.incumbent, 1);
}

static const struct check_test tests[] = {
    TEST(the_faster_way_stays),      TEST(a_way_that_is_hardly_faster_is_not_taken),
    TEST(few_faults_are_left_alone), TEST(another_load_is_measured_again_soon),
    TEST(outliers_do_not_decide),    TEST(a_way_that_fails_rests),
};
CHECK_MAIN(tests)
