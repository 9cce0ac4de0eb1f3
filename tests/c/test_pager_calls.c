/*
 * The supervisor does nothing that can wait for somebody else: each of its system calls is judged (calls.h) while
 * clients come, fault, fork, misbehave and die, workers are killed and hang, and orders are given.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "calls.h"
#include "door.h"
#include "paging.h"

#define MIB (UINT64_C(1) << 20)

struct scene {
  struct paging paging;
  struct calls calls;
  char control[96], metrics[96], record[96], other[96];
};

static void ask(const struct scene *scene, const char *request) {
  CHECK_EQ(uffd_pager_ask(scene->control, request, 20000, NULL, NULL), 0);
}

/* The clients */

static void fork_and_work(struct paging_job *job) {
  fflush(NULL);
  pid_t child = fork();
  CHECK(child >= 0);
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
  if (child == 0) _exit(0);
  check_child(child);
}

static void die(struct paging_job *job) {
  job->work.one_of = 64;
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
  kill(getpid(), SIGKILL);
}

/* Its memory is gone, and the process lives. */
static void execute(struct paging_job *job) {
  CHECK_EQ(vmm_page(&job->vmm, &job->work, 0), 1);
  execl("/bin/true", "true", (char *)NULL);
  _exit(1);
}

/* It needs no pager any more, and lives on with its memory. */
static void say_goodbye(struct paging_job *job) {
  struct uffdio_range range = {.start = (uintptr_t)job->vmm.regions[0].at, .len = job->vmm.regions[0].length};
  CHECK_EQ(vmm_work(&job->vmm, &job->work), 0);
  CHECK_EQ(ioctl(job->vmm.uffd, UFFDIO_UNREGISTER, &range), 0);
  close(job->vmm.uffd);
  unsigned gone = paging_reports(job->paging, UFFD_REPORT_GONE);
  CHECK_EQ(vmm_send(job->vmm.socket, "[]", 2, NULL, 0), 0);
  while (paging_reports(job->paging, UFFD_REPORT_GONE) == gone) {
    check_pause();
  }
}

static void sleep_on(struct paging_job *job) {
  CHECK_EQ(vmm_page(&job->vmm, &job->work, 0), 1);
  atomic_store(&job->paging->seen->flags[0], 1);
  for (;;) {
    pause();
  }
}

static pid_t start_sleeper(struct scene *scene) {
  struct paging_job job = {.paging = &scene->paging, .run = sleep_on};
  atomic_store(&scene->paging.seen->flags[0], 0);
  pid_t client = paging_client(&job);
  while (atomic_load(&scene->paging.seen->flags[0]) == 0) {
    check_pause();
  }
  return client;
}

static void await_killed(pid_t client) {
  int status;
  CHECK_EQ(waitpid(client, &status, 0), client);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* A connection whose peer never reads, and which may linger when it is closed. */
static int make_lingering(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof(address);
  struct linger linger = {1, 100};
  char bytes[65536] = {0};
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (bind(listener, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(listener, 1) != 0 ||
      getsockname(listener, (struct sockaddr *)&address, &length) != 0 ||
      connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0) {
    close(listener);
    close(fd);
    return -1;
  }
  CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
  while (send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0) {
  }
  return fd; /* the listener stays open until this process ends */
}

/* The scenes */

static void clients_come_and_go(struct scene *scene) {
  struct paging_job job = {.paging = &scene->paging, .features = UFFD_FEATURE_EVENT_REMOVE, .work = {.removes = 50}};
  paging_client_ok(paging_client(&job));
  struct paging_job forking = {.paging = &scene->paging, .features = UFFD_FEATURE_EVENT_FORK, .run = fork_and_work};
  paging_client_ok(paging_client(&forking));
  struct paging_job executing = {.paging = &scene->paging, .run = execute};
  paging_client_ok(paging_client(&executing));
  struct paging_job leaving = {.paging = &scene->paging, .run = say_goodbye};
  paging_client_ok(paging_client(&leaving));
  struct paging_job dying = {.paging = &scene->paging, .run = die};
  await_killed(paging_client(&dying));
  paging_await(&scene->paging, UFFD_REPORT_GONE, 6); /* with the forked child */
  paging_await(&scene->paging, UFFD_REPORT_RECORD, 6);
}

static void refuse(struct scene *scene, const char *text, int fd, unsigned extra) {
  unsigned refused = paging_reports(&scene->paging, UFFD_REPORT_REFUSED);
  int fds[2] = {fd, extra != 0 ? fd : -1};
  int socket = vmm_connect(scene->paging.socket);
  CHECK(socket >= 0);
  CHECK_EQ(vmm_send(socket, text, strlen(text), fds, fd >= 0 ? 1 + (extra != 0) : 0), 0);
  shutdown(socket, SHUT_WR);
  paging_await(&scene->paging, UFFD_REPORT_REFUSED, refused + 1);
  close(socket);
}

static void odd_clients_are_refused(struct scene *scene) {
  int lingering = make_lingering(), image = open(scene->paging.image, O_RDONLY | O_CLOEXEC);
  refuse(scene, "nonsense", -1, 0);
  refuse(scene, "[", image, 0);
  refuse(scene, "[", lingering >= 0 ? lingering : image, 1);
  if (lingering >= 0) close(lingering);
  close(image);
  struct vmm vmm;
  uint64_t pages = 16;
  CHECK_EQ(vmm_map(&vmm, 4096, &pages, 1), 0);
  CHECK_EQ(vmm_register(&vmm, 0, UFFDIO_REGISTER_MODE_MISSING), 0);
  vmm.regions[0].offset = 1ull << 40; /* beyond the image */
  unsigned refused = paging_reports(&scene->paging, UFFD_REPORT_REFUSED);
  /* in a process of its own, which is killed: on_crash */
  fflush(NULL);
  pid_t client = fork();
  CHECK(client >= 0);
  if (client == 0) {
    struct vmm own;
    if (vmm_map(&own, 4096, &pages, 1) != 0 || vmm_register(&own, 0, UFFDIO_REGISTER_MODE_MISSING) != 0) _exit(1);
    own.regions[0].offset = 1ull << 40;
    own.socket = vmm_connect(scene->paging.socket);
    if (own.socket < 0 || vmm_hand_over(&own, NULL) != 0) _exit(1);
    for (;;) {
      pause();
    }
  }
  await_killed(client);
  paging_await(&scene->paging, UFFD_REPORT_REFUSED, refused + 1);
  vmm_unmap(&vmm);
}

/* Whose memory it is must be looked for: by a pidfd, by a number, by a number and no descriptor, in vain. */
static void owners_are_looked_for(struct scene *scene) {
  struct vmm vmm;
  uint64_t pages = scene->paging.length / 4096;
  int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
  CHECK(pidfd >= 0);
  char named[64], whole[80];
  snprintf(named, sizeof(named), ",\"uffd_pid\":%d", getpid());
  for (unsigned i = 0; i < 4; i++) {
    CHECK_EQ(vmm_map(&vmm, 4096, &pages, 1), 0);
    CHECK_EQ(vmm_register(&vmm, 0, UFFDIO_REGISTER_MODE_MISSING), 0);
    snprintf(whole, sizeof(whole), "%s,\"uffd_fd\":%d", named, vmm.uffd);
    const char *extra[] = {",\"uffd_pidfd\":true", whole, named, ",\"uffd_pid\":2147483647"};
    unsigned gone = paging_reports(&scene->paging, UFFD_REPORT_GONE);
    int socket = connect_to(&scene->paging);
    send_list(socket, &vmm, extra[i], vmm.uffd, i == 0 ? pidfd : -1);
    check_line_has(socket, i < 3 ? "\"ok\":true" : "no such process");
    if (i < 3) CHECK_EQ(vmm_send(socket, "[]", 2, NULL, 0), 0);
    if (i < 3) paging_await(&scene->paging, UFFD_REPORT_GONE, gone + 1);
    close(socket);
    vmm_unmap(&vmm);
  }
  close(pidfd);
}

static void workers_die_and_hang(struct scene *scene) {
  struct paging *paging = &scene->paging;
  pid_t client = start_sleeper(scene);
  for (unsigned i = 0; i < 2; i++) {
    unsigned begun = atomic_load(&paging->seen->begun);
    CHECK(paging_kill_worker(paging, 0));
    while (atomic_load(&paging->seen->begun) == begun) {
      check_pause();
    }
  }
  paging_await_clients(paging, 1, UFFD_CLIENT_SERVED);
  unsigned begun = atomic_load(&paging->seen->begun);
  CHECK_EQ(kill(atomic_load(&paging->seen->workers[0]), SIGSTOP), 0);
  paging_await(paging, UFFD_REPORT_HUNG, 1);
  while (atomic_load(&paging->seen->begun) == begun) {
    check_pause();
  }
  paging_await_clients(paging, 1, UFFD_CLIENT_SERVED);
  kill(client, SIGKILL);
  await_killed(client);
}

static void scrape(const struct scene *scene) {
  static const char request[] = "GET /metrics HTTP/1.1\r\n\r\n";
  char reply[4096];
  int fd = vmm_connect(scene->metrics);
  CHECK(fd >= 0);
  CHECK_EQ(send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL), sizeof(request) - 1);
  while (recv(fd, reply, sizeof(reply), 0) > 0) {
  }
  close(fd);
}

static void orders_are_given(struct scene *scene) {
  static const char *const looks[] = {"status", "clients", "stats", "errors", "metrics", "workers"};
  char request[256];
  pid_t client = start_sleeper(scene);
  paging_await_clients(&scene->paging, 1, UFFD_CLIENT_SERVED);
  unsigned long long id = scene->paging.seen->clients[0].client.id;
  for (size_t i = 0; i < sizeof(looks) / sizeof(*looks); i++) {
    snprintf(request, sizeof(request), "{\"request\":\"%s\"}", looks[i]);
    ask(scene, request);
  }
  scrape(scene);
  snprintf(request, sizeof(request), "{\"request\":\"label\",\"client\":%llu,\"label\":\"web\"}", id);
  ask(scene, request);
  snprintf(request, sizeof(request), "{\"request\":\"image\",\"path\":\"%s\"}", scene->other);
  ask(scene, request);
  paging_await(&scene->paging, UFFD_REPORT_IMAGE, 1);
  unsigned begun = atomic_load(&scene->paging.seen->begun);
  ask(scene, "{\"request\":\"reload\"}");
  while (atomic_load(&scene->paging.seen->begun) == begun) {
    check_pause();
  }
  paging_await_clients(&scene->paging, 1, UFFD_CLIENT_SERVED);
  unsigned gone = paging_reports(&scene->paging, UFFD_REPORT_GONE);
  snprintf(request, sizeof(request), "{\"request\":\"kill\",\"client\":%llu}", id);
  ask(scene, request);
  await_killed(client);
  paging_await(&scene->paging, UFFD_REPORT_GONE, gone + 1); /* with it, its image is closed */
}

static void it_drains(struct scene *scene) {
  pid_t client = start_sleeper(scene);
  ask(scene, "{\"request\":\"drain\"}");
  paging_await(&scene->paging, UFFD_REPORT_COMPLETE, 1);
  kill(client, SIGKILL);
  await_killed(client);
}

static void set_up(struct scene *scene, struct uffd_pager_opts *opts) {
  struct paging *paging = &scene->paging;
  paging_set_up(paging, MIB);
  snprintf(scene->control, sizeof(scene->control), "%s/control", paging->directory);
  snprintf(scene->metrics, sizeof(scene->metrics), "%s/metrics", paging->directory);
  snprintf(scene->record, sizeof(scene->record), "%s/set", paging->directory);
  snprintf(scene->other, sizeof(scene->other), "%s/other", paging->directory);
  const unsigned char *bytes = vmm_make_image(scene->other, MIB);
  CHECK(bytes != NULL);
  munmap((void *)(uintptr_t)bytes, MIB);
  *opts = (struct uffd_pager_opts)UFFD_PAGER_OPTS_INIT;
  opts->image = "";
  opts->control = scene->control;
  opts->metrics = scene->metrics;
  opts->record = scene->record;
  opts->around = 4096;
  opts->hang_ms = 2000;
}

static void the_supervisor_never_waits(void) {
  struct scene scene;
  struct uffd_pager_opts opts;
  set_up(&scene, &opts);
  /* somebody may write the image: it is looked at, as there is no lease */
  int fd = open(scene.paging.image, O_RDWR | O_CLOEXEC);
  CHECK(fd >= 0);
  paging_start(&scene.paging, &opts);
  calls_watch(&scene.calls, scene.paging.supervisor, &scene.paging.seen->stepping);
  clients_come_and_go(&scene);
  odd_clients_are_refused(&scene);
  owners_are_looked_for(&scene);
  workers_die_and_hang(&scene);
  orders_are_given(&scene);
  it_drains(&scene);
  CHECK_EQ(calls_end(&scene.calls), 0);
  paging_await_over(&scene.paging);
  close(fd);
  CHECK_EQ(paging_end(&scene.paging), 0);
  paging_tear_down(&scene.paging);
}

/* The program: what it prints goes into pipes that are full, as nobody reads them. */

struct program {
  struct scene scene;
  char reply[1 << 16];
};

static void keep_reply(void *ctx, const char *text, size_t length) {
  struct program *program = ctx;
  snprintf(program->reply, sizeof(program->reply), "%.*s", (int)length, text);
}

static const char *look(struct program *program, const char *request) {
  program->reply[0] = '\0';
  (void)uffd_pager_ask(program->scene.control, request, 20000, keep_reply, program);
  return program->reply;
}

static void await_words(struct program *program, const char *request, const char *words) {
  while (strstr(look(program, request), words) == NULL) {
    check_pause();
  }
}

static int make_full(void) {
  char bytes[4096] = {0};
  int ends[2];
  CHECK_EQ(pipe2(ends, O_NONBLOCK), 0);
  while (write(ends[1], bytes, sizeof(bytes)) > 0) {
  }
  CHECK_EQ(fcntl(ends[1], F_SETFL, 0), 0);
  return ends[1]; /* the other end stays open */
}

static void start_program(struct program *program) {
  struct scene *scene = &program->scene;
  char path[256];
  ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 32);
  CHECK(length > 0);
  path[length] = '\0';
  snprintf(strrchr(path, '/'), 32, "/../bin/uffd-lua");
  if (access(path, X_OK) != 0) SKIP("uffd-lua was not built");
  int full = make_full();
  fflush(NULL);
  scene->paging.supervisor = fork();
  CHECK(scene->paging.supervisor >= 0);
  if (scene->paging.supervisor != 0) {
    await_words(program, "{\"request\":\"workers\"}", "\"ready\"");
    return;
  }
  calls_allow();
  dup2(full, 1);
  dup2(full, 2);
  execl(path, path, "serve", "--json", "--socket", scene->paging.socket, "--control", scene->control, "--metrics",
        scene->metrics, "--image", scene->paging.image, "--around", "4K", (char *)NULL);
  _exit(127);
}

static int worker_of(struct program *program) {
  const char *at = strstr(look(program, "{\"request\":\"workers\"}"), "\"pid\":");
  CHECK(at != NULL);
  return (int)strtol(at + 6, NULL, 10);
}

static void serve_some(struct program *program) {
  struct paging *paging = &program->scene.paging;
  struct paging_job job = {.paging = paging, .features = UFFD_FEATURE_EVENT_REMOVE, .work = {.removes = 20}};
  paging_client_ok(paging_client(&job));
  struct paging_job forking = {.paging = paging, .features = UFFD_FEATURE_EVENT_FORK, .run = fork_and_work};
  paging_client_ok(paging_client(&forking));
  struct paging_job dying = {.paging = paging, .run = die};
  await_killed(paging_client(&dying));
  for (unsigned i = 0; i < 100; i++) { /* each of them is a line */
    int socket = vmm_connect(paging->socket);
    CHECK(socket >= 0);
    CHECK_EQ(vmm_send(socket, "nonsense", 8, NULL, 0), 0);
    close(socket);
  }
  await_words(program, "{\"request\":\"status\"}", "\"refused\":100");
  await_words(program, "{\"request\":\"status\"}", "\"clients\":0");
}

static void give_orders(struct program *program) {
  struct scene *scene = &program->scene;
  char request[256];
  pid_t client = start_sleeper(scene);
  CHECK_EQ(kill(worker_of(program), SIGKILL), 0);
  await_words(program, "{\"request\":\"status\"}", "\"restarts\":1");
  await_words(program, "{\"request\":\"clients\"}", "\"served\"");
  snprintf(request, sizeof(request), "{\"request\":\"image\",\"path\":\"%s\"}", scene->other);
  ask(scene, request);
  ask(scene, "{\"request\":\"reload\"}");
  await_words(program, "{\"request\":\"status\"}", "\"reloads\":1,\"reloading\":false");
  await_words(program, "{\"request\":\"clients\"}", "\"served\"");
  scrape(scene);
  ask(scene, "{\"request\":\"kill\",\"client\":5}");
  await_killed(client);
  await_words(program, "{\"request\":\"status\"}", "\"clients\":0");
}

static void uffd_lua_never_waits(void) {
  static struct program program;
  struct scene *scene = &program.scene;
  struct uffd_pager_opts opts;
  int status;
  set_up(scene, &opts);
  start_program(&program);
  calls_watch(&scene->calls, scene->paging.supervisor, NULL);
  serve_some(&program);
  give_orders(&program);
  CHECK_EQ(calls_end(&scene->calls), 0);
  CHECK_EQ(kill(scene->paging.supervisor, SIGTERM), 0);
  CHECK_EQ(waitpid(scene->paging.supervisor, &status, 0), scene->paging.supervisor);
  CHECK(WIFEXITED(status));
  paging_tear_down(&scene->paging);
}

static const struct check_test tests[] = {
    TEST(the_supervisor_never_waits),
    TEST(uffd_lua_never_waits),
};

CHECK_MAIN(tests)
