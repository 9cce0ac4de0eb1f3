/*
 * Memory that reads like a file, filled as it is touched, except one page that is this program's own.
 * build: cc first.c $(pkg-config --cflags --libs uffd) -o first
 * usage: first FILE
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <uffd.h>

static int check(int result) {
  if (result < 0) fprintf(stderr, "first: %s\n", uffd_errmsg());
  return result;
}

/* Asked for its own page only: everything else is answered without a callback. */
static int resolve(void *ctx, void *state, const struct uffd_fault *fault, struct uffd_answer *answer) {
  (void)state, (void)fault;
  answer->kind = UFFD_ANSWER_BYTES;
  answer->data = ctx;
  answer->length = strlen(ctx); /* shorter than the page: the rest is zeros */
  return 0;
}

int main(int argc, char **argv) {
  static char identity[] = "clone-7";
  struct uffd_callback_ops ops = UFFD_CALLBACK_OPS_INIT;
  uffd_resolver *image = NULL, *own = NULL, *layers = NULL;
  uffd_memory *memory = NULL;
  uffd_loop *loop = NULL;
  int result = 1;

  ops.resolve = resolve;
  if (argc != 2) {
    fprintf(stderr, "usage: first FILE\n");
    return 2;
  }
  if (check(uffd_resolver_file(argv[1], NULL, &image)) < 0) goto out;
  if (check(uffd_resolver_callback(&ops, identity, "identity", NULL, 0, &own)) < 0) goto out;
  struct uffd_layer stack[] = {
      {0, 0, image, 0},         /* no length: the ground, wherever nothing lies on top */
      {64 << 12, 4096, own, 0}, /* one page of our own */
  };
  if (check(uffd_resolver_layers(stack, 2, &layers)) < 0) goto out;
  if (check(uffd_map(uffd_resolver_size(image), NULL, &memory)) < 0) goto out;
  if (check(uffd_loop_create(NULL, &loop)) < 0) goto out;
  if (check(uffd_loop_add(loop, memory, layers, NULL, NULL)) < 0) goto out;

  const char *bytes = uffd_memory_address(memory); /* ordinary memory from here on */
  struct uffd_stats stats = UFFD_STATS_INIT;
  printf("first byte 0x%02x, identity \"%s\"\n", (unsigned char)bytes[0], bytes + (64 << 12));
  if (check(uffd_loop_stats(loop, &stats)) < 0) goto out;
  printf("%" PRIu64 " faults, %" PRIu64 " by the callback\n", stats.faults, stats.policy_calls);
  result = 0;

out:
  uffd_loop_close(loop);
  uffd_memory_close(memory);
  uffd_resolver_close(layers);
  uffd_resolver_close(own);
  uffd_resolver_close(image);
  return result;
}
