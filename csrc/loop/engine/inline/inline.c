/*
 * What a faulting thread does for itself: takes a slot, walks the line, gives the slot back.
 */
#include "loop/engine/inline/inline.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "loop/engine/bell.h"
#include "loop/engine/inline/directory.h"
#include "loop/engine/inline/sigbus.h"
#include "loop/engine/inline/slot.h"
#include "loop/engine/thread.h"

#define TIDY_EVERY 64u /* faults between two rounds of callbacks' idle hooks: nobody is ever idle here */
#define GONE_TWICE 16u /* times that a page may be found unregistered in a row before it is somebody else's SIGBUS */
#define PAUSE_NS   20000u
#define PAUSE_MAX  1000000u /* of a thread that is put off again and again: the pauses double */

/* What a thread does when its fault, or its job, was put off. */
struct put_off {
  bool again;             /* it was */
  struct uffd_bell *bell; /* of the slot that it had, if the resolver has no answer yet; NULL: an event must be read */
  uint32_t rings;         /* of the bell, before the resolver was asked */
};

static struct put_off put_off_of(const struct uffd_lane *lane) {
  return (struct put_off){.bell = lane->bell, .rings = atomic_load(&lane->bell->rings)};
}

/* By number: nanosleep() is where a thread is cancelled, and an access to memory is not. */
static void pause_for(uint64_t nanoseconds) {
  struct timespec time = {0, (long)nanoseconds};
  syscall(SYS_nanosleep, &time, NULL);
}

/*
 * R1, R2: another thread reads the event, or the resolver has an answer later, and rings; then the access is repeated.
 * Whoever rang before this thread sleeps does not leave it asleep: rings is not as seen any more.
 */
static void wait_until_again(const struct put_off *off) {
  static _Thread_local uint64_t pause_ns UFFD_SIGNAL_TLS; /* the last one */
  uint64_t limit = off->bell == NULL ? PAUSE_MAX : UFFD_RETRY_MAX_NS;
  pause_ns = !off->again ? 0 : pause_ns == 0 ? PAUSE_NS : min_u64(limit, 2 * pause_ns);
  if (!off->again) return;
  if (off->bell == NULL) {
    pause_for(pause_ns);
  } else {
    uffd_bell_sleep(off->bell, off->rings, pause_ns);
  }
}

/* Asked once a thread. A forked child, whose answer would be its parent's, has no faults here. */
static uint32_t thread_id(void) {
  static _Thread_local uint32_t tid UFFD_SIGNAL_TLS;
  if (tid == 0) tid = (uint32_t)syscall(SYS_gettid);
  return tid;
}

/* The line, on a slot that is the calling thread's meanwhile. */
static struct uffd_filled walk(struct uffd_slot *slot, const struct uffd_entry *entry, uint64_t address,
                               uint64_t flags) {
  struct uffd_lane *outer = uffd_current_lane;
  /* The signal does not tell a minor fault from a missing one: the page cache is asked first, and says if it has none
   */
  bool minor = entry->slice.terms->tells_minor && (flags & UFFD_FAULT_WP) == 0;
  const struct uffd_pending fault = {
      .source = entry->source,
      .address = address,
      .flags = flags | (minor ? UFFD_FAULT_MINOR : 0),
      .read_ns = uffd_now(),
      .tid = thread_id(),
      .guessed = true,
  };
  uffd_current_lane = &slot->lane;
  const struct uffd_filled filled = uffd_line_fault(&slot->lane, &fault, &entry->slice);
  if (++slot->faults % TIDY_EVERY == 0) uffd_lane_idle(&slot->lane);
  uffd_current_lane = outer;
  return filled;
}

static bool is_own_callback(const struct uffd_engine *engine) {
  return uffd_current_lane != NULL && uffd_current_lane->owner == engine;
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

/*
 * False: the fault is not ours, or cannot be resolved. off: nothing was done, because an event must be read first, or
 * the resolver has no answer yet.
 */
static bool resolve(const struct uffd_entry *entry, uint64_t address, uint64_t flags, struct put_off *off) {
  struct uffd_engine *engine = entry->engine;
  /* poison raises SIGBUS as well, and must go on doing so */
  bool foreign =
      engine->process != uffd_process() || is_own_callback(engine) || uffd_line_is_poison(&entry->slice, address);
  if (foreign) return false;
  struct uffd_slot *slot = uffd_slot_take(engine);
  *off = put_off_of(&slot->lane);
  const struct uffd_filled filled = walk(slot, entry, address, flags);
  uffd_slot_give(slot);
  off->again = filled.outcome == UFFD_OUTCOME_DEFERRED;
  if (!filled.later) off->bell = NULL;
  return !is_foreign(address, filled.outcome);
}

/*
 * Nothing is served at address. If a region was removed since this thread looked last, the access may have met it: it
 * is repeated, and finds ordinary memory. An access that is not ours costs one more signal then, not a process.
 */
static bool is_late(uint64_t address) {
  static _Thread_local uint64_t seen UFFD_SIGNAL_TLS;
  uint64_t removals = uffd_directory_removals();
  bool late = removals != seen && !is_foreign(address, UFFD_OUTCOME_GONE);
  seen = removals;
  return late;
}

/* The process dies of this SIGBUS, unless the program handles it: with a word of why. */
static void tell_cramped(void) {
  static const char sentence[] = "uffd: a thread touched served memory with too small a signal stack (sigaltstack): it "
                                 "needs UFFD_SIGNAL_STACK_BYTES "
                                 "besides the kernel's frame, and uffd_signal_stack() gives it one.\n";
  (void)!write(STDERR_FILENO, sentence, sizeof(sentence) - 1);
}

static bool resolve_held(const struct uffd_entry *entry, uint64_t address, uint64_t flags) {
  struct put_off off = {.again = false};
  bool resolved = resolve(entry, address, flags, &off);
  uffd_entry_drop(entry);
  off.again = off.again && resolved;
  if (off.again) BARRIER("deferred", &address);
  wait_until_again(&off);
  return resolved;
}

static bool resolve_at(uint64_t address, uint64_t flags, bool cramped) {
  const struct uffd_entry *entry = uffd_entry_hold(address);
  if (entry == NULL) return is_late(address);
  if (!cramped) return resolve_held(entry, address, flags);
  uffd_entry_drop(entry);
  tell_cramped();
  return false;
}

/*
 * Callbacks and file reads may be where a thread is cancelled, or it is cancelled anywhere
 * (PTHREAD_CANCEL_ASYNCHRONOUS): not while it has a slot.
 */
static bool resolve_signal(uint64_t address, uint64_t flags, bool cramped) {
  int cancelable;
  BARRIER("signalled", &address);
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelable);
  bool resolved = resolve_at(address, flags, cramped);
  pthread_setcancelstate(cancelable, NULL);
  return resolved;
}

static int start(struct uffd_engine *engine) {
  int result = uffd_slots_open(engine);
  if (result == 0) result = uffd_sigbus_acquire(resolve_signal);
  return result < 0 ? result : uffd_threads_start(engine);
}

static enum uffd_job_result run_once(struct uffd_engine *engine, uint32_t lane, struct uffd_job *job,
                                     struct put_off *off) {
  struct uffd_slot *slot = job->anywhere ? uffd_slot_take(engine) : uffd_slot_take_this(engine, lane);
  struct uffd_lane *outer = uffd_current_lane;
  uffd_current_lane = &slot->lane;
  *off = put_off_of(&slot->lane);
  enum uffd_job_result result = job->run(&slot->lane, job);
  uffd_current_lane = outer;
  uffd_slot_give(slot);
  return result;
}

/* A job that is not done yet waits without a slot: events are read only while all slots are free. */
static void run_in_slot(struct uffd_engine *engine, uint32_t lane, struct uffd_job *job) {
  struct put_off off;
  for (uint64_t pause = PAUSE_NS; run_once(engine, lane, job, &off) == UFFD_JOB_AGAIN;) {
    uffd_bell_sleep(off.bell, off.rings, pause);
    pause = min_u64(PAUSE_MAX, 2 * pause);
  }
}

static int run_job(struct uffd_engine *engine, uint32_t lane, struct uffd_job *job) {
  if (lane < engine->readers_count && !job->anywhere) return uffd_threads_run_job(engine, lane, job);
  run_in_slot(engine, lane, job);
  sem_destroy(&job->done);
  return job->result;
}

static int publish(struct uffd_engine *engine, const struct uffd_slice *slice, struct uffd_source *source) {
  const struct uffd_entry entry = {.slice = *slice, .source = source, .engine = engine};
  return uffd_directory_add(&entry) < 0 ? fail(ENOMEM, "No memory to serve another region.") : 0;
}

static void retract(struct uffd_engine *engine, const struct uffd_terms *terms) {
  (void)engine;
  uffd_directory_remove(terms);
}

const struct uffd_engine_class uffd_inline_engine = {
    .kind = UFFD_ENGINE_INLINE,
    .features = UFFD_FEAT_SIGBUS,
    .excluded = UFFD_FEAT_EVENT_FORK | UFFD_FEAT_EVENT_REMAP,
    .own_only = true,
    .cannot_retry = true,
    .start = start,
    .stop = uffd_threads_stop,
    .release = uffd_slots_close,
    .run_job = run_job,
    .wait = uffd_threads_wait,
    .quiesce = uffd_slots_quiesce,
    .publish = publish,
    .retract = retract,
};
