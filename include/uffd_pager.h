/*
 * uffd-pager: the faults of other processes, answered from an image.
 *
 * A client (a virtual-machine monitor, a restored process, any program) hands over its userfaultfd and the list of its
 * regions; the pager answers its faults until it is gone. The client is never given zeros instead of data: a supervisor
 * process keeps a duplicate of its userfaultfd, the region table, a pidfd and the ledger of what has become of each
 * page, so that a worker process that dies is replaced, and the client notices nothing but a pause.
 *
 *   socket --> front door --> client --> (supervisor) --> worker --> loop: see <uffd.h>
 *
 * What <uffd.h> says of results, options, masks and errors holds here too: 0 or a positive count, -errno on failure,
 * and a sentence in uffd_errmsg(). A pager is used by one thread, but for what says otherwise.
 */
#ifndef UFFD_PAGER_H
#define UFFD_PAGER_H

#include <uffd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------ clients */

/* A range of a client's memory, and where its contents lie in the image. */
struct uffd_client_region {
  uint64_t address;   /* in the client */
  uint64_t length;    /* bytes, whole pages */
  uint64_t offset;    /* in the image, bytes */
  uint64_t page_size; /* bytes */
};

/* Who is served. Newer libraries may append fields. */
struct uffd_client {
  uint64_t id;  /* 1, 2, ... in the order of coming; a forked child is a client of its own */
  uint64_t of;  /* the client that it was forked from, or 0 */
  int32_t pid;  /* as the supervisor sees it; 0: unknown. A forked child's is found a moment after it has come */
  uint32_t uid; /* of who connected */
  uint32_t gid;
  uint32_t regions_count;
  const struct uffd_client_region *regions; /* by offset */
  const int *fds;                           /* that came along after the userfaultfd: memfds and the like */
  uint32_t fds_count;
  uint32_t reserved;
};

/* ------------------------------------------------------------------------------------------------ the pager */

typedef struct uffd_pager uffd_pager;

/* When a worker has died and cannot be replaced, its clients are */
enum {
  UFFD_PAGER_KILL = 0,  /* killed (SIGKILL by pidfd) */
  UFFD_PAGER_FREEZE = 1 /* left as they are: they sleep at their next fault, as long as the supervisor lives. A reload
                           tries again to serve them */
};

/* uffd_pager_drain(), and SIGTERM of uffd-lua serve: no new clients, and */
enum {
  UFFD_PAGER_COMPLETE = 0, /* the rest of every client's memory is filled, so that it needs no pager any more */
  UFFD_PAGER_REFUSE = 1    /* those that are there are served until they are gone */
};

enum {
  UFFD_PAGER_ONCE = 1,    /* serve one client, and end when it is gone */
  UFFD_PAGER_PREFETCH = 2 /* fill each client's memory in the background, faults first */
};

struct uffd_pager_report;

struct uffd_pager_opts {
  size_t size;
  const char *socket;    /* path of the front door, made by uffd_pager_create(); a stale socket is replaced */
  const char *control;   /* path of the control socket; NULL: none */
  uint32_t socket_mode;  /* of both; 0: 0600 */
  uint32_t max_clients;  /* 0: 256 */
  int64_t uid;           /* who may connect, beside root and the pager's own user; -1: nobody else */
  uint32_t max_regions;  /* of a client; 0: 64 */
  uint32_t max_bytes;    /* of a handshake; 0: 64 KiB */
  uint32_t handshake_ms; /* a handshake must be whole after so long; 0: 5000 */
  uint32_t workers;      /* processes; clients are shared out among them. 0: 1 */
  uint32_t on_crash;     /* UFFD_PAGER_KILL, _FREEZE */
  uint32_t on_drain;     /* UFFD_PAGER_COMPLETE, _REFUSE */
  uint32_t flags;        /* UFFD_PAGER_ONCE, ... */
  uint32_t watchdog_ms;  /* a fault that waits longer is reported, once; 0: 1000 */
  uint64_t around;       /* as in uffd_region_opts; 0: UFFD_AROUND_AUTO. With record it is a page */
  uint64_t rate;         /* of prefetching, bytes a second and client; 0: no limit */
  const char *image;     /* path of the contents; NULL: the resolver makes them all */
  const char *record;    /* path of a working-set file that is written when a client is gone: the first client's;
                            those of others get ".ID" behind it */
  const char *replay;    /* path of a working-set file of this image: its pages are prefetched */
  /*
   * Makes the resolver of a client, in the worker, before its first fault: 0, or -errno, and the client is dealt with
   * as on_crash says. image is NULL without an image. It may be `image` itself (then hold nothing: a reference is
   * counted). NULL: all clients get the image. Asked for one client after the other, in the thread that called
   * uffd_pager_work(), which begins no other client meanwhile: be quick. Callbacks find the client's region, a const
   * struct uffd_client_region *, as their cookie. After a reload it is asked before the old worker lets go of a client:
   * where it fails then, the old worker goes on.
   */
  int (*resolver)(void *ctx, const struct uffd_client *client, uffd_resolver *image, uffd_resolver **resolver);
  void *resolver_ctx;
  /* Told what happens, in the supervisor. May be NULL. */
  void (*report)(void *ctx, const struct uffd_pager_report *report);
  void *report_ctx;
  /*
   * The command line that starts a worker: it gets two more arguments, "--worker" and the number of a descriptor, and
   * ends up in uffd_pager_work(). SIGHUP, or uffd_pager_reload(), then starts the program that is there at that time.
   * NULL: a worker is a forked child of the calling process, which must have no other threads.
   */
  const char *const *worker;
};
#define UFFD_PAGER_OPTS_INIT                                                                                           \
  {                                                                                                                    \
    sizeof(struct uffd_pager_opts), NULL, NULL, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL,  \
        NULL, NULL, NULL                                                                                               \
  }

/*
 * Makes a pager: checks the options and the image, opens the sockets. Nothing is served before uffd_pager_step().
 * Errors: -EINVAL an option (named), a working set of another image; -EADDRINUSE another pager listens there; those of
 * opening the files; -EBUSY the process has other threads, and `worker` is NULL; -EMFILE; -ENOMEM. Workers are watched
 * by pidfd: Linux 5.3.
 */
UFFD_EXPORT int uffd_pager_create(const struct uffd_pager_opts *opts, uffd_pager **pager);

/*
 * The supervisor: waits up to timeout_ms (-1: for ever) and deals with what has come. Returns 1 when it goes on, 0 when
 * all is done (drained, or ONCE and the client is gone). Errors: -EOWNERDEAD in a forked child; -ECHILD no worker can
 * be started any more: on_crash has been done.
 */
UFFD_EXPORT int uffd_pager_step(uffd_pager *pager, int timeout_ms);

/* uffd_pager_step() until all is done: 0, or -errno. */
UFFD_EXPORT int uffd_pager_run(uffd_pager *pager);

UFFD_EXPORT int uffd_pager_fd(const uffd_pager *pager); /* polls readable when uffd_pager_step() has work */

/*
 * Any thread, and signal handlers: a new worker takes over from each old one, client by client, when it has made
 * everything; no fault is lost. What cannot be started, or made, leaves the old one in its place: a report says so.
 */
UFFD_EXPORT int uffd_pager_reload(uffd_pager *pager);
/* Any thread, and signal handlers: see on_drain. Again: -EALREADY. */
UFFD_EXPORT int uffd_pager_drain(uffd_pager *pager);

/*
 * Closes the sockets, ends the workers, frees. Clients that are still there are dealt with as on_crash says (FREEZE
 * cannot outlive the process: they are killed too). NULL is allowed; in a forked child it only frees.
 */
UFFD_EXPORT void uffd_pager_close(uffd_pager *pager);

/*
 * The worker: serves what the supervisor behind the descriptor hands to it, until that says otherwise or is gone; then
 * it goes on with the clients it has. opts are the supervisor's, of which the sockets are not used. SIGINT, SIGTERM and
 * SIGHUP are ignored from then on: they are meant for the supervisor. 0 or -errno: the process should exit.
 */
UFFD_EXPORT int uffd_pager_work(int fd, const struct uffd_pager_opts *opts);

/* ------------------------------------------------------------------------------------------------ what is seen */

enum {
  UFFD_CLIENT_STARTING = 0, /* handed to a worker that has not begun yet */
  UFFD_CLIENT_SERVED = 1,
  UFFD_CLIENT_COMPLETE = 2, /* all its memory is there, it needs no pager any more */
  UFFD_CLIENT_FROZEN = 3,   /* its worker cannot be replaced */
  UFFD_CLIENT_GONE = 4      /* exited, or killed */
};

struct uffd_client_status {
  size_t size;
  struct uffd_client client; /* valid until the next uffd_pager_step() */
  uint32_t state;            /* UFFD_CLIENT_* */
  uint32_t worker;           /* index */
  uint32_t restarts;         /* times that another worker took over, after a death or a reload */
  uint32_t reserved;
  uint64_t since_ns;       /* CLOCK_MONOTONIC */
  uint64_t oldest_ns;      /* age of the oldest fault that is not answered yet; 0: none */
  struct uffd_stats stats; /* of all its workers together, a tenth of a second old; p50 and p99 are the last worker's */
};
#define UFFD_CLIENT_STATUS_INIT                                                                                        \
  { sizeof(struct uffd_client_status), {0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0}, 0, 0, 0, 0, 0, 0, UFFD_STATS_INIT }

struct uffd_pager_status {
  size_t size;
  uint32_t clients; /* now */
  uint32_t workers; /* alive */
  uint64_t served;  /* clients that have come so far */
  uint64_t refused; /* handshakes that were refused so far */
  uint64_t restarts;
  uint64_t draining; /* 1 after uffd_pager_drain() */
};
#define UFFD_PAGER_STATUS_INIT                                                                                         \
  { sizeof(struct uffd_pager_status), 0, 0, 0, 0, 0, 0 }

UFFD_EXPORT int uffd_pager_status(const uffd_pager *pager, struct uffd_pager_status *status);
/* The index-th of the clients that are there: 1, or 0 after the last; -EINVAL size. */
UFFD_EXPORT int uffd_pager_client(const uffd_pager *pager, uint32_t index, struct uffd_client_status *status);

/* What happened. */
enum {
  UFFD_REPORT_CLIENT = 0,   /* a client has come; client */
  UFFD_REPORT_REFUSED = 1,  /* a handshake was refused; text says why, error */
  UFFD_REPORT_GONE = 2,     /* a client is gone; client (its last figures), text says how */
  UFFD_REPORT_COMPLETE = 3, /* a client's memory is complete; client */
  UFFD_REPORT_WORKER = 4,   /* a worker has started; worker, pid */
  UFFD_REPORT_DIED = 5,     /* a worker has died; worker, pid, text says of what */
  UFFD_REPORT_RETIRED = 6,  /* a worker has ended as it was told to; worker, pid */
  UFFD_REPORT_LATE = 7,     /* a fault waits for long; client, text names its page, its age and its resolver */
  UFFD_REPORT_ERROR = 8,    /* a loop's first failure, a record that cannot be written, ...; client or NULL, text */
  UFFD_REPORT_FROZEN = 9    /* no worker can be had: on_crash was done; client, text */
};

struct uffd_pager_report {
  uint32_t kind; /* UFFD_REPORT_* */
  int32_t error; /* an errno, or 0 */
  uint32_t worker;
  int32_t pid;
  uint64_t time_ns; /* CLOCK_MONOTONIC */
  const struct uffd_client_status *client;
  const char *text; /* a sentence, or "" */
};

/* The name of a UFFD_REPORT_* ("client", "refused", ...) or UFFD_CLIENT_* ("starting", ...), or NULL. */
UFFD_EXPORT const char *uffd_report_name(uint32_t kind);
UFFD_EXPORT const char *uffd_client_state_name(uint32_t state);

/* ------------------------------------------------------------------------------------------------ asking */

/* Called with the reply, a line of JSON without its end; valid during the call. */
typedef void uffd_reply_fn(void *ctx, const char *reply, size_t length);

/*
 * Asks the pager behind a control socket, from any process that may connect to it: one line of JSON, one line of JSON
 * as the reply. {"request":"status"}, "clients", "stats", "drain", "reload"; a reply has "ok", and "error", a sentence,
 * when that is false. timeout_ms for each step of it; 0: 5000. reply may be NULL. Any thread.
 * Errors: -ENOENT, -ECONNREFUSED no pager there; -EACCES; -ETIMEDOUT; -EPIPE it hung up; -EINVAL; -EMFILE; -ENOMEM.
 */
UFFD_EXPORT int uffd_pager_ask(const char *control, const char *request, uint32_t timeout_ms, uffd_reply_fn *reply,
                               void *ctx);

/* ------------------------------------------------------------------------------------------------ handing over */

struct uffd_handoff_opts {
  size_t size;
  uint32_t timeout_ms; /* to connect and send; 0: 5000 */
  uint32_t flags;      /* 0 */
  uint64_t features;   /* UFFD_FEAT_* of the object; EVENT_REMOVE is added where the kernel has it */
  uint32_t open_flags; /* UFFD_OPEN_* */
  uint32_t reserved;   /* 0 */
};
#define UFFD_HANDOFF_OPTS_INIT                                                                                         \
  { sizeof(struct uffd_handoff_opts), 0, 0, 0, 0, 0 }

struct uffd_handoff_part {
  uffd_memory *memory;
  uint64_t offset; /* where its contents lie in the image, bytes */
};

/* Memory that a pager serves, on the side of its owner. */
typedef struct uffd_handoff uffd_handoff;

/*
 * Hands memories of this process to the pager behind the socket: makes an object, registers them, sends it with their
 * table, in Firecracker's format. From then on the pager answers, and a loop cannot have them (-EBUSY). The parts must
 * not overlap, in memory or in the image, and a pager with an image wants all of it covered. Nothing comes back: a
 * pager that refuses hangs up, see uffd_handoff_connected(). The memories must stay until the handle is closed.
 * Errors: those of uffd_open() and uffd_register(); of connect(2) (-ENOENT, -ECONNREFUSED: no pager there; -EACCES);
 * -ENAMETOOLONG the socket's path; -ETIMEDOUT; -EPIPE the pager has hung up (its report says why); -EINVAL no parts, or
 * memories that overlap or have different page sizes; -ENOMEM.
 */
UFFD_EXPORT int uffd_handoff_send(const char *socket, const struct uffd_handoff_part *parts, size_t count,
                                  const struct uffd_handoff_opts *opts, uffd_handoff **handoff);
/*
 * Ends it, and tells the pager so: the ranges are unregistered, and pages that are still missing read as zeros from
 * then on. NULL is allowed. In a forked child it only frees.
 */
UFFD_EXPORT void uffd_handoff_close(uffd_handoff *handoff);
/*
 * Fills what is missing through the pager, then unregisters, and tells the pager: the memory is ordinary afterwards.
 * Waits as long as the pager takes. Again: 0. Errors: -EPIPE the pager has hung up; -EHWPOISON a page is poisoned, and
 * those of uffd_memory_prefault(): then all goes on being served; -EOWNERDEAD.
 */
UFFD_EXPORT int uffd_handoff_complete(uffd_handoff *handoff);
/*
 * 1 while the pager holds the connection; 0 when it has hung up: it refused, or is gone, and threads that meet a
 * missing page sleep until the handle is closed. 0 after uffd_handoff_complete(). Errors: -EOWNERDEAD.
 */
UFFD_EXPORT int uffd_handoff_connected(const uffd_handoff *handoff);
UFFD_EXPORT uffd_object *uffd_handoff_object(const uffd_handoff *handoff); /* owned by the handle */

/* ------------------------------------------------------------------------------------------------ working sets */

/*
 * The pages that a client touched: which, in what order, with what kind of access. It is plain memory: any thread may
 * use it, one at a time, and so may a forked child its copy.
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
 * Checksums are FNV-1a of 64 bits. A file holds nothing else: what is too short, too long, of a newer version, or does
 * not add up, is refused.
 */
typedef struct uffd_workingset uffd_workingset;

/*
 * The length of an image, a regular file or block device, and a number that tells images of the same length apart,
 * never 0. It is FNV-1a of the length (8 bytes, little-endian) and of 256 samples of 4096 bytes: 64 at even distances
 * over the whole image, over its first 16th, its first 256th, and its first 4096th; an image of no more than 1 MiB is
 * read as a whole. So it costs the same for every size, a copy has the same whatever its holes, and images that differ
 * between the samples only are not told apart. fd keeps its position. Errors: -EBADF; -EINVAL neither file nor device,
 * or empty; -EIO it has shrunk; those of reading.
 */
UFFD_EXPORT int uffd_image_identity(int fd, uint64_t *length, uint64_t *identity);

/*
 * An empty set. page_size in bytes, a power of two from 4096 on; image_length in bytes, not 0; image_identity 0: not
 * known. Errors: -EINVAL, -ENOMEM.
 */
UFFD_EXPORT int uffd_workingset_create(uint64_t page_size, uint64_t image_length, uint64_t image_identity,
                                       uffd_workingset **set);
/*
 * Errors: those of opening and reading; -EINVAL not a working-set file, of another version, or damaged: the sentence
 * says what is wrong at which byte; -ENOMEM.
 */
UFFD_EXPORT int uffd_workingset_load(const char *path, uffd_workingset **set);
/*
 * Replaces the file as a whole when the new one is on its disk, or leaves it as it was. A new file is made beside it
 * meanwhile; links are followed, the mode is kept. Errors: -EINVAL there is something else than a regular file; -EBADF
 * NULL; those of making, writing and renaming a file.
 */
UFFD_EXPORT int uffd_workingset_save(const uffd_workingset *set, const char *path);
UFFD_EXPORT void uffd_workingset_close(uffd_workingset *set); /* NULL is allowed */

/*
 * 0, or -EINVAL: it is a working set of another image, and the sentence tells the difference. An identity that is not
 * known, on either side, leaves the length alone to be compared. -EBADF NULL.
 */
UFFD_EXPORT int uffd_workingset_check(const uffd_workingset *set, uint64_t image_length, uint64_t image_identity);

struct uffd_touch {
  uint64_t offset; /* of the page in the image, bytes */
  uint64_t flags;  /* UFFD_FAULT_*: how it was touched first */
};
/*
 * Adds a page at the end, unless it is in the set: 1 or 0. The time does not depend on how many are there, the memory
 * is that of what was added: 8 bytes a page, and 4 KiB for every 32768 neighbours. Of flags, bits 0-7 are kept. Errors:
 * -ERANGE beyond the image; -EINVAL not at the beginning of a page; -ENOMEM; -EBADF NULL.
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
/* Walks over all pages. -EBADF NULL; -EINVAL size. */
UFFD_EXPORT int uffd_workingset_info(const uffd_workingset *set, struct uffd_workingset_info *info);

/*
 * The pages as ranges of the image, by offset, neighbours merged, for uffd_region_prefetch_start(). They are whole
 * pages: the last may reach beyond the end of the image. At most count are written (ranges may be NULL when it is 0);
 * returns how many there are. -EBADF, -EINVAL NULL.
 */
UFFD_EXPORT int64_t uffd_workingset_ranges(const uffd_workingset *set, struct uffd_range *ranges, size_t count);
/*
 * Appends to set what other has more, in its order. Errors: -EINVAL of another image or page size; -ENOMEM, with a part
 * of it appended; -EBADF NULL.
 */
UFFD_EXPORT int uffd_workingset_merge(uffd_workingset *set, const uffd_workingset *other);

#ifdef __cplusplus
}
#endif

#endif /* UFFD_PAGER_H */
