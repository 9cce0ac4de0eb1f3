# --check runs a script up to its first serve, and asks each policy for one page.
$ cat > good.lua <<'END'
> local uffd = require "uffd"
> print("arguments", ...)
> local letters = uffd.resolver.policy(function(args)
>   return function(fault) return args.letter:rep(fault.page_size) end
> end, { letter = "x" })
> local zero = uffd.resolver.policy(function() return function() return "zero" end end)
> local memory = assert(uffd.map { size = 65536 })
> local loop <close> = assert(uffd.serve { { memory = memory, resolver = letters }, { memory = memory, resolver = zero } })
> print "never served"
> END
$ uffd-lua --check good.lua a b
arguments	a	b
good.lua: 2 of 2 policies answered
$ uffd-lua -e 'print "before"' --check -W good.lua
before
arguments
good.lua: 2 of 2 policies answered

# A policy that fails when it is asked, one whose answer is of no use.
$ cat > bad.lua <<'END'
> local uffd = require "uffd"
> local function made(factory) return assert(uffd.resolver.policy(factory)) end
> made(function() return function() error "I am broken" end end)
> made(function() return function() return "zero" end end)
> made(function() return function() return 42 end end)
> END
$ uffd-lua --check bad.lua
uffd-lua: the policy made at bad.lua:2: *I am broken*
...
uffd-lua: the policy made at bad.lua:2: *
...
bad.lua: 1 of 3 policies answered
[1]

# Scripts that do not get that far.
$ echo 'x x' > syntax.lua; uffd-lua --check syntax.lua
uffd-lua: syntax.lua:1: syntax error near 'x'
[1]
$ echo 'error("stop", 0)' > stop.lua; uffd-lua --check stop.lua
uffd-lua: stop
stack traceback:
...
[1]
$ uffd-lua --check nowhere.lua
uffd-lua: cannot open nowhere.lua*
[1]
$ echo 'print "nothing to do"' > plain.lua; uffd-lua --check plain.lua
nothing to do
plain.lua: no policy
$ echo 'print "from stdin"' | uffd-lua --check -
from stdin
-: no policy
