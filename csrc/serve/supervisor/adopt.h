/*
 * What the service manager has kept of a supervisor that is dead: its successor takes it over.
 */
#ifndef UFFD_SERVE_ADOPT_H
#define UFFD_SERVE_ADOPT_H

#include "uffd_pager.h"

/*
 * Takes the images and clients out of the descriptors that this process was started with (given.h). What cannot be
 * understood is held open and reported: its missing pages must not become zeros. -ENOMEM.
 */
int uffd_adopt_all(uffd_pager *pager);

#endif
