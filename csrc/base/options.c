/*
 * Option structs of other versions: a user's struct may be shorter than ours (an older program) or longer (a newer
 * one).
 */
#include <string.h>

#include "base/base.h"

#define SIZE_LIMIT 4096u /* a larger size was never initialised */

int uffd_take_opts(void *ours, size_t our_size, const void *theirs, const char *what) {
  if (theirs == NULL) return 0;
  size_t their_size;
  memcpy(&their_size, theirs, sizeof(their_size));
  if (their_size < sizeof(their_size) || their_size > SIZE_LIMIT)
    return fail(EINVAL, "struct %s says that its size is %zu: start from its _INIT macro.", what, their_size);
  const unsigned char *bytes = theirs;
  for (size_t i = our_size; i < their_size; i++)
    if (bytes[i] != 0)
      return fail(EINVAL, "struct %s has a field set that uffd %s does not know (at byte %zu): use a newer library.",
                  what, uffd_version(), i);
  memcpy(ours, theirs, their_size < our_size ? their_size : our_size);
  memcpy(ours, &our_size, sizeof(our_size));
  return 0;
}
