# Who reads what serve prints may stop reading: clients are served, workers replaced, and it ends when it is told to.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ vmm --make 1048576 --image image
# Each client is two lines: these are more than a pipe holds.
$ cat > come.lua <<'END'
> local uffd = require "uffd"
> local memory = assert(uffd.map { size = 1048576 })
> for _ = 1, 100 do assert(uffd.handoff { socket = "door", memory = memory }):close() end
> END
$ cat > with <<'END'
> mkfifo pipe; sed -n 's/.*"kind":"client".*"id":\([0-9]*\).*/\1/p' < pipe > seen & reader=$!
> uffd-lua serve --socket door --control control --image image "$@" > pipe 2>&1 & pid=$!
> await 'uffd-lua ctl --socket control status > /dev/null 2>&1'
> kill -STOP $reader
> uffd-lua come.lua
> vmm --socket door --image image
> kill -KILL $(cat /proc/$pid/task/$pid/children)
> vmm --socket door --image image
> uffd-lua ctl --socket control status | grep '^restarts'
> uffd-lua ctl --socket control drain; kill -CONT $reader; wait $pid; echo "serve: $?"
> wait $reader; rm pipe; tail -1 seen
> END
$ sh with --json
pages 256 wrong 0 ms *
pages 256 wrong 0 ms *
restarts      1
serve: 0
102

# What an outlet has no room for is counted, in whole lines.
$ cat > much.lua <<'END'
> local core = require "uffd.core"
> io.read()
> local finish = assert(core.outlet(1, "%d dropped\n"))
> for i = 1, 3000 do print(("x"):rep(999)) end
> io.stdout:flush()
> io.open("printed", "w"):close()
> io.read()
> finish()
> print "the end"
> END
$ cat > count.awk <<'END'
> /^x+$/ && length($0) == 999 { whole++ }
> / dropped$/ { dropped += $1 }
> { last = $0 }
> END { print whole + dropped, (dropped > 0 ? "some were dropped" : "none was dropped"), last }
> END
$ mkfifo pipe go; cat < pipe > read & reader=$!; exec 4<> go
> uffd-lua much.lua < go > pipe & writer=$!; exec 5> pipe
> kill -STOP $reader; echo >&4; await '[ -e printed ]'; kill -CONT $reader
> echo >&4; wait $writer; exec 4>&- 5>&-; wait $reader
> awk -f count.awk read
3000 some were dropped the end
