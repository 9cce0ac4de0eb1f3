# What an ordinary user gets where the system is set up as it usually is: faults of user mode only.
? uffd-lua -e 'require "dkjson"' >/dev/null 2>&1 || { echo "the package lua-dkjson is not installed"; exit 1; }
? [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ] || { echo "vm.unprivileged_userfaultfd is not 0"; exit 1; }
# Root becomes an ordinary user, in a place that such a user can read.
$ cat > as_user <<'END'
> [ "$(id -u)" != 0 ] || set -- setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all "$@"
> exec "$@"
> END
? sh as_user test ! -w /dev/userfaultfd || { echo "everybody may use /dev/userfaultfd"; exit 1; }
$ chmod 755 . && cp "$BUILD/bin/uffd-lua" . && chmod 755 uffd-lua
$ sh as_user ./uffd-lua --info=json > user.json
$ cat > show.lua <<'END'
> local info = require("dkjson").decode(io.read "a", 1, nil)
> print(info.usable, info.route, info.user_mode_only, info.event_fork, #info.features > 0, #info.advice > 0)
> END
$ uffd-lua show.lua < user.json
true	syscall	true	false	true	true
$ uffd-lua $TESTS/info.lua user.json 0
every field is as it should be
# For a person: what the kernel has and this user may not have is marked, and no line is wider than a terminal.
$ sh as_user ./uffd-lua --info > user.txt; grep -c 'event_fork(refused)' user.txt; awk 'length > 100' user.txt
1
$ grep '^engine' user.txt
engine          auto is inline: *
# Serving works for the program's own accesses.
$ cat > serve.lua <<'END'
> local uffd = require "uffd"
> local memory = assert(uffd.map { size = 65536 })
> local loop <close> = assert(uffd.serve { { memory = memory, resolver = assert(uffd.resolver.bytes(("x"):rep(65536))) } })
> print(memory:read(40960, 3))
> END
$ sh as_user ./uffd-lua serve.lua
xxx
