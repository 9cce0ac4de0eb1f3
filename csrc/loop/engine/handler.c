/*
 * A pass: wait, drain, events first, then faults, then what others want of the reader. Every message that is read
 * ends in an outcome, stays in the queue to be tried again, or is woken; none is dropped.
 */
#include "loop/engine/handler.h"

#include "loop/engine/bell.h"

#include <sched.h>
#include <time.h>
#include <unistd.h>

#define READS_MAX 16u /* of one source in a pass */
#define AGAIN_MAX 8u  /* tries after an event */

#define IDLE_NS UINT64_C(1000000) /* callbacks tidy up when nothing has come for so long */

/* Children whose address space is gone: nothing of theirs can be waiting. Others are closed by whoever made them. */
static void bury_children(struct uffd_reader *reader) {
  for (struct uffd_source *source = reader->sources, *next; source != NULL; source = next) {
    next = source->next;
    if (source->child && source->gone) uffd_reader_drop_source(reader, source);
  }
}

/*
 * Nobody tells when a child exits, so it is asked when another one comes: unprotecting where nothing is registered does
 * nothing, and ESRCH is said before that is looked at. Burying waits for the end of the pass: the one that has forked
 * may itself be dead by now.
 */
static void check_children(struct uffd_reader *reader) {
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    if (source->child && uffd_raw_writeprotect(source->fd, BASE_PAGE * 16, BASE_PAGE, 0) == -ESRCH) source->gone = true;
  }
}

/* Events */

static struct uffd_ledger *ledger_of(const struct uffd_reader *reader, const struct uffd_source *source) {
  return source->child ? NULL : reader->engine->ledger;
}

/* True when the hook has taken the child. */
static bool hand_over_child(const struct uffd_reader *reader, const struct uffd_source *parent, uffd_object *child) {
  const struct uffd_engine *engine = reader->engine;
  if (engine->forked == NULL || child == NULL || parent->child) return false;
  const struct uffd_ledger *ledger = ledger_of(reader, parent);
  void *copy = ledger == NULL ? NULL : uffd_ledger_copy(ledger);
  if (ledger != NULL && copy == NULL) return false;
  int result = engine->forked(engine->forked_ctx, child, copy, copy == NULL ? 0 : ledger->size);
  if (copy != NULL) uffd_pages_unmap(copy, ledger->size);
  return result == 0;
}

/* R13: the child inherits regions and page states, and is served like its parent, by the same reader. */
static void adopt_child(struct uffd_reader *reader, const struct uffd_source *parent, uffd_object *object) {
  BARRIER("adopting", reader);
  if (hand_over_child(reader, parent, object)) return;
  check_children(reader);
  struct uffd_source *child = object == NULL ? NULL : uffd_source_create(object);
  if (child != NULL) {
    child->child = true;
    child->foreign = parent->foreign;
    child->lost = parent->lost;
    reader->children++;
    atomic_store(&reader->engine->has_children, true);
    if (uffd_slices_clone(parent, child) == 0 && uffd_reader_add_source(reader, child) == 0) return;
    reader->children--;
    uffd_source_destroy(child);
  } else {
    uffd_close(object);
  }
  uffd_failure_note(&reader->engine->failure,
                    -fail(ENOMEM, "No memory to serve a forked child: its missing pages read as zeros."), false);
}

static int follow(struct uffd_reader *reader, struct uffd_source *source, const struct uffd_event *event) {
  struct uffd_ledger *ledger = ledger_of(reader, source);
  if (!source->child && !source->foreign) uffd_claims_follow(event);
  int result = event->type == UFFD_REMAP ? uffd_slices_remap(source, event->address, event->to, event->length)
                                         : uffd_slices_unmap(source, event->address, event->address + event->length);
  if (result == 0 && ledger != NULL) result = uffd_ledger_commit(ledger, source);
  if (result < 0 && source->foreign) {
    source->lost = true;
    if (ledger != NULL) uffd_ledger_lose(ledger);
  }
  return result;
}

static void apply_event(struct uffd_reader *reader, struct uffd_source *source, const struct uffd_event *event) {
  int result = 0;
  uffd_count(&reader->lane.counters.events, 1);
  switch (event->type) {
  case UFFD_REMOVE:
    if (!BROKEN("event-remove")) uffd_slices_remove(source, event->address, event->address + event->length);
    break;
  case UFFD_UNMAP:
  case UFFD_REMAP:
    if (!BROKEN("event-unmap")) result = follow(reader, source, event);
    break;
  case UFFD_FORK:
    adopt_child(reader, source, event->object);
    break;
  default:
    uffd_log(UFFD_LOG_WARNING, "Event 0x%x is unknown to this library and was ignored.", event->type);
    break;
  }
  if (result == -ENOSPC) {
    uffd_failure_note(&reader->engine->failure,
                      -fail(ENOSPC,
                            "The ledger has no room for another piece of a region: the client has "
                            "cut its mappings into more than %u.",
                            UFFD_LEDGER_SLICES),
                      false);
  } else if (result < 0) {
    uffd_failure_note(&reader->engine->failure, -fail(ENOMEM, "No memory to follow a change of mappings."), false);
  }
}

/* Taking over from a process that died */

/* Its descriptor was the dead process's: if the hook has not passed it on, the child is lost. */
static void report_lost_child(const struct uffd_reader *reader) {
  const struct uffd_engine *engine = reader->engine;
  if (engine->forked != NULL && engine->forked(engine->forked_ctx, NULL, NULL, 0) == 0) return;
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

int uffd_handler_take_over(struct uffd_reader *reader) {
  struct uffd_ledger *ledger = reader->engine->ledger;
  struct uffd_source *source = reader->sources; /* the one object: nothing has forked yet */
  struct uffd_raw_msg message;
  int result = source != NULL ? uffd_ledger_refresh(ledger, source) : 0;
  if (result < 0) return result;
  if (source != NULL) source->lost = source->foreign && uffd_ledger_has_lost(ledger);
  while (source != NULL && uffd_ledger_next(ledger, &message)) {
    if (message.event == UFFD_FORK) {
      report_lost_child(reader);
    } else if (message.event != UFFD_PAGEFAULT) {
      struct uffd_event event;
      uffd_decode(source->object, &message, &event);
      apply_event(reader, source, &event);
    }
  }
  ledger->resumed = false;
  if (source != NULL && !BROKEN("wake-everywhere")) wake_everywhere(source);
  return 0;
}

/* Draining */

/* A fault that finds no room is woken when there is some: it will be told again. */
static void put_back(struct uffd_reader *reader, struct uffd_source *source, uint64_t address) {
  if (source->back_end == 0) source->back_start = UINT64_MAX;
  source->back_start = min_u64(source->back_start, round_down(address, BASE_PAGE));
  source->back_end = max_u64(source->back_end, round_down(address, BASE_PAGE) + BASE_PAGE);
  uffd_count(&reader->lane.counters.deferred, 1);
}

static void wake_put_back(struct uffd_reader *reader) {
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    if (source->back_end == 0) continue;
    if (!BROKEN("wake-put-back")) uffd_raw_wake(source->fd, source->back_start, source->back_end - source->back_start);
    source->back_end = 0;
  }
}

static void enqueue(struct uffd_reader *reader, struct uffd_source *source, const struct uffd_raw_msg *message,
                    uint64_t now) {
  uint64_t flags = message->arg.pagefault.flags;
  uffd_lane_count_fault(&reader->lane, flags);
  reader->read_ns = now;
  reader->faulter_pid = uffd_source_pid(source);
  reader->faulter_tid = message->arg.pagefault.ptid;
  if (reader->queued == UFFD_QUEUE_MAX) {
    put_back(reader, source, message->arg.pagefault.address);
    return;
  }
  reader->queue[reader->queued++] = (struct uffd_pending){
      .source = source,
      .address = message->arg.pagefault.address,
      .flags = flags,
      .read_ns = now,
      .tid = message->arg.pagefault.ptid,
  };
}

/* A child's descriptor is in this process alone now: before anything else, another one gets it too. */
static void pass_on_children(const struct uffd_reader *reader, struct uffd_source *source,
                             const struct uffd_raw_msg *messages, int count) {
  const struct uffd_engine *engine = reader->engine;
  struct uffd_ledger *ledger = ledger_of(reader, source);
  for (int i = 0; i < count && engine->forking != NULL && ledger != NULL; i++) {
    if (messages[i].event != UFFD_FORK) continue;
    engine->forking(engine->forked_ctx, (int)messages[i].arg.fork.ufd, (uint32_t)i);
    uffd_ledger_pass_on(ledger, (uint32_t)i);
  }
}

/* One read. Returns the number of messages, or -errno. */
static int read_some(struct uffd_reader *reader, struct uffd_source *source) {
  struct uffd_raw_msg messages[UFFD_READ_MAX];
  struct uffd_ledger *ledger = ledger_of(reader, source);
  if (uffd_reserve_spares(source->object, UFFD_READ_MAX) < 0) return -ENOMEM;
  int count = ledger != NULL ? uffd_ledger_read(ledger, source->fd, messages)
                             : uffd_raw_read(source->fd, messages, UFFD_READ_MAX);
  if (count <= 0) return count;
  pass_on_children(reader, source, messages, count);
  uint64_t now = uffd_now();
  for (int i = 0; i < count; i++) {
    if (ledger != NULL) ledger->applied++; /* when the table is written next, it accounts for this one */
    if (messages[i].event == UFFD_PAGEFAULT) {
      enqueue(reader, source, &messages[i], now);
    } else {
      struct uffd_event event;
      uffd_decode(source->object, &messages[i], &event);
      apply_event(reader, source, &event);
      reader->heard = true;
      reader->retry_ns = now; /* what an event held up may go on */
    }
  }
  return count;
}

/* A FORK needs a descriptor; when the process has none left, the one kept for this is given up for it. */
static bool free_descriptor(struct uffd_reader *reader) {
  if (reader->spare_fd < 0) return false;
  close(reader->spare_fd);
  reader->spare_fd = -1;
  return true;
}

static void hear(struct uffd_reader *reader, const struct uffd_source *source, bool heard) {
  const struct uffd_engine_class *class = reader->engine->class;
  if (class->hear != NULL) class->hear(reader, source->fd, heard);
}

static void starve(struct uffd_reader *reader, struct uffd_source *source) {
  if (!source->starved) {
    uffd_log(UFFD_LOG_WARNING, "A fork waits for a file descriptor: none is left.");
    hear(reader, source, false);
  }
  source->starved = true;
  check_children(reader); /* those of the dead are free at the end of the pass */
}

/*
 * R8: the kernel hands faults out before the events that precede them, so all is read before any fault is resolved,
 * even when there is no room for more faults: until an event is read, the kernel refuses to answer any of them. A short
 * read has emptied the kernel's queues: asking for its EAGAIN would be a system call for nothing. R28: who floods a
 * source does not keep the others waiting: what is left then is read in the next pass.
 */
static void drain(struct uffd_reader *reader, struct uffd_source *source) {
  int count;
  unsigned reads = 0;
  bool lacking, again;
  do {
    count = read_some(reader, source);
    lacking = count == -EMFILE || count == -ENFILE;
    again = (count == (int)UFFD_READ_MAX && ++reads < READS_MAX) || (lacking && free_descriptor(reader));
  } while (again);
  if (lacking) {
    starve(reader, source);
  } else if (source->starved) {
    source->starved = false;
    hear(reader, source, true);
  }
}

/* Faults */

/* What one batch was to answer, and has put off. */
struct round {
  uint32_t waiting; /* were put off before */
  bool due;         /* their time has come: all are asked about */
  uint64_t rung;    /* else those in this range, for which somebody rang; 0: none */
  bool stuck;       /* the kernel has put one off */
};

/*
 * R1, R2: what EAGAIN put off is tried again after an event was read, or when its time has come; the time doubles while
 * nothing moves, so that a target that never goes on costs little. Those for whom a bell is rung do not wait for it,
 * and newcomers do not put it off.
 */
static void plan_retry(struct uffd_reader *reader, const struct round *round, uint32_t before) {
  uint64_t now = uffd_now();
  if (reader->queued == 0) {
    reader->retry_ns = 0;
    reader->retry_step = UFFD_RETRY_MIN_NS;
  } else if (round->due) {
    bool moves = reader->queued < before;
    reader->retry_step = moves ? UFFD_RETRY_MIN_NS : min_u64(reader->retry_step * 2, UFFD_RETRY_MAX_NS);
    reader->retry_ns = now + reader->retry_step;
  } else if (round->stuck) {
    reader->retry_step = UFFD_RETRY_MIN_NS;
    reader->retry_ns = min_u64(reader->retry_ns, now + reader->retry_step);
  }
}

static void count_queue(struct uffd_reader *reader) {
  struct uffd_counters *counters = &reader->lane.counters;
  atomic_store_explicit(&counters->queue, reader->queued, memory_order_relaxed);
  if (reader->queued > atomic_load_explicit(&counters->queue_max, memory_order_relaxed)) {
    atomic_store_explicit(&counters->queue_max, reader->queued, memory_order_relaxed);
  }
}

/* The fault at a place of the queue was the oldest, and may be answered by now; a later one is not. */
static uint32_t name_oldest(struct uffd_reader *reader, uint32_t place) {
  if (reader->queue[place].source != NULL) return place;
  while (reader->queue[place].source == NULL) {
    place++;
  }
  uffd_oldest_set(&reader->oldest, &reader->queue[place]);
  return place;
}

/* Takes the answered ones out; the others keep their order. */
static void close_gaps(struct uffd_reader *reader) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < reader->queued; i++) {
    if (reader->queue[i].source != NULL) reader->queue[kept++] = reader->queue[i];
  }
  reader->queued = kept;
}

static struct uffd_filled answer(struct uffd_reader *reader, struct uffd_pending *fault) {
  const struct uffd_slice *slice = uffd_slice_find(fault->source, fault->address);
  if (slice != NULL) uffd_batch_prepare(&reader->batch, fault, slice);
  const struct uffd_filled filled = uffd_line_fault(&reader->lane, fault, slice);
  uffd_batch_note(&reader->batch, fault->source, &filled);
  return filled;
}

static bool is_rung_for(const struct uffd_pending *fault, uint64_t range) {
  const struct uffd_slice *slice = uffd_slice_find(fault->source, fault->address);
  return slice == NULL || uffd_bell_reaches(range, region_offset(slice, page_of(slice, fault->address)));
}

/* Lets those of the queue wait whose time has not come. Returns the place of the first that may not. */
static uint32_t choose(struct uffd_reader *reader, const struct round *round) {
  if (!round->due && round->rung == 0) return round->waiting;
  for (uint32_t i = 0; i < round->waiting; i++) {
    reader->queue[i].waits = !round->due && !is_rung_for(&reader->queue[i], round->rung);
  }
  return 0;
}

/* Returns how many faults were answered. */
static unsigned answer_faults(struct uffd_reader *reader, uint32_t waiting, uint64_t rung) {
  struct round round = {.waiting = waiting, .rung = rung};
  uint32_t total = reader->queued, oldest = 0;
  if (total == 0) return 0;
  count_queue(reader);
  round.due = waiting == 0 || uffd_now() >= reader->retry_ns;
  bool told = !round.due;
  uffd_oldest_set(&reader->oldest, &reader->queue[0]);
  uffd_batch_begin(&reader->batch, reader->queue, choose(reader, &round), total);
  for (struct uffd_pending *fault; (fault = uffd_batch_next(&reader->batch)) != NULL;) {
    oldest = name_oldest(reader, oldest);
    const struct uffd_filled filled = answer(reader, fault);
    if (filled.outcome != UFFD_OUTCOME_DEFERRED) {
      fault->source = NULL;
    } else {
      round.stuck = round.stuck || !filled.later;
      if (!told) BARRIER("deferred", &fault->address);
      told = true;
    }
  }
  uffd_batch_end(&reader->batch);
  close_gaps(reader);
  uint32_t kept = reader->queued;
  if (kept == 0) uffd_oldest_clear(&reader->oldest);
  if (kept != 0) uffd_oldest_set(&reader->oldest, &reader->queue[0]);
  count_queue(reader);
  plan_retry(reader, &round, total);
  return total - kept;
}

/*
 * R28: what an event held up may go on as soon as its maker has run, and before the next one comes, which is soon when
 * many drop pages: asked a few times at once, as waiting for the next message would always miss that moment.
 */
static unsigned answer_again(struct uffd_reader *reader) {
  unsigned answered = 0;
  for (unsigned i = 0; i < AGAIN_MAX && reader->queued != 0; i++) {
    sched_yield();
    reader->retry_ns = 0;
    answered += answer_faults(reader, reader->queued, 0);
  }
  reader->heard = false;
  return answered;
}

/* The pass */

static bool is_starved(const struct uffd_reader *reader) {
  for (const struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    if (source->starved) return true;
  }
  return false;
}

static uint64_t until(uint64_t then, uint64_t now) {
  return then > now ? then - now : 0;
}

uint64_t uffd_handler_due(const struct uffd_reader *reader) {
  if (atomic_load_explicit(&reader->posted, memory_order_relaxed) != NULL) return 0;
  if (uffd_bell_has_rung(reader->lane.bell)) return 0;
  uint64_t due = reader->untidy ? IDLE_NS : UINT64_MAX;
  if (is_starved(reader)) due = min_u64(due, UFFD_RETRY_MAX_NS);
  bool jobs = uffd_jobs_any(reader);
  if (reader->queued == 0 && !jobs) return due;
  uint64_t now = uffd_now();
  if (reader->queued != 0) due = min_u64(due, until(reader->retry_ns, now));
  if (jobs) due = min_u64(due, until(uffd_jobs_due(reader), now));
  return due;
}

static void take_wake(const struct uffd_reader *reader) {
  uint64_t posts;
  (void)!read(reader->wake_fd, &posts, sizeof(posts));
}

/*
 * Written only when it changes: after a fork, the first write to each page copies it, and every child's source has one
 * of its own.
 */
static void set_readable(struct uffd_source *source, bool readable) {
  if (source->readable != readable) source->readable = readable;
}

/* Returns false when the time passed with nothing to do. */
static bool wait_for_work(struct uffd_reader *reader, uint64_t timeout) {
  timeout = min_u64(timeout, uffd_handler_due(reader));
  struct timespec time = {(time_t)(timeout / 1000000000), (long)(timeout % 1000000000)};
  uint32_t i = 0;
  reader->polls[i++] = (struct pollfd){.fd = reader->wake_fd, .events = POLLIN};
  for (const struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    /* one that waits for a descriptor is always readable: it is looked at when its time has come */
    reader->polls[i++] = (struct pollfd){.fd = source->fd, .events = source->starved ? 0 : POLLIN};
  }
  uint32_t polled = atomic_load(&reader->engine->paused) ? 1 : reader->polls_count;
  int ready = ppoll(reader->polls, polled, timeout == UINT64_MAX ? NULL : &time, NULL);
  i = 1;
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    set_readable(source, ready > 0 && reader->polls[i].revents != 0);
    i++;
  }
  if (ready > 0 && reader->polls[0].revents != 0) take_wake(reader);
  return ready > 0;
}

void uffd_handler_readable(struct uffd_reader *reader, int fd) {
  if (fd == reader->wake_fd) take_wake(reader);
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    if (source->fd == fd) source->readable = true;
  }
}

void uffd_handler_readable_all(struct uffd_reader *reader) {
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    source->readable = true;
  }
}

static bool has_news(const struct uffd_reader *reader) {
  for (const struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    if (source->readable || source->starved) return true;
  }
  return false;
}

/*
 * A fork puts its child at the head of the list: that one has its turn in the next pass. Inline, the maker of an event
 * goes on when it is read, and a fault that is being resolved may have looked at page states before: so none is.
 */
static void drain_ready(struct uffd_reader *reader) {
  struct uffd_engine *engine = reader->engine;
  if (atomic_load(&engine->paused)) return;
  if (engine->class->quiesce != NULL) engine->class->quiesce(engine, true);
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    if (source->readable || source->starved) drain(reader, source);
    set_readable(source, false);
  }
  if (engine->class->quiesce != NULL) engine->class->quiesce(engine, false);
  if (reader->keep_spare) uffd_reader_keep_spare(reader);
}

unsigned uffd_handler_pass(struct uffd_reader *reader, uint64_t timeout) {
  return uffd_handler_work(reader, wait_for_work(reader, timeout));
}

/* The driver of a pump may be cancelled while it waits, not amid what it has read. */
unsigned uffd_handler_work(struct uffd_reader *reader, bool woken) {
  struct uffd_lane *outer = uffd_current_lane;
  uffd_hold_cancel();
  uffd_current_lane = &reader->lane;
  uint32_t waiting = reader->queued;
  uint64_t calls = reader->lane.asker.policy_calls, rung = uffd_bell_take(reader->lane.bell);
  if (rung != 0) uffd_jobs_hasten(reader);
  if (has_news(reader)) drain_ready(reader);
  if (reader->queued > waiting) BARRIER("drained", reader); /* faults were read */
  uffd_jobs_run(reader, false);
  uffd_count(&reader->passes, 1);
  unsigned answered = answer_faults(reader, waiting, rung);
  if (reader->heard) answered += answer_again(reader);
  if (reader->queued < UFFD_QUEUE_MAX / 2) wake_put_back(reader);
  atomic_store_explicit(&reader->passes, atomic_load_explicit(&reader->passes, memory_order_relaxed) + 1,
                        memory_order_release); /* with all that was counted */
  if (answered == 0) uffd_jobs_run(reader, true);
  if (reader->lane.asker.policy_calls != calls) {
    reader->untidy = true;
  } else if (reader->untidy && !woken) {
    reader->untidy = uffd_lane_idle(&reader->lane);
  }
  if (reader->children != 0) bury_children(reader);
  uffd_current_lane = outer;
  uffd_let_cancel();
  return answered;
}

static void wake_all(struct uffd_reader *reader) {
  for (uint32_t i = 0; i < reader->queued; i++) {
    uffd_reader_wake(&reader->queue[i]);
  }
  reader->queued = 0;
  uffd_oldest_clear(&reader->oldest);
  wake_put_back(reader);
}

void uffd_handler_finish(struct uffd_reader *reader) {
  wake_all(reader);
  uffd_jobs_cancel(reader);
}

/*
 * What is unread holds up its makers, and closing the descriptor does not free them while a forked child has a copy.
 * Another process's messages are for whoever serves it next.
 */
void uffd_handler_let_go(struct uffd_reader *reader) {
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    for (uint32_t i = 0; !source->child && !source->foreign && i < source->count; i++) {
      if (source->slices[i].moved) uffd_slice_unregister(source, &source->slices[i]);
    }
  }
  for (struct uffd_source *source = reader->sources; source != NULL; source = source->next) {
    if (!source->foreign) drain(reader, source);
  }
  wake_all(reader);
}
