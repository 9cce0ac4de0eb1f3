/*
 * Takes an answer of bytes apart: huge pages, zero pages, and what has to be copied. The piece that holds the faulting
 * page goes first; what comes of that page is the outcome, and the rest is a wish.
 */
#include "loop/line/bulk.h"

#include "loop/line/fetch.h"
#include "loop/line/huge.h"
#include "loop/line/zero.h"

#define PIECE (UINT64_C(256) << 10) /* bytes that are fetched at once: they stay in a processor's cache */

struct bulk {
  struct uffd_lane *lane;
  const struct uffd_install *install;
  uint64_t end;     /* of the answer's last page */
  bool huge, zeros; /* what is looked for */
  bool fetches;     /* pieces come into the lane's staging; else they are copied from where they lie */
  bool zeros_found;
  bool stopped;  /* a piece did not go in */
  bool answered; /* the faulting page has its outcome */
  struct uffd_filled filled;
};

static bool holds_page(const struct bulk *bulk, uint64_t start, uint64_t end) {
  return start <= bulk->install->page && bulk->install->page < end;
}

/* A part of the answer by itself, from data. */
static struct uffd_filled put(struct bulk *bulk, uint32_t kind, uint64_t start, uint64_t length, const char *data) {
  struct uffd_install part = *bulk->install;
  bool holds = holds_page(bulk, start, start + length);
  part.kind = kind;
  part.dst = start;
  part.length = length;
  part.data = data;
  if (!holds) part.page = start;
  const struct uffd_filled filled = uffd_install(bulk->lane, &part);
  if (holds) {
    bulk->filled.outcome = filled.outcome;
    bulk->filled.error = filled.error;
    bulk->filled.page_kind = filled.page_kind;
    bulk->answered = true;
  }
  uffd_filled_add(&bulk->filled, &filled);
  if (filled.outcome != UFFD_OUTCOME_INSTALLED && filled.outcome != UFFD_OUTCOME_PRESENT) bulk->stopped = true;
  return filled;
}

/* Runs of zero pages and of others take turns. */
static void put_runs(struct bulk *bulk, uint64_t start, uint64_t end, const char *data) {
  for (uint64_t at = start, next; at < end && !bulk->stopped; at = next) {
    bool zero = uffd_is_zero_page(data + (at - start));
    for (next = at + BASE_PAGE; next < end && uffd_is_zero_page(data + (next - start)) == zero;) {
      next += BASE_PAGE;
    }
    bulk->zeros_found = bulk->zeros_found || zero;
    put(bulk, zero ? UFFD_ANSWER_ZERO : UFFD_ANSWER_BYTES, at, next - at, data + (at - start));
  }
}

/* From where the bytes lie in memory. The answer may end within the last page. */
static void put_unseen(struct bulk *bulk, uint64_t start, uint64_t end) {
  const struct uffd_install *install = bulk->install;
  uint64_t length = min_u64(end, install->dst + install->length) - start;
  put(bulk, UFFD_ANSWER_BYTES, start, length, (const char *)install->data + (start - install->dst));
}

/* The page at `at` could not be read. */
static void give_up(struct bulk *bulk, uint64_t at, int error) {
  bulk->stopped = true;
  if (bulk->install->page != at) return;
  bulk->filled.outcome = UFFD_OUTCOME_FAILED;
  bulk->filled.error = -error;
  bulk->filled.unread = true;
  bulk->answered = true;
}

static void put_fetched(struct bulk *bulk, uint64_t start, uint64_t end) {
  char *staging = bulk->lane->staging;
  int error = 0;
  uint64_t has = uffd_fetch(bulk->install, start, end, staging, &error);
  if (has < end - start && bulk->install->kind != UFFD_ANSWER_FILE) { /* the kernel's copy finds out where and why */
    put_unseen(bulk, start, end);
    return;
  }
  if (bulk->zeros) {
    put_runs(bulk, start, start + has, staging);
  } else if (has != 0) {
    put(bulk, UFFD_ANSWER_BYTES, start, has, staging);
  }
  if (has < end - start && !bulk->stopped) give_up(bulk, start + has, error);
}

static uint64_t piece_of(const struct bulk *bulk) {
  return max_u64(PIECE, bulk->install->slice->terms->page_size);
}

static void put_small(struct bulk *bulk, uint64_t start, uint64_t end) {
  if (!bulk->fetches) {
    put_unseen(bulk, start, end);
    return;
  }
  for (uint64_t at = start, next; at < end && !bulk->stopped; at = next) {
    next = min_u64(end, at + piece_of(bulk));
    put_fetched(bulk, at, next);
  }
}

static uint64_t count_zero_pages(const char *bytes, uint64_t length) {
  uint64_t count = 0;
  for (uint64_t at = 0; at < length; at += BASE_PAGE) {
    if (uffd_is_zero_page(bytes + at)) count++;
  }
  return count;
}

/*
 * False: it has to go in as small pages do. Where moving does not take, as in locked memory, it is not tried again. In
 * a huge page zero pages would be memory, so a block that has some goes in as small pages.
 */
static bool put_huge(struct bulk *bulk, uint64_t start) {
  char *staging = uffd_huge_fits(bulk->install, start) ? uffd_huge_staging(bulk->lane) : NULL;
  int error;
  if (staging == NULL || uffd_fetch(bulk->install, start, start + HUGE_PAGE, staging, &error) < HUGE_PAGE) return false;
  if (count_zero_pages(staging, HUGE_PAGE) != 0) {
    put_runs(bulk, start, start + HUGE_PAGE, staging);
  } else if (put(bulk, UFFD_ANSWER_MOVE, start, HUGE_PAGE, staging).other_way) {
    atomic_store_explicit(&bulk->install->slice->terms->hints->huge, false, memory_order_relaxed);
  }
  return true;
}

static uint64_t unit_of(const struct bulk *bulk) {
  return bulk->huge ? HUGE_PAGE : bulk->fetches ? piece_of(bulk) : UINT64_MAX;
}

/* The end of the piece that begins at start. */
static uint64_t piece_end(const struct bulk *bulk, uint64_t start) {
  uint64_t unit = unit_of(bulk);
  return min_u64(bulk->end, round_down(start, unit) + unit);
}

static void put_one(struct bulk *bulk, uint64_t start, uint64_t end) {
  if (bulk->huge && put_huge(bulk, start)) return;
  put_small(bulk, start, end);
}

static void take_apart(struct bulk *bulk) {
  const struct uffd_install *install = bulk->install;
  uint64_t first = max_u64(install->dst, round_down(install->page, unit_of(bulk)));
  put_one(bulk, first, piece_end(bulk, first));
  for (uint64_t at = install->dst, next; at < bulk->end && !bulk->stopped; at = next) {
    next = piece_end(bulk, at);
    if (at != first) put_one(bulk, at, next);
  }
}

static bool may_have_zeros(struct uffd_lane *lane, const struct uffd_install *install) {
  const struct uffd_terms *terms = install->slice->terms;
  if (!terms->finds_zeros) return false;
  if (install->kind == UFFD_ANSWER_FILE) return true; /* its bytes come into our hands: a look costs next to nothing */
  if (atomic_load_explicit(&terms->hints->zeros_found, memory_order_relaxed)) return true;
  return uffd_may_have_zero_pages(install->data, round_down(install->length, BASE_PAGE), lane->staging);
}

static bool may_move_huge(const struct uffd_install *install) {
  bool own = !install->source->child && !install->source->foreign;
  return own && install->length >= HUGE_PAGE &&
         atomic_load_explicit(&install->slice->terms->hints->huge, memory_order_relaxed);
}

/* The faulting page alone: what stood in the way of the piece that holds it need not be this page's. */
static void put_page(struct bulk *bulk) {
  uint64_t page = bulk->install->page;
  bulk->stopped = false;
  put_small(bulk, page, page + bulk->install->slice->terms->page_size);
}

struct uffd_filled uffd_bulk_install(struct uffd_lane *lane, const struct uffd_install *install) {
  bool file = install->kind == UFFD_ANSWER_FILE;
  bool large = file || (install->kind == UFFD_ANSWER_BYTES && install->length >= UFFD_BULK_BYTES);
  struct bulk bulk = {
      .lane = lane,
      .install = install,
      .end = install->dst + round_up(install->length, install->slice->terms->page_size),
      .huge = large && may_move_huge(install),
      .zeros = large && may_have_zeros(lane, install),
      .filled = {.outcome = UFFD_OUTCOME_INSTALLED, .page_kind = UFFD_ANSWER_LATER},
  };
  bulk.fetches = file || bulk.zeros;
  if (!bulk.huge && !bulk.fetches) return uffd_install(lane, install);
  take_apart(&bulk);
  if (bulk.zeros && !file) {
    atomic_store_explicit(&install->slice->terms->hints->zeros_found, bulk.zeros_found, memory_order_relaxed);
  }
  if (!bulk.answered) put_page(&bulk);
  return bulk.filled;
}
