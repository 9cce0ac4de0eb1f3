/*
 * Names of masks, for sentences.
 */
#ifndef UFFD_KERNEL_NAMES_H
#define UFFD_KERNEL_NAMES_H

#include "base/base.h"

/* All the features that have a name. */
uint64_t uffd_named_features(void);

/*
 * Writes "move (6.8), poison (6.6), bit 40": each feature of the mask with the Linux version that has it. The text may
 * be cut.
 */
void uffd_list_features(uint64_t mask, char *text, size_t length);

#endif
