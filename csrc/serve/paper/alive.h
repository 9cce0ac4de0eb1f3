/*
 * Does a client's memory still exist? Asked by the supervisor, and by a worker that has none.
 */
#ifndef UFFD_SERVE_ALIVE_H
#define UFFD_SERVE_ALIVE_H

#include <stdbool.h>
#include <stdint.h>

#define UFFD_ANY_ADDRESS (UINT64_C(1) << 30) /* the kernel looks at the address space first */

/*
 * Has the address space behind a userfaultfd been destroyed? Every process that had it has exited or exec'ed then.
 * address: any page-aligned address.
 */
bool uffd_memory_gone(int object_fd, uint64_t address);
/* Is the page of this size not registered with it, most likely because it is not mapped? */
bool uffd_page_unregistered(int object_fd, uint64_t address, uint64_t page_size);
/* Closes every descriptor of this process that is no userfaultfd, and each of those when its memory is gone. */
void uffd_hold_objects(void);

#endif
