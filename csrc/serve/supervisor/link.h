/*
 * Links: the connections of the front doors, as the supervisor keeps them. The front doors are opened and shut here
 * too.
 */
#ifndef UFFD_SERVE_LINK_H
#define UFFD_SERVE_LINK_H

#include <stdint.h>

#include "uffd_pager.h"

int uffd_links_open(uffd_pager *pager);                        /* opens the front doors */
void uffd_links_shut(uffd_pager *pager);                       /* closes the front doors; links stay */
void uffd_links_refuse(uffd_pager *pager);                     /* handshakes that are not whole: the pager ends */
void uffd_links_close(uffd_pager *pager);                      /* closes the front doors and all links */
void uffd_links_check(uffd_pager *pager, uint64_t now);        /* reads those whose deadline has passed */
void uffd_links_drain(uffd_pager *pager, uint64_t connection); /* it brings no client any more */
uint64_t uffd_links_due(const uffd_pager *pager);              /* the next deadline; UINT64_MAX: none */
void uffd_links_sweep(uffd_pager *pager);                      /* drops those whose clients are all dead */

#endif
