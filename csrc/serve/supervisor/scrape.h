/*
 * The metrics socket: answers GET of HTTP with the pager's metrics. Nothing here waits: the supervisor polls.
 */
#ifndef UFFD_SERVE_SCRAPE_H
#define UFFD_SERVE_SCRAPE_H

#include "uffd_pager.h"

/* Opens what opts.metrics says; NULL: nothing. -EINVAL not a loopback address; those of opening the socket; -ENOMEM. */
int uffd_scrape_open(uffd_pager *pager);
/* Removes the socket's file if it is still ours; in a forked child it only closes. */
void uffd_scrape_close(uffd_pager *pager);

#endif
