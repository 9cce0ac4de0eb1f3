/*
 * The book of claims: which addresses of this process are served, and which a resolver reads from. It is what refuses
 * a resolver whose source is itself served: such a handler would wait for its own answer.
 */
#include <inttypes.h>

#include "memory/memory.h"

static struct uffd_lock book = UFFD_LOCK_INIT;
static pthread_cond_t left = PTHREAD_COND_INITIALIZER; /* the last user of a claim is done */
static struct uffd_claim *claims;

/* A forked child starts with an empty book: nothing is served there. */
static void open_book(void) {
  if (uffd_lock(&book)) {
    pthread_cond_init(&left, NULL);
    claims = NULL;
  }
  BARRIER("book", NULL);
}

static void close_book(void) {
  uffd_unlock(&book);
}

static const struct uffd_claim *find_conflict(const struct uffd_claim *claim) {
  for (const struct uffd_claim *other = claims; other != NULL; other = other->next) {
    if (claim->start < other->end && other->start < claim->end && (claim->served || other->served)) return other;
  }
  return NULL;
}

int uffd_claim(struct uffd_claim *claim) {
  open_book();
  const struct uffd_claim *other = find_conflict(claim);
  if (other == NULL) {
    claim->next = claims;
    claims = claim;
    close_book();
    return 0;
  }
  uint64_t start = other->start, end = other->end;
  bool both = claim->served && other->served, reading = !other->served;
  close_book();
  const char *why = both ? "is served already: a range is served once"
                    : reading
                        ? "is what a resolver reads from: close that resolver first, or serve other memory"
                        : "is served: a resolver must read from memory that is not, or its handler would wait for "
                          "its own answer";
  return fail(EBUSY, "0x%" PRIx64 "-0x%" PRIx64 ": 0x%" PRIx64 "-0x%" PRIx64 " %s.", claim->start, claim->end, start,
              end, why);
}

void uffd_unclaim(struct uffd_claim *claim) {
  open_book();
  struct uffd_claim **link = &claims;
  while (*link != NULL && *link != claim) {
    link = &(*link)->next;
  }
  if (*link != NULL) {
    *link = claim->next;
    while (claim->users != 0) {
      pthread_cond_wait(&left, &book.mutex);
    }
  }
  close_book();
}

static struct uffd_claim *find_server(uint64_t address) {
  struct uffd_claim *claim = claims;
  while (claim != NULL && !(claim->served && address >= claim->start && address < claim->end)) {
    claim = claim->next;
  }
  return claim;
}

static struct uffd_claim *take_server(uint64_t address) {
  open_book();
  struct uffd_claim *claim = find_server(address);
  if (claim != NULL) claim->users++;
  close_book();
  return claim;
}

static void release_server(struct uffd_claim *claim) {
  open_book();
  if (--claim->users == 0) pthread_cond_broadcast(&left);
  close_book();
}

/* Not under the lock: what answers may itself read memory that is served, or make and close resolvers. */
int uffd_claim_bring_in(uint64_t address, bool write) {
  struct uffd_claim *claim = take_server(address);
  if (claim == NULL) return -ENOENT;
  int result = claim->bring_in(claim->ctx, address, write);
  release_server(claim);
  return result;
}

uint64_t uffd_claim_end(uint64_t address) {
  open_book();
  const struct uffd_claim *claim = find_server(address);
  uint64_t end = claim == NULL ? 0 : claim->end;
  close_book();
  return end;
}

int uffd_claim_discard(const uffd_memory *memory, uint64_t start, uint64_t end) {
  struct uffd_claim *claim = take_server(start);
  if (claim == NULL) return -ENOENT;
  int result = end <= claim->end ? claim->discard(claim->ctx, memory, start, end) : -ENOENT;
  release_server(claim);
  return result;
}

_Thread_local bool uffd_thread_answers;

bool uffd_claim_own(uint64_t start, uint64_t end, struct uffd_own *own) {
  bool found = false;
  open_book();
  for (const struct uffd_claim *claim = claims; claim != NULL; claim = claim->next) {
    if (!claim->served || claim->end <= start || claim->start >= end || !claim->is_own(claim->ctx)) continue;
    if (found && claim->start >= own->start) continue;
    *own = (struct uffd_own){max_u64(start, claim->start), min_u64(end, claim->end), claim->modes};
    found = true;
  }
  close_book();
  return found;
}
