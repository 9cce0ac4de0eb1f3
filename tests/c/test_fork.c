/* Handles in a forked child are dead, however it was forked; the parent's go on. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "check.h"
#include "kernel/object.h"

static uffd_object *object;
static struct check_area area;

static void open_one(void) {
  object = check_open(0);
  area = check_map(CHECK_ANON, 2);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, UFFD_MODE_MISSING, NULL));
}

/* In the child: every call says so, closing is quiet, and the child's own handles work. */
static void check_dead_handle(void) {
  uint64_t at = CHECK_ADDRESS(area.at), page = area.page, done = 99;
  unsigned char *source = check_pattern(page, 1, 1);
  struct uffd_event event;
  CHECK_ERR(uffd_read(object, &event, 1, 0), -EOWNERDEAD);
  CHECK_SAYS("forked child");
  CHECK_ERR(uffd_register(object, at, page, UFFD_MODE_MISSING, NULL), -EOWNERDEAD);
  CHECK_ERR(uffd_unregister(object, at, page), -EOWNERDEAD);
  CHECK_ERR(uffd_copy(object, at, source, page, 0, &done), -EOWNERDEAD);
  CHECK_EQ(done, 0);
  CHECK_ERR(uffd_zeropage(object, at, page, 0, NULL), -EOWNERDEAD);
  CHECK_ERR(uffd_continue(object, at, page, 0, NULL), -EOWNERDEAD);
  CHECK_ERR(uffd_poison(object, at, page, 0, NULL), -EOWNERDEAD);
  CHECK_ERR(uffd_move(object, at, CHECK_ADDRESS(source), page, 0, NULL), -EOWNERDEAD);
  CHECK_ERR(uffd_writeprotect(object, at, page, 0), -EOWNERDEAD);
  CHECK_ERR(uffd_wake(object, at, page), -EOWNERDEAD);
  CHECK_ERR(uffd_pending(object, NULL, NULL), -EOWNERDEAD);
  CHECK_ERR(uffd_fd(object), -EOWNERDEAD);
  CHECK_ERR(uffd_route(object), -EOWNERDEAD);
  CHECK_ERR(uffd_user_mode_only(object), -EOWNERDEAD);
  CHECK_EQ(uffd_features(object), 0);
  int fd = object->fd;
  uffd_close(object);
  CHECK(fcntl(fd, F_GETFD) < 0); /* the child's copy of the descriptor is gone: it would keep the context alive */
  uffd_object *own = check_open(0);
  CHECK_ERR(uffd_read(own, &event, 1, 0), -EAGAIN);
  uffd_close(own);
}

static void check_parent_goes_on(void) {
  struct check_touch touch;
  check_touch_read(&touch, area.at + area.page);
  CHECK_EQ(check_fault(object).address, CHECK_ADDRESS(area.at) + area.page);
  CHECK_OK(uffd_zeropage(object, CHECK_ADDRESS(area.at) + area.page, area.page, 0, NULL));
  CHECK_EQ(check_touch_join(&touch), 0);
  uffd_close(object);
}

static void stale_handle_after_fork(void) {
  open_one();
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    CHECK_EQ(area.at[0], 0); /* not registered in the child: zero, no fault */
    check_dead_handle();
    _exit(0);
  }
  check_child(child);
  check_parent_goes_on();
}

static void stale_handle_after_raw_clone(void) {
  if (check_under_tsan()) SKIP("ThreadSanitizer does not follow a raw clone()");
  open_one();
  fflush(NULL);
  pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
  if (child == 0) {
    check_dead_handle();
    _exit(0);
  }
  check_child(child);
  check_parent_goes_on();
}

/* A child that shares the memory, as after vfork(), counts as the same process. */
static uint64_t number_there;

static int ask_there(void *ctx) {
  (void)ctx;
  number_there = uffd_process();
  return 0;
}

static void a_child_in_the_same_memory(void) {
  if (check_under_tsan()) SKIP("ThreadSanitizer does not follow clone(CLONE_VM)");
  open_one();
  static char stack[64 << 10] __attribute__((aligned(16)));
  pid_t child = clone(ask_there, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
  CHECK(child > 0 && waitpid(child, NULL, 0) == child);
  CHECK_EQ(number_there, uffd_process());
  check_parent_goes_on();
}

static void every_generation_has_its_own_number(void) {
  uint64_t first = uffd_process();
  CHECK(first != 0);
  CHECK_EQ(uffd_process(), first);
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    /* A grandchild forked before the child was numbered. */
    pid_t grandchild = fork();
    if (grandchild == 0) _exit(uffd_process() != first ? 0 : 1);
    check_child(grandchild);
    uint64_t second = uffd_process();
    CHECK(second != first);
    grandchild = fork();
    if (grandchild == 0) _exit(uffd_process() != first && uffd_process() != second ? 0 : 1);
    check_child(grandchild);
    CHECK_EQ(uffd_process(), second);
    _exit(0);
  }
  check_child(child);
  CHECK_EQ(uffd_process(), first);
}

/* Many threads make the first calls of a process at once: all get the same number. */
static _Atomic bool go;
static uint64_t numbers[4];

static void ask_number(void *ctx) {
  while (!atomic_load(&go)) {
  }
  *(uint64_t *)ctx = uffd_process();
}

static void threads_agree_on_the_number(void) {
  struct check_thread threads[4];
  for (int i = 0; i < 4; i++)
    check_thread_start(&threads[i], ask_number, &numbers[i]);
  atomic_store(&go, true);
  for (int i = 0; i < 4; i++)
    check_thread_join(&threads[i]);
  for (int i = 0; i < 4; i++)
    CHECK_EQ(numbers[i], uffd_process());
}

/* Before 4.14 there is no MADV_WIPEONFORK: fork() is seen by a handler then. */
static void without_wipeonfork(void) {
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 18, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) SKIP("no seccomp filters: %s", strerror(errno));
  void *probe = mmap(NULL, check_page(), PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(madvise(probe, check_page(), 18) < 0);
  stale_handle_after_fork();
}

/* A child forked while the parent's threads are inside calls: nothing there waits for threads that it has not. */
static void read_for_ever(void *ctx) {
  (void)ctx;
  struct uffd_event event;
  CHECK_EQ(uffd_read(object, &event, 1, -1), -EBADF);
}

static void closing_in_a_child_forked_during_a_call(void) {
  open_one();
  struct check_thread reader;
  check_thread_start(&reader, read_for_ever, NULL);
  check_asleep(reader.tid, "poll");
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    uffd_close(object);
    _exit(0);
  }
  check_child(child);
  CHECK(!atomic_load(&reader.done)); /* the parent's reader reads on */
  uffd_close(object);
  check_thread_join(&reader);
}

static const struct check_test tests[] = {
    TEST(stale_handle_after_fork),
    TEST(stale_handle_after_raw_clone),
    TEST(a_child_in_the_same_memory),
    TEST(every_generation_has_its_own_number),
    TEST(threads_agree_on_the_number),
    TEST(without_wipeonfork),
    TEST(closing_in_a_child_forked_during_a_call),
};
CHECK_MAIN(tests)
