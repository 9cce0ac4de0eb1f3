/*
 * Userfaultfds that somebody else has made, and what /proc/self/fdinfo tells of them.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel/object.h"

/* The text of /proc/self/fdinfo/FD: its length, or -errno. */
static int read_fdinfo(int fd, char *text, size_t size) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return -errno;
  ssize_t length = read(file, text, size - 1);
  int rc = length < 0 ? -errno : (int)length;
  close(file);
  text[length > 0 ? length : 0] = '\0';
  return rc;
}

static bool find_field(const char *text, const char *field, int base, uint64_t *value) {
  const char *at = strstr(text, field);
  if (at == NULL) return false;
  *value = strtoull(at + strlen(field), NULL, base);
  return true;
}

/* "API:\taa:<features>:<ioctls>", in hexadecimal: only a userfaultfd has that line. */
static int read_features(int fd, uint64_t *features) {
  char text[1024], target[128] = "?", link[64];
  int rc = read_fdinfo(fd, text, sizeof(text));
  if (rc < 0) return fail(EINVAL, "Cannot tell what descriptor %d is: /proc/self/fdinfo: %s.", fd, strerror(-rc));
  const char *at = strstr(text, "API:\t");
  if (at != NULL) at = strchr(at + strlen("API:\t"), ':');
  if (at == NULL) {
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, target, sizeof(target) - 1);
    if (length > 0) target[length] = '\0';
    return fail(EINVAL, "Descriptor %d is not a userfaultfd, but %s.", fd, target);
  }
  *features = strtoull(at + 1, NULL, 16) & ~RAW_FEATURES_INITIALISED;
  return 0;
}

/* Before its handshake a userfaultfd polls as an error, even when it is non-blocking. */
static bool is_initialised(int fd) {
  return (uffd_ready(fd, POLLIN) & POLLERR) == 0;
}

int uffd_adopt(int fd, uffd_object **object) {
  int descriptor_flags = fcntl(fd, F_GETFD);
  int status_flags = fcntl(fd, F_GETFL);
  if (descriptor_flags < 0 || status_flags < 0) return fail(EBADF, "%d is not an open file descriptor.", fd);
  uint64_t features = 0;
  int rc = read_features(fd, &features);
  if (rc < 0) return rc;
  struct uffd_object *made = uffd_object_new();
  if (made == NULL) return -ENOMEM;
  fcntl(fd, F_SETFL, status_flags | O_NONBLOCK);
  if (!is_initialised(fd)) {
    fcntl(fd, F_SETFL, status_flags);
    uffd_object_free(made);
    return fail(EINVAL, "Userfaultfd %d has had no UFFDIO_API handshake: its maker does that before handing it over.",
                fd);
  }
  fcntl(fd, F_SETFD, descriptor_flags | FD_CLOEXEC);
  made->fd = fd;
  made->features = features;
  made->available = uffd_kernel_features();
  made->route = UFFD_ROUTE_ADOPTED;
  made->user_mode_only = -1;
  *object = made;
  return 0;
}

int uffd_pending(uffd_object *object, uint64_t *pending, uint64_t *total) {
  int rc = uffd_enter(object);
  if (rc < 0) return rc;
  char text[1024];
  uint64_t unread = 0, unwoken = 0;
  rc = read_fdinfo(object->fd, text, sizeof(text));
  uffd_leave(object);
  if (rc < 0) return fail(EIO, "Cannot read /proc/self/fdinfo: %s.", strerror(-rc));
  if (!find_field(text, "pending:", 10, &unread) || !find_field(text, "total:", 10, &unwoken))
    return fail(EIO, "/proc/self/fdinfo does not tell the faults that wait.");
  if (pending != NULL) *pending = unread;
  if (total != NULL) *total = unwoken;
  return 0;
}
