/*
 * Filling ranges that nobody waits for yet: in the readers, in the background, a step between faults. The handle is
 * shared by its owner and by the parts that readers have of it, and goes with the last of them.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "loop/line/line.h"
#include "loop/loop.h"
#include "loop/rate.h"

#define STEP_BYTES     HUGE_PAGE        /* prefetch gives way to faults after so much */
#define STEPS_A_SECOND 64u              /* with a rate: little and often */
#define AHEAD_BYTES    (16 * HUGE_PAGE) /* a resolver that fetches is told so far ahead what it will be asked for */

/* What one reader has to do: its slice's share of the ranges. Offsets in the region. */
struct part {
  struct uffd_job job;
  uffd_prefetch *prefetch;
  size_t range; /* no range before this one is of interest any more */
  uint64_t at, end;
  uint64_t told;     /* up to here the resolver was told what will be wanted */
  uint64_t verified; /* up to here the kernel was asked about pages that are said to be there */
};

struct uffd_prefetch {
  /* set once */
  uint64_t process;
  uffd_region *region; /* there as long as a part is left: the loop ends those first */
  uffd_loop *loop;     /* may be gone when no part is left */
  const struct uffd_engine_class *engine;
  size_t mapped; /* bytes, of all this */
  uint64_t wanted, step;
  /* any thread, atomic */
  _Atomic uint32_t references; /* the owner's, and each part's */
  _Atomic uint32_t left;       /* parts that are not over */
  _Atomic bool cancelled;
  _Atomic uint64_t passed; /* bytes */
  struct uffd_rate rate;
  _Atomic int error_state; /* 0 none, 1 being written, 2 there */
  int error;               /* the first */
  char text[256];          /* its sentence */
  sem_t ended;
  /* each of them its reader's own */
  struct part parts[UFFD_HANDLERS_MAX];
  /* set once: sorted, apart from each other, whole pages */
  size_t count;
  struct uffd_range ranges[];
};

static void drop(uffd_prefetch *prefetch) {
  if (atomic_fetch_sub(&prefetch->references, 1) != 1) return;
  uffd_pages_unmap(prefetch, prefetch->mapped);
}

static void note_error(uffd_prefetch *prefetch, int error) {
  int none = 0;
  if (!atomic_compare_exchange_strong(&prefetch->error_state, &none, 1)) return;
  prefetch->error = error;
  strncpy(prefetch->text, uffd_errmsg(), sizeof(prefetch->text) - 1);
  atomic_store(&prefetch->error_state, 2);
}

static bool is_over(const uffd_prefetch *prefetch) {
  return atomic_load(&prefetch->left) == 0;
}

static uint64_t end_of(const struct uffd_range *range) {
  return range->offset + range->length;
}

static uint64_t slice_high(const struct uffd_slice *slice) { /* the offset of its end */
  return slice->offset + (slice->end - slice->start);
}

static void pass(struct part *part, uint64_t to) {
  atomic_fetch_add_explicit(&part->prefetch->passed, to - part->at, memory_order_relaxed);
  part->at = to;
}

/* Goes on to what is wanted next, which ends at *end. False: nothing more is. */
static bool find_wanted(struct part *part, uint64_t *end) {
  const uffd_prefetch *prefetch = part->prefetch;
  while (part->range < prefetch->count && end_of(&prefetch->ranges[part->range]) <= part->at) {
    part->range++;
  }
  if (part->range == prefetch->count) return false;
  part->at = max_u64(part->at, prefetch->ranges[part->range].offset);
  *end = min_u64(end_of(&prefetch->ranges[part->range]), part->end);
  return part->at < part->end;
}

/* What is left of the region at part->at, or the next that is after it: parts may have been unmapped, or have moved. */
static struct uffd_slice *find_slice(const struct uffd_reader *reader, const struct part *part,
                                     struct uffd_source **found) {
  struct uffd_slice *first = NULL;
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    for (uint32_t i = 0; !source->child && i < source->count; i++) {
      struct uffd_slice *slice = &source->slices[i];
      if (slice->terms != &part->prefetch->region->terms || slice_high(slice) <= part->at) continue;
      if (first != NULL && first->offset <= slice->offset) continue;
      first = slice;
      *found = source;
    }
  }
  return first;
}

static bool is_removed(const struct uffd_slice *slice, uint64_t at) {
  return page_state(slice, (at - slice->offset) >> slice->terms->page_shift) == UFFD_PAGE_REMOVED;
}

/*
 * Is the page at this offset to be filled? One that was dropped stays missing, and then reads as zeros. Not so in a
 * private mapping of what others share: when it is not served any more, the others' page would be there. So zeros are
 * put there.
 */
static bool is_lacking(const struct uffd_slice *slice, uint64_t at) {
  uint8_t state = page_state(slice, (at - slice->offset) >> slice->terms->page_shift);
  return state == UFFD_PAGE_ABSENT ||
         (state == UFFD_PAGE_REMOVED && slice->terms->cache.common != NULL && !BROKEN("drop-shared"));
}

/* The end of the run of pages from at on that are, or are not, to be filled, within limit: offsets in the region. */
static uint64_t run_end(const struct uffd_slice *slice, uint64_t at, uint64_t limit, bool lacking) {
  uint64_t page_size = slice->terms->page_size;
  while (at < limit && is_lacking(slice, at) == lacking) {
    at += page_size;
  }
  return at;
}

static bool is_filled(uint8_t state) {
  return state == UFFD_PAGE_INSTALLED || state == UFFD_PAGE_POISONED;
}

/*
 * A page that is said to be there, or to be poison, may have been dropped since: by madvise(), by a hole in its file.
 * The page tables tell. States are read before: inline, another lane may fill or poison a page meanwhile, and its state
 * then stands. A page that is only in the page cache is asked for once more, and EEXIST says so.
 */
static void forget_dropped(const struct uffd_slice *slice, uint64_t low, uint64_t high) {
  const struct uffd_terms *terms = slice->terms;
  uint64_t first = (low - slice->offset) >> terms->page_shift;
  uint32_t count = (uint32_t)((high - low) >> terms->page_shift);
  uint8_t before[STEP_BYTES / BASE_PAGE];
  bool there[STEP_BYTES / BASE_PAGE];
  for (uint32_t i = 0; i < count; i++) {
    before[i] = page_state(slice, first + i);
  }
  uint64_t address = slice->start + (low - slice->offset);
  if (uffd_pagemap_read(terms->pid, address, terms->page_size, count, there) < 0) return;
  BARRIER("tables read", NULL);
  for (uint32_t i = 0; i < count; i++) {
    if (!is_filled(before[i]) || there[i]) continue;
    atomic_compare_exchange_strong(&slice->pages[first + i], &before[i], UFFD_PAGE_ABSENT);
  }
}

static bool any_filled(const struct uffd_slice *slice, uint64_t low, uint64_t high) {
  const struct uffd_terms *terms = slice->terms;
  for (uint64_t at = low; at < high; at += terms->page_size) {
    if (is_filled(page_state(slice, (at - slice->offset) >> terms->page_shift))) return true;
  }
  return false;
}

/*
 * How far a look at what comes next reaches: to the end of what the kernel was asked about already, or else a step. So
 * small steps do not ask the kernel each time.
 */
static uint64_t look_ahead(const struct part *part, uint64_t limit) {
  return part->verified > part->at ? min_u64(limit, part->verified) : min_u64(limit, part->at + STEP_BYTES);
}

/* Of another process whose number is not known, the states are all that there is. */
static void verify(struct part *part, const struct uffd_source *source, const struct uffd_slice *slice,
                   uint64_t limit) {
  uint64_t low = max_u64(part->at, part->verified);
  if (low >= limit || (source->foreign && slice->terms->pid == 0)) return;
  part->verified = limit;
  if (any_filled(slice, low, limit)) forget_dropped(slice, low, limit);
}

/* Why a step ended before its bytes were filled. */
enum stop { STOP_NOT, STOP_EVENT, STOP_LATER };

/* One run of pages that are to be filled, at most to limit; *filled: bytes more. */
static enum stop fill_run(struct uffd_lane *lane, struct uffd_source *source, const struct uffd_slice *slice,
                          struct part *part, uint64_t limit, uint64_t *filled_bytes) {
  uint64_t page_size = slice->terms->page_size, high = run_end(slice, part->at, limit, true);
  if (high == part->at) { /* there already, or dropped by its owner, who is to read zeros */
    pass(part, run_end(slice, part->at, limit, false));
    return STOP_NOT;
  }
  uint64_t origin = slice->start - slice->offset; /* modulo 2^64 */
  const struct uffd_filled filled = uffd_line_prefetch(lane, source, slice, origin + part->at, origin + high);
  *filled_bytes += filled.bytes;
  switch (filled.outcome) {
  case UFFD_OUTCOME_DEFERRED:
    return filled.later ? STOP_LATER : STOP_EVENT;
  case UFFD_OUTCOME_FAILED:
    note_error(part->prefetch, filled.error);
    pass(part, part->at + page_size);
    return STOP_NOT;
  case UFFD_OUTCOME_GONE: /* a page that is not mapped or registered any more has nothing to wait for */
    if (source->gone) {
      fail(ESRCH, "The process whose memory it is has ended.");
      note_error(part->prefetch, ESRCH);
    }
    pass(part, part->at + page_size);
    return STOP_NOT;
  default:
    if (is_removed(slice, part->at)) pass(part, part->at + page_size);
    return STOP_NOT; /* the answer may have been shorter: the page states say how far it went */
  }
}

/* What is left of a step that ends where a huge page does, if it can: such pages are filled whole, or not so well. */
static uint64_t trim_step(const struct uffd_slice *slice, uint64_t at, uint64_t bytes) {
  uint64_t address = slice->start + (at - slice->offset), end = round_down(address + bytes, HUGE_PAGE);
  return end > address && bytes >= HUGE_PAGE / 2 ? end - address : bytes;
}

/* So many bytes of what is wanted; *filled: how many went in. */
static enum stop fill_some(struct uffd_reader *reader, struct part *part, uint64_t bytes, uint64_t *filled) {
  struct uffd_source *source = NULL;
  struct uffd_slice *slice = NULL;
  uint64_t end;
  enum stop stop = STOP_NOT;
  while (stop == STOP_NOT && bytes != 0 && find_wanted(part, &end)) {
    if (slice == NULL || slice_high(slice) <= part->at) slice = find_slice(reader, part, &source);
    uint64_t mapped = slice == NULL ? end : min_u64(max_u64(slice->offset, part->at), end);
    pass(part, mapped); /* what is not mapped any more */
    if (mapped == end) continue;
    uint64_t before = part->at;
    bytes = trim_step(slice, before, bytes);
    end = min_u64(min_u64(end, slice_high(slice)), before + bytes); /* beyond what was looked at: to fill huge pages */
    verify(part, source, slice, end);
    stop = fill_run(&reader->lane, source, slice, part, end, filled);
    bytes -= part->at - before;
  }
  return stop;
}

/*
 * Tells the resolver what it will be asked for soon, once for each byte: a source that answers LATER has many requests
 * on their way then. With a rate, no more is told than the rate lets through in a quarter of a second.
 */
static void tell_ahead(struct uffd_lane *lane, struct part *part) {
  const uffd_prefetch *prefetch = part->prefetch;
  const struct uffd_terms *terms = &prefetch->region->terms;
  uffd_resolver *resolver = atomic_load_explicit(&terms->resolver, memory_order_acquire);
  if (!resolver->wants) return;
  uint64_t rate = prefetch->rate.bytes_a_second, ahead = rate == 0 ? AHEAD_BYTES : min_u64(AHEAD_BYTES, rate / 4);
  uint64_t limit = min_u64(part->end, part->at + max_u64(ahead, prefetch->step));
  for (size_t i = part->range; i < prefetch->count && prefetch->ranges[i].offset < limit; i++) {
    uint64_t low = max_u64(max_u64(part->told, part->at), prefetch->ranges[i].offset);
    uint64_t high = min_u64(end_of(&prefetch->ranges[i]), limit);
    if (low < high) uffd_resolver_want(resolver, &lane->asker, low + terms->resolver_offset, high - low);
  }
  part->told = max_u64(part->told, limit);
  uffd_reader_of(lane)->untidy = true; /* it may keep something for that, and give it back when this is over */
}

/* Why the rest is not to be done any more; NULL: it is. */
static const char *find_obstacle(const struct uffd_lane *lane, const uffd_prefetch *prefetch) {
  if (atomic_load(&prefetch->cancelled)) return "The prefetch was cancelled.";
  if (atomic_load(&lane->failure->stopped)) return "The loop has stopped before the range was filled.";
  if (prefetch->region->removed) return "The region was removed before the range was filled.";
  return NULL;
}

/* Passes over what is there, or is not mapped any more, for at most a step. True: the next page is to be filled. */
static bool skip_filled(const struct uffd_reader *reader, struct part *part) {
  struct uffd_source *source;
  uint64_t end;
  if (!find_wanted(part, &end)) return false;
  const struct uffd_slice *slice = find_slice(reader, part, &source);
  uint64_t mapped = slice == NULL ? end : min_u64(max_u64(slice->offset, part->at), end);
  pass(part, mapped);
  if (mapped == end) return false;
  uint64_t limit = look_ahead(part, min_u64(end, slice_high(slice)));
  verify(part, source, slice, limit);
  pass(part, run_end(slice, part->at, limit, false));
  return part->at < limit;
}

/*
 * The bytes of the next step: few while faults come. A huge page is moved in whole, which takes less time than to copy
 * a part of it.
 */
static uint64_t pace(struct uffd_reader *reader, const uffd_prefetch *prefetch) {
  const struct uffd_terms *terms = &prefetch->region->terms;
  bool huge = atomic_load_explicit(&terms->hints->huge, memory_order_relaxed);
  uint64_t bytes = uffd_pace_step(&reader->pace, reader->read_ns, STEP_BYTES);
  return min_u64(max_u64(bytes, huge ? HUGE_PAGE : terms->page_size), prefetch->step);
}

/* The rate is asked for what is to be filled only: to pass over pages costs nothing of it. */
static enum uffd_job_result step(struct uffd_lane *lane, struct uffd_job *job) {
  struct part *part = (struct part *)job;
  struct uffd_reader *reader = uffd_reader_of(lane);
  uffd_prefetch *prefetch = part->prefetch;
  uint64_t filled = 0, end;
  BARRIER("prefetching", part);
  const char *obstacle = find_obstacle(lane, prefetch);
  if (obstacle != NULL) {
    fail(ECANCELED, "%s", obstacle);
    note_error(prefetch, ECANCELED);
    return UFFD_JOB_DONE;
  }
  job->due_ns = 0;
  if (!skip_filled(reader, part)) return find_wanted(part, &end) ? UFFD_JOB_AGAIN : UFFD_JOB_DONE;
  uint64_t bytes = pace(reader, prefetch), again = uffd_rate_take(&prefetch->rate, uffd_now(), bytes);
  if (again != 0) {
    job->due_ns = again; /* removing the region, or closing the loop, does not wait for it */
    return UFFD_JOB_AGAIN;
  }
  tell_ahead(lane, part);
  enum stop stop = fill_some(reader, part, bytes, &filled);
  uffd_rate_give_back(&prefetch->rate, bytes - min_u64(filled, bytes));
  if (stop == STOP_EVENT) job->due_ns = uffd_now() + UFFD_RETRY_MAX_NS / 10;
  if (stop == STOP_LATER) job->due_ns = uffd_now() + UFFD_RETRY_MAX_NS; /* a bell hastens it */
  return find_wanted(part, &end) ? UFFD_JOB_AGAIN : UFFD_JOB_DONE;
}

/* The last one ends the prefetch. Its owner may let go at any moment: all is there until this part has. */
static void over(struct uffd_job *job) {
  uffd_prefetch *prefetch = ((struct part *)job)->prefetch;
  if (job->result < 0) {
    fail(-job->result, "The loop was closed before the range was filled.");
    note_error(prefetch, -job->result);
  }
  if (atomic_fetch_sub(&prefetch->left, 1) == 1) sem_post(&prefetch->ended);
  drop(prefetch);
}

static int compare_ranges(const void *a, const void *b) {
  const struct uffd_range *left = a, *right = b;
  return left->offset < right->offset ? -1 : left->offset > right->offset;
}

static int check_range(const uffd_region *region, const struct uffd_range *range) {
  if (range->offset <= region->terms.length && range->length <= region->terms.length - range->offset) return 0;
  return fail(ERANGE, "%" PRIu64 " bytes at offset %" PRIu64 " are outside a region of %" PRIu64 " bytes.",
              range->length, range->offset, region->terms.length);
}

/* Sorted, whole pages, and what overlaps or meets is one. */
static void tidy(uffd_prefetch *prefetch, uint64_t page_size) {
  size_t kept = 0;
  qsort(prefetch->ranges, prefetch->count, sizeof(prefetch->ranges[0]), compare_ranges);
  for (size_t i = 0; i < prefetch->count; i++) {
    struct uffd_range range = prefetch->ranges[i], *last = kept == 0 ? NULL : &prefetch->ranges[kept - 1];
    if (range.length == 0) continue;
    uint64_t end = round_up(end_of(&range), page_size);
    range.offset = round_down(range.offset, page_size);
    range.length = end - range.offset;
    if (last != NULL && range.offset <= end_of(last)) {
      last->length = max_u64(end_of(last), end) - last->offset;
    } else {
      prefetch->ranges[kept++] = range;
    }
  }
  prefetch->count = kept;
  for (size_t i = 0; i < kept; i++) {
    prefetch->wanted += prefetch->ranges[i].length;
  }
}

static uint64_t step_bytes(const uffd_region *region, uint64_t rate) {
  uint64_t step = rate == 0 ? STEP_BYTES : min_u64(rate / STEPS_A_SECOND, STEP_BYTES);
  return max_u64(round_down(step, region->terms.page_size), region->terms.page_size);
}

/* 0 and a prefetch without parts, or -errno with a sentence. */
static int make(uffd_region *region, const struct uffd_range *ranges, size_t count, uint64_t rate,
                uffd_prefetch **made) {
  const struct uffd_range all = {0, region->terms.length};
  if (ranges == NULL || count == 0) {
    ranges = &all;
    count = 1;
  }
  for (size_t i = 0; i < count; i++) {
    int result = check_range(region, &ranges[i]);
    if (result < 0) return result;
  }
  size_t mapped = sizeof(uffd_prefetch) + count * sizeof(*ranges);
  uffd_prefetch *prefetch = count > SIZE_MAX / 2 / sizeof(*ranges) ? NULL : uffd_pages_map(mapped);
  if (prefetch == NULL) return fail(ENOMEM, "No memory for a prefetch of %zu ranges.", count);
  prefetch->process = uffd_process();
  prefetch->region = region;
  prefetch->loop = region->loop;
  prefetch->engine = region->loop->engine.class;
  prefetch->mapped = mapped;
  prefetch->step = step_bytes(region, rate);
  prefetch->rate.bytes_a_second = rate;
  atomic_init(&prefetch->references, 1);
  sem_init(&prefetch->ended, 0, 0);
  prefetch->count = count;
  memcpy(prefetch->ranges, ranges, count * sizeof(*ranges));
  tidy(prefetch, region->terms.page_size);
  *made = prefetch;
  return 0;
}

/* All parts are counted before the first of them can be over. */
static void post(uffd_prefetch *prefetch) {
  const uffd_region *region = prefetch->region;
  uint32_t count = 0;
  for (uint32_t i = 0; i < region->count; i++) {
    uint64_t start = i * region->slice_bytes, end;
    struct part *part = &prefetch->parts[count];
    *part = (struct part){
        .prefetch = prefetch, .at = start, .end = min_u64(start + region->slice_bytes, region->terms.length)};
    part->job = (struct uffd_job){.run = step, .background = true, .over = over};
    if (find_wanted(part, &end)) count++;
  }
  atomic_store(&prefetch->left, count);
  atomic_fetch_add(&prefetch->references, count);
  for (uint32_t i = 0; i < count; i++) {
    uint64_t slice = (prefetch->parts[i].end - 1) / region->slice_bytes;
    uffd_job_post(uffd_region_reader(region, (uint32_t)slice), &prefetch->parts[i].job);
  }
}

int uffd_region_prefetch_start(uffd_region *region, const struct uffd_range *ranges, size_t count,
                               const struct uffd_prefetch_opts *user_opts, uffd_prefetch **prefetch) {
  struct uffd_prefetch_opts opts = UFFD_PREFETCH_OPTS_INIT;
  *prefetch = NULL;
  int result = uffd_loop_enter(region->loop);
  if (result < 0) return result;
  result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_prefetch_opts");
  if (result == 0) result = uffd_region_check_served(region);
  if (result == 0) result = make(region, ranges, count, opts.rate, prefetch);
  if (*prefetch != NULL) post(*prefetch);
  uffd_loop_leave(region->loop);
  return result;
}

static int failure_of(const uffd_prefetch *prefetch) {
  if (atomic_load(&prefetch->error_state) != 2) return 0;
  return fail(prefetch->error, "%s", prefetch->text);
}

static int check_process(const uffd_prefetch *prefetch) {
  if (prefetch == NULL) return fail(EBADF, "There is no prefetch: the handle is NULL.");
  if (prefetch->process == uffd_process()) return 0;
  return fail(EOWNERDEAD, "This prefetch belongs to the parent process.");
}

int uffd_prefetch_wait(uffd_prefetch *prefetch, int timeout_ms) {
  int result = check_process(prefetch);
  if (result < 0) return result;
  uint64_t end = timeout_ms < 0 ? UINT64_MAX : uffd_now() + (uint64_t)timeout_ms * 1000000;
  if (!is_over(prefetch)) {
    if (uffd_is_callback_of(prefetch->loop)) { /* compares: the loop itself may be gone by now */
      return fail(EDEADLK, "A callback of this loop cannot wait for the loop: call from another thread.");
    }
    bool ended = prefetch->engine->wait(&prefetch->loop->engine, &prefetch->ended, end);
    if (ended) sem_post(&prefetch->ended); /* for whoever waits as well */
  }
  if (!is_over(prefetch)) return 0;
  result = failure_of(prefetch);
  return result < 0 ? result : 1;
}

int uffd_prefetch_status(const uffd_prefetch *prefetch, struct uffd_prefetch_status *status) {
  int result = check_process(prefetch);
  if (result < 0) return result;
  if (status == NULL || status->size < 2 * sizeof(size_t)) {
    return fail(EINVAL, "uffd_prefetch_status: set size, UFFD_PREFETCH_STATUS_INIT does.");
  }
  struct uffd_prefetch_status all = UFFD_PREFETCH_STATUS_INIT;
  all.size = status->size;
  all.done = is_over(prefetch);
  all.error = atomic_load(&prefetch->error_state) == 2 ? prefetch->error : 0;
  all.bytes_wanted = prefetch->wanted;
  all.bytes_done = atomic_load(&prefetch->passed);
  memcpy(status, &all, min_u64(status->size, sizeof(all)));
  return 0;
}

/* A forked child has a copy that nobody works on. */
void uffd_prefetch_close(uffd_prefetch *prefetch) {
  if (prefetch == NULL) return;
  if (prefetch->process != uffd_process()) {
    uffd_pages_unmap(prefetch, prefetch->mapped);
    return;
  }
  atomic_store(&prefetch->cancelled, true);
  drop(prefetch);
}

int uffd_prefetch_now(uffd_region *region, uint64_t offset, uint64_t length) {
  uffd_prefetch *prefetch = NULL;
  const struct uffd_range range = {offset, length};
  int result = make(region, &range, 1, 0, &prefetch);
  if (prefetch == NULL) return result;
  post(prefetch);
  result = uffd_prefetch_wait(prefetch, -1);
  uffd_prefetch_close(prefetch);
  return result < 0 ? result : 0;
}

int uffd_region_prefetch(uffd_region *region, uint64_t offset, uint64_t length) {
  int result = uffd_loop_enter(region->loop);
  if (result < 0) return result;
  const struct uffd_range range = {offset, length};
  result = check_range(region, &range);
  if (length == 0 && result == 0) length = region->terms.length - offset;
  pthread_mutex_lock(&region->lock);
  if (result == 0) result = uffd_region_check_served(region);
  if (result == 0 && length != 0) result = uffd_prefetch_now(region, offset, length);
  pthread_mutex_unlock(&region->lock);
  uffd_loop_leave(region->loop);
  return result;
}
