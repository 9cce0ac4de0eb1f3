/*
 * The functions that the program finds here instead of in libc. mmap is watched until everything that the user named
 * has been handed over. What happens to a mapping afterwards, the kernel tells the pager (EVENT_FORK, _REMAP, _REMOVE
 * and _UNMAP), with one exception: a hole that fallocate makes.
 *
 * A pager takes all memory of an image in one handshake. Until the last mapping is there, those before it are held:
 * registered, so that a thread that touches them sleeps instead of reading zeros. Nobody reads the events of what is
 * held, and a call that makes one would sleep for ever; so it is kept from forked children, and unmapping, moving and
 * dropping it is handled here.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
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

static struct {
  /* any thread */
  _Atomic(int32_t) holder; /* the process whose thread has the lock; 0: nobody */
  _Atomic(bool) idle;      /* mmap has nothing to look for */
  /* under the lock */
  int32_t process; /* whose memory this is about; 0: nothing has been read yet */
  bool lists;
  bool forks; /* children's faults go to the pager, too */
  bool handed;
  int object;
  unsigned count;
  uint64_t largest; /* bytes, of the mappings seen */
  const char *door;
  struct uffd_match matches[UFFD_MATCHES_MAX];
} state;

/* The lock */

static void read_environment(void) {
  const char *memory = getenv("UFFD_PRELOAD_MEMORY");
  state.door = getenv("UFFD_PRELOAD_DOOR");
  state.lists = getenv("UFFD_PRELOAD_LIST") != NULL;
  state.object = -1;
  if (memory != NULL && state.door != NULL) state.count = uffd_matches_read(memory, state.matches);
}

/* A forked child does not have the mappings that the parent held, and the userfaultfd is the parent's. */
static void forget_parent(void) {
  state.object = -1;
  for (unsigned i = 0; i < state.count && !state.handed; i++) {
    state.matches[i].taken = false;
    state.matches[i].seen = 0;
  }
}

static void lock(sigset_t *signals) {
  sigset_t all;
  int32_t self = (int32_t)getpid();
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, signals); /* of this thread, on Linux */
  for (;;) {
    int32_t holder = 0;
    if (atomic_compare_exchange_strong(&state.holder, &holder, self)) break;
    /* a thread that only the parent has held it at the fork */
    if (holder != self && atomic_compare_exchange_strong(&state.holder, &holder, self)) break;
    sched_yield();
  }
  if (state.process == self) return;
  if (state.process == 0) {
    read_environment();
  } else {
    forget_parent();
  }
  state.process = self;
}

static void unlock(const sigset_t *signals) {
  atomic_store(&state.idle, !state.lists && (state.handed || state.count == 0));
  atomic_store(&state.holder, 0);
  sigprocmask(SIG_SETMASK, signals, NULL);
}

/* What is held */

static int advise(uint64_t address, uint64_t length, int advice) {
  return (int)syscall(SYS_madvise, address, length, advice);
}

static bool overlaps(const struct uffd_mapping *mapping, uint64_t start, uint64_t end) {
  return mapping->address < end && start < mapping->address + mapping->length;
}

static struct uffd_match *find_held(uint64_t start, uint64_t end) {
  for (unsigned i = 0; i < state.count && !state.handed; i++) {
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

static void hold(struct uffd_match *match, const struct uffd_mapping *mapping) {
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
  uffd_preload_say("process %u hands over %u bytes in %u %s%s", (uint64_t)state.process, length, (uint64_t)state.count,
                   state.count == 1 ? "mapping" : "mappings",
                   state.forks ? "" : "; forked children do not have them, which takes the capability sys_ptrace");
  uffd_preload_send(state.object, socket, state.matches, state.count);
  state.handed = true;
  for (unsigned i = 0; i < state.count && state.forks; i++) {
    advise(state.matches[i].mapping.address, state.matches[i].mapping.length, MADV_DOFORK);
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
  for (unsigned i = 0; i < state.count && !state.handed; i++) {
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
  for (unsigned i = 0; i < state.count && !state.handed; i++) {
    if (!state.matches[i].taken && uffd_match_fits(&state.matches[i], mapping, false)) return true;
  }
  return false;
}

/* Looks at a new mapping. True: it is held until more mappings are there. */
static bool take(const struct uffd_mapping *mapping, const char *obstacle) {
  if (mapping->length > state.largest && mapping->prot != PROT_NONE) state.largest = mapping->length;
  if (obstacle == NULL) obstacle = uffd_mapping_check(mapping);
  list(mapping, obstacle);
  struct uffd_match *match = choose(mapping, obstacle);
  if (match == NULL) return false;
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

static void *map_raw(void *address, size_t length, int prot, int flags, int fd, off_t offset) {
  return (void *)syscall(SYS_mmap, address, length, prot, flags, fd, offset); /* NOLINT(performance-no-int-to-ptr) */
}

static void *map(void *address, size_t length, int prot, int flags, int fd, off_t offset) {
  if (atomic_load(&state.idle) || length == 0) return map_raw(address, length, prot, flags, fd, offset);
  struct uffd_mapping mapping = {
      .length = length, .file_offset = (uint64_t)offset, .prot = prot, .flags = flags, .fd = fd};
  int before = errno, error = 0;
  sigset_t signals;
  lock(&signals);
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
  unlock(&signals);
  if (takes && error == 0 && !held) populate(&mapping);
  errno = error != 0 ? error : before;
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

/* Read without the lock: only the program itself can change what it unmaps. */
static bool concerns(uint64_t start, uint64_t end) {
  for (unsigned i = 0; i < state.count; i++) {
    if (state.matches[i].taken && overlaps(&state.matches[i].mapping, start, end)) return true;
  }
  return false;
}

EXPORTED int munmap(void *address, size_t length) {
  uint64_t start = (uintptr_t)address;
  if (concerns(start, start + length)) {
    sigset_t signals;
    lock(&signals);
    let_go(start, start + length);
    mark_moved(start, start + length);
    unlock(&signals);
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
  sigset_t signals;
  lock(&signals);
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
  unlock(&signals);
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
  if (state.handed || !drops(advice) || !concerns(start, start + length)) {
    return advise(start, length, advice);
  }
  sigset_t signals;
  lock(&signals);
  int result = drop_around(start, start + length, advice), error = errno;
  unlock(&signals);
  errno = error;
  return result;
}

/*
 * The kernel sends no event for a hole that fallocate makes, and the image's contents would come back there. Dropping
 * the same pages by address also makes the hole, and sends an event.
 */
static void tell_hole(const struct uffd_match *match, uint64_t start, uint64_t end) {
  const struct uffd_mapping *mapping = &match->mapping;
  uint64_t low = start > mapping->file_offset ? start : mapping->file_offset;
  uint64_t high = mapping->file_offset + mapping->length;
  if (end < high) high = end;
  low = (low + mapping->page_size - 1) / mapping->page_size * mapping->page_size;
  high = high / mapping->page_size * mapping->page_size;
  if (low < high) advise(mapping->address + (low - mapping->file_offset), high - low, MADV_REMOVE);
}

static int punch(int fd, int mode, off_t offset, off_t length) {
  int result = (int)syscall(SYS_fallocate, fd, mode, offset, length);
  if (result != 0 || (mode & FALLOC_FL_PUNCH_HOLE) == 0 || !state.handed) return result;
  struct uffd_mapping file = {.length = 1, .fd = fd};
  (void)uffd_mapping_describe(&file);
  for (unsigned i = 0; i < state.count; i++) {
    const struct uffd_match *match = &state.matches[i];
    const struct uffd_mapping *mapping = &match->mapping;
    bool same = mapping->inode != 0 && mapping->inode == file.inode && mapping->device == file.device;
    if (!same || match->moved || (mapping->flags & MAP_SHARED) == 0) continue;
    tell_hole(match, (uint64_t)offset, (uint64_t)offset + (uint64_t)length);
  }
  return result;
}

EXPORTED int fallocate(int fd, int mode, off_t offset, off_t length) {
  return punch(fd, mode, offset, length);
}

EXPORTED int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
  return punch(fd, mode, offset, length);
}

/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */

/* The end */

/* Only the program that the user named prints this, not each helper that it starts. */
__attribute__((destructor)) static void complain(void) {
  const char *named = getenv("UFFD_PRELOAD_PID");
  char self[24];
  sigset_t signals;
  uffd_preload_format(self, sizeof(self), "%u", (uint64_t)getpid());
  if (named == NULL || strcmp(named, self) != 0) return;
  lock(&signals);
  unsigned missing = count_missing();
  if (missing != 0) {
    uffd_preload_say("%u of %u --memory named no mapping that can be served; the largest mapping seen has %u bytes",
                     (uint64_t)missing, (uint64_t)state.count, state.largest);
  }
  unlock(&signals);
}
