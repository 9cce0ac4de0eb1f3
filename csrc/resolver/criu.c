/*
 * A CRIU dump as one image: reads the directory and its parents, lays the lazy mappings of all tasks one after the
 * other, and finds for each page which file has its bytes. Never touches a task.
 */
#include "resolver/criu.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "resolver/checked.h"

#define LENGTH_MAX (UINT64_C(1) << 60) /* of the image */
#define FNV_BASIS  UINT64_C(0xcbf29ce484222325)

struct pages_file {
  int fd;
  uint32_t level, pages_id;
  uint64_t length;
  struct uffd_stamp stamp;
};

struct uffd_criu {
  char *path;
  size_t path_size;
  int levels[UFFD_CRIU_DEPTH]; /* directories, the dump's own first, then its parents */
  uint32_t depth;
  struct uffd_criu_task *tasks;
  size_t tasks_count, tasks_room;
  struct uffd_criu_region *regions;
  size_t regions_count, regions_room;
  struct uffd_criu_extent *extents; /* by offset */
  size_t extents_count, extents_room;
  struct pages_file *files;
  size_t files_count, files_room;
  uint64_t length, identity, version;
};

/* A task while it is read: its pagemaps, as far as they were needed. */
struct reading {
  struct uffd_criu *criu;
  int32_t pid;
  struct uffd_criu_vmas vmas;
  struct uffd_criu_pagemap maps[UFFD_CRIU_DEPTH];
  uint32_t files[UFFD_CRIU_DEPTH]; /* of pages; UINT32_MAX: not opened */
  uint32_t depth;                  /* pagemaps that were read */
};

static uint64_t hash(uint64_t value, uint64_t number) {
  for (unsigned i = 0; i < 64; i += 8) {
    value = (value ^ (number >> i & 255)) * UINT64_C(0x100000001b3);
  }
  return value;
}

/* ---- files */

/* For sentences: the directory's path, "parent/" for each level below it, and the file. */
static void name_file(const struct uffd_criu *criu, uint32_t level, const char *file, char *name, size_t size) {
  size_t at = (size_t)snprintf(name, size, "%s/", criu->path);
  for (uint32_t i = 0; i < level && i < 4 && at < size; i++) {
    at += (size_t)snprintf(name + at, size - at, "parent/");
  }
  if (at < size) snprintf(name + at, size - at, "%s", file);
}

/* Whole, to be released with *length. -ENOENT has a sentence too. */
static int read_whole(const struct uffd_criu *criu, uint32_t level, const char *file, unsigned char **bytes,
                      uint64_t *length) {
  char name[512];
  struct stat status;
  name_file(criu, level, file, name, sizeof(name));
  int fd = openat(criu->levels[level], file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return fail(errno, "%s: %s.", name, uffd_error_text(errno));
  int result = fstat(fd, &status) == 0 ? 0 : fail(errno, "%s: %s.", name, uffd_error_text(errno));
  if (result == 0 && !S_ISREG(status.st_mode)) result = fail(EINVAL, "%s is not a regular file.", name);
  if (result == 0 && (uint64_t)status.st_size > UFFD_CRIU_FILE_MAX) {
    result = fail(EFBIG, "%s has %lld bytes, and %llu are the most.", name, (long long)status.st_size,
                  (unsigned long long)UFFD_CRIU_FILE_MAX);
  }
  *length = result == 0 ? (uint64_t)status.st_size : 0;
  *bytes = result == 0 && *length != 0 ? uffd_alloc(*length) : NULL;
  if (*length != 0 && *bytes == NULL) result = fail(ENOMEM, "No memory for %s.", name);
  for (uint64_t at = 0; result == 0 && at < *length;) {
    ssize_t count = pread(fd, *bytes + at, *length - at, (off_t)at);
    if (count > 0) at += (uint64_t)count;
    if (count == 0) result = fail(EIO, "%s has become shorter while it was read.", name);
    if (count < 0 && errno != EINTR) result = fail(errno, "%s: %s.", name, uffd_error_text(errno));
  }
  close(fd);
  if (result < 0 && *bytes != NULL) uffd_release(*bytes, *length);
  return result;
}

/* The parents: "parent" is a symbolic link, relative to its directory. */
static int open_parents(struct uffd_criu *criu) {
  for (;;) {
    int fd = openat(criu->levels[criu->depth - 1], "parent", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
      struct stat status;
      if (fstatat(criu->levels[criu->depth - 1], "parent", &status, AT_SYMLINK_NOFOLLOW) != 0) return 0;
      return fail(ENOENT, "%s: the parent of its dump (number %u of the chain) is not there.", criu->path, criu->depth);
    }
    if (fd < 0) return fail(errno, "%s: its parent: %s.", criu->path, uffd_error_text(errno));
    if (criu->depth == UFFD_CRIU_DEPTH) {
      close(fd);
      return fail(ELOOP, "%s has more than %u parents, or they lead in a circle.", criu->path, UFFD_CRIU_DEPTH - 1);
    }
    criu->levels[criu->depth++] = fd;
  }
}

static int open_pages(struct reading *reading, uint32_t level) {
  struct uffd_criu *criu = reading->criu;
  uint32_t id = reading->maps[level].pages_id;
  char file[32], name[512];
  struct stat status;
  for (size_t i = 0; i < criu->files_count; i++) {
    if (criu->files[i].level == level && criu->files[i].pages_id == id) reading->files[level] = (uint32_t)i;
  }
  if (reading->files[level] == UINT32_MAX) {
    struct pages_file made = {.level = level, .pages_id = id};
    snprintf(file, sizeof(file), "pages-%" PRIu32 ".img", id);
    name_file(criu, level, file, name, sizeof(name));
    int result = uffd_criu_grow((void **)&criu->files, &criu->files_room, criu->files_count, sizeof(*criu->files));
    if (result < 0) return result;
    made.fd = openat(criu->levels[level], file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (made.fd < 0) return fail(errno, "%s: %s.", name, uffd_error_text(errno));
    if (fstat(made.fd, &status) != 0 || !S_ISREG(status.st_mode)) {
      close(made.fd);
      return fail(EINVAL, "%s is not a regular file.", name);
    }
    made.length = (uint64_t)status.st_size;
    criu->files[criu->files_count] = made;
    result = uffd_stamp_take(made.fd, &criu->files[criu->files_count].stamp);
    criu->files[criu->files_count++].stamp.links = 0; /* a file that is only renamed has not changed */
    if (result < 0) return result;
    reading->files[level] = (uint32_t)criu->files_count - 1;
  }
  const struct pages_file *pages = &criu->files[reading->files[level]];
  if (pages->length == reading->maps[level].length) return 0; /* more would be pages of which nobody knows where */
  return fail(EINVAL,
              "%s/pages-%" PRIu32 ".img has %" PRIu64 " bytes, and the pages of task %" PRId32 " take %" PRIu64
              ": one of its files was cut short.",
              criu->path, id, pages->length, reading->pid, reading->maps[level].length);
}

/* ---- which file has a page */

static int add_extent(struct uffd_criu *criu, uint64_t offset, uint64_t length, uint32_t file, uint64_t position) {
  struct uffd_criu_extent *last = criu->extents_count != 0 ? &criu->extents[criu->extents_count - 1] : NULL;
  if (last != NULL && last->file == file && last->offset + last->length == offset &&
      last->position + last->length == position) {
    last->length += length;
    return 0;
  }
  int result =
      uffd_criu_grow((void **)&criu->extents, &criu->extents_room, criu->extents_count, sizeof(*criu->extents));
  if (result == 0) criu->extents[criu->extents_count++] = (struct uffd_criu_extent){offset, length, position, file};
  return result;
}

static int read_pagemap(struct reading *reading, uint32_t level) {
  char file[48], name[512];
  unsigned char *bytes = NULL;
  uint64_t length = 0;
  snprintf(file, sizeof(file), "pagemap-%" PRId32 ".img", reading->pid);
  int result = read_whole(reading->criu, level, file, &bytes, &length);
  if (result < 0) return result;
  name_file(reading->criu, level, file, name, sizeof(name));
  result = uffd_criu_parse_pagemap(bytes, length, name, &reading->maps[level]);
  uffd_release(bytes, length);
  if (result < 0) return result;
  reading->depth = level + 1;
  return open_pages(reading, level); /* also when nothing of it is wanted: a pagemap without entries was cut short */
}

/* The first entry that ends after an address. */
static size_t find_entry(const struct uffd_criu_pagemap *map, uint64_t address) {
  size_t low = 0, high = map->count;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (map->at[middle].end <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

static int refuse_orphan(const struct reading *reading, uint64_t address) {
  return fail(EINVAL,
              "%s: the page at 0x%" PRIx64 " of task %" PRId32
              " is said to be in the parent of the dump, which does not have it.",
              reading->criu->path, address, reading->pid);
}

/* [low, high) of the task, which begins at offset of the image. needed: a child says that all of it is here. */
static int place(struct reading *reading, uint32_t level, uint64_t low, uint64_t high, uint64_t offset, bool needed) {
  if (level == reading->criu->depth) return refuse_orphan(reading, low);
  int result = level >= reading->depth ? read_pagemap(reading, level) : 0;
  const struct uffd_criu_pagemap *map = &reading->maps[level];
  uint64_t at = low;
  for (size_t i = result == 0 ? find_entry(map, low) : map->count; i < map->count && map->at[i].start < high; i++) {
    const struct uffd_criu_entry *entry = &map->at[i];
    uint64_t start = max_u64(entry->start, low), end = min_u64(entry->end, high);
    if (needed && start != at) return refuse_orphan(reading, at);
    if ((entry->flags & UFFD_CRIU_PRESENT) == 0) {
      result = place(reading, level + 1, start, end, offset + (start - low), true);
    } else {
      result = add_extent(reading->criu, offset + (start - low), end - start, reading->files[level],
                          entry->position + (start - entry->start));
    }
    if (result < 0) return result;
    at = end;
  }
  return result == 0 && needed && at != high ? refuse_orphan(reading, at) : result;
}

static int add_region(struct reading *reading, const struct uffd_criu_vma *vma) {
  struct uffd_criu *criu = reading->criu;
  const struct uffd_criu_region region = {vma->start, vma->end - vma->start, criu->length};
  if (region.length > LENGTH_MAX - criu->length) return fail(EFBIG, "%s has too much memory.", criu->path);
  int result =
      uffd_criu_grow((void **)&criu->regions, &criu->regions_room, criu->regions_count, sizeof(*criu->regions));
  if (result < 0) return result;
  criu->regions[criu->regions_count++] = region;
  criu->length += region.length;
  return place(reading, 0, vma->start, vma->end, region.offset, false);
}

static int read_mm(struct reading *reading) {
  char file[48], name[512];
  unsigned char *bytes = NULL;
  uint64_t length = 0;
  snprintf(file, sizeof(file), "mm-%" PRId32 ".img", reading->pid);
  int result = read_whole(reading->criu, 0, file, &bytes, &length);
  if (result == -ENOENT) return 0; /* a zombie */
  if (result < 0) return result;
  name_file(reading->criu, 0, file, name, sizeof(name));
  result = uffd_criu_parse_mm(bytes, length, name, &reading->vmas);
  uffd_release(bytes, length);
  return result;
}

static int read_task(struct uffd_criu *criu, int32_t pid) {
  struct reading reading = {.criu = criu, .pid = pid};
  struct uffd_criu_task task = {.pid = pid, .first_region = criu->regions_count};
  if (uffd_criu_find(criu, pid) != NULL)
    return fail(EINVAL, "%s/pstree.img has task %" PRId32 " twice.", criu->path, pid);
  memset(reading.files, 0xff, sizeof(reading.files));
  int result = read_mm(&reading);
  for (size_t i = 0; i < reading.vmas.count && result == 0; i++) {
    if (reading.vmas.at[i].lazy) result = add_region(&reading, &reading.vmas.at[i]);
  }
  uffd_criu_free_vmas(&reading.vmas);
  for (uint32_t level = 0; level < reading.depth; level++) {
    uffd_criu_free_pagemap(&reading.maps[level]);
  }
  if (result < 0) return result;
  task.count = (uint32_t)(criu->regions_count - task.first_region);
  result = uffd_criu_grow((void **)&criu->tasks, &criu->tasks_room, criu->tasks_count, sizeof(*criu->tasks));
  if (result == 0) criu->tasks[criu->tasks_count++] = task;
  return result;
}

static int read_tasks(struct uffd_criu *criu) {
  struct uffd_criu_pids pids = {0};
  unsigned char *bytes = NULL;
  uint64_t length = 0;
  char name[512];
  name_file(criu, 0, "pstree.img", name, sizeof(name));
  int result = read_whole(criu, 0, "pstree.img", &bytes, &length);
  if (result == -ENOENT) return fail(ENOENT, "%s has no pstree.img: it is not the directory of a dump.", criu->path);
  if (result == 0) {
    result = uffd_criu_parse_pstree(bytes, length, name, &pids);
    uffd_release(bytes, length);
  }
  if (result < 0) return result;
  for (size_t i = 0; i < pids.count && result == 0; i++) {
    result = read_task(criu, pids.at[i]);
  }
  uffd_criu_free_pids(&pids);
  if (result < 0) return result;
  return criu->length != 0 ? 0 : fail(EINVAL, "%s: no task of the dump has lazy memory.", criu->path);
}

/* The layout tells dumps apart: addresses are random. */
static void identify(struct uffd_criu *criu) {
  uint64_t identity = FNV_BASIS;
  for (size_t i = 0; i < criu->tasks_count; i++) {
    identity = hash(identity, (uint64_t)criu->tasks[i].pid);
  }
  for (size_t i = 0; i < criu->regions_count; i++) {
    const struct uffd_criu_region *region = &criu->regions[i];
    identity = hash(hash(hash(identity, region->address), region->length), region->offset);
  }
  for (size_t i = 0; i < criu->extents_count; i++) {
    const struct uffd_criu_extent *extent = &criu->extents[i];
    identity = hash(hash(identity, extent->offset), extent->length);
    identity = hash(hash(identity, extent->position), extent->file);
  }
  criu->identity = identity != 0 ? identity : 1; /* 0 means an unknown image */
  criu->version = identity;
  for (size_t i = 0; i < criu->files_count; i++) {
    const struct uffd_stamp *stamp = &criu->files[i].stamp;
    criu->version = hash(hash(hash(criu->version, stamp->device), stamp->inode), stamp->size);
    criu->version = hash(hash(criu->version, (uint64_t)stamp->mtime_s), (uint64_t)stamp->mtime_ns);
    criu->version = hash(hash(criu->version, (uint64_t)stamp->ctime_s), (uint64_t)stamp->ctime_ns);
  }
}

static int open_directory(struct uffd_criu *criu, int directory) {
  struct stat status;
  int fd = directory >= 0 ? fcntl(directory, F_DUPFD_CLOEXEC, 0) : open(criu->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return fail(errno, "%s: %s.", criu->path, uffd_error_text(errno));
  criu->levels[criu->depth++] = fd;
  if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) return open_parents(criu);
  return fail(EINVAL, "%s is not a directory, as the images of a dump by CRIU lie in.", criu->path);
}

int uffd_criu_open(int directory, const char *path, struct uffd_criu **criu) {
  struct uffd_criu *made = NEW(struct uffd_criu);
  *criu = NULL;
  if (made == NULL) return fail(ENOMEM, "No memory for a dump.");
  made->path_size = strlen(path) + 1;
  made->path = uffd_alloc(made->path_size);
  int result = made->path != NULL ? 0 : fail(ENOMEM, "No memory for a dump.");
  if (result == 0) {
    memcpy(made->path, path, made->path_size);
    result = open_directory(made, directory);
  }
  if (result == 0) result = read_tasks(made);
  if (result == 0) {
    identify(made);
    *criu = made;
    return 0;
  }
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_criu_close(made);
  uffd_restore_sentence(&why);
  return result;
}

void uffd_criu_close(struct uffd_criu *criu) {
  if (criu == NULL) return;
  for (uint32_t i = 0; i < criu->depth; i++) {
    close(criu->levels[i]);
  }
  for (size_t i = 0; i < criu->files_count; i++) {
    close(criu->files[i].fd);
  }
  uffd_release(criu->tasks, criu->tasks_room * sizeof(*criu->tasks));
  uffd_release(criu->regions, criu->regions_room * sizeof(*criu->regions));
  uffd_release(criu->extents, criu->extents_room * sizeof(*criu->extents));
  uffd_release(criu->files, criu->files_room * sizeof(*criu->files));
  uffd_release(criu->path, criu->path_size);
  DELETE(criu);
}

/* ---- what was found */

uint64_t uffd_criu_length(const struct uffd_criu *criu) {
  return criu->length;
}
uint64_t uffd_criu_identity(const struct uffd_criu *criu) {
  return criu->identity;
}
uint64_t uffd_criu_version(const struct uffd_criu *criu) {
  return criu->version;
}

bool uffd_criu_holds(const struct uffd_criu *criu) {
  for (size_t i = 0; i < criu->files_count; i++) {
    if (!uffd_stamp_holds(criu->files[i].fd, &criu->files[i].stamp)) return false;
  }
  return true;
}

const struct uffd_criu_task *uffd_criu_tasks(const struct uffd_criu *criu, size_t *count) {
  *count = criu->tasks_count;
  return criu->tasks;
}

const struct uffd_criu_task *uffd_criu_find(const struct uffd_criu *criu, int32_t pid) {
  for (size_t i = 0; i < criu->tasks_count; i++) {
    if (criu->tasks[i].pid == pid) return &criu->tasks[i];
  }
  return NULL;
}

const struct uffd_criu_region *uffd_criu_regions(const struct uffd_criu *criu, size_t *count) {
  *count = criu->regions_count;
  return criu->regions;
}

const struct uffd_criu_extent *uffd_criu_extents(const struct uffd_criu *criu, size_t *count) {
  *count = criu->extents_count;
  return criu->extents;
}

int uffd_criu_fd(const struct uffd_criu *criu, uint32_t file) {
  return file < criu->files_count ? criu->files[file].fd : -1;
}

/* ---- the resolver */

static int make_files(const struct uffd_criu *criu, uffd_resolver **resolvers) {
  for (size_t i = 0; i < criu->files_count; i++) {
    const struct pages_file *file = &criu->files[i];
    char name[64];
    snprintf(name, sizeof(name), "pages-%" PRIu32 ".img of the dump", file->pages_id);
    if (file->length == 0) continue; /* no extent is in it */
    int result = uffd_resolver_checked(file->fd, &file->stamp, false, name, &resolvers[i]);
    if (result < 0) return result;
  }
  return 0;
}

static int make_layers(const struct uffd_criu *criu, uffd_resolver *const *files, uffd_resolver **resolver) {
  struct uffd_layer *layers = uffd_alloc(criu->extents_count * sizeof(*layers));
  if (layers == NULL) return fail(ENOMEM, "No memory for the extents of a dump.");
  for (size_t i = 0; i < criu->extents_count; i++) {
    const struct uffd_criu_extent *extent = &criu->extents[i];
    layers[i] = (struct uffd_layer){extent->offset, extent->length, files[extent->file], extent->position};
  }
  int result = uffd_resolver_layers(layers, criu->extents_count, resolver);
  uffd_release(layers, criu->extents_count * sizeof(*layers));
  return result;
}

int uffd_criu_resolver(const struct uffd_criu *criu, uffd_resolver **resolver) {
  *resolver = NULL;
  if (criu->extents_count == 0) return uffd_resolver_zero(resolver);
  size_t length = criu->files_count * sizeof(uffd_resolver *);
  uffd_resolver **files = uffd_alloc(length);
  if (files == NULL) return fail(ENOMEM, "No memory for the files of a dump.");
  int result = make_files(criu, files);
  if (result == 0) result = make_layers(criu, files, resolver);
  struct uffd_sentence why = uffd_keep_sentence();
  for (size_t i = 0; i < criu->files_count; i++) {
    uffd_resolver_close(files[i]);
  }
  uffd_release(files, length);
  if (result < 0) uffd_restore_sentence(&why);
  return result;
}
