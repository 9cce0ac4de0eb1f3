/*
 * uffd-pager: answers the page faults of other processes from an image.
 *
 * A client (a virtual-machine monitor, a restored process, any program) hands over its userfaultfd and the list of its
 * regions. The pager answers its faults until the client is gone. A supervisor process keeps a copy of the userfaultfd,
 * the regions, a pidfd, and the ledger, which says what each page holds. A worker process answers the faults. When a
 * worker dies, another one goes on from there: the client sees a pause, and never zeros instead of data.
 *
 *   socket --> front door --> client --> (supervisor) --> worker --> loop: see <uffd.h>
 *
 * Results, options, masks and errors are as in <uffd.h>: 0 or a positive count, -errno on failure, and a sentence in
 * uffd_errmsg(). A pager may be used by one thread only, except where a function says "any thread".
 */
#ifndef UFFD_PAGER_H
#define UFFD_PAGER_H

#include <uffd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A range of a client's memory, and where its contents lie in the image. */
struct uffd_client_region {
  uint64_t address;   /* in the client */
  uint64_t length;    /* bytes, whole pages */
  uint64_t offset;    /* in the image, bytes */
  uint64_t page_size; /* bytes */
};

/* A client. Newer libraries may append fields. */
struct uffd_client {
  uint64_t id;  /* 1, 2, ... in the order in which clients come; a forked child is a client of its own */
  uint64_t of;  /* id of the client that it was forked from; 0: none */
  int32_t pid;  /* as the supervisor sees it; 0: unknown. That of a forked child becomes known a moment later */
  uint32_t uid; /* of the process that connected */
  uint32_t gid;
  uint32_t regions_count;
  const struct uffd_client_region *regions; /* sorted by offset */
  const int *fds;                           /* that it sent after the userfaultfd: memfds and the like */
  uint32_t fds_count;
  uint32_t reserved;
  const char *label;  /* what it calls itself, or an operator: see uffd_pager_label(); "": nothing */
  const char *socket; /* path of the front door that it came by; "": not known */
};

typedef struct uffd_pager uffd_pager;

/*
 * on_crash: what happens to a client that no worker can serve: its workers died of it again and again, its resolver
 * cannot be made, or no worker could be started for a minute.
 */
enum {
  UFFD_PAGER_KILL = 0,  /* they are killed: SIGKILL by pidfd */
  UFFD_PAGER_FREEZE = 1 /* nothing: they sleep at their next fault as long as the supervisor lives. A reload tries again
                           to serve them */
};

/* on_drain: what uffd_pager_drain(), and SIGTERM to uffd-lua serve, do beside refusing new clients. */
enum {
  UFFD_PAGER_COMPLETE = 0, /* the rest of each client's memory is filled, so that it needs no pager any more */
  UFFD_PAGER_REFUSE = 1    /* nothing: present clients are served until they are gone */
};

enum {
  UFFD_PAGER_ONCE = 1,     /* serve one client, and end when it is gone */
  UFFD_PAGER_PREFETCH = 2, /* fill each client's memory in the background; faults go first */
  /*
   * Keep what clients are made of (userfaultfd, book, process, image) in the service manager's store of descriptors,
   * and take over what a supervisor has left there that has died: sd_notify(3), FDSTORE. The manager is systemd
   * (FileDescriptorStoreMax, NotifyAccess=main), or uffd_pager_keep(). A client that asks for an answer gets it when
   * the manager has all of it; a manager that takes nothing for hang_ms is reported, and clients wait no longer for it
   */
  UFFD_PAGER_KEEP = 4,
  /*
   * Clients may share the pages of the image: a page that several of them have read, and not written, is in memory
   * once. The pager fills such pages in a memfd of its own; a client gets a private mapping of it by
   * uffd_handoff_map(), and hands that over. Other clients are served as ever. With one image for all clients, and
   * without a resolver. Pages that were filled stay in memory as long as the image has clients, or is the current one.
   * Linux 5.13
   */
  UFFD_PAGER_SHARE = 8
};

/* What is spoken at the front doors. */
enum {
  UFFD_DOOR_FIRECRACKER = 0, /* Firecracker's hand-off, and that of uffd_handoff_send() */
  /*
   * `criu restore --lazy-pages`: the socket is WORKDIR/lazy-pages.socket, the image is the directory of the dump (any
   * dump, also an ordinary one, with its parents). Each task of a restore is a client; a restore may come any number of
   * times, also several at once. Faults are answered from the first moment on; memory is filled in the background, or
   * completed, when CRIU says that all tasks are whole. A restore that is refused fails, and its tasks never run.
   */
  UFFD_DOOR_CRIU = 1
};

struct uffd_pager_report;

/* A front door beside uffd_pager_opts.socket. Which one a client came by is known of it: uffd_client.socket. */
struct uffd_pager_door {
  const char *path;
  uint32_t mode; /* of its file; 0: socket_mode */
  uint32_t reserved;
  int64_t
      uid; /* user who may connect there, beside root and the pager's own; -1: nobody else; UFFD_DOOR_UID: as `uid` */
};
#define UFFD_DOOR_UID (-2)

struct uffd_pager_opts {
  size_t size;
  const char *socket;    /* path of the front door; a socket file that nobody listens at is replaced. NULL: the socket
                            that the service manager has given, as sd_listen_fds(3) has it: the one named "door", or the
                            only one without a name. Likewise "control" and "metrics" */
  const char *control;   /* path of the control socket; NULL: none */
  uint32_t socket_mode;  /* of the front door's file; 0: 0600 */
  uint32_t max_clients;  /* 0: 256 */
  int64_t uid;           /* user who may connect, beside root and the pager's own user; -1: nobody else */
  uint32_t max_regions;  /* of a client, up to 4096; 0: 4096. Not of a task of a dump */
  uint32_t max_bytes;    /* of a handshake; 0: 1 MiB */
  uint32_t handshake_ms; /* time limit of a handshake; 0: 5000 */
  uint32_t workers;      /* number of worker processes, up to 64; a new client goes to the one with the fewest. 0: 1 */
  uint32_t on_crash;     /* UFFD_PAGER_KILL, _FREEZE */
  uint32_t on_drain;     /* UFFD_PAGER_COMPLETE, _REFUSE */
  uint32_t flags;        /* UFFD_PAGER_ONCE, ... */
  uint32_t watchdog_ms;  /* a fault that waits longer is reported once; 0: 1000 */
  uint64_t around;       /* as in uffd_region_opts; 0: UFFD_AROUND_AUTO. With record: one page */
  uint64_t rate;         /* of prefetching, bytes per second for each client; 0: no limit */
  /*
   * Path of the image, told by its contents as uffd_image_open() does: a raw file, a zstd file, or an increment, whose
   * parents are looked for; NULL: see images. With braces it is a template, and each client has its own image, as
   * uffd_client_path() has it. A helper opens it when the client comes; clients of the same file share it, and it is
   * closed when the last of them is gone. A file that is put in its place meanwhile is for those that come later. A
   * client whose image cannot be opened within hang_ms is refused.
   */
  const char *image;
  const char *record; /* path of a working-set file, written when the first client is gone; for the others ".ID" is
                         appended to the path */
  const char *replay; /* path of a working-set file of this image, whose pages are prefetched. With an image for each
                         client it may be a template, too; a file that is not there is no error then */
  /*
   * Makes the resolver of a client, in the worker, before the client's first fault. Returns 0, or -errno: then on_crash
   * says what happens to the client. image is NULL without an image. *resolver may be `image` itself: the pager takes a
   * reference of its own. NULL: all clients get the image. It is called in the thread that called uffd_pager_work(),
   * for one client after another, and no other client is begun meanwhile: be quick. Callbacks get the client's region
   * as their cookie, a const struct uffd_client_region *. After a reload it is called in the new worker while the old
   * one still serves the client; when it fails, the old worker goes on.
   */
  int (*resolver)(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver);
  void *resolver_ctx;
  /* Called in the supervisor with each report. May be NULL. */
  void (*report)(void *ctx, const struct uffd_pager_report *report);
  void *report_ctx;
  /*
   * The command line that starts a worker, up to NULL. Two arguments are appended: "--worker" and the number of a
   * descriptor. The program must call uffd_pager_work() with it. A reload starts the program that lies there at that
   * time. NULL: a worker is a forked child of the calling process, which must have no other threads.
   */
  const char *const *worker;
  /*
   * Where the metrics can be had by HTTP: a path of a socket (mode: socket_mode), or HOST:PORT of a loopback address,
   * which everybody on this machine can reach. NULL: nowhere. See uffd_pager_metrics().
   */
  const char *metrics;
  uint32_t control_mode; /* of the control socket's file: whoever it lets connect may look; 0: 0600 */
  /*
   * A worker that does not answer the supervisor for so long, or whose policy leaves a client's fault or the making of
   * a client for so long, is killed, and its clients get another worker. A client whose policy hangs twice is given up:
   * on_crash. 0: 10000. Large where workers are stopped on purpose, by a debugger.
   */
  uint32_t hang_ms;
  int64_t control_uid; /* user who may also drain and reload there, beside root and the pager's own; -1: nobody else */
  const struct uffd_pager_door *doors; /* more front doors */
  size_t doors_count;
  /*
   * Instead of image: the layers of one, as uffd_image_open() takes them, the lowest first, up to NULL. The supervisor
   * opens them once; workers get the descriptors, and check that each layer is the one that was opened. They may be
   * templates, as image. NULL with image NULL: the resolver makes all contents.
   */
  const char *const *images;
  uint32_t door;     /* UFFD_DOOR_*, of all front doors */
  uint32_t reserved; /* 0 */
  /*
   * Chooses the image of a client. It is called in a helper process, a copy of the supervisor as it is then, so it may
   * wait, and what it changes is lost; after hang_ms it is killed. client->id is 0. Writes the path of the image, at
   * most size bytes with its final zero, and returns 0; or 1: the client gets `image`, which may be a template; or
   * -errno: it is refused, and uffd_set_errmsg() says why. uffd_client_path() makes paths of what a client says. NULL:
   * all clients get `image`.
   */
  int (*choose)(void *ctx, const struct uffd_client *client, char *path, size_t size);
  void *choose_ctx;
  /*
   * Of max_clients, those that one process may bring, and those of one user. The same share of forked children, of
   * connections, of descriptors and of the memory for bookkeeping is theirs. 0: three quarters for a process, so that
   * one that comes with more and more does not keep the others out; all for a user.
   */
  uint32_t max_clients_per_process;
  uint32_t max_clients_per_user;
};
#define UFFD_PAGER_OPTS_INIT                                                                                           \
  {                                                                                                                    \
    sizeof(struct uffd_pager_opts), NULL, NULL, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL,  \
        NULL, NULL, NULL, NULL, 0, 0, -1, NULL, 0, NULL, 0, 0, NULL, NULL, 0, 0                                        \
  }

/*
 * Expands a template of a path with what is known of a client: {label}, {socket} (the name of the front door's file,
 * without its directory and without ".sock" or ".socket"), {uid}, {gid}, {pid}; "{{" and "}}" stand for a brace. What a
 * client says never leads out of the directory: -EINVAL a value is empty, begins with a dot or has a slash, or the
 * template is wrong; -ENAMETOOLONG it needs more than size bytes. Any thread.
 */
UFFD_EXPORT int uffd_client_path(const char *template_, const struct uffd_client *client, char *path, size_t size);

/*
 * Makes a pager: checks the options and the image, and opens the sockets. Nothing is served before uffd_pager_step().
 * Errors: -EINVAL an option, which is named, or a working set of another image; -EADDRINUSE another pager listens
 * there; -EBUSY the process has other threads and `worker` is NULL; those of opening the files; -EMFILE; -ENOMEM. Needs
 * pidfds: Linux 5.3.
 */
UFFD_EXPORT int uffd_pager_create(const struct uffd_pager_opts *opts, uffd_pager **pager);

/*
 * A step of the supervisor: waits up to timeout_ms (-1: for ever) and handles what has happened. Returns 1: call it
 * again; 0: done (drained, or ONCE and the client is gone). Errors: -EOWNERDEAD in a forked child; -ECHILD the first
 * worker could not be started. When later ones cannot be, the pager tries again and again, at last every five seconds;
 * with several workers, the others take over the clients.
 */
UFFD_EXPORT int uffd_pager_step(uffd_pager *pager, int timeout_ms);

/* Calls uffd_pager_step() until it returns 0 or -errno, and returns that. */
UFFD_EXPORT int uffd_pager_run(uffd_pager *pager);

UFFD_EXPORT int uffd_pager_fd(const uffd_pager *pager); /* polls readable when uffd_pager_step() has work */

/*
 * Replaces the workers: a new worker takes over from each old one, client by client, when it has made everything. No
 * fault is lost. When a worker cannot be started, or a client cannot be made, the old worker goes on, and a report says
 * so. Any thread, and signal handlers.
 */
UFFD_EXPORT int uffd_pager_reload(uffd_pager *pager);
/* Refuses new clients and does what on_drain says. -EALREADY it was called before. Any thread, and signal handlers. */
UFFD_EXPORT int uffd_pager_drain(uffd_pager *pager);

/*
 * Opens another image for new clients; those that are there go on with theirs. It returns at once: a helper process
 * opens the file, and then a report says UFFD_REPORT_IMAGE, or UFFD_REPORT_ERROR. A working set to replay is not
 * replayed for it. Errors: -EINVAL the pager has no image; -EBUSY another one is being opened; -EOWNERDEAD in a forked
 * child; -EAGAIN, -EMFILE, -ENOMEM no helper.
 */
UFFD_EXPORT int uffd_pager_image(uffd_pager *pager, const char *path);
/* The same with layers: paths, the lowest first, up to NULL. */
UFFD_EXPORT int uffd_pager_images(uffd_pager *pager, const char *const *paths);

/*
 * Other options for a pager that runs. Changed are max_clients and its shares, max_regions, max_bytes and handshake_ms
 * (of connections that come), on_crash, on_drain, hang_ms, control_uid, choose, and image or images: new clients get
 * them, as uffd_pager_images() has it. Workers take theirs (around, rate, watchdog_ms, PREFETCH) when they are started:
 * see uffd_pager_reload(). Each other option that differs is told by a report, UFFD_REPORT_ERROR, and stays as it is.
 * Errors, and then nothing has changed: -EINVAL an option, which is named; -EOWNERDEAD in a forked child; -ENOMEM.
 */
UFFD_EXPORT int uffd_pager_configure(uffd_pager *pager, const struct uffd_pager_opts *opts);

/*
 * Closes the sockets, kills the clients that are still there, ends the workers, and frees. Clients are killed with
 * on_crash FREEZE too, because nobody serves them after this call. It waits up to 10 seconds. NULL is allowed. In a
 * forked child it only frees.
 */
UFFD_EXPORT void uffd_pager_close(uffd_pager *pager);

/*
 * The keeper, for where there is no systemd: runs the command, a program with a pager (UFFD_PAGER_KEEP), keeps the
 * descriptors that it stores, and starts it again when a signal has killed it. Then the new supervisor takes over all
 * clients: nothing is lost, also when the workers were killed with the old one. SIGHUP, SIGTERM, SIGINT and SIGQUIT go
 * on to the program. Returns its exit code when it ends by itself, or 128 and the signal when it was to end, or -errno.
 * The calling process must have one thread and no other children. Other messages of sd_notify(3) are passed on to the
 * caller's own manager.
 */
UFFD_EXPORT int uffd_pager_keep(const char *const *command);

/*
 * The worker's main function: serves the clients that the supervisor at the other end of fd hands over, until the
 * supervisor says that no more will come. When the supervisor dies, it goes on with the clients that it has. opts: the
 * supervisor's; socket and control are not used. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP and SIGPIPE are ignored from
 * then on: what a terminal sends is meant for the supervisor. Returns 0 or -errno; the process should exit then.
 */
UFFD_EXPORT int uffd_pager_work(int fd, const struct uffd_pager_opts *opts);

enum {
  UFFD_CLIENT_STARTING = 0, /* no worker has begun to serve it yet, or its worker has died */
  UFFD_CLIENT_SERVED = 1,
  UFFD_CLIENT_COMPLETE = 2, /* all its memory is filled, it needs no pager any more */
  UFFD_CLIENT_FROZEN = 3,   /* no worker can serve it */
  UFFD_CLIENT_GONE = 4      /* exited, or killed */
};

/* How a client ended. */
enum {
  UFFD_END_NONE = 0,     /* it is there */
  UFFD_END_DONE = 1,     /* it has said that it needs no pager any more */
  UFFD_END_EXITED = 2,   /* its process is dead */
  UFFD_END_KILLED = 3,   /* the pager has killed its process */
  UFFD_END_UNMAPPED = 4, /* its memory is no more: it has executed another program, or its process was not known */
  UFFD_END_COMPLETE = 5  /* all its memory is filled */
};

#define UFFD_LABEL 64 /* bytes of a client's label, with its final zero */

struct uffd_client_status {
  size_t size;
  struct uffd_client client; /* valid until the next uffd_pager_step() */
  uint32_t state;            /* UFFD_CLIENT_* */
  uint32_t worker;           /* index of the worker */
  uint32_t restarts;         /* times that another worker took over, after a death or a reload */
  uint32_t end;              /* UFFD_END_* */
  uint64_t since_ns;         /* when it came, CLOCK_MONOTONIC */
  uint64_t oldest_ns;        /* age of the oldest fault that is not answered yet; 0: none */
  struct uffd_stats stats;   /* of all its workers together, up to 100 ms old; p50 and p99 are the last worker's */
  char label[UFFD_LABEL];    /* "": none. See uffd_pager_label() */
  const char *image;         /* path of its image; NULL: it has none. Valid until the next uffd_pager_step() */
  uint32_t shared;           /* 1: it shares the pages of its image, see UFFD_PAGER_SHARE */
  uint32_t reserved;         /* 0 */
};
#define UFFD_CLIENT_STATUS_INIT                                                                                        \
  {                                                                                                                    \
    sizeof(struct uffd_client_status), {0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, NULL, NULL}, 0, 0, 0, 0, 0, 0,             \
        UFFD_STATS_INIT, "", NULL, 0, 0                                                                                \
  }

struct uffd_pager_status {
  size_t size;
  uint32_t clients;   /* now */
  uint32_t workers;   /* alive */
  uint64_t served;    /* clients so far */
  uint64_t refused;   /* handshakes that were refused so far */
  uint64_t restarts;  /* workers that died and were replaced so far */
  uint64_t draining;  /* 1 after uffd_pager_drain() */
  uint64_t hangs;     /* workers that hung and were killed so far */
  uint64_t reloads;   /* begun so far */
  uint64_t reloading; /* 1 while new workers are started or old ones still have clients */
};
#define UFFD_PAGER_STATUS_INIT                                                                                         \
  { sizeof(struct uffd_pager_status), 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Fills *status, as much of it as both sides know. -EINVAL size. */
UFFD_EXPORT int uffd_pager_status(const uffd_pager *pager, struct uffd_pager_status *status);
/* The index-th of the present clients, from 0, in the order of their ids: 1, or 0 after the last. -EINVAL size. */
UFFD_EXPORT int uffd_pager_client(const uffd_pager *pager, uint32_t index, struct uffd_client_status *status);

/*
 * Orders for one client, by its id. kill: SIGKILL to its process, if the memory is its own: 0 when another process
 * has been asked to look at that; if it is not killed then, a report says why. complete: all its memory is
 * filled, and it needs no pager any more; 0 when that has begun, a report tells the end. label: a name for people,
 * shown in its status, kept when another supervisor takes over; at most UFFD_LABEL - 1 bytes of UTF-8 without control
 * characters. Errors: -ENOENT no such client; -ESRCH (kill) the process that has its memory is not known; -EINVAL
 * (label).
 */
UFFD_EXPORT int uffd_pager_kill(uffd_pager *pager, uint64_t client);
UFFD_EXPORT int uffd_pager_complete(uffd_pager *pager, uint64_t client);
UFFD_EXPORT int uffd_pager_label(uffd_pager *pager, uint64_t client, const char *label);
/*
 * Drains one client: its connection brings no other client any more, and on_drain says what becomes of its memory, as
 * uffd_pager_drain() has it for all. -ENOENT no such client.
 */
UFFD_EXPORT int uffd_pager_drain_client(uffd_pager *pager, uint64_t client);

enum {
  UFFD_WORKER_IS_STARTING = 0,
  UFFD_WORKER_IS_READY = 1,
  UFFD_WORKER_IS_RETIRING = 2 /* another one takes its clients, one by one */
};
struct uffd_worker_status {
  size_t size;
  int32_t pid;
  uint32_t worker;   /* index: two of one index while one takes over from the other */
  uint32_t state;    /* UFFD_WORKER_IS_* */
  uint32_t clients;  /* that it serves */
  uint64_t since_ns; /* when it was started, CLOCK_MONOTONIC */
};
#define UFFD_WORKER_STATUS_INIT                                                                                        \
  { sizeof(struct uffd_worker_status), 0, 0, 0, 0, 0 }
/* The index-th of the workers, from 0, the newest first: 1, or 0 after the last. -EINVAL size. */
UFFD_EXPORT int uffd_pager_worker(const uffd_pager *pager, uint32_t index, struct uffd_worker_status *status);

/*
 * Fills *stats with the counts of all clients so far, also of those that are gone; of the latencies and the longest
 * queue, the largest. Counts never fall as long as the pager lives. -EINVAL size.
 */
UFFD_EXPORT int uffd_pager_stats(const uffd_pager *pager, struct uffd_stats *stats);

/* Kinds of reports. */
enum {
  UFFD_REPORT_CLIENT = 0,   /* a client has come; client */
  UFFD_REPORT_REFUSED = 1,  /* a handshake was refused; error, text says why */
  UFFD_REPORT_GONE = 2,     /* a client is gone; client has its last figures, text says how it ended */
  UFFD_REPORT_COMPLETE = 3, /* a client's memory is complete; client */
  UFFD_REPORT_WORKER = 4,   /* a worker is ready; worker, pid */
  UFFD_REPORT_DIED = 5,     /* a worker has died; worker, pid, text says how */
  UFFD_REPORT_RETIRED = 6,  /* a worker has ended because it was told to; worker, pid */
  UFFD_REPORT_LATE = 7,  /* a fault has waited longer than watchdog_ms; client, text names its page, age and resolver */
  UFFD_REPORT_ERROR = 8, /* the first failure of a loop, a record that cannot be written, ...; client or NULL, text */
  UFFD_REPORT_FROZEN = 9,   /* no worker can serve it: on_crash has been applied; client, text */
  UFFD_REPORT_RECORD = 10,  /* a working set was written, or error: it was not; client, text names the file */
  UFFD_REPORT_ADOPTED = 11, /* a client of a supervisor that has died is taken over; client */
  UFFD_REPORT_HUNG = 12,    /* a worker has hung and is killed; worker, pid, client if its policy is why, text */
  UFFD_REPORT_IMAGE = 13    /* new clients get another image; text */
};

struct uffd_pager_report {
  uint32_t kind;                           /* UFFD_REPORT_* */
  int32_t error;                           /* an errno, or 0 */
  uint32_t worker;                         /* index */
  int32_t pid;                             /* of the worker, or 0 */
  uint64_t time_ns;                        /* CLOCK_MONOTONIC */
  const struct uffd_client_status *client; /* NULL: about no client; valid during the call */
  const char *text;                        /* a sentence, or "" */
  uint64_t wall_ns;                        /* CLOCK_REALTIME */
  uint64_t client_id;                      /* 0: about no client */
};

/*
 * The reports that tell of trouble (REFUSED, DIED, LATE, ERROR, FROZEN, HUNG) are kept, the last UFFD_TROUBLES of them.
 * Fills *report with the index-th newest, from 0: 1, or 0 when there are not so many. Its text is valid until the next
 * uffd_pager_step(), its client is NULL. -EINVAL NULL.
 */
#define UFFD_TROUBLES 64
UFFD_EXPORT int uffd_pager_trouble(const uffd_pager *pager, uint32_t index, struct uffd_pager_report *report);

/* The name of a UFFD_REPORT_* ("client", "refused", ...), UFFD_CLIENT_* ("starting", ...) or UFFD_END_* ("", "done",
 * ...), or NULL. */
UFFD_EXPORT const char *uffd_report_name(uint32_t kind);
UFFD_EXPORT const char *uffd_client_state_name(uint32_t state);
UFFD_EXPORT const char *uffd_client_end_name(uint32_t end);

/* Called with the reply: a line of JSON without its newline, valid during the call. */
typedef void uffd_reply_fn(void *ctx, const char *reply, size_t length);

/*
 * Calls reply with the pager's figures as OpenMetrics text 1.0: faults by kind, pages by outcome, bytes, the histogram
 * of latencies, the oldest fault, clients by state, refusals by reason, workers that were replaced, descriptors,
 * images. Counts are of all clients so far, also of those that are gone. It looks at all clients that are there, and
 * never waits. -EINVAL NULL; -ENOMEM.
 */
UFFD_EXPORT int uffd_pager_metrics(const uffd_pager *pager, uffd_reply_fn *reply, void *ctx);

/*
 * Sends a request to a pager's control socket and waits for the reply; any process that may connect can do so. Request
 * and reply are one line of JSON each. Requests: {"request":"status"}, "clients", "workers", "stats", "errors",
 * "metrics", "drain", "reload", and of one client {"request":"kill","client":1}, "complete", "drain", and "label" with
 * "label",
 * {"request":"image","path":"FILE"}, or "paths" with a list of layers, the lowest first. The last six are orders: see
 * control_uid. A reply has "ok", and when that is false "error", a sentence. timeout_ms: for each step (connect, send,
 * receive); 0: 5000. reply may be NULL. Any thread. Errors: -ENOENT, -ECONNREFUSED no pager there; -EACCES; -ETIMEDOUT;
 * -EPIPE the pager hung up; -EINVAL; -EMFILE; -ENOMEM.
 */
UFFD_EXPORT int uffd_pager_ask(const char *control, const char *request, uint32_t timeout_ms, uffd_reply_fn *reply,
                               void *ctx);

enum {
  UFFD_HANDOFF_NO_ANSWER = 1, /* do not wait for the pager's answer: it is another program's, and sends none */
  UFFD_HANDOFF_PART = 2,      /* the parts are any part of the image, not all of it. Our own pager only */
  UFFD_HANDOFF_LATER = 4      /* faults are answered at once, but nothing is prefetched before uffd_handoff_fill(). Our
                                 own pager only */
};

struct uffd_handoff_opts {
  size_t size;
  uint32_t timeout_ms; /* to connect, to send, and for the answer; 0: 5000 */
  uint32_t flags;      /* UFFD_HANDOFF_* */
  uint64_t features;   /* UFFD_FEAT_* that the object needs; EVENT_REMOVE is added where the kernel has it */
  uint32_t open_flags; /* UFFD_OPEN_* */
  uint32_t reserved;   /* 0 */
  const char *label;   /* what the pager is to call this client: see uffd_pager_label(); NULL: nothing */
};
#define UFFD_HANDOFF_OPTS_INIT                                                                                         \
  { sizeof(struct uffd_handoff_opts), 0, 0, 0, 0, 0, NULL }

struct uffd_handoff_part {
  uffd_memory *memory;
  uint64_t offset; /* where its contents lie in the image, bytes */
};

/* Memory of this process that a pager serves. */
typedef struct uffd_handoff uffd_handoff;

/*
 * Hands memories of this process to the pager behind the socket: makes an object, registers the memories with it, and
 * sends it with the list of regions, in Firecracker's format. From then on the pager answers the faults, and a loop
 * cannot have the memories (-EBUSY). Parts must not overlap, in memory or in the image; a pager with an image wants all
 * of it covered, but for UFFD_HANDOFF_PART. It waits until the pager has taken or refused them. A pager of another
 * program sends no answer: after timeout_ms the memories count as taken; with NO_ANSWER it does not wait. The memories
 * must stay open until the handle is closed. Errors: those of uffd_open(), uffd_register() and connect(2) (-ENOENT,
 * -ECONNREFUSED no pager there; -EACCES); -ENAMETOOLONG the socket's path; -ETIMEDOUT; -EPIPE the pager has refused,
 * and the sentence says why, or it has hung up; -EINVAL no parts, or memories that overlap or have different page
 * sizes; -ENOMEM.
 */
UFFD_EXPORT int uffd_handoff_send(const char *socket, const struct uffd_handoff_part *parts, size_t count,
                                  const struct uffd_handoff_opts *opts, uffd_handoff **handoff);
struct uffd_handoff_map_opts {
  size_t size;
  uint32_t timeout_ms; /* to connect, to send, and for the answer; 0: 5000 */
  uint32_t flags;      /* UFFD_MAP_FORK, or 0 */
};
#define UFFD_HANDOFF_MAP_OPTS_INIT                                                                                     \
  { sizeof(struct uffd_handoff_map_opts), 0, 0 }

/*
 * One copy for the clients of a pager (UFFD_PAGER_SHARE): asks the pager behind the socket for the pages that its
 * clients share, and maps them privately: all of the image, rounded up to whole pages. The memory is then handed over
 * to the same pager with uffd_handoff_send(), as the only part, from offset 0 on; no loop can serve it. Pages that it
 * reads are mapped from where all others have them, those that it writes become its own, those that it drops
 * (MADV_DONTNEED) read as zeros while the pager serves it. Read it only after it was handed over: until then, and after
 * the handle of the handoff is closed, what is missing reads as zeros, or as the image.
 *
 * The descriptor that the pager lends cannot be written through, so a client cannot change what others read, unless it
 * has the rights of the pager's user (who could as well trace the pager) or root's.
 *
 * Errors: those of connect(2), as uffd_handoff_send(); -EPIPE the pager shares nothing, or knows nothing of it, and the
 * sentence says why, or it has hung up; -ETIMEDOUT it does not answer: it is another program's; -EPROTO another answer;
 * -EINVAL a flag; -EMFILE; -ENOMEM. Any thread. Linux 5.13.
 */
UFFD_EXPORT int uffd_handoff_map(const char *socket, const struct uffd_handoff_map_opts *opts, uffd_memory **memory);

/*
 * Of a handoff that was made with UFFD_HANDOFF_LATER: what the pager prefetches (a working set, all) comes from now on.
 * Calling it again changes nothing. Errors: -EPIPE the pager has hung up; -ETIMEDOUT it does not read; -EINVAL the
 * memories are complete; -EOWNERDEAD in a forked child.
 */
UFFD_EXPORT int uffd_handoff_fill(uffd_handoff *handoff);
/*
 * Hands the same userfaultfd and memories over once more, by a new connection: to the same pager, which knows them and
 * goes on with the same client, or, when that is gone, to another one, which serves what is still missing. To another
 * pager, pages that were dropped before are pages of its image again, and not zeros. Errors: those of
 * uffd_handoff_send() from connect(2) on: the old connection stays then. -EBUSY it is another pager, and the one that
 * serves the memories lives; -EINVAL the memories are complete; -EOWNERDEAD in a forked child. Not in two threads at
 * once.
 */
UFFD_EXPORT int uffd_handoff_attach(uffd_handoff *handoff, const char *socket);
/*
 * Ends the handoff and tells the pager: the memories are unregistered, and pages that are still missing read as zeros
 * from then on. NULL is allowed. In a forked child it only frees.
 */
UFFD_EXPORT void uffd_handoff_close(uffd_handoff *handoff);
/*
 * Has the pager fill all missing pages, then unregisters the memories and tells the pager: they are ordinary memory
 * afterwards. Waits as long as the pager needs. 0 when it is called again. Errors: -EPIPE the pager has hung up;
 * -EHWPOISON a page is poisoned; those of uffd_memory_prefault(). After an error the memories are still served.
 * -EOWNERDEAD in a forked child.
 */
UFFD_EXPORT int uffd_handoff_complete(uffd_handoff *handoff);
/*
 * 1 while the pager holds the connection. 0 when it has hung up, because it refused or is gone: a thread that touches a
 * missing page sleeps until the handle is closed. 0 after uffd_handoff_complete(). -EOWNERDEAD in a forked child.
 */
UFFD_EXPORT int uffd_handoff_connected(const uffd_handoff *handoff);
UFFD_EXPORT uffd_object *uffd_handoff_object(const uffd_handoff *handoff); /* owned by the handle */

/* A virtual machine of Cloud Hypervisor, by its offload protocol: a local migration, in which it shares its memfds. */

enum { UFFD_OFFLOAD_PAUSED = 1 /* restore: the machine stays paused */ };

struct uffd_offload_opts {
  size_t size;
  const char *socket; /* restore: path at which Cloud Hypervisor receives a migration; snapshot: at which it is awaited,
                         mode 0600 */
  const char *directory; /* of the snapshot: migration_config.json and state.json as Cloud Hypervisor has sent them, and
                            memory.img, in which the slots of the machine follow each other by number */
  const char *door;      /* restore: front door of the pager, whose image is memory.img, or layers on it, or anything of
                            that length */
  const char *label;     /* restore: what the pager is to call the machine: see uffd_pager_label(); NULL: nothing */
  uint64_t page_size;    /* restore: bytes, of the pages of the machine's memory, 4096 or 2097152; 0: 4096 */
  uint32_t timeout_ms;   /* for each answer of Cloud Hypervisor; restore: also how long a page waits for another pager
                            when the pager is gone; 0: 60000 */
  uint32_t flags;        /* UFFD_OFFLOAD_* */
  void (*restored)(void *ctx); /* restore: called when the machine runs, or is paused as wanted; NULL: nobody */
  void *restored_ctx;
};
#define UFFD_OFFLOAD_OPTS_INIT                                                                                         \
  { sizeof(struct uffd_offload_opts), NULL, NULL, NULL, NULL, 0, 0, 0, NULL, NULL }

struct uffd_offload_result {
  size_t size;       /* in: sizeof(struct uffd_offload_result); UFFD_OFFLOAD_RESULT_INIT sets it */
  uint64_t slots;    /* of the machine's memory */
  uint64_t bytes;    /* of all slots */
  uint64_t requests; /* restore: for pages, that were answered */
  uint64_t failed;   /* restore: of them with an error, because the pager could not fill the page */
  uint64_t restarts; /* restore: processes that answered requests, died and were replaced */
  uint64_t doubts;   /* restore: of those that died, in whose place it was not known whether a request was answered */
  uint32_t paused;   /* restore: 1, the machine was left paused */
  uint32_t reserved;
};
#define UFFD_OFFLOAD_RESULT_INIT                                                                                       \
  { sizeof(struct uffd_offload_result), 0, 0, 0, 0, 0, 0, 0, 0 }

/*
 * Restores a machine: connects to Cloud Hypervisor (`receive-migration receiver_url=unix:SOCKET,memory_mode=postcopy`),
 * hands it memfds with nothing in them, its config and its state, and answers its requests for pages, until it hangs
 * up, because it has all or has ended. The memfds are a client of the pager behind door, in a process that this one
 * forks: a request is answered when the pager has filled the page. Whoever dies meanwhile (a worker of the pager, its
 * supervisor, that process) is replaced, or the machine ends: it never reads zeros instead of its memory. When the
 * whole pager is gone and a page waits, the memory is handed to the next pager that listens at door. A process that
 * ends in this function leaves the other one, which goes on. It needs no privilege: UFFD_OPEN_USER_MODE_ONLY serves.
 *
 * Errors: -ENOENT, -ECONNREFUSED nobody at the socket, or at the door; -EREMOTEIO Cloud Hypervisor refuses a step, its
 * log says why; -EPIPE it, or the pager, has hung up, and no other pager has come for a page that waits; -ETIMEDOUT;
 * -EPROTO another protocol, or another config; -EINVAL, -E2BIG a config, or option, that cannot be; -ECHILD the process
 * that answers died again and again; those of open(2), memfd_create(2) (huge pages: -ENOSYS, -ENOMEM) and
 * uffd_handoff_send(); -ENOMEM. Before the machine runs, an error ends its restore.
 *
 * Any thread; forks, so a program with threads must not hold locks of its allocator in others. Linux 5.11; Cloud
 * Hypervisor itself needs 5.14.
 */
UFFD_EXPORT int uffd_offload_restore(const struct uffd_offload_opts *opts, struct uffd_offload_result *result);
/*
 * Takes in a machine that is sent here (`send-migration destination_url=unix:SOCKET,local=on`, paused before): waits
 * for it, writes its memory, with its holes, and its config and state into new files of the directory, which is made,
 * and answers its last request when all is on the disk. A snapshot is whole or not there: migration_config.json appears
 * last.
 * The files, and a directory that is made, are the user's alone (0600, 0700).
 *
 * Errors: -EEXIST there is a snapshot already; -ECANCELED Cloud Hypervisor has given it up; -EPIPE it has hung up
 * before the end; -ETIMEDOUT; -EPROTO, -E2BIG, -EINVAL, -EBADF what it sent cannot be, or comes from another machine;
 * those of bind(2), mkdir(2) and of writing. Nothing is kept then. Any thread.
 */
UFFD_EXPORT int uffd_offload_snapshot(const struct uffd_offload_opts *opts, struct uffd_offload_result *result);

/*
 * A working set: the pages that a client touched, in their order, with the kind of each page's first access. It is
 * plain memory: any thread may use it, one at a time; a forked child may use its copy.
 *
 * In a file, all numbers little-endian:
 *
 *   bytes   what
 *   0-7     89 75 66 66 64 77 73 0a ("\x89uffdws\n")
 *   8-11    version, 1
 *   12-15   bytes of the header, 64
 *   16-23   page size, bytes
 *   24-31   length of the image, bytes
 *   32-39   identity of the image, 0: not known
 *   40-47   count of records
 *   48-55   0
 *   56-63   checksum of bytes 0-55
 *   64-     records of 8 bytes in the order of touching: the page's index in the image in bits 0-55, the kind of its
 *           first access in bits 56-63 (UFFD_FAULT_*; none: a read). No page is there twice.
 *   8       checksum of all bytes before it
 *
 * Checksums are FNV-1a of 64 bits. A file that is too short, too long, of a newer version, or has a wrong checksum is
 * refused.
 */
typedef struct uffd_workingset uffd_workingset;

/*
 * The length of an image (a regular file or a block device) and its identity, a number that distinguishes images of the
 * same length; never 0. The identity is FNV-1a of the length (8 bytes, little-endian) and of 256 samples of 4096 bytes:
 * 64 at even distances over the whole image, over its first 16th, its first 256th, and its first 4096th. An image of up
 * to 1 MiB is read as a whole. It costs the same for every size; a copy has the same identity, whatever its holes;
 * images that differ only between the samples have the same one. The file position of fd does not change. Errors:
 * -EBADF; -EINVAL neither a file nor a device, or empty; -EIO it has shrunk; those of reading.
 */
UFFD_EXPORT int uffd_image_identity(int fd, uint64_t *length, uint64_t *identity);
/*
 * The same of the contents of an image that may be compressed, or a chain: paths as in uffd_pager_opts.images. A raw
 * file and any image of the same contents have the same identity. It is 0, not known, when a sample is damaged. Errors:
 * those of opening; -ENOSYS layers, and uffd was built without images.
 */
UFFD_EXPORT int uffd_layers_identity(const char *const *paths, uint64_t *length, uint64_t *identity);

/*
 * An empty set. page_size in bytes, a power of two from 4096 on; image_length in bytes, not 0; image_identity 0: not
 * known. Errors: -EINVAL, -ENOMEM.
 */
UFFD_EXPORT int uffd_workingset_create(uint64_t page_size, uint64_t image_length, uint64_t image_identity,
                                       uffd_workingset **set);
/*
 * Reads a file. Errors: those of opening and reading; -EINVAL not a working-set file, of another version, or damaged:
 * the sentence says what is wrong at which byte; -ENOMEM.
 */
UFFD_EXPORT int uffd_workingset_load(const char *path, uffd_workingset **set);
/*
 * Writes a file. The old file is replaced when the new one is complete and on the disk; on failure it stays as it was.
 * The new file is made beside the old one. Links are followed, the mode is kept. Errors: -EINVAL the path leads to
 * something that is not a regular file; -EBADF NULL; those of making, writing and renaming a file.
 */
UFFD_EXPORT int uffd_workingset_save(const uffd_workingset *set, const char *path);
UFFD_EXPORT void uffd_workingset_close(uffd_workingset *set); /* NULL is allowed */

/*
 * Is it a working set of this image? 0, or -EINVAL: it is another image's, and the sentence says how they differ. When
 * either identity is 0 (not known), only the lengths are compared. -EBADF NULL.
 */
UFFD_EXPORT int uffd_workingset_check(const uffd_workingset *set, uint64_t image_length, uint64_t image_identity);

struct uffd_touch {
  uint64_t offset; /* of the page in the image, bytes */
  uint64_t flags;  /* UFFD_FAULT_*: how it was touched first */
};
/*
 * Adds a page at the end: 1; or 0 when it is in the set already. offset: of the page in the image, bytes; of flags,
 * bits 0-7 are kept. It takes constant time, 8 bytes of memory a page, and 4 KiB for every 32768 neighbouring pages.
 * Errors: -ERANGE beyond the image; -EINVAL not at the beginning of a page; -ENOMEM; -EBADF NULL.
 */
UFFD_EXPORT int uffd_workingset_add(uffd_workingset *set, uint64_t offset, uint64_t flags);
UFFD_EXPORT uint64_t uffd_workingset_count(const uffd_workingset *set); /* of pages; NULL: 0 */
/* The index-th page, from 0, in the order of touching. -ERANGE beyond the last; -EBADF, -EINVAL NULL. */
UFFD_EXPORT int uffd_workingset_get(const uffd_workingset *set, uint64_t index, struct uffd_touch *touch);

struct uffd_workingset_info {
  size_t size;
  uint64_t page_size, image_length, image_identity;
  uint64_t pages, bytes;
  uint64_t writes;      /* pages that were touched by a write first */
  uint64_t runs;        /* of neighbouring pages */
  uint64_t longest_run; /* pages */
  uint64_t sequential;  /* pages touched right after the page before them */
};
#define UFFD_WORKINGSET_INFO_INIT                                                                                      \
  { sizeof(struct uffd_workingset_info), 0, 0, 0, 0, 0, 0, 0, 0, 0 }
/* Fills *info; takes time in proportion to the pages. -EBADF NULL; -EINVAL size. */
UFFD_EXPORT int uffd_workingset_info(const uffd_workingset *set, struct uffd_workingset_info *info);

/*
 * The pages as ranges of the image, sorted by offset, neighbours merged, for uffd_region_prefetch_start(). Ranges are
 * whole pages, so the last one may reach beyond the end of the image. Writes at most count ranges (ranges may be NULL
 * when count is 0) and returns how many there are. -EBADF, -EINVAL NULL.
 */
UFFD_EXPORT int64_t uffd_workingset_ranges(const uffd_workingset *set, struct uffd_range *ranges, size_t count);
/*
 * Appends the pages of other that set does not have, in their order. Errors: -EINVAL of another image or page size;
 * -ENOMEM, after a part of them was appended; -EBADF NULL.
 */
UFFD_EXPORT int uffd_workingset_merge(uffd_workingset *set, const uffd_workingset *other);

#ifdef __cplusplus
}
#endif

#endif /* UFFD_PAGER_H */
