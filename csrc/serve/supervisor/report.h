/*
 * Reports to the pager's user, and what a client looks like to it.
 */
#ifndef UFFD_SERVE_REPORT_H
#define UFFD_SERVE_REPORT_H

#include "base/base.h"
#include "serve/supervisor/client.h"

/* Tells the user. kind: UFFD_REPORT_*; client and worker may be NULL. */
void uffd_report(uffd_pager *pager, uint32_t kind, int error, const struct uffd_supervised *client,
                 const struct uffd_worker *worker, const char *format, ...) UFFD_PRINTF(6, 7);
void uffd_client_describe(const struct uffd_supervised *client, struct uffd_client_status *status);

#endif
