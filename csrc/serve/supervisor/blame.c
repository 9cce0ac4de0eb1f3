/*
 * Which client makes its workers die?
 */
#include "serve/supervisor/blame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define STRIKES    5u                    /* crashes of workers charged to a client, after which it is given up, */
#define STRIKES_NS UINT64_C(10000000000) /* within so long; */
#define KILLS      40u                   /* or SIGKILLs of its workers, without an answer for as long */

/* Has the client faults that no worker has read, or that one has read and not answered? fdinfo counts them. */
static bool has_faults(const struct uffd_supervised *client) {
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
  bool suspect = phase == UFFD_BOOK_MAKING || (phase == UFFD_BOOK_SERVING && has_faults(client));
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
