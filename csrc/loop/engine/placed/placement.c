/*
 * What the guard and the companion share: calls to look around, pinning, and where the faulting thread runs.
 */
#include "loop/engine/placed/placement.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void uffd_placement_call(struct uffd_placement *placement) {
  atomic_fetch_add_explicit(&placement->calls, 1, memory_order_release);
  syscall(SYS_futex, &placement->calls, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void uffd_placement_sleep(struct uffd_placement *placement, uint32_t seen, uint64_t timeout) {
  const struct timespec time = {(time_t)(timeout / 1000000000), (long)(timeout % 1000000000)};
  syscall(SYS_futex, &placement->calls, FUTEX_WAIT_PRIVATE, seen, timeout == UINT64_MAX ? NULL : &time, NULL, 0);
}

bool uffd_placement_ends(const struct uffd_placement *placement) {
  return atomic_load_explicit(&placement->reader->stop, memory_order_acquire);
}

int uffd_placement_pin(const struct uffd_placement *placement, int tid, int cpu) {
  cpu_set_t one = placement->home;
  if (!placement->bounded || cpu >= CPU_SETSIZE) return -ENOTSUP;
  if (cpu >= 0) {
    if (!CPU_ISSET((size_t)cpu, &placement->home)) return -EPERM; /* the program was bound to others */
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
  }
  return sched_setaffinity(tid, sizeof(one), &one) == 0 ? 0 : -errno;
}

int uffd_placement_faulter_cpu(struct uffd_placement *placement) {
  const struct uffd_reader *reader = placement->reader;
  return uffd_faulter_cpu(&placement->faulter, reader->faulter_pid, reader->faulter_tid);
}
