/*
 * Looks at a client's memory. Whoever looks may have to wait for a lock of that memory, which the client can hold for
 * as long as it likes. So the supervisor has a process that looks for it: the looker. It does one thing after another;
 * one that does not come back within a second is left alone with its client, and another looker is started for the
 * others.
 */
#ifndef UFFD_SERVE_SUPERVISOR_LOOKER_H
#define UFFD_SERVE_SUPERVISOR_LOOKER_H

#include <stdbool.h>
#include <stdint.h>

#include "serve/door/handshake.h"
#include "uffd_pager.h"

#define UFFD_LOOK_REGIONS 8u
#define UFFD_LOOK_FOUND   8u

enum uffd_look_kind {
  UFFD_LOOK_GONE = 1, /* fd: an object. Is its memory gone? regions[0].address: any */
  UFFD_LOOK_KILL,     /* fd: pidfd of pid. Kills it if it has all these regions; 1: killed */
  UFFD_LOOK_CHILD,    /* pid: of the parent, ticks: when it forked. Which of its children have regions[0]? */
  UFFD_LOOK_UNMAPPED, /* fd: an object. How much of regions[0], from its start on, is not registered? */
  UFFD_LOOK_OWNER,    /* fd: an object, pidfd: what came after it, pid: who connected. Whose is it, as named says? */
  UFFD_LOOK_POISON,   /* fd: an object. Poisons what is missing in its regions (Linux 6.6) */
  UFFD_LOOK_HOLD,     /* fd: an object. Holds it until its memory is gone, also when the supervisor has ended */
  UFFD_LOOK_CLOSE     /* fd: an object. Closes it, perhaps the last copy */
};

struct uffd_look {
  uint32_t kind;
  int32_t fd, pid;
  int32_t pidfd;  /* OWNER: as uffd_owner_find() takes it; -1: none */
  uint32_t count; /* regions */
  uint64_t owner; /* the asker's: a client's id, the number of a refused one */
  uint64_t ticks;
  struct uffd_owner named; /* OWNER */
  struct uffd_client_region regions[UFFD_LOOK_REGIONS];
};

struct uffd_seen {
  int result; /* 1 yes, 0 no, -ETIMEDOUT: it did not come back; -ECHILD: it has died; OWNER: -errno, see why */
  const char *why;
  uint64_t bytes; /* UNMAPPED: as far as it has looked */
  uint32_t
      count; /* CHILD, OWNER: processes that were found, and their pidfds, -1: none; those that are kept become -1 */
  int32_t pids[UFFD_LOOK_FOUND];
  int *fds;
};

typedef void uffd_seen_fn(uffd_pager *pager, const struct uffd_look *look, const struct uffd_seen *seen);

/* At the start, so that there is one before it is needed. When none can be had, it is tried again. */
void uffd_looker_open(uffd_pager *pager);
/*
 * Asks the looker, and calls seen (may be NULL) with its answer in a later step. false: no memory. fd must stay open
 * until the answer, or until uffd_looker_close(), which takes back what was asked about it and not begun.
 */
bool uffd_looker_ask(uffd_pager *pager, const struct uffd_look *look, uffd_seen_fn *seen);
void uffd_looker_close(uffd_pager *pager, int *object_fd); /* -1: does nothing */

void uffd_looker_check(uffd_pager *pager, uint64_t now); /* leaves one that does not come back alone */
uint64_t uffd_looker_due(const uffd_pager *pager);       /* when to check again; UINT64_MAX: never */
bool uffd_looker_idle(const uffd_pager *pager);          /* all that was asked is answered */
void uffd_looker_leave(uffd_pager *pager);               /* at the end: waits a moment for it */
void uffd_looker_forget(uffd_pager *pager);              /* also in a forked child */

#endif
