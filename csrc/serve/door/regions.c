/*
 * Checks of a client's regions, before the supervisor or a worker relies on them.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/base.h"
#include "serve/door/regions.h"

#define HUGE_PAGE     (UINT64_C(2) << 20)
#define ADDRESS_LIMIT (UINT64_C(1) << 57) /* user space of x86-64 with five levels */

static int by_offset(const void *a, const void *b) {
  uint64_t x = ((const struct uffd_client_region *)a)->offset, y = ((const struct uffd_client_region *)b)->offset;
  return (x > y) - (x < y);
}

static int by_address(const void *a, const void *b) {
  uint64_t x = (*(const struct uffd_client_region *const *)a)->address,
           y = (*(const struct uffd_client_region *const *)b)->address;
  return (x > y) - (x < y);
}

static int refuse(const struct uffd_client_region *region, const char *why) {
  return fail(EINVAL,
              "The region at 0x%" PRIx64 " (%" PRIu64 " bytes, at %" PRIu64 " of the image, pages of %" PRIu64 ") %s.",
              region->address, region->length, region->offset, region->page_size, why);
}

static int check_one(const struct uffd_client_region *region, uint64_t page_size) {
  if (region->page_size != BASE_PAGE && region->page_size != HUGE_PAGE) {
    return refuse(region, "has pages of an unknown size: 4096 and 2097152 are known, in bytes");
  }
  if (region->page_size != page_size) return refuse(region, "has another page size than the first: all have the same");
  if (region->length == 0) return refuse(region, "is empty");
  if (region->length > ADDRESS_LIMIT || region->address > ADDRESS_LIMIT - region->length) {
    return refuse(region, "reaches beyond the address space");
  }
  if (region->offset > INT64_MAX - region->length) return refuse(region, "reaches beyond what a file can hold");
  if (region->address % page_size != 0) return refuse(region, "does not begin at a page");
  if (region->length % page_size != 0) return refuse(region, "is not whole pages");
  if (region->offset % page_size != 0) return refuse(region, "does not begin at a page of the image");
  return 0;
}

static int check_overlap(const struct uffd_client_region *before, const struct uffd_client_region *after,
                         bool addresses) {
  uint64_t end = (addresses ? before->address : before->offset) + before->length;
  if (end <= (addresses ? after->address : after->offset)) return 0;
  return fail(EINVAL,
              "Two regions share %s: at 0x%" PRIx64 " (%" PRIu64 " bytes, at %" PRIu64
              " of the image) and at 0x%" PRIx64 " (%" PRIu64 " bytes, at %" PRIu64 ").",
              addresses ? "addresses" : "a part of the image", before->address, before->length, before->offset,
              after->address, after->length, after->offset);
}

static int check_addresses(const struct uffd_client_region *regions, uint32_t count) {
  const struct uffd_client_region **order = uffd_alloc(count * sizeof(*order));
  if (order == NULL) return fail(ENOMEM, "No memory for %u regions.", count);
  for (uint32_t i = 0; i < count; i++) {
    order[i] = &regions[i];
  }
  qsort(order, count, sizeof(*order), by_address);
  int result = 0;
  for (uint32_t i = 1; i < count && result == 0; i++) {
    result = check_overlap(order[i - 1], order[i], true);
  }
  uffd_release(order, count * sizeof(*order));
  return result;
}

int uffd_regions_cover(const struct uffd_client_region *regions, uint32_t count, uint64_t image_length) {
  uint64_t sum = 0, page_size = regions[0].page_size, whole = round_up(image_length, page_size);
  for (uint32_t i = 0; i < count; i++) {
    sum += regions[i].length;
  }
  const struct uffd_client_region *last = &regions[count - 1];
  if (sum == whole && last->offset + last->length == whole) return 0;
  return fail(EINVAL,
              "The regions have %" PRIu64 " bytes and end at %" PRIu64 ", but the image has %" PRIu64
              ": it belongs to another client.",
              sum, last->offset + last->length, image_length);
}

int uffd_regions_within(const struct uffd_client_region *regions, uint32_t count, uint64_t image_length) {
  const struct uffd_client_region *last = &regions[count - 1];
  if (last->offset + last->length <= round_up(image_length, last->page_size)) return 0;
  return refuse(last, "reaches beyond the image");
}

int uffd_regions_check(struct uffd_client_region *regions, uint32_t count, const struct uffd_door_limits *limits) {
  if (count == 0) return fail(EINVAL, "The handshake has no regions.");
  if (count > limits->max_regions) {
    return fail(E2BIG, "The handshake has %u regions, and at most %u are taken: raise max_regions if that can be.",
                count, limits->max_regions);
  }
  for (uint32_t i = 0; i < count; i++) {
    int result = check_one(&regions[i], regions[0].page_size);
    if (result < 0) return result;
  }
  qsort(regions, count, sizeof(*regions), by_offset);
  for (uint32_t i = 1; i < count; i++) {
    int result = check_overlap(&regions[i - 1], &regions[i], false);
    if (result < 0) return result;
  }
  int result = check_addresses(regions, count);
  if (result < 0 || limits->image_length == 0) return result;
  return uffd_regions_cover(regions, count, limits->image_length);
}
