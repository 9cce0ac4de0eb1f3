/*
 * Backings: their files opened once, leased where the kernel allows it, looked at otherwise.
 */
#include "serve/paper/backing.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "memory/lending.h"
#include "resolver/criu.h"
#include "serve/paper/layers.h"
#include "uffd_pager.h"

#define TICK_NS     20000000 /* the kernel's file times have steps of up to 10 ms */
#define FILES_LIMIT 64u

/* What travels in the message's text. */
struct packed {
  uint64_t length, identity;
  uint64_t version; /* of a dump */
  uint32_t count, layered, replay, dump;
  char name[256];
  uint64_t token; /* of shared_fd, 0: there is none. Older pagers have zeros here */
};
_Static_assert(sizeof(struct packed) < UFFD_MESSAGE_TEXT, "a backing fits into a message");

/* The signal that tells of a writer is one that is ignored by default: the lease is looked at instead. */
static bool take_lease(int fd) {
  return fcntl(fd, F_SETSIG, SIGURG) == 0 && fcntl(fd, F_SETLEASE, F_RDLCK) == 0;
}

static bool is_sealed(int fd) {
  int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_WRITE) != 0 && (seals & F_SEAL_SHRINK) != 0 && (seals & F_SEAL_GROW) != 0;
}

/* A change in the same step of the clock would leave the times as they are: let the step pass. */
static void let_times_settle(int fd) {
  struct stat status;
  struct timespec now, step = {.tv_nsec = TICK_NS};
  clock_gettime(CLOCK_REALTIME, &now);
  if (fstat(fd, &status) != 0) return;
  int64_t age = (now.tv_sec - status.st_ctim.tv_sec) * INT64_C(1000000000) + now.tv_nsec - status.st_ctim.tv_nsec;
  if (age < TICK_NS) (void)nanosleep(&step, NULL);
}

static uint64_t bytes_of(const struct uffd_backing *backing) {
  return backing->count * sizeof(*backing->files);
}

/* The file as it is from now on. */
static int guard(struct uffd_backing_file *file) {
  file->sealed = is_sealed(file->fd);
  file->leased = !file->sealed && take_lease(file->fd);
  if (!uffd_backing_is_safe(file)) let_times_settle(file->fd);
  return uffd_stamp_take(file->fd, &file->stamp);
}

static int open_raw(const char *path, struct uffd_backing *backing) {
  uffd_resolver *resolver;
  backing->files = NEW(struct uffd_backing_file);
  if (backing->files == NULL) return fail(ENOMEM, "No memory for an image.");
  backing->count = 1;
  struct uffd_backing_file *file = backing->files;
  file->sidecar_fd = -1;
  snprintf(file->path, sizeof(file->path), "%s", path);
  file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a pipe must not wait for its other end */
  if (file->fd < 0) return fail(errno, "%s.", strerror(errno));
  int result = uffd_resolver_file_fd(file->fd, NULL, &resolver); /* refuses what workers could not serve */
  if (result < 0) return result;
  uffd_resolver_close(resolver);
  result = guard(file);
  return result < 0 ? result : uffd_image_identity(file->fd, &backing->length, &backing->identity);
}

/* What was read of a layer before its lease was taken must still be so. */
static int open_layers(const char *const *paths, struct uffd_backing *backing) {
  int result = uffd_layers_open(paths, backing);
  for (uint32_t i = 0; result == 0 && i < backing->count; i++) {
    struct uffd_backing_file *file = &backing->files[i];
    const struct uffd_stamp before = file->stamp;
    result = guard(file);
    if (result == 0 && !uffd_stamp_holds_here(file->fd, &before)) {
      result = fail(ESTALE, "%s was changed while it was opened.", file->path);
    }
  }
  return result;
}

static bool is_directory(const char *path) {
  struct stat status;
  return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static int open_dump(const char *path, struct uffd_backing *backing) {
  backing->files = NEW(struct uffd_backing_file);
  if (backing->files == NULL) return fail(ENOMEM, "No memory for an image.");
  backing->count = 1;
  struct uffd_backing_file *file = backing->files;
  file->sidecar_fd = -1;
  snprintf(file->path, sizeof(file->path), "%s", path);
  file->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file->fd < 0) return fail(errno, "%s: %s.", path, strerror(errno));
  int result = uffd_criu_open(file->fd, path, &backing->dump);
  if (result < 0) return result;
  backing->length = uffd_criu_length(backing->dump);
  backing->identity = uffd_criu_identity(backing->dump);
  return 0;
}

/* A copy of the list for other processes. */
static int make_list(struct uffd_backing *backing) {
  backing->list_fd = memfd_create("uffd-files", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (backing->list_fd < 0) return fail(errno, "No descriptor for an image: %s.", strerror(errno));
  int result =
      uffd_write_exactly(backing->list_fd, "the list of an image's files", 0, backing->files, bytes_of(backing));
  if (result == 0) (void)fcntl(backing->list_fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
  return result;
}

/* The layers as one name: that of the top, and how many are below it. */
static void set_name(struct uffd_backing *backing, const char *const *paths) {
  const char *top = paths[0];
  size_t count = 1;
  for (; paths[count] != NULL; count++) {
    top = paths[count];
  }
  if (count == 1) {
    snprintf(backing->name, sizeof(backing->name), "%s", top);
  } else {
    snprintf(backing->name, sizeof(backing->name), "%.200s (%zu layers)", top, count);
  }
}

int uffd_backing_open(const char *const *paths, struct uffd_backing *backing) {
  *backing = (struct uffd_backing){.list_fd = -1, .replay_fd = -1, .shared_fd = -1};
  set_name(backing, paths);
  bool dump = paths[1] == NULL && is_directory(paths[0]);
  bool layered = !dump && (paths[1] != NULL || uffd_layers_wanted(paths[0]));
  int result = dump      ? open_dump(paths[0], backing)
               : layered ? open_layers(paths, backing)
                         : open_raw(paths[0], backing);
  if (result == 0 && layered &&
      backing->files[backing->count - 1].remote != 0) { /* its URI may have secrets, its name has none */
    const char *const name[] = {backing->files[backing->count - 1].path, NULL};
    set_name(backing, name);
  }
  if (result == 0) result = make_list(backing);
  if (result == 0) return 0;
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_backing_close(backing);
  if (!layered && !dump) return fail(-result, "%s: %s", paths[0], why.text);
  uffd_restore_sentence(&why);
  return result;
}

bool uffd_backing_is_safe(const struct uffd_backing_file *file) {
  return file->leased != 0 || file->sealed != 0;
}

enum uffd_backing_state uffd_backing_look_at(const struct uffd_backing_file *file) {
  bool leased = file->leased != 0;
  if (file->sealed != 0 || (leased && fcntl(file->fd, F_GETLEASE) == F_RDLCK)) return UFFD_BACKING_INTACT;
  if (!uffd_stamp_holds_here(file->fd, &file->stamp)) return UFFD_BACKING_CHANGED;
  return leased ? UFFD_BACKING_WANTED : UFFD_BACKING_INTACT;
}

enum uffd_backing_state uffd_backing_look(const struct uffd_backing *backing) {
  enum uffd_backing_state worst = UFFD_BACKING_INTACT;
  if (backing->dump != NULL) return uffd_criu_holds(backing->dump) ? UFFD_BACKING_INTACT : UFFD_BACKING_CHANGED;
  for (uint32_t i = 0; i < backing->count; i++) {
    enum uffd_backing_state state = uffd_backing_look_at(&backing->files[i]);
    if (state > worst) worst = state;
  }
  return worst;
}

bool uffd_backing_same(const struct uffd_backing *backing, const struct uffd_backing *other) {
  if (backing->count != other->count || backing->layered != other->layered || backing->identity != other->identity ||
      backing->length != other->length || (backing->replay_fd >= 0) != (other->replay_fd >= 0)) {
    return false;
  }
  if (backing->dump != NULL || other->dump != NULL) {
    return backing->dump != NULL && other->dump != NULL &&
           uffd_criu_version(backing->dump) == uffd_criu_version(other->dump);
  }
  for (uint32_t i = 0; i < backing->count; i++) {
    const struct uffd_backing_file *one = &backing->files[i], *two = &other->files[i];
    if (!uffd_stamp_holds_here(one->fd, &two->stamp) || memcmp(one->id, two->id, sizeof(one->id)) != 0) return false;
  }
  return true;
}

uint64_t uffd_backing_shared_length(const struct uffd_backing *backing) {
  return round_up(backing->length, BASE_PAGE);
}

/* The token tells this memfd from those of other images, and of other pagers. JSON has it as an integer. */
int uffd_backing_share(struct uffd_backing *backing) {
  uint64_t token = 0;
  while (token == 0) {
    if (getrandom(&token, sizeof(token), 0) != (ssize_t)sizeof(token)) {
      return fail(errno, "No random number for an image: %s.", strerror(errno));
    }
    token &= INT64_MAX;
  }
  int result = uffd_common_create(uffd_backing_shared_length(backing), BASE_PAGE, &backing->shared_fd);
  if (result == 0) backing->token = token;
  return result;
}

void uffd_backing_yield(struct uffd_backing *backing) {
  for (uint32_t i = 0; i < backing->count; i++) {
    if (backing->files[i].leased != 0) (void)fcntl(backing->files[i].fd, F_SETLEASE, F_UNLCK);
  }
}

void uffd_backing_close(struct uffd_backing *backing) {
  for (uint32_t i = 0; i < backing->count; i++) {
    uffd_close_fds(&backing->files[i].fd, 1);
    uffd_close_fds(&backing->files[i].sidecar_fd, 1);
  }
  uffd_release(backing->files, bytes_of(backing));
  backing->files = NULL;
  backing->count = 0;
  uffd_close_fds(&backing->list_fd, 1);
  uffd_close_fds(&backing->replay_fd, 1);
  uffd_close_fds(&backing->shared_fd, 1);
  uffd_criu_close(backing->dump);
  backing->dump = NULL;
}

uint32_t uffd_backing_write(const struct uffd_backing *backing, struct uffd_message *message, int *fds) {
  struct packed packed = {.length = backing->length,
                          .identity = backing->identity,
                          .count = backing->count,
                          .layered = backing->layered,
                          .dump = backing->dump != NULL,
                          .version = backing->dump != NULL ? uffd_criu_version(backing->dump) : 0,
                          .replay = backing->replay_fd >= 0,
                          .token = backing->token};
  uint32_t count = 0;
  memcpy(packed.name, backing->name, sizeof(packed.name));
  *message = (struct uffd_message){.version = UFFD_CHANNEL_VERSION, .kind = UFFD_SAY_IMAGE, .number = backing->number};
  memcpy(message->text, &packed, sizeof(packed));
  fds[count++] = backing->list_fd;
  for (uint32_t i = 0; i < backing->count; i++) {
    fds[count++] = backing->files[i].fd;
    if (backing->files[i].sidecar_fd >= 0) fds[count++] = backing->files[i].sidecar_fd;
  }
  if (backing->replay_fd >= 0) fds[count++] = backing->replay_fd;
  if (backing->token != 0) fds[count++] = backing->shared_fd;
  return count;
}

/* The list; its descriptors follow. */
static int read_list(struct uffd_backing *backing) {
  struct stat status;
  uint64_t bytes = bytes_of(backing);
  backing->files = uffd_alloc(bytes);
  if (backing->files == NULL) {
    backing->count = 0;
    return fail(ENOMEM, "No memory for an image.");
  }
  bool whole = fstat(backing->list_fd, &status) == 0 && (uint64_t)status.st_size == bytes &&
               pread(backing->list_fd, backing->files, bytes, 0) == (ssize_t)bytes;
  for (uint32_t i = 0; i < backing->count; i++) {
    struct uffd_backing_file *file = &backing->files[i];
    file->path[sizeof(file->path) - 1] = '\0';
    file->fd = file->sidecar_fd = -1; /* of this process, later */
  }
  return whole ? 0 : fail(EPROTO, "The list of an image's files is of another version.");
}

static int take(int *fd) {
  int taken = *fd;
  *fd = -1;
  return taken;
}

static int take_all(const struct uffd_message *message, int *fds, struct uffd_backing *backing, bool replay) {
  uint32_t next = 1;
  for (uint32_t i = 0; i < backing->count; i++) {
    struct uffd_backing_file *file = &backing->files[i];
    bool indexed = file->indexed != 0;
    if (next < message->fds_count) file->fd = take(&fds[next++]);
    if (indexed && next < message->fds_count) file->sidecar_fd = take(&fds[next++]);
    if (file->fd < 0 || (indexed && file->sidecar_fd < 0)) return fail(EPROTO, "An image came without a descriptor.");
  }
  if (replay && next < message->fds_count) backing->replay_fd = take(&fds[next++]);
  if (backing->token != 0 && next < message->fds_count) backing->shared_fd = take(&fds[next++]);
  if (backing->token != 0 && backing->shared_fd < 0) return fail(EPROTO, "An image came without its shared memory.");
  return 0;
}

/* The dump is read anew on this side: it must be the same. */
static int read_dump(struct uffd_backing *backing, uint64_t version) {
  int result = uffd_criu_open(backing->files[0].fd, backing->name, &backing->dump);
  if (result < 0 || uffd_criu_version(backing->dump) == version) return result;
  return fail(ESTALE, "%s was changed after the pager opened it.", backing->name);
}

int uffd_backing_read(const struct uffd_message *message, int *fds, struct uffd_backing *backing) {
  struct packed packed;
  *backing = (struct uffd_backing){.number = message->number, .list_fd = -1, .replay_fd = -1, .shared_fd = -1};
  if (message->version != UFFD_CHANNEL_VERSION) return fail(EPROTO, "It is of another version of the pager.");
  if (message->fds_count > UFFD_MESSAGE_FDS) return fail(EPROTO, "An image came with too many descriptors.");
  memcpy(&packed, message->text, sizeof(packed));
  for (uint32_t i = 0; i < message->fds_count; i++) {
    if (fds[i] < 0) return fail(EMFILE, "A worker has no descriptors left for an image: raise its limit (ulimit -n).");
  }
  if (message->fds_count < 2 || packed.count == 0 || packed.count > FILES_LIMIT) {
    return fail(EPROTO, "An image came without its descriptors.");
  }
  backing->length = packed.length;
  backing->identity = packed.identity;
  backing->layered = packed.layered;
  backing->token = packed.token;
  memcpy(backing->name, packed.name, sizeof(backing->name));
  backing->name[sizeof(backing->name) - 1] = '\0';
  backing->count = packed.count;
  backing->list_fd = take(&fds[0]);
  int result = read_list(backing);
  if (result == 0) result = take_all(message, fds, backing, packed.replay != 0);
  if (result == 0 && packed.dump != 0) result = read_dump(backing, packed.version);
  if (result == 0) return 0;
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_backing_close(backing);
  uffd_restore_sentence(&why);
  return result;
}

static int identify_dump(const char *path, uint64_t *length, uint64_t *identity) {
  struct uffd_criu *dump;
  int result = uffd_criu_open(-1, path, &dump);
  if (result < 0) return result;
  *length = uffd_criu_length(dump);
  *identity = uffd_criu_identity(dump);
  uffd_criu_close(dump);
  return 0;
}

static int identify_raw(const char *path, uint64_t *length, uint64_t *identity) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a pipe must not wait for its other end */
  if (fd < 0) return fail(errno, "Cannot open %s: %s.", path, strerror(errno));
  int result = uffd_image_identity(fd, length, identity);
  close(fd);
  return result;
}

int uffd_layers_identity(const char *const *paths, uint64_t *length, uint64_t *identity) {
  struct uffd_backing backing = {.list_fd = -1, .replay_fd = -1, .shared_fd = -1};
  if (paths == NULL || paths[0] == NULL) return fail(EINVAL, "No image: give the path of at least one file.");
  if (length == NULL || identity == NULL) return fail(EINVAL, "There is nowhere to put the identity.");
  if (paths[1] == NULL && is_directory(paths[0])) return identify_dump(paths[0], length, identity);
  if (paths[1] == NULL && !uffd_layers_wanted(paths[0])) return identify_raw(paths[0], length, identity);
  int result = uffd_layers_open(paths, &backing);
  *length = backing.length;
  *identity = backing.identity;
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_backing_close(&backing);
  uffd_restore_sentence(&why);
  return result;
}
