/* Opening: routes, flags, and every refusal with its cause. Each test drops privileges in a process of its own. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "check.h"
#include "kernel/uapi.h"

static int open_with(uint32_t flags, uint32_t route, uint64_t features, uffd_object **object) {
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.flags = flags;
  opts.route = route;
  opts.features = features;
  return uffd_open(&opts, object);
}

/* From now on userfaultfd(2) gives this errno; all of it, or only with these flag bits set. */
static void filter_syscall(int error, uint32_t flag_bits) {
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, flag_bits, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ((uint32_t)error & SECCOMP_RET_DATA)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};
  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) SKIP("no seccomp filters: %s", strerror(errno));
}
#define ALL_CALLS UINT32_C(0x80000) /* O_CLOEXEC: always there */

static void needs_root(void) {
  if (!check_is_root() || geteuid() != 0) SKIP("starts from root's privileges");
}

static void needs_sysctl_off(void) {
  if (check_number("/proc/sys/vm/unprivileged_userfaultfd") != 0) SKIP("vm.unprivileged_userfaultfd is on");
}

static void needs_device(void) {
  if (access("/dev/userfaultfd", F_OK) != 0) SKIP("no /dev/userfaultfd");
}

static void flags_of_the_descriptor(void) {
  uffd_object *object = check_open(0);
  int fd = CHECK_OK(uffd_fd(object));
  CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
  uffd_close(object);
  CHECK_OK(open_with(UFFD_OPEN_BLOCKING, 0, 0, &object));
  fd = CHECK_OK(uffd_fd(object));
  CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) == 0);
  struct pollfd descriptor = {.fd = fd, .events = POLLIN};
  CHECK_EQ(poll(&descriptor, 1, 0), 1);
  CHECK((descriptor.revents & POLLERR) != 0);
  uffd_close(object);
  CHECK(fcntl(fd, F_GETFD) < 0);
}

static void bad_options(void) {
  uffd_object *object = NULL;
  CHECK_ERR(open_with(8, 0, 0, &object), -EINVAL);
  CHECK_ERR(open_with(UFFD_OPEN_USER_MODE_ONLY | UFFD_OPEN_NO_USER_MODE_ONLY, 0, 0, &object), -EINVAL);
  CHECK_ERR(open_with(0, UFFD_ROUTE_ADOPTED, 0, &object), -EINVAL);
  CHECK_ERR(open_with(0, 77, 0, &object), -EINVAL);
  CHECK(object == NULL);
}

static void root_by_syscall(void) {
  needs_root();
  uffd_object *object = NULL;
  CHECK_OK(uffd_open(NULL, &object));
  CHECK_EQ(uffd_route(object), UFFD_ROUTE_SYSCALL);
  CHECK_EQ(uffd_user_mode_only(object), 0);
  uffd_close(object);
}

static void root_by_device(void) {
  needs_root();
  needs_device();
  uffd_object *object = NULL;
  CHECK_OK(open_with(0, UFFD_ROUTE_DEVICE, 0, &object));
  CHECK_EQ(uffd_route(object), UFFD_ROUTE_DEVICE);
  CHECK_EQ(uffd_user_mode_only(object), 0);
  uffd_close(object);
}

static void write_missing_page(uffd_object *object, long expected) {
  struct check_area area = check_map(CHECK_ANON, 1);
  CHECK_OK(uffd_register(object, CHECK_ADDRESS(area.at), area.length, UFFD_MODE_MISSING, NULL));
  int ends[2];
  CHECK(pipe(ends) == 0);
  errno = 0;
  CHECK_EQ(write(ends[1], area.at, 1), expected);
  if (expected < 0) CHECK_EQ(errno, EFAULT);
  close(ends[0]);
  close(ends[1]);
}

static void user_mode_only_is_efault_in_the_kernel(void) {
  check_needs(0);
  uffd_object *object = NULL;
  CHECK_OK(open_with(UFFD_OPEN_USER_MODE_ONLY, 0, 0, &object));
  CHECK_EQ(uffd_user_mode_only(object), 1);
  write_missing_page(object, -1);
  uffd_close(object);
}

static void ordinary_user_falls_back_to_user_mode_only(void) {
  needs_sysctl_off();
  check_drop_privileges();
  if (access("/dev/userfaultfd", W_OK) == 0) SKIP("the device is open to users");
  uffd_object *object = NULL;
  CHECK_OK(uffd_open(NULL, &object));
  CHECK_EQ(uffd_route(object), UFFD_ROUTE_SYSCALL);
  CHECK_EQ(uffd_user_mode_only(object), 1);
  write_missing_page(object, -1);
  uffd_close(object);
}

static void ordinary_user_without_the_fallback(void) {
  needs_sysctl_off();
  check_drop_privileges();
  if (access("/dev/userfaultfd", W_OK) == 0) SKIP("the device is open to users");
  uffd_object *object = NULL;
  CHECK_ERR(open_with(UFFD_OPEN_NO_USER_MODE_ONLY, 0, 0, &object), -EPERM);
  CHECK_SAYS("vm.unprivileged_userfaultfd is 0");
  CHECK_SAYS("CAP_SYS_PTRACE");
  CHECK_ERR(open_with(UFFD_OPEN_NO_USER_MODE_ONLY, UFFD_ROUTE_SYSCALL, 0, &object), -EPERM);
  CHECK_SAYS("vm.unprivileged_userfaultfd is 0");
}

static void ordinary_user_and_the_device(void) {
  needs_device();
  check_drop_privileges();
  if (access("/dev/userfaultfd", W_OK) == 0) SKIP("the device is open to users");
  uffd_object *object = NULL;
  CHECK_ERR(open_with(0, UFFD_ROUTE_DEVICE, 0, &object), -EACCES);
  CHECK_SAYS("permissions of /dev/userfaultfd");
}

static void root_of_a_user_namespace_is_ordinary(void) {
  needs_root();
  needs_sysctl_off();
  if (unshare(CLONE_NEWUSER) != 0) SKIP("no user namespaces: %s", strerror(errno));
  uffd_object *object = NULL;
  CHECK_ERR(open_with(UFFD_OPEN_NO_USER_MODE_ONLY, UFFD_ROUTE_SYSCALL, 0, &object), -EPERM);
  CHECK_SAYS("initial user namespace");
  CHECK_OK(open_with(0, UFFD_ROUTE_SYSCALL, 0, &object));
  CHECK_EQ(uffd_user_mode_only(object), 1);
  uffd_close(object);
}

static void the_capability_is_enough(void) {
  needs_root();
  needs_sysctl_off();
  CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0);
  check_drop_privileges();
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {{.effective = 1u << CAP_SYS_PTRACE, .permitted = 1u << CAP_SYS_PTRACE}};
  CHECK(syscall(SYS_capset, &header, data) == 0);
  uffd_object *object = NULL;
  CHECK_OK(open_with(UFFD_OPEN_NO_USER_MODE_ONLY, UFFD_ROUTE_SYSCALL, UFFD_FEAT_EVENT_FORK, &object));
  CHECK_EQ(uffd_user_mode_only(object), 0);
  uffd_close(object);
}

static void event_fork_without_the_capability(void) {
  check_drop_privileges();
  check_needs(0);
  uffd_object *object = NULL;
  CHECK_ERR(open_with(0, 0, UFFD_FEAT_EVENT_FORK, &object), -EPERM);
  CHECK_SAYS("CAP_SYS_PTRACE");
  struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
  opts.optional = UFFD_FEAT_EVENT_FORK | UFFD_FEAT_EVENT_REMOVE;
  CHECK_OK(uffd_open(&opts, &object));
  CHECK_EQ(uffd_features(object), UFFD_FEAT_EVENT_REMOVE);
  uffd_close(object);
}

static void filtered_syscall_goes_by_the_device(void) {
  needs_root();
  needs_device();
  filter_syscall(EPERM, ALL_CALLS);
  uffd_object *object = NULL;
  CHECK_OK(uffd_open(NULL, &object));
  CHECK_EQ(uffd_route(object), UFFD_ROUTE_DEVICE);
  CHECK_EQ(uffd_user_mode_only(object), 0);
  uffd_close(object);
  CHECK_ERR(open_with(0, UFFD_ROUTE_SYSCALL, 0, &object), -EPERM);
  CHECK_SAYS("seccomp");
}

static void filtered_with_eperm(void) {
  check_drop_privileges();
  if (access("/dev/userfaultfd", W_OK) == 0) SKIP("the device is open to users");
  filter_syscall(EPERM, ALL_CALLS);
  uffd_object *object = NULL;
  CHECK_ERR(uffd_open(NULL, &object), -EPERM);
  CHECK_SAYS("seccomp");
  CHECK_SAYS("/dev/userfaultfd");
}

static void filtered_with_enosys(void) {
  check_drop_privileges();
  if (access("/dev/userfaultfd", W_OK) == 0) SKIP("the device is open to users");
  filter_syscall(ENOSYS, ALL_CALLS);
  uffd_object *object = NULL;
  CHECK_ERR(uffd_open(NULL, &object), -ENOSYS);
  CHECK_SAYS("seccomp");
}

static void empty_root(void) {
  needs_root();
  char path[] = "/tmp/uffd-test-XXXXXX";
  CHECK(mkdtemp(path) != NULL);
  CHECK(chdir(path) == 0 && rmdir(path) == 0 && chroot(".") == 0); /* nothing stays behind, and nothing is in it */
}

static void no_device_node(void) {
  empty_root();
  uffd_object *object = NULL;
  CHECK_ERR(open_with(0, UFFD_ROUTE_DEVICE, 0, &object), -ENOENT);
  CHECK_SAYS("no /dev/userfaultfd");
  CHECK_OK(uffd_open(NULL, &object)); /* the system call needs no file */
  uffd_close(object);
  check_leave();
}

/* What a kernel without userfaultfd looks like: no call, no device, no sysctl. */
static void no_userfaultfd_at_all(void) {
  empty_root();
  filter_syscall(ENOSYS, ALL_CALLS);
  uffd_object *object = NULL;
  CHECK_ERR(uffd_open(NULL, &object), -ENOSYS);
  CHECK_SAYS("CONFIG_USERFAULTFD");
  struct uffd_probe probe = {.size = sizeof(probe)};
  CHECK_OK(uffd_probe(&probe));
  CHECK_EQ(probe.usable, 0);
  CHECK_EQ(probe.route, 0);
  CHECK_EQ(probe.syscall_error, ENOSYS);
  CHECK_EQ(probe.device_error, ENOENT);
  CHECK_EQ(probe.features, 0);
  CHECK_EQ(probe.missing, 0);
  CHECK_EQ(probe.sysctl_unprivileged, -1);
  char text[512];
  CHECK(uffd_probe_advice(&probe, 0, text, sizeof(text)) > 0);
  CHECK(strstr(text, "CONFIG_USERFAULTFD") != NULL);
  check_leave();
}

static void a_security_module(void) {
  filter_syscall(EACCES, ALL_CALLS);
  uffd_object *object = NULL;
  CHECK_ERR(open_with(0, UFFD_ROUTE_SYSCALL, 0, &object), -EACCES);
  CHECK_SAYS("security module");
}

/* Errors that are not refusals: no other way must be tried, and the caller gets the errno. */
static void errors_that_are_no_refusals(void) {
  static const int errors[] = {EMFILE, ENFILE, ENOMEM, EINVAL};
  for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
      filter_syscall(errors[i], ALL_CALLS);
      uffd_object *object = NULL;
      CHECK_ERR(uffd_open(NULL, &object), -errors[i]);
      _exit(0);
    }
    check_child(child);
  }
}

static void user_mode_only_on_an_old_kernel(void) {
  filter_syscall(EINVAL, RAW_USER_MODE_ONLY);
  uffd_object *object = NULL;
  CHECK_ERR(open_with(UFFD_OPEN_USER_MODE_ONLY, UFFD_ROUTE_SYSCALL, 0, &object), -EINVAL);
  CHECK_SAYS("5.11");
}

static void out_of_descriptors(void) {
  check_needs(0);
  int next = dup(0);
  CHECK(next >= 0);
  close(next);
  struct rlimit limit = {(rlim_t)next, (rlim_t)next};
  CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
  uffd_object *object = NULL;
  CHECK_ERR(uffd_open(NULL, &object), -EMFILE);
  CHECK_SAYS("ulimit -n");
  CHECK(object == NULL);
  check_leave();
}

/* One descriptor is enough for an object, and failures give all of theirs back. */
static void descriptors_are_not_lost(void) {
  check_needs(0);
  int before = dup(0);
  close(before);
  uffd_object *object = NULL;
  CHECK_OK(uffd_open(NULL, &object));
  CHECK_EQ(uffd_fd(object), before);
  uffd_close(object);
  for (int i = 0; i < 100; i++) {
    struct uffd_open_opts opts = UFFD_OPEN_OPTS_INIT;
    opts.features = UINT64_C(1) << 40;
    CHECK_EQ(uffd_open(&opts, &object), -EINVAL);
  }
  int after = dup(0);
  CHECK_EQ(after, before);
}

static const struct check_test tests[] = {
    TEST(flags_of_the_descriptor),
    TEST(bad_options),
    TEST(root_by_syscall),
    TEST(root_by_device),
    TEST(user_mode_only_is_efault_in_the_kernel),
    TEST(ordinary_user_falls_back_to_user_mode_only),
    TEST(ordinary_user_without_the_fallback),
    TEST(ordinary_user_and_the_device),
    TEST(root_of_a_user_namespace_is_ordinary),
    TEST(the_capability_is_enough),
    TEST(event_fork_without_the_capability),
    TEST(filtered_syscall_goes_by_the_device),
    TEST(filtered_with_eperm),
    TEST(filtered_with_enosys),
    TEST(no_device_node),
    TEST(no_userfaultfd_at_all),
    TEST(a_security_module),
    TEST(errors_that_are_no_refusals),
    TEST(user_mode_only_on_an_old_kernel),
    TEST(out_of_descriptors),
    TEST(descriptors_are_not_lost),
};
CHECK_MAIN(tests)
