# uffd-lua serve --share: clients have one copy of the image's pages between them.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
? uffd-lua -e 'for _, name in ipairs(require("uffd").probe().features) do if name == "minor_shmem" then return end end error("no minor faults here", 0)'
$ vmm --make 4194304 --image image
$ cat > with <<'END'
> options=""
> while [ "$1" != -- ]; do options="$options $1"; shift; done; shift
> rm -f out err
> env --default-signal=INT uffd-lua serve --socket door --control ctl $options > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> pid=$pid sh -c "$*"
> kill -TERM $pid; wait $pid; echo "serve: $?"
> END

# Each reads all, says so, and waits for the others; then it tells how many KiB its part of what is in memory is.
$ cat > client.lua <<'END'
> local uffd = require "uffd"
> local name = arg[1]
> local handoff <close>, memory = assert(uffd.handoff { socket = "door", shared = true, label = name })
> assert(memory:read() == io.open("image", "rb"):read "a")
> assert(memory:write(5 * 4096, name))
> io.open("read." .. name, "w"):close()
> os.execute "await '[ -e read.a -a -e read.b -a -e read.c -a -e read.d ]'"
> assert(memory:read(5 * 4096, #name) == name)
> local inside, pss = false, nil
> for line in io.lines "/proc/self/smaps" do
>   local low, high = line:match "^(%x+)%-(%x+) "
>   if low then inside = tonumber(low, 16) == memory.address end
>   if inside and not pss then pss = tonumber(line:match "^Pss:%s+(%d+)") end
> end
> print(name, pss < 4096 / 4 + 8)
> io.open("done." .. name, "w"):close()
> os.execute "await '[ -e done.a -a -e done.b -a -e done.c -a -e done.d ]'"
> END
$ sh with --image image --share --workers 2 -- 'for name in a b c d; do uffd-lua client.lua $name > out.$name & done; wait; cat out.?'
a	true
b	true
c	true
d	true
serve: 0

# Who shares, and how much memory all have of it.
$ cat > one.lua <<'END'
> local uffd = require "uffd"
> local handoff <close>, memory = assert(uffd.handoff { socket = "door", shared = true, label = "x" })
> memory:read(0, 1 << 20)
> os.execute "uffd-lua ctl --socket ctl clients; uffd-lua ctl --socket ctl clients --json; uffd-lua ctl --socket ctl metrics | grep -E '^uffd_(client_info|image_shared)'"
> END
$ sh with --image image --share -- uffd-lua one.lua
client  label  shared  *
     1      x     yes  *
*"size":4194304,"shared":true,"label":"x",*
uffd_client_info{client="1",label="x",socket="door",shared="true"} 1
uffd_image_shared_bytes{number="1"} *
serve: 0

# A worker is replaced, and new clients get another image; who has mapped the former one must ask again.
$ cat > late.lua <<'END'
> local uffd, core = require "uffd", require "uffd.core"
> local memory = assert(core.handoff_map("door"))
> os.execute "uffd-lua ctl --socket ctl reload && uffd-lua ctl --socket ctl image other"
> print(core.handoff("door", { { memory, 0 } }))
> local handoff <close>, new = assert(uffd.handoff { socket = "door", shared = true })
> print(new:read() == io.open("other", "rb"):read "a")
> END
$ tr 'a-z' 'b-za' < image > other
$ sh with --image image --share -- uffd-lua late.lua
nil	The pager refuses the memory: The memory is a mapping of pages that this pager does not have, or not any more: ask it for another mapping.	32
true
serve: 0

# What cannot be.
$ echo 'return ...' > policy.lua
$ uffd-lua serve --socket door --image image --share --policy policy.lua
uffd-lua serve: *share: clients that share the pages of an image have no resolver of their own*
[1]
$ uffd-lua serve --socket door --image '/images/{label}' --share
uffd-lua serve: *share: the clients of one image can share its pages, and there is no such image*
[1]
