/*
 * One copy for all clones: private mappings of one memfd, whose pages are filled once.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "serving.h"

#define PAGES  256u
#define CLONES 4u

static uint64_t page;
static uffd_memory *memories[CLONES];
static uffd_loop *loops[CLONES];
static uffd_region *regions[CLONES];
static struct asked asked;
static const unsigned char *image;

static int answer_image(struct asked *all, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)all;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = image + fault->offset;
  answer->length = page;
  return 0;
}

static uffd_memory *map_first(uint32_t kind, uint64_t length) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_memory *memory;
  opts.kind = kind;
  opts.flags = UFFD_MAP_PRIVATE;
  CHECK_OK(uffd_map(length, &opts, &memory));
  return memory;
}

static uffd_memory *map_of(uffd_memory *of) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_memory *memory;
  opts.of = of;
  CHECK_OK(uffd_map(uffd_memory_length(of), &opts, &memory));
  CHECK_EQ(uffd_memory_kind(memory), uffd_memory_kind(of));
  return memory;
}

static uffd_loop *open_loop(uint32_t engine, uint64_t features) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop;
  opts.engine = engine;
  opts.features = features;
  CHECK_OK(uffd_loop_create(&opts, &loop));
  return loop;
}

static void needs_minor(uint32_t kind) {
  check_needs(kind == UFFD_MEMORY_HUGETLB ? UFFD_FEAT_MINOR_HUGETLBFS : UFFD_FEAT_MINOR_SHMEM);
}

/* Each clone in a loop of its own, all with the same contents below. */
static void open_clones(uint32_t engine, uffd_resolver *below) {
  page = check_page();
  needs_minor(UFFD_MEMORY_MEMFD);
  for (unsigned i = 0; i < CLONES; i++) {
    uffd_resolver *shared;
    memories[i] = i == 0 ? map_first(UFFD_MEMORY_MEMFD, PAGES * page) : map_of(memories[0]);
    CHECK_OK(uffd_resolver_shared(memories[i], below, &shared));
    loops[i] = open_loop(engine, 0);
    regions[i] = region_add(loops[i], memories[i], shared, NULL);
  }
}

static void close_clones(void) {
  for (unsigned i = 0; i < CLONES; i++) {
    CHECK_OK(uffd_loop_close(loops[i]));
    uffd_memory_close(memories[i]);
  }
}

static void open_asked(uint32_t engine) {
  page = check_page();
  if (image == NULL) image = image_make(PAGES * page);
  asked = (struct asked){.answer = answer_image};
  uffd_resolver *below = asked_resolver(&asked);
  open_clones(engine, below);
  uffd_resolver_close(below);
}

/* KiB of the mapping at address: a line of smaps. */
static uint64_t smaps_kib(const void *address, const char *name) {
  char line[256];
  uint64_t start, end, value = UINT64_MAX;
  bool inside = false;
  FILE *smaps = fopen("/proc/self/smaps", "re");
  CHECK(smaps != NULL);
  while (fgets(line, sizeof(line), smaps) != NULL) {
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2 && strchr(line, ':') != NULL && line[0] != ' ') {
      inside = start == (uintptr_t)address;
    } else if (inside && strncmp(line, name, strlen(name)) == 0) {
      sscanf(line + strlen(name), ": %" SCNu64, &value);
    }
  }
  fclose(smaps);
  return value;
}

static const uint32_t engines[] = {UFFD_ENGINE_THREADS, UFFD_ENGINE_INLINE};

static void each_page_is_filled_once(void) {
  for (unsigned e = 0; e < 2; e++) {
    if (engines[e] == UFFD_ENGINE_INLINE) check_needs(UFFD_FEAT_SIGBUS);
    open_asked(engines[e]);
    for (unsigned i = 0; i < CLONES; i++) {
      CHECK(image_there(uffd_memory_address(memories[i]), 0, PAGES * page));
      CHECK_EQ(asked.hits, PAGES);
      CHECK_EQ(serving_stats(loops[i]).continued, PAGES);
      CHECK_EQ(serving_stats(loops[i]).copied, 0);
    }
    for (unsigned i = 0; i < CLONES; i++) {
      CHECK_EQ(smaps_kib(uffd_memory_address(memories[i]), "Anonymous"), 0);
    }
    close_clones();
  }
}

/* What a clone writes is its own, before and after the others have the page. */
static void what_is_written_is_ones_own(void) {
  open_asked(UFFD_ENGINE_THREADS);
  for (unsigned i = 0; i < CLONES; i++) {
    unsigned char *at = uffd_memory_address(memories[i]);
    at[3 * page + 7] = (unsigned char)(200 + i);
    CHECK_EQ(at[3 * page + 8], image_byte(3 * page + 8));
  }
  for (unsigned i = 0; i < CLONES; i++) {
    const unsigned char *at = uffd_memory_address(memories[i]);
    CHECK_EQ(at[3 * page + 7], 200 + i);
    CHECK(image_there(at, 0, 3 * page));
    CHECK(image_there(at + 4 * page, 4 * page, (PAGES - 4) * page));
  }
  CHECK_EQ(asked.hits, PAGES);
  CHECK_OK(uffd_memory_discard(memories[1], 3 * page, page)); /* the page is the image's again */
  CHECK(image_there((unsigned char *)uffd_memory_address(memories[1]), 0, PAGES * page));
  CHECK_EQ(asked.hits, PAGES);
  close_clones();
}

/* A page of a layer above is the clone's own, also where another clone has that page from below. */
static void layers_above_are_ones_own(void) {
  needs_minor(UFFD_MEMORY_MEMFD);
  page = check_page();
  if (image == NULL) image = image_make(PAGES * page);
  asked = (struct asked){.answer = answer_image};
  uffd_resolver *below = asked_resolver(&asked);
  for (unsigned i = 0; i < CLONES; i++) {
    uffd_resolver *shared, *own, *layers;
    const char name[] = {(char)('a' + i)};
    memories[i] = i == 0 ? map_first(UFFD_MEMORY_MEMFD, PAGES * page) : map_of(memories[0]);
    CHECK_OK(uffd_resolver_shared(memories[i], below, &shared));
    CHECK_OK(uffd_resolver_bytes(name, 1, &own));
    const struct uffd_layer parts[] = {{.resolver = shared},
                                       {.offset = (i + 1) * page, .length = page, .resolver = own}};
    CHECK_OK(uffd_resolver_layers(parts, 2, &layers));
    loops[i] = open_loop(UFFD_ENGINE_THREADS, 0);
    regions[i] = region_add(loops[i], memories[i], layers, NULL);
    uffd_resolver_close(shared);
    uffd_resolver_close(own);
  }
  uffd_resolver_close(below);
  for (unsigned round = 0; round < 2; round++) {
    for (unsigned i = CLONES; i-- > 0;) {
      const unsigned char *at = uffd_memory_address(memories[i]);
      for (unsigned k = 0; k < PAGES; k++) {
        if (k != i + 1) CHECK(image_there(at + k * page, k * page, page));
      }
      CHECK(at[(i + 1) * page] == 'a' + i && check_filled(at + (i + 1) * page + 1, page - 1, 0));
    }
    for (unsigned i = 0; i < CLONES; i++) {
      CHECK_OK(uffd_memory_discard(memories[i], 0, 8 * page));
    }
  }
  CHECK_EQ(asked.hits, PAGES);
  close_clones();
}

/* What somebody reads in the memfd, or finds in its page cache, is not what was filled. */
static void holes_that_were_read_are_asked_for(void) {
  open_asked(UFFD_ENGINE_THREADS);
  unsigned char *mapping = mmap(NULL, PAGES * page, PROT_READ, MAP_SHARED, uffd_memory_fd(memories[0]), 0);
  CHECK(mapping != MAP_FAILED);
  CHECK(check_filled(mapping, PAGES * page, 0));
  for (unsigned i = 0; i < CLONES; i++) {
    CHECK(image_there(uffd_memory_address(memories[i]), 0, PAGES * page));
  }
  CHECK_EQ(asked.hits, PAGES);
  munmap(mapping, PAGES * page);
  close_clones();
}

#define HUGE_OF_FILES "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/* Whether memfds get huge pages, and which choice it was before: those in brackets. */
static void choose_huge(const char *choice, char before[32]) {
  char line[256] = "";
  int fd = open(HUGE_OF_FILES, O_RDWR | O_CLOEXEC);
  if (fd < 0) SKIP("huge pages of files cannot be switched here");
  ssize_t got = read(fd, line, sizeof(line) - 1);
  const char *from = strchr(line, '[');
  CHECK(got > 0 && from != NULL);
  if (before != NULL) snprintf(before, 32, "%.*s", (int)strcspn(from + 1, "]"), from + 1);
  CHECK_EQ(pwrite(fd, choice, strlen(choice), 0), (ssize_t)strlen(choice));
  close(fd);
}

/* Huge pages for the mappings through which the memfd is filled, which the library does not want there. */
static void advise_huge(uint64_t length) {
  char line[512], rights[8];
  uint64_t start, end;
  unsigned found = 0;
  FILE *maps = fopen("/proc/self/maps", "re");
  CHECK(maps != NULL);
  while (fgets(line, sizeof(line), maps) != NULL) {
    if (strstr(line, "/memfd:") == NULL || sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &start, &end, rights) != 3 ||
        strcmp(rights, "rw-s") != 0 || end - start < length) {
      continue;
    }
    found += madvise((void *)(uintptr_t)start, length, MADV_HUGEPAGE) == 0; /* NOLINT(performance-no-int-to-ptr) */
  }
  fclose(maps);
  CHECK(found > 0);
}

/*
 * Where the kernel makes huge pages of files, one page that is filled brings 511 others of zeros into the page cache;
 * their faults are minor ones, as of pages that are filled.
 */
static void neighbours_in_a_huge_page_are_asked_for(void) {
  const uint64_t length = UINT64_C(4) << 20;
  unsigned char there[1024];
  char before[32];
  needs_minor(UFFD_MEMORY_MEMFD);
  check_hugepages(1); /* other tests do not switch huge pages meanwhile */
  page = check_page();
  choose_huge("advise", before);
  uffd_resolver *below = image_resolver(length), *shared;
  uffd_memory *first = map_first(UFFD_MEMORY_MEMFD, length), *second = map_of(first);
  CHECK_OK(uffd_resolver_shared(first, below, &shared));
  advise_huge(length);
  uffd_loop *loop = open_loop(UFFD_ENGINE_THREADS, 0);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.around = page;
  CHECK_OK(uffd_loop_add(loop, first, shared, &opts, NULL));
  CHECK_OK(uffd_loop_add(loop, second, shared, &opts, NULL));
  unsigned char byte = *((unsigned char *)uffd_memory_address(first) + 5 * page);
  unsigned char *mapping = mmap(NULL, length, PROT_READ, MAP_SHARED, uffd_memory_fd(first), 0);
  choose_huge(before, NULL);
  CHECK_EQ(byte, image_byte(5 * page));
  CHECK(mapping != MAP_FAILED);
  CHECK_EQ(mincore(mapping, length, there), 0);
  bool made = (there[300] & 1) != 0;
  CHECK(image_there(uffd_memory_address(second), 0, length));
  CHECK(image_there(uffd_memory_address(first), 0, length));
  CHECK_EQ(serving_stats(loop).continued, 2 * length / page);
  CHECK_OK(uffd_loop_close(loop));
  munmap(mapping, length);
  uffd_memory_close(first);
  uffd_memory_close(second);
  uffd_resolver_close(below);
  uffd_resolver_close(shared);
  if (!made) SKIP("the kernel has made no huge page of the file");
}

/* Other processes may look, and not write. */
static void the_memfd_is_sealed(void) {
  open_asked(UFFD_ENGINE_THREADS);
  int fd = uffd_memory_fd(memories[0]);
  CHECK(pwrite(fd, "x", 1, 0) < 0 && errno == EPERM);
  CHECK(ftruncate(fd, 0) < 0 && errno == EPERM);
  CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)page) < 0 && errno == EPERM);
  CHECK(mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
  CHECK(image_there(uffd_memory_address(memories[2]), 0, PAGES * page));
  close_clones();
}

/* Files, zeros, whole runs by prefetch: whatever answers below. */
static void answers_of_all_kinds_are_shared(void) {
  page = check_page();
  char path[] = "/tmp/uffd-test-shared-XXXXXX";
  unsigned char *bytes = image_make(PAGES * page);
  int fd = mkstemp(path);
  CHECK(fd >= 0);
  memset(bytes + 20 * page, 0, 30 * page);
  CHECK_EQ(write(fd, bytes, PAGES * page - 100), (ssize_t)(PAGES * page - 100));
  memset(bytes + PAGES * page - 100, 0, 100);
  close(fd);
  uffd_resolver *below;
  CHECK_OK(uffd_resolver_file(path, NULL, &below));
  open_clones(UFFD_ENGINE_THREADS, below);
  uffd_resolver_close(below);
  unlink(path);
  for (unsigned i = 0; i < CLONES; i++) {
    CHECK_OK(uffd_region_prefetch(regions[i], (uint64_t)i * 10 * page, 0));
    CHECK(memcmp(uffd_memory_address(memories[i]), bytes, PAGES * page) == 0);
    CHECK_EQ(smaps_kib(uffd_memory_address(memories[i]), "Anonymous"), 0);
    CHECK_EQ(serving_stats(loops[i]).errors, 0);
  }
  CHECK_OK(uffd_region_complete(regions[1]));
  CHECK(memcmp(uffd_memory_address(memories[1]), bytes, PAGES * page) == 0);
  close_clones();
}

static void touch_all(void *ctx) {
  CHECK(image_there(ctx, 0, PAGES * page));
}

/* All at once, of all clones: each page is asked for by one of them, or by few, and is right in all. */
static void clones_that_touch_at_the_same_time(void) {
  for (unsigned e = 0; e < 2; e++) {
    struct check_thread threads[CLONES * 2];
    open_asked(engines[e]);
    for (unsigned i = 0; i < CLONES * 2; i++) {
      check_thread_start(&threads[i], touch_all, uffd_memory_address(memories[i % CLONES]));
    }
    for (unsigned i = 0; i < CLONES * 2; i++) {
      check_thread_join(&threads[i]);
    }
    CHECK(asked.hits >= PAGES && asked.hits <= CLONES * 2 * PAGES);
    close_clones();
  }
}

/* While one fills a page, another one waits for it, and does not take what is half there. */
static void a_page_that_is_being_filled_is_waited_for(void) {
  struct check_touch first, second;
  open_asked(UFFD_ENGINE_THREADS);
  check_barrier_hold("filling");
  check_touch_read(&first, (unsigned char *)uffd_memory_address(memories[0]) + 5 * page);
  check_barrier_await("filling");
  check_touch_read(&second, (unsigned char *)uffd_memory_address(memories[1]) + 5 * page);
  while (serving_stats(loops[1]).deferred < 3) {
    check_pause();
  }
  check_barrier_release("filling");
  CHECK_EQ(check_touch_join(&first), image_byte(5 * page));
  CHECK_EQ(check_touch_join(&second), image_byte(5 * page));
  close_clones();
}

static int answer_half(struct asked *all, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)all;
  if (fault->offset >= PAGES / 2 * page) return uffd_set_errmsg(EIO, "No page at %" PRIu64 ".", fault->offset);
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = image;
  answer->offset = 0;
  answer->length = PAGES / 2 * page;
  return 0;
}

/* A page that cannot be had is poison for each, and is asked for by each; it is never zeros. */
static void pages_that_fail_are_poison_for_each(void) {
  check_needs(UFFD_FEAT_POISON);
  page = check_page();
  if (image == NULL) image = image_make(PAGES * page);
  asked = (struct asked){.answer = answer_half};
  uffd_resolver *below = asked_resolver(&asked);
  open_clones(UFFD_ENGINE_THREADS, below);
  uffd_resolver_close(below);
  for (unsigned i = 0; i < CLONES; i++) {
    unsigned char byte;
    CHECK(image_there(uffd_memory_address(memories[i]), 0, PAGES / 2 * page));
    CHECK_ERR(uffd_memory_read(memories[i], (PAGES / 2 + i) * page, &byte, 1), -EHWPOISON);
    CHECK_ERR(uffd_memory_read(memories[i], (PAGES / 2 + i + 1) * page, &byte, 1), -EHWPOISON);
  }
  close_clones();
}

/* A forked child that is served has the same pages, filled by whoever comes first. */
static void forked_children_share(void) {
  check_needs(UFFD_FEAT_EVENT_FORK);
  needs_minor(UFFD_MEMORY_MEMFD);
  page = check_page();
  if (image == NULL) image = image_make(PAGES * page);
  asked = (struct asked){.answer = answer_image};
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_resolver *below = asked_resolver(&asked), *shared;
  uffd_memory *memory;
  opts.kind = UFFD_MEMORY_MEMFD;
  opts.flags = UFFD_MAP_PRIVATE | UFFD_MAP_FORK;
  CHECK_OK(uffd_map(PAGES * page, &opts, &memory));
  CHECK_OK(uffd_resolver_shared(memory, below, &shared));
  uffd_resolver_close(below);
  uffd_loop *loop = open_loop(UFFD_ENGINE_THREADS, UFFD_FEAT_EVENT_FORK);
  region_add(loop, memory, shared, NULL);
  unsigned char *at = uffd_memory_address(memory);
  CHECK(image_there(at, 0, 10 * page));
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    bool right = image_there(at, 0, PAGES * page);
    at[0] = 1;
    _exit(right && at[0] == 1 ? 0 : 1);
  }
  check_child(child);
  CHECK(image_there(at, 0, PAGES * page));
  CHECK_EQ(asked.hits, PAGES);
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
}

static void huge_pages_are_shared(void) {
  const uint64_t huge = UINT64_C(2) << 20;
  needs_minor(UFFD_MEMORY_HUGETLB);
  uffd_memory *lent = memory_make(MEMORY_HUGETLB_PRIVATE, 3); /* reserves the pages, so that they are there */
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_resolver *below = image_resolver(3 * huge), *shared;
  opts.of = lent;
  uffd_memory *clone;
  CHECK_OK(uffd_map(3 * huge, &opts, &clone));
  uffd_memory *both[] = {lent, clone};
  uffd_loop *loop = open_loop(UFFD_ENGINE_THREADS, 0);
  CHECK_OK(uffd_resolver_shared(lent, below, &shared));
  for (unsigned i = 0; i < 2; i++) {
    CHECK_OK(uffd_loop_add(loop, both[i], shared, NULL, NULL));
  }
  for (unsigned i = 0; i < 2; i++) {
    CHECK(image_there(uffd_memory_address(both[i]), 0, 3 * huge));
  }
  CHECK_EQ(serving_stats(loop).continued, 6);
  CHECK_EQ(serving_stats(loop).errors, 0);
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(lent);
  uffd_memory_close(clone);
  uffd_resolver_close(below);
  uffd_resolver_close(shared);
}

/* Without a free huge page for its zeros it is an error: what the others share is not its contents any more. */
static void a_dropped_huge_page_is_not_the_others(void) {
  const uint64_t huge = UINT64_C(2) << 20;
  needs_minor(UFFD_MEMORY_HUGETLB);
  check_needs(UFFD_FEAT_EVENT_REMOVE);
  check_needs(UFFD_FEAT_POISON);
  uffd_memory *lent = memory_make(MEMORY_HUGETLB_PRIVATE, 1), *clone;
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_resolver *below = image_resolver(huge), *shared;
  opts.of = lent;
  CHECK_OK(uffd_map(huge, &opts, &clone));
  uffd_loop *loop = open_loop(UFFD_ENGINE_THREADS, UFFD_FEAT_EVENT_REMOVE);
  CHECK_OK(uffd_resolver_shared(lent, below, &shared));
  CHECK_OK(uffd_loop_add(loop, clone, shared, NULL, NULL));
  CHECK(image_there(uffd_memory_address(clone), 0, huge));
  CHECK_EQ(madvise(uffd_memory_address(clone), huge, MADV_DONTNEED), 0);
  uint64_t length = huge * check_number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
  if (length > 64 * huge) SKIP("this machine has more free huge pages than a test should take");
  unsigned char *hog = NULL;
  for (; length != 0 && hog == NULL; length -= hog == NULL ? huge : 0) { /* the reserved ones are not to be had */
    hog = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (hog == MAP_FAILED) hog = NULL;
  }
  for (uint64_t i = 0; i < length; i += huge) {
    hog[i] = 1;
  }
  struct check_touch touch;
  check_touch_read(&touch, uffd_memory_address(clone));
  CHECK_EQ(pthread_join(touch.thread, NULL), 0);
  if (touch.signal == 0) CHECK_EQ(touch.value, 0); /* somebody has given one back */
  CHECK(touch.signal == 0 || touch.signal == SIGBUS);
  if (hog != NULL) munmap(hog, length);
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(lent);
  uffd_memory_close(clone);
  uffd_resolver_close(below);
  uffd_resolver_close(shared);
}

static void what_cannot_be_shared_is_refused(void) {
  needs_minor(UFFD_MEMORY_MEMFD);
  page = check_page();
  uffd_resolver *zero, *shared, *other;
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_memory *memory = map_first(UFFD_MEMORY_MEMFD, 4 * page), *stranger = map_first(UFFD_MEMORY_MEMFD, 4 * page);
  uffd_memory *plain = memory_make(MEMORY_ANON, 4), *made = plain;
  CHECK_OK(uffd_resolver_zero(&zero));
  CHECK_ERR(uffd_resolver_shared(plain, zero, &shared), -EINVAL);
  CHECK(shared == NULL);
  CHECK_ERR(uffd_resolver_shared(memory, NULL, &shared), -EINVAL);
  opts.of = plain;
  CHECK_ERR(uffd_map(4 * page, &opts, &made), -EINVAL);
  CHECK(made == NULL);
  opts.of = memory;
  CHECK_ERR(uffd_map(5 * page, &opts, &made), -EINVAL);
  CHECK_SAYS("as long as");
  opts.name = "x";
  CHECK_ERR(uffd_map(4 * page, &opts, &made), -EINVAL);
  CHECK_OK(uffd_resolver_shared(memory, zero, &shared));
  CHECK_OK(uffd_resolver_shared(stranger, zero, &other));
  uffd_loop *loop = open_loop(UFFD_ENGINE_THREADS, 0);
  CHECK_ERR(uffd_loop_add(loop, stranger, shared, NULL, NULL), -EINVAL);
  CHECK_ERR(uffd_loop_add(loop, plain, shared, NULL, NULL), -EINVAL);
  /* at another offset the pages would be others: that is an error of the page */
  struct uffd_region_opts region_opts = UFFD_REGION_OPTS_INIT;
  unsigned char byte;
  region_opts.resolver_offset = page;
  region_opts.length = 2 * page;
  CHECK_OK(uffd_loop_add(loop, memory, shared, &region_opts, NULL));
  CHECK_ERR(uffd_memory_read(memory, 0, &byte, 1), -EHWPOISON);
  CHECK_OK(uffd_loop_close(loop));
  uffd_resolver_close(shared);
  uffd_resolver_close(other);
  uffd_resolver_close(zero);
  uffd_memory_close(memory);
  uffd_memory_close(stranger);
  uffd_memory_close(plain);
}

/* A region that was added before its memory shared anything has nothing to share: it keeps its resolver. */
static void an_older_region_does_not_get_it(void) {
  needs_minor(UFFD_MEMORY_MEMFD);
  page = check_page();
  uffd_resolver *below = image_resolver(4 * page), *shared;
  uffd_memory *memory = map_first(UFFD_MEMORY_MEMFD, 4 * page);
  uffd_loop *loop = open_loop(UFFD_ENGINE_THREADS, 0);
  uffd_region *region;
  CHECK_OK(uffd_loop_add(loop, memory, below, NULL, &region));
  CHECK_OK(uffd_resolver_shared(memory, below, &shared));
  CHECK_ERR(uffd_region_set_resolver(region, shared), -EINVAL);
  CHECK_SAYS("added since");
  CHECK(image_there(uffd_memory_address(memory), 0, 4 * page));
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
  uffd_resolver_close(below);
  uffd_resolver_close(shared);
}

static const struct check_test tests[] = {
    TEST(each_page_is_filled_once),
    TEST(what_is_written_is_ones_own),
    TEST(layers_above_are_ones_own),
    TEST(holes_that_were_read_are_asked_for),
    TEST(neighbours_in_a_huge_page_are_asked_for),
    TEST(the_memfd_is_sealed),
    TEST(answers_of_all_kinds_are_shared),
    TEST(clones_that_touch_at_the_same_time),
    TEST(a_page_that_is_being_filled_is_waited_for),
    TEST(pages_that_fail_are_poison_for_each),
    TEST(forked_children_share),
    TEST(huge_pages_are_shared),
    TEST(a_dropped_huge_page_is_not_the_others),
    TEST(what_cannot_be_shared_is_refused),
    TEST(an_older_region_does_not_get_it),
};

CHECK_MAIN(tests)
