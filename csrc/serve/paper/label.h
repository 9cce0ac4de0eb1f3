/*
 * Labels of clients: names for people, which come from outside.
 */
#ifndef UFFD_SERVE_LABEL_H
#define UFFD_SERVE_LABEL_H

#include <stddef.h>

#define UFFD_SOCKET_PATH 108u /* bytes of a socket's path, with its final zero: sockaddr_un has no more */

/* Is it a label: at most UFFD_LABEL - 1 bytes of UTF-8, without control characters? 0, or -EINVAL with a sentence. */
int uffd_label_check(const char *label, size_t length);

#endif
