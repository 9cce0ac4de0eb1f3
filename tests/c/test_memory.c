/* Mapping memories: every kind and flag, what each promises, and every way in which mapping is refused. */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "kernel/object.h"

#define HUGE       (UINT64_C(2) << 20)
#define POOL(file) "/sys/kernel/mm/hugepages/hugepages-2048kB/" file

static const struct kind {
  const char *name;
  uint32_t kind, flags;
} kinds[] = {
    {"anonymous", UFFD_MEMORY_ANONYMOUS, 0}, {"thp", UFFD_MEMORY_THP, 0},
    {"memfd", UFFD_MEMORY_MEMFD, 0},         {"memfd private", UFFD_MEMORY_MEMFD, UFFD_MAP_PRIVATE},
    {"hugetlb", UFFD_MEMORY_HUGETLB, 0},     {"hugetlb private", UFFD_MEMORY_HUGETLB, UFFD_MAP_PRIVATE},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static bool is_huge(const struct kind *kind) {
  return kind->kind == UFFD_MEMORY_HUGETLB;
}

static bool has_fd(const struct kind *kind) {
  return kind->kind == UFFD_MEMORY_MEMFD || kind->kind == UFFD_MEMORY_HUGETLB;
}

static uffd_memory *map(const struct kind *kind, uint32_t more_flags, uint64_t length) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  opts.kind = kind->kind;
  opts.flags = kind->flags | more_flags;
  uffd_memory *memory = NULL;
  CHECK_OK(uffd_map(length, &opts, &memory));
  return memory;
}

static unsigned char *at(const uffd_memory *memory) {
  return uffd_memory_address(memory);
}

static bool is_mapped(const void *address) {
  struct uffd_mapping mapping;
  return uffd_find_mapping(CHECK_ADDRESS(address), &mapping) == 0;
}

static bool has_flag(const void *address, const char *flag) {
  struct uffd_mapping mapping;
  CHECK_EQ(uffd_find_mapping(CHECK_ADDRESS(address), &mapping), 0);
  return uffd_mapping_has(&mapping, flag);
}

/*
 * Runs for every kind that can be had here. Huge pages are lent for it; without them the kind is left out with a
 * message.
 */
static void each_kind(void (*test)(const struct kind *kind), uint64_t hugepages) {
  for (size_t i = 0; i < KINDS; i++) {
    if (is_huge(&kinds[i]) && !check_is_root() && check_number(POOL("free_hugepages")) < hugepages) {
      printf("  %s left out: no free huge pages\n", kinds[i].name);
      continue;
    }
    if (is_huge(&kinds[i])) check_hugepages(hugepages);
    test(&kinds[i]);
  }
}

/* What each kind is */

static void check_rounding(const struct kind *kind) {
  uint64_t page = is_huge(kind) ? HUGE : check_page();
  const uint64_t lengths[][2] = {{1, 1}, {page - 1, 1}, {page, 1}, {page + 1, 2}, {2 * page - 1, 2}, {3 * page, 3}};
  for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
    uffd_memory *memory = map(kind, 0, lengths[i][0]);
    CHECK_EQ(uffd_memory_length(memory), lengths[i][1] * page);
    CHECK_EQ(uffd_memory_page_size(memory), page);
    CHECK_EQ(uffd_memory_kind(memory), kind->kind);
    uint64_t alignment = kind->kind == UFFD_MEMORY_THP ? HUGE : page;
    CHECK_EQ(CHECK_ADDRESS(at(memory)) % alignment, 0);
    unsigned char *first = at(memory), *last = first + uffd_memory_length(memory) - 1;
    CHECK(check_filled(first, uffd_memory_length(memory), 0));
    *first = 1;
    *last = 2;
    uffd_memory_close(memory);
    CHECK(!is_mapped(first));
    CHECK(!is_mapped(last));
  }
}

static void lengths_are_rounded_up_to_whole_pages(void) {
  each_kind(check_rounding, 3);
}

static void check_descriptor(const struct kind *kind) {
  uffd_memory *memory = map(kind, 0, 1);
  if (!has_fd(kind)) {
    CHECK_ERR(uffd_memory_fd(memory), -ENOENT);
    CHECK_SAYS("memfd");
    CHECK(uffd_memory_alias(memory) == NULL);
  } else {
    int fd = CHECK_OK(uffd_memory_fd(memory));
    CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK_EQ(lseek(fd, 0, SEEK_END), uffd_memory_length(memory));
    unsigned char *alias = uffd_memory_alias(memory);
    CHECK(alias != NULL && alias != at(memory) && is_mapped(alias));
    uffd_memory_close(memory);
    CHECK(!is_mapped(alias));
    CHECK_EQ(fcntl(fd, F_GETFD), -1);
    return;
  }
  uffd_memory_close(memory);
}

static void only_memfds_have_a_descriptor_and_an_alias(void) {
  each_kind(check_descriptor, 1);
}

static void check_alias(const struct kind *kind) {
  if (!has_fd(kind)) return;
  uffd_memory *memory = map(kind, 0, 2);
  unsigned char *served = at(memory), *alias = uffd_memory_alias(memory), byte = 0;
  uint64_t last = uffd_memory_length(memory) - 1;
  alias[0] = 11;
  alias[last] = 12;
  CHECK_EQ(served[0], 11);
  CHECK_EQ(served[last], 12);
  served[1] = 13;
  bool shared = (kind->flags & UFFD_MAP_PRIVATE) == 0;
  CHECK_EQ(alias[1], shared ? 13 : 0);
  CHECK_EQ(pread(uffd_memory_fd(memory), &byte, 1, 1), 1);
  CHECK_EQ(byte, shared ? 13 : 0);
  CHECK_EQ(served[0], 11); /* the private copy kept the rest of the page */
  uffd_memory_close(memory);
}

static void the_alias_shows_the_same_bytes_but_for_private_writes(void) {
  each_kind(check_alias, 3);
}

static void thp_memory_asks_for_huge_pages(void) {
  uffd_memory *memory = map(&kinds[1], 0, 3 * HUGE);
  CHECK(has_flag(at(memory), "hg"));
  CHECK_EQ(CHECK_ADDRESS(at(memory)) % HUGE, 0);
  /* what was reserved to find an aligned place was given back: just these 6 MiB are mapped so */
  struct uffd_mapping mapping;
  CHECK_EQ(uffd_find_mapping(CHECK_ADDRESS(at(memory)), &mapping), 0);
  CHECK_EQ(mapping.end - mapping.start, 3 * HUGE);
  uffd_memory_close(memory);
}

static void private_flag_is_idle_on_anonymous_memory(void) {
  uffd_memory *memory = map(&kinds[0], UFFD_MAP_PRIVATE, 1);
  *at(memory) = 1;
  uffd_memory_close(memory);
}

static void names_are_seen_in_maps(void) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  opts.kind = UFFD_MEMORY_MEMFD;
  struct uffd_mapping mapping;
  char longest[250];
  memset(longest, 'n', sizeof(longest) - 1);
  longest[sizeof(longest) - 1] = '\0';
  const char *const names[] = {NULL, "clone-7", "", longest};
  for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
    opts.name = names[i];
    uffd_memory *memory = NULL;
    CHECK_OK(uffd_map(1, &opts, &memory));
    CHECK_EQ(uffd_find_mapping(CHECK_ADDRESS(at(memory)), &mapping), 0);
    char expected[300];
    snprintf(expected, sizeof(expected), "/memfd:%s", names[i] != NULL ? names[i] : "uffd");
    size_t length = strlen(expected);
    if (length >= sizeof(mapping.name)) length = sizeof(mapping.name) - 1;
    CHECK(strncmp(mapping.name, expected, length) == 0);
    uffd_memory_close(memory);
  }
  char too_long[251];
  memset(too_long, 'n', sizeof(too_long) - 1);
  too_long[sizeof(too_long) - 1] = '\0';
  opts.name = too_long;
  uffd_memory *memory = NULL;
  CHECK_ERR(uffd_map(1, &opts, &memory), -EINVAL);
  CHECK_SAYS("249");
  opts.kind = UFFD_MEMORY_HUGETLB;
  CHECK_ERR(uffd_map(1, &opts, &memory), -EINVAL);
  CHECK(memory == NULL);
}

/* Children of fork */

struct inheritance {
  unsigned char *served, *alias;
  uffd_memory *memory;
  bool inherits;
};

static void look_as_child(void *ctx) {
  const struct inheritance *inheritance = ctx;
  unsigned value = 0;
  CHECK_EQ(check_access(inheritance->served, false, &value), inheritance->inherits ? 0 : SIGSEGV);
  if (inheritance->inherits) CHECK_EQ(value, 42);
  if (inheritance->alias != NULL) {
    CHECK_EQ(check_access(inheritance->alias, false, NULL), inheritance->inherits ? 0 : SIGSEGV);
  }
  char byte;
  CHECK_ERR(uffd_memory_read(inheritance->memory, 0, &byte, 1), -EOWNERDEAD);
  CHECK_ERR(uffd_memory_write(inheritance->memory, 0, &byte, 1), -EOWNERDEAD);
  CHECK_ERR(uffd_memory_fd(inheritance->memory), -EOWNERDEAD);
  uffd_resolver *resolver = NULL;
  CHECK_ERR(uffd_resolver_memory(inheritance->memory, 0, &resolver), -EOWNERDEAD);
  CHECK(resolver == NULL);
  uffd_memory_close(inheritance->memory);
  CHECK_EQ(check_access(inheritance->served, false, NULL), inheritance->inherits ? 0 : SIGSEGV);
}

static void check_inheritance(const struct kind *kind) {
  for (int inherits = 0; inherits < 2; inherits++) {
    uffd_memory *memory = map(kind, inherits ? UFFD_MAP_FORK : 0, 2);
    struct inheritance inheritance = {at(memory), uffd_memory_alias(memory), memory, inherits};
    *at(memory) = 42;
    CHECK_EQ(has_flag(at(memory), "dc"), !inherits);
    check_in_child(look_as_child, &inheritance);
    CHECK_EQ(*at(memory), 42); /* the child's close was its own */
    uffd_memory_close(memory);
  }
}

static void children_inherit_only_what_is_mapped_with_fork(void) {
  each_kind(check_inheritance, 4);
}

/* Refusals */

static void huge_pages_that_are_not_there_are_counted_in_the_sentence(void) {
  if (check_is_root()) check_hugepages(4);
  uint64_t total = check_number(POOL("nr_hugepages")), free = check_number(POOL("free_hugepages"));
  uint64_t available = free - check_number(POOL("resv_hugepages"));
  uffd_memory *taken = NULL, *memory = NULL;
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  opts.kind = UFFD_MEMORY_HUGETLB;
  if (available > 1) { /* promised to a mapping, though still free */
    CHECK_OK(uffd_map((available - 1) * HUGE, &opts, &taken));
    available = 1;
  }
  int fds = open("/dev/null", O_RDONLY | O_CLOEXEC);
  for (int flags = 0; flags <= UFFD_MAP_PRIVATE; flags += UFFD_MAP_PRIVATE) {
    opts.flags = (uint32_t)flags;
    CHECK_ERR(uffd_map((available + 3) * HUGE, &opts, &memory), -ENOMEM);
    CHECK(memory == NULL);
    char words[128];
    snprintf(words, sizeof(words), "%llu of 2 MiB needed, %llu free", (unsigned long long)available + 3,
             (unsigned long long)available);
    CHECK_SAYS(words);
    snprintf(words, sizeof(words), "echo %llu > /proc/sys/vm/nr_hugepages", (unsigned long long)total + 3);
    CHECK_SAYS(words);
  }
  int next = open("/dev/null", O_RDONLY | O_CLOEXEC);
  CHECK_EQ(next, fds + 1); /* no memfd was left behind */
  close(next);
  close(fds);
  uffd_memory_close(taken);
}

static void descriptors_exhausted(void) {
  struct rlimit limit, before;
  CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
  int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  limit = (struct rlimit){(rlim_t)fd + 1, before.rlim_max};
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_memory *memory = NULL;
  for (uint32_t kind = UFFD_MEMORY_MEMFD; kind <= UFFD_MEMORY_HUGETLB; kind++) {
    opts.kind = kind;
    CHECK_ERR(uffd_map(1, &opts, &memory), -EMFILE);
    CHECK_SAYS("RLIMIT_NOFILE");
  }
  CHECK_OK(uffd_map(1, NULL, &memory)); /* needs none */
  CHECK(setrlimit(RLIMIT_NOFILE, &before) == 0);
  uffd_memory_close(memory);
}

static void lengths_that_cannot_be(void) {
  static const uint64_t lengths[] = {0,
                                     UINT64_MAX,
                                     UINT64_MAX - 1,
                                     UINT64_MAX - 4095,
                                     UINT64_MAX - 4096,
                                     UINT64_MAX - (HUGE - 1),
                                     UINT64_C(1) << 63,
                                     (UINT64_C(1) << 47) + 1};
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_memory *memory = NULL;
  for (uint32_t kind = 0; kind <= UFFD_MEMORY_HUGETLB; kind++) {
    opts.kind = kind;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
      CHECK_ERR(uffd_map(lengths[i], &opts, &memory), -EINVAL);
      CHECK_SAYS(lengths[i] == 0 ? "0 bytes" : "address space");
      CHECK(memory == NULL);
    }
    CHECK_ERR(uffd_map(UINT64_C(1) << 47, &opts, &memory), -ENOMEM);
  }
}

static void a_tebibyte_costs_nothing_until_it_is_touched(void) {
  if (check_number("/proc/sys/vm/overcommit_memory") == 2) SKIP("vm.overcommit_memory is 2: mappings are promised");
  uint64_t length = UINT64_C(1) << 40;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  length = UINT64_C(1) << 36; /* sanitizers keep a shadow */
#endif
  for (size_t i = 0; i < 4; i++) {
    uffd_memory *memory = map(&kinds[i], 0, length);
    at(memory)[0] = 1;
    at(memory)[length - 1] = 2;
    CHECK_EQ(at(memory)[0] + at(memory)[length - 1], 3);
    uffd_memory_close(memory);
  }
}

static void options_that_are_unknown(void) {
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  uffd_memory *memory = (uffd_memory *)&opts;
  opts.kind = UFFD_MEMORY_ADOPTED;
  CHECK_ERR(uffd_map(1, &opts, &memory), -EINVAL);
  CHECK_SAYS("kind");
  CHECK(memory == NULL);
  opts.kind = UINT32_MAX;
  CHECK_ERR(uffd_map(1, &opts, &memory), -EINVAL);
  opts.kind = UFFD_MEMORY_ANONYMOUS;
  for (unsigned bit = 2; bit < 32; bit++) {
    opts.flags = UINT32_C(1) << bit;
    CHECK_ERR(uffd_map(1, &opts, &memory), -EINVAL);
    CHECK_SAYS("flag");
  }
  opts.flags = 0;
  opts.size = 0;
  CHECK_ERR(uffd_map(1, &opts, &memory), -EINVAL);
  CHECK_SAYS("uffd_map_opts");
  struct {
    struct uffd_map_opts known;
    uint64_t newer;
  } tail = {UFFD_MAP_OPTS_INIT, 0};
  tail.known.size = sizeof(tail);
  CHECK_OK(uffd_map(1, &tail.known, &memory));
  uffd_memory_close(memory);
  tail.newer = 1;
  CHECK_ERR(uffd_map(1, &tail.known, &memory), -EINVAL);
  CHECK_SAYS("newer");
}

static void closing_nothing_is_allowed(void) {
  uffd_memory_close(NULL);
}

static const struct check_test tests[] = {
    TEST(lengths_are_rounded_up_to_whole_pages),
    TEST(only_memfds_have_a_descriptor_and_an_alias),
    TEST(the_alias_shows_the_same_bytes_but_for_private_writes),
    TEST(thp_memory_asks_for_huge_pages),
    TEST(private_flag_is_idle_on_anonymous_memory),
    TEST(names_are_seen_in_maps),
    TEST(children_inherit_only_what_is_mapped_with_fork),
    TEST(huge_pages_that_are_not_there_are_counted_in_the_sentence),
    TEST(descriptors_exhausted),
    TEST(lengths_that_cannot_be),
    TEST(a_tebibyte_costs_nothing_until_it_is_touched),
    TEST(options_that_are_unknown),
    TEST(closing_nothing_is_allowed),
};
CHECK_MAIN(tests)
