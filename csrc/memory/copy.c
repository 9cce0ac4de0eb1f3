/*
 * Bounds-checked copies out of and into a memory. They go through process_vm_readv and process_vm_writev on ourselves:
 * the kernel then takes the faults, and a poisoned page is an error here instead of a SIGBUS. Where the kernel may not
 * take them (USER_MODE_ONLY), the loop that serves the page is asked to bring it in.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "memory/memory.h"

#define BRING_IN_TRIES 8 /* a page can be dropped again between bringing in and copying, but not for ever */

/* Whether the page table has anything for address: a page, or a marker such as poison. Unknown counts as yes. */
static bool is_populated(uint64_t address) {
  uint64_t entry = UINT64_MAX;
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return true;
  if (pread(fd, &entry, sizeof(entry), (off_t)(address / BASE_PAGE * sizeof(entry))) != (ssize_t)sizeof(entry)) {
    entry = UINT64_MAX;
  }
  close(fd);
  return entry != 0;
}

/* Takes the fault in user mode, for pages that an object without a loop of ours serves. */
static int touch(uint64_t address, bool write) {
  struct uffd_mapping mapping;
  if (uffd_find_mapping(address, &mapping) < 0 || mapping.protection[write ? 1 : 0] == '-') return -EFAULT;
  if (is_populated(address)) return -EHWPOISON;
  (void)*(volatile const char *)address; /* NOLINT(performance-no-int-to-ptr) */
  return 0;
}

static int bring_in(const uffd_memory *memory, uint64_t at, bool write) {
  uint64_t address = (uintptr_t)memory->address + at;
  int result = uffd_claim_bring_in(address, write);
  if (result == -ENOENT) result = touch(address, write);
  if (result == -EHWPOISON) {
    return fail(EHWPOISON, "The page at offset %" PRIu64 " is poisoned: its resolver failed or said so.",
                round_down(at, memory->page_size));
  }
  if (result == -EFAULT) {
    return fail(EFAULT, "The page at offset %" PRIu64 " cannot be had: it is not accessible, or nobody serves it.",
                round_down(at, memory->page_size));
  }
  return result;
}

/* One transfer; the direction is that of the memory's side. Falls back to memcpy where a filter forbids the call. */
static ssize_t transfer(char *inside, char *outside, uint64_t length, bool write) {
  struct iovec local = {outside, length}, remote = {inside, length};
  ssize_t count = write ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0)
                        : process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
  if (count >= 0) return count;
  if (errno != EPERM && errno != ENOSYS) return -errno;
  memcpy(write ? inside : outside, write ? outside : inside, length);
  return (ssize_t)length;
}

static int copy(const uffd_memory *memory, uint64_t offset, char *buffer, uint64_t length, bool write) {
  if (memory->process != uffd_process()) return fail(EOWNERDEAD, "This memory belongs to the parent process.");
  if (offset > memory->length || length > memory->length - offset) {
    return fail(ERANGE, "%" PRIu64 " bytes at offset %" PRIu64 " are outside a memory of %" PRIu64 " bytes.", length,
                offset, memory->length);
  }
  unsigned tries = 0;
  for (uint64_t done = 0; done < length;) {
    ssize_t count = transfer(memory->address + offset + done, buffer + done, length - done, write);
    if (count > 0) {
      done += (uint64_t)count;
      tries = 0;
      continue;
    }
    if (count != 0 && count != -EFAULT) return fail((int)-count, "Copying failed: %s.", strerror((int)-count));
    int result = bring_in(memory, offset + done, write);
    if (result < 0) return result;
    if (++tries == BRING_IN_TRIES) {
      return fail(EFAULT, "The page at offset %" PRIu64 " does not stay.",
                  round_down(offset + done, memory->page_size));
    }
  }
  return 0;
}

int uffd_memory_read(uffd_memory *memory, uint64_t offset, void *buffer, uint64_t length) {
  return copy(memory, offset, buffer, length, false);
}

int uffd_memory_write(uffd_memory *memory, uint64_t offset, const void *buffer, uint64_t length) {
  return copy(memory, offset, (char *)(uintptr_t)buffer, length, true); /* only read from: write is set */
}
