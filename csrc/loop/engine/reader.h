/*
 * A reader: the one that reads the messages of some objects. All that it looks at on the fault path is changed by the
 * thread that runs its passes, in jobs that others post, so the path has no lock.
 */
#ifndef UFFD_LOOP_ENGINE_READER_H
#define UFFD_LOOP_ENGINE_READER_H

#include <poll.h>

#include "loop/engine/batch.h"
#include "loop/engine/job.h"
#include "loop/engine/oldest.h"
#include "loop/engine/pace.h"

#define UFFD_RETRY_MIN_NS UINT64_C(20000) /* back-off of deferred faults: doubles up to */
#define UFFD_RETRY_MAX_NS UINT64_C(10000000)

struct uffd_placement; /* placed/placement.h */

struct uffd_reader {
  struct uffd_lane lane; /* first: uffd_reader_of() */
  /* set once */
  struct uffd_engine *engine;
  int wake_fd; /* eventfd: a job was posted, or the engine stops */
  pthread_t thread;
  uffd_object *object;              /* the loop's own for this reader; NULL until a region needs it */
  struct uffd_placement *placement; /* NULL: one thread runs all passes, wherever the scheduler puts it */
  /* any thread, atomic */
  struct uffd_job *_Atomic posted;
  _Atomic bool stop;
  _Atomic uint64_t passes; /* odd while faults are being answered, so that stats can wait for their counts */
  /* the thread that runs a pass */
  struct uffd_source *sources;
  struct pollfd *polls; /* the wake_fd, then one a source; polls_count is kept by whoever adds and drops sources */
  uint32_t polls_count, polls_capacity;
  struct uffd_jobs foreground, background; /* taken from posted, not done */
  struct uffd_job *waiting;                /* of the background: until their time, the first one */
  struct uffd_pace pace;                   /* of prefetch */
  uint64_t retry_ns;                       /* when deferred faults are tried again */
  uint64_t retry_step;
  uint32_t queued;   /* of queue[] */
  uint32_t children; /* sources that are forked children */
  bool untidy;       /* callbacks were asked since they last said that they are tidy */
  bool heard;        /* an event was read in this pass */
  bool keep_spare;
  int spare_fd;                              /* given up when a FORK finds no descriptor; -1: none */
  uint64_t read_ns;                          /* when a fault was last read */
  uint32_t faulter_pid, faulter_tid;         /* of that fault: see uffd_faulter_cpu() */
  struct uffd_pending queue[UFFD_QUEUE_MAX]; /* as they were read */
  struct uffd_batch batch;
  struct uffd_oldest oldest; /* read by any thread */
};

static inline struct uffd_reader *uffd_reader_of(struct uffd_lane *lane) {
  return (struct uffd_reader *)lane;
}

int uffd_reader_create(struct uffd_engine *engine, uint32_t index, struct uffd_reader **made); /* -errno: sentence */
void uffd_reader_destroy(struct uffd_reader *reader);

struct uffd_source *uffd_reader_find_source(const struct uffd_reader *reader, const uffd_object *object);
int uffd_reader_add_source(struct uffd_reader *reader, struct uffd_source *source); /* 0 or -ENOMEM */
/* Wakes what is kept of it, and destroys it. */
void uffd_reader_drop_source(struct uffd_reader *reader, struct uffd_source *source);
void uffd_reader_keep_spare(struct uffd_reader *reader); /* opens spare_fd if it was given up */
void uffd_reader_wake(const struct uffd_pending *fault); /* it will be told again */

#endif
