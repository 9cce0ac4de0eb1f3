/*
 * Whether bytes hold pages of zeros.
 */
#include "loop/line/zero.h"

#include <sys/uio.h>
#include <unistd.h>

#define SAMPLES      8u
#define SAMPLE_BYTES (UINT64_C(256) << 10)

/*
 * A word of one page in so many: zeros are met where they are a good part of the answer, and where there are none, that
 * costs next to nothing. The bytes are not ours to touch: a file that has shrunk would raise a signal.
 */
bool uffd_may_have_zero_pages(const char *data, uint64_t length, char *page) {
  uint64_t words[SAMPLES];
  struct iovec local = {words, 0}, remote[SAMPLES];
  uint64_t count = min_u64(max_u64(length / SAMPLE_BYTES, 1), SAMPLES), distance = length / count;
  for (uint64_t i = 0; i < count; i++) {
    uint64_t within = (i * 29 + 11) % (distance / BASE_PAGE) * BASE_PAGE; /* not at the same place in every block */
    uint64_t at = round_down(i * distance, BASE_PAGE) + within + BASE_PAGE / 2;
    remote[i] = (struct iovec){(char *)(uintptr_t)data + at, sizeof(words[0])};
  }
  local.iov_len = count * sizeof(words[0]);
  if (process_vm_readv(getpid(), &local, 1, remote, count, 0) != (ssize_t)local.iov_len) return false;
  for (uint64_t i = 0; i < count; i++) {
    const char *sampled = (const char *)remote[i].iov_base - BASE_PAGE / 2;
    if (words[i] == 0 && uffd_peek(page, sampled, BASE_PAGE) == 0 && uffd_is_zero_page(page)) return true;
  }
  return false;
}
