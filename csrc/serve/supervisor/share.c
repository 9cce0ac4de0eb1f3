/*
 * Shares, counted when somebody comes.
 */
#include "serve/supervisor/share.h"

#include <inttypes.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/supervisor/client.h"
#include "serve/supervisor/pager.h"

#define BOOKS_PART 8u /* all books together may have one of so many parts of this machine's memory */

struct share {
  uint32_t clients, children;
  uint64_t fds, book_bytes;
};

/* Who leaves has no more use of what it has. */
static void count(struct share *share, const struct uffd_supervised *client) {
  if (uffd_stage_is_leaving(client->stage)) return;
  share->clients += client->who.of == 0;
  share->children += client->who.of != 0;
  share->fds += UFFD_FDS_A_CLIENT + client->who.fds_count;
  share->book_bytes += client->book.length;
}

static void count_all(const uffd_pager *pager, const struct uffd_asker *asker, struct share *process,
                      struct share *user, struct share *all) {
  *process = *user = *all = (struct share){0};
  for (const struct uffd_supervised *client = pager->clients; client != NULL; client = client->next) {
    if (client->asker.uid == asker->uid) count(user, client);
    if (client->asker.uid == asker->uid && client->asker.pid == asker->pid && asker->pid != 0) count(process, client);
    count(all, client);
  }
}

uint64_t uffd_share_of_process(const uffd_pager *pager, uint64_t whole) {
  return max_u64(whole * pager->opts.max_clients_per_process / pager->opts.max_clients, 1);
}

int uffd_share_check(const uffd_pager *pager, const struct uffd_asker *asker, uint32_t fds, bool forked) {
  const struct uffd_pager_opts *opts = &pager->opts;
  struct share process, user, all;
  count_all(pager, asker, &process, &user, &all);
  if ((forked ? user.children : user.clients) >= opts->max_clients_per_user) {
    return fail(EBUSY, "User %u has %u %s already: max_clients_per_user is %u.", asker->uid,
                forked ? user.children : user.clients, forked ? "forked children" : "clients",
                opts->max_clients_per_user);
  }
  if ((forked ? process.children : process.clients) >= opts->max_clients_per_process) {
    return fail(EBUSY, "Process %d has brought %u %s already: max_clients_per_process is %u.", asker->pid,
                forked ? process.children : process.clients, forked ? "forked children" : "clients",
                opts->max_clients_per_process);
  }
  uint64_t most = uffd_share_of_process(pager, pager->fds_limit);
  if (process.fds + UFFD_FDS_A_CLIENT + fds <= most) return 0;
  return fail(EMFILE,
              "The clients of process %d have %" PRIu64 " descriptors already, of at most %" PRIu64
              " (max_clients_per_process): raise the limit (ulimit -n).",
              asker->pid, process.fds, most);
}

int uffd_share_check_book(const uffd_pager *pager, const struct uffd_asker *asker, uint64_t bytes) {
  uint64_t whole = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / BOOKS_PART;
  uint64_t most = uffd_share_of_process(pager, whole);
  struct share process, user, all;
  count_all(pager, asker, &process, &user, &all);
  if (process.book_bytes + bytes <= most && all.book_bytes + bytes <= whole) return 0;
  return fail(ENOMEM,
              "The bookkeeping of so much memory needs %" PRIu64 " bytes. Process %d has %" PRIu64 " of %" PRIu64
              ", all together have %" PRIu64 " of %" PRIu64 ", an eighth of this machine's memory.",
              bytes, asker->pid, process.book_bytes, most, all.book_bytes, whole);
}
