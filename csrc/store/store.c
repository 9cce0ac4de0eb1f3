/*
 * What all stores have in common: their life, and that a failed put is remembered.
 */
#include "store/store.h"

#include <inttypes.h>

static int enter(const uffd_store *store) {
  if (store->process != uffd_process()) return fail(EOWNERDEAD, "This store belongs to the parent process.");
  if (store->state == UFFD_STORE_FINISHED) return fail(EINVAL, "This %s store is finished.", store->kind);
  return 0;
}

static int settle(uffd_store *store, int result) {
  if (result < 0 && !store->class->lasting) store->state = UFFD_STORE_FAILED;
  return result < 0 ? result : 0;
}

int uffd_store_put(uffd_store *store, uint64_t offset, uint32_t kind, const void *data, uint64_t length) {
  int result = enter(store);
  if (result < 0) return result;
  if (kind > UFFD_STORE_BELOW) return fail(EINVAL, "%" PRIu32 " is no kind of page.", kind);
  if (length == 0 || length > UINT64_MAX - offset) {
    return fail(EINVAL, "%" PRIu64 " bytes at offset %" PRIu64 " cannot be put.", length, offset);
  }
  if (kind == UFFD_STORE_DATA && data == NULL) return fail(EINVAL, "Data to be put, but data is NULL.");
  return settle(store, store->class->put(store, offset, kind, data, length));
}

int uffd_store_flush(uffd_store *store) {
  int result = enter(store);
  if (result < 0 || store->class->flush == NULL) return result;
  return settle(store, store->class->flush(store));
}

static void give_up(uffd_store *store) {
  struct uffd_sentence why = uffd_keep_sentence();
  if (store->class->abort != NULL) store->class->abort(store);
  uffd_restore_sentence(&why);
}

int uffd_store_finish(uffd_store *store) {
  int result = enter(store);
  if (result < 0) return result;
  if (store->state == UFFD_STORE_FAILED) {
    result = fail(EIO, "Nothing appears: a page could not be put into this %s store before.", store->kind);
  } else {
    result = store->class->finish(store);
  }
  if (result < 0) give_up(store);
  store->state = UFFD_STORE_FINISHED;
  return result < 0 ? result : 0;
}

void uffd_store_close(uffd_store *store) {
  if (store == NULL) return;
  if (store->state != UFFD_STORE_FINISHED && store->process == uffd_process()) give_up(store);
  store->class->destroy(store);
}

const char *uffd_store_kind(const uffd_store *store) {
  return store == NULL ? "none" : store->kind;
}
