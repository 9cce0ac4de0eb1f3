/*
 * A client, as the supervisor keeps it: how it comes, how its end is noticed, what becomes of it then.
 */
#ifndef UFFD_SERVE_SUPERVISOR_CLIENT_H
#define UFFD_SERVE_SUPERVISOR_CLIENT_H

#include "serve/door/handshake.h"
#include "serve/paper/book.h"
#include "serve/supervisor/poll.h"
#include "serve/supervisor/share.h"
#include "serve/supervisor/stage.h"

#define UFFD_FDS_A_CLIENT 7u                    /* in a worker; the supervisor has five */
#define UFFD_BEGIN_NS     UINT64_C(10000000000) /* a client that no worker has begun to serve after so long is reported */

struct uffd_image;
struct uffd_worker;

struct uffd_supervised {
  struct uffd_supervised *next;
  struct uffd_client who;  /* its regions lie in the book, its fds below */
  struct uffd_asker asker; /* who brought it */
  int fds[UFFD_HANDSHAKE_FDS];
  int object_fd;
  int pidfd; /* of its process; -1: unknown, or exited */
  struct uffd_poll exit;
  struct uffd_book book;
  struct uffd_image *image; /* that it is served from; NULL: the user's function makes all contents */
  uint64_t since_ns;
  uint64_t connection;   /* number of its connection; 0: none, or it has ended */
  uint64_t forked_ticks; /* of a forked child: when, as uffd_family_clock() */
  uint32_t slot;
  uint32_t kin_tries; /* of a forked child: tries left to find its process */
  /* who serves it */
  enum uffd_stage stage;
  uint32_t begun;             /* times that a worker began to serve it */
  struct uffd_worker *worker; /* that has it, or is to get it; NULL: none */
  struct uffd_worker *heir;   /* that is to take over from it; NULL: none */
  uint64_t completer;         /* number of the worker that was told to complete it */
  uint64_t filler;            /* number of the worker that was told to fill it; only of one that came with "later" */
  bool later;                 /* it came with "later" */
  bool restored;              /* a task of a dump: until the notice its memory is registered, mapping by mapping */
  uint64_t late_ns;           /* when it is reported that no worker has begun; UINT64_MAX: never, or no more */
  uint64_t make_ns;           /* that the last worker needed to make it */
  uint64_t retry_ns;          /* queued: not before; 0: at once */
  struct uffd_figures former; /* of its former workers together */
  /* deaths of its workers: see blame.h */
  uint64_t answered; /* faults, when its present worker began */
  uint32_t strikes, kills;
  uint64_t first_strike_ns, first_kill_ns;
  /* hangs of its policy: see liveness.h */
  uint64_t seen_answered; /* faults, when it was last looked at */
  uint64_t stuck_ns;      /* since when it has faults and answers none */
  bool hung;              /* its present worker is killed because of it */
  uint32_t hangs;
  uint64_t hung_ns;      /* when the last one was */
  uint32_t heir_strikes; /* deaths of heirs that were making it */
  /* its end */
  bool exited;               /* its process has exited; another process may have its memory */
  uint64_t probe_ns;         /* when to ask next whether its memory still exists; 0: never */
  uint64_t gone_ns;          /* when its memory was first seen to be gone; 0: it is there */
  uint64_t probe_step;       /* ns until the next probe, doubles with each */
  uint32_t end;              /* UFFD_END_* */
  uint32_t kill_tries;       /* that the looker did not come back from */
  bool killed;               /* by us */
  int given_up;              /* why it is frozen: errno, */
  char why[512];             /* and in words */
  bool asked;                /* the looker, whether its memory exists, and it has not answered */
  uint32_t unmapped_regions; /* so many of its regions are not registered any more, */
  uint64_t unmapped_bytes;   /* and so much of the next one */
  bool was_there;            /* some of them were registered when they were looked at */
  bool to_complete;          /* an operator wants it to be complete */
  uint64_t recall_ns;        /* adopted: when its former worker is asked for next, */
  uint64_t give_up_ns;       /* and when that worker is killed */
};

/* Might it come, as things are? 1: its userfaultfd is served already; 0: yes; -errno with a sentence: refused. */
int uffd_client_may_come(uffd_pager *pager, const struct uffd_handshake *handshake);
/*
 * image: that it is served from; NULL: none. *id: the client's; 0: the task has no memory that could be served. Returns
 * 0: the client is new; 1: its userfaultfd is served already, so it stays the same client, and its connection is this
 * one from now on. -errno with a sentence: refused.
 */
int uffd_client_come(uffd_pager *pager, struct uffd_handshake *handshake, struct uffd_image *image, uint64_t *id);
/* A child that parent has forked. Takes both descriptors when it succeeds. */
int uffd_client_fork(uffd_pager *pager, const struct uffd_supervised *parent, int object_fd, int book_fd);
/* What a dead supervisor has left of a client. What is taken out is replaced by -1. */
struct uffd_remains {
  uint64_t id;
  int object_fd, book_fd, pidfd; /* -1: it is not there */
  uint32_t fds_count;
  int fds[UFFD_HANDSHAKE_FDS];
};
/* -EINVAL no object, or a book that this version does not understand; -ESTALE its image is not there; -ENOMEM. */
int uffd_client_adopt(uffd_pager *pager, struct uffd_remains *remains);
struct uffd_supervised *uffd_client_find(const uffd_pager *pager, uint64_t id); /* NULL: none */
/* The connection has ended. bye: the client has said that it needs no pager any more. */
void uffd_clients_hang_up(uffd_pager *pager, uint64_t connection, bool bye);
/*
 * A notice of the connection, about its client *id; 0: about all of them, and *id is the last one of them then. -ENOENT
 * with a sentence: the connection has no such client.
 */
int uffd_clients_notice(uffd_pager *pager, uint64_t connection, enum uffd_notice notice, uint64_t *id);
bool uffd_clients_of(const uffd_pager *pager, uint64_t connection); /* has the connection clients? */

/* It needs no worker any more. end: UFFD_END_*. It ends when its workers have let go of it. */
void uffd_client_leave(struct uffd_supervised *client, uint32_t end);
/* No worker can serve it: does what on_crash says. */
void uffd_client_give_up(uffd_pager *pager, struct uffd_supervised *client, int error, const char *why);
/* Asks the looker to kill its process, if that has the memory. false: the process is not known. */
bool uffd_client_kill(uffd_pager *pager, struct uffd_supervised *client);

/* Looks for clients whose memory is gone, reports those that no worker begins, ends those that have left. */
void uffd_clients_check(uffd_pager *pager, uint64_t now);
uint64_t uffd_clients_due(const uffd_pager *pager);           /* when to check again; UINT64_MAX: never */
bool uffd_client_has(const uffd_pager *pager, int object_fd); /* is this userfaultfd a client's? */
void uffd_clients_leave(uffd_pager *pager);  /* the pager ends: the looker holds the objects of those that live on */
void uffd_clients_forget(uffd_pager *pager); /* closes and frees all */

#endif
