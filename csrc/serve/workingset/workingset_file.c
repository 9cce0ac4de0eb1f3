/*
 * Working sets in files, in the format that uffd_pager.h describes. Every field that is read is checked. A new file
 * takes the place of the old one when it is whole (base/newfile.c).
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve/workingset/workingset.h"

#define VERSION 1u
#define HEADER  64u /* bytes */
#define RECORD  8u
#define TRAILER 8u
#define CHUNK   65536u /* bytes read or written at once, whole records */

static const unsigned char magic[8] = {0x89, 'u', 'f', 'f', 'd', 'w', 's', '\n'};

/* The offsets of the header's fields. */
enum {
  AT_VERSION = 8,
  AT_HEADER = 12,
  AT_PAGE_SIZE = 16,
  AT_LENGTH = 24,
  AT_IDENTITY = 32,
  AT_COUNT = 40,
  AT_RESERVED = 48,
  AT_CHECKSUM = 56
};

static uint64_t get_u64(const unsigned char *at) {
  uint64_t value = 0;
  for (unsigned i = 8; i-- > 0;)
    value = value << 8 | at[i];
  return value;
}

static uint32_t get_u32(const unsigned char *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void put_u64(unsigned char *at, uint64_t value) {
  for (unsigned i = 0; i < 8; i++)
    at[i] = (unsigned char)(value >> 8 * i);
}

static void put_u32(unsigned char *at, uint32_t value) {
  for (unsigned i = 0; i < 4; i++)
    at[i] = (unsigned char)(value >> 8 * i);
}

/* A file that is being read: its path for sentences, and the checksum of what was read so far. */
struct reader {
  const char *path;
  int fd;
  uint64_t length, at, sum;
};

static int read_bytes(struct reader *reader, unsigned char *bytes, uint64_t length) {
  for (uint64_t done = 0; done < length;) {
    ssize_t count = pread(reader->fd, bytes + done, length - done, (off_t)(reader->at + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(errno, "Cannot read %s: %s.", reader->path, strerror(errno));
    if (count == 0)
      return fail(EINVAL, "%s ended at byte %" PRIu64 " while it was read.", reader->path, reader->at + done);
    done += (uint64_t)count;
  }
  reader->at += length;
  return 0;
}

static int begin(int fd, const char *path, struct reader *reader) {
  struct stat status;
  *reader = (struct reader){.path = path, .fd = fd, .sum = FNV_BASIS};
  if (fstat(fd, &status) != 0) return fail(errno, "Cannot look at %s: %s.", path, strerror(errno));
  if (!S_ISREG(status.st_mode)) return fail(EINVAL, "%s is not a regular file, so it is no working set.", path);
  reader->length = (uint64_t)status.st_size;
  return 0;
}

/* Checks that it is a working-set file of a version that we know. */
static int check_kind(const struct reader *reader, const unsigned char *header) {
  if (memcmp(header, magic, sizeof(magic)) != 0)
    return fail(EINVAL, "%s is not a working-set file: it does not begin as one.", reader->path);
  uint32_t version = get_u32(header + AT_VERSION);
  if (version > VERSION)
    return fail(EINVAL, "%s is a working set of version %" PRIu32 ", or damaged at byte %d; uffd %s reads version %u.",
                reader->path, version, AT_VERSION, uffd_version(), VERSION);
  if (version != VERSION || get_u32(header + AT_HEADER) != HEADER)
    return fail(EINVAL, "%s is damaged: no working set has version %" PRIu32 " and a header of %" PRIu32 " bytes.",
                reader->path, version, get_u32(header + AT_HEADER));
  if (get_u64(header + AT_CHECKSUM) != uffd_fnv(FNV_BASIS, header, AT_CHECKSUM))
    return fail(EINVAL, "%s is damaged: the checksum of its header (at byte %d) is wrong.", reader->path, AT_CHECKSUM);
  return 0;
}

static int check_count(const struct reader *reader, uint64_t count, const uffd_workingset *set) {
  if (count > set->pages.limit)
    return fail(EINVAL, "%s is no working set: it has %" PRIu64 " records, and its image only %" PRIu64 " pages.",
                reader->path, count, set->pages.limit);
  uint64_t records = reader->length < HEADER + TRAILER ? 0 : (reader->length - HEADER - TRAILER) / RECORD;
  if (count > records)
    return fail(EINVAL, "%s is cut off at byte %" PRIu64 ": it has room for %" PRIu64 " of its %" PRIu64 " records.",
                reader->path, reader->length, records, count);
  uint64_t end = HEADER + count * RECORD + TRAILER;
  if (reader->length != end)
    return fail(EINVAL, "%s goes on behind its end at byte %" PRIu64 ": it has %" PRIu64 " bytes.", reader->path, end,
                reader->length);
  return 0;
}

static int read_header(struct reader *reader, uffd_workingset **set, uint64_t *count) {
  unsigned char header[HEADER] = {0};
  if (reader->length == 0) return fail(EINVAL, "%s is empty: it is no working set.", reader->path);
  int result = read_bytes(reader, header, min_u64(reader->length, HEADER));
  if (result < 0) return result;
  if (reader->length < HEADER && memcmp(header, magic, min_u64(reader->length, sizeof(magic))) == 0)
    return fail(EINVAL, "%s is cut off at byte %" PRIu64 ", within its header of %u bytes.", reader->path,
                reader->length, HEADER);
  result = check_kind(reader, header);
  if (result < 0) return result;
  reader->sum = uffd_fnv(reader->sum, header, HEADER);
  *count = get_u64(header + AT_COUNT);
  if (get_u64(header + AT_RESERVED) != 0)
    return fail(EINVAL, "%s uses what uffd %s does not know (at byte %d).", reader->path, uffd_version(), AT_RESERVED);
  result = uffd_workingset_create(get_u64(header + AT_PAGE_SIZE), get_u64(header + AT_LENGTH),
                                  get_u64(header + AT_IDENTITY), set);
  if (result == -EINVAL) return fail(EINVAL, "%s is no working set: %s", reader->path, uffd_errmsg());
  return result < 0 ? result : check_count(reader, *count, *set);
}

static int take_record(const struct reader *reader, uffd_workingset *set, uint64_t record) {
  uint64_t index = set->count, page = RECORD_PAGE(record);
  int added = page < set->pages.limit ? uffd_workingset_add_record(set, record) : 0;
  if (added != 0) return added < 0 ? added : 0;
  return fail(EINVAL, "%s is damaged: its record %" PRIu64 " (at byte %" PRIu64 ") names page %" PRIu64 " %s.",
              reader->path, index, HEADER + index * RECORD, page,
              page < set->pages.limit ? "once more" : "beyond the image");
}

static int read_records(struct reader *reader, uffd_workingset *set, uint64_t count) {
  unsigned char chunk[CHUNK];
  for (uint64_t left = count * RECORD; left > 0;) {
    uint64_t length = min_u64(left, CHUNK);
    int result = read_bytes(reader, chunk, length);
    for (uint64_t at = 0; at < length && result == 0; at += RECORD)
      result = take_record(reader, set, get_u64(chunk + at));
    if (result < 0) return result;
    reader->sum = uffd_fnv(reader->sum, chunk, length);
    left -= length;
  }
  int result = read_bytes(reader, chunk, TRAILER);
  if (result < 0) return result;
  if (get_u64(chunk) != reader->sum)
    return fail(EINVAL, "%s is damaged: the checksum at its end (byte %" PRIu64 ") is not that of its records.",
                reader->path, reader->at - TRAILER);
  return 0;
}

int uffd_workingset_open(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a pipe must not wait for its other end */
  return fd >= 0 ? fd : fail(errno, "Cannot open %s: %s.", path, strerror(errno));
}

int uffd_workingset_load(const char *path, uffd_workingset **set) {
  if (path == NULL || set == NULL) return fail(EINVAL, "A working set is loaded from a path, to somewhere.");
  *set = NULL;
  int fd = uffd_workingset_open(path);
  if (fd < 0) return fd;
  int result = uffd_workingset_read(fd, path, set);
  close(fd);
  return result;
}

int uffd_workingset_read(int fd, const char *path, uffd_workingset **set) {
  struct reader reader;
  uffd_workingset *made = NULL;
  uint64_t count = 0;
  *set = NULL;
  int result = begin(fd, path, &reader);
  if (result == 0) result = read_header(&reader, &made, &count);
  if (result == 0) result = read_records(&reader, made, count);
  if (result < 0) {
    uffd_workingset_close(made);
    return result;
  }
  *set = made;
  return 0;
}

/* A file that is being written: the bytes and the checksum so far. */
struct writer {
  struct uffd_newfile file;
  uint64_t at, sum;
};

static int write_bytes(struct writer *writer, const unsigned char *bytes, size_t length) {
  int result = uffd_write_exactly(writer->file.fd, writer->file.path, writer->at, bytes, length);
  writer->at += length;
  writer->sum = uffd_fnv(writer->sum, bytes, length);
  return result;
}

static int write_header(struct writer *writer, const uffd_workingset *set) {
  unsigned char header[HEADER] = {0};
  memcpy(header, magic, sizeof(magic));
  put_u32(header + AT_VERSION, VERSION);
  put_u32(header + AT_HEADER, HEADER);
  put_u64(header + AT_PAGE_SIZE, set->page_size);
  put_u64(header + AT_LENGTH, set->image_length);
  put_u64(header + AT_IDENTITY, set->image_identity);
  put_u64(header + AT_COUNT, set->count);
  put_u64(header + AT_CHECKSUM, uffd_fnv(FNV_BASIS, header, AT_CHECKSUM));
  return write_bytes(writer, header, HEADER);
}

static int write_records(struct writer *writer, const uffd_workingset *set) {
  unsigned char chunk[CHUNK];
  for (uint64_t i = 0; i < set->count;) {
    size_t length = 0;
    for (; i < set->count && length < CHUNK; i++, length += RECORD)
      put_u64(chunk + length, set->records[i]);
    int result = write_bytes(writer, chunk, length);
    if (result < 0) return result;
  }
  put_u64(chunk, writer->sum);
  return write_bytes(writer, chunk, TRAILER);
}

int uffd_workingset_save(const uffd_workingset *set, const char *path) {
  struct writer writer = {.sum = FNV_BASIS};
  if (set == NULL) return fail(EBADF, "The working set is NULL.");
  if (path == NULL) return fail(EINVAL, "A working set is saved to a path.");
  int result = uffd_newfile_open(&writer.file, path);
  if (result < 0) return result;
  result = write_header(&writer, set);
  if (result == 0) result = write_records(&writer, set);
  if (result == 0) result = uffd_newfile_keep(&writer.file);
  uffd_newfile_discard(&writer.file);
  return result;
}
