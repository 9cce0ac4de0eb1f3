/*
 * An NBD server beside the benchmark: nbdkit, which answers each read so late as if it were far away.
 */
#ifndef UFFD_BENCH_KIT_H
#define UFFD_BENCH_KIT_H

#include <sys/types.h>

#include "plan.h"

struct kit {
  pid_t pid;
  char socket[108], pid_file[128];
  char uri[192];
};

/* Serves the image's file; each read takes delay_ms more. false: nbdkit is not installed. It ends with this process. */
bool kit_start(struct kit *kit, const struct image *image, unsigned delay_ms);
/* The same of nbdkit's curl plugin, which reads what a web server has at this address. false: there is none. */
bool kit_start_curl(struct kit *kit, const char *url);
void kit_end(struct kit *kit);

/*
 * All of it by libnbd alone, `most` requests of request bytes in flight, to a buffer: ns. 0: the benchmark was built
 * without libnbd.
 */
uint64_t kit_read_all(const struct kit *kit, uint64_t length, uint64_t request, unsigned most);

#endif
