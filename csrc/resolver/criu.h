/*
 * The memory of a CRIU dump. An image directory, as `criu dump` writes it, is read as one image: the lazy memory of its
 * tasks, one task after the other in the order of pstree.img, one mapping after the other by address. Lazy memory is
 * what `criu restore --lazy-pages` leaves to a pager: private anonymous mappings. What no pagemap entry covers is zero.
 *
 * Who imports a dump into another format calls uffd_criu_open(), takes the tasks, regions and extents, and reads the
 * bytes from uffd_criu_fd(); or takes uffd_criu_resolver(), which gives the same contents by offset.
 *
 * All files are read as hostile: they are bounded, and a dump that cannot be served right is refused with a sentence.
 */
#ifndef UFFD_RESOLVER_CRIU_H
#define UFFD_RESOLVER_CRIU_H

#include "base/base.h"

#define UFFD_CRIU_FILE_MAX  (UINT64_C(64) << 20) /* bytes of an image file other than pages-N.img */
#define UFFD_CRIU_TASKS_MAX 32768u
#define UFFD_CRIU_DEPTH     64u /* directories of a chain of parents, at most */

/* ---- the files: criu_parse.c. Bytes in, tables out; names are for sentences */

enum { UFFD_CRIU_PARENT = 1, UFFD_CRIU_LAZY = 2, UFFD_CRIU_PRESENT = 4 };

struct uffd_criu_vma {
  uint64_t start, end;
  bool lazy;
};
struct uffd_criu_vmas {
  struct uffd_criu_vma *at; /* by address, without overlaps */
  size_t count, room;
};

struct uffd_criu_entry {
  uint64_t start, end;
  uint64_t position; /* PRESENT: of its bytes in pages-N.img */
  uint32_t flags;    /* PRESENT or PARENT, and perhaps LAZY */
};
struct uffd_criu_pagemap {
  uint32_t pages_id;          /* the N of pages-N.img */
  uint64_t length;            /* bytes that pages-N.img must have */
  struct uffd_criu_entry *at; /* by address, without overlaps */
  size_t count, room;
};

struct uffd_criu_pids {
  int32_t *at;
  size_t count, room;
};

/* 0, or with a sentence that names the file: -EINVAL damaged, -ENOTSUP it is of a kind that cannot be served. -ENOMEM.
 */
int uffd_criu_parse_pstree(const unsigned char *bytes, uint64_t length, const char *name, struct uffd_criu_pids *pids);
int uffd_criu_parse_mm(const unsigned char *bytes, uint64_t length, const char *name, struct uffd_criu_vmas *vmas);
int uffd_criu_parse_pagemap(const unsigned char *bytes, uint64_t length, const char *name,
                            struct uffd_criu_pagemap *pagemap);
void uffd_criu_free_pids(struct uffd_criu_pids *pids);
void uffd_criu_free_vmas(struct uffd_criu_vmas *vmas);
void uffd_criu_free_pagemap(struct uffd_criu_pagemap *pagemap);
/* Room for one more element in an array: 0 or -ENOMEM. */
int uffd_criu_grow(void **array, size_t *room, size_t count, size_t element);

/* ---- the directory: criu.c */

struct uffd_criu; /* read-only once it is open */

struct uffd_criu_region {
  uint64_t address, length; /* of the mapping in the task, bytes */
  uint64_t offset;          /* in the image */
};
struct uffd_criu_task {
  int32_t pid;         /* in its namespace, as in the names of the files */
  uint32_t count;      /* of regions; 0: a zombie, or a task without lazy memory */
  size_t first_region; /* of uffd_criu_regions() */
};
struct uffd_criu_extent {  /* bytes that a file has; between two of them the image is zero */
  uint64_t offset, length; /* in the image */
  uint64_t position;       /* in the file */
  uint32_t file;           /* see uffd_criu_fd() */
};

/*
 * Opens the dump in a directory. path is for sentences, and is opened when directory is -1; the directory stays the
 * caller's. Errors: those of open(2) and reading; -EINVAL not a directory, no lazy memory at all, a file that is
 * damaged or cut short, a page that no parent has; -ENOTSUP pages that are at a page server (a post-copy dump),
 * compressed pages; -EFBIG; -ELOOP more than UFFD_CRIU_DEPTH parents; -ENOMEM.
 */
UFFD_SHARED int uffd_criu_open(int directory, const char *path, struct uffd_criu **criu);
UFFD_SHARED void uffd_criu_close(struct uffd_criu *criu); /* NULL is allowed */

UFFD_SHARED uint64_t uffd_criu_length(const struct uffd_criu *criu);   /* bytes of the image */
UFFD_SHARED uint64_t uffd_criu_identity(const struct uffd_criu *criu); /* the same for a copy of the directory; not 0 */
UFFD_SHARED uint64_t uffd_criu_version(const struct uffd_criu *criu);  /* another one when a file was written again */
UFFD_SHARED bool uffd_criu_holds(const struct uffd_criu *criu);        /* are the pages' files as they were? */

UFFD_SHARED const struct uffd_criu_task *uffd_criu_tasks(const struct uffd_criu *criu, size_t *count);
UFFD_SHARED const struct uffd_criu_task *uffd_criu_find(const struct uffd_criu *criu, int32_t pid); /* NULL: none */
UFFD_SHARED const struct uffd_criu_region *uffd_criu_regions(const struct uffd_criu *criu, size_t *count);
UFFD_SHARED const struct uffd_criu_extent *uffd_criu_extents(const struct uffd_criu *criu, size_t *count);
UFFD_SHARED int uffd_criu_fd(const struct uffd_criu *criu, uint32_t file); /* stays the dump's */

/*
 * A resolver for the image, which lives longer than the dump if need be. Pages fail with -ESTALE after a file of pages
 * has changed. -ENOMEM, -EMFILE.
 */
UFFD_SHARED int uffd_criu_resolver(const struct uffd_criu *criu, uffd_resolver **resolver);

#endif
