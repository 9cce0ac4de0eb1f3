/*
 * The kernel's interface without the library, for baselines and limits.
 */
#ifndef UFFD_BENCH_RAW_H
#define UFFD_BENCH_RAW_H

#include <linux/userfaultfd.h>

#include "plan.h"

#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

int raw_open(uint64_t features);
void raw_register(int fd, const char *memory, uint64_t length, uint64_t mode);
int raw_copy(int fd, uint64_t dst, const char *source, uint64_t length, bool protect); /* an errno or 0 */
/* Copies from source, or installs zero pages when it is NULL. Returns an errno or 0. */
int raw_fill(int fd, uint64_t dst, const char *source, uint64_t length);
int raw_continue(int fd, uint64_t dst, uint64_t length);
int raw_writeprotect(int fd, uint64_t dst, uint64_t length, bool protect);
/* Where the page at an address comes from; image: where the plan's image is mapped. */
const char *raw_source(const struct plan *plan, const char *image, const char *memory, uint64_t page);

#endif
