/*
 * Making mappings: anonymous, THP-aligned, memfd with its alias, hugetlb. They are empty, even under
 * mlockall(MCL_FUTURE), and can be told apart in /proc/self/maps.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "memory/memory.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA           0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#define LENGTH_MAX     (UINT64_C(1) << 47) /* x86-64 user space with four levels; the kernel has the last word */
#define NAME_MAX_BYTES 249                 /* of a memfd */
#define POOL           "/sys/kernel/mm/hugepages/hugepages-2048kB/"

/* Empty mappings */

/* mlockall(MCL_FUTURE) without MCL_ONFAULT fills new mappings at once. The only way to find that out is to make one. */
static bool populates_new_mappings(void) {
  unsigned char resident = 0;
  char *probe = mmap(NULL, BASE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (probe == MAP_FAILED) return false;
  mincore(probe, BASE_PAGE, &resident);
  munmap(probe, BASE_PAGE);
  return (resident & 1) != 0;
}

/* A mapping without access is not filled. After mlock2(MLOCK_ONFAULT) it also stays empty when access is allowed. */
static int open_up(char *address, uint64_t length) {
  if (populates_new_mappings()) mlock2(address, length, MLOCK_ONFAULT); /* 4.4; else uffd_memory_settle() empties it */
  return mprotect(address, length, PROT_READ | PROT_WRITE) == 0 ? 0 : -errno;
}

static int map_closed(uint64_t length, int flags, int fd, char **address) {
  void *mapped = mmap(NULL, length, PROT_NONE, flags, fd, 0);
  if (mapped == MAP_FAILED) return -errno;
  *address = mapped;
  return 0;
}

/* Anonymous */

/* Only a name tells one anonymous mapping from another, where the kernel has those (CONFIG_ANON_VMA_NAME, 5.17). */
static void name_it(uffd_memory *memory, char *address) {
  static _Atomic uint32_t last;
  char name[32];
  uint32_t number = 1 + atomic_fetch_add(&last, 1);
  snprintf(name, sizeof(name), "uffd-%" PRIu32, number);
  if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, address, memory->length, name) == 0) memory->number = number;
}

static int map_anonymous(uint64_t length, char **address) {
  return map_closed(length, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, address);
}

/* Finishes an anonymous memory that is mapped at address. */
static int begin_anonymous(uffd_memory *memory, char *address) {
  memory->private_mapping = true;
  uffd_places_init(memory, address);
  name_it(memory, address);
  return open_up(address, memory->length);
}

static int map_plain(uffd_memory *memory) {
  char *address = NULL;
  int result = map_anonymous(memory->length, &address);
  return result < 0 ? result : begin_anonymous(memory, address);
}

/* Maps 2 MiB more than asked, and unmaps what is before and after the aligned part. */
static int map_thp(uffd_memory *memory) {
  char *raw = NULL;
  uint64_t reserved = memory->length + HUGE_PAGE;
  int result = map_anonymous(reserved, &raw);
  if (result < 0) return result;
  char *aligned = (char *)round_up((uintptr_t)raw, HUGE_PAGE); /* NOLINT(performance-no-int-to-ptr) */
  uint64_t before = (uint64_t)(aligned - raw), after = reserved - before - memory->length;
  if (before != 0) munmap(raw, before);
  if (after != 0) munmap(aligned + memory->length, after);
  madvise(aligned, memory->length, MADV_HUGEPAGE); /* only a wish: a kernel without THP serves small pages */
  return begin_anonymous(memory, aligned);
}

/* Files in memory */

/*
 * Never huge pages by accident. A host may make a huge page of every page that is written to shared memory
 * (shmem_enabled). The rest of that huge page would then be zeros that no resolver was asked for.
 */
static int open_up_file(char *address, uint64_t length, uint32_t kind) {
  if (kind == UFFD_MEMORY_MEMFD) madvise(address, length, MADV_NOHUGEPAGE); /* EINVAL: a kernel without THP */
  return open_up(address, length);
}

/*
 * Another private mapping of a memfd. Huge pages are not reserved: the mapping is to share those that are there.
 */
static int map_clone(uffd_memory *memory, uffd_memory *of) {
  char *address = NULL;
  int result = uffd_common_of(of, &memory->common);
  if (result < 0) return result;
  memory->private_mapping = true;
  memory->inode = of->inode;
  memory->fd = fcntl(of->fd, F_DUPFD_CLOEXEC, 0);
  if (memory->fd < 0) return -errno;
  result = map_closed(memory->length, MAP_PRIVATE | MAP_NORESERVE, memory->fd, &address);
  if (result < 0) return result;
  uffd_places_init(memory, address);
  return open_up_file(address, memory->length, memory->kind);
}

static int keep_from_children(const uffd_memory *memory) {
  if (madvise(memory->whole.address, memory->length, MADV_DONTFORK) != 0) return -errno;
  if (memory->alias != NULL && madvise(memory->alias, memory->length, MADV_DONTFORK) != 0) return -errno;
  return 0;
}

/* Its pages are filled by the pager. */
int uffd_map_lent(int fd, uint64_t length, uint64_t page_size, uint64_t token, uint32_t flags, uffd_memory **memory) {
  char *address = NULL;
  struct stat status;
  *memory = NULL;
  uffd_memory *made =
      uffd_memory_new(page_size == BASE_PAGE ? UFFD_MEMORY_MEMFD : UFFD_MEMORY_HUGETLB, length, page_size);
  if (made == NULL) {
    close(fd);
    return -ENOMEM;
  }
  made->fd = fd;
  made->private_mapping = true;
  made->token = token;
  int result = fstat(fd, &status) == 0 ? 0 : -errno;
  if (result == 0 && (uint64_t)status.st_size < length) result = -EINVAL;
  if (result == 0) result = map_closed(length, MAP_PRIVATE | MAP_NORESERVE, fd, &address);
  if (result == 0) {
    made->inode = status.st_ino;
    uffd_places_init(made, address);
    result = open_up_file(address, length, made->kind);
  }
  if (result == 0 && (flags & UFFD_MAP_FORK) == 0) result = keep_from_children(made);
  if (result == 0) {
    *memory = made;
    return 0;
  }
  uffd_memory_drop(made);
  return fail(-result, "Cannot map the %" PRIu64 " bytes that the pager shares: %s.", length, strerror(-result));
}

uint64_t uffd_memory_token(const uffd_memory *memory) {
  return memory->token;
}

static int check_clone(const uffd_memory *of, uint64_t length, const struct uffd_map_opts *opts) {
  int result = uffd_memory_enter_own(of);
  if (result < 0) return result;
  if (of->fd < 0 || !of->private_mapping) {
    return fail(EINVAL,
                "Another mapping is made of a private one of a memfd: map the first with kind memfd or hugetlb, "
                "private.");
  }
  if (of->token != 0) return fail(EINVAL, "The pages of this memory are a pager's: ask the pager for another mapping.");
  if (length != of->length) {
    return fail(EINVAL, "Another mapping of a memory is as long as that one: %" PRIu64 " bytes, not %" PRIu64 ".",
                of->length, length);
  }
  if (opts->name != NULL) return fail(EINVAL, "Another mapping of a memory has that one's name.");
  return 0;
}

static int map_memfd(uffd_memory *memory, const struct uffd_map_opts *opts) {
  unsigned sealing = (opts->flags & UFFD_MAP_PRIVATE) != 0 ? MFD_ALLOW_SEALING : 0; /* see common.c */
  unsigned flags = MFD_CLOEXEC | sealing | (memory->kind == UFFD_MEMORY_HUGETLB ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
  char *address = NULL;
  struct stat status;
  memory->fd = memfd_create(opts->name != NULL ? opts->name : "uffd", flags);
  if (memory->fd < 0) return -errno;
  if (ftruncate(memory->fd, (off_t)memory->length) != 0 || fstat(memory->fd, &status) != 0) return -errno;
  memory->inode = status.st_ino;
  memory->private_mapping = (opts->flags & UFFD_MAP_PRIVATE) != 0;
  int served = memory->private_mapping ? MAP_PRIVATE : MAP_SHARED;
  /* as for anonymous memory; huge pages are reserved, because a fault may find none free */
  if (memory->kind == UFFD_MEMORY_MEMFD) served |= MAP_NORESERVE;
  int result = map_closed(memory->length, served, memory->fd, &address);
  if (result < 0) return result;
  uffd_places_init(memory, address);
  /* a private mapping reserves its own huge pages: the alias must not reserve as many again */
  int alias = MAP_SHARED | (memory->private_mapping ? MAP_NORESERVE : 0);
  result = map_closed(memory->length, alias, memory->fd, &memory->alias);
  if (result == 0) result = open_up_file(address, memory->length, memory->kind);
  return result < 0 ? result : open_up_file(memory->alias, memory->length, memory->kind);
}

/* What went wrong */

static uint64_t read_number(const char *path) {
  unsigned long count = 0;
  FILE *file = fopen(path, "re");
  if (file == NULL) return 0;
  if (fscanf(file, "%lu", &count) != 1) count = 0; /* NOLINT(cert-err34-c) */
  fclose(file);
  return count;
}

/* Free huge pages that are reserved for other mappings cannot be used. */
static uint64_t free_huge_pages(void) {
  uint64_t free_pages = read_number(POOL "free_hugepages"), promised = read_number(POOL "resv_hugepages");
  return free_pages > promised ? free_pages - promised : 0;
}

static int explain_map(int error, const uffd_memory *memory) {
  uint64_t needed = memory->length / HUGE_PAGE, available = free_huge_pages();
  if (memory->kind == UFFD_MEMORY_HUGETLB && error == ENOMEM && available < needed) {
    return fail(ENOMEM,
                "No free huge pages: %" PRIu64 " of 2 MiB needed, %" PRIu64 " free; as root: echo %" PRIu64
                " > /proc/sys/vm/nr_hugepages.",
                needed, available, read_number(POOL "nr_hugepages") + needed - available);
  }
  if (memory->kind == UFFD_MEMORY_HUGETLB && (error == ENOSYS || error == EINVAL || error == ENODEV)) {
    return fail(ENOSYS, "This kernel has no 2 MiB huge pages (hugetlb).");
  }
  if (error == EAGAIN) {
    return fail(EAGAIN,
                "Cannot map %" PRIu64 " bytes: mlockall(MCL_FUTURE) locks new mappings, and they exceed RLIMIT_MEMLOCK "
                "(ulimit -l).",
                memory->length);
  }
  if (error == EMFILE || error == ENFILE) {
    return fail(error, "No file descriptor left for a memfd: close some, or raise %s.",
                error == EMFILE ? "RLIMIT_NOFILE (ulimit -n)" : "fs.file-max");
  }
  return fail(error, "Cannot map %" PRIu64 " bytes: %s.", memory->length, strerror(error));
}

int uffd_map(uint64_t length, const struct uffd_map_opts *user_opts, uffd_memory **memory) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  *memory = NULL;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_map_opts");
  if (result < 0) return result;
  if (opts.kind > UFFD_MEMORY_HUGETLB) return fail(EINVAL, "Unknown kind of memory %u.", opts.kind);
  if ((opts.flags & ~(uint32_t)(UFFD_MAP_FORK | UFFD_MAP_PRIVATE)) != 0) {
    return fail(EINVAL, "Unknown flag of uffd_map 0x%x.", opts.flags);
  }
  if (length == 0) return fail(EINVAL, "A memory of 0 bytes: give its length.");
  if (length > LENGTH_MAX) return fail(EINVAL, "%" PRIu64 " bytes are beyond the address space.", length);
  if (opts.name != NULL && strlen(opts.name) > NAME_MAX_BYTES) {
    return fail(EINVAL, "The name of a memory has %zu bytes: the kernel takes %d.", strlen(opts.name), NAME_MAX_BYTES);
  }

  if (opts.of != NULL) {
    result = check_clone(opts.of, length, &opts);
    if (result < 0) return result;
    opts.kind = opts.of->kind;
  }

  uint64_t page_size = opts.kind == UFFD_MEMORY_HUGETLB ? HUGE_PAGE : BASE_PAGE;
  uffd_memory *made = uffd_memory_new(opts.kind, round_up(length, page_size), page_size);
  if (made == NULL) return -ENOMEM;
  switch (opts.kind) {
  case UFFD_MEMORY_ANONYMOUS:
    result = map_plain(made);
    break;
  case UFFD_MEMORY_THP:
    result = map_thp(made);
    break;
  default:
    result = opts.of != NULL ? map_clone(made, opts.of) : map_memfd(made, &opts);
    break;
  }
  if (result == 0 && (opts.flags & UFFD_MAP_FORK) == 0) result = keep_from_children(made);
  if (result < 0) {
    result = explain_map(-result, made);
    const struct uffd_sentence why = uffd_keep_sentence();
    uffd_memory_drop(made);
    uffd_restore_sentence(&why);
    return result;
  }
  *memory = made;
  return 0;
}
