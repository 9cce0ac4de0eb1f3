/*
 * Indexes of increments: the payload, as it is and with a checksum that fits, is refused with a sentence, or adds up
 * and is written again as it was. Then the layer's pages are resolved, with a parent of the same page size below it.
 */
#include "image.h"

#include "image/digest.h"

static void check_again(const struct uffd_index *index) {
  struct uffd_index again;
  uint64_t length = 0;
  unsigned char *payload = uffd_index_encode(index, &length);
  MUST(payload != NULL);
  MUST(uffd_index_parse(payload, length, "again", &again) == 0);
  MUST(again.extents_count == index->extents_count && again.length == index->length && again.flags == index->flags);
  MUST(memcmp(again.id, index->id, sizeof(again.id)) == 0 && strcmp(again.parent, index->parent) == 0);
  uffd_index_free(&again);
  uffd_release(payload, length);
}

static void parse(const uint8_t *payload, size_t size) {
  struct uffd_index index;
  if (uffd_index_parse(payload, size, "index", &index) < 0) {
    MUST(strstr(uffd_errmsg(), "index") != NULL && index.extents == NULL);
    return;
  }
  uint64_t at = 0;
  for (size_t i = 0; i < index.extents_count; i++) {
    const struct uffd_index_extent *extent = &index.extents[i];
    MUST(extent->offset == at && extent->length > 0 && extent->kind < UFFD_IMAGE_KINDS);
    MUST(uffd_index_find(&index, at) == i && uffd_index_find(&index, at + extent->length - 1) == i);
    at += extent->length;
  }
  MUST(at == index.length && uffd_index_is_name(index.parent));
  check_again(&index);
  uffd_index_free(&index);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t sealed[MOST];
  if (size > MOST) return 0;
  parse(data, size);
  if (size < UFFD_DIGEST_BYTES) return 0;
  memcpy(sealed, data, size);
  uffd_digest_xxh3(sealed, size - UFFD_DIGEST_BYTES, sealed + size - UFFD_DIGEST_BYTES);
  parse(sealed, size);
  return 0;
}
