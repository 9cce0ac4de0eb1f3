/*
 * uffd_memory_discard() in a region: the pages are dropped by whoever answers for them, between two faults. Where the
 * kernel tells of the drop and waits until that was read, the caller drops, while the reader takes what it reads in the
 * range for a discard and not for the owner's own drop, which would make the pages zeros.
 */
#include "loop/loop.h"

struct discard_job {
  struct uffd_job job;
  const uffd_region *region;
  uffd_memory *memory;
  uint64_t start, end; /* in one slice */
};

static struct uffd_source *find_source(struct uffd_lane *lane, const struct discard_job *wanted) {
  const uffd_region *region = wanted->region;
  if (region->source != NULL) return region->source;
  struct uffd_source *source = uffd_reader_of(lane)->sources;
  while (source != NULL) {
    const struct uffd_slice *slice = source->child ? NULL : uffd_slice_find(source, wanted->start);
    if (slice != NULL && slice->terms == &region->terms) return source;
    source = source->next;
  }
  return NULL;
}

/* The pages are absent from now on, and who sleeps there tries again. */
static void forget_pages(struct uffd_source *source, const struct discard_job *wanted) {
  const struct uffd_slice *slice =
      wanted->region->source != NULL ? &wanted->region->whole : uffd_slice_find(source, wanted->start);
  if (slice == NULL || slice->terms != &wanted->region->terms) return; /* unmapped meanwhile */
  uffd_slice_discard(slice, wanted->start, wanted->end);
  uffd_raw_wake(source->fd, wanted->start, wanted->end - wanted->start);
}

static enum uffd_job_result drop_now(struct uffd_lane *lane, struct uffd_job *job) {
  const struct discard_job *wanted = (const struct discard_job *)job;
  struct uffd_source *source = find_source(lane, wanted);
  job->result = source == NULL ? -ENOENT : uffd_drop(wanted->memory, wanted->start, wanted->end - wanted->start);
  if (job->result == 0) forget_pages(source, wanted);
  return UFFD_JOB_DONE;
}

static enum uffd_job_result expect(struct uffd_lane *lane, struct uffd_job *job) {
  const struct discard_job *wanted = (const struct discard_job *)job;
  struct uffd_source *source = find_source(lane, wanted);
  job->result = source == NULL ? -ENOENT : 0;
  if (source == NULL) return UFFD_JOB_DONE;
  source->discard_start = wanted->start;
  source->discard_end = wanted->end;
  return UFFD_JOB_DONE;
}

static enum uffd_job_result settle(struct uffd_lane *lane, struct uffd_job *job) {
  const struct discard_job *wanted = (const struct discard_job *)job;
  struct uffd_source *source = find_source(lane, wanted);
  if (source == NULL) return UFFD_JOB_DONE;
  forget_pages(source, wanted);
  source->discard_start = source->discard_end = 0;
  return UFFD_JOB_DONE;
}

static int run(const struct discard_job *wanted, uint32_t slice,
               enum uffd_job_result (*step)(struct uffd_lane *lane, struct uffd_job *job)) {
  struct discard_job job = *wanted;
  uffd_job_init(&job.job, step);
  return uffd_loop_run_job(wanted->region->loop, uffd_region_lane(wanted->region, slice), &job.job);
}

/* Under loop->lock: a source expects one discard at a time. */
static int drop_and_tell(const struct discard_job *wanted, uint32_t slice) {
  uffd_loop *loop = wanted->region->loop;
  const struct uffd_engine *engine = &loop->engine;
  if (engine->class->is_driver != NULL && engine->class->is_driver(engine)) return -EDEADLK;
  pthread_mutex_lock(&loop->lock);
  int result = run(wanted, slice, expect);
  if (result == 0) {
    result = uffd_drop(wanted->memory, wanted->start, wanted->end - wanted->start);
    int settled = run(wanted, slice, settle);
    if (result == 0) result = settled;
  }
  pthread_mutex_unlock(&loop->lock);
  return result;
}

int uffd_region_discard(void *ctx, uffd_memory *memory, uint64_t start, uint64_t end) {
  uffd_region *region = ctx;
  if (uffd_is_callback_of(region->loop)) return -EDEADLK;
  for (uint64_t at = start, next; at < end; at = next) {
    /* what has moved beyond the region's first addresses is looked for in its last slice's reader */
    uint64_t likely = (at - region->terms.address) / region->slice_bytes;
    uint32_t slice = (uint32_t)min_u64(likely, region->count - 1);
    next = slice + 1 < region->count ? region->terms.address + (slice + 1) * region->slice_bytes : end;
    next = min_u64(next, end);
    const struct discard_job wanted = {.region = region, .memory = memory, .start = at, .end = next};
    bool told =
        uffd_drop_tells(memory) && (uffd_features(uffd_region_object(region, slice)) & UFFD_FEAT_EVENT_REMOVE) != 0;
    int result = told ? drop_and_tell(&wanted, slice) : run(&wanted, slice, drop_now);
    if (result < 0) return result;
  }
  return 0;
}

bool uffd_region_is_own(void *ctx) {
  const uffd_region *region = ctx;
  const struct uffd_engine *engine = &region->loop->engine;
  if (engine->class->is_driver == NULL || !engine->class->is_driver(engine)) return false;
  return uffd_user_mode_only(uffd_region_object(region, 0)) != 1;
}
