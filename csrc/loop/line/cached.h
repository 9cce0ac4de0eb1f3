/*
 * Pages that the page cache has though nobody has filled them: who reads a hole of a memfd through another mapping puts
 * a page of zeros there. A page that holds something was filled by somebody, and stays.
 */
#ifndef UFFD_LOOP_LINE_CACHED_H
#define UFFD_LOOP_LINE_CACHED_H

#include "loop/line/install.h"

/* Whether the page at address, which is in the page cache, may not have been filled: it is not known as filled, and
 * holds nothing but zeros. */
bool uffd_cached_is_empty(const struct uffd_slice *slice, uint64_t address);
/* The first page of [start, end) of which that is so, or end. */
uint64_t uffd_cached_run(const struct uffd_slice *slice, uint64_t start, uint64_t end);
/*
 * Writes length bytes of data into the page at address, in the page cache, unless it holds something; CONTINUE comes
 * next. -EAGAIN: another lane is at it. When CONTINUE fails, uffd_cached_undo().
 */
int uffd_cached_fill(const struct uffd_slice *slice, uint64_t address, const char *data, uint64_t length);
void uffd_cached_undo(const struct uffd_slice *slice, uint64_t address);

#endif
