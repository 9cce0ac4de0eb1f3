/*
 * Figures put together: of one client over its workers, and of all clients that the pager ever had.
 */
#ifndef UFFD_SERVE_SUM_H
#define UFFD_SERVE_SUM_H

#include "serve/supervisor/client.h"

/* What the client's next worker counted is added. */
void uffd_figures_follow(struct uffd_figures *sum, const struct uffd_figures *newer);
/* Another client: of what cannot be added (latencies, longest queue) the larger value. */
void uffd_figures_join(struct uffd_figures *all, const struct uffd_figures *client);
/* Of the client, all its workers together. */
void uffd_sum_client(const struct uffd_supervised *client, struct uffd_figures *figures);
/* Of all clients so far, also of those that are gone. */
void uffd_sum_pager(const uffd_pager *pager, struct uffd_figures *figures);
/* The client has ended: what it counted stays in the sum of the pager. */
void uffd_sum_keep(uffd_pager *pager, const struct uffd_supervised *client);

#endif
