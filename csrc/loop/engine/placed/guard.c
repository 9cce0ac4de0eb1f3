/*
 * The guard: a thread of the ordinary class. While the companion has the charge the guard stands by, because a thread
 * in SCHED_IDLE starves where the processors are busy. It takes the charge when a fault has waited too long, and gives
 * it back when there is idle time again. While faults come it only looks from time to time, so that a fault wakes one
 * thread; while none come it waits for the next one, as the companion does.
 */
#include <time.h>

#include "loop/engine/placed/placement.h"

#define PERIOD_MIN  UINT64_C(1000000)    /* between two looks: a fault waits about so long before it is seen */
#define PERIOD_MAX  UINT64_C(4000000)    /* the more looks find nothing wrong, the fewer there are */
#define FEW_PASSES  4u                   /* between two looks: so few do not prove that faults are answered at once */
#define STILL_MAX   4u                   /* looks that find nothing to do, before it waits for the next fault */
#define BACKOFF_MIN UINT64_C(8000000)    /* between taking over and asking whether there is idle time; doubles */
#define BACKOFF_MAX UINT64_C(1000000000) /*   up to */
#define PROVED_NS   UINT64_C(1000000000) /* so long without trouble begins with BACKOFF_MIN again */
#define PROMPT_NS   UINT64_C(500000)     /* who gets a processor in less has found it idle */
#define NAP_NS      200000

static void nap(void) {
  struct timespec time = {0, NAP_NS};
  nanosleep(&time, NULL);
}

static uint64_t processor_time(const struct uffd_seat *seat) {
  struct timespec time = {0, 0};
  clock_gettime(seat->clock, &time);
  return (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
}

/* In the middle of a pass, and given no processor: not when it runs, nor when it sleeps in a file or a callback. */
static bool is_starving(const struct uffd_seat *seat) {
  const _Atomic uint64_t *passes = &seat->placement->passes;
  uint64_t before = atomic_load_explicit(passes, memory_order_relaxed), used = processor_time(seat);
  nap();
  return processor_time(seat) - used < NAP_NS / 4 && atomic_load_explicit(passes, memory_order_relaxed) == before &&
         uffd_task_is_runnable((uint32_t)atomic_load_explicit(&seat->tid, memory_order_relaxed));
}

/*
 * Back to the ordinary class takes CAP_SYS_NICE or RLIMIT_NICE. Moving takes nothing, and is the end of the wait unless
 * all processors are busy; the one where it waits is left out, because a thread moves at once only if it must.
 */
void uffd_guard_relieve(struct uffd_seat *seat) {
  const struct uffd_placement *placement = seat->placement;
  const struct sched_param none = {0};
  int tid = atomic_load_explicit(&seat->tid, memory_order_relaxed);
  if (tid == 0) return;
  bool lifted = sched_setscheduler(tid, SCHED_OTHER, &none) == 0;
  cpu_set_t pinned, others = placement->home;
  if (!placement->bounded || sched_getaffinity(tid, sizeof(pinned), &pinned) != 0) return;
  for (size_t cpu = 0; cpu < CPU_SETSIZE && !lifted && CPU_COUNT(&pinned) == 1; cpu++) {
    if (CPU_ISSET(cpu, &pinned)) CPU_CLR(cpu, &others);
  }
  if (CPU_COUNT(&others) != 0) sched_setaffinity(tid, sizeof(others), &others);
}

static void take_charge(struct uffd_placement *placement) {
  uint64_t now = uffd_now();
  if (now - placement->charged_ns > PROVED_NS) placement->backoff_ns = BACKOFF_MIN / 2;
  placement->backoff_ns = min_u64(placement->backoff_ns * 2, BACKOFF_MAX);
  placement->ask_ns = now + placement->backoff_ns;
  placement->period_ns = PERIOD_MIN;
  placement->doubts = 0;
  atomic_store_explicit(&placement->question, UFFD_QUESTION_NONE, memory_order_relaxed);
  atomic_store_explicit(&placement->charge, UFFD_SEAT_GUARD, memory_order_release);
}

/*
 * Nothing has moved and something waits: a fault is in trouble. Where little has moved it is seen twice: a companion
 * that has a processor reads a fault at once, one that gets a little of a busy processor leaves it lying most of the
 * time.
 */
static bool is_in_trouble(struct uffd_seat *guard, uint64_t moved) {
  struct uffd_placement *placement = guard->placement;
  bool waits = moved <= FEW_PASSES && uffd_seat_sees_work(guard, PERIOD_MIN);
  placement->doubts = waits ? placement->doubts + 1 : 0;
  placement->still = waits || moved != 0 ? 0 : placement->still + 1;
  return waits && (moved == 0 || placement->doubts > 1);
}

static void look(struct uffd_seat *guard, uint64_t passes) {
  struct uffd_placement *placement = guard->placement;
  struct uffd_seat *companion = &placement->seats[UFFD_SEAT_COMPANION];
  uint64_t moved = atomic_load_explicit(&placement->passes, memory_order_relaxed) - passes;
  bool trouble = is_in_trouble(guard, moved);
  bool in_pass = atomic_load_explicit(&placement->owner, memory_order_relaxed) != 0;
  if (!trouble) placement->period_ns = min_u64(placement->period_ns + placement->period_ns / 16, PERIOD_MAX);
  if (in_pass && (trouble || moved == 0)) {
    placement->still = 0;
    if (!is_starving(companion)) return;
    if (trouble) take_charge(placement);
    uffd_guard_relieve(companion);
  } else if (trouble) {
    take_charge(placement);
  }
}

static void stand_by(struct uffd_seat *guard) {
  struct uffd_placement *placement = guard->placement;
  uint32_t seen = atomic_load_explicit(&placement->calls, memory_order_acquire);
  if (uffd_seat_has_charge(guard) || uffd_placement_ends(placement)) return;
  uint64_t due = atomic_load_explicit(&placement->due_ns, memory_order_relaxed);
  if (placement->still >= STILL_MAX && due == UINT64_MAX) {
    uffd_seat_wait(guard);
    placement->still = 0;
  }
  uint64_t passes = atomic_load_explicit(&placement->passes, memory_order_relaxed);
  uffd_placement_sleep(placement, seen, placement->period_ns);
  if (!uffd_seat_has_charge(guard)) look(guard, passes);
}

static void give_charge(struct uffd_placement *placement) {
  placement->charged_ns = uffd_now();
  placement->still = 0;
  placement->period_ns = PERIOD_MIN;
  atomic_store_explicit(&placement->charge, UFFD_SEAT_COMPANION, memory_order_release);
}

/* On the processor where the companion would serve. The caller owns the handler's state. */
static void ask(struct uffd_placement *placement) {
  int tid = atomic_load_explicit(&placement->seats[UFFD_SEAT_COMPANION].tid, memory_order_relaxed);
  if (tid != 0) uffd_placement_pin(placement, tid, uffd_placement_faulter_cpu(placement));
  atomic_store_explicit(&placement->question_ns, uffd_now(), memory_order_relaxed);
  atomic_store_explicit(&placement->question, UFFD_QUESTION_ASKED, memory_order_release);
}

/* The caller owns the handler's state. True: the companion is to be woken, for the question or with the charge. */
static bool ask_for_idle_time(struct uffd_placement *placement) {
  if (uffd_jobs_backlog(placement->reader)) return false;
  switch (atomic_load_explicit(&placement->question, memory_order_acquire)) {
  case UFFD_QUESTION_NONE:
    if (uffd_now() < placement->ask_ns) return false;
    ask(placement);
    return true;
  case UFFD_QUESTION_ANSWERED:
    atomic_store_explicit(&placement->question, UFFD_QUESTION_NONE, memory_order_relaxed);
    if (atomic_load_explicit(&placement->question_ns, memory_order_relaxed) < PROMPT_NS) {
      give_charge(placement);
      return true;
    }
    placement->backoff_ns = min_u64(placement->backoff_ns * 2, BACKOFF_MAX);
    placement->ask_ns = uffd_now() + placement->backoff_ns;
    return false;
  default:
    return false; /* it is still waiting for a processor */
  }
}

static void serve(struct uffd_seat *guard) {
  struct uffd_placement *placement = guard->placement;
  struct uffd_seat *companion = &placement->seats[UFFD_SEAT_COMPANION];
  unsigned answered;
  if (uffd_seat_pass(guard, &answered)) {
    bool asks = answered != 0 && !atomic_load_explicit(&placement->refused, memory_order_relaxed);
    bool rings = asks && ask_for_idle_time(placement);
    uffd_seat_give(guard);
    if (rings) uffd_placement_call(placement);
  } else if (uffd_seat_has_charge(guard) && !uffd_placement_ends(placement)) {
    if (is_starving(companion)) uffd_guard_relieve(companion); /* it lost the charge in the middle of a pass */
  }
}

void uffd_guard_run(struct uffd_seat *seat) {
  struct uffd_placement *placement = seat->placement;
  while (!uffd_placement_ends(placement)) {
    if (uffd_seat_has_charge(seat)) {
      serve(seat);
    } else {
      stand_by(seat);
    }
  }
}
