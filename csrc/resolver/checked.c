/*
 * A file whose contents may be changed by others while it is served. While it is trusted, it is a plain file. After
 * that, each piece is read into a buffer, and given only when the file's times and size are still the same afterwards.
 *
 * Not noticed are stores through a writable mapping whose page was dirty before the stamp was taken, and changes on
 * other machines that this one's attribute cache has not seen.
 */
#include "resolver/checked.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "resolver/resolver.h"

#define PIECE (UINT64_C(256) << 10) /* bytes read at once: more is slower */

struct checked {
  uffd_resolver head;
  uffd_resolver *file;
  int fd;
  struct uffd_stamp stamp;
  _Atomic bool trusted;
  char name[256];
};

int uffd_stamp_take(int fd, struct uffd_stamp *stamp) {
  struct stat status;
  if (fstat(fd, &status) != 0) return fail(errno, "Cannot look at the file: %s.", strerror(errno));
  *stamp = (struct uffd_stamp){.device = status.st_dev,
                               .inode = status.st_ino,
                               .size = (uint64_t)status.st_size,
                               .mtime_s = status.st_mtim.tv_sec,
                               .ctime_s = status.st_ctim.tv_sec,
                               .mtime_ns = status.st_mtim.tv_nsec,
                               .ctime_ns = status.st_ctim.tv_nsec};
  return 0;
}

bool uffd_stamp_holds(int fd, const struct uffd_stamp *stamp) {
  struct uffd_stamp now;
  return uffd_stamp_take(fd, &now) == 0 && memcmp(&now, stamp, sizeof(now)) == 0;
}

/* A buffer for each thread that asks: an answer's bytes must stay until the thread asks again. */
static pthread_key_t buffers;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool have_buffers;

static void free_buffer(void *buffer) {
  uffd_buffer_unmap(buffer, HUGE_PAGE);
}

static void make_key(void) {
  have_buffers = pthread_key_create(&buffers, free_buffer) == 0;
}

static char *find_buffer(void) {
  if (!have_buffers) return NULL;
  char *buffer = pthread_getspecific(buffers);
  if (buffer != NULL) return buffer;
  buffer = uffd_buffer_map(HUGE_PAGE);
  if (buffer == NULL || pthread_setspecific(buffers, buffer) == 0) return buffer;
  uffd_buffer_unmap(buffer, HUGE_PAGE);
  return NULL;
}

static int read_piece(const struct checked *checked, char *buffer, uint64_t offset, uint64_t length) {
  for (uint64_t done = 0; done < length;) {
    ssize_t count = pread(checked->fd, buffer + done, length - done, (off_t)(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      return fail(errno, "Cannot read %s at offset %" PRIu64 ": %s.", checked->name, offset + done,
                  uffd_error_text(errno));
    }
    if (count == 0) break; /* it has shrunk: the stamp says so */
    done += (uint64_t)count;
  }
  if (uffd_stamp_holds(checked->fd, &checked->stamp)) return 0;
  return fail(ESTALE, "%s was changed while it was served: what it held at offset %" PRIu64 " is not known any more.",
              checked->name, offset);
}

static int ask(const uffd_resolver *resolver, struct uffd_asker *asker, const struct uffd_fault *fault,
               struct uffd_answer *answer) {
  const struct checked *checked = (const struct checked *)resolver;
  if (atomic_load_explicit(&checked->trusted, memory_order_acquire)) {
    return uffd_resolver_ask(checked->file, asker, fault, answer);
  }
  char *buffer = find_buffer();
  if (buffer == NULL) return fail(ENOMEM, "No memory for a buffer to read %s into.", checked->name);
  uffd_cover(fault, fault->offset, fault->offset + max_u64(PIECE, fault->page_size), answer);
  uint64_t length = min_u64(answer->length, checked->head.size - answer->offset);
  int result = read_piece(checked, buffer, answer->offset, length);
  if (result < 0) return result;
  memset(buffer + length, 0, answer->length - length);
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = buffer;
  return 0;
}

static void destroy(uffd_resolver *resolver) {
  struct checked *checked = (struct checked *)resolver;
  uffd_resolver_drop(checked->file);
  if (checked->head.process == uffd_process()) close(checked->fd);
  DELETE(checked);
}

int uffd_resolver_checked(int fd, const struct uffd_stamp *stamp, bool trusted, const char *name,
                          uffd_resolver **resolver) {
  static const struct uffd_resolver_class class = {.kind = "file", .ask = ask, .destroy = destroy};
  *resolver = NULL;
  (void)pthread_once(&once, make_key);
  struct checked *checked = NEW(struct checked);
  if (checked == NULL) return fail(ENOMEM, "No memory for a resolver.");
  checked->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  int result = checked->fd < 0 ? fail(errno, "No descriptor for a file: %s.", strerror(errno)) : 0;
  if (result == 0) result = uffd_resolver_file_fd(fd, NULL, &checked->file);
  if (result < 0) {
    if (checked->fd >= 0) close(checked->fd);
    DELETE(checked);
    return result;
  }
  uffd_resolver_init(&checked->head, &class, uffd_resolver_size(checked->file));
  checked->stamp = *stamp;
  atomic_init(&checked->trusted, trusted);
  strncpy(checked->name, name, sizeof(checked->name) - 1);
  *resolver = &checked->head;
  return 0;
}

void uffd_resolver_distrust(uffd_resolver *resolver) {
  atomic_store_explicit(&((struct checked *)resolver)->trusted, false, memory_order_release);
}
