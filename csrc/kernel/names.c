/*
 * The names of bits, in the kernel's spelling: one table for each mask. Bits without a name are kept as numbers.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "kernel/names.h"

struct name {
  unsigned bit;
  const char *text;
  const char *since; /* the kernel that brought it */
};

#define FEATURES(X)                                                                                                    \
  X(0, "pagefault_flag_wp", "5.7")                                                                                     \
  X(1, "event_fork", "4.11")                                                                                           \
  X(2, "event_remap", "4.11")                                                                                          \
  X(3, "event_remove", "4.11")                                                                                         \
  X(4, "missing_hugetlbfs", "4.11")                                                                                    \
  X(5, "missing_shmem", "4.11")                                                                                        \
  X(6, "event_unmap", "4.11")                                                                                          \
  X(7, "sigbus", "4.14")                                                                                               \
  X(8, "thread_id", "4.14")                                                                                            \
  X(9, "minor_hugetlbfs", "5.13")                                                                                      \
  X(10, "minor_shmem", "5.14")                                                                                         \
  X(11, "exact_address", "5.18")                                                                                       \
  X(12, "wp_hugetlbfs_shmem", "5.19")                                                                                  \
  X(13, "wp_unpopulated", "6.4")                                                                                       \
  X(14, "poison", "6.6")                                                                                               \
  X(15, "wp_async", "6.7")                                                                                             \
  X(16, "move", "6.8")                                                                                                 \
  X(17, "rwp", "7.x")                                                                                                  \
  X(18, "rwp_async", "7.x")

#define MODES(X)                                                                                                       \
  X(0, "missing", "4.3")                                                                                               \
  X(1, "wp", "5.7")                                                                                                    \
  X(2, "minor", "5.13")                                                                                                \
  X(3, "rwp", "7.x")

#define IOCTLS(X)                                                                                                      \
  X(0, "register", "4.3")                                                                                              \
  X(1, "unregister", "4.3")                                                                                            \
  X(2, "wake", "4.3")                                                                                                  \
  X(3, "copy", "4.3")                                                                                                  \
  X(4, "zeropage", "4.3")                                                                                              \
  X(5, "move", "6.8")                                                                                                  \
  X(6, "writeprotect", "5.7")                                                                                          \
  X(7, "continue", "5.13")                                                                                             \
  X(8, "poison", "6.6")                                                                                                \
  X(63, "api", "4.3")

#define ROW(bit, text, since) {bit, text, since},
static const struct name features[] = {FEATURES(ROW){0, NULL, NULL}};
static const struct name modes[] = {MODES(ROW){0, NULL, NULL}};
static const struct name ioctls[] = {IOCTLS(ROW){0, NULL, NULL}};

static const char *const feature_prefixes[] = {"UFFD_FEATURE_", "UFFD_FEAT_", NULL};
static const char *const mode_prefixes[] = {"UFFDIO_REGISTER_MODE_", "UFFD_MODE_", NULL};
static const char *const ioctl_prefixes[] = {"UFFDIO_", "_UFFDIO_", "UFFD_IOCTL_", NULL};

static const struct name *find_bit(const struct name *table, unsigned bit) {
  for (; table->text != NULL; table++)
    if (table->bit == bit) return table;
  return NULL;
}

static uint64_t find_name(const struct name *table, const char *const *prefixes, const char *text) {
  if (text == NULL) return 0;
  for (; *prefixes != NULL; prefixes++) {
    size_t length = strlen(*prefixes);
    if (strncasecmp(text, *prefixes, length) == 0) {
      text += length;
      break;
    }
  }
  for (; table->text != NULL; table++)
    if (strcasecmp(table->text, text) == 0) return UINT64_C(1) << table->bit;
  return 0;
}

const char *uffd_feature_name(unsigned bit) {
  const struct name *found = find_bit(features, bit);
  return found != NULL ? found->text : NULL;
}

const char *uffd_mode_name(unsigned bit) {
  const struct name *found = find_bit(modes, bit);
  return found != NULL ? found->text : NULL;
}

const char *uffd_ioctl_name(unsigned bit) {
  const struct name *found = find_bit(ioctls, bit);
  return found != NULL ? found->text : NULL;
}

uint64_t uffd_feature_bit(const char *name) {
  return find_name(features, feature_prefixes, name);
}

uint64_t uffd_mode_bit(const char *name) {
  return find_name(modes, mode_prefixes, name);
}

uint64_t uffd_ioctl_bit(const char *name) {
  return find_name(ioctls, ioctl_prefixes, name);
}

uint64_t uffd_named_features(void) {
  uint64_t mask = 0;
  for (const struct name *row = features; row->text != NULL; row++)
    mask |= UINT64_C(1) << row->bit;
  return mask;
}

void uffd_list_features(uint64_t mask, char *text, size_t length) {
  size_t used = 0;
  text[0] = '\0';
  for (unsigned bit = 0; bit < 64; bit++) {
    if ((mask >> bit & 1) == 0) continue;
    const struct name *found = find_bit(features, bit);
    const char *comma = used > 0 ? ", " : "";
    int wrote = found != NULL ? snprintf(text + used, length - used, "%s%s (%s)", comma, found->text, found->since)
                              : snprintf(text + used, length - used, "%sbit %u", comma, bit);
    if (wrote < 0 || (size_t)wrote >= length - used) return;
    used += (size_t)wrote;
  }
}
