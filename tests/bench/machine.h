/*
 * The parts that all figures are made of: how long this machine takes for each.
 */
#ifndef UFFD_BENCH_MACHINE_H
#define UFFD_BENCH_MACHINE_H

/* Two lines on stdout: the kernel and processors, and the least that a system call, a fault, a touch and a wake-up
 * take. */
void print_machine(void);

#endif
