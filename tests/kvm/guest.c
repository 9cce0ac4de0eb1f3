/*
 * What runs in the virtual machine, in long mode, without anything beneath it: two processors share out the pages,
 * compare each with what it should hold, write to some, give blocks back to the monitor, have pages filled by the disk;
 * then each looks again at what the other one has seen.
 */
#include "layout.h"

#define STEP       UINT64_C(7919) /* odd: page n * STEP goes through all pages, neighbours far apart */
#define GIVE_EVERY (PAGES / (BLOCKS / 8 / CPUS))
#define MARK       UINT64_C(0x55AA55AA55AA55AA)

/* What becomes of a page. */
enum contents { IMAGE, COMPLEMENT, ZEROS, MARKED /* zeros, but for the first word */ };

static inline void ask(uint16_t port, uint64_t rdi, uint64_t rsi, uint64_t rcx) {
  __asm__ volatile("outb %%al, %%dx" : : "d"(port), "a"(0), "D"(rdi), "S"(rsi), "c"(rcx) : "memory");
}

static volatile uint64_t *words_of(uint64_t page) {
  return (volatile uint64_t *)address_of(page);
}

static uint64_t expected(enum contents contents, uint64_t page, uint64_t index) {
  switch (contents) {
  case IMAGE:
    return word_of(page, index);
  case COMPLEMENT:
    return ~word_of(page, index);
  case MARKED:
    return index == 0 ? MARK : 0;
  default:
    return 0;
  }
}

static void check(enum contents contents, uint64_t page) {
  volatile uint64_t *words = words_of(page);
  for (uint64_t i = 0; i < WORDS; i++) {
    uint64_t word = words[i];
    if (word != expected(contents, page, i)) ask(PORT_WRONG, page, i, word);
  }
}

static void write_complement(uint64_t page) {
  volatile uint64_t *words = words_of(page);
  for (uint64_t i = 0; i < WORDS; i++) {
    words[i] = ~word_of(page, i);
  }
  check(COMPLEMENT, page);
}

static bool is_written(uint64_t page) {
  return page % 4 == 1;
}

static bool is_walked(uint64_t page) {
  return page >= FIRST_PAGE && !IS_GIVEN(page / BLOCK_PAGES);
}

/*
 * Of a block that is given back, the first half was in use, and half of that was written to; the rest was never seen.
 * Then every second page is written to before it is read.
 */
static uint64_t give_back(uint64_t block) {
  uint64_t first = block * BLOCK_PAGES;
  for (uint64_t page = first; page < first + BLOCK_PAGES / 2; page++) {
    check(IMAGE, page);
    if (page % 2 == 0) write_complement(page);
  }
  ask(PORT_GIVE, block, 0, 0);
  for (uint64_t page = first; page < first + BLOCK_PAGES; page++) {
    if (page % 2 == 1) *words_of(page) = MARK;
    check(page % 2 == 1 ? MARKED : ZEROS, page);
  }
  return BLOCK_PAGES;
}

static uint64_t visit(uint64_t page) {
  if (is_from_disk(page)) {
    ask(PORT_DISK, page, 0, 0);
    check(COMPLEMENT, page);
    return 0;
  }
  check(IMAGE, page);
  if (!is_written(page)) return 0;
  write_complement(page);
  return 1;
}

static void look_again(uint64_t page) {
  if (IS_GIVEN(page / BLOCK_PAGES)) {
    check(page % 2 == 1 ? MARKED : ZEROS, page);
  } else {
    check(is_written(page) || is_from_disk(page) ? COMPLEMENT : IMAGE, page);
  }
}

static void wait_for_all(void) {
  uint64_t *arrived = (uint64_t *)SHARED;
  __atomic_fetch_add(arrived, 1, __ATOMIC_SEQ_CST);
  while (__atomic_load_n(arrived, __ATOMIC_SEQ_CST) < CPUS) {
    __asm__ volatile("pause");
  }
}

/* The monitor starts each processor here. */
__attribute__((section(".start"), noreturn)) void start(uint64_t cpu);

void start(uint64_t cpu) {
  uint64_t seen = 0, written = 0, block = 8 * cpu + 7;
  for (uint64_t n = 0; n < PAGES; n++) {
    uint64_t page = n * STEP % PAGES;
    if (n % GIVE_EVERY == 0) {
      seen += give_back(block);
      block += UINT64_C(8) * CPUS;
    }
    if (page % CPUS != cpu || !is_walked(page)) continue;
    seen++;
    written += visit(page);
  }
  wait_for_all();
  for (uint64_t n = 0; n < PAGES; n++) {
    uint64_t page = n * STEP % PAGES;
    if (page >= FIRST_PAGE && page % CPUS != cpu) look_again(page);
  }
  for (;;) {
    ask(PORT_DONE, seen, written, 0);
  }
}
