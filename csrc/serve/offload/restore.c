/*
 * Restores a virtual machine of Cloud Hypervisor. Two processes: this one speaks on the control connection, and keeps
 * the memfds and the fault connection; its child answers page requests (answering.h). When the child dies, another one
 * goes on. When this one dies, the child goes on.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/offload/answering.h"
#include "serve/offload/files.h"
#include "serve/offload/frames.h"
#include "serve/paper/descriptors.h"
#include "uffd_pager.h"

#define HUGE_PAGE (UINT64_C(2) << 20)
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif
#define TIMEOUT_MS   60000u
#define RESTARTS_MAX 8u /* in a row, without an answer in between */
#define ABANDON_MS   1000u
#define PIECE        UINT64_C(16384) /* bytes that a socket takes without waiting when it says that it is writable */

struct restore {
  struct uffd_offload_opts opts;
  struct uffd_ch_text config, state;
  struct uffd_ch_slots slots;
  int *files;
  uint32_t files_count;
  int control, fault;
  struct uffd_ch_notes *notes;
  pid_t child; /* 0: there is none */
  int pidfd;
  int ready; /* readable when the child has handed over */
  uint32_t restarts, restarts_in_row;
  uint64_t answered; /* when the child was last started */
};

static int check_opts(const struct uffd_offload_opts *opts) {
  if (opts->socket == NULL || opts->directory == NULL || opts->door == NULL) {
    return fail(EINVAL, "A restore needs a socket, a directory and a door.");
  }
  if (opts->page_size != BASE_PAGE && opts->page_size != HUGE_PAGE) {
    return fail(EINVAL, "Pages of %" PRIu64 " bytes: known are 4096 and 2097152.", opts->page_size);
  }
  if ((opts->flags & ~(uint32_t)UFFD_OFFLOAD_PAUSED) != 0) return fail(EINVAL, "uffd_offload_opts: an unknown flag.");
  return 0;
}

static int read_texts(struct restore *restore) {
  const char *directory = restore->opts.directory;
  int result = uffd_ch_read_text(directory, UFFD_CH_CONFIG_FILE, UFFD_CH_CONFIG_MAX, &restore->config);
  if (result == 0) result = uffd_ch_read_text(directory, UFFD_CH_STATE_FILE, UFFD_CH_STATE_MAX, &restore->state);
  if (result < 0) return result;
  return uffd_ch_slots_read(restore->config.bytes, restore->config.length, restore->opts.page_size, &restore->slots);
}

/* Holes all over: a page comes when it is asked for. */
static int make_file(const struct restore *restore, uint64_t length) {
  bool huge = restore->opts.page_size != BASE_PAGE;
  int fd = memfd_create("uffd-offload", MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
  if (fd < 0) return fail(errno, "No memfd for the memory of the machine: %s.", strerror(errno));
  if (ftruncate(fd, (off_t)length) == 0) return fd;
  int result = fail(errno, "No room for %" PRIu64 " bytes of the machine: %s.", length, strerror(errno));
  close(fd);
  return result;
}

static int make_files(struct restore *restore) {
  size_t size = restore->slots.count * sizeof(uint64_t);
  uint64_t *lengths = uffd_alloc(size);
  restore->files = uffd_alloc(restore->slots.count * sizeof(int));
  if (lengths == NULL || restore->files == NULL) {
    uffd_release(lengths, size);
    return fail(ENOMEM, "No memory for %u slots.", restore->slots.count);
  }
  uint32_t count = uffd_ch_slots_share(&restore->slots, lengths);
  int result = 0;
  for (uint32_t i = 0; i < count && result >= 0; i++) {
    result = restore->files[i] = make_file(restore, lengths[i]);
    if (result >= 0) restore->files_count++;
  }
  uffd_release(lengths, size);
  return result < 0 ? result : 0;
}

/* The child */

_Noreturn static void answer_here(struct restore *restore, int ready) {
  static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGPIPE};
  struct uffd_ch_notes *notes = restore->notes;
  for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++) {
    (void)signal(ignored[i], SIG_IGN); /* the machine needs its pages, whoever ends the terminal's programs */
  }
  close(restore->control); /* its end tells the machine that the restore is over */
  close(restore->ready);
  uffd_ch_set_timeout(restore->fault, 0);
  const struct uffd_ch_guest guest = {.slots = &restore->slots,
                                      .files = restore->files,
                                      .socket = restore->fault,
                                      .ready = ready,
                                      .door = restore->opts.door,
                                      .label = restore->opts.label,
                                      .timeout_ms = restore->opts.timeout_ms,
                                      .notes = notes};
  int result = uffd_ch_answer(&guest);
  notes->error = -result;
  if (result < 0) snprintf(notes->text, sizeof(notes->text), "%s", uffd_errmsg());
  _exit(result < 0);
}

static int start(struct restore *restore) {
  int ends[2];
  uffd_close_fds(&restore->ready, 1);
  restore->answered = atomic_load(&restore->notes->answered);
  if (pipe2(ends, O_CLOEXEC) != 0) return fail(errno, "No descriptor for a process: %s.", strerror(errno));
  restore->ready = ends[0];
  restore->child = fork();
  if (restore->child == 0) answer_here(restore, ends[1]);
  int error = errno;
  close(ends[1]);
  if (restore->child < 0) {
    restore->child = 0;
    return fail(error, "No process for page requests: %s.", strerror(error));
  }
  restore->pidfd = (int)syscall(SYS_pidfd_open, restore->child, 0);
  return restore->pidfd >= 0 ? 0 : fail(errno, "No descriptor for a process: %s.", strerror(errno));
}

/* 0: it goes on, or the machine has hung up and the child is no more. */
static int bury(struct restore *restore) {
  int status = 0;
  while (waitpid(restore->child, &status, 0) < 0 && errno == EINTR) {
  }
  restore->child = 0;
  uffd_close_fds(&restore->pidfd, 1);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
  if (WIFEXITED(status) && restore->notes->error != 0) return fail(restore->notes->error, "%s", restore->notes->text);
  bool moved = atomic_load(&restore->notes->answered) != restore->answered;
  restore->restarts_in_row = moved ? 1 : restore->restarts_in_row + 1;
  if (restore->restarts_in_row > RESTARTS_MAX) {
    return fail(ECHILD, "The process that answers page requests died %u times in a row.", RESTARTS_MAX + 1);
  }
  restore->restarts++;
  return start(restore);
}

static void end_child(struct restore *restore) {
  if (restore->child == 0) return;
  (void)kill(restore->child, SIGKILL);
  while (waitpid(restore->child, NULL, 0) < 0 && errno == EINTR) {
  }
  restore->child = 0;
}

/* Waits for events of a descriptor (NULL: until the machine has hung up), and keeps a child there meanwhile. */
static int await(struct restore *restore, const int *fd, short events, uint32_t timeout_ms) {
  uint64_t until = uffd_now() + timeout_ms * UINT64_C(1000000);
  while (fd != NULL || restore->child != 0) {
    uint64_t now = uffd_now();
    struct pollfd polls[2] = {{.fd = fd != NULL ? *fd : -1, .events = events},
                              {.fd = restore->pidfd, .events = POLLIN}};
    if (fd != NULL && now >= until) return fail(ETIMEDOUT, "It did not answer in time.");
    int ready = poll(polls, 2, fd != NULL ? (int)((until - now) / 1000000) + 1 : -1);
    if (ready < 0 && errno != EINTR) return fail(errno, "Cannot wait: %s.", strerror(errno));
    if (ready <= 0) continue;
    if (polls[1].revents != 0) {
      int result = bury(restore);
      if (result < 0) return result;
    } else if (polls[0].revents != 0) {
      return 0;
    }
  }
  return 0;
}

/* The control connection */

/* The machine may ask for pages before it has read all: a send that waits must not keep the child from being replaced.
 */
static int send_text(struct restore *restore, const struct uffd_ch_text *text) {
  int result = 0;
  for (uint64_t at = 0; at < text->length && result == 0; at += PIECE) {
    result = await(restore, &restore->control, POLLOUT, restore->opts.timeout_ms);
    if (result == 0) result = uffd_ch_send(restore->control, text->bytes + at, min_u64(PIECE, text->length - at), -1);
  }
  return result;
}

static int order(struct restore *restore, uint16_t command, const struct uffd_ch_text *text, const char *what) {
  unsigned char frame[UFFD_CH_FRAME];
  const struct uffd_ch_request request = {.command = command, .length = text != NULL ? text->length : 0};
  uffd_ch_write_request(&request, frame);
  int result = uffd_ch_send(restore->control, frame, sizeof(frame), -1);
  if (result == 0 && text != NULL) result = send_text(restore, text);
  if (result == 0) result = await(restore, &restore->control, POLLIN, restore->opts.timeout_ms);
  return result < 0 ? result : uffd_ch_await_ok(restore->control, what);
}

static int send_file(struct restore *restore, const struct uffd_ch_slot *slot) {
  unsigned char frame[UFFD_CH_FRAME], number[UFFD_CH_FRAME];
  uffd_ch_write_request(&(struct uffd_ch_request){.command = UFFD_CH_MEMORY_FD, .length = 4}, frame);
  for (unsigned i = 0; i < 4; i++) {
    number[i] = (unsigned char)(slot->number >> 8 * i);
  }
  int result = uffd_ch_send(restore->control, frame, sizeof(frame), -1);
  if (result == 0) result = uffd_ch_send(restore->control, number, 4, restore->files[slot->file]);
  return result < 0 ? result : uffd_ch_await_ok(restore->control, "a slot of its memory");
}

static int send_files(struct restore *restore) {
  int result = 0;
  for (uint32_t i = 0; i < restore->slots.count && result == 0; i++) {
    result = send_file(restore, &restore->slots.slots[i]);
  }
  return result;
}

/* The role must follow at once: the machine waits 10 s for it. */
static int open_fault_connection(struct restore *restore) {
  static const unsigned char role[2] = {UFFD_CH_ROLE_FAULT, 0};
  restore->fault = uffd_ch_connect(restore->opts.socket, restore->opts.timeout_ms);
  return restore->fault < 0 ? restore->fault : uffd_ch_send(restore->fault, role, sizeof(role), -1);
}

/* Before the machine hears of its state, which makes it fault: somebody answers by then. */
static int begin_answering(struct restore *restore) {
  char byte;
  int result = start(restore);
  while (result == 0) {
    result = await(restore, &restore->ready, POLLIN, restore->opts.timeout_ms);
    if (result == 0 && read(restore->ready, &byte, 1) == 1) return 0; /* else that child has died, and was replaced */
    if (result == 0 && restore->child == 0) return fail(EPIPE, "The machine has hung up before it was restored.");
  }
  return result;
}

static int run(struct restore *restore) {
  bool paused = (restore->opts.flags & UFFD_OFFLOAD_PAUSED) != 0;
  restore->control = uffd_ch_connect(restore->opts.socket, restore->opts.timeout_ms);
  if (restore->control < 0) return restore->control;
  int result = order(restore, UFFD_CH_START, NULL, "version 0 of the migration protocol");
  if (result == 0) result = send_files(restore);
  if (result == 0) result = order(restore, UFFD_CH_CONFIG, &restore->config, "the migration config");
  if (result == 0) result = open_fault_connection(restore);
  if (result == 0) result = begin_answering(restore);
  BARRIER("offload-state", NULL);
  if (result == 0) result = order(restore, UFFD_CH_STATE, &restore->state, "the state of the machine");
  if (result == 0) {
    result = order(restore, paused ? UFFD_CH_COMPLETE_PAUSED : UFFD_CH_COMPLETE, NULL, "the end of the migration");
  }
  return result;
}

/* So that the machine's log says that it was given up, and does not speak of a broken connection. */
static void abandon(struct restore *restore) {
  unsigned char frame[UFFD_CH_FRAME];
  if (restore->control < 0) return;
  uffd_ch_set_timeout(restore->control, ABANDON_MS);
  uffd_ch_write_request(&(struct uffd_ch_request){.command = UFFD_CH_ABANDON}, frame);
  if (uffd_ch_send(restore->control, frame, sizeof(frame), -1) == 0)
    (void)uffd_ch_await_ok(restore->control, "the end");
}

static void release(struct restore *restore) {
  end_child(restore);
  uffd_close_fds(&restore->control, 1);
  uffd_close_fds(&restore->fault, 1);
  uffd_close_fds(&restore->pidfd, 1);
  uffd_close_fds(&restore->ready, 1);
  for (uint32_t i = 0; i < restore->files_count; i++) {
    close(restore->files[i]);
  }
  uffd_release(restore->files, restore->slots.count * sizeof(int));
  uffd_ch_slots_free(&restore->slots);
  uffd_ch_text_free(&restore->config);
  uffd_ch_text_free(&restore->state);
  if (restore->notes != NULL) munmap(restore->notes, sizeof(*restore->notes));
}

static int prepare(struct restore *restore) {
  int result = read_texts(restore);
  if (result < 0) return result;
  void *notes = mmap(NULL, sizeof(*restore->notes), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (notes == MAP_FAILED) return fail(ENOMEM, "No memory for a restore.");
  restore->notes = notes;
  return make_files(restore);
}

static void count(const struct restore *restore, struct uffd_offload_result *result) {
  if (result == NULL || restore->notes == NULL) return;
  struct uffd_offload_result all = {.size = result->size,
                                    .slots = restore->slots.count,
                                    .bytes = restore->slots.length,
                                    .requests = atomic_load(&restore->notes->answered),
                                    .failed = atomic_load(&restore->notes->failed),
                                    .restarts = restore->restarts,
                                    .doubts = atomic_load(&restore->notes->doubts),
                                    .paused = (restore->opts.flags & UFFD_OFFLOAD_PAUSED) != 0};
  memcpy(result, &all, min_u64(result->size, sizeof(all)));
}

int uffd_offload_restore(const struct uffd_offload_opts *user_opts, struct uffd_offload_result *done) {
  struct restore restore = {.opts = UFFD_OFFLOAD_OPTS_INIT, .control = -1, .fault = -1, .pidfd = -1, .ready = -1};
  if (done != NULL && done->size < sizeof(size_t) * 2) return fail(EINVAL, "uffd_offload_result: set its size.");
  int result = uffd_take_opts(&restore.opts, sizeof(restore.opts), user_opts, "uffd_offload_opts");
  if (result < 0) return result;
  if (restore.opts.page_size == 0) restore.opts.page_size = BASE_PAGE;
  if (restore.opts.timeout_ms == 0) restore.opts.timeout_ms = TIMEOUT_MS;
  result = check_opts(&restore.opts);
  if (result == 0) result = prepare(&restore);
  if (result == 0) {
    result = run(&restore);
    struct uffd_sentence why = uffd_keep_sentence();
    if (result < 0) abandon(&restore);
    uffd_restore_sentence(&why);
  }
  if (result == 0) {
    uffd_close_fds(&restore.control, 1);
    if (restore.opts.restored != NULL) restore.opts.restored(restore.opts.restored_ctx);
    result = await(&restore, NULL, 0, 0);
  }
  struct uffd_sentence why = uffd_keep_sentence();
  count(&restore, done);
  release(&restore);
  uffd_restore_sentence(&why);
  return result;
}
