/*
 * Jobs: what user threads want of a reader. Posted without a lock, done between faults.
 */
#ifndef UFFD_LOOP_ENGINE_JOB_H
#define UFFD_LOOP_ENGINE_JOB_H

#include "loop/engine/engine.h"

enum uffd_job_result { UFFD_JOB_DONE, UFFD_JOB_AGAIN };

/*
 * run() is called by whoever has the lane, again as long as it says UFFD_JOB_AGAIN. A job lives with its poster, who
 * waits for it, or has said (over) what becomes of it.
 */
struct uffd_job {
  struct uffd_job *next;  /* in its list, or among those that wait behind the same one */
  struct uffd_job *later; /* while it waits for its time: those behind it */
  enum uffd_job_result (*run)(struct uffd_lane *lane, struct uffd_job *job);
  bool anywhere;   /* inline: any lane will do */
  bool background; /* waits until no fault does */
  uint64_t due_ns; /* in the background: not before this; all: the reader wakes up for it */
  int result;
  sem_t done;
  void (*over)(struct uffd_job *job); /* takes the job back where nobody waits for it; NULL: done is posted */
};

struct uffd_jobs { /* in their order */
  struct uffd_job *first, *last;
};

void uffd_job_init(struct uffd_job *job, enum uffd_job_result (*run)(struct uffd_lane *lane, struct uffd_job *job));
void uffd_job_post(struct uffd_reader *reader, struct uffd_job *job);
/* sem_wait() until then (UINT64_MAX: for ever), over signals: false when it is too late. */
bool uffd_semaphore_wait(sem_t *semaphore, uint64_t until_ns);

/* The reader's side: takes what was posted, runs what it may. True if a background job did some work. */
bool uffd_jobs_run(struct uffd_reader *reader, bool background);
bool uffd_jobs_any(const struct uffd_reader *reader);     /* taken, and not done */
bool uffd_jobs_backlog(const struct uffd_reader *reader); /* in the background, and not waiting for its time */
void uffd_jobs_cancel(struct uffd_reader *reader);
void uffd_jobs_hasten(struct uffd_reader *reader);        /* what waits for its time looks around once more */
uint64_t uffd_jobs_due(const struct uffd_reader *reader); /* of the first; UINT64_MAX: there is none */

#endif
