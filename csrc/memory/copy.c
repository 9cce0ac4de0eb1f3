/*
 * Copies out of and into a memory, with checked bounds. They use process_vm_readv and process_vm_writev on this
 * process: the kernel takes the faults, and a poisoned page is an error instead of a SIGBUS. Where the kernel may not
 * take them (USER_MODE_ONLY), the loop that serves the page brings it in, or the page is touched.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "memory/memory.h"

#define BRING_IN_TRIES 8 /* a page may be dropped again between bringing in and copying, but not for ever */
#define PIPE_BYTES     (16 * BASE_PAGE)

/* A copy in progress. */
struct copying {
  uint64_t offset; /* in the memory */
  char *inside;    /* where that lies now */
  char *outside;
  uint64_t length;
  bool write; /* into the memory */
};

static uint64_t to_page_end(const char *address) {
  return BASE_PAGE - (uintptr_t)address % BASE_PAGE;
}

/*
 * Used where a filter forbids the system calls: read and write on a pipe take the same faults. The pipe must not keep a
 * part of a page, so each page in it is one page of either side.
 */
static ssize_t copy_by_pipe(char *to, const char *from, uint64_t length) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return -errno;
  uint64_t part = min_u64(to_page_end(to), to_page_end(from));
  ssize_t count = write(ends[1], from, min_u64(length, part == BASE_PAGE ? PIPE_BYTES : part));
  if (count > 0) count = read(ends[0], to, (size_t)count);
  if (count < 0) count = -errno;
  close(ends[0]);
  close(ends[1]);
  return count;
}

/* The number of bytes that were copied before the first that could not be; -EFAULT when that is the first byte. */
static ssize_t copy_some(const struct copying *rest) {
  struct iovec local = {rest->outside, rest->length}, remote = {rest->inside, rest->length};
  ssize_t count = rest->write ? process_vm_writev(getpid(), &local, 1, &remote, 1, 0)
                              : process_vm_readv(getpid(), &local, 1, &remote, 1, 0);
  if (count >= 0) return count;
  if (errno != EPERM && errno != ENOSYS) return -errno;
  return rest->write ? copy_by_pipe(rest->inside, rest->outside, rest->length)
                     : copy_by_pipe(rest->outside, rest->inside, rest->length);
}

static int copy_whole(struct copying rest) {
  while (rest.length != 0) {
    ssize_t count = copy_some(&rest);
    if (count <= 0) return count < 0 ? (int)count : -EFAULT;
    rest.inside += count;
    rest.outside += count;
    rest.length -= (uint64_t)count;
  }
  return 0;
}

int uffd_peek(void *buffer, const void *source, uint64_t length) {
  return copy_whole((struct copying){.inside = (char *)(uintptr_t)source, .outside = buffer, .length = length});
}

int uffd_poke(void *target, const void *data, uint64_t length) {
  return copy_whole(
      (struct copying){.inside = target, .outside = (char *)(uintptr_t)data, .length = length, .write = true});
}

static bool is_readable(char *byte) {
  char copy;
  return copy_some(&(struct copying){.inside = byte, .outside = &copy, .length = 1}) == 1;
}

/* Which side stopped the copy: the source, if it cannot be read. */
static bool outside_stopped(const struct copying *rest) {
  return rest->write ? !is_readable(rest->outside) : is_readable(rest->inside);
}

/* A loop that closes cancels the request. From then on the memory is ordinary. */
static int bring_in(uint64_t address, bool write) {
  int result = uffd_claim_bring_in(address, write);
  if (result != -ENOENT && result != -ECANCELED) return result;
  return uffd_is_poisoned(address) ? -EHWPOISON : uffd_touch(address, write);
}

static int explain(const uffd_memory *memory, const struct copying *rest, bool outside, int error) {
  char where[64];
  if (outside) {
    snprintf(where, sizeof(where), "buffer at %p", (void *)rest->outside);
  } else {
    snprintf(where, sizeof(where), "page at offset %" PRIu64, round_down(rest->offset, memory->page_size));
  }
  if (error == EFAULT && uffd_is_poisoned((uintptr_t)(outside ? rest->outside : rest->inside))) error = EHWPOISON;
  switch (error) {
  case EHWPOISON:
    return fail(error, "The %s is poisoned: its resolver failed or said so.", where);
  case EFAULT:
    return fail(error, "The %s cannot be had: it is unmapped, protected, beyond its file's end, or nobody serves it.",
                where);
  case EDEADLK:
    if (uffd_thread_answers)
      return fail(error,
                  "The %s is served by a pump that the calling thread drives: it would wait for its own answer. Call "
                  "uffd_loop_step() in one thread, and touch the memory in another.",
                  where);
    return fail(error, "The %s is served by the loop whose callback asks for it.", where);
  default:
    return fail(error, "Copying failed at the %s: %s.", where, strerror(error));
  }
}

static int check_range(const uffd_memory *memory, uint64_t offset, uint64_t length) {
  int result = uffd_memory_enter_own(memory);
  if (result < 0) return result;
  if (offset <= memory->length && length <= memory->length - offset) return 0;
  return fail(ERANGE, "%" PRIu64 " bytes at offset %" PRIu64 " are outside a memory of %" PRIu64 " bytes.", length,
              offset, memory->length);
}

/* -EDEADLK where the kernel would take a fault that the calling thread itself must answer. */
static int refuse_own(const uffd_memory *memory, struct copying part) {
  uint64_t page;
  if (uffd_would_wait((uintptr_t)part.inside, part.length, part.write, &page)) {
    part.offset += page - (uintptr_t)part.inside; /* modulo 2^64: the page may begin before it */
    return explain(memory, &part, false, EDEADLK);
  }
  if (uffd_would_wait((uintptr_t)part.outside, part.length, !part.write, &page))
    return explain(memory, &part, true, EDEADLK);
  return 0;
}

static void go_on(struct copying *rest, uint64_t count) {
  rest->offset += count;
  rest->inside += count;
  rest->outside += count;
  rest->length -= count;
}

/* Copies a part that lies in one place. */
static int copy_part(const uffd_memory *memory, struct copying *rest) {
  unsigned tries = 0;
  while (rest->length != 0) {
    ssize_t count = copy_some(rest);
    if (count > 0) {
      go_on(rest, (uint64_t)count);
      tries = 0;
      continue;
    }
    if (count != 0 && count != -EFAULT) return explain(memory, rest, false, (int)-count);
    bool outside = outside_stopped(rest);
    int result = -EFAULT;
    if (tries++ < BRING_IN_TRIES) {
      result =
          outside ? bring_in((uintptr_t)rest->outside, !rest->write) : bring_in((uintptr_t)rest->inside, rest->write);
    }
    if (result < 0) return explain(memory, rest, outside, -result);
  }
  return 0;
}

static int explain_unmapped(uint64_t offset) {
  return fail(EFAULT, "The page at offset %" PRIu64 " is not mapped any more: the program has unmapped it.", offset);
}

static int copy_all(uffd_memory *memory, uint64_t offset, struct copying all) {
  int result = check_range(memory, offset, all.length);
  uint64_t run;
  for (uint64_t done = 0; result == 0 && done < all.length; done += run) {
    struct copying part = all;
    part.offset = offset + done;
    part.inside = uffd_place_find(memory, part.offset, &run);
    part.outside += done;
    run = min_u64(run, all.length - done);
    part.length = run;
    result = part.inside == NULL ? explain_unmapped(part.offset) : refuse_own(memory, part);
    if (result == 0) result = copy_part(memory, &part);
  }
  return result;
}

/*
 * A thread that asks for a page is counted in a claim, and may have a helper process: it must not be
 * cancelled.
 */
static int copy(uffd_memory *memory, uint64_t offset, struct copying all) {
  uffd_hold_cancel();
  int result = copy_all(memory, offset, all);
  uffd_let_cancel();
  return result;
}

int uffd_memory_read(uffd_memory *memory, uint64_t offset, void *buffer, uint64_t length) {
  return copy(memory, offset, (struct copying){.outside = buffer, .length = length});
}

int uffd_memory_write(uffd_memory *memory, uint64_t offset, const void *buffer, uint64_t length) {
  char *source = (char *)(uintptr_t)buffer; /* it is only read, because write is set */
  return copy(memory, offset, (struct copying){.outside = source, .length = length, .write = true});
}

/* A page that comes with its neighbours may arrive write-protected: it is brought in first, then unprotected. */
static int prefault_page(const uffd_memory *memory, uint64_t offset, char *address, bool write) {
  const struct copying page = {.offset = offset, .inside = address, .length = memory->page_size, .write = write};
  for (unsigned tries = 0; tries < 2; tries++) {
    if (madvise(address, memory->page_size, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0) return 0;
    int result = bring_in((uintptr_t)address, write);
    if (result < 0) return explain(memory, &page, false, -result);
  }
  return 0;
}

/* A part that lies in one place. */
struct part {
  const uffd_memory *memory;
  uint64_t offset, start, end; /* addresses, and the offset of start */
  bool write;
};

static int prefault_pages(const struct part *part, uint64_t low, uint64_t high) {
  int result = 0;
  for (uint64_t at = low; at < high && result == 0; at += part->memory->page_size) {
    char *page = (char *)(uintptr_t)at; /* NOLINT(performance-no-int-to-ptr) */
    result = prefault_page(part->memory, part->offset + (at - part->start), page, part->write);
  }
  return result;
}

/* No loop of this process serves [low, high), but another process may read its faults. */
static int prefault_registered(const struct part *part, uint64_t low, uint64_t high) {
  struct uffd_maps maps;
  struct uffd_mapping mapping;
  int result = uffd_maps_open(&maps, true);
  if (result < 0) return 0;
  for (uint64_t at = low; at < high && result == 0 && uffd_maps_find(&maps, at, &mapping) == 0; at = mapping.end) {
    if (!uffd_mapping_is_registered(&mapping)) continue;
    result = prefault_pages(part, max_u64(at, mapping.start), min_u64(high, mapping.end));
  }
  uffd_maps_close(&maps);
  return result;
}

/* Ranges that nobody serves are left alone: nobody can be asked for their pages. */
static int prefault_part(const struct part *part) {
  int result = 0;
  uint64_t page;
  if (uffd_would_wait(part->start, part->end - part->start, part->write, &page)) {
    const struct copying rest = {.offset = part->offset + (page - part->start)};
    return explain(part->memory, &rest, false, EDEADLK);
  }
  for (uint64_t at = part->start, next; at < part->end && result == 0; at = next) {
    bool served = uffd_claim_serves(at, part->end, &next);
    result = (served ? prefault_pages : prefault_registered)(part, at, next);
  }
  return result;
}

int uffd_memory_prefault(uffd_memory *memory, uint64_t offset, uint64_t length, int write) {
  int result = check_range(memory, offset, length);
  if (result < 0 || length == 0) return result;
  uint64_t end = round_up(offset + length, memory->page_size), run;
  uffd_hold_cancel();
  for (uint64_t at = round_down(offset, memory->page_size); at < end && result == 0; at += run) {
    struct part part = {.memory = memory, .offset = at, .write = write != 0};
    part.start = (uintptr_t)uffd_place_find(memory, at, &run);
    run = min_u64(run, end - at);
    part.end = part.start + run;
    result = part.start == 0 ? explain_unmapped(at) : prefault_part(&part);
  }
  uffd_let_cancel();
  return result;
}
