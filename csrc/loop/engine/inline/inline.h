/*
 * The inline engine: the faulting thread resolves its own fault in its SIGBUS handler (UFFD_FEAT_SIGBUS), on the same
 * line as everybody else. What runs there takes no lock that an interrupted thread may hold, and allocates nothing.
 */
#ifndef UFFD_LOOP_INLINE_H
#define UFFD_LOOP_INLINE_H

#include <signal.h>

#include "loop/loop.h"

/* A slice that signal handlers can find, with what resolves its faults. */
struct uffd_entry {
  struct uffd_slice slice;
  struct uffd_source *source;
  uffd_loop *loop;
};

/* directory.c: entries are valid between enter and leave. Any thread, any context. */
struct uffd_visit {
  uint32_t stripe, phase;
};
struct uffd_visit uffd_directory_enter(void);
void uffd_directory_leave(struct uffd_visit visit);
const struct uffd_entry *uffd_directory_find(uint64_t address);
/* No entry holds address now, but one did a short while ago. */
bool uffd_directory_had(uint64_t address);
/* Ordinary threads only: they wait for the handlers that are inside. */
int uffd_directory_add(const struct uffd_entry *entry); /* 0 or -ENOMEM */
void uffd_directory_remove(const uffd_region *region);

/* sigbus.c: the process's signal handler, there as long as an inline loop is. */
int uffd_sigbus_acquire(void); /* 0 or -errno with a sentence */
void uffd_sigbus_release(void);

/* inline.c */
enum uffd_inline_result { UFFD_INLINE_RESOLVED, UFFD_INLINE_NOT_OURS };
/* Resolves the fault of the calling thread at address. */
enum uffd_inline_result uffd_inline_resolve(uint64_t address, uint64_t flags);
/*
 * The same for a system call that would get EFAULT. flags: UFFD_FAULT_* as if a fault had been read. 0 or -errno,
 * -ENOENT when no inline loop serves address.
 */
int uffd_inline_bring_in(uint64_t address, uint64_t flags);
/* Executors: handlers that no thread runs; whoever has a fault, or a job for one, takes it meanwhile. */
struct uffd_handler_state *uffd_inline_take(uffd_loop *loop);
void uffd_inline_give(struct uffd_handler_state *handler);
/* Waits until no fault is being resolved, and holds up those that come. */
void uffd_inline_take_all(uffd_loop *loop);
void uffd_inline_give_all(uffd_loop *loop);

#endif
