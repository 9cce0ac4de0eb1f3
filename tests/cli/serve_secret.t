# What lets a pager in at a server is in none of what it tells: answers of ctl, metrics, messages, command lines, the cache.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'assert(require "uffd.core".image_open, "built without images")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }
? command -v nginx >/dev/null || { echo "nginx is not installed"; false; }
? ! uffd-lua image info http://127.0.0.1:999999/x 2>&1 | grep -o 'uffd was built without libcurl.*\|libcurl cannot be loaded.*'
$ mkdir www; vmm --make 4194304 --image www/ram.img; echo 'me:{PLAIN}topsecret' > users; printf 'user=me\npassword=topsecret\n' > credentials
$ cat > web <<'END'
> port=$((20000 + $$ % 20000))
> while [ ! -s nginx.pid ]; do
>   port=$((port + 1))
>   cat > nginx.conf <<CONF
> daemon off; master_process off; pid nginx.pid; error_log said;
> events { worker_connections 256; }
> http { access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
>   server { listen 127.0.0.1:$port; root www; auth_basic store; auth_basic_user_file $PWD/users; } }
> CONF
>   nginx -p $PWD/ -c nginx.conf -e said > log 2>&1 & nginx=$!
>   while kill -0 $nginx 2> /dev/null && [ ! -s nginx.pid ]; do sleep 0.02; done
> done
> END
$ . ./web; export UFFD_CACHE=$PWD/cache UFFD_CREDENTIALS=$PWD/credentials; uffd-lua serve --socket door --control ctl --json --image http://127.0.0.1:$port/ram.img > out 2> err & pager=$!; await '[ -S door ] && [ -S ctl ]'; vmm --socket door --image www/ram.img; uffd-lua ctl --socket ctl stats > told; uffd-lua ctl --socket ctl metrics >> told; uffd-lua ctl --socket ctl clients >> told; for p in /proc/[0-9]*; do [ "$(readlink $p/cwd)" = "$PWD" ] && tr '\0' ' ' < $p/cmdline; done > lines; grep -q "uffd-lua serve" lines && echo seen; kill $pager; wait $pager; grep -rl topsecret told lines out err cache; [ -s told ]; kill $nginx
pages 1024 wrong 0 ms *
seen

# A wrong password: the message names the file, and not the password.
$ . ./web; printf 'user=me\npassword=wrongsecret\n' > credentials; UFFD_CACHE=$PWD/cache UFFD_CREDENTIALS=$PWD/credentials uffd-lua image info http://127.0.0.1:$port/ram.img; kill $nginx
uffd-lua image info: Cannot open http://127.0.0.1:*/ram.img: the server does not let us in (status 401).
