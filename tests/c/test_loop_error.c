/* Answers of every kind and size, wrong answers, and what becomes of a page whose resolver failed. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>

#include "base/base.h"
#include "serving.h"

#define PAGES 16

static struct serving serving;
static uffd_memory *memory;
static uffd_region *region;
static uint64_t page;

static unsigned char *at(uint64_t index) {
  return memory_at(memory, index * page);
}

static void serve_with(int engine, uint32_t on_error, uffd_resolver *resolver, const struct uffd_region_opts *opts) {
  struct uffd_loop_opts loop_opts = UFFD_LOOP_OPTS_INIT;
  loop_opts.on_error = on_error;
  page = check_page();
  serving_open(&serving, engine, &loop_opts);
  memory = memory_make(MEMORY_ANON, PAGES);
  region = region_add(serving.loop, memory, resolver, opts);
  serving_start(&serving);
}

static void end(void) {
  serving_adds_up(serving.loop, page);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* Answers of every kind and size */

static pthread_mutex_t telling = PTHREAD_MUTEX_INITIALIZER;
static struct uffd_answer given_answer; /* what the callback answers; its offset is added to the fault's */
static struct uffd_fault seen_fault;    /* what it was asked last */

static void give(struct uffd_answer answer) {
  pthread_mutex_lock(&telling);
  given_answer = answer;
  pthread_mutex_unlock(&telling);
}

static struct uffd_fault see(void) {
  pthread_mutex_lock(&telling);
  struct uffd_fault fault = seen_fault;
  pthread_mutex_unlock(&telling);
  return fault;
}

static int answer_given(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  CHECK_EQ(answer->kind, UFFD_ANSWER_ZERO); /* as the header says that it is found */
  CHECK_EQ(answer->offset, fault->offset);
  CHECK_EQ(answer->length, fault->page_size);
  CHECK(answer->data == NULL && answer->resolver == NULL);
  pthread_mutex_lock(&telling);
  seen_fault = *fault;
  *answer = given_answer;
  pthread_mutex_unlock(&telling);
  answer->offset += fault->offset;
  return 0;
}

static struct asked giver = {.answer = answer_given};

static void what_a_callback_is_asked(void) {
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  int cookie;
  page = check_page();
  opts.offset = 2 * page;
  opts.length = 12 * page;
  opts.resolver_offset = 100 * page;
  opts.around = 5 * page;
  opts.cookie = &cookie;
  give((struct uffd_answer){.kind = UFFD_ANSWER_ZERO, .length = page});
  serve_with(ENGINE_ONE, 0, asked_resolver(&giver), &opts);
  struct check_touch touch;
  check_touch_write(&touch, at(8), 1); /* page 6 of the region: the second of its block of 5 */
  int tid = touch.tid;
  check_touch_join(&touch);
  struct uffd_fault seen = see();
  CHECK_EQ(seen.offset, 106 * page);
  CHECK_EQ(seen.region_offset, 6 * page);
  CHECK_EQ(seen.address, CHECK_ADDRESS(at(8)));
  CHECK_EQ(seen.page_size, page);
  CHECK_EQ(seen.cover_offset, 105 * page);
  CHECK_EQ(seen.cover_length, 5 * page);
  CHECK_EQ(seen.flags, UFFD_FAULT_WRITE);
  CHECK_EQ(seen.tid, tid);
  CHECK_EQ(seen.handler, serving_inline() ? 1 : 0);
  CHECK(seen.cookie == &cookie);
  CHECK_EQ(*at(3), 0); /* page 1, of the block from 0 on */
  seen = see();
  CHECK_EQ(seen.flags, 0);
  CHECK_EQ(seen.cover_offset, 100 * page);
  CHECK_EQ(*at(13), 0); /* page 11: the last block has two */
  seen = see();
  CHECK_EQ(seen.cover_offset, 110 * page);
  CHECK_EQ(seen.cover_length, 2 * page);
  CHECK_OK(uffd_region_prefetch(region, 7 * page, 2 * page));
  seen = see();
  CHECK_EQ(seen.flags, UFFD_FAULT_PREFETCH);
  CHECK_EQ(seen.tid, 0);
  CHECK_EQ(seen.handler, 0);
  CHECK_EQ(seen.offset, 108 * page); /* one page an answer: this was the second */
  CHECK_EQ(seen.cover_length, page);
  end();
}

static void answers_of_every_kind(void) {
  check_needs(0);
  const bool poisons = check_has(UFFD_FEAT_POISON), moves = check_has(UFFD_FEAT_MOVE); /* 6.6; 6.8, else it copies */
  unsigned char *image = image_make(PAGES * check_page());
  give((struct uffd_answer){.kind = UFFD_ANSWER_ZERO, .length = check_page()});
  serve_with(ENGINE_ONE, 0, asked_resolver(&giver), NULL);
  CHECK_EQ(*at(0), 0);
  give((struct uffd_answer){.kind = UFFD_ANSWER_BYTES, .length = page, .data = image});
  CHECK(image_there(at(1), 0, page));
  give((struct uffd_answer){.kind = UFFD_ANSWER_MOVE, .length = page, .data = image + page});
  CHECK(image_there(at(2), page, page));
  if (moves) CHECK_EQ(image[page], 0); /* gone from there */
  if (poisons) {
    give((struct uffd_answer){.kind = UFFD_ANSWER_POISON, .length = page});
    CHECK_EQ(check_access(at(3), false, NULL), SIGBUS);
  }
  struct uffd_stats stats = serving_stats(serving.loop);
  CHECK_EQ(stats.zero, 1);
  CHECK_EQ(stats.copied, 1 + !moves);
  CHECK_EQ(stats.moved, moves);
  CHECK_EQ(stats.poisoned, poisons);
  CHECK_EQ(stats.bytes, 3 * page);
  CHECK_EQ(stats.policy_calls, 3 + poisons);
  CHECK_EQ(stats.errors, 0);
  end();
}

/* Whoever faults goes on when its own page is there; the rest of the answer may come a moment later. */
static void await_pages(const char *pages, unsigned char *resident) {
  uint64_t missing;
  do {
    missing = 0;
    CHECK_EQ(mincore(at(0), PAGES * page, resident), 0);
    for (uint64_t p = 0; p < PAGES; p++) {
      if (pages[p] != '.' && (resident[p] & 1) == 0) missing++;
    }
    if (missing != 0) check_pause();
  } while (missing != 0);
}

static void answers_of_every_size(void) {
  static const struct {
    int64_t before;    /* pages before the fault */
    uint64_t length;   /* bytes from there, in 1/4 pages */
    const char *pages; /* what is there then, with a fault at page 8 */
  } answers[] = {
      {0, 1, "........8......."},   {0, 4, "........8......."},    {0, 5, "........89......"},
      {0, 64, "........89abcdef"},  {-1, 5, ".......78......."},   {-1, 8, ".......78......."},
      {-8, 64, "0123456789abcdef"}, {-8, 36, "012345678......."},  {-20, 200, "0123456789abcdef"},
      {-9, 37, "012345678......."}, {0, 4000, "........89abcdef"},
  };
  unsigned char *image = image_make(1024 * check_page());
  for (unsigned i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
    for (unsigned shift = 0; shift < 4096; shift += 1111) { /* data at any address */
      struct uffd_answer given = {.kind = UFFD_ANSWER_BYTES};
      page = check_page();
      given.offset = (uint64_t)answers[i].before * page; /* modulo 2^64 */
      given.length = answers[i].length * page / 4;
      unsigned char *data = image + 100 * page + given.offset + shift;
      given.data = data;
      give(given);
      struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
      opts.resolver_offset = 100 * page;
      serve_with(ENGINE_ONE, 0, asked_resolver(&giver), &opts);
      CHECK_EQ(*at(8), image_byte(100 * page + shift));
      uint64_t filled = 0;
      unsigned char resident[PAGES];
      await_pages(answers[i].pages, resident);
      uint64_t copied = serving_stats(serving.loop).copied;
      for (uint64_t p = 0; p < PAGES; p++) {
        bool there = answers[i].pages[p] != '.';
        CHECK_EQ(resident[p] & 1, there);
        if (!there) continue;
        filled++;
        uint64_t from_fault = (p - 8) * page, end_of_data = given.offset + given.length; /* modulo 2^64 */
        int64_t has = (int64_t)(end_of_data - from_fault);
        uint64_t whole = has < 0 ? 0 : (uint64_t)has < page ? (uint64_t)has : page;
        CHECK(image_there(at(p), 100 * page + from_fault + shift, whole));
        CHECK(check_filled(at(p) + whole, page - whole, 0));
      }
      CHECK_EQ(copied, filled);
      CHECK_EQ(serving_stats(serving.loop).errors, 0);
      end();
    }
  }
}

/* Wrong answers */

static void wrong_answers_are_refused(void) {
  unsigned char *image = image_make(4 * check_page());
  page = check_page();
  const struct uffd_answer wrong[] = {
      {.kind = 99, .length = page},
      {.kind = UFFD_ANSWER_ZERO, .length = 0},
      {.kind = UFFD_ANSWER_ZERO, .length = 100},
      {.kind = UFFD_ANSWER_BYTES, .length = page},                                    /* no data */
      {.kind = UFFD_ANSWER_BYTES, .length = 0, .data = image},                        /* nothing */
      {.kind = UFFD_ANSWER_BYTES, .length = page, .data = image, .offset = page},     /* begins after it */
      {.kind = UFFD_ANSWER_BYTES, .length = page, .data = image, .offset = 0 - page}, /* ends before it */
      {.kind = UFFD_ANSWER_BYTES, .length = 2 * page, .data = image, .offset = 0 - page / 2},
      {.kind = UFFD_ANSWER_BYTES, .length = UINT64_MAX, .data = image},
      {.kind = UFFD_ANSWER_MOVE, .length = page},
      {.kind = UFFD_ANSWER_MOVE, .length = 5, .data = image},
      {.kind = UFFD_ANSWER_POISON, .length = page + 1},
      {.kind = UFFD_ANSWER_RESOLVER, .length = page}, /* to nobody */
  };
  for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
    give(wrong[i]);
    serve_with(ENGINE_ONE, UFFD_ON_ERROR_ZERO, asked_resolver(&giver), NULL);
    CHECK_EQ(*at(5), 0);
    char why[512];
    CHECK_EQ(uffd_loop_error(serving.loop, why, sizeof(why)), EINVAL);
    CHECK(strstr(why, "callback resolver") != NULL);
    CHECK(strstr(why, "offset") != NULL);
    CHECK_EQ(serving_stats(serving.loop).errors, 1);
    CHECK_EQ(serving_stats(serving.loop).zero, 1);
    CHECK_ERR(uffd_region_prefetch(region, page, page), -EINVAL);
    end();
  }
}

/* Data that cannot be read: the kernel says so, and nothing crashes. */
static void unreadable_answers_fail(void) {
  page = check_page();
  void *nowhere = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  give((struct uffd_answer){.kind = UFFD_ANSWER_BYTES, .length = page, .data = nowhere});
  serve_with(ENGINE_ONE, UFFD_ON_ERROR_ZERO, asked_resolver(&giver), NULL);
  CHECK_EQ(*at(5), 0);
  char why[512];
  CHECK_EQ(uffd_loop_error(serving.loop, why, sizeof(why)), EFAULT);
  CHECK(strstr(why, "callback resolver") != NULL);
  end();
}

/* What cannot move is copied. */
static void moves_that_cannot_be_are_copies(void) {
  check_needs(UFFD_FEAT_MOVE); /* without it all are copies, also the one at the end that moves */
  unsigned char *image = image_make(8 * check_page());
  int fd = memfd_create("source", MFD_CLOEXEC);
  page = check_page();
  CHECK_EQ(ftruncate(fd, (off_t)page), 0);
  unsigned char *shared = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  memset(shared, 's', page);
  give((struct uffd_answer){.kind = UFFD_ANSWER_MOVE, .length = page, .data = image + 77}); /* not a page */
  serve_with(ENGINE_ONE, 0, asked_resolver(&giver), NULL);
  CHECK(image_there(at(1), 77, page));
  give((struct uffd_answer){.kind = UFFD_ANSWER_MOVE, .length = page, .data = shared}); /* not anonymous */
  CHECK(check_filled(at(2), page, 's'));
  give((struct uffd_answer){.kind = UFFD_ANSWER_MOVE, .length = 4 * page, .data = image});
  CHECK(image_there(at(3), 0, 4 * page));
  CHECK(check_filled(at(7), page, 0)); /* moved away before: zeros */
  CHECK_EQ(serving_stats(serving.loop).errors, 0);
  end();
}

/* LATER */

static int answer_fifth_time(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)fault;
  if (asked->hits % 5 != 0) answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

static void later_is_asked_again(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    struct asked asked = {.answer = answer_fifth_time};
    serve_with(engine, 0, asked_resolver(&asked), NULL);
    CHECK_EQ(*at(3), 0);
    CHECK_EQ(serving_stats(serving.loop).deferred, 4);
    serving_pause(&serving);
    CHECK_OK(uffd_region_prefetch(region, 5 * page, 3 * page));
    serving_start(&serving);
    CHECK_EQ(*at(6), 0);
    struct uffd_stats stats = serving_stats(serving.loop);
    CHECK_EQ(stats.policy_calls, 20);
    CHECK_EQ(stats.zero, 4);
    CHECK_EQ(stats.faults, 1);
    CHECK_EQ(stats.errors, 0);
    end();
  }
}

/* A prefetch that must wait does not hold up another one. */
static void prefetch_page_0(void *ctx) {
  CHECK_ERR(uffd_region_prefetch(ctx, 0, 1), -ECANCELED);
}

static int answer_never(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault;
  answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

static void a_prefetch_that_waits_holds_up_no_other(void) {
  struct asked asked = {.answer = answer_never};
  serve_with(ENGINE_ONE, 0, asked_resolver(&asked), NULL);
  uffd_memory *other = memory_make(MEMORY_ANON, 2000);
  uffd_region *ready = region_add(serving.loop, other, image_resolver(2000 * page), NULL);
  struct check_thread waiting;
  check_thread_start(&waiting, prefetch_page_0, region);
  while (atomic_load(&asked.hits) == 0) {
    check_pause();
  }
  CHECK_OK(uffd_region_prefetch(ready, 0, 0));
  CHECK_OK(uffd_region_complete(ready));
  serving_close(&serving);
  check_thread_join(&waiting);
  uffd_memory_close(memory);
  uffd_memory_close(other);
}

/* on_error */

static int fail_at_odd(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  if (fault->offset / fault->page_size % 2 == 1) {
    return uffd_set_errmsg(ENODATA, "Nothing is known of byte %llu.", (unsigned long long)fault->offset);
  }
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = "even";
  answer->length = 4;
  return 0;
}

static _Atomic unsigned logged;
static char last_log[512];

static void keep_log(void *ctx, int level, const char *sentence) {
  (void)ctx;
  CHECK_EQ(level, UFFD_LOG_ERROR);
  if (atomic_fetch_add(&logged, 1) == 0) snprintf(last_log, sizeof(last_log), "%s", sentence);
}

static void failures_become_what_was_chosen(void) {
  check_needs(UFFD_FEAT_POISON);
  for (int engine = 0; engine < ENGINES; engine += 3) {
    for (uint32_t on_error = UFFD_ON_ERROR_DEFAULT; on_error <= UFFD_ON_ERROR_POISON; on_error++) {
      struct asked asked = {.answer = fail_at_odd};
      atomic_store(&logged, 0);
      uffd_set_log(keep_log, NULL);
      serve_with(engine, on_error, asked_resolver(&asked), NULL);
      CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), 0);
      unsigned value = 77;
      CHECK_EQ(check_access(at(3), false, &value), on_error == UFFD_ON_ERROR_ZERO ? 0 : SIGBUS);
      CHECK_EQ(value, on_error == UFFD_ON_ERROR_ZERO ? 0 : 77);
      CHECK_EQ(check_access(at(5), true, NULL), on_error == UFFD_ON_ERROR_ZERO ? 0 : SIGBUS);
      CHECK_EQ(*at(4), 'e'); /* the loop goes on */
      char why[512], brief[8];
      CHECK_EQ(uffd_loop_error(serving.loop, why, sizeof(why)), ENODATA);
      char expected[160];
      const unsigned long long offset = 3 * page; /* the first failure's, not the second's */
      snprintf(expected, sizeof(expected), "The page at offset %llu %s: Nothing is known of byte %llu.", offset,
               on_error == UFFD_ON_ERROR_ZERO ? "reads as zeros" : "is poisoned", offset);
      CHECK(strcmp(why, expected) == 0);
      CHECK_EQ(uffd_loop_error(serving.loop, brief, sizeof(brief)), ENODATA);
      CHECK(strcmp(brief, "The pag") == 0);
      CHECK_EQ(uffd_loop_error(serving.loop, why, 0), ENODATA);
      struct uffd_stats stats = serving_stats(serving.loop);
      CHECK_EQ(stats.errors, 2);
      CHECK_EQ(stats.zero, on_error == UFFD_ON_ERROR_ZERO ? 2 : 0);
      CHECK_EQ(stats.poisoned, on_error == UFFD_ON_ERROR_ZERO ? 0 : 2);
      CHECK_EQ(logged, 2);
      CHECK(strcmp(last_log, expected) == 0);
      end();
      uffd_set_log(NULL, NULL);
    }
  }
}

static int fail_at_first(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  static _Atomic int times;
  (void)asked, (void)fault;
  if (atomic_fetch_add(&times, 1) % 3 < 2) return uffd_set_errmsg(EIO, "Not yet.");
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = "late";
  answer->length = 4;
  return 0;
}

static void failures_are_tried_again_where_that_was_chosen(void) {
  serving_needs_handlers("Nothing pauses between one try and the next.");
  for (int engine = ENGINE_ONE; engine < ENGINES; engine++) {
    struct asked asked = {.answer = fail_at_first};
    atomic_store(&logged, 0);
    uffd_set_log(keep_log, NULL);
    serve_with(engine, UFFD_ON_ERROR_RETRY, asked_resolver(&asked), NULL);
    unsigned value = 0;
    CHECK_EQ(check_access(at(3), false, &value), 0);
    CHECK_EQ(value, 'l');
    CHECK_EQ(check_access(at(4), true, NULL), 0);
    char why[512];
    CHECK_EQ(uffd_loop_error(serving.loop, why, sizeof(why)), EIO);
    CHECK_EQ(serving_stats(serving.loop).errors, 4);
    CHECK_EQ(serving_stats(serving.loop).poisoned + serving_stats(serving.loop).zero, 0);
    CHECK_EQ(logged, 1);
    end();
    uffd_set_log(NULL, NULL);
  }
}

/* What Linux before 6.6 says of itself. */
static void hide_poison(const char *name, void *ctx) {
  if (strcmp(name, "features") == 0) *(uint64_t *)ctx &= ~UFFD_FEAT_POISON;
}

static void without_poison_the_default_is_to_wait(void) {
  serving_needs_handlers("Inline, the user has to choose.");
  struct asked asked = {.answer = fail_at_first};
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop;
  atomic_store(&uffd_barrier_hook, hide_poison);
  opts.engine = UFFD_ENGINE_INLINE;
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EOPNOTSUPP);
  CHECK_SAYS("choose on_error retry, which the engines threads and pump have, or zero knowingly");
  opts.engine = UFFD_ENGINE_THREADS;
  for (opts.on_error = UFFD_ON_ERROR_POISON; opts.on_error <= UFFD_ON_ERROR_STOP; opts.on_error++) {
    CHECK_ERR(uffd_loop_create(&opts, &loop), -EOPNOTSUPP);
  }
  serve_with(ENGINE_ONE, UFFD_ON_ERROR_DEFAULT, asked_resolver(&asked), NULL);
  unsigned value = 0;
  CHECK_EQ(check_access(at(3), false, &value), 0);
  CHECK_EQ(value, 'l');
  CHECK_EQ(serving_stats(serving.loop).errors, 2);
  CHECK_EQ(serving_stats(serving.loop).poisoned + serving_stats(serving.loop).zero, 0);
  end();
}

static int fail_always(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)fault, (void)answer;
  return uffd_set_errmsg(EIO, "The disk is on fire.");
}

/* As a region says, whose loop would poison at once, and as a loop says. */
static void retries_end_where_they_have_a_limit(void) {
  static const uint32_t fates[] = {0, UFFD_ON_ERROR_ZERO, UFFD_ON_ERROR_POISON};
  serving_needs_handlers("Nothing pauses between one try and the next.");
  check_needs(UFFD_FEAT_POISON);
  for (unsigned i = 0; i < 6; i++) {
    struct asked asked = {.answer = fail_always};
    struct uffd_loop_opts loop_opts = UFFD_LOOP_OPTS_INIT;
    struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
    bool of_loop = i >= 3;
    if (of_loop) {
      loop_opts.on_error = UFFD_ON_ERROR_RETRY;
      loop_opts.retry_ms = 40;
      loop_opts.retry_then = fates[i % 3];
    } else {
      opts.on_error = UFFD_ON_ERROR_RETRY;
      opts.retry_ms = 40;
      opts.retry_then = fates[i % 3];
    }
    struct serving limited;
    serving_open(&limited, i % 2 == 0 ? ENGINE_ONE : ENGINE_PUMP, &loop_opts);
    uffd_memory *served = memory_make(MEMORY_ANON, 2);
    region_add(limited.loop, served, asked_resolver(&asked), &opts);
    serving_start(&limited);
    uint64_t before = uffd_now();
    unsigned value = 1;
    int signal = check_access(memory_at(served, 0), false, &value);
    CHECK_EQ(signal, i % 3 == 1 ? 0 : SIGBUS);
    if (i % 3 == 1) CHECK_EQ(value, 0);
    CHECK(uffd_now() - before >= UINT64_C(40000000));
    serving_pause(&limited);
    struct uffd_stats stats = serving_stats(limited.loop);
    CHECK_EQ(stats.errors, asked.hits);
    CHECK_EQ(stats.deferred, asked.hits - 1);
    serving_close(&limited);
    uffd_memory_close(served);
  }
}

static void the_sentence_of_what_was_given_up(void) {
  serving_needs_handlers("Nothing pauses between one try and the next.");
  struct asked asked = {.answer = fail_always};
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.on_error = UFFD_ON_ERROR_RETRY;
  opts.retry_ms = 1;
  opts.retry_then = UFFD_ON_ERROR_ZERO;
  atomic_store(&logged, 0);
  uffd_set_log(keep_log, NULL);
  serve_with(ENGINE_ONE, UFFD_ON_ERROR_STOP, asked_resolver(&asked), &opts);
  CHECK_EQ(*at(0), 0);
  atomic_store(&logged, 0);
  CHECK_EQ(*at(1), 0); /* its tries are not said again, but that it was given up is */
  CHECK_EQ(logged, 1);
  end();
  CHECK(strstr(last_log, "at offset 4096 reads as zeros: it was tried for 1 ms. The disk is on fire.") != NULL);
  uffd_set_log(NULL, NULL);
}

/* The limit is of failures: who says LATER may go on for ever, and a page that heals in time is filled. */
static void a_limit_is_not_for_who_answers_in_time(void) {
  check_needs(UFFD_FEAT_POISON); /* what follows the limit by default */
  serving_needs_handlers("Nothing pauses between one try and the next.");
  struct asked asked = {.answer = fail_at_first};
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.on_error = UFFD_ON_ERROR_RETRY;
  opts.retry_ms = UINT32_MAX;
  serve_with(ENGINE_ONE, UFFD_ON_ERROR_ZERO, asked_resolver(&asked), &opts);
  unsigned value = 0;
  CHECK_EQ(check_access(at(3), false, &value), 0);
  CHECK_EQ(value, 'l');
  end();
}

static void limits_that_cannot_be(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  uffd_loop *loop;
  opts.retry_ms = 5;
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EINVAL);
  CHECK_SAYS("for on_error retry");
  opts.on_error = UFFD_ON_ERROR_RETRY;
  opts.retry_then = UFFD_ON_ERROR_RETRY;
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EINVAL);
  CHECK_SAYS("retry_then 4");
  opts.retry_then = UFFD_ON_ERROR_ZERO;
  opts.retry_ms = 0;
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EINVAL);
  CHECK_SAYS("retry_then without retry_ms");
  CHECK_OK(uffd_loop_create(NULL, &loop));
  uffd_memory *served = memory_make(MEMORY_ANON, 1);
  uffd_resolver *zeros;
  struct uffd_region_opts chosen = UFFD_REGION_OPTS_INIT;
  CHECK_OK(uffd_resolver_zero(&zeros));
  chosen.retry_then = UFFD_ON_ERROR_ZERO;
  CHECK_ERR(uffd_loop_add(loop, served, zeros, &chosen, NULL), -EINVAL);
  CHECK_SAYS("for on_error retry");
  CHECK_OK(uffd_loop_close(loop));
  uffd_resolver_close(zeros);
  uffd_memory_close(served);
}

static void retries_are_not_for_the_inline_engine(void) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts chosen = UFFD_REGION_OPTS_INIT;
  uffd_loop *loop;
  opts.on_error = UFFD_ON_ERROR_RETRY;
  opts.open_flags = UFFD_OPEN_USER_MODE_ONLY;
  CHECK_OK(uffd_loop_create(&opts, &loop));
  CHECK_EQ(uffd_loop_engine(loop, NULL), UFFD_ENGINE_THREADS);
  CHECK_OK(uffd_loop_close(loop));
  opts.engine = UFFD_ENGINE_INLINE;
  CHECK_ERR(uffd_loop_create(&opts, &loop), -EINVAL);
  CHECK_SAYS("without a pause");
  opts.on_error = UFFD_ON_ERROR_ZERO;
  CHECK_OK(uffd_loop_create(&opts, &loop));
  uffd_memory *served = memory_make(MEMORY_ANON, 1);
  uffd_resolver *zeros;
  CHECK_OK(uffd_resolver_zero(&zeros));
  chosen.on_error = UFFD_ON_ERROR_RETRY;
  CHECK_ERR(uffd_loop_add(loop, served, zeros, &chosen, NULL), -EINVAL);
  CHECK_SAYS("without a pause");
  CHECK_OK(uffd_loop_close(loop));
  uffd_resolver_close(zeros);
  uffd_memory_close(served);
}

static void a_region_chooses_for_itself(void) {
  check_needs(UFFD_FEAT_POISON);
  struct asked asked = {.answer = fail_at_odd};
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.on_error = UFFD_ON_ERROR_ZERO;
  opts.length = 4 * check_page();
  uffd_resolver *resolver = asked_resolver(&asked);
  serve_with(ENGINE_ONE, UFFD_ON_ERROR_STOP, resolver, &opts);
  CHECK_EQ(*at(1), 0); /* not stopped */
  CHECK_EQ(*at(2), 'e');
  opts.on_error = UFFD_ON_ERROR_POISON;
  opts.offset = 4 * page;
  region_add(serving.loop, memory, asked_resolver(&asked), &opts);
  CHECK_EQ(check_access(at(5), false, NULL), SIGBUS);
  CHECK_EQ(*at(6), 'e');
  end();
}

/* Stop */

static void stop_poisons_every_later_fault(void) {
  check_needs(UFFD_FEAT_POISON);
  for (int engine = ENGINE_ONE; engine <= ENGINE_FIVE; engine++) {
    struct asked asked = {.answer = fail_at_odd};
    serve_with(engine, UFFD_ON_ERROR_STOP, asked_resolver(&asked), NULL);
    uffd_memory *other = memory_make(MEMORY_ANON, 4);
    uffd_region *second = region_add(serving.loop, other, image_resolver(4 * page), NULL);
    CHECK_EQ(*at(2), 'e');
    CHECK(image_there(memory_at(other, 0), 0, page));
    CHECK_EQ(check_access(at(3), false, NULL), SIGBUS);
    CHECK_EQ(check_access(at(4), false, NULL), SIGBUS);
    CHECK_EQ(check_access(memory_at(other, page), true, NULL), SIGBUS);
    CHECK_EQ(*at(2), 'e'); /* what was there, is */
    char why[512];
    CHECK_EQ(uffd_loop_error(serving.loop, why, sizeof(why)), ENODATA);
    CHECK_ERR(uffd_region_prefetch(second, 0, 0), -ECANCELED);
    CHECK_ERR(uffd_region_complete(second), -ECANCELED);
    CHECK_ERR(uffd_loop_complete(serving.loop), -ECANCELED);
    uffd_memory *late = memory_make(MEMORY_ANON, 1);
    uffd_resolver *image = image_resolver(page);
    CHECK_ERR(uffd_loop_add(serving.loop, late, image, NULL, NULL), -ECANCELED);
    CHECK_SAYS("Nothing is known of byte");
    CHECK_OK(uffd_region_remove(second)); /* out of the loop it is ordinary */
    CHECK_EQ(memory_at(other, 2 * page)[0], 0);
    CHECK_EQ(serving_stats(serving.loop).errors, 1);
    CHECK_EQ(serving_stats(serving.loop).poisoned, 3);
    end();
    uffd_resolver_close(image);
    uffd_memory_close(other);
    uffd_memory_close(late);
  }
}

static void stop_is_told_by_the_pump(void) {
  check_needs(UFFD_FEAT_POISON);
  struct asked asked = {.answer = fail_at_odd};
  serve_with(ENGINE_PUMP, UFFD_ON_ERROR_STOP, asked_resolver(&asked), NULL);
  serving_pause(&serving);
  struct check_touch touches[2];
  check_touch_read(&touches[0], at(2));
  check_touch_asleep(&touches[0]);
  CHECK_EQ(CHECK_OK(uffd_loop_step(serving.loop, -1)), 1);
  CHECK_EQ(check_touch_join(&touches[0]), 'e');
  check_touch_read(&touches[0], at(3));
  check_touch_asleep(&touches[0]);
  CHECK_ERR(uffd_loop_step(serving.loop, -1), -ECANCELED);
  CHECK_SAYS("Nothing is known of byte");
  CHECK_EQ(pthread_join(touches[0].thread, NULL), 0);
  CHECK_EQ(touches[0].signal, SIGBUS);
  check_touch_read(&touches[1], at(6));
  check_touch_asleep(&touches[1]);
  CHECK_ERR(uffd_loop_step(serving.loop, -1), -ECANCELED); /* nobody sleeps for ever */
  CHECK_EQ(pthread_join(touches[1].thread, NULL), 0);
  CHECK_EQ(touches[1].signal, SIGBUS);
  end();
}

/* Handing over */

/* From before pages before the fault on, for so many pages; the fault's page is at resolver_offset there. */
static void hand_over(uffd_resolver *to, uint64_t before, uint64_t pages, uint64_t resolver_offset) {
  give((struct uffd_answer){.kind = UFFD_ANSWER_RESOLVER,
                            .offset = 0 - before * check_page(),
                            .length = pages * check_page(),
                            .resolver = to,
                            .resolver_offset = resolver_offset});
}

static void serve_handed(uint32_t on_error) {
  serve_with(ENGINE_ONE, on_error, asked_resolver(&giver), NULL);
}

static void handed_over_with_an_offset(void) {
  uffd_resolver *image = image_resolver(40 * check_page());
  serve_handed(0);
  hand_over(image, 0, 1, 7 * page);
  CHECK(image_there(at(0), 7 * page, page));
  CHECK(image_there(at(9), 7 * page, page)); /* for this page, it says */
  /* around: what lies before the page in the answer is asked before it in the other resolver */
  hand_over(image, 2, 4, 20 * page);
  CHECK_EQ(*at(5), image_byte(20 * page));
  CHECK_EQ(serving_stats(serving.loop).copied, 2 + 4);
  CHECK(image_there(at(3), 18 * page, 4 * page));
  CHECK_EQ(serving_stats(serving.loop).faults, 3);
  /* beyond the region: cut off */
  hand_over(image, 0, 12, 28 * page);
  CHECK(image_there(at(14), 28 * page, page));
  CHECK_EQ(serving_stats(serving.loop).copied, 6 + 2);
  CHECK_EQ(serving_stats(serving.loop).errors, 0);
  end();
  uffd_resolver_close(image);
}

static void handed_over_beyond_the_end(void) {
  uffd_resolver *image = image_resolver(4 * check_page());
  serve_handed(UFFD_ON_ERROR_ZERO);
  hand_over(image, 0, 1, 4 * page);
  CHECK_EQ(*at(0), 0);
  char why[512];
  CHECK_EQ(uffd_loop_error(serving.loop, why, sizeof(why)), EINVAL);
  hand_over(image, 0, 1, 0 - page);
  CHECK_EQ(*at(1), 0);
  hand_over(image, 2, 3, page); /* from a page before the other's first on */
  CHECK_EQ(*at(5), 0);
  CHECK_EQ(serving_stats(serving.loop).errors, 3);
  hand_over(image, 0, 3, 3 * page); /* the first of three is its last */
  CHECK(image_there(at(8), 3 * page, page));
  CHECK_EQ(serving_stats(serving.loop).errors, 3);
  CHECK_EQ(serving_stats(serving.loop).copied, 1);
  end();
  uffd_resolver_close(image);
}

static void handed_over_in_a_circle(void) {
  serve_handed(UFFD_ON_ERROR_ZERO);
  uffd_resolver *self = asked_resolver(&giver);
  hand_over(self, 0, 1, 0);
  CHECK_EQ(*at(0), 0);
  char why[512];
  CHECK_EQ(uffd_loop_error(serving.loop, why, sizeof(why)), ELOOP);
  CHECK(strstr(why, "circle") != NULL);
  end();
  uffd_resolver_close(self);
}

static int set_up_nothing(void *ctx, const struct uffd_handler *handler, void **state) {
  (void)ctx, (void)handler;
  *state = NULL;
  return 0;
}

static int resolve_zero(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)ctx, (void)state, (void)fault, (void)answer;
  return 0;
}

/* To one that needs to be set up, without naming it among those that are used. */
static void handed_over_to_a_stranger(void) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *stranger;
  ops.setup = set_up_nothing;
  ops.resolve = resolve_zero;
  CHECK_OK(uffd_resolver_callback(&ops, NULL, "stranger", NULL, 0, &stranger));
  serve_handed(UFFD_ON_ERROR_ZERO);
  hand_over(stranger, 0, 1, 0);
  CHECK_EQ(*at(0), 0);
  char why[512];
  CHECK_EQ(uffd_loop_error(serving.loop, why, sizeof(why)), EINVAL);
  CHECK(strstr(why, "stranger") != NULL && strstr(why, "uses") != NULL);
  end();
  uffd_resolver_close(stranger);
}

/* A callback's bytes may be a file's that has shrunk: in whole pages and in what is less than one, that is an error. */
static void an_answer_that_cannot_be_read(void) {
  for (int engine = 0; engine < ENGINES; engine++) {
    int fd = memfd_create("check", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, 2 * (off_t)check_page()) == 0);
    const char *gone = mmap(NULL, 2 * check_page(), PROT_READ, MAP_SHARED, fd, 0);
    CHECK(gone != MAP_FAILED && ftruncate(fd, 0) == 0);
    struct asked asked = {.answer = answer_given};
    serve_with(engine, UFFD_ON_ERROR_POISON, asked_resolver(&asked), NULL);
    give((struct uffd_answer){.kind = UFFD_ANSWER_BYTES, .length = 100, .data = gone});
    CHECK_EQ(check_access(at(3), false, NULL), SIGBUS);
    give((struct uffd_answer){.kind = UFFD_ANSWER_BYTES, .length = page + 100, .data = gone});
    CHECK_EQ(check_access(at(5), false, NULL), SIGBUS);
    CHECK(serving_stats(serving.loop).errors >= 2);
    CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), EFAULT);
    end();
    munmap((void *)(uintptr_t)gone, 2 * page);
    close(fd);
  }
}

static const struct check_test tests[] = {
    TEST(what_a_callback_is_asked),
    TEST(answers_of_every_kind),
    TEST(answers_of_every_size),
    TEST(wrong_answers_are_refused),
    TEST(unreadable_answers_fail),
    TEST(moves_that_cannot_be_are_copies),
    TEST(later_is_asked_again),
    TEST(a_prefetch_that_waits_holds_up_no_other),
    TEST(failures_become_what_was_chosen),
    TEST(failures_are_tried_again_where_that_was_chosen),
    TEST(without_poison_the_default_is_to_wait),
    TEST(retries_end_where_they_have_a_limit),
    TEST(the_sentence_of_what_was_given_up),
    TEST(a_limit_is_not_for_who_answers_in_time),
    TEST(limits_that_cannot_be),
    TEST(retries_are_not_for_the_inline_engine),
    TEST(a_region_chooses_for_itself),
    TEST(stop_poisons_every_later_fault),
    TEST(stop_is_told_by_the_pump),
    TEST(an_answer_that_cannot_be_read),
    TEST(handed_over_with_an_offset),
    TEST(handed_over_beyond_the_end),
    TEST(handed_over_in_a_circle),
    TEST(handed_over_to_a_stranger),
};
CHECK_MAIN(tests)
