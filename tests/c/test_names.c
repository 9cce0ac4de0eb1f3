/* Names of features, modes and ioctls, both ways; of the fields of the statistics. */
#include <stddef.h>

#include "check.h"

static void every_feature_by_every_spelling(void) {
  for (unsigned bit = 0; bit < 19; bit++) {
    const char *name = uffd_feature_name(bit);
    CHECK(name != NULL);
    CHECK_EQ(uffd_feature_bit(name), UINT64_C(1) << bit);
    char kernel[64];
    snprintf(kernel, sizeof(kernel), "UFFD_FEATURE_%s", name);
    CHECK_EQ(uffd_feature_bit(kernel), UINT64_C(1) << bit);
  }
  CHECK_EQ(uffd_feature_bit("UFFD_FEATURE_EVENT_FORK"), UFFD_FEAT_EVENT_FORK);
  CHECK_EQ(uffd_feature_bit("Wp_Async"), UFFD_FEAT_WP_ASYNC);
  CHECK(strcmp(uffd_feature_name(16), "move") == 0);
}

static void modes_and_ioctls(void) {
  CHECK_EQ(uffd_mode_bit("missing"), UFFD_MODE_MISSING);
  CHECK_EQ(uffd_mode_bit("UFFDIO_REGISTER_MODE_WP"), UFFD_MODE_WP);
  CHECK_EQ(uffd_mode_bit("UFFD_MODE_MINOR"), UFFD_MODE_MINOR);
  CHECK(strcmp(uffd_mode_name(3), "rwp") == 0);
  static const char *const names[] = {"register", "unregister",   "wake",     "copy",  "zeropage",
                                      "move",     "writeprotect", "continue", "poison"};
  for (unsigned bit = 0; bit < 9; bit++) {
    CHECK(strcmp(uffd_ioctl_name(bit), names[bit]) == 0);
    CHECK_EQ(uffd_ioctl_bit(names[bit]), UINT64_C(1) << bit);
  }
  CHECK_EQ(uffd_ioctl_bit("UFFDIO_WRITEPROTECT"), UFFD_IOCTL_WRITEPROTECT);
  CHECK_EQ(uffd_ioctl_bit("_UFFDIO_API"), UFFD_IOCTL_API);
  CHECK(strcmp(uffd_ioctl_name(63), "api") == 0);
}

static void unknown_ones(void) {
  CHECK(uffd_feature_name(19) == NULL);
  CHECK(uffd_feature_name(63) == NULL);
  CHECK(uffd_feature_name(64) == NULL);
  CHECK(uffd_mode_name(4) == NULL);
  CHECK(uffd_ioctl_name(9) == NULL);
  CHECK_EQ(uffd_feature_bit("no_such_feature"), 0);
  CHECK_EQ(uffd_feature_bit(""), 0);
  CHECK_EQ(uffd_feature_bit("UFFD_FEATURE_"), 0);
  CHECK_EQ(uffd_feature_bit(NULL), 0);
  CHECK_EQ(uffd_mode_bit("missing "), 0);
  CHECK_EQ(uffd_ioctl_bit("cop"), 0);
}

/* Every field once, in the order of the struct: other lists are made from this one. */
static void fields_of_the_statistics(void) {
  size_t count;
  const struct uffd_stats_field *fields = uffd_stats_fields(&count);
  CHECK_EQ(sizeof(struct uffd_stats), sizeof(size_t) + count * sizeof(uint64_t));
  for (size_t i = 0; i < count; i++) {
    CHECK_EQ(fields[i].offset, sizeof(size_t) + i * sizeof(uint64_t));
    CHECK(fields[i].name[0] != '\0' && fields[i].help[0] != '\0');
    CHECK(fields[i].kind <= UFFD_STATS_PERCENTILE);
  }
  CHECK(strcmp(fields[0].name, "faults") == 0);
  CHECK(strcmp(fields[count - 1].name, "latency_max") == 0);
  CHECK_EQ(fields[count - 1].offset, offsetof(struct uffd_stats, latency_max));
}

static const struct check_test tests[] = {
    TEST(every_feature_by_every_spelling),
    TEST(modes_and_ioctls),
    TEST(unknown_ones),
    TEST(fields_of_the_statistics),
};
CHECK_MAIN(tests)
