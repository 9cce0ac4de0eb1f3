# An image for each client: by a template, or by a function in the configuration file. What clients say of themselves leads
# nowhere else, and who is refused is told.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ mkdir -p snap/web snap/db secret; for i in web db; do (printf 'I am %s\n' $i; head -c 65536 /dev/zero) | head -c 65536 > snap/$i/ram.img; done
> cp snap/db/ram.img secret/ram.img; cp snap/web/ram.img snap/ram.img
> cat > clients.lua <<'END2'
> -- Each label of the arguments is a client of this process; "-": one without a label. Says what its memory begins with.
> local uffd = require "uffd"
> local kept = {}
> for i = 2, #arg do
>   local label = arg[i] ~= "-" and load("return '" .. arg[i] .. "'")() or nil
>   local memory = assert(uffd.map { size = 65536 })
>   local handoff, message = uffd.handoff { socket = arg[1], memory = memory, label = label, timeout = 60000 }
>   print(handoff and memory:read(0, 20):match "^[^\n%z]*" or message)
>   kept[#kept + 1] = { memory, handoff }
> end
> io.stdout:flush()
> local stay = os.getenv "STAY"
> if stay then io.open(stay, "w"):close(); io.read() end
> END2
> cat > with <<'END2'
> # with OPTIONS: a pager, and what stands on standard input is run beside it
> rm -f err; uffd-lua serve --control control "$@" > out 2> err & pid=$!; export pid
> await 'grep -qs "has started\|uffd-lua serve: [^l]" err'
> ctl() { uffd-lua ctl --socket control "$@"; }
> images() { ctl metrics | grep -c '^uffd_image_info'; }
> eval "$(cat)"
> kill -TERM $pid; wait $pid; echo "serve: $?"
> END2

# Two clients of one snapshot share a descriptor, the third has another; the last one gone, the pager has none.
$ sh with --socket door --image "$PWD/snap/{label}/ram.img" <<'END2'
> images; uffd-lua clients.lua door web db
> mkfifo go; exec 4<> go; STAY=come uffd-lua clients.lua door web web db < go & c=$!
> await '[ -e come ]'; await '[ $(uffd-lua ctl --socket control clients | grep -c served) = 3 ]'; images; ctl metrics | sed -n 's/^uffd_image_clients{.*} /clients /p' | sort; await '[ $(ls -l /proc/$pid/fd 2> /dev/null | grep -c ram.img) = 2 ]'; echo shared
> ctl --json clients | grep -o '"image":.*snap[^,]*' | sed 's/"image":.*snap/snap/'
> echo >&4; wait $c; await '[ $(uffd-lua ctl --socket control metrics | grep -c ^uffd_image_info) = 0 ]'; await '[ $(ls -l /proc/$pid/fd 2> /dev/null | grep -c ram.img) = 0 ]'; echo closed
> END2
0
I am web
I am db
I am web
I am web
I am db
2
clients 1
clients 2
shared
snap/web/ram.img"
snap/web/ram.img"
snap/db/ram.img"
closed
serve: 0

# A label that would lead elsewhere, or is none; a snapshot that is not there, or too short. The words reach the client.
$ : > snap/empty.img; mkdir snap/tiny; head -c 4096 /dev/zero > snap/tiny/ram.img; mkdir -p 'snap/{uid}' 'snap/%s'; cp snap/web/ram.img 'snap/{uid}/ram.img'; cp snap/db/ram.img 'snap/%s/ram.img'
> sh with --socket door --image "snap/{label}/ram.img" <<'END2'
> uffd-lua clients.lua door ../secret .. . ... "" - web/../db /etc nowhere tiny '{uid}' '%s' '{label}' web
> uffd-lua ctl --socket control status | grep 'refused\|served'
> uffd-lua ctl --socket control metrics | grep 'refusals_total.*\(image\|handshake\)'
> grep -c 'served' err
> END2
The pager refuses the memory: {label} is no name of a file: "../secret" begins with a dot, or has a slash.
The pager refuses the memory: {label} is no name of a file: ".." begins with a dot, or has a slash.
The pager refuses the memory: {label} is no name of a file: "." begins with a dot, or has a slash.
The pager refuses the memory: {label} is no name of a file: "..." begins with a dot, or has a slash.
The pager refuses the memory: {label} is empty: the client has sent none.
The pager refuses the memory: {label} is empty: the client has sent none.
The pager refuses the memory: {label} is no name of a file: "web/../db" begins with a dot, or has a slash.
The pager refuses the memory: {label} is no name of a file: "/etc" begins with a dot, or has a slash.
The pager refuses the memory: snap/nowhere/ram.img: No such file or directory.
The pager refuses the memory: *
I am web
I am db
The pager refuses the memory: snap/{label}/ram.img: No such file or directory.
I am web
served        3
refused       11
uffd_refusals_total{reason="image"} 2
uffd_refusals_total{reason="handshake"} 9
0
serve: 0

# Firecracker's clients send no label: the front door stands for it. A stand-in VMM that is refused is killed, it reads no
# zeros.
$ vmm --make 65536 --image web.img; vmm --make 65536 --image other.img
> sh with --socket "$PWD/web.sock" --socket other --socket none --image '{socket}.img' <<'END2'
> vmm --socket web.sock --image web.img; vmm --socket other --image other.img --hang-up; (vmm --socket none --image web.img; echo "vmm: $?") 2> /dev/null
> await 'grep -q refused: err'; grep -o 'refused: .*' err
> END2
pages 16 wrong 0 ms *
pages 16 wrong 0 ms *
vmm: 137
refused: none.img: No such file or directory. It is killed *.
serve: 0

# A file that is put in the image's place is for those who come later; those that are there go on with theirs.
$ sh with --socket door --image "snap/{label}/ram.img" <<'END2'
> rm -f come; exec 4<> go; STAY=come uffd-lua clients.lua door web < go & c=$!; await '[ -e come ]'
> (printf 'I am new\n'; head -c 65536 /dev/zero) | head -c 65536 > new.img; mv new.img snap/web/ram.img
> uffd-lua clients.lua door web; await '[ $(uffd-lua ctl --socket control metrics | grep -c ^uffd_image_info) = 1 ]'
> echo >&4; wait $c
> END2
I am web
I am new
serve: 0
$ printf 'I am web\n' | dd of=snap/web/ram.img conv=notrunc 2> /dev/null

# Functions choose image and policy. They run in a copy of the supervisor: what hangs, throws, exits or returns nonsense
# refuses its own client, and nobody else.
$ cat > greet.lua <<'END2'
> local client, image, word = ...
> local uffd = require "uffd"
> local text = ("%s %s\n"):format(word, client.label)
> return uffd.resolver.layers { { 0, image }, { 0, uffd.resolver.bytes(text .. ("\0"):rep(4096 - #text)), length = 4096 } }
> END2
$ echo 'this is no Lua' > broken.lua
$ cat > config.lua <<'END2'
> return {
>   socket = { "door", "other" }, args = { "Hello" },
>   image = function(client)
>     local label = client.label
>     if label == "hangs" then while true do end end
>     if label == "table" then return {} end
>     if label == "number" then return 7 end
>     if label == "nothing" then return end
>     if label == "empty" then return "" end
>     if label == "zero" then return "snap/web/ram.img\0" end
>     if label == "long" then return ("x"):rep(5000) end
>     if label == "throws" then error("bang") end
>     if label == "object" then error({}) end
>     if label == "refused" then return nil, "User " .. client.uid .. " may not use the socket " .. client.socket end
>     if client.socket:find "other$" then return "snap/db/ram.img" end
>     return client_path("snap/{label}/ram.img", client)
>   end,
>   policy = function(client)
>     if client.label == "broken" then return "broken.lua" end
>     if client.label == "gone" then return "gone.lua" end
>     return "greet.lua"
>   end,
> }
> END2
$ sh with --config config.lua <<'END2'
> uffd-lua clients.lua door web db table number nothing empty zero long throws object refused broken gone ../db db
> uffd-lua clients.lua other web; await '[ $(uffd-lua ctl --socket control metrics | grep -c ^uffd_image_info) = 0 ]'
> END2
Hello web
Hello db
The pager refuses the memory: choose: it returned a table; it must return a path, or true for the pager's own image, or nil and why not.
The pager refuses the memory: choose: it returned a number; it must return a path, or true for the pager's own image, or nil and why not.
The pager refuses the memory: choose: it returned a nil; it must return a path, or true for the pager's own image, or nil and why not.
The pager refuses the memory: choose: it named no image.
The pager refuses the memory: choose: it returned a path with a zero byte in it.
The pager refuses the memory: choose: it returned a path of 5000 bytes.
The pager refuses the memory: choose: config.lua:12: bang.
The pager refuses the memory: choose: (not a message).
The pager refuses the memory: choose: User 0 may not use the socket door.
The pager refuses the memory: choose: policy: broken.lua:1: syntax error near 'is'.
The pager refuses the memory: choose: policy: cannot open gone.lua*
The pager refuses the memory: choose: {label} is no name of a file: "../db" begins with a dot, or has a slash.
Hello db
Hello web
serve: 0

$ sh with --config config.lua --hang 300ms <<'END2'
> uffd-lua clients.lua door hangs
> END2
The pager refuses the memory: It was not done within 300 ms, and is given up.
serve: 0

# A policy for each client by a template, beside one image; ctl changes that image.
$ sed 's/word, client.label/client.label, "by its own"/' greet.lua > web.lua; echo 'return (select(2, ...))' > db.lua
$ sh with --socket door --image snap/db/ram.img --policy '{label}.lua' <<'END2'
> uffd-lua clients.lua door web db ../db nobody; ctl image snap/web/ram.img; uffd-lua clients.lua door db
> END2
web by its own
I am db
The pager refuses the memory: choose: policy: {label} is no name of a file: "../db" begins with a dot, or has a slash.
The pager refuses the memory: choose: policy: cannot open nobody.lua*
I am web
serve: 0
$ sh with --socket door --image 'snap/{label}/ram.img' <<'END2'
> ctl image snap/db/ram.img
> END2
uffd-lua ctl: This pager has no image of its own: each client has one that is chosen for it.
serve: 0

# What the options cannot mean, and --check.
$ uffd-lua serve --socket door --image 'snap/{lable}/ram.img'
uffd-lua serve: image: the fields of a template are {label}, {socket}, {uid}, {gid} and {pid}, and two braces stand for one: snap/{lable}/ram.img
[1]
$ uffd-lua serve --socket door --image 'snap/label}/ram.img'
uffd-lua serve: image: a brace is closed and was not opened: snap/label}/ram.img. Two of them stand for one.
[1]
$ uffd-lua serve --socket door --image 'snap/{label/ram.img'
uffd-lua serve: image: the fields of a template are *
[1]
$ uffd-lua serve --socket door --image snap/db/ram.img --replay '{label}.ws'
uffd-lua serve: replay: it is a template, and the image is none: one image has one working set.
[1]
$ uffd-lua serve --check --image 'snap/{label}/ram.img'
image: snap/{label}/ram.img, for each client
$ uffd-lua serve --check --config config.lua
image: a function, for each client

# Hundreds of snapshots, from four processes at once.
$ mkdir many; for i in $(seq 200); do printf 'I am %d\n' $i > many/$i; truncate -s 65536 many/$i; done
> cat > many.lua <<'END2'
> local uffd = require "uffd"
> local kept, good = {}, 0
> for i = tonumber(arg[1]), 200, 4 do
>   local memory = assert(uffd.map { size = 65536 })
>   kept[#kept + 1] = { memory, assert(uffd.handoff { socket = "door", memory = memory, label = ("%d"):format(i), timeout = 60000 }) }
>   if memory:read(0, 20):match "^[^\n]*" == ("I am %d"):format(i) then good = good + 1 end
> end
> print(good)
> io.stdout:flush()
> io.open("many" .. arg[1], "w"):close()
> io.read()
> END2
> sh with --socket door --image 'many/{label}' --max-clients 300 --workers 2 <<'END2'
> exec 4<> go; for i in 1 2 3 4; do uffd-lua many.lua $i < go 4>&- & done
> await '[ -e many1 ] && [ -e many2 ] && [ -e many3 ] && [ -e many4 ]'
> images; ls -l /proc/$pid/fd 2> /dev/null | grep -c '/many/'
> kill -KILL $(sed -n 's/.*has started: process //p' err | head -1); await '[ $(grep -c "has started" err) = 3 ]'
> exec 4>&-
> await '[ $(uffd-lua ctl --socket control metrics | grep -c ^uffd_image_info) = 0 ]'; await '[ $(ls -l /proc/$pid/fd 2> /dev/null | grep -c /many/) = 0 ]'; echo closed
> END2
50
50
50
50
200
200
closed
serve: 0
