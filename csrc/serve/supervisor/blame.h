/*
 * Which client makes its workers die?
 */
#ifndef UFFD_SERVE_BLAME_H
#define UFFD_SERVE_BLAME_H

#include "serve/supervisor/client.h"

/*
 * Its worker has died: counts a strike against the client when the worker was making it, or left its faults unanswered
 * and has answered none since it began. Other clients may look the same, so one death proves nothing: clients with
 * strikes are served after the others next time. killed: by SIGKILL, which others send.
 */
void uffd_blame(struct uffd_supervised *client, uint64_t now, bool killed);
/* Has the client faults that no worker has read, or that one has read and not answered? */
bool uffd_has_faults(const struct uffd_supervised *client);
/* Its worker hung and was killed: charges the client if it was its policy that hung. */
void uffd_blame_hang(const uffd_pager *pager, struct uffd_supervised *client, uint64_t now);
bool uffd_is_guilty(const struct uffd_supervised *client, uint64_t now); /* of deaths: it is to be given up */
bool uffd_hangs_again(const struct uffd_supervised *client);             /* its policy: the same */

#endif
