/*
 * The trace as a file: lanes put records into a ring, and a thread that answers no fault writes them. What finds the
 * ring full is counted, and the count is written behind. Never waits on the path of a fault.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "loop/loop.h"

#define ROOM_MIN   2u
#define ROOM_MAX   (UINT32_C(1) << 24)
#define ROOM       (UINT32_C(1) << 14)
#define NAP_MS     5    /* the ring holds what comes meanwhile */
#define STUCK_MS   1000 /* who ends the trace waits so long for a pipe that nobody reads */
#define TEXT_BYTES (UINT64_C(64) << 10)
#define LINE_BYTES 512u
#define PIPE_BYTES 4096u /* so much is written to a pipe at once, or not at all (PIPE_BUF) */

/* A record in the ring. A lane may fill it when its turn is its position; the writer takes it when it is one more. */
struct cell {
  _Atomic uint64_t turn;
  uint64_t lost; /* records before this one that found no room */
  struct uffd_trace trace;
};

struct uffd_trace_file {
  /* set once */
  struct uffd_failure *failure;
  uint32_t format, number;
  uint64_t mask;
  char *path;
  bool regular; /* else a pipe, a terminal, a socket: a write may wait for its reader */
  pthread_t thread;
  int fd;
  int wake_fd; /* eventfd: stop was set */
  struct cell *cells;
  /* lanes, atomic */
  _Atomic uint64_t head;
  _Atomic uint64_t lost; /* since the last record that found room */
  _Atomic bool stop, failed;
  /* the writer */
  uint64_t tail;
  int64_t wall_ns;      /* of CLOCK_REALTIME, more than of CLOCK_MONOTONIC */
  uint64_t lost_before; /* the record that was taken last */
  uint64_t lost_total;
  int error; /* of writing; read by others when the thread has ended */
  uint32_t used;
  char *text; /* TEXT_BYTES */
};

/* Lanes */

static uint64_t take_lost(struct uffd_trace_file *file) {
  return atomic_exchange_explicit(&file->lost, 0, memory_order_relaxed);
}

static void put_record(void *ctx, const struct uffd_trace *trace) {
  struct uffd_trace_file *file = ctx;
  uint64_t at = atomic_load_explicit(&file->head, memory_order_relaxed);
  struct cell *cell;
  if (atomic_load_explicit(&file->failed, memory_order_relaxed)) return;
  for (;;) {
    cell = &file->cells[at & file->mask];
    int64_t early = (int64_t)(atomic_load_explicit(&cell->turn, memory_order_acquire) - at);
    if (early < 0) { /* the writer has not taken what was there */
      atomic_fetch_add_explicit(&file->lost, 1, memory_order_relaxed);
      return;
    }
    if (early > 0) {
      at = atomic_load_explicit(&file->head, memory_order_relaxed);
    } else if (atomic_compare_exchange_weak_explicit(&file->head, &at, at + 1, memory_order_relaxed,
                                                     memory_order_relaxed)) {
      break;
    }
  }
  cell->lost = 0;
  if (atomic_load_explicit(&file->lost, memory_order_relaxed) != 0) cell->lost = take_lost(file);
  cell->trace = *trace;
  atomic_store_explicit(&cell->turn, at + 1, memory_order_release);
}

/* The writer */

static bool take_record(struct uffd_trace_file *file, struct uffd_trace *trace) {
  struct cell *cell = &file->cells[file->tail & file->mask];
  if (atomic_load_explicit(&cell->turn, memory_order_acquire) != file->tail + 1) return false;
  *trace = cell->trace;
  file->lost_before = cell->lost;
  atomic_store_explicit(&cell->turn, file->tail + file->mask + 1, memory_order_release);
  file->tail++;
  return true;
}

static const char *text_of(int error) {
  return error == ETIMEDOUT ? "nobody reads it" : uffd_error_text(error);
}

/* The thread's sentence goes to whoever hears of the loop's failures. No page has failed: it is not the loop's first.
 */
static void fail_writing(struct uffd_trace_file *file, int error) {
  file->error = error;
  atomic_store(&file->failed, true);
  fail(error, "The trace %s cannot be written, and ends here: %s.", file->path, text_of(error));
  uffd_failure_say(file->failure);
}

/* A pipe takes PIPE_BYTES now. When the trace is to end, its reader has STUCK_MS. */
static bool wait_for_reader(const struct uffd_trace_file *file) {
  struct pollfd polls[] = {{.fd = file->fd, .events = POLLOUT}, {.fd = file->wake_fd, .events = POLLIN}};
  if (file->regular) return true;
  for (bool stop = false;;) {
    int ready = poll(polls, stop ? 1 : 2, stop ? STUCK_MS : -1);
    if (ready > 0 && polls[0].revents != 0) return true;
    if (ready == 0) return false;
    if (ready > 0) stop = true;
  }
}

static ssize_t write_some(const struct uffd_trace_file *file, const char *text, uint32_t length) {
  if (wait_for_reader(file)) return write(file->fd, text, length);
  errno = ETIMEDOUT;
  return -1;
}

static void flush(struct uffd_trace_file *file) {
  uint32_t done = 0;
  while (done < file->used && file->error == 0) {
    ssize_t count = write_some(file, file->text + done, file->used - done);
    if (count > 0) {
      done += (uint32_t)count;
    } else if (count == 0 || errno != EINTR) {
      fail_writing(file, count == 0 ? EIO : errno);
    }
  }
  file->used = 0;
}

static int format_ndjson(char *line, const struct uffd_trace_file *file, const struct uffd_trace *trace,
                         const char *kind, uint64_t wall_ns) {
  return snprintf(line, LINE_BYTES,
                  "{\"time\":%" PRIu64 ".%06" PRIu64 ",\"time_ns\":%" PRIu64 ",\"latency_ns\":%" PRIu64
                  ",\"loop\":%" PRIu32 ",\"region\":%" PRIuPTR ",\"offset\":%" PRIu64 ",\"cover\":%" PRIu64
                  ",\"kind\":\"%s\",\"write\":%s,\"tid\":%" PRIu32 ",\"handler\":%" PRIu32
                  ",\"answer\":\"%s\",\"outcome\":\"%s\",\"error\":%" PRId32 ",\"lost\":%" PRIu64 "}\n",
                  wall_ns / 1000000000, wall_ns % 1000000000 / 1000, trace->time_ns, trace->latency_ns, file->number,
                  (uintptr_t)trace->cookie, trace->offset, trace->cover, kind,
                  (trace->flags & UFFD_FAULT_WRITE) != 0 ? "true" : "false", trace->tid, trace->handler,
                  uffd_answer_name(trace->answer), uffd_outcome_name(trace->outcome), trace->error, file->lost_before);
}

static const char csv_header[] =
    "time,time_ns,latency_ns,loop,region,offset,cover,kind,write,tid,handler,answer,outcome,error,lost\n";

static int format_csv(char *line, const struct uffd_trace_file *file, const struct uffd_trace *trace, const char *kind,
                      uint64_t wall_ns) {
  return snprintf(line, LINE_BYTES,
                  "%" PRIu64 ".%06" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu32 ",%" PRIuPTR ",%" PRIu64 ",%" PRIu64
                  ",%s,%s,%" PRIu32 ",%" PRIu32 ",%s,%s,%" PRId32 ",%" PRIu64 "\n",
                  wall_ns / 1000000000, wall_ns % 1000000000 / 1000, trace->time_ns, trace->latency_ns, file->number,
                  (uintptr_t)trace->cookie, trace->offset, trace->cover, kind,
                  (trace->flags & UFFD_FAULT_WRITE) != 0 ? "true" : "false", trace->tid, trace->handler,
                  uffd_answer_name(trace->answer), uffd_outcome_name(trace->outcome), trace->error, file->lost_before);
}

/* Whole lines only, so that several loops may append to one file. */
static void add_line(struct uffd_trace_file *file, const char *line, int length) {
  uint32_t limit = file->regular ? (uint32_t)TEXT_BYTES : PIPE_BYTES;
  if (file->used + (uint32_t)length > limit) flush(file);
  memcpy(file->text + file->used, line, (size_t)length);
  file->used += (uint32_t)length;
}

static void write_record(struct uffd_trace_file *file, const struct uffd_trace *trace) {
  char line[LINE_BYTES];
  const char *kind = (trace->flags & UFFD_FAULT_WP) != 0      ? "wp"
                     : (trace->flags & UFFD_FAULT_MINOR) != 0 ? "minor"
                                                              : "missing";
  uint64_t wall_ns = trace->time_ns + (uint64_t)file->wall_ns;
  bool csv = file->format == UFFD_TRACE_CSV;
  file->lost_total += file->lost_before;
  add_line(file, line, (csv ? format_csv : format_ndjson)(line, file, trace, kind, wall_ns));
}

static void find_wall_clock(struct uffd_trace_file *file) {
  struct timespec wall;
  clock_gettime(CLOCK_REALTIME, &wall);
  file->wall_ns = (int64_t)wall.tv_sec * 1000000000 + wall.tv_nsec - (int64_t)uffd_now();
}

static void write_all(struct uffd_trace_file *file) {
  struct uffd_trace trace;
  find_wall_clock(file);
  while (file->error == 0 && take_record(file, &trace)) {
    write_record(file, &trace);
  }
  flush(file);
}

/* Those that were lost after the last record. */
static void write_rest(struct uffd_trace_file *file) {
  char line[LINE_BYTES];
  uint64_t lost = take_lost(file);
  file->lost_total += lost;
  if (file->error != 0) return;
  const char *format = file->format == UFFD_TRACE_CSV ? ",,,,,,,,,,,,,,%" PRIu64 "\n" : "{\"lost\":%" PRIu64 "}\n";
  if (lost != 0) add_line(file, line, snprintf(line, sizeof(line), format, lost));
  flush(file);
  if (file->lost_total == 0) return;
  fail(ENOBUFS, "%" PRIu64 " records of the trace %s were lost, because faults came faster than they were written.",
       file->lost_total, file->path);
  uffd_failure_say(file->failure);
}

static void *run(void *argument) {
  struct uffd_trace_file *file = argument;
  struct pollfd wake = {.fd = file->wake_fd, .events = POLLIN};
  if (file->format == UFFD_TRACE_CSV && lseek(file->fd, 0, SEEK_END) <= 0) {
    add_line(file, csv_header, (int)sizeof(csv_header) - 1);
  }
  for (bool stop = false; !stop;) {
    stop = atomic_load_explicit(&file->stop, memory_order_acquire); /* what was put before that is written */
    BARRIER("tracing", file);
    write_all(file);
    if (!stop) poll(&wake, 1, NAP_MS);
  }
  write_rest(file);
  return NULL;
}

/* Opening and ending */

static int ending_format(const char *path) {
  const char *dot = strrchr(path, '.');
  if (dot != NULL && strcmp(dot, ".csv") == 0) return UFFD_TRACE_CSV;
  if (dot != NULL && (strcmp(dot, ".ndjson") == 0 || strcmp(dot, ".jsonl") == 0)) return UFFD_TRACE_NDJSON;
  return fail(EINVAL, "The ending of %s tells no format: .ndjson and .jsonl do, and .csv; or choose a format.", path);
}

static int take_opts(const char *path, const struct uffd_trace_opts *user_opts, struct uffd_trace_opts *opts) {
  int result = uffd_take_opts(opts, sizeof(*opts), user_opts, "uffd_trace_opts");
  if (result < 0) return result;
  if (opts->format > UFFD_TRACE_CSV) return fail(EINVAL, "Unknown format %u of a trace.", opts->format);
  if ((opts->flags & ~(uint32_t)UFFD_TRACE_APPEND) != 0) {
    return fail(EINVAL, "Unknown flags 0x%x of a trace.", opts->flags);
  }
  if (opts->room == 0) opts->room = ROOM;
  if (opts->room < ROOM_MIN || opts->room > ROOM_MAX) {
    return fail(EINVAL, "Room for %u records: a trace has room for %u to %u.", opts->room, ROOM_MIN, ROOM_MAX);
  }
  if (opts->format != UFFD_TRACE_AUTO) return 0;
  result = ending_format(path);
  if (result > 0) opts->format = (uint32_t)result;
  return result < 0 ? result : 0;
}

static uint64_t cells_size(const struct uffd_trace_file *file) {
  return (file->mask + 1) * sizeof(struct cell);
}

/* Also of one that is half made, and in a forked child, which has no thread. */
static void free_file(struct uffd_trace_file *file) {
  if (file->fd >= 0) close(file->fd);
  if (file->wake_fd >= 0) close(file->wake_fd);
  uffd_pages_unmap(file->cells, cells_size(file));
  uffd_pages_unmap(file->text, TEXT_BYTES);
  if (file->path != NULL) uffd_release(file->path, strlen(file->path) + 1);
  DELETE(file);
}

static int open_file(struct uffd_trace_file *file, const char *path, uint32_t flags) {
  struct stat status;
  int truncate = (flags & UFFD_TRACE_APPEND) == 0 ? O_TRUNC : 0;
  file->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | truncate, 0666);
  if (file->fd < 0 || fstat(file->fd, &status) < 0) {
    return fail(errno, "The trace %s cannot be opened: %s.", path, strerror(errno));
  }
  file->regular = S_ISREG(status.st_mode);
  file->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  return file->wake_fd < 0 ? fail(errno, "No descriptor for the thread of a trace: %s.", strerror(errno)) : 0;
}

/* The cells are written here: no lane should be the first to touch them. */
static int make_room(struct uffd_trace_file *file, const char *path, uint32_t room) {
  file->mask = 1;
  while (file->mask + 1 < room) {
    file->mask = file->mask * 2 + 1;
  }
  file->cells = uffd_pages_map(cells_size(file));
  file->text = uffd_pages_map(TEXT_BYTES);
  file->path = uffd_alloc(strlen(path) + 1);
  if (file->cells == NULL || file->text == NULL || file->path == NULL) {
    return fail(ENOMEM, "No memory for %u records of a trace.", room);
  }
  memcpy(file->path, path, strlen(path));
  for (uint64_t i = 0; i <= file->mask; i++) {
    atomic_init(&file->cells[i].turn, i);
  }
  return 0;
}

static int make_file(uffd_loop *loop, const char *path, const struct uffd_trace_opts *user_opts,
                     struct uffd_trace_file **made) {
  struct uffd_trace_opts opts = UFFD_TRACE_OPTS_INIT;
  int result = take_opts(path, user_opts, &opts);
  if (result < 0) return result;
  struct uffd_trace_file *file = NEW(struct uffd_trace_file);
  if (file == NULL) return fail(ENOMEM, "No memory for a trace.");
  *file = (struct uffd_trace_file){
      .failure = &loop->engine.failure, .format = opts.format, .number = opts.loop, .fd = -1, .wake_fd = -1};
  result = make_room(file, path, opts.room);
  if (result == 0) result = open_file(file, path, opts.flags);
  if (result == 0) result = uffd_thread_start(&file->thread, run, file, "uffd/trace");
  if (result < 0) {
    const struct uffd_sentence why = uffd_keep_sentence();
    free_file(file);
    uffd_restore_sentence(&why);
    return result;
  }
  *made = file;
  return 0;
}

int uffd_trace_file_end(struct uffd_trace_file *file) {
  uint64_t one = 1;
  if (file == NULL) return 0;
  atomic_store_explicit(&file->stop, true, memory_order_release);
  (void)!write(file->wake_fd, &one, sizeof(one));
  pthread_join(file->thread, NULL);
  int error = file->error;
  if (error != 0) fail(error, "The trace %s could not be written to its end: %s.", file->path, text_of(error));
  free_file(file);
  return -error;
}

void uffd_trace_file_forget(struct uffd_trace_file *file) {
  if (file != NULL) free_file(file);
}

int uffd_loop_trace_to(uffd_loop *loop, const char *path, const struct uffd_trace_opts *opts) {
  struct uffd_trace_file *file = NULL;
  int result = uffd_loop_enter(loop);
  if (result < 0) return result;
  if (path != NULL) result = make_file(loop, path, opts, &file);
  if (result == 0) {
    struct uffd_trace_file *before = NULL;
    pthread_mutex_lock(&loop->lock);
    result = uffd_hook_put(loop, UFFD_HOOK_FILE, file != NULL ? put_record : NULL, file);
    if (result == 0) {
      before = loop->trace_file;
      loop->trace_file = file;
      uffd_hooks_settle(loop);
    } else {
      before = file;
    }
    pthread_mutex_unlock(&loop->lock);
    int ended = uffd_trace_file_end(before);
    if (result == 0 && file == NULL) result = ended;
  }
  uffd_loop_leave(loop);
  return result;
}
