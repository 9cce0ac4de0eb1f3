/*
 * A signal stack for a thread whose own stack is small, or is itself served. It goes with the thread.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/base.h"

#define STACK_BYTES (UINT64_C(256) << 10)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static int key_error;

static void leave(void *stack) {
  stack_t none = {.ss_flags = SS_DISABLE}, now;
  if (sigaltstack(NULL, &now) == 0 && now.ss_sp == (char *)stack + BASE_PAGE) sigaltstack(&none, NULL);
  munmap(stack, STACK_BYTES + BASE_PAGE);
}

static void make_key(void) {
  key_error = pthread_key_create(&key, leave);
}

static int give_stack(void) {
  /* the lowest page stays inaccessible: an overflow is a fault, not a corruption */
  char *stack = mmap(NULL, STACK_BYTES + BASE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) return -errno;
  const stack_t wanted = {.ss_sp = stack + BASE_PAGE, .ss_size = STACK_BYTES};
  if (mprotect(wanted.ss_sp, STACK_BYTES, PROT_READ | PROT_WRITE) != 0 || sigaltstack(&wanted, NULL) != 0) {
    int error = errno;
    munmap(stack, STACK_BYTES + BASE_PAGE);
    return -error;
  }
  return -pthread_setspecific(key, stack);
}

int uffd_signal_stack(void) {
  stack_t now;
  if (sigaltstack(NULL, &now) == 0 && (now.ss_flags & SS_DISABLE) == 0) return 0;
  pthread_once(&once, make_key);
  int result = key_error != 0 ? -key_error : give_stack();
  return result < 0 ? fail(-result, "No memory for a signal stack: %s.", strerror(-result)) : 0;
}
