/*
 * The working-set file of a client that has ended.
 */
#ifndef UFFD_SERVE_RECORD_H
#define UFFD_SERVE_RECORD_H

#include "serve/supervisor/client.h"

/* Can records be written where the options say? 0, or -errno with a sentence. At the start: disks may be waited for. */
int uffd_record_open(uffd_pager *pager);
/*
 * Has a helper write it if the pager records, and reports how that ended. True: release is called with the client then.
 */
bool uffd_record_start(uffd_pager *pager, struct uffd_supervised *client,
                       void (*release)(struct uffd_supervised *client));

#endif
