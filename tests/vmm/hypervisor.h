/*
 * A stand-in for Cloud Hypervisor, both ways of its offload protocol: it receives a machine, whose pages it asks for
 * when a guest touches them and between that one after the other, or it sends one. Plain system calls, so it shares no
 * code with what it tests.
 */
#ifndef UFFD_TESTS_HYPERVISOR_H
#define UFFD_TESTS_HYPERVISOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HYPERVISOR_SLOTS 4u

enum { /* commands of the protocol */
       HYPERVISOR_START = 1,
       HYPERVISOR_CONFIG = 2,
       HYPERVISOR_STATE = 3,
       HYPERVISOR_COMPLETE = 5,
       HYPERVISOR_ABANDON = 6,
       HYPERVISOR_MEMORY_FD = 7,
       HYPERVISOR_COMPLETE_PAUSED = 8
};

struct hypervisor_slot {
  uint32_t number;
  uint64_t address; /* guest-physical */
  uint64_t length, file_offset;
  uint64_t image_offset; /* of its contents in the image */
};

/* Shared between the machine's process and the test: zeros at first. */
struct hypervisor_seen {
  _Atomic unsigned commands[10];                  /* so far, by command */
  _Atomic unsigned same_file;                     /* slots whose memfd is that of another slot */
  _Atomic uint64_t demanded, prefaulted, refused; /* pages */
  _Atomic uint64_t wrong;                         /* pages of the guest that are not the image's */
  _Atomic uint64_t walked;                        /* pages that the guest has looked at */
  _Atomic bool runs;                              /* the guest does, or is paused as wanted */
  _Atomic int hold;                               /* while it is not 0, the guest waits, and nothing is prefaulted */
};

struct hypervisor {
  int listener; /* at which it receives; of hypervisor_listen() */
  unsigned count;
  struct hypervisor_slot slots[HYPERVISOR_SLOTS];
  uint64_t page_size; /* of a request, and of the memory */
  const unsigned char *image;
  const char *config, *state; /* what must come, or what is sent; NULL: not compared */
  unsigned threads;           /* of the guest, each of which looks at all pages in an order of its own */
  unsigned refuse;            /* a command that is answered with an error; 0: none */
  unsigned close_after;       /* a command after which it listens no more; 0: none */
  bool hangs_up;              /* after MEMORY_FD */
  bool pieces;                /* requests are sent in two pieces */
  struct hypervisor_seen *seen;
};

int hypervisor_listen(const char *path); /* a descriptor, or -errno */
/* The JSON of Cloud Hypervisor's migration config for these slots, with much beside them. */
size_t hypervisor_config(const struct hypervisor *machine, char *text, size_t size);
/*
 * Receives a machine and runs its guest until all pages are there: 0. 2: the migration failed, or was given up. 3: the
 * answer to a page that the guest waits for was an error, or never came: the machine is dead. 77: no userfaultfd.
 */
int hypervisor_receive(struct hypervisor *machine);

/* What it sends: a step at a time, so that a test leaves some out. A socket, or -errno. */
int hypervisor_connect(const char *path);
/* A request with its payload and descriptor (-1: none): its answer, 1 or 2, or 0 the other side has hung up. */
unsigned hypervisor_say(int socket, unsigned command, unsigned version, const void *payload, size_t length, int fd);
/* A memfd that holds the slots of the image that lie in it, zero pages as holes. Pages of 2 MiB: huge. */
int hypervisor_memory(const struct hypervisor *machine, uint64_t length);

#endif
