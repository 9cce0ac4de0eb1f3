/*
 * Images that are wrong, by accident or on purpose. Contradictions are refused when the image is opened, without a
 * large allocation. What only decoding shows is an error of those pages, and the other pages are right.
 */
#define _GNU_SOURCE
#include "imaging.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <zstd.h>

#include "image/digest.h"
#include "resolving.h"

#define COUNT  UINT64_C(437)
#define LENGTH (COUNT * PAGE + 100)
#define FRAME  UINT64_C(65536)

static const char *file(void) {
  return imaging_path("file");
}

static uint64_t resident_peak(void) {
  struct rusage usage;
  CHECK_EQ(getrusage(RUSAGE_SELF, &usage), 0);
  return (uint64_t)usage.ru_maxrss * 1024;
}

/* Seek tables */

/* A file of 28 frames, and its bytes, of which the table is the last part. */
static struct bytes seekable(const unsigned char *pages) {
  struct zstd_file made = {.checksums = true};
  zstd_file_frames(&made, pages, LENGTH, FRAME);
  zstd_file_finish(&made, file());
  struct bytes bytes = {NULL, 0, 0};
  int fd = open(file(), O_RDONLY | O_CLOEXEC);
  uint64_t length = (uint64_t)lseek(fd, 0, SEEK_END);
  unsigned char *at = malloc(length);
  CHECK(at != NULL);
  CHECK_EQ(pread(fd, at, length, 0), length);
  CHECK_EQ(close(fd), 0);
  bytes_add(&bytes, at, length);
  free(at);
  return bytes;
}

#define FRAMES  28u
#define ENTRIES (FRAMES * 12 + 9) /* of the table, from the file's end */

static void table_refused(const struct bytes *bytes, uint64_t from_end, uint32_t value, unsigned width,
                          const char *words) {
  struct bytes changed = {NULL, 0, 0};
  bytes_add(&changed, bytes->at, bytes->length);
  for (unsigned i = 0; i < width; i++) {
    changed.at[changed.length - from_end + i] = (unsigned char)(value >> 8 * i);
  }
  imaging_write(file(), changed.at, changed.length);
  imaging_refused(file(), NULL, EINVAL, words);
  bytes_free(&changed);
}

static void seek_tables(void) {
  unsigned char *pages = imaging_pages(1, COUNT + 1);
  struct bytes bytes = seekable(pages);
  uint32_t packed = uffd_le32(bytes.at + bytes.length - ENTRIES);
  uint64_t before = resident_peak();
  table_refused(&bytes, 9, UINT32_MAX, 4, "longer than the file");
  table_refused(&bytes, 9, UINT32_C(1) << 30, 4, "longer than the file");
  table_refused(&bytes, 9, FRAMES - 1, 4, "does not begin");
  table_refused(&bytes, 9, FRAMES + 1, 4, "does not begin");
  table_refused(&bytes, ENTRIES, packed + 1, 4, "");
  table_refused(&bytes, ENTRIES, packed - 1, 4, "");
  table_refused(&bytes, ENTRIES, UINT32_MAX, 4, "beyond the table");
  table_refused(&bytes, ENTRIES + 4, 1, 4, "does not begin"); /* the table's own length */
  table_refused(&bytes, 5, 0x84, 1, "reserved bits");
  table_refused(&bytes, 5, 0xC0, 1, "reserved bits");
  CHECK(resident_peak() - before < UINT64_C(32) << 20);
  imaging_write(file(), bytes.at, bytes.length - 1);
  imaging_refused(file(), NULL, EINVAL, "no seek table");
  bytes_add(&bytes, "x", 1);
  imaging_write(file(), bytes.at, bytes.length);
  imaging_refused(file(), NULL, EINVAL, "no seek table");
  bytes.length--;
  bytes.at[bytes.length - 5] = 0x83; /* unused bits mean nothing */
  imaging_write(file(), bytes.at, bytes.length);
  uffd_image *image = imaging_open(file(), NULL, NULL);
  imaging_expect(image, pages, LENGTH);
  uffd_image_close(image);
  bytes_free(&bytes);
  free(pages);
}

/* Frames */

/* Reading any byte of [from, to) fails with these words, everything else is right: by reading and by faults. */
static void only_damaged(const unsigned char *expected, uint64_t length, uint64_t from, uint64_t to,
                         const char *words) {
  uint64_t whole = (length + PAGE - 1) / PAGE * PAGE;
  unsigned char bytes[PAGE];
  uffd_image *image = imaging_open(file(), NULL, NULL);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_image_resolver(image, &resolver));
  const uint64_t around[] = {0, PAGE};
  for (unsigned i = 0; i < 2; i++) {
    struct view view = view_open(resolver, &(struct view_opts){.length = whole, .around = around[i]});
    for (uint64_t at = 0; at < length; at += PAGE) {
      uint64_t part = length - at < PAGE ? length - at : PAGE;
      int result = uffd_image_read(image, at, bytes, part);
      if (at + PAGE > from && at < to) {
        CHECK_ERR(result, -EIO);
        CHECK_SAYS(words);
        CHECK_SAYS(file());
        CHECK_EQ(check_access(view.at + at, false, NULL), SIGBUS);
      } else {
        CHECK_OK(result);
        CHECK(view_same(bytes, expected + at, part));
        CHECK_EQ(check_access(view.at + at, false, NULL), 0);
        CHECK(view_same(view.at + at, expected + at, part));
      }
    }
    CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), EIO);
    view_close(&view);
  }
  uffd_resolver_close(resolver);
  uffd_image_close(image);
}

static void needs_poison(void) {
  check_needs(UFFD_FEAT_POISON);
}

/* The table says other bytes than frame 5 decodes to; the offsets of what follows are as the table says. */
static void frames_of_another_length(void) {
  needs_poison();
  unsigned char *pages = imaging_pages(1, COUNT);
  const uint32_t said[] = {4096, 131072};
  const char *const words[] = {"frame 5", "fewer bytes"};
  for (unsigned i = 0; i < 2; i++) {
    struct zstd_file made = {.checksums = false};
    struct bytes expected = {NULL, 0, 0};
    bytes_add(&expected, pages, 5 * FRAME);
    bytes_add(&expected, pages, said[i]);
    bytes_add(&expected, pages + 6 * FRAME, 4 * FRAME);
    zstd_file_frames(&made, pages, 10 * FRAME, FRAME);
    uffd_put_le32(made.table.at + 5 * 8 + 4, said[i]);
    zstd_file_finish(&made, file());
    only_damaged(expected.at, expected.length, 5 * FRAME, 5 * FRAME + said[i], words[i]);
    bytes_free(&expected);
  }
  free(pages);
}

static void two_frames_in_an_entry(void) {
  needs_poison();
  unsigned char *pages = imaging_pages(1, COUNT);
  struct zstd_file made = {.checksums = false}, inner = {.checksums = false};
  zstd_file_frames(&made, pages, 2 * FRAME, FRAME);
  zstd_file_frames(&inner, pages + 2 * FRAME, FRAME, FRAME / 2);
  bytes_add(&made.bytes, inner.bytes.at, inner.bytes.length);
  zstd_file_entry(&made, (uint32_t)inner.bytes.length, FRAME, 0);
  zstd_file_frames(&made, pages + 3 * FRAME, 2 * FRAME, FRAME);
  zstd_file_finish(&made, file());
  only_damaged(pages, 5 * FRAME, 2 * FRAME, 3 * FRAME, "more than one frame");
  bytes_free(&inner.bytes);
  bytes_free(&inner.table);
  free(pages);
}

static void frames_too_long(void) {
  unsigned char *pages = imaging_pages(1, 16);
  const uint32_t said[] = {UINT32_MAX, UINT32_C(1) << 30, (UINT32_C(16) << 20) + 1};
  for (unsigned i = 0; i < 3; i++) {
    struct zstd_file made = {.checksums = true};
    zstd_file_frame(&made, pages, FRAME);
    uffd_put_le32(made.table.at + 4, said[i]);
    zstd_file_finish(&made, file());
    imaging_refused(file(), NULL, EFBIG, "the limit");
  }
  const char *path = file();
  struct uffd_image_opts opts = UFFD_IMAGE_OPTS_INIT;
  uffd_image *image = NULL;
  opts.frame_limit = UINT64_C(32) << 20;
  CHECK_OK(uffd_image_open(&path, 1, &opts, &image)); /* what is wrong with it shows when it is read */
  CHECK_ERR(uffd_image_read(image, 0, pages, PAGE), -EIO);
  uffd_image_close(image);
  opts.frame_limit = (UINT64_C(1) << 30) + 1;
  CHECK_ERR(uffd_image_open(&path, 1, &opts, &image), -EINVAL);
  free(pages);
}

/* 36 KiB that decode to 1 GiB, entered as 64 KiB. */
static void a_bomb(void) {
  if (system("command -v zstd >/dev/null") != 0) SKIP("zstd is not installed"); /* NOLINT(cert-env33-c) */
  imaging_path("");
  CHECK_EQ(imaging_run("head -c 1073741824 /dev/zero | zstd -q -o bomb"), 0);
  struct zstd_file made = {.checksums = false};
  unsigned char *packed = malloc(1 << 20);
  CHECK(packed != NULL);
  int fd = open(imaging_path("bomb"), O_RDONLY | O_CLOEXEC);
  ssize_t length = read(fd, packed, 1 << 20);
  CHECK(length > 0 && length < 100000);
  CHECK_EQ(close(fd), 0);
  bytes_add(&made.bytes, packed, (uint64_t)length);
  zstd_file_entry(&made, (uint32_t)length, FRAME, 0);
  zstd_file_finish(&made, file());
  uint64_t before = resident_peak();
  uffd_image *image = imaging_open(file(), NULL, NULL);
  CHECK_ERR(uffd_image_read(image, 0, packed, PAGE), -EIO);
  CHECK_ERR(uffd_image_read(image, 0, packed, FRAME), -EIO);
  uffd_image_close(image);
  CHECK(resident_peak() - before < UINT64_C(32) << 20);
  free(packed);
}

/* A bit at any place of frame 3 is seen, by the frame's checksum or by the table's. */
static void a_bit_in_a_frame(void) {
  needs_poison();
  unsigned char *pages = imaging_pages(1, COUNT + 1);
  struct bytes bytes = seekable(pages);
  uint64_t start = 0;
  for (unsigned i = 0; i < 3; i++) {
    start += uffd_le32(bytes.at + bytes.length - ENTRIES + (size_t)i * 12);
  }
  uint32_t packed = uffd_le32(bytes.at + bytes.length - ENTRIES + (size_t)3 * 12);
  for (uint32_t i = 0; i < packed; i += 1 + packed / 8) {
    bytes.at[start + i] ^= 4;
    imaging_write(file(), bytes.at, bytes.length);
    only_damaged(pages, LENGTH, 3 * FRAME, 4 * FRAME, "frame 3");
    bytes.at[start + i] ^= 4;
  }
  bytes_free(&bytes);
  free(pages);
}

static void a_file_that_shrinks(void) {
  needs_poison();
  unsigned char *pages = imaging_pages(1, COUNT), bytes[PAGE];
  imaging_write(file(), pages, COUNT * PAGE);
  uffd_image *image = imaging_open(file(), NULL, NULL);
  CHECK_EQ(truncate(file(), 100 * PAGE + 5), 0);
  CHECK_ERR(uffd_image_read(image, 99 * PAGE, bytes, PAGE), -ESTALE);
  CHECK_ERR(uffd_image_read(image, 100 * PAGE, bytes, PAGE), -EIO);
  CHECK_SAYS("has shrunk");
  uffd_image_close(image);
  free(pages);
}

/* A byte of the file, which is open, becomes another one. */
static void write_byte(const char *path, uint64_t at) {
  int fd = open(path, O_RDWR | O_CLOEXEC);
  unsigned char byte;
  CHECK(fd >= 0);
  CHECK_EQ(pread(fd, &byte, 1, (off_t)at), 1);
  byte ^= 1;
  CHECK_EQ(pwrite(fd, &byte, 1, (off_t)at), 1);
  close(fd);
}

/* What is read of an open image fails and names the file; a name that the file gains or loses is no change. */
static void stays_unless_written(const char *path, const unsigned char *pages) {
  unsigned char bytes[PAGE];
  char other[4096];
  snprintf(other, sizeof(other), "%s.other", path);
  uffd_image *image = imaging_open(path, NULL, NULL);
  CHECK_EQ(link(path, other), 0);
  CHECK_EQ(unlink(path), 0);
  CHECK_EQ(rename(other, path), 0);
  CHECK_OK(uffd_image_read(image, 9 * PAGE, bytes, PAGE));
  CHECK(memcmp(bytes, pages + 9 * PAGE, PAGE) == 0);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_image_resolver(image, &resolver));
  struct view view = view_open(resolver, &(struct view_opts){.length = COUNT * PAGE, .around = PAGE});
  CHECK_EQ(check_access(view.at, false, NULL), 0);
  write_byte(path, 0);
  CHECK_ERR(uffd_image_read(image, 9 * PAGE, bytes, PAGE), -ESTALE);
  CHECK_SAYS("was changed");
  CHECK_SAYS(path);
  CHECK_EQ(check_access(view.at + 9 * PAGE, false, NULL), SIGBUS);
  CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), ESTALE);
  view_close(&view);
  uffd_resolver_close(resolver);
  uffd_image_close(image);
}

static void files_that_are_written(void) {
  needs_poison();
  unsigned char *pages = imaging_pages(1, COUNT + 1);
  imaging_write(file(), pages, COUNT * PAGE);
  stays_unless_written(file(), pages);
  struct bytes bytes = seekable(pages);
  imaging_write(file(), bytes.at, bytes.length);
  stays_unless_written(file(), pages);
  bytes_free(&bytes);
  free(pages);
}

/* Indexes */

struct hostile {
  uint64_t at; /* of the payload */
  uint64_t value;
  unsigned width;
  const char *words;
};

static void write_indexed(const struct bytes *payload, const unsigned char *pages, uint64_t length) {
  struct zstd_file made = {.checksums = true};
  zstd_file_frames(&made, pages, length, FRAME);
  zstd_file_skip(&made, 0x184D2A5D, payload->at, payload->length);
  zstd_file_finish(&made, file());
}

static void indexes(void) {
  uint64_t length = 60 * PAGE;
  unsigned char *pages = imaging_pages(1, 60);
  const struct extent extents[] = {{0, 10 * PAGE, 0, UFFD_IMAGE_DATA},
                                   {10 * PAGE, PAGE, 0, UFFD_IMAGE_ZERO},
                                   {11 * PAGE, 49 * PAGE, 11 * PAGE, UFFD_IMAGE_DATA}};
  struct index_file index = {.length = length, .stream = length, .contents = pages, .extents = extents, .count = 3};
  memset(pages + 10 * PAGE, 0, PAGE);
  struct bytes right = index_make(&index);
  write_indexed(&right, pages, length);
  uffd_image *image = imaging_open(file(), NULL, NULL);
  imaging_expect(image, pages, length);
  uffd_image_close(image);
  const struct hostile all[] = {
      {0, 'x', 1, "does not begin"},
      {8, 2, 2, "version 2"},
      {10, 184, 2, "version"},
      {12, 1, 4, "for a file beside it"},
      {12, 1u << 15, 4, "flags"},
      {12, 2, 4, "generation 0"},
      {16, 0, 8, "1 to 2^47"},
      {16, UINT64_MAX, 8, "1 to 2^47"},
      {16, length + PAGE, 8, "extents end"},
      {16, length - PAGE, 8, "beyond the image"},
      {24, 4095, 4, "no page size"},
      {24, 0, 4, "no page size"},
      {28, 1, 4, "generation 1"},
      {32, 0, 8, "do not fit"},
      {32, 2, 8, "parts need"},
      {32, UINT64_C(1) << 59, 8, "do not fit"},
      {32, UINT64_MAX, 8, "do not fit"},
      {40, length - 1, 8, "beyond the stream"},
      {40, length + 1, 8, "was made for"},
      {56, 3, 4, "digest 3"},
      {60, 4096, 4, "digests are of"},
      {144, 5000, 4, "name is too long"},
      {148, UINT32_MAX, 4, "attributes are too long"},
      {144, 5, 4, "parts need"},
      {192 + 32, 11 * PAGE, 8, "one before it ends"},     /* a gap */
      {192 + 32, 9 * PAGE, 8, "one before it ends"},      /* an overlap */
      {192, PAGE, 8, "one before it ends"},               /* unsorted */
      {192 + 8, 0, 8, "beyond the image"},                /* empty */
      {192 + 8, UINT64_MAX - 5, 8, "beyond the image"},   /* overflows */
      {192 + 8, 10 * PAGE - 1, 8, "not whole pages"},     /* splits a page */
      {192 + 16, UINT64_MAX, 8, "beyond the stream"},     /* overflows */
      {192 + 64 + 16, 12 * PAGE, 8, "beyond the stream"}, /* by a page */
      {192 + 24, 3, 4, "kind 3"},
      {192 + 32 + 24, UFFD_IMAGE_BELOW, 4, "without a parent"},
  };
  for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
    struct bytes wrong = {NULL, 0, 0};
    bytes_add(&wrong, right.at, right.length);
    for (unsigned j = 0; j < all[i].width; j++) {
      wrong.at[all[i].at + j] = (unsigned char)(all[i].value >> 8 * j);
    }
    write_indexed(&wrong, pages, length);
    if (all[i].at >= 16) imaging_refused(file(), NULL, EINVAL, "checksum");
    index_seal(&wrong);
    write_indexed(&wrong, pages, length);
    imaging_refused(file(), NULL, EINVAL, all[i].words);
    bytes_free(&wrong);
  }
  for (uint64_t cut = 0; cut < right.length; cut += 37) {
    struct bytes wrong = {right.at, cut, 0};
    write_indexed(&wrong, pages, length);
    imaging_refused(file(), NULL, EINVAL, "index");
  }
  bytes_free(&right);
  free(pages);
}

/* A name that would lead out of the directory. */
static void names_of_parents(void) {
  unsigned char *pages = imaging_pages(1, 16), id[32] = {1};
  const struct extent extent = {0, 16 * PAGE, 0, UFFD_IMAGE_BELOW};
  const char *const names[] = {"/etc/passwd", "..", "../x", "a/../b", "a/.."};
  for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
    struct index_file index = {
        .length = 16 * PAGE, .parent = names[i], .parent_id = id, .contents = pages, .extents = &extent, .count = 1};
    struct bytes payload = index_make(&index);
    write_indexed(&payload, pages, 0);
    imaging_refused(file(), NULL, EINVAL, "leaves the directory");
    bytes_free(&payload);
  }
  free(pages);
}

/* Chains */

/* An increment of nothing but its parent's pages, under this name. */
static void make_empty(const char *name, const char *parent, const unsigned char *pages, uint64_t count,
                       uint32_t generation, unsigned char id[32]) {
  const struct extent extent = {0, count * PAGE, 0, UFFD_IMAGE_BELOW};
  struct index_file index = {.length = count * PAGE,
                             .parent = parent,
                             .parent_id = id,
                             .generation = generation,
                             .contents = pages,
                             .extents = &extent,
                             .count = 1};
  struct bytes payload = index_make(&index);
  struct zstd_file made = {.checksums = true};
  zstd_file_skip(&made, 0x184D2A5D, payload.at, payload.length);
  zstd_file_finish(&made, imaging_path(name));
  memcpy(id, index.id, 32);
  bytes_free(&payload);
}

static void make_ground(const char *name, const unsigned char *pages, uint64_t count, unsigned char id[32]) {
  const struct extent extent = {0, count * PAGE, 0, UFFD_IMAGE_DATA};
  struct index_file index = {
      .length = count * PAGE, .stream = count * PAGE, .contents = pages, .extents = &extent, .count = 1};
  struct bytes payload = index_make(&index);
  struct zstd_file made = {.checksums = true};
  zstd_file_frames(&made, pages, count * PAGE, FRAME);
  zstd_file_skip(&made, 0x184D2A5D, payload.at, payload.length);
  zstd_file_finish(&made, imaging_path(name));
  memcpy(id, index.id, 32);
  bytes_free(&payload);
}

static void chains_that_are_too_long(void) {
  unsigned char *pages = imaging_pages(1, 16), id[32];
  char name[16] = "0", parent[16];
  make_ground(name, pages, 16, id);
  for (unsigned i = 1; i <= 64; i++) {
    memcpy(parent, name, sizeof(parent));
    snprintf(name, sizeof(name), "%u", i);
    make_empty(name, parent, pages, 16, i < 64 ? i : 63, id);
  }
  uffd_image *image = imaging_open(imaging_path("63"), NULL, NULL);
  struct uffd_image_info info = UFFD_IMAGE_INFO_INIT;
  CHECK_OK(uffd_image_info(image, &info));
  CHECK_EQ(info.layers, 64);
  imaging_expect(image, pages, 16 * PAGE);
  uffd_image_close(image);
  imaging_refused(imaging_path("64"), NULL, ELOOP, "compact");
  free(pages);
}

static void chains_that_do_not_fit(void) {
  unsigned char *pages = imaging_pages(1, 32), id[32], ground[32];
  make_ground("ground", pages, 16, id);
  memcpy(ground, id, 32);
  make_empty("a", "b", pages, 16, 1, id);
  make_empty("b", "a", pages, 16, 1, id);
  imaging_refused(imaging_path("a"), NULL, EINVAL, "twice");
  memcpy(id, ground, 32);
  make_empty("lost", "nowhere", pages, 16, 1, id);
  imaging_refused(imaging_path("lost"), NULL, ENOENT, "nowhere");
  memcpy(id, ground, 32);
  make_empty("long", "ground", pages, 17, 1, id);
  imaging_refused(imaging_path("long"), NULL, EINVAL, "needs 69632 bytes");
  imaging_refused(imaging_path("ground"), imaging_path("ground"), EINVAL, "twice");
  make_ground("other", pages, 16, id);
  imaging_refused(imaging_path("ground"), imaging_path("other"), EINVAL, "whole image");
  free(pages);
}

/* Arguments, and files that are none */

static void what_is_no_image(void) {
  uffd_image *image = NULL;
  const char *path = NULL;
  CHECK_ERR(uffd_image_open(NULL, 0, NULL, &image), -EINVAL);
  CHECK_ERR(uffd_image_open(&path, 1, NULL, &image), -EINVAL);
  imaging_refused(imaging_path("nowhere"), NULL, ENOENT, "nowhere");
  imaging_refused(imaging_path(""), NULL, EINVAL, "not a file");
  imaging_write(file(), "", 0);
  imaging_refused(file(), NULL, EINVAL, "is empty");
  imaging_write(file(), "\x28\xB5\x2F\xFD", 4);
  imaging_refused(file(), NULL, EINVAL, "cut off");
  imaging_write(file(), "\x50\x2A\x4D\x18\0\0\0\0\0", 9);
  imaging_refused(file(), NULL, EINVAL, "");
  uffd_image_close(NULL);
}

static void bad_sidecars(void) {
  unsigned char *pages = imaging_pages(1, 16);
  imaging_write(file(), pages, 16 * PAGE);
  imaging_write(imaging_path("file.uidx"), "", 0);
  imaging_refused(file(), NULL, EINVAL, "file.uidx is empty");
  imaging_write(imaging_path("file.uidx"), "hello", 5);
  imaging_refused(file(), NULL, EINVAL, "is no index");
  imaging_write(imaging_path("file.uidx"), "\x5D\x2A\x4D\x18\x01\0\0\0\0\0", 10);
  imaging_refused(file(), NULL, EINVAL, "is no index");
  imaging_write(imaging_path("file.uidx"), "\x5D\x2A\x4D\x18\x01\0\0\0\0", 9);
  imaging_refused(file(), NULL, EINVAL, "damaged at byte 0");
  free(pages);
}

static const struct check_test tests[] = {
    TEST(seek_tables),      TEST(frames_of_another_length), TEST(two_frames_in_an_entry), TEST(frames_too_long),
    TEST(a_bomb),           TEST(a_bit_in_a_frame),         TEST(a_file_that_shrinks),    TEST(indexes),
    TEST(names_of_parents), TEST(chains_that_are_too_long), TEST(chains_that_do_not_fit), TEST(what_is_no_image),
    TEST(bad_sidecars),     TEST(files_that_are_written),
};
CHECK_MAIN(tests)
