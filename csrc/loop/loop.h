/*
 * The loop as its users see it: an engine, regions, and the calls that add, fill and take out. What runs on the fault
 * path lies below, in pages/, line/ and engine/; the front changes it by jobs.
 */
#ifndef UFFD_LOOP_LOOP_H
#define UFFD_LOOP_LOOP_H

#include "loop/engine/job.h"
#include "loop/engine/reader.h"

/* A callback that regions of the loop ask, with its state in each lane. */
struct uffd_use {
  struct uffd_use *next;
  uffd_resolver *callback;
  uint32_t regions;
  void *states[];
};

struct uffd_region {
  struct uffd_terms terms;                          /* what the line reads */
  struct uffd_hints hints;                          /* what the line has learnt */
  _Atomic uint64_t latency[UFFD_HISTOGRAM_BUCKETS]; /* of its faults; any thread reads it */
  /* set once */
  struct uffd_region *next; /* of the loop */
  uffd_loop *loop;
  struct uffd_claim claim;
  uint32_t count;       /* slices */
  uint32_t first;       /* the reader of slice 0; the next slice is the next reader's, in a circle */
  uint64_t slice_bytes; /* of each but the last */
  uffd_object *object;  /* the user's; NULL: the readers' own */
  uffd_memory *memory;  /* NULL: the region has ended */
  /* inline: what is published, for any lane to use; source NULL: only readers know where the region lies */
  struct uffd_slice whole;
  struct uffd_source *source;
  /* its life */
  bool registered;      /* all of it, by nobody but the loop: set when it is added */
  pthread_mutex_t lock; /* prefetch, complete, remove: one at a time. Never taken by a reader */
  _Atomic bool served;  /* this one and the next are written under lock */
  _Atomic bool complete;
  _Atomic bool removed;  /* or is being removed: what waits for its pages in the background gives up */
  _Atomic bool ordinary; /* unregistered: its missing pages read as zeros */
};

/* Who is inside a call that waits for readers: closing waits for them. User threads. */
struct uffd_gate {
  pthread_mutex_t lock;
  pthread_cond_t left; /* the last one inside */
  uint32_t inside;
  bool closing;
};

struct uffd_loop {
  struct uffd_engine engine;
  struct uffd_gate gate;
  /* set once */
  uint64_t process;
  uint32_t on_error; /* never DEFAULT */
  uint32_t retry_ms, retry_then;
  uint32_t open_flags, route;
  const char *why; /* the engine was chosen */
  /* user threads, under lock; never taken by a reader */
  pthread_mutex_t lock;
  uffd_region *regions;
  struct uffd_use *uses;
  struct uffd_trace_file *trace_file; /* NULL: none */
  uint32_t next_reader;               /* for the first slice of the next region, or for the next user's object */
  /* any thread, atomic */
  struct uffd_hook *_Atomic past_hooks; /* replaced by hooks themselves: a lane may still be in one */
};

/* The loop whose callback the calling thread sets up or tears down, or NULL: it cannot wait for that loop. */
extern _Thread_local const uffd_loop *uffd_setting_up;

/* gate.c: 0, or -errno with a sentence. */
int uffd_loop_check_process(const uffd_loop *loop); /* -EOWNERDEAD in a forked child */
/* The calling thread is in a callback, hook or set-up of this loop: what waits for a reader is refused there. */
bool uffd_is_callback_of(const uffd_loop *loop);
int uffd_loop_check(const uffd_loop *loop);         /* -EOWNERDEAD, or -EDEADLK from a callback */
int uffd_loop_check_stopped(const uffd_loop *loop); /* -ECANCELED with the first failure's sentence */
int uffd_loop_check_started(
    const uffd_loop *loop); /* -EINVAL: a ledger's events are applied before anything is filled */
int uffd_region_check_served(const uffd_region *region); /* -ENOENT */
/* Around calls that wait for readers: as uffd_loop_check(), and -ECANCELED when the loop is being closed. */
int uffd_loop_enter(uffd_loop *loop);
void uffd_loop_leave(uffd_loop *loop);
void uffd_gate_open(struct uffd_gate *gate);
void uffd_gate_close(struct uffd_gate *gate); /* nobody comes in any more */
void uffd_gate_wait(struct uffd_gate *gate);  /* until nobody is inside */
void uffd_gate_destroy(struct uffd_gate *gate);

/* options.c */
int uffd_loop_take_opts(struct uffd_loop_opts *opts, const struct uffd_loop_opts *user_opts); /* -EINVAL: sentence */
/* Sets the engine's class, and how many readers and slots it has; says why. */
void uffd_choose_engine(uffd_loop *loop, const struct uffd_loop_opts *opts);
/* Of a region: 0 or -errno with a sentence. opts is filled in. *guard: modes to register with besides. */
int uffd_region_check_opts(const uffd_loop *loop, uffd_memory *memory, const uffd_resolver *resolver,
                           struct uffd_region_opts *opts, uint64_t *guard);
bool uffd_resolver_doubts(const uffd_resolver *resolver); /* struct uffd_terms.doubts */
/* Whether it could be the region's: 0 or -errno with a sentence. */
int uffd_region_check_resolver(const uffd_region *region, const uffd_resolver *resolver);

/* region.c: unregistering lets sleepers go; missing pages are zeros from then on. */
void uffd_region_unregister(uffd_region *region); /* as it was added, without what mremap has moved */
void uffd_region_destroy(uffd_region *region);
static inline uint32_t uffd_region_lane(const uffd_region *region, uint32_t slice) {
  return (region->first + slice) % region->loop->engine.readers_count;
}
static inline struct uffd_reader *uffd_region_reader(const uffd_region *region, uint32_t slice) {
  return region->loop->engine.readers[uffd_region_lane(region, slice)];
}
static inline uffd_object *uffd_region_object(const uffd_region *region, uint32_t slice) {
  return region->object != NULL ? region->object : uffd_region_reader(region, slice)->object;
}

/*
 * bring_in.c: the page at address is brought in, or unprotected, where the kernel may not take the fault. ctx: the
 * region. 0, -EHWPOISON (poison), -EFAULT (it cannot be filled), -EDEADLK, -ECANCELED.
 */
int uffd_region_bring_in(void *ctx, uint64_t address, bool write);

/*
 * discard.c: drops [start, end), whole pages of the region, which are absent then. ctx: the region. 0, -EDEADLK from
 * its callbacks and a pump's driver that would wait for itself, -ECANCELED, -errno of dropping.
 */
int uffd_region_discard(void *ctx, uffd_memory *memory, uint64_t start, uint64_t end);
/* The calling thread answers for the region, and the kernel would take its fault. */
bool uffd_region_is_own(void *ctx);

/* prefetch.c: fills [offset, offset+length), whole pages, and waits for it. Under region->lock. 0 or -errno. */
int uffd_prefetch_now(uffd_region *region, uint64_t offset, uint64_t length);

/* uses.c: the callbacks that a loop's regions ask. */
int uffd_uses_add(uffd_loop *loop, uffd_resolver *resolver, uint64_t page_size); /* under loop->lock */
void uffd_uses_drop(uffd_loop *loop, uffd_resolver *resolver);                   /* under loop->lock */
void uffd_uses_end(uffd_loop *loop);

/* trace.c: puts a hook (fn NULL: none) in place of the one there, which is kept until settled: 0 or -ENOMEM. */
int uffd_hook_put(uffd_loop *loop, uint32_t place, uffd_trace_fn *fn, void *ctx);
/* Waits until each lane has come by once: none uses any more what was replaced before. Not in a callback. */
void uffd_loop_pass_lanes(uffd_loop *loop);
/* Waits until no lane is in a hook that was replaced. Not in a callback. */
void uffd_hooks_settle(uffd_loop *loop);
void uffd_hooks_drop(struct uffd_hook *hook);

/* trace_file.c: when no lane is in its hook any more. 0 or -errno of writing; NULL: 0. */
int uffd_trace_file_end(struct uffd_trace_file *file);
void uffd_trace_file_forget(struct uffd_trace_file *file); /* in a forked child */

/* Runs a job on a lane, and waits for it: job->result. */
static inline int uffd_loop_run_job(uffd_loop *loop, uint32_t lane, struct uffd_job *job) {
  return loop->engine.class->run_job(&loop->engine, lane, job);
}

#endif
