/*
 * A client that is a task of a dump: which regions it has, and which process it is.
 */
#ifndef UFFD_SERVE_DUMPED_H
#define UFFD_SERVE_DUMPED_H

#include "serve/door/handshake.h"

struct uffd_backing;

/*
 * Fills in the regions of a handshake that names a task, as the dump has them, and its process in place of the one that
 * connected, where that can be found. 1; 0: the task has no lazy memory, nothing is to be served; -ENOENT the dump does
 * not have the task; -EINVAL the image is no dump; -ENOMEM.
 */
int uffd_dumped_take(const struct uffd_backing *backing, struct uffd_handshake *handshake);

#endif
