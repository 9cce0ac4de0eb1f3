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
bool uffd_is_guilty(const struct uffd_supervised *client, uint64_t now); /* it is to be given up */

#endif
