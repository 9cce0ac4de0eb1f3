/*
 * What is known of pages: their states, the runs of them that one object serves (slices), and the terms on which a
 * region is served. Changed by the reader that has the object; knows no ioctls.
 */
#ifndef UFFD_LOOP_PAGES_SLICE_H
#define UFFD_LOOP_PAGES_SLICE_H

#include "loop/pages/pattern.h"
#include "resolver/resolver.h"

/* One byte a page. The kernel has the last word (EEXIST): a state saves asking it. */
enum uffd_page {
  UFFD_PAGE_ABSENT = 0,
  UFFD_PAGE_INSTALLED = 1,
  UFFD_PAGE_REMOVED = 2, /* dropped by its owner, who must read zeros from then on, however often it is dropped */
  UFFD_PAGE_POISONED = 3,
  UFFD_PAGE_CLAIMED = 4 /* an inline slot writes it in the page cache: others come again */
};

/* The page cache behind memory that we have mapped. */
struct uffd_cache {
  int fd;          /* -1: there is none, or it is not known */
  char *alias;     /* of the region's first byte, in the second mapping of the file; NULL: the memory is private */
  uint64_t offset; /* of the region's first byte in the file */
  struct uffd_common *common; /* what the memory shares with other private mappings of the file; NULL: nothing */
  bool others; /* the mapping is private: what the file has is no answer to what was asked for it alone */
};

#define UFFD_KIND_WORDS 4u /* of a resolver's name, as struct uffd_waiting has it */

/* What the line has learnt about a region. Any thread writes it; a wrong value costs time, never contents. */
struct uffd_hints {
  struct uffd_pattern pattern; /* around auto */
  _Atomic bool zeros_found;    /* in the last answer that was looked at */
  _Atomic bool huge;           /* whole huge pages are moved in */
};

/*
 * All that the line needs to know of a region. Set before the region is served; the line never changes it. The resolver
 * may be replaced: whoever does so waits until all lanes have let go of the old one.
 */
struct uffd_terms {
  uffd_resolver *_Atomic resolver;
  int32_t pid;      /* of another process, 0: unknown; else 0 */
  uint64_t address; /* as it was added */
  uint64_t length, page_size, modes, resolver_offset, around;
  _Atomic uint8_t *pages; /* enum uffd_page */
  void *cookie;
  _Atomic uint64_t kind[UFFD_KIND_WORDS]; /* the resolver's name, cut */
  uint32_t page_shift;                    /* of page_size: a division costs more than the rest of a look at a state */
  uint32_t on_error;                      /* UFFD_ON_ERROR_*, never DEFAULT */
  uint32_t retry_ms, retry_then;          /* on_error RETRY: after so long (0: never) a page becomes that */
  bool finds_zeros; /* zero pages of large answers go in as such; elsewhere a zero page costs as much as another */
  bool foreign;     /* in another process */
  /*
   * The resolver is told of minor faults. Else these are on guard only: a page may be in the page cache because
   * somebody has read a hole there, and is asked for all the same.
   */
  bool tells_minor;
  bool doubts; /* the resolver continues pages, and fills those that the page cache does not really have */
  struct uffd_cache cache;
  struct uffd_hints *hints;
  _Atomic uint64_t *latency; /* UFFD_HISTOGRAM_BUCKETS of the region; any lane adds to them */
  uint32_t entry;            /* in the ledger */
  struct uffd_terms *next;   /* in the ledger, the newest first */
};

/* A run of a region's pages behind one object. */
struct uffd_slice {
  uint64_t start, end;    /* addresses */
  uint64_t offset;        /* of start in the region */
  _Atomic uint8_t *pages; /* enum uffd_page; the region's, or of the forked child that the slice is in */
  const struct uffd_terms *terms;
  bool moved; /* by mremap: no longer where the region was added */
  bool left;  /* of another process, and taken out as it is: its faults wait for whoever serves it next */
};

static inline uffd_resolver *resolver_of(const struct uffd_slice *slice) {
  return atomic_load_explicit(&slice->terms->resolver, memory_order_acquire);
}
static inline uint8_t page_state(const struct uffd_slice *slice, uint64_t index) {
  return atomic_load_explicit(&slice->pages[index], memory_order_relaxed);
}
static inline void set_page_state(const struct uffd_slice *slice, uint64_t index, uint8_t state) {
  atomic_store_explicit(&slice->pages[index], state, memory_order_relaxed);
}
static inline uint64_t page_index(const struct uffd_slice *slice, uint64_t address) {
  return (address - slice->start) >> slice->terms->page_shift;
}
/* Eight states at once, from a multiple of 8 in memory: whether all are ABSENT. Large covers are mostly that. */
static inline bool are_absent(const _Atomic uint8_t *states) {
  return __atomic_load_n((const uint64_t *)(const void *)states, __ATOMIC_RELAXED) == 0;
}
static inline bool begins_word(const _Atomic uint8_t *state) {
  return ((uintptr_t)state & 7) == 0;
}
/* The end of the run of absent pages that begins with the page of that index; at most limit. */
static inline uint64_t absent_after(const struct uffd_slice *slice, uint64_t index, uint64_t limit) {
  while (index < limit) {
    bool word = limit - index >= 8 && begins_word(&slice->pages[index]) && are_absent(&slice->pages[index]);
    if (!word && page_state(slice, index) != UFFD_PAGE_ABSENT) break;
    index += word ? 8 : 1;
  }
  return index;
}
/* The first page of the run of absent pages that ends before the page of that index; at least limit. */
static inline uint64_t absent_before(const struct uffd_slice *slice, uint64_t index, uint64_t limit) {
  while (index > limit) {
    bool word = index - limit >= 8 && begins_word(&slice->pages[index]) && are_absent(&slice->pages[index - 8]);
    if (!word && page_state(slice, index - 1) != UFFD_PAGE_ABSENT) break;
    index -= word ? 8 : 1;
  }
  return index;
}
/* The address of the page that holds address. */
static inline uint64_t page_of(const struct uffd_slice *slice, uint64_t address) {
  return slice->start + ((address - slice->start) & ~(slice->terms->page_size - 1));
}
static inline uint64_t region_offset(const struct uffd_slice *slice, uint64_t address) {
  return address - slice->start + slice->offset;
}

#endif
