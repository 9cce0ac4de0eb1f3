/*
 * An engine: who runs the line. Readers read objects and apply events; inline, faulting threads use lanes of their own
 * as well. What engines do differently is one table, uffd_engine_class; whoever chooses an engine chooses the table.
 */
#ifndef UFFD_LOOP_ENGINE_ENGINE_H
#define UFFD_LOOP_ENGINE_ENGINE_H

#include <semaphore.h>

#include "loop/line/lane.h"
#include "loop/pages/ledger.h"

#define UFFD_HANDLERS_MAX 64u

struct uffd_engine;
struct uffd_job;
struct uffd_reader;
struct uffd_slots;

struct uffd_engine_class {
  uint32_t kind;     /* UFFD_ENGINE_* */
  uint64_t features; /* that its objects have */
  uint64_t excluded; /* that they do not have */
  bool own_only;     /* cannot serve another process */
  bool cannot_retry; /* on_error retry would ask without a pause */
  /* Makes somebody run the readers' passes: 0, or -errno with a sentence. */
  int (*start)(struct uffd_engine *engine);
  /* Nobody runs them any more; what they kept is woken, their jobs are cancelled. */
  void (*stop)(struct uffd_engine *engine);
  /* Frees what start made, also after it failed, and in a forked child. NULL: nothing to free. */
  void (*release)(struct uffd_engine *engine);
  /* A descriptor of the reader's comes (0 or -errno) or goes (0). NULL: nothing to do. */
  int (*watch)(struct uffd_reader *reader, int fd, bool comes);
  /* Whether the reader is woken for it meanwhile. NULL: nothing to do. */
  void (*hear)(struct uffd_reader *reader, int fd, bool heard);
  /* Runs a job on a lane, and waits: job->result; -ECANCELED, without a sentence, when the engine has stopped. */
  int (*run_job)(struct uffd_engine *engine, uint32_t lane, struct uffd_job *job);
  /* Waits for a semaphore that a job posts, until then (CLOCK_MONOTONIC; UINT64_MAX: for ever). False: too late. */
  bool (*wait)(struct uffd_engine *engine, sem_t *semaphore, uint64_t until_ns);
  /* The calling thread is the one that answers. NULL: it never is. */
  bool (*is_driver)(const struct uffd_engine *engine);
  /* Events are applied: no fault is answered from quiet until not quiet. NULL: only the reader answers. */
  void (*quiesce)(struct uffd_engine *engine, bool quiet);
  /* The slice is served from now on: 0, or -errno with a sentence; or is no more. NULL: readers find it themselves. */
  int (*publish)(struct uffd_engine *engine, const struct uffd_slice *slice, struct uffd_source *source);
  void (*retract)(struct uffd_engine *engine, const struct uffd_terms *terms);
  /* Who serves now (UFFD_PLACEMENT_*), and why. NULL: nobody is placed. */
  uint32_t (*tell_placement)(const struct uffd_engine *engine, const char **why);
};

struct uffd_engine {
  /* set once */
  const struct uffd_engine_class *class;
  uint64_t features; /* of the loop's own objects, as the user asked */
  uint32_t readers_count, slots_count, lanes_count;
  struct uffd_reader **readers;
  struct uffd_slots *slots;                           /* inline; NULL */
  struct uffd_lane **lanes;                           /* the readers', then the slots' */
  struct uffd_ledger *ledger;                         /* NULL: none */
  void (*forking)(void *ctx, int fd, uint32_t index); /* has read of a child, as the options say; NULL */
  int (*forked)(void *ctx, uffd_object *child, const void *ledger, uint64_t ledger_size); /* takes children; NULL */
  void *forked_ctx;
  int epoll_fd; /* pump; -1 */
  uint64_t process;
  /* any thread, atomic */
  const void *_Atomic driver;                  /* pump: the thread that called last */
  _Atomic bool paused;                         /* no object is read yet */
  _Atomic bool has_children;                   /* forked ones, which may ask resolvers until the engine stops */
  struct uffd_hook *_Atomic trace[UFFD_HOOKS]; /* NULL: none */
  struct uffd_failure failure;
};

/*
 * Makes readers_count readers and starts the engine: 0, or -errno with a sentence. What is said to be set once above is
 * set. To be closed also when it fails.
 */
int uffd_engine_open(struct uffd_engine *engine);
void uffd_engine_close(struct uffd_engine *engine);

extern const struct uffd_engine_class uffd_threads_engine; /* thread.c */
extern const struct uffd_engine_class uffd_pump_engine;    /* pump.c */

#endif
