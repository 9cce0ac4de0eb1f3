/*
 * A file whose contents may be changed by others while it is served.
 */
#ifndef UFFD_RESOLVER_CHECKED_H
#define UFFD_RESOLVER_CHECKED_H

#include "resolver/stamp.h"
#include "uffd.h"

/*
 * The contents of a file, as uffd_resolver_file_fd() has them, but no byte of them is given after the file has changed:
 * faults fail with -ESTALE then. trusted: somebody sees to it that the file does not change (a lease, a seal), and says
 * so when that ends, by uffd_resolver_distrust(), before it ends; until then the file is not looked at.
 * name is for sentences and is copied. fd stays the caller's.
 */
UFFD_SHARED int uffd_resolver_checked(int fd, const struct uffd_stamp *stamp, bool trusted, const char *name,
                                      uffd_resolver **resolver);
UFFD_SHARED void uffd_resolver_distrust(uffd_resolver *resolver); /* one of uffd_resolver_checked(). Any thread */

#endif
