# LUA_INIT, LUA_PATH and -E, and where the Lua files of uffd come from.
$ LUA_INIT='print "init"' uffd-lua -e 'print "script"'
init
script
$ LUA_INIT='print "init"' LUA_INIT_5_4='print "init 5.4"' uffd-lua -e 'print "script"'
init 5.4
script
$ echo 'print "from a file"' > init.lua; LUA_INIT=@init.lua uffd-lua -e ''
from a file
$ LUA_INIT='print "init"' uffd-lua -E -e 'print "script"'
script
$ LUA_INIT='error "wrong"' uffd-lua -e 'print "not run"'
uffd-lua: LUA_INIT:1: wrong
stack traceback:
...
[1]
$ LUA_INIT=@nowhere uffd-lua -e 'print "not run"'
uffd-lua: cannot open nowhere*
[1]

$ mkdir lib && echo 'return "mine"' > lib/mine.lua
$ LUA_PATH='lib/?.lua' uffd-lua -e 'print((require "mine"))'
mine
$ LUA_PATH='nowhere/?.lua' LUA_PATH_5_4='lib/?.lua;;' uffd-lua -e 'print((require "mine"))'
mine
$ LUA_PATH='lib/?.lua' uffd-lua -E -e 'print(pcall(require, "mine"))' | head -n 1
false	module 'mine' not found:
$ LUA_CPATH='lib/?.so' uffd-lua -e 'print(package.cpath:match "^lib/%?.so")'
lib/?.so

# The module of uffd is in the program, and is taken from there, whatever lies in LUA_PATH.
$ uffd-lua -e 'print(select(2, require "uffd.core"))'
:preload:
$ uffd-lua -e 'print(select(2, require "uffd"))'
uffd-lua/uffd/init.lua
$ mkdir lib/uffd && echo 'return "another"' > lib/uffd/init.lua && echo 'return "more"' > lib/uffd/more.lua
$ LUA_PATH='lib/?/init.lua' uffd-lua -e 'print(select(2, require "uffd"))'
uffd-lua/uffd/init.lua
$ LUA_PATH='lib/?.lua' uffd-lua -e 'print((require "uffd.more"))'
more
$ uffd-lua -e 'print(select(2, pcall(require, "uffd.none")))' | head -n 3 | sed 's/\t/ /'
module 'uffd.none' not found:
 no field package.preload['uffd.none']
 no module 'uffd.none' in uffd-lua
$ cp "$BUILD/bin/uffd-lua" alone
$ env -i ./alone -e 'package.path = "" print(require("uffd").version == require("uffd.core").version)'
true
$ env -i ./alone -e 'package.path = "" for _, m in ipairs { "uffd", "uffd.json", "uffd.info", "uffd.check" } do require(m) end print "all"'
all
# A prefix of its own: what is installed beside it is found, also through a link.
$ mkdir -p p/bin p/share/lua/5.4 && mv alone p/bin/uffd-lua && echo 'return "neighbour"' > p/share/lua/5.4/neighbour.lua
$ ln -s p/bin/uffd-lua linked && ./linked -e 'print((require "neighbour"))'
neighbour
