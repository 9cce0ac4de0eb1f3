/*
 * Sources: where the bytes of a layer lie. One vtable; one file a source. A source gives the stream of its file: the
 * bytes themselves, or what the frames decode to.
 */
#ifndef UFFD_IMAGE_SOURCE_SOURCE_H
#define UFFD_IMAGE_SOURCE_SOURCE_H

#include "base/base.h"

struct uffd_source;
struct uffd_reader;

/*
 * Who is told when bytes have come that a source did not have: a reader with a bell never sleeps. The reader's thread
 * sets waits before it gives up; who rings clears it first.
 */
struct uffd_bell {
  void (*ring)(void *ctx); /* in any thread */
  void *ctx;
  _Atomic bool waits;
  bool hints; /* the reader's own: what is read now would only be good to have */
};

struct uffd_source_class {
  const char *kind;
  /*
   * [offset, offset+length) of the stream, which has it, to buffer: 0, or -EIO and a sentence with the place. -EAGAIN,
   * without a sentence: the bytes are not there yet, and the reader's bell will ring.
   */
  int (*read)(struct uffd_source *source, struct uffd_reader *reader, uint64_t offset, char *buffer, uint64_t length);
  /* The part of the stream around offset that is best read at once: a frame. NULL: any. */
  void (*unit)(const struct uffd_source *source, uint64_t offset, uint64_t *low, uint64_t *high);
  /* [offset, offset+length) of the stream will be asked for soon. Does not wait. NULL: all is there. */
  void (*want)(struct uffd_source *source, uint64_t offset, uint64_t length);
  /* A bell that may wait for this source, from now on or no more. NULL: its bytes are always there. */
  int (*join)(struct uffd_source *source, struct uffd_bell *bell);
  void (*leave)(struct uffd_source *source, struct uffd_bell *bell);
  void (*destroy)(struct uffd_source *source);
};

/* The head of every source. */
struct uffd_source {
  const struct uffd_source_class *class;
  const char *path; /* the layer's */
  uint64_t file_bytes;
  uint64_t stream_bytes;
  const struct uffd_frames *frames; /* NULL: not compressed */
};

/* What a reader must have room for. */
struct uffd_reader_need {
  uint64_t packed; /* bytes of the longest frame, as it is in the file */
  uint64_t frame;  /* and decoded; 0: no layer is compressed */
};

/* What one thread needs to read: buffers, and the frames that it decoded last. */
struct uffd_reader;
int uffd_reader_make(const struct uffd_reader_need *need, struct uffd_reader **made);
void uffd_reader_free(struct uffd_reader *reader);
/* The bell of a reader that never sleeps; NULL: it does. */
void uffd_reader_set_bell(struct uffd_reader *reader, struct uffd_bell *bell);
struct uffd_bell *uffd_reader_bell(const struct uffd_reader *reader);

/* A file as it lies there, while its layer is opened: here, or elsewhere. */
struct uffd_remote;
struct uffd_packed {
  int fd;
  struct uffd_remote *remote; /* NULL: it is fd */
  const char *path;           /* what messages name */
  uint64_t bytes;
  int (*read)(struct uffd_remote *remote, uint64_t offset, void *buffer, uint64_t length);
};
int uffd_packed_read(const struct uffd_packed *packed, uint64_t offset, void *buffer, uint64_t length);

/* pread(2) of exactly so many bytes: 0, or -EIO and a sentence (the file has shrunk, or cannot be read). */
int uffd_read_exactly(int fd, const char *path, uint64_t offset, void *buffer, uint64_t length);

/* file.c: the bytes of an open file. Takes the descriptor over when it succeeds. */
int uffd_source_file(int fd, const char *path, uint64_t file_bytes, struct uffd_source **source);

/* zstd.c: one frame that holds bytes. */
struct uffd_frame {
  uint64_t at;       /* in the file, bytes */
  uint64_t offset;   /* in the stream */
  uint32_t packed;   /* bytes in the file */
  uint32_t checksum; /* the low half of XXH64 of what it decodes to, where the table has checksums */
};

/* The frames of a file, in order; one more stands at the end, whose offset is the stream's length. */
struct uffd_frames {
  struct uffd_frame *list;
  size_t count, room;
  bool checksums;
  uint64_t longest, longest_packed; /* bytes */
};

/*
 * zstd.c: the frames of an open zstd file, decoded one by one. frames are the source's from then on, also when it
 * fails; so is the descriptor when it succeeds.
 */
int uffd_source_zstd(int fd, const char *path, uint64_t file_bytes, struct uffd_frames *frames,
                     struct uffd_source **source);
/*
 * Decodes one frame, whose bytes in the file are packed, to buffer, which has room for it: 0, or -EIO and a sentence
 * with the place when it is not what the table says. Allocates nothing.
 */
struct ZSTD_DCtx_s;
int uffd_frame_decode(const char *path, const struct uffd_frames *frames, size_t index, struct ZSTD_DCtx_s *decoder,
                      const char *packed, char *buffer);

/* seek.c: the seek table of a file, or without one its frames one by one. */
struct uffd_seek {
  struct uffd_frames frames;
  uint64_t index_at; /* the payload of the index frame in the file; 0: there is none */
  uint64_t index_bytes;
};
int uffd_seek_read(const struct uffd_packed *packed, uint64_t frame_limit, struct uffd_seek *seek);
int uffd_frames_add(struct uffd_frames *frames, const struct uffd_frame *frame, uint64_t decoded);
void uffd_frames_free(struct uffd_frames *frames);
/* The last frame that begins at offset of the stream, or before. */
size_t uffd_frames_find(const struct uffd_frames *frames, uint64_t offset);

#define UFFD_MAGIC_INDEX 0x184D2A5Du /* skippable frames: the index, */
#define UFFD_MAGIC_SEEK  0x184D2A5Eu /* the seek table, */
#define UFFD_MAGIC_TABLE 0x8F92EAB1u /* and what the seek table ends with */
#define UFFD_MAGIC_ZSTD  0xFD2FB528u

#endif
