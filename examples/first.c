/*
 * Memory that reads like a file, filled as it is touched, except one page that is this program's own.
 * build: cc first.c $(pkg-config --cflags --libs uffd) -o first
 * usage: first FILE
 */
#include <stdio.h>
#include <string.h>
#include <uffd.h>

#define OWN_PAGE (64 * 4096)

/* Asked for one page only: the library answers all others by itself. */
static int resolve(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)state, (void)fault;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = ctx;
  answer->length = strlen(ctx); /* shorter than a page: the rest is zeros */
  return 0;
}

int main(int argc, char **argv) {
  static char identity[] = "clone-7";
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  struct uffd_stats stats = UFFD_STATS_INIT;
  struct uffd_layer stack[2] = {{0}, {OWN_PAGE, 4096, NULL, 0}}; /* a layer without a length is the ground */
  uffd_resolver *layers = NULL;
  uffd_memory *memory = NULL;
  uffd_loop *loop = NULL;
  int result;

  ops.resolve = resolve;
  if (argc != 2) {
    fprintf(stderr, "usage: first FILE\n");
    return 2;
  }
  if ((result = uffd_resolver_file(argv[1], NULL, &stack[0].resolver)) < 0) goto out;
  if ((result = uffd_resolver_callback(&ops, identity, "identity", NULL, 0, &stack[1].resolver)) < 0) goto out;
  if ((result = uffd_resolver_layers(stack, 2, &layers)) < 0) goto out;
  uint64_t length = uffd_resolver_size(stack[0].resolver);
  if (length < OWN_PAGE + 4096) length = OWN_PAGE + 4096; /* after a small file: zeros, and the page of our own */
  if ((result = uffd_map(length, NULL, &memory)) < 0) goto out;
  if ((result = uffd_loop_create(NULL, &loop)) < 0) goto out;
  if ((result = uffd_loop_add(loop, memory, layers, NULL, NULL)) < 0) goto out;

  const char *bytes = uffd_memory_address(memory); /* ordinary memory from here on */
  printf("first byte 0x%02x, own page \"%s\"\n", (unsigned char)bytes[0], bytes + OWN_PAGE);
  if ((result = uffd_loop_stats(loop, &stats)) < 0) goto out;
  printf("%d faults, %d answered by the callback\n", (int)stats.faults, (int)stats.policy_calls);

out:
  if (result < 0) fprintf(stderr, "first: %s\n", uffd_errmsg());
  uffd_loop_close(loop);
  uffd_memory_close(memory);
  uffd_resolver_close(layers);
  uffd_resolver_close(stack[0].resolver);
  uffd_resolver_close(stack[1].resolver);
  return result < 0;
}
