/*
 * The test engineer's resolver: another one, made slow and unreliable. Which pages fail depends on the seed and their
 * offsets alone, never on the order in which they are asked for.
 */
#include <inttypes.h>
#include <time.h>

#include "resolver/resolver.h"

#define DELAY_MAX_NS UINT64_C(60000000000)
#define COUNTED_MAX  (UINT64_C(1) << 28) /* pages whose LATERs are counted: beyond 1 TiB two pages share a count */

struct faulty {
  uffd_resolver head;
  uffd_resolver *below;
  struct uffd_faulty_opts opts;
  double decided; /* the share of pages that fail or are poison */
  uint64_t counted;
  _Atomic uint8_t *laters; /* how often a page has said LATER since it was answered last; NULL: none does */
};

static uint64_t mix(uint64_t value) { /* the finaliser of SplitMix64 */
  value += UINT64_C(0x9e3779b97f4a7c15);
  value = (value ^ value >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  value = (value ^ value >> 27) * UINT64_C(0x94d049bb133111eb);
  return value ^ value >> 31;
}

/* From 0 on, less than 1: the lot of the page at offset. */
static double lot_of(const struct faulty *faulty, uint64_t offset) {
  return (double)(mix(faulty->opts.seed ^ mix(offset)) >> 11) * 0x1p-53;
}

/* Nothing is decided for this page: it may be answered along with others. */
static bool is_plain(const struct faulty *faulty, uint64_t offset) {
  return faulty->laters == NULL && (faulty->decided == 0 || lot_of(faulty, offset) >= faulty->decided);
}

/* True so many times for each answer. Threads that ask for one page count together. */
static bool says_later(const struct faulty *faulty, uint64_t offset) {
  if (faulty->laters == NULL) return false;
  _Atomic uint8_t *count = &faulty->laters[offset / BASE_PAGE % faulty->counted];
  uint8_t said = atomic_load_explicit(count, memory_order_relaxed), next;
  do {
    next = said < faulty->opts.later ? (uint8_t)(said + 1) : 0;
  } while (!atomic_compare_exchange_weak_explicit(count, &said, next, memory_order_relaxed, memory_order_relaxed));
  return next != 0;
}

/* nanosleep(2) may be used in signal handlers. */
static void sleep_for(uint64_t nanoseconds) {
  struct timespec left = {(time_t)(nanoseconds / 1000000000), (long)(nanoseconds % 1000000000)};
  while (nanoseconds != 0 && nanosleep(&left, &left) < 0 && errno == EINTR) {
  }
}

/* The plain page of the fault, with its plain neighbours as far as the wanted cover goes. */
static int ask_below(const struct faulty *faulty, struct uffd_asker *asker, const struct uffd_fault *fault,
                     struct uffd_answer *answer) {
  uint64_t page_size = fault->page_size, low = fault->offset, high = fault->offset + page_size;
  uint64_t end = fault->cover_offset + fault->cover_length;
  while (low - fault->cover_offset >= page_size && is_plain(faulty, low - page_size)) {
    low -= page_size;
  }
  while (end - high >= page_size && is_plain(faulty, high)) {
    high += page_size;
  }
  struct uffd_fault inner = *fault;
  inner.cover_offset = low;
  inner.cover_length = high - low;
  int result = uffd_resolver_ask(faulty->below, asker, &inner, answer);
  if (result == 0 && answer->kind != UFFD_ANSWER_LATER) uffd_clip(answer, low, high);
  return result;
}

static void want(const uffd_resolver *resolver, struct uffd_asker *asker, uint64_t offset, uint64_t length) {
  uffd_resolver_want(((const struct faulty *)resolver)->below, asker, offset, length);
}

static int ask(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
               struct uffd_answer *answer) {
  const struct faulty *faulty = (const struct faulty *)resolver;
  if (says_later(faulty, fault->offset)) {
    answer->kind = UFFD_ANSWER_LATER;
    return 0;
  }
  sleep_for(faulty->opts.delay_ns);
  double lot = faulty->decided == 0 ? 1 : lot_of(faulty, fault->offset);
  if (lot < faulty->opts.error) {
    return fail(faulty->opts.error_number, "The faulty resolver fails at offset %" PRIu64 " (seed %" PRIu64 "): %s.",
                fault->offset, faulty->opts.seed, uffd_error_text(faulty->opts.error_number));
  }
  if (lot >= faulty->decided) return ask_below(faulty, asker, fault, answer);
  answer->kind = UFFD_ANSWER_POISON;
  return 0;
}

static int check(const uffd_resolver *resolver, const struct uffd_target *target, uint64_t offset, uint64_t length) {
  const struct faulty *faulty = (const struct faulty *)resolver;
  bool can_poison = target->features == 0 || (target->features & UFFD_FEAT_POISON) != 0;
  if (faulty->opts.poison > 0 && !can_poison) {
    return fail(EOPNOTSUPP, "This kernel cannot poison pages, as the faulty resolver is to: Linux 6.6 is needed.");
  }
  return uffd_resolver_check(faulty->below, target, offset, length);
}

static uffd_resolver *child(const uffd_resolver *resolver, size_t index) {
  return index == 0 ? ((const struct faulty *)resolver)->below : NULL;
}

static void destroy(uffd_resolver *resolver) {
  struct faulty *faulty = (struct faulty *)resolver;
  uffd_pages_unmap((void *)(uintptr_t)faulty->laters, faulty->counted);
  DELETE(faulty);
}

static int check_share(const char *name, double share) {
  if (share >= 0 && share <= 1) return 0; /* NaN is neither */
  return fail(EINVAL, "%s %g: a share of the pages is 0 to 1.", name, share);
}

static int check_opts(const struct uffd_faulty_opts *opts) {
  int result = check_share("error", opts->error);
  if (result == 0) result = check_share("poison", opts->poison);
  if (result < 0) return result;
  if (opts->error + opts->poison > 1) {
    return fail(EINVAL, "error %g and poison %g are more than all pages together.", opts->error, opts->poison);
  }
  if (opts->error_number < 0 || opts->error_number > 4095) {
    return fail(EINVAL, "error_number %d is no errno.", opts->error_number);
  }
  if (opts->later > UINT8_MAX) return fail(EINVAL, "later %u: at most %u times.", opts->later, UINT8_MAX);
  if (opts->delay_ns <= DELAY_MAX_NS) return 0;
  return fail(EINVAL, "delay_ns %" PRIu64 ": at most 60 s.", opts->delay_ns);
}

int uffd_resolver_faulty(uffd_resolver *below, const struct uffd_faulty_opts *user_opts, uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {
      .kind = "faulty", .ask = ask, .check = check, .want = want, .child = child, .destroy = destroy};
  struct uffd_faulty_opts opts = UFFD_FAULTY_OPTS_INIT;
  *resolver = NULL;
  if (below == NULL) return fail(EINVAL, "A faulty resolver needs another one below it.");
  int result = uffd_resolver_enter(below);
  if (result == 0) result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_faulty_opts");
  if (result == 0) result = check_opts(&opts);
  if (result < 0) return result;
  struct faulty *faulty = NEW(struct faulty);
  if (faulty == NULL) return fail(ENOMEM, "No memory for a resolver.");
  uffd_resolver_init(&faulty->head, &class, below->size);
  if (opts.error_number == 0) opts.error_number = EIO;
  faulty->opts = opts;
  faulty->decided = opts.error + opts.poison;
  faulty->counted = min_u64(below->size / BASE_PAGE + 1, COUNTED_MAX);
  if (opts.later != 0) faulty->laters = uffd_pages_map_sparse(faulty->counted);
  result = opts.later != 0 && faulty->laters == NULL ? fail(ENOMEM, "No memory for a resolver.")
                                                     : uffd_resolver_nest(&faulty->head, below);
  if (result < 0) {
    destroy(&faulty->head);
    return result;
  }
  uffd_resolver_hold(below);
  faulty->below = below;
  *resolver = &faulty->head;
  return 0;
}
