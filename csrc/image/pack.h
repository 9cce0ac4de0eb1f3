/*
 * Packing: bytes into the frames of a zstd file, then the index and the seek table behind them.
 */
#ifndef UFFD_IMAGE_PACK_H
#define UFFD_IMAGE_PACK_H

#include "image/image.h"

struct uffd_packer {
  int fd; /* the owner's, to read and write */
  const char *path;
  uint64_t at; /* where the next frame goes */
  uint64_t frame_bytes, has;
  char *frame; /* has bytes of the next frame */
  struct uffd_frames frames;
  void *encoder;
  char *packed;
  size_t packed_room;
};

int uffd_packer_open(struct uffd_packer *packer, int fd, const char *path, uint64_t frame_bytes, int level);
/* Appends to the stream, at *stream_offset of it. Never split over two frames: length is at most frame_bytes. */
int uffd_packer_add(struct uffd_packer *packer, const void *bytes, uint64_t length, uint64_t *stream_offset);
/* Writes the frame that is begun. */
int uffd_packer_flush(struct uffd_packer *packer);
uint64_t uffd_packer_stream(const struct uffd_packer *packer); /* bytes so far */
/* Writes the index and the table: the file is whole, not yet synced. */
int uffd_packer_finish(struct uffd_packer *packer, const struct uffd_index *index);
void uffd_packer_close(struct uffd_packer *packer);

#endif
