/*
 * Passes a descriptor and some bytes to another process over a socket.
 */
#ifndef UFFD_TESTS_PASSING_H
#define UFFD_TESTS_PASSING_H

#include "check.h"

void passing_send(int socket, int fd, const void *bytes, size_t length);
/* Receives exactly so many bytes. The caller owns the descriptor; exec does not close it. */
int passing_receive(int socket, void *bytes, size_t length);

#endif
