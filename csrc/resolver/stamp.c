/*
 * Stamps: whether a file is as it was. A resolver over a file looks after each read, so nothing is given that was
 * written after the stamp was taken.
 *
 * Not noticed are stores through a writable mapping whose page was dirty before the stamp was taken, and changes on
 * other machines that this one's attribute cache has not seen.
 */
#include "resolver/stamp.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define TICKS 50 /* milliseconds: longer than the coarsest tick of the kernel's clock */

static int look(int fd, struct uffd_stamp *stamp) {
  struct stat status;
  if (fstat(fd, &status) != 0) return fail(errno, "Cannot look at the file: %s.", uffd_error_text(errno));
  *stamp = (struct uffd_stamp){.device = status.st_dev,
                               .inode = status.st_ino,
                               .size = (uint64_t)status.st_size,
                               .links = status.st_nlink,
                               .mtime_s = status.st_mtim.tv_sec,
                               .ctime_s = status.st_ctim.tv_sec,
                               .mtime_ns = status.st_mtim.tv_nsec,
                               .ctime_ns = status.st_ctim.tv_nsec};
  return 0;
}

static int look_here(int fd, struct uffd_stamp *stamp) {
  struct statx status;
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &status) != 0) return -errno;
  *stamp = (struct uffd_stamp){.device = makedev(status.stx_dev_major, status.stx_dev_minor),
                               .inode = status.stx_ino,
                               .size = status.stx_size,
                               .links = status.stx_nlink,
                               .mtime_s = status.stx_mtime.tv_sec,
                               .ctime_s = status.stx_ctime.tv_sec,
                               .mtime_ns = status.stx_mtime.tv_nsec,
                               .ctime_ns = status.stx_ctime.tv_nsec};
  return 0;
}

/* True if the file was changed in the present tick of the clock that gives files their times. */
static bool is_fresh(const struct uffd_stamp *stamp) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  int64_t age = (now.tv_sec - stamp->mtime_s) * 1000 + (now.tv_nsec - stamp->mtime_ns) / 1000000;
  bool later = now.tv_sec > stamp->mtime_s || (now.tv_sec == stamp->mtime_s && now.tv_nsec > stamp->mtime_ns);
  return !later && age > -TICKS;
}

/* Before Linux 6.13 two changes in one tick have the same time. So the stamp is taken after the tick is over. */
int uffd_stamp_take(int fd, struct uffd_stamp *stamp) {
  const struct timespec millisecond = {.tv_nsec = 1000000};
  int result = look(fd, stamp);
  for (int i = 0; result == 0 && is_fresh(stamp) && i < TICKS; i++) {
    syscall(SYS_nanosleep, &millisecond, NULL); /* no cancellation point */
    result = look(fd, stamp);
  }
  return result;
}

static bool is_same(struct uffd_stamp now, const struct uffd_stamp *stamp) {
  if (stamp->links == 0 || now.links != stamp->links) {
    now.links = stamp->links;
    now.ctime_s = stamp->ctime_s;
    now.ctime_ns = stamp->ctime_ns;
  }
  return memcmp(&now, stamp, sizeof(now)) == 0;
}

/*
 * ctime shows that mtime was set back. It also changes when the file gets or loses a name (for example when another
 * file is renamed over it), which leaves the contents alone.
 */
bool uffd_stamp_holds(int fd, const struct uffd_stamp *stamp) {
  struct uffd_stamp now;
  return look(fd, &now) == 0 && is_same(now, stamp);
}

/* Where a filter of system calls knows no statx(), fstat() it is. */
bool uffd_stamp_holds_here(int fd, const struct uffd_stamp *stamp) {
  struct uffd_stamp now;
  int result = look_here(fd, &now);
  if (result == -ENOSYS || result == -EPERM) return uffd_stamp_holds(fd, stamp);
  return result == 0 && is_same(now, stamp);
}
