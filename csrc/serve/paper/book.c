/*
 * The book of a client: its layout. Each part is written in such an order that a worker may die between any two stores
 * and the book is still right.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "loop/pages/ledger.h"
#include "serve/paper/book.h"

#define FLAGS_MASK UINT64_C(0xfff) /* of a touch: offsets are whole pages, the low bits hold the fault's flags */

_Static_assert(UFFD_REGIONS_MAX <= UFFD_LEDGER_REGIONS, "a ledger has room for all regions");

static char *at(const struct uffd_book *book, uint64_t offset) {
  return (char *)book->head + offset;
}

const struct uffd_client_region *uffd_book_regions(const struct uffd_book *book) {
  return (const struct uffd_client_region *)(const void *)at(book, book->head->regions_at);
}

void *uffd_book_ledger(const struct uffd_book *book) {
  return at(book, book->head->ledger_at);
}

static void lay_out(const struct uffd_client *client, bool record, struct uffd_book_head *head) {
  uint64_t pages = 0;
  for (uint32_t i = 0; i < client->regions_count; i++) {
    pages += client->regions[i].length / client->regions[i].page_size;
  }
  *head = (struct uffd_book_head){
      .version = UFFD_BOOK_VERSION,
      .regions_count = client->regions_count,
      .regions_at = round_up(sizeof(struct uffd_book_head), BASE_PAGE),
      .ledger_length = uffd_ledger_size(pages, client->regions_count),
      .pages = pages,
      .id = client->id,
      .of = client->of,
      .pid = client->pid,
      .uid = client->uid,
      .gid = client->gid,
  };
  if (client->label != NULL) snprintf(head->label, sizeof(head->label), "%s", client->label);
  if (client->socket != NULL) snprintf(head->socket, sizeof(head->socket), "%s", client->socket);
  uint64_t end = round_up(head->regions_at + client->regions_count * sizeof(struct uffd_client_region), BASE_PAGE);
  head->ledger_at = end;
  end = round_up(end + head->ledger_length, BASE_PAGE);
  if (record) {
    head->touched_at = end;
    end = round_up(end + (pages + 7) / 8, BASE_PAGE);
    head->record_at = end;
    end = round_up(end + pages * sizeof(uint64_t), BASE_PAGE);
  }
  head->length = end;
}

static int map(struct uffd_book *book, uint64_t length) {
  void *mapped = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, book->fd, 0);
  if (mapped == MAP_FAILED) return fail(errno, "Cannot map the book of a client: %s.", strerror(errno));
  book->head = mapped;
  book->length = length;
  return 0;
}

static int make(const struct uffd_book_head *head, struct uffd_book *book) {
  book->fd = memfd_create("uffd-book", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (book->fd < 0) return fail(errno, "No descriptor for the book of a client: %s.", strerror(errno));
  int result = 0;
  if (ftruncate(book->fd, (off_t)head->length) != 0) {
    result = fail(errno, "No room for the book of a client: %s.", strerror(errno));
  } else {
    (void)fcntl(book->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW); /* a mapping of it never ends in SIGBUS */
    result = map(book, head->length);
  }
  if (result < 0) {
    close(book->fd);
    *book = (struct uffd_book)UFFD_BOOK_INIT;
    return result;
  }
  *book->head = *head;
  return 0;
}

int uffd_book_create(const struct uffd_client *client, bool record, struct uffd_book *book) {
  struct uffd_book_head head;
  lay_out(client, record, &head);
  int result = make(&head, book);
  if (result < 0) return result;
  memcpy(at(book, head.regions_at), client->regions, client->regions_count * sizeof(*client->regions));
  return 0;
}

int uffd_book_open(int fd, struct uffd_book *book) {
  struct stat file;
  struct uffd_book_head head;
  *book = (struct uffd_book)UFFD_BOOK_INIT;
  if (fstat(fd, &file) != 0 || pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
      head.version < UFFD_BOOK_OLDEST || head.version > UFFD_BOOK_VERSION || head.length != (uint64_t)file.st_size) {
    return fail(EINVAL, "This is no book of a client, or of another version of the pager.");
  }
  book->fd = fd;
  int result = map(book, head.length);
  if (result < 0) book->fd = -1;
  return result;
}

int uffd_book_fork(const struct uffd_book *parent, struct uffd_book *child) {
  const struct uffd_book_head *of = parent->head;
  struct uffd_client client = {
      .label = of->label,
      .socket = of->socket,
      .of = of->id,
      .uid = of->uid,
      .gid = of->gid,
      .regions_count = of->regions_count,
      .regions = uffd_book_regions(parent),
  };
  int result = uffd_book_create(&client, of->record_at != 0, child);
  if (result == 0) child->head->shared = of->shared;
  return result;
}

int uffd_book_claim(const struct uffd_book *book, uint32_t epoch) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
  if (fcntl(book->fd, F_SETLK, &lock) != 0) return fail(EBUSY, "Another worker still serves this client.");
  atomic_store(&book->head->reader, (int32_t)getpid());
  if (atomic_load_explicit(&book->head->epoch, memory_order_acquire) == epoch) return 0;
  return fail(ESTALE, "Another supervisor has taken this client over.");
}

int32_t uffd_book_holder(const struct uffd_book *book) {
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
  if (fcntl(book->fd, F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return 0;
  return (int32_t)lock.l_pid;
}

bool uffd_book_unmapped(const struct uffd_book *book) {
  const struct uffd_ledger_book *ledger = uffd_book_ledger(book);
  uint64_t sequence = atomic_load(&ledger->sequence);
  if (atomic_load(&ledger->magic) == 0 || atomic_load(&ledger->lost) != 0) return false;
  if (atomic_load(&ledger->regions_count) != book->head->regions_count) return false;
  for (uint32_t i = 0; i < book->head->regions_count; i++) {
    if (atomic_load(&ledger->regions[i].placed) == 0) return false;
  }
  bool none = *(const volatile uint64_t *)&ledger->tables[sequence % 2].count == 0;
  return none && atomic_load(&ledger->sequence) == sequence; /* no other table counts by now */
}

void uffd_book_close(struct uffd_book *book) {
  if (book->head != NULL) munmap(book->head, book->length);
  if (book->fd >= 0) close(book->fd);
  *book = (struct uffd_book)UFFD_BOOK_INIT;
}

void uffd_book_publish(const struct uffd_book *book, const struct uffd_figures *figures) {
  struct uffd_book_head *head = book->head;
  uint32_t next = atomic_load_explicit(&head->published, memory_order_relaxed) + 1;
  if (next == 0) next = 2; /* 0 means none */
  head->figures[next % 2] = *figures;
  atomic_store_explicit(&head->published, next, memory_order_release);
}

/* The copy is torn only when two new figures were published meanwhile: then it is read again. */
bool uffd_book_figures(const struct uffd_book *book, struct uffd_figures *figures) {
  struct uffd_book_head *head = book->head;
  uint32_t published = atomic_load_explicit(&head->published, memory_order_acquire), before;
  do {
    if (published == 0) return false;
    before = published;
    *figures = head->figures[published % 2];
    atomic_thread_fence(memory_order_acquire);
    published = atomic_load_explicit(&head->published, memory_order_relaxed);
  } while (published != before);
  return true;
}

void uffd_book_reset(const struct uffd_book *book) {
  atomic_store_explicit(&book->head->published, 0, memory_order_release);
  atomic_store_explicit(&book->head->phase, UFFD_BOOK_NOBODY, memory_order_release);
}

void uffd_book_touch(const struct uffd_book *book, uint64_t page, uint64_t offset, uint64_t flags) {
  struct uffd_book_head *head = book->head;
  if (head->record_at == 0 || page >= head->pages) return;
  unsigned char *touched = (unsigned char *)at(book, head->touched_at) + page / 8;
  unsigned char bit = (unsigned char)(1u << (page % 8));
  if ((*touched & bit) != 0) return;
  uint64_t index = atomic_load_explicit(&head->recorded, memory_order_relaxed);
  if (index >= head->pages) return; /* full */
  ((uint64_t *)(void *)at(book, head->record_at))[index] = (offset & ~FLAGS_MASK) | (flags & FLAGS_MASK);
  atomic_store_explicit(&head->recorded, index + 1, memory_order_release);
  *touched |= bit; /* a worker that dies before this records the page twice, which the working set ignores */
}

struct uffd_touch uffd_book_touched(const struct uffd_book *book, uint64_t index) {
  uint64_t touch = ((const uint64_t *)(const void *)at(book, book->head->record_at))[index];
  return (struct uffd_touch){.offset = touch & ~FLAGS_MASK, .flags = touch & FLAGS_MASK};
}
