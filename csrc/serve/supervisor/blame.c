/*
 * Which client makes its workers die?
 */
#include "serve/supervisor/blame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "serve/supervisor/pager.h"

#define STRIKES     5u                    /* crashes of workers charged to a client, after which it is given up, */
#define STRIKES_NS  UINT64_C(10000000000) /* within so long; */
#define HANGS       2u                    /* of its policy, */
#define HANGS_APART 10u                   /* with no more than so many deadlines between them */
#define KILLS       40u                   /* or SIGKILLs of its workers, without an answer for as long */

/* fdinfo counts them. */
bool uffd_has_faults(const struct uffd_supervised *client) {
  char path[64], line[256];
  bool waiting = false;
  snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", client->object_fd);
  FILE *file = fopen(path, "re");
  if (file == NULL) return true;
  while (fgets(line, sizeof(line), file) != NULL) {
    if (strncmp(line, "total:", 6) == 0) waiting = strtoul(line + 6, NULL, 10) != 0;
  }
  (void)fclose(file);
  return waiting;
}

void uffd_blame(struct uffd_supervised *client, uint64_t now, bool killed) {
  struct uffd_book_head *head = client->book.head;
  uint32_t phase = atomic_load(&head->phase);
  bool progress = phase == UFFD_BOOK_SERVING && atomic_load(&head->answered) != client->answered;
  bool suspect = phase == UFFD_BOOK_MAKING || (phase == UFFD_BOOK_SERVING && uffd_has_faults(client));
  if (progress) {
    client->strikes = client->kills = 0;
  } else if (suspect && killed) {
    if (client->kills++ == 0) client->first_kill_ns = now;
  } else if (suspect) {
    if (now - client->first_strike_ns > STRIKES_NS) client->strikes = 0;
    if (client->strikes++ == 0) client->first_strike_ns = now;
  }
}

bool uffd_is_guilty(const struct uffd_supervised *client, uint64_t now) {
  return client->strikes >= STRIKES || (client->kills >= KILLS && now - client->first_kill_ns > STRIKES_NS);
}

void uffd_blame_hang(const uffd_pager *pager, struct uffd_supervised *client, uint64_t now) {
  if (!client->hung) return;
  client->hung = false;
  if (now - client->hung_ns > HANGS_APART * UINT64_C(1000000) * pager->opts.hang_ms) client->hangs = 0;
  client->hangs++;
  client->hung_ns = now;
}

bool uffd_hangs_again(const struct uffd_supervised *client) {
  return client->hangs >= HANGS;
}
