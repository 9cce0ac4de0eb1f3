/*
 * The handle of a memory: its life and its properties, and memory that somebody else has mapped (adopted, foreign).
 * Registers nothing.
 */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "memory/memory.h"

#define LENGTH_MAX (UINT64_C(1) << 47) /* x86-64 user space with four levels; the kernel has the last word */

void uffd_memory_hold(uffd_memory *memory) {
  atomic_fetch_add_explicit(&memory->references, 1, memory_order_relaxed);
}

/* Works on a half-made memory too. A forked child leaves mapped what it inherited. */
static void end(uffd_memory *memory) {
  if (memory->kind < UFFD_MEMORY_ADOPTED && memory->process == uffd_process()) uffd_places_unmap(memory);
  if (memory->fd >= 0) close(memory->fd);
  uffd_common_drop(memory->common);
  if (memory->places != &memory->whole)
    uffd_pages_unmap(memory->places, memory->places_capacity * sizeof(*memory->places));
  uffd_spans_unmap(&memory->served);
  pthread_mutex_destroy(&memory->lock);
  pthread_mutex_destroy(&memory->settling);
  DELETE(memory);
}

void uffd_memory_drop(uffd_memory *memory) {
  if (atomic_fetch_sub_explicit(&memory->references, 1, memory_order_acq_rel) == 1) end(memory);
}

void uffd_memory_close(uffd_memory *memory) {
  if (memory != NULL) uffd_memory_drop(memory);
}

uffd_memory *uffd_memory_new(uint32_t kind, uint64_t length, uint64_t page_size) {
  uffd_memory *memory = NEW(uffd_memory);
  if (memory == NULL) {
    fail(ENOMEM, "No memory for a handle.");
    return NULL;
  }
  memory->process = uffd_process();
  memory->kind = kind;
  memory->length = length;
  memory->page_size = page_size;
  memory->fd = -1;
  atomic_init(&memory->references, 1);
  pthread_mutex_init(&memory->lock, NULL);
  pthread_mutex_init(&memory->settling, NULL);
  uffd_places_init(memory, NULL);
  return memory;
}

/* What the mappings of a range have in common. */
struct survey {
  uint64_t page_size;
  bool anonymous; /* private, all of it */
};

static int explain_read(int error) {
  return fail(error, "Cannot read /proc/self/maps: %s.", strerror(error));
}

/* Adds a mapping of the range, at or above *at. */
static int survey_mapping(struct uffd_maps *maps, uint64_t start, uint64_t *at, struct survey *survey) {
  struct uffd_mapping mapping;
  int result = uffd_maps_find(maps, *at, &mapping);
  if (result == -ENOENT || (result == 0 && mapping.start > *at)) {
    return fail(EINVAL, "Nothing is mapped at 0x%" PRIx64 ": map all of the range before adopting it.", *at);
  }
  if (result < 0) return explain_read(-result);
  if (mapping.page_size == 0) mapping.page_size = BASE_PAGE; /* the kernel has not told it */
  if (*at == start) survey->page_size = mapping.page_size;
  if (mapping.page_size != survey->page_size) {
    return fail(EINVAL, "0x%" PRIx64 " has pages of %" PRIu64 " bytes, 0x%" PRIx64 " of %" PRIu64 ": adopt them apart.",
                start, survey->page_size, *at, mapping.page_size);
  }
  if (!uffd_mapping_is_anonymous(&mapping)) survey->anonymous = false;
  *at = mapping.end;
  return 0;
}

/* Looks at each mapping of the range once: the range must be mapped wholly, with one page size. */
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
  uffd_memory *made = uffd_memory_new(UFFD_MEMORY_ADOPTED, length, survey.page_size);
  if (made == NULL) return -ENOMEM;
  uffd_places_init(made, address);
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
  uffd_memory *made = uffd_memory_new(UFFD_MEMORY_FOREIGN, length, opts.page_size);
  if (made == NULL) return -ENOMEM;
  made->elsewhere = address;
  made->pid = opts.pid;
  *memory = made;
  return 0;
}

void uffd_memory_share(uffd_memory *memory, struct uffd_common *common, uint64_t offset) {
  uffd_common_hold(common);
  memory->common = common;
  memory->common_offset = offset;
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
  if (memory != NULL && memory->kind == UFFD_MEMORY_FOREIGN) return memory->elsewhere;
  return (uintptr_t)uffd_memory_address(memory);
}
void *uffd_memory_address(const uffd_memory *memory) {
  return memory == NULL ? NULL : atomic_load(&memory->start);
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
