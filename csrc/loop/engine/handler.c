/*
 * One handler's pass: wait, drain, events first, then faults, then what others want of it. Every message that is read
 * ends in an outcome, stays in the queue to be tried again, or is woken; none is dropped.
 */
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "loop/engine/batch.h"
#include "loop/engine/inline/inline.h"
#include "loop/line/bulk.h"
#include "loop/pages/ledger.h"

#define READS_MAX 16u /* of one source in a pass */
#define AGAIN_MAX 8u  /* tries after an event */

_Thread_local struct uffd_handler_state *uffd_current_handler UFFD_SIGNAL_TLS;

/* ---- sources */

struct uffd_source *uffd_source_create(uffd_object *object) {
  struct uffd_source *source = uffd_pages_map(sizeof(*source));
  if (source == NULL) return NULL;
  source->object = object;
  source->fd = object->fd;
  return source;
}

void uffd_source_destroy(struct uffd_source *source) {
  if (source->child) uffd_close(source->object); /* others belong to the handler, or to the user */
  uffd_slices_free(source);
  uffd_pages_unmap(source, sizeof(*source));
}

static void list_polls(struct uffd_handler_state *handler) {
  handler->polls[0] = (struct pollfd){.fd = handler->wake_fd, .events = POLLIN};
  handler->polls_count = 1;
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    handler->polls[handler->polls_count++] = (struct pollfd){.fd = source->fd, .events = POLLIN};
  }
}

static void keep_descriptor(struct uffd_handler_state *handler) {
  if (handler->spare_fd < 0) handler->spare_fd = eventfd(0, EFD_CLOEXEC);
}

int uffd_handler_add_source(struct uffd_handler_state *handler, struct uffd_source *source) {
  if (handler->polls_count == handler->polls_capacity) {
    uint32_t capacity = handler->polls_capacity * 2;
    struct pollfd *polls = uffd_pages_map(capacity * sizeof(*polls));
    if (polls == NULL) return -ENOMEM;
    uffd_pages_unmap(handler->polls, handler->polls_capacity * sizeof(*polls));
    handler->polls = polls;
    handler->polls_capacity = capacity;
  }
  if (uffd_placement_watch(handler, source->fd) < 0) {
    uffd_placement_unwatch(handler, source->fd);
    return -ENOMEM;
  }
  source->next = handler->sources;
  handler->sources = source;
  list_polls(handler);
  uffd_pump_watch(handler, source->fd);
  if ((source->object->features & UFFD_FEAT_EVENT_FORK) != 0) {
    handler->keep_spare = true;
    keep_descriptor(handler);
  }
  return 0;
}

static void wake(const struct uffd_pending *fault) {
  const struct uffd_slice *slice = uffd_slice_find(fault->source, fault->address);
  uint64_t page_size = slice == NULL ? BASE_PAGE : slice->region->page_size;
  uffd_raw_wake(fault->source->fd, round_down(fault->address, page_size), page_size);
}

void uffd_handler_drop_source(struct uffd_handler_state *handler, struct uffd_source *source) {
  struct uffd_source **link = &handler->sources;
  while (*link != source) {
    link = &(*link)->next;
  }
  *link = source->next;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < handler->queued; i++) {
    if (handler->queue[i].source == source) {
      wake(&handler->queue[i]);
    } else {
      handler->queue[kept++] = handler->queue[i];
    }
  }
  handler->queued = kept;
  uffd_oldest_clear(handler); /* the next pass tells */
  list_polls(handler);
  uffd_pump_unwatch(handler, source->fd);
  uffd_placement_unwatch(handler, source->fd);
  if (source->child) handler->children--;
  uffd_source_destroy(source);
}

/* Children whose address space is gone: nothing of theirs can be waiting. Others are closed by whoever made them. */
static void bury_children(struct uffd_handler_state *handler) {
  for (struct uffd_source *source = handler->sources, *next; source != NULL; source = next) {
    next = source->next;
    if (source->child && source->gone) uffd_handler_drop_source(handler, source);
  }
}

/*
 * Nobody tells when a child exits, so it is asked when another one comes: unprotecting where nothing is registered does
 * nothing, and ESRCH is said before that is looked at. Burying waits for the end of the pass: the one that has forked
 * may itself be dead by now.
 */
static void check_children(struct uffd_handler_state *handler) {
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    if (source->child && uffd_raw_writeprotect(source->fd, BASE_PAGE * 16, BASE_PAGE, 0) == -ESRCH) source->gone = true;
  }
}

/* ---- events */

static struct uffd_ledger *ledger_of(const struct uffd_handler_state *handler, const struct uffd_source *source) {
  return source->child ? NULL : handler->loop->ledger;
}

/* True when the hook has taken the child. */
static bool hand_over_child(const struct uffd_handler_state *handler, const struct uffd_source *parent,
                            uffd_object *child) {
  const uffd_loop *loop = handler->loop;
  if (loop->on_fork == NULL || child == NULL || parent->child) return false;
  const struct uffd_ledger *ledger = ledger_of(handler, parent);
  void *copy = ledger == NULL ? NULL : uffd_ledger_copy(ledger);
  if (ledger != NULL && copy == NULL) return false;
  int result = loop->on_fork(loop->on_fork_ctx, child, copy, copy == NULL ? 0 : ledger->size);
  if (copy != NULL) uffd_pages_unmap(copy, ledger->size);
  return result == 0;
}

/* R13: the child inherits regions and page states, and is served like its parent, by the same handler. */
static void adopt_child(struct uffd_handler_state *handler, const struct uffd_source *parent, uffd_object *object) {
  BARRIER("adopting", handler);
  if (hand_over_child(handler, parent, object)) return;
  check_children(handler);
  struct uffd_source *child = object == NULL ? NULL : uffd_source_create(object);
  if (child != NULL) {
    child->child = true;
    child->foreign = parent->foreign;
    handler->children++;
    atomic_store(&handler->loop->forked, true);
    if (uffd_slices_clone(parent, child) == 0 && uffd_handler_add_source(handler, child) == 0) return;
    handler->children--;
    uffd_source_destroy(child);
  } else {
    uffd_close(object);
  }
  uffd_loop_fail(handler->loop, -fail(ENOMEM, "No memory to serve a forked child: its missing pages read as zeros."));
}

static int follow(struct uffd_handler_state *handler, struct uffd_source *source, const struct uffd_event *event) {
  struct uffd_ledger *ledger = ledger_of(handler, source);
  int result = event->type == UFFD_REMAP ? uffd_slices_remap(source, event->address, event->to, event->length)
                                         : uffd_slices_unmap(source, event->address, event->address + event->length);
  if (result == 0 && ledger != NULL) result = uffd_ledger_commit(ledger, source);
  if (result < 0) source->lost = source->foreign;
  return result;
}

static void apply_event(struct uffd_handler_state *handler, struct uffd_source *source,
                        const struct uffd_event *event) {
  int result = 0;
  uffd_count(&handler->counters.events, 1);
  switch (event->type) {
  case UFFD_REMOVE:
    uffd_slices_remove(source, event->address, event->address + event->length);
    break;
  case UFFD_UNMAP:
  case UFFD_REMAP:
    result = follow(handler, source, event);
    break;
  case UFFD_FORK:
    adopt_child(handler, source, event->object);
    break;
  default:
    uffd_log(UFFD_LOG_WARNING, "Event 0x%x is unknown to this library and was ignored.", event->type);
    break;
  }
  if (result == -ENOSPC) {
    uffd_loop_fail(handler->loop, -fail(ENOSPC,
                                        "The ledger has no room for another piece of a region: the client has "
                                        "cut its mappings into more than %u.",
                                        UFFD_LEDGER_SLICES));
  } else if (result < 0) {
    uffd_loop_fail(handler->loop, -fail(ENOMEM, "No memory to follow a change of mappings."));
  }
}

/* ---- taking over from a process that died */

/* Its descriptor was the dead process's: if the hook has not passed it on, the child is lost. */
static void report_lost_child(const struct uffd_handler_state *handler) {
  const uffd_loop *loop = handler->loop;
  if (loop->on_fork != NULL && loop->on_fork(loop->on_fork_ctx, NULL, NULL, 0) == 0) return;
  uffd_log(UFFD_LOG_ERROR, "A process died while it took over a forked child, whose missing pages may read as zeros.");
}

/* Faults that were read may lie anywhere: also where a mapping has grown. The largest range that the kernel takes. */
static void wake_everywhere(const struct uffd_source *source) {
  const uint64_t lowest = 16 * BASE_PAGE; /* vm.mmap_min_addr as it comes */
  int result = -EINVAL;
  for (unsigned shift = 57; shift >= 31 && result != 0; shift--) {
    result = uffd_raw_wake(source->fd, lowest, (UINT64_C(1) << shift) - BASE_PAGE - lowest);
  }
  for (uint32_t i = 0; i < source->count && result != 0; i++) {
    uffd_raw_wake(source->fd, source->slices[i].start, source->slices[i].end - source->slices[i].start);
  }
}

int uffd_handler_take_over(struct uffd_handler_state *handler) {
  struct uffd_ledger *ledger = handler->loop->ledger;
  struct uffd_source *source = handler->sources; /* the one object: nothing has forked yet */
  struct uffd_raw_msg message;
  int result = source != NULL ? uffd_ledger_refresh(ledger, handler->loop->regions, source) : 0;
  if (result < 0) return result;
  while (source != NULL && uffd_ledger_next(ledger, &message)) {
    if (message.event == UFFD_FORK) {
      report_lost_child(handler);
    } else if (message.event != UFFD_PAGEFAULT) {
      struct uffd_event event;
      uffd_decode(source->object, &message, &event);
      apply_event(handler, source, &event);
    }
  }
  ledger->resumed = false;
  if (source != NULL) wake_everywhere(source);
  return 0;
}

/* ---- draining */

/* A fault that finds no room is woken when there is some: it will be told again. */
static void put_back(struct uffd_handler_state *handler, struct uffd_source *source, uint64_t address) {
  if (source->back_end == 0) source->back_start = UINT64_MAX;
  source->back_start = min_u64(source->back_start, round_down(address, BASE_PAGE));
  source->back_end = max_u64(source->back_end, round_down(address, BASE_PAGE) + BASE_PAGE);
  uffd_count(&handler->counters.deferred, 1);
}

static void wake_put_back(struct uffd_handler_state *handler) {
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    if (source->back_end == 0) continue;
    uffd_raw_wake(source->fd, source->back_start, source->back_end - source->back_start);
    source->back_end = 0;
  }
}

static void enqueue(struct uffd_handler_state *handler, struct uffd_source *source, const struct uffd_raw_msg *message,
                    uint64_t now) {
  uint64_t flags = message->arg.pagefault.flags;
  struct uffd_counters *counters = &handler->counters;
  uffd_count((flags & UFFD_FAULT_WP) != 0      ? &counters->wp
             : (flags & UFFD_FAULT_MINOR) != 0 ? &counters->minor
                                               : &counters->missing,
             1);
  if ((flags & UFFD_FAULT_WRITE) != 0) uffd_count(&counters->writes, 1);
  handler->read_ns = now;
  handler->faulter_pid = uffd_placement_pid(source);
  handler->faulter_tid = message->arg.pagefault.ptid;
  if (handler->queued == UFFD_QUEUE_MAX) {
    put_back(handler, source, message->arg.pagefault.address);
    return;
  }
  handler->queue[handler->queued++] = (struct uffd_pending){
      .source = source,
      .address = message->arg.pagefault.address,
      .flags = flags,
      .read_ns = now,
      .tid = message->arg.pagefault.ptid,
  };
}

/* One read. Returns the number of messages, or -errno. */
static int read_some(struct uffd_handler_state *handler, struct uffd_source *source) {
  struct uffd_raw_msg messages[UFFD_READ_MAX];
  struct uffd_ledger *ledger = ledger_of(handler, source);
  if (uffd_reserve_spares(source->object, UFFD_READ_MAX) < 0) return -ENOMEM;
  int count = ledger != NULL ? uffd_ledger_read(ledger, source->fd, messages)
                             : uffd_raw_read(source->fd, messages, UFFD_READ_MAX);
  if (count <= 0) return count;
  uint64_t now = uffd_now();
  for (int i = 0; i < count; i++) {
    if (ledger != NULL) ledger->applied++; /* when the table is written next, it accounts for this one */
    if (messages[i].event == UFFD_PAGEFAULT) {
      enqueue(handler, source, &messages[i], now);
    } else {
      struct uffd_event event;
      uffd_decode(source->object, &messages[i], &event);
      apply_event(handler, source, &event);
      handler->heard = true;
      handler->retry_ns = now; /* what an event held up may go on */
    }
  }
  return count;
}

/* A FORK needs a descriptor; when the process has none left, the one kept for this is given up for it. */
static bool free_descriptor(struct uffd_handler_state *handler) {
  if (handler->spare_fd < 0) return false;
  close(handler->spare_fd);
  handler->spare_fd = -1;
  return true;
}

static void starve(struct uffd_handler_state *handler, struct uffd_source *source) {
  if (!source->starved) {
    uffd_log(UFFD_LOG_WARNING, "A fork waits for a file descriptor: none is left.");
    uffd_placement_hear(handler, source->fd, false);
  }
  source->starved = true;
  check_children(handler); /* those of the dead are free at the end of the pass */
}

/*
 * R8: the kernel hands faults out before the events that precede them, so all is read before any fault is resolved,
 * even when there is no room for more faults: until an event is read, the kernel refuses to answer any of them. A short
 * read has emptied the kernel's queues: asking for its EAGAIN would be a system call for nothing. R28: who floods a
 * source does not keep the others waiting: what is left then is read in the next pass.
 */
static void drain(struct uffd_handler_state *handler, struct uffd_source *source) {
  int count;
  unsigned reads = 0;
  bool lacking, again;
  do {
    count = read_some(handler, source);
    lacking = count == -EMFILE || count == -ENFILE;
    again = (count == (int)UFFD_READ_MAX && ++reads < READS_MAX) || (lacking && free_descriptor(handler));
  } while (again);
  if (lacking) {
    starve(handler, source);
  } else if (source->starved) {
    source->starved = false;
    uffd_placement_hear(handler, source->fd, true);
  }
}

/* ---- faults */

/*
 * R1, R2: what EAGAIN put off is tried again after an event was read, or when its time has come; the time doubles while
 * nothing moves, so that a target that never goes on costs little.
 */
static void plan_retry(struct uffd_handler_state *handler, uint32_t before) {
  if (handler->queued == 0) {
    handler->retry_ns = 0;
    handler->retry_step = UFFD_RETRY_MIN_NS;
    return;
  }
  handler->retry_step =
      handler->queued < before ? UFFD_RETRY_MIN_NS : min_u64(handler->retry_step * 2, UFFD_RETRY_MAX_NS);
  handler->retry_ns = uffd_now() + handler->retry_step;
}

static void count_queue(struct uffd_handler_state *handler) {
  struct uffd_counters *counters = &handler->counters;
  atomic_store_explicit(&counters->queue, handler->queued, memory_order_relaxed);
  if (handler->queued > atomic_load_explicit(&counters->queue_max, memory_order_relaxed)) {
    atomic_store_explicit(&counters->queue_max, handler->queued, memory_order_relaxed);
  }
}

/* The fault at a place of the queue was the oldest, and may be answered by now; a later one is not. */
static uint32_t name_oldest(struct uffd_handler_state *handler, uint32_t place) {
  if (handler->queue[place].source != NULL) return place;
  while (handler->queue[place].source == NULL) {
    place++;
  }
  uffd_oldest_set(handler, &handler->queue[place]);
  return place;
}

/* Takes the answered ones out; the others keep their order. */
static void close_gaps(struct uffd_handler_state *handler) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < handler->queued; i++) {
    if (handler->queue[i].source != NULL) handler->queue[kept++] = handler->queue[i];
  }
  handler->queued = kept;
}

/* The first `waiting` faults of the queue were put off before this pass. Returns how many faults were answered. */
static unsigned answer_faults(struct uffd_handler_state *handler, uint32_t waiting) {
  uint32_t total = handler->queued, oldest = 0;
  if (total == 0) return 0;
  count_queue(handler);
  bool due = waiting == 0 || uffd_now() >= handler->retry_ns, held = !due;
  uffd_oldest_set(handler, &handler->queue[0]);
  uffd_batch_begin(handler, due ? 0 : waiting);
  for (struct uffd_pending *fault; (fault = uffd_batch_next(handler)) != NULL;) {
    oldest = name_oldest(handler, oldest);
    uint32_t outcome = uffd_line_fault(handler, fault);
    if (outcome != UFFD_OUTCOME_INSTALLED && outcome != UFFD_OUTCOME_PRESENT) uffd_batch_forget(handler);
    if (outcome != UFFD_OUTCOME_DEFERRED) {
      fault->source = NULL;
    } else if (!held) {
      BARRIER("deferred", &fault->address);
      held = true;
    }
  }
  uffd_batch_end(handler);
  close_gaps(handler);
  uint32_t kept = handler->queued;
  if (kept == 0) uffd_oldest_clear(handler);
  if (kept != 0) uffd_oldest_set(handler, &handler->queue[0]);
  count_queue(handler);
  if (due || kept > waiting) plan_retry(handler, total);
  return total - kept;
}

/*
 * R28: what an event held up may go on as soon as its maker has run, and before the next one comes, which is soon when
 * many drop pages: asked a few times at once, as waiting for the next message would always miss that moment.
 */
static unsigned answer_again(struct uffd_handler_state *handler) {
  unsigned answered = 0;
  for (unsigned i = 0; i < AGAIN_MAX && handler->queued != 0; i++) {
    sched_yield();
    handler->retry_ns = 0;
    answered += answer_faults(handler, handler->queued);
  }
  handler->heard = false;
  return answered;
}

/* ---- the pass */

static bool is_starved(const struct uffd_handler_state *handler) {
  for (const struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    if (source->starved) return true;
  }
  return false;
}

static uint64_t until(uint64_t then, uint64_t now) {
  return then > now ? then - now : 0;
}

uint64_t uffd_handler_due(const struct uffd_handler_state *handler) {
  if (atomic_load_explicit(&handler->posted, memory_order_relaxed) != NULL) return 0;
  uint64_t due = handler->untidy ? UFFD_IDLE_NS : UINT64_MAX;
  if (is_starved(handler)) due = min_u64(due, UFFD_RETRY_MAX_NS);
  if (handler->queued == 0 && handler->jobs == NULL) return due;
  uint64_t now = uffd_now();
  if (handler->queued != 0) due = min_u64(due, until(handler->retry_ns, now));
  if (handler->jobs != NULL) due = min_u64(due, until(uffd_jobs_due(handler), now));
  return due;
}

static void take_wake(const struct uffd_handler_state *handler) {
  uint64_t posts;
  (void)!read(handler->wake_fd, &posts, sizeof(posts));
}

/* Returns false when the time passed with nothing to do. */
static bool wait_for_work(struct uffd_handler_state *handler, uint64_t timeout) {
  timeout = min_u64(timeout, uffd_handler_due(handler));
  struct timespec time = {(time_t)(timeout / 1000000000), (long)(timeout % 1000000000)};
  uint32_t i = 1;
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    /* one that waits for a descriptor is always readable: it is looked at when its time has come */
    handler->polls[i++].events = source->starved ? 0 : POLLIN;
  }
  uint32_t polled = atomic_load(&handler->loop->paused) ? 1 : handler->polls_count;
  for (i = polled; i < handler->polls_count; i++) {
    handler->polls[i].revents = 0;
  }
  int ready = ppoll(handler->polls, polled, timeout == UINT64_MAX ? NULL : &time, NULL);
  i = 1;
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    source->ready = ready > 0 && handler->polls[i].revents != 0;
    i++;
  }
  if (ready > 0 && handler->polls[0].revents != 0) take_wake(handler);
  return ready > 0;
}

void uffd_handler_ready(struct uffd_handler_state *handler, int fd) {
  if (fd == handler->wake_fd) take_wake(handler);
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    if (source->fd == fd) source->ready = true;
  }
}

void uffd_handler_ready_all(struct uffd_handler_state *handler) {
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    source->ready = true;
  }
}

static bool has_news(const struct uffd_handler_state *handler) {
  for (const struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    if (source->ready || source->starved) return true;
  }
  return false;
}

/*
 * A fork puts its child at the head of the list: that one has its turn in the next pass. Inline, the maker of an event
 * goes on when it is read, and a fault that is being resolved may have looked at page states before: so none is.
 */
static void drain_ready(struct uffd_handler_state *handler) {
  bool inlined = handler->loop->engine == UFFD_ENGINE_INLINE;
  if (atomic_load(&handler->loop->paused)) return;
  if (inlined) uffd_inline_take_all(handler->loop);
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    if (source->ready || source->starved) drain(handler, source);
    source->ready = false;
  }
  if (inlined) uffd_inline_give_all(handler->loop);
  if (handler->keep_spare) keep_descriptor(handler);
}

unsigned uffd_handler_pass(struct uffd_handler_state *handler, uint64_t timeout) {
  return uffd_handler_work(handler, wait_for_work(handler, timeout));
}

unsigned uffd_handler_work(struct uffd_handler_state *handler, bool woken) {
  struct uffd_handler_state *outer = uffd_current_handler;
  uffd_current_handler = handler;
  uint32_t waiting = handler->queued;
  uint64_t calls = handler->asker.policy_calls;
  if (has_news(handler)) drain_ready(handler);
  if (handler->queued > waiting) BARRIER("drained", handler); /* faults were read */
  uffd_jobs_run(handler, false);
  uffd_count(&handler->passes, 1);
  unsigned answered = answer_faults(handler, waiting);
  if (handler->heard) answered += answer_again(handler);
  if (handler->queued < UFFD_QUEUE_MAX / 2) wake_put_back(handler);
  atomic_store_explicit(&handler->passes, atomic_load_explicit(&handler->passes, memory_order_relaxed) + 1,
                        memory_order_release); /* with all that was counted */
  if (answered == 0 && handler->jobs != NULL) uffd_jobs_run(handler, true);
  if (handler->asker.policy_calls != calls) {
    handler->untidy = true;
  } else if (handler->untidy && !woken) {
    handler->untidy = uffd_uses_idle(handler);
  }
  if (handler->children != 0) bury_children(handler);
  uffd_current_handler = outer;
  return answered;
}

static void wake_all(struct uffd_handler_state *handler) {
  for (uint32_t i = 0; i < handler->queued; i++) {
    wake(&handler->queue[i]);
  }
  handler->queued = 0;
  uffd_oldest_clear(handler);
  wake_put_back(handler);
}

void uffd_handler_finish(struct uffd_handler_state *handler) {
  wake_all(handler);
  uffd_jobs_cancel(handler);
}

/*
 * What is unread holds up its makers, and closing the descriptor does not free them while a forked child has a copy.
 * Another process's messages are for whoever serves it next.
 */
void uffd_handler_let_go(struct uffd_handler_state *handler) {
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    for (uint32_t i = 0; !source->child && !source->foreign && i < source->count; i++) {
      if (source->slices[i].moved) uffd_slice_unregister(source, &source->slices[i]);
    }
  }
  for (struct uffd_source *source = handler->sources; source != NULL; source = source->next) {
    if (!source->foreign) drain(handler, source);
  }
  wake_all(handler);
}

/* ---- making and ending */

int uffd_handler_create(uffd_loop *loop, uint32_t index, struct uffd_handler_state **made) {
  *made = NULL;
  struct uffd_handler_state *handler = NEW(struct uffd_handler_state);
  if (handler == NULL) return fail(ENOMEM, "No memory for a handler.");
  handler->loop = loop;
  handler->index = index;
  handler->retry_step = UFFD_RETRY_MIN_NS;
  handler->keep_spare = (loop->features & UFFD_FEAT_EVENT_FORK) != 0;
  handler->spare_fd = -1;
  handler->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  int error = handler->wake_fd < 0 ? errno : ENOMEM;
  handler->polls_capacity = (uint32_t)(BASE_PAGE / sizeof(*handler->polls));
  handler->polls = uffd_pages_map(BASE_PAGE);
  handler->staging = uffd_pages_map(HUGE_PAGE);
  handler->zeros = uffd_zeros();
  if (handler->wake_fd < 0 || handler->polls == NULL || handler->staging == NULL || handler->zeros == NULL) {
    uffd_handler_destroy(handler);
    return fail(error, "Cannot make a handler: %s.", strerror(error));
  }
  if (handler->keep_spare) keep_descriptor(handler);
  list_polls(handler);
  *made = handler;
  return 0;
}

void uffd_handler_destroy(struct uffd_handler_state *handler) {
  while (handler->sources != NULL) {
    struct uffd_source *source = handler->sources;
    handler->sources = source->next;
    uffd_source_destroy(source);
  }
  uffd_close(handler->object);
  uffd_placement_destroy(handler->placement);
  if (handler->wake_fd >= 0) close(handler->wake_fd);
  if (handler->spare_fd >= 0) close(handler->spare_fd);
  uffd_pages_unmap(handler->polls, handler->polls_capacity * sizeof(*handler->polls));
  uffd_pages_unmap(handler->staging, HUGE_PAGE);
  uffd_huge_unmap(handler);
  uffd_release(handler->asker.states, handler->asker.count * sizeof(*handler->asker.states));
  DELETE(handler);
}
