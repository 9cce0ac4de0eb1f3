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

#define LENGTH (8 * MIB)
#define CALLS  20000
#define WAKES  2000
#define RUNS   5

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

static double median_of(double (*measure)(void)) {
  double values[RUNS];
  for (int i = 0; i < RUNS; i++) {
    values[i] = measure();
  }
  return spread_of(values, RUNS).median;
}

void print_machine(void) {
  struct utsname name;
  uname(&name);
  printf("Linux %s, %s, %ld processors\n", name.release, name.machine, sysconf(_SC_NPROCESSORS_ONLN));
  printf("a system call %.0f ns; the kernel's own page fault %.0f ns; the first touch of a page that is there %.0f ns; "
         "waking a thread %.0f ns\n\n",
         median_of(system_call_ns), median_of(page_fault_ns), median_of(first_touch_ns), median_of(wake_up_ns));
}
