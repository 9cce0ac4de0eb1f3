/* The Lua files of uffd inside the program, written by csrc/cmake/embed.cmake; a NULL module ends the list. */
#ifndef UFFD_RUNNER_EMBEDDED_H
#define UFFD_RUNNER_EMBEDDED_H

#include <stddef.h>

struct uffd_embedded {
  const char *module; /* "uffd.info" */
  const char *file;   /* "uffd/info.lua" */
  const unsigned char *source;
  size_t length; /* bytes */
};

extern const struct uffd_embedded uffd_embedded[];

#endif
