/*
 * Mappings that can be served, and the book of who serves or reads which addresses. Knows nothing of resolvers and
 * loops: a server leaves a function here that brings a page in.
 */
#ifndef UFFD_MEMORY_MEMORY_H
#define UFFD_MEMORY_MEMORY_H

#include "kernel/object.h"

#define HUGE_PAGE (UINT64_C(2) << 20)

struct uffd_memory {
  /* set once */
  uint64_t process;
  uint32_t kind;
  bool private_mapping; /* copy on write: all of it anonymous, or our own private mapping of a memfd */
  char *address;        /* NULL: foreign */
  uint64_t elsewhere;   /* foreign: the address in its process */
  int32_t pid;          /* foreign: that process, 0 unknown; else 0 */
  uint64_t length;
  uint64_t page_size;
  int fd;      /* -1: none */
  char *alias; /* NULL: none */
  /* any thread, atomic */
  _Atomic uint32_t references;
};

/* 0, or -EBADF for NULL, -EOWNERDEAD in a forked child, with a sentence. */
int uffd_memory_enter(const uffd_memory *memory);
/* The same, and -EOPNOTSUPP for another process's memory. */
int uffd_memory_enter_own(const uffd_memory *memory);
void uffd_memory_hold(uffd_memory *memory);
/* The counterpart of hold and of creation: the last one unmaps. */
void uffd_memory_drop(uffd_memory *memory);

/*
 * claim.c: served addresses are served once and are never read by a resolver; the addresses that a resolver reads may
 * be read by others too. The book is process-wide and is not looked at on the fault path.
 */
struct uffd_claim {
  struct uffd_claim *next;
  uint64_t start, end;
  bool served; /* else: read by a resolver */
  /* served: brings the page at address in, or unprotects it for a write. 0, or -EHWPOISON and the like. */
  int (*bring_in)(void *ctx, uint64_t address, bool write);
  void *ctx;
  uint32_t users; /* bring_in calls under way; the book's */
};

/* Enters claim in the book: 0, or -EBUSY with a sentence that names the other range. The caller keeps claim. */
int uffd_claim(struct uffd_claim *claim);
/* Takes it out; when it returns, bring_in is not running. A claim that is not in the book is left alone. */
void uffd_unclaim(struct uffd_claim *claim);
/* Asks the server of address to bring its page in; -ENOENT when nobody serves it, -ECANCELED when it ends meanwhile. */
int uffd_claim_bring_in(uint64_t address, bool write);

/* copy.c: copies from memory that may not be readable, without a signal. 0, or -EFAULT and the like. */
int uffd_peek(void *buffer, const void *source, uint64_t length);

/* touch.c: one access that raises no signal here; the byte keeps its value. 0, -EFAULT, or -errno of making it. */
int uffd_touch(uint64_t address, bool write);
bool uffd_is_poisoned(uint64_t address);

#endif
