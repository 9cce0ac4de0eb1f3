/*
 * Clients whose image must be found and opened first: a helper does it, and nobody waits for the disk but the client.
 */
#ifndef UFFD_SERVE_ARRIVAL_H
#define UFFD_SERVE_ARRIVAL_H

#include "serve/door/handshake.h"

struct uffd_arrival;

/* result 0: the client has been taken in, and this is its id; 1: it is served already. -errno with a sentence: it is
 * refused. */
typedef void uffd_arrived_fn(uffd_pager *pager, void *owner, int result, struct uffd_handshake *handshake, uint64_t id);

bool uffd_arrivals_wanted(const uffd_pager *pager); /* has the pager an image for each client? */
/* Takes the handshake. arrived is called later, once, unless the arrival is forgotten before. NULL, a sentence: no
 * memory. */
struct uffd_arrival *uffd_arrival_begin(uffd_pager *pager, struct uffd_handshake *handshake, uffd_arrived_fn *arrived,
                                        void *owner);
void uffd_arrivals_step(uffd_pager *pager);   /* starts helpers for those that wait */
void uffd_arrivals_refuse(uffd_pager *pager); /* all that have not come yet: the pager ends */
bool uffd_arrivals_none(const uffd_pager *pager);
void uffd_arrivals_forget(uffd_pager *pager); /* closes and frees all */

#endif
