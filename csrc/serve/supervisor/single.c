/*
 * Orders for one client, from whoever runs the pager.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "serve/paper/label.h"
#include "serve/supervisor/client.h"
#include "serve/supervisor/link.h"
#include "serve/supervisor/pager.h"

static struct uffd_supervised *find(const uffd_pager *pager, uint64_t id) {
  struct uffd_supervised *client = uffd_client_find(pager, id);
  if (client != NULL && !uffd_stage_is_leaving(client->stage)) return client;
  fail(ENOENT, "There is no client %" PRIu64 ".", id);
  return NULL;
}

int uffd_pager_kill(uffd_pager *pager, uint64_t id) {
  struct uffd_supervised *client = find(pager, id);
  if (client == NULL) return -ENOENT;
  if (uffd_client_kill(pager, client)) return 0;
  return fail(ESRCH, "Client %" PRIu64 " is not killed: the process that has its memory is not known.", id);
}

int uffd_pager_complete(uffd_pager *pager, uint64_t id) {
  struct uffd_supervised *client = find(pager, id);
  if (client == NULL) return -ENOENT;
  client->to_complete = true;
  client->completer = 0; /* also when it has failed before */
  return 0;
}

int uffd_pager_drain_client(uffd_pager *pager, uint64_t id) {
  struct uffd_supervised *client = find(pager, id);
  if (client == NULL) return -ENOENT;
  if (client->connection != 0) uffd_links_drain(pager, client->connection);
  return pager->opts.on_drain == UFFD_PAGER_COMPLETE ? uffd_pager_complete(pager, id) : 0;
}

int uffd_pager_label(uffd_pager *pager, uint64_t id, const char *label) {
  struct uffd_supervised *client = find(pager, id);
  if (client == NULL) return -ENOENT;
  int result = label != NULL ? uffd_label_check(label, strlen(label)) : fail(EINVAL, "There is no label.");
  if (result < 0) return result;
  snprintf(client->book.head->label, UFFD_LABEL, "%s", label);
  return 0;
}
