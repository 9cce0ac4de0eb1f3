/*
 * What is prefetched for a client: the working set, then everything, as the options say.
 */
#ifndef UFFD_SERVE_PREFETCH_H
#define UFFD_SERVE_PREFETCH_H

#include "serve/worker/serving.h"

void uffd_serving_prefetch(struct uffd_serving *serving); /* starts it, once; failures are told to the supervisor */
void uffd_serving_go_on(struct uffd_serving *serving);    /* when the working set is there, starts on the rest */

#endif
