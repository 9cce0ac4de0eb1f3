/*
 * What the errno of an ioctl on a page means: each row of the table is provoked, and pages that can neither be filled
 * nor poisoned leave nobody asleep.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "kernel/verdict.h"
#include "passing.h"
#include "serving.h"

/* ---- each row, provoked */

static uffd_object *object;

static struct check_area registered(int kind, uint64_t count, uint64_t modes) {
  struct check_area area = check_map(kind, count);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, modes, NULL));
  return area;
}

/* The operation on page index of the area; source: readable, unless it is NULL. */
static int run(uint32_t op, int fd, uint64_t at, uint64_t page, const void *source) {
  uint64_t done;
  if (op == UFFD_PROTECT) return uffd_raw_writeprotect(fd, at, page, UFFD_WRITEPROTECT_WP);
  return uffd_fill(fd, (enum uffd_fill_op)op, at, CHECK_ADDRESS(source), page, 0, &done);
}

static struct check_area source_area(void) {
  struct check_area area = check_map(CHECK_ANON, 4);
  memset(area.at, 7, area.length);
  return area;
}

static void drop_first_page(void *ctx) {
  CHECK(madvise(ctx, check_page(), MADV_DONTNEED) == 0);
}

/* EAGAIN: an event waits to be read. */
static int unread_event(uint32_t op) {
  uint64_t modes = op == UFFD_FILL_CONTINUE ? UFFD_MODE_MISSING | UFFD_MODE_MINOR : UFFD_MODE_MISSING | UFFD_MODE_WP;
  object = check_open(UFFD_FEAT_EVENT_REMOVE);
  struct check_area area = registered(op == UFFD_FILL_CONTINUE ? CHECK_SHMEM : CHECK_ANON, 4, modes);
  struct check_area source = source_area();
  struct check_thread thread;
  struct uffd_event event;
  check_thread_start(&thread, drop_first_page, area.at);
  check_asleep(thread.tid, "userfault");
  int result = run(op, uffd_fd(object), CHECK_ADDRESS(area.at) + area.page, area.page, source.at);
  CHECK_EQ(uffd_read(object, &event, 1, -1), 1);
  check_thread_join(&thread);
  return result;
}

/* EEXIST: the page is there. */
static int there_already(uint32_t op) {
  object = check_open(0);
  struct check_area area =
      registered(op == UFFD_FILL_CONTINUE ? CHECK_SHMEM : CHECK_ANON, 1,
                 op == UFFD_FILL_CONTINUE ? UFFD_MODE_MISSING | UFFD_MODE_MINOR : (uint64_t)UFFD_MODE_MISSING);
  struct check_area source = source_area();
  CHECK_EQ(run(UFFD_FILL_COPY, uffd_fd(object), CHECK_ADDRESS(area.at), area.page, source.at), 0);
  return run(op, uffd_fd(object), CHECK_ADDRESS(area.at), area.page, source.at + area.page);
}

/* ESRCH: whose address space it was has ended. */
static int nobody_there(uint32_t op) {
  int sockets[2];
  uint64_t address = 0;
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets) == 0);
  pid_t child = fork();
  if (child == 0) {
    object = check_open(0);
    struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_MISSING);
    address = CHECK_ADDRESS(area.at);
    passing_send(sockets[1], uffd_fd(object), &address, sizeof(address));
    _exit(0);
  }
  int fd = passing_receive(sockets[0], &address, sizeof(address));
  check_child(child);
  struct check_area source = source_area();
  return run(op, fd, address, check_page(), source.at);
}

/* ENOENT: nothing is registered there any more. */
static int not_registered(uint32_t op) {
  object = check_open(0);
  struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_MISSING), source = source_area();
  CHECK_OK(uffd_unregister(object, CHECK_ADDRESS(area.at), area.length));
  return run(op, uffd_fd(object), CHECK_ADDRESS(area.at), area.page, source.at);
}

/* EFAULT of CONTINUE: a page that the page cache does not have. */
static int not_cached(uint32_t op) {
  object = check_open(0);
  struct check_area area = registered(CHECK_SHMEM, 2, UFFD_MODE_MISSING | UFFD_MODE_MINOR);
  return run(op, uffd_fd(object), CHECK_ADDRESS(area.at), area.page, NULL);
}

/* A page that its file does not reach to any more. */
static int beyond_the_end(uint32_t op) {
  object = check_open(0);
  struct check_area area = registered(CHECK_SHMEM, 2, UFFD_MODE_MISSING | UFFD_MODE_MINOR), source = source_area();
  CHECK(ftruncate(area.fd, (off_t)area.page) == 0);
  return run(op, uffd_fd(object), CHECK_ADDRESS(area.at) + area.page, area.page, source.at);
}

/* EBUSY of MOVE: a page that another process has too. */
static int shared_page(uint32_t op) {
  int ends[2];
  char byte;
  object = check_open(0);
  struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_MISSING), source = source_area();
  CHECK(pipe(ends) == 0);
  pid_t child = fork();
  if (child == 0) _exit(read(ends[0], &byte, 1) == 1 ? 0 : 1);
  int result = run(op, uffd_fd(object), CHECK_ADDRESS(area.at), area.page, source.at);
  CHECK(write(ends[1], "x", 1) == 1);
  check_child(child);
  return result;
}

/* EINVAL of MOVE: the source is not private. */
static int not_private(uint32_t op) {
  object = check_open(0);
  struct check_area area = registered(CHECK_ANON, 1, UFFD_MODE_MISSING), source = check_map(CHECK_SHMEM, 1);
  memset(source.at, 1, source.length);
  return run(op, uffd_fd(object), CHECK_ADDRESS(area.at), area.page, source.at);
}

static const struct {
  int error;
  uint32_t ops;
  int (*provoke)(uint32_t op);
} provocations[] = {
    {EAGAIN, ~0u, unread_event},
    {EEXIST, ~0u, there_already},
    {ESRCH, ~0u, nobody_there},
    {ENOENT, ~0u, not_registered},
    {EFAULT, 1u << UFFD_FILL_CONTINUE, not_cached},
    {EINVAL, 1u << UFFD_FILL_CONTINUE, beyond_the_end},
    {EFAULT, 1u << UFFD_FILL_COPY | 1u << UFFD_FILL_ZEROPAGE | 1u << UFFD_FILL_POISON, beyond_the_end},
    {EBUSY, 1u << UFFD_FILL_MOVE, shared_page},
    {EINVAL, 1u << UFFD_FILL_MOVE, not_private},
};

static bool is_offered(uint32_t op) {
  uint64_t needs = op == UFFD_FILL_POISON ? UFFD_FEAT_POISON : op == UFFD_FILL_MOVE ? UFFD_FEAT_MOVE : 0;
  return (uffd_kernel_features() & needs) == needs;
}

/* How this kernel says EXPECTED beyond the end of a file: EINVAL since 6.18, EFAULT before. Both have a row. */
static bool is_same(int result, int error, uint32_t op) {
  return result == -error || (op == UFFD_FILL_CONTINUE && error == EINVAL && result == -EFAULT);
}

static void provoke(const struct uffd_ruling *ruling, uint32_t op) {
  if (ruling->error == ENOMEM) return; /* memory of the whole machine would have to run out */
  for (size_t i = 0; i < sizeof(provocations) / sizeof(provocations[0]); i++) {
    if (provocations[i].error != ruling->error || (provocations[i].ops & 1u << op) == 0) continue;
    object = NULL;
    int result = provocations[i].provoke(op);
    uffd_close(object);
    if (!is_same(result, ruling->error, op)) {
      fprintf(stderr, "operation %u: %s (%s)\n", op, strerror(-result), ruling->why);
      CHECK_EQ(result, -ruling->error);
    }
    CHECK_EQ(uffd_verdict(op, ruling->error, check_page(), true), ruling->verdict);
    return;
  }
  fprintf(stderr, "operation %u, %s: no provocation\n", op, strerror(ruling->error));
  CHECK(false);
}

static void each_row_is_what_the_kernel_says(void) {
  size_t count;
  const struct uffd_ruling *rulings = uffd_rulings(&count);
  for (size_t i = 0; i < count; i++) {
    for (uint32_t op = 0; op <= UFFD_PROTECT; op++) {
      if ((rulings[i].ops & 1u << op) != 0 && is_offered(op)) provoke(&rulings[i], op);
    }
  }
}

/* An errno that is in no row is never deferred: nobody waits for what does not come. */
static void all_else_never_heals(void) {
  size_t count;
  const struct uffd_ruling *rulings = uffd_rulings(&count);
  for (int error = 1; error < 134; error++) {
    for (uint32_t op = 0; op <= UFFD_PROTECT; op++) {
      bool known = false;
      for (size_t i = 0; i < count; i++) {
        known = known || (rulings[i].error == error && (rulings[i].ops & 1u << op) != 0);
      }
      if (!known) CHECK_EQ(uffd_verdict(op, error, check_page(), true), UFFD_VERDICT_NEVER);
    }
  }
  CHECK_EQ(uffd_verdict(UFFD_FILL_COPY, EFAULT, check_page(), false), UFFD_VERDICT_NEVER); /* the source is to blame */
  CHECK_EQ(uffd_verdict(UFFD_FILL_COPY, ENOMEM, UINT64_C(2) << 20, true), UFFD_VERDICT_NEVER);
}

/* ---- H5: the owner shortens the file while a fault is answered */

static uffd_memory *shrinking;

static int shrink(struct asked *asked, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)asked;
  CHECK(ftruncate(uffd_memory_fd(shrinking), (off_t)fault->page_size) == 0);
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = image_make(fault->page_size);
  return 0;
}

static void shrink_under(int kind, uint32_t on_error, bool write, int engine) {
  struct serving serving;
  struct uffd_loop_opts opts = UFFD_LOOP_OPTS_INIT;
  struct asked asked = {.answer = shrink};
  opts.on_error = on_error;
  serving_open(&serving, engine, &opts);
  shrinking = memory_make(kind, 4);
  region_add(serving.loop, shrinking, asked_resolver(&asked), NULL);
  serving_start(&serving);
  uint64_t page = uffd_memory_page_size(shrinking);
  CHECK_EQ(check_access(memory_at(shrinking, 2 * page), write, NULL), SIGBUS);
  char byte;
  CHECK_ERR(uffd_memory_read(shrinking, 3 * page, &byte, 1), -EFAULT);
  CHECK_EQ(uffd_loop_error(serving.loop, NULL, 0), 0); /* nothing has failed: the page is no more */
  serving_close(&serving);
  uffd_memory_close(shrinking);
}

static void beyond_the_end_nobody_sleeps(void) {
  const int kinds[] = {MEMORY_MEMFD, MEMORY_MEMFD_PRIVATE};
  for (uint32_t on_error = UFFD_ON_ERROR_ZERO; on_error <= UFFD_ON_ERROR_RETRY; on_error++) {
    if (on_error == UFFD_ON_ERROR_RETRY && serving_inline()) continue; /* refused there */
    for (int i = 0; i < 4; i++) {
      shrink_under(kinds[i % 2], on_error, i / 2 == 1, i == 3 ? ENGINE_PUMP : ENGINE_ONE);
    }
  }
}

static void beyond_the_end_of_huge_pages_nobody_sleeps(void) {
  shrink_under(MEMORY_HUGETLB, UFFD_ON_ERROR_POISON, false, ENGINE_ONE);
  shrink_under(MEMORY_HUGETLB, UFFD_ON_ERROR_ZERO, true, ENGINE_ONE); /* private ones can be filled there */
}

static const struct check_test tests[] = {
    TEST(each_row_is_what_the_kernel_says),
    TEST(all_else_never_heals),
    TEST(beyond_the_end_nobody_sleeps),
    TEST(beyond_the_end_of_huge_pages_nobody_sleeps),
};
CHECK_MAIN(tests)
