/*
 * Firecracker's protocol, also spoken by its descendants, by nydus' clients and by uffd_handoff_send().
 */
#ifndef UFFD_SERVE_DOOR_FIRECRACKER_H
#define UFFD_SERVE_DOOR_FIRECRACKER_H

#include "serve/door/protocol.h"

extern const struct uffd_door_kind uffd_door_firecracker;

#endif
