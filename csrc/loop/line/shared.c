/*
 * Pages are claimed, written through the second mapping of the file, and continued. Until they are written nobody else
 * takes them for filled.
 */
#include "loop/line/shared.h"

#include "loop/line/fetch.h"

struct filling {
  struct uffd_lane *lane;
  const struct uffd_install *install;
  struct uffd_common *common;
  uint64_t shift; /* from addresses to offsets in the memory, modulo 2^64 */
  uint64_t page_size;
  uint64_t low, high; /* addresses: claimed */
};

static bool claim(const struct filling *filling, uint64_t address) {
  return uffd_common_claim(filling->common, address + filling->shift) == UFFD_COMMON_ABSENT;
}

static void settle(const struct filling *filling, uint64_t low, uint64_t high, enum uffd_common_state state) {
  uffd_common_settle(filling->common, low + filling->shift, high + filling->shift, state);
}

/* The faulting page is claimed; so are its neighbours in [low, high) as far as nobody else has them. */
static void claim_around(struct filling *filling, uint64_t low, uint64_t high) {
  filling->low = filling->install->page;
  filling->high = filling->low + filling->page_size;
  while (filling->low > low && claim(filling, filling->low - filling->page_size)) {
    filling->low -= filling->page_size;
  }
  while (filling->high < high && claim(filling, filling->high)) {
    filling->high += filling->page_size;
  }
}

/* Whole pages of [low, high) into the page cache: the end of those that went in, and *error for the next. */
static uint64_t write_pages(const struct filling *filling, uint64_t low, uint64_t high, int *error, bool *unread) {
  const struct uffd_install *install = filling->install;
  bool zero = install->kind == UFFD_ANSWER_ZERO;
  const char *data = zero ? filling->lane->zeros : filling->lane->staging;
  uint64_t has = zero ? high - low : uffd_fetch(install, low, high, filling->lane->staging, error);
  *unread = has < high - low;
  if (has == 0) return low;
  int result = uffd_poke(filling->common->alias + low + filling->shift, data, has);
  if (result == 0) return low + has;
  *error = result;
  *unread = false;
  return low;
}

/* Fills what was claimed, at least the faulting page: 0, or -errno. */
static int fill(struct filling *filling, bool *unread) {
  uint64_t page = filling->install->page, after = page + filling->page_size;
  int error = 0;
  uint64_t end = write_pages(filling, filling->low, filling->high, &error, unread);
  if (end < after &&
      (filling->low < page || filling->high > after)) { /* what stood in the way need not be this page's */
    settle(filling, filling->low, page, UFFD_COMMON_ABSENT);
    settle(filling, after, filling->high, UFFD_COMMON_ABSENT);
    filling->low = page;
    filling->high = after;
    error = 0;
    end = write_pages(filling, page, after, &error, unread);
  }
  BARRIER("written", filling);
  settle(filling, filling->low, end, UFFD_COMMON_FILLED);
  settle(filling, end, filling->high, UFFD_COMMON_ABSENT);
  filling->high = end;
  return end < after ? error : 0;
}

static struct uffd_filled map_filled(const struct filling *filling, uint64_t low, uint64_t high) {
  struct uffd_install part = *filling->install;
  part.kind = UFFD_ANSWER_CONTINUE;
  part.dst = low;
  part.length = high - low;
  part.data = NULL;
  part.doubted = false;
  return uffd_install(filling->lane, &part);
}

/* Where no memory is left for the page cache, or no huge page, time may heal. */
static struct uffd_filled give_up(int error, bool unread) {
  bool heals = !unread && (error == -ENOMEM || error == -EFAULT);
  return (struct uffd_filled){.outcome = heals ? UFFD_OUTCOME_DEFERRED : UFFD_OUTCOME_FAILED,
                              .error = -error,
                              .page_kind = UFFD_ANSWER_LATER,
                              .unread = unread};
}

struct uffd_filled uffd_shared_install(struct uffd_lane *lane, const struct uffd_install *install) {
  const struct uffd_slice *slice = install->slice;
  const struct uffd_terms *terms = slice->terms;
  uint64_t page = install->page, end = install->dst + round_up(install->length, terms->page_size);
  struct filling filling = {
      .lane = lane,
      .install = install,
      .common = terms->cache.common,
      .shift = slice->offset + terms->cache.offset - slice->start,
      .page_size = terms->page_size,
  };
  enum uffd_common_state found = uffd_common_claim(filling.common, page + filling.shift);
  if (found == UFFD_COMMON_CLAIMED) {
    return (struct uffd_filled){.outcome = UFFD_OUTCOME_DEFERRED, .page_kind = UFFD_ANSWER_LATER};
  }
  if (found == UFFD_COMMON_FILLED) return map_filled(&filling, page, page + filling.page_size);
  claim_around(&filling, install->dst, end);
  BARRIER("filling", &filling);
  bool unread = false;
  int error = fill(&filling, &unread);
  BARRIER("filled", &filling);
  return error < 0 ? give_up(error, unread) : map_filled(&filling, filling.low, filling.high);
}
