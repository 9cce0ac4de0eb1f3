/*
 * A program that knows nothing of userfaultfd, for run.t: it maps memory, and does what its arguments say, in order.
 *
 *   map=KIND,SIZE[,NAME]  maps SIZE bytes: anonymous, shared (anonymous), memfd, private (a memfd), file (NAME is its
 *                         path), private-file, reserve (PROT_NONE), locked, populate, stack (it grows)
 *   check=IMAGE           all mappings, one behind the other, are as the image; a mapping that was dropped there is
 * zero fork                  a child does the rest, and its parent waits for it both                  a child does the
 * rest, its parent too drop=START,LENGTH     madvise(MADV_DONTNEED) of the last mapping punch=START,LENGTH    a hole in
 * its file move                  the last mapping goes elsewhere by mremap grow=SIZE             the last mapping grows
 * by mremap; what it gains must be zero unmap                 the last mapping exec=PROGRAM          replaces this
 * program; the rest are its arguments
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE         4096
#define MAPPINGS_MAX 8

struct mapping {
  unsigned char *at;
  size_t length;
  size_t dropped, dropped_length; /* zero by now */
  int fd;
};

static struct mapping mappings[MAPPINGS_MAX];
static unsigned count;

static struct mapping *last(void) {
  return &mappings[count - 1];
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void map(const char *kind, size_t length, const char *name) {
  int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS, prot = PROT_READ | PROT_WRITE;
  if (strcmp(kind, "shared") == 0) flags = MAP_SHARED | MAP_ANONYMOUS;
  if (strcmp(kind, "reserve") == 0) prot = PROT_NONE;
  if (strcmp(kind, "locked") == 0) flags |= MAP_LOCKED;
  if (strcmp(kind, "populate") == 0) flags |= MAP_POPULATE;
  if (strcmp(kind, "stack") == 0) flags |= MAP_GROWSDOWN | MAP_STACK;
  if (strcmp(kind, "memfd") == 0 || strcmp(kind, "private") == 0) fd = memfd_create(name, MFD_CLOEXEC);
  if (strstr(kind, "file") != NULL) fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd >= 0) {
    flags = strncmp(kind, "private", strlen("private")) == 0 ? MAP_PRIVATE : MAP_SHARED;
    if (ftruncate(fd, (off_t)length) != 0) fail("ftruncate");
  }
  void *at = mmap(NULL, length, prot, flags, fd, 0);
  if (at == MAP_FAILED) fail("mmap");
  if (prot != PROT_NONE) mappings[count++] = (struct mapping){.at = at, .length = length, .fd = fd};
}

static int check(const char *path) {
  unsigned char page[PAGE];
  unsigned long pages = 0, wrong = 0;
  FILE *image = fopen(path, "rb");
  if (image == NULL) fail(path);
  for (unsigned i = 0; i < count; i++) {
    const struct mapping *mapping = &mappings[i];
    for (size_t at = 0; at < mapping->length; at += PAGE, pages++) {
      if (fread(page, PAGE, 1, image) != 1) fail("the image is too short");
      if (at >= mapping->dropped && at < mapping->dropped + mapping->dropped_length) memset(page, 0, sizeof(page));
      if (memcmp(mapping->at + at, page, PAGE) != 0) wrong++;
    }
  }
  fclose(image);
  printf("pages %lu wrong %lu\n", pages, wrong);
  fflush(stdout);
  return wrong == 0 ? 0 : 1;
}

static void take_range(const char *text, size_t *start, size_t *length) {
  if (sscanf(text, "%zu,%zu", start, length) != 2) exit(2);
}

static void drop(const char *range) {
  struct mapping *mapping = last();
  take_range(range, &mapping->dropped, &mapping->dropped_length);
  if (madvise(mapping->at + mapping->dropped, mapping->dropped_length, MADV_DONTNEED) != 0) fail("madvise");
}

static void punch(const char *range) {
  struct mapping *mapping = last();
  take_range(range, &mapping->dropped, &mapping->dropped_length);
  if (fallocate(mapping->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)mapping->dropped,
                (off_t)mapping->dropped_length) != 0) {
    fail("fallocate");
  }
}

static void resize(size_t length) {
  struct mapping *mapping = last();
  size_t before = mapping->length;
  void *at = mremap(mapping->at, before, length, MREMAP_MAYMOVE);
  if (at == MAP_FAILED) fail("mremap");
  mapping->at = at;
  for (size_t i = before; i < length; i++) {
    if (mapping->at[i] != 0) exit(1);
  }
}

static void move(void) {
  struct mapping *mapping = last();
  void *to = mmap(NULL, mapping->length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (to == MAP_FAILED) fail("mmap");
  mapping->at = mremap(mapping->at, mapping->length, mapping->length, MREMAP_MAYMOVE | MREMAP_FIXED, to);
  if (mapping->at == MAP_FAILED) fail("mremap");
}

static void wait_for_child(int *code) {
  int status;
  if (wait(&status) < 0) fail("wait");
  *code |= WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void divide(int *children, int parent_goes_on, int *code) {
  pid_t pid = fork();
  if (pid < 0) fail("fork");
  if (pid == 0) {
    *children = 0;
  } else if (parent_goes_on) {
    *children += 1;
  } else {
    wait_for_child(code);
    exit(*code);
  }
}

int main(int argc, char **argv) {
  int code = 0, children = 0;
  for (int i = 1; i < argc; i++) {
    char *word = argv[i], *value = strchr(word, '=');
    if (value != NULL) *value++ = '\0';
    if (strcmp(word, "map") == 0) {
      char kind[32] = "", name[256] = "memory";
      size_t length = 0;
      if (sscanf(value, "%31[^,],%zu,%255s", kind, &length, name) < 2) return 2;
      map(kind, length, name);
    } else if (strcmp(word, "check") == 0) {
      code |= check(value);
    } else if (strcmp(word, "fork") == 0 || strcmp(word, "both") == 0) {
      divide(&children, word[0] == 'b', &code);
    } else if (strcmp(word, "brief") == 0) {
      pid_t pid = fork();
      if (pid == 0) _exit(0);
      wait_for_child(&code);
    } else if (strcmp(word, "drop") == 0) {
      drop(value);
    } else if (strcmp(word, "punch") == 0) {
      punch(value);
    } else if (strcmp(word, "move") == 0) {
      move();
    } else if (strcmp(word, "grow") == 0) {
      resize((size_t)strtoull(value, NULL, 10));
    } else if (strcmp(word, "unmap") == 0) {
      count--;
      if (munmap(mappings[count].at, mappings[count].length) != 0) fail("munmap");
    } else if (strcmp(word, "exec") == 0) {
      argv[i] = value;
      execvp(value, &argv[i]);
      fail(value);
    } else {
      return 2;
    }
  }
  while (children-- > 0) {
    wait_for_child(&code);
  }
  return code;
}
