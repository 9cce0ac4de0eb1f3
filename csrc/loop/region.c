/*
 * Regions: adding, completing, taking out. All of it in the user's threads; what readers look at is changed by jobs.
 */
#include <inttypes.h>
#include <string.h>

#include "loop/addition.h"
#include "loop/line/huge.h"
#include "loop/loop.h"

static uint64_t slice_start(const uffd_region *region, uint32_t i) {
  return i * region->slice_bytes;
}

static uint64_t slice_end(const uffd_region *region, uint32_t i) {
  return i + 1 == region->count ? region->terms.length : (i + 1) * region->slice_bytes;
}

static struct uffd_ledger *ledger_of(const uffd_region *region) {
  return region->loop->engine.ledger;
}

/* Runs a job in the reader of a slice. */
static int run_job(const uffd_region *region, uint32_t i, struct uffd_job *job) {
  return uffd_loop_run_job(region->loop, uffd_region_lane(region, i), job);
}

/*
 * Shared out among the readers in 2 MiB steps, so that a huge page has one reader; small regions have fewer slices.
 */
static void share_out(uffd_region *region) {
  uint64_t length = region->terms.length;
  uint32_t readers = region->object != NULL ? 1 : region->loop->engine.readers_count;
  region->slice_bytes = round_up((length + readers - 1) / readers, max_u64(HUGE_PAGE, region->terms.page_size));
  region->count = (uint32_t)((length + region->slice_bytes - 1) / region->slice_bytes);
}

struct attach_job {
  struct uffd_job job;
  const struct uffd_addition *additions; /* of one object and one reader; detaching: NULL */
  size_t count;
  uffd_region *region;        /* detaching */
  uint32_t index;             /* of the slice */
  struct uffd_source *source; /* a new one for the object, used if it has none in this handler yet; else left */
  bool unregister;            /* detaching: what is foreign, too */
};

/* The object serves one process. Addresses of another process have no claims, so its regions are compared here. */
static int check_place(const struct uffd_source *source, const struct uffd_slice *slice) {
  if (source->count != 0 && source->foreign != slice->terms->foreign) return -EINVAL;
  return slice->terms->foreign && uffd_slices_overlap(source, slice->start, slice->end) ? -EBUSY : 0;
}

static int insert_slice(struct uffd_source *source, const struct uffd_slice *slice) {
  int result = check_place(source, slice);
  if (result == 0) result = uffd_slices_reserve(source, 2);
  /* what another process has left, or what of this one was unmapped without an event */
  if (result == 0) result = uffd_slices_unmap(source, slice->start, slice->end);
  if (result < 0) return result;
  if (source->foreign != slice->terms->foreign) source->foreign = slice->terms->foreign; /* lanes read it meanwhile */
  uffd_slices_insert(source, slice);
  /* a predecessor that died may have read faults there */
  if (source->foreign) uffd_raw_wake(source->fd, slice->start, slice->end - slice->start);
  return 0;
}

/* The slices that a predecessor has left, or if the region is new, one. 1: the ledger does not have it yet. */
static int insert_entry(struct uffd_ledger *ledger, struct uffd_source *source, const struct uffd_slice *slice) {
  source->foreign = true;
  int result = uffd_ledger_take_slices(ledger, slice->terms, source);
  if (result != 0) return result < 0 ? result : 0;
  if (uffd_ledger_is_placed(ledger, slice->terms)) return 0;
  result = insert_slice(source, slice);
  return result < 0 ? result : 1;
}

static int insert_region(struct uffd_ledger *ledger, struct uffd_source *source, const uffd_region *region,
                         uint32_t index) {
  const struct uffd_terms *terms = &region->terms;
  uint64_t start = slice_start(region, index);
  const struct uffd_slice slice = {
      .start = terms->address + start,
      .end = terms->address + slice_end(region, index),
      .offset = start,
      .pages = terms->pages + start / terms->page_size,
      .terms = terms,
  };
  return ledger != NULL ? insert_entry(ledger, source, &slice) : insert_slice(source, &slice);
}

/* The ledger's table is written once for all of them: it has the slices of all regions. */
static enum uffd_job_result attach(struct uffd_lane *lane, struct uffd_job *job) {
  struct attach_job *wanted = (struct attach_job *)job;
  const uffd_region *first = wanted->additions[0].region;
  struct uffd_reader *reader = uffd_reader_of(lane);
  struct uffd_ledger *ledger = reader->engine->ledger;
  struct uffd_source *source = uffd_reader_find_source(reader, uffd_region_object(first, wanted->index));
  bool lacking = false;
  if (source == NULL) {
    source = wanted->source;
    source->foreign = first->terms.foreign;
    job->result = uffd_reader_add_source(reader, source);
    if (job->result < 0) return UFFD_JOB_DONE;
    wanted->source = NULL;
  }
  for (size_t i = 0; i < wanted->count && job->result >= 0; i++) {
    job->result = insert_region(ledger, source, wanted->additions[i].region, wanted->index);
    lacking = lacking || job->result > 0;
  }
  if (job->result >= 0) job->result = lacking ? uffd_ledger_commit(ledger, source) : 0;
  return UFFD_JOB_DONE;
}

/* Foreign, taken out as it is: its faults wait for whoever serves it next. */
static void leave(struct uffd_reader *reader, const struct uffd_terms *terms) {
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    for (uint32_t i = 0; i < source->count; i++) {
      if (source->slices[i].terms == terms) source->slices[i].left = true;
    }
  }
}

static enum uffd_job_result detach(struct uffd_lane *lane, struct uffd_job *job) {
  const struct attach_job *wanted = (const struct attach_job *)job;
  struct uffd_reader *reader = uffd_reader_of(lane);
  struct uffd_ledger *ledger = reader->engine->ledger;
  const struct uffd_terms *terms = &wanted->region->terms;
  if (terms->foreign && wanted->region->served && !wanted->unregister) {
    leave(reader, terms);
    return UFFD_JOB_DONE;
  }
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    if (source->child) continue;
    for (uint32_t i = 0; i < source->count; i++) {
      const struct uffd_slice *slice = &source->slices[i];
      if (slice->terms != terms) continue;
      if (slice->moved || wanted->unregister) uffd_slice_unregister(source, slice);
    }
    uffd_slices_forget(source, terms);
    if (ledger != NULL && wanted->unregister) uffd_ledger_commit(ledger, source);
  }
  uffd_jobs_hasten(reader);
  return UFFD_JOB_DONE;
}

/* All of one object and one reader, which has as many slices of each: those of that index. */
static int attach_slices(const struct uffd_addition *additions, size_t count, uint32_t i) {
  struct attach_job job = {.additions = additions, .count = count, .index = i};
  const uffd_region *region = additions[0].region;
  uffd_job_init(&job.job, attach);
  job.source = uffd_source_create(uffd_region_object(region, i));
  int result = job.source == NULL ? -ENOMEM : run_job(region, i, &job.job);
  if (job.source != NULL) uffd_source_destroy(job.source); /* not taken */
  if (result == -ECANCELED) return fail(ECANCELED, "The loop was closed before the region was served.");
  if (result == -ENOSPC) return fail(EINVAL, "The ledger has no room for another region.");
  if (result == -EBUSY) return fail(EBUSY, "A part of the range is served already: a range is served once.");
  if (result == -EINVAL) return fail(EINVAL, "The object serves another process than this memory lies in.");
  return result < 0 ? fail(-result, "No memory to serve another region.") : 0;
}

static void retract(uffd_region *region) {
  struct uffd_engine *engine = &region->loop->engine;
  if (engine->class->retract != NULL) engine->class->retract(engine, &region->terms);
}

static void detach_slices(uffd_region *region, bool unregister) {
  retract(region);
  for (uint32_t i = 0; i < region->count; i++) {
    struct attach_job job = {.region = region, .index = i, .unregister = unregister};
    uffd_job_init(&job.job, detach);
    run_job(region, i, &job.job);
  }
}

/* The loop's own objects, one a reader, made when the first region needs them. */
static int open_objects(const uffd_region *region) {
  const uffd_loop *loop = region->loop;
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.features = loop->engine.features | loop->engine.class->features;
  opts.optional = UFFD_FEAT_THREAD_ID;
  opts.flags = loop->open_flags;
  opts.route = loop->route;
  for (uint32_t i = 0; i < region->count; i++) {
    struct uffd_reader *reader = uffd_region_reader(region, i);
    if (reader->object != NULL) continue;
    int result = uffd_open(&opts, &reader->object);
    if (result < 0) return result;
  }
  return 0;
}

/* Where others than readers look for slices, they must find this one before a fault can come. */
static int publish(uffd_region *region) {
  struct uffd_engine *engine = &region->loop->engine;
  const struct uffd_terms *terms = &region->terms;
  if (engine->class->publish == NULL) return 0;
  region->whole = (struct uffd_slice){
      .start = terms->address, .end = terms->address + terms->length, .pages = terms->pages, .terms = terms};
  region->source = uffd_reader_find_source(uffd_region_reader(region, 0), uffd_region_object(region, 0));
  return engine->class->publish(engine, &region->whole, region->source);
}

static int register_slices(uffd_region *region) {
  const struct uffd_terms *terms = &region->terms;
  for (uint32_t i = 0; i < region->count; i++) {
    uint64_t start = terms->address + slice_start(region, i), end = terms->address + slice_end(region, i);
    int result = uffd_register(uffd_region_object(region, i), start, end - start, terms->modes, NULL);
    if (result < 0) return result;
  }
  return 0;
}

/* What of [start, end) still is the region's: other memory may lie there by now, and be served through the object. */
static void unregister_slice(uffd_region *region, uffd_object *object, uint64_t start, uint64_t end) {
  struct uffd_span part;
  for (; uffd_claim_next(&region->claim, start, end, &part); start = part.end) {
    if (region->registered) uffd_places_verify(region->memory, object->fd, part.start, part.end);
    uffd_unregister(object, part.start, part.end - part.start); /* what is gone already needs none */
  }
}

void uffd_region_unregister(uffd_region *region) {
  uint64_t address = region->terms.address;
  if (!region->served || region->terms.foreign) return;
  for (uint32_t i = 0; i < region->count; i++) {
    unregister_slice(region, uffd_region_object(region, i), address + slice_start(region, i),
                     address + slice_end(region, i));
  }
  atomic_store(&region->ordinary, true);
}

static uint64_t page_count(const uffd_region *region) {
  return region->terms.length / region->terms.page_size;
}

/*
 * The states of a small region lie beside the rest of it: in pages of their own, a thousand regions would fault a
 * thousand times for them, and miss as often in the TLB.
 */
#define SMALL_STATES (BASE_PAGE / 4)

static _Atomic uint8_t *make_states(uint64_t count) {
  return count <= SMALL_STATES ? uffd_alloc(count) : uffd_pages_map_sparse(count);
}

static void free_states(_Atomic uint8_t *states, uint64_t count) {
  void *bytes = (void *)(uintptr_t)states;
  if (count <= SMALL_STATES) {
    uffd_release(bytes, count);
  } else {
    uffd_pages_unmap(bytes, count);
  }
}

/*
 * Gives up what only a region that is served needs. Forked children go on asking the resolver. Slices that were left
 * have the page states.
 */
static void release_service(uffd_region *region) {
  if (atomic_load(&region->loop->engine.has_children)) return;
  uffd_memory_drop(region->memory);
  uffd_resolver_drop(region->terms.resolver);
  region->memory = NULL;
  region->terms.resolver = NULL;
  if (ledger_of(region) != NULL || region->terms.foreign) return;
  free_states(region->terms.pages, page_count(region));
  region->terms.pages = NULL;
}

/* A destroyed region may be half made, and may be a forked child's copy. */
void uffd_region_destroy(uffd_region *region) {
  retract(region);
  uffd_claim_release(&region->claim);
  if (ledger_of(region) == NULL) free_states(region->terms.pages, page_count(region));
  if (region->memory != NULL) uffd_memory_drop(region->memory);
  if (region->terms.resolver != NULL) uffd_resolver_drop(region->terms.resolver);
  pthread_mutex_destroy(&region->lock);
  DELETE(region);
}

static void set_kind(struct uffd_terms *terms, const char *kind) {
  uint64_t words[UFFD_KIND_WORDS] = {0};
  memcpy(words, kind, strnlen(kind, sizeof(words) - 1));
  for (uint32_t i = 0; i < UFFD_KIND_WORDS; i++) {
    atomic_store_explicit(&terms->kind[i], words[i], memory_order_relaxed);
  }
}

static void set_terms(struct uffd_terms *terms, const uffd_loop *loop, uffd_memory *memory, uffd_resolver *resolver,
                      const struct uffd_region_opts *opts, uint64_t guard) {
  bool only_missing = (opts->modes & (UFFD_MODE_WP | UFFD_MODE_MINOR)) == 0;
  atomic_init(&terms->resolver, resolver);
  terms->pid = memory->pid;
  terms->foreign = memory->kind == UFFD_MEMORY_FOREIGN;
  uint64_t run;
  terms->address =
      terms->foreign ? memory->elsewhere + opts->offset : (uintptr_t)uffd_place_find(memory, opts->offset, &run);
  terms->length = opts->length;
  terms->page_size = memory->page_size;
  terms->page_shift = (uint32_t)__builtin_ctzll(memory->page_size);
  terms->modes = opts->modes | guard;
  terms->tells_minor = (opts->modes & UFFD_MODE_MINOR) != 0;
  terms->doubts = terms->tells_minor && memory->fd >= 0 && uffd_resolver_doubts(resolver);
  terms->cache = (struct uffd_cache){
      .fd = memory->fd,
      .alias = memory->private_mapping || memory->alias == NULL ? NULL : memory->alias + opts->offset,
      .offset = memory->common_offset + opts->offset,
      .common = memory->common,
      .others = memory->private_mapping || memory->common != NULL,
  };
  terms->resolver_offset = opts->resolver_offset;
  bool follows = opts->around == 0 || opts->around == UFFD_AROUND_AUTO;
  terms->around = follows ? UFFD_AROUND_AUTO
                          : round_up(min_u64(opts->around, opts->length), memory->page_size); /* cannot overflow */
  bool private_pages = (memory->private_mapping && memory->fd < 0) || terms->foreign;
  terms->finds_zeros = private_pages && only_missing && memory->page_size == BASE_PAGE;
  bool own_choice = opts->on_error != UFFD_ON_ERROR_DEFAULT;
  terms->on_error = own_choice ? opts->on_error : loop->on_error;
  terms->retry_ms = own_choice ? opts->retry_ms : loop->retry_ms;
  terms->retry_then = own_choice ? opts->retry_then : loop->retry_then;
  terms->cookie = opts->cookie;
  set_kind(terms, resolver->kind);
}

static uffd_region *new_region(uffd_loop *loop, uffd_memory *memory, uffd_resolver *resolver,
                               const struct uffd_region_opts *opts, uint64_t guard) {
  uffd_region *region = NEW(uffd_region);
  if (region == NULL) return NULL;
  struct uffd_terms *terms = &region->terms;
  set_terms(terms, loop, memory, resolver, opts, guard);
  terms->hints = &region->hints;
  terms->latency = region->latency;
  atomic_init(&region->hints.huge, uffd_huge_serves(memory, opts->modes));
  region->loop = loop;
  region->object = opts->object;
  region->memory = memory;
  region->claim = (struct uffd_claim){.start = terms->address,
                                      .end = terms->address + terms->length,
                                      .served = true,
                                      .modes = terms->modes,
                                      .memory = memory,
                                      .bring_in = uffd_region_bring_in,
                                      .discard = uffd_region_discard,
                                      .is_own = uffd_region_is_own,
                                      .ctx = region};
  pthread_mutex_init(&region->lock, NULL);
  uffd_memory_hold(memory);
  uffd_resolver_hold(resolver);
  share_out(region);
  if (ledger_of(region) != NULL) return region; /* which has the page states */
  terms->pages = make_states(page_count(region));
  if (terms->pages != NULL) return region;
  uffd_region_destroy(region);
  return NULL;
}

/* An object has one reader: the handler that was given it first. NULL: it is new to the loop. */
static const uffd_region *find_sharer(const uffd_region *region) {
  const uffd_region *other = region->loop->regions;
  while (other != NULL && (other == region || other->object != region->object)) {
    other = other->next;
  }
  return other;
}

static enum uffd_job_result give_back(struct uffd_lane *lane, struct uffd_job *job) {
  const struct attach_job *wanted = (const struct attach_job *)job;
  struct uffd_reader *reader = uffd_reader_of(lane);
  struct uffd_source *source = uffd_reader_find_source(reader, wanted->region->object);
  if (source != NULL) uffd_reader_drop_source(reader, source);
  return UFFD_JOB_DONE;
}

/* The caller keeps an object that the loop came to nothing with, and may close it. */
static void give_object_back(uffd_region *region) {
  if (region->object == NULL || find_sharer(region) != NULL) return;
  struct attach_job job = {.region = region};
  uffd_job_init(&job.job, give_back);
  run_job(region, 0, &job.job);
}

/* Small regions are shared out too: each begins where the last one ended. */
static int choose_reader(uffd_region *region) {
  uffd_loop *loop = region->loop;
  const uffd_region *sharer = region->object != NULL ? find_sharer(region) : NULL;
  region->first = sharer != NULL ? sharer->first : loop->next_reader;
  if (sharer == NULL) loop->next_reader = (loop->next_reader + region->count) % loop->engine.readers_count;
  return region->object != NULL ? 0 : open_objects(region);
}

/* Under loop->lock. All regions of such a loop have one object, so any other tells which. */
static int enter_ledger(uffd_region *region) {
  struct uffd_ledger *ledger = ledger_of(region);
  const uffd_region *other = region->loop->regions;
  if (ledger == NULL) return 0;
  if (other != NULL && other->object != region->object) {
    return fail(EINVAL, "A loop with a ledger serves one object.");
  }
  return uffd_ledger_enter(ledger, &region->terms);
}

/* In the order in which a fault needs it: first what answers, then the registration that lets faults come. */
static int begin_in_readers(struct uffd_addition *additions, size_t count) {
  int result = 0;
  for (uint32_t i = 0; i < additions[0].region->count && result == 0; i++) {
    result = attach_slices(additions, count, i);
  }
  for (size_t i = 0; i < count; i++) {
    uffd_region *region = additions[i].region;
    if (result == 0) result = publish(region);
    if (result == 0 && !region->terms.foreign) result = register_slices(region);
    region->registered = result == 0 && region->object == NULL;
    region->served = true;
  }
  if (result == 0) return 0;
  const struct uffd_sentence why = uffd_keep_sentence();
  for (size_t i = 0; i < count; i++) {
    uffd_region *region = additions[i].region;
    uffd_region_unregister(region);
    region->served = false;
    detach_slices(region, false);
  }
  give_object_back(additions[0].region);
  uffd_restore_sentence(&why);
  return result;
}

/* Under loop->lock: the last step that is undone here, when what follows fails. */
static int enter(uffd_region *region) {
  struct uffd_terms *terms = &region->terms;
  int result = enter_ledger(region);
  if (result < 0) return result;
  result = uffd_uses_add(region->loop, terms->resolver, terms->page_size);
  if (result < 0 && ledger_of(region) != NULL) uffd_ledger_leave(ledger_of(region), terms);
  return result;
}

static void leave_again(uffd_region *region) {
  uffd_uses_drop(region->loop, region->terms.resolver);
  if (ledger_of(region) != NULL) uffd_ledger_leave(ledger_of(region), &region->terms);
}

/* Under loop->lock. */
static int begin(struct uffd_addition *additions, size_t count) {
  int result = choose_reader(additions[0].region);
  size_t entered = 0;
  for (; entered < count && result == 0; entered += result == 0) {
    additions[entered].region->first = additions[0].region->first;
    result = enter(additions[entered].region);
  }
  if (result == 0) result = begin_in_readers(additions, count);
  if (result == 0) return 0;
  const struct uffd_sentence why = uffd_keep_sentence();
  while (entered > 0) {
    leave_again(additions[--entered].region);
  }
  uffd_restore_sentence(&why);
  return result;
}

static int check_call(const uffd_loop *loop, const uffd_memory *memory, const uffd_resolver *resolver) {
  if (memory == NULL || resolver == NULL) return fail(EINVAL, "A region needs a memory and a resolver.");
  if (memory->process != uffd_process()) return fail(EOWNERDEAD, "This memory belongs to the parent process.");
  return uffd_loop_check_stopped(loop);
}

/* Makes the region, which nobody knows yet. */
static int prepare(uffd_loop *loop, struct uffd_addition *addition) {
  struct uffd_region_opts *opts = &addition->opts;
  uint64_t guard = 0;
  int result = check_call(loop, addition->memory, addition->resolver);
  if (result == 0) result = uffd_region_check_opts(loop, addition->memory, addition->resolver, opts, &guard);
  if (result < 0) return result;
  addition->region = new_region(loop, addition->memory, addition->resolver, opts, guard);
  if (addition->region == NULL) return fail(ENOMEM, "No memory for a region of %" PRIu64 " bytes.", opts->length);
  if (!addition->region->terms.foreign) result = uffd_claim(&addition->region->claim);
  return result == 0 ? uffd_memory_settle(addition->memory, opts->offset, opts->length) : result;
}

static void make_known(uffd_loop *loop, const struct uffd_addition *additions, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const struct uffd_addition *addition = &additions[i];
    addition->region->next = loop->regions;
    loop->regions = addition->region;
    uffd_memory_settled(addition->memory, addition->opts.offset, addition->opts.length);
  }
}

static int add(uffd_loop *loop, struct uffd_addition *additions, size_t count) {
  int result = 0;
  for (size_t i = 0; i < count && result == 0; i++) {
    result = prepare(loop, &additions[i]);
  }
  if (result == 0) {
    pthread_mutex_lock(&loop->lock);
    result = begin(additions, count);
    if (result == 0) make_known(loop, additions, count);
    pthread_mutex_unlock(&loop->lock);
  }
  for (size_t i = 0; i < count && result < 0; i++) {
    if (additions[i].region != NULL) uffd_region_destroy(additions[i].region);
    additions[i].region = NULL;
  }
  return result;
}

int uffd_loop_add_all(uffd_loop *loop, struct uffd_addition *additions, size_t count) {
  int result = uffd_loop_enter(loop);
  if (result < 0) return result;
  result = count != 0 ? add(loop, additions, count) : 0;
  uffd_loop_leave(loop);
  return result;
}

int uffd_loop_add(uffd_loop *loop, uffd_memory *memory, uffd_resolver *resolver, const struct uffd_region_opts *opts,
                  uffd_region **added) {
  struct uffd_addition addition = {.memory = memory, .resolver = resolver, .opts = UFFD_REGION_OPTS_INIT};
  if (added != NULL) *added = NULL;
  int result = uffd_loop_enter(loop);
  if (result < 0) return result;
  result = uffd_take_opts(&addition.opts, sizeof(addition.opts), opts, "uffd_region_opts");
  if (result == 0) result = add(loop, &addition, 1);
  if (result == 0 && added != NULL) *added = addition.region;
  uffd_loop_leave(loop);
  return result;
}

/*
 * Under region->lock. No more faults first; then whoever waits in uffd_memory_read(), who gives up when he sees that
 * the memory is ordinary; then what answers them.
 */
static void end(uffd_region *region, bool complete) {
  if (!region->served) return;
  uffd_region_unregister(region);
  retract(region); /* unclaimed, the range may be served anew: a fault there must not find this region */
  uffd_unclaim(&region->claim);
  detach_slices(region, complete && region->terms.foreign);
  pthread_mutex_lock(&region->loop->lock);
  uffd_uses_drop(region->loop, region->terms.resolver);
  pthread_mutex_unlock(&region->loop->lock);
  region->served = false;
  release_service(region);
}

int uffd_region_complete(uffd_region *region) {
  int result = uffd_loop_enter(region->loop);
  if (result < 0) return result;
  pthread_mutex_lock(&region->lock);
  if (!region->complete) {
    result = uffd_region_check_served(region);
    if (result == 0) result = uffd_prefetch_now(region, 0, region->terms.length);
    if (result == 0) {
      end(region, true);
      region->complete = true;
    }
  }
  pthread_mutex_unlock(&region->lock);
  uffd_loop_leave(region->loop);
  return result;
}

int uffd_region_remove(uffd_region *region) {
  int result = uffd_loop_enter(region->loop);
  if (result < 0) return result;
  if (region->served) region->removed = true; /* before the lock: who waits for a page, with the lock, gives up */
  pthread_mutex_lock(&region->lock);
  end(region, false);
  pthread_mutex_unlock(&region->lock);
  uffd_loop_leave(region->loop);
  return 0;
}

/* Under loop->lock. When each lane has come by once, none asks the old one any more. */
static int replace_resolver(uffd_region *region, uffd_resolver *resolver) {
  uffd_loop *loop = region->loop;
  int result = uffd_uses_add(loop, resolver, region->terms.page_size);
  if (result < 0) return result;
  uffd_resolver_hold(resolver);
  set_kind(&region->terms, resolver->kind);
  uffd_resolver *old = atomic_exchange(&region->terms.resolver, resolver);
  uffd_loop_pass_lanes(loop);
  uffd_uses_drop(loop, old);
  uffd_resolver_drop(old);
  return 0;
}

int uffd_region_set_resolver(uffd_region *region, uffd_resolver *resolver) {
  if (resolver == NULL) return fail(EINVAL, "A region needs a resolver.");
  int result = uffd_loop_enter(region->loop);
  if (result < 0) return result;
  pthread_mutex_lock(&region->lock);
  result = uffd_region_check_served(region);
  if (result == 0) result = uffd_region_check_resolver(region, resolver);
  if (result == 0 && atomic_load(&region->loop->engine.has_children)) {
    result = fail(EBUSY, "Forked children are served from this resolver: it cannot be replaced.");
  }
  if (result == 0) {
    pthread_mutex_lock(&region->loop->lock);
    result = replace_resolver(region, resolver);
    pthread_mutex_unlock(&region->loop->lock);
  }
  pthread_mutex_unlock(&region->lock);
  uffd_loop_leave(region->loop);
  return result;
}
