/*
 * The options of loops and regions: what is refused, and which engine is chosen. The only place that compares engines.
 */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "loop/engine/inline/inline.h"
#include "loop/engine/placed/placement.h"
#include "loop/loop.h"

/* What becomes of a page that cannot be filled must be possible on this kernel. */
static int check_poison(uint32_t on_error) {
  uint64_t features = uffd_kernel_features();
  if (on_error == UFFD_ON_ERROR_ZERO || on_error == UFFD_ON_ERROR_RETRY) return 0;
  if (features == 0 || (features & UFFD_FEAT_POISON) != 0) return 0;
  return fail(EOPNOTSUPP,
              "This kernel cannot poison pages (Linux 6.6 can), which is what becomes of a page whose "
              "resolver failed; choose on_error retry, which the engines threads and pump have, or zero knowingly.");
}

/*
 * Never zeros instead of data: where pages cannot be poisoned, whoever faults waits until the resolver has an answer.
 * Inline it would ask without a pause, so there the user has to choose.
 */
static uint32_t default_on_error(const struct uffd_loop_opts *opts) {
  uint64_t features = uffd_kernel_features();
  bool poisons = features == 0 || (features & UFFD_FEAT_POISON) != 0;
  return poisons || opts->engine == UFFD_ENGINE_INLINE ? UFFD_ON_ERROR_POISON : UFFD_ON_ERROR_RETRY;
}

static int refuse_retry(void) {
  return fail(EINVAL,
              "Inline, a thread would ask a resolver that fails without a pause: choose another on_error, or the "
              "engine threads.");
}

/* A limit of retries, and what follows it; *then becomes what it is by default. */
static int check_retries(uint32_t on_error, uint32_t retry_ms, uint32_t *then) {
  if (retry_ms == 0 && *then == UFFD_ON_ERROR_DEFAULT) return 0;
  if (on_error != UFFD_ON_ERROR_RETRY) return fail(EINVAL, "retry_ms and retry_then are for on_error retry.");
  if (retry_ms == 0) return fail(EINVAL, "retry_then without retry_ms: retries without a limit have no end.");
  if (*then > UFFD_ON_ERROR_STOP) return fail(EINVAL, "retry_then %u: it is zero, poison or stop.", *then);
  if (*then == UFFD_ON_ERROR_DEFAULT) *then = UFFD_ON_ERROR_POISON;
  return check_poison(*then);
}

/* Features that the inline engine excludes, with the reason. */
static int check_inline(uint64_t features) {
  if ((features & UFFD_FEAT_EVENT_FORK) != 0) {
    return fail(EINVAL, "Inline, nobody can answer the faults of a forked child, which would die of SIGBUS: event_fork "
                        "is for the engines threads and pump.");
  }
  if ((features & UFFD_FEAT_EVENT_REMAP) != 0) {
    return fail(EINVAL, "Inline, a mapping that moves is not followed, and whoever touches it would die of SIGBUS: "
                        "event_remap is for the engines threads and pump.");
  }
  return 0;
}

static int check_loop_opts(const struct uffd_loop_opts *opts) {
  if (opts->engine > UFFD_ENGINE_INLINE) return fail(EINVAL, "Unknown engine %u.", opts->engine);
  if (opts->engine == UFFD_ENGINE_INLINE && opts->handlers >= UFFD_HANDLERS_MAX) {
    return fail(EINVAL, "%u handlers: inline, at most %u threads resolve faults at the same time.", opts->handlers,
                UFFD_HANDLERS_MAX - 1);
  }
  if (opts->handlers > UFFD_HANDLERS_MAX) {
    return fail(EINVAL, "%u handlers: a loop has 1 to %u.", opts->handlers, UFFD_HANDLERS_MAX);
  }
  if (opts->engine == UFFD_ENGINE_PUMP && opts->handlers > 1) {
    return fail(EINVAL, "A pump has one handler, the caller; the threads engine has several.");
  }
  if (opts->on_error > UFFD_ON_ERROR_RETRY) return fail(EINVAL, "Unknown on_error %u.", opts->on_error);
  if (opts->on_error == UFFD_ON_ERROR_RETRY && opts->engine == UFFD_ENGINE_INLINE) return refuse_retry();
  if (opts->route > UFFD_ROUTE_DEVICE) return fail(EINVAL, "Unknown route %u.", opts->route);
  const uint32_t user_mode = UFFD_OPEN_USER_MODE_ONLY | UFFD_OPEN_NO_USER_MODE_ONLY;
  if ((opts->open_flags & ~user_mode) != 0) {
    return fail(EINVAL, "open_flags 0x%x: a loop's objects take the user-mode-only flags.", opts->open_flags);
  }
  if (opts->open_flags == user_mode) {
    return fail(EINVAL, "UFFD_OPEN_USER_MODE_ONLY and UFFD_OPEN_NO_USER_MODE_ONLY exclude each other: choose one.");
  }
  if ((opts->features & (UFFD_FEAT_SIGBUS | UFFD_FEAT_WP_ASYNC)) != 0) {
    return fail(EINVAL, "With the features sigbus and wp_async no faults come to a loop.");
  }
  if (opts->engine == UFFD_ENGINE_INLINE && check_inline(opts->features) < 0) return -EINVAL;
  if ((opts->flags & ~(uint64_t)UFFD_LOOP_PAUSED) != 0) {
    return fail(EINVAL, "Unknown flag of uffd_loop_create 0x%" PRIx64 ".", opts->flags);
  }
  if ((opts->flags & UFFD_LOOP_PAUSED) != 0 && opts->engine == UFFD_ENGINE_INLINE) {
    return fail(EINVAL, "Inline, threads answer their own faults: there is nothing to pause.");
  }
  if (opts->ledger != NULL && (opts->engine == UFFD_ENGINE_INLINE || opts->handlers > 1)) {
    return fail(EINVAL, "A loop with a ledger has one handler, and the engine threads or pump.");
  }
  if (opts->placement > UFFD_PLACEMENT_NONE) return fail(EINVAL, "Unknown placement %u.", opts->placement);
  return 0;
}

int uffd_loop_take_opts(struct uffd_loop_opts *opts, const struct uffd_loop_opts *user_opts) {
  int result = uffd_take_opts(opts, sizeof(*opts), user_opts, "uffd_loop_opts");
  if (result == 0) result = check_loop_opts(opts);
  if (result < 0) return result;
  result = check_retries(opts->on_error, opts->retry_ms, &opts->retry_then);
  if (result < 0) return result;
  if (opts->on_error == UFFD_ON_ERROR_DEFAULT) opts->on_error = default_on_error(opts);
  return check_poison(opts->on_error);
}

/*
 * Inline is the fastest, but a system call that meets a missing page then gets EFAULT. Where the loop's objects can
 * only be USER_MODE_ONLY it gets that anyway, and inline costs nothing more.
 */
static uint32_t choose(const struct uffd_loop_opts *opts, const char **why) {
  struct uffd_probe probe = UFFD_PROBE_INIT;
  *why = "It was asked for.";
  if (opts->engine != UFFD_ENGINE_AUTO) return opts->engine;
  bool limited = (opts->open_flags & UFFD_OPEN_USER_MODE_ONLY) != 0;
  if (!limited && uffd_probe(&probe) == 0) limited = probe.user_mode_only != 0;
  bool possible = (uffd_kernel_features() & UFFD_FEAT_SIGBUS) != 0 && opts->handlers <= 1 && opts->flags == 0 &&
                  opts->ledger == NULL && opts->on_error != UFFD_ON_ERROR_RETRY &&
                  (opts->features & uffd_inline_engine.excluded) == 0;
  *why = !limited ? "System calls that meet missing pages are served too; inline they would get EFAULT."
         : possible
             ? "The object is user-mode-only, so that system calls that meet missing pages get EFAULT "
               "anyway, and inline is the fastest."
             : "Inline takes one object, no pause, ledger, retries, event_fork or event_remap, and a kernel with "
               "the feature sigbus (4.14).";
  return limited && possible ? UFFD_ENGINE_INLINE : UFFD_ENGINE_THREADS;
}

/* Inline: two for each processor, so that a thread that waits in a callback does not keep the others waiting. */
static uint32_t count_slots(uint32_t wanted) {
  long processors = sysconf(_SC_NPROCESSORS_ONLN);
  return wanted != 0 ? wanted : (uint32_t)min_u64(processors > 0 ? 2 * (uint64_t)processors : 2, 32);
}

void uffd_choose_engine(uffd_loop *loop, const struct uffd_loop_opts *opts) {
  struct uffd_engine *engine = &loop->engine;
  uint32_t kind = choose(opts, &loop->why);
  engine->readers_count = opts->handlers > 1 ? opts->handlers : 1;
  switch (kind) {
  case UFFD_ENGINE_INLINE:
    engine->class = &uffd_inline_engine;
    engine->readers_count = 1; /* reads events and does jobs */
    engine->slots_count = count_slots(opts->handlers);
    break;
  case UFFD_ENGINE_PUMP:
    engine->class = &uffd_pump_engine;
    break;
  default:
    engine->class = opts->placement == UFFD_PLACEMENT_NONE ? &uffd_threads_engine : &uffd_placed_engine;
    break;
  }
}

static int check_range(const uffd_memory *memory, struct uffd_region_opts *opts) {
  if (memory->token != 0) {
    return fail(EINVAL, "The pages of this memory are a pager's: hand it over to the pager that has lent them.");
  }
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

/* Where the range lies now: unmapping and moving may have cut it. */
static int check_whole(uffd_memory *memory, const struct uffd_region_opts *opts) {
  uint64_t run;
  if (memory->kind == UFFD_MEMORY_FOREIGN) return 0;
  if (uffd_place_find(memory, opts->offset, &run) != NULL && run >= opts->length) return 0;
  return fail(EINVAL,
              "A part of the range at offset %" PRIu64 " has been unmapped or moved away: what is left of it is added "
              "piece by piece.",
              opts->offset);
}

/* A resolver that continues pages is in the tree; filling: one that fills the others from somewhere. */
static bool continues(const uffd_resolver *resolver, bool filling) { /* NOLINT(misc-no-recursion) */
  if (strcmp(resolver->class->kind, "continue") == 0) return !filling || resolver->class->child(resolver, 0) != NULL;
  uffd_resolver *child;
  for (size_t i = 0; resolver->class->child != NULL && (child = resolver->class->child(resolver, i)) != NULL; i++) {
    if (continues(child, filling)) return true;
  }
  return false;
}

bool uffd_resolver_doubts(const uffd_resolver *resolver) {
  return continues(resolver, true);
}

/*
 * Minor faults of memory whose page cache is ours are always told, if the kernel can (5.13, 5.14): a page that is in
 * the cache need not be one that was filled.
 */
static uint64_t guard_modes(const uffd_memory *memory) {
  uint64_t needs = memory->page_size == BASE_PAGE ? UFFD_FEAT_MINOR_SHMEM : UFFD_FEAT_MINOR_HUGETLBFS;
  bool second = memory->alias != NULL || memory->common != NULL;
  bool own = memory->fd >= 0 && second && memory->kind != UFFD_MEMORY_FOREIGN;
  return own && (uffd_kernel_features() & needs) != 0 ? UFFD_MODE_MINOR : 0;
}

/* The answer to a minor fault maps the page; what is told of writes must be protected from its first moment (R23). */
static bool has_both(uint64_t modes) {
  return (modes & UFFD_MODE_MINOR) != 0 && (modes & UFFD_MODE_WP) != 0;
}

static int check_modes(uint64_t modes) {
  if ((modes & (UFFD_MODE_MISSING | UFFD_MODE_MINOR)) == 0) {
    return fail(EINVAL, "A region needs the mode missing or minor: nothing else brings faults to a resolver.");
  }
  if (!has_both(modes) || uffd_continues_protected(uffd_kernel_features())) return 0;
  return fail(EOPNOTSUPP, "This kernel cannot map a page of the page cache write-protected (Linux 6.4 can): leave out "
                          "the mode minor, or wp.");
}

/* The user's own object: what a loop could not read, or would hear nothing from. */
static int check_object(const struct uffd_engine_class *class, const uffd_object *object) {
  int result = uffd_fd(object);
  if (result < 0) return result;
  if (object->blocking) return fail(EINVAL, "A loop polls its objects: open this one without UFFD_OPEN_BLOCKING.");
  if ((object->features & UFFD_FEAT_WP_ASYNC) != 0) {
    return fail(EINVAL, "With the feature wp_async no faults come to a loop.");
  }
  if ((object->features & class->excluded & UFFD_FEAT_SIGBUS) != 0) {
    return fail(EINVAL, "With the feature sigbus faults come to the inline engine only.");
  }
  if ((class->features & ~object->features & UFFD_FEAT_SIGBUS) != 0) {
    result = check_inline(object->features);
    return result < 0 ? result
                      : fail(EINVAL, "The inline engine needs an object with the feature sigbus: open it so, or choose "
                                     "the engine threads.");
  }
  return (object->features & class->excluded) != 0 ? check_inline(object->features) : 0;
}

static int check_foreign(const struct uffd_engine_class *class, const struct uffd_region_opts *opts) {
  if (opts->object == NULL) {
    return fail(EINVAL, "Memory of another process is served through that process's userfaultfd: adopt it, and give it "
                        "as the region's object.");
  }
  if (!class->own_only) return 0;
  return fail(EINVAL, "Inline, threads answer their own faults: another process is served by the engine threads or "
                      "pump.");
}

static int check_ledger(const uffd_loop *loop, bool foreign) {
  if (loop->engine.ledger == NULL || foreign) return 0;
  return fail(EINVAL, "A loop with a ledger serves memory of another process.");
}

/* common: what the region shares; a region that was added before its memory shared anything goes on without. */
static int check_resolver(const uffd_loop *loop, const uffd_memory *memory, const struct uffd_common *common,
                          const uffd_resolver *resolver, const struct uffd_region_opts *opts) {
  bool foreign = memory->kind == UFFD_MEMORY_FOREIGN;
  uint64_t features = opts->object != NULL ? opts->object->features : loop->engine.features;
  const struct uffd_target target = {
      .page_size = memory->page_size,
      .features = uffd_kernel_features(),
      .page_cache = memory->fd >= 0 || (foreign && (opts->modes & UFFD_MODE_MINOR) != 0),
      .common = common,
      .private_mapping = memory->private_mapping && memory->fd < 0,
      .forks = !foreign && (features & UFFD_FEAT_EVENT_FORK) != 0,
  };
  return uffd_resolver_check(resolver, &target, opts->resolver_offset, opts->length);
}

int uffd_region_check_resolver(const uffd_region *region, const uffd_resolver *resolver) {
  const struct uffd_terms *terms = &region->terms;
  const struct uffd_region_opts opts = {.resolver_offset = terms->resolver_offset,
                                        .length = terms->length,
                                        .modes = terms->modes,
                                        .object = region->object};
  bool told = terms->tells_minor && region->memory->fd >= 0;
  if (told && uffd_resolver_doubts(resolver) != terms->doubts) {
    return fail(EINVAL, "Of the old resolver and the new one, only one continues pages and fills others: minor faults "
                        "would be answered from what the other has left in the page cache.");
  }
  return check_resolver(region->loop, region->memory, terms->cache.common, resolver, &opts);
}

int uffd_region_check_opts(const uffd_loop *loop, uffd_memory *memory, const uffd_resolver *resolver,
                           struct uffd_region_opts *opts, uint64_t *guard) {
  const struct uffd_engine_class *class = loop->engine.class;
  bool foreign = memory->kind == UFFD_MEMORY_FOREIGN;
  int result = check_range(memory, opts);
  if (result == 0) result = check_whole(memory, opts);
  if (result == 0) result = check_ledger(loop, foreign);
  if (result == 0 && foreign) result = check_foreign(class, opts);
  if (result == 0 && opts->object != NULL) result = check_object(class, opts->object);
  if (result < 0) return result;
  if (opts->on_error > UFFD_ON_ERROR_RETRY) return fail(EINVAL, "Unknown on_error %u.", opts->on_error);
  if (opts->on_error == UFFD_ON_ERROR_RETRY && class->cannot_retry) return refuse_retry();
  result = check_retries(opts->on_error, opts->retry_ms, &opts->retry_then);
  if (result < 0) return result;
  if (opts->reserved != 0) return fail(EINVAL, "reserved is not 0.");
  bool minor = continues(resolver, false) && !foreign;
  if (opts->modes == 0) opts->modes = UFFD_MODE_MISSING | (minor ? UFFD_MODE_MINOR : 0);
  result = check_modes(opts->modes);
  if (result < 0) return result;
  result = check_resolver(loop, memory, memory->common, resolver, opts);
  if (result < 0) return result;
  *guard = (opts->modes & UFFD_MODE_MISSING) != 0 ? guard_modes(memory) & ~opts->modes : 0;
  if (has_both(opts->modes | *guard) && !uffd_continues_protected(uffd_kernel_features())) *guard = 0;
  return opts->on_error == UFFD_ON_ERROR_DEFAULT ? 0 : check_poison(opts->on_error);
}
