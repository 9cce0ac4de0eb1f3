/*
 * A layer: one file of an image, opened, and what it has been found to be. Contents decide, not names.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include "image/digest.h"
#include "image/image.h"
#include "image/remote/remote.h"

#define FRAME_LIMIT  (UINT64_C(16) << 20) /* bytes */
#define FRAME_MOST   (UINT64_C(1) << 30)  /* the format's */
#define INDEX_LIMIT  (UINT64_C(1) << 32)  /* a skippable frame's */
#define FRAME_HEADER 8u                   /* of a skippable frame */

static char *copy_text(const char *text) {
  size_t length = strlen(text) + 1;
  char *copy = uffd_alloc(length);
  if (copy != NULL) memcpy(copy, text, length);
  return copy;
}

static void free_text(char *text) {
  if (text != NULL) uffd_release(text, strlen(text) + 1);
}

void uffd_layer_close(struct uffd_layer_file *layer) {
  if (layer == NULL) return;
  if (layer->source != NULL) layer->source->class->destroy(layer->source);
  if (layer->sidecar_fd >= 0) close(layer->sidecar_fd);
  uffd_index_free(&layer->index);
  free_text(layer->path);
  free_text(layer->sidecar);
  if (layer->uri != NULL) explicit_bzero(layer->uri, strlen(layer->uri));
  free_text(layer->uri);
  DELETE(layer);
}

/* Closes fd when it fails. */
static int measure(int fd, const char *path, uint64_t *bytes) {
  struct stat status;
  if (fstat(fd, &status) != 0) {
    int result = fail(errno, "Cannot look at %s: %s.", path, strerror(errno));
    close(fd);
    return result;
  }
  *bytes = (uint64_t)status.st_size;
  if (S_ISBLK(status.st_mode) && ioctl(fd, BLKGETSIZE64, bytes) != 0) *bytes = 0;
  if (*bytes != 0 && *bytes <= UFFD_IMAGE_LIMIT) return fd;
  close(fd);
  return *bytes == 0 ? fail(EINVAL, "%s is empty.", path) : fail(EFBIG, "%s has more than 2^47 bytes.", path);
}

/* A named pipe would wait for its writer: the type is looked at first. */
static int open_file(const char *path, uint64_t *bytes) {
  struct stat status;
  if (stat(path, &status) != 0) return fail(errno, "Cannot open %s: %s.", path, strerror(errno));
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
    return fail(EINVAL, "%s is not a file, nor a block device.", path);
  }
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* nor for that of one which has just taken the name */
  if (fd < 0) return fail(errno, "Cannot open %s: %s.", path, strerror(errno));
  return measure(fd, path, bytes);
}

/* A copy of a descriptor that somebody else has opened. */
static int take_file(int fd, const char *path, uint64_t *bytes) {
  int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return fail(errno, "No descriptor for %s: %s.", path, strerror(errno));
  return measure(own, path, bytes);
}

/* The index frame's payload: [at, at+bytes) of the file. */
static int read_index(const struct uffd_packed *packed, uint64_t at, uint64_t bytes, struct uffd_index *index) {
  unsigned char *payload = uffd_alloc(bytes);
  if (payload == NULL) return fail(ENOMEM, "No memory for the index of %s.", packed->path);
  int result = uffd_packed_read(packed, at, payload, bytes);
  if (result == 0) result = uffd_index_parse(payload, bytes, packed->path, index);
  uffd_release(payload, bytes);
  return result;
}

/* The extents of a file that has no index. */
static int imply(struct uffd_layer_file *layer, uint64_t length) {
  layer->index.length = length;
  layer->index.page_size = BASE_PAGE;
  layer->index.stream_bytes = length;
  layer->index.parent = copy_text("");
  layer->index.attributes = copy_text("");
  if (layer->index.parent != NULL && layer->index.attributes != NULL) return 0;
  return fail(ENOMEM, "No memory for the layer %s.", layer->path);
}

static int add(struct uffd_layer_file *layer, uint32_t kind, uint64_t from, uint64_t to) {
  struct uffd_index_extent extent = {from, to - from, from, kind};
  return from == to ? 0 : uffd_index_add(&layer->index, &extent);
}

/*
 * Data is rounded outwards to whole pages: holes begin and end at the file system's blocks, which may be smaller. A
 * file system without SEEK_DATA says EINVAL: all of the file is data then.
 */
static int find_data(struct uffd_layer_file *layer, int fd, uint64_t length) {
  uint64_t done = 0;
  while (done < length) {
    off_t data = lseek(fd, (off_t)done, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return add(layer, UFFD_IMAGE_ZERO, done, length);
    if (data < 0 || (uint64_t)data < done) data = (off_t)done;
    off_t hole = lseek(fd, data, SEEK_HOLE);
    uint64_t from = min_u64(max_u64(round_down((uint64_t)data, BASE_PAGE), done), length);
    uint64_t to = hole <= data ? length : min_u64(round_up((uint64_t)hole, BASE_PAGE), length);
    int result = add(layer, UFFD_IMAGE_ZERO, done, from);
    if (result == 0) result = add(layer, UFFD_IMAGE_DATA, from, to);
    if (result < 0) return result;
    done = to;
  }
  return 0;
}

/* The sidecar of a file that has so many bytes. */
static int take_sidecar(struct uffd_layer_file *layer, const struct uffd_packed *packed, uint64_t file_bytes) {
  unsigned char head[FRAME_HEADER] = {0};
  uint64_t bytes = packed->bytes;
  int result = bytes < sizeof(head) || bytes > INDEX_LIMIT
                   ? fail(EINVAL, "%s is no index: it has %" PRIu64 " bytes.", layer->sidecar, bytes)
                   : uffd_packed_read(packed, 0, head, sizeof(head));
  if (result == 0 && (uffd_le32(head) != UFFD_MAGIC_INDEX || uffd_le32(head + 4) != bytes - sizeof(head))) {
    result = fail(EINVAL, "%s is no index, or is cut off.", layer->sidecar);
  }
  if (result == 0) result = read_index(packed, sizeof(head), bytes - sizeof(head), &layer->index);
  if (result < 0) return result;
  if ((layer->index.flags & UFFD_INDEX_EXTERNAL) == 0) {
    return fail(EINVAL, "%s is the index of a compressed file, not of the file beside it.", layer->sidecar);
  }
  if (layer->index.stream_bytes == file_bytes) return 0;
  return fail(EINVAL,
              "%s has %" PRIu64 " bytes, and its index %s was made for %" PRIu64
              ": remove the index if the file is right.",
              layer->path, file_bytes, layer->sidecar, layer->index.stream_bytes);
}

static bool is_later(const struct timespec *a, const struct timespec *b) {
  return a->tv_sec != b->tv_sec ? a->tv_sec > b->tv_sec : a->tv_nsec > b->tv_nsec;
}

/*
 * What an index calls zero is not read: one that is older than its file would give zeros for what was written since.
 * Who handed open files over has looked, and has a stamp of them.
 */
static int check_age(const struct uffd_layer_file *layer) {
  struct stat file, index;
  if (fstat(layer->fd, &file) != 0 || fstat(layer->sidecar_fd, &index) != 0) {
    return fail(errno, "Cannot look at %s: %s.", layer->path, strerror(errno));
  }
  if (!S_ISREG(file.st_mode) || !is_later(&file.st_mtim, &index.st_mtim)) return 0;
  return fail(ESTALE,
              "%s was written to after its index %s was made: `uffd-lua image index` makes one of what it holds now.",
              layer->path, layer->sidecar);
}

/* given: a descriptor that somebody else has opened; -1: none. */
static int read_sidecar(struct uffd_layer_file *layer, uint64_t file_bytes, int given) {
  uint64_t bytes = 0;
  int fd = given >= 0 ? take_file(given, layer->sidecar, &bytes) : open_file(layer->sidecar, &bytes);
  if (fd < 0) return fd;
  layer->sidecar_fd = fd;
  const struct uffd_packed packed = {fd, NULL, layer->sidecar, bytes, NULL};
  int result = take_sidecar(layer, &packed, file_bytes);
  layer->in_place = result == 0 && uffd_index_describes_file(&layer->index);
  return result < 0 || given >= 0 ? result : check_age(layer);
}

static bool has_sidecar(const struct uffd_layer_origin *origin, const char *name) {
  if (origin->file != NULL) return origin->file->sidecar_fd >= 0;
  return !origin->plain && access(name, F_OK) == 0;
}

static int open_raw(struct uffd_layer_file *layer, int fd, uint64_t file_bytes,
                    const struct uffd_layer_origin *origin) {
  char name[4096];
  int result = 0;
  if (snprintf(name, sizeof(name), "%s.uidx", layer->path) < (int)sizeof(name) && has_sidecar(origin, name)) {
    layer->sidecar = copy_text(name);
    if (layer->sidecar == NULL) return fail(ENOMEM, "No memory for the layer %s.", layer->path);
    layer->format = UFFD_IMAGE_SIDECAR;
    result = read_sidecar(layer, file_bytes, origin->file != NULL ? origin->file->sidecar_fd : -1);
  } else {
    layer->format = UFFD_IMAGE_RAW;
    result = imply(layer, file_bytes);
    if (result == 0) result = find_data(layer, fd, file_bytes);
  }
  return result < 0 ? result : uffd_source_file(fd, layer->path, file_bytes, &layer->source);
}

static int check_index(const struct uffd_layer_file *layer, uint64_t stream_bytes) {
  if ((layer->index.flags & UFFD_INDEX_EXTERNAL) != 0) {
    return fail(EINVAL, "%s: its index is for a file beside it, not for its own frames.", layer->path);
  }
  if (layer->index.stream_bytes == stream_bytes) return 0;
  return fail(EINVAL, "%s: its frames hold %" PRIu64 " bytes, and its index was made for %" PRIu64 ".", layer->path,
              stream_bytes, layer->index.stream_bytes);
}

/* The frames of a zstd file, and what its index says, or implies. */
static int read_zstd(struct uffd_layer_file *layer, const struct uffd_packed *packed, uint64_t frame_limit,
                     struct uffd_seek *seek) {
  int result = uffd_seek_read(packed, frame_limit, seek);
  if (result < 0) return result;
  uint64_t stream_bytes = seek->frames.list[seek->frames.count].offset;
  if (seek->index_at != 0) {
    layer->format = UFFD_IMAGE_INDEXED;
    result = read_index(packed, seek->index_at, seek->index_bytes, &layer->index);
    if (result == 0) result = check_index(layer, stream_bytes);
  } else {
    layer->format = UFFD_IMAGE_ZSTD;
    result = imply(layer, stream_bytes);
    if (result == 0) result = add(layer, UFFD_IMAGE_DATA, 0, stream_bytes);
  }
  if (result < 0) uffd_frames_free(&seek->frames);
  return result;
}

static int open_zstd(struct uffd_layer_file *layer, int fd, uint64_t file_bytes, uint64_t frame_limit) {
  const struct uffd_packed packed = {fd, NULL, layer->path, file_bytes, NULL};
  struct uffd_seek seek;
  int result = read_zstd(layer, &packed, frame_limit, &seek);
  if (result < 0) return result;
  return uffd_source_zstd(fd, layer->path, file_bytes, &seek.frames, &layer->source);
}

static bool is_zstd(const unsigned char *head) {
  uint32_t magic = uffd_le32(head);
  return magic == UFFD_MAGIC_ZSTD || (magic & 0xFFFFFFF0u) == 0x184D2A50u;
}

/* A file that is only renamed has not changed: ctime is not looked at. */
static int take_stamp(struct uffd_layer_file *layer, const struct uffd_image_file *file) {
  if (file != NULL) {
    layer->stamp = file->stamp;
    return 0;
  }
  int result = uffd_stamp_take(layer->fd, &layer->stamp);
  layer->stamp.links = 0;
  return result;
}

static int open_layer(struct uffd_layer_file *layer, uint64_t frame_limit, const struct uffd_layer_origin *origin) {
  unsigned char head[4] = {0};
  uint64_t bytes = 0;
  int fd = origin->file != NULL ? take_file(origin->file->fd, layer->path, &bytes) : open_file(layer->path, &bytes);
  if (fd < 0) return fd;
  layer->fd = fd;
  int result = take_stamp(layer, origin->file);
  if (result == 0) result = uffd_read_exactly(fd, layer->path, 0, head, min_u64(bytes, sizeof(head)));
  if (result == 0) {
    result = is_zstd(head) ? open_zstd(layer, fd, bytes, frame_limit) : open_raw(layer, fd, bytes, origin);
  }
  if (layer->source == NULL) close(fd);
  return result;
}

/* Layers that lie elsewhere */

/* A file that is not there, or that a store does not tell us of, is no sidecar. */
static int read_remote_sidecar(struct uffd_layer_file *layer, const struct uffd_image_opts *opts, uint64_t file_bytes) {
  char uri[4096];
  struct uffd_remote *remote;
  if (uffd_uri_scheme(layer->uri) == UFFD_SCHEME_NBD || uffd_uri_extend(layer->uri, ".uidx", uri, sizeof(uri)) < 0) {
    return 0;
  }
  struct uffd_image_opts quiet = *opts;
  quiet.flags |= UFFD_IMAGE_UNVERSIONED;
  int result = uffd_remote_open(uri, &quiet, &remote);
  if (result == -ENOENT || result == -EACCES) return 0;
  if (result < 0) return result;
  layer->sidecar = copy_text(remote->name);
  const struct uffd_packed packed = {-1, remote, layer->sidecar, remote->transport->bytes, uffd_remote_read};
  result = layer->sidecar == NULL ? fail(ENOMEM, "No memory for the layer %s.", layer->path)
                                  : take_sidecar(layer, &packed, file_bytes);
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_remote_close(remote);
  uffd_restore_sentence(&why);
  return result;
}

/* Without a strong ETag, or digests, nothing would tell that a file has changed while it is served. */
static int check_version(const struct uffd_layer_file *layer, const struct uffd_remote *remote, bool digests) {
  if (digests || remote->transport->version[0] != '\0') return 0;
  if (uffd_uri_scheme(layer->uri) == UFFD_SCHEME_NBD) return 0; /* it has no versions: nothing is kept of it */
  return fail(EINVAL,
              "%s: the server gives no strong ETag, so that nothing would tell when the file changes: put an index "
              "beside it (`uffd-lua image index`), or say that it is not versioned.",
              layer->path);
}

static int open_remote(struct uffd_layer_file *layer, struct uffd_remote *remote, const struct uffd_image_opts *opts,
                       uint64_t frame_limit, bool plain) {
  const struct uffd_packed packed = {-1, remote, layer->path, remote->transport->bytes, uffd_remote_read};
  unsigned char head[4] = {0};
  int result = uffd_packed_read(&packed, 0, head, min_u64(packed.bytes, sizeof(head)));
  if (result == 0 && is_zstd(head)) {
    struct uffd_seek seek;
    result = check_version(layer, remote, false);
    if (result == 0) result = read_zstd(layer, &packed, frame_limit, &seek);
    return result < 0 ? result : uffd_source_remote(remote, &seek.frames, NULL, &layer->source);
  }
  if (result == 0 && !plain) result = read_remote_sidecar(layer, opts, packed.bytes);
  layer->format = layer->sidecar != NULL ? UFFD_IMAGE_SIDECAR : UFFD_IMAGE_RAW;
  if (result == 0 && layer->sidecar == NULL) result = imply(layer, packed.bytes);
  if (result == 0 && layer->sidecar == NULL) result = add(layer, UFFD_IMAGE_DATA, 0, packed.bytes);
  layer->in_place = uffd_index_describes_file(&layer->index);
  if (result == 0) result = check_version(layer, remote, layer->in_place);
  const struct uffd_chunk_digests chunks = {layer->index.digest, uffd_index_chunks(&layer->index), layer->index.digests,
                                            layer->index.id};
  return result < 0 ? result : uffd_source_remote(remote, NULL, layer->in_place ? &chunks : NULL, &layer->source);
}

static int connect_layer(struct uffd_layer_file *layer, const struct uffd_image_opts *opts, uint64_t frame_limit,
                         bool plain) {
  struct uffd_remote *remote;
  int result = uffd_remote_open(layer->uri, opts, &remote);
  if (result < 0) return result;
  result = open_remote(layer, remote, opts, frame_limit, plain);
  if (result == 0) return 0;
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_remote_close(remote);
  uffd_restore_sentence(&why);
  return result;
}

/* A layer's path is what messages name: of a URI, without what is secret. */
static int name_layer(struct uffd_layer_file *layer, const struct uffd_layer_origin *origin) {
  char name[4096];
  const char *path = origin->path, *uri = path;
  if (origin->file != NULL) uri = origin->file->uri == NULL ? "" : origin->file->uri;
  if (uffd_uri_scheme(uri) != UFFD_SCHEME_NONE) {
    int result = uffd_uri_name(uri, name, sizeof(name));
    if (result < 0) return result;
    layer->uri = copy_text(uri);
    path = name;
    if (layer->uri == NULL) return fail(ENOMEM, "No memory for the layer %s.", name);
  }
  layer->path = copy_text(path);
  return layer->path == NULL ? fail(ENOMEM, "No memory for the layer %s.", path) : 0;
}

int uffd_layer_open(const struct uffd_layer_origin *origin, const struct uffd_image_opts *opts,
                    struct uffd_layer_file **made) {
  uint64_t frame_limit = opts->frame_limit == 0 ? FRAME_LIMIT : opts->frame_limit;
  if (frame_limit > FRAME_MOST) return fail(EINVAL, "A frame has at most 1 GiB, not %" PRIu64 " bytes.", frame_limit);
  struct uffd_layer_file *layer = NEW(struct uffd_layer_file);
  if (layer == NULL) return fail(ENOMEM, "No memory for a layer.");
  layer->fd = layer->sidecar_fd = -1;
  int result = name_layer(layer, origin);
  if (result == 0 && layer->uri != NULL) {
    result = connect_layer(layer, opts, frame_limit, origin->plain);
  } else if (result == 0) {
    result = open_layer(layer, frame_limit, origin);
  }
  if (result < 0) {
    uffd_layer_close(layer);
    return result;
  }
  *made = layer;
  return 0;
}
