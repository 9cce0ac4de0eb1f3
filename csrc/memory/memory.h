/*
 * Mappings that can be served, and the claims: who serves or reads which addresses. Knows no resolvers and no loops: a
 * server leaves a function here that brings a page in.
 */
#ifndef UFFD_MEMORY_MEMORY_H
#define UFFD_MEMORY_MEMORY_H

#include "kernel/object.h"
#include "memory/lending.h"

#define HUGE_PAGE (UINT64_C(2) << 20)

/* A part of a memory and its address: where it was mapped, or where mremap has moved it. */
struct uffd_place {
  uint64_t offset, length; /* in the memory, bytes */
  char *address;
};

enum uffd_common_state { UFFD_COMMON_ABSENT, UFFD_COMMON_CLAIMED, UFFD_COMMON_FILLED };

/* common.c: what private mappings of one memfd have in common. Any thread. */
struct uffd_common {
  /* set once */
  uint64_t process, length;
  uint64_t mapped; /* bytes of the alias */
  uint32_t page_shift;
  bool among_processes; /* see uffd_common_open() */
  char *alias;          /* a shared mapping of all of it, which nobody serves */
  /* atomic */
  _Atomic uint32_t references;
  _Atomic uint8_t *states; /* enum uffd_common_state, of each page */
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
  /* how a mapping of ours is recognised in /proc/self/maps */
  uint64_t inode;         /* of the memfd; 0: none */
  uint32_t number;        /* of an anonymous memory, in its name; 0: this kernel names none */
  char *alias;            /* NULL: none */
  uint64_t token;         /* of a pager's memfd, by which the pager knows it again; 0: it is none */
  uint64_t common_offset; /* where byte 0 lies in what is shared; not 0 only in another process */
  /* any thread, atomic */
  _Atomic uint32_t references;
  _Atomic(char *) start; /* place.c: where byte 0 lies now, see note_start(); NULL: no byte does */
  /* any thread, under lock, which is held for microseconds only */
  pthread_mutex_t lock;
  struct uffd_common *common;       /* NULL: nothing is shared so far; set at most once */
  struct uffd_place whole, *places; /* by offset; places: &whole, or pages of their own */
  uint32_t places_count, places_capacity;
  /* threads that add regions, under settling */
  pthread_mutex_t settling;
  struct uffd_spans served; /* offsets that a loop has served before */
};

/* 0, -EBADF for NULL, or -EOWNERDEAD in a forked child; with a sentence. */
int uffd_memory_enter(const uffd_memory *memory);
/* The same, and -EOPNOTSUPP for another process's memory. */
int uffd_memory_enter_own(const uffd_memory *memory);
void uffd_memory_hold(uffd_memory *memory);
/* Undoes a hold or the creation. The last drop unmaps. */
void uffd_memory_drop(uffd_memory *memory);
uffd_memory *uffd_memory_new(uint32_t kind, uint64_t length, uint64_t page_size); /* NULL: a sentence is set */

/* What the memory, a private mapping of a memfd, shares: made when it is first asked for. 0, or -errno: a sentence. */
int uffd_common_of(uffd_memory *memory, struct uffd_common **found); /* found: held */
void uffd_common_hold(struct uffd_common *common);
/* Offsets in the memory. The page at offset is filled; claims it, or returns why not: its state before. */
bool uffd_common_has(const struct uffd_common *common, uint64_t offset);
enum uffd_common_state uffd_common_claim(struct uffd_common *common, uint64_t offset);
/* What was claimed becomes this. */
void uffd_common_settle(struct uffd_common *common, uint64_t low, uint64_t high, enum uffd_common_state state);

/* place.c: where a memory lies now. Only this file knows. */
void uffd_places_init(uffd_memory *memory, char *address);
/*
 * The address of the byte at offset, and in *run how many bytes follow it there. NULL if that byte is not mapped any
 * more: *run then reaches to the next part that is.
 */
char *uffd_place_find(uffd_memory *memory, uint64_t offset, uint64_t *run);
/* The reverse: the offset of the byte that lies at address. */
uint64_t uffd_place_offset(uffd_memory *memory, uint64_t address);
/* After events: the range is not mapped any more, or lies elsewhere. They do not allocate. */
void uffd_places_unmapped(uffd_memory *memory, uint64_t start, uint64_t end);
void uffd_places_moved(uffd_memory *memory, uint64_t from, uint64_t to, uint64_t length);
/*
 * The memory was served through fd. Parts of [start, end) that are not registered any more are not ours any more
 * either.
 */
void uffd_places_verify(uffd_memory *memory, int fd, uint64_t start, uint64_t end);
/* The end of a memory: unmaps what is still ours. Other mappings that the program has made there since stay. */
void uffd_places_unmap(uffd_memory *memory);

/*
 * present.c: call settle before [offset, offset+length) is served for the first time. uffd_map() promises that the
 * memory is empty, so pages of zeros are dropped, and are then asked for. Pages that the program has filled stay. 0 or
 * -errno with a sentence. uffd_memory_settled() then notes that the range is served from now on.
 */
int uffd_memory_settle(uffd_memory *memory, uint64_t offset, uint64_t length);
void uffd_memory_settled(uffd_memory *memory, uint64_t offset, uint64_t length);

/*
 * claim.c: an address is served by one server at most, and a served address is never read by a resolver. Several
 * resolvers may read the same address. The claims are the whole process's. The fault path does not look at them.
 */
struct uffd_claim {
  struct uffd_claim *next;
  uint64_t start, end;     /* as it was claimed */
  struct uffd_spans spans; /* written under the claims' lock: where that lies now */
  bool served;             /* else: read by a resolver */
  uffd_memory *memory;     /* served: it moves along */
  uint64_t modes;          /* served: UFFD_MODE_* */
  /* served: brings in the page at address, or unprotects it for a write. 0, or -EHWPOISON and the like. */
  int (*bring_in)(void *ctx, uint64_t address, bool write);
  /* served: drops whole pages, which are asked for again. 0, -EDEADLK, -ECANCELED, or -errno of dropping. */
  int (*discard)(void *ctx, uffd_memory *memory, uint64_t start, uint64_t end);
  /*
   * served: true if the calling thread itself would have to answer a fault of the kernel there. Called under the
   * claims' lock.
   */
  bool (*is_own)(void *ctx);
  void *ctx;
  uint32_t users; /* calls of bring_in and discard in progress; under the claims' lock */
};

/* Enters claim: 0, or -EBUSY with a sentence that names the other range. The caller keeps claim. */
int uffd_claim(struct uffd_claim *claim);
/*
 * Takes claim out. After it returns, bring_in does not run. A claim that was not entered is left alone.
 */
void uffd_unclaim(struct uffd_claim *claim);
/* The same, and frees what the claim holds. */
void uffd_claim_release(struct uffd_claim *claim);
/* The first part of [start, end) that the claim has, also after it was taken out. False: none. */
bool uffd_claim_next(struct uffd_claim *claim, uint64_t start, uint64_t end, struct uffd_span *part);
/*
 * Asks the server of address to bring its page in: -ENOENT when nobody serves it, -ECANCELED when the server ends
 * meanwhile.
 */
int uffd_claim_bring_in(uint64_t address, bool write);
/* True if address is served. *end: how far, up to limit, the answer holds. */
bool uffd_claim_serves(uint64_t address, uint64_t limit, uint64_t *end);
/* An event about this process's own mappings was read: served claims and their memories follow it. */
void uffd_claims_follow(const struct uffd_event *event);
/* The end of the served range that address is in; 0: nobody serves it. */
uint64_t uffd_claim_end(uint64_t address);
/* Asks the server of start to discard [start, end), which must be one server's. Errors as of uffd_claim_bring_in(). */
int uffd_claim_discard(uffd_memory *memory, uint64_t start, uint64_t end);

/* A part of a range whose faults the calling thread itself would have to answer. */
struct uffd_own {
  uint64_t start, end, modes;
};
/* True, and the first such part of [start, end). */
bool uffd_claim_own(uint64_t start, uint64_t end, struct uffd_own *own);
/* Set by a thread that drives a pump. Other threads need not look. */
extern _Thread_local bool uffd_thread_answers;
/* own.c: true if an access would wait for the calling thread's own answer, at *page. */
bool uffd_would_wait(uint64_t start, uint64_t length, bool write, uint64_t *page);

/* discard.c: drops whole pages of memory. 0 or -errno. */
int uffd_drop(uffd_memory *memory, uint64_t start, uint64_t length);
/* True if the kernel sends an event for it (UFFD_FEAT_EVENT_REMOVE), and waits until that was read. */
bool uffd_drop_tells(const uffd_memory *memory);

/* copy.c: copies from memory that may be unreadable, without a signal: 0, or -EFAULT and the like. */
int uffd_peek(void *buffer, const void *source, uint64_t length);
int uffd_poke(void *target, const void *data, uint64_t length); /* the other way: -EFAULT when target cannot be had */

/*
 * touch.c: one access that raises no signal in this process. The byte keeps its value. 0, -EFAULT, or -errno of making
 * the access.
 */
int uffd_touch(uint64_t address, bool write);
bool uffd_is_poisoned(uint64_t address);

#endif
