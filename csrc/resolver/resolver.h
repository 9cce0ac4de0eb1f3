/*
 * Resolvers: what a page holds. One vtable; one file a resolver. A resolver never installs anything and never touches
 * the memory that it answers for.
 */
#ifndef UFFD_RESOLVER_RESOLVER_H
#define UFFD_RESOLVER_RESOLVER_H

#include "memory/memory.h"

#define UFFD_HANDOVER_MAX 8u  /* resolvers that hand over to each other: more is taken for a circle */
#define UFFD_NESTING_MAX  64u /* resolvers in resolvers: a handler's stack has room for so many */

/* The state that a callback made for one handler. */
struct uffd_callback_state {
  const uffd_resolver *callback; /* NULL: not set up */
  void *state;
};

/* Who asks: a handler, with the states of callbacks, by slot. The handler owns it. */
struct uffd_asker {
  struct uffd_callback_state *states;
  uint32_t count;
  uint32_t depth; /* of handing over, now */
  /* of the fault: what its memory shares with other mappings, and where in it the page lies. NULL: nothing */
  const struct uffd_common *common;
  uint64_t common_offset;
  uint64_t policy_calls;
};

/* The memory that a resolver is to answer for, when it is added to a loop. */
struct uffd_target {
  uint64_t page_size;
  uint64_t features;                /* of the kernel; 0: unknown, then the install finds out */
  bool page_cache;                  /* memfd or hugetlb: CONTINUE works */
  const struct uffd_common *common; /* of the memory; NULL: it shares nothing */
  bool private_mapping;             /* private anonymous: MOVE works */
  bool forks;                       /* EVENT_FORK of this process: a child asks again for what its parent has */
};

struct uffd_resolver_class {
  const char *kind;
  /* Answers fault, in the resolver's coordinates: 0 or -errno with a sentence. The answer covers the faulting page. */
  int (*ask)(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
             struct uffd_answer *answer);
  /*
   * Checks whether it can answer for [offset, offset+length) of that memory: 0 or -errno with a sentence. NULL: always.
   */
  int (*check)(const uffd_resolver *resolver, const struct uffd_target *target, uint64_t offset, uint64_t length);
  /*
   * [offset, offset+length) will be asked for soon: a hint. It never waits, and touches no served memory. NULL: it is
   * of no use here.
   */
  void (*want)(const uffd_resolver *resolver, struct uffd_asker *asker, uint64_t offset, uint64_t length);
  /*
   * Checks bytes that were just read from the file of an answer, at offset in the file: 0, or -errno with a sentence
   * when they must not be served. NULL: always right. An answer of kind FILE names the resolver whose verify is called.
   */
  int (*verify)(const uffd_resolver *resolver, uint64_t offset);
  /* The index-th resolver that this one may ask, NULL after the last. NULL: it asks none. */
  uffd_resolver *(*child)(const uffd_resolver *resolver, size_t index);
  void (*destroy)(uffd_resolver *resolver); /* frees the resolver, but not the references to its children */
};

/* The head of every resolver. */
struct uffd_resolver {
  const struct uffd_resolver_class *class;
  const char *kind;
  uint64_t process;
  uint64_t size;   /* bytes; UINT64_MAX: any */
  uint32_t depth;  /* of the resolvers nested in it; 0: none */
  bool wants;      /* has a use for being told what will be wanted, or one that is nested in it has */
  bool calls_back; /* is a callback, or one is nested in it */
  bool built_in;   /* is a callback of one of uffd's own libraries: asking it is not counted as a policy call */
  _Atomic uint32_t references;
};

/* Fills in the head of a resolver that its maker has allocated. */
void uffd_resolver_init(uffd_resolver *resolver, const struct uffd_resolver_class *class, uint64_t size);
void uffd_resolver_drop(uffd_resolver *resolver);
/* 0, or -EOWNERDEAD and a sentence in a forked child. */
int uffd_resolver_enter(const uffd_resolver *resolver);
/* Notes that parent will ask child, without holding it: 0, or -EINVAL and a sentence when the nesting gets too deep. */
int uffd_resolver_nest(uffd_resolver *parent, const uffd_resolver *child);

/*
 * Asks for an answer. The answer is pre-set to ZERO for the faulting page. It is checked afterwards: it must hold that
 * page.
 */
int uffd_resolver_ask(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
                      struct uffd_answer *answer);
/* [offset, offset+length) will be asked for soon: a hint to whoever has to fetch it first. */
void uffd_resolver_want(const uffd_resolver *resolver, struct uffd_asker *asker, uint64_t offset, uint64_t length);
/* Runs the class's check and checks the size: [offset, offset+length) rounded to whole pages. */
int uffd_resolver_check(const uffd_resolver *resolver, const struct uffd_target *target, uint64_t offset,
                        uint64_t length);
/* Calls visit for every callback in the tree, at least once each. Stops at the first error. */
int uffd_resolver_each_callback(uffd_resolver *resolver, int (*visit)(uffd_resolver *callback, void *ctx), void *ctx);

/*
 * Narrows the wanted cover to [low, high) of the resolver's coordinates, in whole pages counted from the faulting one,
 * and writes it into the answer. The last page may reach beyond high: its rest is zeros.
 */
UFFD_SHARED void uffd_cover(const struct uffd_fault *fault, uint64_t low, uint64_t high, struct uffd_answer *answer);

/* Cuts an answer down to [low, high), which holds the faulting page. */
void uffd_clip(struct uffd_answer *answer, uint64_t low, uint64_t high);

/*
 * A private anonymous mapping of at least length readable bytes, rounded up so that a page of any size may be copied
 * from its tail. NULL when there is no memory.
 */
char *uffd_buffer_map(uint64_t length);
void uffd_buffer_unmap(char *buffer, uint64_t length);

/* callback.c: the slot of a callback in uffd_asker.states (UINT32_MAX: no callback), its set-up and teardown. */
uint32_t uffd_callback_slot(const uffd_resolver *resolver);
int uffd_callback_setup(const uffd_resolver *resolver, const struct uffd_handler *handler, void **state);
void uffd_callback_teardown(const uffd_resolver *resolver, void *state);
/* 1: call it again, there is more to tidy */
int uffd_callback_idle(const uffd_resolver *resolver, void *state);

#endif
