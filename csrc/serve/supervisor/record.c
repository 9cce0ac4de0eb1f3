/*
 * The record of a client: the pages that it touched, written to a working-set file when the client has ended.
 */
#include "serve/supervisor/record.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/base.h"
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

void uffd_record_write(uffd_pager *pager, const struct uffd_supervised *client) {
  if (pager->opts.record == NULL || client->book.head->record_at == 0) return;
  char path[4096 + 32];
  if (client->who.id == 1) {
    snprintf(path, sizeof(path), "%s", pager->opts.record);
  } else {
    snprintf(path, sizeof(path), "%s.%" PRIu64, pager->opts.record, client->who.id);
  }
  int result = save(client, path);
  if (result >= 0) {
    uffd_report(pager, UFFD_REPORT_RECORD, 0, client, NULL, "Its working set is written to %s.", path);
    return;
  }
  uffd_report(pager, UFFD_REPORT_ERROR, -result, client, NULL, "Its working set is not written: %s", uffd_errmsg());
}
