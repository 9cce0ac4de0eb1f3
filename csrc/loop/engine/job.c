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

/*
 * Background jobs that wait for their time are a pairing heap, linked through the jobs themselves: a pass looks at the
 * first one only, however many there are.
 */
static struct uffd_job *join(struct uffd_job *a, struct uffd_job *b) {
  if (a == NULL || b == NULL) return a == NULL ? b : a;
  if (b->due_ns < a->due_ns) {
    struct uffd_job *first = b;
    b = a;
    a = first;
  }
  b->next = a->later;
  a->later = b;
  return a;
}

/* The heap without its first job: pairs are joined from left to right, then all from right to left. */
static struct uffd_job *without_first(struct uffd_job *heap) {
  struct uffd_job *pairs = NULL, *joined = NULL;
  for (struct uffd_job *a = heap->later, *b, *rest; a != NULL; a = rest) {
    b = a->next;
    rest = b == NULL ? NULL : b->next;
    a->next = NULL;
    if (b != NULL) b->next = NULL;
    struct uffd_job *pair = join(a, b);
    pair->next = pairs;
    pairs = pair;
  }
  while (pairs != NULL) {
    struct uffd_job *next = pairs->next;
    pairs->next = NULL;
    joined = join(joined, pairs);
    pairs = next;
  }
  heap->later = NULL;
  return joined;
}

static void put_last(struct uffd_jobs *jobs, struct uffd_job *job) {
  job->next = NULL;
  if (jobs->first == NULL) jobs->first = job;
  if (jobs->last != NULL) jobs->last->next = job;
  jobs->last = job;
}

static struct uffd_job *take_first(struct uffd_jobs *jobs) {
  struct uffd_job *job = jobs->first;
  jobs->first = job->next;
  if (jobs->first == NULL) jobs->last = NULL;
  return job;
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
  while (oldest != NULL) {
    struct uffd_job *next = oldest->next;
    put_last(oldest->background ? &reader->background : &reader->foreground, oldest);
    oldest = next;
  }
}

/* Each once: one that has more to do comes again in the next pass. */
static void run_foreground(struct uffd_reader *reader) {
  struct uffd_jobs again = {NULL, NULL};
  while (reader->foreground.first != NULL) {
    struct uffd_job *job = take_first(&reader->foreground);
    if (job->run(&reader->lane, job) == UFFD_JOB_DONE) {
      end(job);
    } else {
      put_last(&again, job);
    }
  }
  reader->foreground = again;
}

static void take_due(struct uffd_reader *reader) {
  if (reader->waiting == NULL) return;
  uint64_t now = uffd_now();
  while (reader->waiting != NULL && reader->waiting->due_ns <= now) {
    struct uffd_job *job = reader->waiting;
    reader->waiting = without_first(job);
    put_last(&reader->background, job);
  }
}

/* One step of one of them; the others have their turns. False: none has anything to do now. */
static bool run_background(struct uffd_reader *reader) {
  take_due(reader);
  if (reader->background.first == NULL) return false;
  struct uffd_job *job = take_first(&reader->background);
  if (job->run(&reader->lane, job) == UFFD_JOB_DONE) {
    end(job);
  } else if (job->due_ns == 0) {
    put_last(&reader->background, job);
  } else {
    job->next = NULL;
    reader->waiting = join(reader->waiting, job);
  }
  return true;
}

bool uffd_jobs_run(struct uffd_reader *reader, bool background) {
  if (atomic_load_explicit(&reader->posted, memory_order_relaxed) != NULL) take_posted(reader, NULL);
  if (reader->foreground.first != NULL) run_foreground(reader);
  return background && run_background(reader);
}

bool uffd_jobs_any(const struct uffd_reader *reader) {
  return reader->foreground.first != NULL || reader->background.first != NULL || reader->waiting != NULL;
}

bool uffd_jobs_backlog(const struct uffd_reader *reader) {
  return reader->background.first != NULL;
}

uint64_t uffd_jobs_due(const struct uffd_reader *reader) {
  uint64_t due = reader->background.first != NULL ? 0 : UINT64_MAX;
  if (reader->waiting != NULL) due = min_u64(due, reader->waiting->due_ns);
  for (const struct uffd_job *job = reader->foreground.first; job != NULL; job = job->next) {
    due = min_u64(due, job->due_ns);
  }
  return due;
}

void uffd_jobs_hasten(struct uffd_reader *reader) {
  while (reader->waiting != NULL) {
    struct uffd_job *job = reader->waiting;
    reader->waiting = without_first(job);
    job->due_ns = 0;
    put_last(&reader->background, job);
  }
}

static void cancel_all(struct uffd_jobs *jobs) {
  while (jobs->first != NULL) {
    cancel(take_first(jobs));
  }
}

void uffd_jobs_cancel(struct uffd_reader *reader) {
  take_posted(reader, &finished);
  uffd_jobs_hasten(reader);
  cancel_all(&reader->foreground);
  cancel_all(&reader->background);
}
