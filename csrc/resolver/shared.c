/*
 * Pages that private mappings of one memfd have in common: those that are filled are mapped from the page cache, the
 * others come from below, and are filled for all.
 */
#include <inttypes.h>

#include "resolver/common.h"
#include "resolver/resolver.h"

struct shared {
  uffd_resolver head;
  struct uffd_common *common;
  uffd_resolver *below;
};

/* How far [*low, *high), whole pages around the one at offset, is filled as that one is, or is not. */
static void narrow(const struct uffd_common *common, uint64_t offset, uint64_t page_size, uint64_t *low,
                   uint64_t *high) {
  bool has = uffd_common_has(common, offset);
  uint64_t from = offset, to = offset + page_size;
  while (from - *low >= page_size && from > *low && uffd_common_has(common, from - page_size) == has) {
    from -= page_size;
  }
  while (*high > to && *high - to >= page_size && uffd_common_has(common, to) == has) {
    to += page_size;
  }
  *low = from;
  *high = to;
}

static int ask_below(const struct shared *shared, struct uffd_asker *asker, const struct uffd_fault *fault,
                     uint64_t low, uint64_t high, struct uffd_answer *answer) {
  struct uffd_fault inner = *fault;
  inner.cover_offset = low;
  inner.cover_length = high - low;
  inner.flags &= ~UFFD_FAULT_MINOR; /* what is in the page cache and was not filled is nothing */
  int result = uffd_resolver_ask(shared->below, asker, &inner, answer);
  if (result < 0 || answer->kind == UFFD_ANSWER_LATER || answer->kind == UFFD_ANSWER_POISON) return result;
  if (answer->kind == UFFD_ANSWER_CONTINUE) {
    return fail(EINVAL, "Below a shared resolver, a %s resolver answered with the page cache, which it is to fill.",
                shared->below->kind);
  }
  uffd_clip(answer, low, high);
  if (answer->kind == UFFD_ANSWER_MOVE) answer->kind = UFFD_ANSWER_BYTES;
  answer->shared = true;
  return 0;
}

static int ask(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
               struct uffd_answer *answer) {
  const struct shared *shared = (const struct shared *)resolver;
  const struct uffd_common *common = shared->common;
  if (asker->common != common || asker->common_offset != fault->offset || fault->offset >= common->length) {
    return fail(EINVAL,
                "A shared resolver was asked for offset %" PRIu64 " by a page that lies elsewhere in its memory, or in "
                "another one: it answers for each page of a mapping of its memory at that page's offset.",
                fault->offset);
  }
  uint64_t low = fault->cover_offset, high = min_u64(low + fault->cover_length, common->length);
  narrow(common, fault->offset, fault->page_size, &low, &high);
  if (!uffd_common_has(common, fault->offset)) return ask_below(shared, asker, fault, low, high, answer);
  uffd_cover(fault, low, high, answer);
  answer->kind = UFFD_ANSWER_CONTINUE;
  return 0;
}

static int check(const uffd_resolver *resolver, const struct uffd_target *target, uint64_t offset, uint64_t length) {
  const struct shared *shared = (const struct shared *)resolver;
  uint64_t needs = target->page_size == BASE_PAGE ? UFFD_FEAT_MINOR_SHMEM : UFFD_FEAT_MINOR_HUGETLBFS;
  if (target->common != shared->common) {
    return fail(EINVAL, "A shared resolver answers for its memory, and for those that were mapped of it, in regions "
                        "that were added since it was made.");
  }
  if ((target->features & needs) == 0) {
    return fail(EOPNOTSUPP, "This kernel cannot map pages of the page cache by a fault (minor faults, 5.13; of huge "
                            "pages 5.14).");
  }
  struct uffd_target below = *target;
  below.private_mapping = false; /* nothing moves in */
  return uffd_resolver_check(shared->below, &below, offset, length);
}

static void want(const uffd_resolver *resolver, struct uffd_asker *asker, uint64_t offset, uint64_t length) {
  const struct shared *shared = (const struct shared *)resolver;
  uint64_t page_size = UINT64_C(1) << shared->common->page_shift,
           end = min_u64(offset + length, shared->common->length);
  while (offset < end && uffd_common_has(shared->common, offset)) {
    offset = round_down(offset, page_size) + page_size;
  }
  if (offset < end) uffd_resolver_want(shared->below, asker, offset, end - offset);
}

static uffd_resolver *child(const uffd_resolver *resolver, size_t index) {
  return index == 0 ? ((const struct shared *)resolver)->below : NULL;
}

static void destroy(uffd_resolver *resolver) {
  struct shared *shared = (struct shared *)resolver;
  uffd_common_drop(shared->common);
  DELETE(shared);
}

static const struct uffd_resolver_class class = {
    .kind = "shared", .ask = ask, .check = check, .want = want, .child = child, .destroy = destroy};

/* Takes a hold of what the memory shares when it succeeds. */
static int make(struct uffd_common *common, uffd_resolver *below, uffd_resolver **resolver) {
  struct shared *shared = NEW(struct shared);
  if (shared == NULL) return fail(ENOMEM, "No memory for a resolver.");
  uffd_resolver_init(&shared->head, &class, min_u64(below->size, common->length));
  int result = uffd_resolver_nest(&shared->head, below);
  if (result < 0) {
    DELETE(shared);
    return result;
  }
  uffd_resolver_hold(below);
  shared->common = common;
  shared->below = below;
  *resolver = &shared->head;
  return 0;
}

int uffd_resolver_common(struct uffd_common *common, uffd_resolver *below, uffd_resolver **resolver) {
  *resolver = NULL;
  int result = make(common, below, resolver);
  if (result == 0) uffd_common_hold(common);
  return result;
}

int uffd_resolver_shared(uffd_memory *memory, uffd_resolver *below, uffd_resolver **resolver) {
  *resolver = NULL;
  if (below == NULL) return fail(EINVAL, "A shared resolver needs another one below it.");
  int result = uffd_memory_enter_own(memory);
  if (result == 0) result = uffd_resolver_enter(below);
  if (result < 0) return result;
  if (memory->fd < 0 || !memory->private_mapping) {
    return fail(EINVAL, "Pages are shared by private mappings of a memfd: map the memory with that kind, private.");
  }
  if (memory->token != 0) return fail(EINVAL, "The pages of this memory are a pager's, which fills them.");
  struct uffd_common *common;
  result = uffd_common_of(memory, &common);
  if (result < 0) return result;
  result = make(common, below, resolver);
  if (result < 0) uffd_common_drop(common);
  return result;
}
