/*
 * Images: a stack of layers over sources, resolved once to a flat list of pieces. A fault is one binary search in it,
 * at any depth. Nothing here touches served memory or calls an ioctl.
 */
#ifndef UFFD_IMAGE_IMAGE_H
#define UFFD_IMAGE_IMAGE_H

#include "base/base.h"
#include "image/index.h"
#include "image/source/source.h"
#include "resolver/stamp.h"
#include "uffd_image.h"

#define UFFD_IMAGE_LIMIT (UINT64_C(1) << 47) /* bytes of an image: what an address space has */

/* One file of an image. Set once when it is opened, but for trusted. */
struct uffd_layer_file {
  char *path;    /* what messages name */
  char *uri;     /* of a file that lies elsewhere, with what is secret; NULL: it is a local file */
  char *sidecar; /* path of its index, or NULL */
  uint32_t format;
  bool in_place;  /* the file of a sidecar has each byte of the image at its own offset, and digests are of it */
  int fd;         /* the source's, to read; -1: it is no local file */
  int sidecar_fd; /* -1: none */
  struct uffd_stamp stamp;
  _Atomic bool trusted; /* somebody sees to it that the file does not change: it is read without a look at the stamp */
  struct uffd_source *source;
  struct uffd_index index; /* without an index frame: the extents, length and page size that the file implies */
};

/* A part of the resolved image. It ends where the next one begins; one more with kind BELOW stands at the end. */
struct uffd_piece {
  uint64_t offset;
  uint64_t stream_offset;
  uint16_t layer;
  uint16_t kind;
  uint32_t reserved;
};

struct uffd_image {
  _Atomic uint32_t references;
  uint64_t process;
  uint64_t length;
  uint64_t page_size;
  size_t count; /* of layers, the lowest first */
  struct uffd_layer_file **layers;
  size_t pieces_count; /* without the one at the end */
  size_t pieces_room;
  struct uffd_piece *pieces;
  struct uffd_reader_need need; /* of a reader for any of its layers */
  pthread_mutex_t lock;         /* of the reader that uffd_image_read() uses */
  struct uffd_reader *reader;   /* made by the first read */
  int32_t decoders;             /* as in uffd_image_opts */
  struct uffd_ahead *ahead;     /* under lock: started for the first handler; NULL: nothing is decoded ahead */
  bool ahead_started;
};

void uffd_image_hold(uffd_image *image);
/* Opens one file without looking at a sidecar. */
int uffd_image_open_plain(const char *path, const struct uffd_image_opts *opts, uffd_image **made);

/* A file of an image, opened in one process and read in others. */
struct uffd_image_file {
  const char *path; /* what messages name */
  const char *uri;  /* of a file that lies elsewhere: it is connected to anew; NULL: it is fd */
  int fd;
  int sidecar_fd; /* of its index; -1: none */
  struct uffd_stamp stamp;
};

/*
 * image.c: as uffd_image_open(), but with files that are open already: all layers, the lowest first. The descriptors
 * stay the caller's.
 */
UFFD_SHARED int uffd_image_open_files(const struct uffd_image_file *files, size_t count, uffd_image **made);
/* The file of a layer. What it names is the image's. */
UFFD_SHARED void uffd_image_file(const uffd_image *image, uint32_t layer, struct uffd_image_file *file);
/*
 * Trusted: somebody makes sure that the file does not change (a lease, a seal), and says so before that ends. Until
 * then it is read without a look at its stamp. Any thread.
 */
UFFD_SHARED void uffd_image_trust(uffd_image *image, uint32_t layer, bool trusted);

/* layer.c: opens a file, or takes one that is open, and finds out what it is. plain: a sidecar is not looked at. */
struct uffd_layer_origin {
  const char *path;                   /* what messages name */
  const struct uffd_image_file *file; /* NULL: path is opened */
  bool plain;
};
int uffd_layer_open(const struct uffd_layer_origin *origin, const struct uffd_image_opts *opts,
                    struct uffd_layer_file **made);
void uffd_layer_close(struct uffd_layer_file *layer);

/* stack.c: follows the parents of the lowest layer, checks that the layers fit together, and makes the pieces. */
int uffd_stack_build(uffd_image *image, const struct uffd_image_opts *opts);
/* The last piece that begins at offset or before it. */
size_t uffd_stack_find(const uffd_image *image, uint64_t offset);

/*
 * read.c: [offset, offset+length) of the image to buffer, whatever pieces it falls into. 0; or -EIO, or -ESTALE when a
 * file has been changed since it was opened, and a sentence. Allocates nothing and takes no lock: the reader is one
 * thread's.
 */
int uffd_image_gather(const uffd_image *image, struct uffd_reader *reader, uint64_t offset, char *buffer,
                      uint64_t length);

/*
 * resolver.c: answering faults. What a handler needs for it: a reader, and a buffer in which the answer's bytes are. It
 * never sleeps: of what is not there yet, an answer is LATER, and uffd_image_asker_read() says -EAGAIN, without a
 * sentence. handler is told by uffd_handler_ready() when it may be asked again.
 */
struct uffd_image_asker;
int uffd_image_asker_make(uffd_image *image, const struct uffd_handler *handler, struct uffd_image_asker **made);
void uffd_image_asker_free(struct uffd_image_asker *state); /* NULL is allowed */
/* A hint: these bytes of the image will be asked for soon. */
void uffd_image_want(const uffd_image *image, const struct uffd_image_asker *state, uint64_t offset, uint64_t length);
/* The handler has nothing to do. 1: call it again, 0: all is tidy. */
int uffd_image_asker_tidy(const struct uffd_image_asker *state);
int uffd_image_asker_read(const uffd_image *image, const struct uffd_image_asker *state, uint64_t offset, char *buffer,
                          uint64_t length);
/* The answer may reach beyond the fault's cover: a frame is installed whole. */
int uffd_image_ask(const uffd_image *image, const struct uffd_image_asker *state, const struct uffd_fault *fault,
                   struct uffd_answer *answer);

#endif
