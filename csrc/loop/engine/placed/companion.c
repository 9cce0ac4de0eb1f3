/*
 * The companion: a seat in SCHED_IDLE on the processor of the faulting thread. A processor that runs nothing else
 * counts as idle when the kernel places the woken thread, so that thread stays there and goes on at once; on any other
 * class it would be sent to another processor, which has to be woken first. The seat that spins is of that class too,
 * because it is to have only what nobody else wants.
 */
#include "loop/engine/placed/placement.h"

#define LOOK_EVERY 64u /* faults: a look costs about as much as a quarter of one */
#define LOOK_AGAIN 8u  /* when the thread was seen elsewhere: two threads that fault by turns are not chased */

static bool is_companion(const struct uffd_seat *seat) {
  return seat->placement->kind == UFFD_PLACEMENT_COMPANION;
}

static void pin(struct uffd_seat *seat, int cpu) {
  seat->cpu = uffd_placement_pin(seat->placement, 0, cpu) == 0 ? cpu : -1;
}

/* With the state. */
static void follow(struct uffd_seat *seat, unsigned answered) {
  if (seat->until > answered) {
    seat->until -= answered;
    return;
  }
  int cpu = uffd_placement_faulter_cpu(seat->placement);
  bool first = seat->cpu < 0, sure = cpu == seat->seen_cpu;
  seat->seen_cpu = cpu;
  seat->until = LOOK_EVERY;
  if (cpu < 0 || cpu == seat->cpu) return;
  if (first || sure) {
    pin(seat, cpu);
  } else {
    seat->until = LOOK_AGAIN;
  }
}

/* The guard may have lifted this thread to the ordinary class, to hurry it. */
static bool sink(const struct uffd_seat *seat) {
  const struct sched_param none = {0};
  (void)seat;
  return sched_setscheduler(0, SCHED_IDLE, &none) == 0;
}

static void answer_question(struct uffd_placement *placement) {
  if (atomic_load_explicit(&placement->question, memory_order_acquire) != UFFD_QUESTION_ASKED) return;
  uint64_t asked = atomic_load_explicit(&placement->question_ns, memory_order_relaxed);
  atomic_store_explicit(&placement->question_ns, uffd_now() - asked, memory_order_relaxed);
  atomic_store_explicit(&placement->question, UFFD_QUESTION_ANSWERED, memory_order_release);
}

static void wait_for_charge(struct uffd_seat *seat) {
  struct uffd_placement *placement = seat->placement;
  seat->fresh = true;
  seat->cpu = -1;
  seat->until = 0;
  uint32_t bell = atomic_load_explicit(&placement->bell, memory_order_acquire);
  answer_question(placement);
  if (uffd_placement_ends(placement)) return;
  if (atomic_load_explicit(&placement->charge, memory_order_acquire) == UFFD_CHARGE_PLACED) return;
  uffd_placement_sleep(placement, bell, UINT64_MAX);
}

static void refuse(struct uffd_placement *placement) {
  atomic_store_explicit(&placement->reason, UFFD_REASON_REFUSED, memory_order_relaxed);
  atomic_store_explicit(&placement->charge, UFFD_CHARGE_ORDINARY, memory_order_release);
  uffd_placement_ring(placement);
}

/* With the state: auto has found the ordinary seat to be the faster one, or tries it. */
static bool give_up_charge(struct uffd_placement *placement, unsigned answered) {
  if (!placement->measuring || answered == 0) return false;
  if (uffd_trial_note(&placement->trial, answered, placement->handler->read_ns) == UFFD_CHARGE_PLACED) return false;
  atomic_store_explicit(&placement->reason, UFFD_REASON_MEASURED, memory_order_relaxed);
  atomic_store_explicit(&placement->charge, UFFD_CHARGE_ORDINARY, memory_order_release);
  return true;
}

void uffd_companion_run(struct uffd_seat *seat) {
  struct uffd_placement *placement = seat->placement;
  bool sunk = false;
  while (!uffd_placement_ends(placement)) {
    if (atomic_load_explicit(&placement->charge, memory_order_acquire) != UFFD_CHARGE_PLACED) {
      sunk = sink(seat);
      wait_for_charge(seat);
      continue;
    }
    if (!sunk && !(sunk = sink(seat))) {
      refuse(placement);
      continue;
    }
    unsigned answered;
    if (!uffd_seat_turn(seat, UFFD_CHARGE_PLACED, &answered)) continue;
    bool leaves = give_up_charge(placement, answered);
    if (!leaves && answered != 0 && is_companion(seat)) follow(seat, answered);
    uffd_seat_give(seat);
    if (leaves) uffd_placement_ring(placement);
  }
}
