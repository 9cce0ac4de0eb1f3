/*
 * What the clients of a worker are served from: images, and the working sets that are replayed.
 */
#include "serve/worker/supply.h"

#include <inttypes.h>

#include "memory/lending.h"
#include "resolver/common.h"
#include "resolver/criu.h"
#include "serve/workingset/workingset.h"

static int take_ranges(struct uffd_stock *stock, const uffd_workingset *set) {
  int64_t count = uffd_workingset_ranges(set, NULL, 0);
  if (count <= 0) return (int)count;
  stock->replay = uffd_alloc((size_t)count * sizeof(*stock->replay));
  if (stock->replay == NULL) return fail(ENOMEM, "No memory for a working set.");
  stock->replay_count = (size_t)uffd_workingset_ranges(set, stock->replay, (size_t)count);
  return 0;
}

static int load_replay(struct uffd_stock *stock) {
  uffd_workingset *set;
  if (stock->backing.replay_fd < 0) return 0;
  int result = uffd_workingset_read(stock->backing.replay_fd, "The working set", &set);
  if (result < 0) return result;
  result = take_ranges(stock, set);
  uffd_workingset_close(set);
  return result;
}

static int make_resolver(struct uffd_stock *stock) {
  const struct uffd_backing *backing = &stock->backing;
  if (backing->dump != NULL)
    return uffd_criu_resolver(backing->dump, &stock->resolver); /* it looks at its files itself */
  for (uint32_t i = 0; i < backing->count; i++) {
    if (uffd_backing_is_safe(&backing->files[i])) stock->trusted |= UINT64_C(1) << i;
  }
  if (backing->layered == 0) {
    return uffd_resolver_checked(backing->files[0].fd, &backing->files[0].stamp, stock->trusted != 0, backing->name,
                                 &stock->resolver);
  }
  int result = uffd_layers_read(backing, &stock->layers, &stock->resolver);
  for (uint32_t i = 0; result == 0 && i < backing->count; i++) {
    uffd_layers_trust(stock->layers, i, (stock->trusted >> i & 1) != 0);
  }
  return result;
}

/* Its failure is told to those clients that share: the others are served without it. */
static void make_shared(struct uffd_stock *stock) {
  const struct uffd_backing *backing = &stock->backing;
  if (backing->shared_fd < 0 || stock->resolver == NULL) return;
  int result = uffd_common_open(backing->shared_fd, uffd_backing_shared_length(backing), BASE_PAGE, &stock->common);
  if (result == 0) result = uffd_resolver_common(stock->common, stock->resolver, &stock->shared);
  if (result < 0) stock->common_why = uffd_keep_sentence();
}

static void free_stock(struct uffd_stock *stock) {
  uffd_resolver_close(stock->shared);
  uffd_common_drop(stock->common);
  uffd_resolver_close(stock->resolver);
  uffd_layers_close(stock->layers);
  uffd_backing_close(&stock->backing);
  uffd_release(stock->replay, stock->replay_count * sizeof(*stock->replay));
  DELETE(stock);
}

int uffd_supply_add(struct uffd_supply *supply, const struct uffd_message *message, int *fds) {
  struct uffd_stock *stock = NEW(struct uffd_stock);
  if (stock == NULL) return fail(ENOMEM, "No memory for an image.");
  int result = uffd_backing_read(message, fds, &stock->backing);
  if (result == 0) result = make_resolver(stock);
  make_shared(stock);
  if (result < 0) {
    stock->error = -result;
    stock->why = uffd_keep_sentence();
  }
  result = load_replay(stock);
  pthread_mutex_lock(&supply->lock);
  stock->next = supply->stocks;
  supply->stocks = stock;
  pthread_mutex_unlock(&supply->lock);
  return result;
}

void uffd_supply_drop(struct uffd_supply *supply, uint64_t number) {
  pthread_mutex_lock(&supply->lock);
  struct uffd_stock **at = &supply->stocks;
  while (*at != NULL && (*at)->backing.number != number) {
    at = &(*at)->next;
  }
  struct uffd_stock *stock = *at;
  if (stock != NULL) *at = stock->next;
  pthread_mutex_unlock(&supply->lock);
  if (stock != NULL) free_stock(stock);
}

const struct uffd_stock *uffd_supply_find(const struct uffd_supply *supply, uint64_t number, int *error) {
  const struct uffd_stock *stock = supply->stocks;
  while (stock != NULL && stock->backing.number != number) {
    stock = stock->next;
  }
  if (stock != NULL && stock->resolver != NULL) return stock;
  *error = stock != NULL ? stock->error : ENOENT;
  if (stock != NULL) uffd_restore_sentence(&stock->why);
  if (stock == NULL) fail(ENOENT, "The worker has not been handed image %" PRIu64 ".", number);
  return NULL;
}

/* A file that is no longer as it was, or may soon not be, is read with a look at its stamp. */
static void look(struct uffd_stock *stock) {
  for (uint32_t i = 0; i < stock->backing.count && stock->resolver != NULL; i++) {
    if ((stock->trusted >> i & 1) == 0 || uffd_backing_look_at(&stock->backing.files[i]) == UFFD_BACKING_INTACT)
      continue;
    if (stock->layers != NULL) {
      uffd_layers_trust(stock->layers, i, false);
    } else {
      uffd_resolver_distrust(stock->resolver);
    }
    stock->trusted &= ~(UINT64_C(1) << i);
  }
}

void uffd_supply_look(struct uffd_supply *supply) {
  pthread_mutex_lock(&supply->lock);
  for (struct uffd_stock *stock = supply->stocks; stock != NULL; stock = stock->next) {
    look(stock);
  }
  pthread_mutex_unlock(&supply->lock);
}

void uffd_supply_close(struct uffd_supply *supply) {
  while (supply->stocks != NULL) {
    uffd_supply_drop(supply, supply->stocks->backing.number);
  }
}
