/*
 * The rules of MOVE. The kernel answers EINVAL for each of them. Which rule was broken is found out here: from the
 * ranges before the call, and from both mappings after it.
 */
#include <inttypes.h>
#include <string.h>

#include "kernel/object.h"

int uffd_check_move(uint64_t dst, uint64_t src, uint64_t length) {
  int rc = uffd_check_range(dst, length);
  if (rc == 0) rc = uffd_check_range(src, length);
  if (rc == 0 && dst < src + length && src < dst + length)
    rc = fail(EINVAL,
              "move: the source %#" PRIx64 " and the destination %#" PRIx64 " overlap within %#" PRIx64 " bytes.", src,
              dst, length);
  return rc;
}

/* Why pages can neither leave nor enter this mapping, or NULL. */
static const char *find_obstacle(const struct uffd_mapping *mapping) {
  if (mapping->protection[3] != 'p') return "is shared memory";
  if (mapping->page_size > uffd_page_size()) return "has huge pages of hugetlb";
  if (!uffd_mapping_is_anonymous(mapping)) return "is a private mapping of a file";
  if (mapping->protection[1] != 'w') return "is not writable";
  if (uffd_mapping_has(mapping, "io") || uffd_mapping_has(mapping, "pf")) return "is device memory";
  return NULL;
}

int uffd_explain_move(const struct uffd_object *object, uint64_t dst, uint64_t src, uint64_t mode) {
  if (object->available != 0 && (object->available & UFFD_FEAT_MOVE) == 0)
    return fail(EINVAL, "This kernel has no move operation: it needs 6.8 or newer. Copy instead.");
  struct uffd_mapping to, from;
  if (uffd_find_mapping(dst, &to) < 0)
    return fail(EINVAL, "move: nothing is mapped at the destination %#" PRIx64 ".", dst);
  if (uffd_find_mapping(src, &from) < 0)
    return fail(EINVAL, "move: nothing is mapped at the source %#" PRIx64 ".", src);
  const char *obstacle = find_obstacle(&to);
  if (obstacle != NULL)
    return fail(EINVAL, "move: the destination %#" PRIx64 " %s: only private anonymous memory can receive pages.", dst,
                obstacle);
  obstacle = find_obstacle(&from);
  if (obstacle != NULL)
    return fail(EINVAL, "move: the source %#" PRIx64 " %s: only private anonymous memory can give pages.", src,
                obstacle);
  if (!uffd_mapping_is_registered(&to))
    return fail(EINVAL, "move: the destination %#" PRIx64 " is not registered with this userfaultfd.", dst);
  if (memcmp(to.protection, from.protection, 3) != 0)
    return fail(EINVAL, "move: the mappings differ in protection, %s at the destination and %s at the source.",
                to.protection, from.protection);
  if (uffd_mapping_has(&to, "lo") != uffd_mapping_has(&from, "lo"))
    return fail(EINVAL, "move: one of the two mappings is locked (mlock), the other is not.");
  return fail(
      EINVAL,
      "move from %#" PRIx64 " to %#" PRIx64 " with mode %#" PRIx64
      ": the mode is unknown, the destination is registered with another userfaultfd, or this one serves another "
      "process (pages move within the process that calls).",
      src, dst, mode);
}
