# With a keeper, a forked child of a client is taken over like its parent when supervisor and worker are killed.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
? uffd-lua -e 'local o = require("uffd").open { features = "event_fork" }; os.exit(o ~= nil)' || { echo "no events of forks here"; exit 1; }
$ vmm --make 8388608 --image image
$ rm -f out err; uffd-lua serve --keep --socket door --control control --image image --around 4K > out 2> err & keeper=$!
> await 'grep -qs "has started" err'
> for round in 1 2 3; do
>   await 'uffd-lua ctl --socket control status > status 2> /dev/null && grep -qs "^workers  *1" status'
>   vmm --socket door --image image --fork > forked 2>&1 & forked=$!
>   await "grep -qs 'forked from client' err"
>   for i in 1 2 3; do
>     supervisor=$(uffd-lua ctl --socket control status 2> /dev/null | sed -n 's/^pid  *//p')
>     [ -z "$supervisor" ] || kill -KILL $supervisor $(sed -n 's/.*has started: process //p' err | tail -1) 2> /dev/null
>   done
>   wait $forked; echo "forked: $?"; cat forked; : > err
>   await 'uffd-lua ctl --socket control clients > clients 2> /dev/null && ! grep -q served clients'
> done
> kill -TERM $keeper; wait $keeper; echo "serve: $?"
forked: 0
pages 2048 wrong 0 *
forked: 0
pages 2048 wrong 0 *
forked: 0
pages 2048 wrong 0 *
serve: 0

# A child that is forked while there is no supervisor stays with its worker, also when another supervisor has come.
$ cat > alone <<'END'
> mkfifo go; rm -f control; : > err
> uffd-lua serve --keep --socket door --control control --image image --around 4K > out 2> err & keeper=$!
> await 'grep -qs "has started" err'
> vmm --socket door --image image --fork --stay < go > forked 2>&1 & forked=$!
> exec 3> go
> await 'uffd-lua ctl --socket control clients 2> /dev/null | grep -q served'
> supervisor=$(uffd-lua ctl --socket control status | sed -n 's/^pid  *//p')
> kill -STOP $keeper; kill -KILL $supervisor; await "! uffd-lua ctl --socket control status > status 2>&1"
> echo >&3; [ "$1" = during ] || await 'grep -q pages forked'
> kill -CONT $keeper; await 'grep -q "client 1 is taken over" err'
> await 'grep -q pages forked'; echo >&3; exec 3>&-; wait $forked; echo "forked: $?"; cat forked
> await 'uffd-lua ctl --socket control status > status 2>&1' # it hears signals from then on
> kill -TERM $keeper; wait $keeper; echo "serve: $?"; rm go
> END
$ sh alone before
forked: 0
ready
pages 2048 wrong 0 ms *
ready
serve: 0
$ sh alone during
forked: 0
ready
pages 2048 wrong 0 ms *
ready
serve: 0

# Told to end while there is no supervisor, the keeper starts one, which fills what is missing.
$ cat > untended <<'END'
> mkfifo go; rm -f control; : > err
> uffd-lua serve --keep --socket door --control control --image image --around 4K > out 2> err & keeper=$!
> await 'grep -qs "has started" err'
> vmm --socket door --image image --stay < go > stayed 2>&1 & stayed=$!
> exec 3> go
> await 'uffd-lua ctl --socket control clients 2> /dev/null | grep -q served'
> supervisor=$(uffd-lua ctl --socket control status | sed -n 's/^pid  *//p')
> kill -STOP $keeper; kill -KILL $supervisor; await "! uffd-lua ctl --socket control status > status 2>&1"
> kill -TERM $keeper; kill -CONT $keeper; wait $keeper; echo "serve: $?"
> echo >&3; exec 3>&-; wait $stayed; echo "client: $?"; cat stayed; rm go
> END
$ sh untended
serve: 0
client: 0
ready
pages 2048 wrong 0 ms *
ready

# A supervisor that is killed while it drains: the next one drains on.
$ cat > drained <<'END'
> mkfifo go; rm -f control; : > err
> uffd-lua serve --keep --on-drain refuse --socket door --control control --image image --around 4K > out 2> err & keeper=$!
> await 'grep -qs "has started" err'
> vmm --socket door --image image --stay < go > stayed 2>&1 & stayed=$!
> exec 3> go
> await 'uffd-lua ctl --socket control clients 2> /dev/null | grep -q served'
> supervisor=$(uffd-lua ctl --socket control status | sed -n 's/^pid  *//p')
> kill -TERM $keeper; await 'uffd-lua ctl --socket control status 2> /dev/null | grep -q "^draining  *true"'
> kill -KILL $supervisor; await 'grep -q "client 1 is taken over" err'
> await 'uffd-lua ctl --socket control status 2> /dev/null | grep -q "^draining  *true"'
> echo >&3; exec 3>&-; wait $stayed; echo "client: $?"; cat stayed; wait $keeper; echo "serve: $?"; rm go
> END
$ sh drained
client: 0
ready
pages 2048 wrong 0 ms *
ready
serve: 0
