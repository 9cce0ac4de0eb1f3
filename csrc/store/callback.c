/*
 * A store that calls its user.
 */
#include <stdio.h>

#include "store/store.h"

struct callback {
  uffd_store head;
  struct uffd_store_ops ops;
  void *ctx;
  char kind[32];
};

static int put(uffd_store *store, uint64_t offset, uint32_t kind, const void *data, uint64_t length) {
  const struct callback *callback = (const struct callback *)store;
  return callback->ops.put(callback->ctx, offset, kind, kind == UFFD_STORE_DATA ? data : NULL, length);
}

static int flush(uffd_store *store) {
  const struct callback *callback = (const struct callback *)store;
  return callback->ops.flush == NULL ? 0 : callback->ops.flush(callback->ctx);
}

static int finish(uffd_store *store) {
  const struct callback *callback = (const struct callback *)store;
  return callback->ops.finish == NULL ? 0 : callback->ops.finish(callback->ctx);
}

static void give_up(uffd_store *store) {
  const struct callback *callback = (const struct callback *)store;
  if (callback->ops.abort != NULL) callback->ops.abort(callback->ctx);
}

static void destroy(uffd_store *store) {
  struct callback *callback = (struct callback *)store;
  if (callback->ops.destroy != NULL) callback->ops.destroy(callback->ctx);
  DELETE(callback);
}

int uffd_store_callback(const struct uffd_store_ops *user_ops, void *ctx, const char *kind, uffd_store **store) {
  static const struct uffd_store_class class = {
      .kind = "callback", .put = put, .flush = flush, .finish = finish, .abort = give_up, .destroy = destroy};
  struct uffd_store_ops ops = UFFD_STORE_OPS_INIT;
  *store = NULL;
  int result = uffd_take_opts(&ops, sizeof(ops), user_ops, "uffd_store_ops");
  if (result < 0) return result;
  if (ops.put == NULL) return fail(EINVAL, "A store without a put function.");
  struct callback *callback = NEW(struct callback);
  if (callback == NULL) return fail(ENOMEM, "No memory for a store.");
  uffd_store_init(&callback->head, &class);
  callback->ops = ops;
  callback->ctx = ctx;
  snprintf(callback->kind, sizeof(callback->kind), "%s", kind != NULL ? kind : class.kind);
  callback->head.kind = callback->kind;
  *store = &callback->head;
  return 0;
}
