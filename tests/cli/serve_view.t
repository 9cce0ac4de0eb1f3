# What a person sees: a status line on a terminal, redrawn and taken away; none on a terminal that cannot.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
? command -v script > /dev/null || { echo "the program script is not here"; exit 1; }
$ vmm --make 1048576 --image image
$ cat > serve <<'END'
> uffd-lua serve --socket door --image image --once > out & pid=$!
> trap "kill -KILL $pid 2> /dev/null" HUP EXIT
> await 'grep -qs listening typescript'
> (await "$1"; echo; await "$2"; echo) | vmm --socket door --image image --stay > /dev/null
> wait $pid
> END
$ cat > drawn <<'END'
> test "$(tr '\r' '\n' < typescript | grep -c "$2")" -ge "$1"
> END
$ TERM=xterm script -qfec 'sh serve "sh drawn 1 fault[s]" "sh drawn 2 1[.]0.MiB..p50"' typescript > /dev/null; tr '\r\033' '\n<' < typescript | sed -n 's/<\[K$//; /faults/p' > lines
$ grep -c '1 client  [0-9]* faults/s  1.0 MiB  p50 [0-9.]* [mun]*s  p99 [0-9.]* [mun]*s' lines > count; test $(cat count) -ge 2 && test $(cat count) -le 20 && echo redrawn
redrawn
$ cat out
client *
     1 *

# (A line would be drawn at the first event, which is the client's coming.)
$ TERM=dumb script -qfec 'sh serve true true' typescript > /dev/null; grep -c 'faults/s' typescript
0
[1]
$ grep -c 'listening on door' typescript
1

# The service manager is told when it listens, and when it stops.
? uffd-lua -e 'require("socket.unix").dgram()' > /dev/null 2>&1 || { echo "LuaSocket is not installed"; exit 1; }
$ cat > manager.lua <<'END'
> local manager = assert(require("socket.unix").dgram())
> assert(manager:bind "notify")
> manager:settimeout(20)
> io.stdout:setvbuf "line"
> io.open("bound", "w"):close()
> repeat
>   local text = manager:receive()
>   if not text:find "^STATUS" then print((text:gsub("\n", " "))) end
> until text == "STOPPING=1"
> END
$ uffd-lua manager.lua > told & manager=$!
> await '[ -e bound ]'
> NOTIFY_SOCKET=$PWD/notify uffd-lua serve --socket door --image image --control control 2> /dev/null & pid=$!
> await 'grep -qs READY told'
> uffd-lua ctl --socket control drain; wait $manager; wait $pid; cat told
READY=1 STATUS=listening on door
STOPPING=1

# Memory does not grow with every client that ever came: the table has the last thousand.
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ head -c 4096 /dev/zero | tr '\0' x > page
$ cat > many.lua <<'END'
> local uffd = require "uffd"
> local memory = assert(uffd.map { size = 4096 })
> for _ = 1, 1005 do assert(uffd.handoff { socket = "door", memory = memory }):close() end
> END
$ rm -f control; uffd-lua serve --socket door --image page --control control --log error > table & pid=$!
> await 'uffd-lua ctl --socket control status > /dev/null 2>&1'
> uffd-lua many.lua; uffd-lua ctl --socket control drain; wait $pid; head -n 1 table; wc -l < table
5 earlier clients not shown
1002
