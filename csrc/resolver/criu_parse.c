/*
 * The files of a CRIU dump: records of protocol buffers behind magic numbers, all little-endian. Only the fields that
 * the memory's layout needs are looked at.
 */
#include <inttypes.h>
#include <string.h>

#include "resolver/criu.h"

#define MAGIC_COMMON  0x54564319u
#define MAGIC_SERVICE 0x55105940u
#define MAGIC_PSTREE  0x50273030u
#define MAGIC_MM      0x57492820u
#define MAGIC_PAGEMAP 0x56084025u

#define ADDRESS_LIMIT (UINT64_C(1) << 57) /* user space of x86-64 with five levels */

/* Of an entry of mm-PID.img: MAP_* of its flags, and bits of its status. */
#define FLAG_PRIVATE    0x02u
#define FLAG_ANONYMOUS  0x20u
#define FLAG_LOCKED     0x2000u
#define FLAG_HUGETLB    0x40000u
#define STATUS_VSYSCALL (1u << 2)
#define STATUS_VDSO     (1u << 3)
#define STATUS_VVAR     (1u << 12)

struct file {
  const char *name;
  const unsigned char *start;
};
struct span {
  const unsigned char *at, *end;
};
struct field {
  uint32_t number, wire;
  uint64_t value;    /* wire 0, 1, 5 */
  struct span bytes; /* wire 2 */
};

static int damaged(const struct file *file, const unsigned char *at, const char *what) {
  return fail(EINVAL, "%s is damaged at byte %zu: %s.", file->name, (size_t)(at - file->start), what);
}

static uint64_t little(const unsigned char *at, unsigned bytes) {
  uint64_t value = 0;
  for (unsigned i = 0; i < bytes; i++) {
    value |= (uint64_t)at[i] << 8 * i;
  }
  return value;
}

static bool take_varint(struct span *span, uint64_t *value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64 && span->at < span->end; shift += 7) {
    unsigned char byte = *span->at++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

static bool take_fixed(struct span *span, unsigned bytes, uint64_t *value) {
  if ((size_t)(span->end - span->at) < bytes) return false;
  *value = little(span->at, bytes);
  span->at += bytes;
  return true;
}

static bool take_bytes(struct span *span, struct span *bytes) {
  uint64_t length;
  if (!take_varint(span, &length) || length > (uint64_t)(span->end - span->at)) return false;
  *bytes = (struct span){span->at, span->at + length};
  span->at += length;
  return true;
}

/* 1: a field; 0: there are no more; or -EINVAL. */
static int take_field(const struct file *file, struct span *message, struct field *field) {
  const unsigned char *at = message->at;
  uint64_t key;
  if (at == message->end) return 0;
  bool whole = take_varint(message, &key);
  *field = (struct field){.number = (uint32_t)(key >> 3), .wire = key & 7};
  if (whole && field->wire == 0) {
    whole = take_varint(message, &field->value);
  } else if (whole && field->wire == 1) {
    whole = take_fixed(message, 8, &field->value);
  } else if (whole && field->wire == 2) {
    whole = take_bytes(message, &field->bytes);
  } else if (whole && field->wire == 5) {
    whole = take_fixed(message, 4, &field->value);
  } else if (whole) {
    return damaged(file, at, "a field is of an unknown type");
  }
  if (!whole) return damaged(file, at, "a field ends after its record");
  return key >> 3 <= UINT32_MAX ? 1 : damaged(file, at, "a field has an impossible number");
}

/* Looks at the magic numbers; *records begins behind them. */
static int open_file(const struct file *file, uint64_t length, uint32_t wanted, struct span *records) {
  const unsigned char *at = file->start;
  uint32_t magic = 0;
  if (length < 4) return damaged(file, at, "the file ends in its magic numbers");
  const unsigned char *end = file->start + length;
  for (int i = 0; i < 2; i++, at += 4) {
    if (end - at < 4) return damaged(file, at, "the file ends in its magic numbers");
    magic = (uint32_t)little(at, 4);
    if (magic != MAGIC_COMMON && magic != MAGIC_SERVICE) break;
  }
  if (magic != wanted) {
    return fail(EINVAL,
                "%s is not an image file of CRIU of that name: its magic number is 0x%08" PRIx32 ", not 0x%08" PRIx32
                ".",
                file->name, magic, wanted);
  }
  *records = (struct span){at + 4, end};
  return 0;
}

/* 1: a record; 0: there are no more; or -EINVAL. */
static int take_record(const struct file *file, struct span *records, struct span *record) {
  const unsigned char *at = records->at;
  uint64_t length;
  if (at == records->end) return 0;
  if (!take_fixed(records, 4, &length) || length > (uint64_t)(records->end - records->at)) {
    return damaged(file, at, "a record reaches beyond the end of the file: it was cut short");
  }
  *record = (struct span){records->at, records->at + length};
  records->at += length;
  return 1;
}

int uffd_criu_grow(void **array, size_t *room, size_t count, size_t element) {
  if (count < *room) return 0;
  size_t more = *room == 0 ? 16 : *room * 2;
  void *made = uffd_alloc(more * element);
  if (made == NULL) return fail(ENOMEM, "No memory for the tables of a dump.");
  if (count != 0) memcpy(made, *array, count * element);
  uffd_release(*array, *room * element);
  *array = made;
  *room = more;
  return 0;
}

/* ---- pstree.img: a record a task */

static int take_pid(const struct file *file, struct span record, struct uffd_criu_pids *pids) {
  const unsigned char *at = record.at;
  struct field field;
  uint64_t pid = 0;
  int result;
  while ((result = take_field(file, &record, &field)) == 1) {
    if (field.number == 1 && field.wire == 0) pid = field.value;
  }
  if (result < 0) return result;
  if (pid == 0 || pid > INT32_MAX) return damaged(file, at, "a task has no pid");
  if (pids->count == UFFD_CRIU_TASKS_MAX)
    return fail(EFBIG, "%s has more than %u tasks.", file->name, UFFD_CRIU_TASKS_MAX);
  result = uffd_criu_grow((void **)&pids->at, &pids->room, pids->count, sizeof(*pids->at));
  if (result == 0) pids->at[pids->count++] = (int32_t)pid;
  return result;
}

int uffd_criu_parse_pstree(const unsigned char *bytes, uint64_t length, const char *name, struct uffd_criu_pids *pids) {
  const struct file file = {name, bytes};
  struct span records, record = {0};
  *pids = (struct uffd_criu_pids){0};
  int result = open_file(&file, length, MAGIC_PSTREE, &records);
  while (result >= 0 && (result = take_record(&file, &records, &record)) == 1) {
    result = take_pid(&file, record, pids);
  }
  if (result < 0) uffd_criu_free_pids(pids);
  return result;
}

void uffd_criu_free_pids(struct uffd_criu_pids *pids) {
  uffd_release(pids->at, pids->room * sizeof(*pids->at));
  *pids = (struct uffd_criu_pids){0};
}

/* ---- mm-PID.img: one record, whose field 14 is a mapping, repeated */

/* What the restorer registers with its userfaultfd. */
static bool is_lazy(uint64_t flags, uint64_t status) {
  const uint64_t wanted = FLAG_PRIVATE | FLAG_ANONYMOUS;
  return (flags & wanted) == wanted && (flags & (FLAG_LOCKED | FLAG_HUGETLB)) == 0 &&
         (status & (STATUS_VSYSCALL | STATUS_VDSO | STATUS_VVAR)) == 0;
}

static int take_vma(const struct file *file, struct span message, struct uffd_criu_vmas *vmas) {
  const unsigned char *at = message.at;
  struct field field;
  uint64_t values[8] = {0}; /* by number: 1 start, 2 end, 6 flags, 7 status */
  int result;
  while ((result = take_field(file, &message, &field)) == 1) {
    if (field.number < 8 && field.wire == 0) values[field.number] = field.value;
  }
  if (result < 0) return result;
  uint64_t start = values[1], end = values[2], status = values[7];
  bool lazy = is_lazy(values[6], status);
  if (start >= end || start % BASE_PAGE != 0 || end % BASE_PAGE != 0) {
    return damaged(file, at, "a mapping is not whole pages");
  }
  if (lazy && end > ADDRESS_LIMIT) return damaged(file, at, "a mapping reaches beyond the address space");
  if (vmas->count != 0 && vmas->at[vmas->count - 1].end > start) {
    return damaged(file, at, "a mapping begins before the end of the one before it");
  }
  result = uffd_criu_grow((void **)&vmas->at, &vmas->room, vmas->count, sizeof(*vmas->at));
  if (result == 0) vmas->at[vmas->count++] = (struct uffd_criu_vma){start, end, lazy};
  return result;
}

static int take_mm(const struct file *file, struct span record, struct uffd_criu_vmas *vmas) {
  struct field field;
  int result;
  while ((result = take_field(file, &record, &field)) == 1) {
    if (field.number == 14 && field.wire == 2) result = take_vma(file, field.bytes, vmas);
    if (result < 0) return result;
  }
  return result;
}

int uffd_criu_parse_mm(const unsigned char *bytes, uint64_t length, const char *name, struct uffd_criu_vmas *vmas) {
  const struct file file = {name, bytes};
  struct span records, record = {0};
  *vmas = (struct uffd_criu_vmas){0};
  int result = open_file(&file, length, MAGIC_MM, &records);
  if (result == 0) result = take_record(&file, &records, &record);
  if (result == 0) result = damaged(&file, records.at, "it has no record");
  if (result > 0) result = take_mm(&file, record, vmas);
  if (result < 0) uffd_criu_free_vmas(vmas);
  return result;
}

void uffd_criu_free_vmas(struct uffd_criu_vmas *vmas) {
  uffd_release(vmas->at, vmas->room * sizeof(*vmas->at));
  *vmas = (struct uffd_criu_vmas){0};
}

/* ---- pagemap-PID.img: a record that names the file of pages, then a record an extent */

static int take_head(const struct file *file, struct span record, struct uffd_criu_pagemap *pagemap) {
  struct field field;
  uint64_t id = UINT64_MAX;
  int result;
  while ((result = take_field(file, &record, &field)) == 1) {
    if (field.number == 1 && field.wire == 0) id = field.value;
  }
  if (result < 0) return result;
  if (id > UINT32_MAX) return damaged(file, file->start, "it does not name its file of pages");
  pagemap->pages_id = (uint32_t)id;
  return 0;
}

/* As the fields of an entry say it: images of old versions have in_parent, or no flags at all. */
static uint32_t read_flags(const uint64_t *values, bool has_flags) {
  if (values[3] != 0) return (uint32_t)values[4] | UFFD_CRIU_PARENT;
  return has_flags ? (uint32_t)values[4] : UFFD_CRIU_PRESENT;
}

static int check_flags(const struct file *file, uint64_t start, uint32_t flags) {
  bool placed = (flags & (UFFD_CRIU_PRESENT | UFFD_CRIU_PARENT)) != 0;
  if (placed && (flags & ~(uint32_t)(UFFD_CRIU_PRESENT | UFFD_CRIU_PARENT | UFFD_CRIU_LAZY)) == 0) return 0;
  if (flags == UFFD_CRIU_LAZY) {
    return fail(ENOTSUP,
                "%s: the page at 0x%" PRIx64 " is not in the dump, it stayed with a page server (criu dump "
                "--lazy-pages): a dump that has all its pages can be served.",
                file->name, start);
  }
  return fail(ENOTSUP, "%s: the pages at 0x%" PRIx64 " have flags that this version does not know: 0x%" PRIx32 ".",
              file->name, start, flags);
}

static int add_entry(const struct file *file, const unsigned char *at, const uint64_t *values, uint64_t pages,
                     uint32_t flags, struct uffd_criu_pagemap *pagemap) {
  uint64_t start = values[1];
  if (start % BASE_PAGE != 0) return damaged(file, at, "pages do not begin at a page");
  if (pages == 0) return damaged(file, at, "there are no pages in an entry");
  if (pages > (UINT64_MAX - start) / BASE_PAGE || pages * BASE_PAGE > INT64_MAX - pagemap->length) {
    return damaged(file, at, "pages reach beyond the address space");
  }
  if (pagemap->count != 0 && pagemap->at[pagemap->count - 1].end > start) {
    return damaged(file, at, "pages begin before the end of those before them");
  }
  int result = uffd_criu_grow((void **)&pagemap->at, &pagemap->room, pagemap->count, sizeof(*pagemap->at));
  if (result < 0) return result;
  pagemap->at[pagemap->count++] = (struct uffd_criu_entry){start, start + pages * BASE_PAGE, pagemap->length, flags};
  if ((flags & UFFD_CRIU_PRESENT) != 0) pagemap->length += pages * BASE_PAGE;
  return 0;
}

static int take_entry(const struct file *file, struct span record, struct uffd_criu_pagemap *pagemap) {
  const unsigned char *at = record.at;
  struct field field;
  uint64_t values[6] = {0}; /* by number: 1 address, 2 and 5 pages, 3 in the parent, 4 flags */
  bool has[6] = {false};
  int result;
  while ((result = take_field(file, &record, &field)) == 1) {
    if (field.number > 5) { /* what it changes is not known: without it the pages could be wrong */
      return fail(ENOTSUP,
                  "%s: an entry has field %" PRIu32 ", as compressed pages have: this version cannot read them; dump "
                  "without compression.",
                  file->name, field.number);
    }
    if (field.wire != 0 || field.number == 0) return damaged(file, at, "a field of an entry is no number");
    values[field.number] = field.value;
    has[field.number] = true;
  }
  if (result < 0) return result;
  uint32_t flags = read_flags(values, has[4]);
  if (values[4] > UINT32_MAX) return damaged(file, at, "an entry has impossible flags");
  result = check_flags(file, values[1], flags);
  return result < 0 ? result : add_entry(file, at, values, has[5] ? values[5] : values[2], flags, pagemap);
}

int uffd_criu_parse_pagemap(const unsigned char *bytes, uint64_t length, const char *name,
                            struct uffd_criu_pagemap *pagemap) {
  const struct file file = {name, bytes};
  struct span records, record = {0};
  *pagemap = (struct uffd_criu_pagemap){0};
  int result = open_file(&file, length, MAGIC_PAGEMAP, &records);
  if (result == 0) result = take_record(&file, &records, &record);
  if (result == 0) result = damaged(&file, records.at, "it has no record");
  if (result > 0) result = take_head(&file, record, pagemap);
  while (result >= 0 && (result = take_record(&file, &records, &record)) == 1) {
    result = take_entry(&file, record, pagemap);
  }
  if (result < 0) uffd_criu_free_pagemap(pagemap);
  return result;
}

void uffd_criu_free_pagemap(struct uffd_criu_pagemap *pagemap) {
  uffd_release(pagemap->at, pagemap->room * sizeof(*pagemap->at));
  *pagemap = (struct uffd_criu_pagemap){0};
}
