/*
 * cloud receive SOCKET IMAGE, cloud send SOCKET IMAGE: the stand-in for Cloud Hypervisor as a program, for transcripts.
 * The machine has two slots of one memfd, whose contents follow each other in the image.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hypervisor.h"
#include "vmm.h"

static const char state[] = "{\"id\":\"vm\"}";
static char config[2048];

static int say(const char *what, int code) {
  printf("the machine %s\n", what);
  return code;
}

static int receive(struct hypervisor *machine, const char *path) {
  machine->listener = hypervisor_listen(path);
  if (machine->listener < 0) return say("cannot listen", 1);
  int result = hypervisor_receive(machine);
  unlink(path);
  if (result == 77) return say("has no userfaultfd", 77);
  if (result != 0) return say("was not restored", result);
  unsigned long long wrong = atomic_load(&machine->seen->wrong), walked = atomic_load(&machine->seen->walked);
  printf("the guest has read %llu pages, %llu of them wrong\n", walked, wrong);
  return wrong != 0;
}

static int send_it(const struct hypervisor *machine, const char *path, uint64_t length) {
  int memory = hypervisor_memory(machine, length), socket = -1;
  for (int tries = 0; tries < 1000 && (socket = hypervisor_connect(path)) < 0; tries++) {
    usleep(10000);
  }
  if (memory < 0 || socket < 0) return say("cannot send itself", 1);
  unsigned answer = hypervisor_say(socket, HYPERVISOR_START, 0, NULL, 0, -1);
  for (unsigned i = 0; i < machine->count && answer == 1; i++) {
    answer = hypervisor_say(socket, HYPERVISOR_MEMORY_FD, 0, &machine->slots[i].number, 4, memory);
  }
  if (answer == 1) answer = hypervisor_say(socket, HYPERVISOR_CONFIG, 0, config, strlen(config), -1);
  if (answer == 1) answer = hypervisor_say(socket, HYPERVISOR_STATE, 0, state, strlen(state), -1);
  if (answer == 1) answer = hypervisor_say(socket, HYPERVISOR_COMPLETE_PAUSED, 0, NULL, 0, -1);
  return answer == 1 ? say("is saved, and ends", 0) : say("is not saved", 1);
}

int main(int argc, char **argv) {
  static struct hypervisor_seen seen;
  uint64_t length = 0;
  const unsigned char *image = argc == 4 ? vmm_open_image(argv[3], &length) : NULL;
  if (image == NULL) {
    fprintf(stderr, "usage: cloud receive|send SOCKET IMAGE\n");
    return 2;
  }
  struct hypervisor machine = {
      .count = 2, .page_size = 4096, .image = image, .config = config, .state = state, .threads = 2, .seen = &seen};
  machine.slots[0] = (struct hypervisor_slot){0, 0, length / 4 * 3, 0, 0};
  machine.slots[1] = (struct hypervisor_slot){1, UINT64_C(1) << 32, length / 4, length / 4 * 3, length / 4 * 3};
  if (hypervisor_config(&machine, config, sizeof(config)) >= sizeof(config)) return 1;
  return strcmp(argv[1], "send") == 0 ? send_it(&machine, argv[2], length) : receive(&machine, argv[2]);
}
