# uffd-lua trace runs a script and writes a record of every fault that its loops answer.
$ cat > two.lua <<'END'
> local uffd = require "uffd"
> print("arguments", arg[0], ...)
> local letters = uffd.resolver.bytes { pattern = "x" }
> local function serve()
>   local memory = assert(uffd.map { size = "16K" })
>   return memory, assert(uffd.serve { { memory = memory, resolver = letters, around = "page" } })
> end
> local first, loop <close> = serve()
> local second = serve()
> print(first:read(0, 1), first:read(8192, 1), second:read(4096, 1))
> END
$ uffd-lua trace --output faults.ndjson two.lua a -o b
arguments	two.lua	a	-o	b
x	x	x
$ cut -d, -f4-9,12- faults.ndjson | sort # two loops write it, each when it has woken whom it answered
"loop":1,"region":1,"offset":0,"cover":4096,"kind":"missing","write":false,"answer":"bytes","outcome":"installed","error":0,"lost":0}
"loop":1,"region":1,"offset":8192,"cover":4096,"kind":"missing","write":false,"answer":"bytes","outcome":"installed","error":0,"lost":0}
"loop":2,"region":1,"offset":4096,"cover":4096,"kind":"missing","write":false,"answer":"bytes","outcome":"installed","error":0,"lost":0}

# CSV, whose names stand once; the file is emptied by each run. Where no file is named: stderr.
$ uffd-lua trace -o faults.csv two.lua > out && uffd-lua trace -o faults.csv -- two.lua > out && cut -d, -f4-7 faults.csv | sort
1,1,0,4096
1,1,8192,4096
2,1,4096,4096
loop,region,offset,cover
$ uffd-lua trace two.lua 2>&1 > out | grep -c '"latency_ns":'
3
$ uffd-lua trace --format csv two.lua 2>err > out; sort err | cut -d, -f5,6 | tail -1
region,offset
$ cat two.lua | uffd-lua trace -o faults.csv -
arguments	-
x	x	x

# However the script ends, what it answered is written.
$ sed 's/^print(first.*/& os.exit(3)/' two.lua > exits.lua; uffd-lua trace -o faults.csv exits.lua; echo $?; wc -l < faults.csv
arguments	exits.lua
x	x	x
3
4
$ sed 's/^print(first.*/& error("wrong", 0)/' two.lua > fails.lua; uffd-lua trace -o faults.csv fails.lua; echo $?; wc -l < faults.csv
arguments	fails.lua
x	x	x
uffd-lua: wrong
stack traceback:
...
1
4
$ echo 'require "uffd".serve { wrong = 1 }' > wrong.lua; uffd-lua trace -o faults.csv wrong.lua
uffd-lua: wrong.lua:1: uffd.serve: unknown option 'wrong'; *
stack traceback:
...
[1]
$ echo 'require "uffd".serve { handlers = -1 }' > wrong.lua; uffd-lua trace -o faults.csv wrong.lua
uffd-lua: wrong.lua:1: uffd.serve: must not be negative
stack traceback:
...
[1]

# A full disk is told: before the script runs, if it is seen then; else the script goes on.
$ uffd-lua trace -o /dev/full --format csv two.lua
uffd-lua trace: The trace /dev/full could not be written to its end: No space left on device.
[1]
$ uffd-lua trace -o /dev/full --format ndjson two.lua
arguments	two.lua
x	x	x
uffd: The trace /dev/full cannot be written, and ends here: *
...
$ uffd-lua trace -o /dev/full --format ndjson exits.lua
arguments	exits.lua
x	x	x
uffd: The trace /dev/full cannot be written, and ends here: *
...
[3]

# Wrong usage.
$ uffd-lua trace --help
usage: uffd-lua trace [--output FILE] *
...
$ uffd-lua trace
uffd-lua trace: it needs a script
usage: uffd-lua trace *
[2]
$ uffd-lua trace --output
uffd-lua trace: '--output' needs a value
usage: *
[2]
$ uffd-lua trace --format xml two.lua
uffd-lua trace: '--format' takes one of ndjson, csv, not 'xml'
usage: *
[2]
$ uffd-lua trace --outputs x two.lua
uffd-lua trace: '--outputs' is not an option
usage: *
[2]
$ uffd-lua trace -o faults.txt two.lua
uffd-lua trace: The ending of faults.txt tells no format: *
[1]
$ uffd-lua trace -o nowhere/faults.csv two.lua
uffd-lua trace: The trace nowhere/faults.csv cannot be opened: *
[1]
$ uffd-lua trace nowhere.lua
uffd-lua trace: cannot open nowhere.lua*
[1]
