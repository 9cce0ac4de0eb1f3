# What serve says to wrong usage, and to files that it cannot use, before it listens.
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
$ uffd-lua serve --help
usage: uffd-lua serve --socket PATH *
...
$ uffd-lua serve
uffd-lua serve: it needs a --socket to listen on, or one of the service manager
usage: uffd-lua serve *
[2]
$ uffd-lua serve --socket door
uffd-lua serve: it needs an --image, or a --policy that makes one
usage: *
[2]
$ head -c 8192 /dev/zero | tr '\0' x > image
$ uffd-lua serve --socket door --image image word
uffd-lua serve: 'word' is an argument for no policy
usage: *
[2]
$ uffd-lua serve --socket door --image image --bogus
uffd-lua serve: '--bogus' is not an option
usage: *
[2]
$ uffd-lua serve --socket door --image image --workers many
uffd-lua serve: '--workers' takes an integer from 1 to 64, not 'many'
usage: *
[2]
$ for option in '--workers 65' '--max-clients 4294967296' '--max-regions 0' '--watchdog 0' '--uid 4294967295' '--mode 000' '--max-bytes 4G' '--hang 0'; do
>   uffd-lua serve --socket door --image image $option 2>&1 | head -n 1
> done
uffd-lua serve: '--workers' takes an integer from 1 to 64, not '65'
uffd-lua serve: '--max-clients' takes an integer from 1 to 4294967295, not '4294967296'
uffd-lua serve: '--max-regions' takes an integer from 1 to 4294967295, not '0'
uffd-lua serve: '--watchdog' takes an integer from 1 to 4294967295, not '0'
uffd-lua serve: '--uid' takes an integer from 0 to 4294967294, not '4294967295'
uffd-lua serve: '--mode' takes an octal mode, such as 660, not '000'
uffd-lua serve: '--max-bytes' takes bytes, at least 1 and less than 4G, not '4G'
uffd-lua serve: '--hang' takes a time, such as 500ms or 10s, not '0'
$ uffd-lua serve --socket door --image image --mode 888
uffd-lua serve: '--mode' takes an octal mode, such as 660, not '888'
usage: *
[2]
$ uffd-lua serve --socket door --image image --on-crash burn
uffd-lua serve: '--on-crash' takes one of kill, freeze, not 'burn'
usage: *
[2]
$ uffd-lua serve --socket door --image image --rate fast
uffd-lua serve: '--rate' takes bytes*
usage: *
[2]
$ uffd-lua serve --socket door --image image --once=1
uffd-lua serve: '--once' takes no value
usage: *
[2]
$ uffd-lua serve --socket
uffd-lua serve: '--socket' needs a value
usage: *
[2]

$ uffd-lua serve --socket door --image nowhere
uffd-lua serve: *nowhere*
[1]
$ uffd-lua serve --socket nowhere/door --image image
uffd-lua serve: *nowhere/door*
[1]
$ touch door; uffd-lua serve --socket door --image image
uffd-lua serve: door is there already, and is not a socket*
[1]
$ rm door

# A record that could not be written is refused at the start, and nothing is replaced that is no working set.
$ uffd-lua serve --socket door --image image --record nowhere/ws
uffd-lua serve: *nowhere/ws*
[1]
$ uffd-lua serve --socket door --image image --record .
uffd-lua serve: . is no regular file*
[1]
$ ln -s image link; uffd-lua serve --socket door --image image --record link
uffd-lua serve: link is there already, and is no working set: it is not replaced. Name another file.
[1]
$ rm link

# A policy is compiled before the socket is opened.
$ echo 'return )' > syntax.lua; uffd-lua serve --socket door --image image --policy syntax.lua
uffd-lua serve: syntax.lua:1: unexpected symbol near ')'
[1]
$ uffd-lua serve --socket door --policy nowhere.lua
uffd-lua serve: cannot open nowhere.lua*
[1]
$ ls door 2>/dev/null
[2]

# A working set that is none, and one of another image.
$ echo nonsense > set; uffd-lua serve --socket door --image image --replay set
uffd-lua serve: *set*
[1]
$ uffd-lua serve --socket door --image image --replay nowhere
uffd-lua serve: *nowhere*
[1]
$ ls door 2>/dev/null
[2]

$ uffd-lua ctl --help
usage: uffd-lua ctl *
...
$ uffd-lua ctl status
uffd-lua ctl: it needs the --socket of a pager
usage: uffd-lua ctl *
[2]
$ uffd-lua ctl --socket control
uffd-lua ctl: what is it to ask?
usage: *
[2]
$ uffd-lua ctl --socket control ponder
uffd-lua ctl: 'ponder' is no request
usage: *
[2]
$ uffd-lua ctl --socket control status clients
uffd-lua ctl: 'clients' is no request
usage: *
[2]
$ uffd-lua ctl --socket control status
uffd-lua ctl: Cannot connect to the control socket control: No such file or directory: no pager listens there.
[1]
