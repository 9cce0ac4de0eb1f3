# Policies that fail: the client is killed or left frozen, and the sentence says what the policy did.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ vmm --make 65536 --image image
$ cat > try <<'END'
> rm -f err
> uffd-lua serve --socket door --image image --once --policy "$@" > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> vmm --socket door --image image > seen 2>&1; echo "client: $?"
> wait $pid; echo "serve: $?"
> grep '^client 1: ' err
> END
$ echo 'error "it broke"' > raises.lua; sh try raises.lua 2>/dev/null
client: 137
serve: 1
client 1: A worker cannot serve it: resolver: raises.lua:1: it broke. It is killed.
$ echo 'return 5' > nonsense.lua; sh try nonsense.lua 2>/dev/null
client: 137
serve: 1
client 1: A worker cannot serve it: resolver: it returned a number; it must return a uffd.resolver*
$ echo 'return require("uffd").resolver.file { path = "nowhere" }' > fails.lua; sh try fails.lua 2>/dev/null
client: 137
serve: 1
client 1: A worker cannot serve it: resolver: *nowhere*
$ echo 'return require("uffd").resolver.policy(function() error("no factory") end)' > factory.lua; sh try factory.lua 2>/dev/null
client: 137
serve: 1
client 1: A worker cannot serve it: policy factory: *no factory*
$ echo 'return require("uffd").resolver.bytes("short")' > short.lua; sh try short.lua 2>/dev/null
client: 137
serve: 1
client 1: A worker cannot serve it: *make the region shorter*

# A policy that takes its time: the watchdog names the fault, and the client gets its page all the same.
$ cat > slow.lua <<'END'
> local uffd = require "uffd"
> local _, image = ...
> local slow = uffd.resolver.policy(function(args)
>   return function()
>     local deadline = os.clock() + 0.5
>     while os.clock() < deadline do end
>     return args.page
>   end
> end, { page = io.open("image", "rb"):read(4096) })
> return uffd.resolver.layers { { 0, image }, { 0, slow, length = 4096 } }
> END
$ sh try slow.lua --watchdog 50 --around 4K; cat seen
client: 0
serve: 0
...
client 1: A fault waits for * ms: page 0x* of the client, * in the image, *
...
pages 16 wrong 0 ms *

# A page that fails is told with its place and cause, however fast its client is gone, and serve says that data was lost.
$ cat > bang.lua <<'END'
> local uffd = require "uffd"
> return uffd.resolver.policy(function()
>   return function(fault)
>     if fault.offset >= 8192 and fault.offset < 16384 then error "bang" end
>     return uffd.ZERO
>   end
> end)
> END
$ cat > toucher.lua <<'END'
> local uffd = require "uffd"
> local memory = assert(uffd.map { size = 65536 })
> local handoff <close> = assert(uffd.handoff { socket = "door", memory = memory })
> for offset = 0, 16384, 4096 do print(offset, (memory:read(offset, 1) or "poisoned"):byte()) end
> io.read()
> END
$ rm -f err; mkfifo keys; uffd-lua serve --socket door --control control --policy bang.lua --once --around 4K > out 2> err & pid=$!
> await 'grep -qs "has started" err'
> uffd-lua toucher.lua < keys > touched & exec 3> keys
> await 'grep -qs 16384 touched'
> await 'uffd-lua ctl --socket control errors | grep -q 12288'
> uffd-lua ctl --socket control errors; uffd-lua ctl --socket control errors 1; uffd-lua ctl --socket control errors 1 --json
> echo >&3; wait $pid; echo "serve: $?"; cat out
*-*-* *:*:*  error    client 1: The page at offset 8192 *bang*
*-*-* *:*:*  error    client 1: The page at offset 12288 *bang*
*-*-* *:*:*  error    client 1: The page at offset 12288 *bang*
{"time_ns":*,"kind":"error","client":1,"errno":5,"text":"The page at offset 12288 *bang*"}
serve: 3
client * errors  poisoned  end
     1 * 2         2  *
