/*
 * The loop's parts and how they fit: a loop has handlers; a handler owns sources (objects) and reads them; a source has
 * slices, each a run of one region's pages. What a handler reads on the fault path is changed by that handler alone, in
 * jobs that others post to it, so the path has no lock.
 */
#ifndef UFFD_LOOP_LOOP_H
#define UFFD_LOOP_LOOP_H

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>

#include "loop/pages/pattern.h"
#include "resolver/resolver.h"

/* Thread-local, and reached from signal handlers: the ordinary model may allocate at a thread's first access. */
#define UFFD_SIGNAL_TLS __attribute__((tls_model("initial-exec")))

#define UFFD_HANDLERS_MAX 64u
#define UFFD_QUEUE_MAX    1024u           /* faults that a handler keeps; more are told again when there is room */
#define UFFD_STEP_BYTES   HUGE_PAGE       /* prefetch gives way to faults after so much */
#define UFFD_RETRY_MIN_NS UINT64_C(20000) /* back-off of deferred faults: doubles up to */
#define UFFD_RETRY_MAX_NS UINT64_C(10000000)
#define UFFD_IDLE_NS      UINT64_C(1000000) /* callbacks tidy up when nothing has come for so long */

/* What is known of a page: one byte. The kernel has the last word (EEXIST): these only save asking it. */
enum uffd_page {
  UFFD_PAGE_ABSENT = 0,
  UFFD_PAGE_INSTALLED = 1,
  UFFD_PAGE_REMOVED = 2, /* dropped by its owner, who must read zeros from then on, however often it is dropped */
  UFFD_PAGE_POISONED = 3
};

/* A run of a region's pages behind one object. */
struct uffd_slice {
  uint64_t start, end;    /* addresses */
  uint64_t offset;        /* of start in the region */
  _Atomic uint8_t *pages; /* enum uffd_page; of the region, or of the forked child that the slice is in */
  uffd_region *region;
  bool moved; /* by mremap: no longer where the region was added */
};

/* One object and what it serves. Its handler's own, but for the fields set once. */
struct uffd_source {
  struct uffd_source *next;
  uffd_object *object;
  int fd;
  bool child;                    /* of a fork */
  bool foreign;                  /* serves another process, whose registrations are its own affair */
  bool lost;                     /* a change of mappings could not be followed: unknown places are poison, not zeros */
  _Atomic bool gone;             /* its address space is no more */
  bool starved;                  /* a FORK waits for a free descriptor */
  bool ready;                    /* has messages, as poll said */
  uint64_t back_start, back_end; /* faults in there found no room in the queue; 0: none did */
  uint32_t count, capacity;
  struct uffd_slice *slices; /* by address */
  _Atomic uint8_t *pages;    /* a child's own page states; else NULL: they are the regions' */
  uint64_t pages_count;
};

/* One fault that was read and is not answered yet. */
struct uffd_pending {
  struct uffd_source *source;
  uint64_t address; /* as read: of the page, or the byte with EXACT_ADDRESS */
  uint64_t flags;
  uint64_t read_ns;
  uint32_t tid;
  bool guessed; /* no message has told it: flags say what it may be */
};

/* One walk over the queue: the order of it, and who was woken meanwhile. */
struct uffd_batch {
  uint32_t count, next;             /* of order[] */
  uint16_t order[UFFD_QUEUE_MAX];   /* places in the queue, by source and address */
  const struct uffd_source *source; /* of the two below; NULL: none was woken yet */
  uint64_t low, high;               /* addresses: filled, or found there */
  uint64_t unprotected;             /* page; 0: none */
};

/* Written by the handler only, read by any thread. */
struct uffd_counters {
  _Atomic uint64_t missing, wp, minor, writes, events;
  _Atomic uint64_t pages[UFFD_ANSWER_POISON + 1]; /* installed, by answer */
  _Atomic uint64_t unprotected, bytes, prefetched, present, deferred, gone, errors, policy_calls, queue, queue_max;
};

#define UFFD_BUCKETS 640u
/* Nanoseconds, HDR-like: 16 buckets to each power of two, so that a value is known to 1/16. */
struct uffd_histogram {
  _Atomic uint64_t count, max;
  _Atomic uint64_t buckets[UFFD_BUCKETS];
};

#define UFFD_KIND_WORDS 4u /* of a resolver's name, as struct uffd_waiting has it */

/* Written by the handler only, read by any thread: odd sequence, being written; read_ns 0: there is none. */
struct uffd_oldest {
  _Atomic uint64_t sequence, read_ns, address, flags, tid, offset, cookie;
  _Atomic uint64_t kind[UFFD_KIND_WORDS];
};

struct uffd_job;
struct uffd_placement; /* placement.h */

struct uffd_handler_state {
  /* set once */
  uffd_loop *loop;
  uint32_t index;
  int wake_fd; /* eventfd: a job was posted, or the loop stops */
  pthread_t thread;
  char *staging;                    /* HUGE_PAGE bytes: tails that need zeros behind them, and what is looked at */
  const char *zeros;                /* the process's HUGE_PAGE of zero bytes, for where ZEROPAGE does not serve */
  uffd_object *object;              /* the loop's own for this handler; NULL until a region needs it */
  struct uffd_placement *placement; /* NULL: one thread runs all passes, wherever the scheduler puts it */
  /* any thread, atomic */
  struct uffd_job *_Atomic posted;
  _Atomic bool stop;
  _Atomic bool taken;      /* inline: a faulting thread, or a job, has this handler */
  _Atomic uint64_t passes; /* odd while faults are being answered, so that stats can wait for their counts */
  /* the handler alone */
  struct uffd_asker asker;
  struct uffd_source *sources;
  struct pollfd *polls; /* the wake_fd, then one a source */
  uint32_t polls_count, polls_capacity;
  uint32_t turns;        /* inline: faults resolved */
  struct uffd_job *jobs; /* taken from posted, not done */
  uint64_t retry_ns;     /* when deferred faults are tried again */
  uint64_t retry_step;
  uint32_t queued;           /* of queue[] */
  uint32_t children;         /* sources that are forked children */
  bool untidy;               /* callbacks were asked since they last said that they are tidy */
  bool heard;                /* an event was read in this pass */
  char *huge, *huge_mapping; /* huge.c: NULL until they are needed */
  bool keep_spare;
  int spare_fd;                              /* given up when a FORK finds no descriptor; -1: none */
  uint64_t read_ns;                          /* when a fault was last read */
  uint32_t faulter_pid, faulter_tid;         /* of that fault: see uffd_faulter_cpu() */
  int error;                                 /* of the last install or resolver */
  uint32_t filled_as;                        /* the faulting page went in as; LATER: it has not */
  uint64_t poisoned_ns;                      /* when a page was last poisoned */
  struct uffd_pending queue[UFFD_QUEUE_MAX]; /* as they were read */
  struct uffd_batch batch;                   /* empty unless faults are being answered */
  struct uffd_counters counters;
  struct uffd_histogram latency;
  struct uffd_oldest oldest;
};

/* What others want of a handler: run() in the handler, again as long as it says UFFD_JOB_AGAIN. */
enum uffd_job_result { UFFD_JOB_DONE, UFFD_JOB_AGAIN };
struct uffd_job {
  struct uffd_job *next;
  enum uffd_job_result (*run)(struct uffd_handler_state *handler, struct uffd_job *job);
  bool background; /* waits until no fault does */
  uint64_t due_ns; /* in the background: not before this; all: the handler wakes up for it */
  int result;
  sem_t done;
  void (*over)(struct uffd_job *job); /* takes the job back where nobody waits for it; NULL: done is posted */
};

struct uffd_hook { /* of the trace; mapped, because a hook may put another in its place */
  struct uffd_hook *next;
  uffd_trace_fn *fn;
  void *ctx;
};

struct uffd_use { /* a callback that regions of the loop ask, with its state in each handler */
  struct uffd_use *next;
  uffd_resolver *callback;
  uint32_t regions;
  void *states[];
};

struct uffd_region {
  struct uffd_region *next; /* of the loop */
  uffd_loop *loop;
  uffd_memory *memory;
  uffd_resolver *resolver;
  struct uffd_claim claim;
  uint64_t address, length, page_size, modes, resolver_offset, around;
  struct uffd_pattern pattern; /* around auto */
  bool finds_zeros;         /* zero pages of large answers go in as such: elsewhere they would be pages like others */
  _Atomic bool zeros_found; /* in the last answer that was looked at */
  _Atomic bool huge;        /* whole huge pages are moved in */
  uint32_t on_error;        /* never DEFAULT */
  void *cookie;
  _Atomic uint8_t *pages;
  pthread_mutex_t lock; /* prefetch, complete, remove: one at a time. Never taken by a handler */
  bool foreign;         /* in another process: set once */
  _Atomic bool served;  /* these three are written under lock */
  _Atomic bool complete;
  _Atomic bool removed;
  bool left; /* foreign, taken out as it is: the handler's. Its faults wait for whoever serves it next */
  uint64_t kind[UFFD_KIND_WORDS]; /* of the resolver, cut */
  uint32_t entry;                 /* in the ledger */
  uint32_t count;                 /* slices: slice i belongs to handler first + i */
  uint32_t first;
  uint64_t slice_bytes; /* of each but the last */
  uffd_object *object;  /* the user's; NULL: the handlers' own */
};

struct uffd_ledger;

struct uffd_loop {
  /* set once */
  struct uffd_ledger *ledger; /* NULL: none */
  int (*on_fork)(void *ctx, uffd_object *child, const void *ledger, uint64_t ledger_size);
  void *on_fork_ctx;
  uint64_t process;
  uint32_t engine;
  uint32_t handlers_count;
  uint32_t shards;   /* the first handlers, which read objects; inline, the others are for faulting threads to take */
  uint32_t on_error; /* never DEFAULT */
  uint32_t open_flags, route;
  uint32_t placement; /* UFFD_PLACEMENT_*, as asked for */
  bool signalled;     /* inline: the SIGBUS handler is ours */
  const char *why;    /* the engine was chosen */
  uint64_t features;
  int epoll_fd; /* pump; -1 */
  struct uffd_handler_state **handlers;
  /* user threads, under lock; never taken by a handler */
  pthread_mutex_t lock;
  uffd_region *regions;
  struct uffd_use *uses;
  uint32_t next_handler; /* for the next user's object */
  /* user threads, under gate: who is inside a call that waits for handlers, which closing outlasts */
  pthread_mutex_t gate;
  pthread_cond_t left; /* the last one inside */
  uint32_t inside;
  bool closing;
  /* any thread, atomic */
  const void *_Atomic driver;           /* pump: the thread that called last, see uffd_is_driver() */
  _Atomic bool paused;                  /* no object is read yet */
  _Atomic bool forked;                  /* children may ask resolvers: uses stay until the loop closes */
  _Atomic bool stopped;                 /* on_error stop happened */
  struct uffd_hook *_Atomic trace;      /* NULL: none */
  struct uffd_hook *_Atomic past_hooks; /* replaced by hooks themselves: a handler may still be in one */
  _Atomic int error_state;              /* 0 none, 1 being written, 2 there */
  int error;
  char error_text[512];
};

/* The handler that the calling thread is, or NULL: calls that would wait for it are refused. */
extern _Thread_local struct uffd_handler_state *uffd_current_handler UFFD_SIGNAL_TLS;

/* The loop whose callback the calling thread sets up or tears down, or NULL: the same. */
extern _Thread_local const uffd_loop *uffd_setting_up;

/* loop.c: keeps the loop's first failure. The sentence is the thread's uffd_errmsg(). */
bool uffd_loop_fail(uffd_loop *loop, int error); /* whether it is the first */
/* 0, or -ECANCELED with the first failure's sentence. */
int uffd_loop_check_stopped(const uffd_loop *loop);
/* 0, or -EINVAL with a sentence: nothing may be filled before a ledger's events are applied. */
int uffd_loop_check_started(const uffd_loop *loop);
/* 0, or -EOWNERDEAD in a forked child. */
int uffd_loop_check_process(const uffd_loop *loop);
/* The calling thread is in a callback, hook or set-up of this loop: what waits for a handler is refused there. */
bool uffd_is_callback_of(const uffd_loop *loop);
/* 0, or -EOWNERDEAD, or -EDEADLK from a callback. */
int uffd_loop_check(const uffd_loop *loop);
/* Around calls that wait for handlers: the same errors, and -ECANCELED when the loop is being closed. */
int uffd_loop_enter(uffd_loop *loop);
void uffd_loop_leave(uffd_loop *loop);
/* -EOPNOTSUPP when on_error needs poison and the kernel has none. */
int uffd_check_poison(uint32_t on_error);
int uffd_refuse_retry(void); /* inline */
/* -EINVAL when an object with these features cannot be served inline. */
#define UFFD_NOT_INLINE (UFFD_FEAT_EVENT_FORK | UFFD_FEAT_EVENT_REMAP)
int uffd_check_inline(uint64_t features);

/* slice.c */
struct uffd_slice *uffd_slice_find(const struct uffd_source *source, uint64_t address);
/* Puts a slice in; the array must have room: uffd_slices_reserve(). */
void uffd_slices_insert(struct uffd_source *source, const struct uffd_slice *slice);
int uffd_slices_reserve(struct uffd_source *source, uint32_t more); /* 0 or -ENOMEM */
void uffd_slices_forget(struct uffd_source *source, const uffd_region *region);
bool uffd_slices_overlap(const struct uffd_source *source, uint64_t start, uint64_t end);
/* The owner dropped, unmapped or moved a range. -ENOMEM when there was no room to split a slice. */
void uffd_slices_remove(struct uffd_source *source, uint64_t start, uint64_t end);
int uffd_slices_unmap(struct uffd_source *source, uint64_t start, uint64_t end);
int uffd_slices_remap(struct uffd_source *source, uint64_t from, uint64_t to, uint64_t length);
/* A child's copy: own page states, the same regions. */
int uffd_slices_clone(const struct uffd_source *parent, struct uffd_source *child);
void uffd_slices_free(struct uffd_source *source);

/* install.c: turns an answer into ioctls. error says why for UFFD_OUTCOME_FAILED. */
#define UFFD_OUTCOME_ABSENT 5u /* inside only: CONTINUE found nothing in the page cache */
struct uffd_install {
  struct uffd_source *source;
  const struct uffd_slice *slice;
  uint64_t page;    /* address of the faulting page */
  uint64_t dst;     /* first address answered */
  uint64_t length;  /* bytes; only BYTES may end within a page */
  const void *data; /* BYTES, MOVE */
  uint32_t kind;    /* UFFD_ANSWER_* */
  bool wp;          /* arrives write-protected */
  bool minor;       /* the page cache has the page, as the fault said */
};
uint32_t uffd_install(struct uffd_handler_state *handler, const struct uffd_install *install);
uint32_t uffd_unprotect(struct uffd_handler_state *handler, struct uffd_source *source, uint64_t page,
                        uint64_t page_size);

/*
 * line.c: fault -> region -> resolver -> answer -> install -> outcome. The one way, for every engine. Returns the
 * outcome; for a deferred one the caller keeps the fault.
 */
uint32_t uffd_line_fault(struct uffd_handler_state *handler, const struct uffd_pending *fault);
/* The same when the slice is known. */
uint32_t uffd_line_resolve(struct uffd_handler_state *handler, const struct uffd_pending *fault,
                           const struct uffd_slice *slice);
/* The same for [low, high) of a slice (addresses) that nobody waits for. low is absent. No on_error. */
uint32_t uffd_line_prefetch(struct uffd_handler_state *handler, struct uffd_source *source, struct uffd_slice *slice,
                            uint64_t low, uint64_t high);

/* handler.c */
/* 0, or -errno with a sentence. */
int uffd_handler_create(uffd_loop *loop, uint32_t index, struct uffd_handler_state **made);
void uffd_handler_destroy(struct uffd_handler_state *handler);
/*
 * One pass: waits up to timeout_ns (UINT64_MAX: for ever), drains, applies events, answers faults, runs jobs. Returns
 * the number of faults answered.
 */
unsigned uffd_handler_pass(struct uffd_handler_state *handler, uint64_t timeout_ns);
/*
 * The parts of a pass for those who wait in another way: what has come (a descriptor that is readable; every source
 * may have something), and what is then done. woken: something came.
 */
void uffd_handler_ready(struct uffd_handler_state *handler, int fd);
void uffd_handler_ready_all(struct uffd_handler_state *handler);
unsigned uffd_handler_work(struct uffd_handler_state *handler, bool woken);
/* Nanoseconds after which a pass has something to do even if no descriptor says so; UINT64_MAX: never. */
uint64_t uffd_handler_due(const struct uffd_handler_state *handler);
/*
 * Applies what a predecessor had read, as the ledger says, and lets all faults be told again. Under loop->lock, which
 * whoever waits for it holds. 0 or -errno with a sentence, the handler's.
 */
int uffd_handler_take_over(struct uffd_handler_state *handler);
/* Wakes everything that is kept, cancels jobs. The handler's last act. */
void uffd_handler_finish(struct uffd_handler_state *handler);
/* When it has finished and the regions are unregistered: lets those go who wait for events to be read. */
void uffd_handler_let_go(struct uffd_handler_state *handler);
int uffd_handler_add_source(struct uffd_handler_state *handler, struct uffd_source *source); /* 0 or -ENOMEM */
void uffd_handler_drop_source(struct uffd_handler_state *handler, struct uffd_source *source);
struct uffd_source *uffd_source_create(uffd_object *object); /* NULL: no memory */
void uffd_source_destroy(struct uffd_source *source);

/*
 * job.c: posts, and waits until the handler has done it. Returns job->result: -ECANCELED, without a sentence, when the
 * handler has finished. A pump's driver runs it here.
 */
void uffd_job_init(struct uffd_job *job,
                   enum uffd_job_result (*run)(struct uffd_handler_state *handler, struct uffd_job *job));
void uffd_job_post(struct uffd_handler_state *handler, struct uffd_job *job);
int uffd_job_wait(struct uffd_handler_state *handler, struct uffd_job *job);
int uffd_job_run(struct uffd_handler_state *handler, struct uffd_job *job); /* post and wait */
/* The handler's side: takes what was posted, runs what it may. True if a background job did some work. */
bool uffd_jobs_run(struct uffd_handler_state *handler, bool background);
void uffd_jobs_cancel(struct uffd_handler_state *handler);
void uffd_jobs_hasten(struct uffd_handler_state *handler);        /* what waits for its time looks around once more */
uint64_t uffd_jobs_due(const struct uffd_handler_state *handler); /* of the first; UINT64_MAX: there is none */

/* prefetch.c: fills [offset, offset+length), whole pages, and waits for it. Under region->lock. 0 or -errno. */
int uffd_prefetch_now(uffd_region *region, uint64_t offset, uint64_t length);

/* region.c: 0, or -ENOENT with a sentence. */
int uffd_region_check_served(const uffd_region *region);
/* Unregistering lets sleepers go; missing pages are zeros from then on. */
void uffd_region_unregister(uffd_region *region); /* as it was added, without what mremap has moved */
void uffd_slice_unregister(const struct uffd_source *source, const struct uffd_slice *slice);
void uffd_region_destroy(uffd_region *region);

/* use.c: the callbacks that a loop's regions ask. */
int uffd_uses_add(uffd_loop *loop, uffd_resolver *resolver, uint64_t page_size); /* under loop->lock */
void uffd_uses_drop(uffd_loop *loop, uffd_resolver *resolver);                   /* under loop->lock */
void uffd_uses_end(uffd_loop *loop);
/* Calls the idle hooks; true if there is more to tidy. */
bool uffd_uses_idle(struct uffd_handler_state *handler);

/* trace.c */
void uffd_hooks_drop(struct uffd_hook *hook);

/* stats.c */
static inline void uffd_count(_Atomic uint64_t *counter, uint64_t more) { /* one writer: no locked instruction */
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + more, memory_order_relaxed);
}
void uffd_histogram_add(struct uffd_histogram *histogram, uint64_t nanoseconds);
/* Of a guessed fault that was answered: it was a minor one if the page cache was asked for the page, and had it. */
static inline uint64_t uffd_settled_flags(const struct uffd_handler_state *handler, uint64_t flags) {
  return handler->filled_as == UFFD_ANSWER_CONTINUE ? flags : flags & ~UFFD_FAULT_MINOR;
}
void uffd_count_guessed(struct uffd_handler_state *handler, uint64_t flags);

/* oldest.c: fault is the one that has waited longest; none waits. The handler's. */
void uffd_oldest_set(struct uffd_handler_state *handler, const struct uffd_pending *fault);
void uffd_oldest_clear(struct uffd_handler_state *handler);

/* The engines: thread.c and pump.c. The handlers exist; start makes somebody run their passes. */
int uffd_threads_start(uffd_loop *loop);
void uffd_threads_stop(uffd_loop *loop);
int uffd_pump_start(uffd_loop *loop);
void uffd_pump_watch(struct uffd_handler_state *handler, int fd);
void uffd_pump_unwatch(struct uffd_handler_state *handler, int fd);
/* The calls on a pump belong to one thread at a time, its driver, who runs the passes; other threads only touch. */
void uffd_drive(uffd_loop *loop);
bool uffd_is_driver(const uffd_loop *loop);

/* placement.c: threads of a handler that is placed; without a placement these do nothing. */
int uffd_placement_create(struct uffd_handler_state *handler); /* 0, or -errno with a sentence */
/* The process whose faults a source tells of; 0: this one, or a forked child, whose threads it can see by their ids. */
uint32_t uffd_placement_pid(const struct uffd_source *source);
void uffd_placement_destroy(struct uffd_placement *placement);
int uffd_placement_watch(struct uffd_handler_state *handler, int fd); /* 0 or -errno. Not heard in a paused loop */
void uffd_placement_unwatch(struct uffd_handler_state *handler, int fd);
void uffd_placement_hear(struct uffd_handler_state *handler, int fd, bool heard); /* or not listen to it meanwhile */

static inline uint8_t page_state(const struct uffd_slice *slice, uint64_t index) {
  return atomic_load_explicit(&slice->pages[index], memory_order_relaxed);
}
static inline void set_page_state(const struct uffd_slice *slice, uint64_t index, uint8_t state) {
  atomic_store_explicit(&slice->pages[index], state, memory_order_relaxed);
}

#endif
