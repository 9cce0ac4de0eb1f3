/*
 * Why connections and handshakes are refused, in a few words that do not grow in number: labels of a metric.
 */
#ifndef UFFD_SERVE_REFUSAL_H
#define UFFD_SERVE_REFUSAL_H

#include <stdint.h>

enum { UFFD_REFUSALS = 10 };

const char *uffd_refusal_name(uint32_t reason); /* reason < UFFD_REFUSALS */
uint32_t uffd_refusal_of(int error);            /* of an errno */

#endif
