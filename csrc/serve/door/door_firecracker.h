/*
 * Firecracker's protocol, also spoken by its descendants, by nydus' clients and by uffd_handoff_send().
 */
#ifndef UFFD_SERVE_DOOR_FIRECRACKER_H
#define UFFD_SERVE_DOOR_FIRECRACKER_H

#include "serve/door/protocol.h"

/*
 * Our own extension: a client whose first region has this key with the value true is told, by one line of JSON, whether
 * it is served: {"ok":true,"client":1} or {"ok":false,"error":"A sentence."}. A client that is refused is told anyway.
 */
#define UFFD_ANSWER_KEY "uffd_answer"
/* Another one: what the client calls itself, a string. See label.h. */
#define UFFD_LABEL_KEY "uffd_label"

extern const struct uffd_door_kind uffd_door_firecracker;

#endif
