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
  bool served;    /* else: read by a resolver */
  uint64_t modes; /* served: UFFD_MODE_* */
  /* served: brings the page at address in, or unprotects it for a write. 0, or -EHWPOISON and the like. */
  int (*bring_in)(void *ctx, uint64_t address, bool write);
  /* served: drops whole pages, which are asked for anew. 0, or -EDEADLK, -ECANCELED, -errno of dropping. */
  int (*discard)(void *ctx, const uffd_memory *memory, uint64_t start, uint64_t end);
  /* served: the calling thread would have to answer a fault that the kernel takes for it. Under the book's lock. */
  bool (*is_own)(void *ctx);
  void *ctx;
  uint32_t users; /* bring_in and discard calls under way; the book's */
};

/* Enters claim in the book: 0, or -EBUSY with a sentence that names the other range. The caller keeps claim. */
int uffd_claim(struct uffd_claim *claim);
/* Takes it out; when it returns, bring_in is not running. A claim that is not in the book is left alone. */
void uffd_unclaim(struct uffd_claim *claim);
/* Asks the server of address to bring its page in; -ENOENT when nobody serves it, -ECANCELED when it ends meanwhile. */
int uffd_claim_bring_in(uint64_t address, bool write);
/* The end of the served range that address is in; 0: nobody serves it. */
uint64_t uffd_claim_end(uint64_t address);
/* Asks the server of start to discard [start, end), which is one server's. As uffd_claim_bring_in(). */
int uffd_claim_discard(const uffd_memory *memory, uint64_t start, uint64_t end);

/* A part of a range whose faults the calling thread would have to answer itself. */
struct uffd_own {
  uint64_t start, end, modes;
};
/* True, with the first such part of [start, end). */
bool uffd_claim_own(uint64_t start, uint64_t end, struct uffd_own *own);
/* Set by whoever drives a pump: other threads need not look. */
extern _Thread_local bool uffd_thread_answers;
/* own.c: an access would wait for the calling thread's own answer, at *page. */
bool uffd_would_wait(uint64_t start, uint64_t length, bool write, uint64_t *page);

/* discard.c: drops whole pages of memory. 0 or -errno. */
int uffd_drop(const uffd_memory *memory, uint64_t start, uint64_t length);
/* Whether the kernel tells of it, with UFFD_FEAT_EVENT_REMOVE, and goes on when that was read. */
bool uffd_drop_tells(const uffd_memory *memory);

/* copy.c: copies from memory that may not be readable, without a signal. 0, or -EFAULT and the like. */
int uffd_peek(void *buffer, const void *source, uint64_t length);

/* touch.c: one access that raises no signal here; the byte keeps its value. 0, -EFAULT, or -errno of making it. */
int uffd_touch(uint64_t address, bool write);
bool uffd_is_poisoned(uint64_t address);

#endif
