/*
 * The parts that all figures are made of: how long this machine takes for each.
 */
#include "machine.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "baseline.h"

#define LENGTH MIB
#define CALLS  1000
#define WAKES  200
#define RUNS   25

static double system_call_ns(void) {
  uint64_t begin = now_ns();
  for (int i = 0; i < CALLS; i++) {
    syscall(SYS_getppid);
  }
  return (double)(now_ns() - begin) / CALLS;
}

/* Of fresh anonymous memory; populated: the kernel has mapped its pages already. */
static double touch_ns(bool populated) {
  const struct plan plan = {.length = LENGTH, .order = FORWARD, .write = true};
  double figures[FIGURES];
  char *memory = map_fresh(LENGTH, false);
  if (populated && madvise(memory, LENGTH, MADV_POPULATE_WRITE) != 0) die("cannot populate: %m");
  plan_touch(&plan, memory, figures);
  unmap(memory, LENGTH);
  return figures[MAIN];
}

static double page_fault_ns(void) {
  return touch_ns(false);
}

static double first_touch_ns(void) {
  return touch_ns(true);
}

static int ping, pong;

static void *answer_pings(void *argument) {
  uint64_t value;
  for (int i = 0; i < WAKES; i++) {
    if (read(ping, &value, sizeof(value)) < 0 || write(pong, &value, sizeof(value)) < 0) die("eventfd: %m");
  }
  return argument;
}

/* Half of the round trip to another thread. */
static double wake_up_ns(void) {
  uint64_t value = 1;
  pthread_t thread;
  ping = eventfd(0, EFD_CLOEXEC), pong = eventfd(0, EFD_CLOEXEC);
  if (ping < 0 || pong < 0 || pthread_create(&thread, NULL, answer_pings, NULL) != 0) die("no thread");
  uint64_t begin = now_ns();
  for (int i = 0; i < WAKES; i++) {
    if (write(ping, &value, sizeof(value)) < 0 || read(pong, &value, sizeof(value)) < 0) die("eventfd: %m");
  }
  double taken = (double)(now_ns() - begin) / WAKES / 2;
  pthread_join(thread, NULL);
  close(ping);
  close(pong);
  return taken;
}

/* The least of many short runs: a busy machine interrupts some, and is no other kind of host for it. */
static double least_of(double (*measure)(void)) {
  double values[RUNS];
  for (int i = 0; i < RUNS; i++) {
    values[i] = measure();
  }
  return spread_of(values, RUNS).low;
}

/*
 * On the two kinds of host that were measured: a system call 135 and 1000 ns, a page fault 700 to 1700 and 11000 to
 * 15000, the first touch of a page that is there 40 and 1900 to 6100. Two of the three decide: one alone may be noise.
 */
static enum host kind_of(const struct machine *machine) {
  int dear = (machine->system_call_ns > 400) + (machine->page_fault_ns > 5000) + (machine->first_touch_ns > 600);
  return dear >= 2 ? HOST_SHADOW : HOST_BARE_METAL;
}

static const char *host_name(enum host host) {
  return host == HOST_SHADOW ? "shadow-paged" : "bare-metal-like";
}

const struct machine *machine_measure(void) {
  static struct machine machine;
  machine.system_call_ns = least_of(system_call_ns);
  machine.page_fault_ns = least_of(page_fault_ns);
  machine.first_touch_ns = least_of(first_touch_ns);
  machine.wake_up_ns = least_of(wake_up_ns);
  machine.host = kind_of(&machine);
  return &machine;
}

void print_machine(const struct machine *machine) {
  struct utsname name;
  uname(&name);
  printf("Linux %s, %s, %ld processors\n", name.release, name.machine, sysconf(_SC_NPROCESSORS_ONLN));
  printf("a system call %.0f ns; the kernel's own page fault %.0f ns; the first touch of a page that is there %.0f ns; "
         "waking a thread %.0f ns\n",
         machine->system_call_ns, machine->page_fault_ns, machine->first_touch_ns, machine->wake_up_ns);
  printf("a %s host: %s\n\n", host_name(machine->host),
         machine->host == HOST_BARE_METAL
             ? "targets were set on this kind"
             : "targets are not shown, because they were set on bare-metal-like hosts; ratios are smaller here");
}

void print_machine_json(const struct machine *machine) {
  printf("{\"host\":\"%s\",\"system_call_ns\":%.6g,\"page_fault_ns\":%.6g,\"first_touch_ns\":%.6g,"
         "\"wake_up_ns\":%.6g}\n",
         host_name(machine->host), machine->system_call_ns, machine->page_fault_ns, machine->first_touch_ns,
         machine->wake_up_ns);
}
