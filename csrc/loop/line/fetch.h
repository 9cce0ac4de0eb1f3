/*
 * Bringing an answer's bytes into a buffer: from memory, or from a file.
 */
#ifndef UFFD_LOOP_LINE_FETCH_H
#define UFFD_LOOP_LINE_FETCH_H

#include "loop/line/install.h"

/* Room in a buffer beyond the bytes wanted: a file with O_DIRECT is read in whole blocks. */
#define UFFD_FETCH_SLACK BASE_PAGE

/*
 * Fetches the answer's bytes for the whole pages [start, end), addresses, and returns how many bytes of whole pages
 * buffer has now. Behind the answer's last byte its page is filled up with zeros. Less than end - start: the page after
 * these could not be read, and *error says why (-errno): -ENODATA when the file ends before the answer does. buffer has
 * UFFD_FETCH_SLACK bytes more than are wanted.
 */
uint64_t uffd_fetch(const struct uffd_install *install, uint64_t start, uint64_t end, char *buffer, int *error);

#endif
