/* System calls for the commands of the runner. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

/* core.terminal(fd): the columns of a terminal on which a line can be drawn again; nil for anything else. */
static int terminal(lua_State *L) {
  struct winsize size = {0};
  int fd = (int)uffd_lua_unsigned(L, 1);
  const char *kind = getenv("TERM");
  if (!isatty(fd) || kind == NULL || strcmp(kind, "dumb") == 0) {
    lua_pushnil(L);
    return 1;
  }
  ioctl(fd, TIOCGWINSZ, &size);
  lua_pushinteger(L, size.ws_col > 0 ? size.ws_col : 80);
  return 1;
}

/* core.program(): the path of this program, or of the file that has replaced it. */
static int program(lua_State *L) {
  static const char deleted[] = " (deleted)";
  char path[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  if (length <= 0 || (size_t)length >= sizeof(path))
    return uffd_lua_fail(L, uffd_set_errmsg(errno, "Cannot read /proc/self/exe: is /proc mounted?"));
  size_t mark = sizeof(deleted) - 1;
  if ((size_t)length > mark && memcmp(path + length - mark, deleted, mark) == 0) length -= (ssize_t)mark;
  lua_pushlstring(L, path, (size_t)length);
  return 1;
}

/* core.notify(state): tells the service manager, if there is one, as sd_notify(3) does. */
static int notify(lua_State *L) {
  size_t length;
  const char *state = luaL_checklstring(L, 1, &length);
  const char *path = getenv("NOTIFY_SOCKET");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t path_length = path != NULL ? strlen(path) : 0;
  if (path_length == 0 || path_length > sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@')) return 0;
  memcpy(address.sun_path, path, path_length);
  if (path[0] == '@') address.sun_path[0] = '\0';
  socklen_t address_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_length);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return 0;
  /* a manager that is stopped holds nobody up */
  ssize_t sent =
      sendto(fd, state, length, MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&address, address_length);
  close(fd);
  lua_pushboolean(L, sent == (ssize_t)length);
  return 1;
}

/* core.wall_clock(): nanoseconds since 1970. */
static int wall_clock(lua_State *L) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  lua_pushinteger(L, (lua_Integer)now.tv_sec * 1000000000 + now.tv_nsec);
  return 1;
}

/* core.pause(ms) */
static int pause_for(lua_State *L) {
  (void)poll(NULL, 0, (int)luaL_checkinteger(L, 1));
  return 0;
}

static int pid(lua_State *L) {
  lua_pushinteger(L, getpid());
  return 1;
}

static const luaL_Reg functions[] = {
    {"terminal", terminal}, {"program", program}, {"notify", notify}, {"wall_clock", wall_clock},
    {"pid", pid},           {"pause", pause_for}, {NULL, NULL}};

void uffd_lua_open_system(lua_State *L) {
  luaL_setfuncs(L, functions, 0);
}
