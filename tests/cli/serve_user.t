# An ordinary user serves an ordinary user's process, whose userfaultfd gets the faults of user mode only.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ] || { echo "vm.unprivileged_userfaultfd is not 0"; exit 1; }
# Root becomes an ordinary user, in a place that such a user can write to.
$ cat > as_user <<'END'
> [ "$(id -u)" != 0 ] || set -- setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all "$@"
> exec "$@"
> END
? sh as_user test ! -w /dev/userfaultfd || { echo "everybody may use /dev/userfaultfd"; exit 1; }
$ chmod 777 . && cp "$BUILD/bin/uffd-lua" . && chmod 755 uffd-lua
$ yes 'what the image holds' | head -c 65536 > image; chmod 644 image
$ cat > client.lua <<'END'
> local uffd = require "uffd"
> local memory = assert(uffd.map { size = 65536 })
> local handoff <close> = assert(uffd.handoff { socket = "door", memory = memory })
> print(handoff:object():user_mode_only(), memory:read(0, 20))
> print(memory:read() == io.open("image", "rb"):read "a")
> assert(handoff:complete())
> END
$ cat > serve <<'END'
> rm -f out err; ./uffd-lua serve --socket door --image image --once > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> ./uffd-lua client.lua; wait $pid; echo "serve: $?"
> END
$ sh as_user sh serve
true	what the image holds
true
serve: 0
$ grep -c 'client 1 is gone' err
1
# Another user is kept out, unless it is let in.
? [ "$(id -u)" = 0 ] || { echo "only root can be two users"; exit 1; }
$ rm -f err; uffd-lua serve --socket door --image image --mode 666 --once > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> sh as_user timeout 2 ./uffd-lua -e 'local uffd = require "uffd"; print(uffd.handoff { socket = "door", memory = uffd.map { size = 65536 } })'
> await 'grep -qs refused err'
> kill $pid; wait $pid; grep refused err
*
refused: User 65534 (process *) may not connect: allow it with the option uid.
$ rm -f err; uffd-lua serve --socket door --image image --mode 666 --uid 65534 --once > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> sh as_user ./uffd-lua client.lua; wait $pid
true	what the image holds
true

# Two roles: whom the mode of the control socket lets connect may look; orders are for root, the pager's user and --control-uid.
$ cat > ctl <<'END'
> rm -f err; uffd-lua serve --socket door --image image --mode 666 --uid 65534 --control control "$@" > out 2> err & pid=$!
> await 'grep -qs "listening on" err'
> stat -c %a door control
> for request in status drain; do sh as_user ./uffd-lua ctl --socket control $request 2>&1 | head -1; done
> uffd-lua ctl --socket control drain > /dev/null 2>&1; wait $pid; echo "serve: $?"
> END
$ sh ctl
666
600
uffd-lua ctl: Cannot connect to the control socket control: Permission denied*
uffd-lua ctl: Cannot connect to the control socket control: Permission denied*
serve: 0
$ sh ctl --control-mode 666
666
666
version       *
uffd-lua ctl: User 65534 may look, and not give the order drain: allow it with the option control_uid.
serve: 0
$ sh ctl --control-mode 666 --control-uid 65534
666
666
version       *
serve: 0
