# What SIGHUP and ctl reload change of a pager that runs, what they cannot, and ctl drain of one client.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ for i in one two; do (printf 'I am %s\n' $i; head -c 65536 /dev/zero) | head -c 65536 > $i.img; done
> cat > clients.lua <<'END2'
> -- Two clients of one connection each, told apart by their labels; says what their memory begins with.
> local uffd = require "uffd"
> local kept = {}
> for i = 1, #arg do
>   local memory = assert(uffd.map { size = 65536 })
>   local handoff, message = uffd.handoff { socket = "door", memory = memory, label = arg[i], timeout = 60000 }
>   print(handoff and memory:read(0, 20):match "^[^\n%z]*" or message)
>   kept[#kept + 1] = { memory, handoff }
> end
> io.stdout:flush()
> if os.getenv "STAY" then io.open("come", "w"):close(); io.read() end
> END2
> cat > with <<'END2'
> rm -f err come; uffd-lua serve --config config.lua > out 2> err & pid=$!
> await 'grep -qs "has started" err'
> ctl() { uffd-lua ctl --socket control "$@"; }
> reload() { before=$(grep -c 'has retired' err); ctl reload; await "[ \$(grep -c 'has retired' err) -gt $before ]"; }
> eval "$(cat)"
> kill -TERM $pid; wait $pid; echo "serve: $?"
> END2

# Limits, levels and the image of new clients change; those that are there go on. What cannot change is told.
$ cat > config.lua <<'END2'
> return { socket = "door", control = "control", image = "one.img", max_clients = 1, log = "info" }
> END2
$ sh with <<'END2'
> mkfifo go; exec 4<> go; STAY=1 uffd-lua clients.lua a b < go & c=$!; await '[ -e come ]'
> echo 'return { socket = "door", control = "control", image = "two.img", max_clients = 3, workers = 2, mode = "666" }' > config.lua
> reload; await 'grep -q "New clients get the image" err'
> uffd-lua clients.lua c
> echo 'return { socket = "door", control = "control", image = "{label}.img", max_clients = 9 }' > config.lua
> reload; await '[ $(uffd-lua ctl --socket control metrics | grep -c ^uffd_image_info) = 1 ]'
> uffd-lua clients.lua one two three
> echo 'return { socket = "door", control = "control", imag = "x" }' > config.lua; ctl reload; await 'grep -q "stay as they were" err'
> uffd-lua clients.lua two
> echo >&4; wait $c; grep -o 'the options stay.*\|The option .*' err
> END2
I am one
The pager refuses the memory: There is no room for another client: max_clients is 1.
I am two
I am one
I am two
The pager refuses the memory: three.img: No such file or directory.
I am two
The option mode stays as it was: it changes when this pager is started anew.
The option workers stays as it was: it changes when this pager is started anew.
the options stay as they were: config.lua: 'imag' is not an option
serve: 0

# The level of the log: what is left out is not said any more.
$ echo 'return { socket = "door", control = "control", image = "one.img" }' > config.lua
$ sh with <<'END2'
> echo 'return { socket = "door", control = "control", image = "one.img", log = "error" }' > config.lua; ctl reload
> await '[ "$(uffd-lua ctl --socket control status | sed -n "s/^reloads *//p")" = 1 ]'; await '[ "$(uffd-lua ctl --socket control status | sed -n "s/^reloading *//p")" = false ]'
> n=$(grep -c . err); uffd-lua clients.lua a; ctl label 1 x 2> /dev/null; [ $n = $(grep -c . err) ] && echo silent
> END2
I am one
silent
serve: 0

# One client is drained: its memory is filled, the others are served on.
$ echo 'return { socket = "door", control = "control", image = "one.img" }' > config.lua
$ sh with <<'END2'
> exec 4<> go; STAY=1 uffd-lua clients.lua a b < go & c=$!; await '[ -e come ]'
> ctl drain 1; await '! uffd-lua ctl --socket control clients | grep -q "^ *1 "'; ctl clients | grep -c '^ *2 .*served'
> ctl drain 9; ctl drain x; echo >&4; wait $c; grep -c 'client 1 is complete' err
> END2
I am one
I am one
1
uffd-lua ctl: There is no client 9.
uffd-lua ctl: 'drain' takes an integer from 1 on
usage: *
1
serve: 0

# Numbers are decimal digits.
$ uffd-lua serve --socket door --image one.img --max-clients 1e3
uffd-lua serve: '--max-clients' takes an integer from 1 to 4294967295, in decimal digits, not '1e3'
usage: *
[2]
$ uffd-lua serve --socket door --image one.img --workers 0x10
uffd-lua serve: '--workers' takes an integer from 1 to 64, in decimal digits, not '0x10'
usage: *
[2]
$ uffd-lua ws info --runs 1e2 x
uffd-lua ws info: '--runs' takes an integer from 0 on, in decimal digits, not '1e2'
usage: *
[2]
