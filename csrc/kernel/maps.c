/*
 * The mappings of this process, as /proc/self/smaps tells them. For sentences and set-up only: it is slow.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel/object.h"

/* Lines of a file through a buffer on the stack: stdio would allocate. */
struct reader {
  int fd;
  size_t used, at;
  char buffer[4096];
};

/* The next line without its end, cut to size. 1, 0 at the end, or -errno. */
static int next_line(struct reader *reader, char *line, size_t size) {
  size_t length = 0;
  for (;;) {
    if (reader->at == reader->used) {
      ssize_t got = read(reader->fd, reader->buffer, sizeof(reader->buffer));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return got < 0 ? -errno : 0;
      reader->used = (size_t)got;
      reader->at = 0;
    }
    char c = reader->buffer[reader->at++];
    if (c == '\n') break;
    if (length + 1 < size) line[length++] = c;
  }
  line[length] = '\0';
  return 1;
}

/* "7f00-7f10 rw-p 00000000 00:01 1024   /memfd:x (deleted)" opens each mapping; everything else is "Field: value". */
static bool parse_header(const char *line, struct uffd_mapping *mapping) {
  int name = 0;
  struct uffd_mapping found = {0};
  if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*s %*s %*s %n", &found.start, &found.end, found.protection, &name) < 3)
    return false;
  if (name > 0) snprintf(found.name, sizeof(found.name), "%.*s", (int)sizeof(found.name) - 1, line + name);
  *mapping = found;
  return true;
}

/* Reads on to the end of the mapping whose header was read: VmFlags is its last line. */
static int read_fields(struct reader *reader, struct uffd_mapping *mapping) {
  char line[512];
  int rc;
  while ((rc = next_line(reader, line, sizeof(line))) > 0) {
    if (strncmp(line, "KernelPageSize:", 15) == 0) mapping->page_size = strtoull(line + 15, NULL, 10) * 1024;
    if (strncmp(line, "VmFlags:", 8) == 0) {
      snprintf(mapping->flags, sizeof(mapping->flags), "%.*s", (int)sizeof(mapping->flags) - 1, line + 8);
      return 0;
    }
  }
  return rc;
}

int uffd_find_mapping_from(uint64_t address, struct uffd_mapping *mapping) {
  struct reader reader = {.fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC)};
  if (reader.fd < 0) return -errno;
  char line[512];
  int rc;
  while ((rc = next_line(&reader, line, sizeof(line))) > 0) {
    if (!parse_header(line, mapping) || mapping->end <= address) continue;
    rc = read_fields(&reader, mapping);
    close(reader.fd);
    return rc;
  }
  close(reader.fd);
  return rc < 0 ? rc : -ENOENT;
}

int uffd_find_mapping(uint64_t address, struct uffd_mapping *mapping) {
  int rc = uffd_find_mapping_from(address, mapping);
  return rc == 0 && mapping->start > address ? -ENOENT : rc;
}

bool uffd_mapping_has(const struct uffd_mapping *mapping, const char *flag) {
  for (const char *at = mapping->flags; (at = strstr(at, flag)) != NULL; at++)
    if ((at == mapping->flags || at[-1] == ' ') && (at[2] == ' ' || at[2] == '\0')) return true;
  return false;
}
