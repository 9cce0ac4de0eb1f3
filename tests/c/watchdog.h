/*
 * How much time a test has had. A busy machine is slow, not wrong: the time for which all of a test waits for a
 * processor does not count.
 */
#ifndef UFFD_TESTS_WATCHDOG_H
#define UFFD_TESTS_WATCHDOG_H

#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* The processes of this group are looked at from now on. */
void watchdog_begin(pid_t group);

/*
 * The milliseconds since the last look, or since the beginning, that count: less those for which the group's threads
 * waited for a processor, but at least those for which they ran, shared out among all processors.
 */
int64_t watchdog_look(void);

/* Where each thread of the group is, one line a thread. */
void watchdog_tell(FILE *file);

#endif
