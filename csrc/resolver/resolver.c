/*
 * What all resolvers have in common: their life, asking with its checks, covers. Knows no particular resolver.
 */
#include "resolver/resolver.h"

#include <inttypes.h>

void uffd_resolver_init(uffd_resolver *resolver, const struct uffd_resolver_class *class, uint64_t size) {
  resolver->class = class;
  resolver->kind = class->kind;
  resolver->process = uffd_process();
  resolver->size = size;
  atomic_init(&resolver->references, 1);
}

void uffd_resolver_hold(uffd_resolver *resolver) {
  if (resolver != NULL) atomic_fetch_add_explicit(&resolver->references, 1, memory_order_relaxed);
}

int uffd_resolver_nest(uffd_resolver *parent, const uffd_resolver *child) {
  if (child->depth >= UFFD_NESTING_MAX) {
    return fail(EINVAL, "Resolvers can be nested %u deep, and this %s resolver already is.", UFFD_NESTING_MAX,
                child->kind);
  }
  if (parent->depth <= child->depth) parent->depth = child->depth + 1;
  if (child->calls_back) parent->calls_back = true;
  if (child->wants && parent->class->want != NULL) parent->wants = true;
  return 0;
}

/* The children are let go one by one, because each may have other holders. */
void uffd_resolver_drop(uffd_resolver *resolver) {
  if (atomic_fetch_sub_explicit(&resolver->references, 1, memory_order_acq_rel) != 1) return;
  if (resolver->class->child != NULL) {
    uffd_resolver *child;
    for (size_t i = 0; (child = resolver->class->child(resolver, i)) != NULL; i++) {
      uffd_resolver_drop(child);
    }
  }
  resolver->class->destroy(resolver);
}

void uffd_resolver_close(uffd_resolver *resolver) {
  if (resolver != NULL) uffd_resolver_drop(resolver);
}

int uffd_resolver_enter(const uffd_resolver *resolver) {
  if (resolver->process == uffd_process()) return 0;
  return fail(EOWNERDEAD, "This %s resolver belongs to the parent process.", resolver->kind);
}

uint64_t uffd_resolver_size(const uffd_resolver *resolver) {
  return resolver == NULL ? 0 : resolver->size;
}
const char *uffd_resolver_kind(const uffd_resolver *resolver) {
  return resolver == NULL ? "none" : resolver->kind;
}

static bool holds_page(const struct uffd_answer *answer, const struct uffd_fault *fault) {
  uint64_t before = fault->offset - answer->offset; /* wraps to a huge number when the answer begins after the page */
  return answer->offset <= fault->offset && before % fault->page_size == 0 && before < answer->length;
}

int uffd_resolver_ask(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
                      struct uffd_answer *answer) {
  *answer =
      (struct uffd_answer){.kind = UFFD_ANSWER_ZERO, .fd = -1, .offset = fault->offset, .length = fault->page_size};
  int result = resolver->class->ask(resolver, asker, fault, answer);
  if (result < 0) return result;
  if (answer->kind == UFFD_ANSWER_LATER || holds_page(answer, fault)) return 0;
  return fail(EINVAL,
              "The %s resolver answered for %" PRIu64 " bytes from offset %" PRIu64
              ": an answer begins at a page boundary and holds the page asked for, at offset %" PRIu64 ".",
              resolver->kind, answer->length, answer->offset, fault->offset);
}

void uffd_resolver_want(const uffd_resolver *resolver, struct uffd_asker *asker, uint64_t offset, uint64_t length) {
  if (resolver->wants && length != 0) resolver->class->want(resolver, asker, offset, length);
}

int uffd_resolver_check(const uffd_resolver *resolver, const struct uffd_target *target, uint64_t offset,
                        uint64_t length) {
  int result = uffd_resolver_enter(resolver);
  if (result < 0) return result;
  if (target->page_size > HUGE_PAGE) {
    return fail(EINVAL, "Pages of %" PRIu64 " bytes cannot be served by a resolver: 2 MiB is the largest size.",
                target->page_size);
  }
  if (offset > UINT64_MAX - length) return fail(EINVAL, "Offset %" PRIu64 " + %" PRIu64 " overflows.", offset, length);
  bool bounded = resolver->size != UINT64_MAX;
  if (bounded && (offset > resolver->size || round_up(resolver->size - offset, target->page_size) < length)) {
    return fail(EINVAL,
                "The %s resolver has %" PRIu64 " bytes, but is to answer for %" PRIu64 " bytes from offset %" PRIu64
                ": make the region shorter, or put it in a layer.",
                resolver->kind, resolver->size, length, offset);
  }
  return resolver->class->check == NULL ? 0 : resolver->class->check(resolver, target, offset, length);
}

int uffd_resolver_each_callback(uffd_resolver *resolver, int (*visit)(uffd_resolver *callback, void *ctx), void *ctx) {
  int result = 0;
  if (!resolver->calls_back) return 0; /* nothing below it is a callback; below may be shared many times */
  if (uffd_callback_slot(resolver) != UINT32_MAX) result = visit(resolver, ctx);
  if (resolver->class->child == NULL) return result;
  uffd_resolver *child;
  for (size_t i = 0; result == 0 && (child = resolver->class->child(resolver, i)) != NULL; i++) {
    result = uffd_resolver_each_callback(child, visit, ctx);
  }
  return result;
}

void uffd_cover(const struct uffd_fault *fault, uint64_t low, uint64_t high, struct uffd_answer *answer) {
  uint64_t page_size = fault->page_size;
  low = max_u64(low, fault->cover_offset);
  high = min_u64(high, fault->cover_offset + fault->cover_length);
  answer->offset = fault->offset;
  if (low < fault->offset) answer->offset -= round_down(fault->offset - low, page_size);
  uint64_t length = page_size;
  if (high > fault->offset + page_size) length = round_up(high - fault->offset, page_size);
  answer->length = fault->offset - answer->offset + length;
}

void uffd_clip(struct uffd_answer *answer, uint64_t low, uint64_t high) {
  if (answer->offset < low) {
    uint64_t cut = low - answer->offset;
    if (answer->data != NULL) answer->data = (const char *)answer->data + cut;
    answer->file_offset += cut;
    answer->offset = low;
    answer->length -= cut;
  }
  if (answer->length > high - answer->offset) answer->length = high - answer->offset;
}

char *uffd_buffer_map(uint64_t length) {
  return length > UINT64_MAX / 2 ? NULL : uffd_pages_map(round_up(length, HUGE_PAGE) + HUGE_PAGE);
}

void uffd_buffer_unmap(char *buffer, uint64_t length) {
  uffd_pages_unmap(buffer, round_up(length, HUGE_PAGE) + HUGE_PAGE);
}
