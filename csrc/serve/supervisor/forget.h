/*
 * What a forked child does with the supervisor's state.
 */
#ifndef UFFD_SERVE_FORGET_H
#define UFFD_SERVE_FORGET_H

#include "uffd_pager.h"

/*
 * Closes all descriptors that the supervisor has open, and frees its clients, links and workers. The epoll descriptor
 * is the parent's too: nothing is taken out of it. The options stay valid.
 */
void uffd_pager_forget(uffd_pager *pager);

#endif
