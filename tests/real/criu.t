# Real restores by CRIU, 4.0 or later: a program is dumped, and restored with --lazy-pages while the pager brings its
# memory. It compares every page. CRIU= names the binary, if it is not in PATH. Figures go to criu.txt in the build
# directory: seconds until the first page, 1000 pages and all are compared.
? command -v ${CRIU:-criu} > /dev/null || { echo "criu is not installed, and CRIU names none"; exit 1; }
? ${CRIU:-criu} check > check.log 2>&1 || { echo "criu does not run here: $(grep -m 1 Error check.log)"; exit 1; }
? command -v real_victim > /dev/null || { echo "the program to dump is not built"; exit 1; }
? uffd-lua -e 'assert(require "uffd.core".pager_create, "built without the pager")'
? uffd-lua -e 'os.exit(require("uffd").probe().usable and not require("uffd").probe().user_mode_only)' || { echo "no userfaultfd with faults of the kernel here"; exit 1; }

$ echo 'FIGURES=$BUILD/criu.txt; . $TESTS/criu.sh' > lib
$ . ./lib; dump walk 256 walk && dump events 64 events && dump threads 64 threads && dump tree 80 tree

# A process of 256 MiB, with faults only, and filled in the background.
$ . ./lib; serve walk; restore walk --lazy-pages; stop_pager
ALL wrong 0
pager: 0
# One dump, several restores, by one pager; fork, dropped, moved, grown and unmapped memory; threads; a tree of 20 and a
# zombie.
$ . ./lib; serve walk --prefetch; restore walk --lazy-pages; restore walk --lazy-pages; stop_pager
ALL wrong 0
ALL wrong 0
pager: 0
$ . ./lib; for kind in events threads tree; do serve $kind --prefetch; restore $kind --lazy-pages; stop_pager; done
ALL wrong 0
pager: 0
ALL wrong 0
pager: 0
ALL wrong 0
pager: 0
$ . ./lib; for kind in events threads tree; do serve $kind; restore $kind --lazy-pages; stop_pager; done
ALL wrong 0
pager: 0
ALL wrong 0
pager: 0
ALL wrong 0
pager: 0
# The worker is killed after the restore: every page is right. CRIU's own daemon would leave zeros.
$ . ./lib; serve walk; BETWEEN=kill_worker restore walk --lazy-pages; stop_pager; grep -c '"died"' walk.serve
ALL wrong 0
pager: 0
1
# The working set of one restore is brought to the next.
$ . ./lib; serve threads --record set --once; restore threads --lazy-pages; wait $PAGER; PAGER=; uffd-lua ws info set > info && echo recorded
ALL wrong 0
recorded
$ . ./lib; serve threads --replay set; restore threads --lazy-pages; stop_pager
ALL wrong 0
pager: 0
# The supervisor and its worker are killed after the restore: another supervisor takes over what was restored.
$ . ./lib; serve walk --keep --control control; BETWEEN=kill_both restore walk --lazy-pages; stop_pager; grep -c '"adopted"' walk.serve
ALL wrong 0
pager: 0
1
# Another dump's tasks are refused in words, and the restore fails: nothing runs with zeros.
$ . ./lib; serve threads; cd events.img && ln -sf ../threads.img/lazy-pages.socket lazy-pages.socket; cd ..; touch events/go; $CRIU restore -D events.img -d -o restore.log --lazy-pages; echo $?; stop_pager; grep -o 'which the dump in threads.img does not have' threads.serve; rm events.img/lazy-pages.socket events/go
1
pager: 0
which the dump in threads.img does not have

# In one run: eager, CRIU's own daemon, ours.
$ . ./lib; rm -f $FIGURES; for round in 1 2 3 4 5; do
> restore walk; row "eager" walk
> daemon walk; restore walk --lazy-pages; row "criu lazy-pages" walk; wait $PAGER; PAGER=
> serve walk --prefetch; restore walk --lazy-pages; row "uffd-lua serve --prefetch" walk; stop_pager; done | sort | uniq -c | sed 's/^ *//'; medians
15 ALL wrong 0
5 pager: 0
