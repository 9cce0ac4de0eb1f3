/*
 * uffd: page faults answered in user space, with Linux userfaultfd.
 *
 * A page fault is a request; uffd answers it. Ordinary answers (zero, bytes of a file, a page already in the page
 * cache, a page to move, poison) are given at kernel speed; a callback is asked only where contents are custom.
 *
 *   fault --> region --> resolver --> answer --> install --> outcome --> statistics, trace
 *
 * Results    A function returns 0 or a positive count, and -errno when it fails. uffd_errmsg() is then a sentence that
 *            names the cause and what to do about it.
 * Options    An option struct begins with its size. Start from its initialiser macro. NULL means all defaults. A struct
 *            that is longer than this library knows, with anything but zeros behind, is -EINVAL.
 * Masks      Features, modes and ioctls are 64-bit masks with the kernel's own values, so the kernel's macros may be
 *            passed. A bit that this library does not know is passed on, never dropped.
 * Threads    Every function may be called from any thread unless its comment says otherwise. A handle must not be used
 *            while or after it is closed, except where uffd_close() says so.
 * Cancelling A thread may be cancelled (pthread_cancel) while it waits in uffd_read(), uffd_loop_step() or
 *            uffd_prefetch_wait(): nothing is lost. A call that waits for a loop, or on a memory, returns first, and an
 *            access to served memory ends first. Any other call may be where a thread is cancelled, and then loses
 *            what it was making.
 * Fork       Handles are dead in a forked child: every call there returns -EOWNERDEAD, and closing only frees memory.
 *            Children of raw clone() are noticed too.
 * Kernel     4.11 is the oldest useful one. Each comment names the kernel that a function needs beyond that. Everything
 *            is asked of the running kernel. The behaviour described here was verified on Linux 6.18.
 *
 * This header is C99 and C++11. It may stand before or after <linux/userfaultfd.h>, which owns the name UFFD_API.
 */
#ifndef UFFD_H
#define UFFD_H

#include <stddef.h>
#include <stdint.h>

#define UFFD_VERSION_MAJOR 0
#define UFFD_VERSION_MINOR 1
#define UFFD_VERSION_PATCH 0

#if defined(__GNUC__)
#define UFFD_EXPORT                            __attribute__((visibility("default")))
#define UFFD_PRINTF(format_index, first_index) __attribute__((format(printf, format_index, first_index)))
#else
#define UFFD_EXPORT
#define UFFD_PRINTF(format_index, first_index)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Group: the library */

/* The version of the library that runs, "0.1.0". Never fails. */
UFFD_EXPORT const char *uffd_version(void);

/*
 * The sentence of the calling thread's last failed call: the cause, and what to do about it. It stays valid until the
 * next call of this thread that fails; calls that succeed leave it alone. Never NULL.
 */
UFFD_EXPORT const char *uffd_errmsg(void);

/* Where the library takes memory for its own bookkeeping. Never called while a fault is answered. */
struct uffd_allocator {
  size_t size;                                           /* sizeof(struct uffd_allocator) */
  void *(*alloc)(void *ctx, size_t length);              /* aligned as malloc; NULL when there is none */
  void (*free)(void *ctx, void *pointer, size_t length); /* pointer may be NULL */
  void *ctx;
};

/*
 * Replaces malloc and free for the library's bookkeeping; NULL restores them. Not thread-safe: call it before anything
 * else.
 *   -EBUSY   a handle exists
 *   -EINVAL  alloc or free is NULL, or the size is wrong
 */
UFFD_EXPORT int uffd_set_allocator(const struct uffd_allocator *allocator);

enum { UFFD_LOG_ERROR = 0, UFFD_LOG_WARNING = 1, UFFD_LOG_INFO = 2 };

/*
 * Called from any thread, also from one that answers faults: it must not touch served memory, and must not wait for a
 * thread that does. level: UFFD_LOG_*.
 */
typedef void uffd_log_fn(void *ctx, int level, const char *sentence);

/* Sends the library's few warnings (a resolver that failed, an unknown event) to fn. NULL, the default: no output. */
UFFD_EXPORT void uffd_set_log(uffd_log_fn *fn, void *ctx);

/* Group: names and masks */

/* Features of a userfaultfd: the kernel's UFFD_FEATURE_* bits under names that cannot collide with its header. */
#define UFFD_FEAT_PAGEFAULT_FLAG_WP  (UINT64_C(1) << 0)  /* 5.7 */
#define UFFD_FEAT_EVENT_FORK         (UINT64_C(1) << 1)  /* 4.11; needs CAP_SYS_PTRACE */
#define UFFD_FEAT_EVENT_REMAP        (UINT64_C(1) << 2)  /* 4.11 */
#define UFFD_FEAT_EVENT_REMOVE       (UINT64_C(1) << 3)  /* 4.11 */
#define UFFD_FEAT_MISSING_HUGETLBFS  (UINT64_C(1) << 4)  /* 4.11 */
#define UFFD_FEAT_MISSING_SHMEM      (UINT64_C(1) << 5)  /* 4.11 */
#define UFFD_FEAT_EVENT_UNMAP        (UINT64_C(1) << 6)  /* 4.11 */
#define UFFD_FEAT_SIGBUS             (UINT64_C(1) << 7)  /* 4.14 */
#define UFFD_FEAT_THREAD_ID          (UINT64_C(1) << 8)  /* 4.14 */
#define UFFD_FEAT_MINOR_HUGETLBFS    (UINT64_C(1) << 9)  /* 5.13 */
#define UFFD_FEAT_MINOR_SHMEM        (UINT64_C(1) << 10) /* 5.14 */
#define UFFD_FEAT_EXACT_ADDRESS      (UINT64_C(1) << 11) /* 5.18 */
#define UFFD_FEAT_WP_HUGETLBFS_SHMEM (UINT64_C(1) << 12) /* 5.19 */
#define UFFD_FEAT_WP_UNPOPULATED     (UINT64_C(1) << 13) /* 6.4 */
#define UFFD_FEAT_POISON             (UINT64_C(1) << 14) /* 6.6 */
#define UFFD_FEAT_WP_ASYNC           (UINT64_C(1) << 15) /* 6.7 */
#define UFFD_FEAT_MOVE               (UINT64_C(1) << 16) /* 6.8 */
#define UFFD_FEAT_RWP                (UINT64_C(1) << 17) /* posted for 7.x */
#define UFFD_FEAT_RWP_ASYNC          (UINT64_C(1) << 18) /* posted for 7.x */

/* What a range is registered for: the kernel's UFFDIO_REGISTER_MODE_* bits. */
#define UFFD_MODE_MISSING (UINT64_C(1) << 0) /* 4.3: no page there */
#define UFFD_MODE_WP      (UINT64_C(1) << 1) /* 5.7: a write to a protected page */
#define UFFD_MODE_MINOR   (UINT64_C(1) << 2) /* 5.13: the page cache has the page, this mapping does not */
#define UFFD_MODE_RWP     (UINT64_C(1) << 3) /* posted for 7.x */

/* Bits of the ioctl masks that registering returns: 1 << the kernel's ioctl number. */
#define UFFD_IOCTL_REGISTER     (UINT64_C(1) << 0)
#define UFFD_IOCTL_UNREGISTER   (UINT64_C(1) << 1)
#define UFFD_IOCTL_WAKE         (UINT64_C(1) << 2)
#define UFFD_IOCTL_COPY         (UINT64_C(1) << 3)
#define UFFD_IOCTL_ZEROPAGE     (UINT64_C(1) << 4)
#define UFFD_IOCTL_MOVE         (UINT64_C(1) << 5)
#define UFFD_IOCTL_WRITEPROTECT (UINT64_C(1) << 6)
#define UFFD_IOCTL_CONTINUE     (UINT64_C(1) << 7)
#define UFFD_IOCTL_POISON       (UINT64_C(1) << 8)
#define UFFD_IOCTL_API          (UINT64_C(1) << 63)

/* The mode argument of each operation: the kernel's UFFDIO_*_MODE_* bits. */
#define UFFD_COPY_DONTWAKE         (UINT64_C(1) << 0)
#define UFFD_COPY_WP               (UINT64_C(1) << 1) /* 5.7: arrives write-protected */
#define UFFD_ZEROPAGE_DONTWAKE     (UINT64_C(1) << 0)
#define UFFD_WRITEPROTECT_WP       (UINT64_C(1) << 0) /* protect; without it: unprotect */
#define UFFD_WRITEPROTECT_DONTWAKE (UINT64_C(1) << 1)
#define UFFD_CONTINUE_DONTWAKE     (UINT64_C(1) << 0)
#define UFFD_CONTINUE_WP           (UINT64_C(1) << 1) /* 6.4 */
#define UFFD_POISON_DONTWAKE       (UINT64_C(1) << 0)
#define UFFD_MOVE_DONTWAKE         (UINT64_C(1) << 0)
#define UFFD_MOVE_ALLOW_SRC_HOLES  (UINT64_C(1) << 1)

/*
 * Names of bits. uffd_*_name() returns the kernel's name of a bit (0 to 63) in small letters, such as "event_fork",
 * "missing" or "copy"; NULL for an unknown bit. uffd_*_bit() returns the mask of a name, 0 for an unknown one; capitals
 * and the kernel's prefixes ("UFFD_FEATURE_EVENT_FORK", "UFFDIO_REGISTER_MODE_WP", "UFFDIO_COPY") are understood.
 */
UFFD_EXPORT const char *uffd_feature_name(unsigned bit);
UFFD_EXPORT uint64_t uffd_feature_bit(const char *name);
UFFD_EXPORT const char *uffd_mode_name(unsigned bit);
UFFD_EXPORT uint64_t uffd_mode_bit(const char *name);
UFFD_EXPORT const char *uffd_ioctl_name(unsigned bit);
UFFD_EXPORT uint64_t uffd_ioctl_bit(const char *name);

/* Group: probing */

/* The way a userfaultfd was made. */
enum {
  UFFD_ROUTE_AUTO = 0,    /* option: whichever is allowed, the system call first */
  UFFD_ROUTE_SYSCALL = 1, /* userfaultfd(2) */
  UFFD_ROUTE_DEVICE = 2,  /* /dev/userfaultfd, 6.1 */
  UFFD_ROUTE_ADOPTED = 3  /* result only: made elsewhere */
};

/* What this kernel allows this user. */
struct uffd_probe {
  size_t size;             /* in: sizeof(struct uffd_probe); UFFD_PROBE_INIT sets it */
  char kernel[128];        /* uname -r */
  int usable;              /* 1: uffd_open() with no options works */
  uint32_t route;          /* the UFFD_ROUTE_* that uffd_open() takes, 0 if none */
  int user_mode_only;      /* 1: only with UFFD_USER_MODE_ONLY */
  int syscall_error;       /* 0, or the errno of userfaultfd(2) without USER_MODE_ONLY */
  int syscall_umo_error;   /* 0, or the errno of userfaultfd(2) with it */
  int device_error;        /* 0, or the errno of /dev/userfaultfd */
  int sysctl_unprivileged; /* vm.unprivileged_userfaultfd: 0, 1, or -1 when it cannot be read */
  int event_fork;          /* 1: EVENT_FORK may be enabled (CAP_SYS_PTRACE) */
  uint64_t features;       /* offered by the kernel; 0 when not usable */
  uint64_t missing;        /* named by this library, lacking in the kernel */
  uint64_t page_size;      /* bytes */
  uint64_t hugepage_size;  /* bytes of a default huge page; 0 without hugetlb */
  uint64_t hugepages_total;
  uint64_t hugepages_free;
};
#define UFFD_PROBE_INIT                                                                                                \
  { sizeof(struct uffd_probe), {0}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Fills *probe. Returns 0 also when userfaultfd is refused, because *probe says so. -EINVAL: the size is wrong. */
UFFD_EXPORT int uffd_probe(struct uffd_probe *probe);

/*
 * Advice about a probe, sentence by sentence (index 0, 1, ...): what is refused, why, and how to get it. Writes at most
 * length bytes, the final zero included. Returns the length of the sentence, 0 when there is none with this index, or
 * -EINVAL: the probe's size is wrong.
 */
UFFD_EXPORT int uffd_probe_advice(const struct uffd_probe *probe, unsigned index, char *text, size_t length);

/* Group: the object */

/* One userfaultfd: its descriptor, its features, and the address space that it serves, which is its maker's. */
typedef struct uffd_object uffd_object;

enum {
  UFFD_OPEN_BLOCKING = 1,         /* a blocking descriptor: poll(2) always says POLLERR, uffd_read() needs timeout -1 */
  UFFD_OPEN_USER_MODE_ONLY = 2,   /* ask for UFFD_USER_MODE_ONLY at once (5.11) */
  UFFD_OPEN_NO_USER_MODE_ONLY = 4 /* never fall back to it: fail instead */
};

struct uffd_open_opts {
  size_t size;
  uint64_t features; /* UFFD_FEAT_* that must be enabled; unknown bits are passed on */
  uint64_t optional; /* UFFD_FEAT_* enabled where kernel and permissions have them */
  uint32_t flags;    /* UFFD_OPEN_* */
  uint32_t route;    /* UFFD_ROUTE_AUTO, _SYSCALL or _DEVICE (then only that one is tried) */
};
#define UFFD_OPEN_OPTS_INIT                                                                                            \
  { sizeof(struct uffd_open_opts), 0, 0, 0, 0 }

/*
 * Makes a userfaultfd (always O_CLOEXEC) and does the UFFDIO_API handshake. When one route is refused, the other is
 * tried; then, unless flags forbid it, both with USER_MODE_ONLY. A USER_MODE_ONLY object gives no message for a fault
 * that the kernel takes for the program, such as a read(2) into a missing page: that call fails with EFAULT.
 * uffd_route() and uffd_user_mode_only() say what it came to. The sentence names the cause and what to do:
 *   -EPERM   no privilege (vm.unprivileged_userfaultfd is 0, no CAP_SYS_PTRACE in the initial user namespace), or a
 *            seccomp filter; or EVENT_FORK without CAP_SYS_PTRACE
 *   -EACCES  the device's permissions (route device), or an LSM
 *   -ENOENT  no /dev/userfaultfd (route device; kernels before 6.1)
 *   -ENOSYS  a kernel without userfaultfd, or a seccomp filter
 *   -EINVAL  unknown flag, or a feature that this kernel lacks (named)
 *   -EMFILE, -ENFILE, -ENOMEM  out of descriptors, or memory
 */
UFFD_EXPORT int uffd_open(const struct uffd_open_opts *opts, uffd_object **object);

/*
 * Takes over a userfaultfd that was made elsewhere (received, or inherited) and has had its handshake. The enabled
 * features are read from /proc/self/fdinfo. O_CLOEXEC and O_NONBLOCK are set; all holders of the descriptor share
 * O_NONBLOCK. On success the object owns fd; on failure the caller still does.
 *   -EBADF   fd is not open
 *   -EINVAL  not a userfaultfd, or one without its handshake
 *   -ENOMEM  no memory
 */
UFFD_EXPORT int uffd_adopt(int fd, uffd_object **object);

/*
 * Closes the object; NULL is allowed. Every range is unregistered: sleeping threads go on, and pages that are still
 * missing read as zeros from then on, because Linux has no other way. Fill first what must not be lost.
 *
 * Of an adopted object (uffd_adopt()) only the descriptor is closed, and no range is unregistered, not even one that
 * was registered through this handle. While a duplicate is open elsewhere, its holder serves the ranges and their
 * threads sleep on. The kernel unregisters them with the last descriptor.
 *
 * May be called while other threads are inside calls on this object: they return -EBADF, and the descriptor is closed
 * when the last one is out, so that its number is never taken for a newer file's. In a forked child it only frees the
 * handle.
 */
UFFD_EXPORT void uffd_close(uffd_object *object);

UFFD_EXPORT int uffd_fd(const uffd_object *object); /* the descriptor, owned by the object; or -EBADF, -EOWNERDEAD */
UFFD_EXPORT uint64_t uffd_features(const uffd_object *object);  /* UFFD_FEAT_*: enabled in this object */
UFFD_EXPORT uint64_t uffd_available(const uffd_object *object); /* UFFD_FEAT_*: of this kernel; 0: not known */
UFFD_EXPORT int uffd_route(const uffd_object *object);          /* UFFD_ROUTE_* */
UFFD_EXPORT int uffd_user_mode_only(const uffd_object *object); /* 1, 0; -1: adopted, and the kernel does not tell */

/*
 * From /proc/self/fdinfo. *pending: faults that are queued and not read. *total: those, and faults that were read and
 * whose threads still sleep. Either may be NULL.
 *   -EBADF, -EOWNERDEAD  the handle
 *   -EIO                 fdinfo cannot be read
 */
UFFD_EXPORT int uffd_pending(uffd_object *object, uint64_t *pending, uint64_t *total);

/*
 * Registers [start, start+length), addresses and bytes, for modes (UFFD_MODE_*). *ioctls (may be NULL) receives the
 * operations that are offered there, as UFFD_IOCTL_*. start and length are multiples of the memory's page size, which
 * for huge pages is theirs. There may be holes, as long as something is mapped. To take a mode away, unregister first:
 * registering again with fewer modes changes nothing. KSM drops the write protection of what it merges: for
 * UFFD_MODE_WP the range is taken out of it (MADV_UNMERGEABLE); do not mark it again, nor the process
 * (PR_SET_MEMORY_MERGE). Another process's memory is its owner's affair.
 *   -EINVAL  alignment, overflow, nothing mapped, no mode, or a kind of memory that the mode cannot have; the sentence
 *            says which (SysV shared memory, an ordinary file, MINOR on anonymous memory, ...)
 *   -EPERM   a read-only shared mapping, or a memfd sealed against writing
 *   -EBUSY   a part of it belongs to another userfaultfd
 *   -ENOMEM  the address space is gone, vm.max_map_count is reached, or no memory for what KSM has merged
 *   -EBADF, -EOWNERDEAD  the handle
 */
UFFD_EXPORT int uffd_register(uffd_object *object, uint64_t start, uint64_t length, uint64_t modes, uint64_t *ioctls);

/*
 * Unregisters the range and wakes every thread that sleeps in it; the kernel alone leaves those asleep whose fault is
 * WP or MINOR. Pages that are still missing read as zeros from then on. Errors as uffd_register().
 */
UFFD_EXPORT int uffd_unregister(uffd_object *object, uint64_t start, uint64_t length);

/*
 * The operations that fill a range of any number of pages. start and dst are addresses, length is bytes, both multiples
 * of the page size. Each operation does the whole range, or stops at the first page that cannot be done. *done (may be
 * NULL) always receives the bytes that were done, counted from the start. Where the kernel does only a part, or the
 * range lies in several mappings, the operation goes on by itself. mode: UFFD_<OPERATION>_* bits, or 0. Threads that
 * sleep on a page are woken when it is done, unless mode has DONTWAKE.
 *   -EEXIST  the page at start + *done is there already; its sleepers have been woken (unless DONTWAKE)
 *   -EAGAIN  an event (fork, remap, remove, unmap) is not read yet, or the thread that caused it has not run since:
 *            read, then try again
 *   -ENOENT  the page at start + *done is not mapped or not registered
 *   -ESRCH   the address space is gone (exited or executed another program)
 *   -EINVAL  alignment, overflow, unknown mode, or an operation that this kind of memory does not have
 *   -ENOMEM  no memory, cgroup limit, or no free huge page
 *   -EFAULT  see each
 *   -EBADF, -EOWNERDEAD  the handle
 */

/* Copies from source (this process, any alignment). -EFAULT: source cannot be read, or dst is beyond the file's end. */
UFFD_EXPORT int uffd_copy(uffd_object *object, uint64_t dst, const void *source, uint64_t length, uint64_t mode,
                          uint64_t *done);
/* Maps zero pages. -EINVAL also: huge pages, which have no zero page. */
UFFD_EXPORT int uffd_zeropage(uffd_object *object, uint64_t start, uint64_t length, uint64_t mode, uint64_t *done);
/* 5.13 (UFFD_CONTINUE_WP: 6.4): maps what the page cache has. -EFAULT: it has no page there, or start is beyond the
 * file's end. */
UFFD_EXPORT int uffd_continue(uffd_object *object, uint64_t start, uint64_t length, uint64_t mode, uint64_t *done);
/* 6.6: poisons: every access raises SIGBUS (a system call gets EFAULT) until the page is dropped. */
UFFD_EXPORT int uffd_poison(uffd_object *object, uint64_t start, uint64_t length, uint64_t mode, uint64_t *done);
/*
 * 6.8: moves the pages of private anonymous memory of this process, without copying; the source is empty afterwards.
 * Both ranges must lie in memory that the caller owns, because neighbouring mappings merge and the kernel then moves
 * beyond a buffer's end without an error.
 *   -ENOENT  also: a hole in the source
 *   -EBUSY   a page is shared with a forked process, or pinned
 *   -EINVAL  also: called from another process, the ranges overlap, or the mappings differ in kind or protection
 */
UFFD_EXPORT int uffd_move(uffd_object *object, uint64_t dst, uint64_t src, uint64_t length, uint64_t mode,
                          uint64_t *done);

/*
 * 5.7: write-protects the range (mode has UFFD_WRITEPROTECT_WP) or unprotects it. The range must be registered with
 * UFFD_MODE_WP. Unprotecting wakes the threads that sleep there, unless mode has DONTWAKE. Holes between mappings are
 * passed over, as long as something is mapped. Errors as above; the kernel checks each mapping as it comes to it, so
 * -ENOENT may come after a part was changed. The sentence names the first page that is not registered for WP.
 */
UFFD_EXPORT int uffd_writeprotect(uffd_object *object, uint64_t start, uint64_t length, uint64_t mode);

/* Wakes the threads that sleep on faults in the range: they repeat their access. The range need not be registered. */
UFFD_EXPORT int uffd_wake(uffd_object *object, uint64_t start, uint64_t length);

/* The type of an event: the kernel's UFFD_EVENT_* values. */
enum { UFFD_PAGEFAULT = 0x12, UFFD_FORK = 0x13, UFFD_REMAP = 0x14, UFFD_REMOVE = 0x15, UFFD_UNMAP = 0x16 };

/* Flags of a page fault: the kernel's UFFD_PAGEFAULT_FLAG_* values. Neither WP nor MINOR: missing. */
#define UFFD_FAULT_WRITE (UINT64_C(1) << 0)
#define UFFD_FAULT_WP    (UINT64_C(1) << 1)
#define UFFD_FAULT_MINOR (UINT64_C(1) << 2)

struct uffd_event {
  uint32_t type;       /* UFFD_PAGEFAULT ...; an unknown type keeps its number, and its payload in the fields below */
  uint32_t tid;        /* pagefault: the thread, in its own pid namespace, if UFFD_FEAT_THREAD_ID is enabled; else 0 */
  uint64_t flags;      /* pagefault: UFFD_FAULT_*; unknown bits are carried */
  uint64_t address;    /* pagefault: the page (the byte with EXACT_ADDRESS); remap: from; remove, unmap: start */
  uint64_t to;         /* remap: the new address */
  uint64_t length;     /* remap, remove, unmap: bytes */
  uffd_object *object; /* fork: the child's object, now the caller's, to be closed with uffd_close() */
};

/*
 * Reads 1 to count events, at most 64 in a call. timeout_ms: 0 does not wait, -1 waits for ever. Returns the number of
 * events, or 0 when timeout_ms > 0 has passed.
 *
 * The kernel hands faults out before events that are older. So read until -EAGAIN, and apply the events before the
 * faults are resolved. A fault that was read must be resolved or woken, because it is not told again.
 *
 * With EVENT_FORK the thread that reads must not wait for malloc, because glibc's fork() holds malloc's locks until the
 * event is read. This function and the handlers of a loop allocate nothing; a program that reads and forks itself must
 * read in a thread that keeps to it.
 *   -EAGAIN  nothing is there (timeout 0)
 *   -EBADF   the object was closed meanwhile
 *   -EMFILE  there is no descriptor for the child of a fork: the event stays queued; close something and read again
 *   -EINVAL  count is 0, or a timeout on a blocking object
 *   -EOWNERDEAD  a forked child
 */
UFFD_EXPORT int uffd_read(uffd_object *object, struct uffd_event *events, unsigned count, int timeout_ms);

/* Group: memory */

/* A mapping of this process that can be served. */
typedef struct uffd_memory uffd_memory;

/*
 * THP is the default: blocks of 2 MiB that come in one answer and have no zero page are moved in whole (6.8), in half
 * the time; all else comes in base pages.
 */
enum {
  UFFD_MEMORY_ANONYMOUS = 0, /* private, of base pages only */
  UFFD_MEMORY_THP = 1,       /* private, 2 MiB aligned, MADV_HUGEPAGE */
  UFFD_MEMORY_MEMFD = 2,     /* shared memory with a second, unregistered mapping: the alias */
  UFFD_MEMORY_HUGETLB = 3,   /* a memfd of 2 MiB huge pages, with its alias */
  UFFD_MEMORY_ADOPTED = 4,   /* result only: mapped by somebody else, see uffd_memory_adopt() */
  UFFD_MEMORY_FOREIGN = 5    /* result only: in another process, see uffd_memory_foreign() */
};

enum {
  UFFD_MAP_FORK = 1,   /* forked children inherit it. By default they do not (MADV_DONTFORK), because they would read
                          zeros where pages are missing, unless a loop with EVENT_FORK serves them (threads, pump) */
  UFFD_MAP_PRIVATE = 2 /* memfd, hugetlb: the served mapping is private (the alias stays shared) */
};

struct uffd_map_opts {
  size_t size;
  uint32_t kind;    /* UFFD_MEMORY_*, not ADOPTED or FOREIGN */
  uint32_t flags;   /* UFFD_MAP_* */
  const char *name; /* of the memfd in /proc; NULL: "uffd" */
  uffd_memory *of;  /* memfd, hugetlb: another private mapping of the memfd of this memory, which was mapped with
                       UFFD_MAP_PRIVATE; as long as that one, and of its kind. See uffd_resolver_shared() */
};
#define UFFD_MAP_OPTS_INIT                                                                                             \
  { sizeof(struct uffd_map_opts), UFFD_MEMORY_THP, 0, NULL, NULL }

/*
 * Maps length bytes, rounded up to whole pages. The memory reads as zeros until it is served. No page is there at
 * first, also under mlockall(MCL_FUTURE), which then locks each page when it comes. What the program writes before the
 * memory is served stays. Private pages that hold nothing but zeros when a region is added for the first time (because
 * they were read, or locked) are dropped then, and asked for like missing ones: do not write to the memory meanwhile.
 *   -EINVAL  length is 0 or beyond the address space, or an unknown kind or flag
 *   -ENOMEM  no memory, or no free huge pages; the sentence says how to get them
 *   -EAGAIN  mlockall(MCL_FUTURE), and the memory exceeds RLIMIT_MEMLOCK
 *   -EMFILE, -ENFILE  out of descriptors (memfd, hugetlb)
 *   -ENOSYS  a kernel without hugetlb
 */
UFFD_EXPORT int uffd_map(uint64_t length, const struct uffd_map_opts *opts, uffd_memory **memory);

/*
 * A handle for [address, address+length) of this process, mapped by somebody else, who keeps it mapped until the handle
 * is closed. The page size is the one that the kernel tells (/proc/self/maps); the whole range must have the same.
 * Pages that are there when a region is added count as filled: they stay as they are, zeros included, nobody is asked
 * for them, and UFFD_MODE_WP does not protect them.
 *   -EINVAL  alignment, overflow, a part is not mapped, or page sizes are mixed
 *   -ENOMEM  no memory
 */
UFFD_EXPORT int uffd_memory_adopt(void *address, uint64_t length, uffd_memory **memory);

struct uffd_foreign_opts {
  size_t size;
  uint64_t page_size; /* bytes: 0 the base page, or that of the huge pages there, at most 2 MiB */
  int32_t pid;        /* the process, as seen from here; 0: unknown */
  uint32_t reserved;  /* 0 */
};
#define UFFD_FOREIGN_OPTS_INIT                                                                                         \
  { sizeof(struct uffd_foreign_opts), 0, 0, 0 }

/*
 * A handle for [address, address+length) of another process, whose userfaultfd was handed over (uffd_adopt()). The
 * addresses mean nothing here: uffd_memory_address() is NULL, and reading, writing and prefaulting are refused. A
 * region of it names the object (uffd_region_opts.object) and, as its modes, what the owner has registered. The loop
 * does not register it, and unregisters it in uffd_region_complete() only. Not for the inline engine. With the pid, a
 * huge page that is there can be told from an empty pool of huge pages (/proc/PID/pagemap, where it may be read).
 *   -EINVAL  length is 0, overflow, not whole pages, an impossible page size, pid is negative, or reserved is not 0
 *   -ENOMEM  no memory
 */
UFFD_EXPORT int uffd_memory_foreign(uint64_t address, uint64_t length, const struct uffd_foreign_opts *opts,
                                    uffd_memory **memory);

/*
 * Ends the caller's use of the memory; NULL is allowed. What uffd_map() mapped is unmapped when no loop serves it and
 * no resolver reads from it any more. Loops with EVENT_UNMAP and EVENT_REMAP tell a memory where its parts lie after
 * munmap and mremap: all functions then use that place, and what was unmapped is -EFAULT. Without these events a part
 * that the program has unmapped or moved is noticed when its region ends: it is not unmapped again, and what else lies
 * there by then is left alone. Anonymous memory that no loop serves can be told from the program's other mappings only
 * where the kernel has names for them (CONFIG_ANON_VMA_NAME, 5.17): elsewhere do not move it or unmap it by yourself.
 */
UFFD_EXPORT void uffd_memory_close(uffd_memory *memory);

/* Where its first byte lies now; if that was unmapped, would lie. NULL: in another process, or all of it unmapped. */
UFFD_EXPORT void *uffd_memory_address(const uffd_memory *memory);
UFFD_EXPORT uint64_t uffd_memory_start(const uffd_memory *memory);     /* the address, in whichever process it lies */
UFFD_EXPORT uint64_t uffd_memory_length(const uffd_memory *memory);    /* bytes, whole pages */
UFFD_EXPORT uint64_t uffd_memory_page_size(const uffd_memory *memory); /* bytes */
UFFD_EXPORT int uffd_memory_kind(const uffd_memory *memory);           /* UFFD_MEMORY_* */
/*
 * The memfd, owned by the memory; -ENOENT if it has none. Whoever reads a hole of it through another mapping finds
 * zeros there (pread(2) too) until the page is filled: complete the region first. The served memory does not: it asks
 * its resolver for a page that holds nothing but zeros and was not filled by the loop. This needs minor faults (5.14,
 * hugetlb 5.13), which the loop registers besides the region's modes. A page into which somebody has written anything
 * is taken as it is.
 */
UFFD_EXPORT int uffd_memory_fd(const uffd_memory *memory);
/*
 * The second mapping of memfd or hugetlb memory. It is not registered: fill pages through it, then CONTINUE. It never
 * has huge pages by accident. NULL: the memory has none.
 */
UFFD_EXPORT void *uffd_memory_alias(const uffd_memory *memory);

/*
 * Copies out of the memory, and into it, with checked bounds. Missing pages are served as for any other access. A
 * poisoned page is an error here, not a SIGBUS. offset and length are bytes. On an error the pages before it are
 * copied.
 *   -ERANGE      outside the memory
 *   -EHWPOISON   a poisoned page
 *   -EFAULT      a missing page that nobody serves in kernel mode (USER_MODE_ONLY without a loop)
 *   -EDEADLK     a missing page that the calling thread itself would have to answer: it drives the pump that serves it
 *   -EOPNOTSUPP  memory of another process
 *   -EOWNERDEAD  a forked child
 */
UFFD_EXPORT int uffd_memory_read(uffd_memory *memory, uint64_t offset, void *buffer, uint64_t length);
UFFD_EXPORT int uffd_memory_write(uffd_memory *memory, uint64_t offset, const void *buffer, uint64_t length);

/*
 * Brings in the pages of [offset, offset+length), bytes, before a system call is given their address: with the inline
 * engine, and with USER_MODE_ONLY, the call would fail with EFAULT. write: also unprotects them. Pages that are there
 * stay. Memory that is not served is left alone. Errors as uffd_memory_read().
 */
UFFD_EXPORT int uffd_memory_prefault(uffd_memory *memory, uint64_t offset, uint64_t length, int write);

/*
 * Discards [offset, offset+length), whole pages that a loop serves: they are missing again, and the next access asks
 * their resolver anew. What was written to them is lost, and so is poison. Of shared memory (a memfd without
 * UFFD_MAP_PRIVATE, hugetlb, adopted) the pages go for every mapping of it, the alias included.
 *   -ERANGE      outside the memory
 *   -EINVAL      not whole pages, or locked by mlock(2)
 *   -ENOENT      a part that nobody serves, which would read as zeros: nothing is discarded
 *   -EDEADLK     called from a callback of the loop, or by the driver of a pump whose object has EVENT_REMOVE
 *   -ECANCELED   the loop was closed
 *   -EOPNOTSUPP  memory of another process
 *   -EOWNERDEAD  a forked child
 */
UFFD_EXPORT int uffd_memory_discard(uffd_memory *memory, uint64_t offset, uint64_t length);

/* Group: resolvers */

/*
 * Says what pages hold. A resolver has a size: the bytes that it can answer for, from offset 0 on; UINT64_MAX: any
 * number. It never changes, may serve many regions and loops at once, and lives until the last of them is closed.
 */
typedef struct uffd_resolver uffd_resolver;

UFFD_EXPORT void uffd_resolver_close(uffd_resolver *resolver); /* ends the caller's use; NULL is allowed */
/* One more use, which needs a close of its own: for callers that share a resolver. NULL is allowed. */
UFFD_EXPORT void uffd_resolver_hold(uffd_resolver *resolver);
UFFD_EXPORT uint64_t uffd_resolver_size(const uffd_resolver *resolver);
UFFD_EXPORT const char *uffd_resolver_kind(const uffd_resolver *resolver); /* "zero", "file", ... */

/* Zero pages. Errors: -ENOMEM. */
UFFD_EXPORT int uffd_resolver_zero(uffd_resolver **resolver);

/* 6.6: poison. Every access raises SIGBUS. Errors: -ENOMEM. Adding it to a loop before 6.6: -EOPNOTSUPP. */
UFFD_EXPORT int uffd_resolver_poison(uffd_resolver **resolver);

/* A copy of length bytes of data, zeros to the end of their last page. Errors: -EINVAL length 0; -ENOMEM. */
UFFD_EXPORT int uffd_resolver_bytes(const void *data, uint64_t length, uffd_resolver **resolver);

/* A pattern of 1 byte to 1 MiB, repeated without end from offset 0. Errors: -EINVAL length; -ENOMEM. */
UFFD_EXPORT int uffd_resolver_pattern(const void *pattern, uint64_t length, uffd_resolver **resolver);

struct uffd_file_opts {
  size_t size;
  uint64_t offset; /* of the contents in the file, bytes, any alignment */
  uint64_t length; /* bytes; 0: to the end of the file */
  uint64_t flags;  /* UFFD_FILE_* */
};
#define UFFD_FILE_OPTS_INIT                                                                                            \
  { sizeof(struct uffd_file_opts), 0, 0, 0 }

enum {
  UFFD_FILE_CHANGES = 1 /* the program itself writes to the file while it is served: a page is what the file holds when
                           the page is asked for */
};

/*
 * The contents of a file or block device, read with pread(2). Holes (SEEK_HOLE) are zero pages; after the contents'
 * end zeros follow, to the end of the last page. A page that cannot be read fails by itself (-EIO, or -ENODATA when the
 * file has become shorter), and on_error says what becomes of it.
 *
 * The file must not change while it is served. After each read its size and time of modification are compared with
 * those at the beginning; when they differ, the pages fail with -ESTALE, so that neither zeros nor somebody else's
 * bytes stand for what the file held. Not noticed are writes to a block device, and stores through a mapping that had
 * dirtied their page before.
 *
 * The resolver keeps a descriptor of its own. _fd leaves fd with the caller, who may close it. O_DIRECT stays.
 *   -EINVAL  not a regular file or block device, empty, or offset + length is beyond its end
 *   -EMFILE  no descriptor is free
 *   and those of open(2)
 */
UFFD_EXPORT int uffd_resolver_file(const char *path, const struct uffd_file_opts *opts, uffd_resolver **resolver);
UFFD_EXPORT int uffd_resolver_file_fd(int fd, const struct uffd_file_opts *opts, uffd_resolver **resolver);

/*
 * Copies the contents of another memory, from offset (bytes) on. That memory must not be served, because a handler that
 * waits for its own answer would wait for ever.
 *   -EBUSY       it is served; serving it later is -EBUSY too
 *   -ERANGE      offset is outside of it
 *   -EOPNOTSUPP  memory of another process
 *   -ENOMEM      no memory
 */
UFFD_EXPORT int uffd_resolver_memory(uffd_memory *source, uint64_t offset, uffd_resolver **resolver);

/*
 * For memfd and hugetlb memory (5.13 and 5.14): pages that the page cache has are mapped, without a copy. Other pages
 * come from fill; NULL: they are zeros. Errors: -ENOMEM. Adding it to other kinds of memory: -EINVAL.
 */
UFFD_EXPORT int uffd_resolver_continue(uffd_resolver *fill, uffd_resolver **resolver);

/*
 * Moves the pages of another memory in, without a copy (6.8). Each page moves once: a second fault there reads zeros. A
 * page that cannot be moved (shared by fork, pinned, or a kernel before 6.8) is copied. Source and target must be
 * private anonymous memory, and the source must not be served. Errors as uffd_resolver_memory(), and
 *   -EINVAL  the source is of another kind. When the resolver is added: the target is, or the loop has EVENT_FORK: a
 *            forked child would read zeros for every page that its parent has taken since
 */
UFFD_EXPORT int uffd_resolver_move(uffd_memory *source, uint64_t offset, uffd_resolver **resolver);

struct uffd_layer {
  uint64_t offset;          /* where the layer lies, bytes */
  uint64_t length;          /* bytes; 0: a ground layer, which lies beneath the others */
  uffd_resolver *resolver;  /* answers there, asked from resolver_offset on */
  uint64_t resolver_offset; /* bytes */
};

/*
 * Several resolvers side by side. A layer with a length lies on top; two of these must not overlap. A ground layer
 * (length 0) lies beneath them, and reaches to the next ground layer or to its resolver's end. What no layer covers is
 * zeros.
 *   -EINVAL  layers overlap (the sentence names both ranges), a resolver is shorter than its layer, or count is 0
 *   -ENOMEM  no memory
 */
UFFD_EXPORT int uffd_resolver_layers(const struct uffd_layer *layers, size_t count, uffd_resolver **resolver);

/*
 * One copy for all clones: memory is a private mapping of a memfd (UFFD_MAP_PRIVATE; kind memfd or hugetlb), and so are
 * those that were mapped of it (uffd_map_opts.of). A page that below has answered is filled once, in the memfd, and
 * mapped into each of them at its first touch, without another copy; below is asked once, by whoever comes first. A
 * page that one of them writes to becomes its own. Each region of each of them has this resolver, or one of the same
 * memory, perhaps as a ground below layers that are the region's own; page for page at the offset in the memory, so
 * with a resolver_offset that is the region's offset. All that share must have the same contents below.
 *
 * The memfd is sealed (F_SEAL_FUTURE_WRITE, 5.1): other processes can map it, and not write to it. Pages that are zero
 * take memory, once. Huge pages are not reserved for the further mappings: their first write to a page needs a free
 * one, or raises SIGBUS, as in any private mapping of huge pages.
 *   -EINVAL      memory is not a private mapping of a memfd, or below is NULL
 *   -EOWNERDEAD  a forked child
 *   -ENOMEM, -EMFILE, -ENFILE  no memory, or no descriptor
 * uffd_loop_add() says -EINVAL of another memory, and -EOPNOTSUPP without minor faults (5.13; huge pages 5.14).
 */
UFFD_EXPORT int uffd_resolver_shared(uffd_memory *memory, uffd_resolver *below, uffd_resolver **resolver);

struct uffd_faulty_opts {
  size_t size;
  double error;         /* the share of the pages that fail, 0 to 1: each time they are asked for */
  double poison;        /* the share of the pages that are poison, 0 to 1 (6.6); both together at most 1 */
  int32_t error_number; /* what those that fail fail with, an errno; 0: EIO */
  uint32_t later;       /* how often a page says UFFD_ANSWER_LATER before each answer, at most 255. Beyond 1 TiB the
                           counts of two pages are one */
  uint64_t delay_ns;    /* before each answer, at most 60 s; the handler sleeps */
  uint64_t seed;        /* another seed, other pages */
};
#define UFFD_FAULTY_OPTS_INIT                                                                                          \
  { sizeof(struct uffd_faulty_opts), 0, 0, 0, 0, 0, 0 }

/*
 * For tests of programs: another resolver, made slow and unreliable. Which pages fail or are poison depends on the seed
 * and on their offsets in this resolver, not on the engine or on the order in which they are asked for. Such a page is
 * answered alone; the others as below answers, in runs.
 *   -EINVAL  an option, which the sentence names; below is NULL; or resolvers that are nested too deep
 *   -ENOMEM  no memory
 */
UFFD_EXPORT int uffd_resolver_faulty(uffd_resolver *below, const struct uffd_faulty_opts *opts,
                                     uffd_resolver **resolver);

/* One fault, as a callback sees it. Newer libraries may append fields. Offsets and lengths are bytes. */
struct uffd_fault {
  uint64_t offset;        /* of the page in the resolver's own coordinates, bytes */
  uint64_t region_offset; /* of the page in the region */
  uint64_t address;       /* of the page */
  uint64_t page_size;     /* bytes */
  uint64_t cover_offset;  /* the range that should be answered (around, prefetch, or neighbours that others wait for),
                             in the resolver's coordinates: */
  uint64_t cover_length;  /*   whole pages, the faulting one among them */
  uint64_t flags;         /* UFFD_FAULT_*, UFFD_FAULT_PREFETCH; unknown bits are carried */
  uint32_t tid;           /* the faulting thread, 0 if unknown */
  uint32_t handler;       /* index of the handler that asks */
  void *cookie;           /* the region's */
};
#define UFFD_FAULT_PREFETCH (UINT64_C(1) << 63) /* no thread waits for it: prefetch, or complete */

enum {
  UFFD_ANSWER_ZERO = 0,
  UFFD_ANSWER_BYTES = 1,    /* data: length bytes; the rest of the last page is zeros */
  UFFD_ANSWER_CONTINUE = 2, /* the page cache has it */
  UFFD_ANSWER_MOVE = 3,     /* data: pages of private anonymous memory to move in. A page moves once: with EVENT_FORK a
                               child that asks for it later finds a hole, which reads as zeros */
  UFFD_ANSWER_POISON = 4,
  UFFD_ANSWER_LATER = 5,     /* it is not there yet: whoever faults waits, and the resolver is asked again when somebody
                               says uffd_handler_ready() or uffd_region_ready(); without that after 20 us to 10 ms */
  UFFD_ANSWER_RESOLVER = 6,  /* another resolver answers; this page lies at resolver_offset there */
  UFFD_ANSWER_UNPROTECT = 7, /* in traces only: the write of a write-protect fault was let through */
  UFFD_ANSWER_FILE = 8       /* length bytes of fd, from file_offset on; the rest of the last page is zeros */
};

/*
 * An answer. The callback finds it filled in as zeros for the faulting page. The answer must cover that page, and may
 * be larger; what reaches beyond the region is cut off. offset is a multiple of the page size.
 *
 * FILE: the library reads the bytes with pread(2), in pieces, after the callback has returned. A page whose bytes the
 * file does not have (it is shorter, or reading fails) fails by itself, with that error; it is never zeros. A
 * descriptor with O_DIRECT works.
 */
struct uffd_answer {
  uint32_t kind;           /* UFFD_ANSWER_* */
  int32_t fd;              /* FILE: open for reading, and at any offset; stays the callback's, and must stay open until
                              this handler asks again. Else -1 */
  uint64_t offset;         /* first byte answered, in the resolver's coordinates */
  uint64_t length;         /* bytes */
  const void *data;        /* BYTES, MOVE: valid until this handler asks again */
  uffd_resolver *resolver; /* RESOLVER */
  uint64_t resolver_offset;
  uint64_t file_offset; /* FILE: where the first byte answered lies in the file */
  uint64_t shared;      /* the library's own: 0 */
};

/* What setup is told about the handler that will ask. */
struct uffd_handler {
  uint32_t index;     /* 0 .. count-1 */
  uint32_t count;     /* handlers of the loop; inline one more than asked for: the first one prefetches */
  const void *key;    /* unique among all living handlers: callbacks may share state by it, handler by handler; for
                         uffd_handler_ready() */
  uint64_t page_size; /* the largest page size of the regions that ask the callback so far */
};

struct uffd_callback_ops {
  size_t size;
  /*
   * Called once for each handler, in the thread that adds the region, before the first fault. *state is passed to
   * resolve, idle and teardown. Returns 0 or -errno (uffd_set_errmsg() for the sentence). May be NULL.
   */
  int (*setup)(void *ctx, const struct uffd_handler *handler, void **state);
  /*
   * Answers one fault: 0, or -errno, and then on_error says what becomes of the page. It must not touch served memory,
   * and must not wait for a lock that a faulting thread may hold. One handler asks about one fault at a time, though
   * not always in the same thread. Several handlers ask at the same time, each with its own state.
   */
  int (*resolve)(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer);
  /*
   * Called when the handler has nothing to do: time to tidy. Returns 1 if there is more to tidy, and is then called
   * again while the handler is idle. Inline: after every 64th fault that the handler has answered. May be NULL.
   */
  int (*idle)(void *ctx, void *state);
  /* Undoes setup. May be NULL. */
  void (*teardown)(void *ctx, void *state);
  /* Called when the resolver is freed: free ctx. May be NULL. */
  void (*destroy)(void *ctx);
  /*
   * A hint: [offset, offset+length), bytes of the resolver, will be asked for soon, by a prefetch. Who has to fetch
   * them begins to. Called in the handler, with its state; it must not wait. Inline: by the first handler, in a thread
   * of the loop's own. May be NULL.
   */
  void (*want)(void *ctx, void *state, uint64_t offset, uint64_t length);
};
#define UFFD_CALLBACK_OPS_INIT                                                                                         \
  { sizeof(struct uffd_callback_ops), NULL, NULL, NULL, NULL, NULL, NULL }

/*
 * A resolver that calls functions of the program. uses: the resolvers that it may hand over to (UFFD_ANSWER_RESOLVER);
 * they are kept alive and set up with it. kind (copied) is what uffd_resolver_kind() returns; NULL: "callback".
 *   -EINVAL  resolve is NULL, a size, or resolvers that are nested too deep
 *   -ENOMEM  no memory
 */
UFFD_EXPORT int uffd_resolver_callback(const struct uffd_callback_ops *ops, void *ctx, const char *kind,
                                       uffd_resolver *const *uses, size_t uses_count, uffd_resolver **resolver);

/*
 * A bell: what a callback has said LATER for has come, and the handler with this key (struct uffd_handler) asks again
 * at once for all that it has put off. Inline, the threads go on that were told LATER by this handler. Whoever fetches
 * makes the bytes visible first, and rings then. To ring too often costs time, nothing else; a key of a handler that
 * has ended, and NULL, ring nobody. Any thread; async-signal-safe.
 */
UFFD_EXPORT void uffd_handler_ready(const void *key);

/* For callbacks that fail: sets the calling thread's uffd_errmsg(). Returns -error: return uffd_set_errmsg(EIO, "...").
 */
UFFD_EXPORT int uffd_set_errmsg(int error, const char *format, ...) UFFD_PRINTF(2, 3);

/* Group: stores */

/*
 * Where pages go, as a resolver says where they come from. What is put into a store counts when uffd_store_finish() has
 * succeeded, and not before. A store that is closed before that leaves nothing behind. After a put that failed,
 * finishing fails too, so no store lacks pages. One thread at a time.
 */
typedef struct uffd_store uffd_store;

enum {
  UFFD_STORE_ZERO = 0, /* these pages are zero */
  UFFD_STORE_DATA = 1, /* these pages are the bytes given */
  UFFD_STORE_BELOW = 2 /* these pages are the same as below, where the store has something below it */
};

/*
 * Puts [offset, offset+length), bytes, in any order; what is put again replaces what was put before. kind:
 * UFFD_STORE_*. data: length bytes, copied; for DATA only.
 *   -EINVAL      a kind that the store cannot keep, length 0, beyond the store's length, not whole pages of it, or a
 *                finished store
 *   -EOWNERDEAD  a forked child
 *   and those of writing (-ENOSPC, -EIO, ...)
 */
UFFD_EXPORT int uffd_store_put(uffd_store *store, uint64_t offset, uint32_t kind, const void *data, uint64_t length);

/* Writes what was put to the disk, though not yet in its place. Errors: those of writing. */
UFFD_EXPORT int uffd_store_flush(uffd_store *store);

/*
 * Finishes the store: it appears under its name, whole, and stays even if the machine stops right after this call. What
 * was never put is the same as below, or zero. If this fails, nothing appears, and what was there before stays.
 *   -EINVAL  it is finished already
 *   -EIO     a put has failed before
 *   and those of writing
 */
UFFD_EXPORT int uffd_store_finish(uffd_store *store);

/* Closes the store; NULL is allowed. If it is not finished, what was put is dropped. */
UFFD_EXPORT void uffd_store_close(uffd_store *store);
UFFD_EXPORT const char *uffd_store_kind(const uffd_store *store); /* "file", "layer", ... */

/*
 * A file of length bytes, written beside path and put in its place; what is zero is a hole. It cannot keep BELOW.
 * Errors: those of open(2) and rename(2); -EINVAL length 0, or path is not a regular file; -EFBIG.
 */
UFFD_EXPORT int uffd_store_file(const char *path, uint64_t length, uffd_store **store);

/* Each returns 0, or -errno (call uffd_set_errmsg() for the sentence). All but put may be NULL. */
struct uffd_store_ops {
  size_t size;
  int (*put)(void *ctx, uint64_t offset, uint32_t kind, const void *data, uint64_t length);
  int (*flush)(void *ctx);
  int (*finish)(void *ctx);
  void (*abort)(void *ctx);   /* closed unfinished, or finishing has failed */
  void (*destroy)(void *ctx); /* the store is gone: free ctx */
};
#define UFFD_STORE_OPS_INIT                                                                                            \
  { sizeof(struct uffd_store_ops), NULL, NULL, NULL, NULL, NULL }

/* A store that calls back. kind (copied, may be cut): NULL is "callback". Errors: -EINVAL no put; -ENOMEM. */
UFFD_EXPORT int uffd_store_callback(const struct uffd_store_ops *ops, void *ctx, const char *kind, uffd_store **store);

/* Group: the loop */

/* Regions of memory, the engine that answers their faults, and statistics. */
typedef struct uffd_loop uffd_loop;
/* A range of memory in a loop, with the resolver that answers for it. Lives until its loop is closed. */
typedef struct uffd_region uffd_region;

enum {
  UFFD_ENGINE_AUTO = 0,    /* see uffd_loop_engine() */
  UFFD_ENGINE_THREADS = 1, /* handler threads, each with a userfaultfd and a slice of every region */
  UFFD_ENGINE_PUMP = 2,    /* the caller drives: uffd_loop_step() */
  UFFD_ENGINE_INLINE = 3   /* the faulting thread answers its own fault, in its SIGBUS handler (4.14) */
};

/*
 * The inline engine is the fastest, because no other thread has to wake up. What it costs:
 *
 * A system call that meets a missing page gets EFAULT, as with USER_MODE_ONLY. Call uffd_memory_prefault() before it,
 * or use uffd_memory_read() and uffd_memory_write(). SIGBUS must not be blocked. Callbacks run in a signal handler, in
 * as many threads at the same time as fault, so they must be async-signal-safe, and must not wait for a thread that
 * drops or unmaps pages of a loop with EVENT_REMOVE or EVENT_UNMAP: the kernel holds that thread until its event is
 * read, and events are read while no callback runs. A thread whose stack is small, or is served itself, needs
 * uffd_signal_stack().
 *
 * The SIGBUS handler is the library's from the first inline loop on, also when all are closed: a thread may have
 * faulted before, and get its signal only then. Other SIGBUS go on to the handler that was there before, with its mask
 * and flags, but on the signal stack if the thread has one; with SIG_DFL the process dies as it would have. A program
 * that installs a handler later calls uffd_sigbus() from it, or the handler that sigaction() has returned. The next
 * inline loop that is made puts the library's handler over it, which goes on to it.
 *
 * A forked child cannot be served: EVENT_FORK is refused (-EINVAL). In memory that a child inherits all the same
 * (UFFD_MAP_FORK) it reads zeros where pages are missing. A mapping that mremap moves is not followed: EVENT_REMAP is
 * refused too, and missing pages read as zeros at the new place. A mapping that grows in place raises SIGBUS in the
 * part that it gains. The signal does not tell a minor fault from a missing one: where both are possible, the resolver
 * is asked for a minor one first, and if the page cache has no page, again for a missing one.
 */

/* What becomes of a page whose resolver failed. uffd_loop_error() keeps the sentence of the first failure. */
enum {
  UFFD_ON_ERROR_DEFAULT = 0, /* of a loop: poison; before Linux 6.6, which has no poison, retry: never zeros, and
                                whoever faults waits. Of a region: what its loop says */
  UFFD_ON_ERROR_ZERO = 1,    /* it reads as zeros */
  UFFD_ON_ERROR_POISON = 2,  /* it raises SIGBUS (6.6) */
  UFFD_ON_ERROR_STOP = 3,    /* it is poisoned, and so is the page of every later fault of the loop */
  UFFD_ON_ERROR_RETRY = 4    /* the resolver is asked again, with pauses of up to 10 ms, until it has an answer, or
                                retry_ms have passed; whoever faults waits as long. Not inline */
};

enum {
  UFFD_LOOP_PAUSED = 1 /* no object is read before uffd_loop_start(); all regions of an object are added before that */
};

/*
 * Where the threads of the threads engine run. This decides what a fault costs, because waking a processor that sleeps
 * takes longer than all the rest.
 */
enum {
  UFFD_PLACEMENT_COMPANION = 0, /* two threads a handler: the companion, in SCHED_IDLE, which follows the thread that
                                   faults (its process may be another one) to its processor; and an ordinary one, which
                                   takes over while the processors are so busy that faults would wait for the first,
                                   and while there is prefetch to be done */
  UFFD_PLACEMENT_NONE = 1       /* one thread a handler, where the scheduler puts it */
};

struct uffd_loop_opts {
  size_t size;
  uint32_t engine;      /* UFFD_ENGINE_* */
  uint32_t handlers;    /* threads: 1 to 64, 0: 1; pump: 0 or 1; inline: threads that resolve at the same time, 1 to 63,
                           0: two a processor */
  uint32_t on_error;    /* UFFD_ON_ERROR_* */
  uint32_t open_flags;  /* UFFD_OPEN_USER_MODE_ONLY, UFFD_OPEN_NO_USER_MODE_ONLY for the loop's own objects */
  uint32_t route;       /* UFFD_ROUTE_* for them */
  uint32_t placement;   /* UFFD_PLACEMENT_*, of the threads engine; the others have no threads of their own */
  uint64_t features;    /* UFFD_FEAT_* to enable in them, such as UFFD_FEAT_EVENT_REMOVE; THREAD_ID is added */
  uint64_t flags;       /* UFFD_LOOP_* */
  void *ledger;         /* what a successor needs if this process dies, see uffd_ledger_size(); or NULL */
  uint64_t ledger_size; /* bytes */
  /*
   * Called in the handler when an object of the user's has told of a fork, and everything before it is applied. child
   * serves the forked process, whose memory has the same addresses as its parent's. Return 0 to take child over; a
   * negative number leaves it to the loop. ledger (NULL for a loop without one) is what the child's own ledger begins
   * with: copy it, it is unmapped when the hook returns. child is NULL when a predecessor had read of a fork and died,
   * perhaps before its hook returned: if that hook has not kept the child's descriptor, the child's missing pages read
   * as zeros. The member may be NULL: the loop serves all children.
   */
  int (*forked)(void *ctx, uffd_object *child, const void *ledger, uint64_t ledger_size);
  void *forked_ctx;
  /* Called with the sentence of each failure of this loop, when the log of uffd_set_log() is; the same rules. Or NULL.
   */
  uffd_log_fn *failed;
  void *failed_ctx;
  /*
   * Called in the handler of a loop with a ledger right after a fork was read, with forked_ctx and the child's bare
   * descriptor, which stays the loop's: no other process has it yet, and its missing pages read as zeros if this
   * process is killed now. Pass a copy on to a process that outlives this one, and nothing else: forked is called for
   * the same child soon, in the order of the calls of forking. When this process dies before that, uffd_ledger_fork()
   * with this index makes the child's ledger. NULL: nothing.
   */
  void (*forking)(void *ctx, int fd, uint32_t index);
  uint32_t retry_ms;   /* on_error RETRY: a page whose fault has waited so long is given up when its resolver fails once
                          more; 0: never */
  uint32_t retry_then; /* what becomes of it then: UFFD_ON_ERROR_ZERO, _POISON, _STOP; 0: POISON */
};
#define UFFD_LOOP_OPTS_INIT                                                                                            \
  { sizeof(struct uffd_loop_opts), 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0, NULL, NULL, NULL, NULL, NULL, 0, 0 }

/*
 * The size in bytes of a ledger for so many regions (at most 4096) with so many pages together; 0: too many.
 *
 * A ledger lets another process go on when this one is killed at any instant. It is the caller's memory: page-aligned,
 * all zeros at first, normally a shared mapping of a memfd that another process keeps too. Parts that are not used are
 * not touched. It holds what a successor must know: page states, where the regions lie after munmap and mremap, and the
 * messages that were read. A loop with a ledger has one handler, and serves memory of another process through one
 * object (threads or pump).
 *
 * The successor needs a duplicate of the object's descriptor. It makes a loop with the same ledger and
 * UFFD_LOOP_PAUSED, adds the same regions in the same order, completed ones too, and calls uffd_loop_start(), which
 * applies what was read and not applied, and lets the kernel tell all waiting faults again. It may do all but
 * uffd_loop_start() while its predecessor still serves. The same works after uffd_loop_close().
 */
UFFD_EXPORT uint64_t uffd_ledger_size(uint64_t pages, uint32_t regions);
/*
 * Makes the ledger of a forked child in child, which is all zeros, out of that of its parent; both have size bytes. For
 * a child whose descriptor was passed on by `forking` and whose `forked` was not called, because the process that
 * served the parent has died. index: as forking was called with. The parent's successor must not have started yet. Any
 * thread. -EINVAL: parent is no ledger, or it is damaged.
 */
UFFD_EXPORT int uffd_ledger_fork(void *parent, uint64_t size, uint32_t index, void *child);

/*
 * Makes a loop and starts its handlers. Regions are added while it runs.
 *   -EINVAL      an option; features SIGBUS or WP_ASYNC, which bring no faults to a loop; inline: EVENT_FORK or
 *                EVENT_REMAP; a ledger that is too small, not aligned, damaged, of another version or size, or not new
 *                without UFFD_LOOP_PAUSED; a ledger with several handlers or inline
 *   -EOPNOTSUPP  on_error asks for poison or stop, or inline for the default, and the kernel is older than 6.6
 *   -EBUSY       inline: eight different SIGBUS handlers have been put over the library's, one after the other
 *   -EAGAIN, -ENOMEM  no thread, or no memory
 *   -EMFILE, -ENFILE  out of descriptors
 */
UFFD_EXPORT int uffd_loop_create(const struct uffd_loop_opts *opts, uffd_loop **loop);

/*
 * Lets a loop that was made with UFFD_LOOP_PAUSED read its objects. Add all regions of an object before: a fault in a
 * range that is registered and not added would be taken for one in a mapping that has grown, and read as zeros.
 * Prefetch works before it too, but not with a ledger (-EINVAL). For a loop that has started already: 0.
 *   -EINVAL   a region of the ledger is not added
 *   -EDEADLK  called from a callback of this loop
 *   -EOWNERDEAD  a forked child
 */
UFFD_EXPORT int uffd_loop_start(uffd_loop *loop);

/*
 * The engine of a loop, UFFD_ENGINE_*; *why (may be NULL) becomes a sentence that says why. AUTO chooses inline where
 * the loop's objects can only be USER_MODE_ONLY, because system calls get EFAULT there with any engine; else threads.
 * Never fails.
 */
UFFD_EXPORT int uffd_loop_engine(const uffd_loop *loop, const char **why);

/*
 * The placement in force now, UFFD_PLACEMENT_*, and in *why (may be NULL) a sentence that says why. It is NONE while
 * the processors are too busy for a companion, while prefetch has work, where a thread may not enter SCHED_IDLE, and
 * for other engines than threads. With several handlers it is the first one's. Never fails; any thread.
 */
UFFD_EXPORT int uffd_loop_placement(const uffd_loop *loop, const char **why);

/*
 * Inline engine, for programs that handle SIGBUS themselves; called from their SA_SIGINFO handler. info is the
 * siginfo_t *, context the ucontext_t *. Returns 1 when the signal was a fault of an inline loop, which is resolved, or
 * may have been one of a region that was removed since: return from the handler, and the access is repeated. 0: the
 * signal is not ours. The handler's sa_mask must hold all signals whose handlers may touch served memory, as that of
 * the library's own handler does: amid a fault they would meet SIGBUS. Async-signal-safe.
 */
UFFD_EXPORT int uffd_sigbus(int signal, void *info, void *context);

/*
 * Bytes of a signal stack that answering a fault takes at most, with resolvers nested as deep as they may be; where
 * they are not nested, 4096 are enough. To these come the kernel's own frame (sysconf(_SC_MINSIGSTKSZ)); what a
 * callback, a policy or the function of uffd_set_log() uses; and the same once more for each callback that touches
 * memory of another inline loop.
 */
#define UFFD_SIGNAL_STACK_BYTES 16384

/*
 * Inline engine: gives the calling thread a signal stack (sigaltstack) of 256 KiB for as long as it lives, unless it
 * has one of UFFD_SIGNAL_STACK_BYTES besides the kernel's frame. A smaller one is replaced; its owner may free it.
 * Called again after the thread has disabled or changed its signal stack: the same 256 KiB. A thread that touches
 * served memory with less than 4096 bytes of signal stack left is not answered: SIGBUS goes on as if it were not ours,
 * with a sentence on stderr. Errors: -ENOMEM; -EAGAIN no thread-specific key is left; -EPERM the thread is in a signal
 * handler, on the stack that would be replaced.
 */
UFFD_EXPORT int uffd_signal_stack(void);

/*
 * around: as much as the accesses suggest, the default. While they are sequential, forwards, backwards or with strides
 * of up to 8 pages, answers grow from one page to 2 MiB. Where they are random, an answer is one page.
 */
#define UFFD_AROUND_AUTO UINT64_MAX
/* around: one page for each fault. For who must see each touch: a trace, a record of a working set, a test. */
#define UFFD_AROUND_PAGE UINT64_C(1)

struct uffd_region_opts {
  size_t size;
  uint64_t offset;          /* of the region in the memory, bytes, whole pages */
  uint64_t length;          /* bytes, whole pages; 0: to the memory's end */
  uint64_t resolver_offset; /* where the region's first byte lies in the resolver */
  uint64_t modes;           /* UFFD_MODE_*; 0: MISSING, and MINOR too for a continue resolver. With WP pages arrive
                               write-protected and a first write is counted and let through */
  uint64_t around;          /* bytes answered around a fault where the resolver can, rounded up to whole pages, or
                               UFFD_AROUND_*; 0: UFFD_AROUND_AUTO */
  uint32_t on_error;        /* UFFD_ON_ERROR_* */
  uint32_t reserved;        /* 0 */
  uffd_object *object;      /* registered with this object, which stays the caller's; NULL: the loop's own. The loop
                               reads it from then on: nobody else may, and it must outlive the loop. Needed for
                               memory of another process, which its owner has registered with it */
  void *cookie;             /* handed to callbacks and traces */
  uint32_t retry_ms;        /* on_error RETRY here: as in uffd_loop_opts */
  uint32_t retry_then;
};
#define UFFD_REGION_OPTS_INIT                                                                                          \
  { sizeof(struct uffd_region_opts), 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0 }

/*
 * Adds a region, which is served from now on. Callbacks are set up here, in the calling thread. region may be NULL. The
 * loop's own objects are made with the first region that needs them.
 *   -EINVAL      alignment, a range outside the memory, a resolver that is shorter than the region or that the memory
 *                cannot have, a layer that is not page-aligned; memory of another process without its object, inline,
 *                or
 *                with an object that serves this process
 *   -EBUSY       the range is served already, is the source of a resolver, or belongs to another userfaultfd
 *   -EOPNOTSUPP  the kernel lacks what the resolver needs; before 6.4, the modes minor and wp together
 *   -ECANCELED   the loop has stopped
 *   -EDEADLK     called from a callback of this loop
 *   -ENOMEM      no memory
 *   and those of uffd_open(), of uffd_register(), and of setup
 */
UFFD_EXPORT int uffd_loop_add(uffd_loop *loop, uffd_memory *memory, uffd_resolver *resolver,
                              const struct uffd_region_opts *opts, uffd_region **region);

/*
 * Fills [offset, offset+length) of the region, bytes, and returns when it is done. length 0: to the end. The handlers
 * do it, faults first. Pages that are there stay. If the resolver fails for some pages, these stay missing, the rest is
 * filled, and the first error is returned.
 *   -ERANGE     outside of the region
 *   -ECANCELED  the loop was closed, or has stopped
 *   -EDEADLK    called from a callback of this loop
 *   -ENOENT     the region is complete or removed
 */
UFFD_EXPORT int uffd_region_prefetch(uffd_region *region, uint64_t offset, uint64_t length);

struct uffd_range {
  uint64_t offset, length; /* bytes, of a region */
};

/* A prefetch under way, or over. */
typedef struct uffd_prefetch uffd_prefetch;

struct uffd_prefetch_opts {
  size_t size;
  uint64_t rate; /* bytes a second at most; 0: no limit */
};
#define UFFD_PREFETCH_OPTS_INIT                                                                                        \
  { sizeof(struct uffd_prefetch_opts), 0 }

/*
 * What the resolver has said LATER for has come in [offset, offset+length) of the region, bytes (length 0: to the end):
 * the pages there that somebody waits for are asked for again at once. Ranges are kept in steps of 64 KiB. Pages
 * outside of them are not asked for. Does not wait; any thread, also in callbacks of this loop. As
 * uffd_handler_ready(), for those who know the region and not the handler.
 *   -ERANGE      outside of the region
 *   -EOWNERDEAD  a forked child
 */
UFFD_EXPORT int uffd_region_ready(uffd_region *region, uint64_t offset, uint64_t length);

/*
 * Begins to fill ranges in the background, and returns at once. ranges NULL or count 0: the whole region. The ranges
 * are filled in the order of their offsets, each page once, in steps of at most 2 MiB; faults are answered between two
 * steps. After a fault a step is 64 KiB (a page, if that is larger), and each step that no fault disturbs is 64 KiB
 * larger than the one before. The threads that read the loop's objects do it; with a pump, uffd_loop_step() and
 * uffd_prefetch_wait(). Several may be under way at once. The region may be completed or removed, and the loop or the
 * handle closed, while a prefetch runs: the rest of the prefetch is cancelled.
 *   -ERANGE     a range outside of the region
 *   -ENOENT     the region is complete or removed
 *   -ECANCELED  the loop is being closed
 *   -EINVAL     an option
 *   -ENOMEM     no memory
 *   -EDEADLK    called from a callback of this loop
 *   -EOWNERDEAD a forked child
 */
UFFD_EXPORT int uffd_region_prefetch_start(uffd_region *region, const struct uffd_range *ranges, size_t count,
                                           const struct uffd_prefetch_opts *opts, uffd_prefetch **prefetch);

struct uffd_prefetch_status {
  size_t size;           /* in: sizeof(struct uffd_prefetch_status); UFFD_PREFETCH_STATUS_INIT sets it */
  int done;              /* 1: nothing goes on any more */
  int error;             /* 0, or the errno of the first failure: the resolver's, or ECANCELED */
  uint64_t bytes_wanted; /* the ranges, as whole pages */
  uint64_t bytes_done;   /* of those: filled, there before, failed, or not mapped any more */
};
#define UFFD_PREFETCH_STATUS_INIT                                                                                      \
  { sizeof(struct uffd_prefetch_status), 0, 0, 0, 0 }

/* Fills *status. Cheap, and works when the loop is closed. -EBADF: prefetch is NULL; -EINVAL: size; -EOWNERDEAD. */
UFFD_EXPORT int uffd_prefetch_status(const uffd_prefetch *prefetch, struct uffd_prefetch_status *status);

/*
 * Waits up to timeout_ms (-1: for ever) until the prefetch is over. Returns 1: it is over; 0: the time has passed. With
 * a pump only the thread that drives it may wait.
 *   -ECANCELED  it was cancelled
 *   -EDEADLK    called from a callback of this loop
 *   -EBADF      prefetch is NULL
 *   -EOWNERDEAD a forked child
 *   and the first error of the resolver; what else could be filled is filled
 */
UFFD_EXPORT int uffd_prefetch_wait(uffd_prefetch *prefetch, int timeout_ms);

/* Closes the handle and cancels the rest, without waiting. NULL is allowed. May be called from callbacks. */
UFFD_EXPORT void uffd_prefetch_close(uffd_prefetch *prefetch);

/*
 * Another resolver answers for the region from now on, from the same resolver_offset on. Pages that are there stay; to
 * have them from the new resolver, discard them (uffd_memory_discard()). When this returns, the old resolver is not
 * asked any more for this region, and is let go. Waits for callbacks that are answering, and for a prefetch that
 * somebody waits for.
 *   -EINVAL     resolver is NULL, is shorter than the region, or the memory cannot have it; with minor faults: only one
 *               of the two is a continue resolver with a fill
 *   -ENOENT     the region is complete or removed
 *   -EBUSY      the loop serves forked children, whose missing pages are the old resolver's
 *   -EDEADLK    called from a callback of this loop
 *   -ECANCELED  the loop is being closed
 *   and those of setup; the old resolver stays then
 */
UFFD_EXPORT int uffd_region_set_resolver(uffd_region *region, uffd_resolver *resolver);

/*
 * Fills the rest of the region and unregisters it: the memory is ordinary from then on, and the loop serves it no more.
 * Memory of another process is unregistered also where mremap has moved it. On an error the region goes on being
 * served. Errors as uffd_region_prefetch(). Of a region that is complete: 0.
 */
UFFD_EXPORT int uffd_region_complete(uffd_region *region);

/*
 * Takes the region out of the loop as it is: missing pages read as zeros from then on. Memory of another process stays
 * registered instead: its faults wait until the range is added again, or until the loop is closed; whoever reads the
 * object next is told of them. Of a region that is removed: 0. -EDEADLK: called from a callback of this loop.
 */
UFFD_EXPORT int uffd_region_remove(uffd_region *region);

/* uffd_region_complete() for every region. All are tried; the first error is returned. */
UFFD_EXPORT int uffd_loop_complete(uffd_loop *loop);

/*
 * Pump engine: waits up to timeout_ms (0: not at all, -1: for ever) for faults, and answers them in the calling thread,
 * which must not touch missing pages of the loop itself. Returns the number of faults that were answered. Only one
 * thread at a time may call functions on a pump loop.
 *   -EINVAL     another engine
 *   -ECANCELED  the loop has stopped
 */
UFFD_EXPORT int uffd_loop_step(uffd_loop *loop, int timeout_ms);

/* Pump engine: a descriptor, owned by the loop, that polls readable when uffd_loop_step() has work. -EINVAL,
 * -EOWNERDEAD. */
UFFD_EXPORT int uffd_loop_fd(const uffd_loop *loop);
/* Pump engine: milliseconds after which uffd_loop_step() must be called even if the descriptor is silent; -1: never. */
UFFD_EXPORT int uffd_loop_timeout(const uffd_loop *loop);

/* 1 when the loop's own objects are USER_MODE_ONLY, else 0; -ENOENT before the first region that needs them. */
UFFD_EXPORT int uffd_loop_user_mode_only(const uffd_loop *loop);

struct uffd_stats {
  size_t size;     /* in: sizeof(struct uffd_stats); UFFD_STATS_INIT sets it */
  uint64_t faults; /* messages of page faults read: missing + wp + minor */
  uint64_t missing;
  uint64_t wp;
  uint64_t minor;
  uint64_t writes; /* of the faults: by a write */
  uint64_t events; /* fork, remap, remove, unmap messages read */
  uint64_t zero;   /* pages installed as zero pages, also those found in large answers of bytes into private memory */
  uint64_t copied;
  uint64_t continued;
  uint64_t moved; /* whole huge pages of bytes into UFFD_MEMORY_THP, too */
  uint64_t poisoned;
  uint64_t unprotected;   /* pages whose first write was let through */
  uint64_t bytes;         /* installed: zero, copied, continued, moved */
  uint64_t prefetched;    /* of those pages: by prefetch and complete */
  uint64_t present;       /* answers for pages that were there already, or came with a neighbour */
  uint64_t deferred;      /* times that a fault was put off: EAGAIN, or LATER */
  uint64_t gone;          /* faults of ranges or address spaces that are no more */
  uint64_t errors;        /* resolvers or installs that failed */
  uint64_t policy_calls;  /* of callbacks and Lua policies */
  uint64_t queue;         /* faults waiting now; inline none does */
  uint64_t queue_max;     /* the longest queue so far */
  uint64_t latency_count; /* faults measured, from the read of the message to the wake-up, nanoseconds: */
  uint64_t latency_p50;
  uint64_t latency_p99;
  uint64_t latency_max;
};
#define UFFD_STATS_INIT                                                                                                \
  { sizeof(struct uffd_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }

/* How values of a field of struct uffd_stats are put together. */
enum {
  UFFD_STATS_COUNT = 0,     /* a count that only grows: add */
  UFFD_STATS_NOW = 1,       /* a present value: add those of several loops; of one loop the newest counts */
  UFFD_STATS_LARGEST = 2,   /* the largest so far: take the larger value */
  UFFD_STATS_PERCENTILE = 3 /* cannot be put together: take the newest of one loop, or the largest of several */
};
/* A field of struct uffd_stats but for size; each is a uint64_t. */
struct uffd_stats_field {
  const char *name; /* as in the struct, in Lua, and in JSON */
  const char *help; /* what it counts, one line */
  uint32_t offset;  /* in struct uffd_stats, bytes */
  uint32_t kind;    /* UFFD_STATS_* */
};
/* All fields of struct uffd_stats that the library knows, in their order; *count of them. Any thread. */
UFFD_EXPORT const struct uffd_stats_field *uffd_stats_fields(size_t *count);

/*
 * Fills *stats. Cheap. Pages are counted before they are there, and what did not go in is taken back: while faults are
 * answered (latency_count < faults), the counts of pages may be ahead by what is on its way. -EINVAL: stats->size;
 * -EOWNERDEAD.
 */
UFFD_EXPORT int uffd_loop_stats(const uffd_loop *loop, struct uffd_stats *stats);

/* Buckets of a latency histogram. Values below 16 ns have a bucket each, then each power of two has 16. */
#define UFFD_HISTOGRAM_BUCKETS 640

/* A part of a latency histogram: faults that took longer than the bound of the bucket before, and at most up_to_ns. */
struct uffd_bucket {
  uint64_t up_to_ns; /* at most 1/16 more than the smallest value in it; the last bucket has no bound: INT64_MAX */
  uint64_t count;    /* faults */
};

/*
 * The latencies of a region's faults, or of all faults of a loop, from the read of the message to the wake-up. Writes
 * the buckets that are not empty, in the order of their bounds, at most room of them (UFFD_HISTOGRAM_BUCKETS are always
 * enough), and returns how many there are. buckets may be NULL when room is 0. A region's faults are counted until the
 * loop is closed, also those of forked children that the loop serves; when the region is complete or removed its counts
 * stay. Cheap; any thread.
 *   -EINVAL      buckets is NULL, and room is not 0
 *   -EOWNERDEAD  a forked child
 */
UFFD_EXPORT int uffd_region_histogram(const uffd_region *region, struct uffd_bucket *buckets, size_t room);
UFFD_EXPORT int uffd_loop_histogram(const uffd_loop *loop, struct uffd_bucket *buckets, size_t room);

/*
 * The bound of the bucket that holds this percentile, 0 to 100, of count buckets in the order of their bounds. 0: they
 * are empty. Never fails.
 */
UFFD_EXPORT uint64_t uffd_histogram_percentile(const struct uffd_bucket *buckets, size_t count, double percent);

/* A fault that was read and is not answered yet. */
struct uffd_waiting {
  size_t size;       /* in: sizeof(struct uffd_waiting); UFFD_WAITING_INIT sets it */
  uint64_t age_ns;   /* since the message was read */
  uint64_t offset;   /* in the region */
  uint64_t address;  /* as it was read */
  uint64_t flags;    /* UFFD_FAULT_* */
  uint32_t tid;      /* the faulting thread, 0 if unknown */
  uint32_t handler;  /* index */
  void *cookie;      /* the region's; NULL also outside every region */
  char resolver[32]; /* its kind, may be cut; "" outside every region */
};
#define UFFD_WAITING_INIT                                                                                              \
  {                                                                                                                    \
    sizeof(struct uffd_waiting), 0, 0, 0, 0, 0, 0, NULL, {                                                             \
      0                                                                                                                \
    }                                                                                                                  \
  }

/*
 * The fault that has waited longest, because its resolver takes long or because it was deferred. Returns 1 and fills
 * *waiting; 0: no fault waits. For watchdogs: cheap, and never waits. Faults that are answered inline are not seen
 * here. -EINVAL: waiting->size; -EOWNERDEAD.
 */
UFFD_EXPORT int uffd_loop_oldest(const uffd_loop *loop, struct uffd_waiting *waiting);

/*
 * The loop's first failure: returns its errno (positive), and copies its sentence, at most length bytes with the final
 * zero; text may be NULL. 0: there was none.
 */
UFFD_EXPORT int uffd_loop_error(const uffd_loop *loop, char *text, size_t length);

enum {
  UFFD_OUTCOME_INSTALLED = 0,
  UFFD_OUTCOME_PRESENT = 1,  /* there already: woken */
  UFFD_OUTCOME_DEFERRED = 2, /* put off: another record follows; inline not, if another thread brings the page in */
  UFFD_OUTCOME_GONE = 3,     /* the range or the address space is no more: woken */
  UFFD_OUTCOME_FAILED = 4    /* on_error was applied */
};

/* A record of one fault. Newer libraries may append fields. */
struct uffd_trace {
  uint64_t time_ns;    /* CLOCK_MONOTONIC at the outcome */
  uint64_t latency_ns; /* since the message was read */
  uint64_t offset;     /* of the page in the region */
  uint64_t cover;      /* bytes that the answer covered */
  uint64_t flags;      /* UFFD_FAULT_* */
  uint32_t tid;
  uint32_t handler;
  uint32_t answer;  /* UFFD_ANSWER_* */
  uint32_t outcome; /* UFFD_OUTCOME_* */
  int32_t error;    /* 0, or the errno of a failure */
  uint32_t reserved;
  void *cookie; /* the region's */
};
typedef void uffd_trace_fn(void *ctx, const struct uffd_trace *trace);

/*
 * Calls fn with a record of every fault, in the thread that answers it; NULL switches it off. The rules of
 * uffd_callback_ops.resolve apply to fn. When uffd_loop_trace() returns, the previous fn is no longer running, unless
 * that is where it was called from.
 */
UFFD_EXPORT int uffd_loop_trace(uffd_loop *loop, uffd_trace_fn *fn, void *ctx);

/* The names of UFFD_ANSWER_* and UFFD_OUTCOME_*, such as "bytes" and "installed"; "unknown". Never NULL. */
UFFD_EXPORT const char *uffd_answer_name(uint32_t answer);
UFFD_EXPORT const char *uffd_outcome_name(uint32_t outcome);

enum {
  UFFD_TRACE_AUTO = 0,   /* by the path's ending: .ndjson or .jsonl, .csv */
  UFFD_TRACE_NDJSON = 1, /* a JSON object a line */
  UFFD_TRACE_CSV = 2     /* values with commas between them; the first line has their names */
};
enum {
  UFFD_TRACE_APPEND = 1 /* what the file has stays. Several loops may append to one file: they write whole lines */
};

struct uffd_trace_opts {
  size_t size;
  uint32_t format; /* UFFD_TRACE_AUTO, _NDJSON, _CSV */
  uint32_t flags;  /* UFFD_TRACE_APPEND */
  uint32_t room;   /* records that may wait to be written, 2 to 16777216, rounded up to a power of two; 0: 16384 */
  uint32_t loop;   /* written as "loop", where several loops share a file */
};
#define UFFD_TRACE_OPTS_INIT                                                                                           \
  { sizeof(struct uffd_trace_opts), 0, 0, 0, 0 }

/*
 * Writes a record of every fault from now on to the file at path, which is made, or emptied; path NULL ends that. A
 * thread writes which answers no fault, and no handler ever waits for it. The fields are time (wall clock, seconds),
 * those of struct uffd_trace with kind (missing, wp, minor) and write instead of the flags, and region for the cookie,
 * as a number; and lost: how many records before this one found no room. A disk that is full, and how many records were
 * lost, is told to uffd_loop_opts.failed and to the log. uffd_loop_trace() goes on beside it. Closing the loop writes
 * what is left and closes the file.
 *
 * Ending waits until all is written; for the reader of a pipe it waits up to a second without progress.
 *   -EINVAL   an option, or an ending that tells no format
 *   -EDEADLK  called from a callback of this loop
 *   -ENOMEM, -EAGAIN  no memory, or no thread
 *   and those of open(2); ending: those of writing since the file was opened
 */
UFFD_EXPORT int uffd_loop_trace_to(uffd_loop *loop, const char *path, const struct uffd_trace_opts *opts);

/*
 * Stops the handlers, wakes all sleepers, unregisters every region, and frees the loop; NULL is allowed. Pages that are
 * still missing read as zeros from then on: call uffd_loop_complete() first where they matter. Memory of another
 * process stays registered instead, and faults that were read and not answered are told again to whoever reads the
 * object next. In a forked child it only frees. -EDEADLK: called from a callback of this loop.
 */
UFFD_EXPORT int uffd_loop_close(uffd_loop *loop);

#ifdef __cplusplus
}
#endif

#endif /* UFFD_H */
