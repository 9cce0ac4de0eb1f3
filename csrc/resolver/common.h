/*
 * Pages that clients in other processes share.
 */
#ifndef UFFD_RESOLVER_COMMON_H
#define UFFD_RESOLVER_COMMON_H

#include "memory/lending.h"

/* As uffd_resolver_shared(), for memory that uffd_memory_share() was called for. Holds common. -ENOMEM, -EINVAL. */
UFFD_SHARED int uffd_resolver_common(struct uffd_common *common, uffd_resolver *below, uffd_resolver **resolver);

#endif
