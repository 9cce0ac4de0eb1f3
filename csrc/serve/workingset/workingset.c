/*
 * The pages that a client touched: records in the order of touching, and a set of the same pages, which finds
 * duplicates and gives the pages by number. workingset_file.c reads and writes files.
 */
#include "serve/workingset/workingset.h"

#include <inttypes.h>
#include <string.h>

#define LEAST_PAGE UINT64_C(4096)

static int check(const uffd_workingset *set) {
  return set != NULL ? 0 : fail(EBADF, "The working set is NULL.");
}

int uffd_workingset_create(uint64_t page_size, uint64_t image_length, uint64_t image_identity, uffd_workingset **set) {
  if (set == NULL) return fail(EINVAL, "There is nowhere to put the working set.");
  *set = NULL;
  if (page_size < LEAST_PAGE || (page_size & (page_size - 1)) != 0)
    return fail(EINVAL, "A page of %" PRIu64 " bytes: it must be a power of two from %" PRIu64 " on.", page_size,
                LEAST_PAGE);
  if (image_length == 0) return fail(EINVAL, "An image of 0 bytes has no pages.");
  uffd_workingset *made = NEW(uffd_workingset);
  if (made == NULL) return fail(ENOMEM, "No memory for a working set.");
  made->page_size = page_size;
  made->image_length = image_length;
  made->image_identity = image_identity;
  uffd_pageset_init(&made->pages, pages_of(image_length, page_size));
  *set = made;
  return 0;
}

void uffd_workingset_close(uffd_workingset *set) {
  if (set == NULL) return;
  uffd_pageset_free(&set->pages);
  uffd_release(set->records, set->capacity * sizeof(*set->records));
  DELETE(set);
}

static int reserve(uffd_workingset *set, uint64_t count) {
  if (count <= set->capacity) return 0;
  uint64_t capacity = max_u64(max_u64(count, 256), set->capacity * 2);
  uint64_t *records = capacity > SIZE_MAX / sizeof(*records) ? NULL : uffd_alloc(capacity * sizeof(*records));
  if (records == NULL) return fail(ENOMEM, "No memory for a working set of %" PRIu64 " pages.", count);
  if (set->count != 0) memcpy(records, set->records, set->count * sizeof(*records));
  uffd_release(set->records, set->capacity * sizeof(*records));
  set->records = records;
  set->capacity = capacity;
  return 0;
}

int uffd_workingset_add_record(uffd_workingset *set, uint64_t record) {
  int result = reserve(set, set->count + 1);
  if (result < 0) return result;
  int added = uffd_pageset_add(&set->pages, RECORD_PAGE(record));
  if (added < 0) return fail(ENOMEM, "No memory for a working set of %" PRIu64 " pages.", set->count + 1);
  if (added > 0) set->records[set->count++] = record;
  return added;
}

int uffd_workingset_add(uffd_workingset *set, uint64_t offset, uint64_t flags) {
  int result = check(set);
  if (result < 0) return result;
  if (offset % set->page_size != 0)
    return fail(EINVAL, "Offset %#" PRIx64 " is not at the beginning of a page of %" PRIu64 " bytes.", offset,
                set->page_size);
  if (offset >= set->image_length)
    return fail(ERANGE, "Offset %#" PRIx64 " is beyond the image, which has %" PRIu64 " bytes.", offset,
                set->image_length);
  return uffd_workingset_add_record(set, offset / set->page_size | (flags & RECORD_KINDS) << RECORD_KIND_SHIFT);
}

int uffd_workingset_merge(uffd_workingset *set, const uffd_workingset *other) {
  int result = check(set);
  if (result == 0) result = check(other);
  if (result < 0) return result;
  if (set->page_size != other->page_size)
    return fail(EINVAL, "One working set has pages of %" PRIu64 " bytes, the other of %" PRIu64 ": record one again.",
                set->page_size, other->page_size);
  result = uffd_workingset_check(other, set->image_length, set->image_identity);
  if (result < 0) return result;
  for (uint64_t i = 0; i < other->count; i++) {
    result = uffd_workingset_add_record(set, other->records[i]);
    if (result < 0) return result;
  }
  if (set->image_identity == 0) set->image_identity = other->image_identity;
  return 0;
}

int uffd_workingset_check(const uffd_workingset *set, uint64_t image_length, uint64_t image_identity) {
  int result = check(set);
  if (result < 0) return result;
  if (set->image_length != image_length)
    return fail(EINVAL,
                "The working set is of another image: that has %" PRIu64 " bytes, this one %" PRIu64
                ". Record one of this image.",
                set->image_length, image_length);
  bool known = set->image_identity != 0 && image_identity != 0;
  if (known && set->image_identity != image_identity)
    return fail(EINVAL,
                "The working set is of another image of the same length: its identity is %016" PRIx64
                ", that of this one %016" PRIx64 ". Record one of this image.",
                set->image_identity, image_identity);
  return 0;
}

uint64_t uffd_workingset_count(const uffd_workingset *set) {
  return set != NULL ? set->count : 0;
}

int uffd_workingset_get(const uffd_workingset *set, uint64_t index, struct uffd_touch *touch) {
  int result = check(set);
  if (result < 0) return result;
  if (touch == NULL) return fail(EINVAL, "There is nowhere to put the page.");
  if (index >= set->count)
    return fail(ERANGE, "There is no page %" PRIu64 ": the working set has %" PRIu64 ".", index, set->count);
  uint64_t record = set->records[index];
  *touch = (struct uffd_touch){RECORD_PAGE(record) * set->page_size, RECORD_KIND(record)};
  return 0;
}

static void count_runs(const uffd_workingset *set, struct uffd_workingset_info *info) {
  struct uffd_run run = {0, 0};
  while (uffd_pageset_run(&set->pages, run.first + run.count, &run)) {
    info->runs++;
    info->longest_run = max_u64(info->longest_run, run.count);
  }
}

static void count_touches(const uffd_workingset *set, struct uffd_workingset_info *info) {
  for (uint64_t i = 0; i < set->count; i++) {
    uint64_t record = set->records[i];
    if ((RECORD_KIND(record) & UFFD_FAULT_WRITE) != 0) info->writes++;
    if (i > 0 && RECORD_PAGE(record) == RECORD_PAGE(set->records[i - 1]) + 1) info->sequential++;
  }
}

int uffd_workingset_info(const uffd_workingset *set, struct uffd_workingset_info *info) {
  int result = check(set);
  if (result < 0) return result;
  if (info == NULL || info->size < 2 * sizeof(size_t))
    return fail(EINVAL, "uffd_workingset_info: set size, UFFD_WORKINGSET_INFO_INIT does.");
  struct uffd_workingset_info found = UFFD_WORKINGSET_INFO_INIT;
  found.size = info->size;
  found.page_size = set->page_size;
  found.image_length = set->image_length;
  found.image_identity = set->image_identity;
  found.pages = set->count;
  found.bytes = set->count * set->page_size;
  count_runs(set, &found);
  count_touches(set, &found);
  memcpy(info, &found, min_u64(info->size, sizeof(found)));
  return 0;
}

int64_t uffd_workingset_ranges(const uffd_workingset *set, struct uffd_range *ranges, size_t count) {
  int result = check(set);
  if (result < 0) return result;
  if (ranges == NULL && count != 0) return fail(EINVAL, "There is nowhere to put %zu ranges.", count);
  int64_t found = 0;
  struct uffd_run run = {0, 0};
  for (; uffd_pageset_run(&set->pages, run.first + run.count, &run); found++) {
    if ((uint64_t)found < count)
      ranges[found] = (struct uffd_range){run.first * set->page_size, run.count * set->page_size};
  }
  return found;
}
