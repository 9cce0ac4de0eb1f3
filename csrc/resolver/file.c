/*
 * Contents of a file, mapped: pages are copied by the kernel straight from the page cache, so a file that has shrunk is
 * an EFAULT of the copy and never a SIGBUS of ours. Holes, found once by SEEK_HOLE, are answered as zero.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "resolver/resolver.h"

struct extent { /* of data, in the resolver's coordinates; between two of them is a hole */
  uint64_t start, end;
};

struct file {
  uffd_resolver head;
  char *mapping;      /* whole pages of the file, the last part replaced by a zero-padded copy */
  uint64_t mapped;    /* bytes of the mapping that belong to us */
  const char *origin; /* offset 0 of the resolver in the mapping */
  struct extent *extents;
  size_t count, capacity;
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
  if (after >= fault->offset + fault->page_size) { /* all of the page is in the hole; so must be all of the cover */
    uint64_t phase = fault->offset % fault->page_size;
    uint64_t low = round_up(max_u64(before, phase) - phase, fault->page_size) + phase;
    uffd_cover(fault, low, after == UINT64_MAX ? after : after - (after - fault->offset) % fault->page_size, answer);
    return 0;
  }
  uint64_t low = min_u64(file->extents[i].start, fault->offset);
  uffd_cover(fault, low, min_u64(file->extents[i].end, file->head.size), answer);
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = file->origin + answer->offset;
  return 0;
}

static void destroy(uffd_resolver *resolver) {
  struct file *file = (struct file *)resolver;
  if (file->mapping != NULL && file->head.process == uffd_process()) munmap(file->mapping, file->mapped);
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

/* A file system without SEEK_DATA says EINVAL: all of the file is data then. */
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
 * The last, partial page of the contents must end in zeros though the file may go on: it is a copy. R25: a short read
 * here is an error, zeros stand only for what is beyond the contents.
 */
static int copy_tail(const struct file *file, int fd, uint64_t in_mapping, uint64_t in_file, uint64_t length) {
  char *tail = mmap(file->mapping + in_mapping, BASE_PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  if (tail == MAP_FAILED) return fail(errno, "Cannot map the tail of a file: %s.", strerror(errno));
  for (uint64_t done = 0; done < length;) {
    ssize_t count = pread(fd, tail + done, length - done, (off_t)(in_file + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(errno, "Cannot read the tail of a file: %s.", strerror(errno));
    if (count == 0) return fail(EIO, "The file became shorter while it was opened.");
    done += (uint64_t)count;
  }
  return 0;
}

/*
 * Looking for holes moves a file's position, and the caller's threads may be reading from fd: it is done through a
 * description of our own. Where none is to be had (no /proc), all of the file is data.
 */
static int map_holes(struct file *file, int fd, uint64_t offset, uint64_t length) {
  char path[32];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  int own = open(path, O_RDONLY | O_CLOEXEC);
  if (own < 0) return add_extent(file, 0, length);
  int result = find_data(file, own, offset, length);
  close(own);
  return result;
}

static int map_file(struct file *file, int fd, uint64_t offset, uint64_t length) {
  uint64_t start = round_down(offset, BASE_PAGE), end = offset + length;
  uint64_t whole = round_down(end, BASE_PAGE) - start, tail = end % BASE_PAGE;
  file->mapped = round_up(end - start, HUGE_PAGE) + HUGE_PAGE; /* zeros follow: see uffd_buffer_map() */
  file->mapping = mmap(NULL, file->mapped, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (file->mapping == MAP_FAILED) {
    file->mapping = NULL;
    return fail(errno, "Cannot map %" PRIu64 " bytes of a file: %s.", length, strerror(errno));
  }
  file->origin = file->mapping + (offset - start);
  if (whole != 0 && mmap(file->mapping, whole, PROT_READ, MAP_SHARED | MAP_FIXED, fd, (off_t)start) == MAP_FAILED) {
    return fail(errno, "Cannot map the file: %s.", strerror(errno));
  }
  return tail == 0 ? 0 : copy_tail(file, fd, whole, start + whole, tail);
}

static int check_type(mode_t mode) {
  if (S_ISREG(mode) || S_ISBLK(mode)) return 0;
  return fail(EINVAL, "Not a regular file nor a block device: a resolver needs contents that can be mapped.");
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
  return *length != 0 ? 0 : fail(EINVAL, "The file is empty: there is nothing to map.");
}

static int make(int fd, const struct uffd_file_opts *user_opts, uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {.kind = "file", .ask = ask, .destroy = destroy};
  struct uffd_file_opts opts = UFFD_FILE_OPTS_INIT;
  uint64_t file_length = 0;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_file_opts");
  if (result == 0) result = measure(fd, &file_length);
  if (result < 0) return result;
  if (opts.offset >= file_length || opts.length > file_length - opts.offset) {
    return fail(EINVAL, "%" PRIu64 " bytes from offset %" PRIu64 " are not in a file of %" PRIu64 " bytes.",
                max_u64(opts.length, 1), opts.offset, file_length);
  }
  uint64_t length = opts.length != 0 ? opts.length : file_length - opts.offset;
  struct file *file = NEW(struct file);
  if (file == NULL) return fail(ENOMEM, "No memory for a resolver.");
  uffd_resolver_init(&file->head, &class, length);
  result = map_file(file, fd, opts.offset, length);
  if (result == 0) result = map_holes(file, fd, opts.offset, length);
  if (result < 0) {
    destroy(&file->head);
    return result;
  }
  *resolver = &file->head;
  return 0;
}

int uffd_resolver_file_fd(int fd, const struct uffd_file_opts *opts, uffd_resolver **resolver) {
  *resolver = NULL;
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return fail(EBADF, "%d is not an open file descriptor.", fd);
  if ((flags & O_ACCMODE) == O_WRONLY) return fail(EACCES, "The file descriptor is not open for reading.");
  return make(fd, opts, resolver);
}

/* The type first: opening a named pipe waits for its writer. */
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
  int fd = open_file(path), result = fd;
  if (fd >= 0) {
    result = make(fd, opts, resolver);
    close(fd); /* the mapping holds the file */
  }
  if (result < 0) {
    char why[256];
    snprintf(why, sizeof(why), "%s", uffd_errmsg());
    return fail(-result, "%s: %s", path, why);
  }
  return 0;
}
