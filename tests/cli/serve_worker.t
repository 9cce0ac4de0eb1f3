# Workers of uffd-lua serve are replaced, when they are told to and when they die; no client notices more than a pause.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ vmm --make 4194304 --image image
# with OPTIONS -- COMMAND: starts serve, waits until it has a worker, runs the command, waits for serve, tells its exit code.
$ cat > with <<'END'
> options=""
> while [ "$1" != -- ]; do options="$options $1"; shift; done; shift
> rm -f out err
> env --default-signal=INT uffd-lua serve --socket door $options > out 2> err & pid=$!
> await 'grep -qs "has started" err'
> pid=$pid sh -c "$*"
> wait $pid; echo "serve: $?"
> END

# A new worker takes over at SIGHUP, with the policy that is there then.
$ cat > v.lua <<'END'
> print("version 1 of the policy")
> return select(2, ...)
> END
$ sh with --image image --policy v.lua -- '(await "grep -q version.1 err"; sed -i s/1/2/ v.lua; kill -HUP $pid; await "grep -q retired err"; echo; echo) | vmm --socket door --image image --stay; kill -TERM $pid'
ready
pages 1024 wrong 0 ms *
ready
serve: 0
$ grep -c 'version [12]' err
2
$ grep retired err
worker 0 has retired
worker 0 has retired

# A worker that is killed is replaced: the client notices a pause.
$ sh with --image image --once --control ctl -- 'worker=$(sed -n "s/.*has started: process //p" err); (await "uffd-lua ctl --socket ctl clients | grep -q served\$"; kill -KILL $worker; echo; echo) | vmm --socket door --image image --stay'
ready
pages 1024 wrong 0 ms *
ready
serve: 0
$ grep -c '^worker 0 has died: ' err
1
$ tail -1 out
     1 * 4.0 * 1  exited

# The program that is there at SIGHUP is the new worker, though the old one's file is gone.
$ mkdir new && cp "$BUILD/bin/uffd-lua" new/uffd-lua
$ rm -f out err; new/uffd-lua serve --socket door --image image > out 2> err & pid=$!
> await 'grep -qs "has started" err'
> cp new/uffd-lua new/newer && mv new/newer new/uffd-lua && kill -HUP $pid
> await 'grep -qs retired err'
> worker=$(sed -n 's/.*has started: process //p' err | tail -1)
> readlink /proc/$pid/exe; readlink /proc/$worker/exe; tr '\0' ' ' < /proc/$worker/cmdline; echo
> kill -TERM $pid; wait $pid
*/new/uffd-lua (deleted)
*/new/uffd-lua
*/new/uffd-lua serve --socket door --image image --worker *

# Nothing is open at 0, 1 and 2: a policy that reads and prints gets no descriptor of the pager or of a client.
$ echo 'local client, image = ...; print "hello"; os.execute "readlink /proc/$PPID/fd/0 > links; readlink /proc/$PPID/fd/1 /proc/$PPID/fd/2 | grep -c pipe: >> links"; return image' > closed.lua
$ rm -f door; uffd-lua serve --socket door --image image --once --policy closed.lua 0<&- 1>&- 2>&- & pid=$!; await '[ -S door ]'; vmm --socket door --image image; wait $pid; echo "serve: $?"; cat links
pages 1024 wrong 0 ms *
serve: 0
/dev/null
2
