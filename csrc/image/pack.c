/*
 * Packing: see pack.h. Each frame has zstd's own checksum, and one in the table: `zstd -t` looks at the first, and
 * readers of the seekable format at the second.
 */
#include "image/pack.h"

#include <inttypes.h>
#include <string.h>
#include <zstd.h>

#include "image/digest.h"

#define ENTRY 12u

void uffd_packer_close(struct uffd_packer *packer) {
  ZSTD_freeCCtx(packer->encoder);
  uffd_release(packer->frame, packer->frame_bytes);
  uffd_release(packer->packed, packer->packed_room);
  uffd_frames_free(&packer->frames);
  *packer = (struct uffd_packer){.fd = -1};
}

int uffd_packer_open(struct uffd_packer *packer, int fd, const char *path, uint64_t frame_bytes, int level) {
  *packer = (struct uffd_packer){.fd = fd, .path = path, .frame_bytes = frame_bytes, .frames.checksums = true};
  packer->packed_room = ZSTD_compressBound(frame_bytes);
  packer->frame = uffd_alloc(frame_bytes);
  packer->packed = uffd_alloc(packer->packed_room);
  packer->encoder = ZSTD_createCCtx();
  if (packer->frame == NULL || packer->packed == NULL || packer->encoder == NULL) {
    uffd_packer_close(packer);
    return fail(ENOMEM, "No memory to compress frames of %" PRIu64 " bytes.", frame_bytes);
  }
  ZSTD_CCtx_setParameter(packer->encoder, ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(packer->encoder, ZSTD_c_checksumFlag, 1);
  return 0;
}

static uint64_t stream_written(const struct uffd_packer *packer) {
  return packer->frames.count == 0 ? 0 : packer->frames.list[packer->frames.count].offset;
}

uint64_t uffd_packer_stream(const struct uffd_packer *packer) {
  return stream_written(packer) + packer->has;
}

int uffd_packer_flush(struct uffd_packer *packer) {
  if (packer->has == 0) return 0;
  size_t packed = ZSTD_compress2(packer->encoder, packer->packed, packer->packed_room, packer->frame, packer->has);
  if (ZSTD_isError(packed)) return fail(EIO, "Cannot compress %s: %s.", packer->path, ZSTD_getErrorName(packed));
  struct uffd_frame frame = {packer->at, stream_written(packer), (uint32_t)packed,
                             uffd_digest_frame(packer->frame, packer->has)};
  int result = uffd_write_exactly(packer->fd, packer->path, packer->at, packer->packed, packed);
  if (result == 0) result = uffd_frames_add(&packer->frames, &frame, packer->has);
  if (result < 0) return result;
  packer->at += packed;
  packer->has = 0;
  return 0;
}

int uffd_packer_add(struct uffd_packer *packer, const void *bytes, uint64_t length, uint64_t *stream_offset) {
  int result = packer->has + length > packer->frame_bytes ? uffd_packer_flush(packer) : 0;
  if (result < 0) return result;
  *stream_offset = uffd_packer_stream(packer);
  memcpy(packer->frame + packer->has, bytes, length);
  packer->has += length;
  return packer->has == packer->frame_bytes ? uffd_packer_flush(packer) : 0;
}

static int append(struct uffd_packer *packer, const void *bytes, uint64_t length) {
  int result = uffd_write_exactly(packer->fd, packer->path, packer->at, bytes, length);
  packer->at += length;
  return result;
}

/* index_bytes: of the index's frame, which is the last entry. */
static int write_table(struct uffd_packer *packer, uint32_t index_bytes) {
  const struct uffd_frames *frames = &packer->frames;
  uint64_t count = frames->count + 1, bytes = 8 + count * ENTRY + 9;
  unsigned char *table = uffd_alloc(bytes), *p = table;
  if (table == NULL) return fail(ENOMEM, "No memory for the seek table of %s.", packer->path);
  uffd_put_le32(p, UFFD_MAGIC_SEEK);
  uffd_put_le32(p + 4, (uint32_t)(bytes - 8));
  p += 8;
  for (size_t i = 0; i < frames->count; i++, p += ENTRY) {
    const struct uffd_frame *frame = &frames->list[i];
    uffd_put_le32(p, frame->packed);
    uffd_put_le32(p + 4, (uint32_t)(frame[1].offset - frame->offset));
    uffd_put_le32(p + 8, frame->checksum);
  }
  uffd_put_le32(p, index_bytes);
  p += ENTRY;
  uffd_put_le32(p, (uint32_t)count);
  p[4] = 0x80;
  uffd_put_le32(p + 5, UFFD_MAGIC_TABLE);
  int result = append(packer, table, bytes);
  uffd_release(table, bytes);
  return result;
}

int uffd_index_write(int fd, const char *path, uint64_t at, const struct uffd_index *index, uint64_t *bytes) {
  unsigned char head[8];
  uint64_t length = 0;
  unsigned char *payload = uffd_index_encode(index, &length);
  if (payload == NULL) return fail(ENOMEM, "No memory for the index of %s.", path);
  uffd_put_le32(head, UFFD_MAGIC_INDEX);
  uffd_put_le32(head + 4, (uint32_t)length);
  int result = length > UINT32_MAX - sizeof(head)
                   ? fail(EFBIG, "The index of %s has %" PRIu64 " bytes: use larger pages.", path, length)
                   : uffd_write_exactly(fd, path, at, head, sizeof(head));
  if (result == 0) result = uffd_write_exactly(fd, path, at + sizeof(head), payload, length);
  uffd_release(payload, length);
  *bytes = length + sizeof(head);
  return result;
}

int uffd_packer_finish(struct uffd_packer *packer, const struct uffd_index *index) {
  uint64_t bytes = 0;
  int result = packer->frames.count >= (UINT64_C(1) << 27)
                   ? fail(EFBIG, "%s has more frames than a seek table can have: use longer ones.", packer->path)
                   : uffd_index_write(packer->fd, packer->path, packer->at, index, &bytes);
  packer->at += bytes;
  return result < 0 ? result : write_table(packer, (uint32_t)bytes);
}
