/*
 * The pager's options.
 */
#ifndef UFFD_SERVE_OPTIONS_H
#define UFFD_SERVE_OPTIONS_H

#include "uffd_pager.h"

int uffd_options_check(const struct uffd_pager_opts *opts); /* -EINVAL, -EBUSY with a sentence */
/* Sets defaults and copies the strings. -ENOMEM: what was copied is to be released too. */
int uffd_options_keep(struct uffd_pager_opts *opts);
void uffd_options_release(struct uffd_pager_opts *opts); /* frees the copies */

#endif
