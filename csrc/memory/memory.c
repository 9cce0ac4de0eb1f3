/*
 * Making and ending mappings: anonymous, THP-aligned, memfd with its alias, hugetlb, adopted, foreign. Registers
 * nothing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory/memory.h"

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#define LENGTH_MAX     (UINT64_C(1) << 47) /* x86-64 user space with four levels; the kernel has the last word */
#define NAME_MAX_BYTES 249                 /* of a memfd */
#define POOL           "/sys/kernel/mm/hugepages/hugepages-2048kB/"

void uffd_memory_hold(uffd_memory *memory) {
  atomic_fetch_add_explicit(&memory->references, 1, memory_order_relaxed);
}

/* Unmaps what uffd_map() has mapped so far; safe on a half-made memory. What a forked child inherited stays there. */
static void unmap(uffd_memory *memory) {
  if (memory->kind < UFFD_MEMORY_ADOPTED && memory->process == uffd_process()) {
    if (memory->address != NULL) munmap(memory->address, memory->length);
    if (memory->alias != NULL) munmap(memory->alias, memory->length);
  }
  if (memory->fd >= 0) close(memory->fd);
  DELETE(memory);
}

void uffd_memory_drop(uffd_memory *memory) {
  if (atomic_fetch_sub_explicit(&memory->references, 1, memory_order_acq_rel) == 1) unmap(memory);
}

void uffd_memory_close(uffd_memory *memory) {
  if (memory != NULL) uffd_memory_drop(memory);
}

static uffd_memory *new_memory(uint32_t kind, uint64_t length, uint64_t page_size) {
  uffd_memory *memory = NEW(uffd_memory);
  if (memory == NULL) return NULL;
  memory->process = uffd_process();
  memory->kind = kind;
  memory->length = length;
  memory->page_size = page_size;
  memory->fd = -1;
  atomic_init(&memory->references, 1);
  return memory;
}

static int keep(char **place, void *mapped) {
  if (mapped == MAP_FAILED) return -errno;
  *place = mapped;
  return 0;
}

static int map_anonymous(uffd_memory *memory) {
  memory->private_mapping = true;
  return keep(&memory->address,
              mmap(NULL, memory->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
}

/* Reserves 2 MiB more than asked, and gives back what sticks out on both sides of the aligned part. */
static int map_thp(uffd_memory *memory) {
  memory->private_mapping = true;
  uint64_t reserved = memory->length + HUGE_PAGE;
  char *raw = mmap(NULL, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return -errno;
  char *aligned = (char *)round_up((uintptr_t)raw, HUGE_PAGE); /* NOLINT(performance-no-int-to-ptr) */
  uint64_t before = (uint64_t)(aligned - raw), after = reserved - before - memory->length;
  if (before != 0) munmap(raw, before);
  if (after != 0) munmap(aligned + memory->length, after);
  memory->address = aligned;
  madvise(aligned, memory->length, MADV_HUGEPAGE); /* a wish: a kernel without THP serves small pages */
  return 0;
}

static int map_memfd(uffd_memory *memory, const struct uffd_map_opts *opts) {
  unsigned flags = MFD_CLOEXEC | (memory->kind == UFFD_MEMORY_HUGETLB ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
  memory->fd = memfd_create(opts->name != NULL ? opts->name : "uffd", flags);
  if (memory->fd < 0) return -errno;
  if (ftruncate(memory->fd, (off_t)memory->length) != 0) return -errno;
  memory->private_mapping = (opts->flags & UFFD_MAP_PRIVATE) != 0;
  int served = memory->private_mapping ? MAP_PRIVATE : MAP_SHARED;
  /* as for anonymous memory; huge pages are reserved, or a fault may find none */
  if (memory->kind == UFFD_MEMORY_MEMFD) served |= MAP_NORESERVE;
  int result = keep(&memory->address, mmap(NULL, memory->length, PROT_READ | PROT_WRITE, served, memory->fd, 0));
  if (result < 0) return result;
  /* a private mapping has its own huge pages reserved: the alias must not ask for as many again */
  int alias = MAP_SHARED | (memory->private_mapping ? MAP_NORESERVE : 0);
  return keep(&memory->alias, mmap(NULL, memory->length, PROT_READ | PROT_WRITE, alias, memory->fd, 0));
}

static int keep_from_children(const uffd_memory *memory) {
  if (madvise(memory->address, memory->length, MADV_DONTFORK) != 0) return -errno;
  if (memory->alias != NULL && madvise(memory->alias, memory->length, MADV_DONTFORK) != 0) return -errno;
  return 0;
}

static uint64_t read_number(const char *path) {
  unsigned long count = 0;
  FILE *file = fopen(path, "re");
  if (file == NULL) return 0;
  if (fscanf(file, "%lu", &count) != 1) count = 0; /* NOLINT(cert-err34-c) */
  fclose(file);
  return count;
}

/* Free pages that are promised to other mappings are not to be had. */
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

  uint64_t page_size = opts.kind == UFFD_MEMORY_HUGETLB ? HUGE_PAGE : BASE_PAGE;
  uffd_memory *made = new_memory(opts.kind, round_up(length, page_size), page_size);
  if (made == NULL) return fail(ENOMEM, "No memory for a handle.");
  switch (opts.kind) {
  case UFFD_MEMORY_ANONYMOUS:
    result = map_anonymous(made);
    break;
  case UFFD_MEMORY_THP:
    result = map_thp(made);
    break;
  default:
    result = map_memfd(made, &opts);
    break;
  }
  if (result == 0 && (opts.flags & UFFD_MAP_FORK) == 0) result = keep_from_children(made);
  if (result < 0) {
    result = explain_map(-result, made);
    unmap(made);
    return result;
  }
  *memory = made;
  return 0;
}

/* What the mappings of a range have in common. */
struct survey {
  uint64_t page_size;
  bool anonymous; /* private, all of it */
};

static int explain_read(int error) {
  return fail(error, "Cannot read /proc/self/maps: %s.", strerror(error));
}

/* One more mapping of the range, at or above *at. */
static int survey_mapping(struct uffd_maps *maps, uint64_t start, uint64_t *at, struct survey *survey) {
  struct uffd_mapping mapping;
  int result = uffd_maps_find(maps, *at, &mapping);
  if (result == -ENOENT || (result == 0 && mapping.start > *at)) {
    return fail(EINVAL, "Nothing is mapped at 0x%" PRIx64 ": map all of the range before adopting it.", *at);
  }
  if (result < 0) return explain_read(-result);
  if (mapping.page_size == 0) mapping.page_size = BASE_PAGE; /* not told */
  if (*at == start) survey->page_size = mapping.page_size;
  if (mapping.page_size != survey->page_size) {
    return fail(EINVAL, "0x%" PRIx64 " has pages of %" PRIu64 " bytes, 0x%" PRIx64 " of %" PRIu64 ": adopt them apart.",
                start, survey->page_size, *at, mapping.page_size);
  }
  if (!uffd_mapping_is_anonymous(&mapping)) survey->anonymous = false;
  *at = mapping.end;
  return 0;
}

/* Walks the mappings of the range once: wholly mapped, one page size. */
static int survey_range(uint64_t start, uint64_t length, struct survey *survey) {
  struct uffd_maps maps;
  *survey = (struct survey){BASE_PAGE, .anonymous = true};
  int result = uffd_maps_open(&maps, false);
  if (result < 0) return explain_read(-result);
  for (uint64_t at = start; at < start + length && result == 0;) {
    result = survey_mapping(&maps, start, &at, survey);
  }
  uffd_maps_close(&maps);
  return result;
}

int uffd_memory_adopt(void *address, uint64_t length, uffd_memory **memory) {
  uint64_t start = (uintptr_t)address;
  struct survey survey;
  *memory = NULL;
  if (length == 0) return fail(EINVAL, "A memory of 0 bytes: give its length.");
  if (start + length < start)
    return fail(EINVAL, "0x%" PRIx64 " + %" PRIu64 " is beyond the address space.", start, length);
  int result = survey_range(start, length, &survey);
  if (result < 0) return result;
  if (start % survey.page_size != 0 || length % survey.page_size != 0) {
    return fail(EINVAL, "0x%" PRIx64 " + %" PRIu64 " is not whole pages of %" PRIu64 " bytes.", start, length,
                survey.page_size);
  }
  uffd_memory *made = new_memory(UFFD_MEMORY_ADOPTED, length, survey.page_size);
  if (made == NULL) return fail(ENOMEM, "No memory for a handle.");
  made->address = address;
  made->private_mapping = survey.anonymous;
  *memory = made;
  return 0;
}

static bool is_page_size(uint64_t size) {
  return size >= BASE_PAGE && size <= HUGE_PAGE && (size & (size - 1)) == 0;
}

static int check_foreign(uint64_t address, uint64_t length, const struct uffd_foreign_opts *opts) {
  if (length == 0) return fail(EINVAL, "A memory of 0 bytes: give its length.");
  if (address + length < address || address + length > LENGTH_MAX) {
    return fail(EINVAL, "0x%" PRIx64 " + %" PRIu64 " is beyond the address space.", address, length);
  }
  if (!is_page_size(opts->page_size)) {
    return fail(EINVAL, "Pages of %" PRIu64 " bytes: served are those of %" PRIu64 " bytes to 2 MiB, powers of two.",
                opts->page_size, BASE_PAGE);
  }
  if (address % opts->page_size != 0 || length % opts->page_size != 0) {
    return fail(EINVAL, "0x%" PRIx64 " + %" PRIu64 " is not whole pages of %" PRIu64 " bytes.", address, length,
                opts->page_size);
  }
  if (opts->pid < 0) return fail(EINVAL, "%d is no process: give 0 where it is not known.", opts->pid);
  if (opts->reserved != 0) return fail(EINVAL, "reserved is not 0.");
  return 0;
}

int uffd_memory_foreign(uint64_t address, uint64_t length, const struct uffd_foreign_opts *user_opts,
                        uffd_memory **memory) {
  struct uffd_foreign_opts opts = UFFD_FOREIGN_OPTS_INIT;
  *memory = NULL;
  int result = uffd_take_opts(&opts, sizeof(opts), user_opts, "uffd_foreign_opts");
  if (result < 0) return result;
  if (opts.page_size == 0) opts.page_size = BASE_PAGE;
  result = check_foreign(address, length, &opts);
  if (result < 0) return result;
  uffd_memory *made = new_memory(UFFD_MEMORY_FOREIGN, length, opts.page_size);
  if (made == NULL) return fail(ENOMEM, "No memory for a handle.");
  made->elsewhere = address;
  made->pid = opts.pid;
  *memory = made;
  return 0;
}

int uffd_memory_enter(const uffd_memory *memory) {
  if (memory == NULL) return fail(EBADF, "There is no memory: the handle is NULL.");
  if (memory->process != uffd_process()) return fail(EOWNERDEAD, "This memory belongs to the parent process.");
  return 0;
}

int uffd_memory_enter_own(const uffd_memory *memory) {
  int result = uffd_memory_enter(memory);
  if (result < 0 || memory->kind != UFFD_MEMORY_FOREIGN) return result;
  return fail(EOPNOTSUPP,
              "This memory lies in another process: it is served there, and not read or written from here.");
}

uint64_t uffd_memory_start(const uffd_memory *memory) {
  if (memory == NULL) return 0;
  return memory->kind == UFFD_MEMORY_FOREIGN ? memory->elsewhere : (uintptr_t)memory->address;
}
void *uffd_memory_address(const uffd_memory *memory) {
  return memory == NULL ? NULL : memory->address;
}
uint64_t uffd_memory_length(const uffd_memory *memory) {
  return memory == NULL ? 0 : memory->length;
}
uint64_t uffd_memory_page_size(const uffd_memory *memory) {
  return memory == NULL ? 0 : memory->page_size;
}
int uffd_memory_kind(const uffd_memory *memory) {
  return memory == NULL ? fail(EBADF, "There is no memory: the handle is NULL.") : (int)memory->kind;
}
void *uffd_memory_alias(const uffd_memory *memory) {
  return memory == NULL ? NULL : memory->alias;
}

int uffd_memory_fd(const uffd_memory *memory) {
  int result = uffd_memory_enter(memory);
  if (result < 0) return result;
  if (memory->fd < 0) return fail(ENOENT, "This memory has no memfd: map it with kind memfd or hugetlb.");
  return memory->fd;
}
