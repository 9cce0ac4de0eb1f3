/*
 * Clients that wait before they hear that they are served: until the process is found whose memory they hand over (the
 * looker does it), their image is opened (a helper does it), and the service manager holds what the next supervisor
 * would need of them. Nobody else waits.
 */
#ifndef UFFD_SERVE_ARRIVAL_H
#define UFFD_SERVE_ARRIVAL_H

#include "serve/door/handshake.h"

struct uffd_arrival;

/* result 0: the client has been taken in, and this is its id; 1: it is served already. -errno with a sentence: it is
 * refused. */
typedef void uffd_arrived_fn(uffd_pager *pager, void *owner, int result, struct uffd_handshake *handshake, uint64_t id);

/* Must it be looked for whose memory it is, or which image is its own? */
bool uffd_arrival_needed(const uffd_pager *pager, const struct uffd_handshake *handshake);
/*
 * Takes the handshake. arrived is called later, once, unless the arrival is forgotten before. -ENOMEM, a sentence: it
 * is not taken.
 */
int uffd_arrival_begin(uffd_pager *pager, struct uffd_handshake *handshake, uffd_arrived_fn *arrived, void *owner);
/* The same for a client that has been taken in with this result, and must be kept before it hears of it. */
int uffd_arrival_hold(uffd_pager *pager, struct uffd_handshake *handshake, int result, uint64_t id,
                      uffd_arrived_fn *arrived, void *owner);
void uffd_arrivals_step(uffd_pager *pager); /* starts helpers for those that wait, tells those that are kept */
uint64_t uffd_arrivals_due(const uffd_pager *pager);
void uffd_arrivals_refuse(uffd_pager *pager); /* all that have not come yet: the pager ends */
bool uffd_arrivals_none(const uffd_pager *pager);
void uffd_arrivals_forget(uffd_pager *pager); /* closes and frees all */

#endif
