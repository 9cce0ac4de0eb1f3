/*
 * Messages: read, decoded, handed out. The kernel tells a fault once only, so nothing may fail between the read and the
 * caller: memory for FORK events is reserved before the read.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernel/object.h"

int uffd_raw_read(int fd, struct uffd_raw_msg *messages, unsigned count) {
  ssize_t length;
  do {
    length = read(fd, messages, count * sizeof(*messages));
  } while (length < 0 && errno == EINTR);
  return length < 0 ? -errno : (int)((size_t)length / sizeof(*messages));
}

/*
 * The kernel gives the child's context the features of its parent's, and its descriptor the flags that the parent's was
 * created with.
 */
static struct uffd_object *take_child(struct uffd_object *object, int fd) {
  struct uffd_object *child = uffd_take_spare(object);
  if (child == NULL) {
    close(fd);
    return NULL;
  }
  uffd_object_init(child);
  child->fd = fd;
  child->features = object->features;
  child->available = object->available;
  child->route = UFFD_ROUTE_ADOPTED;
  child->user_mode_only = object->user_mode_only;
  child->blocking = object->blocking;
  uffd_inherit_spans(child, object);
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  if (!child->blocking) fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  return child;
}

void uffd_decode(struct uffd_object *object, const struct uffd_raw_msg *message, struct uffd_event *event) {
  *event = (struct uffd_event){.type = message->event};
  switch (message->event) {
  case UFFD_PAGEFAULT:
    event->flags = message->arg.pagefault.flags;
    event->address = message->arg.pagefault.address;
    event->tid = message->arg.pagefault.ptid;
    break;
  case UFFD_FORK:
    event->object = take_child(object, (int)message->arg.fork.ufd);
    break;
  case UFFD_REMAP:
    event->address = message->arg.remap.from;
    event->to = message->arg.remap.to;
    event->length = message->arg.remap.length;
    break;
  case UFFD_REMOVE:
  case UFFD_UNMAP:
    event->address = message->arg.remove.start;
    event->length = message->arg.remove.end - message->arg.remove.start;
    break;
  default:
    event->flags = message->arg.raw[0];
    event->address = message->arg.raw[1];
    event->to = message->arg.raw[2];
    break;
  }
  uffd_follow_spans(object, event);
}

/* Reads what is there now, without waiting: the number of events, or -errno (-EAGAIN: none). */
static int read_now(struct uffd_object *object, struct uffd_event *events, unsigned count) {
  struct uffd_raw_msg messages[UFFD_READ_MAX];
  pthread_mutex_lock(&object->reading);
  int rc = uffd_reserve_spares(object, count);
  if (rc == 0) rc = uffd_raw_read(object->fd, messages, count);
  for (int i = 0; i < rc; i++)
    uffd_decode(object, &messages[i], &events[i]);
  pthread_mutex_unlock(&object->reading);
  return rc;
}

static int64_t now_ms(void) {
  return (int64_t)(uffd_now() / 1000000);
}

/*
 * Sleeps until there may be a message, the object closes, or the deadline is past (-1: none). Returns 1, -errno, or 0
 * in this order.
 */
static int wait_readable(struct uffd_object *object, int64_t deadline) {
  int wake_fd = uffd_wake_fd(object);
  if (wake_fd < 0) return wake_fd;
  struct pollfd descriptors[2] = {{.fd = object->fd, .events = POLLIN}, {.fd = wake_fd, .events = POLLIN}};
  for (;;) {
    /* Either uffd_close() sees the eventfd, or this thread sees that the object closes. */
    if (uffd_is_closing(object)) return fail(EBADF, "The userfaultfd object was closed meanwhile.");
    int64_t left = deadline < 0 ? -1 : deadline - now_ms();
    if (deadline >= 0 && left < 0) left = 0;
    BARRIER("read.waiting", object);
    uffd_let_cancel();
    int ready = poll(descriptors, 2, left > INT_MAX ? INT_MAX : (int)left);
    uffd_hold_cancel();
    if (ready < 0 && errno != EINTR) return fail(errno, "Waiting for events failed: %s.", strerror(errno));
    if (ready > 0 && descriptors[1].revents == 0) {
      if ((descriptors[0].revents & (POLLERR | POLLNVAL)) == 0) return 1;
      return fail(EINVAL, "Somebody has closed the descriptor %d, or made it blocking: leave both to the object.",
                  object->fd);
    }
    if (ready == 0 && deadline >= 0 && left == 0) return 0;
  }
}

/*
 * poll() does not work on a blocking userfaultfd, and uffd_close() could not end a read() that sleeps in it. So
 * O_NONBLOCK is set while our readers wait.
 */
static void hold_nonblocking(struct uffd_object *object, bool hold) {
  if (!object->blocking) return;
  pthread_mutex_lock(&object->reading);
  bool change = hold ? object->waiting++ == 0 : --object->waiting == 0;
  int flags = fcntl(object->fd, F_GETFL);
  if (change) fcntl(object->fd, F_SETFL, hold ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
  pthread_mutex_unlock(&object->reading);
}

static int read_events(struct uffd_object *object, struct uffd_event *events, unsigned count, int timeout_ms) {
  int64_t deadline = timeout_ms > 0 ? now_ms() + timeout_ms : -1;
  for (;;) {
    int rc = read_now(object, events, count);
    if (rc == -EAGAIN && timeout_ms != 0) {
      rc = wait_readable(object, deadline);
      if (rc > 0)
        continue; /* the poll may have been for nothing: the kernel takes a message back when its page was resolved */
      return rc;
    }
    if (rc >= 0 || rc == -ENOMEM) return rc;
    if (rc == -EAGAIN) return fail(EAGAIN, "No event is there.");
    if (rc == -EMFILE || rc == -ENFILE)
      return fail(-rc,
                  "A fork's descriptor has no room: close some descriptors or raise \"ulimit -n\", and read again.");
    return fail(-rc, "Reading events failed: %s.", strerror(-rc));
  }
}

static void stop_reading(void *argument) {
  hold_nonblocking(argument, false);
  uffd_leave(argument);
}

/* The thread may be cancelled while it waits; it is then taken out of the count. The caller has entered the object. */
static int read_and_leave(struct uffd_object *object, struct uffd_event *events, unsigned count, int timeout_ms) {
  int rc;
  uffd_hold_cancel();
  hold_nonblocking(object, true);
  pthread_cleanup_push(stop_reading, object);
  rc = read_events(object, events, count, timeout_ms);
  pthread_cleanup_pop(1);
  uffd_let_cancel();
  return rc;
}

int uffd_read(uffd_object *object, struct uffd_event *events, unsigned count, int timeout_ms) {
  int rc = uffd_enter(object);
  if (rc < 0) return rc;
  if (count == 0) {
    rc = fail(EINVAL, "There must be room for at least one event.");
  } else if (timeout_ms < -1) {
    rc = fail(EINVAL, "The timeout is %d: milliseconds, 0 for none, -1 for ever.", timeout_ms);
  } else if (object->blocking && timeout_ms != -1) {
    rc = fail(EINVAL, "A blocking object cannot wait for a limited time: open it without UFFD_OPEN_BLOCKING.");
  } else {
    return read_and_leave(object, events, count < UFFD_READ_MAX ? count : UFFD_READ_MAX, timeout_ms);
  }
  uffd_leave(object);
  return rc;
}
