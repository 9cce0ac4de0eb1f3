# uffd-lua serve: a supervisor and its workers, with a stand-in VMM that compares every byte.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ vmm --make 4194304 --image image
# with OPTIONS -- COMMAND: starts serve, waits until it listens, runs the command, waits for serve, tells its exit code.
$ cat > with <<'END'
> options=""
> while [ "$1" != -- ]; do options="$options $1"; shift; done; shift
> rm -f out err
> env --default-signal=INT uffd-lua serve --socket door $options > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> pid=$pid sh -c "$*"
> wait $pid; echo "serve: $?"
> END
$ sh with --image image --once -- 'vmm --socket door --image image --threads 2'
pages 1024 wrong 0 ms *
serve: 0
$ cat err
uffd-lua serve: listening on door
...
client 1 has come: process *, 4.0 MiB in 1 region
...
client 1 is gone. *
...
$ cat out
client * pid * time * missing * p50 * p99 * max * MiB * end
     1 * 4.0 * exited
$ awk 'length > 100' out

# A policy makes one page; its words are those beside the options.
$ cat > policy.lua <<'END'
> local client, image, name, number = ...
> assert(name == "clone" and number == "7" and client.id == 1 and client.size == 4194304 and #client.regions == 2)
> assert(image.size == 4194304 and client.regions[2].offset == 2097152)
> local page = uffd.resolver.policy(function(args)
>   print("made", args.name)
>   return function(fault) return args.contents end
> end, { name = name, contents = io.open("image", "rb"):read(4096) })
> return uffd.resolver.layers { { 0, image }, { 0, page, length = 4096 } }
> END
$ sed -i '1i local uffd = require "uffd"' policy.lua
$ sh with --image image --once --policy policy.lua clone 7 --around 4K --workers 2 -- 'vmm --socket door --image image --regions 2'
pages 1024 wrong 0 ms *
serve: 0
$ grep policy: err
policy: made	clone
$ tail -1 out
     1 * 1024 * 4.0 * 1  exited

# A client of many regions.
$ cat > many.lua <<'END'
> local uffd = require "uffd"
> local parts, text = {}, {}
> for i = 1, 128 do parts[i] = { assert(uffd.map { size = 32768 }), (i - 1) * 32768 } end
> local handoff <close> = assert(uffd.handoff { socket = "door", parts = parts })
> for i, part in ipairs(parts) do text[i] = part[1]:read() end
> print(table.concat(text) == io.open("image", "rb"):read "a")
> END
$ sh with --image image --once -- 'uffd-lua many.lua || kill -TERM $pid'
true
serve: 0

# JSON: every line an object, what happened in its order, the figures last.
$ cat > show.lua <<'END'
> local json = require "uffd.json"
> local last
> for line in io.lines "out" do
>   last = assert(json.decode(line))
>   assert(last.ts:find "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%d%d%d%dZ$")
>   if last.kind == "listening" then
>     print(last.kind, last.socket, last.pid > 0)
>   elseif last.kind == "record" then
>     print(last.kind, last.text)
>   elseif last.kind ~= "worker" and last.kind ~= "retired" then
>     local client = last.client
>     print(last.kind, client.id, client.state, client.size, client.stats.bytes)
>   end
> end
> print(last.text ~= "", last.client.stats.missing > 0, last.client.age_ns > 0, last.client.pid > 0)
> END
$ sed -i 's/listening on" err/listening" err out/' with
$ sh with --image image --once --json --record boot.ws -- 'vmm --socket door --image image'
pages 1024 wrong 0 ms *
serve: 0
$ uffd-lua show.lua
listening	door	true
client	1	starting	4194304	0
gone	1	gone	4194304	4194304
record	Its working set is written to boot.ws.
figures	1	gone	4194304	4194304
true	true	true	true

# What is refused is told, and the next one is served.
# (Whose memory it is cannot be told from nonsense: the VMM is not killed, and sleeps at its first fault.)
$ sh with --image image --once -- 'vmm --socket door --image image --send nonsense & await "grep -q refused err"; kill -KILL $!; vmm --socket door --image image'
pages 1024 wrong 0 ms *
serve: 0
$ grep refused err
refused: *

# Whoever is refused again and again does not fill the log: 20 lines in 10 s, the others are counted. Lines have a time.
$ cat > knock <<'END'
> for i in $(seq 30); do
>   vmm --socket door --image image --send nonsense & v=$!
>   await "uffd-lua ctl --socket control status | grep -q '^refused *$i\$'"
>   kill -KILL $v
> done
> kill -TERM $pid
> END
$ sh with --image image --control control --timestamps -- 'sh knock 2> /dev/null'
serve: 0
$ grep -c '^[0-9-]*T[0-9:.]*Z refused: ' err
20
$ rm -f out err; uffd-lua serve --socket door --image image --log warning > out 2> err & pid=$!
> await '[ -S door ]'; kill -TERM $pid; wait $pid; cat err
$ rm -f out err; JOURNAL_STREAM=1:2 uffd-lua serve --socket door --image image > out 2> err & pid=$!
> await 'grep -qs listening err'; kill -TERM $pid; wait $pid; head -1 err
<6>uffd-lua serve: listening on door

# SIGTERM completes the clients, which need no pager then.
$ sh with --image image -- '(await "grep -q has.come err"; kill -TERM $pid; await "grep -q complete err"; echo; echo) | vmm --socket door --image image --stay'
ready
pages 1024 wrong 0 ms *
ready
serve: 0
$ tail -1 out
     1 * 4.0 * complete
$ grep -c 'is complete' err
1

# Or serves those that are there until they are gone, and refuses new ones. Another signal ends it at once.
$ sh with --image image --on-drain refuse -- '(await "grep -q has.come err"; kill -INT $pid; await "! [ -e door ]"; echo; echo) | vmm --socket door --image image --stay'
ready
pages 1024 wrong 0 ms *
ready
serve: 0
$ sh with --image image --on-drain refuse -- '(await "grep -q has.come err"; kill -TERM $pid; await "! [ -e door ]"; kill -TERM $pid; await "grep -q second err"; echo) | vmm --socket door --image image --stay; true'
...
serve: 1
$ tail -1 err
uffd-lua serve: A second signal ended it.
