/*
 * Memory of another process: it maps, hands over as Firecracker does, and touches, in plain system calls.
 */
#ifndef UFFD_BENCH_CLIENT_H
#define UFFD_BENCH_CLIENT_H

#include "plan.h"

#define CLIENT_OPTION "--client" /* this program, as the client */

/*
 * The plan's work in a process of its own, served by who listens at the path. The clock runs from before it connects.
 * told: it touches when the server has sent a byte, not before.
 */
void client_run(const struct plan *plan, const char *path, bool told, bool check, double figures[FIGURES]);
/* main() of that process. */
int client_main(void);

#endif
