# The options of lua, one by one.
$ uffd-lua -e 'print(1)' -e'print(2)'
1
2

$ echo 'return { five = 5 }' > five.lua
$ uffd-lua -l five -e 'print(five.five)'
5
$ uffd-lua -lfive -e 'print(five.five)'
5
$ uffd-lua -l g=five -e 'print(g.five, five)'
5	nil
$ echo 'return 6' > x-y.lua
$ uffd-lua -l x-y -e 'print(_G["x-y"])'
6

# In their order: -l and -e as they stand.
$ uffd-lua -e 'print(five)' -l five -e 'print(five.five)'
nil
5

$ uffd-lua -v
uffd-lua *.*.* on Lua 5.4.*
$ uffd-lua -v -e 'print(1)'
uffd-lua *.*.* on Lua 5.4.*
1
$ uffd-lua --version
uffd-lua *.*.* on Lua 5.4.*
$ uffd-lua -v --version
uffd-lua *.*.* on Lua 5.4.*

$ uffd-lua -W -e 'warn "seen"'
Lua warning: seen
$ uffd-lua -e 'warn "unseen"'
$ uffd-lua -e 'warn "unseen"' -W -e 'warn "seen"'
Lua warning: seen

$ echo 'print("dash", ...)' > -x
$ uffd-lua -- -x 1
dash	1
$ echo 'print(arg[0], ...)' | uffd-lua - a b
-	a	b
$ echo 'print("a file of that name")' > ./-
$ uffd-lua -- - </dev/null
a file of that name

$ uffd-lua --help
usage: uffd-lua [options] [script [args]]
...
exit codes: *
$ uffd-lua -h
usage: uffd-lua *
...
