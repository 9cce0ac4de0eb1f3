/*
 * Layers of an image, opened in one process and read in others. Alone in the pager in knowing libuffd-image; built
 * without it, all that is layered is refused.
 */
#include "serve/paper/layers.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/workingset/workingset.h"

#ifdef UFFD_WITH_IMAGE

#include "image/image.h"

#define URI_ROOM 4096u

struct uffd_layers {
  uffd_image *image;
};

static bool has_sidecar(const char *path) {
  char name[4096];
  return snprintf(name, sizeof(name), "%s.uidx", path) < (int)sizeof(name) && access(name, F_OK) == 0;
}

static int copy_fd(int fd, const char *path) {
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return copy >= 0 ? copy : fail(errno, "No descriptor for %s: %s.", path, strerror(errno));
}

/* A sealed file that holds a URI: so it reaches the workers, and no command line and no listing. */
static int write_uri(const char *uri, struct uffd_backing_file *file) {
  file->remote = 1;
  file->fd = memfd_create("uffd-uri", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file->fd < 0) return fail(errno, "No descriptor for %s: %s.", file->path, strerror(errno));
  int result = uffd_write_exactly(file->fd, file->path, 0, uri, strlen(uri));
  if (result < 0) return result;
  (void)fcntl(file->fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  return uffd_stamp_take(file->fd, &file->stamp);
}

static int read_uri(const struct uffd_backing_file *file, char *uri) {
  ssize_t got = pread(file->fd, uri, URI_ROOM - 1, 0);
  if (got <= 0) return fail(EPROTO, "The URI of %s did not come.", file->path);
  uri[got] = '\0';
  return 0;
}

static int take_file(const uffd_image *image, uint32_t number, struct uffd_backing_file *file) {
  struct uffd_image_file opened;
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  uffd_image_file(image, number, &opened);
  (void)uffd_image_layer(image, number, &layer);
  snprintf(file->path, sizeof(file->path), "%s", opened.path);
  memcpy(file->id, layer.id, sizeof(file->id));
  if (opened.uri != NULL) return write_uri(opened.uri, file);
  file->stamp = opened.stamp;
  file->fd = copy_fd(opened.fd, opened.path);
  if (file->fd < 0 || opened.sidecar_fd < 0) return file->fd < 0 ? file->fd : 0;
  file->indexed = 1;
  file->sidecar_fd = copy_fd(opened.sidecar_fd, opened.path);
  return file->sidecar_fd < 0 ? file->sidecar_fd : 0;
}

static int read_sample(void *ctx, uint64_t offset, unsigned char *bytes, uint64_t length) {
  return uffd_image_read(ctx, offset, bytes, length);
}

/* A sample that is damaged is an error of its pages, not of the whole image: then its identity is not known. */
static void identify(uffd_image *image, struct uffd_backing *backing) {
  if (uffd_identity_by(read_sample, image, backing->length, &backing->identity) < 0) backing->identity = 0;
}

static int take_files(uffd_image *image, struct uffd_backing *backing) {
  struct uffd_image_info info = UFFD_IMAGE_INFO_INIT;
  (void)uffd_image_info(image, &info);
  backing->files = uffd_alloc(info.layers * sizeof(*backing->files));
  if (backing->files == NULL) return fail(ENOMEM, "No memory for an image.");
  backing->count = info.layers;
  backing->layered = 1;
  backing->length = info.length;
  for (uint32_t i = 0; i < info.layers; i++) {
    backing->files[i].fd = backing->files[i].sidecar_fd = -1;
  }
  int result = 0;
  for (uint32_t i = 0; result == 0 && i < info.layers; i++) {
    result = take_file(image, i, &backing->files[i]);
  }
  if (result == 0) identify(image, backing);
  return result;
}

int uffd_layers_open(const char *const *paths, struct uffd_backing *backing) {
  size_t count = 0;
  uffd_image *image;
  while (paths[count] != NULL) {
    count++;
  }
  int result = uffd_image_open(paths, count, NULL, &image);
  if (result < 0) return result;
  result = take_files(image, backing);
  uffd_image_close(image);
  return result;
}

static int check_layers(const uffd_image *image, const struct uffd_backing *backing) {
  struct uffd_image_info info = UFFD_IMAGE_INFO_INIT;
  (void)uffd_image_info(image, &info);
  for (uint32_t i = 0; i < backing->count; i++) {
    struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
    (void)uffd_image_layer(image, i, &layer);
    if (memcmp(layer.id, backing->files[i].id, sizeof(layer.id)) == 0) continue;
    return fail(ESTALE, "%s was changed while it was served: it is another layer now.", backing->files[i].path);
  }
  if (info.length == backing->length) return 0;
  return fail(ESTALE, "%s was changed while it was served: it has another length now.", backing->name);
}

/* uris: URI_ROOM bytes for each file. */
static int open_files(const struct uffd_backing *backing, char *uris, uffd_image **image) {
  struct uffd_image_file files[UFFD_IMAGE_DEPTH];
  for (uint32_t i = 0; i < backing->count; i++) {
    const struct uffd_backing_file *file = &backing->files[i];
    char *uri = uris + (size_t)i * URI_ROOM;
    int result = file->remote != 0 ? read_uri(file, uri) : 0;
    if (result < 0) return result;
    files[i] =
        (struct uffd_image_file){file->path, file->remote != 0 ? uri : NULL, file->fd, file->sidecar_fd, file->stamp};
  }
  return uffd_image_open_files(files, backing->count, image);
}

int uffd_layers_read(const struct uffd_backing *backing, struct uffd_layers **made, uffd_resolver **resolver) {
  uffd_image *image;
  *made = NULL;
  if (backing->count > UFFD_IMAGE_DEPTH) return fail(EPROTO, "An image of %u layers came.", backing->count);
  size_t room = (size_t)backing->count * URI_ROOM;
  char *uris = uffd_alloc(room);
  int result = uris == NULL ? fail(ENOMEM, "No memory for an image.") : open_files(backing, uris, &image);
  if (uris != NULL) explicit_bzero(uris, room);
  uffd_release(uris, room);
  if (result < 0) return result;
  struct uffd_layers *layers = NEW(struct uffd_layers);
  result = layers == NULL ? fail(ENOMEM, "No memory for an image.") : check_layers(image, backing);
  if (result == 0) result = uffd_image_resolver(image, resolver);
  if (result < 0) {
    struct uffd_sentence why = uffd_keep_sentence();
    uffd_image_close(image);
    DELETE(layers);
    uffd_restore_sentence(&why);
    return result;
  }
  layers->image = image;
  *made = layers;
  return 0;
}

void uffd_layers_trust(struct uffd_layers *layers, uint32_t number, bool trusted) {
  uffd_image_trust(layers->image, number, trusted);
}

void uffd_layers_close(struct uffd_layers *layers) {
  if (layers == NULL) return;
  uffd_image_close(layers->image);
  DELETE(layers);
}

#else

static bool has_sidecar(const char *path) {
  (void)path; /* a raw file is served as it is */
  return false;
}

int uffd_layers_open(const char *const *paths, struct uffd_backing *backing) {
  (void)backing;
  return fail(ENOSYS, "%s is a layer of an image: this uffd was built without images (-DUFFD_BUILD_IMAGE=OFF).",
              paths[0]);
}

int uffd_layers_read(const struct uffd_backing *backing, struct uffd_layers **made, uffd_resolver **resolver) {
  *made = NULL;
  *resolver = NULL;
  return fail(ENOSYS, "%s has layers: this uffd was built without images (-DUFFD_BUILD_IMAGE=OFF).", backing->name);
}

void uffd_layers_trust(struct uffd_layers *layers, uint32_t number, bool trusted) {
  (void)layers;
  (void)number;
  (void)trusted;
}

void uffd_layers_close(struct uffd_layers *layers) {
  (void)layers;
}

#endif

/* The magic of a zstd frame, or of a skippable one. */
static bool is_compressed(const char *path) {
  unsigned char head[4];
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a pipe must not wait for its other end */
  if (fd < 0) return false;
  bool read = pread(fd, head, sizeof(head), 0) == (ssize_t)sizeof(head);
  close(fd);
  uint32_t magic = (uint32_t)head[0] | (uint32_t)head[1] << 8 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 24;
  return read && (magic == 0xFD2FB528u || (magic & 0xFFFFFFF0u) == 0x184D2A50u);
}

/* A word and "://": what it is, libuffd-image decides. */
static bool is_uri(const char *path) {
  size_t word = strspn(path, "abcdefghijklmnopqrstuvwxyz0123456789+");
  return word > 0 && strncmp(path + word, "://", 3) == 0;
}

bool uffd_layers_wanted(const char *path) {
  return is_uri(path) || is_compressed(path) || has_sidecar(path);
}
