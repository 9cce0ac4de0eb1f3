/*
 * System calls of a thread, judged: see calls.h.
 */
#define _GNU_SOURCE
#include "calls.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

/* before: the call before it. */
struct call {
  pid_t process;
  uint64_t nr;
  const uint64_t *args;
  const struct call *before;
};

/* What the descriptor is, as the kernel names it: "socket:[123]", "anon_inode:[eventfd]", a path. */
static const char *name_of(pid_t process, int fd) {
  static char name[256];
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d/fd/%d", process, fd);
  ssize_t length = readlink(path, name, sizeof(name) - 1);
  name[length > 0 ? length : 0] = '\0';
  return name;
}

static bool is_named(const struct call *call, const char *start) {
  return strncmp(name_of(call->process, (int)call->args[0]), start, strlen(start)) == 0;
}

/* O_NONBLOCK means nothing to files. */
static bool never_waits(const struct call *call) {
  char path[64], line[128];
  unsigned flags = 0;
  if (is_named(call, "/")) return false;
  snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", call->process, (int)call->args[0]);
  FILE *file = fopen(path, "re");
  while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
    if (strncmp(line, "flags:", 6) == 0) flags = (unsigned)strtoul(line + 6, NULL, 8);
  }
  if (file != NULL) fclose(file);
  return (flags & O_NONBLOCK) != 0;
}

/* Both ends are the process's own: a thread of its own empties it (the outlets of uffd-lua). */
static bool is_own_pipe(const struct call *call) {
  char name[256];
  unsigned ends = 0;
  snprintf(name, sizeof(name), "%s", name_of(call->process, (int)call->args[0]));
  if (strncmp(name, "pipe:", 5) != 0) return false;
  for (int fd = 0; fd < 256; fd++) {
    ends += strcmp(name_of(call->process, fd), name) == 0;
  }
  return ends >= 2;
}

static const char *text_at(const struct call *call, uint64_t address) {
  static char text[256];
  struct iovec to = {text, sizeof(text) - 1}, from = {(void *)(uintptr_t)address, sizeof(text) - 1};
  ssize_t got = process_vm_readv(call->process, &to, 1, &from, 1, 0);
  if (got <= 0) { /* up to the end of the page */
    from.iov_len = 4096 - address % 4096;
    if (from.iov_len < sizeof(text)) got = process_vm_readv(call->process, &to, 1, &from, 1, 0);
  }
  text[got > 0 ? got : 0] = '\0';
  return text;
}

static bool is_path(const struct call *call, uint64_t address, const char *start) {
  return strncmp(text_at(call, address), start, strlen(start)) == 0;
}

/* In /proc: its own fd/, the names of its threads. */
static bool is_own_file(const struct call *call) {
  char start[32];
  snprintf(start, sizeof(start), "/proc/%d/", call->process);
  return is_named(call, start);
}

/* Poll without a limit of time waits. */
static bool polls(const struct call *call) {
  return call->args[2] == 0;
}

static bool always(const struct call *call) {
  (void)call;
  return true;
}

/* Its own files in /proc, which the kernel makes from memory. */
static bool opens_own(const struct call *call) {
  char status[64];
  const char *path = text_at(call, call->args[1]);
  if (strncmp(path, "/sys/devices/system/cpu/", 24) == 0) return true;
  if (strncmp(path, "/proc/self/fdinfo/", 18) == 0) { /* of files of another kind it may wait for a lock */
    return strcmp(name_of(call->process, (int)strtol(path + 18, NULL, 10)), "anon_inode:[userfaultfd]") == 0;
  }
  if (strncmp(path, "/proc/self/", 11) == 0) return true;
  /* the state of a worker, for a sentence: no lock of its memory is taken */
  const char *after = path + strlen("/proc/");
  if (strncmp(path, "/proc/", 6) != 0) return false;
  int pid = (int)strtol(after, NULL, 10);
  snprintf(status, sizeof(status), "/proc/%d/status", pid);
  return strcmp(path, status) == 0;
}

static bool reads_links(const struct call *call) {
  return is_path(call, call->args[0], "/proc/self/");
}

static bool reads(const struct call *call) {
  return never_waits(call) || is_named(call, "/memfd:") || is_named(call, "/proc/");
}

static bool writes(const struct call *call) {
  return never_waits(call) || is_named(call, "/memfd:") || is_own_pipe(call) || is_own_file(call);
}

static bool receives(const struct call *call) {
  uint64_t flags = call->nr == SYS_recvmsg ? call->args[2] : call->args[3];
  return (flags & MSG_DONTWAIT) != 0 || never_waits(call);
}

static bool sends(const struct call *call) {
  uint64_t flags = call->nr == SYS_sendmsg ? call->args[2] : call->args[3];
  return (flags & MSG_DONTWAIT) != 0 || never_waits(call);
}

/* Is the file open at another number too? */
static bool has_copy(const struct call *call) {
  int closed = (int)call->args[0];
  for (int fd = 0; fd < 256; fd++) {
    if (fd == closed || name_of(call->process, fd)[0] != 'a') continue;
    if (syscall(SYS_kcmp, call->process, call->process, 0 /* KCMP_FILE */, closed, fd) == 0) return true;
  }
  return false;
}

/* Sent to the looker just before, so that this is not the last copy. */
static bool was_sent(const struct call *call) {
  struct {
    struct cmsghdr header;
    int fd;
  } control = {0};
  struct msghdr message;
  const struct call *before = call->before;
  if (before == NULL || before->nr != SYS_sendmsg) return false;
  struct iovec to = {&message, sizeof(message)}, from = {(void *)(uintptr_t)before->args[1], sizeof(message)};
  if (process_vm_readv(call->process, &to, 1, &from, 1, 0) != (ssize_t)sizeof(message)) return false;
  if (message.msg_control == NULL || message.msg_controllen < CMSG_LEN(sizeof(int))) return false;
  to = (struct iovec){&control, CMSG_LEN(sizeof(int))};
  from = (struct iovec){message.msg_control, CMSG_LEN(sizeof(int))};
  return process_vm_readv(call->process, &to, 1, &from, 1, 0) > 0 && control.fd == (int)call->args[0];
}

/* One that it has made itself, to learn what the kernel has: of its own memory. */
static bool is_own_object(const struct call *call) {
  const struct call *before = call->before;
  return before != NULL && before->nr == SYS_ioctl && before->args[1] == UFFDIO_API && before->args[0] == call->args[0];
}

/* A last close of what another process made may wait for that process; of a userfaultfd, for its memory's lock. */
static bool closes(const struct call *call) {
  static const char *const names[] = {
      "/memfd:",  "pipe:", "/proc/", "anon_inode:[pidfd]", "anon_inode:[eventpoll]", "pidfd:", "anon_inode:[eventfd]",
      "/dev/null"};
  for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
    if (is_named(call, names[i])) return true;
  }
  if (was_sent(call) || is_own_object(call)) return true;
  if (is_named(call, "anon_inode:[userfaultfd]")) return has_copy(call);
  const char *name = name_of(call->process, (int)call->args[0]);
  if (name[0] == '\0') return true; /* not open */
  if (strncmp(name, "socket:", 7) != 0) return false;
  /* a socket of its own family: only TCP and the like linger */
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d/fd/%d", call->process, (int)call->args[0]);
  int pidfd = (int)syscall(SYS_pidfd_open, call->process, 0), domain = -1;
  int fd = pidfd >= 0 ? (int)syscall(SYS_pidfd_getfd, pidfd, (int)call->args[0], 0) : -1;
  socklen_t length = sizeof(domain);
  if (fd >= 0) getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length);
  if (fd >= 0) close(fd);
  if (pidfd >= 0) close(pidfd);
  return domain == AF_UNIX;
}

static bool controls(const struct call *call) {
  switch ((int)call->args[1]) {
  case F_SETLKW:
  case F_OFD_SETLKW:
  case F_SETLEASE:
    return (int)call->args[2] == F_UNLCK && (int)call->args[1] == F_SETLEASE;
  default:
    return true;
  }
}

static bool asks_object(const struct call *call) {
  return call->args[1] == UFFDIO_WAKE || call->args[1] == UFFDIO_API; /* they take no lock of the memory */
}

static bool forks(const struct call *call) {
  uint64_t flags = call->args[0];
  if (call->nr == SYS_clone3) {
    struct clone_args args = {0};
    struct iovec to = {&args, sizeof(args.flags)}, from = {(void *)(uintptr_t)call->args[0], sizeof(args.flags)};
    if (process_vm_readv(call->process, &to, 1, &from, 1, 0) < 0) return false;
    flags = args.flags;
  }
  return (flags & CLONE_VFORK) == 0; /* which waits until the child has read its program */
}

static bool reaps(const struct call *call) {
  return (call->args[call->nr == SYS_wait4 ? 2 : 3] & WNOHANG) != 0;
}

static bool is_own_socket(const char *path) {
  return strstr(path, "/door") != NULL || strstr(path, "/control") != NULL || strstr(path, "/metrics") != NULL;
}

static bool looks(const struct call *call) {
  if ((int)call->args[0] == AT_FDCWD && !is_own_socket(text_at(call, call->args[1]))) {
    return is_path(call, call->args[1], "/proc/self/");
  }
  uint64_t flags = call->nr == SYS_statx ? call->args[2] : call->args[3];
  if (is_own_socket(text_at(call, call->args[1]))) return true;
  if (call->nr == SYS_statx && (flags & AT_STATX_DONT_SYNC) != 0) return true; /* asks no server */
  return reads(call);
}

static bool stats(const struct call *call) {
  return reads(call) || is_named(call, "socket:") || is_named(call, "pipe:");
}

/* Nothing is removed but the names of its own sockets, when it drains. */
static bool removes(const struct call *call) {
  return is_own_socket(text_at(call, call->args[call->nr == SYS_unlinkat ? 1 : 0]));
}

static bool locks(const struct call *call) {
  return (call->args[1] & LOCK_NB) != 0;
}

static bool sets_option(const struct call *call) {
  return !is_named(call, "socket:"); /* one that waits for its memory keeps its lock; ENOTSOCK is told at once */
}

static bool maps(const struct call *call) {
  return (int)call->args[4] < 0 || strncmp(name_of(call->process, (int)call->args[4]), "/memfd:", 7) == 0;
}

static const struct rule {
  uint64_t nr;
  const char *name;
  bool (*allows)(const struct call *call);
} rules[] = {
    /* where it waits for all that it is told */
    {SYS_epoll_wait, "epoll_wait", always},
    {SYS_epoll_pwait, "epoll_pwait", always},
    /* the kernel answers at once: nothing of another process is touched */
    {SYS_epoll_ctl, "epoll_ctl", always},
    {SYS_timerfd_settime, "timerfd_settime", always},
    {SYS_clock_gettime, "clock_gettime", always},
    {SYS_restart_syscall, "restart_syscall", always}, /* the tracer's doing */
    {SYS_userfaultfd, "userfaultfd", always},
    {SYS_getpid, "getpid", always},
    {SYS_gettid, "gettid", always},
    {SYS_getuid, "getuid", always},
    {SYS_memfd_create, "memfd_create", always},
    {SYS_pipe2, "pipe2", always},
    {SYS_socketpair, "socketpair", always},
    {SYS_pidfd_open, "pidfd_open", always},
    {SYS_pidfd_send_signal, "pidfd_send_signal", always},
    {SYS_kill, "kill", always},
    {SYS_tgkill, "tgkill", always},
    {SYS_kcmp, "kcmp", always},
    {SYS_accept4, "accept4", never_waits},
    {SYS_getsockopt, "getsockopt", always}, /* of connections: SO_PEERCRED and the like */
    {SYS_getsockname, "getsockname", always},
    {SYS_socket, "socket", always},
    {SYS_ftruncate, "ftruncate", reads},
    {SYS_lseek, "lseek", always},
    {SYS_prctl, "prctl", always},
    {SYS_getrandom, "getrandom", always},
    /* of its own memory, which nobody else has locked */
    {SYS_mmap, "mmap", maps},
    {SYS_munmap, "munmap", always},
    {SYS_mprotect, "mprotect", always},
    {SYS_madvise, "madvise", always},
    {SYS_mremap, "mremap", always},
    {SYS_brk, "brk", always},
    {SYS_mincore, "mincore", always},
    /* of its own threads (those that close foreign descriptors, those of the outlets), which hold no lock while they
       wait */
    {SYS_futex, "futex", always},
    {SYS_sched_yield, "sched_yield", always},
    {SYS_set_robust_list, "set_robust_list", always},
    {SYS_rseq, "rseq", always},
    {SYS_rt_sigaction, "rt_sigaction", always},
    {SYS_rt_sigprocmask, "rt_sigprocmask", always},
    {SYS_rt_sigreturn, "rt_sigreturn", always},
    {SYS_sigaltstack, "sigaltstack", always},
    {SYS_sched_getaffinity, "sched_getaffinity", always},
    {SYS_sysinfo, "sysinfo", always},
    /* depends on what is given */
    {SYS_clone, "clone", forks},
    {SYS_clone3, "clone3", forks},
    {SYS_close, "close", closes},
    {SYS_close_range, "close_range", never_waits},
    {SYS_fcntl, "fcntl", controls},
    {SYS_flock, "flock", locks},
    {SYS_fstat, "fstat", stats},
    {SYS_ioctl, "ioctl", asks_object},
    {SYS_newfstatat, "newfstatat", looks},
    {SYS_statx, "statx", looks},
    {SYS_openat, "openat", opens_own},
    {SYS_getdents64, "getdents64", is_own_file},
    {SYS_poll, "poll", polls},
    {SYS_pread64, "pread64", reads},
    {SYS_read, "read", reads},
    {SYS_readlink, "readlink", reads_links},
    {SYS_recvfrom, "recvfrom", receives},
    {SYS_recvmsg, "recvmsg", receives},
    {SYS_sendmsg, "sendmsg", sends},
    {SYS_sendto, "sendto", sends},
    {SYS_setsockopt, "setsockopt", sets_option},
    {SYS_unlink, "unlink", removes},
    {SYS_unlinkat, "unlinkat", removes},
    {SYS_wait4, "wait4", reaps},
    {SYS_waitid, "waitid", reaps},
    {SYS_write, "write", writes},
    {SYS_writev, "writev", writes},
};

static const struct rule *rule_of(uint64_t nr) {
  for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++) {
    if (rules[i].nr == nr) return &rules[i];
  }
  return NULL;
}

/* What the call was given: paths, and what its first descriptor is. */
static void describe(const struct call *call, const struct rule *rule, char *text, size_t size) {
  const char *what = "";
  char second[300];
  bool at = call->nr == SYS_openat || call->nr == SYS_newfstatat || call->nr == SYS_statx;
  bool path = call->nr == SYS_readlink || call->nr == SYS_unlink || call->nr == SYS_open || call->nr == SYS_stat;
  snprintf(second, sizeof(second), "%s",
           at || path ? text_at(call, call->args[at]) : name_of(call->process, (int)call->args[0]));
  for (char *digit = second; *digit != '\0'; digit++) { /* of one kind, whatever the process or descriptor */
    if (*digit >= '0' && *digit <= '9') *digit = '#';
  }
  if (rule != NULL) what = rule->name;
  if (rule == NULL) snprintf(text, size, "call %llu (%s)", (unsigned long long)call->nr, second);
  if (rule != NULL)
    snprintf(text, size, "%s (%s), 0x%llx", what, second,
             at || path ? 0 : (unsigned long long)(unsigned)call->args[1] & 0xffff);
}

static void note(struct calls_seen *seen, const struct call *call, const struct rule *rule) {
  char text[400];
  unsigned i = 0;
  describe(call, rule, text, sizeof(text));
  while (i < seen->kinds && strcmp(seen->found[i].text, text) != 0) {
    i++;
  }
  if (i == CALLS_MAX) return;
  if (i == seen->kinds) {
    snprintf(seen->found[i].text, sizeof(seen->found[i].text), "%s", text);
    seen->kinds++;
  }
  seen->found[i].times++;
}

static void judge(struct calls_seen *seen, pid_t process, const _Atomic int *inside) {
  struct __ptrace_syscall_info info;
  if (ptrace(PTRACE_GET_SYSCALL_INFO, process, (void *)sizeof(info), &info) <= 0) return;
  if (info.op != PTRACE_SYSCALL_INFO_ENTRY) return;
  if (inside != NULL && atomic_load(inside) == 0) return;
  const uint64_t *args = (const uint64_t *)info.entry.args;
  static struct call before;
  static uint64_t kept[6];
  struct call call = {process, info.entry.nr, args, &before};
  const struct rule *rule = rule_of(call.nr);
  atomic_fetch_add(&seen->judged, 1);
  if (rule == NULL || !rule->allows(&call)) note(seen, &call, rule);
  memcpy(kept, info.entry.args, sizeof(kept));
  before = (struct call){process, call.nr, kept, NULL};
}

/* The tracer's process. The thread stops at each call's begin and end, and at each signal. */
static _Noreturn void trace(struct calls_seen *seen, pid_t process, const _Atomic int *inside) {
  int status;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (ptrace(PTRACE_SEIZE, process, NULL, (void *)PTRACE_O_TRACESYSGOOD) != 0) {
    atomic_store(&seen->ready, -errno);
    _exit(0);
  }
  ptrace(PTRACE_INTERRUPT, process, NULL, NULL);
  atomic_store(&seen->ready, 1);
  while (waitpid(process, &status, __WALL) == process && WIFSTOPPED(status)) {
    int signal = WSTOPSIG(status);
    if (atomic_load(&seen->stop) != 0) {
      ptrace(PTRACE_DETACH, process, NULL, NULL);
      _exit(0);
    }
    if (signal == (SIGTRAP | 0x80)) judge(seen, process, inside);
    bool given = status >> 16 == 0 && signal != (SIGTRAP | 0x80); /* a signal, not a stop of the tracer's */
    ptrace(PTRACE_SYSCALL, process, NULL, (void *)(uintptr_t)(given ? signal : 0));
  }
  _exit(0);
}

void calls_allow(void) {
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
}

void calls_watch(struct calls *calls, pid_t process, const _Atomic int *inside) {
  calls->seen = mmap(NULL, sizeof(*calls->seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(calls->seen != MAP_FAILED);
  fflush(NULL);
  calls->process = process;
  calls->tracer = fork();
  CHECK(calls->tracer >= 0);
  if (calls->tracer == 0) trace(calls->seen, process, inside);
  int ready;
  while ((ready = atomic_load(&calls->seen->ready)) == 0) {
    check_pause();
  }
  if (ready < 0) SKIP("no process may be traced here: %s", strerror(-ready));
}

unsigned calls_end(struct calls *calls) {
  int status;
  atomic_store(&calls->seen->stop, 1);
  CHECK_EQ(kill(calls->process, SIGURG), 0); /* which is ignored, but stops it for its tracer */
  CHECK_EQ(waitpid(calls->tracer, &status, 0), calls->tracer);
  for (unsigned i = 0; i < calls->seen->kinds; i++) {
    fprintf(stderr, "may wait: %s, %u times\n", calls->seen->found[i].text, calls->seen->found[i].times);
  }
  printf("  %llu calls judged\n", (unsigned long long)atomic_load(&calls->seen->judged));
  return calls->seen->kinds;
}
