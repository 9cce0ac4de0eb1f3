/*
 * What `criu restore --lazy-pages` sends to its lazy-pages daemon.
 */
#ifndef UFFD_SERVE_DOOR_CRIU_H
#define UFFD_SERVE_DOOR_CRIU_H

#include "serve/door/protocol.h"

extern const struct uffd_door_kind uffd_door_criu;

#endif
