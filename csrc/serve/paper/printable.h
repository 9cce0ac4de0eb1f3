/*
 * What others have sent, for a sentence that may be printed on a terminal.
 */
#ifndef UFFD_SERVE_PRINTABLE_H
#define UFFD_SERVE_PRINTABLE_H

#include <stddef.h>

/* Copies as much as there is room for; what is not printable ASCII becomes '?'. */
void uffd_printable(const char *from, char *to, size_t room);

#endif
