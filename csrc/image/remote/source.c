/*
 * The readers' side of a remote source. What is in the cache is read as a local file is. For the rest the fetch thread
 * is asked, without a lock; then a reader with a bell says LATER (-EAGAIN), and one without sleeps until there are
 * news.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "image/remote/fetch.h"

/* Asking */

static void wake(const struct uffd_fetching *fetching) {
  const uint64_t one = 1;
  while (write(fetching->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

void uffd_fetching_ask(struct uffd_fetching *fetching, uint64_t number, uint8_t want) {
  struct uffd_unit *unit = &fetching->units[number];
  uint8_t seen = atomic_load(&unit->want);
  while (seen < want && !atomic_compare_exchange_weak(&unit->want, &seen, want)) {
  }
  if (atomic_exchange(&unit->queued, 1) != 0) return; /* the fetch thread has not looked at it yet */
  uint32_t top = atomic_load(&fetching->asked);
  do {
    atomic_store(&unit->next, top);
  } while (!atomic_compare_exchange_weak(&fetching->asked, &top, (uint32_t)number + 1));
  wake(fetching);
}

/* 0: nothing is known of it (any more); else the errno that it failed with, and its sentence. */
static int look_for_failure(struct uffd_fetching *fetching, uint64_t number, uint64_t since_ns) {
  int result = 0;
  pthread_mutex_lock(&fetching->lock);
  struct uffd_unit_failure *failure = &fetching->failures[number % UFFD_FAILURES];
  if (since_ns == 0) since_ns = uffd_now() - UFFD_FAILURE_NS;
  bool known = failure->unit == number + 1 && failure->at_ns >= since_ns;
  if (known) result = fail(failure->error, "%s", failure->words);
  if (!known) atomic_store(&fetching->units[number].failed, 0);
  pthread_mutex_unlock(&fetching->lock);
  return result;
}

/* How somebody reads. */
struct manner {
  uint8_t want;
  uint64_t since_ns; /* failures from then on concern it */
};

/* The reader that goes on in order has come to this unit. */
static void heed_mark(struct uffd_fetching *fetching, uint64_t number) {
  struct uffd_unit *unit = &fetching->units[number];
  if (atomic_load_explicit(&unit->mark, memory_order_relaxed) != 0 && atomic_exchange(&unit->mark, 0) != 0) {
    uffd_fetching_ask(fetching, number, UFFD_WANT_SOON);
  }
}

/* A part of one unit: 0; -EAGAIN it was asked for; or -errno and a sentence. */
static int read_unit(struct uffd_fetching *fetching, uint64_t number, uint64_t offset, char *buffer, uint64_t length,
                     const struct manner *manner) {
  uint8_t want = manner->want;
  struct uffd_unit *unit = &fetching->units[number];
  if (uffd_cache_has(fetching->cache, number)) {
    heed_mark(fetching, number);
    if (uffd_cache_read(fetching->cache, offset, buffer, length) == 0) return 0;
    want = UFFD_WANT_AGAIN;
  }
  uint64_t from = offset - uffd_unit_stream(fetching, number).offset;
  if (uffd_spill_read(&fetching->spill, number, from, buffer, length)) return 0;
  if (atomic_load(&unit->failed) != 0) {
    int result = look_for_failure(fetching, number, manner->since_ns);
    if (result < 0) return result;
  }
  uffd_fetching_ask(fetching, number, want);
  return -EAGAIN;
}

/* How many bytes from offset on, length at most, are in the cache; *next: the unit after them. */
static uint64_t measure_run(struct uffd_fetching *fetching, uint64_t offset, uint64_t length, uint64_t *next) {
  uint64_t bytes = 0;
  while (bytes < length && uffd_cache_has(fetching->cache, *next)) {
    struct uffd_extent extent = uffd_unit_stream(fetching, *next);
    heed_mark(fetching, *next);
    bytes = min_u64(extent.offset + extent.length - offset, length);
    (*next)++;
  }
  return bytes;
}

/* What is in the cache is read at once, as far as it goes; all that is missing is asked for at once. */
static int try_to_read(struct uffd_fetching *fetching, uint64_t offset, char *buffer, uint64_t length,
                       const struct manner *manner) {
  int result = 0;
  for (uint64_t unit = uffd_unit_at(fetching, offset), next = unit; length > 0; unit = next) {
    uint64_t part = measure_run(fetching, offset, length, &next);
    if (part == 0 || uffd_cache_read(fetching->cache, offset, buffer, part) != 0) {
      struct uffd_extent extent = uffd_unit_stream(fetching, unit);
      part = min_u64(extent.offset + extent.length - offset, length);
      next = unit + 1;
      int got = read_unit(fetching, unit, offset, buffer, part, manner);
      if (got < 0 && got != -EAGAIN) return got;
      if (got < 0) result = got;
    }
    offset += part;
    buffer += part;
    length -= part;
  }
  return result;
}

static int read_remote(struct uffd_source *source, struct uffd_reader *reader, uint64_t offset, char *buffer,
                       uint64_t length) {
  struct uffd_fetching *fetching = (struct uffd_fetching *)source;
  struct uffd_bell *bell = uffd_reader_bell(reader);
  if (fetching->process != uffd_process()) return fail(EOWNERDEAD, "This image belongs to the parent process.");
  uint64_t now = bell == NULL ? uffd_now() : 0;
  struct manner manner = {bell != NULL && bell->hints ? UFFD_WANT_SOON : UFFD_WANT_NOW, now};
  for (;;) {
    uint32_t seen = atomic_load(&fetching->news);
    int result = try_to_read(fetching, offset, buffer, length, &manner);
    if (result != -EAGAIN) return result;
    if (bell == NULL) {
      uffd_futex_wait(&fetching->news, seen);
      continue;
    }
    atomic_store(&bell->waits, true);
    if (atomic_load(&fetching->news) == seen) return -EAGAIN; /* what comes from now on rings */
  }
}

static void want(struct uffd_source *source, uint64_t offset, uint64_t length) {
  struct uffd_fetching *fetching = (struct uffd_fetching *)source;
  if (fetching->process != uffd_process() || length == 0) return;
  uint64_t end = uffd_unit_at(fetching, offset + length - 1) + 1;
  for (uint64_t unit = uffd_unit_at(fetching, offset); unit < end; unit++) {
    if (uffd_cache_has(fetching->cache, unit) || atomic_load(&fetching->units[unit].failed) != 0) continue;
    uffd_fetching_ask(fetching, unit, UFFD_WANT_SOON);
  }
}

/* Bells */

static int join(struct uffd_source *source, struct uffd_bell *bell) {
  struct uffd_fetching *fetching = (struct uffd_fetching *)source;
  int result = 0;
  pthread_mutex_lock(&fetching->lock);
  if (fetching->bells_count == fetching->bells_room) {
    size_t room = fetching->bells_room == 0 ? 8 : fetching->bells_room * 2;
    struct uffd_bell **list = uffd_alloc(room * sizeof(struct uffd_bell *));
    if (list == NULL) result = fail(ENOMEM, "No memory for a handler's reader.");
    if (list != NULL) {
      for (size_t i = 0; i < fetching->bells_count; i++) {
        list[i] = fetching->bells[i];
      }
      uffd_release(fetching->bells, fetching->bells_room * sizeof(struct uffd_bell *));
      fetching->bells = list;
      fetching->bells_room = room;
    }
  }
  if (result == 0) fetching->bells[fetching->bells_count++] = bell;
  pthread_mutex_unlock(&fetching->lock);
  return result;
}

static void leave(struct uffd_source *source, struct uffd_bell *bell) {
  struct uffd_fetching *fetching = (struct uffd_fetching *)source;
  pthread_mutex_lock(&fetching->lock);
  for (size_t i = 0; i < fetching->bells_count; i++) {
    if (fetching->bells[i] != bell) continue;
    fetching->bells[i] = fetching->bells[--fetching->bells_count];
    break;
  }
  pthread_mutex_unlock(&fetching->lock);
}

/* Making, ending */

/* In a forked child there is no fetch thread, and what the parent has connected stays the parent's. */
static void destroy(struct uffd_source *source) {
  struct uffd_fetching *fetching = (struct uffd_fetching *)source;
  bool own = fetching->process == uffd_process();
  if (fetching->started && own) {
    atomic_store(&fetching->stop, true);
    wake(fetching);
    pthread_join(fetching->thread, NULL);
  }
  if (fetching->cache != NULL) uffd_cache_close(fetching->cache);
  uffd_spill_free(&fetching->spill);
  if (fetching->wake_fd >= 0) close(fetching->wake_fd);
  uffd_release(fetching->units, fetching->count * sizeof(*fetching->units));
  uffd_release(fetching->bells, fetching->bells_room * sizeof(struct uffd_bell *));
  uffd_frames_free(&fetching->frames);
  if (own) uffd_remote_close(fetching->remote);
  pthread_mutex_destroy(&fetching->lock);
  DELETE(fetching);
}

static const struct uffd_source_class class = {
    .kind = "remote", .read = read_remote, .want = want, .join = join, .leave = leave, .destroy = destroy};

static int open_cache(struct uffd_fetching *fetching) {
  const struct uffd_remote *remote = fetching->remote;
  const char *version = remote->transport->version;
  char id[2 * UFFD_INDEX_ID + 4] = "";
  if (version[0] == '\0' && fetching->digests.count != 0) {
    for (size_t i = 0; i < UFFD_INDEX_ID; i++) {
      snprintf(id + 2 * i, 3, "%02x", fetching->digests.id[i]);
    }
    version = id;
  }
  const struct uffd_cache_key key = {
      .source = remote->name,
      .version = version[0] == '\0' ? NULL : version,
      .layout = fetching->frames.count == 0 ? "bytes" : "zstd",
      .stream_bytes = fetching->head.stream_bytes,
      .units = fetching->count,
  };
  const char *directory = remote->is_cached ? remote->cache : NULL;
  int result = uffd_cache_open(directory, &key, remote->cache_limit, &fetching->cache);
  if (result == 0 || directory == NULL) return result;
  uffd_log(UFFD_LOG_WARNING, "%s What is fetched of %s is not kept.", uffd_errmsg(), remote->name);
  return uffd_cache_open(NULL, &key, remote->cache_limit, &fetching->cache);
}

static int prepare(struct uffd_fetching *fetching) {
  bool packed = fetching->frames.count != 0;
  fetching->head.stream_bytes =
      packed ? fetching->frames.list[fetching->frames.count].offset : fetching->head.file_bytes;
  fetching->count =
      packed ? fetching->frames.count : (fetching->head.stream_bytes + UFFD_INDEX_CHUNK - 1) / UFFD_INDEX_CHUNK;
  if (fetching->count >= UINT32_MAX) return fail(EFBIG, "%s falls into too many parts.", fetching->remote->name);
  fetching->units = uffd_alloc(fetching->count * sizeof(*fetching->units));
  fetching->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fetching->units == NULL) return fail(ENOMEM, "No memory for the source %s.", fetching->remote->name);
  if (fetching->wake_fd < 0) return fail(errno, "No descriptor for the source %s.", fetching->remote->name);
  int result = uffd_spill_make(&fetching->spill, packed ? fetching->frames.longest : UFFD_INDEX_CHUNK);
  if (result == 0) result = open_cache(fetching);
  if (result == 0) result = uffd_thread_start(&fetching->thread, uffd_fetching_run, fetching, "uffd-fetch");
  fetching->started = result == 0;
  return result;
}

int uffd_source_remote(struct uffd_remote *remote, struct uffd_frames *frames, const struct uffd_chunk_digests *digests,
                       struct uffd_source **source) {
  struct uffd_fetching *fetching = NEW(struct uffd_fetching);
  if (fetching == NULL) {
    if (frames != NULL) uffd_frames_free(frames);
    return fail(ENOMEM, "No memory for the source %s.", remote->name);
  }
  fetching->head = (struct uffd_source){.class = &class, .path = remote->name, .file_bytes = remote->transport->bytes};
  fetching->remote = remote;
  if (digests != NULL) fetching->digests = *digests;
  fetching->wake_fd = -1;
  fetching->process = uffd_process();
  pthread_mutex_init(&fetching->lock, NULL);
  if (frames != NULL) {
    fetching->frames = *frames;
    *frames = (struct uffd_frames){.list = NULL};
    fetching->head.frames = &fetching->frames;
  }
  int result = prepare(fetching);
  if (result < 0) {
    struct uffd_sentence why = uffd_keep_sentence();
    fetching->remote = NULL; /* stays the caller's */
    destroy(&fetching->head);
    uffd_restore_sentence(&why);
    return result;
  }
  *source = &fetching->head;
  return 0;
}

bool uffd_remote_figures(const struct uffd_source *source, struct uffd_remote_figures *figures) {
  const struct uffd_fetching *fetching = (const struct uffd_fetching *)source;
  if (source->class != &class) return false;
  *figures = (struct uffd_remote_figures){
      .version = fetching->remote->transport->version,
      .units = fetching->count,
      .requests = atomic_load(&fetching->requests),
      .retries = atomic_load(&fetching->retries),
      .fetched_bytes = atomic_load(&fetching->fetched_bytes),
      .latency_ns = fetching->remote->latency_ns,
  };
  for (uint64_t i = 0; i < fetching->count; i++) {
    figures->units_there += uffd_cache_has(fetching->cache, i);
  }
  return true;
}
