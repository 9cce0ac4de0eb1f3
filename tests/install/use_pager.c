/*
 * A program of a user of libuffd-pager: keeps a working set in a file, and hands memory to nobody. 77: no userfaultfd
 * here.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <uffd_pager.h>

static int check(int result, const char *what) {
  if (result < 0) fprintf(stderr, "%s: %s\n", what, uffd_errmsg());
  return result < 0;
}

static int keep_working_set(void) {
  char path[] = "/tmp/uffd-use-XXXXXX";
  int fd = mkstemp(path);
  uffd_workingset *set = NULL, *loaded = NULL;
  int failed = fd < 0 || check(uffd_workingset_create(4096, 1 << 20, 0, &set), "create") ||
               check(uffd_workingset_add(set, 8192, 0), "add") || check(uffd_workingset_save(set, path), "save") ||
               check(uffd_workingset_load(path, &loaded), "load") || uffd_workingset_count(loaded) != 1;
  uffd_workingset_close(set);
  uffd_workingset_close(loaded);
  if (fd >= 0) close(fd);
  unlink(path);
  return failed;
}

/* Gets as far as the socket, by way of the kernel and of the library below. */
static int hand_over_to_nobody(void) {
  uffd_memory *memory = NULL;
  uffd_handoff *handoff = NULL;
  if (check(uffd_map(65536, NULL, &memory), "map")) return 1;
  struct uffd_handoff_part part = {memory, 0};
  int result = uffd_handoff_send("/nowhere/at/all", &part, 1, NULL, &handoff);
  uffd_memory_close(memory);
  if (result == -ENOENT && strstr(uffd_errmsg(), "/nowhere/at/all") != NULL) return 0;
  fprintf(stderr, "handing over to nobody gave %d: %s\n", result, uffd_errmsg());
  return 1;
}

int main(void) {
  struct uffd_probe probe = UFFD_PROBE_INIT;
  if (check(uffd_probe(&probe), "probe") || keep_working_set()) return 1;
  if (!probe.usable) return 77;
  return hand_over_to_nobody();
}
