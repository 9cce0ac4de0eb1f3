/*
 * Units of a remote source: frames of a zstd file, chunks of any other. Where each lies.
 */
#include "image/remote/fetch.h"

#define CHUNK UFFD_INDEX_CHUNK /* bytes of a unit, where there are no frames */

struct uffd_extent uffd_unit_stream(const struct uffd_fetching *fetching, uint64_t unit) {
  if (fetching->frames.count != 0) {
    const struct uffd_frame *frame = &fetching->frames.list[unit];
    return (struct uffd_extent){frame[0].offset, frame[1].offset - frame[0].offset};
  }
  uint64_t offset = unit * CHUNK;
  return (struct uffd_extent){offset, min_u64(CHUNK, fetching->head.stream_bytes - offset)};
}

struct uffd_extent uffd_unit_file(const struct uffd_fetching *fetching, uint64_t unit) {
  if (fetching->frames.count == 0) return uffd_unit_stream(fetching, unit);
  const struct uffd_frame *frame = &fetching->frames.list[unit];
  return (struct uffd_extent){frame->at, frame->packed};
}

uint64_t uffd_unit_at(const struct uffd_fetching *fetching, uint64_t offset) {
  return fetching->frames.count == 0 ? offset / CHUNK : uffd_frames_find(&fetching->frames, offset);
}
