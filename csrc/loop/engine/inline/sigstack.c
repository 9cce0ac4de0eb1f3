/*
 * A signal stack for a thread that has none, or too small a one. It goes with the thread.
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#include "base/base.h"

#define STACK_BYTES (UINT64_C(256) << 10)
#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51 /* what the kernel's own frame takes at most (5.14 on x86) */
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key; /* the thread's stack, as it is mapped: a page that cannot be touched, then STACK_BYTES */
static int key_error;

static stack_t as_stack(char *mapped) {
  return (stack_t){.ss_sp = mapped + BASE_PAGE, .ss_size = STACK_BYTES};
}

/* A thread that ends in a signal handler, because it was cancelled there, is still on it. */
static void leave(void *mapped) {
  stack_t none = {.ss_flags = SS_DISABLE}, now;
  bool ours = sigaltstack(NULL, &now) == 0 && now.ss_sp == as_stack(mapped).ss_sp && (now.ss_flags & SS_DISABLE) == 0;
  if (ours && sigaltstack(&none, NULL) != 0) return;
  munmap(mapped, STACK_BYTES + BASE_PAGE);
}

static void make_key(void) {
  key_error = pthread_key_create(&key, leave);
}

/* *mapped: NULL when there is no memory. */
static int map_stack(char **mapped) {
  char *made = mmap(NULL, STACK_BYTES + BASE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (made == MAP_FAILED) return -errno;
  int error = mprotect(made + BASE_PAGE, STACK_BYTES, PROT_READ | PROT_WRITE) != 0 ? errno : 0;
  if (error == 0) error = pthread_setspecific(key, made);
  if (error != 0) munmap(made, STACK_BYTES + BASE_PAGE);
  if (error == 0) *mapped = made;
  return -error;
}

/* The one that the thread has already, though it may have disabled it, or put another in its place. */
static int give_stack(void) {
  char *mapped = pthread_getspecific(key);
  int result = mapped == NULL ? map_stack(&mapped) : 0;
  if (result < 0) return fail(-result, "No memory for a signal stack: %s.", strerror(-result));
  const stack_t wanted = as_stack(mapped);
  if (sigaltstack(&wanted, NULL) == 0) return 0;
  return fail(errno, "The signal stack cannot be replaced by a larger one: %s.",
              errno == EPERM ? "the thread is on it, in a signal handler" : strerror(errno));
}

static bool is_enough(const stack_t *stack) {
  uint64_t frame = max_u64(getauxval(AT_MINSIGSTKSZ), (uint64_t)MINSIGSTKSZ);
  return (stack->ss_flags & SS_DISABLE) == 0 && stack->ss_size >= frame + UFFD_SIGNAL_STACK_BYTES;
}

int uffd_signal_stack(void) {
  stack_t now;
  if (sigaltstack(NULL, &now) == 0 && is_enough(&now)) return 0;
  pthread_once(&once, make_key);
  return key_error != 0 ? fail(key_error, "No key for a signal stack: %s.", strerror(key_error)) : give_stack();
}
