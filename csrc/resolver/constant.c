/*
 * Resolvers without contents: zero and poison.
 */
#include "resolver/resolver.h"

static int ask_zero(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
                    struct uffd_answer *answer) {
  (void)resolver, (void)asker;
  uffd_cover(fault, 0, UINT64_MAX, answer);
  return 0;
}

static int ask_poison(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
                      struct uffd_answer *answer) {
  (void)resolver, (void)asker;
  uffd_cover(fault, 0, UINT64_MAX, answer);
  answer->kind = UFFD_ANSWER_POISON;
  return 0;
}

static int check_poison(const uffd_resolver *resolver, const struct uffd_target *target, uint64_t offset,
                        uint64_t length) {
  (void)resolver, (void)offset, (void)length;
  if (target->features == 0 || (target->features & UFFD_FEAT_POISON) != 0) return 0;
  return fail(EOPNOTSUPP, "This kernel cannot poison pages: Linux 6.6 or newer is needed.");
}

static void destroy(uffd_resolver *resolver) {
  DELETE(resolver);
}

static int make(const struct uffd_resolver_class *class, uffd_resolver **resolver) {
  *resolver = NEW(uffd_resolver);
  if (*resolver == NULL) return fail(ENOMEM, "No memory for a resolver.");
  uffd_resolver_init(*resolver, class, UINT64_MAX);
  return 0;
}

int uffd_resolver_zero(uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {.kind = "zero", .ask = ask_zero, .destroy = destroy};
  return make(&class, resolver);
}

int uffd_resolver_poison(uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {
      .kind = "poison", .ask = ask_poison, .check = check_poison, .destroy = destroy};
  return make(&class, resolver);
}
