/*
 * Regions: adding, completing, taking out. All of it in the user's threads; what handlers look at is
 * changed by jobs.
 */
#include <inttypes.h>
#include <string.h>

#include "loop/engine/inline/inline.h"
#include "loop/line/bulk.h"
#include "loop/pages/ledger.h"

/* ---- slices of a region */

static uint64_t slice_start(const uffd_region *region, uint32_t i) {
  return i * region->slice_bytes;
}

static uint64_t slice_end(const uffd_region *region, uint32_t i) {
  return i + 1 == region->count ? region->length : (i + 1) * region->slice_bytes;
}

static struct uffd_handler_state *handler_of(const uffd_region *region, uint32_t i) {
  return region->loop->handlers[region->first + i];
}

static uffd_object *object_of(const uffd_region *region, uint32_t i) {
  return region->object != NULL ? region->object : handler_of(region, i)->object;
}

/* Shared out among the handlers in 2 MiB steps, so that a huge page has one handler; small regions have fewer slices.
 */
static void share_out(uffd_region *region) {
  uint32_t handlers = region->object != NULL ? 1 : region->loop->shards;
  region->slice_bytes = round_up((region->length + handlers - 1) / handlers, max_u64(HUGE_PAGE, region->page_size));
  region->count = (uint32_t)((region->length + region->slice_bytes - 1) / region->slice_bytes);
}

/* ---- options */

static int check_range(const uffd_memory *memory, struct uffd_region_opts *opts) {
  if (opts->offset % memory->page_size != 0 || opts->length % memory->page_size != 0) {
    return fail(EINVAL, "Offset %" PRIu64 " and length %" PRIu64 " are not whole pages of %" PRIu64 " bytes.",
                opts->offset, opts->length, memory->page_size);
  }
  if (opts->offset >= memory->length || opts->length > memory->length - opts->offset) {
    return fail(EINVAL, "%" PRIu64 " bytes at offset %" PRIu64 " are outside a memory of %" PRIu64 " bytes.",
                opts->length, opts->offset, memory->length);
  }
  if (opts->length == 0) opts->length = memory->length - opts->offset;
  if (opts->resolver_offset % memory->page_size != 0) {
    return fail(EINVAL, "resolver_offset %" PRIu64 " is not whole pages of %" PRIu64 " bytes.", opts->resolver_offset,
                memory->page_size);
  }
  return 0;
}

static bool continues(const uffd_resolver *resolver) { /* NOLINT(misc-no-recursion) */
  if (strcmp(resolver->class->kind, "continue") == 0) return true;
  uffd_resolver *child;
  for (size_t i = 0; resolver->class->child != NULL && (child = resolver->class->child(resolver, i)) != NULL; i++) {
    if (continues(child)) return true;
  }
  return false;
}

/* The user's own object: what a loop could not read, or would hear nothing from. */
static int check_object(const uffd_loop *loop, const uffd_object *object) {
  int result = uffd_fd(object);
  if (result < 0) return result;
  if (object->blocking) return fail(EINVAL, "A loop polls its objects: open this one without UFFD_OPEN_BLOCKING.");
  if ((object->features & UFFD_FEAT_WP_ASYNC) != 0) {
    return fail(EINVAL, "With the feature wp_async no faults come to a loop.");
  }
  bool wants_sigbus = loop->engine == UFFD_ENGINE_INLINE, has_sigbus = (object->features & UFFD_FEAT_SIGBUS) != 0;
  if (wants_sigbus && uffd_check_inline(object->features) < 0) return -EINVAL;
  if (wants_sigbus == has_sigbus) return 0;
  if (has_sigbus) return fail(EINVAL, "With the feature sigbus faults come to the inline engine only.");
  return fail(EINVAL, "The inline engine needs an object with the feature sigbus: open it so, or choose the engine "
                      "threads.");
}

static int check_foreign(const uffd_loop *loop, const struct uffd_region_opts *opts) {
  if (opts->object == NULL) {
    return fail(EINVAL, "Memory of another process is served through that process's userfaultfd: adopt it, and give it "
                        "as the region's object.");
  }
  if (loop->engine != UFFD_ENGINE_INLINE) return 0;
  return fail(EINVAL, "Inline, threads answer their own faults: another process is served by the engine threads or "
                      "pump.");
}

static int check_ledger(const uffd_loop *loop, bool foreign) {
  if (loop->ledger == NULL || foreign) return 0;
  return fail(EINVAL, "A loop with a ledger serves memory of another process.");
}

static int check_opts(const uffd_loop *loop, const uffd_memory *memory, const uffd_resolver *resolver,
                      struct uffd_region_opts *opts) {
  bool foreign = memory->kind == UFFD_MEMORY_FOREIGN;
  int result = check_range(memory, opts);
  if (result == 0) result = check_ledger(loop, foreign);
  if (result == 0 && foreign) result = check_foreign(loop, opts);
  if (result == 0 && opts->object != NULL) result = check_object(loop, opts->object);
  if (result < 0) return result;
  if (opts->on_error > UFFD_ON_ERROR_RETRY) return fail(EINVAL, "Unknown on_error %u.", opts->on_error);
  if (opts->on_error == UFFD_ON_ERROR_RETRY && loop->engine == UFFD_ENGINE_INLINE) return uffd_refuse_retry();
  if (opts->reserved != 0) return fail(EINVAL, "reserved is not 0.");
  if (opts->modes == 0) opts->modes = UFFD_MODE_MISSING | (continues(resolver) && !foreign ? UFFD_MODE_MINOR : 0);
  if ((opts->modes & (UFFD_MODE_MISSING | UFFD_MODE_MINOR)) == 0) {
    return fail(EINVAL, "A region needs the mode missing or minor: nothing else brings faults to a resolver.");
  }
  uint64_t features = opts->object != NULL ? opts->object->features : loop->features;
  struct uffd_target target = {
      .page_size = memory->page_size,
      .features = uffd_kernel_features(),
      .page_cache = memory->fd >= 0 || (foreign && (opts->modes & UFFD_MODE_MINOR) != 0),
      .private_mapping = memory->private_mapping && memory->fd < 0,
      .forks = !foreign && (features & UFFD_FEAT_EVENT_FORK) != 0,
  };
  result = uffd_resolver_check(resolver, &target, opts->resolver_offset, opts->length);
  if (result < 0) return result;
  return opts->on_error == UFFD_ON_ERROR_DEFAULT ? 0 : uffd_check_poison(opts->on_error);
}

/* ---- bringing a page in for uffd_memory_read() and _write() where the kernel may not take the fault */

struct bring_in_job {
  struct uffd_job job;
  const uffd_region *region;
  uint64_t address, started_ns;
  uint64_t flags; /* UFFD_FAULT_*: as if such a fault had been read */
};

static struct uffd_source *find_server(const struct uffd_handler_state *handler, const struct bring_in_job *wanted,
                                       struct uffd_slice **slice) {
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    *slice = source->child ? NULL : uffd_slice_find(source, wanted->address);
    if (*slice != NULL && (*slice)->region == wanted->region) return source;
  }
  return NULL;
}

static enum uffd_job_result bring_in_now(struct uffd_handler_state *handler, struct uffd_job *job) {
  const struct bring_in_job *wanted = (const struct bring_in_job *)job;
  struct uffd_slice *slice;
  struct uffd_source *source = find_server(handler, wanted, &slice);
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
  if (uffd_line_fault(handler, &fault) == UFFD_OUTCOME_DEFERRED) {
    job->due_ns = uffd_now() + UFFD_RETRY_MAX_NS;
    return UFFD_JOB_AGAIN;
  }
  uffd_count_guessed(handler, wanted->flags);
  uint64_t index = (wanted->address - slice->start) / slice->region->page_size;
  if (page_state(slice, index) == UFFD_PAGE_POISONED) job->result = -EHWPOISON;
  return UFFD_JOB_DONE;
}

/* What the kernel would have told. A page that can be read lacks the permission to write. */
static uint64_t guess_flags(const uffd_region *region, uint64_t address, bool write) {
  char byte;
  bool protects = (region->modes & UFFD_MODE_WP) != 0;
  const void *there = (const void *)(uintptr_t)address; /* NOLINT(performance-no-int-to-ptr) */
  if (write && protects && uffd_peek(&byte, there, 1) == 0) return UFFD_FAULT_WRITE | UFFD_FAULT_WP;
  return (write ? UFFD_FAULT_WRITE : 0) | ((region->modes & UFFD_MODE_MINOR) != 0 ? UFFD_FAULT_MINOR : 0);
}

static int bring_in(void *ctx, uint64_t address, bool write) {
  const uffd_region *region = ctx;
  if (region->loop->engine == UFFD_ENGINE_INLINE && uffd_current_handler == NULL) {
    return uffd_inline_bring_in(address, guess_flags(region, address, write));
  }
  if (uffd_current_handler != NULL && uffd_current_handler->loop == region->loop) {
    return fail(EDEADLK, "A callback touches memory that its own loop serves.");
  }
  if (uffd_is_poisoned(address)) return -EHWPOISON;
  struct bring_in_job job = {.region = region, .address = address, .started_ns = uffd_now()};
  job.flags = guess_flags(region, address, write);
  uffd_job_init(&job.job, bring_in_now);
  uint64_t i = (address - region->address) / region->slice_bytes;
  return uffd_job_run(handler_of(region, (uint32_t)i), &job.job);
}

/* ---- adding */

struct attach_job {
  struct uffd_job job;
  uffd_region *region;
  uint32_t index;             /* of the slice */
  struct uffd_source *source; /* a new one for the object, used if it has none in this handler yet; else left */
  bool unregister;            /* detaching: what is foreign, too */
};

static struct uffd_source *find_source(const struct uffd_handler_state *handler, const uffd_object *object) {
  struct uffd_source *source = handler->sources;
  while (source != NULL && source->object != object) {
    source = source->next;
  }
  return source;
}

/* The object's addresses are of one process. Other processes' addresses are in no book of claims: here is looked. */
static int check_place(const struct uffd_source *source, const struct uffd_slice *slice) {
  if (source->count != 0 && source->foreign != slice->region->foreign) return -EINVAL;
  return slice->region->foreign && uffd_slices_overlap(source, slice->start, slice->end) ? -EBUSY : 0;
}

static int insert_slice(struct uffd_source *source, const struct uffd_slice *slice) {
  int result = check_place(source, slice);
  if (result == 0) result = uffd_slices_reserve(source, 2);
  if (result == 0 && slice->region->foreign) result = uffd_slices_unmap(source, slice->start, slice->end);
  if (result < 0) return result;
  source->foreign = slice->region->foreign;
  uffd_slices_insert(source, slice);
  /* a predecessor that died may have read faults there */
  if (source->foreign) uffd_raw_wake(source->fd, slice->start, slice->end - slice->start);
  return 0;
}

/* The slices that a predecessor has left, or if the region is new, one. */
static int insert_entry(struct uffd_ledger *ledger, struct uffd_source *source, const struct uffd_slice *slice) {
  source->foreign = true;
  int result = uffd_ledger_take_slices(ledger, slice->region, source);
  if (result != 0) return result < 0 ? result : 0;
  if (uffd_ledger_is_placed(ledger, slice->region)) return 0;
  result = insert_slice(source, slice);
  return result < 0 ? result : uffd_ledger_commit(ledger, source);
}

static enum uffd_job_result attach(struct uffd_handler_state *handler, struct uffd_job *job) {
  struct attach_job *wanted = (struct attach_job *)job;
  uffd_region *region = wanted->region;
  struct uffd_source *source = find_source(handler, object_of(region, wanted->index));
  if (source == NULL) {
    source = wanted->source;
    source->foreign = region->foreign;
    job->result = uffd_handler_add_source(handler, source);
    if (job->result < 0) return UFFD_JOB_DONE;
    wanted->source = NULL;
  }
  uint64_t start = slice_start(region, wanted->index);
  const struct uffd_slice slice = {
      .start = region->address + start,
      .end = region->address + slice_end(region, wanted->index),
      .offset = start,
      .pages = region->pages + start / region->page_size,
      .region = region,
  };
  struct uffd_ledger *ledger = handler->loop->ledger;
  job->result = ledger != NULL ? insert_entry(ledger, source, &slice) : insert_slice(source, &slice);
  return UFFD_JOB_DONE;
}

static enum uffd_job_result detach(struct uffd_handler_state *handler, struct uffd_job *job) {
  const struct attach_job *wanted = (const struct attach_job *)job;
  if (wanted->region->foreign && wanted->region->served && !wanted->unregister) {
    wanted->region->left = true;
    return UFFD_JOB_DONE;
  }
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    if (source->child) continue;
    for (uint32_t i = 0; i < source->count; i++) {
      const struct uffd_slice *slice = &source->slices[i];
      if (slice->region != wanted->region) continue;
      if (slice->moved || wanted->unregister) uffd_slice_unregister(source, slice);
    }
    uffd_slices_forget(source, wanted->region);
    if (handler->loop->ledger != NULL && wanted->unregister) uffd_ledger_commit(handler->loop->ledger, source);
  }
  uffd_jobs_hasten(handler);
  return UFFD_JOB_DONE;
}

static int attach_slice(uffd_region *region, uint32_t i) {
  struct attach_job job = {.region = region, .index = i};
  uffd_job_init(&job.job, attach);
  job.source = uffd_source_create(object_of(region, i));
  int result = job.source == NULL ? -ENOMEM : uffd_job_run(handler_of(region, i), &job.job);
  if (job.source != NULL) uffd_source_destroy(job.source); /* not taken */
  if (result == -ECANCELED) return fail(ECANCELED, "The loop was closed before the region was served.");
  if (result == -ENOSPC) return fail(EINVAL, "The ledger has no room for another region.");
  if (result == -EBUSY) return fail(EBUSY, "A part of the range is served already: a range is served once.");
  if (result == -EINVAL) return fail(EINVAL, "The object serves another process than this memory lies in.");
  return result < 0 ? fail(-result, "No memory to serve another region.") : 0;
}

static void detach_slices(uffd_region *region, bool unregister) {
  if (region->loop->engine == UFFD_ENGINE_INLINE) uffd_directory_remove(region);
  for (uint32_t i = 0; i < region->count; i++) {
    struct attach_job job = {.region = region, .index = i, .unregister = unregister};
    uffd_job_init(&job.job, detach);
    uffd_job_run(handler_of(region, i), &job.job);
  }
}

/* The loop's own objects, one a handler, made when the first region needs them. */
static int open_objects(uffd_loop *loop, uint32_t count) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.features = loop->features | (loop->engine == UFFD_ENGINE_INLINE ? UFFD_FEAT_SIGBUS : 0);
  opts.optional = UFFD_FEAT_THREAD_ID;
  opts.flags = loop->open_flags;
  opts.route = loop->route;
  for (uint32_t i = 0; i < count; i++) {
    if (loop->handlers[i]->object != NULL) continue;
    int result = uffd_open(&opts, &loop->handlers[i]->object);
    if (result < 0) return result;
  }
  return 0;
}

/* Inline, signal handlers must find the slice before a fault can come. */
static int publish_slices(uffd_region *region) {
  if (region->loop->engine != UFFD_ENGINE_INLINE) return 0;
  const struct uffd_entry entry = {
      .slice = {.start = region->address,
                .end = region->address + region->length,
                .pages = region->pages,
                .region = region},
      .source = find_source(handler_of(region, 0), object_of(region, 0)),
      .loop = region->loop,
  };
  return uffd_directory_add(&entry) < 0 ? fail(ENOMEM, "No memory to serve another region.") : 0;
}

static int register_slices(uffd_region *region) {
  for (uint32_t i = 0; i < region->count; i++) {
    uint64_t start = region->address + slice_start(region, i), end = region->address + slice_end(region, i);
    int result = uffd_register(object_of(region, i), start, end - start, region->modes, NULL);
    if (result < 0) return result;
  }
  return 0;
}

void uffd_slice_unregister(const struct uffd_source *source, const struct uffd_slice *slice) {
  uffd_raw_unregister(source->fd, slice->start, slice->end - slice->start);
  uffd_raw_wake(source->fd, slice->start, slice->end - slice->start);
}

void uffd_region_unregister(uffd_region *region) {
  if (!region->served || region->foreign) return;
  for (uint32_t i = 0; i < region->count; i++) {
    uint64_t start = region->address + slice_start(region, i), end = region->address + slice_end(region, i);
    uffd_unregister(object_of(region, i), start, end - start); /* what is gone already needs none */
  }
}

static uint64_t page_count(const uffd_region *region) {
  return region->length / region->page_size;
}

/* A destroyed region may be half made, and may be a forked child's copy. */
void uffd_region_destroy(uffd_region *region) {
  if (region->loop->engine == UFFD_ENGINE_INLINE) uffd_directory_remove(region);
  uffd_unclaim(&region->claim);
  if (region->loop->ledger == NULL) uffd_pages_unmap((void *)(uintptr_t)region->pages, page_count(region));
  uffd_memory_drop(region->memory);
  uffd_resolver_drop(region->resolver);
  pthread_mutex_destroy(&region->lock);
  DELETE(region);
}

static uffd_region *new_region(uffd_loop *loop, uffd_memory *memory, uffd_resolver *resolver,
                               const struct uffd_region_opts *opts) {
  uffd_region *region = NEW(uffd_region);
  if (region == NULL) return NULL;
  region->loop = loop;
  region->memory = memory;
  region->resolver = resolver;
  region->foreign = memory->kind == UFFD_MEMORY_FOREIGN;
  region->address = uffd_memory_start(memory) + opts->offset;
  region->length = opts->length;
  region->page_size = memory->page_size;
  region->modes = opts->modes;
  region->resolver_offset = opts->resolver_offset;
  region->around = opts->around == UFFD_AROUND_AUTO
                       ? opts->around
                       : round_up(min_u64(opts->around, opts->length), memory->page_size); /* cannot overflow */
  bool private_pages = (memory->private_mapping && memory->fd < 0) || region->foreign;
  bool only_missing = (opts->modes & (UFFD_MODE_WP | UFFD_MODE_MINOR)) == 0;
  region->finds_zeros = private_pages && only_missing && memory->page_size == BASE_PAGE;
  region->huge = uffd_huge_serves(region);
  region->on_error = opts->on_error != UFFD_ON_ERROR_DEFAULT ? opts->on_error : loop->on_error;
  region->object = opts->object;
  region->cookie = opts->cookie;
  memcpy(region->kind, resolver->kind, strnlen(resolver->kind, sizeof(region->kind) - 1));
  region->claim = (struct uffd_claim){.start = region->address,
                                      .end = region->address + region->length,
                                      .served = true,
                                      .bring_in = bring_in,
                                      .ctx = region};
  pthread_mutex_init(&region->lock, NULL);
  uffd_memory_hold(memory);
  uffd_resolver_hold(resolver);
  if (loop->ledger == NULL) region->pages = uffd_pages_map(page_count(region));
  if (loop->ledger == NULL && region->pages == NULL) {
    uffd_region_destroy(region);
    return NULL;
  }
  share_out(region);
  return region;
}

/* An object has one reader: the handler that was given it first. NULL: it is new to the loop. */
static const uffd_region *find_sharer(const uffd_region *region) {
  const uffd_region *other = region->loop->regions;
  while (other != NULL && (other == region || other->object != region->object)) {
    other = other->next;
  }
  return other;
}

static enum uffd_job_result give_back(struct uffd_handler_state *handler, struct uffd_job *job) {
  const struct attach_job *wanted = (const struct attach_job *)job;
  struct uffd_source *source = find_source(handler, wanted->region->object);
  if (source != NULL) uffd_handler_drop_source(handler, source);
  return UFFD_JOB_DONE;
}

/* The caller keeps an object that the loop came to nothing with, and may close it. */
static void give_object_back(uffd_region *region) {
  if (region->object == NULL || find_sharer(region) != NULL) return;
  struct attach_job job = {.region = region};
  uffd_job_init(&job.job, give_back);
  uffd_job_run(handler_of(region, 0), &job.job);
}

static int choose_handlers(uffd_region *region) {
  uffd_loop *loop = region->loop;
  if (region->object == NULL) return open_objects(loop, region->count);
  const uffd_region *sharer = find_sharer(region);
  region->first = sharer != NULL ? sharer->first : loop->next_handler++ % loop->shards;
  return 0;
}

/* Under loop->lock: the last step that is undone here, when what follows fails. */
static int enter_ledger(uffd_region *region) {
  struct uffd_ledger *ledger = region->loop->ledger;
  if (ledger == NULL) return 0;
  for (const uffd_region *other = region->loop->regions; other != NULL; other = other->next) {
    if (other->object != region->object) return fail(EINVAL, "A loop with a ledger serves one object.");
  }
  return uffd_ledger_enter(ledger, region);
}

/* In the order in which a fault needs it: first what answers, then the registration that lets faults come. */
static int begin(uffd_region *region) {
  uffd_loop *loop = region->loop;
  int result = choose_handlers(region);
  if (result == 0) result = enter_ledger(region);
  if (result < 0) return result;
  result = uffd_uses_add(loop, region->resolver, region->page_size);
  if (result < 0 && loop->ledger != NULL) uffd_ledger_leave(loop->ledger, region);
  if (result < 0) return result;
  for (uint32_t i = 0; i < region->count && result == 0; i++) {
    result = attach_slice(region, i);
  }
  if (result == 0) result = publish_slices(region);
  if (result == 0 && !region->foreign) result = register_slices(region);
  region->served = true;
  if (result < 0) {
    const struct uffd_sentence why = uffd_keep_sentence();
    uffd_region_unregister(region);
    region->served = false;
    detach_slices(region, false);
    give_object_back(region);
    uffd_uses_drop(loop, region->resolver);
    if (loop->ledger != NULL) uffd_ledger_leave(loop->ledger, region);
    uffd_restore_sentence(&why);
  }
  return result;
}

static int check_call(const uffd_loop *loop, const uffd_memory *memory, const uffd_resolver *resolver) {
  if (memory == NULL || resolver == NULL) return fail(EINVAL, "A region needs a memory and a resolver.");
  if (memory->process != uffd_process()) return fail(EOWNERDEAD, "This memory belongs to the parent process.");
  return uffd_loop_check_stopped(loop);
}

static int add(uffd_loop *loop, uffd_memory *memory, uffd_resolver *resolver, const struct uffd_region_opts *user_opts,
               uffd_region **added) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  int result = check_call(loop, memory, resolver);
  if (result == 0) result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_region_opts");
  if (result == 0) result = check_opts(loop, memory, resolver, &opts);
  if (result < 0) return result;
  uffd_region *region = new_region(loop, memory, resolver, &opts);
  if (region == NULL) return fail(ENOMEM, "No memory for a region of %" PRIu64 " bytes.", opts.length);
  if (!region->foreign) result = uffd_claim(&region->claim);
  if (result == 0) {
    pthread_mutex_lock(&loop->lock);
    result = begin(region);
    if (result == 0) {
      region->next = loop->regions;
      loop->regions = region;
    }
    pthread_mutex_unlock(&loop->lock);
  }
  if (result < 0) {
    uffd_region_destroy(region);
    return result;
  }
  if (added != NULL) *added = region;
  return 0;
}

int uffd_loop_add(uffd_loop *loop, uffd_memory *memory, uffd_resolver *resolver, const struct uffd_region_opts *opts,
                  uffd_region **added) {
  if (added != NULL) *added = NULL;
  int result = uffd_loop_enter(loop);
  if (result < 0) return result;
  result = add(loop, memory, resolver, opts, added);
  uffd_loop_leave(loop);
  return result;
}

/* ---- taking out */

int uffd_region_check_served(const uffd_region *region) {
  if (region->served) return uffd_loop_check_started(region->loop);
  return fail(ENOENT, "The region is %s: nothing is left to fill.", region->complete ? "complete" : "removed");
}

/* Under region->lock. Whoever waits in uffd_memory_read() first; then no more faults; then what answers them. */
static void end(uffd_region *region, bool complete) {
  if (!region->served) return;
  uffd_unclaim(&region->claim);
  uffd_region_unregister(region);
  detach_slices(region, complete && region->foreign);
  pthread_mutex_lock(&region->loop->lock);
  uffd_uses_drop(region->loop, region->resolver);
  pthread_mutex_unlock(&region->loop->lock);
  region->served = false;
}

int uffd_region_complete(uffd_region *region) {
  int result = uffd_loop_enter(region->loop);
  if (result < 0) return result;
  pthread_mutex_lock(&region->lock);
  if (!region->complete) {
    result = uffd_region_check_served(region);
    if (result == 0) result = uffd_prefetch_now(region, 0, region->length);
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
  pthread_mutex_lock(&region->lock);
  if (region->served) region->removed = true; /* before its slices go: what finds none knows why */
  end(region, false);
  pthread_mutex_unlock(&region->lock);
  uffd_loop_leave(region->loop);
  return 0;
}
