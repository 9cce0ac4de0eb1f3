/*
 * The userfaultfd object inside the core: its fields, and the operations that the fault path uses, without sentences
 * and handle checks. The public functions add both.
 */
#ifndef UFFD_KERNEL_OBJECT_H
#define UFFD_KERNEL_OBJECT_H

#include <pthread.h>

#include "base/base.h"
#include "kernel/uapi.h"

#define UFFD_READ_MAX 64u /* messages a read */

struct uffd_span {
  uint64_t start, end;
};
/* Sorted, not overlapping. All zeros: empty; a set of one needs no memory of its own. */
struct uffd_spans {
  struct uffd_span one, *many; /* many: with a capacity above 1 */
  size_t count, capacity;
};

struct uffd_object {
  /* set once */
  int fd;
  uint32_t route;     /* UFFD_ROUTE_* */
  uint64_t process;   /* uffd_process() of the maker */
  uint64_t features;  /* enabled */
  uint64_t available; /* offered; 0 unknown */
  int user_mode_only; /* 1, 0, -1 unknown */
  bool blocking;
  struct uffd_nursery *home; /* that this object lies in, or NULL */
  /* any thread, atomic */
  _Atomic uint32_t users; /* calls in progress; the top bit: closing */
  _Atomic int wake_fd;    /* eventfd, made by the first reader that waits: ends the waits of readers when the object
                             closes; or -1 */
  /* written by the reader; uffd_read() holds the lock, because there any thread may be the reader */
  pthread_mutex_t reading;
  unsigned waiting;             /* blocking objects: readers that hold O_NONBLOCK set */
  struct uffd_nursery *nursery; /* spare objects for the children of FORK events, or NULL */
  /* written by threads that register, under the lock */
  pthread_mutex_t registering;
  struct uffd_spans spans; /* what closing must unregister */
};

/* object.c: a bare object (NULL: a sentence is set), and its end: descriptors closed, all freed. */
struct uffd_object *uffd_object_new(void);
void uffd_object_init(struct uffd_object *object);
void uffd_object_free(struct uffd_object *object);
bool uffd_is_closing(const struct uffd_object *object);
int uffd_wake_fd(struct uffd_object *object); /* makes it if need be; -EMFILE, -ENFILE, -ENOMEM */

/* Enter and leave a call on a handle: -EBADF closing, -EOWNERDEAD forked child (both with a sentence). */
int uffd_enter(struct uffd_object *object);
void uffd_leave(struct uffd_object *object);

/* span.c. A change adds one span at most (a new one, or the second half of one that is cut): make room for it before.
 */
int uffd_spans_reserve(struct uffd_spans *spans); /* 0 or -ENOMEM, no sentence; waits for no allocator */
void uffd_spans_add(struct uffd_spans *spans, uint64_t start, uint64_t end);
void uffd_spans_remove(struct uffd_spans *spans, uint64_t start, uint64_t end);
struct uffd_span *uffd_spans_first(struct uffd_spans *spans);
void uffd_spans_unmap(struct uffd_spans *spans); /* its end */

/* Which ranges are registered through an object. */
void uffd_drop_spans(struct uffd_object *object); /* unregisters them all and wakes their sleepers */
void uffd_inherit_spans(struct uffd_object *child, struct uffd_object *parent); /* where memory allows */
void uffd_follow_spans(struct uffd_object *object, const struct uffd_event *event);

/* The mask that this kernel offers, asked once with a throw-away descriptor; 0 if none can be made. */
uint64_t uffd_kernel_features(void);
/* Linux 6.4: CONTINUE maps a page write-protected. No feature tells; UFFD_FEAT_WP_UNPOPULATED came with it. */
bool uffd_continues_protected(uint64_t features);

/* The base page, bytes. */
uint64_t uffd_page_size(void);

/* range.c: 0, or -EINVAL and a sentence for a range that no operation takes. */
int uffd_check_range(uint64_t start, uint64_t length);

/* raw.c: 0 or -errno, no sentence. */
int uffd_raw_register(int fd, uint64_t start, uint64_t length, uint64_t modes, uint64_t *ioctls);
int uffd_raw_unregister(int fd, uint64_t start, uint64_t length);
int uffd_raw_wake(int fd, uint64_t start, uint64_t length);
/*
 * Whether the anonymous page at address is registered, with whichever object; true as well when the kernel cannot say.
 * CONTINUE is refused by both, and changes neither.
 */
bool uffd_raw_is_registered(int fd, uint64_t address);
int uffd_raw_writeprotect(int fd, uint64_t start, uint64_t length, uint64_t mode);

/* The fill operations: one driver serves all five. */
enum uffd_fill_op { UFFD_FILL_COPY, UFFD_FILL_ZEROPAGE, UFFD_FILL_CONTINUE, UFFD_FILL_POISON, UFFD_FILL_MOVE };

/*
 * Does op over [dst, dst+length), src for COPY and MOVE. Goes on through partial progress and over borders of mappings
 * (ENOENT with several pages: halves, down to one page). Returns 0 or -errno as uffd_copy() documents; *done is always
 * set. Never wakes on EEXIST, sets no sentence, checks no handle, allocates nothing.
 */
int uffd_fill(int fd, enum uffd_fill_op op, uint64_t dst, uint64_t src, uint64_t length, uint64_t mode, uint64_t *done);

/*
 * hugepage.c: after -EEXIST from a COPY of huge pages at an address of this process: -EEXIST, or -ENOMEM when there is
 * no page but the pool is out of them. Slow, and reads /proc.
 */
int uffd_check_present(uint64_t address);
/*
 * The same for another process: whether the huge page is there. True as well when nobody can tell (pid 0, or no
 * permission): then the fault is told again, which loses nothing.
 */
bool uffd_is_present(int32_t pid, uint64_t address, uint64_t page_size);

/*
 * pagemap.c: there[i]: page i from address on is in the page tables (present, swapped, or a marker) of this process
 * (pid 0) or another. 0, or -errno when that cannot be had: no sentence.
 */
int uffd_pagemap_read(int32_t pid, uint64_t address, uint64_t page_size, uint32_t count, bool *there);

/* move.c: -EINVAL and a sentence for ranges that break a rule; and the sentence for the EINVAL of the kernel. */
int uffd_check_move(uint64_t dst, uint64_t src, uint64_t length);
int uffd_explain_move(const struct uffd_object *object, uint64_t dst, uint64_t src, uint64_t mode);

/* One read(2) of up to count raw messages: the number, or -errno (-EAGAIN: nothing there). Retries EINTR. */
int uffd_raw_read(int fd, struct uffd_raw_msg *messages, unsigned count);

/*
 * Decodes one message. A FORK takes a spare for the child's descriptor: uffd_reserve_spares() before the read makes
 * sure that there is one for every message. Neither waits for malloc, whose locks a fork() under way may hold.
 */
void uffd_decode(struct uffd_object *object, const struct uffd_raw_msg *message, struct uffd_event *event);
int uffd_reserve_spares(struct uffd_object *object, unsigned count); /* 0, -ENOMEM; nothing to do without EVENT_FORK */

/* nursery.c: a spare from the reserve, to be initialised, or NULL; and one member's end. NULL is allowed. */
struct uffd_object *uffd_take_spare(struct uffd_object *object);
void uffd_leave_nursery(struct uffd_nursery *nursery);

/* maps.c: the mappings of this process. */
struct uffd_mapping {
  uint64_t start, end;
  uint64_t page_size;     /* KernelPageSize */
  uint64_t offset, inode; /* of the file; 0: none */
  char protection[8];     /* "rw-p" */
  char name[128];         /* path or [heap], may be cut */
  char flags[128];        /* VmFlags, where they were asked for */
};
/* A walk over mappings in ascending order. flags: with VmFlags, which is slow. 0 or -errno of /proc; to be closed. */
struct uffd_maps {
  int fd;
  bool asks; /* the kernel is asked for each; else the file is read on */
  size_t used, at;
  struct uffd_mapping last;
  char buffer[4096];
};
int uffd_maps_open(struct uffd_maps *maps, bool flags);
/* The mapping that holds address, or the next one above it: 0, -ENOENT (there is none), or -errno. */
int uffd_maps_find(struct uffd_maps *maps, uint64_t address, struct uffd_mapping *mapping);
void uffd_maps_close(struct uffd_maps *maps);
/* The mapping that holds address, with VmFlags. 0, -ENOENT (nothing mapped), or -errno of /proc. Slow. */
int uffd_find_mapping(uint64_t address, struct uffd_mapping *mapping);
bool uffd_mapping_has(const struct uffd_mapping *mapping, const char *flag); /* the two letters in VmFlags */
bool uffd_mapping_is_registered(const struct uffd_mapping *mapping);         /* with any userfaultfd; needs VmFlags */
bool uffd_mapping_is_anonymous(const struct uffd_mapping *mapping);          /* and private */

#endif
