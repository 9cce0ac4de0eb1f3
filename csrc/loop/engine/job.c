/*
 * What user threads want of a handler: posted without a lock, done between faults. A job lives with its poster, who
 * waits for it, or has left word (over) of what becomes of it.
 */
#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "loop/engine/inline/inline.h"

void uffd_job_init(struct uffd_job *job,
                   enum uffd_job_result (*run)(struct uffd_handler_state *handler, struct uffd_job *job)) {
  *job = (struct uffd_job){.run = run};
  sem_init(&job->done, 0, 0);
}

static struct uffd_job finished; /* stands in posted when the handler does no more jobs */

/* From here on the job is its poster's again, and may be gone. */
static void end(struct uffd_job *job) {
  if (job->over != NULL) {
    job->over(job);
  } else {
    sem_post(&job->done);
  }
}

static void cancel(struct uffd_job *job) {
  job->result = -ECANCELED;
  end(job);
}

void uffd_job_post(struct uffd_handler_state *handler, struct uffd_job *job) {
  BARRIER("posting", handler);
  struct uffd_job *head = atomic_load_explicit(&handler->posted, memory_order_relaxed);
  do {
    if (head == &finished) {
      cancel(job);
      return;
    }
    job->next = head;
  } while (
      !atomic_compare_exchange_weak_explicit(&handler->posted, &head, job, memory_order_release, memory_order_relaxed));
  uint64_t one = 1;
  (void)!write(handler->wake_fd, &one, sizeof(one)); /* fails only when the counter is full: awake then */
}

int uffd_job_wait(struct uffd_handler_state *handler, struct uffd_job *job) {
  if (uffd_is_driver(handler->loop)) { /* this thread is the handler */
    while (sem_trywait(&job->done) != 0) {
      uffd_handler_pass(handler, UINT64_MAX);
    }
  } else {
    while (sem_wait(&job->done) != 0 && errno == EINTR) {
    }
  }
  sem_destroy(&job->done);
  return job->result;
}

/* A handler that faulting threads take is taken for the job, in the calling thread. */
static int run_taken(struct uffd_handler_state *handler, struct uffd_job *job) {
  while (atomic_exchange_explicit(&handler->taken, true, memory_order_acquire)) {
    sched_yield();
  }
  while (job->run(handler, job) == UFFD_JOB_AGAIN) {
    sched_yield();
  }
  uffd_inline_give(handler);
  sem_destroy(&job->done);
  return job->result;
}

int uffd_job_run(struct uffd_handler_state *handler, struct uffd_job *job) {
  if (handler->index >= handler->loop->shards) return run_taken(handler, job);
  uffd_job_post(handler, job);
  return uffd_job_wait(handler, job);
}

/* In the order of posting: the stack that others push to has the newest on top. */
static void take_posted(struct uffd_handler_state *handler, struct uffd_job *leave) {
  struct uffd_job *newest = atomic_exchange_explicit(&handler->posted, leave, memory_order_acquire), *oldest = NULL;
  while (newest != NULL && newest != &finished) {
    struct uffd_job *next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  struct uffd_job **end = &handler->jobs;
  while (*end != NULL) {
    end = &(*end)->next;
  }
  *end = oldest;
}

/* To the end: a background job that must wait lets others work. */
static void put_last(struct uffd_job **link) {
  struct uffd_job *job = *link;
  *link = job->next;
  job->next = NULL;
  while (*link != NULL) {
    link = &(*link)->next;
  }
  *link = job;
}

bool uffd_jobs_run(struct uffd_handler_state *handler, bool background) {
  bool worked = false;
  if (atomic_load_explicit(&handler->posted, memory_order_relaxed) != NULL) take_posted(handler, NULL);
  for (struct uffd_job **link = &handler->jobs; *link != NULL;) {
    struct uffd_job *job = *link;
    bool in_background = job->background;
    bool may_run = !in_background || (background && !worked && (job->due_ns == 0 || uffd_now() >= job->due_ns));
    bool done = may_run && job->run(handler, job) == UFFD_JOB_DONE;
    worked = worked || (may_run && in_background);
    if (done) {
      *link = job->next;
      end(job);
    } else if (may_run && in_background) {
      put_last(link);
    } else {
      link = &job->next;
    }
  }
  return worked;
}

uint64_t uffd_jobs_due(const struct uffd_handler_state *handler) {
  uint64_t due = UINT64_MAX;
  for (const struct uffd_job *job = handler->jobs; job != NULL; job = job->next) {
    due = min_u64(due, job->due_ns);
  }
  return due;
}

void uffd_jobs_hasten(struct uffd_handler_state *handler) {
  for (struct uffd_job *job = handler->jobs; job != NULL; job = job->next) {
    job->due_ns = 0;
  }
}

void uffd_jobs_cancel(struct uffd_handler_state *handler) {
  take_posted(handler, &finished);
  while (handler->jobs != NULL) {
    struct uffd_job *job = handler->jobs;
    handler->jobs = job->next;
    cancel(job);
  }
}
