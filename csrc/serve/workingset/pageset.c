/*
 * A set of page numbers, as a tree of blocks of one size: bits at the bottom, blocks above.
 */
#include "serve/workingset/pageset.h"

#include <stdlib.h>

#include "base/base.h"

#define BITS_SHIFT  15u /* pages in a block of bits */
#define CHILD_SHIFT 9u
#define CHILDREN    (1u << CHILD_SHIFT)

union uffd_pageset_block {
  uint64_t bits[(1u << BITS_SHIFT) / 64];
  union uffd_pageset_block *children[CHILDREN];
};

/* Pages below a block at that height, as a power of two. */
static unsigned shift_of(unsigned height) {
  return BITS_SHIFT + CHILD_SHIFT * height;
}

void uffd_pageset_init(struct uffd_pageset *set, uint64_t limit) {
  *set = (struct uffd_pageset){.limit = limit};
  while (shift_of(set->height) < 64 && (limit - 1) >> shift_of(set->height) != 0)
    set->height++;
}

static void free_block(union uffd_pageset_block *block, unsigned height) {
  if (block == NULL) return;
  for (unsigned i = 0; height > 0 && i < CHILDREN; i++)
    free_block(block->children[i], height - 1);
  free(block);
}

void uffd_pageset_free(struct uffd_pageset *set) {
  free_block(set->root, set->height);
  set->root = NULL;
}

int uffd_pageset_add(struct uffd_pageset *set, uint64_t page) {
  union uffd_pageset_block **slot = &set->root;
  for (unsigned height = set->height;; height--) {
    if (*slot == NULL && (*slot = calloc(1, sizeof(**slot))) == NULL) return -1;
    if (height == 0) break;
    slot = &(*slot)->children[page >> shift_of(height - 1) & (CHILDREN - 1)];
  }
  uint64_t *word = &(*slot)->bits[page % (1u << BITS_SHIFT) / 64], bit = UINT64_C(1) << page % 64;
  if ((*word & bit) != 0) return 0;
  *word |= bit;
  return 1;
}

/* The block of bits that holds the page, or NULL: then none of the *span pages around it is there. */
static const union uffd_pageset_block *find_bits(const struct uffd_pageset *set, uint64_t page, uint64_t *span) {
  const union uffd_pageset_block *block = set->root;
  unsigned height = set->height;
  for (; block != NULL && height > 0; height--)
    block = block->children[page >> shift_of(height - 1) & (CHILDREN - 1)];
  *span = UINT64_C(1) << shift_of(height);
  return block;
}

/* The first page from `page` on that is in the set, or that is not; the limit if there is none. */
static uint64_t scan(const struct uffd_pageset *set, uint64_t page, bool wanted) {
  while (page < set->limit) {
    uint64_t span;
    const union uffd_pageset_block *block = find_bits(set, page, &span);
    if (block == NULL) {
      if (!wanted) return page;
      page = round_down(page, span) + span;
      continue;
    }
    uint64_t word = block->bits[page % (1u << BITS_SHIFT) / 64];
    word = (wanted ? word : ~word) >> page % 64;
    if (word != 0) return min_u64(page + (unsigned)__builtin_ctzll(word), set->limit);
    page = round_down(page, 64) + 64;
  }
  return set->limit;
}

bool uffd_pageset_run(const struct uffd_pageset *set, uint64_t from, struct uffd_run *run) {
  run->first = scan(set, from, true);
  run->count = scan(set, run->first, false) - run->first;
  return run->count != 0;
}
