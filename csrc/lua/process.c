/* Programs that the runner starts: they replace it, or are children whose end it waits for. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "util.h"

#ifndef UFFD_LIBDIR
#define UFFD_LIBDIR "lib" /* below the prefix, or absolute: where libuffd-preload.so is installed */
#endif

/* What a program is */

/* The path of a program, searched as a shell does; false: there is none. */
static bool find_program(const char *name, char path[PATH_MAX]) {
  if (strchr(name, '/') != NULL) return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX && access(path, X_OK) == 0;
  const char *folders = getenv("PATH");
  for (const char *at = folders != NULL ? folders : "/usr/bin:/bin"; *at != '\0';) {
    struct stat status;
    size_t length = strcspn(at, ":");
    int written = snprintf(path, PATH_MAX, "%.*s/%s", length != 0 ? (int)length : 1, length != 0 ? at : ".", name);
    if (written < PATH_MAX && access(path, X_OK) == 0 && stat(path, &status) == 0 && S_ISREG(status.st_mode))
      return true;
    at += length + (at[length] == ':');
  }
  errno = ENOENT;
  return false;
}

static bool gains_privileges(const char *path) {
  struct stat status;
  if (stat(path, &status) != 0) return false;
  if ((status.st_mode & S_ISUID) != 0 && status.st_uid != getuid()) return true;
  if ((status.st_mode & S_ISGID) != 0 && status.st_gid != getgid()) return true;
  return getuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0;
}

/* A program without an interpreter loads no libraries. */
static bool is_static(FILE *file, const Elf64_Ehdr *head) {
  for (unsigned i = 0; i < head->e_phnum; i++) {
    Elf64_Phdr part;
    if (fseek(file, (long)(head->e_phoff + (uint64_t)i * head->e_phentsize), SEEK_SET) != 0) return false;
    if (fread(&part, sizeof(part), 1, file) != 1) return false;
    if (part.p_type == PT_INTERP) return false;
  }
  return true;
}

/* The word for what keeps a library from being loaded into a program first; NULL if nothing does. */
static const char *read_kind(FILE *file, char interpreter[PATH_MAX]) {
  Elf64_Ehdr head = {0};
  size_t got = fread(&head, 1, sizeof(head), file);
  interpreter[0] = '\0';
  if (got > 2 && memcmp(&head, "#!", 2) == 0) {
    rewind(file);
    if (fscanf(file, "#! %4095s", interpreter) != 1) interpreter[0] = '\0';
    return NULL;
  }
  if (got < sizeof(head) || memcmp(head.e_ident, ELFMAG, SELFMAG) != 0) return NULL;
  if (head.e_ident[EI_CLASS] != ELFCLASS64) return "32-bit";
  return is_static(file, &head) ? "static" : NULL;
}

/*
 * core.find_program(name): its path, and what keeps it from being preloaded: "static", "32-bit" or "privileged". Of a
 * script, its interpreter counts. Nil, the sentence and the errno when there is no such program.
 */
static int find_program_of(lua_State *L) {
  char path[PATH_MAX], looked[PATH_MAX], interpreter[PATH_MAX];
  const char *name = luaL_checkstring(L, 1);
  if (!find_program(name, path)) {
    return uffd_lua_fail(L,
                         uffd_set_errmsg(errno, "There is no program %s that can be run: %s.", name, strerror(errno)));
  }
  const char *kind = NULL;
  snprintf(looked, sizeof(looked), "%s", path);
  for (int depth = 0; depth < 4 && kind == NULL; depth++) {                /* as many as the kernel follows */
    if (gains_privileges(looked)) kind = depth == 0 ? "privileged" : NULL; /* of an interpreter it does not count */
    FILE *file = kind == NULL ? fopen(looked, "rbe") : NULL;
    if (file == NULL) break;
    kind = read_kind(file, interpreter);
    fclose(file);
    if (interpreter[0] == '\0') break;
    snprintf(looked, sizeof(looked), "%s", interpreter);
  }
  lua_pushstring(L, path);
  if (kind == NULL) return 1;
  lua_pushstring(L, kind);
  return 2;
}

/* Starting */

/* The list at index 1 as an argument vector, which lives as long as the list and the userdata on top. */
static char **take_words(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  size_t count = (size_t)luaL_len(L, 1);
  luaL_argcheck(L, count > 0, 1, "a program and its arguments");
  char **words = lua_newuserdatauv(L, (count + 1) * sizeof(*words), 0);
  for (size_t i = 0; i < count; i++) {
    lua_rawgeti(L, 1, (lua_Integer)i + 1);
    luaL_argcheck(L, lua_type(L, -1) == LUA_TSTRING, 1, "a list of strings");
    words[i] = (char *)(uintptr_t)lua_tostring(L, -1); /* the list holds it */
    lua_pop(L, 1);
  }
  words[count] = NULL;
  return words;
}

/*
 * The environment of this program with the strings of the table at index 2, and room for one more, which lives as long
 * as the table and the userdata on top. This program itself keeps its own: a pager beside it starts workers.
 */
static char **make_environment(lua_State *L) {
  size_t count = 0, own = 0;
  luaL_checktype(L, 2, LUA_TTABLE);
  while (environ[own] != NULL) {
    own++;
  }
  for (lua_pushnil(L); lua_next(L, 2) != 0; lua_pop(L, 1)) {
    own++;
  }
  char **made = lua_newuserdatauv(L, (own + 2) * sizeof(*made), 1);
  lua_newtable(L); /* holds the strings made here */
  for (lua_pushnil(L); lua_next(L, 2) != 0; lua_pop(L, 1)) {
    made[count] = (char *)(uintptr_t)lua_pushfstring(L, "%s=%s", luaL_checkstring(L, -2), luaL_checkstring(L, -1));
    lua_rawseti(L, -4, (lua_Integer)++count);
  }
  lua_setiuservalue(L, -2, 1);
  size_t added = count;
  for (char **entry = environ; *entry != NULL; entry++) {
    size_t name = strcspn(*entry, "=") + 1, i = 0;
    while (i < added && strncmp(made[i], *entry, name) != 0) {
      i++;
    }
    if (i == added && strncmp(*entry, "UFFD_PRELOAD_PID=", name) != 0) made[count++] = *entry;
  }
  made[count] = made[count + 1] = NULL;
  return made;
}

static int fail_to_start(lua_State *L, const char *name, int error) {
  return uffd_lua_fail(L, uffd_set_errmsg(error, "Cannot start %s: %s.", name, strerror(error)));
}

/* core.exec(words, environment): the program takes the place of this one. UFFD_PRELOAD_PID tells it that it did. */
static int exec_program(lua_State *L) {
  char **words = take_words(L), **environment = make_environment(L), **own = environ, self[48];
  size_t last = 0;
  while (environment[last] != NULL) {
    last++;
  }
  snprintf(self, sizeof(self), "UFFD_PRELOAD_PID=%ld", (long)getpid());
  environment[last] = self;
  environ = environment;
  execvp(words[0], words);
  environ = own;
  return fail_to_start(L, words[0], errno);
}

static volatile sig_atomic_t child; /* receives the signals that are sent to this program; 0: nobody any more */

static void pass_on(int number) {
  if (child != 0) kill((pid_t)child, number);
}

/*
 * The terminal itself sends ^C and ^\\ to all its programs. Other signals that this program gets are passed on to the
 * child.
 */
static void pass_signals(void) {
  struct sigaction pass = {.sa_handler = pass_on, .sa_flags = SA_RESTART}, ignore = {.sa_handler = SIG_IGN};
  sigaction(SIGTERM, &pass, NULL);
  sigaction(SIGHUP, &pass, NULL);
  sigaction(SIGINT, &ignore, NULL);
  sigaction(SIGQUIT, &ignore, NULL);
}

/* Runs in the child. It is killed when this program dies, because nobody would answer its faults then. */
_Noreturn static void become(char **words, char **environment, pid_t parent, int report) {
  environ = environment;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() == parent) execvp(words[0], words); /* NOLINT(clang-analyzer-core.NonNullParamChecker): never empty */
  int error = errno;
  ssize_t written = write(report, &error, sizeof(error));
  _exit(written > 0 ? 127 : 126);
}

/* core.spawn(words, environment): the pid of the child, once it runs the program. One child at a time. */
static int spawn(lua_State *L) {
  char **words = take_words(L), **environment = make_environment(L);
  int pipes[2], error = 0;
  if (pipe2(pipes, O_CLOEXEC) != 0) return fail_to_start(L, words[0], errno);
  pid_t parent = getpid(), pid = fork();
  if (pid == 0) become(words, environment, parent, pipes[1]);
  error = pid < 0 ? errno : 0;
  close(pipes[1]);
  if (pid > 0) {
    child = pid;
    pass_signals();
    ssize_t got;
    while ((got = read(pipes[0], &error, sizeof(error))) < 0 && errno == EINTR) {
    }
    if (got > 0) waitpid(pid, NULL, 0);
    if (got <= 0) error = 0;
  }
  close(pipes[0]);
  if (error != 0) {
    child = 0;
    return fail_to_start(L, words[0], error);
  }
  lua_pushinteger(L, pid);
  return 1;
}

/* core.wait(pid): its exit code once it has ended, 128 and the number for a signal; nil while it runs. */
static int wait_for(lua_State *L) {
  pid_t pid = (pid_t)luaL_checkinteger(L, 1);
  siginfo_t end = {0};
  if (waitid(P_PID, (id_t)pid, &end, WEXITED | WNOHANG | WNOWAIT) != 0)
    return uffd_lua_fail(L, uffd_set_errmsg(errno, "There is no such child."));
  if (end.si_pid == 0) {
    lua_pushnil(L);
    return 1;
  }
  child = 0; /* from now on another process may have its number */
  waitid(P_PID, (id_t)pid, &end, WEXITED);
  lua_pushinteger(L, end.si_code == CLD_EXITED ? end.si_status : 128 + end.si_status);
  return 1;
}

/* core.kill(pid): ends a process that cannot go on. */
static int kill_process(lua_State *L) {
  lua_pushboolean(L, kill((pid_t)luaL_checkinteger(L, 1), SIGKILL) == 0);
  return 1;
}

/* core.make_directory(): a new one for this user alone, among the temporary files. */
static int make_directory(lua_State *L) {
  const char *folder = getenv("TMPDIR");
  char path[PATH_MAX];
  snprintf(path, sizeof(path), "%s/uffd-XXXXXX", folder != NULL && folder[0] == '/' ? folder : "/tmp");
  if (mkdtemp(path) == NULL) return uffd_lua_fail(L, uffd_set_errmsg(errno, "Cannot make a temporary directory."));
  lua_pushstring(L, path);
  return 1;
}

static const luaL_Reg functions[] = {{"find_program", find_program_of},
                                     {"exec", exec_program},
                                     {"spawn", spawn},
                                     {"wait", wait_for},
                                     {"kill", kill_process},
                                     {"make_directory", make_directory},
                                     {NULL, NULL}};

void uffd_lua_open_process(lua_State *L) {
  lua_pushliteral(L, UFFD_LIBDIR);
  lua_setfield(L, -2, "libdir");
  luaL_setfuncs(L, functions, 0);
}
