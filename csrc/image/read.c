/*
 * Reading an image: each piece from where it lies, zeros only where the image is known to be zero.
 */
#include <inttypes.h>
#include <string.h>

#include "image/image.h"

/* Is what was read of these layers, a bit each, what they were opened with? */
static int check_unchanged(const uffd_image *image, uint64_t layers) {
  for (; layers != 0; layers &= layers - 1) {
    const struct uffd_layer_file *layer = image->layers[__builtin_ctzll(layers)];
    if (layer->fd < 0 || atomic_load_explicit(&layer->trusted, memory_order_acquire)) continue;
    if (uffd_stamp_holds(layer->fd, &layer->stamp)) continue;
    return fail(ESTALE, "%s was changed while it was served: what it held is not known any more.", layer->path);
  }
  return 0;
}

int uffd_image_gather(const uffd_image *image, struct uffd_reader *reader, uint64_t offset, char *buffer,
                      uint64_t length) {
  const struct uffd_piece *piece = &image->pieces[uffd_stack_find(image, offset)];
  uint64_t read = 0; /* layers, a bit each */
  _Static_assert(UFFD_IMAGE_DEPTH <= 64, "a bit for each layer");
  for (; length > 0; piece++) {
    uint64_t part = min_u64(piece[1].offset - offset, length);
    if (piece->kind == UFFD_IMAGE_ZERO) {
      memset(buffer, 0, part);
    } else {
      struct uffd_source *source = image->layers[piece->layer]->source;
      int result = source->class->read(source, reader, piece->stream_offset + (offset - piece->offset), buffer, part);
      if (result < 0) return result;
      read |= UINT64_C(1) << piece->layer;
    }
    offset += part;
    buffer += part;
    length -= part;
  }
  return check_unchanged(image, read);
}

int uffd_image_read(uffd_image *image, uint64_t offset, void *buffer, uint64_t length) {
  if (offset > image->length || length > image->length - offset) {
    return fail(ERANGE, "%" PRIu64 " bytes from offset %" PRIu64 " end beyond the image, which has %" PRIu64 ".",
                length, offset, image->length);
  }
  if (image->process != uffd_process()) return fail(EOWNERDEAD, "This image belongs to the parent process.");
  pthread_mutex_lock(&image->lock);
  int result = image->reader == NULL ? uffd_reader_make(&image->need, &image->reader) : 0;
  if (result == 0) result = uffd_image_gather(image, image->reader, offset, buffer, length);
  pthread_mutex_unlock(&image->lock);
  return result;
}
