/* SIGBUS instead of messages: the faulting thread answers for itself. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

static uffd_object *object;
static struct check_area served;
static unsigned char *source;
static bool with_wp;
static _Atomic unsigned signals, wp_signals;

static void resolve(uint64_t address) {
  uint64_t page = address & ~(served.page - 1), offset = page - CHECK_ADDRESS(served.at);
  /* The kernel does not tell which kind of fault it was: what is there already must be protected. */
  int rc = uffd_copy(object, page, source + offset, served.page, with_wp ? UFFD_COPY_WP : 0, NULL);
  if (rc == 0) return;
  CHECK(with_wp);
  CHECK_EQ(rc, -EEXIST);
  atomic_fetch_add(&wp_signals, 1);
  CHECK_OK(uffd_writeprotect(object, page, served.page, 0));
}

static void on_sigbus(int signal, siginfo_t *info, void *context) {
  (void)signal;
  (void)context;
  int saved = errno;
  atomic_fetch_add(&signals, 1);
  resolve(CHECK_ADDRESS(info->si_addr));
  errno = saved;
}

static void prepare(int kind, unsigned count, uint64_t modes) {
  object = check_open(UFFD_FEAT_SIGBUS);
  served = check_map(kind, count);
  source = check_pattern(served.page, count, 1);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(served.at), served.length, modes, NULL));
  struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGBUS, &action, NULL) == 0);
}

static unsigned pages(int kind) {
  return kind == CHECK_HUGETLB || kind == CHECK_HUGETLB_PRIVATE ? 4 : 64;
}

static void zero_filled_child(void *ctx) {
  /* Without EVENT_FORK the child is not registered: zeros, and no signal. */
  unsigned index = *(unsigned *)ctx;
  CHECK_EQ(((volatile unsigned char *)served.at)[index * served.page], 0);
  CHECK_EQ(atomic_load(&signals), index);
}

/* uffd-unit-tests, "sigbus": a signal for each page, none twice, and not one message. */
static void sigbus(int kind) {
  unsigned count = pages(kind);
  prepare(kind, count, UFFD_MODE_MISSING);
  for (unsigned i = 0; i < count; i++) {
    volatile unsigned char *page = served.at + i * served.page;
    CHECK_EQ(page[33], i + 1);
    CHECK_EQ(atomic_load(&signals), i + 1);
    page[34] = 9;
    CHECK_EQ(atomic_load(&signals), i + 1);
    if (i == count / 2 && kind == CHECK_ANON) {
      unsigned next = i + 1;
      check_in_child(zero_filled_child, &next);
    }
  }
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  uffd_close(object);
}
static void sigbus_anon(void) {
  sigbus(CHECK_ANON);
}
static void sigbus_shmem(void) {
  sigbus(CHECK_SHMEM);
}
static void sigbus_shmem_private(void) {
  sigbus(CHECK_SHMEM_PRIVATE);
}
static void sigbus_hugetlb(void) {
  sigbus(CHECK_HUGETLB);
}
static void sigbus_hugetlb_private(void) {
  sigbus(CHECK_HUGETLB_PRIVATE);
}

/* uffd-unit-tests, "sigbus-wp": one signal for the missing page, one for the first write to it. */
static void sigbus_wp(int kind) {
  check_needs(UFFD_FEAT_PAGEFAULT_FLAG_WP | UFFD_FEAT_WP_HUGETLBFS_SHMEM);
  with_wp = true;
  unsigned count = pages(kind);
  prepare(kind, count, UFFD_MODE_MISSING | UFFD_MODE_WP);
  for (unsigned i = 0; i < count; i++) {
    volatile unsigned char *page = served.at + i * served.page;
    CHECK_EQ(page[33], i + 1);
    CHECK_EQ(atomic_load(&signals), 2 * i + 1);
    page[34] = 9;
    CHECK_EQ(page[34], 9);
    CHECK_EQ(atomic_load(&signals), 2 * i + 2);
    CHECK_EQ(atomic_load(&wp_signals), i + 1);
    page[35] = 9;
    CHECK_EQ(atomic_load(&signals), 2 * i + 2);
  }
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EAGAIN);
  uffd_close(object);
}
static void sigbus_wp_anon(void) {
  sigbus_wp(CHECK_ANON);
}
static void sigbus_wp_shmem(void) {
  sigbus_wp(CHECK_SHMEM);
}
static void sigbus_wp_shmem_private(void) {
  sigbus_wp(CHECK_SHMEM_PRIVATE);
}
static void sigbus_wp_hugetlb(void) {
  sigbus_wp(CHECK_HUGETLB);
}

/* With EVENT_FORK a forked child gets signals too. */
static int handed_over[2];

static void child_of_fork(void *ctx) {
  (void)ctx;
  char letter;
  CHECK_EQ(read(handed_over[0], &letter, 1), 1); /* the parent has read the event */
  unsigned value = 0;
  CHECK_EQ(check_access(served.at, false, &value), SIGBUS);
}

static void forker(void *ctx) {
  (void)ctx;
  check_in_child(child_of_fork, NULL);
}

static void a_forked_child_gets_signals(void) {
  check_needs(UFFD_FEAT_EVENT_FORK);
  object = check_open(UFFD_FEAT_SIGBUS | UFFD_FEAT_EVENT_FORK);
  served = check_map(CHECK_ANON, 2);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(served.at), served.length, UFFD_MODE_MISSING, NULL));
  CHECK(pipe(handed_over) == 0);
  struct check_thread thread;
  check_thread_start(&thread, forker, NULL);
  struct uffd_event event; /* other events still come as messages, and their makers still wait */
  CHECK_EQ(uffd_read(object, &event, 1, -1), 1);
  CHECK_EQ(event.type, UFFD_FORK);
  CHECK_EQ(write(handed_over[1], "x", 1), 1);
  check_thread_join(&thread);
  CHECK_ERR(uffd_read(event.object, &event, 1, 0), -EAGAIN);
  uffd_close(event.object);
  uffd_close(object);
}

static void the_kernel_s_accesses_are_efault(void) {
  prepare(CHECK_ANON, 2, UFFD_MODE_MISSING);
  int ends[2];
  CHECK(pipe(ends) == 0);
  CHECK(write(ends[1], served.at, 1) < 0 && errno == EFAULT);
  CHECK_EQ(atomic_load(&signals), 0);
  CHECK_EQ(((volatile unsigned char *)served.at)[5], 1);
  CHECK_EQ(write(ends[1], served.at, 1), 1);
  uffd_close(object);
}

/* Many threads answer for themselves at once. */
static void walk(void *ctx) {
  (void)ctx;
  for (unsigned i = 0; i < 64; i++)
    CHECK_EQ(((volatile unsigned char *)served.at)[i * served.page], i + 1);
}

static void resolve_racing(int signal, siginfo_t *info, void *context) {
  (void)signal;
  (void)context;
  uint64_t page = CHECK_ADDRESS(info->si_addr) & ~(served.page - 1);
  uint64_t offset = page - CHECK_ADDRESS(served.at);
  int rc = uffd_copy(object, page, source + offset, served.page, UFFD_COPY_DONTWAKE, NULL);
  if (rc < 0) CHECK_EQ(rc, -EEXIST);
}

static void threads_answer_for_themselves(void) {
  prepare(CHECK_ANON, 64, UFFD_MODE_MISSING);
  struct sigaction action = {.sa_sigaction = resolve_racing, .sa_flags = SA_SIGINFO};
  CHECK(sigaction(SIGBUS, &action, NULL) == 0);
  struct check_thread threads[4];
  for (int i = 0; i < 4; i++)
    check_thread_start(&threads[i], walk, NULL);
  for (int i = 0; i < 4; i++)
    check_thread_join(&threads[i]);
  uffd_close(object);
}

static const struct check_test tests[] = {
    TEST(sigbus_anon),
    TEST(sigbus_shmem),
    TEST(sigbus_shmem_private),
    TEST(sigbus_hugetlb),
    TEST(sigbus_hugetlb_private),
    TEST(sigbus_wp_anon),
    TEST(sigbus_wp_shmem),
    TEST(sigbus_wp_shmem_private),
    TEST(sigbus_wp_hugetlb),
    TEST(a_forked_child_gets_signals),
    TEST(the_kernel_s_accesses_are_efault),
    TEST(threads_answer_for_themselves),
};
CHECK_MAIN(tests)
