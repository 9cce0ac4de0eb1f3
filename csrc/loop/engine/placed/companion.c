/*
 * The companion: a thread in SCHED_IDLE on the processor of the faulting thread. A processor that runs nothing else
 * counts as idle when the kernel places the woken thread, so that the faulting thread stays there and goes on at once.
 * A companion of any other class would make the kernel send it to another processor, which has to be woken first.
 */
#include "loop/engine/placed/placement.h"

#include <unistd.h>

#define LOOK_EVERY 64u /* faults: a look costs about as much as a quarter of one */
#define LOOK_AGAIN 8u  /* when the thread was seen elsewhere: two threads that fault by turns are not chased */

static void pin(struct uffd_seat *seat, int cpu) {
  seat->cpu = uffd_placement_pin(seat->placement, 0, cpu) == 0 ? cpu : -1;
}

/* The caller owns the handler's state. */
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
static bool sink(void) {
  const struct sched_param none = {0};
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
  uint32_t seen = atomic_load_explicit(&placement->calls, memory_order_acquire);
  answer_question(placement);
  if (uffd_placement_ends(placement)) return;
  if (uffd_seat_has_charge(seat)) return;
  uffd_placement_sleep(placement, seen, UINT64_MAX);
}

/* The guard may be asleep until a descriptor is readable, or until it is called. */
static void charge_guard(struct uffd_placement *placement) {
  uint64_t one = 1;
  atomic_store_explicit(&placement->charge, UFFD_SEAT_GUARD, memory_order_release);
  uffd_placement_call(placement);
  (void)!write(placement->reader->wake_fd, &one, sizeof(one));
}

/*
 * Prefetch in SCHED_IDLE would go on only while the faulting thread sleeps, though another processor may be idle. The
 * state is given before: the guard, which waits for nothing then, has to find that a pass is due.
 */
static void leave_backlog(struct uffd_placement *placement) {
  if (atomic_load_explicit(&placement->backlog, memory_order_relaxed)) charge_guard(placement);
}

static void give_up(struct uffd_placement *placement) {
  atomic_store_explicit(&placement->refused, true, memory_order_relaxed);
  charge_guard(placement);
}

void uffd_companion_run(struct uffd_seat *seat) {
  struct uffd_placement *placement = seat->placement;
  bool sunk = false;
  while (!uffd_placement_ends(placement)) {
    unsigned answered;
    if (!uffd_seat_has_charge(seat)) {
      sunk = sink();
      wait_for_charge(seat);
    } else if (!sunk && !(sunk = sink())) {
      give_up(placement);
    } else if (uffd_seat_pass(seat, &answered)) {
      if (answered != 0) follow(seat, answered);
      uffd_seat_give(seat);
      leave_backlog(placement);
    }
  }
}
