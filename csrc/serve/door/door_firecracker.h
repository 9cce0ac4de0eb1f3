/*
 * Firecracker's protocol, also spoken by its descendants, by nydus' clients and by uffd_handoff_send().
 */
#ifndef UFFD_SERVE_DOOR_FIRECRACKER_H
#define UFFD_SERVE_DOOR_FIRECRACKER_H

#include "serve/door/protocol.h"

/*
 * Our own extensions, keys of a client's first region, or of the only object of a notice. examples/door.md is their
 * contract.
 */
#define UFFD_ANSWER_KEY "uffd_answer" /* true: it waits to be told whether it is served */
#define UFFD_LABEL_KEY  "uffd_label"  /* what the client calls itself, a string: see label.h */
#define UFFD_PIDFD_KEY  "uffd_pidfd"  /* true: the descriptor after the userfaultfd is a pidfd: whose memory it is */
#define UFFD_PID_KEY    "uffd_pid"    /* the number of that process */
#define UFFD_FD_KEY     "uffd_fd"     /* the number of the userfaultfd in that process */
#define UFFD_PART_KEY   "uffd_part"   /* true: the regions need not cover the image */
#define UFFD_FILL_KEY   "uffd_fill"   /* "now", "later": when the rest of the memory is filled */
#define UFFD_TOKEN_KEY  "uffd_shared" /* the memory is a private mapping of what the notice "share" has given */
#define UFFD_NOTICE_KEY "uffd_notice" /* "fill", "done", "share": it is no region */
#define UFFD_CLIENT_KEY "uffd_client" /* the number of the client that a notice is about */

extern const struct uffd_door_kind uffd_door_firecracker;

#endif
