/*
 * Opening a remote file, and reading it before it has a fetch thread.
 */
#include "image/remote/remote.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"

#define PATIENCE_MS 60000u
#define BLOCK       UINT64_C(65536) /* bytes read at once of a file that is being opened */
#define NAME_ROOM   4096u

static char *copy_text(const char *text) {
  size_t length = strlen(text) + 1;
  char *made = uffd_alloc(length);
  if (made != NULL) memcpy(made, text, length);
  return made;
}

static void free_text(char *text) {
  if (text == NULL) return;
  size_t length = strlen(text) + 1;
  explicit_bzero(text, length);
  uffd_release(text, length);
}

void uffd_remote_close(struct uffd_remote *remote) {
  if (remote == NULL) return;
  if (remote->transport != NULL) remote->transport->class->close(remote->transport);
  free_text(remote->uri);
  free_text(remote->name);
  uffd_release(remote->block, BLOCK);
  DELETE(remote);
}

uint32_t uffd_remote_pause(uint32_t attempts, uint32_t wait_ms) {
  uint32_t most = 50u << (attempts < 7 ? attempts : 7);
  if (most > 5000) most = 5000;
  uint32_t pause = most / 2 + (uint32_t)(uffd_now() / 1000 % (most / 2 + 1)); /* half of it by chance */
  return pause > wait_ms ? pause : wait_ms;
}

/* Waits before the next try; false: the patience is over. */
static bool wait_again(uint32_t attempts, uint32_t wait_ms, uint64_t end_ns) {
  uint32_t pause = uffd_remote_pause(attempts, wait_ms);
  if (uffd_now() + (uint64_t)pause * 1000000 >= end_ns) return false;
  poll(NULL, 0, (int)pause);
  return true;
}

static int connect_to(struct uffd_remote *remote, const struct uffd_image_opts *opts) {
  bool nbd = uffd_uri_scheme(remote->uri) == UFFD_SCHEME_NBD;
  const struct uffd_transport_opts wanted = {
      .uri = remote->uri,
      .name = remote->name,
      .credentials = opts->credentials,
      .ca_file = opts->ca_file != NULL ? opts->ca_file : getenv("UFFD_CA_FILE"),
      .patience_ms = remote->patience_ms,
      .unversioned = (opts->flags & UFFD_IMAGE_UNVERSIONED) != 0,
  };
  uint64_t end = uffd_now() + (uint64_t)remote->patience_ms * 1000000;
  for (uint32_t attempts = 0;; attempts++) {
    struct uffd_refusal refusal = {.heals = false};
    int result = nbd ? uffd_nbd_open(&wanted, &remote->transport, &refusal)
                     : uffd_http_open(&wanted, &remote->transport, &refusal);
    if (result == 0) return 0;
    if (refusal.heals && wait_again(attempts, refusal.wait_ms, end)) continue;
    if (refusal.words[0] == '\0') return fail(-result, "No memory to open %s.", remote->name);
    return fail(-result, "Cannot open %s: %s.", remote->name, refusal.words);
  }
}

/* A cache that was named must be there; without the default one, the file is fetched for this process alone. */
static int choose_cache(struct uffd_remote *remote, const struct uffd_image_opts *opts) {
  int result = uffd_cache_directory(opts->cache, true, remote->cache, sizeof(remote->cache));
  remote->is_cached = result == 0;
  remote->cache_limit = opts->cache_limit;
  if (result >= 0 || opts->cache != NULL) return result < 0 ? result : 0;
  uffd_log(UFFD_LOG_WARNING, "%s What is fetched of %s is not kept.", uffd_errmsg(), remote->name);
  return 0;
}

static int open_remote(const char *uri, const struct uffd_image_opts *opts, struct uffd_remote *remote) {
  char name[NAME_ROOM];
  if (uffd_uri_scheme(uri) == UFFD_SCHEME_UNKNOWN) {
    size_t scheme = strcspn(uri, ":");
    return fail(EPROTONOSUPPORT, "Images come from paths, http, https, s3 and nbd, not from %.*s://.", (int)scheme,
                uri);
  }
  int result = uffd_uri_name(uri, name, sizeof(name));
  if (result < 0) return result;
  remote->name = copy_text(name);
  remote->uri = copy_text(uri);
  remote->block = uffd_alloc(BLOCK);
  remote->patience_ms = opts->patience_ms == 0 ? PATIENCE_MS : opts->patience_ms;
  if (remote->name == NULL || remote->uri == NULL || remote->block == NULL) {
    return fail(ENOMEM, "No memory to open %s.", name);
  }
  result = choose_cache(remote, opts);
  if (result == 0) result = connect_to(remote, opts);
  if (result < 0) return result;
  uint64_t bytes = remote->transport->bytes;
  if (bytes == 0) return fail(EINVAL, "%s is empty.", name);
  return bytes > UFFD_IMAGE_LIMIT ? fail(EFBIG, "%s has more than 2^47 bytes.", name) : 0;
}

int uffd_remote_open(const char *uri, const struct uffd_image_opts *opts, struct uffd_remote **made) {
  struct uffd_remote *remote = NEW(struct uffd_remote);
  *made = NULL;
  if (remote == NULL) return fail(ENOMEM, "No memory to open a remote file.");
  int result = open_remote(uri, opts, remote);
  if (result < 0) {
    struct uffd_sentence why = uffd_keep_sentence();
    uffd_remote_close(remote);
    uffd_restore_sentence(&why);
    return result;
  }
  *made = remote;
  return 0;
}

/* NOLINTNEXTLINE(readability-non-const-parameter): it is written by the transport */
static int fetch(struct uffd_remote *remote, uint64_t offset, char *buffer, uint64_t length) {
  struct uffd_request request = {.offset = offset, .length = length, .buffer = buffer}, *list[UFFD_FLIGHTS];
  uint64_t end = uffd_now() + (uint64_t)remote->patience_ms * 1000000;
  for (uint32_t attempts = 0;; attempts++) {
    uint64_t start = uffd_now();
    remote->transport->class->start(remote->transport, &request);
    while (remote->transport->class->run(remote->transport, -1, 1000, list) == 0) {
    }
    if (request.error == 0) {
      uint64_t took = uffd_now() - start;
      if (remote->latency_ns == 0 || took < remote->latency_ns) remote->latency_ns = took;
      return 0;
    }
    if (request.heals && wait_again(attempts, request.wait_ms, end)) continue;
    return fail(request.error, "%s: %" PRIu64 " bytes from %" PRIu64 " cannot be had: %s.", remote->name, length,
                offset, request.words);
  }
}

/* The block that holds a small part: at the file's end, the last one. */
static int read_block(struct uffd_remote *remote, uint64_t offset, void *buffer, uint64_t length) {
  uint64_t bytes = remote->transport->bytes;
  bool there = offset >= remote->block_at && offset + length <= remote->block_at + remote->block_bytes;
  if (!there) {
    uint64_t at = bytes <= BLOCK ? 0 : min_u64(offset, bytes - BLOCK);
    remote->block_bytes = 0;
    int result = fetch(remote, at, remote->block, min_u64(BLOCK, bytes));
    if (result < 0) return result;
    remote->block_at = at;
    remote->block_bytes = min_u64(BLOCK, bytes);
  }
  memcpy(buffer, remote->block + (offset - remote->block_at), length);
  return 0;
}

int uffd_remote_read(struct uffd_remote *remote, uint64_t offset, void *buffer, uint64_t length) {
  uint64_t bytes = remote->transport->bytes;
  if (offset > bytes || length > bytes - offset) {
    return fail(EIO, "%s ends at byte %" PRIu64 ", and %" PRIu64 " bytes from %" PRIu64 " are needed.", remote->name,
                bytes, length, offset);
  }
  if (length == 0) return 0;
  if (length <= BLOCK) return read_block(remote, offset, buffer, length);
  char *at = buffer;
  for (uint64_t done = 0; done < length;) {
    uint64_t part = min_u64(UFFD_REQUEST_MOST, length - done);
    int result = fetch(remote, offset + done, at + done, part);
    if (result < 0) return result;
    done += part;
  }
  return 0;
}
