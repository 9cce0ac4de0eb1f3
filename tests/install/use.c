/* A program of a user of libuffd: makes memory whose pages are a pattern, and reads one. 77: no userfaultfd here. */
#include <stdio.h>
#include <string.h>

#include <uffd.h>

static int check(int result, const char *what) {
  if (result < 0) fprintf(stderr, "%s: %s\n", what, uffd_errmsg());
  return result < 0;
}

static int read_pattern(void) {
  uffd_memory *memory = NULL;
  uffd_resolver *pattern = NULL;
  uffd_loop *loop = NULL;
  char text[4] = "";
  int failed =
      check(uffd_map(65536, NULL, &memory), "map") || check(uffd_resolver_pattern("uffd", 4, &pattern), "pattern") ||
      check(uffd_loop_create(NULL, &loop), "loop") || check(uffd_loop_add(loop, memory, pattern, NULL, NULL), "add") ||
      check(uffd_memory_read(memory, 8192, text, 4), "read");
  if (loop != NULL) uffd_loop_close(loop);
  uffd_resolver_close(pattern);
  uffd_memory_close(memory);
  return failed || memcmp(text, "uffd", 4) != 0;
}

int main(void) {
  struct uffd_probe probe = UFFD_PROBE_INIT;
  if (check(uffd_probe(&probe), "probe")) return 1;
  printf("%s\n", uffd_version());
  if (!probe.usable) return 77;
  return read_pattern();
}
