/*
 * What a faulting thread does for itself: takes a handler that is free, walks the line, gives it back. Also where a
 * page is brought in for a system call, in the calling thread.
 */
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "loop/engine/inline/inline.h"

#define TIDY_EVERY  64u /* faults between two rounds of callbacks' idle hooks: nobody is ever idle here */
#define GONE_TWICE  16u /* times that a page may be found unregistered in a row before it is somebody else's SIGBUS */
#define PAUSE_NS    20000u
#define PAUSE_MAX   1000000u /* of a thread that is put off again and again: the pauses double */
#define PAUSE_LIMIT 50000u   /* pauses that uffd_memory_read() waits for an event to be read: a second */

struct uffd_handler_state *uffd_inline_take(uffd_loop *loop) {
  uint32_t count = loop->handlers_count - loop->shards;
  uint32_t first = (uint32_t)((uintptr_t)__builtin_frame_address(0) >> 12);
  for (;;) {
    for (uint32_t i = 0; i < count; i++) {
      struct uffd_handler_state *handler = loop->handlers[loop->shards + (first + i) % count];
      if (!atomic_load_explicit(&handler->taken, memory_order_relaxed) &&
          !atomic_exchange_explicit(&handler->taken, true, memory_order_acquire)) {
        return handler;
      }
    }
    sched_yield(); /* as many faults as handlers are being resolved right now */
  }
}

void uffd_inline_give(struct uffd_handler_state *handler) {
  atomic_store_explicit(&handler->taken, false, memory_order_release);
}

void uffd_inline_take_all(uffd_loop *loop) {
  for (uint32_t i = loop->shards; i < loop->handlers_count; i++) {
    while (atomic_exchange_explicit(&loop->handlers[i]->taken, true, memory_order_acquire)) {
      sched_yield();
    }
  }
}

void uffd_inline_give_all(uffd_loop *loop) {
  for (uint32_t i = loop->shards; i < loop->handlers_count; i++) {
    uffd_inline_give(loop->handlers[i]);
  }
}

static void pause_for(uint64_t nanoseconds) {
  struct timespec time = {0, (long)nanoseconds};
  nanosleep(&time, NULL);
}

/* R1, R2: another thread reads the event, or the resolver has an answer later; then the access is repeated. */
static void put_off(bool again) {
  static _Thread_local uint64_t pause_ns UFFD_SIGNAL_TLS; /* the last one */
  pause_ns = !again ? 0 : pause_ns == 0 ? PAUSE_NS : min_u64(PAUSE_MAX, 2 * pause_ns);
  if (again) pause_for(pause_ns);
}

/* Asked once a thread. A forked child, whose answer would be its parent's, has no faults here. */
static uint32_t thread_id(void) {
  static _Thread_local uint32_t tid UFFD_SIGNAL_TLS;
  if (tid == 0) tid = (uint32_t)syscall(SYS_gettid);
  return tid;
}

/* The line, in a handler that is ours meanwhile. */
static uint32_t walk(struct uffd_handler_state *handler, const struct uffd_entry *entry, uint64_t address,
                     uint64_t flags) {
  struct uffd_handler_state *outer = uffd_current_handler;
  /* The signal does not tell a minor fault from a missing one: the page cache is asked first, and says if it has none.
   */
  bool minor = (entry->slice.region->modes & UFFD_MODE_MINOR) != 0 && (flags & UFFD_FAULT_WP) == 0;
  if (minor) flags |= UFFD_FAULT_MINOR;
  const struct uffd_pending fault = {
      .source = entry->source,
      .address = address,
      .flags = flags,
      .read_ns = uffd_now(),
      .tid = thread_id(),
      .guessed = true,
  };
  uffd_current_handler = handler;
  handler->error = 0;
  uint32_t outcome = uffd_line_resolve(handler, &fault, &entry->slice);
  if (outcome != UFFD_OUTCOME_DEFERRED) uffd_count_guessed(handler, flags);
  if (++handler->turns % TIDY_EVERY == 0) uffd_uses_idle(handler);
  uffd_current_handler = outer;
  return outcome;
}

/* A page that was poisoned raises SIGBUS as well, and must go on doing so; but its owner may have dropped it since. */
static bool is_poisoned(const struct uffd_entry *entry, uint64_t address) {
  uint64_t index = (address - entry->slice.start) / entry->slice.region->page_size;
  return page_state(&entry->slice, index) == UFFD_PAGE_POISONED && uffd_is_poisoned(address);
}

static bool is_own_callback(const uffd_loop *loop) {
  return uffd_current_handler != NULL && uffd_current_handler->loop == loop;
}

/*
 * A page that is not registered any more, or never was at this place, is either past in an instant or not ours: a range
 * that is just being unregistered, or another mapping in its place whose file has ended.
 */
static bool is_foreign(uint64_t address, uint32_t outcome) {
  static _Thread_local uint64_t last UFFD_SIGNAL_TLS;
  static _Thread_local unsigned times UFFD_SIGNAL_TLS;
  if (outcome != UFFD_OUTCOME_GONE) {
    times = 0;
    return false;
  }
  times = last == address ? times + 1 : 1;
  last = address;
  return times > GONE_TWICE;
}

/* In a handler that is ours meanwhile. *again: nothing was done, because an event must be read first. */
static enum uffd_inline_result resolve(const struct uffd_entry *entry, uint64_t address, uint64_t flags, bool *again) {
  bool foreign = entry->loop->process != uffd_process() || is_own_callback(entry->loop) || is_poisoned(entry, address);
  if (foreign) return UFFD_INLINE_NOT_OURS;
  struct uffd_handler_state *handler = uffd_inline_take(entry->loop);
  uint32_t outcome = walk(handler, entry, address, flags);
  /* beyond the end of a file, for one; memory may be had later */
  bool hopeless = outcome == UFFD_OUTCOME_DEFERRED && handler->error != 0 && handler->error != ENOMEM;
  uffd_inline_give(handler);
  *again = outcome == UFFD_OUTCOME_DEFERRED;
  return hopeless || is_foreign(address, outcome) ? UFFD_INLINE_NOT_OURS : UFFD_INLINE_RESOLVED;
}

enum uffd_inline_result uffd_inline_resolve(uint64_t address, uint64_t flags) {
  enum uffd_inline_result result = UFFD_INLINE_NOT_OURS;
  bool again = false;
  struct uffd_visit visit = uffd_directory_enter();
  const struct uffd_entry *entry = uffd_directory_find(address);
  if (entry != NULL) {
    result = resolve(entry, address, flags, &again);
  } else if (uffd_directory_had(address) && !is_foreign(address, UFFD_OUTCOME_GONE)) {
    result = UFFD_INLINE_RESOLVED; /* unregistered meanwhile: the page is there at the next try */
  }
  uffd_directory_leave(visit);
  again = again && result == UFFD_INLINE_RESOLVED;
  if (again) BARRIER("deferred", &address);
  put_off(again);
  return result;
}

/* 0, or -errno; -EAGAIN when an event must be read first. */
static int bring_in_once(uint64_t address, uint64_t flags) {
  int result = -ENOENT;
  struct uffd_visit visit = uffd_directory_enter();
  const struct uffd_entry *entry = uffd_directory_find(address);
  if (entry != NULL && is_poisoned(entry, address)) result = -EHWPOISON;
  if (entry != NULL && result == -ENOENT) {
    const struct uffd_slice *slice = &entry->slice;
    uint64_t index = (address - slice->start) / slice->region->page_size;
    struct uffd_handler_state *handler = uffd_inline_take(entry->loop);
    uint32_t outcome = walk(handler, entry, address, flags);
    if (outcome == UFFD_OUTCOME_INSTALLED || outcome == UFFD_OUTCOME_PRESENT) result = 0;
    if (outcome == UFFD_OUTCOME_DEFERRED) result = handler->error != 0 ? -EFAULT : -EAGAIN;
    if (page_state(slice, index) == UFFD_PAGE_POISONED) result = -EHWPOISON;
    if (outcome == UFFD_OUTCOME_FAILED && result == -ENOENT) result = 0; /* on_error zero */
    uffd_inline_give(handler);
  }
  uffd_directory_leave(visit);
  return result;
}

int uffd_inline_bring_in(uint64_t address, uint64_t flags) {
  for (unsigned tries = 0; tries < PAUSE_LIMIT; tries++) {
    int result = bring_in_once(address, flags);
    if (result != -EAGAIN) return result;
    pause_for(PAUSE_NS);
  }
  return fail(EAGAIN, "An event of the loop's object has not been read for a second.");
}
