/*
 * See hugepages.h. The lock file holds the former value of the sysctl for as long as the value is changed: whoever
 * takes the lock and finds a value there knows that the program before was killed.
 */
#define _GNU_SOURCE
#include "hugepages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK   "/tmp/uffd-test-hugepages.lock"
#define SYSCTL "/proc/sys/vm/nr_hugepages"
#define POOL   "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static int open_lock(const char *path) {
  const int flags = O_CLOEXEC | O_NOFOLLOW;
  int fd = open(path, O_RDWR | flags);
  if (fd < 0 && errno == ENOENT) fd = open(path, O_RDWR | O_CREAT | flags, 0644);
  return fd >= 0 ? fd : open(path, O_RDONLY | flags); /* another user's: it can be locked all the same */
}

static int64_t parse(const char *text) {
  char *end;
  long long number = strtoll(text, &end, 10);
  return end != text ? number : -1;
}

/* -1: there is no such file, or no number in it. */
static int64_t read_number(const char *path) {
  char text[32] = "";
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t length = read(fd, text, sizeof(text) - 1);
  close(fd);
  return length > 0 ? parse(text) : -1;
}

static int write_sysctl(int64_t number) {
  int fd = open(SYSCTL, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  int rc = dprintf(fd, "%lld", (long long)number) > 0 ? 0 : -errno;
  close(fd);
  return rc;
}

/* The value to go back to, or -1. A file of another user's is not believed. */
static int64_t read_record(int lock) {
  char text[32] = "";
  struct stat status;
  if (fstat(lock, &status) != 0 || status.st_uid != geteuid()) return -1;
  return pread(lock, text, sizeof(text) - 1, 0) > 0 ? parse(text) : -1;
}

static void write_record(int lock, int64_t number) {
  char text[32];
  int length = snprintf(text, sizeof(text), "%lld\n", (long long)number);
  if (pwrite(lock, text, (size_t)length, 0) != length) perror(LOCK);
}

static void go_back(int lock, int64_t before) {
  if (before < 0) return;
  if (write_sysctl(before) == 0 && ftruncate(lock, 0) != 0) perror(LOCK);
}

void hugepages_open(struct hugepages *pool) {
  pool->lock = open_lock(LOCK);
  atomic_store(&pool->held, false);
  atomic_store(&pool->before, -1);
}

static void take_lock(struct hugepages *pool) {
  if (pool->lock < 0 || atomic_load(&pool->held)) return;
  while (flock(pool->lock, LOCK_EX) != 0 && errno == EINTR) {
  }
  go_back(pool->lock, read_record(pool->lock));
  atomic_store(&pool->held, true);
}

/* Free, and not promised to a mapping. */
static int64_t count_free(void) {
  return read_number(POOL "free_hugepages") - read_number(POOL "resv_hugepages");
}

int hugepages_lend(struct hugepages *pool, uint64_t count) {
  take_lock(pool);
  int64_t before = read_number(SYSCTL), free = count_free();
  if (free >= (int64_t)count) return 0;
  if (before < 0 || pool->lock < 0) return -ENOENT;
  if (atomic_load(&pool->before) < 0) {
    write_record(pool->lock, before);
    atomic_store(&pool->before, before);
  }
  /* Pages that are in use, though they were taken out of the pool already, are counted in the pool's file alone. */
  int rc = write_sysctl(read_number(POOL "nr_hugepages") - free + (int64_t)count);
  if (rc != 0) return rc;
  return count_free() >= (int64_t)count ? 0 : -ENOMEM;
}

void hugepages_return(struct hugepages *pool) {
  if (pool->lock < 0 || !atomic_exchange(&pool->held, false)) return;
  go_back(pool->lock, atomic_exchange(&pool->before, -1));
  (void)flock(pool->lock, LOCK_UN);
}
