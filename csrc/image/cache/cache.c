/*
 * One image's file in the cache: opened or made, read, filled. Written with pwrite only: a full disk is an error of a
 * write, and a signal in a mapping. So the bytes that say which units are there are mapped to be read only.
 */
#include "image/cache/cache.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/cache/file.h"
#include "image/digest.h"

#define TRIES        100u                 /* to open a file that others make and remove meanwhile */
#define COUNT_AFTER  (UINT64_C(64) << 20) /* bytes written, then the directory is looked at again */
#define WRITTEN_MOST (UINT64_C(16) << 20) /* bytes of an empty file that are written: enough for 40 GiB of an image */
#define WHOSE        (S_IRUSR | S_IWUSR)

struct uffd_cache {
  int fd;
  uint64_t units;
  struct uffd_cache_layout layout;
  _Atomic unsigned char *states; /* mapped, to be read */
  uint64_t states_bytes;
  char *directory; /* NULL: the file has no name */
  uint64_t limit;
  uint64_t written; /* since the directory was looked at */
  bool full;
};

/* Making a file */

static void copy(char *to, size_t room, const char *from) {
  snprintf(to, room, "%s", from);
}

static void fill_head(const struct uffd_cache_key *key, struct uffd_cache_head *head) {
  memset(head, 0, sizeof(*head));
  memcpy(head->magic, UFFD_CACHE_MAGIC, sizeof(head->magic));
  head->version = UFFD_CACHE_VERSION;
  head->stream_bytes = key->stream_bytes;
  head->units = key->units;
  copy(head->source, sizeof(head->source), key->source);
  copy(head->state, sizeof(head->state), key->version == NULL ? "" : key->version);
  copy(head->layout, sizeof(head->layout), key->layout);
  uffd_cache_boot(head->boot);
}

/*
 * States and records are written, so that they have their blocks: later only data can find the disk full. Not those of
 * an image that is said to be very large: how long it is, a server says, and the disk would be full at once.
 */
static int write_empty(int fd, const struct uffd_cache_head *head, const char *path) {
  static const char zeros[65536];
  struct uffd_cache_layout layout = uffd_cache_lay_out(head->units, head->stream_bytes);
  int result = 0;
  uint64_t written = min_u64(layout.data, WRITTEN_MOST);
  for (uint64_t at = 0; result == 0 && at < written; at += sizeof(zeros)) {
    result = uffd_write_exactly(fd, path, at, zeros, min_u64(sizeof(zeros), written - at));
  }
  if (result == 0) result = uffd_write_exactly(fd, path, 0, head, sizeof(*head));
  if (result == 0 && ftruncate(fd, (off_t)layout.end) != 0) {
    result = fail(errno, "Cannot make the cache file %s: %s.", path, strerror(errno));
  }
  return result;
}

/* Makes the file under a name of its own, and gives it its name when it is whole. -EEXIST: another one was first. */
static int make_named(const char *path, const struct uffd_cache_head *head) {
  static _Atomic unsigned number;
  char own[4200];
  snprintf(own, sizeof(own), "%s.%ld-%u", path, (long)getpid(), atomic_fetch_add(&number, 1));
  int fd = open(own, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, WHOSE);
  if (fd < 0) return fail(errno, "Cannot make the cache file %s: %s.", own, strerror(errno));
  int result = write_empty(fd, head, own);
  if (result == 0 && link(own, path) != 0) {
    result = errno == EEXIST ? -EEXIST : fail(errno, "Cannot make the cache file %s: %s.", path, strerror(errno));
  }
  unlink(own);
  if (result == 0) return fd;
  close(fd);
  return result;
}

static int make_nameless(const char *directory, const struct uffd_cache_head *head) {
  int fd = directory == NULL ? -1 : open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, WHOSE);
  if (fd < 0) fd = memfd_create("uffd-cache", MFD_CLOEXEC);
  if (fd < 0) return fail(errno, "Cannot make a file for what is fetched: %s.", strerror(errno));
  int result = write_empty(fd, head, "for what is fetched");
  if (result == 0) return fd;
  close(fd);
  return result;
}

/* Opening it */

static bool same_key(const struct uffd_cache_head *a, const struct uffd_cache_head *b) {
  return a->stream_bytes == b->stream_bytes && a->units == b->units && strcmp(a->source, b->source) == 0 &&
         strcmp(a->state, b->state) == 0 && strcmp(a->layout, b->layout) == 0;
}

/*
 * The machine was started again since: what was there is in doubt until it was compared with its digest. Only the one
 * who has the head alone may change that.
 */
static int doubt(int fd, const struct uffd_cache_head *head, const char *path) {
  struct uffd_cache_layout layout = uffd_cache_lay_out(head->units, head->stream_bytes);
  unsigned char states[4096];
  int result = 0;
  for (uint64_t at = 0; result == 0 && at < head->units; at += sizeof(states)) {
    uint64_t count = min_u64(sizeof(states), head->units - at);
    if (pread(fd, states, count, (off_t)(layout.states + at)) != (ssize_t)count) return -EIO;
    for (uint64_t i = 0; i < count; i++) {
      if (states[i] != UFFD_CACHE_ABSENT) states[i] = UFFD_CACHE_DOUBTED;
    }
    result = uffd_write_exactly(fd, path, layout.states + at, states, count);
  }
  if (result == 0) result = uffd_write_exactly(fd, path, 0, head, sizeof(*head));
  return result;
}

/* Takes the head of a file that is there. 1: all is right; 0: look again; -EPROTO: it is to be replaced. */
static int enter(int fd, const struct uffd_cache_head *wanted, const char *path) {
  struct uffd_cache_head head;
  struct stat status;
  if (!uffd_cache_lock_head(fd, F_RDLCK)) return 0; /* somebody is removing it, or is marking it */
  if (fstat(fd, &status) != 0 || status.st_nlink == 0) return 0;
  int result = uffd_cache_read_head(fd, &head);
  if (result == 0 && !same_key(&head, wanted)) result = -EPROTO;
  if (result < 0) return result;
  if (strcmp(head.boot, wanted->boot) == 0 && head.boot[0] != '\0') return 1;
  if (!uffd_cache_lock_head(fd, F_WRLCK)) return 0;
  result = doubt(fd, wanted, path);
  if (result < 0) return result;
  return uffd_cache_lock_head(fd, F_RDLCK);
}

static int open_named(const char *path, const struct uffd_cache_head *head) {
  for (unsigned i = 0; i < TRIES; i++) {
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT) {
      fd = make_named(path, head);
      if (fd == -EEXIST) continue;
      if (fd < 0) return fd;
    }
    if (fd < 0) return fail(errno, "Cannot open the cache file %s: %s.", path, strerror(errno));
    int result = enter(fd, head, path);
    if (result > 0) return fd;
    if (result == -EPROTO && uffd_cache_lock_head(fd, F_WRLCK)) unlink(path);
    close(fd);
    if (result == -EPERM) return fail(EPERM, "The cache file %s belongs to another user.", path);
    if (result < 0 && result != -EPROTO) return fail(-result, "Cannot open the cache file %s.", path);
    usleep(1000); /* whoever removes it, or marks it, holds its head for a moment */
  }
  return fail(EBUSY, "The cache file %s is in the way: it is damaged, and another process has it open.", path);
}

static void name_file(const char *directory, const struct uffd_cache_head *head, char *path, size_t room) {
  struct uffd_sha256 sha;
  unsigned char digest[32];
  char name[33];
  uffd_sha256_start(&sha);
  uffd_sha256_add(&sha, &head->stream_bytes, sizeof(head->stream_bytes));
  uffd_sha256_add(&sha, &head->units, sizeof(head->units));
  uffd_sha256_add(&sha, head->source, sizeof(head->source));
  uffd_sha256_add(&sha, head->state, sizeof(head->state));
  uffd_sha256_add(&sha, head->layout, sizeof(head->layout));
  uffd_sha256_end(&sha, digest);
  for (size_t i = 0; i < 16; i++) {
    snprintf(name + 2 * i, 3, "%02x", digest[i]);
  }
  snprintf(path, room, "%s/%s" UFFD_CACHE_SUFFIX, directory, name);
}

static int map_states(struct uffd_cache *cache) {
  cache->states_bytes = round_up(cache->layout.states + cache->units, BASE_PAGE);
  void *mapped = mmap(NULL, cache->states_bytes, PROT_READ, MAP_SHARED, cache->fd, 0);
  if (mapped == MAP_FAILED) return fail(errno, "Cannot map a cache file: %s.", strerror(errno));
  cache->states = mapped;
  return 0;
}

static char *copy_text(const char *text) {
  size_t length = strlen(text) + 1;
  char *made = uffd_alloc(length);
  if (made != NULL) memcpy(made, text, length);
  return made;
}

int uffd_cache_open(const char *directory, const struct uffd_cache_key *key, uint64_t limit, struct uffd_cache **made) {
  struct uffd_cache_head head;
  char path[4160];
  bool named = directory != NULL && key->version != NULL && strlen(key->source) < sizeof(head.source) &&
               strlen(key->version) < sizeof(head.state);
  struct uffd_cache *cache = NEW(struct uffd_cache);
  if (cache == NULL) return fail(ENOMEM, "No memory for a cache file.");
  fill_head(key, &head);
  cache->limit = limit == 0 ? UFFD_CACHE_LIMIT : limit;
  cache->units = key->units;
  cache->layout = uffd_cache_lay_out(key->units, key->stream_bytes);
  if (named) {
    name_file(directory, &head, path, sizeof(path));
    cache->directory = copy_text(directory);
  }
  cache->fd = named ? open_named(path, &head) : make_nameless(directory, &head);
  int result = cache->fd < 0 ? cache->fd : map_states(cache);
  if (result < 0) {
    struct uffd_sentence why = uffd_keep_sentence();
    uffd_cache_close(cache);
    uffd_restore_sentence(&why);
    return result;
  }
  if (named) {
    uint64_t bytes;
    futimens(cache->fd, NULL);
    cache->full = uffd_cache_make_room(directory, cache->limit, &bytes) == 0 && bytes > cache->limit;
  }
  *made = cache;
  return 0;
}

void uffd_cache_close(struct uffd_cache *cache) {
  if (cache->states != NULL) munmap((void *)(uintptr_t)cache->states, cache->states_bytes);
  if (cache->fd >= 0) close(cache->fd);
  if (cache->directory != NULL) uffd_release(cache->directory, strlen(cache->directory) + 1);
  DELETE(cache);
}

/* Units */

static unsigned char state_of(const struct uffd_cache *cache, uint64_t unit) {
  return atomic_load_explicit(&cache->states[cache->layout.states + unit], memory_order_acquire);
}

bool uffd_cache_has(const struct uffd_cache *cache, uint64_t unit) {
  return state_of(cache, unit) == UFFD_CACHE_READY;
}

int uffd_cache_read(const struct uffd_cache *cache, uint64_t offset, void *buffer, uint64_t length) {
  char *at = buffer;
  for (uint64_t done = 0; done < length;) {
    ssize_t got = pread(cache->fd, at + done, length - done, (off_t)(cache->layout.data + offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return got < 0 ? -errno : -ENODATA;
    done += (uint64_t)got;
  }
  return 0;
}

static int lock_units(const struct uffd_cache *cache, uint64_t unit, uint64_t count, short kind) {
  struct flock lock = {
      .l_type = kind, .l_whence = SEEK_SET, .l_start = (off_t)(cache->layout.states + unit), .l_len = (off_t)count};
  return fcntl(cache->fd, F_OFD_SETLK, &lock) == 0;
}

int uffd_cache_lock(struct uffd_cache *cache, uint64_t unit, uint64_t count) {
  return lock_units(cache, unit, count, F_WRLCK);
}

void uffd_cache_unlock(struct uffd_cache *cache, uint64_t unit, uint64_t count) {
  lock_units(cache, unit, count, F_UNLCK);
}

static int set_state(const struct uffd_cache *cache, uint64_t unit, unsigned char state) {
  return uffd_write_exactly(cache->fd, "the cache", cache->layout.states + unit, &state, 1);
}

bool uffd_cache_recall(struct uffd_cache *cache, uint64_t unit, uint64_t offset, void *buffer, uint64_t length) {
  struct uffd_cache_record record;
  off_t at = (off_t)(cache->layout.records + unit * sizeof(record));
  if (state_of(cache, unit) != UFFD_CACHE_DOUBTED) return uffd_cache_has(cache, unit);
  if (pread(cache->fd, &record, sizeof(record), at) != (ssize_t)sizeof(record)) return false;
  if (record.offset != offset || record.length != length) return false;
  if (uffd_cache_read(cache, offset, buffer, length) < 0) return false;
  if (record.digest != uffd_cache_digest(buffer, length)) return false;
  return set_state(cache, unit, UFFD_CACHE_READY) == 0;
}

/* The directory is looked at from time to time: other processes fill it too. */
static int check_room(struct uffd_cache *cache, uint64_t length) {
  cache->written += length;
  if (cache->directory != NULL && cache->written >= min_u64(COUNT_AFTER, cache->limit / 4)) {
    uint64_t bytes = 0;
    cache->written = 0;
    cache->full = uffd_cache_make_room(cache->directory, cache->limit, &bytes) == 0 && bytes > cache->limit;
  }
  if (!cache->full) return 0;
  return fail(ENOSPC, "The cache %s has reached its limit of %" PRIu64 " bytes, and all in it is used.",
              cache->directory, cache->limit);
}

int uffd_cache_put(struct uffd_cache *cache, uint64_t unit, uint64_t offset, const void *bytes, uint64_t length) {
  const char *name = cache->directory == NULL ? "the file for what is fetched" : cache->directory;
  const struct uffd_cache_record record = {offset, length, uffd_cache_digest(bytes, length)};
  int result = check_room(cache, length);
  if (result == 0) result = uffd_write_exactly(cache->fd, name, cache->layout.data + offset, bytes, length);
  if (result == 0)
    result =
        uffd_write_exactly(cache->fd, name, cache->layout.records + unit * sizeof(record), &record, sizeof(record));
  BARRIER("cache-written", NULL);
  if (result == 0) result = set_state(cache, unit, UFFD_CACHE_READY);
  return result;
}

void uffd_cache_drop(struct uffd_cache *cache, uint64_t unit) {
  set_state(cache, unit, UFFD_CACHE_ABSENT);
}
