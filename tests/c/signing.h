/*
 * For tests of stores: is a request signed as AWS Signature Version 4 asks for? Of the library only SHA-256 is used.
 */
#ifndef UFFD_TESTS_SIGNING_H
#define UFFD_TESTS_SIGNING_H

#include "check.h"

/* Who is let in. */
struct signing_user {
  const char *name, *secret, *token, *region;
};

/* For struct remoting's admits; ctx is a struct signing_user. The query is taken to be in canonical order. */
bool signing_admits(const char *request, void *ctx);

#endif
