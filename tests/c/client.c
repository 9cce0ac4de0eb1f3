/*
 * A client process: see client.h.
 */
#define _GNU_SOURCE
#include "client.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "kernel/create.h"
#include "kernel/object.h"
#include "passing.h"

/* With as much room behind it as it is long, for growing. */
static unsigned char *map_region(const struct client *client, bool huge) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (huge ? MAP_HUGETLB : 0);
  uint64_t room = huge ? client->length : 2 * client->length;
  unsigned char *at = mmap(NULL, room, PROT_READ | PROT_WRITE, flags, -1, 0);
  CHECK(at != MAP_FAILED);
  if (room > client->length) munmap(at + client->length, room - client->length);
  return at;
}

static _Noreturn void be_client(struct client *client, const struct client_opts *opts, int socket,
                                void (*run)(struct client *client)) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  client->here = true;
  client->pid = getpid();
  int fd = uffd_create_fd(UFFD_ROUTE_SYSCALL, O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fd = uffd_create_fd(UFFD_ROUTE_SYSCALL, O_CLOEXEC | O_NONBLOCK | RAW_USER_MODE_ONLY);
  CHECK(fd >= 0);
  uint64_t offered = 0;
  CHECK_EQ(uffd_handshake(fd, opts->features, &offered), 0);
  unsigned count = opts->count == 0 ? 1 : opts->count;
  for (unsigned i = 0; i < count; i++) {
    client->regions[i] = map_region(client, opts->huge);
    uint64_t modes = opts->modes == 0 ? UFFD_MODE_MISSING : opts->modes;
    CHECK_EQ(uffd_raw_register(fd, CHECK_ADDRESS(client->regions[i]), client->length, modes, NULL), 0);
  }
  passing_send(socket, fd, client, sizeof(*client));
  close(socket);
  if (!opts->keeps) close(fd);
  run(client);
  fflush(NULL);
  _exit(0);
}

struct client client_start(const struct client_opts *opts, void (*run)(struct client *client)) {
  check_needs(opts->features);
  int ends[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  struct client client = {.page = opts->huge ? UINT64_C(2) << 20 : check_page(), .ctx = opts->ctx};
  client.length = opts->pages * client.page;
  client.shared = mmap(NULL, sizeof(*client.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(client.shared != MAP_FAILED);
  fflush(NULL);
  pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    close(ends[0]);
    be_client(&client, opts, ends[1], run);
  }
  close(ends[1]);
  int fd = passing_receive(ends[0], &client, sizeof(client));
  close(ends[0]);
  client.fd = fd;
  client.pid = pid;
  client.here = false;
  return client;
}

void client_say(const struct client *client, unsigned step) {
  atomic_store(&client->shared->said[client->here ? 0 : 1], step);
}

void client_await(const struct client *client, unsigned step) {
  while (atomic_load(&client->shared->said[client->here ? 1 : 0]) < step)
    check_pause();
}

void client_asleep(int tid, const char *where) {
  char path[64], place[128];
  snprintf(path, sizeof(path), "/proc/%d/wchan", tid);
  do {
    check_pause();
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    ssize_t length = read(fd, place, sizeof(place) - 1);
    close(fd);
    place[length > 0 ? length : 0] = '\0';
    if (strcmp(place, "0") == 0 && !check_is_root()) SKIP("this kernel does not tell where threads sleep");
  } while (strstr(place, where) == NULL);
}

void client_end(struct client *client) {
  check_child(client->pid);
  close(client->fd);
  client->fd = -1;
}

void client_kill(struct client *client) {
  kill(client->pid, SIGKILL);
  CHECK(waitpid(client->pid, NULL, 0) == client->pid);
  close(client->fd);
  client->fd = -1;
}

uffd_object *client_object(const struct client *client) {
  uffd_object *object = NULL;
  CHECK_OK(uffd_adopt(fcntl(client->fd, F_DUPFD_CLOEXEC, 3), &object));
  return object;
}

uffd_memory *client_memory(const struct client *client, unsigned region) {
  struct uffd_foreign_opts opts = UFFD_FOREIGN_OPTS_INIT;
  opts.page_size = client->page;
  opts.pid = client->pid;
  uffd_memory *memory = NULL;
  CHECK_OK(uffd_memory_foreign(CHECK_ADDRESS(client->regions[region]), client->length, &opts, &memory));
  return memory;
}
