/*
 * A source: one object, and the slices that it serves, in a small array sorted by address.
 */
#ifndef UFFD_LOOP_PAGES_SOURCE_H
#define UFFD_LOOP_PAGES_SOURCE_H

#include "loop/pages/slice.h"

/* Its reader's own, but for the fields set once and the atomic one. */
struct uffd_source {
  struct uffd_source *next;
  uffd_object *object;
  int fd;
  bool child;        /* of a fork: the object is closed with the source */
  bool foreign;      /* serves another process, which registers its ranges itself */
  bool lost;         /* a change of mappings could not be followed: unknown places are poison, not zeros */
  _Atomic bool gone; /* its address space is no more */
  bool starved;      /* a FORK waits for a free descriptor */
  bool readable;     /* has messages, as poll said */
  uint64_t discard_start, discard_end; /* pages dropped in there are asked for anew; 0: none are */
  uint64_t back_start, back_end;       /* faults in there found no room in the queue; 0: none did */
  uint32_t count, capacity;
  struct uffd_slice *slices; /* by address */
  _Atomic uint8_t *pages;    /* a child's own page states; else NULL: they are the regions' */
  uint64_t pages_count;
};

struct uffd_source *uffd_source_create(uffd_object *object); /* NULL: no memory */
void uffd_source_destroy(struct uffd_source *source);

/* The process whose faults its messages tell of; 0: this one, or a forked child, whose threads it sees by their ids. */
uint32_t uffd_source_pid(const struct uffd_source *source);

struct uffd_slice *uffd_slice_find(const struct uffd_source *source, uint64_t address); /* NULL: none */
/* Puts a slice in. The array must have room: uffd_slices_reserve(). */
void uffd_slices_insert(struct uffd_source *source, const struct uffd_slice *slice);
int uffd_slices_reserve(struct uffd_source *source, uint32_t more); /* 0 or -ENOMEM */
void uffd_slices_forget(struct uffd_source *source, const struct uffd_terms *terms);
/* Slices that were left do not count. */
bool uffd_slices_overlap(const struct uffd_source *source, uint64_t start, uint64_t end);
/* Pages become absent: [start, end), whole pages of one region. */
void uffd_slice_discard(const struct uffd_slice *slice, uint64_t start, uint64_t end);
/* The owner dropped, unmapped or moved a range. -ENOMEM when there was no room to split a slice. */
void uffd_slices_remove(struct uffd_source *source, uint64_t start, uint64_t end);
int uffd_slices_unmap(struct uffd_source *source, uint64_t start, uint64_t end);
int uffd_slices_remap(struct uffd_source *source, uint64_t from, uint64_t to, uint64_t length);
/* A child's copy: page states of its own, the same regions. 0 or -ENOMEM. */
int uffd_slices_clone(const struct uffd_source *parent, struct uffd_source *child);

/* Unregisters a slice and wakes who sleeps there; its missing pages read as zeros from then on. */
void uffd_slice_unregister(const struct uffd_source *source, const struct uffd_slice *slice);

#endif
