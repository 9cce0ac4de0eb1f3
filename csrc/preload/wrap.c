/*
 * The functions that the program finds here instead of in libc. mmap is watched until everything that the user named
 * has been handed over. What happens to a mapping afterwards, the kernel tells the pager (EVENT_FORK, _REMAP, _REMOVE
 * and _UNMAP), with two exceptions: a hole that fallocate makes, and what ftruncate cuts off.
 *
 * A pager takes all memory of an image in one handshake. Until the last mapping is there, those before it are held:
 * registered, so that a thread that touches them sleeps instead of reading zeros. Nobody reads the events of what is
 * held, and a call that makes one would sleep for ever; so it is kept from forked children, and unmapping, moving and
 * dropping it is handled here.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "preload/preload.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#define LISTED_MIN UINT64_C(65536) /* bytes: smaller mappings are libraries and stacks */
#define EXPORTED   __attribute__((visibility("default")))

/*
 * In a page that the kernel wipes in a forked child: there the lock is free, and the process is another one. A child of
 * vfork has it as its parent does, as it has the rest of the memory.
 */
struct own {
  _Atomic(bool) locked;
  bool known; /* under the lock: what is below is about this process */
};
static _Atomic(struct own *) own_page;

static struct {
  /* any thread */
  _Atomic(bool) idle; /* mmap has nothing to take */
  _Atomic(bool) handed;
  _Atomic(bool) files; /* what was handed over is, in part, of files */
  /* under the lock */
  bool read; /* the environment */
  bool lists;
  bool answered; /* the program itself tells of a pager's refusal */
  bool forks;    /* children's faults go to the pager, too */
  int object;
  unsigned count;
  uint64_t largest; /* bytes, of the mappings seen */
  char named[24];   /* pid of the program that the user named */
  char door[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
  struct uffd_match matches[UFFD_MATCHES_MAX];
} state;

/* The lock */

/* A program may clear its environment, or write over it, before it maps anything. */
static void read_environment(void) {
  const char *memory = getenv("UFFD_PRELOAD_MEMORY"), *door = getenv("UFFD_PRELOAD_DOOR"),
             *named = getenv("UFFD_PRELOAD_PID");
  state.read = true;
  state.object = -1;
  state.lists = getenv("UFFD_PRELOAD_LIST") != NULL;
  state.answered = getenv("UFFD_PRELOAD_ANSWER") != NULL;
  if (memory == NULL || door == NULL) return;
  uffd_preload_format(state.door, sizeof(state.door), "%s", door);
  uffd_preload_format(state.named, sizeof(state.named), "%s", named != NULL ? named : "");
  state.count = uffd_matches_read(memory, state.matches);
}

/*
 * A forked child does not have the mappings that the parent held, nor where the kernel tells nothing of forks those
 * that it has handed over; other memory may lie there. The userfaultfd is the parent's.
 */
static void forget_parent(void) {
  bool handed = atomic_load(&state.handed);
  state.object = -1;
  for (unsigned i = 0; i < state.count; i++) {
    struct uffd_match *match = &state.matches[i];
    if (handed && !state.forks) match->moved = true;
    if (handed) continue;
    match->taken = false;
    match->seen = 0;
  }
}

static void *map_raw(void *address, size_t length, int prot, int flags, int fd, off_t offset) {
  return (void *)syscall(SYS_mmap, address, length, prot, flags, fd, offset); /* NOLINT(performance-no-int-to-ptr) */
}

static struct own *find_own(void) {
  struct own *found = atomic_load(&own_page);
  if (found != NULL) return found;
  void *made = map_raw(NULL, sizeof(*found), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED || syscall(SYS_madvise, made, sizeof(*found), MADV_WIPEONFORK) != 0) {
    uffd_preload_die(UFFD_PRELOAD_LACKING, "There is no page that a forked child has afresh (Linux 4.14): %e.", errno);
  }
  if (atomic_compare_exchange_strong(&own_page, &found, made)) return made;
  (void)syscall(SYS_munmap, made, sizeof(*found)); /* another thread was first */
  return found;
}

struct before {
  sigset_t signals;
  int cancel;
};

/* What is called under the lock may be a point of cancellation. */
static void lock(struct before *before) {
  struct own *own = find_own();
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &before->signals); /* of this thread, on Linux */
  (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before->cancel);
  while (atomic_exchange(&own->locked, true)) {
    sched_yield();
  }
  if (own->known) return;
  if (state.read) {
    forget_parent();
  } else {
    read_environment();
  }
  own->known = true;
}

static void unlock(const struct before *before) {
  atomic_store(&state.idle, !state.lists && (atomic_load(&state.handed) || state.count == 0));
  atomic_store(&find_own()->locked, false);
  (void)pthread_setcancelstate(before->cancel, NULL);
  sigprocmask(SIG_SETMASK, &before->signals, NULL);
}

__attribute__((constructor)) static void begin(void) {
  struct before before;
  lock(&before);
  unlock(&before);
}

/* What is held */

static int advise(uint64_t address, uint64_t length, int advice) {
  return (int)syscall(SYS_madvise, address, length, advice);
}

static bool overlaps(const struct uffd_mapping *mapping, uint64_t start, uint64_t end) {
  return mapping->address < end && start < mapping->address + mapping->length;
}

static struct uffd_match *find_held(uint64_t start, uint64_t end) {
  for (unsigned i = 0; i < state.count && !atomic_load(&state.handed); i++) {
    struct uffd_match *match = &state.matches[i];
    if (match->taken && overlaps(&match->mapping, start, end)) return match;
  }
  return NULL;
}

/* The program unmaps a held mapping: the match may take the next mapping that fits. */
static void let_go(uint64_t start, uint64_t end) {
  struct uffd_match *match;
  while ((match = find_held(start, end)) != NULL) {
    if (match->mapping.address < start || match->mapping.address + match->mapping.length > end) {
      uffd_preload_die(UFFD_PRELOAD_FAILED,
                       "The program unmaps a part of the mapping at %x of %u bytes before all that --memory names is "
                       "there: it cannot be served.",
                       match->mapping.address, match->mapping.length);
    }
    uffd_preload_unregister(state.object, &match->mapping);
    match->taken = false;
    match->seen = 0;
  }
}

static void mark_moved(uint64_t start, uint64_t end) {
  for (unsigned i = 0; i < state.count; i++) {
    if (overlaps(&state.matches[i].mapping, start, end)) state.matches[i].moved = true;
  }
}

/* Some programs close all descriptors that they do not know: with the last one of its object, memory reads as zeros. */
static void check_object(void) {
  for (unsigned i = 0; i < state.count; i++) {
    const struct uffd_match *match = &state.matches[i];
    if (!match->taken || uffd_preload_is_registered(state.object, &match->mapping)) continue;
    uffd_preload_die(UFFD_PRELOAD_FAILED,
                     "The program has closed descriptor %u, the userfaultfd of its memory, before all that --memory "
                     "names was there: it cannot be served.",
                     (uint64_t)state.object);
  }
}

static void hold(struct uffd_match *match, const struct uffd_mapping *mapping) {
  check_object();
  match->taken = true;
  match->moved = false;
  match->mapping = *mapping;
  if (state.object < 0) state.object = uffd_preload_open(&state.forks);
  uffd_preload_register(state.object, mapping);
  advise(mapping->address, mapping->length, MADV_DONTFORK);
}

static unsigned count_missing(void) {
  unsigned missing = 0;
  for (unsigned i = 0; i < state.count; i++) {
    if (!state.matches[i].taken) missing++;
  }
  return missing;
}

static void hand_over(void) {
  uint64_t length = 0;
  for (unsigned i = 0; i < state.count; i++) {
    const struct uffd_mapping *mapping = &state.matches[i].mapping;
    if (mapping->page_size != state.matches[0].mapping.page_size) {
      uffd_preload_die(UFFD_PRELOAD_FAILED, "Pages of %u and of %u bytes are asked for: a pager takes one size.",
                       state.matches[0].mapping.page_size, mapping->page_size);
    }
    length += mapping->length;
  }
  int socket = uffd_preload_connect(state.door);
  uffd_preload_say("process %u hands over %u bytes in %u %s%s", (uint64_t)getpid(), length, (uint64_t)state.count,
                   state.count == 1 ? "mapping" : "mappings",
                   state.forks ? "" : "; forked children do not have them, which takes the capability sys_ptrace");
  uffd_preload_send(state.object, socket, state.matches, state.count, state.answered);
  atomic_store(&state.handed, true);
  for (unsigned i = 0; i < state.count; i++) {
    const struct uffd_mapping *mapping = &state.matches[i].mapping;
    if (state.forks) advise(mapping->address, mapping->length, MADV_DOFORK);
    if (mapping->inode != 0) state.files = true;
  }
}

/* What is mapped */

static void list(const struct uffd_mapping *mapping, const char *obstacle) {
  if (!state.lists || mapping->length < LISTED_MIN) return;
  uffd_preload_say("%s has mapped size=%u%s%s at %x, %s%s%s", program_invocation_short_name, mapping->length,
                   mapping->name[0] != '\0' ? ",name=" : "", mapping->name, mapping->address,
                   (mapping->flags & MAP_SHARED) != 0 ? "shared" : "private",
                   obstacle != NULL ? "; cannot be served: " : "", obstacle != NULL ? obstacle : "");
}

/* The match that takes a mapping. Every match with an order counts those that fit, taken or not. */
static struct uffd_match *choose(const struct uffd_mapping *mapping, const char *obstacle) {
  struct uffd_match *chosen = NULL;
  for (unsigned i = 0; i < state.count && !atomic_load(&state.handed); i++) {
    struct uffd_match *match = &state.matches[i];
    if (match->taken || !uffd_match_fits(match, mapping, true)) continue;
    if (obstacle != NULL) {
      uffd_preload_say("the mapping at %x of %u bytes is left alone: %s", mapping->address, mapping->length, obstacle);
      return NULL;
    }
    match->seen++;
    if (chosen == NULL && (match->order == 0 || match->seen == match->order)) chosen = match;
  }
  return chosen;
}

static bool may_fit(const struct uffd_mapping *mapping) {
  for (unsigned i = 0; i < state.count && !atomic_load(&state.handed); i++) {
    if (!state.matches[i].taken && uffd_match_fits(&state.matches[i], mapping, false)) return true;
  }
  return false;
}

/* Pages that are not there when they are touched by another mapping of the file are zeros, in both. */
static void tell_other(const struct uffd_mapping *mapping) {
  for (unsigned i = 0; i < state.count; i++) {
    const struct uffd_match *match = &state.matches[i];
    if (!match->taken || !uffd_mapping_overlaps(mapping, &match->mapping)) continue;
    uffd_preload_say("the mapping at %x of %u bytes is left alone: another one of its file is served, and pages that "
                     "are touched here first are zeros",
                     mapping->address, mapping->length);
    return;
  }
}

/* Looks at a new mapping. True: it is held until more mappings are there. */
static bool take(const struct uffd_mapping *mapping, const char *obstacle) {
  if (mapping->length > state.largest && mapping->prot != PROT_NONE) state.largest = mapping->length;
  if (obstacle == NULL) obstacle = uffd_mapping_check(mapping);
  list(mapping, obstacle);
  struct uffd_match *match = choose(mapping, obstacle);
  if (match == NULL) {
    tell_other(mapping);
    return false;
  }
  hold(match, mapping);
  unsigned missing = count_missing();
  if (missing == 0) {
    hand_over();
    return false;
  }
  uffd_preload_say("the mapping at %x of %u bytes waits for %u more", mapping->address, mapping->length,
                   (uint64_t)missing);
  return true;
}

/* Does what MAP_POPULATE and MAP_LOCKED would have done before the mapping could be registered. */
static void populate(const struct uffd_mapping *mapping) {
  if ((mapping->flags & MAP_LOCKED) != 0) (void)syscall(SYS_mlock, mapping->address, mapping->length);
  if ((mapping->flags & MAP_POPULATE) != 0) advise(mapping->address, mapping->length, MADV_POPULATE_READ);
}

/* Read without the lock: only the program itself can change what it unmaps. */
static bool concerns(uint64_t start, uint64_t end) {
  for (unsigned i = 0; i < state.count; i++) {
    if (state.matches[i].taken && overlaps(&state.matches[i].mapping, start, end)) return true;
  }
  return false;
}

/* There is nothing to take any more. What is mapped over is told to the pager by the kernel, and waits for it. */
static void *map_idly(void *address, struct uffd_mapping *mapping) {
  uint64_t start = (uintptr_t)address;
  if ((mapping->flags & MAP_FIXED) != 0 && concerns(start, start + mapping->length)) {
    struct before before;
    lock(&before);
    mark_moved(start, start + mapping->length);
    unlock(&before);
  }
  void *result =
      map_raw(address, mapping->length, mapping->prot, mapping->flags, mapping->fd, (off_t)mapping->file_offset);
  if (result == MAP_FAILED || !state.files || (mapping->flags & MAP_ANONYMOUS) != 0) return result;
  int error = errno;
  mapping->address = (uintptr_t)result;
  (void)uffd_mapping_describe(mapping);
  tell_other(mapping);
  errno = error;
  return result;
}

static void *map(void *address, size_t length, int prot, int flags, int fd, off_t offset) {
  struct uffd_mapping mapping = {
      .length = length, .file_offset = (uint64_t)offset, .prot = prot, .flags = flags, .fd = fd};
  if (length == 0) return map_raw(address, length, prot, flags, fd, offset);
  if (atomic_load(&state.idle)) return map_idly(address, &mapping);
  int errno_before = errno, error = 0;
  struct before before;
  lock(&before);
  if ((flags & MAP_FIXED) != 0) {
    let_go((uintptr_t)address, (uintptr_t)address + length);
    mark_moved((uintptr_t)address, (uintptr_t)address + length);
  }
  const char *obstacle = uffd_mapping_describe(&mapping);
  bool takes = obstacle == NULL && may_fit(&mapping), held = false;
  void *result = map_raw(address, length, prot, takes ? flags & ~(MAP_POPULATE | MAP_LOCKED) : flags, fd, offset);
  if (result == MAP_FAILED) {
    error = errno;
  } else {
    mapping.address = (uintptr_t)result;
    held = take(&mapping, obstacle);
  }
  unlock(&before);
  if (takes && error == 0 && !held) populate(&mapping);
  errno = error != 0 ? error : errno_before;
  return result;
}

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): libc calls its own __addr and __len */

EXPORTED void *mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset) {
  return map(address, length, prot, flags, fd, offset);
}

EXPORTED void *mmap64(void *address, size_t length, int prot, int flags, int fd, off64_t offset) {
  return map(address, length, prot, flags, fd, offset);
}

/* What happens to it */

EXPORTED int munmap(void *address, size_t length) {
  uint64_t start = (uintptr_t)address;
  if (concerns(start, start + length)) {
    struct before before;
    lock(&before);
    let_go(start, start + length);
    mark_moved(start, start + length);
    unlock(&before);
  }
  return (int)syscall(SYS_munmap, address, length);
}

/* Moves a held mapping, with its registration. */
static void *move_held(struct uffd_match *match, size_t length, int flags, void *to) {
  struct uffd_mapping *mapping = &match->mapping;
  if (length != mapping->length) {
    uffd_preload_die(UFFD_PRELOAD_FAILED,
                     "The program resizes the mapping at %x of %u bytes before all that --memory names is there: it "
                     "cannot be served.",
                     mapping->address, mapping->length);
  }
  uffd_preload_unregister(state.object, mapping);
  void *result = (void *)syscall(SYS_mremap, mapping->address, mapping->length, length, flags, /* NOLINT */
                                 to);
  int error = errno;
  if (result != MAP_FAILED) mapping->address = (uintptr_t)result;
  uffd_preload_register(state.object, mapping);
  errno = error;
  return result;
}

EXPORTED void *mremap(void *address, size_t old_length, size_t length, int flags, ...) {
  va_list values;
  va_start(values, flags);
  void *to = (flags & MREMAP_FIXED) != 0 ? va_arg(values, void *) : NULL;
  va_end(values);
  uint64_t start = (uintptr_t)address, target = (uintptr_t)to;
  bool fixed = (flags & MREMAP_FIXED) != 0;
  if (!concerns(start, start + old_length) && !(fixed && concerns(target, target + length))) {
    return (void *)syscall(SYS_mremap, address, old_length, length, flags, to); /* NOLINT */
  }
  struct before before;
  lock(&before);
  if (fixed) let_go(target, target + length);
  struct uffd_match *match = find_held(start, start + old_length);
  void *result = MAP_FAILED;
  if (match != NULL) {
    result = move_held(match, length, flags, to);
  } else {
    mark_moved(start, start + old_length);
    if (fixed) mark_moved(target, target + length);
  }
  int error = errno;
  unlock(&before);
  errno = error;
  if (match != NULL) return result;
  return (void *)syscall(SYS_mremap, address, old_length, length, flags, to); /* NOLINT */
}

static bool drops(int advice) {
  return advice == MADV_DONTNEED || advice == MADV_DONTNEED_LOCKED || advice == MADV_FREE || advice == MADV_REMOVE;
}

/* Nothing can be dropped in a held mapping: none of its pages is there yet. */
static int drop_around(uint64_t start, uint64_t end, int advice) {
  const struct uffd_match *match = find_held(start, end);
  if (match == NULL) return advise(start, end - start, advice);
  uint64_t held = match->mapping.address, held_end = held + match->mapping.length;
  int result = start < held ? drop_around(start, held, advice) : 0;
  return result == 0 && held_end < end ? drop_around(held_end, end, advice) : result;
}

EXPORTED int madvise(void *address, size_t length, int advice) {
  uint64_t start = (uintptr_t)address;
  if (atomic_load(&state.handed) || !drops(advice) || !concerns(start, start + length)) {
    return advise(start, length, advice);
  }
  struct before before;
  lock(&before);
  int result = drop_around(start, start + length, advice), error = errno;
  unlock(&before);
  errno = error;
  return result;
}

/*
 * The kernel sends no event for a hole that fallocate makes, nor for what ftruncate cuts off, and the image's contents
 * would come back there. Dropping the same pages by address also makes the hole, and sends an event.
 */
static void tell_hole(const struct uffd_mapping *mapping, uint64_t start, uint64_t end) {
  uint64_t low = start > mapping->file_offset ? start : mapping->file_offset;
  uint64_t high = mapping->file_offset + mapping->length;
  if (end < high) high = end;
  low = (low + mapping->page_size - 1) / mapping->page_size * mapping->page_size;
  high = high / mapping->page_size * mapping->page_size;
  if (low < high) advise(mapping->address + (low - mapping->file_offset), high - low, MADV_REMOVE);
}

/* The kernel writes zeros into the page that such an end lies in, if it is there. */
static void bring_in(const struct uffd_mapping *mapping, uint64_t end) {
  uint64_t inside = end - mapping->file_offset;
  if (end < mapping->file_offset || inside >= mapping->length || inside % mapping->page_size == 0) return;
  advise(mapping->address + inside / mapping->page_size * mapping->page_size, mapping->page_size, MADV_POPULATE_READ);
}

/* What was handed over and may be changed by the file; NULL: this one may not. */
static const struct uffd_mapping *shared_mapping(unsigned i, const struct uffd_mapping *file) {
  const struct uffd_match *match = &state.matches[i];
  if (match->moved || (match->mapping.flags & MAP_SHARED) == 0) return NULL;
  return uffd_mapping_overlaps(&match->mapping, file) ? &match->mapping : NULL;
}

/* From here on, pages of the file are dropped: calls what does it. */
static int drop_of_file(int fd, uint64_t start, uint64_t end, int (*drop)(void *ctx), void *ctx) {
  struct uffd_mapping file = {.length = end - start, .file_offset = start, .fd = fd};
  struct before before;
  const struct uffd_mapping *mapping;
  lock(&before); /* a forked child may have lost them */
  unlock(&before);
  (void)uffd_mapping_describe(&file);
  file.length = end - start;
  for (unsigned i = 0; i < state.count; i++) {
    if ((mapping = shared_mapping(i, &file)) == NULL) continue;
    bring_in(mapping, start);
    bring_in(mapping, end);
  }
  int result = drop(ctx), error = errno;
  for (unsigned i = 0; i < state.count && result == 0; i++) {
    if ((mapping = shared_mapping(i, &file)) != NULL) tell_hole(mapping, start, end);
  }
  errno = error;
  return result;
}

struct punching {
  int fd, mode;
  off_t offset, length;
};

static int punch_raw(void *ctx) {
  const struct punching *punching = ctx;
  return (int)syscall(SYS_fallocate, punching->fd, punching->mode, punching->offset, punching->length);
}

static int punch(int fd, int mode, off_t offset, off_t length) {
  struct punching punching = {fd, mode, offset, length};
  bool drops_pages = (mode & FALLOC_FL_PUNCH_HOLE) != 0 && offset >= 0 && length > 0;
  if (!drops_pages || !state.files) return punch_raw(&punching);
  return drop_of_file(fd, (uint64_t)offset, (uint64_t)offset + (uint64_t)length, punch_raw, &punching);
}

EXPORTED int fallocate(int fd, int mode, off_t offset, off_t length) {
  return punch(fd, mode, offset, length);
}

EXPORTED int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
  return punch(fd, mode, offset, length);
}

static int cut_raw(void *ctx) {
  const struct punching *cutting = ctx;
  return (int)syscall(SYS_ftruncate, cutting->fd, cutting->length);
}

static int cut(int fd, off_t length) {
  struct punching cutting = {.fd = fd, .length = length};
  if (length < 0 || !state.files) return cut_raw(&cutting);
  return drop_of_file(fd, (uint64_t)length, INT64_MAX, cut_raw, &cutting);
}

EXPORTED int ftruncate(int fd, off_t length) {
  return cut(fd, length);
}

EXPORTED int ftruncate64(int fd, off64_t length) {
  return cut(fd, length);
}

/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */

/* The end */

/* Only the program that the user named prints this, not each helper that it starts. */
__attribute__((destructor)) static void complain(void) {
  char self[24];
  struct before before;
  lock(&before);
  uffd_preload_format(self, sizeof(self), "%u", (uint64_t)getpid());
  unsigned missing = strcmp(state.named, self) == 0 ? count_missing() : 0;
  if (missing != 0) {
    uffd_preload_say("%u of %u --memory named no mapping that can be served; the largest mapping seen has %u bytes",
                     (uint64_t)missing, (uint64_t)state.count, state.largest);
  }
  unlock(&before);
}
