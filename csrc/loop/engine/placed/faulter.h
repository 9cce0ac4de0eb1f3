/*
 * The thread that faults: on which processor it runs. Reads /proc; allocates nothing.
 */
#ifndef UFFD_LOOP_FAULTER_H
#define UFFD_LOOP_FAULTER_H

#include <stdbool.h>
#include <stdint.h>

#define UFFD_FAULTER_TASKS 32u /* of a process whose messages do not tell the thread, looked at */

struct uffd_faulter {
  uint32_t pid, tid; /* whose stat is open */
  int fd;            /* -1: none */
  uint32_t looks;    /* until the tasks are looked through again */
  bool guessed;      /* they were, because pid does not have the thread that was told */
  struct {
    uint32_t tid;
    uint64_t faults; /* so far */
  } tasks[UFFD_FAULTER_TASKS];
};

void uffd_faulter_init(struct uffd_faulter *faulter);
void uffd_faulter_close(struct uffd_faulter *faulter);

/*
 * The processor of thread tid of process pid, or -1. pid 0: any process that this one can see. tid 0, or one that pid
 * does not have (it is counted in a namespace of its own): the thread of pid that has faulted most since the last time.
 */
int uffd_faulter_cpu(struct uffd_faulter *faulter, uint32_t pid, uint32_t tid);

/* A thread of this process has work and waits for a processor, or has one. True where it cannot be told. */
bool uffd_task_is_runnable(uint32_t tid);

#endif
