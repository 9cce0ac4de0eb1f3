/*
 * How much of its signal stack a thread needs to answer its own faults, and who provides that stack.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#include "serving.h"

#define PAINTED (256 * UINT64_C(1024))
#define PAINT   0x5A

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NEEDS_USUAL_FRAMES() SKIP("a sanitizer's frames are larger")
#elif !defined(__OPTIMIZE__)
#define NEEDS_USUAL_FRAMES() SKIP("frames are larger without optimisation")
#else
#define NEEDS_USUAL_FRAMES() ((void)0)
#endif

/* Painting */

static unsigned char *stack;

static void paint(void) {
  if (stack == NULL) {
    stack = mmap(NULL, PAINTED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED);
  }
  const stack_t own = {.ss_sp = stack, .ss_size = PAINTED};
  CHECK(sigaltstack(&own, NULL) == 0);
  memset(stack, PAINT, PAINTED);
}

static uint64_t used(void) {
  uint64_t untouched = 0;
  while (untouched < PAINTED && stack[untouched] == PAINT) {
    untouched++;
  }
  return PAINTED - untouched;
}

static void nothing(int number) {
  (void)number;
}

/* What the kernel itself puts there, which depends on the processor. */
static uint64_t kernel_frame(void) {
  struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_ONSTACK};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  paint();
  CHECK(raise(SIGUSR1) == 0);
  return used();
}

/* Answers */

struct answering {
  const char *name;
  int memory;
  uint64_t pages, around, modes;
  uffd_resolver *(*make)(uint64_t length);
  unsigned char first; /* byte of the page that is touched */
  bool writes;         /* it is there, and protected */
  uint32_t on_error;
};

static uffd_resolver *zeros(uint64_t length) {
  uffd_resolver *resolver;
  (void)length;
  CHECK_OK(uffd_resolver_zero(&resolver));
  return resolver;
}

/* Every second page holds something: zeros are looked for, and runs of them take turns with others. */
static uffd_resolver *half_zeros(uint64_t length) {
  unsigned char *bytes = calloc(1, length);
  uffd_resolver *resolver;
  for (uint64_t at = 0; at < length; at += 2 * check_page()) {
    bytes[at] = 'A';
  }
  CHECK_OK(uffd_resolver_bytes(bytes, length, &resolver));
  free(bytes);
  return resolver;
}

static uffd_resolver *full(uint64_t length) {
  uffd_resolver *resolver;
  (void)length;
  CHECK_OK(uffd_resolver_pattern("A", 1, &resolver));
  return resolver;
}

/* Ends amid a page. */
static uffd_resolver *short_bytes(uint64_t length) {
  uffd_resolver *resolver;
  (void)length;
  CHECK_OK(uffd_resolver_bytes("ABCDEFG", 7, &resolver));
  return resolver;
}

static uffd_resolver *of_file(uint64_t length) {
  uffd_resolver *resolver;
  int fd = memfd_create("source", MFD_CLOEXEC);
  CHECK(fd >= 0 && ftruncate(fd, (off_t)length) == 0 && pwrite(fd, "A", 1, 0) == 1);
  CHECK_OK(uffd_resolver_file_fd(fd, NULL, &resolver));
  close(fd);
  return resolver;
}

/* As deep as resolvers may be nested. */
static uffd_resolver *nested(uint64_t length) {
  uffd_resolver *inner = full(length), *outer;
  for (;;) {
    const struct uffd_layer layer = {.length = length, .resolver = inner};
    if (uffd_resolver_layers(&layer, 1, &outer) < 0) return inner;
    uffd_resolver_close(inner);
    inner = outer;
  }
}

static uffd_resolver *in_page_cache(uint64_t length) {
  uffd_resolver *fill = full(length), *resolver;
  CHECK_OK(uffd_resolver_continue(fill, &resolver));
  uffd_resolver_close(fill);
  return resolver;
}

static int fill_page(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)fault;
  *answer = (struct uffd_answer){
      .kind = UFFD_ANSWER_BYTES, .offset = fault->offset, .length = fault->page_size, .data = asked->ctx};
  return 0;
}

static int put_off_once(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  if (atomic_load(&asked->hits) > 1) return fill_page(asked, fault, answer);
  answer->kind = UFFD_ANSWER_LATER;
  return 0;
}

static int fail_with_a_sentence(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked, (void)answer;
  return uffd_set_errmsg(EIO, "No page at offset %llu.", (unsigned long long)fault->offset);
}

static struct asked asked;

static uffd_resolver *calls_back(int (*answer)(struct asked *, const struct uffd_fault *, struct uffd_answer *)) {
  asked = (struct asked){.answer = answer, .ctx = check_pattern(check_page(), 1, 'A')};
  return asked_resolver(&asked);
}

static uffd_resolver *callback(uint64_t length) {
  (void)length;
  return calls_back(fill_page);
}

static uffd_resolver *deferred(uint64_t length) {
  (void)length;
  return calls_back(put_off_once);
}

static uffd_resolver *failing(uint64_t length) {
  (void)length;
  return calls_back(fail_with_a_sentence);
}

#define MIB (UINT64_C(1) << 20)
static const struct answering answers[] = {
    {.name = "zero", .memory = MEMORY_ANON, .pages = 8, .make = zeros},
    {.name = "bytes", .memory = MEMORY_ANON, .pages = 8, .make = full, .first = 'A'},
    {.name = "short bytes", .memory = MEMORY_ANON, .pages = 1, .make = short_bytes, .first = 'A'},
    {.name = "bulk", .memory = MEMORY_ANON, .pages = 1024, .around = MIB, .make = full, .first = 'A'},
    {.name = "bulk with zeros", .memory = MEMORY_ANON, .pages = 1024, .around = MIB, .make = half_zeros, .first = 'A'},
    {.name = "huge", .memory = MEMORY_THP, .pages = 2048, .around = 2 * MIB, .make = full, .first = 'A'},
    {.name = "huge with zeros",
     .memory = MEMORY_THP,
     .pages = 2048,
     .around = 2 * MIB,
     .make = half_zeros,
     .first = 'A'},
    {.name = "around auto", .memory = MEMORY_ANON, .pages = 64, .around = UFFD_AROUND_AUTO, .make = full, .first = 'A'},
    {.name = "file", .memory = MEMORY_ANON, .pages = 64, .make = of_file, .first = 'A'},
    {.name = "file, much of it", .memory = MEMORY_ANON, .pages = 1024, .around = MIB, .make = of_file, .first = 'A'},
    {.name = "nested", .memory = MEMORY_ANON, .pages = 8, .make = nested, .first = 'A'},
    {.name = "memfd", .memory = MEMORY_MEMFD, .pages = 8, .make = in_page_cache, .first = 'A'},
    {.name = "callback", .memory = MEMORY_ANON, .pages = 8, .make = callback, .first = 'A'},
    {.name = "deferred", .memory = MEMORY_ANON, .pages = 8, .make = deferred, .first = 'A'},
    {.name = "failing", .memory = MEMORY_ANON, .pages = 8, .make = failing, .on_error = UFFD_ON_ERROR_ZERO},
    {.name = "protected",
     .memory = MEMORY_ANON,
     .pages = 8,
     .modes = UFFD_MODE_MISSING | UFFD_MODE_WP,
     .make = full,
     .first = 'A',
     .writes = true},
};

/* before: called when all is ready but the fault. */
static void touch_once(const struct answering *answering, void (*before)(void)) {
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct uffd_region_opts region_opts = UFFD_REGION_OPTS_INIT;
  uffd_loop *loop;
  check_inline(&opts);
  CHECK_OK(uffd_loop_create(&opts, &loop));
  uffd_memory *memory = memory_make(answering->memory, answering->pages);
  region_opts.around = answering->around;
  region_opts.modes = answering->modes;
  region_opts.on_error = answering->on_error;
  region_add(loop, memory, answering->make(uffd_memory_length(memory)), &region_opts);
  volatile unsigned char *at = memory_at(memory, 0);
  if (answering->writes) (void)*at;
  before();
  if (answering->writes) *at = 'A';
  CHECK_EQ(*at, answering->first);
  CHECK_OK(uffd_loop_close(loop));
  uffd_memory_close(memory);
}

static void every_answer_keeps_within_what_is_promised(void) {
  NEEDS_USUAL_FRAMES();
  uint64_t frame = kernel_frame();
  for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
    touch_once(&answers[i], paint);
    uint64_t bytes = used() - frame;
    bool deep = answers[i].make == nested;
    printf("%s: %llu bytes\n", answers[i].name, (unsigned long long)bytes);
    CHECK(bytes > 0 && bytes <= (deep ? UFFD_SIGNAL_STACK_BYTES : 4096));
  }
}

/* Who gives a thread its stack */

static void no_preparation(void) {}

static stack_t present_stack(void) {
  stack_t now;
  CHECK(sigaltstack(NULL, &now) == 0);
  return now;
}

static void use_stack(void *at, size_t length) {
  const stack_t own = {.ss_sp = at, .ss_size = length, .ss_flags = at == NULL ? SS_DISABLE : 0};
  CHECK(sigaltstack(&own, NULL) == 0);
}

static void a_stack_that_is_too_small_is_replaced(void) {
  static const size_t small[] = {8192, 12288, 16384};
  unsigned char *area = mmap(NULL, PAINTED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(area != MAP_FAILED);
  for (size_t i = 0; i < sizeof(small) / sizeof(*small); i++) {
    memset(area, PAINT, PAINTED);
    use_stack(area + PAINTED - small[i], small[i]);
    CHECK_OK(uffd_signal_stack());
    CHECK(present_stack().ss_size >= UFFD_SIGNAL_STACK_BYTES + (size_t)sysconf(_SC_MINSIGSTKSZ));
    struct answering failing_one = {.memory = MEMORY_ANON, .pages = 8, .make = failing, .on_error = UFFD_ON_ERROR_ZERO};
    touch_once(&failing_one, no_preparation);
    CHECK(check_filled(area, PAINTED, PAINT));
  }
  use_stack(area, PAINTED); /* this one is large enough, and stays */
  CHECK_OK(uffd_signal_stack());
  CHECK(present_stack().ss_sp == area);
}

/* It has one for as long as it lives, whatever else it uses in between. */
static void a_stack_that_was_given_is_given_again(void) {
  use_stack(NULL, 0);
  CHECK_OK(uffd_signal_stack());
  void *given = present_stack().ss_sp;
  for (int i = 0; i < 100; i++) {
    static unsigned char own[8192];
    use_stack(i % 2 == 0 ? NULL : own, sizeof(own));
    CHECK_OK(uffd_signal_stack());
    CHECK(present_stack().ss_sp == given);
  }
}

static _Atomic int refused;

static void ask_on_the_stack(int number) {
  (void)number;
  atomic_store(&refused, uffd_signal_stack());
}

static void a_stack_is_not_replaced_under_a_handler(void) {
  struct sigaction action = {.sa_handler = ask_on_the_stack, .sa_flags = SA_ONSTACK};
  static unsigned char own[16384];
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  use_stack(own, sizeof(own));
  CHECK(raise(SIGUSR1) == 0);
  CHECK_EQ(atomic_load(&refused), -EPERM);
  CHECK(present_stack().ss_sp == own);
}

/* A thread that did not ask for one: it is told, and nothing is written below its stack */

static sigjmp_buf landing;
static unsigned char below[2 * 65536];

static void land(int number) {
  (void)number;
  siglongjmp(landing, 1);
}

static void a_stack_that_is_too_small_is_not_overrun(void) {
  NEEDS_USUAL_FRAMES();
  struct sigaction action = {.sa_handler = land, .sa_flags = SA_ONSTACK};
  CHECK(sigaction(SIGBUS, &action, NULL) == 0);
  uint64_t frame = kernel_frame();
  memset(below, PAINT, sizeof(below));
  int errors = dup(STDERR_FILENO), ends[2];
  CHECK(pipe(ends) == 0 && dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
  use_stack(below + 65536, frame + 2048);
  struct answering one = {.memory = MEMORY_ANON, .pages = 8, .make = full};
  bool landed = sigsetjmp(landing, 1) != 0;
  if (!landed) touch_once(&one, no_preparation);
  char text[512] = "";
  CHECK(dup2(errors, STDERR_FILENO) == STDERR_FILENO && read(ends[0], text, sizeof(text) - 1) > 0);
  CHECK(landed && strstr(text, "uffd_signal_stack()") != NULL);
  CHECK(check_filled(below, 65536, PAINT));
}

static const struct check_test tests[] = {
    TEST(every_answer_keeps_within_what_is_promised), TEST(a_stack_that_is_too_small_is_replaced),
    TEST(a_stack_that_was_given_is_given_again),      TEST(a_stack_is_not_replaced_under_a_handler),
    TEST(a_stack_that_is_too_small_is_not_overrun),
};

CHECK_MAIN(tests)
