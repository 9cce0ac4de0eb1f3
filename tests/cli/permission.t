# What is told where userfaultfd cannot be had.
? uffd-lua -e 'require "dkjson"' >/dev/null 2>&1 || { echo "the package lua-dkjson is not installed"; exit 1; }
? deny_userfaultfd 1 true || { echo "no seccomp filter can be set here"; exit 1; }
$ cat > show.lua <<'END'
> local info = require("dkjson").decode(io.read "a", 1, nil)
> print(info.usable, info.route, info.user_mode_only, #info.features > 0, #info.advice > 0)
> END

# Under a seccomp filter there is nothing, whoever asks: exit code 77.
$ deny_userfaultfd 1 uffd-lua --info=json > none.json
[77]
$ uffd-lua show.lua < none.json
false	nil	false	false	true
$ uffd-lua $TESTS/info.lua none.json 77
every field is as it should be
$ deny_userfaultfd 38 uffd-lua --info=json > none.json
[77]
$ uffd-lua show.lua < none.json
false	nil	false	false	true
$ deny_userfaultfd 1 uffd-lua --info
...
userfaultfd     not to be had
...
advice          *
...
[77]
$ deny_userfaultfd 1 uffd-lua -e 'local u, message, code = require("uffd").open {} print(u, code, #message > 20)'
nil	1	true
