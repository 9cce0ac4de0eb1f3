# serve --config: a table of options; serve --check: would it work?
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
$ vmm --make 1048576 --image image
$ cat > policy.lua <<'END'
> local client, image, name = ...
> local uffd = require "uffd"
> assert(client.id == 1 and client.size == image.size and #client.regions == 1 and name == "web")
> return uffd.resolver.layers { { 0, image }, { 0, uffd.resolver.bytes(("x"):rep(4096)), length = 4096 } }
> END
$ cat > config.lua <<'END'
> return { image = "image", policy = "policy.lua", args = { "web" }, max_clients = 3, around = "64K", once = true, on_crash = "freeze" }
> END
$ uffd-lua serve --config config.lua --check
image: image, 1048576 bytes
policy.lua: *
$ uffd-lua serve --image image --check
image: image, 1048576 bytes
client: *
$ ls door 2> /dev/null
[2]

# What is wrong is told, with its place.
$ uffd-lua serve --config config.lua --check other
image: image, 1048576 bytes
uffd-lua serve: policy.lua: policy.lua:3: assertion failed!
[1]
$ echo 'return nil, "not you"' > policy.lua; uffd-lua serve --config config.lua --check
image: image, 1048576 bytes
uffd-lua serve: policy.lua: not you
[1]
$ echo 'return 5' > policy.lua; uffd-lua serve --config config.lua --check
image: image, 1048576 bytes
uffd-lua serve: policy.lua: it returned a number; it must return a uffd.resolver
[1]
$ uffd-lua serve --image nowhere --check
uffd-lua serve: *nowhere*
[1]
$ echo 'return { imag = "image" }' > wrong.lua; uffd-lua serve --config wrong.lua --check
uffd-lua serve: wrong.lua: 'imag' is not an option
[1]
$ echo 'return { image = "image", max_clients = "many" }' > wrong.lua; uffd-lua serve --config wrong.lua --check
uffd-lua serve: wrong.lua: max_clients takes an integer from 1 *
[1]
$ echo 'return { image = "image", once = 1 }' > wrong.lua; uffd-lua serve --config wrong.lua --check
uffd-lua serve: wrong.lua: once takes true or false
[1]
$ echo 'return print' > wrong.lua; uffd-lua serve --config wrong.lua --check
uffd-lua serve: wrong.lua: it must return a table of options
[1]
$ uffd-lua serve --config nowhere.lua
uffd-lua serve: *nowhere.lua*
[1]

# It serves with it, and SIGHUP reads it anew: workers have the same arguments.
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ cat > v.lua <<'END'
> print("words", select("#", ...), (select(3, ...)))
> return select(2, ...)
> END
$ echo 'return { socket = "door", image = "image", policy = "v.lua", args = { "first" } }' > live.lua
$ rm -f out err; uffd-lua serve --config live.lua > out 2> err & pid=$!
> await 'grep -qs "has started" err'
> (await "grep -q first err"; sed -i s/first/second/ live.lua; kill -HUP $pid; await "grep -q retired err"; echo; echo) | vmm --socket door --image image --stay
> kill -TERM $pid; wait $pid; grep words err
ready
pages 256 wrong 0 ms *
ready
words	3	first
words	3	second
