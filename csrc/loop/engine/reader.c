/*
 * Making and ending readers, and which objects they read.
 */
#include "loop/engine/reader.h"

#include "loop/engine/bell.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static int watch(struct uffd_reader *reader, int fd, bool comes) {
  const struct uffd_engine_class *class = reader->engine->class;
  return class->watch == NULL ? 0 : class->watch(reader, fd, comes);
}

void uffd_reader_keep_spare(struct uffd_reader *reader) {
  if (reader->spare_fd < 0) reader->spare_fd = eventfd(0, EFD_CLOEXEC);
}

struct uffd_source *uffd_reader_find_source(const struct uffd_reader *reader, const uffd_object *object) {
  struct uffd_source *source = reader->sources;
  while (source != NULL && source->object != object) {
    source = source->next;
  }
  return source;
}

int uffd_reader_add_source(struct uffd_reader *reader, struct uffd_source *source) {
  if (reader->polls_count == reader->polls_capacity) { /* filled in before each wait */
    uint32_t capacity = reader->polls_capacity * 2;
    struct pollfd *polls = uffd_pages_map(capacity * sizeof(*polls));
    if (polls == NULL) return -ENOMEM;
    uffd_pages_unmap(reader->polls, reader->polls_capacity * sizeof(*polls));
    reader->polls = polls;
    reader->polls_capacity = capacity;
  }
  if (watch(reader, source->fd, true) < 0) {
    watch(reader, source->fd, false);
    return -ENOMEM;
  }
  source->next = reader->sources;
  reader->sources = source;
  reader->polls_count++;
  if ((source->object->features & UFFD_FEAT_EVENT_FORK) != 0) {
    reader->keep_spare = true;
    uffd_reader_keep_spare(reader);
  }
  return 0;
}

void uffd_reader_wake(const struct uffd_pending *fault) {
  const struct uffd_slice *slice = uffd_slice_find(fault->source, fault->address);
  uint64_t page_size = slice == NULL ? BASE_PAGE : slice->terms->page_size;
  uffd_raw_wake(fault->source->fd, round_down(fault->address, page_size), page_size);
}

void uffd_reader_drop_source(struct uffd_reader *reader, struct uffd_source *source) {
  struct uffd_source **link = &reader->sources;
  while (*link != source) {
    link = &(*link)->next;
  }
  *link = source->next;
  uint32_t kept = 0;
  for (uint32_t i = 0; i < reader->queued; i++) {
    if (reader->queue[i].source == source) {
      uffd_reader_wake(&reader->queue[i]);
    } else {
      reader->queue[kept++] = reader->queue[i];
    }
  }
  reader->queued = kept;
  uffd_oldest_clear(&reader->oldest); /* the next pass tells */
  reader->polls_count--;
  watch(reader, source->fd, false);
  if (source->child) reader->children--;
  uffd_source_destroy(source);
}

static int open_reader(struct uffd_reader *reader) {
  reader->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (reader->wake_fd < 0) return -errno;
  reader->lane.bell = uffd_bell_open(reader->wake_fd);
  if (reader->lane.bell == NULL) return -ENOMEM;
  reader->polls_capacity = (uint32_t)(BASE_PAGE / sizeof(*reader->polls));
  reader->polls = uffd_pages_map(BASE_PAGE);
  return reader->polls == NULL ? -ENOMEM : uffd_lane_open(&reader->lane);
}

int uffd_reader_create(struct uffd_engine *engine, uint32_t index, struct uffd_reader **made) {
  *made = NULL;
  struct uffd_reader *reader = NEW(struct uffd_reader);
  if (reader == NULL) return fail(ENOMEM, "No memory for a handler.");
  reader->engine = engine;
  reader->lane.owner = engine;
  reader->lane.index = index;
  reader->lane.failure = &engine->failure;
  reader->lane.trace = engine->trace;
  reader->lane.crowded = engine->slots_count != 0;
  reader->retry_step = UFFD_RETRY_MIN_NS;
  reader->keep_spare = (engine->features & UFFD_FEAT_EVENT_FORK) != 0;
  reader->spare_fd = -1;
  int result = open_reader(reader);
  if (result < 0) {
    uffd_reader_destroy(reader);
    return fail(-result, "Cannot make a handler: %s.", strerror(-result));
  }
  if (reader->keep_spare) uffd_reader_keep_spare(reader);
  reader->polls_count = 1;
  *made = reader;
  return 0;
}

void uffd_reader_destroy(struct uffd_reader *reader) {
  while (reader->sources != NULL) {
    struct uffd_source *source = reader->sources;
    reader->sources = source->next;
    uffd_source_destroy(source);
  }
  uffd_close(reader->object);
  uffd_bell_close(reader->lane.bell);
  if (reader->wake_fd >= 0) close(reader->wake_fd);
  if (reader->spare_fd >= 0) close(reader->spare_fd);
  uffd_pages_unmap(reader->polls, reader->polls_capacity * sizeof(*reader->polls));
  uffd_lane_close(&reader->lane);
  DELETE(reader);
}
