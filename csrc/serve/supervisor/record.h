/*
 * The working-set file of a client that has ended.
 */
#ifndef UFFD_SERVE_RECORD_H
#define UFFD_SERVE_RECORD_H

#include "serve/supervisor/client.h"

/* Writes it if the pager records; reports an error when that fails. */
void uffd_record_write(uffd_pager *pager, const struct uffd_supervised *client);

#endif
