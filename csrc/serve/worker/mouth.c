/*
 * What a worker says to its supervisor.
 */
#include "serve/worker/mouth.h"

#include <stdio.h>

#include "base/base.h"
#include "serve/paper/channel.h"

bool uffd_say_message(const struct uffd_mouth *mouth, const struct uffd_message *message, const int *fds,
                      uint32_t count) {
  return uffd_channel_send(mouth->channel, message, fds, count, true) == 0;
}

bool uffd_say(const struct uffd_mouth *mouth, uint32_t kind, uint64_t client, int error, const char *text) {
  struct uffd_message message = {.kind = kind, .client = client, .error = error};
  snprintf(message.text, sizeof(message.text), "%s", text);
  return uffd_say_message(mouth, &message, NULL, 0);
}

bool uffd_say_error(const struct uffd_mouth *mouth, uint64_t client, int error) {
  return uffd_say(mouth, UFFD_SAY_ERROR, client, error, uffd_errmsg());
}
