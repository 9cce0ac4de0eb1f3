# SIGINT ends the script, not the program: an error like others. (A background job of sh ignores SIGINT; env gives it back.)
$ cat > interrupt.sh <<'END'
> rm -f started
> "$@" & pid=$!
> while ! [ -e started ]; do :; done
> kill -INT $pid
> wait $pid
> END
$ cat > calls.lua <<'END'
> local t <close> = setmetatable({}, { __close = function() print "closed" end })
> io.open("started", "w"):close()
> while true do io.stdout:flush() end
> END
$ sh interrupt.sh env --default-signal=INT uffd-lua calls.lua
closed
uffd-lua: *interrupted!
stack traceback:
...
[1]

? ! ldd "$BUILD/bin/uffd-lua" | grep -q libtsan || { echo "ThreadSanitizer holds signals back while no library is called"; exit 1; }
$ sed 's/do .* end$/do end/' calls.lua > tight.lua
$ sh interrupt.sh env --default-signal=INT uffd-lua tight.lua
closed
uffd-lua: *interrupted!
stack traceback:
...
[1]

# While Lua waits for a page that does not come, a second SIGINT ends the program.
? uffd-lua -e 'os.exit(not require "uffd".probe().user_mode_only)' || { echo "faults of the kernel are not served here"; exit 1; }
$ cat > waits.lua <<'END'
> local uffd = require "uffd"
> local memory = assert(uffd.map { size = 4096 })
> local never = assert(uffd.resolver.policy(function() return function() return uffd.LATER end end))
> local loop = assert(uffd.serve { { memory = memory, resolver = never }, engine = "threads" })
> memory:read(0, 1)
> END
$ cat > waits.sh <<'END'
> "$@" & pid=$!
> until grep -q "^State:.D" /proc/$pid/status; do :; done
> while kill -INT $pid 2> /dev/null; do :; done
> wait $pid
> END
$ sh waits.sh env --default-signal=INT uffd-lua waits.lua
[130]
