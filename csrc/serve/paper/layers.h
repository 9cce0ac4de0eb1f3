/*
 * Chains of layers, which libuffd-image reads: how the supervisor opens them, and how a worker reads them.
 */
#ifndef UFFD_SERVE_LAYERS_H
#define UFFD_SERVE_LAYERS_H

#include "serve/paper/backing.h"

/* Is the file a layer that is more than its bytes (compressed, or with an index beside it)? False: it cannot be read.
 */
bool uffd_layers_wanted(const char *path);
/*
 * Opens the layers, and those below them that they name. Fills in all of backing but its number, name, list_fd and
 * replay_fd; leases are not taken. -ENOSYS uffd was built without images. What was opened is the caller's to close,
 * also when it fails.
 */
int uffd_layers_open(const char *const *paths, struct uffd_backing *backing);

/* Layers that are read here, in a worker. */
struct uffd_layers;
/* Each must be what the supervisor has opened: -ESTALE. */
int uffd_layers_read(const struct uffd_backing *backing, struct uffd_layers **made, uffd_resolver **resolver);
/* Whether layer number may be read without a look at its stamp. Any thread. */
void uffd_layers_trust(struct uffd_layers *layers, uint32_t number, bool trusted);
void uffd_layers_close(struct uffd_layers *layers); /* NULL is allowed */

#endif
