/*
 * The book of claims: which addresses of this process are served, and which a resolver reads from. It is what refuses
 * a resolver whose source is itself served: such a handler would wait for its own answer.
 */
#include <inttypes.h>
#include <pthread.h>

#include "memory/memory.h"

static pthread_mutex_t book = PTHREAD_MUTEX_INITIALIZER;
static struct uffd_claim *claims;
static uint64_t book_process;

/* A forked child starts with an empty book: nothing is served there, and the lock may have been held by a thread that
 * does not exist in it. */
static void open_book(void) {
  static _Atomic int opening;
  if (book_process != uffd_process()) {
    while (atomic_exchange(&opening, 1) != 0) {
    }
    if (book_process != uffd_process()) {
      pthread_mutex_init(&book, NULL);
      claims = NULL;
      book_process = uffd_process();
    }
    atomic_store(&opening, 0);
  }
  pthread_mutex_lock(&book);
}

static void close_book(void) {
  pthread_mutex_unlock(&book);
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
  for (struct uffd_claim **link = &claims; *link != NULL; link = &(*link)->next) {
    if (*link == claim) {
      *link = claim->next;
      break;
    }
  }
  close_book();
}

int uffd_claim_bring_in(uint64_t address, bool write) {
  open_book();
  int result = -ENOENT;
  for (struct uffd_claim *claim = claims; claim != NULL; claim = claim->next) {
    if (claim->served && address >= claim->start && address < claim->end) {
      result = claim->bring_in(claim->ctx, address, write);
      break;
    }
  }
  close_book();
  return result;
}
