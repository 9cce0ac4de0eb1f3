/*
 * Where the frames of a zstd file lie: by its seek table (the zstd seekable format, version 0.1.0), or one after the
 * other where it has none. A table is believed only as far as it adds up; what it says of a frame is checked when that
 * frame is decoded.
 */
#include <inttypes.h>
#include <string.h>
#include <zstd.h>

#include "image/digest.h"
#include "image/source/source.h"

#define FOOTER       9u                  /* u32 frames, u8 descriptor, u32 magic */
#define FRAMES_LIMIT (UINT64_C(1) << 27) /* the format's */
#define BYTES_LIMIT  (UINT64_C(1) << 47) /* an address space's */
#define SKIP_HEADER  8u                  /* u32 magic, u32 length */
#define MOST_HEADER  18u                 /* of a zstd frame, with its magic */
#define WINDOW       (UINT64_C(1) << 20) /* of a file whose frames are followed, bytes, beside the longest frame */

struct file {
  const struct uffd_packed *packed;
  const char *path;
  uint64_t bytes;
  uint64_t frame_limit;
};

void uffd_frames_free(struct uffd_frames *frames) {
  uffd_release(frames->list, frames->room * sizeof(*frames->list));
  *frames = (struct uffd_frames){.list = NULL};
}

static int make_room(struct uffd_frames *frames, size_t room) {
  struct uffd_frame *list = uffd_alloc(room * sizeof(*list));
  if (list == NULL) return fail(ENOMEM, "No memory for the table of %zu frames.", room);
  if (frames->list != NULL) memcpy(list, frames->list, (frames->count + 1) * sizeof(*list));
  uffd_release(frames->list, frames->room * sizeof(*frames->list));
  frames->list = list;
  frames->room = room;
  return 0;
}

int uffd_frames_add(struct uffd_frames *frames, const struct uffd_frame *frame, uint64_t decoded) {
  if (frames->count + 2 > frames->room) {
    int result = make_room(frames, frames->room == 0 ? 16 : frames->room * 2);
    if (result < 0) return result;
  }
  frames->list[frames->count++] = *frame;
  frames->list[frames->count] = (struct uffd_frame){.at = frame->at + frame->packed, .offset = frame->offset + decoded};
  frames->longest = max_u64(frames->longest, decoded);
  frames->longest_packed = max_u64(frames->longest_packed, frame->packed);
  return 0;
}

/* The frame after those that are there; one that holds no bytes is passed over. */
static int take(const struct file *file, struct uffd_seek *seek, uint64_t at, uint32_t packed, uint64_t decoded,
                uint32_t checksum) {
  struct uffd_frames *frames = &seek->frames;
  uint64_t offset = frames->count == 0 ? 0 : frames->list[frames->count].offset;
  if (decoded == 0) return 0;
  if (decoded > file->frame_limit) {
    return fail(EFBIG,
                "%s: its frame at byte %" PRIu64 " has %" PRIu64 " bytes, and %" PRIu64
                " is the limit: write it anew with shorter frames, from `zstd -d`.",
                file->path, at, decoded, file->frame_limit);
  }
  if (offset + decoded > BYTES_LIMIT) return fail(EFBIG, "%s: its frames hold more than 2^47 bytes.", file->path);
  if (packed == 0) return fail(EINVAL, "%s: its frame at byte %" PRIu64 " has no bytes.", file->path, at);
  struct uffd_frame frame = {at, offset, packed, checksum};
  return uffd_frames_add(frames, &frame, decoded);
}

/* Says whether a frame without contents, which is to be passed over, is our index. */
static int look_for_index(const struct file *file, struct uffd_seek *seek, uint64_t at, uint64_t packed) {
  unsigned char head[SKIP_HEADER];
  if (packed < SKIP_HEADER) return 0;
  int result = uffd_packed_read(file->packed, at, head, sizeof(head));
  if (result < 0 || uffd_le32(head) != UFFD_MAGIC_INDEX) return result;
  if (uffd_le32(head + 4) != packed - SKIP_HEADER) {
    return fail(EINVAL, "%s: its index at byte %" PRIu64 " has another length than the seek table says.", file->path,
                at);
  }
  seek->index_at = at + SKIP_HEADER;
  seek->index_bytes = packed - SKIP_HEADER;
  return 0;
}

static int take_entries(const struct file *file, const unsigned char *entries, uint64_t count, uint64_t width,
                        uint64_t end, struct uffd_seek *seek) {
  uint64_t at = 0;
  for (uint64_t i = 0; i < count; i++) {
    const unsigned char *entry = entries + i * width;
    uint32_t packed = uffd_le32(entry), decoded = uffd_le32(entry + 4);
    if (packed > end - at) {
      return fail(EINVAL, "%s: frame %" PRIu64 " of its seek table ends beyond the table, at byte %" PRIu64 ".",
                  file->path, i, at + packed);
    }
    int result = take(file, seek, at, packed, decoded, width == 12 ? uffd_le32(entry + 8) : 0);
    if (result == 0 && decoded == 0 && i + 1 == count) result = look_for_index(file, seek, at, packed);
    if (result < 0) return result;
    at += packed;
  }
  if (at == end) return 0;
  return fail(EINVAL, "%s: the frames of its seek table end at byte %" PRIu64 ", and the table begins at %" PRIu64 ".",
              file->path, at, end);
}

/* footer: the last bytes of the file, which end in the table's magic. */
static int read_table(const struct file *file, const unsigned char *footer, struct uffd_seek *seek) {
  uint64_t count = uffd_le32(footer), width = (footer[4] & 0x80) != 0 ? 12 : 8, entries = count * width;
  if ((footer[4] & 0x7C) != 0) return fail(EINVAL, "%s: its seek table has reserved bits set.", file->path);
  if (count > FRAMES_LIMIT || entries + FOOTER + SKIP_HEADER > file->bytes) {
    return fail(EINVAL, "%s: its seek table of %" PRIu64 " frames is longer than the file.", file->path, count);
  }
  uint64_t begin = file->bytes - entries - FOOTER - SKIP_HEADER;
  unsigned char *table = uffd_alloc(entries + SKIP_HEADER);
  if (table == NULL) return fail(ENOMEM, "No memory for the seek table of %s.", file->path);
  int result = uffd_packed_read(file->packed, begin, table, entries + SKIP_HEADER);
  if (result == 0 && (uffd_le32(table) != UFFD_MAGIC_SEEK || uffd_le32(table + 4) != entries + FOOTER)) {
    result = fail(EINVAL, "%s: its seek table does not begin at byte %" PRIu64 ", where %" PRIu64 " frames put it.",
                  file->path, begin, count);
  }
  seek->frames.checksums = width == 12;
  if (result == 0) result = take_entries(file, table + SKIP_HEADER, count, width, begin, seek);
  uffd_release(table, entries + SKIP_HEADER);
  return result;
}

static int refuse_frame(const struct file *file, uint64_t at, const char *why) {
  return fail(EINVAL, "%s: it has no seek table, and its frame at byte %" PRIu64 " cannot be passed: %s.", file->path,
              at, why);
}

/* A part of the file, [start, end), whose frames are followed. */
struct window {
  unsigned char *bytes;
  uint64_t room, start, end;
};

/* How far the frame at byte at of the file reaches; 0: beyond the window. */
static int64_t walk_frame(const struct file *file, const struct window *window, uint64_t at, struct uffd_seek *seek) {
  const unsigned char *bytes = window->bytes + (at - window->start);
  uint64_t has = window->end - at;
  bool all = window->end == file->bytes || at == window->start; /* there is no more to be had */
  if (has < MOST_HEADER && !all) return 0;
  if (has < SKIP_HEADER) return refuse_frame(file, at, "the file is cut off");
  if ((uffd_le32(bytes) & 0xFFFFFFF0u) == 0x184D2A50u) return (int64_t)uffd_le32(bytes + 4) + SKIP_HEADER;
  unsigned long long decoded = ZSTD_getFrameContentSize(bytes, has);
  if (decoded == ZSTD_CONTENTSIZE_ERROR) return refuse_frame(file, at, "it is no zstd frame");
  if (decoded == ZSTD_CONTENTSIZE_UNKNOWN) return refuse_frame(file, at, "it does not say how long it is");
  size_t packed = ZSTD_findFrameCompressedSize(bytes, has);
  if (ZSTD_isError(packed) && !all) return 0;
  if (decoded <= file->frame_limit && ZSTD_isError(packed)) return refuse_frame(file, at, "it is cut off, or damaged");
  int result = take(file, seek, at, ZSTD_isError(packed) ? 1 : (uint32_t)packed, decoded, 0);
  return result < 0 ? result : (int64_t)packed;
}

static int fill_window(const struct file *file, struct window *window, uint64_t at) {
  window->start = at;
  window->end = min_u64(at + window->room, file->bytes);
  return uffd_packed_read(file->packed, at, window->bytes, window->end - at);
}

/* Frame by frame: of files that pzstd, or cat, has put together. */
static int follow_frames(const struct file *file, struct uffd_seek *seek) {
  struct window window = {.room = min_u64(ZSTD_compressBound(file->frame_limit) + WINDOW, file->bytes)};
  window.bytes = uffd_alloc(window.room);
  int64_t result = window.bytes == NULL ? fail(ENOMEM, "No memory to read %s.", file->path) : 0;
  uint64_t at = 0;
  while (result >= 0 && at < file->bytes) {
    if (at >= window.end) result = fill_window(file, &window, at);
    if (result >= 0) result = walk_frame(file, &window, at, seek);
    if (result == 0) {
      window.end = at; /* read again, from here on */
    } else {
      at += result > 0 ? (uint64_t)result : 0;
    }
  }
  if (result >= 0 && at > file->bytes) result = refuse_frame(file, file->bytes, "the file is cut off");
  uffd_release(window.bytes, window.room);
  return result < 0 ? (int)result : 0;
}

int uffd_seek_read(const struct uffd_packed *packed, uint64_t frame_limit, struct uffd_seek *seek) {
  const struct file file = {packed, packed->path, packed->bytes, frame_limit};
  unsigned char footer[FOOTER];
  *seek = (struct uffd_seek){.index_at = 0};
  int result = file.bytes < FOOTER ? fail(EINVAL, "%s: its first frame is cut off.", file.path)
                                   : uffd_packed_read(packed, file.bytes - FOOTER, footer, FOOTER);
  if (result == 0) {
    result = uffd_le32(footer + 5) == UFFD_MAGIC_TABLE ? read_table(&file, footer, seek) : follow_frames(&file, seek);
  }
  if (result == 0 && seek->frames.count == 0) {
    result = seek->index_at == 0 ? fail(EINVAL, "%s holds no bytes.", file.path) : make_room(&seek->frames, 1);
  }
  if (result < 0) uffd_frames_free(&seek->frames);
  return result;
}
