/*
 * Stamps: whether a file is as it was.
 */
#ifndef UFFD_RESOLVER_STAMP_H
#define UFFD_RESOLVER_STAMP_H

#include "base/base.h"

/* What is compared to find out whether a file has changed. */
struct uffd_stamp {
  uint64_t device, inode, size;
  uint64_t links; /* names of the file; 0: ctime is not looked at */
  int64_t mtime_s, ctime_s, mtime_ns, ctime_ns;
};

/* May wait some milliseconds, when the file was changed just now. 0, or -errno with a sentence. */
UFFD_SHARED int uffd_stamp_take(int fd, struct uffd_stamp *stamp);
/* Is the file as it was? The kernel changes the times before it changes the contents. False when fstat() fails too. */
UFFD_SHARED bool uffd_stamp_holds(int fd, const struct uffd_stamp *stamp);
/*
 * The same as far as this machine knows: no server of a network file system is asked, so it does not wait. What was
 * changed elsewhere is known once uffd_stamp_holds() has asked, in whatever process.
 */
UFFD_SHARED bool uffd_stamp_holds_here(int fd, const struct uffd_stamp *stamp);

#endif
