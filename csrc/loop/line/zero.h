/*
 * Whether bytes hold pages of zeros.
 */
#ifndef UFFD_LOOP_LINE_ZERO_H
#define UFFD_LOOP_LINE_ZERO_H

#include "memory/memory.h"

/* Some of the pages of [data, data+length), at least one, are looked at. page: room for one, aligned. */
bool uffd_may_have_zero_pages(const char *data, uint64_t length, char *page);

#endif
