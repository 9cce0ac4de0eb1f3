/*
 * How much time a test has had. A busy machine is slow, not wrong: time in which all threads of a test wait for a
 * processor does not count.
 */
#ifndef UFFD_TESTS_WATCHDOG_H
#define UFFD_TESTS_WATCHDOG_H

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* Starts to watch the processes of this group. */
void watchdog_begin(pid_t group);

/*
 * The milliseconds since the last look or the beginning that count. Time in which the group's threads waited for a
 * processor is taken off. But at least the time counts for which they ran, divided by the number of processors.
 */
int64_t watchdog_look(void);

/* Where each thread of the group is, one line a thread. */
void watchdog_tell(FILE *file);

#endif
