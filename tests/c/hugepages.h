/*
 * Huge pages of 2 MiB for a test. They are added to vm.nr_hugepages under a lock that all test programs share. The
 * program that changed the sysctl gives it its former value back; if that program was killed, the next one does.
 */
#ifndef UFFD_TESTS_HUGEPAGES_H
#define UFFD_TESTS_HUGEPAGES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct hugepages {
  int lock;               /* the descriptor of the lock file; processes that inherit it hold the lock together */
  _Atomic bool held;      /* by this program */
  _Atomic int64_t before; /* the value of the sysctl to go back to, or -1 */
};

/* Opens the lock file. Without one, nothing is locked, and no pages are lent. */
void hugepages_open(struct hugepages *pool);

/*
 * Waits for the lock, and sees to it that count pages are free: 0; -EACCES and the like if the sysctl cannot be
 * written; -ENOMEM if the kernel finds no memory. A failure keeps the lock too, until hugepages_return().
 */
int hugepages_lend(struct hugepages *pool, uint64_t count);

/* Gives the sysctl its former value, and the lock to others. */
void hugepages_return(struct hugepages *pool);

#endif
