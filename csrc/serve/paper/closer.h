/*
 * Closing what others have sent: close(2) of a socket that lingers, or of a file of somebody's FUSE server, waits for
 * as long as its owner likes. Threads that do nothing else do it.
 */
#ifndef UFFD_SERVE_CLOSER_H
#define UFFD_SERVE_CLOSER_H

#include <stdint.h>

/* As uffd_close_fds(), and returns at once whatever they are. Any thread. */
void uffd_close_foreign(int *fds, uint32_t count);

#endif
