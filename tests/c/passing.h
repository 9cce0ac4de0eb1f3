/*
 * A descriptor goes to another process over a socket, with some bytes beside it.
 */
#ifndef UFFD_TESTS_PASSING_H
#define UFFD_TESTS_PASSING_H

#include "check.h"

void passing_send(int socket, int fd, const void *bytes, size_t length);
/* So many bytes, exactly. The descriptor is the caller's; exec does not close it. */
int passing_receive(int socket, void *bytes, size_t length);

#endif
