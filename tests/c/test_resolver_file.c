/*
 * Files: contents from any offset, tails, holes at every edge, offsets beyond 4 GiB, files that shrink, and what is not
 * a file to be mapped. On tmpfs, and on the file system of the disk.
 */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "resolving.h"

#define HUGE (UINT64_C(2) << 20)
#define PAGE UINT64_C(4096)

static uint64_t round_to(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

/* Files */

static const char *const places[] = {"/dev/shm", "/var/tmp"};
#define PLACES (sizeof(places) / sizeof(places[0]))

/* A file without a name, of so many bytes, all hole. */
static int make_file(const char *place, uint64_t length) {
  char path[64];
  snprintf(path, sizeof(path), "%s/uffd-test-XXXXXX", place);
  int fd = mkstemp(path);
  if (fd < 0) SKIP("no file can be made in %s: %s", place, strerror(errno));
  unlink(path);
  if (ftruncate(fd, (off_t)length) != 0) SKIP("no file of %llu bytes in %s", (unsigned long long)length, place);
  return fd;
}

static void write_at(int fd, const void *data, uint64_t length, uint64_t offset) {
  CHECK_EQ(pwrite(fd, data, length, (off_t)offset), length);
}

static int make_image_file(const char *place, uint64_t length) {
  int fd = make_file(place, length);
  unsigned char *image = image_make(length);
  write_at(fd, image, length, 0);
  munmap(image, length);
  return fd;
}

static uffd_resolver *resolve_file_with(int fd, uint64_t offset, uint64_t length, uint64_t flags) {
  struct uffd_file_opts opts = UFFD_FILE_OPTS_INIT;
  opts.offset = offset;
  opts.length = length;
  opts.flags = flags;
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_file_fd(fd, &opts, &resolver));
  CHECK(strcmp(uffd_resolver_kind(resolver), "file") == 0);
  return resolver;
}

static uffd_resolver *resolve_file(int fd, uint64_t offset, uint64_t length) {
  return resolve_file_with(fd, offset, length, 0);
}

/* What a view of [offset, offset+length) of the file must show: zeros follow to the end of the last page. */
static unsigned char *expect_file(int fd, uint64_t offset, uint64_t length, uint64_t whole) {
  unsigned char *expected = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(expected != MAP_FAILED);
  CHECK_EQ(pread(fd, expected, length, (off_t)offset), length);
  return expected;
}

static struct serving served; /* the loop of a test with many views */

/* Looks at [offset, offset+length) of the file, served by reader. Returns the number of pages answered as zero. */
static uint64_t check_view_by(int reader, int fd, uint64_t offset, uint64_t length, int kind, uint64_t around) {
  uint64_t page = kind == MEMORY_HUGETLB ? HUGE : PAGE, whole = round_to(length, page);
  unsigned char *expected = expect_file(fd, offset, length, whole);
  uffd_resolver *resolver = resolve_file(reader, offset, length);
  CHECK_EQ(uffd_resolver_size(resolver), length);
  struct serving *shared = served.loop != NULL ? &served : NULL;
  uint64_t before = shared != NULL ? serving_stats(shared->loop).zero : 0;
  struct view view =
      view_open(resolver, &(struct view_opts){.kind = kind, .length = whole, .around = around, .shared = shared});
  for (uint64_t at = whole; at > 0; at -= page) {
    CHECK(view_same(view.at + at - page, expected + at - page, page));
  }
  CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), 0);
  CHECK_OK(uffd_region_prefetch(view.region, 0, 0)); /* nothing is left, and everything is counted */
  uint64_t zeros = serving_stats(view.serving.loop).zero - before;
  view_close(&view);
  uffd_resolver_close(resolver);
  munmap(expected, whole);
  return zeros;
}

static uint64_t check_view(int fd, uint64_t offset, uint64_t length, int kind, uint64_t around) {
  return check_view_by(fd, fd, offset, length, kind, around);
}

/* Contents */

static void any_offset_and_length(void) {
  serving_open(&served, ENGINE_ONE, NULL);
  uint64_t size = 5 * PAGE + 123;
  const uint64_t offsets[] = {0, 1, 511, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + 7, 5 * PAGE, 5 * PAGE + 122};
  const uint64_t lengths[] = {1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 200, UINT64_MAX};
  for (size_t p = 0; p < PLACES; p++) {
    int fd = make_image_file(places[p], size);
    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++) {
      for (size_t j = 0; j < sizeof(lengths) / sizeof(lengths[0]); j++) {
        uint64_t rest = size - offsets[i], length = lengths[j] < rest ? lengths[j] : rest;
        check_view(fd, offsets[i], length, MEMORY_ANON, j % 2 == 0 ? 0 : 4 * PAGE);
      }
    }
    close(fd);
  }
  serving_close(&served);
}

static void length_0_is_to_the_end(void) {
  int fd = make_image_file(places[0], 2 * PAGE + 9);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_file_fd(fd, NULL, &resolver));
  CHECK_EQ(uffd_resolver_size(resolver), 2 * PAGE + 9);
  uffd_resolver_close(resolver);
  resolver = resolve_file(fd, PAGE + 4, 0);
  CHECK_EQ(uffd_resolver_size(resolver), PAGE + 5);
  view_refused(resolver, &(struct view_opts){.length = 3 * PAGE}, -EINVAL, "file resolver has 4101 bytes");
  uffd_resolver_close(resolver);
  close(fd);
}

static void in_huge_pages(void) {
  check_hugepages(8);
  for (size_t p = 0; p < PLACES; p++) {
    int fd = make_image_file(places[p], 2 * HUGE + 5000);
    check_view(fd, 0, 2 * HUGE, MEMORY_HUGETLB, 0);
    check_view(fd, 0, 2 * HUGE + 5000, MEMORY_HUGETLB, 4 * HUGE);
    check_view(fd, 777, 2 * HUGE, MEMORY_HUGETLB, 0);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)HUGE) == 0);
    CHECK_EQ(check_view(fd, 0, 2 * HUGE, MEMORY_HUGETLB, 0), 1);
    CHECK_EQ(check_view(fd, 777, 2 * HUGE, MEMORY_HUGETLB, 0), 0); /* no huge page lies in the hole as a whole */
    close(fd);
  }
}

/* Holes */

/*
 * Eight blocks, each data or hole as its bit says, seen from an offset: pages that are hole as a whole are zero pages.
 * A file is looked at once: tmpfs makes data of a hole that is read through a mapping, as the rest of a page may be.
 */
static void check_mask(const char *place, const unsigned char *image, unsigned mask, uint64_t offset, uint64_t around) {
  uint64_t size = 8 * PAGE, zeros = 0;
  int fd = make_file(place, size);
  for (unsigned block = 0; block < 8; block++) {
    if ((mask >> block & 1) != 0) write_at(fd, image + block * PAGE, PAGE, block * PAGE);
  }
  for (uint64_t page = offset; page < size; page += PAGE) {
    uint64_t last = page + PAGE - 1 < size ? page + PAGE - 1 : size - 1;
    bool data = (mask >> page / PAGE & 1) != 0 || (mask >> last / PAGE & 1) != 0;
    zeros += !data;
  }
  CHECK_EQ(check_view(fd, offset, size - offset, MEMORY_ANON, around), zeros);
  close(fd);
}

static void holes_in(const char *place) {
  serving_open(&served, ENGINE_ONE, NULL);
  const uint64_t offsets[] = {0, 1, 3000, PAGE, 2 * PAGE + 4095};
  unsigned char *image = image_make(8 * PAGE);
  for (unsigned mask = 0; mask < 256; mask += place == places[0] ? 1 : 5) {
    check_mask(place, image, mask, offsets[mask % 5], 0);
    check_mask(place, image, mask, offsets[(mask + 1) % 5], 16 * PAGE);
  }
  serving_close(&served);
}

static void holes_at_every_edge_on_tmpfs(void) {
  holes_in(places[0]);
}

static void holes_at_every_edge_on_disk(void) {
  holes_in(places[1]);
}

/* The first byte, the last, or neither is data. */
static void check_hollow(const char *place, bool first, bool last, uint64_t offset, uint64_t around) {
  uint64_t size = 5 * PAGE + 100;
  int fd = make_file(place, size);
  if (first) write_at(fd, "x", 1, 0);
  if (last) write_at(fd, "y", 1, size - 1);
  uint64_t pages = round_to(size - offset, PAGE) / PAGE;
  uint64_t zeros = pages - (first && offset == 0) - last; /* zeros that were written are seen too */
  CHECK_EQ(check_view(fd, offset, size - offset, MEMORY_ANON, around), zeros);
  close(fd);
}

static void trailing_holes_and_files_of_nothing_else(void) {
  serving_open(&served, ENGINE_ONE, NULL);
  for (size_t p = 0; p < PLACES; p++) {
    for (uint64_t around = 0; around <= 8 * PAGE; around += 4 * PAGE) {
      for (uint64_t offset = 0; offset < 100; offset += 50) {
        check_hollow(places[p], false, false, offset, around);
        check_hollow(places[p], true, false, offset, around);
        check_hollow(places[p], false, true, offset, around);
        check_hollow(places[p], true, true, offset, around);
      }
    }
  }
  serving_close(&served);
}

/* Blocks that are there, but were never written, are holes to some file systems, until something is. */
static void preallocated_blocks(void) {
  for (size_t p = 0; p < PLACES; p++) {
    int fd = make_file(places[p], 0);
    if (fallocate(fd, 0, 0, (off_t)(16 * PAGE)) != 0) SKIP("no fallocate in %s", places[p]);
    write_at(fd, "not written back yet", 20, 5 * PAGE - 7);
    write_at(fd, "x", 1, 12 * PAGE);
    CHECK(fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)(16 * PAGE), (off_t)(16 * PAGE)) == 0); /* behind its end */
    check_view(fd, 0, 16 * PAGE, MEMORY_ANON, 0);
    check_view(fd, 9, 15 * PAGE + 1, MEMORY_ANON, 8 * PAGE);
    close(fd);
  }
}

static void beyond_4_gib_in(const char *place, uint64_t base) {
  int fd = make_file(place, base + 16 * PAGE + 33);
  unsigned char *image = image_make(4 * PAGE);
  write_at(fd, image, 4 * PAGE, base + 3 * PAGE);
  write_at(fd, image, 33, base + 16 * PAGE);
  write_at(fd, image, PAGE, 0);
  check_view(fd, base, 16 * PAGE + 33, MEMORY_ANON, 0);
  check_view(fd, base + 2 * PAGE + 5, 9 * PAGE, MEMORY_ANON, 64 * PAGE);
  /* the same through the region's offset */
  uffd_resolver *resolver = resolve_file(fd, 0, 0);
  unsigned char *expected = expect_file(fd, base, 16 * PAGE + 33, 17 * PAGE);
  struct view_opts opts = {.length = 17 * PAGE, .resolver_offset = base, .around = 32 * PAGE};
  view_expect(resolver, &opts, expected);
  opts = (struct view_opts){.length = PAGE};
  view_expect(resolver, &opts, image);
  uffd_resolver_close(resolver);
  close(fd);
}

static void offsets_beyond_4_gib(void) {
  beyond_4_gib_in(places[1], UINT64_C(1) << 32);
  beyond_4_gib_in(places[0], UINT64_C(1) << 32);
  beyond_4_gib_in(places[0], (UINT64_C(1) << 36) + 5 * PAGE);
}

/* The descriptor */

static void the_descriptor_stays_the_callers(void) {
  for (size_t p = 0; p < PLACES; p++) {
    int fd = make_image_file(places[p], 4 * PAGE);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)PAGE, (off_t)PAGE) == 0);
    unsigned char *expected = expect_file(fd, 0, 4 * PAGE, 4 * PAGE);
    CHECK_EQ(lseek(fd, 777, SEEK_SET), 777);
    uffd_resolver *resolver = resolve_file(fd, 0, 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 777);
    CHECK_EQ(close(fd), 0); /* may be closed: the mapping keeps the file */
    view_expect(resolver, &(struct view_opts){.length = 4 * PAGE}, expected);
    uffd_resolver_close(resolver);
    munmap(expected, 4 * PAGE);
  }
}

static int watched = -1;
static unsigned moves;

/* In the place of libc's, for the library too: who moves the position of the watched descriptor? */
off_t lseek(int fd, off_t offset, int whence) {
  if (fd == watched) moves++;
  return (off_t)syscall(SYS_lseek, fd, offset, whence);
}

/* Another thread may be reading from it: not even for a moment. */
static void the_position_is_never_moved(void) {
  int fd = make_image_file(places[0], 4 * PAGE);
  CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)PAGE, (off_t)PAGE) == 0);
  unsigned char *expected = expect_file(fd, 0, 4 * PAGE, 4 * PAGE);
  watched = fd;
  uffd_resolver *resolver = resolve_file(fd, 0, 0);
  CHECK_EQ(moves, 0);
  watched = -1;
  view_expect(resolver, &(struct view_opts){.length = 4 * PAGE}, expected);
  uffd_resolver_close(resolver);
  close(fd);
}

static void a_path_takes_one_descriptor(void) {
  char path[] = "/var/tmp/uffd-test-XXXXXX";
  int fd = mkstemp(path), next = dup(fd);
  if (fd < 0) SKIP("no file can be made in /var/tmp");
  unsigned char *image = image_make(2 * PAGE);
  write_at(fd, image, 2 * PAGE, 0);
  close(next);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_file(path, NULL, &resolver));
  CHECK_EQ(dup(fd), next + 1);
  unlink(path);
  view_expect(resolver, &(struct view_opts){.length = 2 * PAGE}, image);
  uffd_resolver_close(resolver);
  CHECK_EQ(dup(fd), next);
  close(fd);
}

/* Files that shrink while they are served */

static void shrink(const char *place, uint64_t to, uint32_t on_error, uint64_t around) {
  int fd = make_image_file(place, 8 * PAGE);
  uffd_resolver *resolver = resolve_file_with(fd, 0, 0, UFFD_FILE_CHANGES);
  struct view view =
      view_open(resolver, &(struct view_opts){.length = 8 * PAGE, .on_error = on_error, .around = around});
  CHECK(ftruncate(fd, (off_t)to) == 0);
  uint64_t there = to / PAGE * PAGE; /* a page that the file ends in is not what it was */
  for (uint64_t at = 7 * PAGE; at >= there && at < 8 * PAGE; at -= 3 * PAGE) {
    if (on_error == UFFD_ON_ERROR_ZERO) {
      CHECK(check_filled(view.at + at, PAGE, 0));
    } else {
      CHECK_EQ(check_access(view.at + at + 5, false, NULL), SIGBUS);
    }
  }
  char text[256];
  CHECK_EQ(uffd_loop_error(view.serving.loop, text, sizeof(text)), ENODATA);
  CHECK(strstr(text, "file resolver") != NULL && strstr(text, "the file ends there") != NULL);
  if (on_error != UFFD_ON_ERROR_STOP) {
    CHECK(image_there(view.at, 0, there));
    if (there < 6 * PAGE) CHECK_ERR(uffd_region_prefetch(view.region, 0, 0), -ENODATA);
  }
  view_close(&view);
  uffd_resolver_close(resolver);
  close(fd);
}

static void a_file_that_shrinks_is_an_error_for_its_pages(void) {
  check_needs(UFFD_FEAT_POISON);
  for (size_t p = 0; p < PLACES; p++) {
    for (uint64_t around = 0; around <= 8 * PAGE; around += 4 * PAGE) {
      shrink(places[p], 3 * PAGE, UFFD_ON_ERROR_DEFAULT, around);
      shrink(places[p], 0, UFFD_ON_ERROR_POISON, around);
      shrink(places[p], 3 * PAGE, UFFD_ON_ERROR_ZERO, around);
      shrink(places[p], 2 * PAGE + 100, UFFD_ON_ERROR_ZERO, around);
      shrink(places[p], 2 * PAGE + 100, UFFD_ON_ERROR_STOP, around);
    }
  }
}

/* How a file is changed, so that what it holds afterwards looks like contents. */
static void write_anew(int fd, const char *path) {
  (void)path;
  CHECK(ftruncate(fd, 0) == 0 && ftruncate(fd, (off_t)(8 * PAGE)) == 0);
}
static void write_in_place(int fd, const char *path) {
  (void)path;
  write_at(fd, "another client's bytes", 22, 5 * PAGE);
}
static void grow(int fd, const char *path) {
  (void)path;
  write_at(fd, "more", 4, 8 * PAGE);
}
static void punch(int fd, const char *path) {
  (void)path;
  CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(4 * PAGE), (off_t)(2 * PAGE)) == 0);
}
static void rename_it(int fd, const char *path) {
  char other[80];
  (void)fd;
  snprintf(other, sizeof(other), "%s.other", path);
  CHECK(rename(path, other) == 0 && unlink(other) == 0);
}

/* Never zeros, and never other bytes, where the file held data: every page is the image's, or poison. */
static void change(const char *place, void (*how)(int fd, const char *path), bool harmless) {
  char path[64];
  snprintf(path, sizeof(path), "%s/uffd-test-XXXXXX", place);
  int fd = mkstemp(path);
  if (fd < 0) SKIP("no file can be made in %s", place);
  write_at(fd, image_make(8 * PAGE), 8 * PAGE, 0);
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_file(path, NULL, &resolver));
  struct view view = view_open(resolver, &(struct view_opts){.length = 8 * PAGE});
  CHECK(image_there(view.at + PAGE, PAGE, PAGE));
  how(fd, path);
  for (uint64_t at = 2 * PAGE; at < 8 * PAGE; at += PAGE) {
    unsigned value = 0;
    int raised = check_access(view.at + at, false, &value);
    CHECK(harmless ? raised == 0 && image_there(view.at + at, at, PAGE) : raised == SIGBUS);
  }
  CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), harmless ? 0 : ESTALE);
  if (!harmless) CHECK_ERR(uffd_region_prefetch(view.region, 0, 0), -ESTALE);
  view_close(&view);
  uffd_resolver_close(resolver);
  unlink(path);
  close(fd);
}

static void a_file_that_changes_is_an_error_not_contents(void) {
  check_needs(UFFD_FEAT_POISON);
  for (size_t p = 1; p < PLACES; p++) {
    change(places[p], write_anew, false);
    change(places[p], write_in_place, false);
    change(places[p], grow, false);
    change(places[p], punch, false);
    change(places[p], rename_it, true);
  }
}

/* How the bytes are read */

/* At every offset, in pages of both sizes, though O_DIRECT takes whole blocks only. */
static void without_the_page_cache(void) {
  int fd = make_image_file(places[1], 2 * HUGE + 12000), direct = -1;
  char path[32];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  CHECK(fsync(fd) == 0);
  direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
  if (direct < 0) SKIP("%s has no O_DIRECT: %s", places[1], strerror(errno));
  const uint64_t offsets[] = {0, PAGE, 512, 777};
  for (size_t i = 0; i < 4; i++) {
    check_view_by(direct, fd, offsets[i], 9 * PAGE + 100, MEMORY_ANON, 0);
    check_view_by(direct, fd, offsets[i], 2 * HUGE + 4000, MEMORY_THP, 4 * HUGE);
  }
  close(direct);
  close(fd);
}

struct piece {
  int fd;
  uint64_t shift, length;
};

/* A callback may answer with bytes of a file. The answer begins a page before the faulting one, where there is one. */
static int answer_by_file(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  const struct piece *piece = ctx;
  (void)state;
  answer->kind = UFFD_ANSWER_FILE;
  answer->fd = piece->fd;
  if (fault->offset >= PAGE) answer->offset -= PAGE;
  answer->file_offset = answer->offset + piece->shift;
  answer->length = fault->offset - answer->offset + piece->length;
  return 0;
}

static uffd_resolver *resolve_by_file(struct piece *piece) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *resolver = NULL;
  ops.resolve = answer_by_file;
  CHECK_OK(uffd_resolver_callback(&ops, piece, NULL, NULL, 0, &resolver));
  return resolver;
}

static void a_callback_answers_with_a_file(void) {
  int fd = make_image_file(places[0], 16 * PAGE);
  for (int engine = 0; engine < 2; engine++) {
    struct piece piece = {.fd = fd, .shift = 33, .length = PAGE - 5};
    uffd_resolver *resolver = resolve_by_file(&piece);
    struct view view = view_open(resolver, &(struct view_opts){.length = 8 * PAGE, .engine = engine});
    for (uint64_t at = 8 * PAGE; at > 0; at -= 2 * PAGE) { /* the page before comes along whole */
      CHECK(image_there(view.at + at - PAGE, at - PAGE + 33, PAGE - 5));
      CHECK(check_filled(view.at + at - 5, 5, 0));
      CHECK(image_there(view.at + at - 2 * PAGE, at - 2 * PAGE + 33, PAGE));
    }
    view_close(&view);
    uffd_resolver_close(resolver);
  }
  close(fd);
}

static void refuse_piece(struct piece piece, int error, const char *words) {
  uffd_resolver *resolver = resolve_by_file(&piece);
  struct view view = view_open(resolver, &(struct view_opts){.length = PAGE, .on_error = UFFD_ON_ERROR_ZERO});
  char text[256];
  CHECK(check_filled(view.at, PAGE, 0));
  CHECK_EQ(uffd_loop_error(view.serving.loop, text, sizeof(text)), error);
  CHECK(strstr(text, words) != NULL);
  view_close(&view);
  uffd_resolver_close(resolver);
}

static void a_callback_answers_with_what_is_no_file(void) {
  int ends[2], fd = make_image_file(places[0], PAGE);
  CHECK(pipe(ends) == 0);
  refuse_piece((struct piece){.fd = -1, .length = PAGE}, EINVAL, "descriptor -1");
  refuse_piece((struct piece){.fd = 123456, .length = PAGE}, EBADF, "Bad file descriptor");
  refuse_piece((struct piece){.fd = ends[0], .length = PAGE}, ESPIPE, "Illegal seek");
  refuse_piece((struct piece){.fd = fd, .shift = INT64_MAX, .length = PAGE}, EINVAL, "not a file's");
  refuse_piece((struct piece){.fd = fd, .shift = 1, .length = PAGE}, ENODATA, "the file ends there");
  close(ends[0]);
  close(ends[1]);
  close(fd);
}

/* Shrinking and growing while two threads read: pages of the image, zeros or poison, never a crash nor a hang. */
static void a_file_that_never_stands_still(void) {
  check_needs(UFFD_FEAT_POISON);
  uint64_t length = 256 * PAGE;
  int fd = make_image_file(places[0], length);
  uffd_resolver *resolver = resolve_file(fd, 0, 0);
  for (int round = 0; round < 4; round++) {
    struct view view =
        view_open(resolver, &(struct view_opts){.length = length, .engine = ENGINE_TWO, .around = 4 * PAGE});
    for (uint64_t at = 0; at < length; at += PAGE) {
      CHECK(ftruncate(fd, (off_t)(at % (7 * PAGE) == 0 ? at : length)) == 0);
      unsigned value = 0;
      int raised = check_access(view.at + at, false, &value);
      CHECK(raised == SIGBUS || (raised == 0 && (value == 0 || value == image_byte(at))));
    }
    view_close(&view);
  }
  uffd_resolver_close(resolver);
  close(fd);
}

static void shrink_and_grow(void *ctx) {
  int fd = *(int *)ctx;
  for (int i = 0; i < 2000; i++) {
    CHECK(ftruncate(fd, i % 2 == 0 ? 10 : (off_t)PAGE + 100) == 0);
  }
}

/* R25: what is read short while the resolver is made is an error, never zeros. */
static void a_file_that_shrinks_while_it_is_opened(void) {
  int fd = make_image_file(places[0], PAGE + 100);
  struct check_thread thread;
  check_thread_start(&thread, shrink_and_grow, &fd);
  while (!atomic_load(&thread.done)) {
    uffd_resolver *resolver = NULL;
    struct uffd_file_opts opts = UFFD_FILE_OPTS_INIT;
    opts.offset = PAGE + 1;
    int result = uffd_resolver_file_fd(fd, &opts, &resolver);
    CHECK(result == 0 || result == -EINVAL || result == -EIO);
    CHECK((result == 0) == (resolver != NULL));
    uffd_resolver_close(resolver);
  }
  check_thread_join(&thread);
  close(fd);
}

/* What is not a file to be mapped */

static void refuse_path(const char *path, const struct uffd_file_opts *opts, int error, const char *words) {
  uffd_resolver *resolver = (uffd_resolver *)&path;
  CHECK_ERR(uffd_resolver_file(path, opts, &resolver), error);
  CHECK_SAYS(words);
  if (path != NULL) CHECK_SAYS(path);
  CHECK(resolver == NULL);
}

static void refuse_fd(int fd, int error, const char *words) {
  uffd_resolver *resolver = (uffd_resolver *)&fd;
  CHECK_ERR(uffd_resolver_file_fd(fd, NULL, &resolver), error);
  CHECK_SAYS(words);
  CHECK(resolver == NULL);
}

static void other_kinds_of_files(void) {
  int ends[2];
  refuse_path("/dev/shm", NULL, -EINVAL, "regular file");
  refuse_path("/dev/null", NULL, -EINVAL, "regular file");
  refuse_path("/dev/zero", NULL, -EINVAL, "regular file");
  CHECK(pipe2(ends, O_CLOEXEC) == 0);
  refuse_fd(ends[0], -EINVAL, "regular file");
  refuse_fd(ends[1], -EACCES, "reading");
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  refuse_fd(ends[0], -EINVAL, "regular file");
  int fd = open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  refuse_fd(fd, -EINVAL, "regular file");
  refuse_fd(-1, -EBADF, "-1");
  refuse_fd(123456, -EBADF, "123456");
  fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);
  refuse_fd(fd, -EBADF, "file");
  /* a named pipe without a writer: opening it would wait for one */
  char path[] = "/dev/shm/uffd-test-XXXXXX";
  fd = mkstemp(path);
  CHECK(fd >= 0 && unlink(path) == 0 && mkfifo(path, 0600) == 0);
  refuse_path(path, NULL, -EINVAL, "regular file");
  unlink(path);
}

static void files_that_cannot_be_opened(void) {
  char long_path[5000];
  memset(long_path, 'p', sizeof(long_path) - 1);
  long_path[sizeof(long_path) - 1] = '\0';
  uffd_resolver *resolver = NULL;
  CHECK_ERR(uffd_resolver_file(long_path, NULL, &resolver), -ENAMETOOLONG);
  refuse_path("/nonexistent/image", NULL, -ENOENT, "No such file");
  refuse_path("", NULL, -ENOENT, "No such file");
  refuse_path("/dev/null/image", NULL, -ENOTDIR, "Not a directory");
  refuse_path(NULL, NULL, -EINVAL, "path");
  refuse_path("/proc/self/status", NULL, -EINVAL, "empty"); /* files of /proc tell no length */
}

static void open_as_nobody(void *ctx) {
  check_drop_privileges();
  refuse_path(ctx, NULL, -EACCES, "Permission denied");
}

static void a_file_without_permission(void) {
  if (geteuid() != 0) SKIP("needs root, to make a file that another user cannot read");
  char path[] = "/dev/shm/uffd-test-XXXXXX";
  int fd = mkstemp(path);
  CHECK(fd >= 0);
  write_at(fd, "secret", 6, 0);
  check_in_child(open_as_nobody, path);
  unlink(path);
}

static void files_opened_for_writing_only(void) {
  char path[] = "/dev/shm/uffd-test-XXXXXX";
  int fd = mkstemp(path);
  write_at(fd, "x", 1, 0);
  int writer = open(path, O_WRONLY | O_CLOEXEC);
  unlink(path);
  refuse_fd(writer, -EACCES, "reading");
}

static void ranges_outside_the_file(void) {
  char path[] = "/dev/shm/uffd-test-XXXXXX";
  int fd = mkstemp(path);
  CHECK(fd >= 0);
  struct uffd_file_opts opts = UFFD_FILE_OPTS_INIT;
  refuse_path(path, NULL, -EINVAL, "empty");
  refuse_path(path, &opts, -EINVAL, "empty");
  CHECK(ftruncate(fd, 5000) == 0);
  const uint64_t ranges[][2] = {
      {5000, 0},
      {5001, 0},
      {0, 5001},
      {4999, 2},
      {5000, 1},
      {UINT64_MAX, 0},
      {UINT64_MAX, 1},
      {1, UINT64_MAX},
      {0, UINT64_MAX},
      {4999, UINT64_MAX - 4998},
      {UINT64_C(1) << 63, UINT64_C(1) << 63},
      {4096, UINT64_MAX - 4095},
  };
  for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
    opts.offset = ranges[i][0];
    opts.length = ranges[i][1];
    refuse_path(path, &opts, -EINVAL, "are not in a file of 5000 bytes");
  }
  opts = (struct uffd_file_opts)UFFD_FILE_OPTS_INIT;
  opts.size = 3;
  refuse_path(path, &opts, -EINVAL, "uffd_file_opts");
  unlink(path);
}

/* Block devices */

/* A loop device of the image, which goes with its last user; or skips. */
static int open_block_device(uint64_t length) {
  int file = make_image_file(places[1], length), control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  if (control < 0) SKIP("loop devices need privilege: %s", strerror(errno));
  for (int tries = 0; tries < 8; tries++) { /* another program may be quicker */
    char path[32];
    snprintf(path, sizeof(path), "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) SKIP("%s cannot be opened: %s", path, strerror(errno));
    struct loop_info64 info = {.lo_flags = LO_FLAGS_AUTOCLEAR};
    if (ioctl(fd, LOOP_SET_FD, file) == 0) {
      CHECK_EQ(ioctl(fd, LOOP_SET_STATUS64, &info), 0);
      close(control);
      close(file);
      return fd;
    }
    close(fd);
  }
  SKIP("no loop device is free");
}

static void block_devices(void) {
  uint64_t length = 64 * PAGE + 512;
  int fd = open_block_device(length);
  uffd_resolver *resolver = resolve_file(fd, 0, 0);
  CHECK_EQ(uffd_resolver_size(resolver), length);
  view_refused(resolver, &(struct view_opts){.length = 66 * PAGE}, -EINVAL, "bytes");
  uffd_resolver_close(resolver);
  check_view(fd, 0, length, MEMORY_ANON, 0);
  check_view(fd, 511, 9 * PAGE + 1, MEMORY_MEMFD, 4 * PAGE);
  close(fd);
}

static const struct check_test tests[] = {
    TEST(any_offset_and_length),
    TEST(length_0_is_to_the_end),
    TEST(in_huge_pages),
    TEST(holes_at_every_edge_on_tmpfs),
    TEST(holes_at_every_edge_on_disk),
    TEST(trailing_holes_and_files_of_nothing_else),
    TEST(preallocated_blocks),
    TEST(offsets_beyond_4_gib),
    TEST(the_descriptor_stays_the_callers),
    TEST(the_position_is_never_moved),
    TEST(a_path_takes_one_descriptor),
    TEST(a_file_that_shrinks_is_an_error_for_its_pages),
    TEST(a_file_that_changes_is_an_error_not_contents),
    TEST(without_the_page_cache),
    TEST(a_callback_answers_with_a_file),
    TEST(a_callback_answers_with_what_is_no_file),
    TEST(a_file_that_never_stands_still),
    TEST(a_file_that_shrinks_while_it_is_opened),
    TEST(other_kinds_of_files),
    TEST(files_that_cannot_be_opened),
    TEST(a_file_without_permission),
    TEST(files_opened_for_writing_only),
    TEST(ranges_outside_the_file),
    TEST(block_devices),
};
CHECK_MAIN(tests)
