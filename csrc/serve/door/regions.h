/*
 * The regions of a client: what must be true before they are relied on.
 */
#ifndef UFFD_SERVE_REGIONS_H
#define UFFD_SERVE_REGIONS_H

#include "uffd_pager.h"

struct uffd_door_limits {
  uint32_t max_bytes;    /* of a handshake */
  uint32_t max_regions;  /* of a handshake */
  uint64_t image_length; /* bytes: the regions must cover the image, no more and no less; 0: there is no image */
};

/*
 * Sorts the regions by offset and checks them. Refused are: no region, or too many; lengths of 0; what is not whole
 * pages or lies beyond the address space; page sizes that are unknown or differ; ranges that overlap in the client or
 * in the image; regions that do not cover the image. -EINVAL or -E2BIG with a sentence; -ENOMEM.
 */
int uffd_regions_check(struct uffd_client_region *regions, uint32_t count, const struct uffd_door_limits *limits);

/*
 * Do the regions, sorted and checked, cover an image of this length, no more and no less? A snapshot's memory file is
 * as long as the machine's memory; otherwise it is another machine's. -EINVAL with a sentence.
 */
int uffd_regions_cover(const struct uffd_client_region *regions, uint32_t count, uint64_t image_length);

/* Does each of them lie within an image of this length? -EINVAL with a sentence. */
int uffd_regions_within(const struct uffd_client_region *regions, uint32_t count, uint64_t image_length);

#endif
