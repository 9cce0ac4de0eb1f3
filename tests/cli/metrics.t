# Prometheus' own tool judges names, help and samples. It reads the text format, where the suffix of a counter is a part of its name.
? command -v promtool > /dev/null || { echo "promtool is not here (Debian: prometheus)"; exit 1; }
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
$ cat > text.awk <<'END'
> $1 == "#" && $2 == "TYPE" {
>   suffix = $4 == "counter" ? "_total" : $4 == "info" ? "_info" : ""
>   print "# TYPE " $3 suffix " " ($4 == "info" ? "gauge" : $4)
>   next
> }
> $1 == "#" && $2 == "HELP" { name = $3 suffix; sub(/^# HELP [^ ]+/, ""); print "# HELP " name $0; next }
> $1 != "#" { print }
> END
$ vmm --make 8388608 --image image
$ rm -f out err; uffd-lua serve --socket door --control control --image image > out 2> err & server=$!
> await 'uffd-lua ctl --socket control status > status 2>&1'
> vmm --socket door --image image > client; awk '{ print $1, $2, $3, $4 }' client
> uffd-lua ctl --socket control metrics | awk -f text.awk > metrics; promtool check metrics < metrics; echo "promtool: $?"
> kill -TERM $server; wait $server; echo "serve: $?"
pages 2048 wrong 0
promtool: 0
serve: 0
