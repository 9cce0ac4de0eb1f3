/* Working sets and their files: what is added comes back, and a damaged file is refused. */
#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "check.h"
#include "uffd_pager.h"

#define PAGE UINT64_C(4096)
#define TIB  (UINT64_C(1) << 40)

static uffd_workingset *make(uint64_t page_size, uint64_t length) {
  uffd_workingset *set = NULL;
  CHECK_OK(uffd_workingset_create(page_size, length, 0x1234, &set));
  return set;
}

static void add(uffd_workingset *set, uint64_t page, uint64_t flags) {
  CHECK_EQ(uffd_workingset_add(set, page * PAGE, flags), 1);
}

static uint64_t offset_of(const uffd_workingset *set, uint64_t index) {
  struct uffd_touch touch;
  CHECK_OK(uffd_workingset_get(set, index, &touch));
  return touch.offset;
}

static bool equal(const uffd_workingset *a, const uffd_workingset *b) {
  uint64_t count = uffd_workingset_count(a);
  bool same = count == uffd_workingset_count(b);
  for (uint64_t i = 0; same && i < count; i++) {
    struct uffd_touch left, right;
    CHECK_OK(uffd_workingset_get(a, i, &left));
    CHECK_OK(uffd_workingset_get(b, i, &right));
    same = left.offset == right.offset && left.flags == right.flags;
  }
  return same;
}

/* Files in a directory of the test's own */

static char directory[] = "/tmp/uffd-workingset-XXXXXX";

static void remove_directory(void) {
  char command[64];
  snprintf(command, sizeof(command), "rm -rf %s", directory);
  if (system(command) != 0) return; /* NOLINT(cert-env33-c) */
}

static const char *in_directory(const char *name) {
  static char path[4][128];
  static unsigned next;
  static bool made;
  if (!made) {
    CHECK(mkdtemp(directory) != NULL);
    made = true;
    atexit(remove_directory);
  }
  char *chosen = path[next++ % 4];
  snprintf(chosen, sizeof(path[0]), "%s/%s", directory, name);
  return chosen;
}

static void write_file(const char *path, const void *bytes, size_t length) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  CHECK_EQ(write(fd, bytes, length), length);
  CHECK_EQ(close(fd), 0);
}

static size_t read_file(const char *path, void *bytes, size_t room) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  ssize_t length = read(fd, bytes, room);
  CHECK(length >= 0);
  CHECK_EQ(close(fd), 0);
  return (size_t)length;
}

static size_t files_in_directory(void) {
  char command[64];
  unsigned count = 0;
  snprintf(command, sizeof(command), "ls -A %s | wc -l", directory);
  FILE *pipe = popen(command, "r"); /* NOLINT(cert-env33-c) */
  CHECK(pipe != NULL);
  CHECK_EQ(fscanf(pipe, "%u", &count), 1);
  CHECK_EQ(pclose(pipe), 0);
  return count;
}

#define SMALL_PAGES 5

/* A set of a few pages, and its file. */
static size_t save_small(const char *path, unsigned char *bytes, size_t room) {
  static const uint64_t pages[SMALL_PAGES] = {7, 3, 4, 15, 0};
  uffd_workingset *set = make(PAGE, 16 * PAGE);
  for (unsigned i = 0; i < SMALL_PAGES; i++)
    add(set, pages[i], i % 2 == 0 ? UFFD_FAULT_WRITE : 0);
  CHECK_OK(uffd_workingset_save(set, path));
  uffd_workingset_close(set);
  return read_file(path, bytes, room);
}

static void refused(const char *path, const char *words) {
  uffd_workingset *set = (uffd_workingset *)&set;
  CHECK_ERR(uffd_workingset_load(path, &set), -EINVAL);
  CHECK_SAYS(words);
  CHECK(set == NULL);
}

/* Bytes of a file, its checksums made to fit. */
static uint64_t fnv(const unsigned char *bytes, size_t length) {
  uint64_t hash = UINT64_C(0xcbf29ce484222325);
  for (size_t i = 0; i < length; i++)
    hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
  return hash;
}

static void put(unsigned char *at, uint64_t value) {
  for (unsigned i = 0; i < 8; i++)
    at[i] = (unsigned char)(value >> 8 * i);
}

static void seal(unsigned char *bytes, size_t length) {
  put(bytes + 56, fnv(bytes, 56));
  put(bytes + length - 8, fnv(bytes, length - 8));
}

/* The set */

static void order_is_kept_and_pages_are_there_once(void) {
  static const uint64_t pages[] = {9, 2, 3, 4, 100, 0};
  uffd_workingset *set = make(PAGE, 128 * PAGE);
  for (unsigned i = 0; i < 6; i++)
    add(set, pages[i], i == 1 ? UFFD_FAULT_WRITE | UFFD_FAULT_PREFETCH : 0);
  CHECK_EQ(uffd_workingset_add(set, 3 * PAGE, UFFD_FAULT_WRITE), 0);
  CHECK_EQ(uffd_workingset_count(set), 6);
  for (unsigned i = 0; i < 6; i++)
    CHECK_EQ(offset_of(set, i), pages[i] * PAGE);
  struct uffd_touch touch;
  CHECK_OK(uffd_workingset_get(set, 1, &touch));
  CHECK_EQ(touch.flags, UFFD_FAULT_WRITE);
  CHECK_OK(uffd_workingset_get(set, 2, &touch));
  CHECK_EQ(touch.flags, 0); /* of the first access */
  CHECK_ERR(uffd_workingset_get(set, 6, &touch), -ERANGE);
  uffd_workingset_close(set);
}

static void ranges_are_sorted_and_merged(void) {
  static const uint64_t pages[] = {9, 2, 4, 3, 127, 10, 64, 63};
  uffd_workingset *set = make(PAGE, 127 * PAGE + 1);
  for (unsigned i = 0; i < 8; i++)
    add(set, pages[i], 0);
  struct uffd_range ranges[4] = {{0, 0}, {0, 0}, {0, 0}, {77, 77}};
  CHECK_EQ(uffd_workingset_ranges(set, NULL, 0), 4);
  CHECK_EQ(uffd_workingset_ranges(set, ranges, 3), 4);
  CHECK_EQ(ranges[3].offset, 77);
  CHECK_EQ(uffd_workingset_ranges(set, ranges, 4), 4);
  static const uint64_t expected[4][2] = {{2, 3}, {9, 2}, {63, 2}, {127, 1}};
  for (unsigned i = 0; i < 4; i++) {
    CHECK_EQ(ranges[i].offset, expected[i][0] * PAGE);
    CHECK_EQ(ranges[i].length, expected[i][1] * PAGE);
  }
  uffd_workingset_close(set);
}

static void info_adds_up(void) {
  uffd_workingset *set = make(PAGE, 1000 * PAGE);
  for (unsigned i = 0; i < 10; i++)
    add(set, 500 + i, i < 3 ? UFFD_FAULT_WRITE : 0);
  add(set, 7, UFFD_FAULT_WRITE | UFFD_FAULT_WP);
  struct uffd_workingset_info info = UFFD_WORKINGSET_INFO_INIT;
  CHECK_OK(uffd_workingset_info(set, &info));
  CHECK_EQ(info.page_size, PAGE);
  CHECK_EQ(info.image_length, 1000 * PAGE);
  CHECK_EQ(info.image_identity, 0x1234);
  CHECK_EQ(info.pages, 11);
  CHECK_EQ(info.bytes, 11 * PAGE);
  CHECK_EQ(info.writes, 4);
  CHECK_EQ(info.runs, 2);
  CHECK_EQ(info.longest_run, 10);
  CHECK_EQ(info.sequential, 9);
  /* A program of an older header knows fewer fields. */
  struct uffd_workingset_info old = UFFD_WORKINGSET_INFO_INIT;
  old.size = offsetof(struct uffd_workingset_info, writes);
  old.writes = 99;
  CHECK_OK(uffd_workingset_info(set, &old));
  CHECK_EQ(old.pages, 11);
  CHECK_EQ(old.writes, 99);
  old.size = 0;
  CHECK_ERR(uffd_workingset_info(set, &old), -EINVAL);
  uffd_workingset_close(set);
}

static void merging_appends_what_is_new(void) {
  static const uint64_t first[] = {5, 1, 9}, second[] = {9, 2, 5, 3};
  uffd_workingset *a = make(PAGE, 16 * PAGE), *b = make(PAGE, 16 * PAGE), *other = NULL;
  for (unsigned i = 0; i < 3; i++)
    add(a, first[i], UFFD_FAULT_WRITE);
  for (unsigned i = 0; i < 4; i++)
    add(b, second[i], 0);
  CHECK_OK(uffd_workingset_merge(a, b));
  static const uint64_t expected[] = {5, 1, 9, 2, 3};
  CHECK_EQ(uffd_workingset_count(a), 5);
  for (unsigned i = 0; i < 5; i++)
    CHECK_EQ(offset_of(a, i), expected[i] * PAGE);
  CHECK_OK(uffd_workingset_merge(a, a));
  CHECK_EQ(uffd_workingset_count(a), 5);
  CHECK_OK(uffd_workingset_create(PAGE, 16 * PAGE, 0x99, &other));
  CHECK_ERR(uffd_workingset_merge(a, other), -EINVAL);
  CHECK_SAYS("another image");
  uffd_workingset_close(other);
  other = make(2 * PAGE, 16 * PAGE);
  CHECK_ERR(uffd_workingset_merge(a, other), -EINVAL);
  CHECK_SAYS("pages of 4096 bytes");
  uffd_workingset_close(other);
  uffd_workingset_close(a);
  uffd_workingset_close(b);
}

static void another_image_is_told(void) {
  uffd_workingset *set = make(PAGE, 16 * PAGE), *unknown = NULL;
  CHECK_OK(uffd_workingset_check(set, 16 * PAGE, 0x1234));
  CHECK_OK(uffd_workingset_check(set, 16 * PAGE, 0));
  CHECK_ERR(uffd_workingset_check(set, 16 * PAGE, 0x1235), -EINVAL);
  CHECK_SAYS("identity is 0000000000001234");
  CHECK_ERR(uffd_workingset_check(set, 15 * PAGE, 0x1234), -EINVAL);
  CHECK_SAYS("65536 bytes, this one 61440");
  CHECK_OK(uffd_workingset_create(PAGE, 16 * PAGE, 0, &unknown));
  CHECK_OK(uffd_workingset_check(unknown, 16 * PAGE, 0x77));
  CHECK_ERR(uffd_workingset_check(unknown, 17 * PAGE, 0x77), -EINVAL);
  CHECK_OK(uffd_workingset_merge(unknown, set)); /* and is known from then on */
  CHECK_ERR(uffd_workingset_check(unknown, 16 * PAGE, 0x77), -EINVAL);
  uffd_workingset_close(unknown);
  uffd_workingset_close(set);
}

static void bad_arguments(void) {
  uffd_workingset *set = NULL;
  CHECK_ERR(uffd_workingset_create(PAGE, PAGE, 1, NULL), -EINVAL);
  CHECK_ERR(uffd_workingset_create(0, PAGE, 1, &set), -EINVAL);
  CHECK_ERR(uffd_workingset_create(2048, PAGE, 1, &set), -EINVAL);
  CHECK_ERR(uffd_workingset_create(3 * PAGE, PAGE, 1, &set), -EINVAL);
  CHECK_ERR(uffd_workingset_create(PAGE, 0, 1, &set), -EINVAL);
  CHECK(set == NULL);
  struct uffd_touch touch;
  struct uffd_workingset_info info = UFFD_WORKINGSET_INFO_INIT;
  CHECK_ERR(uffd_workingset_add(NULL, 0, 0), -EBADF);
  CHECK_ERR(uffd_workingset_get(NULL, 0, &touch), -EBADF);
  CHECK_ERR(uffd_workingset_info(NULL, &info), -EBADF);
  CHECK_ERR((int)uffd_workingset_ranges(NULL, NULL, 0), -EBADF);
  CHECK_ERR(uffd_workingset_check(NULL, 1, 1), -EBADF);
  CHECK_ERR(uffd_workingset_save(NULL, "x"), -EBADF);
  CHECK_ERR(uffd_workingset_load(NULL, &set), -EINVAL);
  CHECK_ERR(uffd_workingset_load("x", NULL), -EINVAL);
  CHECK_EQ(uffd_workingset_count(NULL), 0);
  uffd_workingset_close(NULL);
  set = make(2 * PAGE, 5 * PAGE);
  CHECK_ERR(uffd_workingset_add(set, PAGE, 0), -EINVAL);
  CHECK_EQ(uffd_workingset_add(set, 4 * PAGE, 0), 1); /* the last page, of which the image has a half */
  CHECK_ERR(uffd_workingset_add(set, 6 * PAGE, 0), -ERANGE);
  CHECK_SAYS("beyond the image");
  CHECK_ERR(uffd_workingset_merge(set, NULL), -EBADF);
  CHECK_ERR(uffd_workingset_merge(NULL, set), -EBADF);
  CHECK_ERR(uffd_workingset_get(set, 0, NULL), -EINVAL);
  CHECK_ERR((int)uffd_workingset_ranges(set, NULL, 1), -EINVAL);
  CHECK_ERR(uffd_workingset_save(set, NULL), -EINVAL);
  uffd_workingset_close(set);
}

/* A few pages far from each other take memory for themselves only. Each height of the tree is tested. */
static void huge_images_cost_what_was_touched(void *ctx) {
  (void)ctx;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* whose shadow is larger */
  struct rlimit limit = {UINT64_C(64) << 20, UINT64_C(64) << 20};
  CHECK_EQ(setrlimit(RLIMIT_DATA, &limit), 0);
#endif
  static const uint64_t lengths[] = {PAGE, 64 * PAGE, 32768 * PAGE, 32769 * PAGE, TIB, 64 * TIB, UINT64_MAX};
  for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
    uint64_t last = (lengths[i] - 1) / PAGE, expected = 1;
    uffd_workingset *set = make(PAGE, lengths[i]);
    add(set, last, 0);
    for (unsigned bit = 0; UINT64_C(1) << bit < last; bit += 3, expected++)
      add(set, UINT64_C(1) << bit, 0);
    CHECK_EQ(uffd_workingset_count(set), expected);
    struct uffd_range ranges[64];
    int64_t count = uffd_workingset_ranges(set, ranges, 64);
    CHECK(count > 0 && count <= (int64_t)expected);
    uint64_t pages = 0, end = 0;
    for (int64_t r = 0; r < count; r++) {
      CHECK(r == 0 || ranges[r].offset > end);
      end = ranges[r].offset + (ranges[r].length - 1);
      pages += ranges[r].length / PAGE;
    }
    CHECK_EQ(pages, expected);
    CHECK_EQ(end / PAGE, last);
    CHECK_OK(uffd_workingset_save(set, in_directory("huge.ws")));
    uffd_workingset *again = NULL;
    CHECK_OK(uffd_workingset_load(in_directory("huge.ws"), &again));
    CHECK(equal(set, again));
    uffd_workingset_close(again);
    uffd_workingset_close(set);
  }
}

static void huge_images(void) {
  in_directory("");
  check_in_child(huge_images_cost_what_was_touched, NULL);
}

static void every_page_of_an_image(void) {
  uffd_workingset *set = make(PAGE, 100000 * PAGE);
  for (uint64_t i = 0; i < 100000; i++)
    add(set, i * 37 % 100000, 0);
  struct uffd_range range;
  CHECK_EQ(uffd_workingset_ranges(set, &range, 1), 1);
  CHECK_EQ(range.offset, 0);
  CHECK_EQ(range.length, 100000 * PAGE);
  uffd_workingset *again = NULL;
  CHECK_OK(uffd_workingset_save(set, in_directory("all.ws")));
  CHECK_OK(uffd_workingset_load(in_directory("all.ws"), &again));
  CHECK(equal(set, again));
  uffd_workingset_close(again);
  uffd_workingset_close(set);
}

/* Files */

static void files_come_back_as_they_were(void) {
  unsigned char bytes[256];
  size_t length = save_small(in_directory("small.ws"), bytes, sizeof(bytes));
  CHECK_EQ(length, 64 + SMALL_PAGES * 8 + 8);
  CHECK(memcmp(bytes, "\x89uffdws\n\1\0\0\0\x40\0\0\0\0\x10\0\0\0\0\0\0\0\0\1\0", 26) == 0);
  CHECK(memcmp(bytes + 64, "\7\0\0\0\0\0\0\1\3\0\0\0\0\0\0\0", 16) == 0);
  uffd_workingset *set = NULL;
  CHECK_OK(uffd_workingset_load(in_directory("small.ws"), &set));
  CHECK_EQ(uffd_workingset_count(set), SMALL_PAGES);
  CHECK_OK(uffd_workingset_check(set, 16 * PAGE, 0x1234));
  CHECK_OK(uffd_workingset_save(set, in_directory("again.ws")));
  unsigned char again[256];
  CHECK_EQ(read_file(in_directory("again.ws"), again, sizeof(again)), length);
  CHECK(memcmp(bytes, again, length) == 0);
  uffd_workingset_close(set);
  set = make(PAGE, PAGE);
  CHECK_OK(uffd_workingset_save(set, in_directory("empty.ws")));
  uffd_workingset_close(set);
  CHECK_OK(uffd_workingset_load(in_directory("empty.ws"), &set));
  CHECK_EQ(uffd_workingset_count(set), 0);
  uffd_workingset_close(set);
}

static void every_bit_that_flips_is_seen(void) {
  unsigned char bytes[256];
  size_t length = save_small(in_directory("small.ws"), bytes, sizeof(bytes));
  for (size_t bit = 0; bit < length * 8; bit++) {
    bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    write_file(in_directory("flipped.ws"), bytes, length);
    refused(in_directory("flipped.ws"), "flipped.ws ");
    bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
  }
}

static void every_length_but_its_own_is_refused(void) {
  unsigned char bytes[256] = {0};
  size_t length = save_small(in_directory("small.ws"), bytes, 128);
  for (size_t cut = 0; cut < length; cut++) {
    write_file(in_directory("cut.ws"), bytes, cut);
    refused(in_directory("cut.ws"), cut == 0 ? "empty" : "cut off at byte ");
  }
  for (size_t more = 1; more < 20; more++) {
    write_file(in_directory("long.ws"), bytes, length + more);
    refused(in_directory("long.ws"), "goes on behind its end at byte 112");
  }
}

/* Files with right checksums and impossible contents. */
static void files_that_do_not_add_up(void) {
  static const struct {
    size_t at;
    uint64_t value;
    const char *words;
  } cases[] = {
      {16, 1000, "power of two"},
      {16, 0, "power of two"},
      {24, 0, "image of 0 bytes"},
      {24, 4 * PAGE, "its image only 4 pages"},
      {40, UINT64_MAX, "its image only 16 pages"},
      {40, 6, "room for 5 of its 6 records"},
      {40, 4, "goes on behind its end"},
      {48, 1, "does not know (at byte 48)"},
      {64, 16, "record 0 (at byte 64) names page 16 beyond the image"},
      {72, 7, "record 1 (at byte 72) names page 7 once more"},
  };
  unsigned char bytes[256], changed[256];
  size_t length = save_small(in_directory("small.ws"), bytes, sizeof(bytes));
  for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
    memcpy(changed, bytes, length);
    put(changed + cases[i].at, cases[i].value);
    seal(changed, length);
    write_file(in_directory("odd.ws"), changed, length);
    refused(in_directory("odd.ws"), cases[i].words);
  }
  bytes[8] = 2;
  seal(bytes, length);
  write_file(in_directory("newer.ws"), bytes, length);
  refused(in_directory("newer.ws"), "of version 2");
  bytes[8] = 0;
  seal(bytes, length);
  write_file(in_directory("older.ws"), bytes, length);
  refused(in_directory("older.ws"), "damaged");
  memset(bytes, 'x', sizeof(bytes));
  write_file(in_directory("foreign.ws"), bytes, sizeof(bytes));
  refused(in_directory("foreign.ws"), "not a working-set file");
  write_file(in_directory("foreign.ws"), "hello", 5);
  refused(in_directory("foreign.ws"), "not a working-set file");
}

static void a_file_of_8_tib_is_not_read(void) {
  unsigned char bytes[256];
  size_t length = save_small(in_directory("small.ws"), bytes, sizeof(bytes));
  put(bytes + 24, UINT64_MAX);
  put(bytes + 40, TIB);
  seal(bytes, length);
  write_file(in_directory("large.ws"), bytes, 64);
  if (truncate(in_directory("large.ws"), (off_t)(8 * TIB + 72)) < 0) SKIP("no sparse file of 8 TiB here");
  refused(in_directory("large.ws"), "record 1 (at byte 72) names page 0 once more");
}

static void what_is_no_file(void) {
  uffd_workingset *set = NULL;
  CHECK_ERR(uffd_workingset_load(in_directory("nowhere.ws"), &set), -ENOENT);
  CHECK_SAYS("nowhere.ws");
  refused(in_directory("."), "not a regular file");
  CHECK_EQ(mkfifo(in_directory("pipe.ws"), 0600), 0);
  refused(in_directory("pipe.ws"), "not a regular file");
  set = make(PAGE, PAGE);
  CHECK_ERR(uffd_workingset_save(set, in_directory("pipe.ws")), -EINVAL);
  CHECK_ERR(uffd_workingset_save(set, "/dev/null"), -EINVAL);
  CHECK_ERR(uffd_workingset_save(set, in_directory("no/where.ws")), -ENOENT);
  CHECK_ERR(uffd_workingset_save(set, ""), -ENOENT);
  uffd_workingset_close(set);
}

static void links_are_followed_and_modes_kept(void) {
  unsigned char bytes[256], again[256];
  size_t length = save_small(in_directory("real.ws"), bytes, sizeof(bytes));
  CHECK_EQ(chmod(in_directory("real.ws"), 0604), 0);
  CHECK_EQ(symlink("real.ws", in_directory("link.ws")), 0);
  uffd_workingset *set = make(PAGE, PAGE);
  CHECK_OK(uffd_workingset_save(set, in_directory("link.ws")));
  uffd_workingset_close(set);
  struct stat status;
  CHECK_EQ(lstat(in_directory("link.ws"), &status), 0);
  CHECK(S_ISLNK(status.st_mode));
  CHECK_EQ(stat(in_directory("real.ws"), &status), 0);
  CHECK_EQ(status.st_mode & 07777, 0604);
  CHECK(read_file(in_directory("real.ws"), again, sizeof(again)) < length);
  CHECK_EQ(files_in_directory(), 2);
}

/* The disk is full: a file-size limit says the same. */
static void fill_up(void *ctx) {
  unsigned char bytes[256], again[256];
  (void)ctx;
  size_t length = save_small(in_directory("old.ws"), bytes, sizeof(bytes));
  uffd_workingset *set = make(PAGE, 4096 * PAGE);
  for (uint64_t i = 0; i < 4096; i++)
    add(set, i, 0);
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit limit = {16384, 16384};
  CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  CHECK_ERR(uffd_workingset_save(set, in_directory("old.ws")), -EFBIG);
  CHECK_SAYS("Cannot write");
  CHECK_EQ(read_file(in_directory("old.ws"), again, sizeof(again)), length);
  CHECK(memcmp(bytes, again, length) == 0);
  CHECK_EQ(files_in_directory(), 1);
  uffd_workingset_close(set);
}

static void a_save_that_fails_leaves_the_old_file(void) {
  in_directory("");
  check_in_child(fill_up, NULL);
}

/* Killed when all is written and nothing is in its place. */
static void save_over(void *ctx) {
  uffd_workingset *set = make(PAGE, PAGE);
  CHECK_OK(uffd_workingset_save(set, ctx));
  uffd_workingset_close(set);
}

static void a_save_that_is_killed_leaves_the_old_file(void) {
  unsigned char bytes[256], again[256];
  char path[128];
  snprintf(path, sizeof(path), "%s", in_directory("old.ws"));
  size_t length = save_small(path, bytes, sizeof(bytes));
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    struct check_thread saver;
    check_barrier_hold("newfile-written");
    check_thread_start(&saver, save_over, path);
    check_barrier_await("newfile-written");
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFSIGNALED(status));
  CHECK_EQ(read_file(path, again, sizeof(again)), length);
  CHECK(memcmp(bytes, again, length) == 0);
  CHECK_EQ(files_in_directory(), 2);
  save_over(path); /* what was left there is in nobody's way */
  CHECK(read_file(path, again, sizeof(again)) < length);
}

/* Identity */

static int image_of(const char *name, uint64_t length) {
  int fd = open(in_directory(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  if (ftruncate(fd, (off_t)length) < 0) SKIP("no sparse file of %llu bytes here", (unsigned long long)length);
  return fd;
}

static uint64_t identity_of(int fd, uint64_t length) {
  uint64_t found = 0, identity = 0;
  CHECK_OK(uffd_image_identity(fd, &found, &identity));
  CHECK_EQ(found, length);
  CHECK(identity != 0);
  return identity;
}

static void change(int fd, uint64_t offset, unsigned char byte) {
  CHECK_EQ(pwrite(fd, &byte, 1, (off_t)offset), 1);
}

static void identity_is_of_the_contents(void) {
  static const uint64_t lengths[] = {1,      PAGE + 1, UINT64_C(1) << 20, (UINT64_C(1) << 20) + 1, UINT64_C(64) << 20,
                                     4 * TIB};
  uint64_t seen[6];
  for (unsigned i = 0; i < 6; i++) {
    int fd = image_of("image", lengths[i]), copy = image_of("copy", lengths[i]);
    seen[i] = identity_of(fd, lengths[i]);
    for (unsigned before = 0; before < i; before++)
      CHECK(seen[before] != seen[i]);
    change(fd, 0, 1);
    CHECK(identity_of(fd, lengths[i]) != seen[i]);
    change(fd, 0, 0); /* no hole any more, the same zeros */
    CHECK_EQ(identity_of(fd, lengths[i]), seen[i]);
    change(fd, lengths[i] - 1, 1);
    CHECK(identity_of(fd, lengths[i]) != seen[i]);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    change(copy, lengths[i] - 1, 1);
    CHECK_EQ(identity_of(copy, lengths[i]), identity_of(fd, lengths[i]));
    close(fd);
    close(copy);
  }
}

/* Each byte of a small one, and the samples that the header promises of a large one. */
static void identity_reads_its_samples(void) {
  uint64_t length = UINT64_C(1) << 20;
  int fd = image_of("image", length);
  uint64_t before = identity_of(fd, length);
  for (uint64_t at = 5; at < length; at += 12345) {
    change(fd, at, 9);
    uint64_t after = identity_of(fd, length);
    CHECK(after != before);
    before = after;
  }
  close(fd);
  length = UINT64_C(1) << 32;
  fd = image_of("image", length);
  before = identity_of(fd, length);
  for (unsigned scale = 0; scale < 4; scale++) {
    uint64_t last = (length / PAGE >> 4 * scale) - 1;
    for (uint64_t i = 1; i < 64; i += 7) {
      change(fd, last * i / 63 * PAGE + i, (unsigned char)(scale + 1));
      uint64_t after = identity_of(fd, length);
      CHECK(after != before);
      before = after;
    }
  }
  close(fd);
}

static void identity_of_what_is_no_image(void) {
  uint64_t length = 77, identity = 77;
  CHECK_ERR(uffd_image_identity(-1, &length, &identity), -EBADF);
  CHECK_ERR(uffd_image_identity(0, NULL, &identity), -EINVAL);
  CHECK_ERR(uffd_image_identity(0, &length, NULL), -EINVAL);
  int fd = image_of("image", 0);
  CHECK_ERR(uffd_image_identity(fd, &length, &identity), -EINVAL);
  CHECK_SAYS("empty");
  close(fd);
  fd = open("/tmp", O_RDONLY | O_CLOEXEC);
  CHECK_ERR(uffd_image_identity(fd, &length, &identity), -EINVAL);
  close(fd);
  fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  CHECK_ERR(uffd_image_identity(fd, &length, &identity), -EINVAL);
  CHECK_SAYS("neither a regular file nor a block device");
  close(fd);
  write_file(in_directory("blind"), "x", 1);
  fd = open(in_directory("blind"), O_WRONLY | O_CLOEXEC);
  CHECK_ERR(uffd_image_identity(fd, &length, &identity), -EBADF);
  close(fd);
  CHECK_EQ(length, 77);
  CHECK_EQ(identity, 77);
}

/* A loop device of an image, which goes with its last user; or skips. */
static int device_of(int image) {
  int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
  if (control < 0) SKIP("loop devices need privilege: %s", strerror(errno));
  for (int tries = 0; tries < 8; tries++) { /* another program may be quicker */
    char path[32];
    snprintf(path, sizeof(path), "/dev/loop%d", ioctl(control, LOOP_CTL_GET_FREE));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) SKIP("%s cannot be opened: %s", path, strerror(errno));
    struct loop_info64 info = {.lo_flags = LO_FLAGS_AUTOCLEAR};
    if (ioctl(fd, LOOP_SET_FD, image) == 0) {
      CHECK_EQ(ioctl(fd, LOOP_SET_STATUS64, &info), 0);
      close(control);
      return fd;
    }
    close(fd);
  }
  SKIP("no loop device is free");
}

static void identity_of_a_block_device_is_that_of_its_contents(void) {
  uint64_t length = 300 * PAGE;
  int image = image_of("image", length);
  change(image, 299 * PAGE, 7);
  uint64_t identity = identity_of(image, length);
  int device = device_of(image);
  CHECK_EQ(identity_of(device, length), identity);
  close(device);
  close(image);
}

static const struct check_test tests[] = {
    TEST(order_is_kept_and_pages_are_there_once),
    TEST(ranges_are_sorted_and_merged),
    TEST(info_adds_up),
    TEST(merging_appends_what_is_new),
    TEST(another_image_is_told),
    TEST(bad_arguments),
    TEST(huge_images),
    TEST(every_page_of_an_image),
    TEST(files_come_back_as_they_were),
    TEST(every_bit_that_flips_is_seen),
    TEST(every_length_but_its_own_is_refused),
    TEST(files_that_do_not_add_up),
    TEST(a_file_of_8_tib_is_not_read),
    TEST(what_is_no_file),
    TEST(links_are_followed_and_modes_kept),
    TEST(a_save_that_fails_leaves_the_old_file),
    TEST(a_save_that_is_killed_leaves_the_old_file),
    TEST(identity_is_of_the_contents),
    TEST(identity_reads_its_samples),
    TEST(identity_of_what_is_no_image),
    TEST(identity_of_a_block_device_is_that_of_its_contents),
};
CHECK_MAIN(tests)
