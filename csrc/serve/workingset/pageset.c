/*
 * A set of page numbers: a tree of blocks of one size. The lowest blocks have a bit for each page, the others have
 * pointers.
 */
#include "serve/workingset/pageset.h"

#include "base/base.h"

#define BITS_SHIFT  15u /* pages in a block of bits */
#define CHILD_SHIFT 9u
#define CHILDREN    (1u << CHILD_SHIFT)

union uffd_pageset_block {
  uint64_t bits[(1u << BITS_SHIFT) / 64];
  union uffd_pageset_block *children[CHILDREN];
};

/* log2 of the pages below a block at that height. */
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
  DELETE(block);
}

void uffd_pageset_free(struct uffd_pageset *set) {
  free_block(set->root, set->height);
  set->root = NULL;
}

int uffd_pageset_add(struct uffd_pageset *set, uint64_t page) {
  union uffd_pageset_block **block_at = &set->root;
  for (unsigned height = set->height;; height--) {
    if (*block_at == NULL && (*block_at = uffd_alloc(sizeof(**block_at))) == NULL) return -1;
    if (height == 0) break;
    block_at = &(*block_at)->children[page >> shift_of(height - 1) & (CHILDREN - 1)];
  }
  uint64_t *word = &(*block_at)->bits[page % (1u << BITS_SHIFT) / 64], bit = UINT64_C(1) << page % 64;
  if ((*word & bit) != 0) return 0;
  *word |= bit;
  return 1;
}

/* The block with the page's bit. NULL: none of the *span pages around it is in the set. */
static const union uffd_pageset_block *find_bits(const struct uffd_pageset *set, uint64_t page, uint64_t *span) {
  const union uffd_pageset_block *block = set->root;
  unsigned height = set->height;
  for (; block != NULL && height > 0; height--)
    block = block->children[page >> shift_of(height - 1) & (CHILDREN - 1)];
  *span = UINT64_C(1) << shift_of(height);
  return block;
}

/*
 * The first page from `page` on that is in the set (wanted) or that is not in it (not wanted); limit if there is none.
 */
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
