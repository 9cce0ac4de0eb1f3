/*
 * Contents of a file. The answer says which bytes of which descriptor, and install reads them. Holes, which are looked
 * for once with SEEK_HOLE, are answered as zero.
 */
#include "resolver/checked.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "resolver/resolver.h"

#define NAME_BYTES 64u

/* How a change of the file is noticed. */
struct change_check {
  const struct uffd_stamp *stamp; /* of the contents that are to be served; NULL: as the file is now */
  bool trusted;                   /* until uffd_resolver_distrust() */
  const char *name;               /* for sentences; copied */
};

struct extent { /* of data, in the resolver's coordinates; between two of them is a hole */
  uint64_t start, end;
};

struct file {
  uffd_resolver head;
  int fd;
  uint64_t origin; /* of the contents in the file */
  struct extent *extents;
  size_t count, capacity;
  bool checked; /* for changes, by the stamp; set before it is used */
  _Atomic bool trusted;
  struct uffd_stamp stamp;
  char name[NAME_BYTES];
};

/* The first extent that ends after offset; count if there is none. */
static size_t find_extent(const struct file *file, uint64_t offset) {
  size_t low = 0, high = file->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (file->extents[middle].end <= offset) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

static int ask(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
               struct uffd_answer *answer) {
  (void)asker;
  const struct file *file = (const struct file *)resolver;
  size_t i = find_extent(file, fault->offset);
  uint64_t before = i == 0 ? 0 : file->extents[i - 1].end;
  uint64_t after = i == file->count ? UINT64_MAX : file->extents[i].start;
  if (after >= fault->offset + fault->page_size) { /* the whole page is in the hole, and the whole cover must be */
    uint64_t phase = fault->offset % fault->page_size;
    uint64_t low = round_up(max_u64(before, phase) - phase, fault->page_size) + phase;
    uffd_cover(fault, low, after == UINT64_MAX ? after : after - (after - fault->offset) % fault->page_size, answer);
    return 0;
  }
  uint64_t low = min_u64(file->extents[i].start, fault->offset);
  uffd_cover(fault, low, min_u64(file->extents[i].end, file->head.size), answer);
  answer->kind = UFFD_ANSWER_FILE;
  answer->fd = file->fd;
  answer->file_offset = file->origin + answer->offset;
  answer->length = min_u64(answer->length, file->head.size - answer->offset); /* zeros follow, whatever the file has */
  answer->resolver = (uffd_resolver *)(uintptr_t)resolver;
  return 0;
}

static int verify(const uffd_resolver *resolver, uint64_t offset) {
  const struct file *file = (const struct file *)resolver;
  if (!file->checked || atomic_load_explicit(&file->trusted, memory_order_acquire)) return 0;
  if (uffd_stamp_holds(file->fd, &file->stamp)) return 0;
  return fail(ESTALE, "%s was changed while it was served: what it held at offset %" PRIu64 " is not known any more.",
              file->name, offset);
}

static void destroy(uffd_resolver *resolver) {
  struct file *file = (struct file *)resolver;
  if (file->fd >= 0 && file->head.process == uffd_process()) close(file->fd);
  uffd_release(file->extents, file->capacity * sizeof(*file->extents));
  DELETE(file);
}

static int add_extent(struct file *file, uint64_t start, uint64_t end) {
  if (file->count == file->capacity) {
    size_t capacity = file->capacity == 0 ? 16 : file->capacity * 2;
    struct extent *extents = uffd_alloc(capacity * sizeof(*extents));
    if (extents == NULL) return fail(ENOMEM, "No memory for the map of a file's holes.");
    if (file->count != 0) memcpy(extents, file->extents, file->count * sizeof(*extents));
    uffd_release(file->extents, file->capacity * sizeof(*extents));
    file->extents = extents;
    file->capacity = capacity;
  }
  file->extents[file->count++] = (struct extent){start, end};
  return 0;
}

/* A file system without SEEK_DATA answers EINVAL: then the whole file counts as data. */
static int find_data(struct file *file, int fd, uint64_t offset, uint64_t length) {
  uint64_t end = offset + length;
  for (uint64_t at = offset; at < end;) {
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return 0; /* nothing but hole up to the end */
    if (data < 0) return add_extent(file, at - offset, length);
    if ((uint64_t)data >= end) return 0;
    off_t hole = lseek(fd, data, SEEK_HOLE);
    uint64_t stop = hole < 0 ? end : min_u64((uint64_t)hole, end);
    int result = add_extent(file, (uint64_t)data - offset, stop - offset);
    if (result < 0) return result;
    at = stop;
  }
  return 0;
}

/*
 * Looking for holes moves the position of the file description, and the caller's threads may read through fd. So a
 * description of our own is used. If there is none (no /proc), the whole file counts as data.
 */
static int map_holes(struct file *file, uint64_t offset, uint64_t length) {
  char path[32];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
  int own = open(path, O_RDONLY | O_CLOEXEC);
  if (own < 0) return add_extent(file, 0, length);
  int result = find_data(file, own, offset, length);
  close(own);
  return result;
}

static int check_type(mode_t mode) {
  if (S_ISREG(mode) || S_ISBLK(mode)) return 0;
  return fail(EINVAL,
              "Not a regular file nor a block device: a resolver needs contents that can be read at any offset.");
}

/* The file's length in bytes, also of a block device. */
static int measure(int fd, uint64_t *length) {
  struct stat status;
  if (fstat(fd, &status) != 0) return fail(errno, "fstat: %s.", strerror(errno));
  int result = check_type(status.st_mode);
  if (result < 0) return result;
  *length = (uint64_t)status.st_size;
  if (S_ISBLK(status.st_mode) && ioctl(fd, BLKGETSIZE64, length) != 0) {
    return fail(errno, "Cannot measure the block device: %s.", strerror(errno));
  }
  return *length != 0 ? 0 : fail(EINVAL, "The file is empty: there is nothing to serve.");
}

static int check_changes(struct file *file, const struct change_check *check) {
  snprintf(file->name, sizeof(file->name), "%s", check->name);
  atomic_init(&file->trusted, check->trusted);
  file->checked = true;
  if (check->stamp != NULL) {
    file->stamp = *check->stamp;
    return 0;
  }
  int result = uffd_stamp_take(file->fd, &file->stamp);
  file->stamp.links = 0; /* a file that is only renamed has not changed */
  return result;
}

static int fill_in(struct file *file, const struct uffd_file_opts *opts, const struct change_check *check) {
  uint64_t file_length = 0;
  int result = check != NULL && (opts->flags & UFFD_FILE_CHANGES) == 0 ? check_changes(file, check) : 0;
  if (result == 0) result = measure(file->fd, &file_length);
  if (result < 0) return result;
  if (opts->offset >= file_length || opts->length > file_length - opts->offset) {
    return fail(EINVAL, "%" PRIu64 " bytes from offset %" PRIu64 " are not in a file of %" PRIu64 " bytes.",
                max_u64(opts->length, 1), opts->offset, file_length);
  }
  file->origin = opts->offset;
  file->head.size = opts->length != 0 ? opts->length : file_length - opts->offset;
  return map_holes(file, opts->offset, file->head.size);
}

/* The resolver takes fd, also when this fails. */
static int make(int fd, const struct uffd_file_opts *user_opts, const struct change_check *check,
                uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {.kind = "file", .ask = ask, .verify = verify, .destroy = destroy};
  struct uffd_file_opts opts = UFFD_FILE_OPTS_INIT;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_file_opts");
  if (result == 0 && (opts.flags & ~(uint64_t)UFFD_FILE_CHANGES) != 0) {
    result = fail(EINVAL, "Unknown flags of a file resolver: %#" PRIx64 ".", opts.flags);
  }
  struct file *file = result == 0 ? NEW(struct file) : NULL;
  if (result == 0 && file == NULL) result = fail(ENOMEM, "No memory for a resolver.");
  if (result != 0) {
    close(fd);
    return result;
  }
  uffd_resolver_init(&file->head, &class, 0);
  file->fd = fd;
  result = fill_in(file, &opts, check);
  if (result < 0) {
    destroy(&file->head);
    return result;
  }
  *resolver = &file->head;
  return 0;
}

void uffd_resolver_distrust(uffd_resolver *resolver) {
  atomic_store_explicit(&((struct file *)resolver)->trusted, false, memory_order_release);
}

/*
 * The kernel reads ahead for each file description, and the caller may read through this one too. So one of our own is
 * opened. That may fail (no /proc, or a file that only the sender of the descriptor may open).
 */
static int own_fd(int fd, int flags) {
  char path[32];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  int own = open(path, O_RDONLY | O_CLOEXEC | (flags & O_DIRECT));
  if (own < 0) own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  return own >= 0 ? own : fail(errno, "No descriptor for a file: %s.", uffd_error_text(errno));
}

int uffd_resolver_checked(int fd, const struct uffd_stamp *stamp, bool trusted, const char *name,
                          uffd_resolver **resolver) {
  const struct change_check check = {.stamp = stamp, .trusted = trusted, .name = name};
  *resolver = NULL;
  int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (own < 0) return fail(errno, "No descriptor for a file: %s.", uffd_error_text(errno));
  return make(own, NULL, &check, resolver);
}

int uffd_resolver_file_fd(int fd, const struct uffd_file_opts *opts, uffd_resolver **resolver) {
  char name[32];
  const struct change_check check = {.name = name};
  struct stat status;
  *resolver = NULL;
  snprintf(name, sizeof(name), "The file of descriptor %d", fd);
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0) return fail(EBADF, "%d is not an open file descriptor.", fd);
  if ((flags & O_ACCMODE) == O_WRONLY) return fail(EACCES, "The file descriptor is not open for reading.");
  if (fstat(fd, &status) != 0) return fail(errno, "fstat: %s.", uffd_error_text(errno));
  int result = check_type(status.st_mode);
  if (result < 0) return result;
  int own = own_fd(fd, flags);
  return own < 0 ? own : make(own, opts, &check, resolver);
}

/* The type is checked before opening: opening a named pipe waits for its writer. */
static int open_file(const char *path) {
  struct stat status;
  if (stat(path, &status) != 0) return fail(errno, "%s.", strerror(errno));
  int result = check_type(status.st_mode);
  if (result < 0) return result;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  return fd >= 0 ? fd : fail(errno, "%s.", strerror(errno));
}

int uffd_resolver_file(const char *path, const struct uffd_file_opts *opts, uffd_resolver **resolver) {
  *resolver = NULL;
  if (path == NULL) return fail(EINVAL, "No path: name a file.");
  const struct change_check check = {.name = path};
  int fd = open_file(path), result = fd;
  if (fd >= 0) result = make(fd, opts, &check, resolver);
  if (result < 0) {
    char why[256];
    snprintf(why, sizeof(why), "%s", uffd_errmsg());
    return fail(-result, "%s: %s", path, why);
  }
  return 0;
}
