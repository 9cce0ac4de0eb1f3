/*
 * What a mapping of this process costs.
 */
#ifndef UFFD_BENCH_SMAPS_H
#define UFFD_BENCH_SMAPS_H

#include <stdint.h>

/* KiB of a line of smaps ("Pss:"), of the mapping that holds this address. */
uint64_t smaps_kib(const void *address, const char *name);

#endif
