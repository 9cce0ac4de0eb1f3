/*
 * Files of images, made byte by byte: see imaging.h.
 */
#define _GNU_SOURCE
#include "imaging.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <zstd.h>

#include "image/digest.h"
#include "resolving.h"

void bytes_add(struct bytes *bytes, const void *more, uint64_t length) {
  if (bytes->length + length > bytes->room) {
    bytes->room = (bytes->length + length) * 2;
    bytes->at = realloc(bytes->at, bytes->room);
    CHECK(bytes->at != NULL);
  }
  if (length > 0) memcpy(bytes->at + bytes->length, more, length);
  bytes->length += length;
}

void bytes_u32(struct bytes *bytes, uint32_t value) {
  unsigned char at[4];
  uffd_put_le32(at, value);
  bytes_add(bytes, at, sizeof(at));
}

void bytes_u64(struct bytes *bytes, uint64_t value) {
  unsigned char at[8];
  uffd_put_le64(at, value);
  bytes_add(bytes, at, sizeof(at));
}

void bytes_free(struct bytes *bytes) {
  free(bytes->at);
  *bytes = (struct bytes){NULL, 0, 0};
}

unsigned char *imaging_pages(uint32_t first, uint64_t count) {
  uint32_t *words = malloc(count * PAGE);
  CHECK(words != NULL);
  for (uint64_t i = 0; i < count * PAGE / 4; i++) {
    words[i] = first + (uint32_t)(i / (PAGE / 4));
  }
  return (unsigned char *)words;
}

static char directory[] = "/tmp/uffd-image-XXXXXX";
static pid_t maker;

static void remove_directory(void) {
  char command[64];
  snprintf(command, sizeof(command), "rm -rf %s", directory);
  if (getpid() != maker) return;    /* a child of the test */
  if (system(command) != 0) return; /* NOLINT(cert-env33-c) */
}

const char *imaging_path(const char *name) {
  static char paths[8][128];
  static unsigned next;
  if (maker == 0) {
    CHECK(mkdtemp(directory) != NULL);
    maker = getpid();
    atexit(remove_directory);
  }
  char *path = paths[next++ % 8];
  snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
  return path;
}

void imaging_write(const char *path, const void *at, uint64_t length) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  CHECK_EQ(write(fd, at, length), length);
  CHECK_EQ(close(fd), 0);
}

int imaging_run(const char *command) {
  char line[1024];
  snprintf(line, sizeof(line), "cd %s && %s", directory, command);
  int status = system(line); /* NOLINT(cert-env33-c) */
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void zstd_file_entry(struct zstd_file *file, uint32_t packed, uint32_t decoded, uint32_t checksum) {
  bytes_u32(&file->table, packed);
  bytes_u32(&file->table, decoded);
  if (file->checksums) bytes_u32(&file->table, checksum);
  file->count++;
}

void zstd_file_frame(struct zstd_file *file, const void *at, uint64_t length) {
  size_t room = ZSTD_compressBound(length);
  char *packed = malloc(room);
  CHECK(packed != NULL);
  size_t bytes = ZSTD_compress(packed, room, at, length, 3);
  CHECK(!ZSTD_isError(bytes));
  bytes_add(&file->bytes, packed, bytes);
  zstd_file_entry(file, (uint32_t)bytes, (uint32_t)length, uffd_digest_frame(at, length));
  free(packed);
}

void zstd_file_frames(struct zstd_file *file, const void *at, uint64_t length, uint64_t frame) {
  for (uint64_t i = 0; i < length; i += frame) {
    zstd_file_frame(file, (const char *)at + i, length - i < frame ? length - i : frame);
  }
}

void zstd_file_skip(struct zstd_file *file, uint32_t magic, const void *at, uint64_t length) {
  bytes_u32(&file->bytes, magic);
  bytes_u32(&file->bytes, (uint32_t)length);
  bytes_add(&file->bytes, at, length);
  zstd_file_entry(file, (uint32_t)length + 8, 0, 0);
}

void zstd_file_finish(struct zstd_file *file, const char *path) {
  unsigned char descriptor = file->checksums ? 0x80 : 0;
  bytes_u32(&file->bytes, 0x184D2A5E);
  bytes_u32(&file->bytes, (uint32_t)file->table.length + 9);
  bytes_add(&file->bytes, file->table.at, file->table.length);
  bytes_u32(&file->bytes, file->count);
  bytes_add(&file->bytes, &descriptor, 1);
  bytes_u32(&file->bytes, 0x8F92EAB1);
  imaging_write(path, file->bytes.at, file->bytes.length);
  bytes_free(&file->bytes);
  bytes_free(&file->table);
}

static void add_zeros(struct bytes *bytes, uint64_t count) {
  static const unsigned char zeros[64];
  CHECK(count <= sizeof(zeros));
  bytes_add(bytes, zeros, count);
}

/* XXH3 of each 64 KiB, and what the contents are called by them. */
static struct bytes digests_of(struct index_file *index) {
  struct bytes digests = {NULL, 0, 0};
  struct uffd_sha256 sha;
  unsigned char head[12], digest[16];
  for (uint64_t at = 0; at < index->length; at += 65536) {
    uint64_t bytes = index->length - at < 65536 ? index->length - at : 65536;
    uffd_digest_xxh3(index->contents + at, bytes, digest);
    bytes_add(&digests, digest, sizeof(digest));
  }
  uffd_put_le64(head, index->length);
  uffd_put_le32(head + 8, UFFD_DIGEST_XXH3);
  uffd_sha256_start(&sha);
  uffd_sha256_add(&sha, head, sizeof(head));
  uffd_sha256_add(&sha, digests.at, digests.length);
  uffd_sha256_end(&sha, index->id);
  return digests;
}

struct bytes index_make(struct index_file *index) {
  struct bytes payload = {NULL, 0, 0}, digests = digests_of(index);
  const char *parent = index->parent == NULL ? "" : index->parent;
  uint32_t flags = index->flags | (index->parent_id != NULL ? 2 : 0);
  bytes_add(&payload, "uffdidx", 8);
  bytes_u32(&payload, 192u << 16 | 1);
  bytes_u32(&payload, flags);
  bytes_u64(&payload, index->length);
  bytes_u32(&payload, PAGE);
  bytes_u32(&payload, index->generation == 0 && (flags & 2) != 0 ? 1 : index->generation);
  bytes_u64(&payload, index->count);
  bytes_u64(&payload, index->stream);
  bytes_u64(&payload, 0);
  bytes_u32(&payload, 1);
  bytes_u32(&payload, 65536);
  bytes_add(&payload, index->id, 32);
  if (index->parent_id != NULL) bytes_add(&payload, index->parent_id, 32);
  if (index->parent_id == NULL) add_zeros(&payload, 32);
  add_zeros(&payload, 16);
  bytes_u32(&payload, (uint32_t)strlen(parent));
  bytes_u32(&payload, 0);
  add_zeros(&payload, 40);
  for (uint64_t i = 0; i < index->count; i++) {
    bytes_u64(&payload, index->extents[i].offset);
    bytes_u64(&payload, index->extents[i].length);
    bytes_u64(&payload, index->extents[i].stream);
    bytes_u32(&payload, index->extents[i].kind);
    bytes_u32(&payload, 0);
  }
  bytes_add(&payload, parent, strlen(parent));
  bytes_add(&payload, digests.at, digests.length);
  add_zeros(&payload, 16);
  bytes_free(&digests);
  index_seal(&payload);
  return payload;
}

void index_seal(struct bytes *payload) {
  uffd_digest_xxh3(payload->at, payload->length - 16, payload->at + payload->length - 16);
}

uffd_image *imaging_open(const char *first, const char *second, const char *third) {
  const char *paths[] = {first, second, third};
  uffd_image *image = NULL;
  CHECK_OK(uffd_image_open(paths, second == NULL ? 1 : third == NULL ? 2 : 3, NULL, &image));
  return image;
}

void imaging_refused(const char *first, const char *second, int error, const char *words) {
  const char *paths[] = {first, second};
  uffd_image *image = NULL;
  CHECK_ERR(uffd_image_open(paths, second == NULL ? 1 : 2, NULL, &image), -error);
  CHECK_SAYS(words);
  CHECK(image == NULL);
}

void imaging_expect(uffd_image *image, const unsigned char *expected, uint64_t length) {
  uint64_t whole = (length + PAGE - 1) / PAGE * PAGE;
  struct uffd_image_info info = UFFD_IMAGE_INFO_INIT;
  unsigned char *bytes = calloc(1, whole);
  CHECK(bytes != NULL);
  CHECK_OK(uffd_image_info(image, &info));
  CHECK_EQ(info.length, length);
  CHECK_OK(uffd_image_read(image, 0, bytes, length));
  CHECK(view_same(bytes, expected, length));
  memcpy(bytes, expected, length);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_image_resolver(image, &resolver));
  CHECK_EQ(uffd_resolver_size(resolver), length);
  for (unsigned i = 0; i < 3; i++) {
    const uint64_t around[] = {0, PAGE, UINT64_C(131072)};
    view_expect(resolver, &(struct view_opts){.kind = MEMORY_ANON, .length = whole, .around = around[i]}, bytes);
  }
  uffd_resolver_close(resolver);
  free(bytes);
}
