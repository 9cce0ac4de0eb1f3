/*
 * The stand-in VMM as a program. Its last line is its result: pages 65536 wrong 0 ms 412. Exit codes: 0 all bytes are
 * right, 1 wrong bytes or a failure, 2 usage, 77 no userfaultfd or no huge pages here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vmm.h"

static const char usage[] =
    "usage: vmm --socket PATH --image FILE [OPTION]...\n"
    "  --make BYTES         make the image first, with --socket missing: only that\n"
    "  --page-size BYTES    4096 (default) or 2097152\n"
    "  --regions N          that the memory is divided into (default 1)\n"
    "  --keys LIST          of page_size, page_size_kib, extra, none (default page_size,page_size_kib)\n"
    "  --pieces N           sends that the list is divided into\n"
    "  --fd-piece N         the piece that the descriptors go with, from 0\n"
    "  --extra-fds N        memfds behind the userfaultfd\n"
    "  --send TEXT          send this instead of the list\n"
    "  --no-fd              send no userfaultfd\n"
    "  --threads N          that touch (default 1)\n"
    "  --in-order           by address, not in random order\n"
    "  --one-of N           touch only one page in N\n"
    "  --seed N\n"
    "  --removes N          calls of madvise(MADV_DONTNEED) meanwhile\n"
    "  --write              every fourth page is written first\n"
    "  --fork               with EVENT_FORK: a forked child touches too\n"
    "  --hang-up            close the connection after the handshake, as Firecracker before 1.12 did\n"
    "  --stay               say so, and wait for the end of standard input before touching, and after\n";

struct settings {
  const char *socket, *image;
  uint64_t make, page_size;
  unsigned regions;
  struct vmm_message message;
  struct vmm_work work;
  bool forks, hang_up, stay;
};

static const struct option long_options[] = {
    {"socket", required_argument, NULL, 's'},
    {"image", required_argument, NULL, 'i'},
    {"make", required_argument, NULL, 'm'},
    {"page-size", required_argument, NULL, 'p'},
    {"regions", required_argument, NULL, 'r'},
    {"keys", required_argument, NULL, 'k'},
    {"pieces", required_argument, NULL, 'c'},
    {"fd-piece", required_argument, NULL, 'd'},
    {"extra-fds", required_argument, NULL, 'e'},
    {"send", required_argument, NULL, 'T'},
    {"no-fd", no_argument, NULL, 'N'},
    {"threads", required_argument, NULL, 't'},
    {"in-order", no_argument, NULL, 'o'},
    {"one-of", required_argument, NULL, 'n'},
    {"seed", required_argument, NULL, 'S'},
    {"removes", required_argument, NULL, 'R'},
    {"write", no_argument, NULL, 'w'},
    {"fork", no_argument, NULL, 'f'},
    {"hang-up", no_argument, NULL, 'h'},
    {"stay", no_argument, NULL, 'y'},
    {NULL, 0, NULL, 0},
};

static unsigned parse_keys(const char *list) {
  unsigned keys = 0;
  const char *at = list;
  while (*at != '\0') {
    size_t length = strcspn(at, ",");
    if (length == 9 && strncmp(at, "page_size", 9) == 0) keys |= VMM_PAGE_SIZE;
    if (length == 13 && strncmp(at, "page_size_kib", 13) == 0) keys |= VMM_PAGE_SIZE_KIB;
    if (length == 5 && strncmp(at, "extra", 5) == 0) keys |= VMM_EXTRA_KEYS;
    at += length + (at[length] == ',');
  }
  return keys;
}

static bool set_option(struct settings *settings, int option, const char *value) {
  uint64_t number = value != NULL ? strtoull(value, NULL, 0) : 0;
  switch (option) {
  case 's':
    settings->socket = value;
    break;
  case 'i':
    settings->image = value;
    break;
  case 'm':
    settings->make = number;
    break;
  case 'p':
    settings->page_size = number;
    break;
  case 'r':
    settings->regions = (unsigned)number;
    break;
  case 'k':
    settings->message.keys = parse_keys(value);
    break;
  case 'c':
    settings->message.pieces = (unsigned)number;
    break;
  case 'd':
    settings->message.fd_piece = (unsigned)number;
    break;
  case 'e':
    settings->message.extra_fds = (unsigned)number;
    break;
  case 'T':
    settings->message.text = value;
    break;
  case 'N':
    settings->message.no_fd = true;
    break;
  case 't':
    settings->work.threads = (unsigned)number;
    break;
  case 'o':
    settings->work.in_order = true;
    break;
  case 'n':
    settings->work.one_of = (unsigned)number;
    break;
  case 'S':
    settings->work.seed = (unsigned)number;
    break;
  case 'R':
    settings->work.removes = number;
    break;
  case 'w':
    settings->work.write = true;
    break;
  case 'f':
    settings->forks = true;
    break;
  case 'h':
    settings->hang_up = true;
    break;
  case 'y':
    settings->stay = true;
    break;
  default:
    return false;
  }
  return true;
}

static int tell(const char *what, int result) {
  fprintf(stderr, "vmm: %s: %s\n", what, strerror(-result));
  return result == -EPERM || result == -ENOSYS || result == -ENOMEM ? 77 : 1;
}

/* Divides the image into regions. The last region has the rest. */
static int map_image(struct vmm *vmm, const struct settings *settings) {
  uint64_t pages[VMM_REGIONS_MAX];
  uint64_t total = (settings->work.image_length + settings->page_size - 1) / settings->page_size;
  for (unsigned i = 0; i < settings->regions; i++) {
    pages[i] = total * (i + 1) / settings->regions - total * i / settings->regions;
  }
  return vmm_map(vmm, settings->page_size, pages, settings->regions);
}

static void wait_for_input(void) {
  char byte;
  printf("ready\n");
  fflush(stdout);
  while (read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n') {
  }
}

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int be_guest(struct vmm *vmm, const struct settings *settings) {
  int status = 0;
  uint64_t begun = now_ms();
  pid_t child = settings->forks ? fork() : -1;
  if (settings->forks && child < 0) return tell("fork", -errno);
  uint64_t wrong = vmm_work(vmm, &settings->work);
  if (child == 0) _exit(wrong != 0);
  if (child > 0 && (waitpid(child, &status, 0) != child || status != 0)) wrong++;
  printf("pages %" PRIu64 " wrong %" PRIu64 " ms %" PRIu64 "\n", vmm_length(vmm) / vmm->page_size, wrong,
         now_ms() - begun);
  fflush(stdout);
  return wrong != 0;
}

static int run(const struct settings *settings) {
  struct vmm vmm;
  int result = map_image(&vmm, settings);
  if (result < 0) return tell("map", result);
  result = vmm_register(&vmm, UFFD_FEATURE_EVENT_REMOVE | (settings->forks ? UFFD_FEATURE_EVENT_FORK : 0),
                        UFFDIO_REGISTER_MODE_MISSING);
  if (result < 0) return tell("userfaultfd", result);
  vmm.socket = vmm_connect(settings->socket);
  if (vmm.socket < 0) {
    tell(settings->socket, vmm.socket);
    return 1;
  }
  result = vmm_hand_over(&vmm, &settings->message);
  if (result < 0) {
    tell("handshake", result);
    return 1;
  }
  if (settings->hang_up) {
    close(vmm.socket);
    vmm.socket = -1;
  }
  if (settings->stay) wait_for_input();
  result = be_guest(&vmm, settings);
  if (settings->stay) wait_for_input();
  vmm_unmap(&vmm);
  return result;
}

int main(int argc, char **argv) {
  struct settings settings = {.page_size = 4096, .regions = 1, .message = {.keys = VMM_PAGE_SIZE | VMM_PAGE_SIZE_KIB}};
  int option;
  while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
    if (!set_option(&settings, option, optarg)) break;
  }
  bool only_make = settings.make != 0 && settings.socket == NULL;
  if (option != -1 || optind != argc || settings.image == NULL || (settings.socket == NULL && !only_make) ||
      settings.regions == 0 || settings.regions > VMM_REGIONS_MAX || settings.message.extra_fds >= VMM_FDS_MAX) {
    fputs(usage, stderr);
    return 2;
  }
  if (settings.make != 0 && vmm_make_image(settings.image, settings.make) == NULL) return tell(settings.image, -errno);
  if (only_make) return 0;
  settings.work.image = vmm_open_image(settings.image, &settings.work.image_length);
  if (settings.work.image == NULL) return tell(settings.image, -errno);
  return run(&settings);
}
