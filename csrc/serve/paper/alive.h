/*
 * Does a client's memory still exist? Asked by the supervisor, and by a worker that has none.
 */
#ifndef UFFD_SERVE_ALIVE_H
#define UFFD_SERVE_ALIVE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Has the address space behind a userfaultfd been destroyed? Every process that had it has exited or exec'ed then.
 * address: any page-aligned address.
 */
bool uffd_memory_gone(int object_fd, uint64_t address);
/* Is the page of this size not registered with it, most likely because it is not mapped? */
bool uffd_page_unregistered(int object_fd, uint64_t address, uint64_t page_size);

#endif
