# Sourced by qemu.t: a QEMU guest under TCG, whose monitor and console are pipes of the shell. FOLDER has vmlinuz and
# initrd.gz; SMP, MIB (of RAM) and FILLED (MiB, of the pattern) say what the guest is.
SMP=${SMP:-1} MIB=${MIB:-256} FILLED=${FILLED:-96}
PATIENCE=120 # seconds, for what a busy machine makes slow
guests=
# A guest that a failed test has left behind ends with the shell.
trap 'for guest in $guests; do kill -KILL $guest 2> /dev/null; done' EXIT

# Starts a guest, and leaves its pid in $qemu: name backend option... ; BEFORE is a command that runs it.
guest() {
  name=$1 backend=$2
  shift 2
  rm -f "$name".monitor.* "$name".console.*
  mkfifo "$name.monitor.in" "$name.monitor.out" "$name.console.in" "$name.console.out"
  # shellcheck disable=SC2086
  ${BEFORE:-} qemu-system-x86_64 -M pc -accel tcg -cpu max -smp "$SMP" -m "$MIB" -nodefaults -display none \
    -object "$backend,id=ram,size=${MIB}M" -machine memory-backend=ram -device virtio-balloon-pci,id=balloon \
    -kernel "$FOLDER/vmlinuz" -initrd "$FOLDER/initrd.gz" -append "console=ttyS0 panic=-1 quiet FILLED=$FILLED" \
    -chardev pipe,id=monitor,path="$name.monitor" -mon chardev=monitor \
    -chardev pipe,id=console,path="$name.console" -serial chardev:console "$@" > "$name.log" 2>&1 &
  qemu=$!
  guests="$guests $qemu"
}

# Writing waits for QEMU to open the pipe, which it keeps open.
say() { # pipe line...
  pipe=$1
  shift
  printf '%s\n' "$@" | timeout $PATIENCE tee "$pipe" > /dev/null
}

monitor() { # name line...
  name=$1
  shift
  say "$name.monitor.in" "$@"
}

# The line of the console that has the word.
answer() { # name word
  line=$(timeout $PATIENCE grep -m 1 -a -o "$2.*" < "$1.console.out") || { echo "no $2 within $PATIENCE s"; return 1; }
  printf '%s\n' "$line" | tr -d '\r'
}

ask() { # name question word
  say "$1.console.in" "$2"
  answer "$1" "$3"
}

# Asks until the guest answers: before it runs, what is said to its console is lost.
greet() { # name pid
  (while kill -0 "$2" 2> /dev/null; do echo ping; sleep 0.02; done > "$1.console.in") & pings=$!
  answer "$1" PONG > /dev/null
  code=$?
  kill $pings 2> /dev/null
  wait $pings 2> /dev/null
  return $code
}

# Boots a guest, and leaves its memory in ram.img and the rest in state.
snapshot() {
  rm -f "$FOLDER/ram.img" "$FOLDER/state"
  guest "$FOLDER/snap" "memory-backend-file,mem-path=$FOLDER/ram.img,share=on"
  greet "$FOLDER/snap" $qemu || return
  monitor "$FOLDER/snap" 'migrate_set_capability x-ignore-shared on' "migrate \"exec:cat > $FOLDER/state\"" quit
  wait $qemu
  [ -s "$FOLDER/state" ]
}

# Starts a guest as it was at its snapshot, but for its memory, and waits until it answers: name backend
resume() {
  guest "$1" "$2" -incoming defer
  monitor "$1" 'migrate_set_capability x-ignore-shared on' "migrate_incoming \"exec:cat $FOLDER/state\""
  greet "$1" $qemu
}

# A guest that pages are brought to: name backend options-of-run...
serve() {
  name=$1 backend=$2
  shift 2
  BEFORE="uffd-lua run --image $FOLDER/ram.img --memory size=${MIB}M $* --" resume "$name" "$backend"
}

leave() { # name
  monitor "$1" quit
  wait $qemu
}

# A pager for several guests: option... ; its pid is in $pager, and what it says in serve.err and serve.out.
start_pager() {
  rm -f serve.err serve.out
  uffd-lua serve --socket door --image "$FOLDER/ram.img" "$@" > serve.out 2> serve.err 3>&- & pager=$!
  guests="$guests $pager"
  wait_for grep -qs 'listening on' serve.err
}

# A guest that the pager serves: name backend
join() {
  BEFORE="uffd-lua run --door door --memory size=${MIB}M --" resume "$1" "$2"
}

wait_for() { # command...: until it succeeds
  for _ in $(seq $((PATIENCE * 20))); do
    "$@" && return
    sleep 0.05
  done
  echo "waited in vain for: $*"
  return 1
}

kill_worker() {
  kill -KILL "$(sed -n 's/worker 0 has started: process //p' serve.err | tail -n 1)"
}

# The balloon of a guest takes so many pages, of 4 KiB: name MiB-left pages
inflate() {
  monitor "$1" "balloon $2"
  inflated() { [ "$(ask "$1" inflate BALLOON)" = "BALLOON $2" ]; }
  wait_for inflated "$1" "$3"
}

# When a guest answers, has walked an eighth, and all, in milliseconds since before anything was started: what command...
measure() {
  what=$1 begin=$(date +%s%N)
  shift
  since() { echo $((($(date +%s%N) - begin) / 1000000)); }
  "$@" || return
  answered=$(since)
  ask guest eighth EIGHTH && eighth=$(since) && ask guest walk WALKED && all=$(since) && leave guest &&
    printf '%-40s %6d %6d %6d\n' "$what" "$answered" "$eighth" "$all" >> "$FIGURES"
}

copy_first() {
  cp "$FOLDER/ram.img" copy.img && resume guest memory-backend-file,mem-path=copy.img,share=on
}
