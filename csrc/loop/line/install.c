/*
 * Turns an answer into ioctls, and what they say into an outcome. Never asks what a page should hold.
 */
#include "loop/line/install.h"

#include <string.h>
#include <sys/mman.h>

#include "kernel/verdict.h"
#include "loop/line/cached.h"

/* Where the work stands: the range still to do, and what was done so far. */
struct work {
  struct uffd_lane *lane;
  const struct uffd_install *install;
  uint64_t at, end;
  uint32_t asked, kind; /* UFFD_ANSWER_*: of the answer, and of the last step */
  bool narrowed;        /* to the faulting page: the rest of the cover did not work out */
  struct uffd_filled filled;
};

/*
 * A dropped page stays marked as such: the event comes before the kernel drops anything, so what is installed then may
 * be dropped after it, and its owner must read zeros again (R24).
 */
static void mark(const struct uffd_install *install, uint64_t start, uint64_t end, uint8_t state) {
  const struct uffd_slice *slice = install->slice;
  for (uint64_t i = page_index(slice, start); i < page_index(slice, end); i++) {
    if (page_state(slice, i) != UFFD_PAGE_REMOVED) set_page_state(slice, i, state);
  }
}

/*
 * Before the pages are there, because whoever waits for one may look at the counts as soon as he is woken; what did not
 * go in is taken back.
 */
static void count_pages(const struct work *work, uint32_t kind, uint64_t start, uint64_t length, uint64_t sign) {
  const struct uffd_install *install = work->install;
  struct uffd_counters *counters = &work->lane->counters;
  if (length == 0) return;
  uffd_count(&counters->pages[kind], sign * (length >> install->slice->terms->page_shift));
  if (kind == UFFD_ANSWER_POISON) return;
  uffd_count(&counters->bytes, sign * length);
  if (install->first_write && install->page - start < length) uffd_count(&counters->unprotected, sign);
}

static void account(struct work *work, uint32_t kind, uint64_t start, uint64_t done) {
  if (done == 0) return;
  struct uffd_filled *filled = &work->filled;
  bool poison = kind == UFFD_ANSWER_POISON, faulting = work->install->page - start < done;
  if (faulting) filled->page_kind = (uint8_t)kind;
  if (faulting) filled->poisoned = poison;
  if (poison) {
    if (!BROKEN("poison-time")) work->lane->poisoned_ns = uffd_now();
  } else {
    uffd_filled_woke(filled, start, start + done);
    filled->bytes += done;
    if (kind != work->asked) filled->other_way = true;
  }
  mark(work->install, start, start + done, poison ? UFFD_PAGE_POISONED : UFFD_PAGE_INSTALLED);
}

/* The modes of all five have DONTWAKE at the same place. */
static uint64_t mode_of(const struct work *work, uint64_t protecting) {
  return (work->install->wp ? protecting : 0) | (work->install->quiet ? UFFD_COPY_DONTWAKE : 0);
}

/* Zeros where ZEROPAGE does not serve: huge pages have none, and it cannot protect (R23: one ioctl for both). */
static int fill_zeros(struct work *work, int fd, uint64_t dst, uint64_t length, uint64_t *done) {
  uint64_t mode = mode_of(work, UFFD_COPY_WP);
  int result = 0;
  for (*done = 0; *done < length && result == 0;) {
    uint64_t part;
    result = uffd_fill(fd, UFFD_FILL_COPY, dst + *done, (uintptr_t)work->lane->zeros,
                       min_u64(length - *done, HUGE_PAGE), mode, &part);
    *done += part;
  }
  return result;
}

/*
 * The bytes of the last page that the answer does not have are zeros. The others are read by the kernel: where they are
 * a file's that has shrunk, a touch would be a SIGBUS here.
 */
static int fill_tail(struct work *work, int fd, uint64_t dst, const char *data, uint64_t length, uint64_t *done) {
  uint64_t page_size = work->install->slice->terms->page_size;
  int result = uffd_peek(work->lane->staging, data, length);
  *done = 0;
  if (result < 0) return result;
  memset(work->lane->staging + length, 0, page_size - length);
  return uffd_fill(fd, UFFD_FILL_COPY, dst, (uintptr_t)work->lane->staging, page_size, mode_of(work, UFFD_COPY_WP),
                   done);
}

static int fill_bytes(struct work *work, int fd, uint64_t dst, uint64_t length, uint64_t *done) {
  const struct uffd_install *install = work->install;
  const char *data = (const char *)install->data + (dst - install->dst);
  uint64_t has = install->length - (dst - install->dst), page_size = install->slice->terms->page_size;
  uint64_t whole = has >= length ? length : round_down(has, page_size);
  if (whole == 0) return fill_tail(work, fd, dst, data, has, done);
  return uffd_fill(fd, UFFD_FILL_COPY, dst, (uintptr_t)data, whole, mode_of(work, UFFD_COPY_WP), done);
}

/* One step: as much of [at, at+length) as goes without a word from the kernel. The kind may differ from the answer's.
 */
static int fill(struct work *work, uint32_t kind, uint64_t length, uint64_t *done) {
  const struct uffd_install *install = work->install;
  int fd = install->source->fd;
  uint64_t at = work->at;
  switch (kind) {
  case UFFD_ANSWER_BYTES:
    return fill_bytes(work, fd, at, length, done);
  case UFFD_ANSWER_CONTINUE:
    return uffd_fill(fd, UFFD_FILL_CONTINUE, at, 0, length, mode_of(work, UFFD_CONTINUE_WP), done);
  case UFFD_ANSWER_MOVE:
    return uffd_fill(fd, UFFD_FILL_MOVE, at, (uintptr_t)install->data + (at - install->dst), length, mode_of(work, 0),
                     done);
  case UFFD_ANSWER_POISON:
    return uffd_fill(fd, UFFD_FILL_POISON, at, 0, length, mode_of(work, 0), done);
  default:
    if (install->wp || install->slice->terms->page_size != BASE_PAGE) return fill_zeros(work, fd, at, length, done);
    return uffd_fill(fd, UFFD_FILL_ZEROPAGE, at, 0, length, mode_of(work, 0), done);
  }
}

static uint64_t page_size_of(const struct work *work) {
  return work->install->slice->terms->page_size;
}

/* The page at work->at is done with, one way or another. */
static void pass_page(struct work *work, uint32_t outcome) {
  if (work->at == work->install->page) work->filled.outcome = outcome;
  work->at += page_size_of(work);
}

/* R5: EEXIST wakes nobody. Only the faulting page has a sleeper that is known of; others bring their own message. */
static void step_over_present(struct work *work) {
  const struct uffd_install *install = work->install;
  uint64_t index = page_index(install->slice, work->at);
  uint8_t state = page_state(install->slice, index);
  if (state == UFFD_PAGE_ABSENT || state == UFFD_PAGE_CLAIMED) {
    set_page_state(install->slice, index, UFFD_PAGE_INSTALLED);
  }
  if (work->at == install->page) {
    uffd_count(&work->lane->counters.present, 1);
    if (!install->quiet && !BROKEN("wake-present")) {
      uffd_raw_wake(install->source->fd, install->page, page_size_of(work));
    }
    uffd_filled_woke(&work->filled, install->page, install->page + page_size_of(work));
  }
  pass_page(work, UFFD_OUTCOME_PRESENT);
}

static void finish(struct work *work, uint32_t outcome) {
  work->filled.outcome = outcome;
  work->at = work->end;
}

/* Whether the kernel's copy can have read the page at work->at from where its bytes lie. */
static bool is_readable(const struct work *work) {
  const struct uffd_install *install = work->install;
  uint64_t at = work->at - install->dst, length = min_u64(install->length - at, page_size_of(work));
  const char *data = (const char *)install->data + at;
  char byte;
  for (uint64_t i = 0; i < length; i += BASE_PAGE) {
    if (uffd_peek(&byte, data + i, 1) != 0) return false;
  }
  return uffd_peek(&byte, data + length - 1, 1) == 0;
}

static enum uffd_verdict verdict(const struct work *work, int error) {
  static const uint32_t ops[] = {[UFFD_ANSWER_ZERO] = UFFD_FILL_ZEROPAGE,
                                 [UFFD_ANSWER_BYTES] = UFFD_FILL_COPY,
                                 [UFFD_ANSWER_CONTINUE] = UFFD_FILL_CONTINUE,
                                 [UFFD_ANSWER_MOVE] = UFFD_FILL_MOVE,
                                 [UFFD_ANSWER_POISON] = UFFD_FILL_POISON};
  bool readable = error == -EFAULT && work->kind == UFFD_ANSWER_BYTES && is_readable(work);
  return uffd_verdict(ops[work->kind], -error, page_size_of(work), readable);
}

/* Something stood in the way of the page at work->at, which the answer covers besides the faulting one. */
static void narrow(struct work *work) {
  work->narrowed = true;
  work->at = work->install->page;
  work->end = work->at + page_size_of(work);
}

/* Something stood in the way of the page at work->at. */
static void judge(struct work *work, int error) {
  const struct uffd_install *install = work->install;
  enum uffd_verdict means = verdict(work, error);
  bool wide = work->at != install->page || work->end - work->at > page_size_of(work);
  if (means == UFFD_VERDICT_PRESENT) {
    step_over_present(work);
  } else if (work->at > install->page) {
    work->at = work->end; /* the cover beyond the faulting page is a wish */
  } else if (means == UFFD_VERDICT_HEALS) {
    finish(work, UFFD_OUTCOME_DEFERRED);
  } else if (means == UFFD_VERDICT_GONE) {
    install->source->gone = true;
    finish(work, UFFD_OUTCOME_GONE);
  } else if (wide && !work->narrowed) {
    narrow(work);
  } else if (means == UFFD_VERDICT_OWNERS) {
    finish(work, UFFD_OUTCOME_GONE);
  } else if (means == UFFD_VERDICT_ABSENT) {
    finish(work, UFFD_OUTCOME_ABSENT);
  } else {
    work->filled.error = -error;
    finish(work, UFFD_OUTCOME_FAILED);
  }
}

/* One step in one way, and what it came to. */
static int step(struct work *work, uint32_t kind, uint64_t length) {
  uint64_t done;
  count_pages(work, kind, work->at, length, 1);
  int error = fill(work, kind, length, &done);
  count_pages(work, kind, work->at + done, length - done, UINT64_MAX);
  work->kind = kind;
  account(work, kind, work->at, done);
  work->at += done;
  return error;
}

/*
 * Whether the page at work->at is there. A forked child can only be judged by what was installed. Of another process
 * more may be there than is known, when a predecessor served it: its page tables tell, where they may be read.
 */
static bool is_mapped(const struct work *work) {
  const struct uffd_slice *slice = work->install->slice;
  const struct uffd_source *source = work->install->source;
  unsigned char resident = 0;
  if (source->foreign) return uffd_is_present(source->child ? 0 : slice->terms->pid, work->at, page_size_of(work));
  if (source->child) {
    return page_state(slice, page_index(slice, work->at)) == UFFD_PAGE_INSTALLED;
  }
  mincore((void *)(uintptr_t)work->at, 1, &resident); /* NOLINT(performance-no-int-to-ptr) */
  return (resident & 1) != 0;
}

static uint64_t bytes_of_page(const struct work *work) {
  return min_u64(work->install->dst + work->install->length - work->at, page_size_of(work));
}

/* Of a page that is in the page cache already, the bytes go in there; work->at stays, and CONTINUE comes next. */
static int fill_cached(struct work *work, uint32_t kind) {
  const struct uffd_install *install = work->install;
  if (kind != UFFD_ANSWER_BYTES || install->slice->terms->cache.alias == NULL) return 0;
  return uffd_cached_fill(install->slice, work->at, (const char *)install->data + (work->at - install->dst),
                          bytes_of_page(work));
}

/*
 * The page cache may have what would not go in: where minor faults are told, waking alone would bring the same fault
 * again and again; and in huge pages EEXIST is no proof: Linux also says it when none is free (R22).
 */
static int map_cached(struct work *work, uint32_t kind, bool minor) {
  uint64_t page = work->at;
  int error = fill_cached(work, kind);
  if (error == 0) error = step(work, UFFD_ANSWER_CONTINUE, page_size_of(work));
  if (error != 0 && error != -EEXIST) uffd_cached_undo(work->install->slice, page);
  if (error == -EINVAL && work->install->wp && !uffd_continues_protected(uffd_kernel_features())) return -EOPNOTSUPP;
  if (minor || (error != -EFAULT && error != -EINVAL)) return error;
  return is_mapped(work) ? -EEXIST : -ENOMEM;
}

/*
 * One page in another way, where there is one. MOVE says more than the others: a hole in the source is zeros (the page
 * has moved before); a page that is shared, pinned, or of a kind that does not move, is copied, and so is all on a
 * kernel without MOVE.
 */
static int try_other_way(struct work *work, uint32_t kind, int error) {
  const struct uffd_install *install = work->install;
  if (kind == UFFD_ANSWER_MOVE && error == -ENOENT) return step(work, UFFD_ANSWER_ZERO, page_size_of(work));
  if (kind == UFFD_ANSWER_MOVE && verdict(work, error) == UFFD_VERDICT_COPY) {
    return step(work, UFFD_ANSWER_BYTES, page_size_of(work));
  }
  if (error != -EEXIST || kind > UFFD_ANSWER_BYTES) return error;
  const struct uffd_terms *terms = install->slice->terms;
  bool minor = install->minor && work->at == install->page, huge = page_size_of(work) != BASE_PAGE;
  if (terms->cache.others) return huge && !is_mapped(work) ? -ENOMEM : error;
  return minor || terms->cache.alias != NULL || huge ? map_cached(work, kind, minor) : error;
}

/* Pages are continued up to the first that only seems to be there. */
static void doubt(struct work *work) {
  const struct uffd_slice *slice = work->install->slice;
  uint64_t from = work->install->page;
  if (uffd_cached_is_empty(slice, from)) {
    finish(work, UFFD_OUTCOME_ABSENT);
    return;
  }
  while (from > work->at && !uffd_cached_is_empty(slice, from - page_size_of(work))) {
    from -= page_size_of(work);
  }
  work->at = from;
  work->end = uffd_cached_run(slice, work->install->page, work->end);
}

struct uffd_filled uffd_install(struct uffd_lane *lane, const struct uffd_install *install) {
  /* MOVE cannot protect, nor reach another process */
  bool copy = install->kind == UFFD_ANSWER_MOVE && (install->wp || install->source->foreign);
  uint32_t kind = copy ? UFFD_ANSWER_BYTES : install->kind;
  struct work work = {
      .lane = lane,
      .install = install,
      .at = install->dst,
      .asked = kind,
      .filled = {.outcome = UFFD_OUTCOME_INSTALLED, .page_kind = UFFD_ANSWER_LATER},
  };
  work.end = install->dst + round_up(install->length, page_size_of(&work));
  if (install->doubted) doubt(&work);
  while (work.at < work.end) {
    int error = step(&work, kind, work.end - work.at);
    if (error != 0) error = try_other_way(&work, kind, error);
    if (error != 0) judge(&work, error);
  }
  return work.filled;
}

struct uffd_filled uffd_unprotect(struct uffd_lane *lane, struct uffd_source *source, uint64_t page, uint64_t page_size,
                                  bool quiet) {
  struct uffd_filled filled = {.outcome = UFFD_OUTCOME_INSTALLED, .page_kind = UFFD_ANSWER_LATER};
  uffd_count(&lane->counters.unprotected, 1);
  int error = uffd_raw_writeprotect(source->fd, page, page_size, quiet ? UFFD_WRITEPROTECT_DONTWAKE : 0);
  if (error == 0) {
    filled.unprotected = true;
    uffd_filled_woke(&filled, page, page + page_size);
    return filled;
  }
  uffd_count(&lane->counters.unprotected, UINT64_MAX);
  enum uffd_verdict means = uffd_verdict(UFFD_PROTECT, -error, page_size, false);
  if (means == UFFD_VERDICT_GONE) source->gone = true;
  filled.outcome = means == UFFD_VERDICT_HEALS ? UFFD_OUTCOME_DEFERRED : UFFD_OUTCOME_GONE;
  return filled;
}

void uffd_filled_woke(struct uffd_filled *filled, uint64_t start, uint64_t end) {
  bool before = end == filled->woke_start, behind = start == filled->woke_end;
  if (!behind) filled->woke_start = start;
  if (!before) filled->woke_end = end;
}

void uffd_filled_add(struct uffd_filled *sum, const struct uffd_filled *more) {
  sum->bytes += more->bytes;
  sum->other_way = sum->other_way || more->other_way;
  sum->poisoned = sum->poisoned || more->poisoned;
  if (more->woke_end != 0) uffd_filled_woke(sum, more->woke_start, more->woke_end);
}
