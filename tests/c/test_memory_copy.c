/*
 * uffd_memory_read() and _write(): bounds, and every page that cannot simply be copied: poisoned, missing, protected,
 * gone; served by a loop, by an object of the caller's, or by nobody; where the kernel may take faults and where not.
 */
#define _GNU_SOURCE
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "serving.h"

#define HUGE (UINT64_C(2) << 20)

static uffd_memory *map(uint64_t length) {
  uffd_memory *memory = NULL;
  CHECK_OK(uffd_map(length, NULL, &memory));
  return memory;
}

static uint64_t page_of(const uffd_memory *memory) {
  return uffd_memory_page_size(memory);
}

/* Bounds */

static void every_edge_of_a_memory(void) {
  uint64_t page = check_page(), length = 3 * page;
  uffd_memory *memory = map(length);
  unsigned char *at = memory_at(memory, 0), *image = image_make(length), *buffer = calloc(1, length + 1);
  const uint64_t edges[] = {0, 1, page - 1, page, page + 1, 2 * page, length - 1, length};
  const size_t count = sizeof(edges) / sizeof(edges[0]);
  for (size_t i = 0; i < count; i++) {
    for (size_t j = i; j < count; j++) {
      uint64_t from = edges[i], size = edges[j] - edges[i];
      memset(at, 0, length);
      memset(buffer, 0xff, length + 1);
      CHECK_EQ(uffd_memory_write(memory, from, image + from, size), 0);
      for (uint64_t b = 0; b < length; b++)
        if (at[b] != (b >= from && b < from + size ? image[b] : 0)) CHECK_EQ(b, UINT64_MAX);
      CHECK_EQ(uffd_memory_read(memory, from, buffer, size), 0);
      CHECK(memcmp(buffer, image + from, size) == 0);
      CHECK_EQ(buffer[size], 0xff);
    }
  }
  free(buffer);
  munmap(image, length);
  uffd_memory_close(memory);
}

static void outside_is_refused_and_nothing_copied(void) {
  uint64_t page = check_page(), length = 2 * page;
  uffd_memory *memory = map(length);
  unsigned char *buffer = malloc(length + 1);
  memset(buffer, 1, length + 1);
  const uint64_t ranges[][2] = {
      {0, length + 1},
      {1, length},
      {length, 1},
      {length + 1, 0},
      {length + 1, 1},
      {UINT64_MAX, 1},
      {UINT64_MAX, 0},
      {1, UINT64_MAX},
      {UINT64_MAX, UINT64_MAX},
      {length - 1, 2},
      {0, UINT64_MAX},
      {page, UINT64_MAX - page + 1},
      {UINT64_C(1) << 63, UINT64_C(1) << 63},
  };
  for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
    CHECK_ERR(uffd_memory_read(memory, ranges[i][0], buffer, ranges[i][1]), -ERANGE);
    CHECK_SAYS("outside a memory of 8192 bytes");
    CHECK_ERR(uffd_memory_write(memory, ranges[i][0], buffer, ranges[i][1]), -ERANGE);
  }
  CHECK(check_filled(memory_at(memory, 0), length, 0));
  CHECK(check_filled(buffer, length + 1, 1));
  CHECK_EQ(uffd_memory_read(memory, length, buffer, 0), 0);
  CHECK_EQ(uffd_memory_write(memory, 0, NULL, 0), 0);
  free(buffer);
  uffd_memory_close(memory);
}

static void large_copies_come_in_parts(void) {
  uint64_t length = (UINT64_C(9) << 20) + 4096;
  uffd_memory *memory = map(length);
  unsigned char *image = image_make(length);
  CHECK_EQ(uffd_memory_write(memory, 0, image, length), 0);
  CHECK(memcmp(memory_at(memory, 0), image, length) == 0);
  memset(image, 0, length);
  CHECK_EQ(uffd_memory_read(memory, 0, image, length), 0);
  CHECK(memcmp(memory_at(memory, 0), image, length) == 0);
  munmap(image, length);
  uffd_memory_close(memory);
}

/* Pages that cannot be had */

static void a_bad_buffer_is_not_taken_for_a_bad_page(void) {
  uint64_t page = check_page();
  uffd_memory *memory = map(4 * page);
  unsigned char *room = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mprotect(room + page, page, PROT_NONE) == 0);
  CHECK_ERR(uffd_memory_read(memory, 0, room + page, 1), -EFAULT);
  CHECK_SAYS("buffer");
  CHECK_ERR(uffd_memory_write(memory, 0, room + page, 1), -EFAULT);
  CHECK_SAYS("buffer");
  CHECK_ERR(uffd_memory_read(memory, 0, NULL, page), -EFAULT);
  CHECK_SAYS("buffer");
  /* what comes before the bad page is copied */
  memset(room, 7, page);
  CHECK_ERR(uffd_memory_write(memory, page, room, 2 * page), -EFAULT);
  CHECK_SAYS("buffer");
  CHECK(check_filled(memory_at(memory, page), page, 7));
  CHECK(check_filled(memory_at(memory, 2 * page), page, 0));
  uffd_memory_close(memory);
}

static void protected_and_unmapped_pages(void) {
  uint64_t page = check_page();
  struct check_area area = check_map(CHECK_ANON, 4);
  unsigned char buffer[2 * 4096] = {0};
  uffd_memory *memory = NULL;
  CHECK_OK(uffd_memory_adopt(area.at, area.length, &memory));
  memset(area.at, 5, area.length);
  CHECK(mprotect(area.at + page, page, PROT_NONE) == 0);
  CHECK_ERR(uffd_memory_read(memory, page, buffer, 1), -EFAULT);
  CHECK_SAYS("page at offset 4096");
  CHECK_ERR(uffd_memory_write(memory, page + 1, buffer, 1), -EFAULT);
  CHECK_ERR(uffd_memory_read(memory, 0, buffer, 2 * page), -EFAULT);
  CHECK(check_filled(buffer, page, 5)); /* the page before it was copied */
  CHECK(check_filled(buffer + page, page, 0));
  CHECK(mprotect(area.at + page, page, PROT_READ) == 0);
  CHECK_EQ(uffd_memory_read(memory, page, buffer, page), 0);
  CHECK_ERR(uffd_memory_write(memory, page, buffer, page), -EFAULT);
  munmap(area.at + 2 * page, page);
  CHECK_ERR(uffd_memory_read(memory, 2 * page, buffer, page), -EFAULT);
  CHECK_ERR(uffd_memory_write(memory, 2 * page, buffer, page), -EFAULT);
  CHECK_EQ(uffd_memory_read(memory, 3 * page, buffer, page), 0);
  uffd_memory_close(memory);
}

static void a_truncated_memfd_is_an_error(void) {
  uint64_t page = check_page();
  struct uffd_map_opts opts = UFFD_MAP_OPTS_INIT;
  opts.kind = UFFD_MEMORY_MEMFD;
  for (opts.flags = 0; opts.flags <= UFFD_MAP_PRIVATE; opts.flags += UFFD_MAP_PRIVATE) {
    uffd_memory *memory = NULL;
    unsigned char byte = 9;
    CHECK_OK(uffd_map(3 * page, &opts, &memory));
    CHECK(ftruncate(uffd_memory_fd(memory), (off_t)page + 1) == 0);
    CHECK_EQ(uffd_memory_write(memory, 2 * page - 1, &byte, 1), 0);
    CHECK_ERR(uffd_memory_read(memory, 2 * page, &byte, 1), -EFAULT);
    CHECK_SAYS("page at offset 8192");
    CHECK_ERR(uffd_memory_write(memory, 2 * page, &byte, 1), -EFAULT);
    uffd_memory_close(memory);
  }
}

/* Poison */

static struct serving serve(uffd_memory *memory, uffd_resolver *resolver, uint32_t open_flags) {
  struct serving serving;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  opts.open_flags = open_flags;
  serving_open(&serving, ENGINE_ONE, &opts);
  region_add(serving.loop, memory, resolver, NULL);
  return serving;
}

/* The image, but its second page is poison. */
static uffd_resolver *image_with_poison(uint64_t page, uint64_t pages) {
  uffd_resolver *image = image_resolver(page * pages), *poison = NULL, *layers = NULL;
  CHECK_OK(uffd_resolver_poison(&poison));
  const struct uffd_layer layer[] = {{0, 0, image, 0}, {page, page, poison, 0}};
  CHECK_OK(uffd_resolver_layers(layer, 2, &layers));
  uffd_resolver_close(image);
  uffd_resolver_close(poison);
  return layers;
}

static void check_poisoned(uffd_memory *memory, unsigned char *buffer) {
  uint64_t page = page_of(memory);
  char words[64];
  snprintf(words, sizeof(words), "page at offset %llu is poisoned", (unsigned long long)page);
  memset(buffer, 0, 3 * page);
  CHECK_ERR(uffd_memory_read(memory, 0, buffer, 3 * page), -EHWPOISON);
  CHECK_SAYS(words);
  CHECK(image_there(buffer, 0, page)); /* the page before it was copied */
  CHECK_EQ(buffer[page], 0);
  CHECK_ERR(uffd_memory_read(memory, 2 * page - 1, buffer, 1), -EHWPOISON);
  CHECK_SAYS(words);
  CHECK_ERR(uffd_memory_write(memory, page, buffer, 1), -EHWPOISON);
  CHECK_EQ(uffd_memory_read(memory, 2 * page, buffer, page), 0);
  CHECK(image_there(buffer, 2 * page, page));
}

/* In every kind of memory, while it is served and after, when nobody is there to be asked. */
static void poisoned_pages_in(int kind, uint32_t open_flags) {
  check_needs(UFFD_FEAT_POISON);
  uffd_memory *memory = memory_make(kind, 3);
  uint64_t page = page_of(memory);
  unsigned char *buffer = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct serving serving = serve(memory, image_with_poison(page, 3), open_flags);
  check_poisoned(memory, buffer);
  serving_close(&serving);
  check_poisoned(memory, buffer);
  CHECK_EQ(madvise(memory_at(memory, page), page, MADV_DONTNEED), 0); /* heals it */
  CHECK_EQ(uffd_memory_read(memory, page, buffer, page), 0);
  CHECK(check_filled(buffer, page, 0));
  uffd_memory_close(memory);
}

static void poisoned_pages(void) {
  for (int kind = 0; kind < MEMORY_KINDS; kind++) {
    if (kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_PRIVATE) continue;
    poisoned_pages_in(kind, 0);
    poisoned_pages_in(kind, UFFD_OPEN_USER_MODE_ONLY);
  }
}

static void poisoned_huge_pages(void) {
  check_hugepages(8);
  for (int kind = MEMORY_HUGETLB; kind <= MEMORY_HUGETLB_PRIVATE; kind++) {
    poisoned_pages_in(kind, 0);
    poisoned_pages_in(kind, UFFD_OPEN_USER_MODE_ONLY);
  }
}

static void a_poisoned_buffer_is_named_as_such(void) {
  check_needs(UFFD_FEAT_POISON);
  uint64_t page = check_page();
  uffd_memory *memory = map(3 * page), *other = map(page);
  struct serving serving = serve(memory, image_with_poison(page, 3), 0);
  CHECK_EQ(check_access(memory_at(memory, page), false, NULL), SIGBUS);
  CHECK_ERR(uffd_memory_read(other, 0, memory_at(memory, page), page), -EHWPOISON);
  CHECK_SAYS("buffer");
  CHECK_ERR(uffd_memory_write(other, 0, memory_at(memory, page), page), -EHWPOISON);
  CHECK_SAYS("buffer");
  serving_close(&serving);
  uffd_memory_close(memory);
  uffd_memory_close(other);
}

/* An object of the caller's, which another thread serves */

struct server {
  uffd_object *object;
  struct check_thread thread;
  int stop; /* eventfd */
  uint64_t page;
  bool poisons;
  _Atomic unsigned missing, wp;
};

static void answer(struct server *server, const struct uffd_event *event) {
  static unsigned char bytes[2 << 20];
  uint64_t start = event->address / server->page * server->page;
  if ((event->flags & UFFD_FAULT_WP) != 0) {
    atomic_fetch_add(&server->wp, 1);
    CHECK_OK(uffd_writeprotect(server->object, start, server->page, 0));
    return;
  }
  atomic_fetch_add(&server->missing, 1);
  memset(bytes, 0x5a, server->page);
  int result = server->poisons ? uffd_poison(server->object, start, server->page, 0, NULL)
                               : uffd_copy(server->object, start, bytes, server->page, 0, NULL);
  if (result != -EEXIST) CHECK_OK(result);
}

static void run_server(void *ctx) {
  struct server *server = ctx;
  struct pollfd polls[] = {{.fd = server->stop, .events = POLLIN}, {.fd = uffd_fd(server->object), .events = POLLIN}};
  for (;;) {
    CHECK(poll(polls, 2, -1) > 0);
    if (polls[0].revents != 0) return;
    struct uffd_event event;
    int count = uffd_read(server->object, &event, 1, 0);
    if (count == -EAGAIN) continue;
    CHECK_OK(count);
    answer(server, &event);
  }
}

static void start_server(struct server *server, uffd_memory *memory, uint32_t flags, uint64_t modes) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.flags = flags;
  server->page = page_of(memory);
  server->stop = eventfd(0, EFD_CLOEXEC);
  CHECK_OK(uffd_open(&opts, &server->object));
  CHECK_OK(uffd_register(server->object, CHECK_ADDRESS(memory_at(memory, 0)), uffd_memory_length(memory), modes, NULL));
  check_thread_start(&server->thread, run_server, server);
}

static void stop_server(struct server *server) {
  CHECK(eventfd_write(server->stop, 1) == 0);
  check_thread_join(&server->thread);
  uffd_close(server->object);
  close(server->stop);
}

static void served_by_an_object(int kind, uint32_t flags) {
  uffd_memory *memory = memory_make(kind, 4);
  uint64_t page = page_of(memory);
  unsigned char *buffer = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  struct server server = {0};
  start_server(&server, memory, flags, UFFD_MODE_MISSING);
  CHECK_EQ(uffd_memory_read(memory, page / 2, buffer, 2 * page), 0);
  CHECK(check_filled(buffer, 2 * page, 0x5a));
  CHECK_EQ(server.missing, 3);
  memset(buffer, 0x11, page);
  CHECK_EQ(uffd_memory_write(memory, 4 * page - 1, buffer, 1), 0);
  CHECK_EQ(*memory_at(memory, 4 * page - 1), 0x11);
  CHECK_EQ(*memory_at(memory, 4 * page - 2), 0x5a); /* the rest is what the server gave */
  CHECK_EQ(server.missing, 4);
  stop_server(&server);
  uffd_memory_close(memory);
}

static void served_by_an_object_of_the_callers(void) {
  uffd_object *object = check_open(0);
  check_needs_kernel_faults(object);
  uffd_close(object);
  served_by_an_object(MEMORY_ANON, 0);
  served_by_an_object(MEMORY_MEMFD, 0);
}

static void served_by_a_user_mode_only_object(void) {
  check_needs(0);
  served_by_an_object(MEMORY_ANON, UFFD_OPEN_USER_MODE_ONLY);
  served_by_an_object(MEMORY_THP, UFFD_OPEN_USER_MODE_ONLY);
  served_by_an_object(MEMORY_MEMFD, UFFD_OPEN_USER_MODE_ONLY);
  served_by_an_object(MEMORY_MEMFD_PRIVATE, UFFD_OPEN_USER_MODE_ONLY);
}

static void huge_pages_served_by_an_object(void) {
  check_hugepages(16);
  served_by_an_object(MEMORY_HUGETLB, UFFD_OPEN_USER_MODE_ONLY);
  served_by_an_object(MEMORY_HUGETLB_PRIVATE, UFFD_OPEN_USER_MODE_ONLY);
}

/* The server answers poison: the access that asks for the page must not kill the process. */
static void an_object_that_answers_with_poison(void) {
  check_needs(UFFD_FEAT_POISON);
  for (uint32_t flags = 0; flags <= UFFD_OPEN_USER_MODE_ONLY; flags += UFFD_OPEN_USER_MODE_ONLY) {
    uffd_memory *memory = map(2 * check_page());
    struct server server = {.poisons = true};
    unsigned char byte = 0;
    start_server(&server, memory, flags, UFFD_MODE_MISSING);
    CHECK_ERR(uffd_memory_read(memory, 1, &byte, 1), -EHWPOISON);
    CHECK_ERR(uffd_memory_write(memory, check_page() + 1, &byte, 1), -EHWPOISON);
    CHECK_ERR(uffd_memory_read(memory, check_page() + 1, &byte, 1), -EHWPOISON);
    CHECK_EQ(server.missing, 2);
    stop_server(&server);
    uffd_memory_close(memory);
  }
}

/* A page that is there, but protected, is neither missing nor poisoned. */
static void a_write_to_a_protected_page_of_an_object(void) {
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP);
  for (uint32_t flags = 0; flags <= UFFD_OPEN_USER_MODE_ONLY; flags += UFFD_OPEN_USER_MODE_ONLY) {
    uffd_memory *memory = map(2 * check_page());
    unsigned char *at = memory_at(memory, 0), bytes[] = {0xa5, 0x3c};
    struct server server = {0};
    memset(at, 1, 2 * check_page());
    start_server(&server, memory, flags, UFFD_MODE_MISSING | UFFD_MODE_WP);
    CHECK_OK(uffd_writeprotect(server.object, CHECK_ADDRESS(at), 2 * check_page(), UFFD_WRITEPROTECT_WP));
    CHECK_EQ(uffd_memory_read(memory, 0, bytes, 1), 0);
    CHECK_EQ(server.wp, 0);
    bytes[0] = 0xa5;
    CHECK_EQ(uffd_memory_write(memory, check_page() - 1, bytes, 2), 0); /* across both pages */
    CHECK_EQ(server.wp, 2);
    CHECK_EQ(at[check_page() - 1], 0xa5);
    CHECK_EQ(at[check_page()], 0x3c);
    CHECK_EQ(at[check_page() - 2] + at[check_page() + 1], 2);
    stop_server(&server);
    uffd_memory_close(memory);
  }
}

/* Loops whose objects are USER_MODE_ONLY: the loop is asked */

static void a_user_mode_only_loop_brings_pages_in(void) {
  check_needs(0);
  for (int kind = 0; kind < MEMORY_KINDS; kind++) {
    if (kind == MEMORY_HUGETLB || kind == MEMORY_HUGETLB_PRIVATE) continue;
    uffd_memory *memory = memory_make(kind, 5);
    uint64_t page = page_of(memory);
    unsigned char *buffer = malloc(5 * page);
    struct serving serving = serve(memory, image_resolver(5 * page), UFFD_OPEN_USER_MODE_ONLY);
    CHECK_EQ(uffd_loop_user_mode_only(serving.loop), 1);
    CHECK_EQ(uffd_memory_write(memory, page + 1, "x", 1), 0);
    CHECK(image_there(memory_at(memory, page + 2), page + 2, page - 2));
    CHECK_EQ(*memory_at(memory, page + 1), 'x');
    CHECK_EQ(uffd_memory_read(memory, page + 2, buffer, 3 * page), 0);
    CHECK(image_there(buffer, page + 2, 3 * page));
    CHECK_EQ(serving_stats(serving.loop).copied, 4);
    serving_close(&serving);
    free(buffer);
    uffd_memory_close(memory);
  }
}

/* Both sides are served, by loops that the kernel may not ask. */
static void from_served_memory_into_served_memory(void) {
  check_needs(0);
  uint64_t page = check_page();
  uffd_memory *from = map(4 * page), *to = map(4 * page);
  struct serving a = serve(from, image_resolver(4 * page), UFFD_OPEN_USER_MODE_ONLY);
  struct serving b = serve(to, image_resolver(4 * page), UFFD_OPEN_USER_MODE_ONLY);
  CHECK_EQ(uffd_memory_read(from, page, memory_at(to, page + 5), page), 0);
  CHECK_EQ(uffd_memory_write(to, 3 * page, memory_at(from, 3 * page + 1), page - 1), 0);
  CHECK(image_there(memory_at(to, page), page, 5));
  CHECK(memcmp(memory_at(to, page + 5), memory_at(from, page), page) == 0);
  CHECK(memcmp(memory_at(to, 3 * page), memory_at(from, 3 * page + 1), page - 1) == 0);
  serving_close(&a);
  serving_close(&b);
  uffd_memory_close(from);
  uffd_memory_close(to);
}

static int answer_by_reading(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  static _Thread_local unsigned char bytes[4096];
  int result = uffd_memory_read(asked->ctx, fault->offset, bytes, sizeof(bytes));
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = bytes;
  return result;
}

/* A callback reads memory that another loop serves, while somebody waits for that callback in the same way. */
static void a_callback_reads_what_another_loop_serves(void) {
  check_needs(0);
  uint64_t page = check_page();
  uffd_memory *source = map(8 * page), *memory = map(8 * page);
  struct asked asked = {.answer = answer_by_reading, .ctx = source};
  struct serving inner = serve(source, image_resolver(8 * page), UFFD_OPEN_USER_MODE_ONLY);
  struct serving outer = serve(memory, asked_resolver(&asked), UFFD_OPEN_USER_MODE_ONLY);
  unsigned char *buffer = malloc(8 * page);
  CHECK_EQ(uffd_memory_read(memory, 0, buffer, 8 * page), 0);
  CHECK(image_there(buffer, 0, 8 * page));
  CHECK_EQ(asked.hits, 8);
  serving_close(&outer);
  serving_close(&inner);
  free(buffer);
  uffd_memory_close(memory);
  uffd_memory_close(source);
}

static int answer_by_reading_itself(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  unsigned char byte;
  (void)answer;
  uint64_t other = fault->offset == 0 ? fault->page_size : 0;
  return uffd_memory_read(asked->ctx, other, &byte, 1);
}

static void a_callback_that_reads_its_own_memory_is_refused(void) {
  check_needs(UFFD_FEAT_POISON);
  uffd_memory *memory = map(2 * check_page());
  struct asked asked = {.answer = answer_by_reading_itself, .ctx = memory};
  struct serving serving = serve(memory, asked_resolver(&asked), UFFD_OPEN_USER_MODE_ONLY);
  unsigned char byte;
  CHECK_ERR(uffd_memory_read(memory, 0, &byte, 1), -EHWPOISON);
  char text[256];
  CHECK_EQ(uffd_loop_error(serving.loop, text, sizeof(text)), EDEADLK);
  CHECK(strstr(text, "callback") != NULL);
  serving_close(&serving);
  uffd_memory_close(memory);
}

/* A caller that drives a pump may read what it serves, and other threads may while it drives. */
static void a_user_mode_only_pump_brings_pages_in(void) {
  check_needs(0);
  uint64_t page = check_page();
  uffd_memory *memory = map(4 * page);
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct serving serving;
  unsigned char *buffer = malloc(2 * page);
  opts.open_flags = UFFD_OPEN_USER_MODE_ONLY;
  serving_open(&serving, ENGINE_PUMP, &opts);
  region_add(serving.loop, memory, image_resolver(4 * page), NULL);
  CHECK_EQ(uffd_memory_read(memory, 0, buffer, 2 * page), 0);
  CHECK(image_there(buffer, 0, 2 * page));
  serving_start(&serving); /* another thread drives from here on */
  CHECK_EQ(uffd_memory_read(memory, 2 * page, buffer, 2 * page), 0);
  CHECK(image_there(buffer, 2 * page, 2 * page));
  serving_close(&serving);
  free(buffer);
  uffd_memory_close(memory);
}

#ifdef UFFD_BARRIERS
struct reading {
  uffd_memory *memory;
  unsigned char *buffer;
  int result;
};

static void read_all(void *ctx) {
  struct reading *reading = ctx;
  reading->result = uffd_memory_read(reading->memory, 0, reading->buffer, uffd_memory_length(reading->memory));
}

static bool has_handler(void) {
  DIR *tasks = opendir("/proc/self/task");
  CHECK(tasks != NULL);
  bool found = false;
  for (struct dirent *entry; !found && (entry = readdir(tasks)) != NULL;) {
    char path[300], name[16] = "";
    snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    found = read(fd, name, sizeof(name) - 1) > 0 && strncmp(name, "uffd/", 5) == 0;
    close(fd);
  }
  closedir(tasks);
  return found;
}

static void close_loop(void *ctx) {
  CHECK_OK(uffd_loop_close(ctx));
}

/* Held just before it asks the handler, who is gone by the time that it does; inline, before it asks the resolver. */
static void a_loop_that_closes_lets_readers_go(void) {
  check_needs(0);
  uint64_t page = check_page();
  uffd_memory *memory = map(3 * page);
  struct reading reading = {memory, malloc(3 * page), -1};
  struct serving serving = serve(memory, image_resolver(3 * page), UFFD_OPEN_USER_MODE_ONLY);
  struct check_thread reader, closer;
  CHECK_EQ(*memory_at(memory, 0), image_byte(0)); /* the others stay missing */
  const char *place = serving_inline() ? "asking" : "posting";
  check_barrier_hold(place);
  check_thread_start(&reader, read_all, &reading);
  check_barrier_await(place);
  check_thread_start(&closer, close_loop, serving.loop);
  while (has_handler())
    check_pause();
  while (serving_inline() && memory_has(memory, page, "um")) /* registered */
    check_pause();
  CHECK(!atomic_load(&closer.done)); /* it waits for the reader */
  check_barrier_release(place);
  check_thread_join(&closer);
  check_thread_join(&reader);
  CHECK_EQ(reading.result, 0);
  CHECK(image_there(reading.buffer, 0, page));
  CHECK(check_filled(reading.buffer + page, 2 * page, 0));
  free(reading.buffer);
  uffd_memory_close(memory);
}
#endif

/* A filter that forbids process_vm_readv and process_vm_writev */

static void forbid_process_vm(unsigned error) {
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 1, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) SKIP("no seccomp here");
  char a = 0, b = 0;
  struct iovec local = {&a, 1}, remote = {&b, 1};
  CHECK_EQ(syscall(SYS_process_vm_readv, getpid(), &local, 1L, &remote, 1L, 0L), -1);
  CHECK_EQ(errno, error);
}

static void behind_a_filter(unsigned error) {
  forbid_process_vm(error);
  every_edge_of_a_memory();
  large_copies_come_in_parts();
  a_bad_buffer_is_not_taken_for_a_bad_page();
  protected_and_unmapped_pages();
  a_truncated_memfd_is_an_error();
  poisoned_pages();
  served_by_a_user_mode_only_object();
  an_object_that_answers_with_poison();
  a_write_to_a_protected_page_of_an_object();
  a_user_mode_only_loop_brings_pages_in();
  from_served_memory_into_served_memory();
}

static void behind_a_filter_that_says_eperm(void) {
  behind_a_filter(EPERM);
}

static void behind_a_filter_that_says_enosys(void) {
  behind_a_filter(ENOSYS);
}

static const struct check_test tests[] = {
    TEST(every_edge_of_a_memory),
    TEST(outside_is_refused_and_nothing_copied),
    TEST(large_copies_come_in_parts),
    TEST(a_bad_buffer_is_not_taken_for_a_bad_page),
    TEST(protected_and_unmapped_pages),
    TEST(a_truncated_memfd_is_an_error),
    TEST(poisoned_pages),
    TEST(poisoned_huge_pages),
    TEST(a_poisoned_buffer_is_named_as_such),
    TEST(served_by_an_object_of_the_callers),
    TEST(served_by_a_user_mode_only_object),
    TEST(huge_pages_served_by_an_object),
    TEST(an_object_that_answers_with_poison),
    TEST(a_write_to_a_protected_page_of_an_object),
    TEST(a_user_mode_only_loop_brings_pages_in),
    TEST(from_served_memory_into_served_memory),
    TEST(a_callback_reads_what_another_loop_serves),
    TEST(a_callback_that_reads_its_own_memory_is_refused),
    TEST(a_user_mode_only_pump_brings_pages_in),
#ifdef UFFD_BARRIERS
    TEST(a_loop_that_closes_lets_readers_go),
#endif
    TEST(behind_a_filter_that_says_eperm),
    TEST(behind_a_filter_that_says_enosys),
};
CHECK_MAIN(tests)
