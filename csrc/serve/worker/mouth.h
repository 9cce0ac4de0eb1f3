/*
 * What a worker says to its supervisor.
 */
#ifndef UFFD_SERVE_MOUTH_H
#define UFFD_SERVE_MOUTH_H

#include <stdbool.h>
#include <stdint.h>

struct uffd_message;

struct uffd_mouth {
  int channel;
};

/* UFFD_SAY_*; client: its id, or 0; error: an errno, or 0. False: there is no supervisor. Any thread. */
bool uffd_say(const struct uffd_mouth *mouth, uint32_t kind, uint64_t client, int error, const char *text);
bool uffd_say_error(const struct uffd_mouth *mouth, uint64_t client, int error); /* the text is the thread's sentence */
bool uffd_say_message(const struct uffd_mouth *mouth, const struct uffd_message *message, const int *fds,
                      uint32_t count);

#endif
