/*
 * Those that were refused. Their userfaultfd is kept, because closing its last copy would turn missing pages into
 * zeros.
 */
#ifndef UFFD_SERVE_REFUSED_H
#define UFFD_SERVE_REFUSED_H

#include "serve/door/handshake.h"

/*
 * Takes the userfaultfd out of a refused handshake and keeps it until its memory is gone. told: the client knows that
 * it was refused. One that was not told would sleep at its next fault: with on_crash KILL it is killed, if the memory
 * is its own. Returns what became of it, as a sentence, or "".
 */
const char *uffd_refused_keep(uffd_pager *pager, struct uffd_handshake *handshake, bool told);
void uffd_refused_hold(uffd_pager *pager, int object_fd);                   /* of which nothing else is known */
void uffd_refused_adopt(uffd_pager *pager, uint64_t number, int object_fd); /* that another supervisor has kept */
void uffd_refused_check(uffd_pager *pager, uint64_t now);                   /* closes those whose memory is gone */
/*
 * The pager ends. What is missing of those that were not told is poisoned; whose memory is not known, or where the
 * kernel has no poison, is held by the looker on.
 */
void uffd_refused_leave(uffd_pager *pager);
uint64_t uffd_refused_due(const uffd_pager *pager); /* when to check again; UINT64_MAX: never */
void uffd_refused_forget(uffd_pager *pager);        /* closes all */

#endif
