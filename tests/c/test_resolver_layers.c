/*
 * Layers: every small arrangement of tops and grounds against a model, ragged ends, layers in layers, pages that lie on
 * a border, and what is refused.
 */
#define _GNU_SOURCE
#include "check.h"

#include <signal.h>
#include <sys/mman.h>

#include "resolving.h"

#define HUGE (UINT64_C(2) << 20)
#define PAGE UINT64_C(4096)

static struct serving served; /* the loop of a test with many views */

static uffd_resolver *make_layers(const struct uffd_layer *layers, size_t count) {
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_resolver_layers(layers, count, &resolver));
  CHECK(strcmp(uffd_resolver_kind(resolver), "layers") == 0);
  CHECK(uffd_resolver_size(resolver) == UINT64_MAX);
  return resolver;
}

static void refuse(const struct uffd_layer *layers, size_t count, const char *words) {
  uffd_resolver *resolver = (uffd_resolver *)&served;
  CHECK_ERR(uffd_resolver_layers(layers, count, &resolver), -EINVAL);
  CHECK_SAYS(words);
  CHECK(resolver == NULL);
}

/* Bytes that tell where they come from: seed, and the offset in steps of 16. */
static unsigned char *make_contents(unsigned seed, uint64_t length) {
  unsigned char *contents = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(contents != MAP_FAILED);
  for (uint64_t i = 0; i < length; i += 16) {
    memset(contents + i, (int)(1 + (seed * 83 + i / 16 * 7 + i / 4096) % 255), length - i < 16 ? length - i : 16);
  }
  return contents;
}

/* Against a model */

#define SOURCES      4
#define SOURCE_BYTES (3 * PAGE + 700)
#define SPACE        (8 * PAGE)

static struct source {
  unsigned char *contents;
  uffd_resolver *resolver;
} sources[SOURCES];

static void make_sources(void) {
  for (unsigned i = 0; i < SOURCES; i++) {
    sources[i].contents = make_contents(i, SOURCE_BYTES);
    CHECK_OK(uffd_resolver_bytes(sources[i].contents, SOURCE_BYTES, &sources[i].resolver));
  }
}

static void end_sources(void) {
  for (unsigned i = 0; i < SOURCES; i++) {
    munmap(sources[i].contents, SOURCE_BYTES);
    uffd_resolver_close(sources[i].resolver);
  }
}

static const struct source *source_of(const struct uffd_layer *layer) {
  for (unsigned i = 0; i < SOURCES; i++) {
    if (sources[i].resolver == layer->resolver) return &sources[i];
  }
  return NULL;
}

static unsigned byte_of(const struct uffd_layer *layer, uint64_t at) {
  uint64_t offset = at - layer->offset + layer->resolver_offset;
  return offset < SOURCE_BYTES ? source_of(layer)->contents[offset] : 0;
}

/* As the header says it: tops, beneath them the last ground that begins before, as far as its resolver reaches. */
static unsigned expected_byte(const struct uffd_layer *layers, size_t count, uint64_t at) {
  const struct uffd_layer *ground = NULL;
  for (size_t i = 0; i < count; i++) {
    const struct uffd_layer *layer = &layers[i];
    if (layer->length != 0) {
      if (at >= layer->offset && at - layer->offset < layer->length) return byte_of(layer, at);
    } else if (layer->offset <= at && (ground == NULL || layer->offset > ground->offset)) {
      ground = layer;
    }
  }
  return ground == NULL ? 0 : byte_of(ground, at);
}

static void check_model(const struct uffd_layer *layers, size_t count, uint64_t around) {
  unsigned char expected[SPACE];
  for (uint64_t at = 0; at < SPACE; at++) {
    expected[at] = (unsigned char)expected_byte(layers, count, at);
  }
  uffd_resolver *resolver = make_layers(layers, count);
  view_expect(resolver, &(struct view_opts){.length = SPACE, .around = around, .shared = &served}, expected);
  uffd_resolver_close(resolver);
}

static bool overlap(const struct uffd_layer *a, const struct uffd_layer *b) {
  return a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

/* Two tops of one to three pages at every place of five. */
static void every_two_tops(void) {
  serving_open(&served, ENGINE_ONE, NULL);
  make_sources();
  unsigned refused = 0, shown = 0;
  for (unsigned i = 0; i < 15 * 15; i++) {
    struct uffd_layer layers[2] = {
        {i % 5 * PAGE, (1 + i / 5 % 3) * PAGE, sources[0].resolver, 0},
        {i / 15 % 5 * PAGE, (1 + i / 75) * PAGE, sources[1].resolver, i % 2 * 300},
    };
    if (overlap(&layers[0], &layers[1])) {
      char first[64], second[64];
      const struct uffd_layer *low = &layers[layers[1].offset < layers[0].offset];
      const struct uffd_layer *high = &layers[low == layers];
      snprintf(first, sizeof(first), "%llu-%llu", (unsigned long long)low->offset,
               (unsigned long long)(low->offset + low->length));
      snprintf(second, sizeof(second), "%llu-%llu", (unsigned long long)high->offset,
               (unsigned long long)(high->offset + high->length));
      refuse(layers, 2, first);
      CHECK_SAYS(second);
      CHECK_SAYS("overlap");
      refused++;
    } else {
      check_model(layers, 2, i % 3 * 3 * PAGE);
      shown++;
    }
  }
  CHECK(refused > 50 && shown > 50);
  end_sources();
  serving_close(&served);
}

/* A ground at every place beneath a top at every place; then two grounds. */
static void every_top_on_every_ground(void) {
  serving_open(&served, ENGINE_TWO, NULL);
  make_sources();
  for (unsigned ground = 0; ground < 5; ground++) {
    for (unsigned top = 0; top < 5; top++) {
      for (unsigned length = 1; length <= 3; length++) {
        struct uffd_layer layers[3] = {
            {ground * PAGE, 0, sources[0].resolver, (ground + top) % 3 * 1000},
            {top * PAGE, length * PAGE, sources[1].resolver, length % 2 * 100},
        };
        /* where the ground ends within a page, the top must not begin in that page */
        check_model(layers, 2, length * 2 * PAGE);
        layers[2] = (struct uffd_layer){(ground + length) % 5 * PAGE, 0, sources[2].resolver, 0};
        if (layers[2].offset != layers[0].offset) check_model(layers, 3, length % 2 * 4 * PAGE);
      }
    }
  }
  end_sources();
  serving_close(&served);
}

static void tops_that_share_one_ground(void) {
  serving_open(&served, ENGINE_ONE, NULL);
  make_sources();
  /* holes of one page, neighbours, a top at the very start, one beyond the ground's end */
  const struct uffd_layer layers[] = {{2 * PAGE, PAGE, sources[1].resolver, 0},
                                      {0, PAGE, sources[2].resolver, 4095},
                                      {0, 0, sources[0].resolver, 0},
                                      {3 * PAGE, PAGE, sources[3].resolver, 1},
                                      {6 * PAGE, PAGE, sources[1].resolver, PAGE}};
  for (uint64_t around = 0; around <= 8 * PAGE; around += 2 * PAGE) {
    check_model(layers, 5, around);
  }
  end_sources();
  serving_close(&served);
}

/* Ragged ends */

static void a_layer_may_end_with_its_resolver(void) {
  serving_open(&served, ENGINE_ONE, NULL);
  make_sources();
  /* as long as the resolver; a part of a page longer; the next layer begins in the next page */
  struct uffd_layer layers[] = {{PAGE, SOURCE_BYTES, sources[0].resolver, 0},
                                {5 * PAGE, SOURCE_BYTES - 600, sources[1].resolver, 600}};
  for (uint64_t around = 0; around <= 8 * PAGE; around += 4 * PAGE) {
    check_model(layers, 2, around);
    layers[0].length = 4 * PAGE;
    check_model(layers, 2, around);
    layers[0].length = SOURCE_BYTES + 1;
    check_model(layers, 2, around);
    layers[0].length = SOURCE_BYTES;
  }
  layers[0].length = 4 * PAGE + 700; /* a whole page more than there is */
  refuse(layers, 1, "longer than its bytes resolver, which has 12988 bytes");
  /* another layer in the page where it ends */
  layers[0].length = SOURCE_BYTES;
  layers[1] = (struct uffd_layer){PAGE + SOURCE_BYTES, PAGE, sources[1].resolver, 0};
  uffd_resolver *resolver = make_layers(layers, 2);
  view_refused(resolver, &(struct view_opts){.length = SPACE}, -EINVAL,
               "Layers 4096-17084 and 17084-21180 meet within a page of 4096");
  uffd_resolver_close(resolver);
  /* it must end with the resolver, not before */
  layers[0].length = SOURCE_BYTES - 1;
  resolver = make_layers(layers, 1);
  view_refused(resolver, &(struct view_opts){.length = SPACE}, -EINVAL, "Layer 4096-17083 is not whole pages");
  uffd_resolver_close(resolver);
  end_sources();
  serving_close(&served);
}

static void a_layer_that_begins_within_a_page(void) {
  make_sources();
  const struct uffd_layer layers[] = {{0, PAGE, sources[0].resolver, 0}, {3 * PAGE + 1, PAGE, sources[1].resolver, 0}};
  uffd_resolver *resolver = make_layers(layers, 2);
  view_refused(resolver, &(struct view_opts){.length = SPACE}, -EINVAL,
               "Layer 12289-16385 is not whole pages of 4096 bytes");
  /* where the region does not come, nothing is wrong */
  unsigned char expected[3 * PAGE] = {0};
  memcpy(expected, sources[0].contents, PAGE);
  view_expect(resolver, &(struct view_opts){.length = 3 * PAGE, .around = 8 * PAGE}, expected);
  uffd_resolver_close(resolver);
  end_sources();
}

static void layers_under_huge_pages(void) {
  check_hugepages(8);
  unsigned char *contents = make_contents(1, 4 * HUGE);
  uffd_resolver *bytes = NULL, *zero = NULL;
  CHECK_OK(uffd_resolver_bytes(contents, HUGE + 5000, &bytes));
  CHECK_OK(uffd_resolver_zero(&zero));
  struct uffd_layer layers[] = {{0, 0, bytes, 0}, {2 * HUGE, HUGE, bytes, 4096}};
  uffd_resolver *resolver = make_layers(layers, 2);
  unsigned char *expected = mmap(NULL, 4 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memcpy(expected, contents, HUGE + 5000);
  memcpy(expected + 2 * HUGE, contents + 4096, HUGE);
  for (uint64_t around = 0; around <= 4 * HUGE; around += 4 * HUGE) {
    struct view_opts opts = {.kind = MEMORY_HUGETLB, .length = 4 * HUGE, .around = around};
    view_expect(resolver, &opts, expected);
  }
  uffd_resolver_close(resolver);
  /* what is whole pages of 4 KiB is not whole pages of 2 MiB */
  const struct uffd_layer small[][2] = {{{0, 0, zero, 0}, {PAGE, HUGE, bytes, 0}},
                                        {{0, 0, zero, 0}, {0, PAGE, bytes, 0}},
                                        {{0, 0, bytes, 0}, {HUGE + 2 * PAGE, PAGE, zero, 0}}};
  for (size_t i = 0; i < 3; i++) {
    resolver = make_layers(small[i], 2);
    view_refused(resolver, &(struct view_opts){.kind = MEMORY_HUGETLB, .length = 3 * HUGE}, -EINVAL,
                 "of 2097152 bytes");
    uffd_resolver_close(resolver);
  }
  uffd_resolver_close(bytes);
  uffd_resolver_close(zero);
}

/* Layers in layers */

static void layers_in_layers(void) {
  serving_open(&served, ENGINE_ONE, NULL);
  make_sources();
  const struct uffd_layer inner[] = {{0, PAGE, sources[0].resolver, 7}, {2 * PAGE, 0, sources[1].resolver, 0}};
  uffd_resolver *resolver = make_layers(inner, 2);
  unsigned char flat[SPACE], expected[SPACE];
  for (uint64_t at = 0; at < SPACE; at++) {
    flat[at] = (unsigned char)expected_byte(inner, 2, at);
  }
  memcpy(expected, flat, SPACE);
  for (int depth = 0; depth < 20; depth++) { /* moved by a page and back, under another top each time */
    struct uffd_layer outer[] = {{0, 0, resolver, (unsigned)depth % 2 * PAGE},
                                 {(unsigned)depth % 8 * PAGE, PAGE, NULL, 0}};
    const struct source *top = &sources[depth % SOURCES];
    outer[1].resolver = top->resolver;
    uffd_resolver *next = make_layers(outer, 2);
    uffd_resolver_close(resolver);
    resolver = next;
    memmove(expected, expected + outer[0].resolver_offset, SPACE - outer[0].resolver_offset);
    memset(expected + SPACE - outer[0].resolver_offset, 0, outer[0].resolver_offset);
    memcpy(expected + outer[1].offset, top->contents, PAGE);
    if (depth % 2 == 1) { /* the last page came from beyond the model */
      struct view_opts opts = {.length = SPACE / 2, .around = (uint64_t)depth * PAGE, .shared = &served};
      view_expect(resolver, &opts, expected);
    }
  }
  uffd_resolver_close(resolver);
  end_sources();
  serving_close(&served);
}

/* As deep as a handler's stack surely holds; each deeper one is refused, whatever nests it. */
static void nested_as_deep_as_may_be(void) {
  uffd_resolver *resolver = image_resolver(PAGE), *next = NULL;
  for (unsigned depth = 1; depth <= 64; depth++) {
    next = make_layers(&(struct uffd_layer){0, 0, resolver, 0}, 1);
    uffd_resolver_close(resolver);
    resolver = next;
  }
  unsigned char *expected = make_contents(0, PAGE);
  for (uint64_t i = 0; i < PAGE; i++) {
    expected[i] = (unsigned char)image_byte(i);
  }
  view_expect(resolver, &(struct view_opts){.length = PAGE}, expected);
  const struct uffd_layer layer = {0, 0, resolver, 0};
  refuse(&layer, 1, "nested 64 deep");
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  ops.resolve = (int (*)(void *, void *, const struct uffd_fault *, struct uffd_answer *))abort;
  CHECK_ERR(uffd_resolver_continue(resolver, &next), -EINVAL);
  CHECK_ERR(uffd_resolver_callback(&ops, NULL, NULL, &resolver, 1, &next), -EINVAL);
  CHECK_SAYS("nested 64 deep");
  CHECK(next == NULL);
  uffd_resolver_close(resolver);
}

/* What counts is where the pages lie: an odd offset into odd layers may be even. */
static void an_odd_offset_into_layers(void) {
  make_sources();
  const struct uffd_layer even[] = {{0, PAGE, sources[0].resolver, 0}, {PAGE, PAGE, sources[1].resolver, 0}};
  const struct uffd_layer odd[] = {{100, PAGE, sources[0].resolver, 0}, {PAGE + 100, PAGE, sources[1].resolver, 0}};
  uffd_resolver *resolvers[2] = {make_layers(even, 2), make_layers(odd, 2)};
  unsigned char expected[2 * PAGE];
  memcpy(expected, sources[0].contents, PAGE);
  memcpy(expected + PAGE, sources[1].contents, PAGE);
  for (int inner_odd = 0; inner_odd < 2; inner_odd++) {
    for (int offset_odd = 0; offset_odd < 2; offset_odd++) {
      const struct uffd_layer layer = {0, 2 * PAGE, resolvers[inner_odd], (uint64_t)offset_odd * 100};
      uffd_resolver *outer = make_layers(&layer, 1);
      struct view_opts opts = {.length = 2 * PAGE, .around = 2 * PAGE};
      if (inner_odd == offset_odd) {
        view_expect(outer, &opts, expected);
      } else {
        view_refused(outer, &opts, -EINVAL, "of 4096 bytes");
      }
      uffd_resolver_close(outer);
    }
  }
  uffd_resolver_close(resolvers[0]);
  uffd_resolver_close(resolvers[1]);
  end_sources();
}

static void an_inner_resolver_shorter_than_the_region(void) {
  make_sources();
  uffd_resolver *proceed = NULL;
  CHECK_OK(uffd_resolver_continue(sources[0].resolver, &proceed));
  const struct uffd_layer layer = {0, 4 * PAGE, proceed, 0};
  uffd_resolver *layers = make_layers(&layer, 1);
  struct view view = view_open(layers, &(struct view_opts){.kind = MEMORY_MEMFD, .length = 8 * PAGE});
  CHECK(view_same(view.at, sources[0].contents, SOURCE_BYTES));
  CHECK(check_filled(view.at + SOURCE_BYTES, 8 * PAGE - SOURCE_BYTES, 0));
  view_close(&view);
  uffd_resolver_close(layers);
  uffd_resolver_close(proceed);
  end_sources();
}

/* A callback hands over at an offset of its own: what nobody could check before is an error for that page */

struct hand_over {
  uffd_resolver *to;
  uint64_t shift;
};

static int hand_over(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  const struct hand_over *hand = asked->ctx;
  answer->kind = UFFD_ANSWER_RESOLVER;
  answer->resolver = hand->to;
  answer->resolver_offset = fault->offset + hand->shift;
  return 0;
}

static void a_page_on_a_border_is_an_error(void) {
  check_needs(UFFD_FEAT_POISON);
  make_sources();
  /* data, gap, data, and a ragged end, at every phase of a page */
  const struct uffd_layer layers[] = {{0, PAGE, sources[0].resolver, 0},
                                      {2 * PAGE, PAGE, sources[1].resolver, 0},
                                      {4 * PAGE, 700, sources[2].resolver, 3 * PAGE}};
  struct hand_over hand = {.to = make_layers(layers, 3)};
  struct asked asked = {.answer = hand_over, .ctx = &hand};
  const uint64_t shifts[] = {0, 1, 100, PAGE - 1, PAGE};
  for (size_t i = 0; i < sizeof(shifts) / sizeof(shifts[0]); i++) {
    hand.shift = shifts[i];
    uffd_resolver *callback = asked_resolver(&asked);
    struct view view = view_open(callback, &(struct view_opts){.length = 6 * PAGE});
    for (uint64_t page = 0; page < 6; page++) {
      uint64_t at = page * PAGE + hand.shift;
      /* whole in one layer, or whole in a gap; the last layer ends with its resolver, and zeros follow */
      bool whole = at % PAGE == 0 || at >= 4 * PAGE;
      unsigned value = 0;
      CHECK_EQ(check_access(view.at + page * PAGE, false, &value), whole ? 0 : SIGBUS);
      if (whole) CHECK_EQ(value, expected_byte(layers, 3, at));
    }
    char text[256];
    CHECK_EQ(uffd_loop_error(view.serving.loop, text, sizeof(text)), hand.shift % PAGE == 0 ? 0 : EINVAL);
    view_close(&view);
    uffd_resolver_close(callback);
  }
  uffd_resolver_close(hand.to);
  end_sources();
}

/* Many */

static void many_layers(void) {
  enum { COUNT = 20000 };
  uffd_resolver *pattern = NULL, *ground = NULL;
  CHECK_OK(uffd_resolver_pattern("top", 3, &pattern));
  CHECK_OK(uffd_resolver_pattern("ground", 6, &ground));
  struct uffd_layer *layers = calloc(2 * COUNT, sizeof(*layers));
  for (uint64_t i = 0; i < COUNT; i++) { /* shuffled: 7919 has no factor in common with COUNT */
    uint64_t place = i * 7919 % COUNT;
    layers[2 * i] = (struct uffd_layer){(4 * place + 1) * PAGE, PAGE, pattern, 0};
    layers[2 * i + 1] = (struct uffd_layer){(4 * place + 3) * PAGE, 0, ground, 0};
  }
  uffd_resolver *resolver = make_layers(layers, 2 * COUNT);
  struct view view = view_open(resolver, &(struct view_opts){.length = 64 * PAGE, .resolver_offset = 40000 * PAGE});
  for (uint64_t page = 0; page < 64; page++) {
    const char *expected = page % 4 == 1 ? "top" : page % 4 == 3 ? "ground" : (const char[]){"ground"};
    uint64_t since = page % 4 == 0 ? PAGE : page % 4 == 2 ? 3 * PAGE : 0; /* of the ground's beginning */
    CHECK_EQ(view.at[page * PAGE], (unsigned char)expected[since % strlen(expected)]);
  }
  view_close(&view);
  uffd_resolver_close(resolver);
  free(layers);
  uffd_resolver_close(pattern);
  uffd_resolver_close(ground);
}

/* The ends of all offsets */

static void as_far_as_offsets_go(void) {
  uffd_resolver *pattern = NULL, *bytes = image_resolver(8 * PAGE);
  CHECK_OK(uffd_resolver_pattern("abcde", 5, &pattern));
  const uint64_t high = UINT64_MAX - PAGE + 1 - 8 * PAGE;
  const struct uffd_layer layers[] = {
      {high, 2 * PAGE, pattern, 0}, {high + 4 * PAGE, 0, bytes, 0}, {0, PAGE, pattern, high}};
  uffd_resolver *resolver = make_layers(layers, 3);
  struct view view =
      view_open(resolver, &(struct view_opts){.length = 8 * PAGE, .resolver_offset = high, .around = UINT64_MAX});
  for (uint64_t at = 0; at < 8 * PAGE; at++) {
    unsigned expected = at < 2 * PAGE ? (unsigned)"abcde"[at % 5] : at < 4 * PAGE ? 0 : image_byte(at - 4 * PAGE);
    if (view.at[at] != expected) CHECK_EQ(at, UINT64_MAX);
  }
  view_close(&view);
  view = view_open(resolver, &(struct view_opts){.length = 2 * PAGE});
  CHECK_EQ(view.at[1], "abcde"[(high + 1) % 5]);
  CHECK_EQ(view.at[PAGE], 0);
  view_close(&view);
  uffd_resolver_close(resolver);
  uffd_resolver_close(pattern);
  uffd_resolver_close(bytes);
}

/* Refusals */

static void what_is_refused(void) {
  uffd_resolver *zero = NULL, *bytes = image_resolver(PAGE + 1);
  CHECK_OK(uffd_resolver_zero(&zero));
  const struct uffd_layer one = {0, PAGE, zero, 0};
  refuse(NULL, 1, "No layers");
  refuse(NULL, 0, "No layers");
  refuse(&one, 0, "No layers");
  refuse(&(struct uffd_layer){PAGE, PAGE, NULL, 0}, 1, "offset 4096 has no resolver");
  refuse(&(struct uffd_layer){0, PAGE, bytes, PAGE + 1}, 1, "begins 4097 bytes into a bytes resolver of 4097");
  refuse(&(struct uffd_layer){0, 0, bytes, UINT64_MAX}, 1, "begins");
  refuse(&(struct uffd_layer){0, 0, zero, UINT64_MAX}, 1, "begins");
  refuse(&(struct uffd_layer){PAGE, UINT64_MAX - PAGE + 1, zero, 0}, 1, "overflows");
  refuse(&(struct uffd_layer){UINT64_MAX, 0, zero, 0}, 1, "overflows");
  refuse(&(struct uffd_layer){1, UINT64_MAX, zero, 0}, 1, "overflows");
  refuse(&(struct uffd_layer){0, 2 * PAGE + 1, bytes, 0}, 1, "longer than its bytes resolver, which has 4097 bytes");
  refuse(&(struct uffd_layer){0, PAGE + 4097, bytes, 1}, 1, "which has 4096 bytes");
  refuse(&(struct uffd_layer){0, UINT64_MAX, bytes, 0}, 1, "longer");
  refuse((struct uffd_layer[]){{PAGE, 0, zero, 0}, one, {PAGE, 0, bytes, 0}}, 3,
         "Two layers without a length begin at offset 4096");
  refuse((struct uffd_layer[]){one, one}, 2, "Layers 0-4096 and 0-4096 overlap");
  refuse((struct uffd_layer[]){{PAGE - 1, 1, zero, 0}, one}, 2, "Layers 0-4096 and 4095-4096 overlap");
  refuse((struct uffd_layer[]){{0, UINT64_MAX - 1, zero, 0}, {UINT64_MAX - 2, 1, zero, 0}}, 2, "overlap");
  uffd_resolver_close(make_layers((struct uffd_layer[]){{PAGE, PAGE, zero, 0}, one}, 2)); /* neighbours do not */
  uffd_resolver_close(zero);
  uffd_resolver_close(bytes);
}

static const struct check_test tests[] = {
    TEST(every_two_tops),
    TEST(every_top_on_every_ground),
    TEST(tops_that_share_one_ground),
    TEST(a_layer_may_end_with_its_resolver),
    TEST(a_layer_that_begins_within_a_page),
    TEST(layers_under_huge_pages),
    TEST(layers_in_layers),
    TEST(nested_as_deep_as_may_be),
    TEST(an_odd_offset_into_layers),
    TEST(an_inner_resolver_shorter_than_the_region),
    TEST(a_page_on_a_border_is_an_error),
    TEST(many_layers),
    TEST(as_far_as_offsets_go),
    TEST(what_is_refused),
};
CHECK_MAIN(tests)
