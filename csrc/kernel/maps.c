/*
 * The mappings of this process. One question to the kernel about an address (PROCMAP_QUERY, 6.11) takes microseconds.
 * /proc/self/smaps is the only source of the flags, and the only way on older kernels, but reading it walks the page
 * tables of every mapping before. Use it for sentences and set-up, never once for each mapping of a range.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel/object.h"

/* Reads the next line without its end, cut to size: 1, 0 at the end of the file, or -errno. stdio would allocate. */
static int next_line(struct uffd_maps *maps, char *line, size_t size) {
  size_t length = 0;
  for (;;) {
    if (maps->at == maps->used) {
      ssize_t got = read(maps->fd, maps->buffer, sizeof(maps->buffer));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return got < 0 ? -errno : 0;
      maps->used = (size_t)got;
      maps->at = 0;
    }
    char c = maps->buffer[maps->at++];
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
  if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %*s %" SCNu64 " %n", &found.start, &found.end,
             found.protection, &found.offset, &found.inode, &name) < 5)
    return false;
  if (name > 0) snprintf(found.name, sizeof(found.name), "%.*s", (int)sizeof(found.name) - 1, line + name);
  *mapping = found;
  return true;
}

/* Reads the fields of the mapping whose header was read, up to VmFlags, which is the last. */
static int read_fields(struct uffd_maps *maps, struct uffd_mapping *mapping) {
  char line[512];
  int rc;
  while ((rc = next_line(maps, line, sizeof(line))) > 0) {
    if (strncmp(line, "KernelPageSize:", 15) == 0) mapping->page_size = strtoull(line + 15, NULL, 10) * 1024;
    if (strncmp(line, "VmFlags:", 8) == 0) {
      snprintf(mapping->flags, sizeof(mapping->flags), "%.*s", (int)sizeof(mapping->flags) - 1, line + 8);
      return 0;
    }
  }
  return rc;
}

static int read_on(struct uffd_maps *maps, uint64_t address, struct uffd_mapping *mapping) {
  char line[512];
  int rc = 1;
  while (maps->last.end <= address && (rc = next_line(maps, line, sizeof(line))) > 0) {
    if (!parse_header(line, &maps->last)) continue;
    if (maps->last.end <= address) continue;
    rc = read_fields(maps, &maps->last);
    if (rc < 0) break;
    rc = 1;
  }
  if (rc <= 0) return rc < 0 ? rc : -ENOENT;
  *mapping = maps->last;
  return 0;
}

static int query(const struct uffd_maps *maps, uint64_t address, struct uffd_mapping *mapping) {
  *mapping = (struct uffd_mapping){0};
  struct uffd_raw_procmap_query request = {
      .size = sizeof(request),
      .query_flags = RAW_PROCMAP_COVERING_OR_NEXT,
      .query_addr = address,
      .vma_name_addr = (uintptr_t)mapping->name,
      .vma_name_size = sizeof(mapping->name),
  };
  int rc = ioctl(maps->fd, RAW_PROCMAP_QUERY, &request) < 0 ? -errno : 0;
  if (rc == -ENAMETOOLONG) { /* the name is too long: ask without it */
    mapping->name[0] = '/';
    request.vma_name_size = 0;
    request.vma_name_addr = 0;
    rc = ioctl(maps->fd, RAW_PROCMAP_QUERY, &request) < 0 ? -errno : 0;
  }
  if (rc < 0) return rc;
  uint64_t flags = request.vma_flags;
  mapping->start = request.vma_start;
  mapping->end = request.vma_end;
  mapping->page_size = request.vma_page_size;
  mapping->offset = request.vma_offset;
  mapping->inode = request.inode;
  mapping->protection[0] = (flags & RAW_PROCMAP_READABLE) != 0 ? 'r' : '-';
  mapping->protection[1] = (flags & RAW_PROCMAP_WRITABLE) != 0 ? 'w' : '-';
  mapping->protection[2] = (flags & RAW_PROCMAP_EXECUTABLE) != 0 ? 'x' : '-';
  mapping->protection[3] = (flags & RAW_PROCMAP_SHARED) != 0 ? 's' : 'p';
  return 0;
}

int uffd_maps_open(struct uffd_maps *maps, bool flags) {
  *maps = (struct uffd_maps){.fd = -1};
  struct uffd_mapping first;
  if (!flags) maps->fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  int rc = maps->fd < 0 ? -ENOTTY : query(maps, 0, &first);
  maps->asks = rc == 0 || rc == -ENOENT;
  if (maps->asks) return 0;
  if (maps->fd >= 0) close(maps->fd);
  maps->fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
  return maps->fd < 0 ? -errno : 0;
}

int uffd_maps_find(struct uffd_maps *maps, uint64_t address, struct uffd_mapping *mapping) {
  return maps->asks ? query(maps, address, mapping) : read_on(maps, address, mapping);
}

void uffd_maps_close(struct uffd_maps *maps) {
  close(maps->fd);
}

int uffd_find_mapping(uint64_t address, struct uffd_mapping *mapping) {
  struct uffd_maps maps;
  int rc = uffd_maps_open(&maps, true);
  if (rc < 0) return rc;
  rc = uffd_maps_find(&maps, address, mapping);
  uffd_maps_close(&maps);
  return rc == 0 && mapping->start > address ? -ENOENT : rc;
}

/* A private mapping of a file is not anonymous, except of /dev/zero. */
bool uffd_mapping_is_anonymous(const struct uffd_mapping *mapping) {
  return mapping->protection[3] == 'p' && (mapping->name[0] != '/' || strncmp(mapping->name, "/dev/zero", 9) == 0);
}

bool uffd_mapping_has(const struct uffd_mapping *mapping, const char *flag) {
  for (const char *at = mapping->flags; (at = strstr(at, flag)) != NULL; at++)
    if ((at == mapping->flags || at[-1] == ' ') && (at[2] == ' ' || at[2] == '\0')) return true;
  return false;
}

bool uffd_mapping_is_registered(const struct uffd_mapping *mapping) {
  return uffd_mapping_has(mapping, "um") || uffd_mapping_has(mapping, "uw") || uffd_mapping_has(mapping, "ui");
}
