/*
 * The one straight line: fault -> region -> resolver -> answer -> install -> outcome. Every engine walks it, and
 * nothing else; no step reaches back.
 */
#include <inttypes.h>
#include <string.h>

#include "loop/engine/batch.h"
#include "loop/line/bulk.h"

/* What one walk along the line knows. */
struct walk {
  struct uffd_handler_state *handler;
  struct uffd_source *source;
  const struct uffd_slice *slice;
  uint64_t page;  /* address of the faulting page */
  uint64_t flags; /* UFFD_FAULT_* */
  uint64_t read_ns;
  uint32_t tid;
  uint32_t answer;            /* UFFD_ANSWER_*, for the trace */
  uint64_t dst, cover;        /* of the answer: its first address, and bytes */
  uint64_t low, high;         /* addresses: what the region's around would bring in with this page */
  struct uffd_stream *stream; /* around auto: the sequence that the fault belongs to, or NULL */
};

static uint64_t region_offset(const struct uffd_slice *slice, uint64_t address) {
  return address - slice->start + slice->offset;
}

static uint64_t page_index(const struct uffd_slice *slice, uint64_t address) {
  return (address - slice->start) / slice->region->page_size;
}

/* What the region's `around` would bring in with this page, as far as the slice goes. */
static void find_window(struct walk *walk) {
  const struct uffd_slice *slice = walk->slice;
  uffd_region *region = slice->region;
  uint64_t offset = region_offset(slice, walk->page), first, last;
  if (region->around == UFFD_AROUND_AUTO) {
    walk->stream = uffd_pattern_follow(&region->pattern, offset, region->page_size, region->length, &first, &last);
  } else {
    first = round_down(offset, region->around);
    last = first + region->around;
  }
  walk->low = walk->page - min_u64(offset - first, walk->page - slice->start);
  walk->high = min_u64(slice->end, walk->page + (last - offset));
}

/*
 * Grows [low, high) in the window, and over the neighbours that others wait for, as long as pages are absent: EEXIST
 * amid an answer costs a second ioctl.
 */
static void find_cover(struct walk *walk, uint64_t *low, uint64_t *high) {
  const struct uffd_slice *slice = walk->slice;
  uint64_t page_size = slice->region->page_size;
  *low = walk->low = walk->page;
  *high = walk->high = walk->page + page_size;
  if (slice->region->around > page_size) find_window(walk);
  uint64_t reach = max_u64(walk->high, uffd_batch_reach(walk->handler, slice, walk->page, walk->flags));
  while (*low > walk->low && page_state(slice, page_index(slice, *low - page_size)) == UFFD_PAGE_ABSENT) {
    *low -= page_size;
  }
  while (*high < reach && page_state(slice, page_index(slice, *high)) == UFFD_PAGE_ABSENT) {
    *high += page_size;
  }
}

static int ask(struct walk *walk, uint64_t low, uint64_t high, struct uffd_answer *answer) {
  struct uffd_handler_state *handler = walk->handler;
  const uffd_region *region = walk->slice->region;
  const struct uffd_fault fault = {
      .offset = region_offset(walk->slice, walk->page) + region->resolver_offset,
      .region_offset = region_offset(walk->slice, walk->page),
      .address = walk->page,
      .page_size = region->page_size,
      .cover_offset = region_offset(walk->slice, low) + region->resolver_offset,
      .cover_length = high - low,
      .flags = walk->flags,
      .tid = walk->tid,
      .handler = handler->index,
      .cookie = region->cookie,
  };
  uint64_t calls = handler->asker.policy_calls;
  BARRIER("asking", &walk->page);
  int result = uffd_resolver_ask(region->resolver, &handler->asker, &fault, answer);
  if (handler->asker.policy_calls != calls) {
    uffd_count(&handler->counters.policy_calls, handler->asker.policy_calls - calls);
  }
  return result;
}

/*
 * Answers may be larger than what was asked for: they end where their owner has dropped a page, which must read as
 * zeros, and at poison, which a copy would heal.
 */
static bool may_cover(const struct uffd_slice *slice, uint64_t address) {
  uint8_t state = page_state(slice, page_index(slice, address));
  return state == UFFD_PAGE_ABSENT || state == UFFD_PAGE_INSTALLED;
}

/* Cuts an answer to the slice, and to the pages around the faulting one that it may cover. */
static void cut(const struct walk *walk, struct uffd_answer *answer) {
  const struct uffd_slice *slice = walk->slice;
  uint64_t page_size = slice->region->page_size, low = walk->page, high = walk->page + page_size;
  uint64_t origin = slice->offset + slice->region->resolver_offset - slice->start; /* modulo 2^64 */
  uffd_clip(answer, slice->start + origin, slice->end + origin);
  while (low + origin > answer->offset && may_cover(slice, low - page_size)) {
    low -= page_size;
  }
  while (high + origin < answer->offset + answer->length && may_cover(slice, high)) {
    high += page_size;
  }
  uffd_clip(answer, low + origin, high + origin);
}

/* Inline, another thread may have poisoned the page while this one asked for it: the answer would heal it. */
static bool is_poisoned_by_now(const struct walk *walk) {
  return walk->handler->loop->engine == UFFD_ENGINE_INLINE &&
         page_state(walk->slice, page_index(walk->slice, walk->page)) == UFFD_PAGE_POISONED &&
         uffd_is_poisoned(walk->page);
}

/* An answer in the resolver's coordinates becomes an installation at addresses. */
static uint32_t install_answer(struct walk *walk, struct uffd_answer *answer) {
  const struct uffd_slice *slice = walk->slice;
  const uffd_region *region = slice->region;
  uint64_t low = slice->offset + region->resolver_offset;
  cut(walk, answer);
  /* a first write to one page needs no protection: it would only bring a second fault */
  bool written = (walk->flags & UFFD_FAULT_WRITE) != 0 && answer->length <= region->page_size;
  const struct uffd_install install = {
      .source = walk->source,
      .slice = slice,
      .page = walk->page,
      .dst = answer->offset - low + slice->start,
      .length = answer->length,
      .data = answer->data,
      .kind = answer->kind,
      .wp = (region->modes & UFFD_MODE_WP) != 0 && !written && answer->kind != UFFD_ANSWER_POISON,
      .minor = (walk->flags & UFFD_FAULT_MINOR) != 0,
  };
  walk->answer = answer->kind;
  walk->dst = install.dst;
  walk->cover = answer->length;
  BARRIER("installing", &walk->page);
  if (is_poisoned_by_now(walk)) {
    uffd_count(&walk->handler->counters.present, 1);
    return UFFD_OUTCOME_PRESENT;
  }
  bool bulk = install.kind == UFFD_ANSWER_BYTES && install.length >= UFFD_BULK_BYTES;
  uint32_t outcome = (bulk ? uffd_bulk_install : uffd_install)(walk->handler, &install);
  BARRIER("installed", &walk->page);
  return outcome;
}

static uint32_t install_page(struct walk *walk, uint32_t kind) {
  const uffd_region *region = walk->slice->region;
  struct uffd_answer answer = {
      .kind = kind,
      .offset = region_offset(walk->slice, walk->page) + region->resolver_offset,
      .length = region->page_size,
  };
  return install_answer(walk, &answer);
}

static void explain(const struct walk *walk, int error) {
  const uffd_region *region = walk->slice->region;
  bool huge = error == ENOMEM && region->page_size != BASE_PAGE;
  fail(error, "Installing the page at offset %" PRIu64 " from the %s resolver: %s.",
       region_offset(walk->slice, walk->page), region->resolver->kind,
       huge ? "no huge page is free (sysctl vm.nr_hugepages)" : strerror(error));
}

/* Resolver, answer, install for a page that is to be filled, with [low, high) as the cover that is wanted. */
static uint32_t fill(struct walk *walk, uint64_t low, uint64_t high) {
  struct uffd_answer answer;
  int result = ask(walk, low, high, &answer);
  if (result < 0) {
    walk->handler->error = -result;
    return UFFD_OUTCOME_FAILED;
  }
  walk->answer = answer.kind;
  if (answer.kind == UFFD_ANSWER_LATER) return UFFD_OUTCOME_DEFERRED;
  uint32_t outcome = install_answer(walk, &answer);
  if (outcome == UFFD_OUTCOME_FAILED) explain(walk, walk->handler->error);
  return outcome;
}

/* The page cache may have lost a page between the message and CONTINUE: then it is missing, and asked for as such. */
static uint32_t fill_or_refill(struct walk *walk, uint64_t low, uint64_t high) {
  uint32_t outcome = fill(walk, low, high);
  if (outcome != UFFD_OUTCOME_ABSENT) return outcome;
  walk->flags &= ~UFFD_FAULT_MINOR;
  outcome = fill(walk, walk->page, walk->page + walk->slice->region->page_size);
  if (outcome != UFFD_OUTCOME_ABSENT) return outcome;
  walk->handler->error = EFAULT;
  fail(EFAULT, "The page cache has no page at offset %" PRIu64 ".", region_offset(walk->slice, walk->page));
  return UFFD_OUTCOME_FAILED;
}

/* The end of the run of absent pages that begins at address. */
static uint64_t absent_end(const struct uffd_slice *slice, uint64_t address, uint64_t limit) {
  while (address < limit && page_state(slice, page_index(slice, address)) == UFFD_PAGE_ABSENT) {
    address += slice->region->page_size;
  }
  return address;
}

/*
 * What is left of the window when the answer ended before it, at a hole of a file or another layer, or when pages were
 * there already. Nobody waits for it: what fails is left to those who will.
 */
static void fill_rest(const struct walk *walk) {
  const struct uffd_slice *slice = walk->slice;
  uint64_t page_size = slice->region->page_size;
  for (uint64_t at = walk->low; at < walk->high; at += page_size) { /* the page states say how far answers went */
    uint64_t end = absent_end(slice, at, walk->high);
    if (end == at) continue;
    struct walk rest = *walk;
    rest.page = at;
    rest.flags = UFFD_FAULT_PREFETCH;
    uint32_t outcome = fill(&rest, at, end);
    if (outcome != UFFD_OUTCOME_INSTALLED && outcome != UFFD_OUTCOME_PRESENT) return;
  }
}

/* Over the pages that are there, in the direction of the sequence: its next fault is beyond them. */
static void pass_present(const struct walk *walk, uint64_t *low, uint64_t *high) {
  const struct uffd_slice *slice = walk->slice;
  uint64_t page_size = slice->region->page_size;
  if (walk->low == walk->page) {
    uint64_t limit = min_u64(slice->end, *high + HUGE_PAGE);
    while (*high < limit && page_state(slice, page_index(slice, *high)) != UFFD_PAGE_ABSENT) {
      *high += page_size;
    }
  } else {
    uint64_t limit = *low - min_u64(*low - slice->start, HUGE_PAGE);
    while (*low > limit && page_state(slice, page_index(slice, *low - page_size)) != UFFD_PAGE_ABSENT) {
      *low -= page_size;
    }
  }
}

/*
 * A sequence goes on where the answer ends. A resolver that calls back is not asked once more for what nobody waits
 * for: it may have good reason to answer for less. Where there are minor faults, the neighbours may be in the page
 * cache.
 */
static void go_along(const struct walk *walk) {
  const struct uffd_slice *slice = walk->slice;
  uint64_t low = walk->low, high = walk->high, bytes = 0;
  bool alone = slice->region->resolver->calls_back || (slice->region->modes & UFFD_MODE_MINOR) != 0;
  if (walk->cover < high - low && !alone) {
    fill_rest(walk);
  } else if (walk->cover != high - low) {
    low = walk->dst;
    high = walk->dst + walk->cover;
    bytes = walk->cover;
  }
  pass_present(walk, &low, &high);
  if (bytes == 0 && low == walk->low && high == walk->high) return;
  low = region_offset(slice, low);
  uffd_pattern_correct(walk->stream, bytes, low, region_offset(slice, high));
}

/* on_error says what the page becomes. A page that cannot even be poisoned now is tried again, never dropped. */
static uint32_t give_up(struct walk *walk) {
  struct uffd_handler_state *handler = walk->handler;
  uint32_t on_error = walk->slice->region->on_error;
  int error = handler->error;
  uffd_count(&handler->counters.errors, 1);
  bool first = uffd_loop_fail(handler->loop, error);
  if (first || on_error != UFFD_ON_ERROR_RETRY) uffd_log(UFFD_LOG_ERROR, "%s", uffd_errmsg());
  if (on_error == UFFD_ON_ERROR_RETRY) return UFFD_OUTCOME_DEFERRED;
  if (on_error == UFFD_ON_ERROR_STOP) atomic_store(&handler->loop->stopped, true);
  uint32_t outcome = install_page(walk, on_error == UFFD_ON_ERROR_ZERO ? UFFD_ANSWER_ZERO : UFFD_ANSWER_POISON);
  if (outcome == UFFD_OUTCOME_FAILED) return UFFD_OUTCOME_DEFERRED; /* handler->error says why not even that */
  handler->error = outcome == UFFD_OUTCOME_DEFERRED ? 0 : error;    /* an event holds it up: that is no failure */
  return outcome == UFFD_OUTCOME_INSTALLED ? UFFD_OUTCOME_FAILED : outcome;
}

static uint32_t resolve(struct walk *walk) {
  struct uffd_handler_state *handler = walk->handler;
  if (uffd_batch_has_woken(handler, walk->source, walk->page, walk->flags)) {
    uffd_count(&handler->counters.present, 1);
    return UFFD_OUTCOME_PRESENT;
  }
  if ((walk->flags & UFFD_FAULT_WP) != 0) {
    return uffd_unprotect(handler, walk->source, walk->page, walk->slice->region->page_size);
  }
  uint8_t state = page_state(walk->slice, page_index(walk->slice, walk->page));
  if (state == UFFD_PAGE_POISONED && walk->read_ns <= handler->poisoned_ns) {
    /* Another thread's fault at the same page, read before it was poisoned: an answer now would heal it. */
    uffd_raw_wake(walk->source->fd, walk->page, walk->slice->region->page_size);
    uffd_count(&handler->counters.present, 1);
    return UFFD_OUTCOME_PRESENT;
  }
  if (state == UFFD_PAGE_REMOVED) return install_page(walk, UFFD_ANSWER_ZERO);
  if (atomic_load_explicit(&handler->loop->stopped, memory_order_relaxed)) {
    return install_page(walk, UFFD_ANSWER_POISON);
  }
  uint64_t low, high;
  find_cover(walk, &low, &high);
  uint32_t outcome = fill_or_refill(walk, low, high);
  if (walk->stream != NULL && outcome == UFFD_OUTCOME_INSTALLED) go_along(walk);
  return outcome;
}

/* What lets the sleepers at an address go on that belongs to no region: 0 or -errno. */
static int fill_stray(const struct uffd_handler_state *handler, const struct uffd_pending *fault, uint64_t page_size) {
  int fd = fault->source->fd;
  uint64_t page = round_down(fault->address, page_size), done;
  if (fault->source->lost) return uffd_fill(fd, UFFD_FILL_POISON, page, 0, page_size, 0, &done);
  if ((fault->flags & UFFD_FAULT_WP) != 0) return uffd_raw_writeprotect(fd, page, page_size, 0);
  if ((fault->flags & UFFD_FAULT_MINOR) != 0) {
    return uffd_fill(fd, UFFD_FILL_CONTINUE, page, 0, page_size, 0, &done);
  }
  if (page_size == BASE_PAGE) return uffd_fill(fd, UFFD_FILL_ZEROPAGE, page, 0, page_size, 0, &done);
  return uffd_fill(fd, UFFD_FILL_COPY, page, (uintptr_t)handler->zeros, page_size, 0, &done);
}

/*
 * A fault outside every region: a mapping that mremap has grown in place takes its registration along, and what it
 * gained reads as zeros. A range that is unregistered by now only needs the wake-up.
 */
static uint32_t resolve_stray(const struct uffd_handler_state *handler, const struct uffd_pending *fault) {
  uint64_t page_size = BASE_PAGE;
  int error = fill_stray(handler, fault, page_size);
  if (error == -EINVAL) {
    page_size = HUGE_PAGE;
    error = fill_stray(handler, fault, page_size);
  }
  if (error == 0) return UFFD_OUTCOME_INSTALLED;
  if (error == -EAGAIN || error == -ENOMEM) return UFFD_OUTCOME_DEFERRED;
  uffd_raw_wake(fault->source->fd, round_down(fault->address, page_size), page_size);
  if (error == -EEXIST) return UFFD_OUTCOME_PRESENT;
  if (error == -ESRCH) fault->source->gone = true;
  return UFFD_OUTCOME_GONE;
}

static void trace(const struct walk *walk, const struct uffd_pending *fault, uint32_t outcome, uint64_t now) {
  struct uffd_handler_state *handler = walk->handler;
  const struct uffd_hook *hook = atomic_load_explicit(&handler->loop->trace, memory_order_acquire);
  if (hook == NULL) return;
  const struct uffd_trace record = {
      .time_ns = now,
      .latency_ns = now - fault->read_ns,
      .offset = region_offset(walk->slice, walk->page),
      .cover = walk->cover,
      .flags = fault->guessed ? uffd_settled_flags(handler, walk->flags) : walk->flags,
      .tid = walk->tid,
      .handler = handler->index,
      .answer = walk->answer,
      .outcome = outcome,
      .error = outcome == UFFD_OUTCOME_FAILED ? handler->error : 0,
      .cookie = walk->slice->region->cookie,
  };
  hook->fn(hook->ctx, &record);
}

static void settle(struct uffd_handler_state *handler, const struct uffd_pending *fault, uint32_t outcome,
                   uint64_t now) {
  if (outcome == UFFD_OUTCOME_DEFERRED) {
    uffd_count(&handler->counters.deferred, 1);
    return;
  }
  if (outcome == UFFD_OUTCOME_GONE) uffd_count(&handler->counters.gone, 1);
  uffd_histogram_add(&handler->latency, now - fault->read_ns);
}

uint32_t uffd_line_fault(struct uffd_handler_state *handler, const struct uffd_pending *fault) {
  const struct uffd_slice *slice = uffd_slice_find(fault->source, fault->address);
  bool left = slice != NULL && slice->region->left;
  if (slice != NULL && !left) return uffd_line_resolve(handler, fault, slice);
  uint32_t outcome = left ? UFFD_OUTCOME_DEFERRED : resolve_stray(handler, fault);
  settle(handler, fault, outcome, uffd_now());
  return outcome;
}

uint32_t uffd_line_resolve(struct uffd_handler_state *handler, const struct uffd_pending *fault,
                           const struct uffd_slice *slice) {
  struct walk walk = {
      .handler = handler,
      .source = fault->source,
      .slice = slice,
      .page = slice->start + round_down(fault->address - slice->start, slice->region->page_size),
      .flags = fault->flags,
      .read_ns = fault->read_ns,
      .tid = fault->tid,
  };
  handler->filled_as = UFFD_ANSWER_LATER;
  uint32_t outcome = resolve(&walk);
  if (outcome == UFFD_OUTCOME_FAILED) outcome = give_up(&walk);
  if (outcome == UFFD_OUTCOME_GONE) uffd_raw_wake(fault->source->fd, walk.page, slice->region->page_size);
  uint64_t now = uffd_now();
  settle(handler, fault, outcome, now);
  trace(&walk, fault, outcome, now);
  return outcome;
}

uint32_t uffd_line_prefetch(struct uffd_handler_state *handler, struct uffd_source *source, struct uffd_slice *slice,
                            uint64_t low, uint64_t high) {
  bool minor = (slice->region->modes & UFFD_MODE_MINOR) != 0;
  struct walk walk = {
      .handler = handler,
      .source = source,
      .slice = slice,
      .page = low,
      .flags = UFFD_FAULT_PREFETCH | (minor ? UFFD_FAULT_MINOR : 0),
  };
  _Atomic uint64_t *bytes = &handler->counters.bytes; /* the only writer is this thread */
  uint64_t before = atomic_load_explicit(bytes, memory_order_relaxed);
  uint32_t outcome = fill_or_refill(&walk, low, high);
  uint64_t filled = atomic_load_explicit(bytes, memory_order_relaxed) - before;
  uffd_count(&handler->counters.prefetched, filled / slice->region->page_size);
  if (outcome == UFFD_OUTCOME_FAILED) uffd_count(&handler->counters.errors, 1);
  return outcome;
}
