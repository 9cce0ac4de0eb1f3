/*
 * Takes in a snapshot of a virtual machine of Cloud Hypervisor, which sends itself here. The machine may be gone once
 * its last request is answered: before that all is on the disk.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/door/listen.h"
#include "serve/offload/files.h"
#include "serve/offload/frames.h"
#include "serve/offload/slots.h"
#include "serve/paper/book.h"
#include "serve/paper/descriptors.h"
#include "uffd_pager.h"

#define TIMEOUT_MS  60000u
#define HEAR_OUT_MS 1000u
#define PIECE       (UINT64_C(1) << 20)

struct memory { /* that was sent */
  uint32_t slot;
  int fd;
};

struct snapshot {
  struct uffd_offload_opts opts;
  struct uffd_listener listener;
  int control;
  bool started, configured, has_state;
  struct uffd_ch_text config, state;
  struct uffd_ch_slots slots;
  struct memory *memories; /* room for UFFD_REGIONS_MAX */
  uint32_t count;
  struct uffd_newfile files[3]; /* memory, state, config: in this order they appear */
  char *piece;
};

enum { MEMORY, STATE, CONFIG, FILES };
static const char *const names[FILES] = {UFFD_CH_MEMORY_FILE, UFFD_CH_STATE_FILE, UFFD_CH_CONFIG_FILE};

/* Nothing that is there is replaced: a restore may be reading it. */
static int open_files(struct snapshot *snapshot) {
  char path[PATH_MAX];
  const char *directory = snapshot->opts.directory;
  if (mkdir(directory, 0700) != 0 && errno != EEXIST) {
    return fail(errno, "Cannot make the directory %s: %s.", directory, strerror(errno));
  }
  for (int i = 0; i < FILES; i++) {
    int result = uffd_ch_path(directory, names[i], path, sizeof(path));
    if (result < 0) return result;
    if (access(path, F_OK) == 0) return fail(EEXIST, "%s is there already: choose another directory.", path);
    result = uffd_newfile_open(&snapshot->files[i], path);
    if (result < 0) return result;
    (void)fchmod(snapshot->files[i].fd, 0600); /* the machine's memory is nobody else's business */
  }
  return 0;
}

/* Memory */

/* Zero pages stay holes. */
static int write_piece(const struct snapshot *snapshot, uint64_t at, uint64_t length) {
  const struct uffd_newfile *file = &snapshot->files[MEMORY];
  uint64_t end;
  static const char zeros[BASE_PAGE];
  for (uint64_t from = 0; from < length; from = end) {
    bool zero = memcmp(snapshot->piece + from, zeros, min_u64(BASE_PAGE, length - from)) == 0;
    end = from;
    do {
      end = min_u64(end + BASE_PAGE, length);
    } while (end < length && (memcmp(snapshot->piece + end, zeros, min_u64(BASE_PAGE, length - end)) == 0) == zero);
    if (zero) continue;
    int result = uffd_write_exactly(file->fd, file->path, at + from, snapshot->piece + from, end - from);
    if (result < 0) return result;
  }
  return 0;
}

static int read_piece(const struct snapshot *snapshot, int fd, uint64_t offset, uint64_t length) {
  for (uint64_t got = 0; got < length;) {
    ssize_t count = pread(fd, snapshot->piece + got, length - got, (off_t)(offset + got));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail(errno, "Cannot read the memory of the machine: %s.", strerror(errno));
    if (count == 0) return fail(EIO, "The memory of the machine ends at byte %" PRIu64 " of its file.", offset + got);
    got += (uint64_t)count;
  }
  return 0;
}

/* [*start, *end): the next bytes that are no hole, from *start on. Files of huge pages do not tell their holes. */
static bool find_data(int fd, uint64_t *start, uint64_t *end, uint64_t limit) {
  off_t data = lseek(fd, (off_t)*start, SEEK_DATA);
  if (data < 0 && errno == ENXIO) return false;
  *end = limit;
  if (data < 0) return true;
  off_t hole = lseek(fd, data, SEEK_HOLE);
  *start = (uint64_t)data;
  if (hole >= 0) *end = min_u64((uint64_t)hole, limit);
  return *start < limit;
}

static int save_slot(struct snapshot *snapshot, const struct uffd_ch_slot *slot, int fd) {
  struct stat status;
  uint64_t from = slot->file_offset, limit = from + slot->length, to;
  if (fstat(fd, &status) != 0 || (uint64_t)status.st_size < limit) {
    return fail(EINVAL, "The file of slot %u is too short for its %" PRIu64 " bytes at %" PRIu64 ".", slot->number,
                slot->length, slot->file_offset);
  }
  for (; from < limit && find_data(fd, &from, &to, limit); from = to) {
    for (uint64_t at = from; at < to; at += PIECE) {
      uint64_t length = min_u64(PIECE, to - at);
      int result = read_piece(snapshot, fd, at, length);
      if (result == 0) result = write_piece(snapshot, slot->image_offset + (at - slot->file_offset), length);
      if (result < 0) return result;
    }
  }
  return 0;
}

static int find_memory(const struct snapshot *snapshot, uint32_t slot) {
  for (uint32_t i = 0; i < snapshot->count; i++) {
    if (snapshot->memories[i].slot == slot) return snapshot->memories[i].fd;
  }
  return -1;
}

static int save_memory(struct snapshot *snapshot) {
  const struct uffd_newfile *file = &snapshot->files[MEMORY];
  if (ftruncate(file->fd, (off_t)snapshot->slots.length) != 0) {
    return fail(errno, "No room for %" PRIu64 " bytes in %s: %s.", snapshot->slots.length, file->path, strerror(errno));
  }
  for (uint32_t i = 0; i < snapshot->slots.count; i++) {
    const struct uffd_ch_slot *slot = &snapshot->slots.slots[i];
    int fd = find_memory(snapshot, slot->number);
    if (fd < 0) return fail(EPROTO, "The memory of slot %u was not sent.", slot->number);
    int result = save_slot(snapshot, slot, fd);
    if (result < 0) return result;
  }
  return 0;
}

static int save_text(const struct uffd_newfile *file, const struct uffd_ch_text *text) {
  return uffd_write_exactly(file->fd, file->path, 0, text->bytes, text->length);
}

/* The config appears last: a directory without it is no snapshot. */
static int save(struct snapshot *snapshot) {
  if (!snapshot->configured || !snapshot->has_state) {
    return fail(EPROTO, "The migration ended before its %s came.", snapshot->configured ? "state" : "config");
  }
  int result = save_memory(snapshot);
  if (result == 0) result = save_text(&snapshot->files[STATE], &snapshot->state);
  if (result == 0) result = save_text(&snapshot->files[CONFIG], &snapshot->config);
  BARRIER("offload-saved", NULL);
  for (int i = 0; i < FILES && result == 0; i++) {
    result = uffd_newfile_keep(&snapshot->files[i]);
  }
  return result;
}

/* Requests */

static int take_start(struct snapshot *snapshot, const struct uffd_ch_request *request) {
  if (request->version != 0 || request->length != 0) {
    return fail(EPROTO, "Cloud Hypervisor speaks version %u of the migration protocol: this program knows version 0.",
                request->version);
  }
  snapshot->started = true;
  return 0;
}

static int take_memory(struct snapshot *snapshot, const struct uffd_ch_request *request) {
  unsigned char number[4];
  int fd = -1;
  if (request->length != sizeof(number)) {
    return fail(EPROTO, "A slot of the machine came with %" PRIu64 " bytes instead of 4.", request->length);
  }
  int result = uffd_ch_receive(snapshot->control, number, sizeof(number), &fd);
  if (result <= 0) return result < 0 ? result : fail(EPIPE, "Cloud Hypervisor has hung up.");
  uint32_t slot = (uint32_t)uffd_ch_number(number, sizeof(number));
  if (fd < 0) {
    result =
        fail(EBADF, "Slot %u came without a descriptor: the machine needs shared memory (memory shared=on).", slot);
  } else if (find_memory(snapshot, slot) >= 0) {
    result = fail(EPROTO, "Slot %u came twice.", slot);
  } else if (snapshot->count == UFFD_REGIONS_MAX) {
    result = fail(E2BIG, "More than %u slots came.", UFFD_REGIONS_MAX);
  } else {
    snapshot->memories[snapshot->count++] = (struct memory){slot, fd};
    return 0;
  }
  uffd_close_fds(&fd, 1);
  return result;
}

static int take_text(const struct snapshot *snapshot, uint64_t length, uint64_t max, struct uffd_ch_text *text) {
  if (text->bytes != NULL) return fail(EPROTO, "The config or the state of the machine came twice.");
  if (length > max) {
    return fail(E2BIG, "The config or state has %" PRIu64 " bytes, and at most %" PRIu64 " are taken.", length, max);
  }
  text->bytes = uffd_alloc(length + 1);
  text->length = length;
  if (text->bytes == NULL) return fail(ENOMEM, "No memory for %" PRIu64 " bytes of config or state.", length);
  int result = uffd_ch_receive(snapshot->control, text->bytes, length, NULL);
  if (result == 0 && length != 0) return fail(EPIPE, "Cloud Hypervisor has hung up.");
  return result < 0 ? result : 0;
}

static int take_config(struct snapshot *snapshot, uint64_t length) {
  int result = take_text(snapshot, length, UFFD_CH_CONFIG_MAX, &snapshot->config);
  if (result < 0) return result;
  result = uffd_ch_slots_read(snapshot->config.bytes, snapshot->config.length, BASE_PAGE, &snapshot->slots);
  snapshot->configured = result == 0;
  return result;
}

static int take_state(struct snapshot *snapshot, uint64_t length) {
  int result = take_text(snapshot, length, UFFD_CH_STATE_MAX, &snapshot->state);
  snapshot->has_state = result == 0;
  return result;
}

/* 0: go on; 1: all is saved; -errno. */
static int obey(struct snapshot *snapshot, const struct uffd_ch_request *request) {
  int result;
  if (snapshot->started != (request->command != UFFD_CH_START) && request->command != UFFD_CH_ABANDON) {
    return fail(EPROTO, "Request %u came where the migration %s.", request->command,
                snapshot->started ? "has begun already" : "should begin");
  }
  switch (request->command) {
  case UFFD_CH_START:
    return take_start(snapshot, request);
  case UFFD_CH_MEMORY_FD:
    return take_memory(snapshot, request);
  case UFFD_CH_CONFIG:
    return take_config(snapshot, request->length);
  case UFFD_CH_STATE:
    return take_state(snapshot, request->length);
  case UFFD_CH_COMPLETE:
  case UFFD_CH_COMPLETE_PAUSED:
    result = save(snapshot);
    return result < 0 ? result : 1;
  case UFFD_CH_ABANDON:
    return fail(ECANCELED, "Cloud Hypervisor has given up the snapshot: nothing of it is kept.");
  default:
    return fail(EPROTO, "Request %u came in a migration: is it to another machine? Say local=on.", request->command);
  }
}

/* Whoever is refused may be sending still: it reads why when it has done so, before the connection is closed. */
static void hear_out(const struct snapshot *snapshot) {
  uint64_t until = uffd_now() + HEAR_OUT_MS * UINT64_C(1000000);
  uffd_ch_set_timeout(snapshot->control, HEAR_OUT_MS);
  while (uffd_now() < until && recv(snapshot->control, snapshot->piece, PIECE, 0) > 0) {
  }
}

static int take_in(struct snapshot *snapshot) {
  unsigned char frame[UFFD_CH_FRAME];
  struct uffd_ch_request request;
  int result = 0;
  while (result == 0) {
    result = uffd_ch_receive(snapshot->control, frame, sizeof(frame), NULL);
    if (result == 0) return fail(EPIPE, "Cloud Hypervisor has hung up before the end: nothing of it is kept.");
    if (result < 0) return result;
    uffd_ch_read_request(frame, &request);
    result = obey(snapshot, &request);
    struct uffd_sentence why = uffd_keep_sentence();
    /* who has given up is told that it was heard */
    int told = uffd_ch_respond(snapshot->control, result < 0 && result != -ECANCELED ? UFFD_CH_ERROR : UFFD_CH_OK);
    if (result == 0 && told < 0) return told;
    if (result < 0) hear_out(snapshot);
    uffd_restore_sentence(&why);
  }
  return result < 0 ? result : 0;
}

static int await_machine(struct snapshot *snapshot) {
  struct uffd_peer peer;
  while (snapshot->control < 0) {
    struct pollfd door = {.fd = snapshot->listener.fd, .events = POLLIN};
    if (poll(&door, 1, -1) < 0 && errno != EINTR) return fail(errno, "Cannot wait: %s.", strerror(errno));
    int fd = uffd_listener_accept(&snapshot->listener, -1, &peer);
    if (fd < 0) continue; /* nobody, or somebody who may not: the machine is still to come */
    uffd_close_fds(&peer.pidfd, 1);
    snapshot->control = fd;
  }
  (void)fcntl(snapshot->control, F_SETFL, 0); /* it waits, with a limit */
  uffd_ch_set_timeout(snapshot->control, snapshot->opts.timeout_ms);
  return 0;
}

static void release(struct snapshot *snapshot) {
  for (int i = 0; i < FILES; i++) {
    uffd_newfile_discard(&snapshot->files[i]);
  }
  for (uint32_t i = 0; i < snapshot->count; i++) {
    close(snapshot->memories[i].fd);
  }
  uffd_listener_close(&snapshot->listener);
  uffd_close_fds(&snapshot->control, 1);
  uffd_ch_slots_free(&snapshot->slots);
  uffd_ch_text_free(&snapshot->config);
  uffd_ch_text_free(&snapshot->state);
  uffd_release(snapshot->memories, UFFD_REGIONS_MAX * sizeof(*snapshot->memories));
  uffd_release(snapshot->piece, PIECE);
}

static int run(struct snapshot *snapshot) {
  snapshot->memories = uffd_alloc(UFFD_REGIONS_MAX * sizeof(*snapshot->memories));
  snapshot->piece = uffd_alloc(PIECE);
  if (snapshot->memories == NULL || snapshot->piece == NULL) return fail(ENOMEM, "No memory for a snapshot.");
  int result = open_files(snapshot);
  if (result == 0) result = uffd_listener_open(&snapshot->listener, snapshot->opts.socket, 0600);
  if (result == 0) result = await_machine(snapshot);
  return result < 0 ? result : take_in(snapshot);
}

int uffd_offload_snapshot(const struct uffd_offload_opts *user_opts, struct uffd_offload_result *done) {
  struct snapshot snapshot = {.opts = UFFD_OFFLOAD_OPTS_INIT, .listener = UFFD_LISTENER_INIT, .control = -1};
  for (int i = 0; i < FILES; i++) {
    snapshot.files[i].fd = -1;
  }
  if (done != NULL && done->size < sizeof(size_t) * 2) return fail(EINVAL, "uffd_offload_result: set its size.");
  int result = uffd_take_opts(&snapshot.opts, sizeof(snapshot.opts), user_opts, "uffd_offload_opts");
  if (result < 0) return result;
  if (snapshot.opts.socket == NULL || snapshot.opts.directory == NULL)
    return fail(EINVAL, "A snapshot needs a socket and a directory.");
  if (snapshot.opts.timeout_ms == 0) snapshot.opts.timeout_ms = TIMEOUT_MS;
  result = run(&snapshot);
  if (result == 0 && done != NULL) {
    struct uffd_offload_result all = {
        .size = done->size, .slots = snapshot.slots.count, .bytes = snapshot.slots.length};
    memcpy(done, &all, min_u64(done->size, sizeof(all)));
  }
  struct uffd_sentence why = uffd_keep_sentence();
  release(&snapshot);
  uffd_restore_sentence(&why);
  return result;
}
