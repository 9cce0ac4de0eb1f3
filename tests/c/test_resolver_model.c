/*
 * Random trees of resolvers over random regions, touched in random order by two threads while a third prefetches: every
 * byte is what a model says. CHECK_SEED repeats a run.
 */
#define _GNU_SOURCE
#include "check.h"

#include <sys/mman.h>

#include "resolving.h"

#define HUGE     (UINT64_C(2) << 20)
#define CHILDREN 5u

static struct view_random dice;

static uint64_t roll(uint64_t below) {
  return view_next(&dice, below);
}

static uint64_t least(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

/* The model: a tree of nodes, each a resolver and what it should hold */

struct node {
  uffd_resolver *resolver;
  uint64_t size;           /* UINT64_MAX: any */
  uint64_t unit;           /* offsets into it are multiples of this */
  unsigned char *contents; /* NULL: none of its own */
  uint64_t length;         /* of the contents */
  bool repeats;
  uffd_memory *source;
  struct uffd_layer layers[CHILDREN];
  struct node *children[CHILDREN];
  unsigned count;
  uint64_t shift; /* of a callback that hands over to its child */
  uint64_t cover; /* pages that it answers, or hands over, at once */
};

static void model(const struct node *node, uint64_t offset, uint64_t length, unsigned char *out);

static void model_contents(const struct node *node, uint64_t offset, uint64_t length, unsigned char *out) {
  if (!node->repeats) {
    if (offset < node->length) memcpy(out, node->contents + offset, least(length, node->length - offset));
    return;
  }
  for (uint64_t done = 0, part; done < length; done += part) {
    uint64_t phase = (offset + done) % node->length;
    part = least(node->length - phase, length - done);
    memcpy(out + done, node->contents + phase, part);
  }
}

/* What lies at offset, and where that ends: NULL for a gap. */
static const struct uffd_layer *layer_at(const struct node *node, uint64_t offset, uint64_t *end) {
  const struct uffd_layer *found = NULL;
  for (unsigned i = 0; i < node->count; i++) {
    const struct uffd_layer *layer = &node->layers[i];
    bool top = layer->length != 0;
    if (layer->offset > offset) {
      *end = least(*end, layer->offset);
    } else if (top && offset - layer->offset < layer->length) {
      *end = least(*end, layer->offset + layer->length);
      return layer;
    } else if (!top && (found == NULL || layer->offset > found->offset)) {
      found = layer;
    }
  }
  return found;
}

static void model_layers(const struct node *node, uint64_t offset, uint64_t length, unsigned char *out) {
  for (uint64_t at = offset, end; at < offset + length; at = end) {
    end = offset + length;
    const struct uffd_layer *layer = layer_at(node, at, &end);
    if (layer == NULL) continue;
    const struct node *child = node->children[layer - node->layers];
    model(child, at - layer->offset + layer->resolver_offset, end - at, out + (at - offset));
  }
}

static void model(const struct node *node, uint64_t offset, uint64_t length, unsigned char *out) {
  if (node->contents != NULL) {
    model_contents(node, offset, length, out);
  } else if (node->layers[0].resolver != NULL) {
    model_layers(node, offset, length, out);
  } else if (node->count == 1) {
    model(node->children[0], offset + node->shift, length, out);
  }
}

/* Making trees */

static unsigned char *random_bytes(uint64_t length) {
  unsigned char *bytes = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(bytes != MAP_FAILED);
  for (uint64_t i = 0; i < length; i += 64) {
    memset(bytes + i, (int)roll(256), least(64, length - i));
    bytes[i] = (unsigned char)roll(256);
  }
  return bytes;
}

/* A length, often at or near a page border. */
static uint64_t random_length(uint64_t most) {
  uint64_t length = 1 + roll(most);
  switch (roll(4)) {
  case 0:
    return length;
  case 1:
    length = length / check_page() * check_page() + roll(3);
    break;
  default:
    length = (length + check_page() - 1) / check_page() * check_page();
    break;
  }
  return length == 0 || length > most ? most : length;
}

static void make_file(struct node *node, uint64_t space) {
  node->length = random_length(space);
  node->contents = random_bytes(node->length);
  uint64_t before = roll(2) == 0 ? 0 : roll(3 * check_page());
  int fd = memfd_create("model", MFD_CLOEXEC);
  CHECK(ftruncate(fd, (off_t)(before + node->length + roll(2 * check_page()))) == 0);
  for (uint64_t at = 0, part; at < node->length; at += part) { /* some is hole */
    part = least(random_length(16 * check_page()), node->length - at);
    if (roll(3) != 0) {
      CHECK_EQ(pwrite(fd, node->contents + at, part, (off_t)(before + at)), part);
    } else {
      memset(node->contents + at, 0, part);
    }
  }
  struct uffd_file_opts opts = UFFD_FILE_OPTS_INIT;
  opts.offset = before;
  opts.length = node->length;
  CHECK_OK(uffd_resolver_file_fd(fd, &opts, &node->resolver));
  close(fd);
}

static void make_memory(struct node *node, uint64_t space) {
  uint64_t page = check_page(), before = roll(2) == 0 ? 0 : roll(2 * page);
  uint64_t whole = (random_length(space) + before + page) / page * page;
  node->source = memory_make((int)roll(MEMORY_HUGETLB), whole / page);
  node->length = whole - before;
  node->contents = random_bytes(node->length);
  CHECK_EQ(uffd_memory_write(node->source, before, node->contents, node->length), 0);
  CHECK_OK(uffd_resolver_memory(node->source, before, &node->resolver));
}

static int answer_contents(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)state;
  const struct node *node = ctx;
  if (fault->offset >= node->length) return 0; /* zero, as the answer is found */
  answer->kind = UFFD_ANSWER_BYTES;
  uint64_t back = least(node->cover / 2 * fault->page_size, fault->offset / fault->page_size * fault->page_size);
  answer->offset = fault->offset - back;
  answer->data = node->contents + answer->offset;
  answer->length = least(back + (node->cover - node->cover / 2) * fault->page_size, node->length - answer->offset);
  return 0;
}

static int answer_handing_over(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)state;
  const struct node *node = ctx;
  const struct node *child = node->children[0];
  if (fault->offset + node->shift >= child->size) return 0;
  answer->kind = UFFD_ANSWER_RESOLVER;
  answer->resolver = child->resolver;
  answer->resolver_offset = fault->offset + node->shift;
  answer->length = node->cover * fault->page_size;
  return 0;
}

static void make_callback(struct node *node) {
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *uses = node->count == 1 ? node->children[0]->resolver : NULL;
  ops.resolve = node->count == 1 ? answer_handing_over : answer_contents;
  node->cover = 1 + roll(20);
  CHECK_OK(uffd_resolver_callback(&ops, node, NULL, &uses, node->count, &node->resolver));
  node->size = UINT64_MAX;
}

static struct node *make_leaf(uint64_t space) {
  struct node *node = calloc(1, sizeof(*node));
  node->unit = 1;
  switch (roll(6)) {
  case 0:
    CHECK_OK(uffd_resolver_zero(&node->resolver));
    break;
  case 1:
    node->length = random_length(space);
    node->contents = random_bytes(node->length);
    CHECK_OK(uffd_resolver_bytes(node->contents, node->length, &node->resolver));
    break;
  case 2:
    node->length = random_length(1 << 20);
    node->contents = random_bytes(node->length);
    node->repeats = true;
    CHECK_OK(uffd_resolver_pattern(node->contents, node->length, &node->resolver));
    break;
  case 3:
    make_file(node, space);
    break;
  case 4:
    make_memory(node, space);
    break;
  default:
    node->length = random_length(space);
    node->contents = random_bytes(node->length);
    make_callback(node);
    break;
  }
  node->size = uffd_resolver_size(node->resolver);
  return node;
}

/* The trees of one round: how large, and whether a border within a page would be seen too late to be refused. */
struct growth {
  uint64_t space, page;
  bool strict;
};

static struct node *make_tree(const struct growth *growth, unsigned depth);
static void end_tree(struct node *node);

static bool overlaps(const struct node *node, const struct uffd_layer *layer) {
  for (unsigned i = 0; i < node->count; i++) {
    const struct uffd_layer *other = &node->layers[i];
    if ((layer->length == 0) != (other->length == 0)) continue;
    if (layer->length == 0
            ? layer->offset == other->offset
            : layer->offset < other->offset + other->length && other->offset < layer->offset + layer->length)
      return true;
  }
  return false;
}

/* A place for a child: whole pages, but that it may end where the child does. */
static void add_layer(struct node *node, struct node *child, const struct growth *growth) {
  uint64_t space = growth->space, page = growth->page;
  struct uffd_layer layer = {.resolver = child->resolver, .offset = roll(space / page) * page};
  uint64_t room = child->size == UINT64_MAX ? 4 * space : child->size;
  layer.resolver_offset = roll(3) == 0 ? 0 : roll(least(room, space)) / child->unit * child->unit;
  uint64_t rest = room - layer.resolver_offset;
  if (roll(3) != 0) layer.length = (1 + roll(space / page)) * page;
  if (layer.length > rest) layer.length = rest / page != 0 && roll(2) == 0 ? rest / page * page : rest;
  bool ragged = layer.length % page != 0 || (layer.length == 0 && child->size != UINT64_MAX && rest % page != 0);
  if (overlaps(node, &layer) || (growth->strict && ragged)) return;
  node->layers[node->count] = layer;
  node->children[node->count++] = child;
}

static struct node *make_layers(const struct growth *growth, unsigned depth) {
  struct node *node = calloc(1, sizeof(*node));
  node->unit = growth->page;
  node->size = UINT64_MAX;
  for (uint64_t wanted = 1 + roll(CHILDREN); wanted > 0 || node->count == 0; wanted -= wanted != 0) {
    struct node *child = make_tree(growth, depth - 1);
    unsigned before = node->count;
    add_layer(node, child, growth);
    if (node->count == before) end_tree(child); /* found no place */
  }
  CHECK_OK(uffd_resolver_layers(node->layers, node->count, &node->resolver));
  return node;
}

/* Hands over to its child, whose borders are not looked at when the region is added. */
static struct node *make_handing(const struct growth *growth, unsigned depth) {
  struct growth strict = *growth;
  struct node *node = calloc(1, sizeof(*node));
  strict.strict = true;
  node->children[node->count++] = make_tree(&strict, depth - 1);
  node->unit = node->children[0]->unit;
  node->shift = roll(growth->space) / node->unit * node->unit;
  make_callback(node);
  return node;
}

static struct node *make_tree(const struct growth *growth, unsigned depth) {
  uint64_t kind = depth == 0 ? 0 : roll(6);
  if (kind == 0) return make_leaf(growth->space);
  return kind < 5 ? make_layers(growth, depth) : make_handing(growth, depth);
}

static void end_tree(struct node *node) {
  for (unsigned i = 0; i < CHILDREN; i++) {
    if (node->children[i] != NULL) end_tree(node->children[i]);
  }
  uffd_resolver_close(node->resolver);
  uffd_memory_close(node->source);
  if (node->contents != NULL) munmap(node->contents, node->length);
  free(node);
}

/* Touching */

struct toucher {
  struct check_thread thread;
  const struct view *view;
  const unsigned char *expected;
  struct view_random dice;
};

static void check_page_at(const struct view *view, const unsigned char *expected, uint64_t offset) {
  bool same = view_same(view->at + offset, expected + offset, view->page);
  if (!same) {
    char text[512];
    uffd_loop_error(view->serving.loop, text, sizeof(text));
    fprintf(stderr, "at %#llx; the loop's first failure: %s\n", (unsigned long long)offset, text);
  }
  CHECK(same);
}

/* All pages, each once, in an order of its own. */
static void touch_all(void *ctx) {
  struct toucher *toucher = ctx;
  const struct view *view = toucher->view;
  uint64_t pages = view->length / view->page, *order = calloc(pages, sizeof(*order));
  for (uint64_t i = 0; i < pages; i++) {
    uint64_t j = view_next(&toucher->dice, i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  for (uint64_t i = 0; i < pages; i++) {
    uint64_t offset = order[i] * view->page;
    check_page_at(view, toucher->expected, offset);
  }
  free(order);
}

static void prefetch_some(const struct view *view) {
  for (int i = 0; i < 4; i++) {
    uint64_t from = roll(view->length), length = roll(view->length - from) + 1;
    CHECK_OK(uffd_region_prefetch(view->region, from, length));
    CHECK_OK(uffd_region_prefetch(view->region, from, 1));
  }
}

/* Rounds */

static int pick_kind(bool huge) {
  if (huge) return MEMORY_HUGETLB + (int)roll(2);
  static const int kinds[] = {MEMORY_ANON, MEMORY_THP, MEMORY_MEMFD, MEMORY_MEMFD_PRIVATE, MEMORY_ADOPTED};
  return kinds[roll(5)];
}

/* True when the region was accepted: a border may lie in the middle of a page after all. */
static bool play(bool huge) {
  uint64_t page = huge ? HUGE : check_page(), pages = 1 + roll(huge ? 3 : 70), space = (huge ? 4 : 90) * page;
  struct node *tree = make_tree(&(struct growth){space, page, false}, huge ? 2 : 3);
  static const uint64_t arounds[] = {0, 0, 3, 16, 1024};
  struct view_opts opts = {.kind = pick_kind(huge), .length = pages * page, .engine = (int)roll(ENGINE_PUMP)};
  opts.on_error = UFFD_ON_ERROR_ZERO; /* so that it is told what went wrong */
  opts.around = arounds[roll(5)] * page;
  opts.resolver_offset = roll(space / page) * page;
  if (roll(4) == 0 && !huge) opts.modes = UFFD_MODE_MISSING | UFFD_MODE_WP;
  if (tree->size != UINT64_MAX && opts.resolver_offset + opts.length > (tree->size + page - 1) / page * page) {
    opts.resolver_offset = 0;
    opts.length = (tree->size + page - 1) / page * page;
    if (opts.length > 4 * space) opts.length = space;
  }
  unsigned char *expected = mmap(NULL, opts.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  model(tree, opts.resolver_offset, opts.length, expected);

  struct view view;
  bool accepted = view_try(tree->resolver, &opts, &view);
  if (accepted) {
    struct toucher touchers[2];
    for (int i = 0; i < 2; i++) {
      touchers[i] = (struct toucher){.view = &view, .expected = expected, .dice = {roll(UINT64_C(1) << 62) * 2 + 1}};
      check_thread_start(&touchers[i].thread, touch_all, &touchers[i]);
    }
    prefetch_some(&view);
    for (int i = 0; i < 2; i++) {
      check_thread_join(&touchers[i].thread);
    }
    CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), 0);
    if (roll(2) == 0) CHECK_OK(uffd_region_complete(view.region));
    CHECK(view_same(view.at, expected, view.length));
    CHECK_EQ(uffd_loop_error(view.serving.loop, NULL, 0), 0);
  } else {
    CHECK_SAYS("page");
  }
  view_close(&view);
  munmap(expected, opts.length);
  end_tree(tree);
  return accepted;
}

static void play_rounds(bool huge, unsigned rounds) {
  if (check_under_tsan()) rounds = rounds / 4 + 1;
  dice = view_seed();
  unsigned accepted = 0;
  for (unsigned i = 0; i < rounds; i++) {
    accepted += play(huge);
  }
  CHECK(accepted * 2 > rounds);
}

static void random_trees(void) {
  check_needs(UFFD_FEAT_POISON);
  play_rounds(false, 60);
}

static void random_trees_under_huge_pages(void) {
  check_needs(UFFD_FEAT_POISON);
  check_hugepages(24);
  play_rounds(true, 12);
}

static const struct check_test tests[] = {
    TEST(random_trees),
    TEST(random_trees_under_huge_pages),
};
CHECK_MAIN(tests)
