/*
 * The pager's options: checked, completed by the defaults, and copied.
 */
#include "serve/supervisor/options.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "serve/paper/book.h"
#include "serve/paper/template.h"

#if defined(__SANITIZE_THREAD__)
#define OWN_THREADS 2u /* ThreadSanitizer has one, too */
#else
#define OWN_THREADS 1u
#endif

/* fork() copies the calling thread only, and the locks that other threads hold stay locked in the child. */
static int check_threads(const struct uffd_pager_opts *opts) {
  if (opts->worker != NULL) return 0;
  uint32_t count = 0;
  DIR *threads = opendir("/proc/self/task");
  for (struct dirent *entry; threads != NULL && (entry = readdir(threads)) != NULL;) {
    if (entry->d_name[0] != '.') count++;
  }
  if (threads != NULL) (void)closedir(threads);
  if (count <= OWN_THREADS) return 0;
  return fail(EBUSY,
              "This process has %u threads, and workers are forked children of it: give a command line for them "
              "(worker), or create the pager before any thread.",
              count);
}

static int check_door(const struct uffd_pager_door *door) {
  if (door->path == NULL || door->path[0] == '\0') return fail(EINVAL, "doors: a front door needs a path.");
  if (door->mode > 0777) return fail(EINVAL, "doors: 0%o is no mode of a socket.", door->mode);
  if (door->reserved != 0) return fail(EINVAL, "doors: %s has something in reserved.", door->path);
  return 0;
}

static int check_templates(const struct uffd_pager_opts *opts) {
  int result = uffd_is_template(opts->image) ? uffd_template_check("image", opts->image) : 0;
  for (size_t i = 0; opts->images != NULL && opts->images[i] != NULL && result == 0; i++) {
    if (uffd_is_template(opts->images[i])) result = uffd_template_check("image", opts->images[i]);
  }
  if (result == 0 && uffd_is_template(opts->replay)) result = uffd_template_check("replay", opts->replay);
  return result;
}

bool uffd_options_template(const struct uffd_pager_opts *opts) {
  bool found = uffd_is_template(opts->image);
  for (size_t i = 0; opts->images != NULL && opts->images[i] != NULL && !found; i++) {
    found = uffd_is_template(opts->images[i]);
  }
  return found;
}

bool uffd_options_choose(const struct uffd_pager_opts *opts) {
  return opts->choose != NULL || uffd_options_template(opts);
}

int uffd_options_check(const struct uffd_pager_opts *opts) {
  if (opts->socket == NULL && opts->doors_count == 0 && getenv("LISTEN_FDS") == NULL) {
    return fail(EINVAL, "socket: a pager needs the path of its front door, or a socket of the service manager.");
  }
  for (size_t i = 0; i < opts->doors_count; i++) {
    int result = check_door(&opts->doors[i]);
    if (result < 0) return result;
  }
  bool image = opts->image != NULL || opts->images != NULL, chooses = uffd_options_choose(opts);
  if (opts->image != NULL && opts->images != NULL) {
    return fail(EINVAL, "images: a pager has one image: give image or images, not both.");
  }
  if (opts->images != NULL && opts->images[0] == NULL) return fail(EINVAL, "images: the list of layers is empty.");
  int result = check_templates(opts);
  if (result < 0) return result;
  if (!chooses && uffd_is_template(opts->replay)) {
    return fail(EINVAL, "replay: it is a template, and the image is none: one image has one working set.");
  }
  if (!image && !chooses && opts->resolver == NULL) {
    return fail(EINVAL, "image: a pager needs an image, or a resolver that makes all contents.");
  }
  if (!image && !chooses && opts->replay != NULL) {
    return fail(EINVAL, "replay: a working set belongs to an image, and there is none.");
  }
  if (opts->door > UFFD_DOOR_CRIU) return fail(EINVAL, "door: unknown value %u.", opts->door);
  if (opts->door == UFFD_DOOR_CRIU && !image) {
    return fail(EINVAL, "image: the tasks of a restore need the directory of their dump.");
  }
  if (opts->on_crash > UFFD_PAGER_FREEZE) return fail(EINVAL, "on_crash: unknown value %u.", opts->on_crash);
  if (opts->on_drain > UFFD_PAGER_REFUSE) return fail(EINVAL, "on_drain: unknown value %u.", opts->on_drain);
  if ((opts->flags & ~(uint32_t)(UFFD_PAGER_ONCE | UFFD_PAGER_PREFETCH | UFFD_PAGER_KEEP | UFFD_PAGER_SHARE)) != 0) {
    return fail(EINVAL, "flags: unknown bits in 0x%x.", opts->flags);
  }
  if ((opts->flags & UFFD_PAGER_SHARE) != 0 && (!image || chooses || opts->door == UFFD_DOOR_CRIU)) {
    return fail(EINVAL, "share: the clients of one image can share its pages, and there is no such image.");
  }
  if ((opts->flags & UFFD_PAGER_SHARE) != 0 && opts->resolver != NULL) {
    return fail(EINVAL, "share: clients that share the pages of an image have no resolver of their own.");
  }
  if (opts->socket_mode > 0777) return fail(EINVAL, "socket_mode: 0%o is no mode of a socket.", opts->socket_mode);
  if (opts->control_mode > 0777) return fail(EINVAL, "control_mode: 0%o is no mode of a socket.", opts->control_mode);
  if (opts->max_regions > UFFD_REGIONS_MAX) {
    return fail(EINVAL, "max_regions: %u are too many, %u are the most.", opts->max_regions, UFFD_REGIONS_MAX);
  }
  if (opts->workers > 64) return fail(EINVAL, "workers: %u are too many, 64 are the most.", opts->workers);
  if (opts->worker != NULL && opts->worker[0] == NULL) return fail(EINVAL, "worker: the command line is empty.");
  return check_threads(opts);
}

static uint32_t or_else(uint32_t value, uint32_t instead) {
  return value != 0 ? value : instead;
}

static int keep_string(const char **string) {
  if (*string == NULL) return 0;
  size_t length = strlen(*string) + 1;
  char *copy = uffd_alloc(length);
  if (copy != NULL) memcpy(copy, *string, length);
  *string = copy;
  return copy != NULL ? 0 : fail(ENOMEM, "No memory for a pager.");
}

static void release_string(const char *string) {
  if (string != NULL) uffd_release((void *)(uintptr_t)string, strlen(string) + 1);
}

static size_t count_words(const char *const *command) {
  size_t count = 0;
  while (command[count] != NULL) {
    count++;
  }
  return count;
}

static void release_list(const char *const *command, size_t count) {
  for (size_t i = 0; command != NULL && i < count; i++) {
    release_string(command[i]);
  }
  uffd_release((void *)(uintptr_t)command, (count + 1) * sizeof(char *));
}

static int keep_list(const char *const **command) {
  if (*command == NULL) return 0;
  size_t count = count_words(*command);
  const char **copy = uffd_alloc((count + 1) * sizeof(char *));
  int result = copy != NULL ? 0 : fail(ENOMEM, "No memory for a pager.");
  for (size_t i = 0; i < count && result == 0; i++) {
    copy[i] = (*command)[i];
    result = keep_string(&copy[i]);
  }
  if (result < 0) {
    release_list(copy, count);
    copy = NULL;
  }
  *command = copy;
  return result;
}

static void release_doors(const struct uffd_pager_door *doors, size_t count) {
  for (size_t i = 0; doors != NULL && i < count; i++) {
    release_string(doors[i].path);
  }
  uffd_release((void *)(uintptr_t)doors, count * sizeof(*doors));
}

static int keep_doors(struct uffd_pager_opts *opts) {
  const struct uffd_pager_door *doors = opts->doors;
  opts->doors = NULL;
  if (opts->doors_count == 0) return 0;
  struct uffd_pager_door *copy = uffd_alloc(opts->doors_count * sizeof(*copy));
  if (copy == NULL) return fail(ENOMEM, "No memory for a pager.");
  opts->doors = copy;
  for (size_t i = 0; i < opts->doors_count; i++) {
    copy[i] = doors[i];
    copy[i].path = NULL;
  }
  int result = 0;
  for (size_t i = 0; i < opts->doors_count && result == 0; i++) {
    copy[i].path = doors[i].path;
    result = keep_string(&copy[i].path);
  }
  return result;
}

int uffd_options_keep(struct uffd_pager_opts *opts) {
  opts->socket_mode = or_else(opts->socket_mode, 0600);
  opts->control_mode = or_else(opts->control_mode, 0600);
  opts->max_clients = or_else(opts->max_clients, 256);
  opts->max_clients_per_process = or_else(opts->max_clients_per_process, opts->max_clients - opts->max_clients / 4);
  opts->max_clients_per_user = or_else(opts->max_clients_per_user, opts->max_clients);
  opts->max_regions = or_else(opts->max_regions, UFFD_REGIONS_MAX);
  opts->max_bytes = or_else(opts->max_bytes, 1 << 20);
  opts->handshake_ms = or_else(opts->handshake_ms, 5000);
  opts->workers = or_else(opts->workers, 1);
  opts->watchdog_ms = or_else(opts->watchdog_ms, 1000);
  opts->hang_ms = or_else(opts->hang_ms, 10000);
  const char **strings[] = {&opts->socket, &opts->control, &opts->image, &opts->record, &opts->replay, &opts->metrics};
  int result = 0;
  for (size_t i = 0; i < sizeof(strings) / sizeof(*strings); i++) {
    if (result == 0) {
      result = keep_string(strings[i]);
    } else {
      *strings[i] = NULL; /* it is not ours to free */
    }
  }
  const char *const **lists[] = {&opts->worker, &opts->images};
  for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) {
    if (result == 0) {
      result = keep_list(lists[i]);
    } else {
      *lists[i] = NULL;
    }
  }
  if (result < 0) opts->doors = NULL;
  return result < 0 ? result : keep_doors(opts);
}

/* ---- while the pager runs */

static bool same_text(const char *text, const char *other) {
  return text == other || (text != NULL && other != NULL && strcmp(text, other) == 0);
}

static bool same_list(const char *const *list, const char *const *other) {
  size_t count = list != NULL ? count_words(list) : 0, other_count = other != NULL ? count_words(other) : 0;
  bool same = count == other_count;
  for (size_t i = 0; same && i < count; i++) {
    same = strcmp(list[i], other[i]) == 0;
  }
  return same;
}

static bool same_doors(const struct uffd_pager_opts *opts, const struct uffd_pager_opts *wanted) {
  bool same = same_text(opts->socket, wanted->socket) && opts->doors_count == wanted->doors_count;
  for (size_t i = 0; same && i < opts->doors_count; i++) {
    const struct uffd_pager_door *door = &opts->doors[i], *other = &wanted->doors[i];
    same = strcmp(door->path, other->path) == 0 && door->mode == other->mode && door->uid == other->uid;
  }
  return same;
}

static void list_others(const struct uffd_pager_opts *opts, const struct uffd_pager_opts *wanted, const char **others) {
  const uint32_t lasting = UFFD_PAGER_ONCE | UFFD_PAGER_KEEP | UFFD_PAGER_SHARE;
  const struct {
    const char *name;
    bool same;
  } fields[] = {
      {"socket", same_doors(opts, wanted)},
      {"control", same_text(opts->control, wanted->control)},
      {"metrics", same_text(opts->metrics, wanted->metrics)},
      {"record", same_text(opts->record, wanted->record)},
      {"replay", same_text(opts->replay, wanted->replay)},
      {"mode", opts->socket_mode == wanted->socket_mode},
      {"control_mode", opts->control_mode == wanted->control_mode},
      {"uid", opts->uid == wanted->uid},
      {"workers", opts->workers == wanted->workers},
      {"door", opts->door == wanted->door},
      {"once, keep, share", (opts->flags & lasting) == (wanted->flags & lasting)},
  };
  size_t count = 0;
  for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
    if (!fields[i].same) others[count++] = fields[i].name;
  }
  others[count] = NULL;
}

static void take_image(struct uffd_pager_opts *opts, struct uffd_pager_opts *wanted) {
  const char *image = opts->image, *const *images = opts->images;
  opts->image = wanted->image;
  opts->images = wanted->images;
  opts->choose = wanted->choose;
  wanted->image = image; /* to be released with the rest */
  wanted->images = images;
}

int uffd_options_change(struct uffd_pager_opts *opts, const struct uffd_pager_opts *wanted, const char **others) {
  struct uffd_pager_opts copy = *wanted;
  int result = uffd_options_keep(&copy);
  if (result == 0) {
    list_others(opts, &copy, others);
    opts->max_clients = copy.max_clients;
    opts->max_clients_per_process = copy.max_clients_per_process;
    opts->max_clients_per_user = copy.max_clients_per_user;
    opts->max_regions = copy.max_regions;
    opts->max_bytes = copy.max_bytes;
    opts->handshake_ms = copy.handshake_ms;
    opts->on_crash = copy.on_crash;
    opts->on_drain = copy.on_drain;
    opts->hang_ms = copy.hang_ms;
    opts->control_uid = copy.control_uid;
    if (opts->choose != copy.choose || !same_text(opts->image, copy.image) || !same_list(opts->images, copy.images)) {
      take_image(opts, &copy);
      result = 1;
    }
  }
  uffd_options_release(&copy);
  return result;
}

void uffd_options_release(struct uffd_pager_opts *opts) {
  const char *strings[] = {opts->socket, opts->control, opts->image, opts->record, opts->replay, opts->metrics};
  for (size_t i = 0; i < sizeof(strings) / sizeof(*strings); i++) {
    release_string(strings[i]);
  }
  release_doors(opts->doors, opts->doors_count);
  if (opts->worker != NULL) release_list(opts->worker, count_words(opts->worker));
  if (opts->images != NULL) release_list(opts->images, count_words(opts->images));
}
