/*
 * The images of the pager: opened once each, looked at ten times a second, handed to the workers.
 */
#include "serve/supervisor/image.h"

#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "memory/lending.h"
#include "serve/supervisor/helper.h"
#include "serve/supervisor/keep.h"
#include "serve/supervisor/looker.h"
#include "serve/supervisor/options.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"
#include "serve/workingset/workingset.h"

#define OPEN_NS UINT64_C(60000000000) /* a disk that needs longer is given up */
#define LOOK_NS UINT64_C(100000000)   /* between two looks; the kernel lets who wants to write wait for 45 s */

static int open_replay(struct uffd_backing *backing, const char *path) {
  uffd_workingset *set;
  if (path == NULL) return 0;
  int fd = uffd_workingset_open(path);
  if (fd < 0) return fd;
  backing->replay_fd = fd;
  int result = uffd_workingset_read(fd, path, &set);
  if (result < 0) return result;
  result = uffd_workingset_check(set, backing->length, backing->identity);
  uffd_workingset_close(set);
  return result;
}

int uffd_image_load(const char *const *paths, const char *replay, struct uffd_backing *backing) {
  int result = uffd_backing_open(paths, backing);
  if (result == 0) result = open_replay(backing, replay);
  if (result == 0) return 0;
  struct uffd_sentence why = uffd_keep_sentence();
  uffd_backing_close(backing);
  uffd_restore_sentence(&why);
  return result;
}

/* The last close of a file may wait for a server. */
static void free_image(uffd_pager *pager, struct uffd_image *image) {
  for (uint32_t i = 0; i < image->backing.count; i++) {
    uffd_looker_close(pager, &image->backing.files[i].fd);
    uffd_looker_close(pager, &image->backing.files[i].sidecar_fd);
  }
  uffd_looker_close(pager, &image->backing.replay_fd);
  uffd_backing_close(&image->backing);
  DELETE(image);
}

void uffd_images_drop_unused(uffd_pager *pager) {
  struct uffd_image **at = &pager->images;
  while (*at != NULL) {
    struct uffd_image *image = *at;
    if (image == pager->current || image->clients_count != 0) {
      at = &image->next;
      continue;
    }
    const struct uffd_message message = {.kind = UFFD_SAY_DROP, .number = image->backing.number};
    for (struct uffd_worker *worker = pager->workers; worker != NULL; worker = worker->next) {
      if (worker->images_told >= image->backing.number) uffd_worker_owe(pager, worker, &message);
    }
    uffd_keep_drop_image(pager, image);
    uffd_backing_yield(&image->backing); /* workers have copies of the descriptor */
    *at = image->next;
    free_image(pager, image);
  }
}

/* Is it the same file, and unchanged since? */
static bool is_same(const uffd_pager *pager, const struct uffd_image *held, const struct uffd_image *image) {
  if ((pager->opts.flags & UFFD_PAGER_SHARE) != 0 && held->backing.token == 0) return false;
  return held->state == UFFD_BACKING_INTACT && uffd_backing_same(&image->backing, &held->backing);
}

/* A dump has tasks, another image has not: what comes to the door must fit. */
static int check_kind(const uffd_pager *pager, const struct uffd_image *image) {
  bool by_task = pager->opts.door == UFFD_DOOR_CRIU, dump = image->backing.dump != NULL;
  if (dump == by_task) return 0;
  return fail(EINVAL,
              dump ? "%s is a directory, as a dump of CRIU: it is served with --door criu."
                   : "%s is a file: the tasks of a restore need the directory of their dump.",
              image->backing.name);
}

/* -errno: it is of no use here, and is closed. */
static int keep_if_fit(uffd_pager *pager, struct uffd_image *image) {
  int result = check_kind(pager, image);
  if (result == 0) return 0;
  struct uffd_sentence why = uffd_keep_sentence();
  free_image(pager, image);
  uffd_restore_sentence(&why);
  return result;
}

/* The image that is held from now on: this one, or the same file that is held already. */
static struct uffd_image *take_in(uffd_pager *pager, struct uffd_image *image) {
  for (struct uffd_image *held = pager->images; held != NULL; held = held->next) {
    if (!is_same(pager, held, image)) continue;
    free_image(pager, image);
    return held;
  }
  image->backing.number = ++pager->images_opened;
  image->next = pager->images;
  pager->images = image;
  int result = (pager->opts.flags & UFFD_PAGER_SHARE) != 0 ? uffd_backing_share(&image->backing) : 0;
  if (result < 0) {
    uffd_report(pager, UFFD_REPORT_ERROR, -result, NULL, NULL, "The pages of %s are not shared: %s",
                image->backing.name, uffd_errmsg());
  }
  uffd_keep_image(pager, image);
  return image;
}

static void make_current(uffd_pager *pager, struct uffd_image *image) {
  pager->current = take_in(pager, image);
  uffd_images_drop_unused(pager);
}

int uffd_image_change(uffd_pager *pager, const char *const *paths, const char *replay) {
  struct uffd_image *image = NEW(struct uffd_image);
  if (image == NULL) return fail(ENOMEM, "No memory for an image.");
  int result = uffd_image_load(paths, replay, &image->backing);
  if (result < 0) {
    DELETE(image);
    return result;
  }
  result = keep_if_fit(pager, image);
  if (result < 0) return result;
  make_current(pager, image);
  return 0;
}

int uffd_image_take(uffd_pager *pager, const struct uffd_message *message, int *fds, struct uffd_image **taken) {
  struct uffd_image *image = NEW(struct uffd_image);
  if (image == NULL) return fail(ENOMEM, "No memory for an image.");
  int result = uffd_backing_read(message, fds, &image->backing);
  if (result < 0) {
    DELETE(image);
    return result;
  }
  result = keep_if_fit(pager, image);
  if (result == 0) *taken = take_in(pager, image);
  return result;
}

/* ---- a new image for new clients */

/* What is being opened: paths up to NULL. */
struct wanted {
  size_t count;
  const char **paths;
};

static void forget_wanted(void *ctx) {
  struct wanted *wanted = ctx;
  for (size_t i = 0; wanted->paths != NULL && i < wanted->count && wanted->paths[i] != NULL; i++) {
    uffd_release((void *)(uintptr_t)wanted->paths[i], strlen(wanted->paths[i]) + 1);
  }
  uffd_release(wanted->paths, (wanted->count + 1) * sizeof(*wanted->paths));
  DELETE(wanted);
}

/* NULL: no memory. */
static struct wanted *copy_paths(const char *const *paths) {
  struct wanted *wanted = NEW(struct wanted);
  if (wanted == NULL) return NULL;
  while (paths[wanted->count] != NULL) {
    wanted->count++;
  }
  wanted->paths = uffd_alloc((wanted->count + 1) * sizeof(*wanted->paths));
  size_t copied = 0;
  for (const char *const *path = paths; wanted->paths != NULL && *path != NULL; path++) {
    size_t length = strlen(*path) + 1;
    char *copy = uffd_alloc(length);
    if (copy == NULL) break;
    memcpy(copy, *path, length);
    wanted->paths[copied++] = copy;
  }
  if (wanted->paths != NULL && (wanted->count == 0 || wanted->paths[wanted->count - 1] != NULL)) return wanted;
  forget_wanted(wanted);
  return NULL;
}

static int open_here(void *ctx, struct uffd_message *message, int *fds) {
  struct uffd_backing backing;
  const struct wanted *wanted = ctx;
  int result = uffd_backing_open(wanted->paths, &backing);
  if (result == 0) {
    uint32_t count = uffd_backing_write(&backing, message, fds);
    message->fds_count = count;
  }
  return result;
}

static int read_answer(const struct uffd_message *message, int *fds, struct uffd_image *image) {
  if (message->error == 0) return uffd_backing_read(message, fds, &image->backing);
  return fail(message->error, "%s", message->text);
}

static void opened(uffd_pager *pager, void *ctx, const struct uffd_message *message, int *fds) {
  struct uffd_image *image = NEW(struct uffd_image);
  int result = image != NULL ? read_answer(message, fds, image) : fail(ENOMEM, "No memory for an image.");
  if (result == 0 && (result = check_kind(pager, image)) < 0) {
    struct uffd_sentence why = uffd_keep_sentence();
    uffd_backing_close(&image->backing);
    uffd_restore_sentence(&why);
  }
  pager->opening = false;
  pager->opened = (struct uffd_sentence){.text = ""};
  (void)ctx;
  if (result == 0) {
    char name[sizeof(image->backing.name)];
    memcpy(name, image->backing.name, sizeof(name));
    make_current(pager, image);
    uffd_report(pager, UFFD_REPORT_IMAGE, 0, NULL, NULL, "New clients get the image %s.", name);
  } else {
    pager->opened = uffd_keep_sentence();
    uffd_report(pager, UFFD_REPORT_ERROR, -result, NULL, NULL, "New clients get the image that they got before: %s",
                pager->opened.text);
    if (image != NULL) DELETE(image);
  }
}

int uffd_image_begin(uffd_pager *pager, const char *const *paths) {
  if (pager->opening) return fail(EBUSY, "Another image is being opened.");
  struct wanted *wanted = copy_paths(paths);
  if (wanted == NULL) return fail(ENOMEM, "No memory for an image.");
  const struct uffd_helper_work work = {open_here, opened, forget_wanted, wanted, -1, OPEN_NS};
  int result = uffd_helper_start(pager, &work);
  if (result < 0) forget_wanted(wanted);
  pager->opening = result == 0;
  return result;
}

int uffd_pager_images(uffd_pager *pager, const char *const *paths) {
  if (pager->pid != getpid()) return fail(EOWNERDEAD, "This pager belongs to the parent process.");
  if (paths == NULL || paths[0] == NULL) return fail(EINVAL, "No image: give the path of at least one file.");
  if (pager->current == NULL) {
    return fail(EINVAL, uffd_options_choose(&pager->opts)
                            ? "This pager has no image of its own: each client has one that is chosen for it."
                            : "This pager has no image: its resolver makes all contents.");
  }
  return uffd_image_begin(pager, paths);
}

int uffd_pager_image(uffd_pager *pager, const char *path) {
  const char *const paths[] = {path, NULL};
  return uffd_pager_images(pager, paths);
}

bool uffd_images_opening(const uffd_pager *pager, const char **why) {
  *why = pager->opened.text;
  return pager->opening;
}

int uffd_image_adopt(uffd_pager *pager, const struct uffd_message *message, int *fds) {
  struct uffd_image *image = NEW(struct uffd_image);
  if (image == NULL) return fail(ENOMEM, "No memory for an image.");
  int result = uffd_backing_read(message, fds, &image->backing);
  if (result < 0) {
    DELETE(image);
    return result;
  }
  pager->images_opened = max_u64(pager->images_opened, image->backing.number);
  image->next = pager->images;
  pager->images = image;
  return 0;
}

struct uffd_image *uffd_image_find(const uffd_pager *pager, uint64_t number) {
  struct uffd_image *image = pager->images;
  while (image != NULL && image->backing.number != number) {
    image = image->next;
  }
  return image;
}

int uffd_image_of_token(const uffd_pager *pager, uint64_t token, struct uffd_image **found) {
  struct uffd_image *image = pager->images;
  while (image != NULL && image->backing.token != token) {
    image = image->next;
  }
  *found = image;
  if (image != NULL) return 0;
  return fail(ESTALE, "The memory is a mapping of pages that this pager does not have, or not any more: ask it for "
                      "another mapping.");
}

int uffd_image_lend(const uffd_pager *pager, int *fd) {
  const struct uffd_image *image = pager->current;
  *fd = -1;
  if (image == NULL || uffd_options_choose(&pager->opts)) {
    return fail(ENODATA,
                "The pager has no image whose pages could be shared: one is chosen, or made, for each client.");
  }
  if (image->backing.token == 0) {
    return fail(EOPNOTSUPP, "The pager does not share the pages of its image: start it with --share (the option "
                            "share, or UFFD_PAGER_SHARE).");
  }
  *fd = uffd_common_lend(image->backing.shared_fd);
  return *fd < 0 ? *fd : 0;
}

void uffd_image_drop(uffd_pager *pager, struct uffd_image *image) {
  if (image == NULL) return;
  image->clients_count--;
  uffd_images_drop_unused(pager);
}

static void report(uffd_pager *pager, const struct uffd_image *image) {
  if (image->state == UFFD_BACKING_WANTED) {
    uffd_report(
        pager, UFFD_REPORT_ERROR, EBUSY, NULL, NULL,
        "Another program opens the image %s for writing, and waits: its clients (%u) are completed first, new ones "
        "are refused until there is another image.",
        image->backing.name, image->clients_count);
  } else {
    uffd_report(
        pager, UFFD_REPORT_ERROR, ESTALE, NULL, NULL,
        "The image %s was changed while it was served: what its clients (%u) have not read yet is poisoned, new "
        "ones are refused until there is another image.",
        image->backing.name, image->clients_count);
  }
}

/* It never becomes intact again: what was written meanwhile is not known. */
static void look(uffd_pager *pager, struct uffd_image *image) {
  enum uffd_backing_state state = uffd_backing_look(&image->backing);
  bool worse = state > image->state;
  if (worse) image->state = state;
  if (worse) report(pager, image);
  if (image->state == UFFD_BACKING_INTACT || image->clients_count != 0) return;
  uffd_backing_yield(&image->backing);
  image->state = UFFD_BACKING_CHANGED;
}

void uffd_images_look(uffd_pager *pager, uint64_t now) {
  if (pager->images == NULL || now < pager->look_ns) return;
  pager->look_ns = now + LOOK_NS;
  for (struct uffd_image *image = pager->images; image != NULL; image = image->next) {
    look(pager, image);
  }
}

uint64_t uffd_images_due(const uffd_pager *pager) {
  return pager->images != NULL ? pager->look_ns : UINT64_MAX;
}

/* The oldest that the worker does not know. */
static const struct uffd_image *find_untold(const uffd_pager *pager, const struct uffd_worker *worker) {
  const struct uffd_image *untold = NULL;
  for (const struct uffd_image *image = pager->images; image != NULL; image = image->next) {
    if (image->backing.number > worker->images_told) untold = image;
  }
  return untold;
}

bool uffd_images_tell(uffd_pager *pager, struct uffd_worker *worker) {
  const struct uffd_image *image;
  while ((image = find_untold(pager, worker)) != NULL) {
    struct uffd_message message;
    int fds[UFFD_MESSAGE_FDS];
    uint32_t count = uffd_backing_write(&image->backing, &message, fds);
    if (!uffd_worker_say(pager, worker, &message, fds, count)) return false;
    worker->images_told = image->backing.number;
  }
  return true;
}

void uffd_images_forget(uffd_pager *pager) {
  while (pager->images != NULL) {
    struct uffd_image *image = pager->images;
    pager->images = image->next;
    free_image(pager, image);
  }
  pager->current = NULL;
}
