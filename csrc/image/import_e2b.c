/*
 * Importing an image of E2B: the runs that its header names are read from the data of their builds, which are files of
 * their own.
 */
#include "image/import.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_LIMIT (UINT64_C(256) << 20) /* bytes of a header file */
#define BUILDS       64u                   /* files that are open at a time */

static const unsigned char nil[16];

/* A build's data. */
struct build {
  unsigned char id[16];
  int fd; /* -1: none */
  uint64_t bytes;
  uint64_t used;
  char path[4096];
};

struct builds {
  char storage[2048], name[512]; /* the data of a build: storage/UUID/name */
  uint64_t uses;
  struct build list[BUILDS];
};

static int open_build(struct builds *builds, const unsigned char *id, struct build *build) {
  struct stat status;
  char text[40];
  snprintf(text, sizeof(text), "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", id[0], id[1],
           id[2], id[3], id[4], id[5], id[6], id[7], id[8], id[9], id[10], id[11], id[12], id[13], id[14], id[15]);
  if (build->fd >= 0) close(build->fd);
  memcpy(build->id, id, sizeof(build->id));
  snprintf(build->path, sizeof(build->path), "%s/%s/%s", builds->storage, text, builds->name);
  build->fd = open(build->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a pipe must not wait */
  if (build->fd < 0) return fail(errno, "Cannot open %s: %s.", build->path, strerror(errno));
  if (fstat(build->fd, &status) != 0 || !S_ISREG(status.st_mode)) return fail(EINVAL, "%s is not a file.", build->path);
  build->bytes = (uint64_t)status.st_size;
  return 0;
}

/* The build's file, opened now or before, instead of the one that was not used for the longest time. */
static int find_build(struct builds *builds, const unsigned char *id, struct build **found) {
  struct build *oldest = &builds->list[0];
  for (unsigned i = 0; i < BUILDS; i++) {
    struct build *build = &builds->list[i];
    *found = build;
    if (build->fd >= 0 && memcmp(build->id, id, sizeof(build->id)) == 0) {
      build->used = ++builds->uses;
      return 0;
    }
    if (build->used < oldest->used) oldest = build;
  }
  *found = oldest;
  oldest->used = ++builds->uses;
  return open_build(builds, id, oldest);
}

static int import_run(struct uffd_importing *importing, struct builds *builds, const struct uffd_e2b_run *run) {
  struct build *build;
  if (memcmp(run->build, nil, sizeof(nil)) == 0) return uffd_importing_zero(importing, run->offset, run->length);
  int result = find_build(builds, run->build, &build);
  if (result < 0) return result;
  if (run->at > build->bytes || run->length > build->bytes - run->at) {
    return fail(EINVAL, "%s has %" PRIu64 " bytes, and the header wants %" PRIu64 " from %" PRIu64 " on.", build->path,
                build->bytes, run->length, run->at);
  }
  return uffd_importing_copy(importing, run->offset, run->length, build->fd, build->path, run->at);
}

/* DIR/UUID/NAME.header: the data of each build are DIR/UUID/NAME, unless storage names another DIR. */
static int find_storage(struct builds *builds, const char *header, const char *storage) {
  const char *slash = strrchr(header, '/'), *base = slash == NULL ? header : slash + 1, *dot = strstr(base, ".header");
  int length = dot == NULL ? -1 : snprintf(builds->name, sizeof(builds->name), "%.*s", (int)(dot - base), base);
  if (length <= 0 || dot[7] != '\0' || length >= (int)sizeof(builds->name)) {
    return fail(EINVAL, "%s: a header's name ends in .header, and what is before that is the name of its data.",
                header);
  }
  if (storage != NULL) {
    length = snprintf(builds->storage, sizeof(builds->storage), "%s", storage);
  } else {
    length = snprintf(builds->storage, sizeof(builds->storage), "%.*s/..", slash == NULL ? 1 : (int)(slash - header),
                      slash == NULL ? "." : header);
  }
  return length < (int)sizeof(builds->storage) ? 0 : fail(ENAMETOOLONG, "%s is too long a name.", header);
}

static int read_header(const char *path, struct uffd_e2b_header *header) {
  struct stat status;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return fail(errno, "Cannot open %s: %s.", path, strerror(errno));
  int result = fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) ? fail(EINVAL, "%s is not a file.", path) : 0;
  uint64_t length = (uint64_t)status.st_size;
  if (result == 0 && (length == 0 || length > HEADER_LIMIT)) {
    result = fail(EINVAL, "%s is no header: it has %" PRIu64 " bytes.", path, length);
  }
  unsigned char *bytes = result == 0 ? uffd_alloc(length) : NULL;
  if (result == 0 && bytes == NULL) result = fail(ENOMEM, "No memory for the header %s.", path);
  if (result == 0) result = uffd_read_exactly(fd, path, 0, bytes, length);
  if (result == 0) result = uffd_e2b_parse(bytes, length, path, header);
  if (bytes != NULL) uffd_release(bytes, length);
  close(fd);
  return result;
}

static int import_all(struct uffd_importing *importing, struct builds *builds, const struct uffd_e2b_header *header) {
  for (size_t i = 0; i < header->count; i++) {
    int result = import_run(importing, builds, &header->runs[i]);
    if (result < 0) return result;
  }
  return 0;
}

static int import(struct builds *builds, const struct uffd_e2b_header *header, const char *path,
                  const struct uffd_import_opts *opts, struct uffd_import_counts *counts) {
  struct uffd_importing importing = {.store = NULL};
  for (unsigned i = 0; i < BUILDS; i++) {
    builds->list[i].fd = -1;
  }
  int result = uffd_importing_begin(&importing, path, opts, header->length, 0, NULL);
  if (result == 0) result = import_all(&importing, builds, header);
  result = uffd_importing_end(&importing, result, counts);
  for (unsigned i = 0; i < BUILDS; i++) {
    if (builds->list[i].fd >= 0) close(builds->list[i].fd);
  }
  return result;
}

int uffd_import_e2b(const char *header_path, const char *storage, const char *path,
                    const struct uffd_import_opts *user_opts, struct uffd_import_counts *counts) {
  struct uffd_import_opts opts = UFFD_IMPORT_OPTS_INIT;
  struct uffd_e2b_header header;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_import_opts");
  if (result == 0 && (header_path == NULL || path == NULL)) result = fail(EINVAL, "No path: name a header and a file.");
  if (result == 0) result = read_header(header_path, &header);
  if (result < 0) return result;
  struct builds *builds = NEW(struct builds);
  result = builds == NULL ? fail(ENOMEM, "No memory to import an image.") : find_storage(builds, header_path, storage);
  if (result == 0) result = import(builds, &header, path, &opts, counts);
  struct uffd_sentence why = uffd_keep_sentence();
  DELETE(builds);
  uffd_e2b_free(&header);
  uffd_restore_sentence(&why);
  return result;
}
