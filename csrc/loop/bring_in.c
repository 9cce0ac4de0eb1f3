/*
 * Bringing a page in for uffd_memory_read(), _write() and prefault where the kernel may not take the fault: a job walks
 * the line as if the fault had been read.
 */
#include "loop/line/line.h"
#include "loop/loop.h"

struct bring_in_job {
  struct uffd_job job;
  const uffd_region *region;
  uint64_t address, started_ns;
  uint64_t flags; /* UFFD_FAULT_* */
};

static struct uffd_source *find_source(const struct uffd_reader *reader, const struct bring_in_job *wanted,
                                       const struct uffd_slice **slice) {
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    *slice = source->child ? NULL : uffd_slice_find(source, wanted->address);
    if (*slice != NULL && (*slice)->terms == &wanted->region->terms) return source;
  }
  return NULL;
}

/* 0, or -errno: what became of the page. */
static int judge(const struct uffd_filled *filled, const struct uffd_slice *slice, uint64_t page) {
  if (filled->outcome == UFFD_OUTCOME_GONE) return -ENOENT;
  return page_state(slice, page_index(slice, page)) == UFFD_PAGE_POISONED ? -EHWPOISON : 0;
}

static enum uffd_job_result bring_in_now(struct uffd_lane *lane, struct uffd_job *job) {
  const struct bring_in_job *wanted = (const struct bring_in_job *)job;
  const uffd_region *region = wanted->region;
  const struct uffd_slice *slice = &region->whole;
  struct uffd_source *source = region->source;
  if (source == NULL) source = find_source(uffd_reader_of(lane), wanted, &slice);
  if (source == NULL) {
    job->result = -ENOENT;
    return UFFD_JOB_DONE;
  }
  const struct uffd_pending fault = {
      .source = source,
      .address = wanted->address,
      .flags = wanted->flags,
      .read_ns = wanted->started_ns,
      .guessed = true,
  };
  const struct uffd_filled filled = uffd_line_fault(lane, &fault, slice);
  bool deferred = filled.outcome == UFFD_OUTCOME_DEFERRED;
  if (deferred && atomic_load(&region->ordinary)) {
    job->result = -ECANCELED;
    return UFFD_JOB_DONE;
  }
  if (deferred) {
    job->due_ns = uffd_now() + UFFD_RETRY_MAX_NS;
    return UFFD_JOB_AGAIN;
  }
  job->result = judge(&filled, slice, wanted->address);
  return UFFD_JOB_DONE;
}

/* What the kernel would have told. A page that can be read lacks the permission to write. */
static uint64_t guess_flags(const uffd_region *region, uint64_t address, bool write) {
  char byte;
  bool protects = (region->terms.modes & UFFD_MODE_WP) != 0;
  const void *there = (const void *)(uintptr_t)address; /* NOLINT(performance-no-int-to-ptr) */
  if (write && protects && uffd_peek(&byte, there, 1) == 0) return UFFD_FAULT_WRITE | UFFD_FAULT_WP;
  return (write ? UFFD_FAULT_WRITE : 0) | (region->terms.tells_minor ? UFFD_FAULT_MINOR : 0);
}

int uffd_region_bring_in(void *ctx, uint64_t address, bool write) {
  uffd_region *region = ctx;
  if (uffd_is_callback_of(region->loop)) return fail(EDEADLK, "A callback touches memory that its own loop serves.");
  if (uffd_is_poisoned(address)) return -EHWPOISON;
  struct bring_in_job job = {.region = region, .address = address, .started_ns = uffd_now()};
  job.flags = guess_flags(region, address, write);
  /* where the page was when the region was added; it may have moved into another slice's addresses, or beyond all */
  uint64_t likely = (address - region->terms.address) / region->slice_bytes;
  int result = -ENOENT;
  for (uint32_t i = 0; i < region->count && result == -ENOENT; i++) {
    uffd_job_init(&job.job, bring_in_now);
    job.job.anywhere = true;
    result =
        uffd_loop_run_job(region->loop, uffd_region_lane(region, (uint32_t)((likely + i) % region->count)), &job.job);
  }
  return result;
}
