/*
 * The one straight line: fault -> region -> resolver -> answer -> install -> outcome. Every engine walks it, and
 * nothing else; no step reaches back.
 */
#include "loop/line/line.h"

#include <inttypes.h>
#include <string.h>

#include "kernel/verdict.h"
#include "loop/line/bulk.h"
#include "loop/line/shared.h"

/* What one walk along the line knows. */
struct walk {
  struct uffd_lane *lane;
  struct uffd_source *source;
  const struct uffd_slice *slice;
  uint64_t page;  /* address of the faulting page */
  uint64_t flags; /* UFFD_FAULT_* */
  uint64_t read_ns, reach;
  uint32_t tid;
  const struct uffd_hook *hooks[UFFD_HOOKS];
  bool traced;                /* there is a hook: sleepers are woken when it has the record; else at once */
  uint32_t answer;            /* UFFD_ANSWER_*, for the trace */
  uint64_t dst, cover;        /* of the answer: its first address, and bytes */
  uint64_t low, high;         /* addresses: what the region's around would bring in with this page */
  struct uffd_stream *stream; /* around auto: the sequence that the fault belongs to, or NULL */
};

static struct uffd_filled nothing_filled(uint32_t outcome) {
  return (struct uffd_filled){.outcome = outcome, .page_kind = UFFD_ANSWER_LATER};
}

/* Until the resolver has what the page holds. */
static struct uffd_filled put_off(void) {
  struct uffd_filled filled = nothing_filled(UFFD_OUTCOME_DEFERRED);
  filled.later = true;
  return filled;
}

static struct uffd_filled failed(int error) {
  struct uffd_filled filled = nothing_filled(UFFD_OUTCOME_FAILED);
  filled.error = error;
  return filled;
}

/* What the region's `around` would bring in with this page, as far as the slice goes. */
static void find_window(struct walk *walk) {
  const struct uffd_slice *slice = walk->slice;
  const struct uffd_terms *terms = slice->terms;
  uint64_t offset = region_offset(slice, walk->page), first, last;
  if (terms->around == UFFD_AROUND_AUTO) {
    walk->stream = uffd_pattern_follow(&terms->hints->pattern, offset, terms->page_size, terms->length, &first, &last);
  } else {
    first = round_down(offset, terms->around);
    last = first + terms->around;
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
  uint64_t page_size = slice->terms->page_size;
  *low = walk->low = walk->page;
  *high = walk->high = walk->page + page_size;
  if (slice->terms->around > page_size) find_window(walk);
  uint64_t reach = max_u64(walk->high, walk->reach);
  uint64_t index = page_index(slice, walk->page), shift = slice->terms->page_shift;
  *low = slice->start + (absent_before(slice, index, page_index(slice, walk->low)) << shift);
  *high = slice->start + (absent_after(slice, index + 1, page_index(slice, reach)) << shift);
}

static int ask(struct walk *walk, uint64_t low, uint64_t high, struct uffd_answer *answer) {
  struct uffd_lane *lane = walk->lane;
  const struct uffd_terms *terms = walk->slice->terms;
  const struct uffd_fault fault = {
      .offset = region_offset(walk->slice, walk->page) + terms->resolver_offset,
      .region_offset = region_offset(walk->slice, walk->page),
      .address = walk->page,
      .page_size = terms->page_size,
      .cover_offset = region_offset(walk->slice, low) + terms->resolver_offset,
      .cover_length = high - low,
      .flags = terms->tells_minor ? walk->flags : walk->flags & ~UFFD_FAULT_MINOR,
      .tid = walk->tid,
      .handler = lane->index,
      .cookie = terms->cookie,
  };
  uint64_t calls = lane->asker.policy_calls;
  lane->asker.common = terms->cache.common;
  lane->asker.common_offset = terms->cache.offset + fault.region_offset;
  BARRIER("asking", &walk->page);
  int result = uffd_resolver_ask(resolver_of(walk->slice), &lane->asker, &fault, answer);
  if (lane->asker.policy_calls != calls) {
    uffd_count(&lane->counters.policy_calls, lane->asker.policy_calls - calls);
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
  uint64_t page_size = slice->terms->page_size, low = walk->page, high = walk->page + page_size;
  uint64_t origin = slice->offset + slice->terms->resolver_offset - slice->start; /* modulo 2^64 */
  uffd_clip(answer, slice->start + origin, slice->end + origin);
  while (low + origin > answer->offset && may_cover(slice, low - page_size)) {
    low -= page_size;
  }
  while (high + origin < answer->offset + answer->length && may_cover(slice, high)) {
    high += page_size;
  }
  uffd_clip(answer, low + origin, high + origin);
}

/* What is filled for several mappings goes in piece by piece: the one that holds the faulting page. */
static void cut_piece(const struct walk *walk, struct uffd_answer *answer) {
  const struct uffd_slice *slice = walk->slice;
  uint64_t origin = slice->offset + slice->terms->resolver_offset - slice->start; /* modulo 2^64 */
  uint64_t piece = max_u64(UFFD_SHARED_BYTES, slice->terms->page_size), low = round_down(walk->page, piece);
  uffd_clip(answer, max_u64(low, slice->start) + origin, low + piece + origin);
}

bool uffd_line_is_poison(const struct uffd_slice *slice, uint64_t address) {
  return page_state(slice, page_index(slice, address)) == UFFD_PAGE_POISONED && uffd_is_poisoned(address);
}

/* An answer in the resolver's coordinates becomes an installation at addresses. */
static struct uffd_filled install_answer(struct walk *walk, struct uffd_answer *answer) {
  const struct uffd_slice *slice = walk->slice;
  const struct uffd_terms *terms = slice->terms;
  uint64_t low = slice->offset + terms->resolver_offset;
  cut(walk, answer);
  bool shared = answer->shared != 0 && terms->cache.common != NULL;
  if (shared) cut_piece(walk, answer);
  /* a first write to one page needs no protection: it would only bring a second fault */
  bool written = (walk->flags & UFFD_FAULT_WRITE) != 0 && answer->length <= terms->page_size;
  const struct uffd_install install = {
      .source = walk->source,
      .slice = slice,
      .page = walk->page,
      .dst = answer->offset - low + slice->start,
      .length = answer->length,
      .data = answer->data,
      .file_offset = answer->file_offset,
      .verifier = answer->kind == UFFD_ANSWER_FILE ? answer->resolver : NULL,
      .fd = answer->fd,
      .kind = answer->kind,
      .wp = (terms->modes & UFFD_MODE_WP) != 0 && !written && answer->kind != UFFD_ANSWER_POISON,
      .minor = (walk->flags & UFFD_FAULT_MINOR) != 0,
      .doubted = terms->doubts && (walk->flags & UFFD_FAULT_MINOR) != 0 && answer->kind == UFFD_ANSWER_CONTINUE,
      .first_write = (terms->modes & UFFD_MODE_WP) != 0 && written,
      .quiet = walk->traced,
  };
  walk->answer = answer->kind;
  walk->dst = install.dst;
  walk->cover = round_up(answer->length, terms->page_size);
  BARRIER("installing", &walk->page);
  if (walk->lane->crowded && uffd_line_is_poison(slice, walk->page)) { /* since this lane has asked: do not heal it */
    uffd_count(&walk->lane->counters.present, 1);
    return nothing_filled(UFFD_OUTCOME_PRESENT);
  }
  if (page_state(slice, page_index(slice, walk->page)) == UFFD_PAGE_CLAIMED)
    return nothing_filled(UFFD_OUTCOME_DEFERRED);
  const struct uffd_filled filled =
      shared ? uffd_shared_install(walk->lane, &install) : uffd_bulk_install(walk->lane, &install);
  BARRIER("installed", &walk->page);
  return filled;
}

static struct uffd_filled install_page(struct walk *walk, uint32_t kind) {
  const struct uffd_terms *terms = walk->slice->terms;
  struct uffd_answer answer = {
      .kind = kind,
      .offset = region_offset(walk->slice, walk->page) + terms->resolver_offset,
      .length = terms->page_size,
  };
  return install_answer(walk, &answer);
}

static void explain(const struct walk *walk, int error) {
  const struct uffd_terms *terms = walk->slice->terms;
  bool huge = error == ENOMEM && terms->page_size != BASE_PAGE;
  fail(error, "Installing what the %s resolver answered: %s.", resolver_of(walk->slice)->kind,
       huge ? "no huge page is free (sysctl vm.nr_hugepages)" : uffd_error_text(error));
}

/* Resolver, answer, install for a page that is to be filled, with [low, high) as the cover that is wanted. */
static struct uffd_filled fill(struct walk *walk, uint64_t low, uint64_t high) {
  struct uffd_answer answer;
  int result = ask(walk, low, high, &answer);
  if (result < 0) return failed(-result);
  walk->answer = answer.kind;
  if (answer.kind == UFFD_ANSWER_LATER) return put_off();
  const struct uffd_filled filled = install_answer(walk, &answer);
  if (filled.outcome == UFFD_OUTCOME_FAILED && !filled.unread) explain(walk, filled.error);
  return filled;
}

/*
 * The page cache may have lost a page between the message and CONTINUE: then it is missing, and asked for as such.
 * inline: a frame more is stack more that a signal handler needs.
 */
static inline struct uffd_filled fill_or_refill(struct walk *walk, uint64_t low, uint64_t high) {
  struct uffd_filled filled = fill(walk, low, high);
  if (filled.outcome != UFFD_OUTCOME_ABSENT) return filled;
  walk->flags &= ~UFFD_FAULT_MINOR;
  filled = fill(walk, walk->page, walk->page + walk->slice->terms->page_size);
  if (filled.outcome != UFFD_OUTCOME_ABSENT) return filled;
  fail(EFAULT, "The page cache does not have it.");
  return failed(EFAULT);
}

/* The end of the run of absent pages that begins at address. */
static uint64_t absent_end(const struct uffd_slice *slice, uint64_t address, uint64_t limit) {
  uint64_t end = absent_after(slice, page_index(slice, address), page_index(slice, limit));
  return slice->start + (end << slice->terms->page_shift);
}

/*
 * Fills the rest of the window where the answer ended before it (at a hole of a file, at another layer) or where pages
 * were there already. Nobody waits for these pages: one that cannot be filled stays missing.
 */
static void fill_rest(const struct walk *walk, struct uffd_filled *sum) {
  const struct uffd_slice *slice = walk->slice;
  uint64_t page_size = slice->terms->page_size;
  for (uint64_t at = walk->low; at < walk->high; at += page_size) { /* the page states say how far answers went */
    uint64_t end = absent_end(slice, at, walk->high);
    if (end == at) continue;
    struct walk rest = *walk;
    rest.page = at;
    rest.flags = UFFD_FAULT_PREFETCH;
    const struct uffd_filled filled = fill(&rest, at, end);
    uffd_filled_add(sum, &filled);
    if (filled.outcome != UFFD_OUTCOME_INSTALLED && filled.outcome != UFFD_OUTCOME_PRESENT) return;
  }
}

/* Over the pages that are there, in the direction of the sequence: its next fault is beyond them. */
static void pass_present(const struct walk *walk, uint64_t *low, uint64_t *high) {
  const struct uffd_slice *slice = walk->slice;
  uint64_t page_size = slice->terms->page_size;
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
static void go_along(const struct walk *walk, struct uffd_filled *filled) {
  const struct uffd_slice *slice = walk->slice;
  uint64_t low = walk->low, high = walk->high, bytes = 0;
  bool alone = resolver_of(slice)->calls_back || slice->terms->tells_minor;
  if (walk->cover < high - low && !alone) {
    fill_rest(walk, filled);
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

/* What becomes of a page that cannot be filled, by UFFD_ON_ERROR_*. */
static const char *const fates[] = {"", "reads as zeros", "is poisoned", "is poisoned, and the loop stops",
                                    "is tried again"};

/* Puts the page before the thread's sentence, which says why. */
static __attribute__((noinline)) void name_page(const struct walk *walk, int error, const char *what) {
  fail(error, "The page at offset %" PRIu64 " %s: %s", region_offset(walk->slice, walk->page), what, uffd_errmsg());
}

/*
 * The page could not even become what on_error says. Where that heals (zeros of a huge page need one that is free), it
 * waits. Else whoever faults is woken, and gets from the kernel what it gives to anybody who touches such a page.
 */
static uint32_t last_resort(int error) {
  bool heals = uffd_verdict(UFFD_FILL_COPY, error, BASE_PAGE, true) == UFFD_VERDICT_HEALS;
  return heals ? UFFD_OUTCOME_DEFERRED : UFFD_OUTCOME_GONE;
}

/* on_error, and when retries have gone on for too long, what follows them. */
static uint32_t fate_of(const struct walk *walk, bool *given_up) {
  const struct uffd_terms *terms = walk->slice->terms;
  bool limited = terms->on_error == UFFD_ON_ERROR_RETRY && terms->retry_ms != 0;
  *given_up = limited && uffd_now() - walk->read_ns >= terms->retry_ms * UINT64_C(1000000);
  return *given_up ? terms->retry_then : terms->on_error;
}

/* on_error says what the page becomes. */
static struct uffd_filled give_up(struct walk *walk, int error) {
  struct uffd_lane *lane = walk->lane;
  bool given_up;
  uint32_t on_error = fate_of(walk, &given_up);
  if (given_up) fail(error, "it was tried for %u ms. %s", walk->slice->terms->retry_ms, uffd_errmsg());
  name_page(walk, error, fates[on_error]);
  uffd_failure_note(lane->failure, error, on_error == UFFD_ON_ERROR_RETRY);
  uffd_count(&lane->counters.errors, 1); /* who sees the count finds the sentence */
  if (on_error == UFFD_ON_ERROR_RETRY) return nothing_filled(UFFD_OUTCOME_DEFERRED);
  if (on_error == UFFD_ON_ERROR_STOP) atomic_store(&lane->failure->stopped, true);
  struct uffd_filled filled =
      install_page(walk, on_error == UFFD_ON_ERROR_ZERO || BROKEN("poison") ? UFFD_ANSWER_ZERO : UFFD_ANSWER_POISON);
  if (filled.outcome == UFFD_OUTCOME_FAILED) {
    filled.outcome = last_resort(filled.error);
  } else if (filled.outcome == UFFD_OUTCOME_INSTALLED) {
    filled.outcome = UFFD_OUTCOME_FAILED;
    filled.error = error;
  }
  return filled;
}

/* Another thread's fault at the same page, read before this lane poisoned it: an answer now would heal the page. */
static bool was_poisoned_since(const struct walk *walk) {
  return page_state(walk->slice, page_index(walk->slice, walk->page)) == UFFD_PAGE_POISONED &&
         walk->read_ns <= walk->lane->poisoned_ns;
}

static struct uffd_filled resolve(struct walk *walk, bool woken) {
  struct uffd_lane *lane = walk->lane;
  uint64_t page_size = walk->slice->terms->page_size;
  struct uffd_filled filled = nothing_filled(UFFD_OUTCOME_PRESENT);
  if (woken) {
    uffd_count(&lane->counters.present, 1);
    return filled;
  }
  if ((walk->flags & UFFD_FAULT_WP) != 0) {
    walk->answer = UFFD_ANSWER_UNPROTECT;
    walk->cover = page_size;
    return uffd_unprotect(lane, walk->source, walk->page, page_size, walk->traced);
  }
  if (was_poisoned_since(walk)) {
    uffd_count(&lane->counters.present, 1);
    if (!walk->traced) uffd_raw_wake(walk->source->fd, walk->page, page_size);
    filled.poisoned = true;
    return filled;
  }
  if (page_state(walk->slice, page_index(walk->slice, walk->page)) == UFFD_PAGE_REMOVED) {
    return install_page(walk, UFFD_ANSWER_ZERO);
  }
  if (atomic_load_explicit(&lane->failure->stopped, memory_order_relaxed)) {
    return install_page(walk, UFFD_ANSWER_POISON);
  }
  uint64_t low, high;
  find_cover(walk, &low, &high);
  filled = fill_or_refill(walk, low, high);
  if (walk->stream != NULL && filled.outcome == UFFD_OUTCOME_INSTALLED) go_along(walk, &filled);
  return filled;
}

/* Lets the sleepers go on at an address that belongs to no region. *op: what was tried. 0 or -errno. */
static int fill_stray(const struct uffd_lane *lane, const struct uffd_pending *fault, uint64_t page_size,
                      uint32_t *op) {
  int fd = fault->source->fd;
  uint64_t page = round_down(fault->address, page_size), done;
  bool copies = page_size != BASE_PAGE;
  *op = fault->source->lost                      ? UFFD_FILL_POISON
        : (fault->flags & UFFD_FAULT_WP) != 0    ? UFFD_PROTECT
        : (fault->flags & UFFD_FAULT_MINOR) != 0 ? UFFD_FILL_CONTINUE
        : copies                                 ? UFFD_FILL_COPY
                                                 : UFFD_FILL_ZEROPAGE;
  if (*op == UFFD_PROTECT) return uffd_raw_writeprotect(fd, page, page_size, 0);
  return uffd_fill(fd, (enum uffd_fill_op) * op, page, copies ? (uintptr_t)lane->zeros : 0, page_size, 0, &done);
}

/*
 * A fault outside every region: a mapping that mremap has grown in place takes its registration along, and what it
 * gained reads as zeros. A range that is unregistered by now only needs the wake-up.
 */
static uint32_t resolve_stray(const struct uffd_lane *lane, const struct uffd_pending *fault) {
  uint64_t page_size = BASE_PAGE;
  uint32_t op;
  int error = fill_stray(lane, fault, page_size, &op);
  if (error == -EINVAL) {
    page_size = HUGE_PAGE;
    error = fill_stray(lane, fault, page_size, &op);
  }
  if (error == 0) return UFFD_OUTCOME_INSTALLED;
  enum uffd_verdict means = uffd_verdict(op, -error, page_size, true);
  if (means == UFFD_VERDICT_HEALS) return UFFD_OUTCOME_DEFERRED;
  uffd_raw_wake(fault->source->fd, round_down(fault->address, page_size), page_size);
  if (means == UFFD_VERDICT_PRESENT) return UFFD_OUTCOME_PRESENT;
  if (means == UFFD_VERDICT_GONE) fault->source->gone = true;
  return UFFD_OUTCOME_GONE;
}

/* A guessed fault was a minor one if the page cache was asked for the page, and had it. */
static uint64_t settled_flags(const struct uffd_pending *fault, uint64_t flags, const struct uffd_filled *filled) {
  return fault->guessed && filled->page_kind != UFFD_ANSWER_CONTINUE ? flags & ~UFFD_FAULT_MINOR : flags;
}

/* Not inlined: the record would be on the signal stack of whoever is not traced. */
static __attribute__((noinline)) void trace(const struct walk *walk, const struct uffd_pending *fault,
                                            const struct uffd_filled *filled, uint64_t now) {
  const struct uffd_trace record = {
      .time_ns = now,
      .latency_ns = now - fault->read_ns,
      .offset = region_offset(walk->slice, walk->page),
      .cover = walk->cover,
      .flags = settled_flags(fault, walk->flags, filled),
      .tid = walk->tid,
      .handler = walk->lane->index,
      .answer = walk->answer,
      .outcome = filled->outcome,
      .error = filled->outcome == UFFD_OUTCOME_FAILED ? filled->error : 0,
      .cookie = walk->slice->terms->cookie,
  };
  for (uint32_t i = 0; i < UFFD_HOOKS; i++) {
    if (walk->hooks[i] != NULL) walk->hooks[i]->fn(walk->hooks[i]->ctx, &record);
  }
}

/* All that this fault may have filled, and its page unless it waits on. Inline, nobody sleeps. */
static void wake_after_record(const struct walk *walk, const struct uffd_filled *filled) {
  uint64_t start = walk->page, end = walk->page + walk->slice->terms->page_size;
  if (walk->lane->crowded) return;
  if (filled->outcome == UFFD_OUTCOME_DEFERRED) {
    start = filled->woke_start;
    end = filled->woke_end;
  } else if (walk->cover != 0 && walk->answer != UFFD_ANSWER_UNPROTECT) {
    start =
        min_u64(start, walk->high == 0 ? walk->dst : min_u64(walk->dst, walk->low)); /* high 0: no cover was sought */
    end = max_u64(end, max_u64(walk->dst + walk->cover, walk->high));
  }
  if (end > start) uffd_raw_wake(walk->source->fd, start, end - start);
}

/* A fault that was read is counted then; a guessed one when it is known what it was. terms NULL: of no region. */
static void count(struct uffd_lane *lane, const struct uffd_pending *fault, const struct uffd_terms *terms,
                  const struct uffd_filled *filled, uint64_t now) {
  if (filled->outcome == UFFD_OUTCOME_DEFERRED) {
    uffd_count(&lane->counters.deferred, 1);
    return;
  }
  if (fault->guessed) uffd_lane_count_fault(lane, settled_flags(fault, fault->flags, filled));
  if (filled->outcome == UFFD_OUTCOME_GONE) uffd_count(&lane->counters.gone, 1);
  if (terms != NULL) uffd_histogram_add_shared(terms->latency, now - fault->read_ns);
  uffd_histogram_add(&lane->latency, now - fault->read_ns); /* last: by it others see that the fault is settled */
}

static struct uffd_filled answer_nowhere(struct uffd_lane *lane, const struct uffd_pending *fault, bool left) {
  const struct uffd_filled filled = nothing_filled(left ? (uint32_t)UFFD_OUTCOME_DEFERRED : resolve_stray(lane, fault));
  count(lane, fault, NULL, &filled, uffd_now());
  return filled;
}

struct uffd_filled uffd_line_fault(struct uffd_lane *lane, const struct uffd_pending *fault,
                                   const struct uffd_slice *slice) {
  if (slice == NULL || slice->left) return answer_nowhere(lane, fault, slice != NULL);
  struct walk walk = {
      .lane = lane,
      .source = fault->source,
      .slice = slice,
      .page = page_of(slice, fault->address),
      .flags = fault->flags,
      .read_ns = fault->read_ns,
      .reach = fault->reach,
      .tid = fault->tid,
  };
  for (uint32_t i = 0; i < UFFD_HOOKS; i++) {
    walk.hooks[i] = atomic_load_explicit(&lane->trace[i], memory_order_acquire);
    walk.traced = walk.traced || walk.hooks[i] != NULL;
  }
  struct uffd_filled filled = resolve(&walk, fault->woken);
  if (filled.outcome == UFFD_OUTCOME_FAILED) filled = give_up(&walk, filled.error);
  if (filled.outcome == UFFD_OUTCOME_GONE && !BROKEN("wake-gone")) {
    uffd_raw_wake(fault->source->fd, walk.page, slice->terms->page_size);
  }
  uint64_t now = uffd_now();
  count(lane, fault, slice->terms, &filled, now);
  if (walk.traced) {
    trace(&walk, fault, &filled, now);
    wake_after_record(&walk, &filled);
  }
  return filled;
}

struct uffd_filled uffd_line_prefetch(struct uffd_lane *lane, struct uffd_source *source,
                                      const struct uffd_slice *slice, uint64_t low, uint64_t high) {
  bool minor = slice->terms->tells_minor;
  struct walk walk = {
      .lane = lane,
      .source = source,
      .slice = slice,
      .page = low,
      .flags = UFFD_FAULT_PREFETCH | (minor ? UFFD_FAULT_MINOR : 0),
  };
  bool removed = page_state(slice, page_index(slice, low)) == UFFD_PAGE_REMOVED;
  const struct uffd_filled filled = removed ? install_page(&walk, UFFD_ANSWER_ZERO) : fill_or_refill(&walk, low, high);
  uffd_count(&lane->counters.prefetched, filled.bytes >> slice->terms->page_shift);
  if (filled.outcome == UFFD_OUTCOME_FAILED) {
    uffd_count(&lane->counters.errors, 1);
    name_page(&walk, filled.error, "cannot be filled");
  }
  return filled;
}
