/*
 * The files of a snapshot, in a directory: two of JSON as Cloud Hypervisor has sent them, named as its own daemon names
 * them, and the memory: one image, in which slots follow each other by number.
 */
#ifndef UFFD_SERVE_FILES_H
#define UFFD_SERVE_FILES_H

#include <stddef.h>
#include <stdint.h>

#define UFFD_CH_CONFIG_FILE "migration_config.json"
#define UFFD_CH_STATE_FILE  "state.json"
#define UFFD_CH_MEMORY_FILE "memory.img"
#define UFFD_CH_STATE_MAX   (UINT64_C(1) << 30) /* bytes */

struct uffd_ch_text {
  char *bytes;
  uint64_t length;
};

/* To be freed when 0 is returned. -E2BIG longer than that; those of open(2) and read(2); -ENOMEM. */
int uffd_ch_read_text(const char *directory, const char *name, uint64_t max, struct uffd_ch_text *text);
void uffd_ch_text_free(struct uffd_ch_text *text);
/* DIRECTORY/NAME into path: -ENAMETOOLONG. */
int uffd_ch_path(const char *directory, const char *name, char *path, size_t size);

#endif
