/*
 * The parts that all figures are made of: how long this machine takes for each.
 */
#ifndef UFFD_BENCH_MACHINE_H
#define UFFD_BENCH_MACHINE_H

/* Ratios hold within one kind. */
enum host {
  HOST_BARE_METAL, /* hardware page tables: entering the kernel is cheap, in a virtual machine too */
  HOST_SHADOW      /* the hypervisor keeps the page tables (shadow paging, nested virtualisation): dear */
};

struct machine {
  enum host host;
  double system_call_ns, page_fault_ns, first_touch_ns, wake_up_ns; /* the first three tell the kind */
};

const struct machine *machine_measure(void);

/* On stdout: kernel, processors, the costs, the kind of host, and whether targets are shown. */
void print_machine(const struct machine *machine);
void print_machine_json(const struct machine *machine); /* one object a line, as rows are */

#endif
