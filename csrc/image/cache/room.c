/*
 * A directory of cache files: what is in it, making room in it, checking it. Files are removed by unlink, and only
 * those that nobody has open.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/cache/cache.h"
#include "image/cache/file.h"
#include "uffd_image.h"

#define FILES_MOST 65536u
#define UNIT_MOST  (UINT64_C(2) << 30) /* bytes: a frame has at most 1 GiB */

struct file {
  char name[64];
  uint64_t bytes;
  struct timespec used;
};

struct files {
  struct file *list;
  size_t count;
  uint64_t bytes;
};

/* Whole files of ours, and what processes that were killed have left of those that they made. */
static bool is_ours(const char *name) {
  const char *suffix = strstr(name, UFFD_CACHE_SUFFIX);
  return suffix == name + 32 && strspn(name, "0123456789abcdef") == 32 &&
         strlen(name) < sizeof(((struct file *)0)->name);
}

static bool is_whole(const char *name) {
  return strlen(name) == 32 + strlen(UFFD_CACHE_SUFFIX);
}

static int add(struct files *files, size_t *room, const char *name, const struct stat *status) {
  if (files->count == *room) {
    size_t more = *room == 0 ? 64 : *room * 2;
    struct file *list = realloc(files->list, more * sizeof(*list));
    if (list == NULL) return -ENOMEM;
    files->list = list;
    *room = more;
  }
  struct file *file = &files->list[files->count++];
  snprintf(file->name, sizeof(file->name), "%s", name);
  file->bytes = (uint64_t)status->st_blocks * 512;
  file->used = status->st_mtim;
  files->bytes += file->bytes;
  return 0;
}

static int list_files(int directory, const char *path, struct files *files) {
  *files = (struct files){.list = NULL};
  size_t room = 0;
  int own = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
  DIR *stream = own < 0 ? NULL : fdopendir(own);
  if (stream == NULL) {
    result = fail(errno, "Cannot read the cache %s: %s.", path, strerror(errno));
    if (own >= 0) close(own);
    return result;
  }
  for (const struct dirent *entry; result == 0 && files->count < FILES_MOST && (entry = readdir(stream)) != NULL;) {
    struct stat status;
    if (!is_ours(entry->d_name) || fstatat(directory, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (S_ISREG(status.st_mode) && add(files, &room, entry->d_name, &status) < 0) {
      result = fail(ENOMEM, "No memory for the list of the cache %s.", path);
    }
  }
  closedir(stream);
  if (result < 0) free(files->list);
  return result;
}

static int open_directory(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return fd < 0 ? fail(errno, "Cannot open the cache %s: %s.", path, strerror(errno)) : fd;
}

/* 1: removed; 0: somebody has it open, or it is none of ours. */
static int remove_file(int directory, const char *name) {
  int fd = openat(directory, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return 0;
  int removed = uffd_cache_lock_head(fd, F_WRLCK) && unlinkat(directory, name, 0) == 0;
  close(fd);
  return removed;
}

static int compare(const void *a, const void *b) {
  const struct file *left = a, *right = b;
  if (left->used.tv_sec != right->used.tv_sec) return left->used.tv_sec < right->used.tv_sec ? -1 : 1;
  return left->used.tv_nsec < right->used.tv_nsec ? -1 : left->used.tv_nsec > right->used.tv_nsec;
}

static int make_room(const char *path, uint64_t limit, struct uffd_image_cache_gc *done) {
  struct files files;
  int directory = open_directory(path);
  if (directory < 0) return directory;
  int result = list_files(directory, path, &files);
  if (result == 0) {
    if (files.count > 0) qsort(files.list, files.count, sizeof(*files.list), compare);
    done->bytes = files.bytes;
    done->files = files.count;
    for (size_t i = 0; i < files.count && done->bytes > limit; i++) {
      if (!remove_file(directory, files.list[i].name)) continue;
      done->bytes -= files.list[i].bytes;
      done->files--;
      done->removed_bytes += files.list[i].bytes;
      done->removed_files++;
    }
    free(files.list);
  }
  close(directory);
  return result;
}

int uffd_cache_make_room(const char *directory, uint64_t limit, uint64_t *bytes) {
  struct uffd_image_cache_gc done = UFFD_IMAGE_CACHE_GC_INIT;
  int result = make_room(directory, limit, &done);
  *bytes = done.bytes;
  return result;
}

/* For users */

/* 1: the usual directory, in which nothing was kept so far. */
static int choose_directory(const char *choice, char *path, size_t room) {
  int result = uffd_cache_directory(choice, false, path, room);
  if (result > 0) return fail(EINVAL, "No cache is used: UFFD_CACHE is empty.");
  return result == -ENOENT && choice == NULL ? 1 : result;
}

int uffd_image_cache_gc(const char *choice, uint64_t limit, struct uffd_image_cache_gc *told) {
  struct uffd_image_cache_gc done = UFFD_IMAGE_CACHE_GC_INIT;
  char path[4096];
  if (told->size < sizeof(done)) {
    return fail(EINVAL, "struct uffd_image_cache_gc says that its size is %zu: start from its _INIT macro.",
                told->size);
  }
  int result = choose_directory(choice, path, sizeof(path));
  if (result == 0) result = make_room(path, limit, &done);
  *told = done;
  return result < 0 ? result : 0;
}

/* Counts the units of a file whose head was read. */
static int look_at_units(int fd, const struct uffd_cache_head *head, uint64_t *there) {
  struct uffd_cache_layout layout = uffd_cache_lay_out(head->units, head->stream_bytes);
  unsigned char states[4096];
  *there = 0;
  for (uint64_t at = 0; at < head->units; at += sizeof(states)) {
    uint64_t count = min_u64(sizeof(states), head->units - at);
    if (pread(fd, states, count, (off_t)(layout.states + at)) != (ssize_t)count) return -EIO;
    for (uint64_t i = 0; i < count; i++) {
      *there += states[i] != UFFD_CACHE_ABSENT;
    }
  }
  return 0;
}

static void describe(int directory, const struct file *file, struct uffd_cache_head *head,
                     struct uffd_image_cached *cached) {
  char boot[40];
  int fd = openat(directory, file->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  *cached = (struct uffd_image_cached)UFFD_IMAGE_CACHED_INIT;
  cached->file = file->name;
  cached->source = cached->version = "";
  cached->file_bytes = file->bytes;
  cached->used_ns = (uint64_t)file->used.tv_sec * UINT64_C(1000000000) + (uint64_t)file->used.tv_nsec;
  cached->flags = UFFD_IMAGE_CACHED_BROKEN;
  if (fd < 0) return;
  uffd_cache_boot(boot);
  if (uffd_cache_read_head(fd, head) == 0 && is_whole(file->name)) {
    cached->flags = strcmp(boot, head->boot) == 0 ? 0 : UFFD_IMAGE_CACHED_DOUBTED;
    cached->source = head->source;
    cached->version = head->state;
    cached->stream_bytes = head->stream_bytes;
    cached->units = head->units;
    if (look_at_units(fd, head, &cached->units_there) < 0) cached->flags = UFFD_IMAGE_CACHED_BROKEN;
  }
  if (uffd_cache_lock_head(fd, F_WRLCK)) {
    uffd_cache_lock_head(fd, F_UNLCK);
  } else {
    cached->flags |= UFFD_IMAGE_CACHED_USED;
  }
  close(fd);
}

/* Checking */

struct checking {
  int fd;
  const struct uffd_cache_head *head;
  struct uffd_cache_layout layout;
  struct uffd_image_cached *cached;
  unsigned char *buffer;
  uint64_t room;
};

static bool unit_is_right(struct checking *checking, uint64_t unit) {
  struct uffd_cache_record record;
  off_t at = (off_t)(checking->layout.records + unit * sizeof(record));
  if (pread(checking->fd, &record, sizeof(record), at) != (ssize_t)sizeof(record)) return false;
  uint64_t stream = checking->head->stream_bytes;
  if (record.offset > stream || record.length > stream - record.offset || record.length > UNIT_MOST) return false;
  if (record.length > checking->room) {
    free(checking->buffer);
    checking->room = record.length;
    checking->buffer = malloc(record.length);
    if (checking->buffer == NULL) checking->room = 0;
    if (checking->buffer == NULL) return true; /* not known */
  }
  ssize_t got = pread(checking->fd, checking->buffer, record.length, (off_t)(checking->layout.data + record.offset));
  return got == (ssize_t)record.length && uffd_cache_digest(checking->buffer, record.length) == record.digest;
}

/* A unit that is not what its digest says is fetched again by whoever wants it. */
static void check_units(struct checking *checking) {
  const unsigned char absent = UFFD_CACHE_ABSENT;
  for (uint64_t unit = 0; unit < checking->head->units; unit++) {
    unsigned char state = UFFD_CACHE_ABSENT;
    off_t at = (off_t)(checking->layout.states + unit);
    if (pread(checking->fd, &state, 1, at) != 1 || state == UFFD_CACHE_ABSENT) continue;
    if (unit_is_right(checking, unit)) continue;
    checking->cached->units_wrong++;
    if (pwrite(checking->fd, &absent, 1, at) == 1) checking->cached->units_there--;
  }
}

static void verify_file(int directory, const struct uffd_cache_head *head, struct uffd_image_cached *cached) {
  if ((cached->flags & UFFD_IMAGE_CACHED_BROKEN) != 0) return;
  struct checking checking = {
      .head = head, .cached = cached, .layout = uffd_cache_lay_out(head->units, head->stream_bytes)};
  checking.fd = openat(directory, cached->file, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (checking.fd < 0) return;
  check_units(&checking);
  free(checking.buffer);
  close(checking.fd);
}

static int for_each(const char *choice, bool verify, uffd_image_cached_fn *each, void *ctx) {
  struct files files;
  char path[4096];
  int result = choose_directory(choice, path, sizeof(path));
  if (result != 0) return result < 0 ? result : 0;
  int directory = open_directory(path);
  if (directory < 0) return directory;
  result = list_files(directory, path, &files);
  if (result == 0) {
    if (files.count > 0) qsort(files.list, files.count, sizeof(*files.list), compare);
    for (size_t i = 0; result == 0 && i < files.count; i++) {
      struct uffd_cache_head head;
      struct uffd_image_cached cached;
      describe(directory, &files.list[i], &head, &cached);
      if (verify) verify_file(directory, &head, &cached);
      if (each(ctx, &cached) != 0) result = fail(ECANCELED, "The list was given up.");
    }
    free(files.list);
  }
  close(directory);
  return result;
}

int uffd_image_cache_list(const char *choice, uffd_image_cached_fn *each, void *ctx) {
  return for_each(choice, false, each, ctx);
}

int uffd_image_cache_verify(const char *choice, uffd_image_cached_fn *each, void *ctx) {
  return for_each(choice, true, each, ctx);
}
