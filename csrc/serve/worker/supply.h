/*
 * What all clients of a worker are served from.
 */
#ifndef UFFD_SERVE_SUPPLY_H
#define UFFD_SERVE_SUPPLY_H

#include "uffd_pager.h"

struct uffd_supply {
  struct uffd_pager_opts opts;
  uffd_resolver *image;      /* NULL: the user's function makes a resolver for each client */
  struct uffd_range *replay; /* of the image, by offset; NULL: no working set is replayed */
  size_t replay_count;
};

int uffd_supply_open(struct uffd_supply *supply);        /* the image. -errno with a sentence */
int uffd_supply_load_replay(struct uffd_supply *supply); /* without it clients are only slower. -errno */
void uffd_supply_close(struct uffd_supply *supply);

#endif
