/*
 * The program of a QEMU guest: fills memory with a pattern, and answers on the console. guest MIB
 *
 *   ping     PONG
 *   eighth   every eighth page, in random order: "EIGHTH wrong 0"
 *   walk     every byte of every page, in random order: "WALKED 24576 wrong 0"
 *   who      the name in the identity page, which a policy may have replaced
 *   inflate  the balloon's pages given back, as the kernel's counter has them: "BALLOON 30720"
 *
 * Static, because the guest has no libraries; two threads walk where it has two processors.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE     4096
#define WORDS    (PAGE / sizeof(uint64_t))
#define STRIDE   7919 /* a prime: it visits every page once */
#define WALKERS  2
#define IDENTITY "uffd identity page 6f3a9c"
#define GOLDEN   UINT64_C(0x9E3779B97F4A7C15)

static uint64_t *memory;
static uint64_t pages;

struct walk {
  pthread_t thread;
  uint64_t first, step, end; /* of the pages in their random order */
  uint64_t wrong;
};

static uint64_t word(uint64_t page, uint64_t i) {
  return (page * WORDS + i + 1) * GOLDEN;
}

static int is_wrong(uint64_t page) {
  for (uint64_t i = 0; i < WORDS; i++) {
    if (memory[page * WORDS + i] != word(page, i)) return 1;
  }
  return 0;
}

static void *walk(void *argument) {
  struct walk *mine = argument;
  for (uint64_t n = mine->first; n < mine->end; n += mine->step) {
    mine->wrong += (uint64_t)is_wrong(n * STRIDE % pages);
  }
  return NULL;
}

static uint64_t walk_all(uint64_t end) {
  struct walk walks[WALKERS];
  uint64_t count = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? WALKERS : 1, wrong = 0;
  for (uint64_t i = 0; i < count; i++) {
    walks[i] = (struct walk){.first = i, .step = count, .end = end};
    if (pthread_create(&walks[i].thread, NULL, walk, &walks[i]) != 0) exit(1);
  }
  for (uint64_t i = 0; i < count; i++) {
    pthread_join(walks[i].thread, NULL);
    wrong += walks[i].wrong;
  }
  return wrong;
}

/* "No name" is the original, whose page still has the text. */
static void tell_name(const char *identity) {
  uint32_t length;
  memcpy(&length, identity, sizeof(length));
  if (strcmp(identity, IDENTITY) == 0) {
    printf("NAME none\n");
  } else {
    printf("NAME %.*s\n", (int)(length < 64 ? length : 64), identity + sizeof(length));
  }
}

static void tell_balloon(void) {
  char name[64];
  unsigned long value, inflated = 0, deflated = 0;
  FILE *counters = fopen("/proc/vmstat", "re");
  while (counters != NULL && fscanf(counters, "%63s %lu", name, &value) == 2) {
    if (strcmp(name, "balloon_inflate") == 0) inflated = value;
    if (strcmp(name, "balloon_deflate") == 0) deflated = value;
  }
  if (counters != NULL) fclose(counters);
  printf("BALLOON %lu\n", inflated - deflated);
}

static void *map(uint64_t length) {
  void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) exit(1);
  return at;
}

int main(int argc, char **argv) {
  char line[64];
  if (argc != 2) return 2;
  pages = strtoull(argv[1], NULL, 10) << 20 >> 12;
  memory = map(pages * PAGE);
  char *identity = map(PAGE);
  memcpy(identity, IDENTITY, sizeof(IDENTITY));
  for (uint64_t i = 0; i < pages * WORDS; i++) {
    memory[i] = word(i / WORDS, i % WORDS);
  }
  mlockall(MCL_CURRENT);
  setvbuf(stdout, NULL, _IOLBF, 0);
  while (fgets(line, sizeof(line), stdin) != NULL) {
    if (strcmp(line, "ping\n") == 0) printf("PONG\n");
    if (strcmp(line, "eighth\n") == 0) printf("EIGHTH wrong %lu\n", (unsigned long)walk_all(pages / 8));
    if (strcmp(line, "walk\n") == 0) {
      printf("WALKED %lu wrong %lu\n", (unsigned long)pages, (unsigned long)walk_all(pages));
    }
    if (strcmp(line, "who\n") == 0) tell_name(identity);
    if (strcmp(line, "inflate\n") == 0) tell_balloon();
  }
  return 0;
}
