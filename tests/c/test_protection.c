/*
 * What else keeps write protection, and what drops it: each row of the table in include/README.md is tried on this
 * kernel. tests/examples/run.lua compares the two lists.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"
#include "kernel/create.h"

#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define HUGE_PAGE (UINT64_C(2) << 20)

#define PAGEMAP_FRAME   ((UINT64_C(1) << 55) - 1) /* zero without CAP_SYS_ADMIN */
#define PAGEMAP_WP      (UINT64_C(1) << 57)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)

static uffd_object *object;
static struct check_area area;

static uint64_t pagemap(const void *at) {
  uint64_t entry = 0;
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK_EQ(pread(fd, &entry, sizeof(entry), (off_t)(CHECK_ADDRESS(at) / check_page() * sizeof(entry))), sizeof(entry));
  close(fd);
  return entry;
}

static bool is_protected(const unsigned char *at, uint64_t length) {
  bool first = (pagemap(at) & PAGEMAP_WP) != 0, last = (pagemap(at + length - 1) & PAGEMAP_WP) != 0;
  CHECK_EQ(first, last);
  return first;
}

static void protect(unsigned char *at, uint64_t length) {
  CHECK_OK(uffd_writeprotect(object, CHECK_ADDRESS(at), length, UFFD_WRITEPROTECT_WP));
  CHECK(is_protected(at, length));
}

/* count pages of a kind, each written to, then protected. */
static void arm(uint64_t features, int kind, uint64_t count) {
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP | UFFD_FEAT_WP_HUGETLBFS_SHMEM);
  object = check_open(features);
  area = check_map(kind, count);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, UFFD_MODE_WP, NULL));
  memset(area.at, 7, area.length);
  protect(area.at, area.length);
}

static bool move_to(unsigned char *target, uint64_t length) {
  return mremap(area.at, length, length, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target;
}

/* The deeds: each says whether the protection is there afterwards */

static bool protect_and_back(void) {
  arm(0, CHECK_ANON, 8);
  CHECK(mprotect(area.at, area.length, PROT_READ) == 0);
  CHECK(mprotect(area.at, area.length, PROT_READ | PROT_WRITE) == 0);
  return is_protected(area.at, area.length);
}

static bool no_access_and_back(void) {
  arm(0, CHECK_ANON, 8);
  CHECK(mprotect(area.at, area.length, PROT_NONE) == 0);
  CHECK(mprotect(area.at, area.length, PROT_READ | PROT_WRITE) == 0);
  return is_protected(area.at, area.length);
}

static bool border(void) {
  arm(0, CHECK_ANON, 8);
  CHECK(madvise(area.at + 4 * area.page, area.page, MADV_DONTDUMP) == 0);
  CHECK(madvise(area.at + 4 * area.page, area.page, MADV_DODUMP) == 0);
  return is_protected(area.at, area.length);
}

/* mlock() alone writes to each page of a writable private mapping: such a write is told like any other. */
static bool lock(void) {
  arm(0, CHECK_ANON, 8);
  if (mlock2(area.at, area.length, MLOCK_ONFAULT) != 0) SKIP("mlock2: %s", strerror(errno));
  CHECK(munlock(area.at, area.length) == 0);
  return is_protected(area.at, area.length);
}

static bool cold(void) {
  arm(0, CHECK_ANON, 8);
  CHECK(madvise(area.at, area.length, MADV_COLD) == 0);
  return is_protected(area.at, area.length);
}

static bool swap(void) {
  arm(0, CHECK_ANON, 1);
  if (madvise(area.at, area.length, MADV_PAGEOUT) != 0 || (pagemap(area.at) & PAGEMAP_SWAPPED) == 0) {
    SKIP("nothing is swapped out here: no swap, or no MADV_PAGEOUT");
  }
  bool out = is_protected(area.at, area.length);
  CHECK_EQ(area.at[0], 7); /* and in again */
  CHECK_EQ(is_protected(area.at, area.length), out);
  return out;
}

/* Compaction moves pages to other frames. Every second one is freed, so that there is something to do. */
static bool migration(void) {
  enum { PAGES = 8192 };
  static uint64_t frames[PAGES];
  int fd = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);
  if (fd < 0) SKIP("compaction cannot be started: %s", strerror(errno));
  arm(0, CHECK_ANON, PAGES);
  for (unsigned i = 1; i < PAGES - 1; i += 2) {
    CHECK(madvise(area.at + i * area.page, area.page, MADV_DONTNEED) == 0);
  }
  for (unsigned i = 0; i < PAGES; i += 2) {
    frames[i] = pagemap(area.at + i * area.page) & PAGEMAP_FRAME;
  }
  if (frames[0] == 0) SKIP("/proc/self/pagemap does not tell frames here");
  CHECK_EQ(write(fd, "1", 1), 1);
  close(fd);
  unsigned moved = 0, kept = 0;
  for (unsigned i = 0; i < PAGES; i += 2) {
    uint64_t entry = pagemap(area.at + i * area.page);
    if ((entry & PAGEMAP_FRAME) == frames[i]) continue;
    moved++;
    if ((entry & PAGEMAP_WP) != 0) kept++;
  }
  if (moved == 0) SKIP("compaction has moved none of %d pages", PAGES / 2);
  CHECK(kept == 0 || kept == moved);
  return kept != 0;
}

static bool collapse(void) {
  arm(0, CHECK_ANON, 2 * HUGE_PAGE / check_page());
  unsigned char *block = area.at + (HUGE_PAGE - CHECK_ADDRESS(area.at) % HUGE_PAGE) % HUGE_PAGE;
  CHECK(madvise(block, HUGE_PAGE, MADV_COLLAPSE) != 0); /* refused, as it would be for khugepaged */
  return is_protected(area.at, area.length);
}

static bool split(void) {
  object = check_open(0);
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP);
  unsigned char *room = mmap(NULL, 2 * HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(room != MAP_FAILED);
  area = (struct check_area){.page = check_page(), .length = HUGE_PAGE, .kind = CHECK_ANON, .fd = -1};
  area.at = room + (HUGE_PAGE - CHECK_ADDRESS(room) % HUGE_PAGE) % HUGE_PAGE;
  madvise(area.at, HUGE_PAGE, MADV_HUGEPAGE);
  memset(area.at, 7, HUGE_PAGE);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), HUGE_PAGE, UFFD_MODE_WP, NULL));
  protect(area.at, HUGE_PAGE);
  CHECK(madvise(area.at + HUGE_PAGE / 2, area.page, MADV_DONTNEED) == 0);
  return is_protected(area.at, HUGE_PAGE);
}

static bool grow(void) {
  arm(0, CHECK_ANON, 8);
  area.length /= 2; /* room behind */
  CHECK(munmap(area.at + area.length, area.length) == 0);
  CHECK(mremap(area.at, area.length, 2 * area.length, 0) == area.at);
  return is_protected(area.at, area.length);
}

static bool move_without_event(void) {
  if (!uffd_kernel_at_least(6, 13)) SKIP("before 6.13 mremap kept the protection");
  arm(0, CHECK_ANON, 8);
  struct check_area target = check_map(CHECK_ANON, 8);
  CHECK(move_to(target.at, area.length));
  area.at = target.at;
  return is_protected(area.at, area.length);
}

static void read_remap(void *ctx) {
  struct uffd_event event;
  (void)ctx;
  CHECK_EQ(uffd_read(object, &event, 1, -1), 1);
  CHECK_EQ(event.type, UFFD_REMAP);
}

static bool move_with_event(void) {
  arm(UFFD_FEAT_EVENT_REMAP, CHECK_ANON, 8);
  struct check_area target = check_map(CHECK_ANON, 8);
  struct check_thread reader;
  check_thread_start(&reader, read_remap, NULL);
  CHECK(move_to(target.at, area.length));
  check_thread_join(&reader);
  area.at = target.at;
  return is_protected(area.at, area.length);
}

static bool fork_parent(void) {
  arm(0, CHECK_ANON, 8);
  pid_t child = fork();
  if (child == 0) _exit(0);
  check_child(child);
  return is_protected(area.at, area.length);
}

static bool fork_child(void) {
  arm(0, CHECK_ANON, 8);
  pid_t child = fork();
  if (child == 0) _exit(is_protected(area.at, area.length) ? 1 : 0);
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
  return WEXITSTATUS(status) != 0;
}

static void *fork_in_thread(void *result) {
  pid_t child = fork();
  if (child == 0) _exit(is_protected(area.at, area.length) ? 1 : 0);
  CHECK(waitpid(child, result, 0) == child);
  return NULL;
}

static bool fork_child_with_event(void) {
  arm(UFFD_FEAT_EVENT_FORK, CHECK_ANON, 8);
  pthread_t forker;
  struct uffd_event event;
  int status;
  CHECK(pthread_create(&forker, NULL, fork_in_thread, &status) == 0);
  CHECK_EQ(uffd_read(object, &event, 1, -1), 1);
  CHECK_EQ(event.type, UFFD_FORK);
  CHECK(pthread_join(forker, NULL) == 0 && WIFEXITED(status));
  uffd_close(event.object);
  return WEXITSTATUS(status) != 0;
}

static bool dontneed(int kind) {
  arm(0, kind, 8);
  CHECK(madvise(area.at, area.length, MADV_DONTNEED) == 0);
  bool kept = is_protected(area.at, area.length);
  CHECK_EQ(area.at[0], kept ? 7 : 0);
  CHECK_EQ(area.at[area.length - 1], kept ? 7 : 0);
  CHECK_EQ(is_protected(area.at, area.length), kept);
  return kept;
}
static bool dontneed_private(void) {
  return dontneed(CHECK_ANON);
}
static bool dontneed_shared(void) {
  return dontneed(CHECK_SHMEM);
}

static bool punch(void) {
  arm(0, CHECK_SHMEM, 8);
  CHECK(madvise(area.at, area.length, MADV_REMOVE) == 0);
  bool kept = is_protected(area.at, area.length);
  CHECK_EQ(area.at[0], 0);
  CHECK_EQ(area.at[area.length - 1], 0);
  CHECK_EQ(is_protected(area.at, area.length), kept);
  return kept;
}

static bool unregister(void) {
  arm(0, CHECK_ANON, 8);
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length));
  return is_protected(area.at, area.length);
}

/* Puts the machine's value back when this process is dead, however it dies. */
static void put_back_later(const char *path, uint64_t value) {
  int ends[2];
  CHECK(pipe2(ends, O_CLOEXEC) == 0);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child != 0) {
    close(ends[0]); /* the other end lives as long as this process */
    return;
  }
  setsid();
  close(ends[1]);
  char byte;
  (void)!read(ends[0], &byte, 1);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  _exit(fd >= 0 && dprintf(fd, "%llu", (unsigned long long)value) > 0 ? 0 : 1);
}

/* KSM merges pages of equal contents, and does not carry the bit over. Marked after registering, against the advice. */
static bool merge(void) {
  const char *run = "/sys/kernel/mm/ksm/run";
  int fd = open(run, O_WRONLY | O_CLOEXEC);
  if (fd < 0) SKIP("KSM cannot be started: %s", strerror(errno));
  arm(0, CHECK_ANON, 64);
  if ((pagemap(area.at) & PAGEMAP_FRAME) == 0) SKIP("/proc/self/pagemap does not tell frames here");
  put_back_later(run, check_number(run));
  CHECK(madvise(area.at, area.length, MADV_MERGEABLE) == 0);
  CHECK_EQ(write(fd, "1", 1), 1);
  close(fd);
  const unsigned char *last = area.at + area.length - area.page;
  while ((pagemap(area.at) & PAGEMAP_FRAME) != (pagemap(last) & PAGEMAP_FRAME)) {
    check_pause();
  }
  return is_protected(area.at, area.length);
}

/* The table: texts as in include/README.md */

/* clang-format off */
#define DEEDS(X) \
  X(protect_and_back, true, "mprotect to read-only and back") \
  X(no_access_and_back, true, "mprotect to no access and back") \
  X(border, true, "a border amid the mapping, as by madvise of a part") \
  X(lock, true, "mlock2 with MLOCK_ONFAULT") \
  X(cold, true, "MADV_COLD") \
  X(swap, true, "swapping out and in") \
  X(migration, true, "migration to another frame, as by compaction") \
  X(collapse, true, "MADV_COLLAPSE, khugepaged: refused for protected pages") \
  X(split, true, "splitting a huge page") \
  X(grow, true, "mremap that grows in place") \
  X(move_with_event, true, "mremap to another place, with EVENT_REMAP") \
  X(fork_parent, true, "fork: in the parent") \
  X(fork_child_with_event, true, "fork: in the child, with EVENT_FORK") \
  X(dontneed_shared, true, "MADV_DONTNEED of shared memory, whose pages come back") \
  X(punch, true, "punching a hole into shared memory, read again as zeros") \
  X(move_without_event, false, "mremap to another place, without EVENT_REMAP (6.13)") \
  X(fork_child, false, "fork: in the child, without EVENT_FORK") \
  X(dontneed_private, false, "MADV_DONTNEED of private memory") \
  X(merge, false, "merging by KSM") \
  X(unregister, false, "unregistering")
/* clang-format on */

#define DEED(act, kept, text)                                                                                          \
  static void what_##act(void) {                                                                                       \
    bool keeps = act();                                                                                                \
    printf("  %-56s %s\n", text, keeps ? "keeps the protection" : "drops it");                                         \
    CHECK_EQ(keeps, kept);                                                                                             \
    uffd_close(object);                                                                                                \
  }
DEEDS(DEED)

#define NAME(act, kept, text) TEST(what_##act),
static const struct check_test tests[] = {DEEDS(NAME)};
CHECK_MAIN(tests)
