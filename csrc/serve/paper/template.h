/*
 * Templates of paths: "/snapshots/{label}/ram.img".
 */
#ifndef UFFD_SERVE_TEMPLATE_H
#define UFFD_SERVE_TEMPLATE_H

#include <stdbool.h>

/* Has the path fields in it, or braces that stand for themselves? */
bool uffd_is_template(const char *path);
/* Are its fields known, and its braces closed? what: the option, for the sentence. 0, or -EINVAL with a sentence. */
int uffd_template_check(const char *what, const char *path);

#endif
