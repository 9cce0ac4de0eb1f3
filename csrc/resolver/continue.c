/*
 * Maps pages that are in the page cache. The other pages come from the fill resolver, or are zeros.
 */
#include <inttypes.h>

#include "resolver/resolver.h"

struct proceed {
  uffd_resolver head;
  uffd_resolver *fill; /* NULL: zeros */
};

/*
 * A missing page is filled alone. Its neighbours may be in the page cache, and the kernel fills a private mapping
 * without looking there: it would get other contents.
 */
static int ask(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
               struct uffd_answer *answer) {
  const struct proceed *proceed = (const struct proceed *)resolver;
  if ((fault->flags & UFFD_FAULT_MINOR) != 0) {
    uffd_cover(fault, 0, UINT64_MAX, answer);
    answer->kind = UFFD_ANSWER_CONTINUE;
    return 0;
  }
  if (proceed->fill == NULL) return 0;
  struct uffd_fault alone = *fault;
  alone.cover_offset = fault->offset;
  alone.cover_length = fault->page_size;
  int result = uffd_resolver_ask(proceed->fill, asker, &alone, answer);
  if (result == 0) uffd_clip(answer, fault->offset, fault->offset + fault->page_size);
  return result;
}

static int check(const uffd_resolver *resolver, const struct uffd_target *target, uint64_t offset, uint64_t length) {
  const struct proceed *proceed = (const struct proceed *)resolver;
  if (!target->page_cache) {
    return fail(EINVAL, "Only memfd and hugetlb memory has a page cache to continue from: map it with that kind.");
  }
  if (offset % target->page_size != 0) {
    return fail(EINVAL, "Whole pages are continued: offset %" PRIu64 " is not a page's.", offset);
  }
  return proceed->fill == NULL ? 0 : uffd_resolver_check(proceed->fill, target, offset, length);
}

/* Its coordinates are those of what fills. */
static void want(const uffd_resolver *resolver, struct uffd_asker *asker, uint64_t offset, uint64_t length) {
  uffd_resolver_want(((const struct proceed *)resolver)->fill, asker, offset, length);
}

static uffd_resolver *child(const uffd_resolver *resolver, size_t index) {
  return index == 0 ? ((const struct proceed *)resolver)->fill : NULL;
}

static void destroy(uffd_resolver *resolver) {
  struct proceed *proceed = (struct proceed *)resolver;
  DELETE(proceed);
}

int uffd_resolver_continue(uffd_resolver *fill, uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {
      .kind = "continue", .ask = ask, .check = check, .want = want, .child = child, .destroy = destroy};
  *resolver = NULL;
  int result = fill == NULL ? 0 : uffd_resolver_enter(fill);
  if (result < 0) return result;
  struct proceed *proceed = NEW(struct proceed);
  if (proceed == NULL) return fail(ENOMEM, "No memory for a resolver.");
  uffd_resolver_init(&proceed->head, &class, fill == NULL ? UINT64_MAX : fill->size);
  if (fill != NULL) {
    result = uffd_resolver_nest(&proceed->head, fill);
    if (result < 0) {
      DELETE(proceed);
      return result;
    }
    uffd_resolver_hold(fill);
  }
  proceed->fill = fill;
  *resolver = &proceed->head;
  return 0;
}
