/*
 * Writing the ledger so that it can be read at any moment, and reading one that somebody else has left. What is in
 * shared memory is checked before it is used.
 */
#include "loop/pages/ledger.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#define MAGIC   UINT64_C(0x6764656c64666675) /* "uffdledg" */
#define VERSION UINT64_C(1)

uint64_t uffd_ledger_size(uint64_t pages, uint32_t regions) {
  const uint64_t head = sizeof(struct uffd_ledger_book);
  if (regions > UFFD_LEDGER_REGIONS || pages > (UINT64_C(1) << 47) / BASE_PAGE) return 0;
  return round_up(head + pages, BASE_PAGE);
}

static const struct uffd_ledger_table *current_table(const struct uffd_ledger_book *book) {
  return &book->tables[atomic_load_explicit(&book->sequence, memory_order_acquire) % 2];
}

/* Page states that were never written: reading them would make memory of holes. */

#define LOOK 256u /* pages of memory that are looked at by one system call */

struct run {
  uint64_t begin, end; /* page states; begin == end: none is left */
};

/* The next page states from `from` on, of count, whose memory is there. All others are ABSENT. */
static struct run next_run(const struct uffd_ledger_book *book, uint64_t from, uint64_t count) {
  const uintptr_t base = (uintptr_t)book->pages, last = base + count; /* a page state is a byte */
  unsigned char there[LOOK];
  struct run run = {count, count};
  for (uintptr_t at = round_down(base + from, BASE_PAGE); at < last;) {
    uint64_t looked = min_u64(LOOK, (last - at + BASE_PAGE - 1) / BASE_PAGE), i = 0;
    if (mincore((void *)at, looked * BASE_PAGE, there) != 0) return (struct run){from, count};
    for (; i < looked; i++, at += BASE_PAGE) {
      bool present = (there[i] & 1) != 0;
      if (present && run.begin == count) run.begin = max_u64(base + from, at) - base;
      if (!present && run.begin != count) break;
    }
    if (run.begin == count) continue;
    run.end = min_u64(last, at) - base;
    return run;
  }
  return run;
}

/* ---- what another process has left */

static int damaged(const char *what) {
  return fail(EINVAL, "The ledger is damaged (%s): serve with a new one, all zeros, if nothing was dropped yet.", what);
}

static int check_region(const struct uffd_ledger_region *region, uint64_t *pages) {
  uint64_t page_size = region->page_size;
  if (page_size < BASE_PAGE || page_size > HUGE_PAGE || (page_size & (page_size - 1)) != 0) return damaged("page size");
  if (region->length == 0 || region->length % page_size != 0 || region->start % page_size != 0 ||
      region->start + region->length < region->start || region->first != *pages) {
    return damaged("a region");
  }
  *pages += region->length / page_size;
  return 0;
}

static int check_slice(const struct uffd_ledger_book *book, uint64_t regions, const struct uffd_ledger_slice *slice,
                       uint64_t *end) {
  if (slice->region >= regions) return damaged("a piece of no region");
  const struct uffd_ledger_region *region = &book->regions[slice->region];
  uint64_t page_size = region->page_size, length = slice->end - slice->start;
  if (slice->start < *end || slice->end <= slice->start || slice->start % page_size != 0 || length % page_size != 0 ||
      slice->offset % page_size != 0 || slice->offset > region->length || length > region->length - slice->offset) {
    return damaged("a piece of a region");
  }
  *end = slice->end;
  return 0;
}

static int check_pages(const struct uffd_ledger_book *book, uint64_t pages) {
  for (struct run run = next_run(book, 0, pages); run.begin < pages; run = next_run(book, run.end, pages)) {
    for (uint64_t i = run.begin; i < run.end; i++) {
      if (atomic_load_explicit(&book->pages[i], memory_order_relaxed) > UFFD_PAGE_POISONED) return damaged("a page");
    }
  }
  return 0;
}

/* The last region may have been cut off while it was entered: its slices count once it does. */
static int check_book(const struct uffd_ledger *ledger) {
  const struct uffd_ledger_book *book = ledger->book;
  uint64_t regions = atomic_load(&book->regions_count), pages = 0, end = 0;
  if (book->version != VERSION) {
    return fail(EINVAL, "The ledger has version %" PRIu64 ": this library reads %" PRIu64 ".", book->version, VERSION);
  }
  if (book->size != ledger->size) {
    return fail(EINVAL, "The ledger was made with %" PRIu64 " bytes, and has %" PRIu64 " now.", book->size,
                ledger->size);
  }
  if (regions > UFFD_LEDGER_REGIONS) return damaged("too many regions");
  int result = 0;
  for (uint64_t i = 0; i < regions && result == 0; i++) {
    result = check_region(&book->regions[i], &pages);
    if (result == 0 && pages > ledger->pages_max) result = damaged("too many pages");
  }
  const struct uffd_ledger_table *table = current_table(book);
  if (result == 0 && table->count > UFFD_LEDGER_SLICES) result = damaged("too many pieces");
  for (uint64_t i = 0; i < table->count && result == 0; i++) {
    result = check_slice(book, regions, &table->slices[i], &end);
  }
  return result < 0 ? result : check_pages(book, pages);
}

/* ---- opening */

static void begin_book(struct uffd_ledger *ledger) {
  struct uffd_ledger_book *book = ledger->book;
  book->version = VERSION;
  book->size = ledger->size;
  atomic_store_explicit(&book->magic, MAGIC, memory_order_release);
}

static int open_book(struct uffd_ledger *ledger) {
  uint64_t magic = atomic_load_explicit(&ledger->book->magic, memory_order_acquire);
  if (magic == 0) {
    begin_book(ledger);
    return 0;
  }
  if (magic != MAGIC) return fail(EINVAL, "This memory is no ledger: a new one is all zeros.");
  int result = check_book(ledger);
  if (result < 0) return result;
  ledger->resumed = true;
  ledger->used = UFFD_READ_MAX;
  ledger->old = (uint32_t)atomic_load(&ledger->book->regions_count);
  ledger->applied = current_table(ledger->book)->applied;
  return 0;
}

int uffd_ledger_open(void *memory, uint64_t size, struct uffd_ledger **opened) {
  if ((uintptr_t)memory % BASE_PAGE != 0) return fail(EINVAL, "A ledger begins at a page: map it.");
  if (size < uffd_ledger_size(1, 1)) {
    return fail(EINVAL, "A ledger of %" PRIu64 " bytes is too small: uffd_ledger_size() says how much is needed.",
                size);
  }
  struct uffd_ledger *ledger = NEW(struct uffd_ledger);
  if (ledger == NULL) return fail(ENOMEM, "No memory for a ledger.");
  ledger->book = memory;
  ledger->size = size;
  ledger->pages_max = size - sizeof(struct uffd_ledger_book);
  int result = open_book(ledger);
  if (result < 0) {
    DELETE(ledger);
    return result;
  }
  /* A page that is not there when read(2) copies a message to it would lose the message of a process being killed. */
  mlock(ledger->book, offsetof(struct uffd_ledger_book, regions));
  *opened = ledger;
  return 0;
}

/* ---- regions */

static int enter_old(const struct uffd_ledger *ledger, const struct uffd_terms *terms) {
  const struct uffd_ledger_region *entry = &ledger->book->regions[ledger->added];
  if (entry->start == terms->address && entry->length == terms->length && entry->page_size == terms->page_size) {
    return 0;
  }
  return fail(EINVAL,
              "Region %u of the ledger is 0x%" PRIx64 " + %" PRIu64 " with pages of %" PRIu64
              " bytes: add the same regions in the same order.",
              ledger->added, entry->start, entry->length, entry->page_size);
}

/* All that follow, at once: a region whose adding has failed may have left some, also a predecessor's. */
static void clear_states(struct uffd_ledger *ledger, uint64_t first) {
  struct uffd_ledger_book *book = ledger->book;
  const uint64_t end = ledger->pages_max;
  for (struct run run = next_run(book, first, end); run.begin < end; run = next_run(book, run.end, end)) {
    for (uint64_t i = run.begin; i < run.end; i++) {
      atomic_store_explicit(&book->pages[i], UFFD_PAGE_ABSENT, memory_order_relaxed);
    }
  }
  ledger->clean = true;
}

static int enter_new(struct uffd_ledger *ledger, const struct uffd_terms *terms) {
  struct uffd_ledger_book *book = ledger->book;
  struct uffd_ledger_region entry = {.start = terms->address, .length = terms->length, .page_size = terms->page_size};
  if (ledger->added != 0) {
    const struct uffd_ledger_region *last = &book->regions[ledger->added - 1];
    entry.first = last->first + last->length / last->page_size;
  }
  uint64_t pages = terms->length / terms->page_size;
  if (ledger->added == UFFD_LEDGER_REGIONS || pages > ledger->pages_max - entry.first) {
    return fail(EINVAL, "The ledger has no room for another %" PRIu64 " pages: uffd_ledger_size() says what it takes.",
                pages);
  }
  if (!ledger->clean) clear_states(ledger, entry.first);
  memcpy(&book->regions[ledger->added], &entry, sizeof(entry));
  atomic_store_explicit(&book->regions_count, ledger->added + 1, memory_order_release);
  return 0;
}

int uffd_ledger_enter(struct uffd_ledger *ledger, struct uffd_terms *terms) {
  bool old = ledger->added < atomic_load(&ledger->book->regions_count);
  int result = old ? enter_old(ledger, terms) : enter_new(ledger, terms);
  if (result < 0) return result;
  terms->entry = ledger->added++;
  terms->pages = ledger->book->pages + ledger->book->regions[terms->entry].first;
  terms->next = ledger->entered;
  ledger->entered = terms;
  return 0;
}

void uffd_ledger_leave(struct uffd_ledger *ledger, struct uffd_terms *terms) {
  ledger->entered = terms->next;
  ledger->added = terms->entry;
  ledger->clean = false;
  if (terms->entry >= ledger->old)
    atomic_store_explicit(&ledger->book->regions_count, ledger->added, memory_order_release);
}

/* ---- slices */

int uffd_ledger_take_slices(const struct uffd_ledger *ledger, const struct uffd_terms *terms,
                            struct uffd_source *source) {
  const struct uffd_ledger_table *table = current_table(ledger->book);
  int taken = 0;
  for (uint64_t i = 0; i < table->count; i++) {
    const struct uffd_ledger_slice *entry = &table->slices[i];
    if (entry->region != terms->entry) continue;
    if (uffd_slices_reserve(source, 1) < 0) return -ENOMEM;
    const struct uffd_slice slice = {
        .start = entry->start,
        .end = entry->end,
        .offset = entry->offset,
        .pages = terms->pages + entry->offset / terms->page_size,
        .terms = terms,
        .moved = entry->moved != 0,
    };
    uffd_slices_insert(source, &slice);
    taken++;
  }
  return taken;
}

bool uffd_ledger_is_placed(const struct uffd_ledger *ledger, const struct uffd_terms *terms) {
  return atomic_load(&ledger->book->regions[terms->entry].placed) != 0;
}

static void write_table(struct uffd_ledger_table *table, const struct uffd_source *source, uint64_t applied) {
  table->applied = applied;
  table->count = min_u64(source->count, UFFD_LEDGER_SLICES);
  for (uint32_t i = 0; i < table->count; i++) {
    const struct uffd_slice *slice = &source->slices[i];
    table->slices[i] =
        (struct uffd_ledger_slice){slice->start, slice->end, slice->offset, slice->terms->entry, slice->moved};
  }
}

int uffd_ledger_commit(struct uffd_ledger *ledger, const struct uffd_source *source) {
  struct uffd_ledger_book *book = ledger->book;
  if (source->count > UFFD_LEDGER_SLICES) uffd_ledger_lose(ledger);
  uint64_t next = atomic_load_explicit(&book->sequence, memory_order_relaxed) + 1;
  write_table(&book->tables[next % 2], source, ledger->applied);
  BARRIER("committing", ledger);
  if (!BROKEN("ledger-commit")) atomic_store_explicit(&book->sequence, next, memory_order_release);
  for (uint32_t i = 0; i < source->count; i++) {
    atomic_store_explicit(&book->regions[source->slices[i].terms->entry].placed, 1, memory_order_release);
  }
  return source->count > UFFD_LEDGER_SLICES ? -ENOSPC : 0;
}

void uffd_ledger_lose(struct uffd_ledger *ledger) {
  if (!BROKEN("ledger-lost")) atomic_store_explicit(&ledger->book->lost, 1, memory_order_release);
}

bool uffd_ledger_has_lost(const struct uffd_ledger *ledger) {
  return atomic_load_explicit(&ledger->book->lost, memory_order_acquire) != 0;
}

/* What has happened since it was opened: a successor may be prepared while its predecessor still serves. */
int uffd_ledger_refresh(struct uffd_ledger *ledger, struct uffd_source *source) {
  int result = check_book(ledger);
  if (result < 0) return result;
  ledger->applied = current_table(ledger->book)->applied;
  source->count = 0;
  for (const struct uffd_terms *terms = ledger->entered; terms != NULL; terms = terms->next) {
    if (uffd_ledger_take_slices(ledger, terms, source) < 0)
      return fail(ENOMEM, "No memory for the pieces of a region.");
  }
  return 0;
}

/* ---- messages */

/*
 * The events go before the count of those before them: in between, a successor would apply again what has been applied,
 * but only what comes after the last change of a table, which does no harm twice.
 */
static void clear_messages(struct uffd_ledger *ledger) {
  struct uffd_ledger_book *book = ledger->book;
  for (uint32_t i = 0; i < ledger->used; i++) {
    *(volatile uint8_t *)&book->messages[i].event = 0;
  }
  atomic_store_explicit(&book->base, atomic_load_explicit(&book->base, memory_order_relaxed) + ledger->used,
                        memory_order_release);
  ledger->used = 0;
}

int uffd_ledger_read(struct uffd_ledger *ledger, int fd, struct uffd_raw_msg *messages) {
  clear_messages(ledger);
  *(volatile uint8_t *)&ledger->book->messages[0].event = 0; /* the page is there, and ours to write */
  int count = uffd_raw_read(fd, ledger->book->messages, UFFD_READ_MAX);
  if (count <= 0) return count;
  BARRIER("read", ledger);
  memcpy(messages, ledger->book->messages, (size_t)count * sizeof(*messages));
  ledger->used = (uint32_t)count;
  ledger->applied = atomic_load_explicit(&ledger->book->base, memory_order_relaxed); /* and one more with each */
  return count;
}

bool uffd_ledger_next(struct uffd_ledger *ledger, struct uffd_raw_msg *message) {
  const struct uffd_ledger_book *book = ledger->book;
  uint64_t base = atomic_load(&book->base);
  for (uint64_t at = max_u64(ledger->applied, base); at < base + UFFD_READ_MAX; at++) {
    memcpy(message, &book->messages[at - base], sizeof(*message));
    if (message->event == 0 || BROKEN("ledger-event")) continue;
    ledger->applied = at + 1;
    return true;
  }
  return false;
}

void uffd_ledger_pass_on(struct uffd_ledger *ledger, uint32_t index) {
  *(volatile uint8_t *)&ledger->book->messages[index].event = 0;
}

/* ---- forked children */

/* Into new memory of the same size: nothing is written where there are zeros. */
static void copy_book(const struct uffd_ledger_book *book, struct uffd_ledger_book *copy) {
  uint64_t regions = atomic_load(&book->regions_count), pages = 0;
  for (uint64_t i = 0; i < regions; i++) {
    memcpy(&copy->regions[i], &book->regions[i], sizeof(copy->regions[i]));
    pages = book->regions[i].first + book->regions[i].length / book->regions[i].page_size;
  }
  const struct uffd_ledger_table *table = current_table(book);
  copy->tables[0].count = table->count;
  memcpy(copy->tables[0].slices, table->slices, table->count * sizeof(table->slices[0]));
  for (struct run run = next_run(book, 0, pages); run.begin < pages; run = next_run(book, run.end, pages)) {
    for (uint64_t i = run.begin; i < run.end; i++) {
      uint8_t state = atomic_load_explicit(&book->pages[i], memory_order_relaxed);
      if (state != UFFD_PAGE_ABSENT) atomic_store_explicit(&copy->pages[i], state, memory_order_relaxed);
    }
  }
  atomic_store(&copy->lost, atomic_load(&book->lost));
  copy->version = VERSION;
  copy->size = book->size;
  atomic_store(&copy->regions_count, regions);
}

void *uffd_ledger_copy(const struct uffd_ledger *ledger) {
  struct uffd_ledger_book *copy = uffd_pages_map_sparse(ledger->size);
  if (copy == NULL) return NULL;
  copy_book(ledger->book, copy);
  atomic_store(&copy->magic, MAGIC);
  return copy;
}

/* What was read before the fork, and perhaps not applied yet, holds for the child, too; faults will be told again. */
static void copy_events(const struct uffd_ledger_book *book, uint32_t count, struct uffd_ledger_book *copy) {
  atomic_store(&copy->base, atomic_load(&book->base));
  copy->tables[0].applied = current_table(book)->applied;
  for (uint32_t i = 0; i < count; i++) {
    uint8_t event = book->messages[i].event;
    if (event == UFFD_REMOVE || event == UFFD_UNMAP || event == UFFD_REMAP) copy->messages[i] = book->messages[i];
  }
}

int uffd_ledger_fork(void *parent, uint64_t size, uint32_t index, void *child) {
  struct uffd_ledger ledger = {.book = parent, .size = size, .pages_max = size - sizeof(struct uffd_ledger_book)};
  struct uffd_ledger_book *copy = child;
  if (size < uffd_ledger_size(1, 1) || atomic_load(&ledger.book->magic) != MAGIC || index >= UFFD_READ_MAX) {
    return fail(EINVAL, "This memory is no ledger with a fork in it.");
  }
  int result = check_book(&ledger);
  if (result < 0) return result;
  copy_book(ledger.book, copy);
  copy_events(ledger.book, index, copy);
  atomic_store(&copy->magic, MAGIC);
  uffd_ledger_pass_on(&ledger, index);
  return 0;
}
