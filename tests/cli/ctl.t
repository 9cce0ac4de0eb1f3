# uffd-lua ctl: what a pager tells at its control socket, for people and for programs, and what it is told there.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ vmm --make 1048576 --image image
$ cat > with <<'END'
> rm -f err client
> uffd-lua serve --socket door --control control --image image --around 4K > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> mkfifo go; vmm --socket door --image image --stay < go > client & client=$!
> exec 3> go
> echo >&3
> await 'grep -qs "pages 256" client'
> await 'uffd-lua ctl --socket control stats | grep -qs "^faults *256$"'
> sh -c "$*"
> echo >&3; exec 3>&-; wait $client; echo "client: $?"
> [ ! -S control ] || kill -TERM $pid; wait $pid; echo "serve: $?"; rm go
> END
$ sh with 'uffd-lua ctl --socket control status; uffd-lua ctl --socket control clients; uffd-lua ctl --socket control stats'
version *
pid *
clients       1
workers       1
served        1
refused       0
restarts      0
hangs         0
reloads       0
reloading     false
draining      false
client * pid * time * missing * oldest * state
     1 * 256 * 1.0 * - * served
faults        256
missing       256
wp            0
minor         0
...
bytes         1048576
...
latency_max   *
client: 0
serve: 0
$ cat > show.lua <<'END'
> local json = require "uffd.json"
> for line in io.lines() do
>   local reply = assert(json.decode(line))
>   print(reply.id or reply.served or reply.faults, reply.state or reply.draining, (reply.stats or reply).missing)
> end
> END
$ sh with 'for r in status clients stats reload; do uffd-lua ctl --socket control --json $r; done' | grep '^{' > lines
$ head -3 lines | uffd-lua show.lua
1	false	nil
1	served	256
256	nil	256
$ tail -1 lines
{"ok":true}

# Drained, it completes its clients and ends: the socket is gone.
$ sh with 'uffd-lua ctl --socket control drain; await "! [ -S control ]"; uffd-lua ctl --socket control status'
uffd-lua ctl: Cannot connect to the control socket control: No such file or directory: no pager listens there.
client: 0
serve: 0

# What is no request is told so, and the connection goes on.
$ cat > ask.lua <<'END'
> local ask = require "uffd".pager_ask
> for _, text in ipairs { '{}', 'nonsense', '{"request":"ponder"}', '[1]', '{"request":5}', '', '{"request":"status"}' } do
>   print((ask("control", text)))
> end
> print((ask("control", ("x"):rep(5000))))
> END
$ sh with 'uffd-lua ask.lua'
{"ok":false,"error":"There are the requests status, clients, workers, stats, errors, metrics, drain, reload, kill, complete, label and image."}
{"ok":false,"error":"A request is a line of JSON: {\"request\":\"status\"}."}
{"ok":false,"error":"There are the requests *"}
{"ok":false,"error":"There are the requests *"}
{"ok":false,"error":"There are the requests *"}
{"ok":false,"error":"A request is a line of JSON: *"}
{"ok":true,"version":*
{"ok":false,"error":"A request has 4095 bytes at most."}
client: 0
serve: 0
# Whom the mode keeps out.
$ sh with 'stat -c %a door control'
600
600
client: 0
serve: 0

# Metrics are of all clients so far: what is gone stays counted, there and in stats. The text is checked line by line.
$ cat > metrics.lua <<'END'
> package.path = arg[1] .. "/?.lua;" .. package.path
> local samples = require "openmetrics".parse(io.read "a")
> for _, name in ipairs { 'uffd_clients_come_total', 'uffd_clients_ended_total', 'uffd_clients{state="served"}',
>   'uffd_faults_total{kind="missing"}', 'uffd_pages_total{outcome="copied"}', 'uffd_installed_bytes_total',
>   'uffd_fault_latency_seconds_count', 'uffd_refusals_total{reason="handshake"}', 'uffd_image_bytes{number="1"}',
>   'uffd_oldest_fault_seconds', 'uffd_queue' } do print(name, samples[name]) end
> print(samples.uffd_open_fds > 5 and samples.uffd_open_fds < samples.uffd_max_fds)
> END
$ sh with 'vmm --socket door --image image --send nonsense & v=$!; await "grep -q refused err"; kill -KILL $v; uffd-lua ctl --socket control metrics | uffd-lua metrics.lua "$TESTS/../lua"; vmm --socket door --image image > /dev/null; await "uffd-lua ctl --socket control metrics | grep -q clients_ended_total.1"; uffd-lua ctl --socket control metrics | uffd-lua metrics.lua "$TESTS/../lua" | head -5; uffd-lua ctl --socket control stats | grep "^faults"'
uffd_clients_come_total	1
uffd_clients_ended_total	0
uffd_clients{state="served"}	1
uffd_faults_total{kind="missing"}	256
uffd_pages_total{outcome="copied"}	256
uffd_installed_bytes_total	1048576
uffd_fault_latency_seconds_count	256
uffd_refusals_total{reason="handshake"}	1
uffd_image_bytes{number="1"}	1048576
uffd_oldest_fault_seconds	0.0
uffd_queue	0
true
uffd_clients_come_total	2
uffd_clients_ended_total	1
uffd_clients{state="served"}	1
uffd_faults_total{kind="missing"}	512
uffd_pages_total{outcome="copied"}	512
faults        512
client: 0
serve: 0

# One client: it gets a name, is completed, or killed. Workers, and a table that is drawn anew.
$ sh with 'c="uffd-lua ctl --socket control"; $c label 1 web-7; $c clients; $c workers; $c top --count 1; $c label 9 x; $c label 1 "$(printf "a\\001")"; $c complete 1; await "! $c clients | grep -q served"; $c kill 1'
client  label * pid *
     1  web-7 * served
worker *
     0 * 1  ready
1 client  1 worker  0 faults/s  0.0 MiB/s  0 errors  0 poisoned  0 refused  0 restarts
client  label *
     1  web-7 * served
uffd-lua ctl: There is no client 9.
uffd-lua ctl: A label has at most 63 bytes of UTF-8, and no control characters.
uffd-lua ctl: There is no client 1.
client: 0
serve: 0
$ grep -c 'client 1 is complete' err
1
$ sh with 'rm -f ended; (vmm --socket door --image image --stay < go > second; echo "second: $?" > ended) 2> /dev/null & c="uffd-lua ctl --socket control"; await "$c clients | grep -q \"^ *2 .*served\""; $c kill 2; await "[ -s ended ]"; cat ended; await "! $c clients | grep -q \"^ *2 \""; $c kill'
second: 137
uffd-lua ctl: 'kill' needs the id of a client
usage: *
client: 0
serve: 0
$ grep 'client 2 is gone' err
client 2 is gone. It was killed.

# New clients get a new image, by the name that it has where ctl runs; those that are there go on with theirs.
$ cp image old; head -c 1048576 /dev/zero | tr '\0' n > new
$ cat > look.lua <<'END'
> local uffd = require "uffd"
> local memory = assert(uffd.map { size = 1048576 })
> local handoff <close> = assert(uffd.handoff { socket = "door", memory = memory })
> print(memory:read(0, 4096) == io.open("old", "rb"):read(4096), memory:read(8192, 3))
> if not ... then os.exit(true, true) end
> io.open("come", "w"):close()
> io.read()
> print(memory:read() == io.open("old", "rb"):read "a")
> END
$ rm -f err; uffd-lua serve --socket door --control control --image image > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> mkfifo go; uffd-lua look.lua stay < go > first & first=$!; exec 3> go
> await '[ -e come ]'
> mkdir -p below; (cd below; uffd-lua ctl --socket ../control image ../new; echo $?; uffd-lua ctl --socket ../control image nowhere; echo $?)
> rm image; uffd-lua look.lua
> kill -KILL $(cat /proc/$pid/task/$pid/children)
> echo >&3; exec 3>&-; wait $first; cat first
> uffd-lua look.lua
> kill $pid; wait $pid; echo "serve: $?"; grep -c 'New clients get the image' err
0
uffd-lua ctl: */below/nowhere: No such file or directory.
1
false	nnn
true	*
true
false	nnn
serve: 0
2
