/*
 * Who serves whom, and what the workers are told.
 */
#ifndef UFFD_SERVE_TASK_H
#define UFFD_SERVE_TASK_H

#include "serve/supervisor/client.h"
#include "serve/supervisor/worker.h"

void uffd_tasks_push(uffd_pager *pager); /* tells every worker what it is to do and has not been told yet */
/* What a worker has said about a client. Descriptors that are kept are replaced by -1. */
void uffd_tasks_said(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message, int *fds);
void uffd_tasks_ready(uffd_pager *pager, struct uffd_worker *worker); /* it takes over the clients of its slot */
void uffd_tasks_died(uffd_pager *pager, const struct uffd_worker *worker, bool killed); /* its clients need another */
bool uffd_tasks_none(const uffd_pager *pager, const struct uffd_worker *worker);        /* it has no clients */

#endif
