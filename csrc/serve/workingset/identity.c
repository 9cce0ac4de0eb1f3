/*
 * The identity of an image: a hash of its length and of samples. The samples' places depend on the length alone, so a
 * copy has the same identity, whatever its holes.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve/workingset/workingset.h"

#define SAMPLE UINT64_C(4096)
#define SCALES 4u
#define EACH   UINT64_C(64)

uint64_t uffd_fnv(uint64_t hash, const void *bytes, size_t length) {
  const unsigned char *byte = bytes;
  for (size_t i = 0; i < length; i++)
    hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3);
  return hash;
}

static int find_length(int fd, uint64_t *length) {
  struct stat status;
  if (fstat(fd, &status) < 0) return fail(errno, "Cannot look at the image: %s.", strerror(errno));
  if (S_ISREG(status.st_mode)) {
    *length = (uint64_t)status.st_size;
  } else if (!S_ISBLK(status.st_mode)) {
    return fail(EINVAL, "The image is neither a regular file nor a block device.");
  } else if (ioctl(fd, BLKGETSIZE64, length) < 0) {
    return fail(errno, "Cannot tell the length of the block device: %s.", strerror(errno));
  }
  return *length != 0 ? 0 : fail(EINVAL, "The image is empty.");
}

/* A file's sample. */
static int read_file(void *ctx, uint64_t offset, unsigned char *bytes, uint64_t length) {
  int fd = *(const int *)ctx;
  for (uint64_t done = 0; done < length;) {
    ssize_t count = pread(fd, bytes + done, SAMPLE - done, (off_t)(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(errno, "Cannot read the image at offset %#" PRIx64 ": %s.", offset, strerror(errno));
    if (count == 0) return fail(EIO, "The image ends before offset %#" PRIx64 ": it has shrunk.", offset + length);
    done += (uint64_t)count;
  }
  return 0;
}

/* What is hashed. */
struct sampling {
  uffd_sample_fn *read;
  void *ctx;
  uint64_t length, hash;
};

static int add_sample(struct sampling *sampling, uint64_t offset) {
  _Alignas(SAMPLE) unsigned char sample[SAMPLE]; /* for descriptors with O_DIRECT */
  uint64_t wanted = min_u64(SAMPLE, sampling->length - offset);
  int result = sampling->read(sampling->ctx, offset, sample, wanted);
  if (result == 0) sampling->hash = uffd_fnv(sampling->hash, sample, wanted);
  return result;
}

/*
 * The data of a sparse image are mostly at its beginning. So a quarter of the samples each comes from the whole image,
 * its first 16th, its first 256th, and its first 4096th.
 */
static int add_samples(struct sampling *sampling) {
  uint64_t blocks = pages_of(sampling->length, SAMPLE);
  if (blocks <= SCALES * EACH) {
    for (uint64_t block = 0; block < blocks; block++) {
      int result = add_sample(sampling, block * SAMPLE);
      if (result < 0) return result;
    }
    return 0;
  }
  for (unsigned scale = 0; scale < SCALES; scale++) {
    uint64_t last = max_u64(blocks >> 4 * scale, 1) - 1;
    for (uint64_t i = 0; i < EACH; i++) {
      int result = add_sample(sampling, last * i / (EACH - 1) * SAMPLE);
      if (result < 0) return result;
    }
  }
  return 0;
}

int uffd_identity_by(uffd_sample_fn *read, void *ctx, uint64_t length, uint64_t *identity) {
  unsigned char head[8];
  for (unsigned i = 0; i < sizeof(head); i++)
    head[i] = (unsigned char)(length >> 8 * i);
  struct sampling sampling = {read, ctx, length, uffd_fnv(FNV_BASIS, head, sizeof(head))};
  int result = add_samples(&sampling);
  if (result < 0) return result;
  *identity = sampling.hash != 0 ? sampling.hash : 1; /* 0 means an unknown image */
  return 0;
}

int uffd_image_identity(int fd, uint64_t *length, uint64_t *identity) {
  if (length == NULL || identity == NULL) return fail(EINVAL, "There is nowhere to put the identity.");
  uint64_t found = 0;
  int result = find_length(fd, &found);
  if (result == 0) result = uffd_identity_by(read_file, &fd, found, identity);
  if (result < 0) return result;
  *length = found;
  return 0;
}
