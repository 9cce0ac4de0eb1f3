/*
 * Which directory the cache is in. It belongs to the user: nobody else could write what is read from it.
 */
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "image/cache/cache.h"

static int make_directory(const char *path) {
  if (mkdir(path, 0700) == 0 || errno == EEXIST) return 0;
  return -errno;
}

static int make_directories(char *path) {
  for (char *at = path + 1; *at != '\0'; at++) {
    if (*at != '/') continue;
    *at = '\0';
    int result = make_directory(path);
    *at = '/';
    if (result < 0 && result != -EROFS && result != -EACCES) return result;
  }
  return make_directory(path);
}

static const char *home(void) {
  const char *path = getenv("HOME");
  if (path != NULL && path[0] == '/') return path;
  const struct passwd *user = getpwuid(geteuid()); /* NOLINT(concurrency-mt-unsafe): opening is not the fault path */
  return user != NULL ? user->pw_dir : NULL;
}

static int name_directory(const char *choice, char *path, size_t room) {
  const char *base = getenv("XDG_CACHE_HOME");
  if (choice == NULL) choice = getenv("UFFD_CACHE");
  if (choice != NULL) return snprintf(path, room, "%s", choice);
  if (base != NULL && base[0] == '/') return snprintf(path, room, "%s/uffd", base);
  base = home();
  return base == NULL ? 0 : snprintf(path, room, "%s/.cache/uffd", base);
}

int uffd_cache_directory(const char *choice, bool make, char *path, size_t room) {
  int length = name_directory(choice, path, room);
  if (length < 0 || (size_t)length >= room) return fail(ENAMETOOLONG, "The path of the cache is too long.");
  if (length == 0) return 1;
  int result = make ? make_directories(path) : 0;
  struct stat status = {.st_mode = 0};
  if (result == 0 && stat(path, &status) != 0) result = -errno;
  if (result < 0) return fail(-result, "The cache %s cannot be used: %s.", path, strerror(-result));
  if (!S_ISDIR(status.st_mode)) return fail(ENOTDIR, "The cache %s is not a directory.", path);
  if (status.st_uid != geteuid()) {
    return fail(EPERM, "The cache %s belongs to another user: choose another directory (UFFD_CACHE).", path);
  }
  return 0;
}
