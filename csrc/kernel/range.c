/*
 * Ranges of addresses: checked, registered, unregistered, woken. When the kernel refuses a range, the reason is looked
 * up in the process's own mappings.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kernel/create.h"
#include "kernel/object.h"

#define TMPFS_MAGIC_NUMBER 0x01021994

uint64_t uffd_page_size(void) {
  return (uint64_t)sysconf(_SC_PAGESIZE);
}

int uffd_check_range(uint64_t start, uint64_t length) {
  uint64_t page = uffd_page_size();
  if (length == 0) return fail(EINVAL, "The length is 0: a range has at least one page.");
  if (start % page != 0 || length % page != 0)
    return fail(EINVAL, "The range %#" PRIx64 "+%#" PRIx64 " is not aligned to pages of %" PRIu64 " bytes.", start,
                length, page);
  if (start + length < start)
    return fail(EINVAL, "The range %#" PRIx64 "+%#" PRIx64 " wraps around the end of the address space.", start,
                length);
  return 0;
}

/* Files in shared memory can be registered. The pages of any other file belong to its file system. */
static bool is_ordinary_file(const struct uffd_mapping *mapping) {
  if (mapping->name[0] != '/' || mapping->page_size > uffd_page_size()) return false;
  if (strncmp(mapping->name, "/memfd:", 7) == 0 || strncmp(mapping->name, "/dev/zero", 9) == 0) return false;
  struct statfs system;
  return statfs(mapping->name, &system) < 0 || system.f_type != TMPFS_MAGIC_NUMBER;
}

/* Why this mapping cannot be registered with these modes, or NULL when no reason is found. */
static const char *find_obstacle(const struct uffd_object *object, const struct uffd_mapping *mapping, uint64_t modes) {
  uint64_t has = object->available;
  bool huge = mapping->page_size > uffd_page_size(), shared = mapping->protection[3] == 's';
  if (strncmp(mapping->name, "/SYSV", 5) == 0)
    return "System V shared memory (shmget) cannot be registered: use a memfd";
  if (strstr(mapping->name, "secretmem") != NULL) return "memory of memfd_secret cannot be registered";
  if (strcmp(mapping->name, "[vdso]") == 0 || strncmp(mapping->name, "[vvar", 5) == 0 ||
      strcmp(mapping->name, "[vsyscall]") == 0)
    return "it belongs to the kernel";
  if (uffd_mapping_has(mapping, "dp")) return "droppable memory (MAP_DROPPABLE) cannot be registered";
  if (uffd_mapping_has(mapping, "io") || uffd_mapping_has(mapping, "pf") || uffd_mapping_has(mapping, "ss"))
    return "device memory and shadow stacks cannot be registered";
  if (is_ordinary_file(mapping))
    return "an ordinary file's mapping cannot be registered (except for WP alone with wp_async, kernel 6.7): use "
           "anonymous "
           "memory or a memfd";
  if ((modes & UFFD_MODE_MINOR) != 0) {
    if (uffd_mapping_is_anonymous(mapping) && !huge)
      return "MINOR faults need a page cache, and anonymous memory has none: use a memfd";
    if (huge ? (has & UFFD_FEAT_MINOR_HUGETLBFS) == 0 : (has & UFFD_FEAT_MINOR_SHMEM) == 0)
      return "MINOR on this memory needs a newer kernel (5.13 for huge pages, 5.14 for shared memory)";
  }
  if ((modes & UFFD_MODE_WP) != 0) {
    if ((has & UFFD_FEAT_PAGEFAULT_FLAG_WP) == 0) return "WP needs kernel 5.7 or newer";
    if ((huge || shared) && (has & UFFD_FEAT_WP_HUGETLBFS_SHMEM) == 0)
      return "WP on shared memory and huge pages needs kernel 5.19 or newer";
  }
  return NULL;
}

/*
 * Sets a sentence that says why this part of a range cannot be registered, and returns true; false: no reason is found.
 */
static bool explain_part(const struct uffd_object *object, const struct uffd_mapping *mapping, uint64_t start,
                         uint64_t length, uint64_t modes) {
  const char *obstacle = find_obstacle(object, mapping, modes);
  uint64_t from = max_u64(start, mapping->start), to = min_u64(start + length, mapping->end);
  if (obstacle != NULL) {
    fail(EINVAL, "The mapping %#" PRIx64 "-%#" PRIx64 " (%s, %.60s) cannot be registered so: %s.", mapping->start,
         mapping->end, mapping->protection, mapping->name[0] != '\0' ? mapping->name : "anonymous", obstacle);
    return true;
  }
  if (from % mapping->page_size == 0 && to % mapping->page_size == 0) return false;
  fail(EINVAL,
       "The range %#" PRIx64 "+%#" PRIx64 " is not aligned to the huge pages of %" PRIu64 " bytes mapped there.", start,
       length, mapping->page_size);
  return true;
}

static int explain_mapping(const struct uffd_object *object, uint64_t start, uint64_t length, uint64_t modes) {
  uint64_t end = start + length, at = start;
  struct uffd_mapping mapping;
  struct uffd_maps maps;
  bool explained = false;
  if (uffd_maps_open(&maps, true) == 0) {
    for (; at < end && uffd_maps_find(&maps, at, &mapping) == 0 && mapping.start < end && !explained; at = mapping.end)
      explained = explain_part(object, &mapping, start, length, modes);
    uffd_maps_close(&maps);
  }
  if (explained) return -EINVAL;
  if (at == start) return fail(EINVAL, "Nothing is mapped at %#" PRIx64 "+%#" PRIx64 ".", start, length);
  return fail(EINVAL,
              "The kernel refuses the range %#" PRIx64 "+%#" PRIx64 " for modes %#" PRIx64
              ": an unknown mode, an address that it keeps, or memory of another userfaultfd.",
              start, length, modes);
}

static int explain_invalid(const struct uffd_object *object, uint64_t start, uint64_t length, uint64_t modes) {
  if (object->route != UFFD_ROUTE_ADOPTED) return explain_mapping(object, start, length, modes);
  /* The object most likely serves another process: our own mappings would give a wrong reason. */
  return fail(
      EINVAL,
      "The range %#" PRIx64 "+%#" PRIx64 " of the address space that this userfaultfd serves cannot be registered: "
      "nothing mapped there, not aligned to its huge pages, or memory that cannot have the modes (System V shared "
      "memory, ordinary files, MINOR on anonymous memory).",
      start, length);
}

static int explain_no_memory(const struct uffd_object *object) {
  const char *gone = object->route == UFFD_ROUTE_ADOPTED ? "the process whose memory it serves is gone, or it has"
                                                         : "this process has";
  return fail(
      ENOMEM,
      "No room for another mapping: %s reached vm.max_map_count (%lld). Register fewer, larger ranges, or raise "
      "that sysctl.",
      gone, uffd_read_number("/proc/sys/vm/max_map_count"));
}

static int explain_register(const struct uffd_object *object, int error, uint64_t start, uint64_t length,
                            uint64_t modes) {
  if (uffd_is_closing(object)) return fail(EBADF, "The userfaultfd object was closed meanwhile.");
  switch (error) {
  case EINVAL:
    return explain_invalid(object, start, length, modes);
  case EPERM:
    return fail(EPERM,
                "The range %#" PRIx64 "+%#" PRIx64
                " holds a shared mapping that can never be written (the descriptor is "
                "read-only, or the memfd is sealed against writes): open it for writing, or register before sealing.",
                start, length);
  case EBUSY:
    return fail(EBUSY,
                "Part of the range %#" PRIx64 "+%#" PRIx64
                " belongs to another userfaultfd (another handle, a sanitizer, a "
                "virtual machine monitor): unregister it there first.",
                start, length);
  case ENOMEM:
    return explain_no_memory(object);
  default:
    return fail(error, "Registering %#" PRIx64 "+%#" PRIx64 " failed: %s.", start, length, strerror(error));
  }
}

/*
 * KSM merges equal pages and loses their write protection (6.18): the first write to such a page would never be told.
 * So the range is taken out of KSM (MADV_UNMERGEABLE). ENOMEM means a hole, EINVAL a kernel without KSM: neither
 * matters, as only a range that stays mergeable is refused.
 */
static int unmerge(uint64_t start, uint64_t length) {
  struct uffd_maps maps;
  struct uffd_mapping mapping;
  void *at = (void *)(uintptr_t)start; /* NOLINT(performance-no-int-to-ptr) */
  if (madvise(at, length, MADV_UNMERGEABLE) == 0 || errno == EINVAL || uffd_maps_open(&maps, true) < 0) return 0;
  bool marked = false;
  for (uint64_t next = start; next < start + length && !marked && uffd_maps_find(&maps, next, &mapping) == 0;
       next = mapping.end) {
    marked = mapping.start < start + length && uffd_mapping_has(&mapping, "mg");
  }
  uffd_maps_close(&maps);
  if (!marked) return 0;
  return fail(ENOMEM,
              "The range %#" PRIx64 "+%#" PRIx64
              " may be merged by KSM, which drops write protection, and cannot be taken out of it: no memory for pages "
              "of its own.",
              start, length);
}

static int register_range(struct uffd_object *object, uint64_t start, uint64_t length, uint64_t modes,
                          uint64_t *ioctls) {
  if ((modes & UFFD_MODE_WP) != 0 && object->route != UFFD_ROUTE_ADOPTED) {
    int result = unmerge(start, length);
    if (result < 0) return result;
  }
  pthread_mutex_lock(&object->registering);
  bool room = uffd_spans_reserve(&object->spans) == 0;
  int rc = room ? uffd_raw_register(object->fd, start, length, modes, ioctls) : -ENOMEM;
  /* When the kernel runs out of mappings in the middle, the first part stays registered. */
  if (room && (rc == 0 || rc == -ENOMEM)) uffd_spans_add(&object->spans, start, start + length);
  pthread_mutex_unlock(&object->registering);
  if (!room) return fail(ENOMEM, "No memory to remember a registered range.");
  return rc < 0 ? explain_register(object, -rc, start, length, modes) : 0;
}

int uffd_register(uffd_object *object, uint64_t start, uint64_t length, uint64_t modes, uint64_t *ioctls) {
  int rc = uffd_enter(object);
  if (rc < 0) return rc;
  rc = uffd_check_range(start, length);
  if (rc == 0 && modes == 0) rc = fail(EINVAL, "No mode: register for UFFD_MODE_MISSING, _WP, _MINOR, or several.");
  if (rc == 0) rc = register_range(object, start, length, modes, ioctls);
  uffd_leave(object);
  return rc;
}

static int unregister_range(struct uffd_object *object, uint64_t start, uint64_t length) {
  pthread_mutex_lock(&object->registering);
  int rc = uffd_raw_unregister(object->fd, start, length);
  /*
   * Without memory to split it the span stays whole: closing then unregisters more than is registered, which does no
   * harm.
   */
  if (rc == 0 && uffd_spans_reserve(&object->spans) == 0) uffd_spans_remove(&object->spans, start, start + length);
  pthread_mutex_unlock(&object->registering);
  /*
   * UNREGISTER wakes MISSING sleepers only. WP and MINOR sleepers, and sleepers in memory that was unmapped, are woken
   * here.
   */
  if (!BROKEN("wake-unregistered")) uffd_raw_wake(object->fd, start, length);
  return rc < 0 ? explain_register(object, -rc, start, length, 0) : 0;
}

int uffd_unregister(uffd_object *object, uint64_t start, uint64_t length) {
  int rc = uffd_enter(object);
  if (rc < 0) return rc;
  rc = uffd_check_range(start, length);
  if (rc == 0) rc = unregister_range(object, start, length);
  uffd_leave(object);
  return rc;
}

int uffd_wake(uffd_object *object, uint64_t start, uint64_t length) {
  int rc = uffd_enter(object);
  if (rc < 0) return rc;
  rc = uffd_check_range(start, length);
  if (rc == 0) {
    rc = uffd_raw_wake(object->fd, start, length);
    if (rc < 0)
      rc = fail(-rc, "The kernel refuses the range %#" PRIx64 "+%#" PRIx64 ": it lies outside the address space.",
                start, length);
  }
  uffd_leave(object);
  return rc;
}
