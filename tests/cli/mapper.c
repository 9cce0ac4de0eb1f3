/*
 * A program that knows nothing of userfaultfd, for run.t: it maps memory, and does what its arguments say, in order.
 *
 * map=KIND,SIZE[,NAME]: maps SIZE bytes: anonymous, shared (anonymous), memfd, private (a memfd), file (NAME is its
 * path), private-file, reserve (PROT_NONE), locked, populate, stack (it grows).
 * at=ADDRESS: where the next mapping is to lie.
 * check=IMAGE: all mappings, one behind the other, are as the image; what was dropped of a mapping is zero there.
 * fork: a child does the rest, and its parent waits for it. both: a child does the rest, and its parent, too.
 * brief: a child does nothing. brief-map: a child that shares this memory (vfork) maps and unmaps, and does nothing.
 * drop=START,LENGTH: madvise(MADV_DONTNEED) of the last mapping. punch=START,LENGTH: a hole in its file.
 * cut=LENGTH: its file is cut off there, and has its length again.
 * move: the last mapping goes elsewhere by mremap. grow=SIZE: it grows by mremap; what it gains must be zero.
 * unmap: the last mapping. over: other memory lies there from then on, of a file that has no holes.
 * again: the file of the last mapping is mapped once more.
 * spawn=COMMAND, vfork=COMMAND: a shell does it, by posix_spawn or vfork and exec.
 * exec=PROGRAM: replaces this program; the rest are its arguments.
 * clear: the environment. close: all descriptors from 3 on.
 * cancel=SIZE: a thread that is to be cancelled maps memory. load=LIBRARY: which maps as much as its map_late() is
 * told.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
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
static void *wanted; /* where the next mapping is to lie; NULL: anywhere */

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
  void *at = mmap(wanted, length, prot, wanted != NULL ? flags | MAP_FIXED : flags, fd, 0);
  if (at == MAP_FAILED) fail("mmap");
  wanted = NULL;
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
      for (size_t k = 0; k < PAGE; k++) {
        if (at + k >= mapping->dropped && at + k < mapping->dropped + mapping->dropped_length) page[k] = 0;
      }
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

static void cut(size_t length) {
  struct mapping *mapping = last();
  mapping->dropped = length;
  mapping->dropped_length = mapping->length - length;
  if (ftruncate(mapping->fd, (off_t)length) != 0) fail("ftruncate");
  if (ftruncate(mapping->fd, (off_t)mapping->length) != 0) fail("ftruncate");
}

/* A hole that is punched into the file of what was there before must not be one here. */
static void map_over(void) {
  const struct mapping *mapping = last();
  int fd = memfd_create("over", MFD_CLOEXEC);
  if (ftruncate(fd, (off_t)mapping->length) != 0) fail("ftruncate");
  unsigned char *at = mmap(mapping->at, mapping->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (at == MAP_FAILED) fail("mmap");
  memset(at, 7, mapping->length);
  if (fallocate(mapping->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)mapping->length) != 0) {
    fail("fallocate");
  }
  for (size_t i = 0; i < mapping->length; i++) {
    if (at[i] != 7) exit(1);
  }
  count--;
}

static void map_again(void) {
  const struct mapping *mapping = last();
  if (mmap(NULL, mapping->length, PROT_READ, MAP_SHARED, mapping->fd, 0) == MAP_FAILED) fail("mmap");
}

static void *map_cancelled(void *length) {
  (void)pthread_cancel(pthread_self());
  void *at = mmap(NULL, (size_t)(uintptr_t)length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED || munmap(at, (size_t)(uintptr_t)length) != 0) exit(1);
  pthread_testcancel();
  return NULL;
}

static void cancel(size_t length) {
  pthread_t thread;
  void *result;
  if (pthread_create(&thread, NULL, map_cancelled, (void *)(uintptr_t)length) != 0) fail("pthread_create");
  if (pthread_join(thread, &result) != 0 || result != PTHREAD_CANCELED) exit(1);
}

#ifdef MAPPER_STATIC
static void load(const char *path) {
  fail(path);
}
#else
static void load(const char *path) {
  void *library = dlopen(path, RTLD_NOW);
  void *(*map_late)(size_t length) = library != NULL ? (void *(*)(size_t))dlsym(library, "map_late") : NULL;
  if (map_late == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
  const size_t length = 4194304;
  mappings[count++] = (struct mapping){.at = map_late(length), .length = length, .fd = -1};
}
#endif

static void close_all(void) {
  for (int fd = 3; fd < 1024; fd++) {
    close(fd);
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

extern char **environ;

static void spawn(char *command, int *code) {
  char *words[] = {"sh", "-c", command, NULL};
  pid_t pid;
  if (posix_spawnp(&pid, "sh", NULL, NULL, words, environ) != 0) fail("posix_spawn");
  wait_for_child(code);
}

/* The child runs in this memory until it executes the shell. */
static void spawn_by_vfork(char *command, int *code) {
  pid_t pid = vfork(); /* NOLINT: it is what is tested */
  if (pid == 0) {
    execlp("sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
  }
  wait_for_child(code);
}

static void map_in_child(int *code) {
  pid_t pid = vfork(); /* NOLINT: it is what is tested */
  if (pid == 0) {
    void *at = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    _exit(at == MAP_FAILED || munmap(at, PAGE) != 0);
  }
  wait_for_child(code);
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
    } else if (strcmp(word, "brief-map") == 0) {
      map_in_child(&code);
    } else if (strcmp(word, "spawn") == 0) {
      spawn(value, &code);
    } else if (strcmp(word, "vfork") == 0) {
      spawn_by_vfork(value, &code);
    } else if (strcmp(word, "at") == 0) {
      wanted = (void *)(uintptr_t)strtoull(value, NULL, 0);
    } else if (strcmp(word, "over") == 0) {
      map_over();
    } else if (strcmp(word, "again") == 0) {
      map_again();
    } else if (strcmp(word, "clear") == 0) {
      clearenv();
    } else if (strcmp(word, "close") == 0) {
      close_all();
    } else if (strcmp(word, "cancel") == 0) {
      cancel((size_t)strtoull(value, NULL, 10));
    } else if (strcmp(word, "load") == 0) {
      load(value);
    } else if (strcmp(word, "cut") == 0) {
      cut((size_t)strtoull(value, NULL, 10));
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
