/*
 * The record of a client: the pages that it touched, written to a working-set file when the client has ended.
 */
#include "serve/supervisor/record.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/base.h"
#include "serve/supervisor/helper.h"
#include "serve/supervisor/image.h"
#include "serve/supervisor/pager.h"
#include "serve/supervisor/report.h"

/* Without an image: the end of the last region. */
static uint64_t image_length(const struct uffd_supervised *client) {
  const struct uffd_client_region *last = &client->who.regions[client->who.regions_count - 1];
  return client->image != NULL ? client->image->backing.length : last->offset + last->length;
}

static int fill_set(const struct uffd_supervised *client, uffd_workingset *set) {
  const struct uffd_book_head *head = client->book.head;
  uint64_t count = atomic_load_explicit(&client->book.head->recorded, memory_order_acquire);
  for (uint64_t i = 0; i < min_u64(count, head->pages); i++) {
    struct uffd_touch touch = uffd_book_touched(&client->book, i);
    int result = uffd_workingset_add(set, touch.offset, touch.flags);
    if (result < 0) return result;
  }
  return 0;
}

static int save(const struct uffd_supervised *client, const char *path) {
  uffd_workingset *set;
  int result = uffd_workingset_create(client->who.regions[0].page_size, image_length(client),
                                      client->image != NULL ? client->image->backing.identity : 0, &set);
  if (result < 0) return result;
  result = fill_set(client, set);
  if (result >= 0) result = uffd_workingset_save(set, path);
  uffd_workingset_close(set);
  return result;
}

struct record {
  struct uffd_supervised *client;
  void (*release)(struct uffd_supervised *client);
  char path[4096 + 32]; /* as it is told */
  char held[4096 + 64]; /* in the folder that is held open since the start */
};

static const char *name_in(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash != NULL ? slash + 1 : path;
}

/* Nothing is replaced that is no working set: an image, for instance. */
static int check_target(const char *path) {
  struct stat status;
  uffd_workingset *set;
  if (stat(path, &status) != 0) return errno == ENOENT ? 0 : fail(errno, "%s: %s.", path, strerror(errno));
  if (!S_ISREG(status.st_mode)) return fail(EINVAL, "%s is no regular file: a working set is not written to it.", path);
  if (status.st_size == 0) return 0;
  int result = uffd_workingset_load(path, &set);
  if (result < 0) {
    return fail(EEXIST, "%s is there already, and is no working set: it is not replaced. Name another file.", path);
  }
  uffd_workingset_close(set);
  return 0;
}

static int check(const char *path) {
  struct uffd_newfile file;
  int result = check_target(path);
  if (result == 0) result = uffd_newfile_open(&file, path);
  if (result == 0) uffd_newfile_discard(&file);
  return result;
}

int uffd_record_open(uffd_pager *pager) {
  char folder[4096];
  const char *path = pager->opts.record;
  if (path == NULL) return 0;
  int result = check(path);
  if (result < 0) return result;
  int length = (int)(name_in(path) - path);
  snprintf(folder, sizeof(folder), "%.*s", length != 0 ? length : 1, length != 0 ? path : ".");
  pager->record_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
  return pager->record_fd >= 0 ? 0 : fail(errno, "%s: %s.", folder, strerror(errno));
}

/* NOLINTNEXTLINE(readability-non-const-parameter): the type of a helper's functions */
static int write_here(void *ctx, struct uffd_message *message, int *fds) {
  const struct record *record = ctx;
  (void)message, (void)fds;
  int result = check_target(record->held);
  if (result == 0) result = save(record->client, record->held);
  if (result == 0) return 0;
  /* Sentences name the file as the user does. */
  struct uffd_sentence why = uffd_keep_sentence();
  const char *at = strstr(why.text, record->held);
  if (at == NULL) return result;
  return fail(-result, "%.*s%s%s", (int)(at - why.text), why.text, record->path, at + strlen(record->held));
}

/* NOLINTNEXTLINE(readability-non-const-parameter): the type of a helper's functions */
static void written(uffd_pager *pager, void *ctx, const struct uffd_message *message, int *fds) {
  const struct record *record = ctx;
  (void)fds;
  pager->recording--;
  if (message->error == 0) {
    uffd_report(pager, UFFD_REPORT_RECORD, 0, record->client, NULL, "Its working set is written to %s.", record->path);
  } else {
    uffd_report(pager, UFFD_REPORT_RECORD, message->error, record->client, NULL, "Its working set is not written: %s",
                message->text);
  }
}

static void forget_record(void *ctx) {
  struct record *record = ctx;
  record->release(record->client);
  DELETE(record);
}

bool uffd_record_start(uffd_pager *pager, struct uffd_supervised *client,
                       void (*release)(struct uffd_supervised *client)) {
  if (pager->opts.record == NULL || client->book.head->record_at == 0) return false;
  struct record *record = NEW(struct record);
  int result = record != NULL ? 0 : fail(ENOMEM, "No memory for a record.");
  if (result == 0) {
    record->client = client;
    record->release = release;
    if (client->who.id == 1) {
      snprintf(record->path, sizeof(record->path), "%s", pager->opts.record);
    } else {
      snprintf(record->path, sizeof(record->path), "%s.%" PRIu64, pager->opts.record, client->who.id);
    }
    snprintf(record->held, sizeof(record->held), "/proc/self/fd/%d/%s", pager->record_fd, name_in(record->path));
    const struct uffd_helper_work work = {write_here, written, forget_record, record, pager->record_fd, 0};
    result = uffd_helper_start(pager, &work);
    if (result < 0) DELETE(record);
  }
  if (result < 0) {
    uffd_report(pager, UFFD_REPORT_RECORD, -result, client, NULL, "Its working set is not written: %s", uffd_errmsg());
    return false;
  }
  pager->recording++;
  return true;
}
