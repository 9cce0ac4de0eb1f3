/*
 * Where the handler threads run. A placed handler has two threads, its seats: the companion, in SCHED_IDLE beside the
 * faulting thread, and the guard, of the ordinary class. Each waits for descriptors by itself; one at a time owns the
 * reader and runs a pass. The charge says which of them serves.
 */
#ifndef UFFD_LOOP_ENGINE_PLACED_PLACEMENT_H
#define UFFD_LOOP_ENGINE_PLACED_PLACEMENT_H

#include <sched.h>

#include "loop/engine/placed/faulter.h"
#include "loop/engine/reader.h"

enum { UFFD_SEAT_GUARD, UFFD_SEAT_COMPANION, UFFD_SEATS };

/* The guard asks a companion that does not serve how long it takes to get a processor. */
enum uffd_question { UFFD_QUESTION_NONE, UFFD_QUESTION_ASKED, UFFD_QUESTION_ANSWERED };

struct uffd_seat {
  /* set once */
  struct uffd_placement *placement;
  uint32_t index; /* UFFD_SEAT_* */
  int epoll_fd;   /* the reader's descriptors, once more: a seat that waits does not own the reader */
  pthread_t thread;
  clockid_t clock; /* of the processor time of thread */
  /* any thread, atomic */
  _Atomic int tid;
  /* the seat's thread */
  int cpu;        /* it is pinned to; -1: none */
  int seen_cpu;   /* of the faulting thread, at the last look */
  uint32_t until; /* faults until the next look */
  bool fresh;     /* did not serve: its epoll_fd does not tell what has come meanwhile */
};

struct uffd_placement {
  /* set once */
  struct uffd_reader *reader;
  bool bounded;   /* home is known */
  cpu_set_t home; /* where the program may run */
  /* any thread, atomic */
  _Atomic uint32_t owner;  /* of the reader: index + 1 of a seat; 0: nobody */
  _Atomic uint32_t charge; /* the UFFD_SEAT_* that serves */
  _Atomic bool refused;    /* a thread may not enter SCHED_IDLE here: the guard keeps the charge */
  _Atomic bool backlog;    /* prefetch has more to do: the guard keeps the charge until it has not */
  _Atomic uint32_t question;
  _Atomic uint64_t question_ns; /* when it was asked; then how long the answer took */
  _Atomic uint32_t calls;       /* futex, for those who sleep: the charge has changed, a question, the end */
  _Atomic uint64_t passes;      /* ended, of both seats */
  _Atomic uint64_t due_ns;      /* when a pass has something to do without a descriptor; UINT64_MAX: never */
  /* the owner of the reader */
  struct uffd_faulter faulter;
  /* the guard */
  uint64_t period_ns;          /* between two looks at the companion */
  uint64_t charged_ns;         /* when the companion was given the charge */
  uint64_t backoff_ns, ask_ns; /* the next question, and when */
  uint32_t still, doubts; /* looks in a row at which nothing had happened; at which little had, and a fault waited */
  struct uffd_seat seats[UFFD_SEATS];
};

extern const struct uffd_engine_class uffd_placed_engine; /* placed.c */

/* placement.c */
void uffd_placement_call(struct uffd_placement *placement);
/* Sleeps until the calls are no longer as seen, or the time is over (UINT64_MAX: never). */
void uffd_placement_sleep(struct uffd_placement *placement, uint32_t seen, uint64_t timeout_ns);
bool uffd_placement_ends(const struct uffd_placement *placement);
/* Pins a thread of ours (0: the caller) to one processor where the program may run, or, at -1, to all of them. */
int uffd_placement_pin(const struct uffd_placement *placement, int tid, int cpu);
/* The processor of the thread whose fault was read last, or -1. The owner of the reader calls. */
int uffd_placement_faulter_cpu(struct uffd_placement *placement);

/* seat.c */
bool uffd_seat_has_charge(const struct uffd_seat *seat);
/*
 * Waits for something to do, takes the reader, runs a pass. True: the caller owns the reader, and gives it
 * back. False: no pass was run, because the other seat has the charge or owns the reader, or because the loop ends.
 */
bool uffd_seat_pass(struct uffd_seat *seat, unsigned *answered);
void uffd_seat_give(struct uffd_seat *seat);
/* Something has been waiting since longer ago than `late`: a descriptor is readable, or a time has passed. */
bool uffd_seat_sees_work(const struct uffd_seat *seat, uint64_t late_ns);
/* Waits for a descriptor, without taking anything. */
void uffd_seat_wait(const struct uffd_seat *seat);

/* companion.c, guard.c: what a seat does until the loop ends. */
void uffd_companion_run(struct uffd_seat *seat);
void uffd_guard_run(struct uffd_seat *seat);
/* The guard: gives a thread that waits for a processor another one, and the ordinary class where it may. */
void uffd_guard_relieve(struct uffd_seat *seat);

#endif
