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
