/*
 * Posting and running jobs: a stack without a lock that anybody pushes to, and the list of those that the reader took.
 */
#include "loop/engine/job.h"

#include <time.h>
#include <unistd.h>

#include "loop/engine/reader.h"

void uffd_job_init(struct uffd_job *job, enum uffd_job_result (*run)(struct uffd_lane *lane, struct uffd_job *job)) {
  *job = (struct uffd_job){.run = run};
  sem_init(&job->done, 0, 0);
}

static struct uffd_job finished; /* stands in posted when the reader does no more jobs */

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

void uffd_job_post(struct uffd_reader *reader, struct uffd_job *job) {
  BARRIER("posting", reader);
  struct uffd_job *head = atomic_load_explicit(&reader->posted, memory_order_relaxed);
  do {
    if (head == &finished) {
      cancel(job);
      return;
    }
    job->next = head;
  } while (
      !atomic_compare_exchange_weak_explicit(&reader->posted, &head, job, memory_order_release, memory_order_relaxed));
  uint64_t one = 1;
  (void)!write(reader->wake_fd, &one, sizeof(one)); /* fails only when the counter is full: awake then */
}

bool uffd_semaphore_wait(sem_t *semaphore, uint64_t until_ns) {
  const struct timespec time = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
  int result;
  do {
    result = until_ns == UINT64_MAX ? sem_wait(semaphore) : sem_clockwait(semaphore, CLOCK_MONOTONIC, &time);
  } while (result != 0 && errno == EINTR);
  return result == 0;
}

/* In the order of posting: the stack that others push to has the newest on top. */
static void take_posted(struct uffd_reader *reader, struct uffd_job *leave) {
  struct uffd_job *newest = atomic_exchange_explicit(&reader->posted, leave, memory_order_acquire), *oldest = NULL;
  while (newest != NULL && newest != &finished) {
    struct uffd_job *next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  struct uffd_job **end = &reader->jobs;
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

bool uffd_jobs_run(struct uffd_reader *reader, bool background) {
  bool worked = false;
  if (atomic_load_explicit(&reader->posted, memory_order_relaxed) != NULL) take_posted(reader, NULL);
  for (struct uffd_job **link = &reader->jobs; *link != NULL;) {
    struct uffd_job *job = *link;
    bool in_background = job->background;
    bool may_run = !in_background || (background && !worked && (job->due_ns == 0 || uffd_now() >= job->due_ns));
    bool done = may_run && job->run(&reader->lane, job) == UFFD_JOB_DONE;
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

uint64_t uffd_jobs_due(const struct uffd_reader *reader) {
  uint64_t due = UINT64_MAX;
  for (const struct uffd_job *job = reader->jobs; job != NULL; job = job->next) {
    due = min_u64(due, job->due_ns);
  }
  return due;
}

void uffd_jobs_hasten(struct uffd_reader *reader) {
  for (struct uffd_job *job = reader->jobs; job != NULL; job = job->next) {
    job->due_ns = 0;
  }
}

void uffd_jobs_cancel(struct uffd_reader *reader) {
  take_posted(reader, &finished);
  while (reader->jobs != NULL) {
    struct uffd_job *job = reader->jobs;
    reader->jobs = job->next;
    cancel(job);
  }
}
