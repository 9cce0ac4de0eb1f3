/*
 * Mappings that can be served, and the book of who serves or reads which addresses. Knows nothing of resolvers and
 * loops: a server leaves a function here that brings a page in.
 */
#ifndef UFFD_MEMORY_MEMORY_H
#define UFFD_MEMORY_MEMORY_H

#include "kernel/object.h"

#define HUGE_PAGE (UINT64_C(2) << 20)

/* A part of a memory, and where it lies: as it was mapped, or as mremap has moved it since. */
struct uffd_place {
  uint64_t offset, length; /* in the memory, bytes */
  char *address;
};

struct uffd_memory {
  /* set once */
  uint64_t process;
  uint32_t kind;
  bool private_mapping; /* copy on write: all of it anonymous, or our own private mapping of a memfd */
  uint64_t elsewhere;   /* foreign: the address in its process */
  int32_t pid;          /* foreign: that process, 0 unknown; else 0 */
  uint64_t length;
  uint64_t page_size;
  int fd; /* -1: none */
  /* what shows in /proc/self/maps that a mapping is ours */
  uint64_t inode;  /* of the memfd; 0: none */
  uint32_t number; /* of an anonymous memory, in its name; 0: this kernel names none */
  char *alias;     /* NULL: none */
  /* any thread, atomic */
  _Atomic uint32_t references;
  _Atomic(char *) start; /* place.c: where byte 0 lies now, see note_start(); NULL: no byte does */
  /* any thread, under lock, which is held for a moment only */
  pthread_mutex_t lock;
  struct uffd_place whole, *places; /* by offset; places: &whole, or pages of their own */
  uint32_t places_count, places_capacity;
  /* whoever adds regions, under settling */
  pthread_mutex_t settling;
  struct uffd_spans served; /* offsets that a loop has served before */
};

/* 0, or -EBADF for NULL, -EOWNERDEAD in a forked child, with a sentence. */
int uffd_memory_enter(const uffd_memory *memory);
/* The same, and -EOPNOTSUPP for another process's memory. */
int uffd_memory_enter_own(const uffd_memory *memory);
void uffd_memory_hold(uffd_memory *memory);
/* The counterpart of hold and of creation: the last one unmaps. */
void uffd_memory_drop(uffd_memory *memory);
uffd_memory *uffd_memory_new(uint32_t kind, uint64_t length, uint64_t page_size); /* NULL: a sentence is set */

/* place.c: where a memory lies now; the one place that knows. */
void uffd_places_init(uffd_memory *memory, char *address);
/*
 * The address of the byte at offset, and in *run how many follow it there (to the next part, if it is not mapped any
 * more: then NULL).
 */
char *uffd_place_find(uffd_memory *memory, uint64_t offset, uint64_t *run);
/* The other way round: the offset of the byte that lies at address. */
uint64_t uffd_place_offset(uffd_memory *memory, uint64_t address);
/* Events told so: the range is not mapped any more, or lies elsewhere. Wait for no allocator. */
void uffd_places_unmapped(uffd_memory *memory, uint64_t start, uint64_t end);
void uffd_places_moved(uffd_memory *memory, uint64_t from, uint64_t to, uint64_t length);
/* Of [start, end), where the memory was served through fd, what is registered no longer is not ours either. */
void uffd_places_verify(uffd_memory *memory, int fd, uint64_t start, uint64_t end);
/* The end: unmaps what is still ours. What else the program has mapped there since stays. */
void uffd_places_unmap(uffd_memory *memory);

/*
 * present.c: before [offset, offset+length) is served for the first time: what uffd_map() promises is empty is made so.
 * Pages of zeros are dropped, so that they are asked for; pages that the program has filled stay. 0 or -errno with a
 * sentence. Then uffd_memory_settled() tells that it is served from now on.
 */
int uffd_memory_settle(uffd_memory *memory, uint64_t offset, uint64_t length);
void uffd_memory_settled(uffd_memory *memory, uint64_t offset, uint64_t length);

/*
 * claim.c: served addresses are served once and are never read by a resolver; the addresses that a resolver reads may
 * be read by others too. The book is process-wide and is not looked at on the fault path.
 */
struct uffd_claim {
  struct uffd_claim *next;
  uint64_t start, end;     /* as it was claimed */
  struct uffd_spans spans; /* the book's: where that lies now */
  bool served;             /* else: read by a resolver */
  uffd_memory *memory;     /* served: it moves along */
  uint64_t modes;          /* served: UFFD_MODE_* */
  /* served: brings the page at address in, or unprotects it for a write. 0, or -EHWPOISON and the like. */
  int (*bring_in)(void *ctx, uint64_t address, bool write);
  /* served: drops whole pages, which are asked for anew. 0, or -EDEADLK, -ECANCELED, -errno of dropping. */
  int (*discard)(void *ctx, uffd_memory *memory, uint64_t start, uint64_t end);
  /* served: the calling thread would have to answer a fault that the kernel takes for it. Under the book's lock. */
  bool (*is_own)(void *ctx);
  void *ctx;
  uint32_t users; /* bring_in and discard calls under way; the book's */
};

/* Enters claim in the book: 0, or -EBUSY with a sentence that names the other range. The caller keeps claim. */
int uffd_claim(struct uffd_claim *claim);
/* Takes it out; when it returns, bring_in is not running. A claim that is not in the book is left alone. */
void uffd_unclaim(struct uffd_claim *claim);
/* The same, and gives back what the claim holds: its end. */
void uffd_claim_release(struct uffd_claim *claim);
/* The first part of [start, end) that the claim has, also after it was taken out of the book. False: there is none. */
bool uffd_claim_next(struct uffd_claim *claim, uint64_t start, uint64_t end, struct uffd_span *part);
/* Asks the server of address to bring its page in; -ENOENT when nobody serves it, -ECANCELED when it ends meanwhile. */
int uffd_claim_bring_in(uint64_t address, bool write);
/* Whether address is served, and in *end, at most limit, how far that holds. */
bool uffd_claim_serves(uint64_t address, uint64_t limit, uint64_t *end);
/* An event of this process's own mappings was read: served claims, and their memories, follow. */
void uffd_claims_follow(const struct uffd_event *event);
/* The end of the served range that address is in; 0: nobody serves it. */
uint64_t uffd_claim_end(uint64_t address);
/* Asks the server of start to discard [start, end), which is one server's. As uffd_claim_bring_in(). */
int uffd_claim_discard(uffd_memory *memory, uint64_t start, uint64_t end);

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
int uffd_drop(uffd_memory *memory, uint64_t start, uint64_t length);
/* Whether the kernel tells of it, with UFFD_FEAT_EVENT_REMOVE, and goes on when that was read. */
bool uffd_drop_tells(const uffd_memory *memory);

/* copy.c: copies from memory that may not be readable, without a signal. 0, or -EFAULT and the like. */
int uffd_peek(void *buffer, const void *source, uint64_t length);

/* touch.c: one access that raises no signal here; the byte keeps its value. 0, -EFAULT, or -errno of making it. */
int uffd_touch(uint64_t address, bool write);
bool uffd_is_poisoned(uint64_t address);

#endif
