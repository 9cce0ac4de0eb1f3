# Other C modules load: the program has the Lua API for them.
$ printf '#include <lauxlib.h>\nint luaopen_probe(lua_State *L) { lua_pushinteger(L, LUA_VERSION_NUM); return 1; }\n' > probe.c
? command -v cc >/dev/null || { echo no C compiler; exit 1; }
? pkg-config --exists lua5.4 || { echo no pkg-config file of lua5.4; exit 1; }
$ cc -shared -fPIC $(pkg-config --cflags lua5.4) -o probe.so probe.c && uffd-lua -e 'print((require "probe"))'
504
