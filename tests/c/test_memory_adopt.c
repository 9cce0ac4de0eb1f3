/* Adopting memory that somebody else has mapped: what may be adopted, what is refused, and that it really is served. */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "kernel/object.h"
#include "serving.h"

#define HUGE (UINT64_C(2) << 20)

static uint64_t page;

/* count pages, alone between inaccessible ones, so that neighbours do not merge. */
static unsigned char *map_pages(uint64_t count) {
  page = check_page();
  unsigned char *room = mmap(NULL, (count + 2) * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(room != MAP_FAILED);
  CHECK(mprotect(room + page, count * page, PROT_READ | PROT_WRITE) == 0);
  return room + page;
}

static bool is_mapped(const void *address) {
  struct uffd_mapping mapping;
  return uffd_find_mapping(CHECK_ADDRESS(address), &mapping) == 0;
}

static void check_adopted(void *address, uint64_t length, uint64_t page_size) {
  uffd_memory *memory = NULL;
  CHECK_OK(uffd_memory_adopt(address, length, &memory));
  CHECK(uffd_memory_address(memory) == address);
  CHECK_EQ(uffd_memory_length(memory), length);
  CHECK_EQ(uffd_memory_page_size(memory), page_size);
  CHECK_EQ(uffd_memory_kind(memory), UFFD_MEMORY_ADOPTED);
  CHECK_ERR(uffd_memory_fd(memory), -ENOENT);
  CHECK(uffd_memory_alias(memory) == NULL);
  uffd_memory_close(memory);
  CHECK(is_mapped(address)); /* it was not ours to unmap */
  CHECK(is_mapped((char *)address + length - 1));
}

static void refuse(void *address, uint64_t length, const char *words) {
  uffd_memory *memory = (uffd_memory *)&page;
  CHECK_ERR(uffd_memory_adopt(address, length, &memory), -EINVAL);
  CHECK_SAYS(words);
  CHECK(memory == NULL);
}

static void all_or_part_of_a_mapping(void) {
  unsigned char *pages = map_pages(5);
  check_adopted(pages, 5 * page, page);
  check_adopted(pages, page, page);
  check_adopted(pages + page, 3 * page, page);
  check_adopted(pages + 4 * page, page, page);
}

static void several_mappings(void) {
  unsigned char *pages = map_pages(6);
  CHECK(mprotect(pages + page, page, PROT_READ) == 0);
  CHECK(mprotect(pages + 3 * page, page, PROT_NONE) == 0);
  int fd = memfd_create("check", MFD_CLOEXEC);
  CHECK(ftruncate(fd, (off_t)page) == 0);
  CHECK(mmap(pages + 4 * page, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED);
  check_adopted(pages, 6 * page, page);
  check_adopted(pages + page, 4 * page, page);
}

static void every_place_of_a_hole_is_refused(void) {
  unsigned char *pages = map_pages(5);
  munmap(pages - page, page);
  munmap(pages + 5 * page, page);
  munmap(pages + 2 * page, page);
  refuse(pages, 3 * page, "Nothing is mapped at");
  refuse(pages, 5 * page, "Nothing is mapped at");
  refuse(pages + 2 * page, page, "Nothing is mapped at");
  refuse(pages + 2 * page, 2 * page, "Nothing is mapped at");
  refuse(pages - page, 2 * page, "Nothing is mapped at");
  refuse(pages + 3 * page, 3 * page, "Nothing is mapped at");
  char address[64];
  snprintf(address, sizeof(address), "%p", (void *)(pages + 2 * page));
  refuse(pages, 5 * page, address);
  check_adopted(pages, 2 * page, page);
  check_adopted(pages + 3 * page, 2 * page, page);
}

static void ranges_that_cannot_be(void) {
  unsigned char *pages = map_pages(4);
  refuse(pages, 0, "0 bytes");
  refuse(pages + 1, page, "whole pages");
  refuse(pages, page + 1, "whole pages");
  refuse(pages, page - 1, "whole pages");
  refuse(pages + page - 1, page, "whole pages");
  refuse(pages, UINT64_MAX, "beyond the address space");
  refuse(pages, UINT64_MAX - CHECK_ADDRESS(pages) + 1, "beyond the address space"); /* ends at 2^64 */
  refuse(pages, UINT64_MAX - CHECK_ADDRESS(pages) + 1 - page, "Nothing is mapped at");
  refuse(NULL, page, "Nothing is mapped at");
}

static void huge_pages_are_adopted_whole(void) {
  check_hugepages(4);
  struct check_area area = check_map(CHECK_HUGETLB, 2);
  check_adopted(area.at, 2 * HUGE, HUGE);
  check_adopted(area.at + HUGE, HUGE, HUGE);
  refuse(area.at, check_page(), "2097152");
  refuse(area.at + check_page(), HUGE, "2097152");
  refuse(area.at, HUGE + check_page(), "2097152");
  /* small pages right behind: two sizes in one range */
  unsigned char *behind =
      mmap(area.at + 2 * HUGE, check_page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  CHECK(behind == area.at + 2 * HUGE);
  refuse(area.at, 2 * HUGE + check_page(), "adopt them apart");
  CHECK_SAYS("4096");
}

/* Faults in every mapping of it are answered; a region counts offsets from its start. */
static void several_mappings_are_served_as_one(void) {
  unsigned char *pages = map_pages(6);
  int fd = memfd_create("check", MFD_CLOEXEC);
  CHECK(ftruncate(fd, (off_t)(2 * page)) == 0);
  CHECK(mmap(pages + 2 * page, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED);
  CHECK(mprotect(pages + 5 * page, page, PROT_READ) == 0);
  uffd_memory *memory = NULL;
  CHECK_OK(uffd_memory_adopt(pages, 6 * page, &memory));
  struct uffd_region_opts opts = UFFD_REGION_OPTS_INIT;
  opts.around = 6 * page; /* an answer that spans the borders */
  struct serving serving;
  serving_open(&serving, ENGINE_ONE, NULL);
  region_add(serving.loop, memory, image_resolver(6 * page), &opts);
  CHECK(image_there(pages + 5 * page, 5 * page, page));
  CHECK(image_there(pages, 0, 6 * page));
  serving_close(&serving);
  CHECK(image_there(pages, 0, 6 * page));
  uffd_memory_close(memory);
  CHECK(image_there(pages, 0, 6 * page));
}

static void refuse_move(void *address, uint64_t length) {
  uffd_memory *memory = NULL;
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_memory_adopt(address, length, &memory));
  CHECK_ERR(uffd_resolver_move(memory, 0, &resolver), -EINVAL);
  CHECK_SAYS("private anonymous");
  CHECK(resolver == NULL);
  CHECK_OK(uffd_resolver_memory(memory, 0, &resolver)); /* which copies, and so takes all */
  uffd_resolver_close(resolver);
  uffd_memory_close(memory);
}

/* Pages move out of private anonymous memory only: all of it must be. */
static void what_is_anonymous_is_seen(void) {
  unsigned char *pages = map_pages(4);
  int fd = memfd_create("check", MFD_CLOEXEC);
  CHECK(ftruncate(fd, (off_t)(4 * page)) == 0);
  uffd_memory *memory = NULL;
  uffd_resolver *resolver = NULL;
  CHECK_OK(uffd_memory_adopt(pages, 4 * page, &memory));
  CHECK_OK(uffd_resolver_move(memory, 0, &resolver));
  uffd_resolver_close(resolver);
  uffd_memory_close(memory);
  CHECK(mmap(pages + page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, 0) != MAP_FAILED);
  refuse_move(pages + page, page);
  refuse_move(pages, 4 * page);
  CHECK(mmap(pages + page, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
  refuse_move(pages, 2 * page);
}

/* read(2) calls of this process so far. */
static uint64_t count_reads(void) {
  unsigned long long reads = 0;
  char line[128];
  FILE *file = fopen("/proc/self/io", "re");
  if (file == NULL) SKIP("no /proc/self/io (CONFIG_TASK_IO_ACCOUNTING)");
  while (fgets(line, sizeof(line), file) != NULL && sscanf(line, "syscr: %llu", &reads) != 1) {
  }
  fclose(file);
  return reads;
}

#define MAPPINGS 4000

/* Neighbours have different protections. */
static unsigned char *map_many(void) {
  unsigned char *pages = map_pages(MAPPINGS);
  for (uint64_t i = 0; i < MAPPINGS; i += 2) {
    CHECK(mprotect(pages + i * page, page, PROT_READ) == 0);
  }
  return pages;
}

/* The file of mappings is read once at most: 4000 times would be 4000 times as long, which is seconds. */
static void many_mappings_are_looked_at_once(void) {
  unsigned char *pages = map_many();
  uffd_memory *memory = NULL;
  uint64_t before = count_reads();
  CHECK_OK(uffd_memory_adopt(pages, MAPPINGS * page, &memory));
  CHECK(count_reads() - before < 2 * MAPPINGS);
  uffd_memory_close(memory);
}

static void many_mappings_are_explained_at_once(void) {
  uffd_object *object = check_open(0);
  unsigned char *pages = map_many();
  int program = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  struct statfs where;
  CHECK_EQ(fstatfs(program, &where), 0);
  if (where.f_type == TMPFS_MAGIC) SKIP("the program lies in a tmpfs, whose files can be served");
  CHECK(mmap(pages + (MAPPINGS - 1) * page, page, PROT_READ, MAP_PRIVATE | MAP_FIXED, program, 0) != MAP_FAILED);
  uint64_t before = count_reads();
  CHECK_ERR(uffd_register(object, CHECK_ADDRESS(pages), MAPPINGS * page, UFFD_MODE_MISSING, NULL), -EINVAL);
  CHECK_SAYS("ordinary file");
  CHECK(count_reads() - before < 2 * MAPPINGS);
  uffd_close(object);
}

static const struct check_test tests[] = {
    TEST(all_or_part_of_a_mapping),         TEST(several_mappings),
    TEST(many_mappings_are_looked_at_once), TEST(many_mappings_are_explained_at_once),
    TEST(every_place_of_a_hole_is_refused), TEST(ranges_that_cannot_be),
    TEST(huge_pages_are_adopted_whole),     TEST(several_mappings_are_served_as_one),
    TEST(what_is_anonymous_is_seen),
};
CHECK_MAIN(tests)
