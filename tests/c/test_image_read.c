/* Images that are right: raw files, zstd files, increments, sidecars, chains of them; by reading and by faults. */
#define _GNU_SOURCE
#include "imaging.h"

#include <fcntl.h>
#include <sys/resource.h>

#include "resolving.h"

#define COUNT  UINT64_C(437)
#define LENGTH (COUNT * PAGE + 100)

/* P(437) and 100 bytes, page 100 of it zero. */
static unsigned char *contents(void) {
  unsigned char *pages = imaging_pages(1, COUNT + 1);
  memset(pages + 100 * PAGE, 0, PAGE);
  return pages;
}

static struct uffd_image_layer layer_of(uffd_image *image, uint32_t index) {
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_OK(uffd_image_layer(image, index, &layer));
  return layer;
}

/* One file */

static void a_raw_file(void) {
  unsigned char *pages = contents();
  const char *path = imaging_path("raw");
  imaging_write(path, pages, LENGTH);
  uffd_image *image = imaging_open(path, NULL, NULL);
  imaging_expect(image, pages, LENGTH);
  CHECK_EQ(layer_of(image, 0).format, UFFD_IMAGE_RAW);
  unsigned char byte;
  CHECK_ERR(uffd_image_read(image, LENGTH, &byte, 1), -ERANGE);
  CHECK_ERR(uffd_image_read(image, UINT64_MAX, &byte, 2), -ERANGE);
  uffd_image_close(image);
  free(pages);
}

/* 10 GiB of which one page is data. */
static void a_sparse_file(void) {
  uint64_t length = UINT64_C(10) << 30, at = UINT64_C(7) << 30;
  const char *path = imaging_path("sparse");
  unsigned char *page = imaging_pages(9, 1), bytes[3 * PAGE];
  int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  CHECK_EQ(ftruncate(fd, (off_t)length), 0);
  CHECK_EQ(pwrite(fd, page, PAGE, (off_t)at), PAGE);
  CHECK_EQ(close(fd), 0);
  uffd_image *image = imaging_open(path, NULL, NULL);
  struct uffd_image_info info = UFFD_IMAGE_INFO_INIT;
  CHECK_OK(uffd_image_info(image, &info));
  CHECK_EQ(info.bytes[UFFD_IMAGE_ZERO] + info.bytes[UFFD_IMAGE_DATA], length);
  if (info.pieces > 1) CHECK(info.bytes[UFFD_IMAGE_DATA] <= UINT64_C(2) << 20); /* a file system that knows of holes */
  CHECK_OK(uffd_image_read(image, at - PAGE, bytes, sizeof(bytes)));
  CHECK(check_filled(bytes, PAGE, 0) && memcmp(bytes + PAGE, page, PAGE) == 0);
  CHECK(check_filled(bytes + 2 * PAGE, PAGE, 0));
  uffd_image_close(image);
  free(page);
}

static void zstd_files(void) {
  unsigned char *pages = contents();
  const uint64_t frames[] = {PAGE, 65536, 100000, UINT64_C(1) << 20, UINT64_C(4) << 20};
  for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
    struct zstd_file file = {.checksums = i % 2 == 0};
    const char *path = imaging_path("zstd");
    zstd_file_frames(&file, pages, LENGTH, frames[i]);
    zstd_file_finish(&file, path);
    uffd_image *image = imaging_open(path, NULL, NULL);
    imaging_expect(image, pages, LENGTH);
    struct uffd_image_layer layer = layer_of(image, 0);
    CHECK_EQ(layer.format, UFFD_IMAGE_ZSTD);
    CHECK_EQ(layer.frames, (LENGTH + frames[i] - 1) / frames[i]);
    CHECK_EQ(layer.checksums, i % 2 == 0);
    uffd_image_close(image);
  }
  free(pages);
}

static rlim_t address_space(void) {
  return (rlim_t)check_number("/proc/self/statm") * PAGE; /* its first number */
}

/* Failed as: the buffers that had failed were freed, and used by the next read. */
static void a_read_without_memory_is_made_again(void) {
  if (check_is_sanitized()) SKIP("a sanitizer's own memory is beyond RLIMIT_AS");
  unsigned char *pages = contents(), *read = malloc(LENGTH);
  struct zstd_file file = {.checksums = true};
  const char *path = imaging_path("zstd");
  zstd_file_frames(&file, pages, LENGTH, UINT64_C(1) << 20);
  zstd_file_finish(&file, path);
  uffd_image *image = imaging_open(path, NULL, NULL);
  struct rlimit before, limit;
  CHECK(getrlimit(RLIMIT_AS, &before) == 0);
  limit = before;
  limit.rlim_cur = address_space() + UINT64_C(3) * (1 << 20); /* the frames that are kept have 4 MiB */
  CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
  CHECK_ERR(uffd_image_read(image, 0, read, LENGTH), -ENOMEM);
  CHECK_ERR(uffd_image_read(image, 0, read, LENGTH), -ENOMEM);
  CHECK(setrlimit(RLIMIT_AS, &before) == 0);
  CHECK_OK(uffd_image_read(image, 0, read, LENGTH));
  CHECK(memcmp(read, pages, LENGTH) == 0);
  uffd_image_close(image);
  free(read);
  free(pages);
}

/* Skippable and empty frames have entries too. */
static void frames_without_bytes(void) {
  unsigned char *pages = contents();
  struct zstd_file file = {.checksums = true};
  const char *path = imaging_path("zstd");
  zstd_file_skip(&file, 0x184D2A50, "hello", 5);
  zstd_file_frames(&file, pages, 50 * PAGE, 65536);
  zstd_file_frame(&file, "", 0);
  zstd_file_skip(&file, 0x184D2A5F, NULL, 0);
  zstd_file_frames(&file, pages + 50 * PAGE, LENGTH - 50 * PAGE, 65536);
  zstd_file_skip(&file, 0x184D2A5F, "end", 3);
  zstd_file_finish(&file, path);
  uffd_image *image = imaging_open(path, NULL, NULL);
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  free(pages);
}

/* As pzstd and cat make them. */
static void frames_without_a_table(void) {
  unsigned char *pages = contents();
  struct zstd_file file = {.checksums = true};
  const char *path = imaging_path("zstd");
  zstd_file_skip(&file, 0x184D2A50, "1234", 4);
  zstd_file_frames(&file, pages, LENGTH, 100000);
  imaging_write(path, file.bytes.at, file.bytes.length);
  uffd_image *image = imaging_open(path, NULL, NULL);
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  imaging_write(path, file.bytes.at, file.bytes.length - 1);
  imaging_refused(path, NULL, EINVAL, "cut off");
  bytes_add(&file.bytes, "x", 1);
  imaging_write(path, file.bytes.at, file.bytes.length);
  imaging_refused(path, NULL, EINVAL, "cut off");
  bytes_free(&file.bytes);
  bytes_free(&file.table);
  free(pages);
}

static void the_zstd_program_agrees(void) {
  if (system("command -v zstd >/dev/null") != 0) SKIP("zstd is not installed"); /* NOLINT(cert-env33-c) */
  unsigned char *pages = contents();
  struct zstd_file file = {.checksums = true};
  zstd_file_frames(&file, pages, LENGTH, 65536);
  imaging_write(imaging_path("raw"), pages, LENGTH);
  zstd_file_finish(&file, imaging_path("ours.zst"));
  CHECK_EQ(imaging_run("zstd -q -d ours.zst -o back && cmp raw back"), 0);
  CHECK_EQ(imaging_run("zstd -q raw -o one.zst"), 0);
  uffd_image *image = imaging_open(imaging_path("one.zst"), NULL, NULL);
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  CHECK_EQ(imaging_run("head -c 20000000 /dev/zero | zstd -q -o large.zst"), 0);
  imaging_refused(imaging_path("large.zst"), NULL, EINVAL, "does not say how long it is");
  CHECK_EQ(imaging_run("head -c 20000000 /dev/zero >large && zstd -q -f large -o large.zst"), 0);
  imaging_refused(imaging_path("large.zst"), NULL, EFBIG, "zstd -d");
  free(pages);
}

/* Increments */

#define BASE_PAGES UINT64_C(256)
#define TOP_PAGES  UINT64_C(300)

/* A base P(256) as a zstd file with an index; frames of so many bytes. */
static void make_base(const char *path, struct index_file *index, const unsigned char *pages, uint64_t frame) {
  struct zstd_file file = {.checksums = true};
  const struct extent extent = {0, BASE_PAGES * PAGE, 0, UFFD_IMAGE_DATA};
  index->length = index->stream = BASE_PAGES * PAGE;
  index->contents = pages;
  index->extents = &extent;
  index->count = 1;
  struct bytes payload = index_make(index);
  zstd_file_frames(&file, pages, BASE_PAGES * PAGE, frame);
  zstd_file_skip(&file, 0x184D2A5D, payload.at, payload.length);
  zstd_file_finish(&file, path);
  bytes_free(&payload);
}

/* 3 is new, 7 zero, 256 to 299 zero, the rest is the parent's. Returns what it shows. */
static unsigned char *make_top(const char *path, const struct index_file *base, const unsigned char *pages,
                               const char *parent, struct index_file *index) {
  unsigned char *shown = calloc(TOP_PAGES, PAGE), *new = imaging_pages(1000, 1);
  CHECK(shown != NULL);
  memcpy(shown, pages, BASE_PAGES * PAGE);
  memcpy(shown + 3 * PAGE, new, PAGE);
  memset(shown + 7 * PAGE, 0, PAGE);
  const struct extent extents[] = {
      {0, 3 * PAGE, 0, UFFD_IMAGE_BELOW},          {3 * PAGE, PAGE, 0, UFFD_IMAGE_DATA},
      {4 * PAGE, 3 * PAGE, 0, UFFD_IMAGE_BELOW},   {7 * PAGE, PAGE, 0, UFFD_IMAGE_ZERO},
      {8 * PAGE, 248 * PAGE, 0, UFFD_IMAGE_BELOW}, {256 * PAGE, 44 * PAGE, 0, UFFD_IMAGE_ZERO}};
  struct zstd_file file = {.checksums = true};
  *index = (struct index_file){.length = TOP_PAGES * PAGE,
                               .stream = PAGE,
                               .parent = parent,
                               .parent_id = base->id,
                               .contents = shown,
                               .extents = extents,
                               .count = 6};
  struct bytes payload = index_make(index);
  zstd_file_frame(&file, new, PAGE);
  zstd_file_skip(&file, 0x184D2A5D, payload.at, payload.length);
  zstd_file_finish(&file, path);
  bytes_free(&payload);
  free(new);
  return shown;
}

static void an_increment(void) {
  unsigned char *pages = imaging_pages(1, BASE_PAGES);
  struct index_file base = {0}, top;
  make_base(imaging_path("base"), &base, pages, 65536);
  unsigned char *shown = make_top(imaging_path("top"), &base, pages, "base", &top);
  uffd_image *image = imaging_open(imaging_path("base"), imaging_path("top"), NULL);
  imaging_expect(image, shown, TOP_PAGES * PAGE);
  struct uffd_image_layer layer = layer_of(image, 1);
  CHECK_EQ(layer.format, UFFD_IMAGE_INDEXED);
  CHECK_EQ(layer.bytes[UFFD_IMAGE_DATA], PAGE);
  CHECK_EQ(layer.bytes[UFFD_IMAGE_ZERO], 45 * PAGE);
  CHECK_EQ(layer.bytes[UFFD_IMAGE_BELOW], 254 * PAGE);
  CHECK(memcmp(layer.parent_id, layer_of(image, 0).id, 32) == 0);
  uffd_image_close(image);

  image = imaging_open(imaging_path("top"), NULL, NULL); /* it names its parent */
  imaging_expect(image, shown, TOP_PAGES * PAGE);
  uffd_image_close(image);

  make_base(imaging_path("base"), &base, pages, 4 * PAGE); /* compressed anew: the contents are the same */
  image = imaging_open(imaging_path("top"), NULL, NULL);
  imaging_expect(image, shown, TOP_PAGES * PAGE);
  uffd_image_close(image);

  pages[9 * PAGE] ^= 1;
  make_base(imaging_path("base"), &base, pages, 65536);
  imaging_refused(imaging_path("top"), NULL, EINVAL, "is not the parent");
  free(shown);
  free(pages);
}

static void write_sidecar(const char *path, struct index_file *index) {
  struct bytes payload = index_make(index), frame = {NULL, 0, 0};
  bytes_u32(&frame, 0x184D2A5D);
  bytes_u32(&frame, (uint32_t)payload.length);
  bytes_add(&frame, payload.at, payload.length);
  imaging_write(path, frame.at, frame.length);
  bytes_free(&frame);
  bytes_free(&payload);
}

static void a_raw_base_with_a_sidecar(void) {
  unsigned char *pages = imaging_pages(1, BASE_PAGES);
  const struct extent extent = {0, BASE_PAGES * PAGE, 0, UFFD_IMAGE_DATA};
  struct index_file top, base = {.length = BASE_PAGES * PAGE,
                                 .stream = BASE_PAGES * PAGE,
                                 .flags = 1,
                                 .contents = pages,
                                 .extents = &extent,
                                 .count = 1};
  imaging_write(imaging_path("base"), pages, BASE_PAGES * PAGE);
  write_sidecar(imaging_path("base.uidx"), &base);
  unsigned char *shown = make_top(imaging_path("top"), &base, pages, NULL, &top);
  uffd_image *image = imaging_open(imaging_path("base"), imaging_path("top"), NULL);
  CHECK_EQ(layer_of(image, 0).format, UFFD_IMAGE_SIDECAR);
  imaging_expect(image, shown, TOP_PAGES * PAGE);
  uffd_image_close(image);

  imaging_refused(imaging_path("top"), NULL, EINVAL, "does not name its parent");
  unlink(imaging_path("base.uidx"));
  imaging_refused(imaging_path("base"), imaging_path("top"), EINVAL, "image index");
  write_sidecar(imaging_path("base.uidx"), &base);
  CHECK_EQ(truncate(imaging_path("base"), BASE_PAGES * PAGE - 1), 0);
  imaging_refused(imaging_path("base"), NULL, EINVAL, "was made for");
  free(shown);
  free(pages);
}

/* A page of the memory is larger than the pieces that it falls into. */
static void huge_pages(void) {
  check_hugepages(2);
  uint64_t huge = UINT64_C(2) << 20;
  unsigned char *pages = imaging_pages(1, BASE_PAGES), *expected = calloc(1, huge);
  struct index_file base = {0}, top;
  make_base(imaging_path("base"), &base, pages, 65536);
  unsigned char *shown = make_top(imaging_path("top"), &base, pages, "base", &top);
  uffd_image *image = imaging_open(imaging_path("top"), NULL, NULL);
  uffd_resolver *resolver = NULL;
  CHECK(expected != NULL);
  memcpy(expected, shown, TOP_PAGES * PAGE);
  CHECK_OK(uffd_image_resolver(image, &resolver));
  uffd_image_close(image); /* the resolver keeps it */
  view_expect(resolver, &(struct view_opts){.kind = MEMORY_HUGETLB, .length = huge}, expected);
  uffd_resolver_close(resolver);
  free(expected);
  free(shown);
  free(pages);
}

static void the_map(void) {
  unsigned char *pages = imaging_pages(1, BASE_PAGES);
  struct index_file base = {0}, top;
  struct uffd_image_piece piece;
  make_base(imaging_path("base"), &base, pages, 65536);
  free(make_top(imaging_path("top"), &base, pages, "base", &top));
  uffd_image *image = imaging_open(imaging_path("top"), NULL, NULL);
  const struct uffd_image_piece expected[] = {{0, 3 * PAGE, 0, UFFD_IMAGE_DATA, 0},
                                              {3 * PAGE, PAGE, 0, UFFD_IMAGE_DATA, 1},
                                              {4 * PAGE, 3 * PAGE, 4 * PAGE, UFFD_IMAGE_DATA, 0},
                                              {7 * PAGE, PAGE, 0, UFFD_IMAGE_ZERO, 1},
                                              {8 * PAGE, 248 * PAGE, 8 * PAGE, UFFD_IMAGE_DATA, 0},
                                              {256 * PAGE, 44 * PAGE, 0, UFFD_IMAGE_ZERO, 1}};
  uint64_t at = 0;
  for (size_t i = 0; i < 6; i++, at += piece.length) {
    CHECK_EQ(uffd_image_map(image, -1, at + 1, &piece), 1);
    CHECK(memcmp(&piece, &expected[i], sizeof(piece)) == 0);
  }
  CHECK_EQ(uffd_image_map(image, -1, at, &piece), 0);
  CHECK_EQ(uffd_image_map(image, 1, 5 * PAGE, &piece), 1);
  CHECK_EQ(piece.kind, UFFD_IMAGE_BELOW);
  CHECK_EQ(uffd_image_map(image, 0, BASE_PAGES * PAGE, &piece), 0);
  CHECK_ERR(uffd_image_map(image, 2, 0, &piece), -ERANGE);
  struct uffd_image_layer layer = UFFD_IMAGE_LAYER_INIT;
  CHECK_ERR(uffd_image_layer(image, 2, &layer), -ERANGE);
  uffd_image_close(image);
  free(pages);
}

static const struct check_test tests[] = {
    TEST(a_raw_file),
    TEST(a_sparse_file),
    TEST(zstd_files),
    TEST(a_read_without_memory_is_made_again),
    TEST(frames_without_bytes),
    TEST(frames_without_a_table),
    TEST(the_zstd_program_agrees),
    TEST(an_increment),
    TEST(a_raw_base_with_a_sidecar),
    TEST(huge_pages),
    TEST(the_map),
};
CHECK_MAIN(tests)
