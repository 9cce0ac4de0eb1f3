# SIGINT ends the script, not the program: an error like others.
$ cat > loop.lua <<'END'
> io.open("started", "w"):close()
> local t <close> = setmetatable({}, { __close = function() print "closed" end })
> while true do end
> END
$ cat > interrupt.sh <<'END'
> "$@" & pid=$!
> while ! [ -e started ]; do :; done
> kill -INT $pid
> wait $pid
> END
# A background job of sh ignores SIGINT; env gives it back.
$ sh interrupt.sh env --default-signal=INT uffd-lua loop.lua
closed
uffd-lua: *interrupted!
stack traceback:
...
[1]
