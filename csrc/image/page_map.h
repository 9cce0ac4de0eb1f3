/*
 * The page map of a writable layer: a file that says of each page whether its data are in the layer, whether it is
 * zero, or the same as below. It has a byte a page twice: the live map, which a successor reads on the same boot of the
 * machine, and the durable one, which tells only of data that are on the disk, for after a crash of the machine.
 */
#ifndef UFFD_IMAGE_PAGE_MAP_H
#define UFFD_IMAGE_PAGE_MAP_H

#include <pthread.h>

#include "base/base.h"

enum { UFFD_PAGE_BELOW = 0, UFFD_PAGE_ZERO = 1, UFFD_PAGE_DATA = 2, UFFD_PAGE_KINDS = 3 };

/* What the layer is. */
struct uffd_page_map_head {
  uint64_t length;    /* of the image, bytes */
  uint64_t page_size; /* bytes */
  bool has_below;
  unsigned char below_id[32]; /* of the image below; zeros: none */
};

struct uffd_page_map {
  char *path;
  int fd; /* locked: a layer has one writer */
  struct uffd_page_map_head head;
  uint64_t count; /* pages */
  _Atomic unsigned char *kinds;
  unsigned char *scratch;     /* of those that are being made durable */
  uint64_t bytes;             /* of kinds, and of scratch: whole pages of this machine */
  _Atomic uint64_t low, high; /* pages that were set since they were made durable: [low, high) */
  pthread_mutex_t flushing;
};

/*
 * Opens the map at path, or makes it when there is none (*made). 0; -EINVAL what is there is another layer's, or is
 * damaged; -EBUSY somebody has it open; those of files; -ENOMEM. map is released by uffd_page_map_close(), also when it
 * fails.
 */
int uffd_page_map_open(struct uffd_page_map *map, const char *path, const struct uffd_page_map_head *head, bool *made);
void uffd_page_map_close(struct uffd_page_map *map);

static inline uint32_t uffd_page_map_kind(const struct uffd_page_map *map, uint64_t page) {
  return atomic_load_explicit(&map->kinds[page], memory_order_acquire);
}

/* [first, end) are of this kind; the data are in the file already. In the file first, then here. Any thread. */
int uffd_page_map_set(struct uffd_page_map *map, uint64_t first, uint64_t end, uint32_t kind);

/* Makes what is set durable; the caller's data are synced between both. Others may set pages meanwhile. */
void uffd_page_map_begin(struct uffd_page_map *map, uint64_t *low, uint64_t *high);
int uffd_page_map_end(struct uffd_page_map *map, uint64_t low, uint64_t high, int synced);

#endif
