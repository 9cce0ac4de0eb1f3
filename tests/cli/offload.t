# uffd-lua offload: a machine of a stand-in for Cloud Hypervisor is saved, and restored by a pager beside it or one that runs.
? uffd-lua -e 'assert(require "uffd.core".offload_restore, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable)' || { echo "no userfaultfd here"; exit 1; }
? uffd-lua -e 'for _, f in ipairs(require("uffd").probe().features) do if f == "minor_shmem" then os.exit(0) end end os.exit(1)' || { echo "no minor faults of shared memory here (5.14)"; exit 1; }
$ vmm --make 4194304 --image image; dd if=/dev/zero of=image bs=4096 seek=100 count=300 conv=notrunc status=none
$ cloud send ch.sock image > machine & uffd-lua offload snapshot ch.sock saved; wait; cat machine; ls saved
saved: 2 slots, 4.0 MiB
the machine is saved, and ends
memory.img
migration_config.json
state.json
$ cmp image saved/memory.img && [ $(du -k saved/memory.img | cut -f1) -lt 3000 ] && echo the same, with holes
the same, with holes
$ uffd-lua offload snapshot ch.sock saved
uffd-lua offload snapshot: saved/memory.img is there already: choose another directory.
[1]

$ cat > machine.sh <<'END'
> rm -f out; cloud receive ch.sock image > out 2>&1 & machine=$!
> await '[ -S ch.sock ]'
> "$@"; code=$?
> wait $machine; cat out; exit $code
> END
$ sh machine.sh uffd-lua offload restore ch.sock saved --watchdog 600000
restored, and running
all there: 2 slots, 4.0 MiB, * requests for pages
the guest has read 2048 pages, 0 of them wrong
$ sh machine.sh uffd-lua offload restore ch.sock saved --json --paused --prefetch --figures --watchdog 600000 2> figures; grep -q MiB figures && echo a table
{"slots":2,"bytes":4194304,"requests":*,"failed":0,"restarts":0,"doubts":0,"paused":true}
the guest has read 2048 pages, 0 of them wrong
a table

# A policy gives the machine a page of its own, at the second byte of the image; what was touched is recorded, and replayed.
$ cat > policy.lua <<'END'
> local client, image = ...
> local uffd = require "uffd"
> local text = ("%s\n"):format(client.label)
> return uffd.resolver.layers { { 0, image }, { 8192, uffd.resolver.bytes(text .. ("\0"):rep(4096 - #text)), length = 4096 } }
> END
$ sh machine.sh uffd-lua offload restore ch.sock saved --policy policy.lua --label web --record set.ws --watchdog 600000 2> err; grep -c "working set is written" err
restored, and running
all there: 2 slots, 4.0 MiB, * requests for pages
the guest has read 2048 pages, 2 of them wrong
1
$ uffd-lua ws info set.ws | grep -q 1024 && echo 1024 pages are recorded; sh machine.sh uffd-lua offload restore ch.sock saved --replay set.ws --watchdog 600000
1024 pages are recorded
restored, and running
all there: 2 slots, 4.0 MiB, * requests for pages
the guest has read 2048 pages, 0 of them wrong

# By a pager that runs already, with a compressed image.
$ uffd-lua image convert --format zstd -o packed.zst saved/memory.img > /dev/null; uffd-lua serve --socket door --image packed.zst --control ctl > served 2>&1 & echo $! > pid; await '[ -S ctl ]'; sh machine.sh uffd-lua offload restore ch.sock saved --door door --label web; kill $(cat pid); wait; grep -c 'client 1' served | sed 's/.*/seen/'
restored, and running
all there: 2 slots, 4.0 MiB, * requests for pages
the guest has read 2048 pages, 0 of them wrong
seen
$ sh machine.sh uffd-lua offload restore ch.sock saved --image figures
uffd-lua offload restore: The pager refuses the memory: The regions have 4194304 bytes * it belongs to another client.
the machine was not restored
[1]

$ uffd-lua offload restore none.sock saved
uffd-lua offload restore: There is no socket none.sock: have Cloud Hypervisor receive a migration there first.
[1]
$ uffd-lua offload restore ch.sock
uffd-lua offload: it needs a SOCKET and a DIRECTORY
usage: uffd-lua offload restore|snapshot SOCKET DIRECTORY [options]; uffd-lua offload --help tells more
[2]
$ uffd-lua offload keep a b
uffd-lua offload: 'keep' is none of its verbs
usage: *
[2]
$ uffd-lua offload snapshot a b --paused
uffd-lua offload: --paused is for a restore
usage: *
[2]
$ uffd-lua offload restore a b --door door --image image
uffd-lua offload: --image is for a pager that is started here, without --door
usage: *
[2]
$ uffd-lua offload restore a b --page-size 8K
uffd-lua offload: '--page-size' takes 4K or 2M, not '8K'
usage: *
[2]
