# Several front doors, and what clients call themselves: a table, JSON and a policy tell them apart.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ vmm --make 1048576 --image image
$ cat > client.lua <<'END'
> local uffd = require "uffd"
> local memory = assert(uffd.map { size = 1048576 })
> local handoff <close> = assert(uffd.handoff { socket = arg[1], memory = memory, label = arg[2], timeout = 60000 })
> print((memory:read(0, 40):gsub("%z.*", "")))
> io.stdout:flush()
> if arg[3] then io.open(arg[3], "w"):close(); io.read() end
> END
$ cat > policy.lua <<'END'
> local client, image = ...
> local uffd = require "uffd"
> local text = ("%s by %s"):format(client.label or "nobody", client.socket:match "[^/]*$")
> return uffd.resolver.layers { { 0, image }, { 0, uffd.resolver.bytes(text .. ("\0"):rep(4096 - #text)), length = 4096 } }
> END
$ rm -f out err; uffd-lua serve --socket door --socket 'other,mode=666,uid=65534' --socket 'odd,name=1' --control control --image image --policy policy.lua --mode 640 > out 2> err & pid=$!
> await 'grep -qs "has started" err'
> sed -n 's/^uffd-lua serve: //p' err; stat -c '%n %a' door other odd,name=1
> mkfifo go; exec 4<> go
> uffd-lua client.lua door web-7 come < go & one=$!; await '[ -e come ]'
> uffd-lua client.lua other
> uffd-lua client.lua odd,name=1 'ein "Wort"'
> await '[ $(uffd-lua ctl --socket control clients | wc -l) = 2 ]'; uffd-lua ctl --socket control clients
> uffd-lua ctl --socket control --json clients | grep -o '"label":.*"socket":[^,]*'
> uffd-lua ctl --socket control metrics | grep '^uffd_client_info'
> uffd-lua ctl --socket control label 1 web-8; uffd-lua ctl --socket control clients | grep -c web-8
> echo >&4; wait $one; kill $pid; wait $pid; echo "serve: $?"; ls | grep '^door$\|^other$\|^odd' || echo none
listening on door, other, odd,name=1
door 640
other 666
odd,name=1 640
web-7 by door
nobody by other
ein "Wort" by odd,name=1
client  label * pid *
     1  web-7 *
"label":"web-7","socket":"door"
uffd_client_info{client="1",label="web-7",socket="door",shared="false"} 1
1
serve: 0
none

# Labels that are none, before anything is sent.
$ uffd-lua client.lua nowhere "$(printf 'a\nb')"
uffd-lua: client.lua:3: A label has at most 63 bytes of UTF-8, and no control characters.
stack traceback:
...
[1]
$ uffd-lua client.lua nowhere "$(printf 'a\377b')" 2>&1 | head -1
uffd-lua: client.lua:3: A label has at most 63 bytes of UTF-8, and no control characters.
$ uffd-lua client.lua nowhere "$(head -c 1048576 /dev/zero | tr '\0' a | head -c 100000)" 2>&1 | head -1
uffd-lua: client.lua:3: A label has at most 63 bytes of UTF-8, and no control characters.

# Doors that cannot be.
$ uffd-lua serve --socket door,mode=999 --image image
uffd-lua serve: '--socket' takes a path, with a mode such as ,mode=660, not 'door,mode=999'
usage: *
[2]
$ uffd-lua serve --socket door --socket door --image image
uffd-lua serve: Another program listens at door: *
[1]
$ cat > config.lua <<'END'
> return { socket = { "door", { path = "other", uid = 65534 } }, image = "image" }
> END
$ rm -f err; uffd-lua serve --config config.lua > out 2> err & pid=$!
> await 'grep -qs "has started" err'; uffd-lua client.lua other x > /dev/null; echo $?; kill $pid; wait $pid; echo $?; ls door other 2> /dev/null
0
0
[2]
