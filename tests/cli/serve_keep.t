# With a keeper the supervisor may die too, alone or together with its workers: another one takes over every client, and a
# stand-in VMM that compares every byte finds no zeros. The keeper speaks the service manager's side of sd_notify(3).
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ vmm --make 4194304 --image image
# ctl gives the supervisor's pid, err those of its workers.
$ cat > functions <<'END'
> ctl() { uffd-lua ctl --socket control "$@" 2> /dev/null; }
> supervisor() { ctl status | sed -n 's/^pid  *//p'; }
> worker() { sed -n 's/.*has started: process //p' err | tail -1; }
> another() { [ -n "$(supervisor)" ] && [ "$(supervisor)" != "$1" ]; }
> served() { [ "$(ctl clients | grep -c 'served$')" = "$1" ]; }
> # killed SUPERVISOR WORKER...: kills them, waits until another supervisor's worker serves so many clients.
> killed() {
>   count=$1; shift; started=$(grep -c 'has started' err)
>   kill -KILL "$@"
>   wait_until another "$1"; wait_until has_started $((started + 1)); wait_until served "$count"
> }
> has_started() { [ "$(grep -c 'has started' err)" -ge "$1" ]; }
> wait_until() { export -p > /dev/null; n=0; until "$@"; do n=$((n + 1)); [ $n -lt 2000 ] || { echo "in vain: $*"; exit 1; }; done; }
> END
$ cat > with <<'END'
> . ./functions
> rm -f out client; : > err; mkfifo go
> uffd-lua serve --keep --socket door --control control --image image --around 4K > out 2> err & keeper=$!
> wait_until has_started 1
> vmm --socket door --image image --stay < go > client & client=$!
> exec 3> go
> wait_until served 1
> eval "$1"
> echo >&3; echo >&3; exec 3>&-; wait $client; echo "client: $?"; cat client
> kill -TERM $keeper; wait $keeper; echo "serve: $?"; rm go
> END

# The supervisor alone: its worker serves on, until the new supervisor calls the client back.
$ sh with 'first=$(worker); killed 1 $(supervisor); [ "$(worker)" != "$first" ] && echo "another worker"'
another worker
client: 0
ready
pages 1024 wrong 0 ms *
ready
serve: 0
$ grep -c 'client 1 is taken over: process' err
1

# Supervisor and worker together, again and again.
$ sh with 'for i in 1 2 3 4 5; do killed 1 $(supervisor) $(worker); done'
client: 0
ready
pages 1024 wrong 0 ms *
ready
serve: 0
$ grep -c 'is taken over' err
5

# A book of an older version, which has no socket in it, is understood. One of a newer version is not: the client sleeps,
# and whoever runs the pager is told.
$ cat > book.lua <<'END'
> local path, version = ...
> local file = assert(io.open(path, "r+b"))
> local head = file:read(65536)
> assert(string.unpack("I4", head) >= 4)
> local socket = assert(head:find("door\0", 1, true), "the socket's path is in the book")
> file:seek("set", 0); file:write(string.pack("I4", version))
> if version == "3" then file:seek("set", socket - 1); file:write(("\0"):rep(4)) end
> file:close()
> END
$ cat >> functions <<'END'
> # books PID VERSION: makes the books of its clients such.
> books() { for fd in /proc/$1/fd/*; do case $(readlink "$fd") in *uffd-book*) uffd-lua book.lua "$fd" "$2";; esac; done; }
> END
$ sh with 's=$(supervisor); kill -STOP $s $(worker); books $s 3; killed 1 $s $(worker); ctl --json clients | grep -o "\"socket\".*,\"age" || echo "no socket"'
no socket
client: 0
ready
pages 1024 wrong 0 ms *
ready
serve: 0
$ sh with 's=$(supervisor); kill -STOP $s $(worker); books $s 99; killed 0 $s $(worker); exec 5< go 2> /dev/null; kill -KILL $client'
client: 137
ready
serve: 0
$ grep -o 'cannot be taken over: .*' err
cannot be taken over: This is no book of a client, or of another version of the pager. Its userfaultfd is held: it sleeps at its next missing page.

# While the VMM reads, and with two clients; what is gone is not kept.
$ sh with 'vmm --socket door --image image --threads 2 > second & second=$!; for i in 1 2 3 4 5 6; do count=$(ctl clients | grep -c "served$"); [ "$count" -gt 0 ] && kill -KILL $(supervisor) $(worker); done; wait $second; cat second'
pages 1024 wrong 0 ms *
client: 0
ready
pages 1024 wrong 0 ms *
ready
serve: 0

# Who comes while there is no supervisor waits at the door, which the keeper holds.
$ sh with 'rm -f ended; kill -STOP $keeper; kill -KILL $(supervisor) $(worker); (vmm --socket door --image image > third; echo "third: $?" > ended) & gone() { [ -z "$(supervisor)" ]; }; wait_until gone; kill -CONT $keeper; await "grep -qs third ended"; cat third ended'
pages 1024 wrong 0 ms *
third: 0
client: 0
ready
pages 1024 wrong 0 ms *
ready
serve: 0

# The keeper holds what living clients need, and gives it back: descriptors do not grow.
$ sh with 'before=$(ls /proc/$keeper/fd | wc -l); for i in 1 2 3; do vmm --socket door --image image > /dev/null; done; wait_until served 1; settled() { [ $(ls /proc/$keeper/fd | wc -l) = $before ]; }; wait_until settled; echo same'
same
client: 0
ready
pages 1024 wrong 0 ms *
ready
serve: 0

# A pager that ends by itself is not started again; its exit code is the keeper's.
$ uffd-lua serve --keep --socket door --image nowhere
uffd-lua serve: *nowhere*
[1]
