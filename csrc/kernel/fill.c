/*
 * The operations that fill pages, and write protection. One driver serves all five filling operations; the public
 * functions add checks before it and a sentence after it.
 */
#include <inttypes.h>
#include <sched.h>
#include <string.h>

#include "kernel/object.h"

#define EVENT_FEATURES (UFFD_FEAT_EVENT_FORK | UFFD_FEAT_EVENT_REMAP | UFFD_FEAT_EVENT_REMOVE | UFFD_FEAT_EVENT_UNMAP)
#define RACE_RETRIES   64

/* It is the first mode bit of all five operations. */
#define DONTWAKE (UINT64_C(1) << 0)

static const char *const op_names[] = {"copy", "zeropage", "continue", "poison", "move"};

/* One ioctl. *progress: bytes that were really done, also when the ioctl fails. */
static int fill_once(int fd, enum uffd_fill_op op, uint64_t dst, uint64_t src, uint64_t length, uint64_t mode,
                     uint64_t *progress) {
  static const unsigned long requests[] = {RAW_UFFDIO_COPY, RAW_UFFDIO_ZEROPAGE, RAW_UFFDIO_CONTINUE, RAW_UFFDIO_POISON,
                                           RAW_UFFDIO_MOVE};
  int rc;
  int64_t done;
  /*
   * The output field starts at 0, because older kernels do not write it when they refuse early. It is a count only when
   * it is positive.
   */
  if (op == UFFD_FILL_COPY || op == UFFD_FILL_MOVE) {
    struct uffd_raw_copy request = {.dst = dst, .src = src, .length = length, .mode = mode};
    rc = ioctl(fd, requests[op], &request);
    done = request.copy;
  } else {
    struct uffd_raw_zeropage request = {.range = {dst, length}, .mode = mode};
    rc = ioctl(fd, requests[op], &request);
    done = request.zeropage;
  }
  if (rc == 0) {
    *progress = length;
    return 0;
  }
  *progress = done > 0 ? (uint64_t)done : 0;
  return -errno;
}

/* The largest power of two below length: both halves stay multiples of the huge page for as long as possible. */
static uint64_t halve(uint64_t length) {
  return UINT64_C(1) << (63 - __builtin_clzll(length - 1));
}

/* The error that means "the range does not lie in one mapping": only after it can a shorter range succeed. */
static bool is_border(enum uffd_fill_op op, int rc) {
  return op == UFFD_FILL_MOVE ? rc == -EINVAL : rc == -ENOENT;
}

int uffd_fill(int fd, enum uffd_fill_op op, uint64_t dst, uint64_t src, uint64_t length, uint64_t mode,
              uint64_t *done) {
  uint64_t total = 0, chunk = length, progress = 0;
  int rc = 0;
  while (total < length) {
    chunk = min_u64(chunk, length - total);
    rc = fill_once(fd, op, dst + total, src + total, chunk, mode, &progress);
    total += progress;
    if (rc == 0) {
      chunk *= 2;
    } else if (is_border(op, rc) && chunk > uffd_page_size()) {
      chunk = halve(chunk);
    } else if (rc != -EAGAIN || progress == 0) {
      break;
    }
  }
  *done = total;
  return rc;
}

/*
 * Without event features no event can be waiting, so EAGAIN means that another thread changed the mappings meanwhile:
 * try again. The tries are limited, because some kernels answer EAGAIN for ever after an mremap that failed.
 */
static bool is_race(const struct uffd_object *object, int rc, unsigned *retries) {
  if (rc != -EAGAIN || (object->features & EVENT_FEATURES) != 0 || ++*retries > RACE_RETRIES) return false;
  sched_yield();
  return true;
}

/* What the caller wanted, for the sentence about its failure. */
struct request {
  const char *name;
  uint64_t at;  /* where it stopped */
  uint64_t src; /* the same place in the source */
  uint64_t mode;
  uint64_t feature; /* that the kernel must have, or 0 */
};

static bool find_ours(const struct uffd_object *object, uint64_t address, struct uffd_mapping *mapping) {
  return object->route != UFFD_ROUTE_ADOPTED && uffd_find_mapping(address, mapping) == 0;
}

static int explain_fault(const struct request *request) {
  if (strcmp(request->name, "copy") == 0)
    return fail(EFAULT, "copy to %#" PRIx64 ": the source cannot be read, or the page lies beyond the end of the file.",
                request->at);
  if (strcmp(request->name, "continue") == 0)
    return fail(EFAULT,
                "continue at %#" PRIx64 ": the page cache has no page there, or it lies beyond the end of the file.",
                request->at);
  return fail(EFAULT, "%s at %#" PRIx64 ": a page there cannot be used so.", request->name, request->at);
}

static bool lacks_protected_continue(const struct uffd_object *object, const struct request *request) {
  bool protects = strcmp(request->name, "continue") == 0 && (request->mode & UFFD_CONTINUE_WP) != 0;
  return protects && object->available != 0 && !uffd_continues_protected(object->available);
}

/* Alignment, mode and registration are right, so the file is the cause. */
static int explain_continue(const struct request *request, const struct uffd_mapping *mapping) {
  if (mapping->name[0] != '/')
    return fail(EINVAL, "continue needs a page cache, and the anonymous memory at %#" PRIx64 " has none: use a memfd.",
                request->at);
  if ((request->mode & ~(UFFD_CONTINUE_DONTWAKE | UFFD_CONTINUE_WP)) != 0)
    return fail(EINVAL, "continue at %#" PRIx64 ": the mode %#" PRIx64 " is unknown.", request->at, request->mode);
  /*
   * Linux 6.18 answers EINVAL for a page beyond the end of the file, and EFAULT for a page that is not in the page
   * cache.
   */
  return explain_fault(request);
}

static int explain_invalid(const struct uffd_object *object, const struct request *request) {
  struct uffd_mapping mapping;
  if (strcmp(request->name, "move") == 0) return uffd_explain_move(object, request->at, request->src, request->mode);
  if (request->feature != 0 && object->available != 0 && (object->available & request->feature) == 0)
    return fail(EINVAL, "This kernel has no %s operation (uffd_available() tells).", request->name);
  if (lacks_protected_continue(object, request))
    return fail(EINVAL, "This kernel has no mode UFFD_CONTINUE_WP (Linux 6.4 has): continue without it.");
  if (!find_ours(object, request->at, &mapping))
    return fail(EINVAL,
                "The kernel refuses %s at %#" PRIx64 " with mode %#" PRIx64
                ": alignment, an unknown mode, or memory without it.",
                request->name, request->at, request->mode);
  if (mapping.page_size > uffd_page_size()) {
    if (strcmp(request->name, "zeropage") == 0)
      return fail(EINVAL, "Huge pages have no zeropage operation: copy a page of zeros.");
    return fail(EINVAL,
                "The range at %#" PRIx64 " is not a multiple of its huge pages of %" PRIu64 " bytes, or mode %#" PRIx64
                " is not for it.",
                request->at, mapping.page_size, request->mode);
  }
  if ((request->mode & ~DONTWAKE) != 0 && !uffd_mapping_has(&mapping, "uw"))
    return fail(EINVAL,
                "%s at %#" PRIx64 " with mode %#" PRIx64
                ": the mode is unknown, or write protection of a range that is not "
                "registered for UFFD_MODE_WP.",
                request->name, request->at, request->mode);
  if (strcmp(request->name, "continue") == 0) return explain_continue(request, &mapping);
  return fail(EINVAL, "The kernel refuses %s at %#" PRIx64 " with mode %#" PRIx64 ".", request->name, request->at,
              request->mode);
}

static int explain(const struct uffd_object *object, int error, const struct request *request) {
  /* uffd_close() has unregistered the ranges: the object is closing, not the range missing. */
  if (uffd_is_closing(object)) return fail(EBADF, "The userfaultfd object was closed meanwhile.");
  switch (error) {
  case EEXIST:
    return fail(EEXIST, "%s: the page at %#" PRIx64 " is there already.", request->name, request->at);
  case EAGAIN:
    return fail(EAGAIN,
                "%s at %#" PRIx64
                ": an event waits to be read, or its maker has not gone on yet. Read all events, then retry.",
                request->name, request->at);
  case ENOENT:
    return fail(ENOENT, "%s: the page at %#" PRIx64 " is not mapped, or not registered%s.", request->name, request->at,
                strcmp(request->name, "move") == 0           ? ", or its source is a hole (UFFD_MOVE_ALLOW_SRC_HOLES)"
                : strcmp(request->name, "writeprotect") == 0 ? " for UFFD_MODE_WP"
                                                             : "");
  case ESRCH:
    return fail(ESRCH, "The address space is gone: its process has exited or executed another program.");
  case EINVAL:
    return explain_invalid(object, request);
  case ENOMEM:
    return fail(
        ENOMEM,
        "%s at %#" PRIx64
        ": no memory, the control group's limit, the file system's, or no free huge page (sysctl vm.nr_hugepages).",
        request->name, request->at);
  case EFAULT:
    return explain_fault(request);
  case EBUSY:
    return fail(EBUSY,
                "%s: the source of %#" PRIx64
                " is shared by fork or pinned: write to the page again, and use MADV_DONTFORK.",
                request->name, request->at);
  default:
    return fail(error, "%s at %#" PRIx64 " failed: %s.", request->name, request->at, strerror(error));
  }
}

/*
 * The kernel wakes nobody when it answers EEXIST, so a thread whose fault was read before would sleep for ever: wake
 * it. With EXACT_ADDRESS its address may be any byte of a huge page, so as many bytes are woken as such a page may
 * have.
 */
static void wake_present(const struct uffd_object *object, uint64_t at, uint64_t rest) {
  uint64_t length = uffd_page_size();
  if ((object->features & UFFD_FEAT_EXACT_ADDRESS) != 0) length = min_u64(at & -at, rest);
  uffd_raw_wake(object->fd, at, length);
}

/* The smallest huge page has 64 KiB: EEXIST is doubtful only for a range that could hold one. */
static bool may_be_huge(uint64_t at, uint64_t rest) {
  return ((at | rest) & 0xffff) == 0;
}

/* What every public filling operation does after it has checked its own arguments. */
static int fill_range(struct uffd_object *object, enum uffd_fill_op op, uint64_t dst, uint64_t src, uint64_t length,
                      uint64_t mode, uint64_t *done) {
  uint64_t total = 0;
  unsigned retries = 0;
  int rc;
  do {
    uint64_t progress = 0;
    rc = uffd_fill(object->fd, op, dst + total, src + total, length - total, mode, &progress);
    total += progress;
    if (progress > 0) retries = 0;
  } while (is_race(object, rc, &retries));
  *done = total;
  if (rc == -EEXIST && op == UFFD_FILL_COPY && may_be_huge(dst + total, length - total) &&
      object->route != UFFD_ROUTE_ADOPTED)
    rc = uffd_check_present(dst + total);
  if (rc == -EEXIST && (mode & DONTWAKE) == 0) wake_present(object, dst + total, length - total);
  return rc;
}

static int run(struct uffd_object *object, enum uffd_fill_op op, uint64_t dst, uint64_t src, uint64_t length,
               uint64_t mode, uint64_t feature, uint64_t *done) {
  uint64_t total = 0;
  if (done != NULL) *done = 0;
  int rc = uffd_enter(object);
  if (rc < 0) return rc;
  rc = uffd_check_range(dst, length);
  if (rc == 0) {
    rc = fill_range(object, op, dst, src, length, mode, &total);
    struct request request = {op_names[op], dst + total, src + total, mode, feature};
    if (rc < 0) rc = explain(object, -rc, &request);
  }
  uffd_leave(object);
  if (done != NULL) *done = total;
  return rc;
}

int uffd_copy(uffd_object *object, uint64_t dst, const void *source, uint64_t length, uint64_t mode, uint64_t *done) {
  uint64_t src = (uint64_t)(uintptr_t)source;
  if (src + length < src) {
    if (done != NULL) *done = 0;
    return fail(EINVAL, "The source %p+%#" PRIx64 " wraps around the end of the address space.", source, length);
  }
  return run(object, UFFD_FILL_COPY, dst, src, length, mode, 0, done);
}

int uffd_zeropage(uffd_object *object, uint64_t start, uint64_t length, uint64_t mode, uint64_t *done) {
  return run(object, UFFD_FILL_ZEROPAGE, start, 0, length, mode, 0, done);
}

int uffd_continue(uffd_object *object, uint64_t start, uint64_t length, uint64_t mode, uint64_t *done) {
  return run(object, UFFD_FILL_CONTINUE, start, 0, length, mode, UFFD_FEAT_MINOR_HUGETLBFS | UFFD_FEAT_MINOR_SHMEM,
             done);
}

int uffd_poison(uffd_object *object, uint64_t start, uint64_t length, uint64_t mode, uint64_t *done) {
  return run(object, UFFD_FILL_POISON, start, 0, length, mode, UFFD_FEAT_POISON, done);
}

int uffd_move(uffd_object *object, uint64_t dst, uint64_t src, uint64_t length, uint64_t mode, uint64_t *done) {
  if (done != NULL) *done = 0;
  int rc = uffd_check_move(dst, src, length);
  return rc < 0 ? rc : run(object, UFFD_FILL_MOVE, dst, src, length, mode, UFFD_FEAT_MOVE, done);
}

/*
 * WRITEPROTECT does not tell where it stopped, so the mappings are searched after ENOENT. Returns the first address of
 * the range that is not registered for write protection, or 0 when that cannot be found out.
 */
static uint64_t find_unregistered(const struct uffd_object *object, uint64_t start, uint64_t end) {
  struct uffd_maps maps;
  struct uffd_mapping mapping;
  uint64_t at = start;
  if (object->route == UFFD_ROUTE_ADOPTED || uffd_maps_open(&maps, true) < 0) return 0;
  while (at < end && uffd_maps_find(&maps, at, &mapping) == 0 && uffd_mapping_has(&mapping, "uw")) {
    if (mapping.start > at) break;
    at = mapping.end;
  }
  uffd_maps_close(&maps);
  return at < end ? at : 0;
}

static int explain_writeprotect(const struct uffd_object *object, int error, uint64_t start, uint64_t length,
                                uint64_t mode) {
  struct request request = {"writeprotect", start, 0, mode, UFFD_FEAT_PAGEFAULT_FLAG_WP};
  if (error != ENOENT || uffd_is_closing(object)) return explain(object, error, &request);
  request.at = find_unregistered(object, start, start + length);
  if (request.at != 0) return explain(object, error, &request);
  return fail(ENOENT,
              "writeprotect of %#" PRIx64 "+%#" PRIx64
              ": a page of the range is not registered for UFFD_MODE_WP, or nothing of it is mapped.",
              start, length);
}

int uffd_writeprotect(uffd_object *object, uint64_t start, uint64_t length, uint64_t mode) {
  int rc = uffd_enter(object);
  if (rc < 0) return rc;
  rc = uffd_check_range(start, length);
  if (rc == 0) {
    unsigned retries = 0;
    do {
      rc = uffd_raw_writeprotect(object->fd, start, length, mode);
    } while (is_race(object, rc, &retries));
    if (rc < 0) rc = explain_writeprotect(object, -rc, start, length, mode);
  }
  uffd_leave(object);
  return rc;
}
