/*
 * Other ways to do the work: the loop that everybody writes first, and ways without userfaultfd.
 */
#ifndef UFFD_BENCH_BASELINE_H
#define UFFD_BENCH_BASELINE_H

#include "plan.h"

/* A thread that polls, reads one message, fills one page. */
run_fn textbook;        /* wherever the scheduler puts it */
run_fn textbook_pinned; /* both threads on one processor: its best case */
run_fn map_file;        /* mmap of the image */
run_fn read_file;       /* all of the image read beforehand, which is timed too */
run_fn protect;         /* first writes to pages under mprotect and SIGSEGV */

#define TEXTBOOK        "textbook loop"
#define TEXTBOOK_PINNED "textbook loop, pinned"

/* Writes to every second page of length bytes that mprotect guards. Returns how many it got done. */
uint64_t protect_until_refused(uint64_t length);

/* Fresh anonymous memory at a multiple of 2 MiB; ends with unmap(). */
char *map_fresh(uint64_t length, bool huge);
void unmap(const char *memory, uint64_t length);

#endif
