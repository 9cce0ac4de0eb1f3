# What fails is told on stderr as "uffd-lua: message", with a traceback; exit code 1.
$ uffd-lua -e 'local function f() error("deep") end f()' 2>/dev/null
[1]
$ uffd-lua -e 'local function f() error("deep") end f()'
uffd-lua: (command line):1: deep
stack traceback:
	[C]: in function 'error'
	(command line):1: in local 'f'
	(command line):1: in main chunk
	[C]: in ?
[1]
$ uffd-lua -e 'error("plain", 0)'
uffd-lua: plain
stack traceback:
...
[1]
$ uffd-lua -e 'error(5, 0)'
uffd-lua: 5
...
[1]
$ uffd-lua -e 'error()'
uffd-lua: (error object is a nil value)
stack traceback:
...
[1]
$ uffd-lua -e 'error {}'
uffd-lua: (error object is a table value)
stack traceback:
...
[1]
$ uffd-lua -e 'error(setmetatable({}, {__tostring = function() return "speaks for itself" end}))'
uffd-lua: speaks for itself
[1]
$ uffd-lua -e 'error(setmetatable({}, {__tostring = function() return {} end}))'
uffd-lua: (error object is a table value)
stack traceback:
...
[1]

# Nothing after the failure is run.
$ uffd-lua -e 'error("first", 0)' -e 'print "not run"'
uffd-lua: first
...
[1]
$ uffd-lua -i -e 'error("no prompt", 0)'
uffd-lua *
uffd-lua: no prompt
...
[1]

$ uffd-lua -e 'print('
uffd-lua: (command line):1: unexpected symbol near <eof>
[1]
$ echo 'x x' > syntax.lua; uffd-lua syntax.lua
uffd-lua: syntax.lua:1: syntax error near 'x'
[1]
$ echo 'x x' | uffd-lua
uffd-lua: stdin:1: syntax error near 'x'
[1]
$ uffd-lua nowhere.lua
uffd-lua: cannot open nowhere.lua*
[1]
$ uffd-lua /
uffd-lua: cannot read /*
[1]
$ uffd-lua -l nowhere
uffd-lua: module 'nowhere' not found:
	no field package.preload['nowhere']
...
stack traceback:
...
[1]
$ echo > none.lua; uffd-lua -e 'arg = 5' none.lua
uffd-lua: 'arg' is not a table
...
[1]

# Output that was written before stays before.
$ uffd-lua -e 'io.write("before\n") error("after", 0)'
before
uffd-lua: after
...
[1]
