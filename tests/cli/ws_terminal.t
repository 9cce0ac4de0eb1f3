# On a terminal, heat maps are in colour and as wide as it is, unless it cannot or shall not be.
? command -v script > /dev/null || { echo "script is not installed (Debian: bsdutils)"; exit 1; }
? uffd-lua -e 'assert(require "uffd.core".terminal, "no terminals without the pager")'
$ uffd-lua $TESTS/ws.lua a.ws 64K 3 4w 5 0 15
$ export TERM=xterm LC_ALL=C.UTF-8; script -qec 'uffd-lua ws plot a.ws' /dev/null | grep -c '38;5;33m'
1
$ export TERM=xterm LC_ALL=C.UTF-8 NO_COLOR=1; script -qec 'uffd-lua ws plot a.ws' /dev/null | grep -c '38;5'
0
[1]
$ export TERM=dumb LC_ALL=C.UTF-8; script -qec 'uffd-lua ws plot a.ws' /dev/null | grep -c '38;5'
0
[1]
$ export TERM=xterm LC_ALL=C; script -qec 'uffd-lua ws plot a.ws' /dev/null | grep -c '38;5'
0
[1]
$ uffd-lua $TESTS/ws.lua b.ws 64M 0; export TERM=xterm
> script -qec 'stty cols 40; uffd-lua ws plot --color never b.ws' /dev/null | grep '^0x00000000' | wc -c
29
