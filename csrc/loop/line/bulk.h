/*
 * Answers of bytes: what need not be copied is not. A file's bytes are fetched in pieces. Zero pages go in as such;
 * whole huge pages are filled aside and moved in.
 */
#ifndef UFFD_LOOP_LINE_BULK_H
#define UFFD_LOOP_LINE_BULK_H

#include "loop/line/install.h"

#define UFFD_BULK_BYTES (UINT64_C(64) << 10) /* of memory: below, a look costs more than it saves */

/* Any answer: a file's, and a large one of memory, piece by piece; else as uffd_install(). */
struct uffd_filled uffd_bulk_install(struct uffd_lane *lane, const struct uffd_install *install);

#endif
