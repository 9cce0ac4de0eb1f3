/*
 * A resolver that calls a function of its user, which answers or names another resolver. Every callback has a slot: the
 * index of its state in each handler. So a fault finds the state with one load.
 */
#include <inttypes.h>
#include <string.h>

#include "resolver/resolver.h"

#define SLOTS 65536u

struct callback {
  uffd_resolver head;
  struct uffd_callback_ops ops;
  void *ctx;
  uint32_t slot;
  char kind[32];
  size_t uses_count;
  uffd_resolver *uses[];
};

static _Atomic uint64_t slots[SLOTS / 64]; /* one bit each. No lock: a forked child closes resolvers too */

/* The lowest free slot, so that the handlers' tables stay short; UINT32_MAX if there is none. */
static uint32_t take_slot(void) {
  for (uint32_t i = 0; i < SLOTS / 64; i++) {
    uint64_t taken = atomic_load(&slots[i]);
    while (taken != UINT64_MAX) {
      uint32_t bit = (uint32_t)__builtin_ctzll(~taken);
      if (atomic_compare_exchange_weak(&slots[i], &taken, taken | UINT64_C(1) << bit)) return i * 64 + bit;
    }
  }
  return UINT32_MAX;
}

static void give_slot(uint32_t slot) {
  atomic_fetch_and(&slots[slot / 64], ~(UINT64_C(1) << slot % 64));
}

/* The bytes from offset to the resolver's end, rounded up to whole pages. */
static uint64_t pages_left(const uffd_resolver *resolver, uint64_t offset, uint64_t page_size) {
  uint64_t left = resolver->size - offset;
  return left > UINT64_MAX - page_size ? round_down(left, page_size) : round_up(left, page_size);
}

/* The callback handed [offset, offset+length) over: the inner resolver is asked for that range only. */
static int hand_over(const struct callback *callback, struct uffd_asker *asker, const struct uffd_fault *fault,
                     struct uffd_answer *answer) {
  const struct uffd_answer handed = *answer;
  uint64_t before = fault->offset - handed.offset, page_size = fault->page_size;
  bool valid = handed.resolver != NULL && handed.offset <= fault->offset && before % page_size == 0 &&
               before < handed.length && handed.length % page_size == 0 && before <= handed.resolver_offset &&
               handed.resolver_offset < handed.resolver->size &&
               handed.resolver_offset <= UINT64_MAX - page_size; /* the page ends before the end of all offsets */
  if (!valid) {
    return fail(EINVAL,
                "The %s resolver handed over at offset %" PRIu64 " to nothing, or beyond the other resolver's end.",
                callback->head.kind, fault->offset);
  }
  if (asker->depth == UFFD_HANDOVER_MAX) {
    return fail(ELOOP, "Resolvers hand over to each other in a circle at offset %" PRIu64 ".", fault->offset);
  }
  struct uffd_fault inner = *fault;
  inner.offset = handed.resolver_offset;
  inner.cover_offset = handed.resolver_offset - before;
  inner.cover_length = min_u64(handed.length, pages_left(handed.resolver, inner.cover_offset, page_size));
  uint64_t shift = inner.offset - fault->offset; /* modulo 2^64 */
  asker->depth++;
  int result = uffd_resolver_ask(handed.resolver, asker, &inner, answer);
  asker->depth--;
  if (result < 0) return result;
  uffd_clip(answer, inner.cover_offset, inner.cover_offset + inner.cover_length);
  answer->offset -= shift;
  return 0;
}

static int check_answer(const struct callback *callback, struct uffd_answer *answer) {
  bool file = answer->kind == UFFD_ANSWER_FILE;
  answer->shared = 0;
  if (file)
    answer->resolver = NULL; /* the callback itself says that the file is right: nobody checks whether it has changed */
  bool needs_data = answer->kind == UFFD_ANSWER_BYTES || answer->kind == UFFD_ANSWER_MOVE;
  bool whole = file || answer->kind == UFFD_ANSWER_BYTES || answer->length % BASE_PAGE == 0;
  if (file && (answer->fd < 0 || answer->file_offset > INT64_MAX || answer->length > INT64_MAX - answer->file_offset)) {
    return fail(EINVAL,
                "The %s resolver answered with %" PRIu64 " bytes from offset %" PRIu64
                " of descriptor %d: not a file's.",
                callback->head.kind, answer->length, answer->file_offset, answer->fd);
  }
  if ((answer->kind > UFFD_ANSWER_LATER && !file) || answer->length == 0 ||
      answer->length > UINT64_MAX - answer->offset || !whole || (needs_data && answer->data == NULL)) {
    return fail(EINVAL,
                "The %s resolver gave an answer of kind %u, %" PRIu64 " bytes at offset %" PRIu64 ": not a valid one.",
                callback->head.kind, answer->kind, answer->length, answer->offset);
  }
  return 0;
}

/* A callback may fail without a sentence. Then the thread's sentence is about an older failure, and is replaced. */
static int explain(const uffd_resolver *resolver, uint32_t sentences_before, int result, uint64_t offset) {
  if (uffd_count_sentences() != sentences_before) return result;
  return fail(-result, "The %s resolver failed at offset %" PRIu64 ": %s.", resolver->kind, offset,
              uffd_error_text(-result));
}

/* Its state in this handler. False: it was not set up here, and must not be called. */
static bool find_state(const struct callback *callback, const struct uffd_asker *asker, void **state) {
  *state = NULL;
  if (callback->slot >= asker->count || asker->states[callback->slot].callback != &callback->head)
    return callback->ops.setup == NULL;
  *state = asker->states[callback->slot].state;
  return true;
}

static int ask(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
               struct uffd_answer *answer) {
  const struct callback *callback = (const struct callback *)resolver;
  void *state;
  if (!find_state(callback, asker, &state)) {
    return fail(EINVAL, "The %s resolver was handed a fault without having been set up: name it in `uses`.",
                resolver->kind);
  }
  if (!resolver->built_in) asker->policy_calls++;
  uint32_t before = uffd_count_sentences();
  int result = callback->ops.resolve(callback->ctx, state, fault, answer);
  if (result < 0) return explain(resolver, before, result, fault->offset);
  if (answer->kind == UFFD_ANSWER_RESOLVER) return hand_over(callback, asker, fault, answer);
  return check_answer(callback, answer);
}

static void want(const uffd_resolver *resolver, struct uffd_asker *asker, uint64_t offset, uint64_t length) {
  const struct callback *callback = (const struct callback *)resolver;
  void *state;
  if (offset >= resolver->size || !find_state(callback, asker, &state)) return;
  callback->ops.want(callback->ctx, state, offset, min_u64(length, resolver->size - offset));
}

static uffd_resolver *child(const uffd_resolver *resolver, size_t index) {
  const struct callback *callback = (const struct callback *)resolver;
  return index < callback->uses_count ? callback->uses[index] : NULL;
}

static size_t callback_size(size_t uses) {
  return sizeof(struct callback) + uses * sizeof(uffd_resolver *);
}

static void destroy(uffd_resolver *resolver) {
  struct callback *callback = (struct callback *)resolver;
  if (callback->ops.destroy != NULL) callback->ops.destroy(callback->ctx);
  give_slot(callback->slot);
  uffd_release(callback, callback_size(callback->uses_count));
}

static const struct uffd_resolver_class class = {
    .kind = "callback", .ask = ask, .want = want, .child = child, .destroy = destroy};

uint32_t uffd_callback_slot(const uffd_resolver *resolver) {
  return resolver->class == &class ? ((const struct callback *)resolver)->slot : UINT32_MAX;
}

int uffd_callback_setup(const uffd_resolver *resolver, const struct uffd_handler *handler, void **state) {
  const struct callback *callback = (const struct callback *)resolver;
  *state = NULL;
  if (callback->ops.setup == NULL) return 0;
  uint32_t before = uffd_count_sentences();
  int result = callback->ops.setup(callback->ctx, handler, state);
  if (result >= 0 || uffd_count_sentences() != before) return result;
  return fail(-result, "The %s resolver could not be set up for handler %u: %s.", resolver->kind, handler->index,
              uffd_error_text(-result));
}

void uffd_callback_teardown(const uffd_resolver *resolver, void *state) {
  const struct callback *callback = (const struct callback *)resolver;
  if (callback->ops.teardown != NULL) callback->ops.teardown(callback->ctx, state);
}

int uffd_callback_idle(const uffd_resolver *resolver, void *state) {
  const struct callback *callback = (const struct callback *)resolver;
  return callback->ops.idle == NULL ? 0 : callback->ops.idle(callback->ctx, state);
}

/* The resolvers that parent may hand over to; none is held yet. */
static int check_uses(uffd_resolver *parent, uffd_resolver *const *uses, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (uses[i] == NULL) return fail(EINVAL, "uses[%zu] is NULL.", i);
    int result = uffd_resolver_enter(uses[i]);
    if (result == 0) result = uffd_resolver_nest(parent, uses[i]);
    if (result < 0) return result;
  }
  return 0;
}

/* Finishes a callback whose fields are set: 0, or an error, and then it is freed. */
static int finish(struct callback *callback, uffd_resolver *const *uses) {
  int result = check_uses(&callback->head, uses, callback->uses_count);
  if (result == 0) {
    callback->slot = take_slot();
    if (callback->slot == UINT32_MAX) result = fail(ENOMEM, "%u callback resolvers exist: close some.", SLOTS);
  }
  if (result < 0) {
    uffd_release(callback, callback_size(callback->uses_count));
    return result;
  }
  for (size_t i = 0; i < callback->uses_count; i++) {
    callback->uses[i] = uses[i];
    uffd_resolver_hold(uses[i]);
  }
  return 0;
}

int uffd_resolver_callback(const struct uffd_callback_ops *user_ops, void *ctx, const char *kind,
                           uffd_resolver *const *uses, size_t uses_count, uffd_resolver **resolver) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  *resolver = NULL;
  int result = uffd_take_opts(&ops, sizeof(ops), user_ops, "uffd_callback_ops");
  if (result < 0) return result;
  if (ops.resolve == NULL) return fail(EINVAL, "A callback without a resolve function.");
  if (uses == NULL && uses_count != 0) return fail(EINVAL, "uses is NULL, but is to hold %zu resolvers.", uses_count);
  struct callback *callback = uses_count > UINT32_MAX ? NULL : uffd_alloc(callback_size(uses_count));
  if (callback == NULL) return fail(ENOMEM, "No memory for a resolver.");
  uffd_resolver_init(&callback->head, &class, UINT64_MAX);
  callback->head.calls_back = true;
  callback->ops = ops;
  callback->ctx = ctx;
  strncpy(callback->kind, kind != NULL ? kind : class.kind, sizeof(callback->kind) - 1);
  callback->head.kind = callback->kind;
  callback->uses_count = uses_count;
  result = finish(callback, uses);
  if (result < 0) return result;
  callback->head.wants = ops.want != NULL; /* what it may hand over to lies at offsets that only its resolve knows */
  *resolver = &callback->head;
  return 0;
}
