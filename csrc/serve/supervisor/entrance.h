/*
 * The front doors: sockets that the options name, or that the service manager has given. They are opened together and
 * shut together.
 */
#ifndef UFFD_SERVE_ENTRANCE_H
#define UFFD_SERVE_ENTRANCE_H

#include "serve/door/door.h"
#include "uffd_pager.h"

/* Opens all of them. accept is called with a door (struct uffd_door *) at which somebody waits. */
int uffd_entrances_open(uffd_pager *pager, void (*accept)(uffd_pager *pager, void *door));
void uffd_entrances_change(uffd_pager *pager); /* limits of the options are for connections that come from now on */
void uffd_entrances_shut(uffd_pager *pager);

#endif
