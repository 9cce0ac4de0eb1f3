/*
 * The cache: pages of slow sources, decoded, in local files that all processes of a user share. One file an image: a
 * head, one byte a unit that says whether the unit is there, a digest of each unit, and the bytes, sparse.
 *
 *   a unit's bytes are written, then its digest, then its byte: a process that is killed leaves no half unit
 *   a lock on a unit's byte is held while it is fetched: of all processes one fetches it
 *   a lock on the head is held by whoever has the file open: only files that nobody has open are removed, and always by
 *   unlink, because a punched hole would read as zeros
 *
 * After the machine was started again nothing says that the bytes have reached the disk: each unit is then compared
 * with its digest before it is used. Nothing here knows where the bytes come from.
 */
#ifndef UFFD_IMAGE_CACHE_CACHE_H
#define UFFD_IMAGE_CACHE_CACHE_H

#include "base/base.h"

#define UFFD_CACHE_LIMIT (UINT64_C(20) << 30) /* bytes of a directory, by default */

/* What tells one image from another; the file's name is made of it. */
struct uffd_cache_key {
  const char *source;  /* its URI, without secrets */
  const char *version; /* what the server calls its state */
  const char *layout;  /* how the stream falls into units */
  uint64_t stream_bytes;
  uint64_t units;
};

struct uffd_cache;

/*
 * The directory that is meant by a user's choice: NULL is UFFD_CACHE of the environment, or uffd in XDG_CACHE_HOME, or
 * ~/.cache/uffd. Written to path. make: with its parents, if it is not there. 0; 1 and no path: none is to be used (the
 * choice is ""); or -errno and a sentence.
 */
int uffd_cache_directory(const char *choice, bool make, char *path, size_t room);

/*
 * Opens or makes the file of an image, and takes the lock on its head. directory NULL, or key->version NULL: a file
 * without a name, which is gone when it is closed. limit: of the directory, bytes; files that nobody has open are
 * removed first, the longest unused before the others.
 */
int uffd_cache_open(const char *directory, const struct uffd_cache_key *key, uint64_t limit, struct uffd_cache **made);
void uffd_cache_close(struct uffd_cache *cache);

enum uffd_cache_unit { UFFD_CACHE_ABSENT = 0, UFFD_CACHE_READY = 1, UFFD_CACHE_DOUBTED = 2 };

/* Any thread: is the unit there? One load. */
bool uffd_cache_has(const struct uffd_cache *cache, uint64_t unit);
/*
 * Any thread, also in a signal handler: [offset, offset+length) of the stream, of units that are there. 0, or -errno
 * without a sentence: the file cannot be read there.
 */
int uffd_cache_read(const struct uffd_cache *cache, uint64_t offset, void *buffer, uint64_t length);

/* One thread calls these. Units [unit, unit+count): 1 locked, 0 another process has one of them. */
int uffd_cache_lock(struct uffd_cache *cache, uint64_t unit, uint64_t count);
void uffd_cache_unlock(struct uffd_cache *cache, uint64_t unit, uint64_t count);
/*
 * A unit that is in doubt, and locked, is compared with its digest: true, it is there now. buffer: of the unit's
 * length.
 */
bool uffd_cache_recall(struct uffd_cache *cache, uint64_t unit, uint64_t offset, void *buffer, uint64_t length);
/* Writes a unit that is locked, at offset of the stream, and says that it is there: 0, or -errno and a sentence. */
int uffd_cache_put(struct uffd_cache *cache, uint64_t unit, uint64_t offset, const void *bytes, uint64_t length);
/* The unit cannot be read: it is to be fetched again. */
void uffd_cache_drop(struct uffd_cache *cache, uint64_t unit);

#endif
