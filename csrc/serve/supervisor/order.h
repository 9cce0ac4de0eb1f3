/*
 * Orders to the supervisor: given from any thread and from signal handlers, obeyed in the supervisor's thread.
 */
#ifndef UFFD_SERVE_ORDER_H
#define UFFD_SERVE_ORDER_H

#include <stdint.h>

#include "uffd_pager.h"

enum { UFFD_ORDER_RELOAD = 1, UFFD_ORDER_DRAIN = 2 };

int uffd_orders_open(uffd_pager *pager);                /* opens and polls the descriptor that wakes the supervisor */
uint32_t uffd_orders(const uffd_pager *pager);          /* UFFD_ORDER_* that were given */
void uffd_order_done(uffd_pager *pager, uint32_t what); /* it may be given again */

#endif
