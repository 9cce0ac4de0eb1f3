/*
 * The index of a layer, read and written. Whatever is in a file is looked at here: what has passed needs no check
 * later.
 */
#include "image/index.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "image/digest.h"
#include "image/image.h"

#define VERSION     1u
#define HEADER      192u
#define EXTENT      32u
#define KNOWN_FLAGS (UFFD_INDEX_EXTERNAL | UFFD_INDEX_HAS_PARENT)
#define MUST_KNOW   0xFFFFu /* unknown flags among these change what the file means */
#define NAME_LIMIT  4096u
#define JSON_LIMIT  65536u

static const unsigned char magic[8] = "uffdidx";

/* at: of the payload. Always -EINVAL. */
static int refuse(const char *path, uint64_t at, const char *format, ...) UFFD_PRINTF(3, 4);
static int refuse(const char *path, uint64_t at, const char *format, ...) {
  char why[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(why, sizeof(why), format, arguments);
  va_end(arguments);
  return fail(EINVAL, "%s: its index is damaged at byte %" PRIu64 ": %s.", path, at, why);
}

uint64_t uffd_index_chunks(const struct uffd_index *index) {
  return round_up(index->length, UFFD_INDEX_CHUNK) / UFFD_INDEX_CHUNK;
}

void uffd_index_free(struct uffd_index *index) {
  if (index->parent != NULL) uffd_release(index->parent, strlen(index->parent) + 1);
  if (index->attributes != NULL) uffd_release(index->attributes, strlen(index->attributes) + 1);
  uffd_release(index->extents, index->extents_room * sizeof(*index->extents));
  if (index->digests != NULL) uffd_release(index->digests, uffd_index_chunks(index) * UFFD_DIGEST_BYTES);
  *index = (struct uffd_index){.length = 0};
}

int uffd_index_add(struct uffd_index *index, const struct uffd_index_extent *extent) {
  if (index->extents_count > 0) {
    struct uffd_index_extent *last = &index->extents[index->extents_count - 1];
    bool follows = last->kind == extent->kind && last->offset + last->length == extent->offset;
    if (follows && (extent->kind != UFFD_IMAGE_DATA || last->stream_offset + last->length == extent->stream_offset)) {
      last->length += extent->length;
      return 0;
    }
  }
  if (index->extents_count == index->extents_room) {
    size_t room = index->extents_room == 0 ? 16 : index->extents_room * 2;
    struct uffd_index_extent *extents = uffd_alloc(room * sizeof(*extents));
    if (extents == NULL) return fail(ENOMEM, "No memory for the extents of a layer.");
    if (index->extents_count > 0) memcpy(extents, index->extents, index->extents_count * sizeof(*extents));
    uffd_release(index->extents, index->extents_room * sizeof(*extents));
    index->extents = extents;
    index->extents_room = room;
  }
  index->extents[index->extents_count++] = *extent;
  return 0;
}

size_t uffd_index_find(const struct uffd_index *index, uint64_t offset) {
  size_t low = 0, high = index->extents_count; /* the last one that begins at offset or before */
  while (high - low > 1) {
    size_t middle = low + (high - low) / 2;
    if (index->extents[middle].offset <= offset) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/* The parts behind the header, as their lengths say. */
struct parts {
  uint64_t count, extents, name, attributes, digests, end;
  uint32_t name_bytes, attributes_bytes;
};

static int read_header(const unsigned char *p, uint64_t length, const char *path, struct uffd_index *index) {
  if (length < HEADER + UFFD_DIGEST_BYTES) return refuse(path, 0, "it has %" PRIu64 " bytes only", length);
  if (memcmp(p, magic, sizeof(magic)) != 0) return refuse(path, 0, "it does not begin as one");
  unsigned version = p[8] | (unsigned)p[9] << 8, header = p[10] | (unsigned)p[11] << 8;
  if (version != VERSION || header != HEADER) {
    return fail(EINVAL, "%s: its index is of version %u, and this library knows version %u.", path, version, VERSION);
  }
  index->flags = uffd_le32(p + 12);
  if ((index->flags & (MUST_KNOW ^ KNOWN_FLAGS)) != 0) {
    return fail(EINVAL, "%s: its index has flags (%#x) that this library does not know.", path, index->flags);
  }
  index->length = uffd_le64(p + 16);
  index->page_size = uffd_le32(p + 24);
  index->generation = uffd_le32(p + 28);
  index->stream_bytes = uffd_le64(p + 40);
  index->time_ns = uffd_le64(p + 48);
  index->digest = uffd_le32(p + 56);
  memcpy(index->id, p + 64, sizeof(index->id));
  memcpy(index->parent_id, p + 96, sizeof(index->parent_id));
  memcpy(index->uuid, p + 128, sizeof(index->uuid));
  return 0;
}

static int check_header(const unsigned char *p, const char *path, const struct uffd_index *index) {
  uint64_t page = index->page_size;
  bool increment = (index->flags & UFFD_INDEX_HAS_PARENT) != 0;
  if (index->length == 0 || index->length > UFFD_IMAGE_LIMIT) {
    return refuse(path, 16, "an image has 1 to 2^47 bytes, not %" PRIu64, index->length);
  }
  if (page < BASE_PAGE || page > (UINT64_C(1) << 30) || (page & (page - 1)) != 0) {
    return refuse(path, 24, "%" PRIu64 " is no page size", page);
  }
  if ((index->generation != 0) != increment || index->generation >= UFFD_IMAGE_DEPTH) {
    return refuse(path, 28, "generation %" PRIu32 " of a layer %s a parent", index->generation,
                  increment ? "with" : "without");
  }
  if (index->stream_bytes > UFFD_IMAGE_LIMIT) return refuse(path, 40, "its stream is too long");
  if (index->digest != UFFD_DIGEST_XXH3 && index->digest != UFFD_DIGEST_SHA256) {
    return refuse(path, 56, "digest %" PRIu32 " is unknown", index->digest);
  }
  if (uffd_le32(p + 60) != UFFD_INDEX_CHUNK) {
    return refuse(path, 60, "its digests are of %" PRIu32 " bytes each, not %" PRIu64, uffd_le32(p + 60),
                  UFFD_INDEX_CHUNK);
  }
  return 0;
}

/* The lengths must add up to the payload's: nothing is allocated before. */
static int measure(const unsigned char *p, uint64_t length, const char *path, const struct uffd_index *index,
                   struct parts *parts) {
  parts->count = uffd_le64(p + 32);
  parts->name_bytes = uffd_le32(p + 144);
  parts->attributes_bytes = uffd_le32(p + 148);
  if (parts->count == 0 || parts->count > length / EXTENT) {
    return refuse(path, 32, "%" PRIu64 " extents do not fit into it", parts->count);
  }
  if (parts->name_bytes > NAME_LIMIT) return refuse(path, 144, "the parent's name is too long");
  if (parts->attributes_bytes > JSON_LIMIT) return refuse(path, 148, "its attributes are too long");
  parts->extents = HEADER;
  parts->name = parts->extents + parts->count * EXTENT;
  parts->attributes = parts->name + parts->name_bytes;
  parts->digests = parts->attributes + parts->attributes_bytes;
  parts->end = parts->digests + uffd_index_chunks(index) * UFFD_DIGEST_BYTES;
  if (parts->end + UFFD_DIGEST_BYTES != length) {
    return refuse(path, 0, "it has %" PRIu64 " bytes, and its parts need %" PRIu64, length,
                  parts->end + UFFD_DIGEST_BYTES);
  }
  return 0;
}

static int check_extent(const char *path, uint64_t at, const struct uffd_index *index, uint64_t expected,
                        const struct uffd_index_extent *extent) {
  if (extent->offset != expected) {
    return refuse(path, at, "an extent begins at offset %" PRIu64 ", and the one before it ends at %" PRIu64,
                  extent->offset, expected);
  }
  if (extent->length == 0 || extent->length > index->length - extent->offset) {
    return refuse(path, at + 8, "an extent of %" PRIu64 " bytes ends beyond the image", extent->length);
  }
  if (extent->offset + extent->length != index->length && extent->length % index->page_size != 0) {
    return refuse(path, at + 8, "an extent of %" PRIu64 " bytes is not whole pages", extent->length);
  }
  if (extent->kind >= UFFD_IMAGE_KINDS) return refuse(path, at + 24, "an extent of kind %" PRIu32, extent->kind);
  if (extent->kind == UFFD_IMAGE_BELOW && (index->flags & UFFD_INDEX_HAS_PARENT) == 0) {
    return refuse(path, at + 24, "pages of a parent, without a parent");
  }
  bool data = extent->kind == UFFD_IMAGE_DATA;
  if (data &&
      (extent->stream_offset > index->stream_bytes || extent->length > index->stream_bytes - extent->stream_offset)) {
    return refuse(path, at + 16, "an extent ends beyond the stream of %" PRIu64 " bytes", index->stream_bytes);
  }
  return 0;
}

static int read_extents(const unsigned char *p, const char *path, const struct parts *parts, struct uffd_index *index) {
  uint64_t expected = 0;
  for (uint64_t i = 0; i < parts->count; i++) {
    uint64_t at = parts->extents + i * EXTENT;
    struct uffd_index_extent extent = {uffd_le64(p + at), uffd_le64(p + at + 8), uffd_le64(p + at + 16),
                                       uffd_le32(p + at + 24)};
    int result = check_extent(path, at, index, expected, &extent);
    if (result == 0) result = uffd_index_add(index, &extent);
    if (result < 0) return result;
    expected = extent.offset + extent.length;
  }
  if (expected == index->length) return 0;
  return refuse(path, parts->name, "its extents end at offset %" PRIu64 " of %" PRIu64, expected, index->length);
}

static char *copy_text(const unsigned char *at, uint32_t length) {
  char *text = uffd_alloc((size_t)length + 1);
  if (text != NULL) memcpy(text, at, length);
  return text;
}

/* A parent's name is looked for in the increment's directory, and nowhere above it. */
bool uffd_index_is_name(const char *name) {
  if (name[0] == '/') return false;
  for (const char *at = name; at != NULL; at = strchr(at, '/')) {
    if (*at == '/') at++;
    if (strncmp(at, "..", 2) == 0 && (at[2] == '/' || at[2] == '\0')) return false;
  }
  return true;
}

static int read_rest(const unsigned char *p, const char *path, const struct parts *parts, struct uffd_index *index) {
  uint64_t digests = parts->end - parts->digests;
  if (memchr(p + parts->name, '\0', parts->name_bytes) != NULL) return refuse(path, parts->name, "a NUL in a name");
  if (memchr(p + parts->attributes, '\0', parts->attributes_bytes) != NULL) {
    return refuse(path, parts->attributes, "a NUL in its attributes");
  }
  index->parent = copy_text(p + parts->name, parts->name_bytes);
  index->attributes = copy_text(p + parts->attributes, parts->attributes_bytes);
  index->digests = uffd_alloc(digests);
  if (index->parent == NULL || index->attributes == NULL || index->digests == NULL) {
    return fail(ENOMEM, "No memory for the index of %s.", path);
  }
  memcpy(index->digests, p + parts->digests, digests);
  if (uffd_index_is_name(index->parent)) return 0;
  return refuse(path, parts->name, "the parent's name leaves the directory");
}

static int check_seal(const unsigned char *p, uint64_t length, const char *path) {
  unsigned char seal[UFFD_DIGEST_BYTES];
  uint64_t end = length - UFFD_DIGEST_BYTES;
  uffd_digest_xxh3(p, end, seal);
  return memcmp(seal, p + end, sizeof(seal)) == 0 ? 0 : refuse(path, end, "its checksum does not match");
}

static int parse(const unsigned char *p, uint64_t length, const char *path, struct uffd_index *index) {
  struct parts parts = {0};
  int result = read_header(p, length, path, index);
  if (result == 0) result = check_seal(p, length, path);
  if (result == 0) result = check_header(p, path, index);
  if (result == 0) result = measure(p, length, path, index, &parts);
  if (result == 0) result = read_extents(p, path, &parts, index);
  if (result == 0) result = read_rest(p, path, &parts, index);
  return result;
}

int uffd_index_parse(const unsigned char *payload, uint64_t length, const char *path, struct uffd_index *index) {
  *index = (struct uffd_index){.length = 0};
  int result = parse(payload, length, path, index);
  if (result < 0) uffd_index_free(index);
  return result;
}

bool uffd_index_describes_file(const struct uffd_index *index) {
  if (index->digest == UFFD_DIGEST_NONE || index->digests == NULL) return false;
  if ((index->flags & UFFD_INDEX_HAS_PARENT) != 0 || index->length != index->stream_bytes) return false;
  for (size_t i = 0; i < index->extents_count; i++) {
    const struct uffd_index_extent *extent = &index->extents[i];
    if (extent->kind == UFFD_IMAGE_DATA && extent->stream_offset != extent->offset) return false;
  }
  return true;
}

void uffd_index_identify(struct uffd_index *index) {
  unsigned char head[12];
  struct uffd_sha256 sha;
  uffd_put_le64(head, index->length);
  uffd_put_le32(head + 8, index->digest);
  uffd_sha256_start(&sha);
  uffd_sha256_add(&sha, head, sizeof(head));
  uffd_sha256_add(&sha, index->digests, uffd_index_chunks(index) * UFFD_DIGEST_BYTES);
  uffd_sha256_end(&sha, index->id);
}

static void write_header(const struct uffd_index *index, unsigned char *p) {
  memcpy(p, magic, sizeof(magic));
  p[8] = VERSION;
  p[10] = HEADER;
  uffd_put_le32(p + 12, index->flags);
  uffd_put_le64(p + 16, index->length);
  uffd_put_le32(p + 24, (uint32_t)index->page_size);
  uffd_put_le32(p + 28, index->generation);
  uffd_put_le64(p + 32, index->extents_count);
  uffd_put_le64(p + 40, index->stream_bytes);
  uffd_put_le64(p + 48, index->time_ns);
  uffd_put_le32(p + 56, index->digest);
  uffd_put_le32(p + 60, UFFD_INDEX_CHUNK);
  memcpy(p + 64, index->id, sizeof(index->id));
  memcpy(p + 96, index->parent_id, sizeof(index->parent_id));
  memcpy(p + 128, index->uuid, sizeof(index->uuid));
  uffd_put_le32(p + 144, (uint32_t)strlen(index->parent));
  uffd_put_le32(p + 148, (uint32_t)strlen(index->attributes));
}

unsigned char *uffd_index_encode(const struct uffd_index *index, uint64_t *length) {
  uint64_t name = strlen(index->parent), attributes = strlen(index->attributes);
  uint64_t digests = uffd_index_chunks(index) * UFFD_DIGEST_BYTES;
  uint64_t end = HEADER + index->extents_count * EXTENT + name + attributes + digests;
  unsigned char *payload = uffd_alloc(end + UFFD_DIGEST_BYTES), *p = payload;
  if (payload == NULL) return NULL;
  write_header(index, p);
  p += HEADER;
  for (size_t i = 0; i < index->extents_count; i++, p += EXTENT) {
    const struct uffd_index_extent *extent = &index->extents[i];
    uffd_put_le64(p, extent->offset);
    uffd_put_le64(p + 8, extent->length);
    uffd_put_le64(p + 16, extent->kind == UFFD_IMAGE_DATA ? extent->stream_offset : 0);
    uffd_put_le32(p + 24, extent->kind);
  }
  memcpy(p, index->parent, name);
  memcpy(p + name, index->attributes, attributes);
  memcpy(p + name + attributes, index->digests, digests);
  uffd_digest_xxh3(payload, end, payload + end);
  *length = end + UFFD_DIGEST_BYTES;
  return payload;
}
