/* Write protection and minor faults; reading and writing served memory by calls, also where the kernel takes no faults.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>

#include "kernel/object.h"
#include "loop/loop.h"
#include "serving.h"

#define PAGES 16

static struct serving serving;
static uffd_memory *memory;
static uffd_region *region;
static uint64_t page;

static unsigned char *at(uint64_t index) {
  return memory_at(memory, index * page);
}

static uint64_t length_of(int kind) {
  bool huge = kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_PRIVATE;
  return huge ? 4 * (UINT64_C(2) << 20) : PAGES * check_page();
}

static void serve(int engine, int kind, uint64_t modes, uint32_t open_flags, uffd_resolver *resolver) {
  struct uffd_loop_opts loop_opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  loop_opts.open_flags = open_flags;
  opts.modes = modes;
  serving_open(&serving, engine, &loop_opts);
  memory = memory_make(kind, length_of(kind) == PAGES * check_page() ? PAGES : 4);
  page = uffd_memory_page_size(memory);
  region = region_add(serving.loop, memory, resolver != NULL ? resolver : image_resolver(length_of(kind)), &opts);
  serving_start(&serving);
}

static void end(void) {
  serving_adds_up(serving.loop, page);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Write protection */

#define WP_MODES (UFFD_MODE_MISSING | UFFD_MODE_WP)

static bool is_protected(const void *address) {
  uint64_t entry = 0;
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  CHECK_EQ(pread(fd, &entry, 8, (off_t)(CHECK_ADDRESS(address) / check_page() * 8)), 8);
  close(fd);
  return (entry >> 57 & 1) != 0;
}

static void needs_wp(int kind) {
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP | (kind > MEMORY_THP ? UFFD_FEAT_WP_HUGETLBFS_SHMEM : 0));
}

static void pages_arrive_protected(void) {
  for (int i = 0; i < MEMORY_KINDS; i++) {
    int kind = memory_kinds[i];
    needs_wp(kind);
    serve(ENGINE_ONE, kind, WP_MODES, 0, NULL);
    CHECK_EQ(*at(1), image_byte(page));
    CHECK(is_protected(at(1)));
    at(1)[7] = 0;
    CHECK(!is_protected(at(1)));
    at(1)[8] = 0;
    CHECK(image_there(at(1) + 9, page + 9, page - 9));
    struct uffd_stats stats = serving_stats(serving.loop);
    CHECK_EQ(stats.missing, 1);
    CHECK_EQ(stats.wp, 1);
    CHECK_EQ(stats.unprotected, 1);
    CHECK_EQ(stats.writes, 1);
    CHECK_OK(uffd_region_prefetch(region, 0, 3 * page));
    CHECK(is_protected(at(0)) && !is_protected(at(1)) && is_protected(at(2)));
    at(2)[0] = 1;
    CHECK_EQ(serving_stats(serving.loop).unprotected, 2);
    at(3)[5] = 0; /* a write that brings its page in needs no protection */
    CHECK(!is_protected(at(3)));
    CHECK_EQ(serving_stats(serving.loop).wp, 2);
    CHECK_EQ(serving_stats(serving.loop).writes, 3);
    CHECK_OK(uffd_region_complete(region));
    CHECK(!memory_has(memory, 0, "uw"));
    CHECK(!is_protected(at(0)));
    at(0)[0] = 1;
    CHECK_EQ(serving_stats(serving.loop).wp, 2);
    end();
  }
}

/* The pages around a write arrive protected, its own too: the write is counted as any first write. */
static void a_write_that_brings_several_pages(void) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  needs_wp(MEMORY_ANON);
  page = check_page();
  opts.modes = WP_MODES;
  opts.around = 4 * page;
  serving_open(&serving, ENGINE_ONE, NULL);
  memory = memory_make(MEMORY_ANON, PAGES);
  region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
  *at(1) = 1;
  CHECK(is_protected(at(0)) && !is_protected(at(1)) && is_protected(at(2)) && is_protected(at(3)));
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.missing, 1);
  CHECK_EQ(stats.wp, 1);
  CHECK_EQ(stats.copied, 4);
  end();
}

/* The same for a system call that is to write there. */
static void prefaulting_for_a_write_unprotects(void) {
  struct uffd_loop_opts loop_opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  needs_wp(MEMORY_ANON);
  page = check_page();
  loop_opts.open_flags = UFFD_OPEN_USER_MODE_ONLY;
  opts.modes = WP_MODES;
  opts.around = 4 * page;
  serving_open(&serving, ENGINE_ONE, &loop_opts);
  memory = memory_make(MEMORY_ANON, PAGES);
  region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
  CHECK_OK(uffd_memory_prefault(memory, page, 1, 1));
  CHECK(is_protected(at(0)) && !is_protected(at(1)) && is_protected(at(2)));
  CHECK_EQ(serving_stats(serving.loop).unprotected, 1);
  end();
}

static void zeros_and_moved_pages_arrive_protected(void) {
  needs_wp(MEMORY_HUGETLB);
  uffd_resolver *resolver;
  for (int kind = MEMORY_ANON; kind <= MEMORY_HUGETLB; kind += 2) {
    CHECK_OK(uffd_resolver_zero(&resolver));
    serve(ENGINE_ONE, kind, WP_MODES, 0, resolver);
    CHECK_EQ(*at(1), 0);
    CHECK(is_protected(at(1)));
    *at(1) = 1;
    CHECK_EQ(serving_stats(serving.loop).zero, 1);
    CHECK_EQ(serving_stats(serving.loop).unprotected, 1);
    end();
  }
  uffd_memory *source = memory_make(MEMORY_ANON, PAGES);
  memset(memory_at(source, 0), 'm', PAGES * check_page());
  CHECK_OK(uffd_resolver_move(source, 0, &resolver));
  serve(ENGINE_ONE, MEMORY_ANON, WP_MODES, 0, resolver);
  CHECK_EQ(*at(1), 'm');
  CHECK(is_protected(at(1)));
  CHECK_EQ(serving_stats(serving.loop).copied, 1); /* moving would lose the protection */
  end();
  uffd_memory_close(source);
}

/* Many threads write, each its own byte of every page, others read: nothing is lost, and every page is seen to be
 * written before it is: by its own fault, or by the fault that brought it. */
struct writer {
  struct check_thread thread;
  unsigned number;
};

#define WRITTEN_PAGES 600
static _Atomic uint8_t seen_written[WRITTEN_PAGES];

static void write_everywhere(void *ctx) {
  struct writer *writer = ctx;
  for (uint64_t i = 0; i < WRITTEN_PAGES; i++) {
    uint64_t index = (i * 7 + writer->number * 100) % WRITTEN_PAGES;
    if (writer->number % 2 == 1) CHECK_EQ(at(index)[4000], image_byte(index * page + 4000));
    at(index)[writer->number] = (unsigned char)(writer->number + index);
  }
}

static void note_writes(void *ctx, const struct uffd_trace *trace) {
  (void)ctx;
  bool brought = (trace->flags & UFFD_FAULT_WRITE) != 0 && (trace->flags & UFFD_FAULT_WP) == 0 &&
                 trace->cover == page && trace->outcome == UFFD_OUTCOME_INSTALLED;
  if (brought || (trace->flags & UFFD_FAULT_WP) != 0) atomic_store(&seen_written[trace->offset / page], 1);
}

static void no_write_is_lost(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    for (int around = 0; around < 2; around++) {
      struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
      needs_wp(MEMORY_ANON);
      page = check_page();
      memset((void *)seen_written, 0, sizeof(seen_written));
      opts.modes = WP_MODES;
      opts.around = around ? 8 * page : 0;
      serving_open(&serving, engine, NULL);
      memory = memory_make(MEMORY_ANON, WRITTEN_PAGES);
      region_add(serving.loop, memory, image_resolver(WRITTEN_PAGES * page), &opts);
      CHECK_OK(uffd_loop_trace(serving.loop, note_writes, NULL));
      serving_start(&serving);
      struct writer writers[6];
      for (unsigned i = 0; i < 6; i++) {
        writers[i].number = i;
        check_thread_start(&writers[i].thread, write_everywhere, &writers[i]);
      }
      for (unsigned i = 0; i < 6; i++) {
        check_thread_join(&writers[i].thread);
      }
      serving_stats(serving.loop); /* the last pass is over */
      serving_pause(&serving);
      for (uint64_t i = 0; i < WRITTEN_PAGES; i++) {
        for (unsigned w = 0; w < 6; w++) {
          CHECK_EQ(at(i)[w], (unsigned char)(w + i));
        }
        CHECK(image_there(at(i) + 6, i * page + 6, page - 6));
        CHECK(atomic_load(&seen_written[i]));
      }
      end();
    }
  }
}

/* Minor faults */

static void needs_minor(int kind) {
  check_needs(kind < MEMORY_HUGETLB ? UFFD_FEAT_MINOR_SHMEM : UFFD_FEAT_MINOR_HUGETLBFS);
}

static void what_the_page_cache_has_is_mapped(void) {
  for (int kind = MEMORY_MEMFD; kind <= MEMORY_HUGETLB_PRIVATE; kind++) {
    for (int filled = 0; filled < 2; filled++) {
      needs_minor(kind);
      uffd_resolver *fill = filled ? image_resolver(length_of(kind)) : NULL, *resolver;
      CHECK_OK(uffd_resolver_continue(fill, &resolver));
      uffd_resolver_close(fill);
      serve(ENGINE_ONE, kind, 0, 0, resolver);
      CHECK(memory_has(memory, 0, "um") && memory_has(memory, 0, "ui")); /* both, for such a resolver */
      memset((char *)uffd_memory_alias(memory) + page, 'c', page);
      CHECK(check_filled(at(1), page, 'c'));
      if (filled) CHECK(image_there(at(2), 2 * page, page));
      if (!filled) CHECK(check_filled(at(2), page, 0));
      at(1)[3] = 'w';
      struct uffd_stats stats = serving_stats(serving.loop);
      CHECK_EQ(stats.minor, 1);
      CHECK_EQ(stats.missing, 1);
      CHECK_EQ(stats.continued, 1);
      CHECK_EQ(filled ? stats.copied : stats.zero, 1);
      CHECK_EQ(stats.errors, 0);
      bool private = kind == MEMORY_MEMFD_PRIVATE || kind == MEMORY_HUGETLB_PRIVATE;
      CHECK_EQ(((unsigned char *)uffd_memory_alias(memory))[page + 3], private ? 'c' : 'w');
      CHECK_OK(uffd_region_complete(region)); /* prefetches both kinds */
      CHECK(check_filled(at(1) + 4, page - 4, 'c'));
      if (filled) CHECK(image_there(at(3), 3 * page, page));
      end();
    }
  }
}

/* The page cache loses a page between the message and CONTINUE: it is missing then. */
static void a_hole_is_punched_meanwhile(void) {
  for (int kind = MEMORY_MEMFD; kind <= MEMORY_HUGETLB; kind += 2) {
    needs_minor(kind);
    uffd_resolver *fill = image_resolver(length_of(kind)), *resolver;
    CHECK_OK(uffd_resolver_continue(fill, &resolver));
    uffd_resolver_close(fill);
    serve(ENGINE_ONE, kind, 0, 0, resolver);
    memset((char *)uffd_memory_alias(memory) + page, 'c', 2 * page);
    struct check_touch touch;
    check_barrier_hold("installing");
    check_touch_read(&touch, at(1) + 9);
    check_barrier_await("installing");
    CHECK_EQ(fallocate(CHECK_OK(uffd_memory_fd(memory)), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)page,
                       (off_t)page),
             0);
    check_barrier_release("installing");
    CHECK_EQ(check_touch_join(&touch), image_byte(page + 9));
    CHECK_EQ(serving_stats(serving.loop).copied, 1);
    CHECK_EQ(serving_stats(serving.loop).errors, 0);
    CHECK_EQ(*at(2), 'c');
    end();
  }
}

/* A resolver that knows nothing of page caches answers for minor faults too: what the file has is shown. */
static void other_answers_to_minor_faults(void) {
  for (int kind = MEMORY_MEMFD; kind <= MEMORY_HUGETLB; kind += 2) {
    for (int zero = 0; zero < 2; zero++) {
      needs_minor(kind);
      uffd_resolver *resolver = NULL;
      if (zero) CHECK_OK(uffd_resolver_zero(&resolver));
      serve(ENGINE_ONE, kind, UFFD_MODE_MISSING | UFFD_MODE_MINOR, 0, resolver);
      memset((char *)uffd_memory_alias(memory) + page, 'c', page);
      CHECK(check_filled(at(1), page, 'c'));
      CHECK_EQ(*at(2), zero ? 0 : image_byte(2 * page));
      CHECK_EQ(serving_stats(serving.loop).continued, 1);
      CHECK_EQ(serving_stats(serving.loop).minor, 1);
      CHECK_OK(uffd_region_complete(region));
      CHECK(check_filled(at(1), page, 'c'));
      CHECK_EQ(*at(3), zero ? 0 : image_byte(3 * page));
      end();
    }
  }
}

static void minor_faults_and_write_protection(void) {
  needs_minor(MEMORY_MEMFD);
  needs_wp(MEMORY_MEMFD);
  check_needs(UFFD_FEAT_WP_UNPOPULATED); /* Linux 6.4, as a page that is continued protected */
  uffd_resolver *resolver;
  CHECK_OK(uffd_resolver_continue(NULL, &resolver));
  serve(ENGINE_ONE, MEMORY_MEMFD, UFFD_MODE_MISSING | UFFD_MODE_MINOR | UFFD_MODE_WP, 0, resolver);
  memset(uffd_memory_alias(memory), 'c', PAGES * page);
  CHECK_EQ(*at(1), 'c');
  CHECK(is_protected(at(1)));
  *at(1) = 'w';
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.minor, 1);
  CHECK_EQ(stats.wp, 1);
  CHECK_EQ(stats.unprotected, 1);
  end();
}

/* Sleepers of both kinds, which the kernel does not wake when a range is unregistered. */
static void remove_region(void *ctx) {
  (void)ctx;
  CHECK_OK(uffd_region_remove(region));
}

/* What Linux before 6.4 says of itself. */
static void hide_unpopulated(const char *name, void *ctx) {
  if (strcmp(name, "features") == 0) *(uint64_t *)ctx &= ~UFFD_FEAT_WP_UNPOPULATED;
}

/* The page would be mapped writable, and the first write unseen; or the fault would be asked again for ever. */
static void minor_faults_are_not_protected_before_6_4(void) {
  needs_minor(MEMORY_MEMFD);
  needs_wp(MEMORY_MEMFD);
  atomic_store(&uffd_barrier_hook, hide_unpopulated);
  page = check_page();
  uffd_resolver *resolver;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  CHECK_OK(uffd_resolver_continue(NULL, &resolver));
  serving_open(&serving, ENGINE_ONE, NULL);
  memory = memory_make(MEMORY_MEMFD, PAGES);
  opts.modes = UFFD_MODE_MISSING | UFFD_MODE_MINOR | UFFD_MODE_WP;
  CHECK_ERR(uffd_loop_add(serving.loop, memory, resolver, &opts, NULL), -EOPNOTSUPP);
  CHECK_SAYS("Linux 6.4");
  uffd_resolver_close(resolver);
  opts.modes = UFFD_MODE_MISSING | UFFD_MODE_WP; /* minor faults, which are on guard elsewhere, are not told here */
  region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
  CHECK_EQ(*at(1), image_byte(page));
  CHECK(is_protected(at(1)));
  *at(1) = 'w';
  CHECK_EQ(serving_stats(serving.loop).wp, 1);
  end();
  uffd_object *object = check_open(0);
  uint64_t done;
  memory = memory_make(MEMORY_MEMFD, 1);
  uint64_t address = CHECK_ADDRESS(uffd_memory_address(memory));
  CHECK_OK(uffd_register(object, address, page, UFFD_MODE_MINOR | UFFD_MODE_WP, NULL));
  object->available &= ~UFFD_FEAT_WP_UNPOPULATED;
  CHECK_ERR(uffd_continue(object, address, page, UFFD_CONTINUE_WP | 1 << 7, &done), -EINVAL);
  CHECK_SAYS("UFFD_CONTINUE_WP (Linux 6.4 has)");
  uffd_close(object);
  uffd_memory_close(memory);
}

static void removing_lets_writers_and_minor_sleepers_go(void) {
  serving_needs_handlers("Nobody sleeps in a fault.");
  needs_minor(MEMORY_MEMFD);
  needs_wp(MEMORY_MEMFD);
  check_needs(UFFD_FEAT_WP_UNPOPULATED); /* Linux 6.4, as a page that is continued protected */
  uffd_resolver *resolver;
  CHECK_OK(uffd_resolver_continue(NULL, &resolver));
  serve(ENGINE_ONE, MEMORY_MEMFD, UFFD_MODE_MISSING | UFFD_MODE_MINOR | UFFD_MODE_WP, 0, resolver);
  memset(uffd_memory_alias(memory), 'c', PAGES * page);
  CHECK_EQ(*at(1), 'c');
  struct check_touch first, writer, reader;
  struct check_thread remover;
  check_barrier_hold("drained");
  check_touch_read(&first, at(5));
  check_barrier_await("drained");
  check_touch_write(&writer, at(1), 'w');
  check_touch_read(&reader, at(2));
  check_touch_asleep(&writer);
  check_touch_asleep(&reader);
  check_thread_start(&remover, remove_region, NULL);
  check_touch_join(&writer); /* though the handler has not moved */
  CHECK_EQ(check_touch_join(&reader), 'c');
  CHECK_EQ(check_touch_join(&first), 'c');
  check_barrier_release("drained");
  check_thread_join(&remover);
  CHECK_EQ(*at(1), 'w');
  end();
}

/* Reading and writing by calls */

static int fail_at_5(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  if (fault->offset == 5 * fault->page_size) return uffd_set_errmsg(EIO, "Page 5 is bad.");
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = (unsigned char *)asked->ctx + fault->offset;
  return 0;
}

/* The same with and without faults of the kernel. */
static void read_and_write(uint32_t open_flags, int engine, int kind, uint64_t modes) {
  check_needs(UFFD_FEAT_POISON);
  needs_wp(kind);
  uint64_t huge = UINT64_C(2) << 20, size = kind == MEMORY_HUGETLB ? huge : check_page();
  struct asked asked = {.answer = fail_at_5, .ctx = image_make(length_of(kind))};
  unsigned char *buffer = malloc(4 * size);
  CHECK(buffer != NULL);
  serve(engine, kind, modes, open_flags, asked_resolver(&asked));
  if (open_flags == UFFD_OPEN_USER_MODE_ONLY) CHECK_EQ(uffd_loop_user_mode_only(serving.loop), 1);
  CHECK_OK(uffd_memory_read(memory, page - 100, buffer, 2 * page + 50));
  CHECK(image_there(buffer, page - 100, 2 * page + 50));
  CHECK_OK(uffd_memory_write(memory, page - 3, "across", 6)); /* pages that are there, perhaps protected */
  CHECK_EQ(memcmp(at(1) - 3, "across", 6), 0);
  CHECK_OK(uffd_memory_write(memory, 3 * page + 8, "missing", 7));
  CHECK_EQ(memcmp(at(3) + 8, "missing", 7), 0);
  CHECK(image_there(at(3) + 15, 3 * page + 15, page - 15));
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.copied, 4);
  CHECK_EQ(stats.missing, 4);
  CHECK_EQ(stats.wp, (modes & UFFD_MODE_WP) != 0 ? 2 : 0);
  CHECK_EQ(stats.unprotected, (modes & UFFD_MODE_WP) != 0 ? 3 : 0); /* page 3 has come unprotected */
  if (kind != MEMORY_HUGETLB) {
    CHECK_ERR(uffd_memory_read(memory, 4 * page, buffer, 2 * page), -EHWPOISON);
    CHECK_SAYS("poison");
    CHECK(image_there(buffer, 4 * page, page)); /* what is before it was copied */
    CHECK_ERR(uffd_memory_write(memory, 5 * page + 9, "x", 1), -EHWPOISON);
    CHECK_EQ(serving_stats(serving.loop).errors, 1);
  }
  CHECK_ERR(uffd_memory_read(memory, uffd_memory_length(memory), buffer, 1), -ERANGE);
  free(buffer);
  munmap(asked.ctx, length_of(kind));
  end();
}

static void by_calls_in_kernel_mode(void) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  uffd_object *object;
  opts.flags = UFFD_OPEN_NO_USER_MODE_ONLY;
  if (uffd_open(&opts, &object) < 0) SKIP("faults of the kernel need privilege");
  uffd_close(object);
  for (int engine = 0; engine < ENGINES; engine++) {
    read_and_write(UFFD_OPEN_NO_USER_MODE_ONLY, engine, MEMORY_ANON, 0);
    read_and_write(UFFD_OPEN_NO_USER_MODE_ONLY, engine, MEMORY_MEMFD, WP_MODES);
  }
  read_and_write(UFFD_OPEN_NO_USER_MODE_ONLY, ENGINE_ONE, MEMORY_HUGETLB, WP_MODES);
}

static void by_calls_in_user_mode_only(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    read_and_write(UFFD_OPEN_USER_MODE_ONLY, engine, MEMORY_ANON, 0);
    read_and_write(UFFD_OPEN_USER_MODE_ONLY, engine, MEMORY_ANON, WP_MODES);
    read_and_write(UFFD_OPEN_USER_MODE_ONLY, engine, MEMORY_MEMFD, WP_MODES);
  }
  read_and_write(UFFD_OPEN_USER_MODE_ONLY, ENGINE_ONE, MEMORY_HUGETLB, WP_MODES);
}

/* User mode only */

static void minor_pages_are_brought_in(void) {
  for (int plain = 0; plain < 2; plain++) {
    needs_minor(MEMORY_MEMFD);
    uffd_resolver *resolver = NULL;
    unsigned char buffer[2 * 4096];
    if (!plain) CHECK_OK(uffd_resolver_continue(NULL, &resolver));
    serve(ENGINE_ONE, MEMORY_MEMFD, UFFD_MODE_MISSING | UFFD_MODE_MINOR, UFFD_OPEN_USER_MODE_ONLY, resolver);
    memset((char *)uffd_memory_alias(memory) + page, 'c', page);
    CHECK_OK(uffd_memory_read(memory, page, buffer, 2 * page));
    CHECK(check_filled(buffer, page, 'c'));
    CHECK_EQ(buffer[page], plain ? image_byte(2 * page) : 0);
    CHECK_OK(uffd_memory_write(memory, 3 * page, "three", 5));
    CHECK_EQ(memcmp(at(3), "three", 5), 0);
    end();
  }
}

/* Dropped, and zeros since: protected zeros can be written to. */
static void dropped_pages_are_brought_in(void) {
  struct uffd_loop_opts loop_opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  unsigned char buffer[4096];
  needs_wp(MEMORY_ANON);
  page = check_page();
  loop_opts.open_flags = UFFD_OPEN_USER_MODE_ONLY;
  loop_opts.features = UFFD_FEAT_EVENT_REMOVE;
  opts.modes = WP_MODES;
  serving_open(&serving, ENGINE_ONE, &loop_opts);
  memory = memory_make(MEMORY_ANON, PAGES);
  region_add(serving.loop, memory, image_resolver(PAGES * page), &opts);
  CHECK_EQ(madvise(at(2), page, MADV_DONTNEED), 0);
  CHECK_OK(uffd_memory_read(memory, 2 * page, buffer, page));
  CHECK(check_filled(buffer, page, 0));
  CHECK(is_protected(at(2)));
  CHECK_OK(uffd_memory_write(memory, 2 * page, "again", 5));
  CHECK_EQ(memcmp(at(2), "again", 5), 0);
  CHECK_EQ(serving_stats(serving.loop).unprotected, 1);
  end();
}

/* Poison that was dropped without an event is asked for again. */
static _Atomic bool failing;

static int fail_while_told(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault, (void)answer;
  return atomic_load(&failing) ? uffd_set_errmsg(EIO, "Not now.") : 0;
}

static void dropped_poison_is_brought_in(void) {
  struct asked asked = {.answer = fail_while_told};
  unsigned char byte = 1;
  check_needs(UFFD_FEAT_POISON);
  serve(ENGINE_ONE, MEMORY_ANON, 0, UFFD_OPEN_USER_MODE_ONLY, asked_resolver(&asked));
  atomic_store(&failing, true);
  CHECK_ERR(uffd_memory_read(memory, 2 * page, &byte, 1), -EHWPOISON);
  CHECK_ERR(uffd_memory_read(memory, 2 * page, &byte, 1), -EHWPOISON);
  CHECK_EQ(serving_stats(serving.loop).errors, 1);
  atomic_store(&failing, false);
  CHECK_ERR(uffd_memory_read(memory, 2 * page, &byte, 1), -EHWPOISON);
  CHECK_EQ(madvise(at(2), page, MADV_DONTNEED), 0);
  CHECK_OK(uffd_memory_read(memory, 2 * page, &byte, 1));
  CHECK_EQ(byte, 0);
  end();
}

static _Atomic bool waiting;

static int answer_when_told(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault;
  if (atomic_load(&waiting)) answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

static void read_page_0(void *ctx) {
  unsigned char *byte = ctx;
  CHECK_OK(uffd_memory_read(memory, 0, byte, 1));
}

/* A thread waits in a read when the loop closes or the region is removed: it reads what the memory is from then on. */
static void closing_under_a_read(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    for (int removing = 0; removing < 2; removing++) {
      struct asked asked = {.answer = answer_when_told};
      atomic_store(&waiting, true);
      if (removing && engine == ENGINE_PUMP) continue;
      serve(engine, MEMORY_ANON, 0, UFFD_OPEN_USER_MODE_ONLY, asked_resolver(&asked));
      struct check_thread reader;
      unsigned char byte = 1;
      check_thread_start(&reader, read_page_0, &byte);
      while (atomic_load(&asked.hits) == 0) {
        check_pause();
      }
      if (!removing) {
        serving_close(&serving);
        check_thread_join(&reader);
        CHECK_EQ(byte, 0);
        uffd_memory_close(memory);
        continue;
      }
      /* removing waits for requests under way: they are answered first */
      atomic_store(&waiting, false);
      CHECK_OK(uffd_region_remove(region));
      check_thread_join(&reader);
      CHECK_EQ(byte, 0);
      end();
    }
  }
}

/* The driver of a pump may read itself: it does the work that it waits for. Other threads wait for the driver. */
static void reading_what_a_pump_serves(void) {
  unsigned char byte = 0;
  serve(ENGINE_PUMP, MEMORY_ANON, 0, UFFD_OPEN_USER_MODE_ONLY, NULL);
  struct check_thread readers[3];
  unsigned char bytes[3] = {0};
  for (unsigned i = 0; i < 3; i++) {
    check_thread_start(&readers[i], read_page_0, &bytes[i]);
  }
  for (unsigned i = 0; i < 3; i++) {
    check_thread_join(&readers[i]);
    CHECK_EQ(bytes[i], image_byte(0));
  }
  serving_pause(&serving);
  CHECK_OK(uffd_region_prefetch(region, page, page)); /* this thread is the driver from here on */
  CHECK_OK(uffd_memory_read(memory, 2 * page, &byte, 1));
  CHECK_EQ(byte, image_byte(2 * page));
  struct check_thread reader;
  byte = 0;
  CHECK_EQ(madvise(at(0), page, MADV_DONTNEED), 0);
  check_thread_start(&reader, read_page_0, &byte);
  while (!atomic_load(&reader.done)) {
    CHECK_OK(uffd_loop_step(serving.loop, 1));
  }
  check_thread_join(&reader);
  CHECK_EQ(byte, image_byte(0));
  end();
}

/* A callback that reads what its own loop serves would wait for itself. */
static int read_own_memory(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  unsigned char byte;
  (void)asked, (void)answer;
  if (fault->offset == 0) CHECK_ERR(uffd_memory_read(memory, fault->page_size, &byte, 1), -EDEADLK);
  return 0;
}

static void a_callback_cannot_read_what_its_loop_serves(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct asked asked = {.answer = read_own_memory};
    serve(engine, MEMORY_ANON, 0, UFFD_OPEN_USER_MODE_ONLY, asked_resolver(&asked));
    CHECK_EQ(*at(0), 0);
    CHECK_EQ(asked.hits, 1);
    end();
  }
}

static const struct check_test tests[] = {
    TEST(pages_arrive_protected),
    TEST(a_write_that_brings_several_pages),
    TEST(prefaulting_for_a_write_unprotects),
    TEST(zeros_and_moved_pages_arrive_protected),
    TEST(no_write_is_lost),
    TEST(what_the_page_cache_has_is_mapped),
    TEST(a_hole_is_punched_meanwhile),
    TEST(other_answers_to_minor_faults),
    TEST(minor_faults_and_write_protection),
    TEST(minor_faults_are_not_protected_before_6_4),
    TEST(removing_lets_writers_and_minor_sleepers_go),
    TEST(by_calls_in_kernel_mode),
    TEST(by_calls_in_user_mode_only),
    TEST(minor_pages_are_brought_in),
    TEST(dropped_pages_are_brought_in),
    TEST(dropped_poison_is_brought_in),
    TEST(closing_under_a_read),
    TEST(reading_what_a_pump_serves),
    TEST(a_callback_cannot_read_what_its_loop_serves),
};
CHECK_MAIN(tests)
