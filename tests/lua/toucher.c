/*
 * What the Lua tests need and Lua has not: threads and forked children that touch memory, mappings of every kind, and
 * limits. A Lua module of its own, never installed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../c/hugepages.h"

#define THREAD_TYPE "toucher.thread"

__attribute__((visibility("default"))) int luaopen_toucher(lua_State *L);

static int result_of(lua_State *L, long result) {
  if (result < 0) return luaL_fileresult(L, 0, NULL);
  lua_pushinteger(L, result);
  return 1;
}

/* Threads */

enum operation { READ, WRITE, DROP, UNMAP, FORK };

struct thread {
  pthread_t id;
  bool joined;
  enum operation operation;
  volatile unsigned char *address;
  size_t length;
  size_t stride;
  unsigned char byte;  /* to store */
  unsigned char *seen; /* the bytes read, at every stride */
  size_t count;
  atomic_size_t faulted; /* accesses that raised SIGBUS */
  atomic_int tid;
  atomic_bool done;
};

static _Thread_local sigjmp_buf *on_bus;

static void catch_bus(int signal) {
  if (on_bus != NULL) siglongjmp(*on_bus, 1);
  sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL); /* the access is made again, and ends us */
}

static void touch(struct thread *thread, size_t i) {
  volatile unsigned char *at = thread->address + i * thread->stride;
  if (thread->operation == WRITE)
    *at = thread->byte;
  else
    thread->seen[i] = *at;
}

static void touch_all(struct thread *thread) {
  sigjmp_buf bus;
  on_bus = &bus;
  for (volatile size_t i = 0; i < thread->count; i++) {
    if (sigsetjmp(bus, 1) == 0)
      touch(thread, i);
    else
      atomic_fetch_add(&thread->faulted, 1);
  }
  on_bus = NULL;
}

/*
 * Forks a child that is gone at once. Not by fork(), which holds malloc's locks until its event is read: Lua, which is
 * to read it, allocates.
 */
static void bear(void) {
  pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
  if (child == 0) syscall(SYS_exit_group, 0);
  if (child > 0) waitpid(child, NULL, 0);
}

static void *run(void *ctx) {
  struct thread *thread = ctx;
  atomic_store(&thread->tid, (int)syscall(SYS_gettid));
  void *address = (void *)(uintptr_t)thread->address;
  if (thread->operation == DROP)
    madvise(address, thread->length, MADV_DONTNEED);
  else if (thread->operation == UNMAP)
    munmap(address, thread->length);
  else if (thread->operation == FORK)
    bear();
  else
    touch_all(thread);
  atomic_store(&thread->done, true);
  return NULL;
}

/*
 * toucher.start(operation, address, length, stride, byte): a thread that reads, or stores byte, at every stride (of a
 * page); or drops the range, or unmaps it, or forks.
 */
static int start(lua_State *L) {
  static const char *const operations[] = {"read", "write", "drop", "unmap", "fork", NULL};
  int operation = luaL_checkoption(L, 1, NULL, operations);
  lua_Integer address = luaL_optinteger(L, 2, 0), length = luaL_optinteger(L, 3, 0);
  lua_Integer stride = luaL_optinteger(L, 4, sysconf(_SC_PAGESIZE)), byte = luaL_optinteger(L, 5, 0);
  struct thread *thread = lua_newuserdatauv(L, sizeof(*thread), 0);
  memset(thread, 0, sizeof(*thread));
  thread->joined = true;
  luaL_setmetatable(L, THREAD_TYPE);
  thread->operation = (enum operation)operation;
  thread->address = (volatile unsigned char *)(uintptr_t)address;
  thread->length = (size_t)length;
  thread->stride = (size_t)stride;
  thread->byte = (unsigned char)byte;
  thread->count = (thread->length + thread->stride - 1) / thread->stride;
  thread->seen = calloc(thread->count + 1, 1);
  int error = pthread_create(&thread->id, NULL, run, thread);
  if (error != 0) return luaL_error(L, "pthread_create: %s", strerror(error));
  thread->joined = false;
  return 1;
}

static void read_task(int tid, const char *name, char *text, size_t length) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/self/task/%d/%s", tid, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t count = fd < 0 ? 0 : read(fd, text, length - 1);
  if (fd >= 0) close(fd);
  text[count > 0 ? count : 0] = '\0';
}

/* Waits until the thread sleeps in a userfault; false when it is through, or the kernel does not tell. */
static int asleep(lua_State *L) {
  struct thread *thread = luaL_checkudata(L, 1, THREAD_TYPE);
  char place[128];
  for (int tries = 0; tries < 10000 && !atomic_load(&thread->done); tries++) {
    int tid = atomic_load(&thread->tid);
    read_task(tid, "wchan", place, sizeof(place));
    if (tid != 0 && strstr(place, "userfault") != NULL) {
      lua_pushboolean(L, 1);
      return 1;
    }
    nanosleep(&(struct timespec){0, 1000000}, NULL);
  }
  lua_pushboolean(L, 0);
  return 1;
}

/* The bytes read, one a stride, and how many accesses raised SIGBUS. */
static int join(lua_State *L) {
  struct thread *thread = luaL_checkudata(L, 1, THREAD_TYPE);
  if (!thread->joined) pthread_join(thread->id, NULL);
  thread->joined = true;
  lua_pushlstring(L, (const char *)thread->seen, thread->count);
  lua_pushinteger(L, (lua_Integer)atomic_load(&thread->faulted));
  return 2;
}

static int thread_gc(lua_State *L) {
  struct thread *thread = luaL_checkudata(L, 1, THREAD_TYPE);
  if (!thread->joined) pthread_join(thread->id, NULL);
  thread->joined = true;
  free(thread->seen);
  thread->seen = NULL;
  return 0;
}

/* Processes */

/* In the child: what the function returns, or the error that it raises, through the pipe. */
static void run_child(lua_State *L, int fd) {
  alarm(20);
  int status = lua_pcall(L, 0, 1, 0);
  size_t length = 0;
  const char *text = luaL_tolstring(L, -1, &length);
  if (write(fd, text, length) < 0) _exit(3);
  _exit(status == LUA_OK ? 0 : 1);
}

/* toucher.fork(f): runs f in a forked child. true and its result, or false and its error; nil and how it died. */
static int fork_call(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  lua_settop(L, 1);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return result_of(L, -1);
  pid_t child = fork();
  if (child == 0) run_child(L, ends[1]);
  close(ends[1]);
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  char part[512];
  for (ssize_t count; (count = read(ends[0], part, sizeof(part))) > 0;)
    luaL_addlstring(&text, part, (size_t)count);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  luaL_pushresult(&text);
  if (!WIFEXITED(status)) {
    lua_pushnil(L);
    lua_pushfstring(L, "killed by signal %d", WTERMSIG(status));
    return 2;
  }
  lua_pushboolean(L, WEXITSTATUS(status) == 0);
  lua_insert(L, -2);
  return 2;
}

/* Memory */

/* toucher.map(length): private anonymous memory. */
static int map(lua_State *L) {
  size_t length = (size_t)luaL_checkinteger(L, 1);
  void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return result_of(L, address == MAP_FAILED ? -1 : (long)(intptr_t)address);
}

/* toucher.map_file(path, length): a private mapping of a file. */
static int map_file(lua_State *L) {
  int fd = open(luaL_checkstring(L, 1), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return result_of(L, -1);
  void *address = mmap(NULL, (size_t)luaL_checkinteger(L, 2), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  close(fd);
  return result_of(L, address == MAP_FAILED ? -1 : (long)(intptr_t)address);
}

/* toucher.map_sealed(length): a shared mapping of a memfd that is sealed against writing. */
static int map_sealed(lua_State *L) {
  size_t length = (size_t)luaL_checkinteger(L, 1);
  int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, (off_t)length) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) < 0) return result_of(L, -1);
  void *address = mmap(NULL, length, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  return result_of(L, address == MAP_FAILED ? -1 : (long)(intptr_t)address);
}

/* toucher.map_sysv(length): System V shared memory. */
static int map_sysv(lua_State *L) {
  int id = shmget(IPC_PRIVATE, (size_t)luaL_checkinteger(L, 1), IPC_CREAT | 0600);
  if (id < 0) return result_of(L, -1);
  void *address = shmat(id, NULL, 0);
  shmctl(id, IPC_RMID, NULL);
  return result_of(L, (long)(intptr_t)address);
}

static int unmap(lua_State *L) {
  return result_of(L, munmap((void *)(uintptr_t)luaL_checkinteger(L, 1), (size_t)luaL_checkinteger(L, 2)));
}

/* toucher.drop(address, length): MADV_DONTNEED. */
static int drop(lua_State *L) {
  void *address = (void *)(uintptr_t)luaL_checkinteger(L, 1);
  return result_of(L, madvise(address, (size_t)luaL_checkinteger(L, 2), MADV_DONTNEED));
}

/* The process */

static int duplicate(lua_State *L) {
  return result_of(L, fcntl((int)luaL_checkinteger(L, 1), F_DUPFD_CLOEXEC, 0));
}

static int close_fd(lua_State *L) {
  return result_of(L, close((int)luaL_checkinteger(L, 1)));
}

/* toucher.limit_files(count): the soft limit of descriptors. The old one. */
static int limit_files(lua_State *L) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  lua_pushinteger(L, (lua_Integer)limit.rlim_cur);
  limit.rlim_cur = (rlim_t)luaL_checkinteger(L, 1);
  if (setrlimit(RLIMIT_NOFILE, &limit) < 0) return result_of(L, -1);
  return 1;
}

static int count_entries(const char *path, bool (*counts)(const char *name)) {
  DIR *directory = opendir(path);
  int count = 0;
  for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;)
    count += entry->d_name[0] != '.' && counts(entry->d_name);
  if (directory != NULL) closedir(directory);
  return count;
}

static bool is_handler(const char *tid) {
  char name[64];
  read_task((int)strtol(tid, NULL, 10), "comm", name, sizeof(name));
  return strncmp(name, "uffd/", 5) == 0;
}

/* How many threads of this process are handlers, by their name. */
static int handlers(lua_State *L) {
  return result_of(L, count_entries("/proc/self/task", is_handler));
}

static bool is_any(const char *name) {
  return name != NULL;
}

/* How many descriptors are open. */
static int descriptors(lua_State *L) {
  return result_of(L, count_entries("/proc/self/fd", is_any));
}

/* ThreadSanitizer does not follow a child that starts threads. */
static int children_have_threads(lua_State *L) {
#ifdef __SANITIZE_THREAD__
  lua_pushboolean(L, 0);
#else
  lua_pushboolean(L, 1);
#endif
  return 1;
}

/* A millisecond for others. */
static int pause_a_moment(lua_State *L) {
  const struct timespec moment = {.tv_nsec = 1000000};
  (void)L;
  nanosleep(&moment, NULL);
  return 0;
}

static struct hugepages pool;

/* toucher.lend(count): sees to it that so many huge pages are free, until toucher.give_back(); or nil and the reason.
 */
static int lend(lua_State *L) {
  int error = -hugepages_lend(&pool, (uint64_t)luaL_checkinteger(L, 1));
  if (error != 0) errno = error;
  return luaL_fileresult(L, error == 0, NULL);
}

static int give_back(lua_State *L) {
  (void)L;
  hugepages_return(&pool);
  return 0;
}

static int user(lua_State *L) {
  return result_of(L, (long)geteuid());
}

static const luaL_Reg thread_methods[] = {{"asleep", asleep}, {"join", join}, {NULL, NULL}};

static const luaL_Reg functions[] = {{"start", start},
                                     {"fork", fork_call},
                                     {"map", map},
                                     {"map_file", map_file},
                                     {"map_sealed", map_sealed},
                                     {"map_sysv", map_sysv},
                                     {"unmap", unmap},
                                     {"drop", drop},
                                     {"duplicate", duplicate},
                                     {"close", close_fd},
                                     {"limit_files", limit_files},
                                     {"handlers", handlers},
                                     {"descriptors", descriptors},
                                     {"children_have_threads", children_have_threads},
                                     {"pause", pause_a_moment},
                                     {"lend", lend},
                                     {"give_back", give_back},
                                     {"user", user},
                                     {NULL, NULL}};

int luaopen_toucher(lua_State *L) {
  hugepages_open(&pool);
  struct sigaction action = {.sa_handler = catch_bus}; /* before any inline loop: its handler goes first */
  sigaction(SIGBUS, &action, NULL);
  luaL_newmetatable(L, THREAD_TYPE);
  luaL_newlib(L, thread_methods);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, thread_gc);
  lua_setfield(L, -2, "__gc");
  luaL_newlib(L, functions);
  return 1;
}
