/*
 * Bringing an answer's bytes into a buffer. Both sources may belong to a file that shrinks meanwhile, so the kernel
 * reads them: a touch would be a SIGBUS here.
 */
#include "loop/line/fetch.h"

#include <inttypes.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not pread(3), which is a cancellation point. */
static int64_t read_once(int fd, char *buffer, uint64_t length, uint64_t offset) {
  int64_t count;
  do {
    count = syscall(SYS_pread64, fd, buffer, length, offset);
  } while (count < 0 && errno == EINTR);
  return count < 0 ? -errno : count;
}

/* O_DIRECT refuses what is not whole blocks: the blocks around the bytes are read. At the file's end fewer come. */
static int64_t read_blocks(int fd, char *buffer, uint64_t length, uint64_t offset) {
  uint64_t before = offset % BASE_PAGE, wanted = round_up(before + length, BASE_PAGE);
  if (before == 0 && wanted == length) return -EINVAL;
  int64_t count = read_once(fd, buffer, wanted, offset - before);
  if (count <= 0) return count;
  if ((uint64_t)count <= before) return 0;
  uint64_t has = min_u64((uint64_t)count - before, length);
  if (before != 0) memmove(buffer, buffer + before, has);
  return (int64_t)has;
}

/* Bytes until the file ends or an error comes, which is in *error then. */
static uint64_t read_file(int fd, char *buffer, uint64_t length, uint64_t offset, int *error) {
  uint64_t done = 0;
  while (done < length) {
    int64_t count = read_once(fd, buffer + done, length - done, offset + done);
    if (count == -EINVAL) count = read_blocks(fd, buffer + done, length - done, offset + done);
    if (count <= 0) {
      *error = count < 0 ? (int)count : -ENODATA;
      break;
    }
    done += (uint64_t)count;
  }
  return done;
}

/* The same, with a sentence for the error. What was read counts when the file is still what is to be served. */
static uint64_t read_verified(const struct uffd_install *install, char *buffer, uint64_t length, uint64_t offset,
                              int *error) {
  const uffd_resolver *verifier = install->verifier;
  uint64_t done = read_file(install->fd, buffer, length, offset, error);
  if (done < length) {
    fail(-*error, "Reading what the %s resolver answered, at offset %" PRIu64 " of its file: %s.",
         resolver_of(install->slice)->kind, offset + done,
         *error == -ENODATA ? "the file ends there" : uffd_error_text(-*error));
  }
  int result = verifier == NULL ? 0 : verifier->class->verify(verifier, offset);
  if (result == 0) return done;
  *error = result;
  return 0;
}

static uint64_t read_memory(char *buffer, const char *data, uint64_t length, int *error) {
  *error = uffd_peek(buffer, data, length);
  return *error == 0 ? length : 0;
}

uint64_t uffd_fetch(const struct uffd_install *install, uint64_t start, uint64_t end, char *buffer, int *error) {
  uint64_t at = start - install->dst, has = min_u64(install->length - at, end - start);
  uint64_t page_size = install->slice->terms->page_size;
  uint64_t done = install->kind == UFFD_ANSWER_FILE
                      ? read_verified(install, buffer, has, install->file_offset + at, error)
                      : read_memory(buffer, (const char *)install->data + at, has, error);
  if (done < has) return round_down(done, page_size);
  if (has < end - start) memset(buffer + has, 0, end - start - has);
  return end - start;
}
