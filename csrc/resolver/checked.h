/*
 * A file whose contents may be changed by others while it is served.
 */
#ifndef UFFD_RESOLVER_CHECKED_H
#define UFFD_RESOLVER_CHECKED_H

#include "resolver/stamp.h"
#include "uffd.h"

/*
 * Contents of a file as uffd_resolver_file_fd() has them, but faults fail with -ESTALE after the file has changed: no
 * byte from after the change is given. trusted: somebody makes sure that the file does not change (a lease, a seal),
 * and calls uffd_resolver_distrust() before that ends. Until then the file is not checked. name is for sentences and is
 * copied. fd stays the caller's.
 */
UFFD_SHARED int uffd_resolver_checked(int fd, const struct uffd_stamp *stamp, bool trusted, const char *name,
                                      uffd_resolver **resolver);
UFFD_SHARED void
uffd_resolver_distrust(uffd_resolver *resolver); /* takes a resolver of uffd_resolver_checked(). Any thread */

#endif
