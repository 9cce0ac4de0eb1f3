/*
 * Page requests: looked at, filled by a touch, taken, answered.
 */
#include "serve/offload/answering.h"

#include <inttypes.h>
#include <linux/sockios.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/base.h"
#include "serve/offload/attached.h"
#include "serve/offload/frames.h"
#include "uffd_pager.h"

#define AGAIN_MS 50                              /* between two tries to hand over */
#define PIECE_MS 1                               /* between two looks for the rest of a request */
#define WHOLE    (UFFD_CH_FRAME + UFFD_CH_RANGE) /* bytes of a page request */

struct answering {
  const struct uffd_ch_guest *guest;
  char **mapped; /* a slot's each */
  struct uffd_handoff_part *parts;
  uffd_handoff *handoff;
  struct uffd_ch_attached attached;
  uint64_t page_size;
};

/* A page that cannot be filled is poison: whoever touches it gets SIGBUS. */
static sigjmp_buf trap;
static volatile sig_atomic_t trapped; /* the thread is touching a page */

static void caught(int signal) {
  if (trapped == 0) {
    (void)sigaction(SIGBUS, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    (void)raise(signal);
  }
  siglongjmp(trap, 1);
}

static void set_trap(void) {
  struct sigaction action = {.sa_handler = caught, .sa_flags = SA_NODEFER}; /* so that no jump need restore a mask */
  sigemptyset(&action.sa_mask);
  (void)sigaction(SIGBUS, &action, NULL);
}

/* In user mode, so the userfaultfd need not be for more. False: some page of it cannot be filled. */
static bool touch(struct uffd_ch_attached *attached, const char *start, uint64_t length, uint64_t page_size) {
  uffd_ch_touch_begins(attached);
  trapped = 1;
  bool whole = sigsetjmp(trap, 0) == 0;
  if (whole) {
    for (uint64_t at = 0; at < length; at += page_size) {
      (void)*(const volatile char *)(start + at);
    }
  }
  trapped = 0;
  uffd_ch_touch_ends(attached);
  return whole;
}

static int map(struct answering *answering) {
  const struct uffd_ch_guest *guest = answering->guest;
  for (uint32_t i = 0; i < guest->slots->count; i++) {
    const struct uffd_ch_slot *slot = &guest->slots->slots[i];
    void *at = mmap(NULL, slot->length, PROT_READ | PROT_WRITE, MAP_SHARED, guest->files[slot->file],
                    (off_t)slot->file_offset);
    if (at == MAP_FAILED) return fail(errno, "Cannot map slot %u of the machine: %s.", slot->number, strerror(errno));
    answering->mapped[i] = at;
    int result = uffd_memory_adopt(at, slot->length, &answering->parts[i].memory);
    if (result < 0) return result;
    answering->parts[i].offset = slot->image_offset;
    answering->page_size = uffd_memory_page_size(answering->parts[i].memory);
  }
  return 0;
}

static int hand_over(struct answering *answering) {
  const struct uffd_ch_guest *guest = answering->guest;
  struct uffd_handoff_opts opts = UFFD_HANDOFF_OPTS_INIT;
  opts.label = guest->label;
  opts.timeout_ms = guest->timeout_ms;
  opts.open_flags = UFFD_OPEN_USER_MODE_ONLY;
  int result = uffd_handoff_send(guest->door, answering->parts, guest->slots->count, &opts, &answering->handoff);
  if (result < 0) return result;
  atomic_fetch_add(&guest->notes->began, 1);
  return write(guest->ready, "", 1) == 1 || errno == EPIPE ? 0 : fail(errno, "Cannot tell: %s.", strerror(errno));
}

/*
 * The one before has died, and its place: the pager may not have noticed yet, and have no room for another client, or
 * may be started anew itself. The machine waits for both.
 */
static int hand_over_again(struct answering *answering) {
  const struct uffd_ch_guest *guest = answering->guest;
  uint64_t until = uffd_now() + guest->timeout_ms * UINT64_C(1000000);
  int result;
  while ((result = hand_over(answering)) < 0 && uffd_now() < until && uffd_ready(guest->socket, POLLRDHUP) == 0) {
    BARRIER("offload-waits", NULL);
    (void)poll(NULL, 0, AGAIN_MS);
  }
  return result;
}

/*
 * Looks at the next request and leaves it in the socket. 1; 0 the machine has hung up; -errno. The peer may send it in
 * two pieces: a look at the second begins behind the first, and does not wait. One that waits there starts at the first
 * byte again when it is woken (Linux 6.1), and the request's header would be taken for a place in memory.
 */
static int look(int fd, unsigned char *bytes) {
  uint64_t got = 0;
  while (got < WHOLE) {
    int from = (int)got;
    (void)setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &from, sizeof(from));
    ssize_t count = recv(fd, bytes + got, WHOLE - got, MSG_PEEK | (got == 0 ? 0 : MSG_DONTWAIT));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN && got != 0) {
      (void)poll(NULL, 0, PIECE_MS);
      continue;
    }
    if (count < 0 && errno == ECONNRESET) return 0; /* it has hung up before it read an answer */
    if (count < 0) return fail(errno, "Cannot read a page request: %s.", strerror(errno));
    if (count == 0) return 0;
    got += (uint64_t)count;
    if (got >= UFFD_CH_FRAME && uffd_ch_number(bytes, 2) != UFFD_CH_PAGE_FAULT) return 1;
  }
  return 1;
}

/* A request that cannot be: the machine hears of it, and of no other. */
static int refuse(const struct answering *answering, int result) {
  struct uffd_sentence why = uffd_keep_sentence();
  (void)uffd_ch_respond(answering->guest->socket, UFFD_CH_ERROR);
  uffd_restore_sentence(&why);
  return result;
}

/* 0: the page is there; 1: it cannot be filled; -EPROTO: it is in no slot. */
static int fill(struct answering *answering, uint64_t address, uint64_t length) {
  const struct uffd_ch_slots *slots = answering->guest->slots;
  const struct uffd_ch_slot *slot = uffd_ch_slots_find(slots, address, length);
  if (slot == NULL || length == 0 || address % BASE_PAGE != 0 || length % BASE_PAGE != 0) {
    return fail(EPROTO, "The machine asks for %" PRIu64 " bytes at 0x%" PRIx64 ", which are not pages of one slot.",
                length, address);
  }
  const char *at = answering->mapped[slot - slots->slots] + (address - slot->address);
  return touch(&answering->attached, at, length, min_u64(answering->page_size, length)) ? 0 : 1;
}

/* 1; 0: it has hung up while it was to hear; -errno. */
static int tell(const struct answering *answering, uint16_t status) {
  struct uffd_ch_notes *notes = answering->guest->notes;
  int result = uffd_ch_respond(answering->guest->socket, status);
  if (result < 0) return result == -EPIPE ? 0 : result;
  BARRIER("offload-told", NULL);
  atomic_fetch_add(&notes->answered, 1);
  if (status != UFFD_CH_OK) atomic_fetch_add(&notes->failed, 1);
  atomic_store(&notes->state, UFFD_CH_IDLE);
  BARRIER("offload-answered", NULL);
  return 1;
}

/* 1: a request was answered; 0: the machine has hung up; -errno. */
static int answer_one(struct answering *answering) {
  const struct uffd_ch_guest *guest = answering->guest;
  struct uffd_ch_notes *notes = guest->notes;
  struct uffd_ch_request request;
  unsigned char bytes[WHOLE];
  int result = look(guest->socket, bytes);
  if (result <= 0) return result;
  uffd_ch_read_request(bytes, &request);
  if (request.command == UFFD_CH_ABANDON) {
    (void)uffd_ch_respond(guest->socket, UFFD_CH_OK);
    return 0;
  }
  if (request.command != UFFD_CH_PAGE_FAULT || request.length != UFFD_CH_RANGE) {
    return refuse(answering, fail(EPROTO, "Request %u of %" PRIu64 " bytes came where pages are asked for.",
                                  request.command, request.length));
  }
  uint64_t address = uffd_ch_number(bytes + UFFD_CH_FRAME, 8), length = uffd_ch_number(bytes + UFFD_CH_FRAME + 8, 8);
  atomic_store(&notes->address, address);
  atomic_store(&notes->length, length);
  atomic_store(&notes->state, UFFD_CH_FILLING);
  BARRIER("offload-filling", NULL);
  int filled = fill(answering, address, length);
  if (filled < 0) return refuse(answering, filled);
  BARRIER("offload-filled", NULL);
  if (!BROKEN("offload-note")) atomic_store(&notes->state, UFFD_CH_ANSWERING);
  BARRIER("offload-answering", NULL);
  result = uffd_ch_receive(guest->socket, bytes, sizeof(bytes), NULL);
  if (result <= 0) return result;
  BARRIER("offload-taken", NULL);
  return tell(answering, filled == 0 ? UFFD_CH_OK : UFFD_CH_ERROR);
}

/* Has the machine asked on, or hung up, or not read its answer yet? Then it was answered. */
static bool is_answered(int fd) {
  char byte;
  int unread = 0, start = 0;
  (void)setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &start, sizeof(start));
  ssize_t count = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (count >= 0 || (errno != EAGAIN && errno != EINTR)) return true;
  return ioctl(fd, SIOCOUTQ, &unread) == 0 && unread != 0;
}

/*
 * The one before has died while it answered. Either the machine waits for the answer, or it has had it and does not ask
 * for anything now. Where all pages are there, it may be answered again: an answer that it takes for a later request's
 * is true.
 */
static int clear_doubt(struct answering *answering) {
  const struct uffd_ch_guest *guest = answering->guest;
  atomic_fetch_add(&guest->notes->doubts, 1);
  for (uint32_t i = 0; i < guest->slots->count; i++) {
    const struct uffd_ch_slot *slot = &guest->slots->slots[i];
    for (uint64_t at = 0; at < slot->length; at += answering->page_size) {
      if (is_answered(guest->socket)) return 1;
      if (BROKEN("offload-fill")) continue;
      if (touch(&answering->attached, answering->mapped[i] + at, answering->page_size, answering->page_size)) continue;
      return fail(EHWPOISON, "The page at 0x%" PRIx64 " of the machine cannot be filled.", slot->address + at);
    }
  }
  BARRIER("offload-doubt", NULL);
  return is_answered(guest->socket) ? 1 : tell(answering, UFFD_CH_OK);
}

static int answer_all(struct answering *answering) {
  int result = 1;
  if (atomic_load(&answering->guest->notes->state) == UFFD_CH_ANSWERING) result = clear_doubt(answering);
  while (result > 0) {
    result = answer_one(answering);
  }
  return result;
}

static void release(struct answering *answering) {
  uint32_t count = answering->guest->slots->count;
  uffd_ch_attached_end(&answering->attached);
  uffd_handoff_close(answering->handoff);
  for (uint32_t i = 0; i < count; i++) {
    if (answering->parts != NULL) uffd_memory_close(answering->parts[i].memory);
    if (answering->mapped != NULL && answering->mapped[i] != NULL)
      munmap(answering->mapped[i], answering->guest->slots->slots[i].length);
  }
  uffd_release(answering->parts, count * sizeof(*answering->parts));
  uffd_release(answering->mapped, count * sizeof(*answering->mapped));
}

int uffd_ch_answer(const struct uffd_ch_guest *guest) {
  uint32_t count = guest->slots->count;
  struct answering answering = {.guest = guest, .page_size = BASE_PAGE, .attached = UFFD_CH_ATTACHED_INIT};
  answering.mapped = uffd_alloc(count * sizeof(*answering.mapped));
  answering.parts = uffd_alloc(count * sizeof(*answering.parts));
  int result = 0;
  if (answering.mapped == NULL || answering.parts == NULL) result = fail(ENOMEM, "No memory for %u slots.", count);
  set_trap();
  if (result == 0) result = map(&answering);
  bool again = atomic_load(&guest->notes->began) != 0;
  if (result == 0) result = again ? hand_over_again(&answering) : hand_over(&answering);
  if (result == 0) result = uffd_ch_attached_begin(&answering.attached, answering.handoff, guest);
  BARRIER("offload-handed", NULL);
  if (result == 0) result = answer_all(&answering);
  struct uffd_sentence why = uffd_keep_sentence();
  release(&answering);
  uffd_restore_sentence(&why);
  return result;
}
