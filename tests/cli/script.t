# Scripts: from a file, from stdin, by shebang; their arguments and their exit codes.
$ cat > args.lua <<'END'
> for i = -3, 3 do print(i, arg[i]) end
> print("dots", ...)
> END
$ uffd-lua -e 'x = 1' args.lua a b
-3	uffd-lua
-2	-e
-1	x = 1
0	args.lua
1	a
2	b
3	nil
dots	a	b
$ uffd-lua -e 'print(arg[0], arg[1], arg[2])'
uffd-lua	-e	print(arg[0], arg[1], arg[2])

# An unknown word is a script, whatever its name.
$ echo 'print "a script"' > serve-nothing
$ uffd-lua serve-nothing
a script

$ echo 'print("stdin", ...)' | uffd-lua
stdin
$ printf '#!/usr/bin/env uffd-lua\nprint("shebang", ...)\n' > hash && chmod +x hash
$ ./hash 1 2
shebang	1	2
$ printf 'return' | uffd-lua
$ printf '' > empty.lua; uffd-lua empty.lua

# Bytecode, as lua takes it.
$ uffd-lua -e 'io.open("b.luac", "wb"):write(string.dump(function(...) print("bytecode", ...) end)):close()'
$ uffd-lua b.luac 9
bytecode	9

$ uffd-lua -e 'os.exit(3)'
[3]
$ uffd-lua -e 'os.exit(true, true)'
$ uffd-lua -e 'os.exit(false)'
[1]
$ uffd-lua -e 'local t <close> = setmetatable({}, {__close = function() print "closed" end})'
closed
$ uffd-lua -e 'setmetatable(_G, {__gc = function() print "collected" end})'
collected
$ uffd-lua -e 'print(collectgarbage "incremental")'
generational
