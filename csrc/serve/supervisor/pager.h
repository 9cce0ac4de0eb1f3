/*
 * The supervisor's parts: links bring handshakes in, clients are served by workers, the pager holds them all. One
 * thread, one epoll descriptor; nothing here waits, and no client's memory is ever touched here.
 *
 * A client's userfaultfd is closed only when the client is dead, or complete, or has said that it needs no pager: the
 * last close turns what is missing into zeros.
 */
#ifndef UFFD_SERVE_PAGER_H
#define UFFD_SERVE_PAGER_H

#include "serve/door/door.h"
#include "serve/paper/book.h"
#include "serve/paper/channel.h"
#include "serve/supervisor/control.h"

#define UFFD_MAKING_MAX    16u /* clients that a worker makes at a time: the channel holds so many messages */
#define UFFD_STRIKES       5u  /* crashes of workers, each charged to the client, after which it is given up */
#define UFFD_STRIKES_NS    UINT64_C(10000000000) /* within so long; */
#define UFFD_KILLS         40u                   /* or SIGKILLs, which others send, with nothing achieved for as long */
#define UFFD_STARTS        5u                    /* a worker that dies before it is ready is started so often */
#define UFFD_START_LATE_NS UINT64_C(10000000000) /* a client that no worker serves after so long is reported */
#define UFFD_PROBE_MIN_NS  UINT64_C(10000000)    /* whether a client without a pidfd lives is asked after so long, */
#define UFFD_PROBE_MAX_NS  UINT64_C(1000000000)  /* doubling up to so long */

/* A descriptor that the pager waits for. */
struct uffd_watch {
  void (*ready)(uffd_pager *pager, void *owner);
  void *owner;
};
int uffd_watch_add(uffd_pager *pager, int fd, struct uffd_watch *watch);
void uffd_watch_write(uffd_pager *pager, int fd, struct uffd_watch *watch, bool write); /* for room, too */
void uffd_watch_drop(uffd_pager *pager, int fd);

/* ---- workers */

enum uffd_worker_state {
  UFFD_WORKER_STARTING,
  UFFD_WORKER_READY,
  UFFD_WORKER_RETIRING /* a newer one takes its clients, one by one */
};

struct uffd_debt { /* a message without descriptors that did not fit */
  struct uffd_debt *next;
  struct uffd_message message;
};

struct uffd_worker {
  struct uffd_worker *next;
  struct uffd_debt *debts; /* the oldest first */
  struct uffd_watch exit, said;
  uint32_t index; /* of its slot */
  enum uffd_worker_state state;
  int pid, pidfd, channel;
  bool full;     /* a message did not fit: goes on when the channel is writable */
  bool retired;  /* was told to end */
  bool reloaded; /* was started to take over from one that lives */
  bool closed;   /* its end of the channel is */
  uint32_t making;
};

/* A place for a worker; while one is being replaced there are two in it. */
struct uffd_slot {
  uint32_t failures; /* starts in a row that came to nothing */
  uint64_t retry_ns; /* when the next may be tried; 0: at once */
  bool given_up;
};

/* ---- clients */

/* What a worker is doing for a client. */
enum uffd_task {
  UFFD_TASK_NONE,
  UFFD_TASK_WAITING, /* for the worker, to be told */
  UFFD_TASK_MAKING,
  UFFD_TASK_HELD, /* made, and not started */
  UFFD_TASK_SERVING,
  UFFD_TASK_YIELDING,
  UFFD_TASK_RELEASING
};

struct uffd_share {
  struct uffd_worker *worker;
  enum uffd_task task;
};

struct uffd_served {
  struct uffd_served *next;
  struct uffd_client client; /* regions are the book's, fds those below */
  int fds[UFFD_HANDSHAKE_FDS];
  int object_fd;
  int pidfd; /* -1: unknown */
  struct uffd_watch exit;
  struct uffd_book book;
  uint64_t connection;         /* 0: none, or it has ended */
  uint64_t forked_ticks;       /* when it was forked, of uffd_family_clock() */
  uint32_t kin_tries;          /* left, to find its process */
  struct uffd_share now, heir; /* who serves it; who is to take over */
  uint32_t slot;
  uint32_t state; /* UFFD_CLIENT_* */
  uint32_t restarts;
  uint64_t since_ns;
  uint64_t task_ns;       /* when the present worker was told */
  uint64_t make_ns;       /* that its making took last time */
  struct uffd_stats base; /* of former workers */
  /* leaving */
  uint64_t probe_ns; /* when to ask again whether its memory is still there; 0: never */
  uint64_t probe_step;
  const char *why;
  /* blame */
  uint32_t strikes, kills;
  uint64_t first_strike_ns, first_kill_ns;
  uint32_t heir_strikes; /* deaths of heirs that were making it */
  uint64_t answered;     /* when its present worker began */
  /* how it stands */
  bool begun;      /* has been served at some time */
  bool slow;       /* it was reported that no worker begins */
  bool exited;     /* its process has; its memory may be another's too */
  bool leaving;    /* it needs no worker any more: why */
  bool completing; /* its memory is to be completed */
  bool complete_sent;
};

/* ---- links: connections of the front door */

struct uffd_link {
  struct uffd_link *next;
  struct uffd_watch watch;
  struct uffd_connection *connection;
  bool refused; /* nothing more is taken from it */
};

/* ---- the pager */

struct uffd_pager {
  /* set once */
  int pid;                     /* of its maker: a forked child does nothing with it */
  struct uffd_pager_opts opts; /* with strings of our own */
  uint64_t image_length, image_identity;
  int epoll_fd, timer_fd, order_fd;
  struct uffd_watch door_watch, control_watch, timer_watch, order_watch;
  /* any thread */
  _Atomic uint32_t orders; /* UFFD_ORDER_* */
  /* the supervisor's thread */
  struct uffd_door *door;
  struct uffd_control *control;
  struct uffd_link *links;
  uint32_t links_count;
  struct uffd_served *clients;
  uint32_t clients_count;
  struct uffd_worker *workers;
  struct uffd_slot *slots;
  bool draining;
  bool closing;
  int error; /* no worker can be started: told by uffd_pager_step() */
  uint64_t last_id;
  uint64_t served, refused, restarts;
  uint64_t recorded; /* records written */
};
enum { UFFD_ORDER_RELOAD = 1, UFFD_ORDER_DRAIN = 2, UFFD_ORDER_DRAINED = 4 };

/* pager.c: waits up to timeout_ms, deals with what has come. */
int uffd_pager_turn(uffd_pager *pager, int timeout_ms);
void uffd_pager_forget(uffd_pager *pager); /* in a forked child: closes and frees */

/* report.c */
void uffd_report(uffd_pager *pager, uint32_t kind, int error, const struct uffd_served *served,
                 const struct uffd_worker *worker, const char *format, ...) UFFD_PRINTF(6, 7);
void uffd_served_status(const struct uffd_served *served, struct uffd_client_status *status);
void uffd_add_stats(struct uffd_stats *sum, const struct uffd_stats *more); /* more is the newer one */

/* link.c */
int uffd_links_open(uffd_pager *pager);
void uffd_links_shut(uffd_pager *pager);                      /* no new connections */
void uffd_links_close(uffd_pager *pager);                     /* nor the old */
void uffd_links_check(uffd_pager *pager, uint64_t now);       /* deadlines */
uint64_t uffd_links_due(const uffd_pager *pager);             /* the next of them; UINT64_MAX: none */
void uffd_links_drop(uffd_pager *pager, uint64_t connection); /* its client is dead */

/* served.c: a client comes, is known, leaves */
int uffd_served_come(uffd_pager *pager, struct uffd_handshake *handshake);
/* A forked child: takes the descriptors when it succeeds. */
int uffd_served_fork(uffd_pager *pager, const struct uffd_served *parent, int object_fd, int book_fd);
struct uffd_served *uffd_served_find(const uffd_pager *pager, uint64_t id);
void uffd_served_hang_up(uffd_pager *pager, uint64_t connection, bool bye);
/* It needs no worker any more (state: GONE or COMPLETE): it is let go of as soon as its workers have. */
void uffd_served_leave(uffd_pager *pager, struct uffd_served *served, uint32_t state, const char *why);
/* No worker can serve it: on_crash. */
void uffd_served_give_up(uffd_pager *pager, struct uffd_served *served, int error, const char *why);
bool uffd_served_kill(const struct uffd_served *served); /* false: there is no pidfd to do it with */
void uffd_served_check(uffd_pager *pager, uint64_t now); /* those whose end nobody tells; those who have left */
uint64_t uffd_served_due(const uffd_pager *pager);
void uffd_served_free(uffd_pager *pager, struct uffd_served *served);

/* task.c: who serves whom, and what the workers are told */
void uffd_tasks_push(uffd_pager *pager); /* tells every worker what it is to do and does not know yet */
void uffd_tasks_said(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message, int *fds);
void uffd_tasks_ready(uffd_pager *pager, struct uffd_worker *worker);                   /* it takes over its slot */
void uffd_tasks_died(uffd_pager *pager, const struct uffd_worker *worker, bool killed); /* its clients need another */
void uffd_tasks_fold(struct uffd_served *served); /* its worker is no more: the figures are kept */
bool uffd_tasks_none(const uffd_pager *pager, const struct uffd_worker *worker); /* it has no clients */
uint32_t uffd_tasks_slot(const uffd_pager *pager);                               /* for the next client */

/* worker.c: processes start and end */
void uffd_workers_need(uffd_pager *pager, uint64_t now); /* starts those that are missing, ends those that retire */
uint64_t uffd_workers_due(const uffd_pager *pager);
struct uffd_worker *uffd_worker_of(const uffd_pager *pager, uint32_t slot); /* the newest there; NULL: none */
bool uffd_workers_starting(const uffd_pager *pager);
void uffd_workers_reload(uffd_pager *pager);
bool uffd_worker_say(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message, const int *fds,
                     uint32_t count); /* false: not now */
/* The same, now or later. */
void uffd_worker_owe(uffd_pager *pager, struct uffd_worker *worker, const struct uffd_message *message);
void uffd_workers_retire(uffd_pager *pager); /* all */
void uffd_workers_leave(uffd_pager *pager);  /* who is still there goes on alone, or is killed when it has no clients */
void uffd_workers_forget(uffd_pager *pager); /* in a forked child */

/* alive.c: the address space behind a userfaultfd is no more, whoever had it. */
bool uffd_memory_gone(int object_fd, uint64_t address);

#endif
