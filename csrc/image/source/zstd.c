/*
 * A zstd file of many frames, decoded one by one. The table was believed so far: here each frame must be exactly one,
 * must decode to exactly as many bytes as the table says, and must have the table's checksum. A reader keeps the frames
 * that it decoded last, since neighbouring pages are asked for one after the other.
 */
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>

#include "image/digest.h"
#include "image/source/source.h"

#define KEPT_BYTES (UINT64_C(4) << 20) /* of decoded frames, for each reader */
#define KEPT_MOST  64u

#define OWN_CHECKSUM_AT 4u /* the byte of a frame that says, in this bit, whether it ends in a checksum (RFC 8878) */
#define OWN_CHECKSUM    4u

struct zstd {
  struct uffd_source head;
  int fd;
  struct uffd_frames frames;
};

struct kept {
  const struct zstd *of; /* NULL: nothing is kept here */
  size_t frame;
  uint64_t used; /* when, counted by the reader */
};

struct uffd_reader {
  ZSTD_DCtx *decoder; /* allocates nothing when it decodes into one buffer */
  char *packed;
  char *frames; /* kept_count of them */
  uint64_t packed_room, frame_room;
  uint32_t kept_count;
  uint64_t uses;
  struct kept kept[KEPT_MOST];
  struct uffd_bell *bell;
};

/* Pages that are not touched cost nothing. */
static char *map_buffer(uint64_t length) {
  void *buffer = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return buffer == MAP_FAILED ? NULL : buffer;
}

static void unmap_buffer(char *buffer, uint64_t length) {
  if (buffer != NULL) munmap(buffer, length);
}

void uffd_reader_free(struct uffd_reader *reader) {
  if (reader == NULL) return;
  ZSTD_freeDCtx(reader->decoder);
  unmap_buffer(reader->packed, reader->packed_room);
  unmap_buffer(reader->frames, reader->frame_room * reader->kept_count);
  DELETE(reader);
}

void uffd_reader_set_bell(struct uffd_reader *reader, struct uffd_bell *bell) {
  reader->bell = bell;
}

struct uffd_bell *uffd_reader_bell(const struct uffd_reader *reader) {
  return reader->bell;
}

int uffd_reader_make(const struct uffd_reader_need *need, struct uffd_reader **made) {
  struct uffd_reader *reader = NEW(struct uffd_reader);
  if (reader == NULL) return fail(ENOMEM, "No memory for a reader.");
  if (need->frame == 0) {
    *made = reader;
    return 0;
  }
  reader->packed_room = round_up(need->packed, BASE_PAGE);
  reader->frame_room = round_up(need->frame, BASE_PAGE);
  reader->kept_count = (uint32_t)min_u64(max_u64(KEPT_BYTES / reader->frame_room, 1), KEPT_MOST);
  reader->decoder = ZSTD_createDCtx();
  reader->packed = map_buffer(reader->packed_room);
  reader->frames = map_buffer(reader->frame_room * reader->kept_count);
  if (reader->decoder != NULL && reader->packed != NULL && reader->frames != NULL) {
    *made = reader;
    return 0;
  }
  uffd_reader_free(reader);
  return fail(ENOMEM, "No memory for the buffers of a reader: frames of %" PRIu64 " bytes.", need->frame);
}

static uint64_t frame_bytes(const struct uffd_frame *frame) {
  return frame[1].offset - frame[0].offset;
}

/* The last frame that begins at offset or before. */
size_t uffd_frames_find(const struct uffd_frames *frames, uint64_t offset) {
  size_t low = 0, high = frames->count;
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (frames->list[middle].offset <= offset) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

static int damaged(const char *path, const struct uffd_frames *frames, size_t index, const char *why) {
  const struct uffd_frame *frame = &frames->list[index];
  return fail(EIO, "%s: frame %zu (at byte %" PRIu64 ", %" PRIu64 " bytes from %" PRIu64 ") is damaged: %s.", path,
              index, frame->at, frame_bytes(frame), frame->offset, why);
}

/*
 * The checksum of what a frame decodes to. zstd has compared it with the frame's own, where there is one, and both are
 * the low half of XXH64: that one is taken.
 */
static uint32_t checksum_of(const char *packed, uint32_t packed_bytes, const char *buffer, uint64_t bytes) {
  const unsigned char *frame = (const unsigned char *)packed;
  bool checked = packed_bytes > OWN_CHECKSUM_AT + 4 && (frame[OWN_CHECKSUM_AT] & OWN_CHECKSUM) != 0;
  return checked ? uffd_le32(frame + packed_bytes - 4) : uffd_digest_frame(buffer, bytes);
}

int uffd_frame_decode(const char *path, const struct uffd_frames *frames, size_t index, struct ZSTD_DCtx_s *decoder,
                      const char *packed, char *buffer) {
  const struct uffd_frame *frame = &frames->list[index];
  uint64_t bytes = frame_bytes(frame);
  size_t got = ZSTD_decompressDCtx(decoder, buffer, bytes, packed, frame->packed);
  if (ZSTD_isError(got)) return damaged(path, frames, index, ZSTD_getErrorName(got));
  if (got != bytes) return damaged(path, frames, index, "it decodes to fewer bytes than the seek table says");
  if (ZSTD_findFrameCompressedSize(packed, frame->packed) != frame->packed) {
    return damaged(path, frames, index, "the seek table's entry holds more than one frame");
  }
  if (frames->checksums && checksum_of(packed, frame->packed, buffer, bytes) != frame->checksum) {
    return damaged(path, frames, index, "its checksum does not match the seek table's");
  }
  return 0;
}

/* All of a frame, to buffer. */
static int decode(const struct zstd *zstd, struct uffd_reader *reader, size_t index, char *buffer) {
  const struct uffd_frame *frame = &zstd->frames.list[index];
  int result = uffd_read_exactly(zstd->fd, zstd->head.path, frame->at, reader->packed, frame->packed);
  if (result < 0) return result;
  return uffd_frame_decode(zstd->head.path, &zstd->frames, index, reader->decoder, reader->packed, buffer);
}

/*
 * Where a frame is kept, or is to be kept: instead of the one that was not used for the longest time. A chain of layers
 * whose pages are scattered reads from a frame of each in turn, so that no slot is tied to a frame's number.
 */
static uint32_t choose_slot(const struct uffd_reader *reader, const struct zstd *zstd, size_t index) {
  uint32_t oldest = 0;
  for (uint32_t i = 0; i < reader->kept_count; i++) {
    const struct kept *kept = &reader->kept[i];
    if (kept->frame == index && kept->of == zstd) return i;
    if (kept->used < reader->kept[oldest].used) oldest = i;
  }
  return oldest;
}

/* A frame of which a part is wanted, decoded now or before. */
static int keep(const struct zstd *zstd, struct uffd_reader *reader, size_t index, const char **bytes) {
  uint32_t slot = choose_slot(reader, zstd, index);
  struct kept *kept = &reader->kept[slot];
  char *buffer = reader->frames + slot * reader->frame_room;
  *bytes = buffer;
  kept->used = ++reader->uses;
  if (kept->of == zstd && kept->frame == index) return 0;
  kept->of = NULL;
  int result = decode(zstd, reader, index, buffer);
  if (result < 0) return result;
  kept->of = zstd;
  kept->frame = index;
  return 0;
}

/* A part of a frame. */
static int read_kept(const struct zstd *zstd, struct uffd_reader *reader, size_t index, uint64_t from, char *buffer,
                     uint64_t length) {
  const char *kept;
  int result = keep(zstd, reader, index, &kept);
  if (result == 0) memcpy(buffer, kept + from, length);
  return result;
}

static int read_zstd(struct uffd_source *source, struct uffd_reader *reader, uint64_t offset, char *buffer,
                     uint64_t length) {
  const struct zstd *zstd = (const struct zstd *)source;
  for (size_t i = uffd_frames_find(&zstd->frames, offset); length > 0; i++) {
    const struct uffd_frame *frame = &zstd->frames.list[i];
    uint64_t bytes = frame_bytes(frame), from = offset - frame->offset, part = min_u64(bytes - from, length);
    int result = part == bytes ? decode(zstd, reader, i, buffer) : read_kept(zstd, reader, i, from, buffer, part);
    if (result < 0) return result;
    buffer += part;
    offset += part;
    length -= part;
  }
  return 0;
}

static void unit(const struct uffd_source *source, uint64_t offset, uint64_t *low, uint64_t *high) {
  const struct zstd *zstd = (const struct zstd *)source;
  size_t i = uffd_frames_find(&zstd->frames, offset);
  *low = zstd->frames.list[i].offset;
  *high = zstd->frames.list[i + 1].offset;
}

static void destroy(struct uffd_source *source) {
  struct zstd *zstd = (struct zstd *)source;
  close(zstd->fd);
  uffd_frames_free(&zstd->frames);
  DELETE(zstd);
}

static const struct uffd_source_class class = {.kind = "zstd", .read = read_zstd, .unit = unit, .destroy = destroy};

int uffd_source_zstd(int fd, const char *path, uint64_t file_bytes, struct uffd_frames *frames,
                     struct uffd_source **source) {
  struct zstd *zstd = NEW(struct zstd);
  if (zstd == NULL) {
    uffd_frames_free(frames);
    return fail(ENOMEM, "No memory for the source %s.", path);
  }
  zstd->head = (struct uffd_source){&class, path, file_bytes, frames->list[frames->count].offset, &zstd->frames};
  zstd->fd = fd;
  zstd->frames = *frames;
  *frames = (struct uffd_frames){.list = NULL};
  *source = &zstd->head;
  return 0;
}
