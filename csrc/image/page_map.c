/*
 * Page maps: see page_map.h. The file has a head of 4 KiB, then the live map, then the durable one.
 *
 *   0   "uffdmap" NUL; u32 version 1; u32 flags (1: something is below)
 *   16  u64 length of the image; u64 page size
 *   32  id of the image below, 32 bytes
 *   64  the boot on which the live map was written, 16 bytes
 *   80  XXH3-128 of all before
 */
#include "image/page_map.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/digest.h"
#include "image/source/source.h"

#define HEAD      4096u
#define VERSION   1u
#define HAS_BELOW 1u
#define AT_BOOT   64u
#define AT_SEAL   80u
#define AT_END    (AT_SEAL + UFFD_DIGEST_BYTES)

static const unsigned char magic[8] = "uffdmap";

static uint64_t live_at(void) {
  return HEAD;
}

static uint64_t durable_at(const struct uffd_page_map *map) {
  return HEAD + map->bytes;
}

/* A number of this boot of the machine. */
static int read_boot(unsigned char *boot) {
  char text[64];
  int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text));
  int error = errno;
  if (fd >= 0) close(fd);
  if (length <= 0) return fail(length < 0 ? error : EIO, "Cannot tell which boot this is: /proc is not there.");
  uffd_digest_xxh3(text, (uint64_t)length, boot);
  return 0;
}

static int encode_head(const struct uffd_page_map *map, unsigned char *p) {
  memset(p, 0, HEAD);
  memcpy(p, magic, sizeof(magic));
  uffd_put_le32(p + 8, VERSION);
  uffd_put_le32(p + 12, map->head.has_below ? HAS_BELOW : 0);
  uffd_put_le64(p + 16, map->head.length);
  uffd_put_le64(p + 24, map->head.page_size);
  memcpy(p + 32, map->head.below_id, sizeof(map->head.below_id));
  int result = read_boot(p + AT_BOOT);
  uffd_digest_xxh3(p, AT_SEAL, p + AT_SEAL);
  return result;
}

/* 1: the live map is of this boot; 0: of another one. */
static int check_head(const struct uffd_page_map *map) {
  unsigned char head[HEAD], seal[UFFD_DIGEST_BYTES], boot[UFFD_DIGEST_BYTES];
  struct stat status;
  if (fstat(map->fd, &status) != 0) return fail(errno, "Cannot look at %s: %s.", map->path, strerror(errno));
  if (status.st_size < (off_t)HEAD) return fail(EINVAL, "%s is no page map: it is too short.", map->path);
  int result = uffd_read_exactly(map->fd, map->path, 0, head, sizeof(head));
  if (result == 0) result = read_boot(boot);
  if (result < 0) return result;
  uffd_digest_xxh3(head, AT_SEAL, seal);
  if (memcmp(head, magic, sizeof(magic)) != 0) return fail(EINVAL, "%s is no page map.", map->path);
  if (uffd_le32(head + 8) != VERSION) {
    return fail(EINVAL, "%s is of version %" PRIu32 ", and this library knows version %u.", map->path,
                uffd_le32(head + 8), VERSION);
  }
  if (memcmp(seal, head + AT_SEAL, sizeof(seal)) != 0) {
    return fail(EINVAL, "%s is damaged: its checksum does not match.", map->path);
  }
  if (uffd_le64(head + 16) != map->head.length || uffd_le64(head + 24) != map->head.page_size) {
    return fail(EINVAL,
                "%s is of an image of %" PRIu64 " bytes with pages of %" PRIu64 ", not %" PRIu64
                " with pages of %" PRIu64 ".",
                map->path, uffd_le64(head + 16), uffd_le64(head + 24), map->head.length, map->head.page_size);
  }
  bool has_below = (uffd_le32(head + 12) & HAS_BELOW) != 0;
  if (has_below != map->head.has_below || memcmp(head + 32, map->head.below_id, sizeof(map->head.below_id)) != 0) {
    return fail(EINVAL, "%s was written on another image than the one that is below it now.", map->path);
  }
  if ((uint64_t)status.st_size != HEAD + 2 * map->bytes) return fail(EINVAL, "%s is cut off.", map->path);
  return memcmp(boot, head + AT_BOOT, sizeof(boot)) == 0;
}

static int read_kinds(struct uffd_page_map *map, uint64_t at) {
  int result = uffd_read_exactly(map->fd, map->path, at, map->scratch, map->count);
  for (uint64_t page = 0; result == 0 && page < map->count; page++) {
    if (map->scratch[page] >= UFFD_PAGE_KINDS) {
      return fail(EINVAL, "%s is damaged: page %" PRIu64 " is of kind %u.", map->path, page, map->scratch[page]);
    }
    atomic_store_explicit(&map->kinds[page], map->scratch[page], memory_order_relaxed);
  }
  return result;
}

/* After a crash of the machine the durable map counts: it becomes the live one before the head says so. */
static int recover(struct uffd_page_map *map) {
  unsigned char head[HEAD];
  int result = read_kinds(map, durable_at(map));
  if (result == 0) result = uffd_write_exactly(map->fd, map->path, live_at(), map->scratch, map->count);
  if (result == 0 && fdatasync(map->fd) != 0) result = fail(errno, "Cannot write %s: %s.", map->path, strerror(errno));
  if (result == 0) result = encode_head(map, head);
  return result < 0 ? result : uffd_write_exactly(map->fd, map->path, 0, head, sizeof(head));
}

/* Two may make the file at once: whose file has lost its name gives way. */
static int lock(const struct uffd_page_map *map) {
  struct stat own, named;
  if (flock(map->fd, LOCK_EX | LOCK_NB) != 0 && errno != EWOULDBLOCK) {
    return fail(errno, "Cannot lock %s: %s.", map->path, strerror(errno));
  }
  bool locked = flock(map->fd, LOCK_EX | LOCK_NB) == 0;
  bool same = fstat(map->fd, &own) == 0 && stat(map->path, &named) == 0 && own.st_ino == named.st_ino;
  if (locked && same) return 0;
  return fail(EBUSY, "%s is in use: a writable layer has one writer.", map->path);
}

/* All is as below. The file has its blocks from the beginning, so that setting a page does not need more. */
static int make_file(const struct uffd_page_map *map) {
  unsigned char head[HEAD];
  struct uffd_newfile file;
  int result = uffd_newfile_open(&file, map->path);
  if (result < 0) return result;
  result = encode_head(map, head);
  if (result == 0) result = uffd_write_exactly(file.fd, file.path, 0, head, sizeof(head));
  for (unsigned i = 0; result == 0 && i < 2; i++) {
    result = uffd_write_exactly(file.fd, file.path, HEAD + i * map->bytes, map->scratch, map->bytes);
  }
  if (result == 0) return uffd_newfile_keep(&file);
  uffd_newfile_discard(&file);
  return result;
}

static int open_file(struct uffd_page_map *map, bool *made) {
  map->fd = open(map->path, O_RDWR | O_CLOEXEC);
  *made = map->fd < 0 && errno == ENOENT;
  if (*made) {
    int result = make_file(map);
    if (result < 0) return result;
    map->fd = open(map->path, O_RDWR | O_CLOEXEC);
  }
  if (map->fd < 0) return fail(errno, "Cannot open %s: %s.", map->path, strerror(errno));
  return lock(map);
}

static void *map_bytes(uint64_t bytes) {
  void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return at == MAP_FAILED ? NULL : at;
}

static int allocate(struct uffd_page_map *map, const char *path) {
  map->path = uffd_alloc(strlen(path) + 1);
  map->kinds = map_bytes(map->bytes);
  map->scratch = map_bytes(map->bytes);
  if (map->path == NULL || map->kinds == NULL || map->scratch == NULL) {
    return fail(ENOMEM, "No memory for the page map of %" PRIu64 " bytes.", map->head.length);
  }
  memcpy(map->path, path, strlen(path) + 1);
  return 0;
}

/* The range grows after the kinds are set: whoever takes it sees them, or finds it again later. */
static void note(struct uffd_page_map *map, uint64_t first, uint64_t end) {
  uint64_t low = atomic_load(&map->low), high = atomic_load(&map->high);
  while (first < low && !atomic_compare_exchange_weak(&map->low, &low, first)) {
  }
  while (end > high && !atomic_compare_exchange_weak(&map->high, &high, end)) {
  }
}

int uffd_page_map_open(struct uffd_page_map *map, const char *path, const struct uffd_page_map_head *head, bool *made) {
  *map = (struct uffd_page_map){.fd = -1, .head = *head};
  pthread_mutex_init(&map->flushing, NULL);
  map->count = round_up(head->length, head->page_size) / head->page_size;
  map->bytes = round_up(map->count, BASE_PAGE);
  atomic_store_explicit(&map->low, UINT64_MAX, memory_order_relaxed);
  int result = allocate(map, path);
  if (result == 0) result = open_file(map, made);
  if (result == 0) result = check_head(map);
  if (result < 0) return result;
  if (result == 0) return recover(map);
  note(map, 0, map->count); /* who wrote it before may have made nothing durable */
  return read_kinds(map, live_at());
}

void uffd_page_map_close(struct uffd_page_map *map) {
  if (map->fd >= 0) close(map->fd);
  if (map->path != NULL) uffd_release(map->path, strlen(map->path) + 1);
  if (map->kinds != NULL) munmap((void *)map->kinds, map->bytes);
  if (map->scratch != NULL) munmap(map->scratch, map->bytes);
  pthread_mutex_destroy(&map->flushing);
  *map = (struct uffd_page_map){.fd = -1};
}

static int write_kind(const struct uffd_page_map *map, uint64_t first, uint64_t end, uint32_t kind) {
  unsigned char bytes[512];
  memset(bytes, (int)kind, sizeof(bytes));
  for (uint64_t page = first; page < end;) {
    uint64_t part = min_u64(end - page, sizeof(bytes));
    int result = uffd_write_exactly(map->fd, map->path, live_at() + page, bytes, part);
    if (result < 0) return result;
    page += part;
  }
  return 0;
}

int uffd_page_map_set(struct uffd_page_map *map, uint64_t first, uint64_t end, uint32_t kind) {
  int result = write_kind(map, first, end, kind);
  if (result < 0) return result;
  for (uint64_t page = first; page < end; page++) {
    atomic_store_explicit(&map->kinds[page], (unsigned char)kind, memory_order_release);
  }
  note(map, first, end);
  return 0;
}

void uffd_page_map_begin(struct uffd_page_map *map, uint64_t *low, uint64_t *high) {
  pthread_mutex_lock(&map->flushing);
  *high = atomic_exchange(&map->high, 0);
  *low = min_u64(atomic_exchange(&map->low, UINT64_MAX), *high);
  for (uint64_t page = *low; page < *high; page++) {
    map->scratch[page] = (unsigned char)uffd_page_map_kind(map, page);
  }
}

int uffd_page_map_end(struct uffd_page_map *map, uint64_t low, uint64_t high, int synced) {
  int result = synced;
  BARRIER("writable-synced", map);
  if (result == 0)
    result = uffd_write_exactly(map->fd, map->path, durable_at(map) + low, map->scratch + low, high - low);
  BARRIER("writable-durable", map);
  if (result == 0 && fdatasync(map->fd) != 0) {
    result = fail(errno, "Cannot write %s to its disk: %s.", map->path, strerror(errno));
  }
  if (result < 0 && low < high) note(map, low, high); /* the next flush tries again */
  pthread_mutex_unlock(&map->flushing);
  return result;
}
