rockspec_format = "3.0"
package = "uffd"
version = "scm-1"
source = { url = "git+https://github.com/uffd/uffd.git", branch = "main" }
description = {
  summary = "Page faults answered in user space, with Linux userfaultfd",
  detailed = [[
Memory whose pages come from where you say: a file, another memory, nothing at all, or a policy written in Lua. Page
faults are answered by C at kernel speed; Lua is asked only where a page's contents are custom. Installs the module,
the program uffd-lua, and the C library with its header.]],
  homepage = "https://github.com/uffd/uffd",
  issues_url = "https://github.com/uffd/uffd/issues",
  license = "MIT",
  labels = { "linux", "memory" },
}
supported_platforms = { "linux" }
dependencies = { "lua >= 5.4, < 5.5" }
-- found by pkg-config (Debian: pkg-config, libjansson-dev, libzstd-dev, libxxhash-dev): the pager reads JSON with the
-- first, images are compressed with the second, and checked with the third, of which only the header is used
external_dependencies = {
  JANSSON = { header = "jansson.h" },
  ZSTD = { header = "zstd.h" },
  XXHASH = { header = "xxhash.h" },
}
build = {
  type = "cmake",
  variables = {
    CMAKE_BUILD_TYPE = "Release",
    CMAKE_C_FLAGS = "$(CFLAGS)",
    CMAKE_INSTALL_PREFIX = "$(PREFIX)",
    CMAKE_PREFIX_PATH = "$(JANSSON_DIR);$(ZSTD_DIR);$(XXHASH_DIR)",
    CMAKE_INSTALL_BINDIR = "$(BINDIR)",
    CMAKE_INSTALL_LIBDIR = "clib", -- LuaRocks takes all of PREFIX/lib for Lua modules
    CMAKE_INSTALL_DOCDIR = "doc",
    LUA_INCLUDE_DIR = "$(LUA_INCDIR)",
    UFFD_UNIT_DIR = "clib/systemd",
    UFFD_LUA_DIR = "$(LUADIR)",
    UFFD_LUA_CDIR = "$(LIBDIR)",
    UFFD_BUILD_TESTS = "OFF",
    UFFD_BUILD_BENCH = "OFF",
  },
  copy_directories = { "examples" },
}
test = { type = "command", script = "tests/lua/run.lua" }
