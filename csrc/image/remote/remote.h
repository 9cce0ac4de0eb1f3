/*
 * Files that lie elsewhere: a remote file is opened, read while its layer is opened, and then becomes a source.
 *
 *   handler ──> is it in the cache? ──> yes: it is read as a local file is
 *                      │ no: asks (a stack without a lock), and says LATER, or sleeps
 *                      v
 *   fetch thread: demand first ──> transport ──> checked, decoded ──> cache ──> bells
 *
 * The fetch thread is the only one that talks to the server, writes the cache and holds its locks. It never touches
 * memory that is served.
 */
#ifndef UFFD_IMAGE_REMOTE_REMOTE_H
#define UFFD_IMAGE_REMOTE_REMOTE_H

#include "image/cache/cache.h"
#include "image/index.h"
#include "image/remote/transport.h"
#include "image/remote/uri.h"
#include "image/source/source.h"
#include "uffd_image.h"

struct uffd_remote {
  char *uri; /* with what is secret: for the transport alone */
  char *name;
  struct uffd_transport *transport;
  uint32_t patience_ms;
  uint64_t cache_limit;
  bool is_cached; /* cache is a directory */
  char cache[4096];
  char *block; /* what was read last while opening: files are opened by reading small parts of their end */
  uint64_t block_at, block_bytes;
  uint64_t latency_ns; /* of a read while it was opened, the quickest; 0: none yet */
};

/* remote.c: connects, and learns the length. Errors: -ENOENT, -EACCES, -ENOSYS and others, with a sentence. */
int uffd_remote_open(const char *uri, const struct uffd_image_opts *opts, struct uffd_remote **made);
void uffd_remote_close(struct uffd_remote *remote);
/* Reads while nobody else does: waits for as long as the user's patience lasts. 0, or -errno and a sentence. */
int uffd_remote_read(struct uffd_remote *remote, uint64_t offset, void *buffer, uint64_t length);
/* How long to wait before a try, ms; wait_ms is what the server asked for. */
uint32_t uffd_remote_pause(uint32_t attempts, uint32_t wait_ms);

/* What each chunk of UFFD_INDEX_CHUNK bytes of a file is. The lists stay the caller's, as long as the source is there.
 */
struct uffd_chunk_digests {
  uint32_t digest; /* UFFD_DIGEST_* */
  uint64_t count;
  const unsigned char *list;
  const unsigned char *id; /* UFFD_INDEX_ID bytes: of all of it */
};

/*
 * source.c: the stream of a remote file as a source, with its fetch thread. frames: NULL for the bytes themselves;
 * taken over, also when it fails. digests: of a file of bytes, or NULL. The remote file is taken over when it succeeds.
 */
int uffd_source_remote(struct uffd_remote *remote, struct uffd_frames *frames, const struct uffd_chunk_digests *digests,
                       struct uffd_source **source);

/* What a remote source has done. */
struct uffd_remote_figures {
  const char *version; /* what the server calls the file's state, or "" */
  uint64_t units, units_there;
  uint64_t requests, retries, fetched_bytes; /* of this process */
  uint64_t latency_ns;
};
/* false: it is no remote source. */
bool uffd_remote_figures(const struct uffd_source *source, struct uffd_remote_figures *figures);

#endif
