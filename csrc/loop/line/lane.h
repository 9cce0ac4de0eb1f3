/*
 * A lane: what one walk along the line needs. A reader has one, an inline slot is one. One thread uses it at a time;
 * counters and histogram are read by any thread.
 */
#ifndef UFFD_LOOP_LINE_LANE_H
#define UFFD_LOOP_LINE_LANE_H

#include "loop/line/histogram.h"
#include "loop/pages/failure.h"
#include "resolver/resolver.h"

/* Thread-local, and reached from signal handlers: the ordinary model may allocate at a thread's first access. */
#define UFFD_SIGNAL_TLS __attribute__((tls_model("initial-exec")))

struct uffd_counters {
  _Atomic uint64_t missing, wp, minor, writes, events;
  _Atomic uint64_t pages[UFFD_ANSWER_POISON + 1]; /* installed, by answer */
  _Atomic uint64_t unprotected, bytes, prefetched, present, deferred, gone, errors, policy_calls, queue, queue_max;
};

/* Who is told of each fault. */
enum { UFFD_HOOK_USER, UFFD_HOOK_FILE, UFFD_HOOKS };
/* A function that is told of each fault. Mapped, because a hook may put another one in its place. */
struct uffd_hook {
  struct uffd_hook *next;
  uffd_trace_fn *fn;
  void *ctx;
};

struct uffd_lane {
  /* set once */
  const void *owner;      /* the loop's engine; for comparing only */
  struct uffd_bell *bell; /* engine/bell.h: of whoever walks here, for whoever was told LATER */
  uint32_t index;         /* of the loop's lanes */
  bool crowded;           /* other lanes fill the same pages at the same time */
  struct uffd_failure *failure;
  struct uffd_hook *_Atomic *trace; /* UFFD_HOOKS of them */
  char *staging;                    /* HUGE_PAGE bytes: tails that need zeros behind them, and what is looked at */
  const char *zeros;                /* the process's HUGE_PAGE of zero bytes, for where ZEROPAGE does not serve */
  /* the thread that uses it */
  struct uffd_asker asker;
  char *huge, *huge_mapping; /* huge.c: NULL until they are needed */
  uint64_t poisoned_ns;      /* when a page was last poisoned */
  /* the same, and read by any thread */
  struct uffd_counters counters;
  struct uffd_histogram latency;
};

/* The lane that the calling thread is using, or NULL: a call that would wait for this lane's loop is refused. */
extern _Thread_local struct uffd_lane *uffd_current_lane UFFD_SIGNAL_TLS;

int uffd_lane_open(struct uffd_lane *lane); /* what is not set by its maker: 0 or -ENOMEM, no sentence */
void uffd_lane_close(struct uffd_lane *lane);
/* Calls the idle hooks of the callbacks that the lane asks; true if there is more to tidy. */
bool uffd_lane_idle(struct uffd_lane *lane);
/* A fault of these flags (UFFD_FAULT_*) has come. */
void uffd_lane_count_fault(struct uffd_lane *lane, uint64_t flags);

#endif
