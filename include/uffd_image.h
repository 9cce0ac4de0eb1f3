/*
 * uffd-image: what memory is filled from. An image is a stack of layers; a layer is a file whose pages are data, zero,
 * or the same as in the layer below.
 *
 *   paths --> layers --> image --> resolver --> loop: see <uffd.h>
 *
 * A layer is one of these files, told by its contents:
 *   raw        the bytes themselves; holes are zeros. With the file NAME.uidx beside it (a sidecar), it has an identity
 *              and may be an increment. A sidecar that is older than its file is refused: what it calls zero is not
 * read. zstd       a zstd file of many frames, with or without a seek table (the zstd seekable format) increment  such
 * a file with one more skippable frame, the index: which pages it has, what its parent is `zstd -d` reads all that this
 * library writes.
 *
 * Damage is an error of the pages that it concerns, never zeros: a frame's checksums are looked at whenever it is read.
 * What <uffd.h> says of results, options and errors holds here too: 0 or a positive count, -errno on failure, and a
 * sentence in uffd_errmsg().
 */
#ifndef UFFD_IMAGE_H
#define UFFD_IMAGE_H

#include <uffd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A stack of layers, opened. Read-only; every function may be called from any thread. */
typedef struct uffd_image uffd_image;

#define UFFD_IMAGE_DEPTH 64u /* layers of an image, at most */

struct uffd_image_opts {
  size_t size;
  uint64_t frame_limit; /* bytes: a file with a longer zstd frame is refused; 0: 16 MiB. At most 1 GiB */
  /* Of layers that lie elsewhere: */
  const char *cache;    /* directory for what is fetched; NULL: UFFD_CACHE of the environment, or $XDG_CACHE_HOME/uffd,
                           or ~/.cache/uffd; "": a file that is gone when the image is closed */
  uint64_t cache_limit; /* bytes of that directory; 0: 20 GiB */
  const char *credentials; /* a file with lines of user=, password=, token=, region=, and certificate=, key= (paths);
                              NULL: UFFD_CREDENTIALS of the environment, or none */
  const char *ca_file;     /* PEM: whom to trust instead of the system's authorities; NULL: UFFD_CA_FILE */
  uint32_t patience_ms;    /* how long a page waits for a server that may come back; 0: 60000 */
  uint32_t flags;          /* UFFD_IMAGE_UNVERSIONED */
  /* Threads that decode what a prefetch will ask for, while its handler installs what they have decoded; -1: none, the
     handler decodes. 0: one less than the process may use processors. At most UFFD_IMAGE_DECODERS. They start with the
     first region; files of frames beyond 256 KiB, and files that lie elsewhere, need none */
  int32_t decoders;
  uint32_t reserved; /* 0 */
};
#define UFFD_IMAGE_OPTS_INIT                                                                                           \
  { sizeof(struct uffd_image_opts), 0, NULL, 0, NULL, NULL, 0, 0, 0, 0 }
#define UFFD_IMAGE_DECODERS 4u

enum {
  UFFD_IMAGE_UNVERSIONED = 1 /* a server that does not say when a file changes (no strong ETag; NBD) is believed: what
                                has the same length and date is taken for the same */
};

/*
 * Opens layers; the last path is the top. The first path may be an increment itself: its parent is then looked for
 * under the name that the increment tells, in the increment's directory, and so on down to a layer without a parent.
 * What a path has beyond its parent is checked by the parent's identity, so a parent may be moved or compressed anew,
 * but not changed. Nothing is decoded or digested here. Errors: those of open(2); -EINVAL no layer, or a file that is
 * damaged (the sentence tells the place), decoders that are no number of threads, is not the parent that the layer
 * above it names, or stands in the stack twice; -ESTALE a raw file was written to after its sidecar was made; -ELOOP
 * more than UFFD_IMAGE_DEPTH layers; -EFBIG a frame beyond frame_limit, or an image beyond 2^47 bytes; -ENOMEM.
 */
UFFD_EXPORT int uffd_image_open(const char *const *paths, size_t count, const struct uffd_image_opts *opts,
                                uffd_image **image);

/* Ends the caller's use; NULL is allowed. Resolvers of the image, and stores on top of it, keep it open. */
UFFD_EXPORT void uffd_image_close(uffd_image *image);

/*
 * A resolver for the image, of its length. Pages that a damaged or unreadable part of a file concerns fail with -EIO
 * (the region's on_error says what they become), with the file, the frame and the reason in the sentence; the others
 * are right. After a layer's file was written to, or cut, its pages fail with -ESTALE or -EIO: no byte from after the
 * change is given (what was written through a mapping that was dirty before the image was opened is not noticed). A
 * file that only gets another name stays the same. Errors: -ENOMEM; -EOWNERDEAD in a forked child.
 */
UFFD_EXPORT int uffd_image_resolver(uffd_image *image, uffd_resolver **resolver);

/*
 * Reads [offset, offset+length) of the image into buffer: 0. Errors: -ERANGE beyond the image's end; -EIO damage, or a
 * file that has shrunk (the sentence tells the place); -ESTALE a file that was changed since the image was opened;
 * -EOWNERDEAD in a forked child.
 */
UFFD_EXPORT int uffd_image_read(uffd_image *image, uint64_t offset, void *buffer, uint64_t length);

/* What is in an image, or in one of its layers. Newer libraries may append fields. */
enum {
  UFFD_IMAGE_ZERO = 0,  /* pages that are known to be zero */
  UFFD_IMAGE_DATA = 1,  /* pages whose bytes the layer has */
  UFFD_IMAGE_BELOW = 2, /* pages that are the same as in the layer below */
  UFFD_IMAGE_KINDS = 3
};

enum {
  UFFD_IMAGE_RAW = 1,     /* a file of bytes, mapped one to one */
  UFFD_IMAGE_SIDECAR = 2, /* a file of bytes with an index beside it */
  UFFD_IMAGE_ZSTD = 3,    /* a zstd file */
  UFFD_IMAGE_INDEXED = 4  /* a zstd file with an index */
};

/* Digests of the 64 KiB chunks of an image. */
enum { UFFD_DIGEST_NONE = 0, UFFD_DIGEST_XXH3 = 1, UFFD_DIGEST_SHA256 = 2 };

struct uffd_image_info {
  size_t size;
  uint64_t length;                  /* bytes */
  uint64_t page_size;               /* bytes: the largest of its layers */
  uint64_t bytes[UFFD_IMAGE_KINDS]; /* of the whole image: zero, data; BELOW is 0 */
  uint32_t layers;
  uint32_t reserved; /* 0 */
  uint64_t pieces;   /* that the image falls into */
};
#define UFFD_IMAGE_INFO_INIT                                                                                           \
  { sizeof(struct uffd_image_info), 0, 0, {0, 0, 0}, 0, 0, 0 }

struct uffd_image_layer {
  size_t size;
  const char *path;   /* valid as long as the image is open */
  uint32_t format;    /* UFFD_IMAGE_RAW, ... */
  uint32_t digest;    /* UFFD_DIGEST_*; NONE: no index, no digests */
  uint64_t length;    /* of the image up to this layer, bytes */
  uint64_t page_size; /* bytes */
  uint64_t bytes[UFFD_IMAGE_KINDS];
  uint64_t file_bytes;         /* that the file has */
  uint64_t stream_bytes;       /* that its frames decode to */
  uint64_t frames;             /* 0: not compressed */
  uint64_t frame_bytes;        /* the longest of them, decoded */
  uint32_t checksums;          /* 1: the seek table has one of each frame */
  uint32_t generation;         /* 0: no parent; else how many layers are below it */
  uint64_t time_ns;            /* when it was made, ns since 1970; 0: unknown */
  const char *parent;          /* the name that the index has for its parent, or "" */
  const char *attributes;      /* JSON, or "" */
  unsigned char id[32];        /* of the contents; zeros without an index */
  unsigned char parent_id[32]; /* zeros: no parent */
  unsigned char uuid[16];
  /* Of a file that lies elsewhere; for others NULL and 0: */
  const char *version;         /* what the server calls its state: an ETag, a store's versionId=; "" nothing */
  uint64_t units, units_there; /* chunks that are fetched and kept one by one, and how many are in the cache */
  uint64_t requests, retries;  /* for chunks, of this process; those of opening are not counted */
  uint64_t fetched_bytes;      /* likewise */
  uint64_t latency_ns;         /* of a read of 64 KiB, or of all of a smaller file, while it was opened */
};
#define UFFD_IMAGE_LAYER_INIT                                                                                          \
  {                                                                                                                    \
    sizeof(struct uffd_image_layer), NULL, 0, 0, 0, 0, {0, 0, 0}, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, {0}, {0}, {0},      \
        NULL, 0, 0, 0, 0, 0, 0                                                                                         \
  }

UFFD_EXPORT int uffd_image_info(const uffd_image *image, struct uffd_image_info *info);
/* One layer, 0 being the lowest. Errors: -ERANGE there is no such layer. */
UFFD_EXPORT int uffd_image_layer(const uffd_image *image, uint32_t index, struct uffd_image_layer *layer);

/* A part of an image that comes from one place. */
struct uffd_image_piece {
  uint64_t offset;        /* in the image, bytes */
  uint64_t length;        /* bytes */
  uint64_t stream_offset; /* DATA: of its bytes in the decoded file */
  uint32_t kind;          /* UFFD_IMAGE_* */
  uint32_t layer;         /* whose it is; 0 being the lowest */
};

/*
 * The piece that holds offset, with layer < 0 of the resolved image; else as that layer alone has it, then BELOW
 * occurs. Returns 1 and *piece, or 0 at the image's end. Errors: -ERANGE there is no such layer.
 */
UFFD_EXPORT int uffd_image_map(const uffd_image *image, int layer, uint64_t offset, struct uffd_image_piece *piece);

/*
 * Told how far a long piece of work is, from time to time; done and total are bytes of the image. Not 0: stop, and the
 * work fails with -ECANCELED.
 */
typedef int uffd_progress_fn(void *ctx, uint64_t done, uint64_t total);

/*
 * Group: the cache
 *
 * What is fetched from elsewhere is kept in files that all processes of a user share, decoded. A process that is killed
 * leaves no half chunk. Files that nobody has open are removed when the directory has more bytes than its limit, the
 * longest unused first. `directory` is chosen as uffd_image_opts.cache is; these functions do not make it.
 */

enum {
  UFFD_IMAGE_CACHED_USED = 1,    /* a process has it open */
  UFFD_IMAGE_CACHED_DOUBTED = 2, /* of before the machine's last start: each chunk is compared before it is used */
  UFFD_IMAGE_CACHED_BROKEN = 4   /* no whole file of this version and user: it is replaced when it is in the way */
};

/* A file of the cache. Newer libraries may append fields. */
struct uffd_image_cached {
  size_t size;
  const char *file;    /* its name in the directory */
  const char *source;  /* the URI, without secrets */
  const char *version; /* what the server calls its state: an ETag, versionId= */
  uint64_t stream_bytes;
  uint64_t file_bytes; /* that it takes on the disk */
  uint64_t units;      /* chunks of the image, */
  uint64_t units_there;
  uint64_t units_wrong; /* uffd_image_cache_verify(): that were not what their digest says; they are fetched again */
  uint64_t used_ns;     /* last time of use, ns since 1970 */
  uint32_t flags;       /* UFFD_IMAGE_CACHED_* */
  uint32_t reserved;
};
#define UFFD_IMAGE_CACHED_INIT                                                                                         \
  { sizeof(struct uffd_image_cached), NULL, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0 }

/* Told of a file, the longest unused first; what it is told of ends with the call. Not 0: stop. */
typedef int uffd_image_cached_fn(void *ctx, const struct uffd_image_cached *cached);

/* Errors: those of reading directories, -ENOENT a directory that was named is not there; -EINVAL no cache is used;
 * -ECANCELED by each; -ENOMEM. */
UFFD_EXPORT int uffd_image_cache_list(const char *directory, uffd_image_cached_fn *each, void *ctx);
/* Also reads all chunks and compares them with their digests. */
UFFD_EXPORT int uffd_image_cache_verify(const char *directory, uffd_image_cached_fn *each, void *ctx);

struct uffd_image_cache_gc {
  size_t size;
  uint64_t files, bytes; /* that are left */
  uint64_t removed_files, removed_bytes;
};
#define UFFD_IMAGE_CACHE_GC_INIT                                                                                       \
  { sizeof(struct uffd_image_cache_gc), 0, 0, 0, 0 }

/* Removes files that nobody has open until the directory has at most limit bytes. Errors: as above. */
UFFD_EXPORT int uffd_image_cache_gc(const char *directory, uint64_t limit, struct uffd_image_cache_gc *done);

/* Group: writing */

enum {
  UFFD_STORE_COMPARE = 1, /* pages that are put as data, and are as below, are kept as the same as below */
  UFFD_STORE_PLAIN = 2    /* zero pages are in the stream too: `zstd -d` gives the image, when all of it is put once, in
                             order. Only without below */
};

struct uffd_store_layer_opts {
  size_t size;
  uint64_t length;        /* of the image, bytes; 0: as below */
  uint64_t page_size;     /* bytes, a power of two from 4096 on; 0: as below, or 4096 */
  uffd_image *below;      /* what the layer is an increment on; NULL: nothing, it is a whole image */
  uint64_t frame_bytes;   /* of a frame, at most, unless a page is larger; 0: 64 KiB */
  int32_t level;          /* of zstd; 0: 3. -1 decodes in 0.8 of the time, and files are a twelfth larger */
  uint32_t digest;        /* UFFD_DIGEST_*; NONE: as below, or XXH3. SHA256 where strangers keep the file */
  uint32_t flags;         /* UFFD_STORE_COMPARE, UFFD_STORE_PLAIN */
  uint32_t reserved;      /* 0 */
  const char *parent;     /* the parent's name in the index, as seen from path's directory; NULL: found out, or "" */
  const char *attributes; /* JSON, at most 64 KiB; NULL: none */
};
#define UFFD_STORE_LAYER_OPTS_INIT                                                                                     \
  { sizeof(struct uffd_store_layer_opts), 0, 0, NULL, 0, 0, 0, 0, 0, NULL, NULL }

/*
 * A store that writes a layer: a zstd file with a seek table and an index, which appears whole under its name when it
 * is finished. Pages that are put as data but are zero are kept as zero. What is never put is the same as below, where
 * there is something below, and zero elsewhere. path may be a file of `below`: that stays as it is until then, and for
 * those who have it open.
 * Errors: those of open(2); -EINVAL no length, a page size or level that is none, another page size than below, `below`
 * has no index (`uffd-lua image index` makes one), attributes too long; -ELOOP below is UFFD_IMAGE_DEPTH layers deep;
 * -EFBIG; -ENOMEM.
 */
UFFD_EXPORT int uffd_store_layer(const char *path, const struct uffd_store_layer_opts *opts, uffd_store **store);

struct uffd_store_writable_opts {
  size_t size;
  uint64_t length;    /* of the image, bytes; 0: as below */
  uint64_t page_size; /* bytes, a power of two from 4096 on; 0: as below, or 4096 */
  uffd_image *below;  /* what pages hold that were never put; NULL: zeros */
};
#define UFFD_STORE_WRITABLE_OPTS_INIT                                                                                  \
  { sizeof(struct uffd_store_writable_opts), 0, 0, NULL }

/*
 * A writable layer: a store whose pages are served while it is being written. The data lie in the file path, raw and
 * sparse, and path.umap says which pages are there. It is made when there is none, else opened with what it holds;
 * whoever opens it has it alone. It lasts: closing it, failing and being killed drop nothing that was put.
 * uffd_store_put() writes data before the map tells of them, so another process that opens the layer after this one was
 * killed finds, of every page, what was put last, or for a put that had not returned what was put before. After a crash
 * of the machine it finds what was there at the last uffd_store_flush() (or _finish(), which is one); a page that was
 * put again since may hold parts of both. A put that failed (a full disk) may be tried again. uffd_store_put() may be
 * called from several threads, for different pages.
 * Errors: those of open(2); -EINVAL no length, a page size that is none, `below` has no index, or what is there is of
 * another length, page size, or image below, is damaged or cut off; -EEXIST path is a file without a map; -EBUSY it is
 * open elsewhere; -ENOENT its data are gone; -ENOMEM.
 */
UFFD_EXPORT int uffd_store_writable(const char *path, const struct uffd_store_writable_opts *opts, uffd_store **store);

/*
 * A resolver for a writable store: what was put, and below it the image. It keeps the layer open after the store is
 * closed. Pages that are put later are seen by faults later. Errors: -EINVAL the store is not a writable one; -ENOMEM;
 * -EOWNERDEAD in a forked child.
 */
UFFD_EXPORT int uffd_store_resolver(uffd_store *store, uffd_resolver **resolver);

/*
 * Puts all that was put into a writable store into another one: into a layer on the same `below`, it makes an
 * increment of it. The other store is left unfinished. No page may be put meanwhile. Errors: those of reading, and of
 * uffd_store_put(); -EINVAL the store is not a writable one; -EOWNERDEAD in a forked child.
 */
UFFD_EXPORT int uffd_store_seal(uffd_store *store, uffd_store *to);

struct uffd_image_copy_opts {
  size_t size;
  uint32_t from_layer; /* what comes from layers below this one is put as BELOW; 0: all is data and zero */
  uint32_t reserved;   /* 0 */
  uffd_progress_fn *progress;
  void *progress_ctx;
};
#define UFFD_IMAGE_COPY_OPTS_INIT                                                                                      \
  { sizeof(struct uffd_image_copy_opts), 0, 0, NULL, NULL }

/*
 * Puts all of the image into a store, from the first page to the last. The store is left unfinished. Errors: those of
 * uffd_image_read() and uffd_store_put(); -ECANCELED by progress.
 */
UFFD_EXPORT int uffd_image_copy(uffd_image *image, uffd_store *store, const struct uffd_image_copy_opts *opts);

struct uffd_image_index_opts {
  size_t size;
  uint32_t digest;   /* UFFD_DIGEST_*; NONE: XXH3 */
  uint32_t reserved; /* 0 */
  uffd_progress_fn *progress;
  void *progress_ctx;
};
#define UFFD_IMAGE_INDEX_OPTS_INIT                                                                                     \
  { sizeof(struct uffd_image_index_opts), 0, 0, NULL, NULL }

/*
 * Makes the sidecar of a raw file, path.uidx: its digests, which give it an identity, and where it is zero. A sidecar
 * that is there is replaced. Errors: those of open(2) and reading; -EINVAL path is a zstd file; -ECANCELED by progress.
 */
UFFD_EXPORT int uffd_image_index(const char *path, const struct uffd_image_index_opts *opts);

/* Group: importing */

/* A range of an imported image: it was memory of this process, at this address. */
struct uffd_import_region {
  uint64_t address, length; /* bytes */
  uint64_t offset;          /* in the image */
  int32_t pid;
  uint32_t reserved; /* 0 */
};
typedef void uffd_import_region_fn(void *ctx, const struct uffd_import_region *region);

/* What was imported. Zeros that were written as bytes count as zero. */
struct uffd_import_counts {
  uint64_t data_bytes, zero_bytes, below_bytes;
};

struct uffd_import_opts {
  size_t size;
  uint64_t frame_bytes; /* these as in uffd_store_layer_opts */
  int32_t level;
  uint32_t digest;
  const char *attributes;
  uffd_import_region_fn *region; /* of uffd_import_criu(): told of each range, by offset; may be NULL */
  void *region_ctx;
  uffd_progress_fn *progress;
  void *progress_ctx;
};
#define UFFD_IMPORT_OPTS_INIT                                                                                          \
  { sizeof(struct uffd_import_opts), 0, 0, 0, NULL, NULL, NULL, NULL, NULL }

/*
 * Importers make a layer of what another program has written: path appears when it is whole. What does not add up is
 * refused. counts may be NULL. Errors of all: those of reading and of uffd_store_layer(); -ECANCELED by progress.
 *
 * A diff of Firecracker: a sparse file of the memory's length in which dirty pages were written, zero ones too; where
 * it has a hole, the page is the parent's. Copying such a file loses that: import it on the machine that wrote it.
 * -EINVAL it has no holes, or another length than the parent; -ESTALE it was changed meanwhile.
 */
UFFD_EXPORT int uffd_import_diff(const char *diff, uffd_image *parent, const char *path,
                                 const struct uffd_import_opts *opts, struct uffd_import_counts *counts);
/*
 * A dump of CRIU: the private anonymous memory of all its tasks, one mapping after the other. region is told which part
 * of the image was where. -EINVAL damaged, or no such memory; -ENOTSUP pages that are at a page server, or compressed;
 * -ELOOP; -ESTALE it was changed meanwhile.
 */
UFFD_EXPORT int uffd_import_criu(const char *directory, const char *path, const struct uffd_import_opts *opts,
                                 struct uffd_import_counts *counts);
/*
 * An image of E2B, by its header (version 3) DIR/UUID/NAME.header: the data of each build are DIR/UUID/NAME, or
 * storage/UUID/NAME. -EINVAL another version, runs that do not cover the image, data that are too short.
 */
UFFD_EXPORT int uffd_import_e2b(const char *header, const char *storage, const char *path,
                                const struct uffd_import_opts *opts, struct uffd_import_counts *counts);

/* Group: checking */

/* A range of an image that is not what it should be; sentence says why. */
typedef void uffd_image_problem_fn(void *ctx, uint64_t offset, uint64_t length, const char *sentence);

struct uffd_image_verify_opts {
  size_t size;
  uint64_t sample;                /* so many chunks of 64 KiB, spread over the image; 0: all */
  uffd_image_problem_fn *problem; /* may be NULL */
  void *problem_ctx;
  uffd_progress_fn *progress;
  void *progress_ctx;
};
#define UFFD_IMAGE_VERIFY_OPTS_INIT                                                                                    \
  { sizeof(struct uffd_image_verify_opts), 0, NULL, NULL, NULL, NULL }

/*
 * Reads the image and compares it with the digests of its top layer; a top layer without an index has none, and then
 * what is checked is that all of it can be read and decoded. What a sidecar calls zero is read of its file too. Returns
 * the number of bad chunks (INT_MAX at most), 0 when all is well. Errors: -ENOMEM; -ECANCELED by progress; -EOWNERDEAD
 * in a forked child.
 */
UFFD_EXPORT int uffd_image_verify(uffd_image *image, const struct uffd_image_verify_opts *opts);

#ifdef __cplusplus
}
#endif

#endif
