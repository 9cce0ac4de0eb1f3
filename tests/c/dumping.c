/*
 * Dumps, written byte by byte: see dumping.h.
 */
#define _GNU_SOURCE
#include "dumping.h"

#include <fcntl.h>
#include <inttypes.h>

void dump_add(struct dump_bytes *bytes, const void *more, size_t length) {
  if (bytes->length + length > bytes->room) {
    bytes->room = (bytes->length + length) * 2;
    bytes->at = realloc(bytes->at, bytes->room);
    CHECK(bytes->at != NULL);
  }
  if (length != 0) memcpy(bytes->at + bytes->length, more, length);
  bytes->length += length;
}

void dump_u32(struct dump_bytes *bytes, uint32_t value) {
  for (int i = 0; i < 4; i++) {
    unsigned char byte = (unsigned char)(value >> 8 * i);
    dump_add(bytes, &byte, 1);
  }
}

static void add_varint(struct dump_bytes *bytes, uint64_t value) {
  do {
    unsigned char byte = (unsigned char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
    dump_add(bytes, &byte, 1);
    value >>= 7;
  } while (value != 0);
}

void dump_number(struct dump_bytes *message, unsigned field, uint64_t value) {
  add_varint(message, (uint64_t)field << 3);
  add_varint(message, value);
}

static void give_back(struct dump_bytes *bytes) {
  free(bytes->at);
  *bytes = (struct dump_bytes){0};
}

void dump_message(struct dump_bytes *message, unsigned field, struct dump_bytes *inner) {
  add_varint(message, (uint64_t)field << 3 | 2);
  add_varint(message, inner->length);
  dump_add(message, inner->at, inner->length);
  give_back(inner);
}

void dump_begin(struct dump_bytes *file, uint32_t magic) {
  *file = (struct dump_bytes){0};
  dump_u32(file, DUMP_COMMON);
  dump_u32(file, magic);
}

void dump_record(struct dump_bytes *file, struct dump_bytes *record) {
  dump_u32(file, (uint32_t)record->length);
  dump_add(file, record->at, record->length);
  give_back(record);
}

void dump_write(const char *directory, const char *name, struct dump_bytes *bytes) {
  char path[256];
  snprintf(path, sizeof(path), "%s/%s", directory, name);
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  CHECK(fd >= 0);
  for (size_t at = 0; at < bytes->length;) {
    ssize_t count = write(fd, bytes->at + at, bytes->length - at);
    CHECK(count > 0);
    at += (size_t)count;
  }
  close(fd);
  give_back(bytes);
}

#define DIRECTORIES 32
static char directories[DIRECTORIES][64];
static unsigned made;
static pid_t maker;

static void remove_directories(void) {
  if (getpid() != maker) return; /* a child of the test */
  for (unsigned i = 0; i < made; i++) {
    char command[96];
    snprintf(command, sizeof(command), "rm -rf %s", directories[i]);
    if (system(command) != 0) return; /* NOLINT(cert-env33-c) */
  }
}

const char *dump_directory(void) {
  CHECK(made < DIRECTORIES);
  if (made == 0) {
    maker = getpid();
    atexit(remove_directories);
  }
  char *directory = directories[made++];
  strcpy(directory, "/tmp/uffd-dump-XXXXXX");
  CHECK(mkdtemp(directory) != NULL);
  return directory;
}

void dump_parent(const char *directory, const char *parent) {
  char path[128];
  snprintf(path, sizeof(path), "%s/parent", directory);
  CHECK(symlink(parent, path) == 0);
}

void dump_pstree(const char *directory, const int32_t *pids, size_t count) {
  struct dump_bytes file, record = {0};
  dump_begin(&file, DUMP_PSTREE);
  for (size_t i = 0; i < count; i++) {
    dump_number(&record, 1, (uint64_t)pids[i]);
    dump_number(&record, 2, i == 0 ? 0 : (uint64_t)pids[0]);
    dump_number(&record, 3, (uint64_t)pids[0]);
    dump_number(&record, 4, (uint64_t)pids[0]);
    dump_number(&record, 5, (uint64_t)pids[i]); /* its threads: itself, */
    dump_number(&record, 5, (uint64_t)pids[i] + 1000);
    dump_record(&file, &record);
  }
  dump_write(directory, "pstree.img", &file);
}

static void add_vma(struct dump_bytes *mm, const struct dump_vma *vma) {
  struct dump_bytes message = {0};
  dump_number(&message, 1, vma->start);
  dump_number(&message, 2, vma->start + vma->pages * DUMP_PAGE);
  dump_number(&message, 3, 0);
  dump_number(&message, 4, 0);
  dump_number(&message, 5, 3);
  dump_number(&message, 6, vma->flags != 0 ? vma->flags : DUMP_ANON);
  dump_number(&message, 7, vma->status | 1);
  dump_number(&message, 8, 1); /* -1, as a zigzag number */
  dump_message(mm, 14, &message);
}

void dump_mm(const char *directory, int32_t pid, const struct dump_vma *vmas, size_t count) {
  struct dump_bytes file, mm = {0};
  char name[64];
  dump_begin(&file, DUMP_MM);
  for (unsigned field = 1; field <= 12; field++) {
    dump_number(&mm, field, UINT64_C(0x7fff00000000) + field);
  }
  for (size_t i = 0; i < count; i++) {
    add_vma(&mm, &vmas[i]);
  }
  dump_number(&mm, 15, 1);
  dump_record(&file, &mm);
  snprintf(name, sizeof(name), "mm-%" PRId32 ".img", pid);
  dump_write(directory, name, &file);
}

static void add_run(struct dump_bytes *file, const struct dump_run *run) {
  struct dump_bytes record = {0};
  dump_number(&record, 1, run->start);
  dump_number(&record, 2, run->pages);
  if ((run->flags & DUMP_PARENT) != 0) dump_number(&record, 3, 1);
  if (!run->old) dump_number(&record, 4, run->flags);
  if (!run->old) dump_number(&record, 5, run->pages);
  dump_record(file, &record);
}

void dump_pages(const char *directory, int32_t pid, uint32_t id, const struct dump_run *runs, size_t count) {
  struct dump_bytes pagemap, record = {0}, pages = {0};
  char name[64];
  dump_begin(&pagemap, DUMP_PAGEMAP);
  dump_number(&record, 1, id);
  dump_record(&pagemap, &record);
  for (size_t i = 0; i < count; i++) {
    add_run(&pagemap, &runs[i]);
    for (uint64_t page = 0; (runs[i].flags & DUMP_PRESENT) != 0 && page < runs[i].pages; page++) {
      unsigned char bytes[DUMP_PAGE];
      dump_fill(bytes, runs[i].start + page * DUMP_PAGE, runs[i].seed);
      dump_add(&pages, bytes, sizeof(bytes));
    }
  }
  snprintf(name, sizeof(name), "pagemap-%" PRId32 ".img", pid);
  dump_write(directory, name, &pagemap);
  snprintf(name, sizeof(name), "pages-%" PRIu32 ".img", id);
  dump_write(directory, name, &pages);
}

static uint64_t word_of(uint64_t address, uint32_t seed) {
  return (address / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)seed << 20;
}

void dump_fill(void *page, uint64_t address, uint32_t seed) {
  for (size_t i = 0; i < DUMP_PAGE / 8; i++) {
    uint64_t word = word_of(address + i * 8, seed);
    memcpy((char *)page + i * 8, &word, 8);
  }
}

bool dump_is(const void *page, uint64_t address, uint32_t seed) {
  for (size_t i = 0; i < DUMP_PAGE / 8; i++) {
    uint64_t word = word_of(address + i * 8, seed);
    if (memcmp((const char *)page + i * 8, &word, 8) != 0) return false;
  }
  return true;
}
