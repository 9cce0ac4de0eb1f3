/*
 * A worker process, as the supervisor keeps it, and what is said to it.
 */
#ifndef UFFD_SERVE_SUPERVISOR_WORKER_H
#define UFFD_SERVE_SUPERVISOR_WORKER_H

#include "serve/paper/channel.h"
#include "serve/supervisor/poll.h"

enum uffd_worker_state {
  UFFD_WORKER_STARTING,
  UFFD_WORKER_READY,
  UFFD_WORKER_RETIRING /* a newer one takes its clients, one by one */
};

struct uffd_debt { /* a message without descriptors that did not fit into the channel */
  struct uffd_debt *next;
  struct uffd_message message;
};

struct uffd_worker {
  struct uffd_worker *next;
  struct uffd_debt *debts; /* the oldest first */
  struct uffd_poll exit, said, guard_exit;
  uint64_t number; /* 1, 2, ... in the order of starting */
  uint32_t index;  /* of its slot */
  enum uffd_worker_state state;
  int pid, pidfd, channel;
  int guard_fd;         /* pidfd of its guard; -1: none */
  uint64_t since_ns;    /* when it was started */
  bool full;            /* a message did not fit: wait until the channel is writable */
  bool retired;         /* was told to end */
  bool reloaded;        /* was started by a reload, to take over from one that lives */
  bool closed;          /* its end of the channel is closed */
  bool asked;           /* it has not answered PING */
  bool hung;            /* it did not, and was killed */
  bool abandoned;       /* it was killed and does not die: it has no clients any more */
  bool dead;            /* its guard is not, and may still bring what the worker had: its clients wait for that */
  uint64_t waited_ns;   /* since it was asked, answered or killed */
  uint64_t images_told; /* number of the newest image that it has been told of */
  uint32_t making;      /* clients that it was told to make or start, and has not answered */
};

/* The newest worker of the slot that does not retire; one that is ready goes first. NULL: none. */
struct uffd_worker *uffd_worker_of(const uffd_pager *pager, uint32_t slot);

/* Sends a message. False: it does not fit now, or the worker is gone. */
bool uffd_worker_say(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message, const int *fds,
                     uint32_t count);
/* Sends a message without descriptors, now or when there is room. */
void uffd_worker_owe(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message);
void uffd_worker_pay(uffd_pager *pager, struct uffd_worker *worker); /* the channel is writable again */

/* Its main thread has said something: it does not hang in what it did before. */
void uffd_worker_heard(struct uffd_worker *worker);
void uffd_worker_kill(const struct uffd_worker *worker);
void uffd_worker_kill_guard(const struct uffd_worker *worker);
void uffd_worker_unlink(uffd_pager *pager, struct uffd_worker *worker);
void uffd_worker_free(struct uffd_worker *worker);
void uffd_workers_forget(uffd_pager *pager); /* in a forked child: closes and frees */

#endif
