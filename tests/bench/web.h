/*
 * A web server beside the benchmark: nginx, which serves one file.
 */
#ifndef UFFD_BENCH_WEB_H
#define UFFD_BENCH_WEB_H

#include <sys/types.h>

#include "plan.h"

struct web {
  pid_t pid;
  char directory[128];
  char url[64];
};

/* Serves the image's file. false: nginx is not installed. It ends with this process. */
bool web_start(struct web *web, const struct image *image);
void web_end(struct web *web);

#endif
