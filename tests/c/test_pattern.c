/*
 * around auto: how far answers reach for each kind of access.
 */
#include "check.h"
#include "loop/pages/pattern.h"

#define PAGE  UINT64_C(4096)
#define LIMIT (UINT64_C(64) << 20)

/* Goes through the region as a program would that faults only where nothing has been brought in. */
struct model {
  struct uffd_pattern pattern;
  unsigned char present[LIMIT / PAGE];
  unsigned faults;
  uint64_t largest; /* bytes of one answer */
  uint64_t brought; /* pages */
};

static void touch(struct model *model, uint64_t offset) {
  uint64_t low, high;
  if (model->present[offset / PAGE]) return;
  uffd_pattern_follow(&model->pattern, offset, PAGE, LIMIT, &low, &high);
  CHECK(low % PAGE == 0 && high % PAGE == 0 && low <= offset && high >= offset + PAGE && high <= LIMIT);
  model->faults++;
  if (high - low > model->largest) model->largest = high - low;
  for (uint64_t at = low; at < high; at += PAGE) {
    model->brought += !model->present[at / PAGE];
    model->present[at / PAGE] = 1;
  }
}

static struct model *new_model(void) {
  struct model *model = calloc(1, sizeof(*model));
  CHECK(model != NULL);
  return model;
}

static void forwards_grows_to_2_mib(void) {
  struct model *model = new_model();
  for (uint64_t at = 0; at < LIMIT; at += PAGE) {
    touch(model, at);
  }
  CHECK_EQ(model->largest, UINT64_C(2) << 20);
  CHECK(model->faults < LIMIT / (UINT64_C(2) << 20) + 12);
  free(model);
}

static void backwards_grows_as_well(void) {
  struct model *model = new_model();
  for (uint64_t at = LIMIT; at > 0; at -= PAGE) {
    touch(model, at - PAGE);
  }
  CHECK_EQ(model->largest, UINT64_C(2) << 20);
  CHECK(model->faults < LIMIT / (UINT64_C(2) << 20) + 12);
  free(model);
}

static void strides_are_sequences(void) {
  for (uint64_t stride = 2; stride <= 8; stride++) {
    struct model *model = new_model();
    for (uint64_t at = 0; at < LIMIT; at += stride * PAGE) {
      touch(model, at);
    }
    CHECK(model->faults < 60);
    free(model);
  }
}

static void far_strides_are_not(void) {
  struct model *model = new_model();
  for (uint64_t at = 0; at < LIMIT; at += 32 * PAGE) {
    touch(model, at);
  }
  CHECK_EQ(model->largest, PAGE);
  free(model);
}

static uint64_t next_random(uint64_t *state) {
  *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return *state >> 33;
}

static void random_accesses_bring_one_page(void) {
  struct model *model = new_model();
  uint64_t state = 1;
  for (unsigned i = 0; i < 1500; i++) {
    touch(model, next_random(&state) % (LIMIT / PAGE) * PAGE);
  }
  CHECK(model->brought < model->faults + model->faults / 20);
  free(model);
}

static void a_sequence_ends_when_accesses_are_random(void) {
  struct model *model = new_model();
  uint64_t state = 2;
  for (uint64_t at = 0; at < LIMIT / 4; at += PAGE) {
    touch(model, at);
  }
  model->largest = 0;
  for (unsigned i = 0; i < 20; i++) {
    touch(model, LIMIT / 2 + next_random(&state) % (LIMIT / 2 / PAGE / 64) * 64 * PAGE);
  }
  CHECK_EQ(model->largest, PAGE);
  free(model);
}

/* Threads that go through one region side by side, with a random fault now and then. */
static void several_streams_at_once(void) {
  struct model *model = new_model();
  uint64_t state = 3, quarter = LIMIT / 4;
  for (uint64_t at = 0; at < quarter; at += PAGE) {
    for (uint64_t thread = 0; thread < 3; thread++) {
      touch(model, thread * quarter + at);
    }
    if (at % (64 * PAGE) == 0) touch(model, 3 * quarter + next_random(&state) % (quarter / PAGE) * PAGE);
  }
  CHECK(model->faults < 3 * 8 + 3 * 12 + 64 + 20);
  free(model);
}

static void pages_of_2_mib_come_one_at_a_time(void) {
  struct uffd_pattern pattern = {0};
  uint64_t huge = UINT64_C(2) << 20, low, high;
  for (uint64_t at = 0; at < 8 * huge; at += huge) {
    uffd_pattern_follow(&pattern, at, huge, 8 * huge, &low, &high);
    CHECK_EQ(low, at);
    CHECK_EQ(high, at + huge);
  }
}

/* Answers end every 16 pages, whatever is asked for: one fault for each, and no more. */
static void short_answers_are_followed(void) {
  for (int backwards = 0; backwards < 2; backwards++) {
    struct uffd_pattern pattern = {0};
    const uint64_t frame = 16 * PAGE;
    uint64_t at = backwards ? LIMIT - PAGE : 0, wanted = 0;
    for (unsigned i = 0; i < 100; i++) {
      uint64_t low, high;
      struct uffd_stream *stream = uffd_pattern_follow(&pattern, at, PAGE, LIMIT, &low, &high);
      CHECK(stream == &pattern.streams[0]);
      wanted = high - low;
      uint64_t answered = at / frame * frame;
      if (wanted != frame) uffd_pattern_correct(stream, frame, answered, answered + frame);
      at = backwards ? answered - PAGE : answered + frame;
    }
    CHECK(wanted >= frame && wanted <= 4 * frame); /* about as much as answers are */
  }
}

static const struct check_test tests[] = {
    TEST(short_answers_are_followed),
    TEST(forwards_grows_to_2_mib),
    TEST(backwards_grows_as_well),
    TEST(strides_are_sequences),
    TEST(far_strides_are_not),
    TEST(random_accesses_bring_one_page),
    TEST(a_sequence_ends_when_accesses_are_random),
    TEST(several_streams_at_once),
    TEST(pages_of_2_mib_come_one_at_a_time),
};

CHECK_MAIN(tests)
