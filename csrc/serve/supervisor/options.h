/*
 * The pager's options.
 */
#ifndef UFFD_SERVE_OPTIONS_H
#define UFFD_SERVE_OPTIONS_H

#include <stdbool.h>

#include "uffd_pager.h"

bool uffd_options_template(const struct uffd_pager_opts *opts); /* is the image, or a layer of it, a template? */
bool uffd_options_choose(const struct uffd_pager_opts *opts);   /* has each client an image that is found for it? */
int uffd_options_check(const struct uffd_pager_opts *opts);     /* -EINVAL, -EBUSY with a sentence */
/* Sets defaults and copies the strings. -ENOMEM: what was copied is to be released too. */
int uffd_options_keep(struct uffd_pager_opts *opts);
/* 1: the image is another one now. -ENOMEM. Puts what may change in place of what is there. What else differs is named
 * in *others, up to NULL, and stays. */
int uffd_options_change(struct uffd_pager_opts *opts, const struct uffd_pager_opts *wanted, const char **others);
#define UFFD_OPTIONS_OTHERS 24                           /* names that *others has room for */
void uffd_options_release(struct uffd_pager_opts *opts); /* frees the copies */

#endif
