/*
 * What a mapping is, by the arguments of mmap: userfaultfd serves anonymous memory, memfds, tmpfs and hugetlbfs.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "preload/preload.h"

#define TMPFS     0x01021994 /* memfds and shared anonymous memory, too */
#define HUGETLBFS 0x958458f6
#define BASE_PAGE UINT64_C(4096)
#define HUGE_PAGE (UINT64_C(2) << 20)
#define HUGE_BITS 0x3f /* of the flags, at MAP_HUGE_SHIFT: the logarithm of the page size */

#ifndef MAP_HUGE_SHIFT
#define MAP_HUGE_SHIFT 26
#endif

/* "/memfd:ram (deleted)" is the memfd ram. */
static void read_name(struct uffd_mapping *mapping) {
  static const char memfd[] = "/memfd:", deleted[] = " (deleted)";
  char link[64], target[UFFD_NAME_MAX + sizeof(memfd) + sizeof(deleted)];
  uffd_preload_format(link, sizeof(link), "/proc/self/fd/%u", (uint64_t)mapping->fd);
  ssize_t length = readlink(link, target, sizeof(target) - 1);
  if (length <= 0) return;
  target[length] = '\0';
  size_t start = strncmp(target, memfd, sizeof(memfd) - 1) == 0 ? sizeof(memfd) - 1 : 0;
  size_t end = (size_t)length, tail = sizeof(deleted) - 1;
  if (end - start > tail && strcmp(target + end - tail, deleted) == 0) target[end - tail] = '\0';
  uffd_preload_format(mapping->name, sizeof(mapping->name), "%s", target + start);
}

/* Pages that are there already do not fault: the pager would not be asked for them. */
static bool has_data(const struct uffd_mapping *mapping) {
  char link[64];
  struct stat status;
  if (fstat(mapping->fd, &status) != 0 || status.st_blocks == 0) return false;
  if (mapping->page_size != BASE_PAGE) return true; /* hugetlbfs does not tell where */
  uffd_preload_format(link, sizeof(link), "/proc/self/fd/%u", (uint64_t)mapping->fd);
  int copy = open(link, O_RDONLY | O_CLOEXEC); /* the program's own file position stays */
  if (copy < 0) return true;
  off_t data = lseek(copy, (off_t)mapping->file_offset, SEEK_DATA);
  bool found = data >= 0 ? (uint64_t)data < mapping->file_offset + mapping->length : errno != ENXIO;
  close(copy);
  return found;
}

static const char *describe_file(struct uffd_mapping *mapping) {
  struct statfs system;
  struct stat status;
  read_name(mapping);
  if (fstatfs(mapping->fd, &system) != 0 || fstat(mapping->fd, &status) != 0) return "its file cannot be looked at";
  mapping->device = status.st_dev;
  mapping->inode = status.st_ino;
  uint32_t type = (uint32_t)system.f_type;
  if (type == HUGETLBFS) mapping->page_size = (uint64_t)system.f_bsize;
  if (type == TMPFS || type == HUGETLBFS) return NULL;
  if ((mapping->flags & MAP_PRIVATE) != 0) return "it is a private mapping of an ordinary file (MAP_PRIVATE)";
  return "it is a mapping of an ordinary file";
}

const char *uffd_mapping_describe(struct uffd_mapping *mapping) {
  const char *why = NULL;
  mapping->page_size = BASE_PAGE;
  if ((mapping->flags & MAP_ANONYMOUS) == 0) {
    why = describe_file(mapping);
  } else if ((mapping->flags & MAP_HUGETLB) != 0) {
    int shift = mapping->flags >> MAP_HUGE_SHIFT & HUGE_BITS;
    mapping->page_size = shift != 0 ? UINT64_C(1) << shift : HUGE_PAGE;
  }
  mapping->length = (mapping->length + mapping->page_size - 1) / mapping->page_size * mapping->page_size;
  if (why != NULL) return why;
  if (mapping->page_size != BASE_PAGE && mapping->page_size != HUGE_PAGE) return "its huge pages are not of 2 MiB";
  if (mapping->prot == PROT_NONE) return "it is a reservation (PROT_NONE)";
  if ((mapping->flags & MAP_GROWSDOWN) != 0) return "it grows (MAP_GROWSDOWN)";
  return NULL;
}

bool uffd_mapping_overlaps(const struct uffd_mapping *one, const struct uffd_mapping *other) {
  return one->inode != 0 && one->inode == other->inode && one->device == other->device &&
         one->file_offset < other->file_offset + other->length && other->file_offset < one->file_offset + one->length;
}

/* mlockall(MCL_FUTURE) brings pages in before the mapping can be registered. */
static bool is_resident(const struct uffd_mapping *mapping) {
  unsigned char pages[512];
  uint64_t step = sizeof(pages) * BASE_PAGE, end = mapping->address + mapping->length;
  for (uint64_t at = mapping->address; at < end; at += step) {
    uint64_t length = end - at < step ? end - at : step;
    if (mincore((void *)(uintptr_t)at, length, pages) != 0) return false; /* NOLINT(performance-no-int-to-ptr) */
    for (uint64_t i = 0; i < length / BASE_PAGE; i++) {
      if ((pages[i] & 1) != 0) return true;
    }
  }
  return false;
}

const char *uffd_mapping_check(const struct uffd_mapping *mapping) {
  if (mapping->inode != 0 && has_data(mapping)) return "its file has pages already";
  if (mapping->inode == 0 && is_resident(mapping)) return "its pages are there already (mlockall)";
  return NULL;
}
