/*
 * Large answers of bytes: what need not be copied is not. Zero pages go in as such; whole huge pages are filled aside
 * and moved in. The bytes may belong to a file that shrinks meanwhile, so they are only read by the kernel.
 */
#ifndef UFFD_LOOP_BULK_H
#define UFFD_LOOP_BULK_H

#include "loop/loop.h"

#define UFFD_BULK_BYTES (UINT64_C(64) << 10) /* below, a look costs more than it saves */

/* bulk.c: as uffd_install(). */
uint32_t uffd_bulk_install(struct uffd_handler_state *handler, const struct uffd_install *install);

/* zero.c: page is BASE_PAGE bytes, aligned. */
bool uffd_is_zero_page(const char *page);
/* Some of the pages of [data, data+length), at least one, are looked at. */
bool uffd_may_have_zero_pages(const char *data, uint64_t length);

/* huge.c: whether whole huge pages can be moved into a region. */
bool uffd_huge_serves(const uffd_region *region);
/* [at, at+HUGE_PAGE) is one huge page, all absent. */
bool uffd_huge_fits(const struct uffd_install *install, uint64_t at);
/* Where it is filled, or NULL; it is a hole again when it has been moved. */
char *uffd_huge_staging(struct uffd_handler_state *handler);
void uffd_huge_unmap(struct uffd_handler_state *handler);

#endif
