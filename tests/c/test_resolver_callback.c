/*
 * Callbacks: what they are told, every answer that they may give and every one that they may not, handing over, and the
 * life of a callback: slots, set-up, teardown, the resolvers that it uses.
 */
#define _GNU_SOURCE
#include "check.h"

#include <signal.h>
#include <sys/mman.h>

#include "resolver/resolver.h"
#include "resolving.h"

#define HUGE (UINT64_C(2) << 20)
#define PAGE UINT64_C(4096)

/* What a test and its callback share: the kernel orders them, but ThreadSanitizer cannot see that. */
static pthread_mutex_t sharing = PTHREAD_MUTEX_INITIALIZER;

static uffd_resolver *make(const struct uffd_callback_ops *ops, void *ctx, uffd_resolver *const *uses, size_t count) {
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_callback(ops, ctx, NULL, uses, count, &resolver));
  return resolver;
}

/* What it is told */

static int note(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  struct uffd_fault *noted = asked->ctx;
  CHECK_EQ(answer->kind, UFFD_ANSWER_ZERO); /* as the header says that it is found */
  CHECK_EQ(answer->offset, fault->offset);
  CHECK_EQ(answer->length, fault->page_size);
  CHECK(answer->data == NULL && answer->resolver == NULL);
  pthread_mutex_lock(&sharing);
  *noted = *fault;
  pthread_mutex_unlock(&sharing);
  return 0;
}

static struct uffd_fault last_fault(const struct asked *asked) {
  pthread_mutex_lock(&sharing);
  struct uffd_fault fault = *(const struct uffd_fault *)asked->ctx;
  pthread_mutex_unlock(&sharing);
  return fault;
}

static void the_fault_is_told(void) {
  struct uffd_fault noted = {0}, fault;
  struct asked asked = {.answer = note, .ctx = &noted};
  uffd_resolver *callback = asked_resolver(&asked);
  const struct uffd_layer layer = {8 * PAGE, 64 * PAGE, callback, 500};
  uffd_resolver *layers = NULL;
  CHECK_OK(uffd_resolver_layers(&layer, 1, &layers));
  uffd_memory *memory = memory_make(MEMORY_ANON, 64);
  struct serving serving;
  serving_open(&serving, ENGINE_TWO, NULL);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.offset = 16 * PAGE;
  opts.length = 32 * PAGE;
  opts.resolver_offset = 4 * PAGE;
  opts.around = 8 * PAGE;
  opts.cookie = &opts;
  region_add(serving.loop, memory, layers, &opts);
  unsigned char *page = memory_at(memory, 16 * PAGE + 6 * PAGE); /* the layer begins 4 pages into the region */
  page[5] = 1;
  fault = last_fault(&asked);
  CHECK_EQ(fault.region_offset, 6 * PAGE);
  CHECK_EQ(fault.offset, 2 * PAGE + 500);
  CHECK_EQ(fault.address, CHECK_ADDRESS(page));
  CHECK_EQ(fault.page_size, PAGE);
  CHECK_EQ(fault.cover_offset, 500); /* pages 0 to 7 of the region are wanted, the layer has 4 to 7 */
  CHECK_EQ(fault.cover_length, 4 * PAGE);
  CHECK_EQ(fault.flags, UFFD_FAULT_WRITE);
  CHECK_EQ(fault.tid, gettid());
  CHECK(fault.cookie == &opts);
  CHECK(fault.handler < serving_handlers(&serving));
  CHECK_EQ(*memory_at(memory, 16 * PAGE + 20 * PAGE), 0);
  fault = last_fault(&asked);
  CHECK_EQ(fault.offset, 16 * PAGE + 500);
  CHECK_EQ(fault.cover_length, 8 * PAGE);
  CHECK_EQ(fault.flags, 0);
  CHECK_EQ(asked.hits, 2);
  serving_close(&serving);
  uffd_resolver_close(callback);
  uffd_memory_close(memory);
}

/* Answers */

static unsigned char image[64 * 4096];

static int give(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  pthread_mutex_lock(&sharing);
  *answer = *(const struct uffd_answer *)asked->ctx;
  pthread_mutex_unlock(&sharing);
  answer->offset += fault->offset; /* it is relative to the fault */
  if (answer->data == image) answer->data = image + answer->offset;
  return 0;
}

static void change(struct uffd_answer *answer, struct uffd_answer to) {
  pthread_mutex_lock(&sharing);
  *answer = to;
  pthread_mutex_unlock(&sharing);
}

static struct view view_of_answer(struct asked *asked, struct uffd_answer *answer, const struct view_opts *opts) {
  *asked = (struct asked){.answer = give, .ctx = answer};
  for (uint64_t i = 0; i < sizeof(image); i++) {
    image[i] = (unsigned char)image_byte(i);
  }
  uffd_resolver *callback = asked_resolver(asked);
  struct view view = view_open(callback, opts);
  uffd_resolver_close(callback);
  return view;
}

static void bytes_may_cover_less_or_more(void) {
  struct asked asked;
  struct uffd_answer answer = {.kind = UFFD_ANSWER_BYTES, .data = image, .length = 1};
  struct view_opts opts = {.length = 8 * PAGE};
  struct view view = view_of_answer(&asked, &answer, &opts);
  CHECK_EQ(view.at[PAGE], image_byte(PAGE));
  CHECK(check_filled(view.at + PAGE + 1, PAGE - 1, 0)); /* the rest of the page is zeros */
  /* and of the last page, when there are more */
  change(&answer, (struct uffd_answer){.kind = UFFD_ANSWER_BYTES, .data = image, .length = 2 * PAGE + 100});
  CHECK_EQ(view.at[2 * PAGE], image_byte(2 * PAGE));
  CHECK_EQ(view.at[4 * PAGE], image_byte(4 * PAGE));
  CHECK(image_there(view.at + 2 * PAGE, 2 * PAGE, 2 * PAGE + 100));
  CHECK(check_filled(view.at + 4 * PAGE + 100, PAGE - 100, 0));
  CHECK_EQ(asked.hits, 2);
  /* begins before the page, and reaches beyond the region */
  change(&answer,
         (struct uffd_answer){.kind = UFFD_ANSWER_BYTES, .offset = -PAGE, .data = image, .length = 1000 * PAGE});
  CHECK_EQ(view.at[6 * PAGE], image_byte(6 * PAGE));
  CHECK(image_there(view.at + 5 * PAGE, 5 * PAGE, 3 * PAGE));
  CHECK_EQ(asked.hits, 3);
  CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), 0);
  view_close(&view);
}

static void an_answer_before_the_region_is_cut(void) {
  struct asked asked;
  struct uffd_answer answer = {.kind = UFFD_ANSWER_BYTES, .data = image, .offset = -(4 * PAGE), .length = 32 * PAGE};
  struct view view =
      view_of_answer(&asked, &answer, &(struct view_opts){.length = 4 * PAGE, .resolver_offset = 8 * PAGE});
  CHECK(image_there(view.at + 2 * PAGE, 10 * PAGE, PAGE));
  CHECK(image_there(view.at, 8 * PAGE, 4 * PAGE));
  CHECK_EQ(asked.hits, 1);
  view_close(&view);
}

static void zero_and_poison_over_several_pages(void) {
  check_needs(UFFD_FEAT_POISON);
  struct asked asked;
  struct uffd_answer answer = {.kind = UFFD_ANSWER_ZERO, .length = 4 * PAGE};
  struct view view = view_of_answer(&asked, &answer, &(struct view_opts){.length = 8 * PAGE});
  CHECK(check_filled(view.at, 4 * PAGE, 0));
  change(&answer, (struct uffd_answer){.kind = UFFD_ANSWER_POISON, .length = 4 * PAGE});
  for (uint64_t page = 4; page < 8; page++) {
    CHECK_EQ(check_access(view.at + page * PAGE, false, NULL), SIGBUS);
  }
  CHECK_EQ(asked.hits, 2);
  CHECK_EQ(serving_stats(view.serving.loop).policy_calls, 2);
  CHECK_EQ(serving_stats(view.serving.loop).poisoned, 4);
  CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), 0);
  view_close(&view);
}

static void bytes_for_huge_pages(void) {
  check_hugepages(6);
  struct asked asked;
  unsigned char *two = check_pattern(2 * HUGE, 1, 7);
  struct uffd_answer answer = {.kind = UFFD_ANSWER_BYTES, .data = "short", .length = 5};
  struct view view = view_of_answer(&asked, &answer, &(struct view_opts){.kind = MEMORY_HUGETLB, .length = 3 * HUGE});
  CHECK(memcmp(view.at, "short", 5) == 0);
  CHECK(check_filled(view.at + 5, HUGE - 5, 0));
  change(&answer, (struct uffd_answer){.kind = UFFD_ANSWER_BYTES, .data = two, .length = HUGE + 12345});
  CHECK_EQ(view.at[HUGE + 1], 7);
  CHECK(check_filled(view.at + HUGE, HUGE + 12345, 7));
  CHECK(check_filled(view.at + 2 * HUGE + 12345, HUGE - 12345, 0));
  CHECK_EQ(asked.hits, 2);
  view_close(&view);
  munmap(two, 2 * HUGE);
}

static int give_page_to_move(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  answer->kind = UFFD_ANSWER_MOVE;
  answer->data = (char *)asked->ctx + fault->offset;
  return 0;
}

static void pages_to_move(void) {
  check_needs(UFFD_FEAT_MOVE);
  unsigned char *pages = check_pattern(PAGE, 4, 1);
  struct asked asked = {.answer = give_page_to_move, .ctx = pages};
  uffd_resolver *callback = asked_resolver(&asked);
  struct view view = view_open(callback, &(struct view_opts){.length = 4 * PAGE});
  for (unsigned i = 0; i < 4; i++) {
    CHECK(check_filled(view.at + i * PAGE, PAGE, i + 1));
  }
  CHECK_EQ(serving_stats(view.serving.loop).moved, 4);
  CHECK(check_filled(pages, 4 * PAGE, 0));
  view_close(&view);
  /* where pages cannot move they are copied */
  memset(pages, 9, 4 * PAGE);
  view = view_open(callback, &(struct view_opts){.kind = MEMORY_MEMFD, .length = 4 * PAGE});
  CHECK(check_filled(view.at, 4 * PAGE, 9));
  CHECK(check_filled(pages, 4 * PAGE, 9));
  CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), 0);
  view_close(&view);
  uffd_resolver_close(callback);
}

static int give_later(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)fault;
  answer->kind = asked->hits % 4 == 0 ? UFFD_ANSWER_ZERO : UFFD_ANSWER_LATER;
  return 0;
}

static void later_is_asked_again(void) {
  struct asked asked = {.answer = give_later};
  uffd_resolver *callback = asked_resolver(&asked), *layers = NULL;
  const struct uffd_layer layer = {PAGE, PAGE, callback, 77};
  CHECK_OK(uffd_resolver_layers(&layer, 1, &layers)); /* an answer of another place passes through */
  struct view view = view_open(layers, &(struct view_opts){.length = 2 * PAGE});
  CHECK_EQ(view.at[PAGE], 0);
  CHECK_EQ(asked.hits, 4);
  CHECK_EQ(serving_stats(view.serving.loop).deferred, 3);
  view_close(&view);
  uffd_resolver_close(layers);
  uffd_resolver_close(callback);
}

/* Wrong answers: an error for that page, with a sentence that says what was wrong */

static void refuse_answer(struct uffd_answer answer, int kind, const char *words) {
  struct asked asked;
  char text[512];
  struct view view = view_of_answer(&asked, &answer,
                                    &(struct view_opts){.kind = kind, .length = 4 * PAGE, .resolver_offset = 8 * PAGE});
  CHECK_EQ(check_access(view.at + PAGE, false, NULL), SIGBUS);
  CHECK_EQ(uffd_loop_error(view.serving.loop, text, sizeof(text)), EINVAL);
  if (strstr(text, words) == NULL) fprintf(stderr, "the sentence: %s\n", text);
  CHECK(strstr(text, words) != NULL);
  CHECK_EQ(serving_stats(view.serving.loop).errors, 1);
  view_close(&view);
}

static void answers_that_are_none(void) {
  check_needs(UFFD_FEAT_POISON);
  struct uffd_answer answer = {.kind = UFFD_ANSWER_BYTES, .data = image, .length = PAGE};
  struct uffd_answer bad = answer;
  bad.kind = 7;
  refuse_answer(bad, MEMORY_ANON, "kind 7");
  bad.kind = UINT32_MAX;
  refuse_answer(bad, MEMORY_ANON, "not a valid one");
  bad = answer;
  bad.length = 0;
  refuse_answer(bad, MEMORY_ANON, "0 bytes");
  bad.length = UINT64_MAX;
  refuse_answer(bad, MEMORY_ANON, "not a valid one");
  bad = answer;
  bad.data = NULL;
  refuse_answer(bad, MEMORY_ANON, "not a valid one");
  bad.kind = UFFD_ANSWER_MOVE;
  refuse_answer(bad, MEMORY_ANON, "kind 3");
  bad = answer;
  bad.offset = 1; /* not at a page's beginning */
  refuse_answer(bad, MEMORY_ANON, "begins at a page boundary");
  bad.offset = -UINT64_C(1);
  bad.length = 2 * PAGE;
  refuse_answer(bad, MEMORY_ANON, "begins at a page boundary");
  bad.offset = PAGE; /* after the page */
  refuse_answer(bad, MEMORY_ANON, "offset 36864");
  bad.offset = -PAGE; /* before it, and too short */
  bad.length = PAGE;
  refuse_answer(bad, MEMORY_ANON, "holds the page asked for");
  bad = (struct uffd_answer){.kind = UFFD_ANSWER_ZERO, .length = PAGE + 1};
  refuse_answer(bad, MEMORY_ANON, "4097 bytes");
  bad.kind = UFFD_ANSWER_CONTINUE;
  refuse_answer(bad, MEMORY_MEMFD, "not a valid one");
}

static int fail_with_text(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)answer;
  return uffd_set_errmsg(ETIMEDOUT, "The store did not answer for %llu.", (unsigned long long)fault->offset);
}

static void an_error_is_kept_with_its_sentence(void) {
  check_needs(UFFD_FEAT_POISON);
  struct asked asked = {.answer = fail_with_text};
  uffd_resolver *callback = asked_resolver(&asked);
  struct view view = view_open(callback, &(struct view_opts){.length = 2 * PAGE});
  char text[128];
  CHECK_EQ(check_access(view.at + PAGE, true, NULL), SIGBUS);
  CHECK_EQ(uffd_loop_error(view.serving.loop, text, sizeof(text)), ETIMEDOUT);
  CHECK(strcmp(text, "The page at offset 4096 is poisoned: The store did not answer for 4096.") == 0);
  CHECK_ERR(uffd_region_prefetch(view.region, 0, PAGE), -ETIMEDOUT);
  CHECK_SAYS("The store did not answer for 0.");
  view_close(&view);
  uffd_resolver_close(callback);
}

/* Handing over */

struct handing {
  uffd_resolver *to;
  uint64_t offset, length; /* relative to the fault's page; length 0: as found */
  uint64_t resolver_offset;
  bool absolute; /* resolver_offset is that, else relative to the fault */
};

static int hand_over(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  const struct handing *handing = asked->ctx;
  answer->kind = UFFD_ANSWER_RESOLVER;
  answer->resolver = handing->to;
  answer->offset = fault->offset + handing->offset;
  if (handing->length != 0) answer->length = handing->length;
  answer->resolver_offset = handing->resolver_offset + (handing->absolute ? 0 : fault->offset);
  return 0;
}

static uffd_resolver *make_handing(struct asked *asked, struct handing *handing) {
  *asked = (struct asked){.answer = hand_over, .ctx = handing};
  return asked_resolver(asked);
}

static void handing_over_page_by_page(void) {
  struct handing handing = {.to = image_resolver(16 * PAGE), .resolver_offset = 100};
  struct asked asked;
  uffd_resolver *callback = make_handing(&asked, &handing);
  struct view view = view_open(callback, &(struct view_opts){.length = 8 * PAGE, .resolver_offset = PAGE});
  CHECK(image_there(view.at, PAGE + 100, 8 * PAGE));
  CHECK_EQ(asked.hits, 8);
  view_close(&view);
  uffd_resolver_close(callback);
  uffd_resolver_close(handing.to);
}

/* The answer's cover is handed over too: also to resolvers without end, as far as their offsets go. */
static void handing_over_a_whole_cover(void) {
  uffd_resolver *resolvers[4] = {image_resolver(32 * PAGE), NULL, NULL, NULL};
  CHECK_OK(uffd_resolver_zero(&resolvers[1]));
  CHECK_OK(uffd_resolver_pattern("abc", 3, &resolvers[2]));
  const struct uffd_layer layer = {0, 0, resolvers[2], 0};
  CHECK_OK(uffd_resolver_layers(&layer, 1, &resolvers[3]));
  for (int i = 0; i < 8; i++) {
    /* page 6 of the view is asked for at 50, or at the very beginning */
    struct handing handing = {.to = resolvers[i / 2], .offset = -(2 * PAGE), .length = 6 * PAGE, .absolute = true};
    uint64_t begin = i % 2 == 0 ? 0 : 50;
    handing.resolver_offset = begin + 2 * PAGE;
    struct asked asked;
    uffd_resolver *callback = make_handing(&asked, &handing);
    struct view view = view_open(callback, &(struct view_opts){.length = 16 * PAGE});
    CHECK_EQ(view.at[8 * PAGE], i / 2 == 0   ? image_byte(2 * PAGE + begin)
                                : i / 2 == 1 ? 0
                                             : (unsigned)"abc"[(2 * PAGE + begin) % 3]);
    for (uint64_t at = 0; at < 6 * PAGE; at += PAGE) {
      unsigned expected = i / 2 == 0 ? image_byte(at + begin) : i / 2 == 1 ? 0 : (unsigned)"abc"[(at + begin) % 3];
      CHECK_EQ(view.at[6 * PAGE + at], expected);
    }
    CHECK_EQ(asked.hits, 1);
    view_close(&view);
    uffd_resolver_close(callback);
  }
  for (int i = 0; i < 4; i++) {
    uffd_resolver_close(resolvers[i]);
  }
}

static void the_end_of_the_other_resolver_ends_the_cover(void) {
  struct handing handing = {.to = image_resolver(3 * PAGE + 5), .length = 16 * PAGE, .absolute = true};
  struct asked asked;
  uffd_resolver *callback = make_handing(&asked, &handing);
  struct view view = view_open(callback, &(struct view_opts){.length = 16 * PAGE});
  CHECK(image_there(view.at, 0, 3 * PAGE + 5));
  CHECK(check_filled(view.at + 3 * PAGE + 5, PAGE - 5, 0));
  CHECK_EQ(asked.hits, 1);
  CHECK_EQ(view.at[4 * PAGE], image_byte(0)); /* asked anew, begins anew */
  CHECK_EQ(asked.hits, 2);
  view_close(&view);
  uffd_resolver_close(callback);
  uffd_resolver_close(handing.to);
}

static void refuse_handing(struct handing handing, int error, const char *words) {
  struct asked asked;
  char text[512];
  uffd_resolver *callback = make_handing(&asked, &handing);
  struct view view = view_open(callback, &(struct view_opts){.length = 4 * PAGE, .resolver_offset = 8 * PAGE});
  CHECK_EQ(check_access(view.at + PAGE, false, NULL), SIGBUS);
  CHECK_EQ(uffd_loop_error(view.serving.loop, text, sizeof(text)), error);
  if (strstr(text, words) == NULL) fprintf(stderr, "the sentence: %s\n", text);
  CHECK(strstr(text, words) != NULL);
  view_close(&view);
  uffd_resolver_close(callback);
}

static void handing_over_to_nothing(void) {
  check_needs(UFFD_FEAT_POISON);
  uffd_resolver *bytes = image_resolver(4 * PAGE), *zero = NULL;
  CHECK_OK(uffd_resolver_zero(&zero));
  refuse_handing((struct handing){.to = NULL}, EINVAL, "to nothing");
  refuse_handing((struct handing){.to = bytes}, EINVAL, "beyond the other resolver's end");
  refuse_handing((struct handing){.to = bytes, .resolver_offset = 4 * PAGE, .absolute = true}, EINVAL, "beyond");
  refuse_handing((struct handing){.to = zero, .resolver_offset = UINT64_MAX, .absolute = true}, EINVAL, "beyond");
  refuse_handing((struct handing){.to = zero, .resolver_offset = UINT64_MAX - 4094, .absolute = true}, EINVAL,
                 "beyond");
  refuse_handing((struct handing){.to = zero, .length = PAGE + 1}, EINVAL, "offset 36864");
  refuse_handing((struct handing){.to = zero, .offset = 1}, EINVAL, "handed over");
  refuse_handing((struct handing){.to = zero, .offset = PAGE, .length = PAGE}, EINVAL, "handed over");
  refuse_handing((struct handing){.to = zero, .offset = -PAGE, .length = PAGE}, EINVAL, "handed over");
  refuse_handing(
      (struct handing){.to = bytes, .offset = -PAGE, .length = 2 * PAGE, .resolver_offset = 5, .absolute = true},
      EINVAL, "handed over"); /* its cover begins before the other's offset 0 */
  uffd_resolver_close(bytes);
  uffd_resolver_close(zero);
}

static void a_circle_is_seen(void) {
  check_needs(UFFD_FEAT_POISON);
  struct handing handing = {0};
  struct asked asked;
  char text[512];
  uffd_resolver *callback = make_handing(&asked, &handing);
  handing.to = callback;
  struct view view = view_open(callback, &(struct view_opts){.length = PAGE});
  CHECK_EQ(check_access(view.at, false, NULL), SIGBUS);
  CHECK_EQ(uffd_loop_error(view.serving.loop, text, sizeof(text)), ELOOP);
  CHECK(strstr(text, "circle") != NULL);
  CHECK_EQ(asked.hits, UFFD_HANDOVER_MAX + 1);
  view_close(&view);
  uffd_resolver_close(callback);
}

static void as_deep_as_may_be(void) {
  uffd_resolver *inner = image_resolver(4 * PAGE);
  struct handing handing[UFFD_HANDOVER_MAX];
  struct asked asked[UFFD_HANDOVER_MAX];
  uffd_resolver *callbacks[UFFD_HANDOVER_MAX];
  for (unsigned i = 0; i < UFFD_HANDOVER_MAX; i++) {
    handing[i] = (struct handing){.to = i == 0 ? inner : callbacks[i - 1]};
    asked[i] = (struct asked){.answer = hand_over, .ctx = &handing[i]};
    callbacks[i] = asked_resolver(&asked[i]);
  }
  struct view view = view_open(callbacks[UFFD_HANDOVER_MAX - 1], &(struct view_opts){.length = 4 * PAGE});
  CHECK(image_there(view.at, 0, 4 * PAGE));
  CHECK_EQ(serving_stats(view.serving.loop).policy_calls, 4 * UFFD_HANDOVER_MAX);
  view_close(&view);
  for (unsigned i = 0; i < UFFD_HANDOVER_MAX; i++) {
    uffd_resolver_close(callbacks[i]);
  }
  uffd_resolver_close(inner);
}

/* Life */

struct life {
  _Atomic unsigned setups, teardowns, asked, idles, destroyed;
  int fail_at; /* set-up number that fails; 0: none */
  uffd_resolver *to;
};

static int life_setup(void *ctx, const struct uffd_handler *handler, void **state) {
  struct life *life = ctx;
  int number = (int)atomic_fetch_add(&life->setups, 1) + 1;
  CHECK(handler->index < handler->count && handler->key != NULL && handler->page_size == PAGE);
  if (number == life->fail_at) return uffd_set_errmsg(ENOTSUP, "Set-up %d says no.", number);
  *state = malloc(16); /* a leak is seen */
  snprintf(*state, 16, "%d", number);
  return 0;
}

static int life_resolve(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  struct life *life = ctx;
  atomic_fetch_add(&life->asked, 1);
  CHECK(state != NULL);
  if (life->to != NULL) {
    answer->kind = UFFD_ANSWER_RESOLVER;
    answer->resolver = life->to;
    answer->resolver_offset = fault->offset;
    return 0;
  }
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = state;
  answer->length = strlen(state);
  return 0;
}

static int life_idle(void *ctx, void *state) {
  struct life *life = ctx;
  CHECK(state != NULL);
  return atomic_fetch_add(&life->idles, 1) < 3;
}

static void life_teardown(void *ctx, void *state) {
  atomic_fetch_add(&((struct life *)ctx)->teardowns, 1);
  free(state);
}

static void life_destroy(void *ctx) {
  atomic_fetch_add(&((struct life *)ctx)->destroyed, 1);
}

static const struct uffd_callback_ops life_ops = {.size = sizeof(life_ops),
                                                  .setup = life_setup,
                                                  .resolve = life_resolve,
                                                  .idle = life_idle,
                                                  .teardown = life_teardown,
                                                  .destroy = life_destroy};

static void set_up_once_for_each_handler(void) {
  struct life life = {0};
  uffd_resolver *callback = make(&life_ops, &life, NULL, 0);
  CHECK(strcmp(uffd_resolver_kind(callback), "callback") == 0);
  CHECK(uffd_resolver_size(callback) == UINT64_MAX);
  uffd_memory *memory = memory_make(MEMORY_ANON, 3 * HUGE / PAGE);
  struct serving serving;
  serving_open(&serving, ENGINE_FIVE, NULL);
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.length = 2 * HUGE;
  uffd_region *first = NULL, *second = NULL;
  CHECK_OK(uffd_loop_add(serving.loop, memory, callback, &opts, &first));
  uint32_t count = serving_handlers(&serving);
  CHECK_EQ(life.setups, count);
  opts.offset = 2 * HUGE;
  opts.length = HUGE;
  CHECK_OK(uffd_loop_add(serving.loop, memory, callback, &opts, &second)); /* the same states serve it */
  CHECK_EQ(life.setups, count);
  uffd_resolver_close(callback);
  CHECK(*memory_at(memory, 0) != 0 && *memory_at(memory, HUGE) != 0 && *memory_at(memory, 2 * HUGE) != 0);
  CHECK_EQ(life.asked, 3);
  CHECK_OK(uffd_region_remove(first));
  CHECK_EQ(life.teardowns, 0);
  while (!serving_inline() && life.idles < 4) /* until all is tidy */
    check_pause();
  CHECK_OK(uffd_region_remove(second));
  CHECK_EQ(life.teardowns, count);
  serving_close(&serving);
  CHECK_EQ(life.teardowns, count);
  CHECK_EQ(life.destroyed, 1);
  uffd_memory_close(memory);
}

static void a_set_up_that_fails_undoes_the_others(void) {
  for (int fail_at = 1; fail_at <= 5; fail_at++) {
    struct life inner = {0}, life = {.fail_at = fail_at};
    uffd_resolver *uses = make(&life_ops, &inner, NULL, 0), *callback = make(&life_ops, &life, &uses, 1);
    uffd_memory *memory = memory_make(MEMORY_ANON, 2);
    struct serving serving;
    serving_open(&serving, ENGINE_FIVE, NULL);
    uffd_region *region = NULL;
    CHECK_ERR(uffd_loop_add(serving.loop, memory, callback, NULL, &region), -ENOTSUP);
    CHECK_SAYS("says no");
    CHECK_EQ(life.teardowns, fail_at - 1);
    CHECK_EQ(inner.setups, inner.teardowns);
    life.fail_at = 0;
    CHECK_OK(uffd_loop_add(serving.loop, memory, callback, NULL, &region)); /* and nothing was left behind */
    CHECK(*memory_at(memory, 0) != 0);
    serving_close(&serving);
    CHECK_EQ(life.setups, life.teardowns + 1);
    uffd_resolver_close(callback);
    uffd_resolver_close(uses);
    CHECK_EQ(life.destroyed + inner.destroyed, 2);
    uffd_memory_close(memory);
  }
}

static void what_it_uses_lives_and_is_set_up_with_it(void) {
  struct life inner = {0}, outer = {0};
  uffd_resolver *uses = make(&life_ops, &inner, NULL, 0);
  outer.to = uses;
  uffd_resolver *callback = make(&life_ops, &outer, &uses, 1);
  uffd_resolver_close(uses);
  CHECK_EQ(inner.destroyed, 0);
  struct view view = view_open(callback, &(struct view_opts){.length = 2 * PAGE});
  uffd_resolver_close(callback);
  uint32_t count = serving_handlers(&view.serving);
  CHECK_EQ(inner.setups, count);
  CHECK_EQ(view.at[0], serving_inline() ? '2' : '1'); /* who was set up second has the first fault */
  CHECK_EQ(inner.asked, 1);
  CHECK_EQ(outer.asked, 1);
  view_close(&view);
  CHECK_EQ(inner.teardowns + outer.teardowns, 2 * count);
  CHECK_EQ(inner.destroyed + outer.destroyed, 2);
}

static void handing_over_to_one_that_was_not_named(void) {
  check_needs(UFFD_FEAT_POISON);
  struct life inner = {0}, outer = {0};
  outer.to = make(&life_ops, &inner, NULL, 0);
  uffd_resolver *callback = make(&life_ops, &outer, NULL, 0);
  struct view view = view_open(callback, &(struct view_opts){.length = PAGE});
  char text[512];
  CHECK_EQ(check_access(view.at, false, NULL), SIGBUS);
  CHECK_EQ(uffd_loop_error(view.serving.loop, text, sizeof(text)), EINVAL);
  CHECK(strstr(text, "name it in `uses`") != NULL);
  CHECK_EQ(inner.asked, 0);
  view_close(&view);
  uffd_resolver_close(callback);
  uffd_resolver_close(outer.to);
}

static void slots_are_used_again(void) {
  struct life life = {0};
  uffd_resolver *callbacks[130], *layers = NULL;
  for (int round = 0; round < 3; round++) {
    for (unsigned i = 0; i < 130; i++) {
      callbacks[i] = make(&life_ops, &life, NULL, 0);
      CHECK_EQ(uffd_callback_slot(callbacks[i]), i); /* the lowest that is free */
    }
    uffd_resolver_close(callbacks[64]);
    uffd_resolver_close(callbacks[3]);
    callbacks[3] = make(&life_ops, &life, NULL, 0);
    CHECK_EQ(uffd_callback_slot(callbacks[3]), 3);
    callbacks[64] = make(&life_ops, &life, NULL, 0);
    CHECK_EQ(uffd_callback_slot(callbacks[64]), 64);
    for (unsigned i = 0; i < 130; i++) {
      uffd_resolver_close(callbacks[i]);
    }
  }
  const struct uffd_layer layer = {0, 0, make(&life_ops, &life, NULL, 0), 0};
  CHECK_OK(uffd_resolver_layers(&layer, 1, &layers));
  CHECK_EQ(uffd_callback_slot(layers), UINT32_MAX);
  uffd_resolver_close(layer.resolver);
  uffd_resolver_close(layers);
  CHECK_EQ(life.destroyed, 3 * 132 + 1);
}

static void make_and_close(void *ctx) {
  for (int i = 0; i < 2000; i++) {
    uffd_resolver *callbacks[3];
    for (int j = 0; j < 3; j++) {
      callbacks[j] = make(&life_ops, ctx, NULL, 0);
    }
    CHECK(uffd_callback_slot(callbacks[0]) < 6 && uffd_callback_slot(callbacks[1]) != uffd_callback_slot(callbacks[0]));
    for (int j = 0; j < 3; j++) {
      uffd_resolver_close(callbacks[j]);
    }
  }
}

static void slots_are_taken_by_several_threads(void) {
  struct life lives[2] = {0};
  struct check_thread threads[2];
  check_thread_start(&threads[0], make_and_close, &lives[0]);
  check_thread_start(&threads[1], make_and_close, &lives[1]);
  check_thread_join(&threads[0]);
  check_thread_join(&threads[1]);
  CHECK_EQ(lives[0].destroyed + lives[1].destroyed, 12000);
}

static void kinds_are_copied(void) {
  struct life life = {0};
  uffd_resolver *resolver = NULL;
  char kind[64] = "policy";
  CHECK_OK(uffd_resolver_callback(&life_ops, &life, kind, NULL, 0, &resolver));
  memset(kind, 'k', sizeof(kind) - 1);
  CHECK(strcmp(uffd_resolver_kind(resolver), "policy") == 0);
  uffd_resolver_close(resolver);
  CHECK_OK(uffd_resolver_callback(&life_ops, &life, kind, NULL, 0, &resolver));
  CHECK_EQ(strlen(uffd_resolver_kind(resolver)), 31);
  uffd_resolver_close(resolver);
}

static void refusals(void) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *resolver = (uffd_resolver *)&ops, *nothing = NULL;
  CHECK_ERR(uffd_resolver_callback(NULL, NULL, NULL, NULL, 0, &resolver), -EINVAL);
  CHECK_SAYS("resolve function");
  CHECK(resolver == NULL);
  CHECK_ERR(uffd_resolver_callback(&ops, NULL, NULL, NULL, 0, &resolver), -EINVAL);
  CHECK_ERR(uffd_resolver_callback(&life_ops, NULL, NULL, NULL, 1, &resolver), -EINVAL);
  CHECK_SAYS("uses");
  CHECK_ERR(uffd_resolver_callback(&life_ops, NULL, NULL, &nothing, 1, &resolver), -EINVAL);
  CHECK_SAYS("uses[0] is NULL");
  ops = life_ops;
  ops.size = 1;
  CHECK_ERR(uffd_resolver_callback(&ops, NULL, NULL, NULL, 0, &resolver), -EINVAL);
  CHECK_SAYS("uffd_callback_ops");
}

static const struct check_test tests[] = {
    TEST(the_fault_is_told),
    TEST(bytes_may_cover_less_or_more),
    TEST(an_answer_before_the_region_is_cut),
    TEST(zero_and_poison_over_several_pages),
    TEST(bytes_for_huge_pages),
    TEST(pages_to_move),
    TEST(later_is_asked_again),
    TEST(answers_that_are_none),
    TEST(an_error_is_kept_with_its_sentence),
    TEST(handing_over_page_by_page),
    TEST(handing_over_a_whole_cover),
    TEST(the_end_of_the_other_resolver_ends_the_cover),
    TEST(handing_over_to_nothing),
    TEST(a_circle_is_seen),
    TEST(as_deep_as_may_be),
    TEST(set_up_once_for_each_handler),
    TEST(a_set_up_that_fails_undoes_the_others),
    TEST(what_it_uses_lives_and_is_set_up_with_it),
    TEST(handing_over_to_one_that_was_not_named),
    TEST(slots_are_used_again),
    TEST(slots_are_taken_by_several_threads),
    TEST(kinds_are_copied),
    TEST(refusals),
};
CHECK_MAIN(tests)
