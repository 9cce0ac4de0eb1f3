/*
 * Contents of another memory: copied, or moved without copying. The source is claimed, so that nobody can serve it
 * while a handler reads it.
 */
#include <inttypes.h>

#include "resolver/resolver.h"

struct source {
  uffd_resolver head;
  uffd_memory *memory;
  struct uffd_claim claim;
  const char *origin;
  char *tail; /* the source's end, copied to HUGE_PAGE from here; zeros follow */
};

/*
 * The last page, if the source ends within it. Nothing readable follows, and reading it may raise a signal (poison, a
 * truncated memfd), so the kernel copies it. Every handler writes the same bytes to the same place.
 */
static int ask_tail(const struct source *source, const struct uffd_fault *fault, struct uffd_answer *answer) {
  uint64_t has = source->head.size - fault->offset;
  char *data = source->tail + HUGE_PAGE - has;
  int result = uffd_peek(data, source->origin + fault->offset, has);
  if (result < 0) {
    return fail(-result, "The source memory cannot be read in the page at offset %" PRIu64 ".", fault->offset);
  }
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = data;
  return 0;
}

static int ask_memory(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
                      struct uffd_answer *answer) {
  (void)asker;
  const struct source *source = (const struct source *)resolver;
  uint64_t whole = round_down(source->head.size - fault->offset, fault->page_size);
  if (whole == 0) return ask_tail(source, fault, answer);
  uffd_cover(fault, 0, fault->offset + whole, answer);
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = source->origin + answer->offset;
  return 0;
}

static int ask_move(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
                    struct uffd_answer *answer) {
  int result = ask_memory(resolver, asker, fault, answer);
  answer->kind = UFFD_ANSWER_MOVE;
  return result;
}

static int check_move(const uffd_resolver *resolver, const struct uffd_target *target, uint64_t offset,
                      uint64_t length) {
  (void)resolver, (void)length;
  if (!target->private_mapping || target->page_size != BASE_PAGE) {
    return fail(EINVAL,
                "Pages move only into private anonymous memory of %" PRIu64
                "-byte pages: use a memory resolver, which copies.",
                BASE_PAGE);
  }
  if (target->forks) {
    return fail(EINVAL,
                "Pages move once: with event_fork a child would read zeros for what its parent has taken. Use a "
                "memory resolver, which copies.");
  }
  if (offset % BASE_PAGE != 0) return fail(EINVAL, "Whole pages move: offset %" PRIu64 " is not a page's.", offset);
  return 0;
}

static void destroy(uffd_resolver *resolver) {
  struct source *source = (struct source *)resolver;
  uffd_claim_release(&source->claim);
  uffd_memory_drop(source->memory);
  uffd_buffer_unmap(source->tail, HUGE_PAGE);
  DELETE(source);
}

static int make(const struct uffd_resolver_class *class, uffd_memory *memory, uint64_t offset,
                uffd_resolver **resolver) {
  if (offset >= memory->length) {
    return fail(ERANGE, "Offset %" PRIu64 " is outside a memory of %" PRIu64 " bytes.", offset, memory->length);
  }
  uint64_t run;
  const char *origin = uffd_place_find(memory, offset, &run);
  if (origin == NULL || run < memory->length - offset) {
    return fail(EINVAL, "A part of the source memory from offset %" PRIu64 " on has been unmapped or moved away.",
                offset);
  }
  struct source *source = NEW(struct source);
  char *tail = source == NULL ? NULL : uffd_buffer_map(HUGE_PAGE);
  if (tail == NULL) {
    DELETE(source);
    return fail(ENOMEM, "No memory for a resolver.");
  }
  uffd_resolver_init(&source->head, class, memory->length - offset);
  source->memory = memory;
  source->origin = origin;
  source->tail = tail;
  source->claim.start = (uintptr_t)source->origin;
  source->claim.end = source->claim.start + source->head.size;
  int result = uffd_claim(&source->claim);
  if (result < 0) {
    uffd_buffer_unmap(tail, HUGE_PAGE);
    DELETE(source);
    return result;
  }
  uffd_memory_hold(memory);
  *resolver = &source->head;
  return 0;
}

int uffd_resolver_memory(uffd_memory *memory, uint64_t offset, uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {.kind = "memory", .ask = ask_memory, .destroy = destroy};
  *resolver = NULL;
  int result = uffd_memory_enter_own(memory);
  return result < 0 ? result : make(&class, memory, offset, resolver);
}

int uffd_resolver_move(uffd_memory *memory, uint64_t offset, uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {
      .kind = "move", .ask = ask_move, .check = check_move, .destroy = destroy};
  *resolver = NULL;
  int result = uffd_memory_enter_own(memory);
  if (result < 0) return result;
  if (!memory->private_mapping || memory->fd >= 0 || memory->page_size != BASE_PAGE) {
    return fail(EINVAL, "Pages move only out of private anonymous memory of small pages: use a memory resolver.");
  }
  if (offset % BASE_PAGE != 0) return fail(EINVAL, "Whole pages move: offset %" PRIu64 " is not a page's.", offset);
  return make(&class, memory, offset, resolver);
}
