/*
 * What other rooms of the pager's library ask of a handoff (handoff.c) beside the public functions.
 */
#ifndef UFFD_SERVE_HANDOFF_H
#define UFFD_SERVE_HANDOFF_H

#include "uffd_pager.h"

/* The connection to the pager, which polls POLLRDHUP when the pager has hung up. uffd_handoff_attach() changes it. */
int uffd_handoff_socket(const uffd_handoff *handoff);

#endif
