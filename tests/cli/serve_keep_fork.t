# With a keeper, a forked child of a client is taken over like its parent when supervisor and worker are killed.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
? uffd-lua -e 'local o = require("uffd").open { features = "event_fork" }; os.exit(o ~= nil)' || { echo "no events of forks here"; exit 1; }
$ vmm --make 8388608 --image image
$ uffd-lua serve --keep --socket door --control control --image image --around 4K > out 2> err & keeper=$!
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
