/* Importers: a diff of Firecracker, a dump of CRIU, an image of E2B; what they mean is kept, and what is wrong refused.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/stat.h>

#include "dumping.h"
#include "imaging.h"

#define COUNT  UINT64_C(1024)
#define LENGTH (COUNT * PAGE)

static void write_pages(int fd, uint64_t page, uint64_t count, const void *bytes) {
  CHECK_EQ(pwrite(fd, bytes, count * PAGE, (off_t)(page * PAGE)), (ssize_t)(count * PAGE));
}

/* Firecracker: data page 100, written zeros 200-203 and 300-315, preallocated 400-415; all else are holes. */
static void make_diff(const char *path, unsigned char *model) {
  static unsigned char zeros[16 * PAGE];
  unsigned char *news = imaging_pages(9000, 1);
  int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  CHECK_EQ(ftruncate(fd, (off_t)LENGTH), 0);
  write_pages(fd, 100, 1, news);
  write_pages(fd, 200, 4, zeros);
  write_pages(fd, 300, 16, zeros);
  if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 400 * PAGE, 16 * PAGE) != 0) SKIP("no preallocation on this file system");
  off_t hole = lseek(fd, 0, SEEK_HOLE);
  close(fd);
  if (hole != 0) SKIP("no holes on this file system");
  memcpy(model + 100 * PAGE, news, PAGE);
  memset(model + 200 * PAGE, 0, 4 * PAGE);
  memset(model + 300 * PAGE, 0, 16 * PAGE);
  free(news);
}

static uffd_image *make_parent(unsigned char **pages) {
  struct uffd_store_layer_opts opts = UFFD_STORE_LAYER_OPTS_INIT;
  uffd_store *store = NULL;
  *pages = imaging_pages(1, COUNT);
  opts.length = LENGTH;
  CHECK_OK(uffd_store_layer(imaging_path("parent"), &opts, &store));
  CHECK_OK(uffd_store_put(store, 0, UFFD_STORE_DATA, *pages, LENGTH));
  CHECK_OK(uffd_store_finish(store));
  uffd_store_close(store);
  return imaging_open(imaging_path("parent"), NULL, NULL);
}

static void a_diff_of_firecracker(void) {
  unsigned char *model;
  struct uffd_import_counts counts;
  uffd_image *parent = make_parent(&model);
  make_diff(imaging_path("diff"), model);
  CHECK_OK(uffd_import_diff(imaging_path("diff"), parent, imaging_path("layer"), NULL, &counts));
  CHECK_EQ(counts.data_bytes, PAGE);
  CHECK_EQ(counts.zero_bytes, 20 * PAGE);
  CHECK_EQ(counts.below_bytes, LENGTH - 21 * PAGE);
  uffd_image *image = imaging_open(imaging_path("parent"), imaging_path("layer"), NULL);
  imaging_expect(image, model, LENGTH);
  CHECK_EQ(uffd_image_verify(image, NULL), 0);
  uffd_image_close(image);
  uffd_image_close(parent);
  free(model);
}

/* A copy with all zeros as holes is another diff: nothing can tell, but the counts. A copy without holes is refused. */
static void copies_of_a_diff(void) {
  unsigned char *model;
  struct uffd_import_counts counts;
  uffd_image *parent = make_parent(&model);
  make_diff(imaging_path("diff"), model);
  if (imaging_run("cp --sparse=always diff copy 2> /dev/null") != 0) SKIP("a cp without --sparse");
  CHECK_OK(uffd_import_diff(imaging_path("copy"), parent, imaging_path("layer"), NULL, &counts));
  CHECK_EQ(counts.zero_bytes, 0);
  CHECK_EQ(counts.data_bytes, PAGE);
  CHECK_EQ(imaging_run("cat diff > copy"), 0);
  CHECK_ERR(uffd_import_diff(imaging_path("copy"), parent, imaging_path("none"), NULL, &counts), -EINVAL);
  CHECK_SAYS("has no holes");
  CHECK_EQ(truncate(imaging_path("diff"), (off_t)(LENGTH - PAGE)), 0);
  CHECK_ERR(uffd_import_diff(imaging_path("diff"), parent, imaging_path("none"), NULL, NULL), -EINVAL);
  CHECK_SAYS("the image that it is a diff of");
  CHECK_ERR(uffd_import_diff(imaging_path("diff"), NULL, imaging_path("none"), NULL, NULL), -EINVAL);
  CHECK_SAYS("needs the image");
  CHECK_ERR(uffd_import_diff(imaging_path("parent"), parent, imaging_path("none"), NULL, NULL), -EINVAL);
  CHECK_SAYS("not a diff");
  CHECK_ERR(uffd_import_diff(imaging_path("nowhere"), parent, imaging_path("none"), NULL, NULL), -ENOENT);
  struct stat status;
  CHECK(stat(imaging_path("none"), &status) != 0);
  uffd_image_close(parent);
  free(model);
}

static int give_up(void *ctx, uint64_t done, uint64_t total) {
  CHECK(done <= total && total == LENGTH);
  return ++*(unsigned *)ctx > 2;
}

static void progress_stops_an_import(void) {
  unsigned char *model;
  unsigned calls = 0;
  struct uffd_import_opts opts = UFFD_IMPORT_OPTS_INIT;
  struct stat status;
  uffd_image *parent = make_parent(&model);
  make_diff(imaging_path("diff"), model);
  opts.progress = give_up;
  opts.progress_ctx = &calls;
  CHECK_ERR(uffd_import_diff(imaging_path("diff"), parent, imaging_path("none"), &opts, NULL), -ECANCELED);
  CHECK(stat(imaging_path("none"), &status) != 0);
  uffd_image_close(parent);
  free(model);
}

/* CRIU */

struct ranges {
  struct uffd_import_region list[8];
  unsigned count;
};

static void note(void *ctx, const struct uffd_import_region *region) {
  struct ranges *ranges = ctx;
  CHECK(ranges->count < 8);
  ranges->list[ranges->count++] = *region;
}

static void a_dump_of_criu(void) {
  const char *parent = dump_directory(), *directory = dump_directory();
  const int32_t pids[] = {7};
  const struct dump_vma vmas[] = {{.start = 0x10000000, .pages = 8}, {.start = 0x20000000, .pages = 4}};
  const struct dump_run before[] = {{.start = 0x10000000, .pages = 8, .flags = DUMP_PRESENT | DUMP_LAZY, .seed = 1}};
  const struct dump_run after[] = {{.start = 0x10000000, .pages = 3, .flags = DUMP_PARENT | DUMP_LAZY},
                                   {.start = 0x10003000, .pages = 2, .flags = DUMP_PRESENT | DUMP_LAZY, .seed = 2},
                                   {.start = 0x20002000, .pages = 1, .flags = DUMP_PRESENT | DUMP_LAZY, .seed = 3}};
  dump_pstree(parent, pids, 1);
  dump_mm(parent, 7, vmas, 2);
  dump_pages(parent, 7, 1, before, 1);
  dump_pstree(directory, pids, 1);
  dump_mm(directory, 7, vmas, 2);
  dump_pages(directory, 7, 1, after, 3);
  dump_parent(directory, parent);
  struct uffd_import_opts opts = UFFD_IMPORT_OPTS_INIT;
  struct uffd_import_counts counts;
  struct ranges ranges = {.count = 0};
  opts.region = note;
  opts.region_ctx = &ranges;
  CHECK_OK(uffd_import_criu(directory, imaging_path("dump"), &opts, &counts));
  CHECK_EQ(ranges.count, 2);
  CHECK_EQ(ranges.list[0].pid, 7);
  CHECK_EQ(ranges.list[0].address, 0x10000000);
  CHECK_EQ(ranges.list[0].length, 8 * PAGE);
  CHECK_EQ(ranges.list[0].offset, 0);
  CHECK_EQ(ranges.list[1].address, 0x20000000);
  CHECK_EQ(ranges.list[1].offset, 8 * PAGE);
  CHECK_EQ(counts.data_bytes, 6 * PAGE);
  CHECK_EQ(counts.zero_bytes, 6 * PAGE);
  unsigned char bytes[12 * PAGE];
  uffd_image *image = imaging_open(imaging_path("dump"), NULL, NULL);
  CHECK_OK(uffd_image_read(image, 0, bytes, sizeof(bytes)));
  for (uint64_t page = 0; page < 12; page++) {
    uint64_t address = page < 8 ? 0x10000000 + page * PAGE : 0x20000000 + (page - 8) * PAGE;
    uint32_t seed = page < 3 ? 1 : page < 5 ? 2 : page == 10 ? 3 : 0;
    CHECK(seed == 0 ? check_filled(bytes + page * PAGE, PAGE, 0) : dump_is(bytes + page * PAGE, address, seed));
  }
  uffd_image_close(image);
  CHECK_ERR(uffd_import_criu("/nowhere", imaging_path("none"), NULL, NULL), -ENOENT);
}

/* E2B */

#define BLOCK (4 * PAGE)

static const unsigned char old_build[16] = {0x11, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
static const unsigned char new_build[16] = {0x22, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
static const unsigned char nil[16];

static void add_head(struct bytes *header, uint64_t version, uint64_t block, uint64_t length) {
  bytes_u64(header, version);
  bytes_u64(header, block);
  bytes_u64(header, length);
  bytes_u64(header, 2);
  bytes_add(header, new_build, 16);
  bytes_add(header, old_build, 16);
}

static void add_run(struct bytes *header, uint64_t block, uint64_t count, const unsigned char *build, uint64_t at) {
  bytes_u64(header, block * BLOCK);
  bytes_u64(header, count * BLOCK);
  bytes_add(header, build, 16);
  bytes_u64(header, at * BLOCK);
}

static const char *build_path(const char *directory, const char *name) {
  static char path[4200];
  CHECK(mkdir(imaging_path(directory), 0700) == 0 || errno == EEXIST);
  snprintf(path, sizeof(path), "%s/%s", imaging_path(directory), name);
  return path;
}

#define OLD "11020304-0506-0708-090a-0b0c0d0e0f10"
#define NEW "22020304-0506-0708-090a-0b0c0d0e0f10"

static int import_header(struct bytes *header, struct uffd_import_counts *counts) {
  char path[4200];
  snprintf(path, sizeof(path), "%s", build_path(NEW, "memfile.header"));
  imaging_write(path, header->at, header->length);
  int result = uffd_import_e2b(path, NULL, imaging_path("e2b"), NULL, counts);
  bytes_free(header);
  return result;
}

static void an_image_of_e2b(void) {
  struct bytes header = {NULL, 0, 0};
  struct uffd_import_counts counts;
  unsigned char *olds = imaging_pages(1, 32), *news = imaging_pages(500, 8), *model = calloc(10, BLOCK);
  imaging_write(build_path(OLD, "memfile"), olds, 32 * PAGE);
  imaging_write(build_path(NEW, "memfile"), news, 8 * PAGE);
  add_head(&header, 3, BLOCK, 10 * BLOCK);
  add_run(&header, 0, 3, old_build, 4);
  add_run(&header, 3, 2, nil, 0);
  add_run(&header, 5, 1, new_build, 1);
  add_run(&header, 6, 4, old_build, 0);
  memcpy(model, olds + 4 * BLOCK, 3 * BLOCK);
  memcpy(model + 5 * BLOCK, news + BLOCK, BLOCK);
  memcpy(model + 6 * BLOCK, olds, 4 * BLOCK);
  CHECK_OK(import_header(&header, &counts));
  CHECK_EQ(counts.data_bytes, 8 * BLOCK);
  CHECK_EQ(counts.zero_bytes, 2 * BLOCK);
  uffd_image *image = imaging_open(imaging_path("e2b"), NULL, NULL);
  imaging_expect(image, model, 10 * BLOCK);
  uffd_image_close(image);
  /* The data elsewhere. */
  char path[4200];
  snprintf(path, sizeof(path), "%s", build_path(NEW, "memfile.header"));
  CHECK_ERR(uffd_import_e2b(path, imaging_path("nowhere"), imaging_path("e2b"), NULL, NULL), -ENOENT);
  CHECK_SAYS("nowhere/" OLD "/memfile");
  CHECK_OK(uffd_import_e2b(path, imaging_path("."), imaging_path("e2b"), NULL, NULL));
  free(olds);
  free(news);
  free(model);
}

static void refused(struct bytes *header, int error, const char *words) {
  struct uffd_import_counts counts;
  CHECK_ERR(import_header(header, &counts), error);
  CHECK_SAYS(words);
}

static void headers_of_e2b_that_are_wrong(void) {
  struct bytes header = {NULL, 0, 0};
  unsigned char *news = imaging_pages(500, 8);
  imaging_write(build_path(NEW, "memfile"), news, 8 * PAGE);
  add_head(&header, 4, BLOCK, 4 * BLOCK);
  refused(&header, -EINVAL, "version 4");
  add_head(&header, 3, BLOCK + 1, 4 * BLOCK);
  refused(&header, -EINVAL, "no size of blocks");
  add_head(&header, 3, BLOCK, 4 * BLOCK + 1);
  refused(&header, -EINVAL, "not whole blocks");
  add_head(&header, 3, BLOCK, 4 * BLOCK);
  refused(&header, -EINVAL, "0 bytes of runs");
  add_head(&header, 3, BLOCK, 4 * BLOCK);
  add_run(&header, 0, 4, nil, 0);
  header.length--;
  refused(&header, -EINVAL, "which have 40 each");
  add_head(&header, 3, BLOCK, 4 * BLOCK);
  add_run(&header, 1, 3, nil, 0);
  refused(&header, -EINVAL, "byte 64: a run begins at offset");
  add_head(&header, 3, BLOCK, 4 * BLOCK);
  add_run(&header, 0, 2, nil, 0);
  add_run(&header, 1, 3, nil, 0);
  refused(&header, -EINVAL, "byte 104: a run begins at offset");
  add_head(&header, 3, BLOCK, 4 * BLOCK);
  add_run(&header, 0, 3, nil, 0);
  refused(&header, -EINVAL, "its runs end at offset");
  add_head(&header, 3, BLOCK, 4 * BLOCK);
  add_run(&header, 0, 5, nil, 0);
  refused(&header, -EINVAL, "not whole blocks of the image");
  add_head(&header, 3, BLOCK, 4 * BLOCK);
  add_run(&header, 0, 4, new_build, 0);
  refused(&header, -EINVAL, "and the header wants");
  add_head(&header, 3, BLOCK, 4 * BLOCK);
  add_run(&header, 0, 4, new_build, UINT64_C(1) << 48);
  refused(&header, -EINVAL, "a run lies at byte");
  add_head(&header, 3, BLOCK, 4 * BLOCK);
  header.length = 60;
  refused(&header, -EINVAL, "64 bytes at least");
  CHECK_ERR(uffd_import_e2b(build_path(NEW, "memfile"), NULL, imaging_path("e2b"), NULL, NULL), -EINVAL);
  free(news);
}

static const struct check_test tests[] = {
    TEST(a_diff_of_firecracker), TEST(copies_of_a_diff), TEST(progress_stops_an_import),
    TEST(a_dump_of_criu),        TEST(an_image_of_e2b),  TEST(headers_of_e2b_that_are_wrong),
};

CHECK_MAIN(tests)
