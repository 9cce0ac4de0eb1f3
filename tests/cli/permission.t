# What an ordinary user gets, and what is told where userfaultfd cannot be had.
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

# An ordinary user, where the system is set up as it usually is: faults of user mode only.
? [ "$(id -u)" = 0 ] || { echo "needs root, to become an ordinary user"; exit 1; }
? [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ] || { echo "vm.unprivileged_userfaultfd is not 0"; exit 1; }
? setpriv --reuid=65534 --regid=65534 --clear-groups test ! -w /dev/userfaultfd || { echo "everybody may use /dev/userfaultfd"; exit 1; }
$ chmod 755 . && cp "$BUILD/bin/uffd-lua" . && chmod 755 uffd-lua
$ setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all ./uffd-lua --info=json > user.json
$ uffd-lua show.lua < user.json
true	syscall	true	true	true
$ uffd-lua $TESTS/info.lua user.json 0
every field is as it should be
