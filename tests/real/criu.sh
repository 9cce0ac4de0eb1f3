# Sourced by criu.t: dumps of victim.c and restores of them. CRIU names the binary of criu; PAGER has the pager's pid.
CRIU=${CRIU:-criu}
PATIENCE=120 # seconds, for what a busy machine makes slow
PAGER=
trap '[ -z "$PAGER" ] || kill -KILL $PAGER 2> /dev/null' EXIT

# Waits until a command succeeds.
await_true() { # command...
  tries=0
  until "$@"; do
    tries=$((tries + 1))
    [ $tries -lt $((PATIENCE * 50)) ] || { echo "not so within $PATIENCE s: $*"; return 1; }
    sleep 0.02
  done
}
says() { grep -q "$2" "$1" 2> /dev/null; } # file words

# Runs the victim until it is ready, and dumps it to NAME.img; its processes are gone then.
dump() { # name MiB mode
  rm -rf "$1" "$1.img"
  mkdir "$1" "$1.img"
  real_victim "$PWD/$1" "$2" "$3" < /dev/null > /dev/null 2>&1 &
  victim=$!
  await_true says "$1/log" READY || return 1
  "$CRIU" dump -t "$(sed -n 's/.*READY //p' "$1/log")" -D "$1.img" -o dump.log || { grep Error "$1.img/dump.log"; return 1; }
  wait $victim 2> /dev/null
  return 0
}

# Starts a pager for a dump: name option...
serve() {
  name=$1
  shift
  rm -f "$name.serve" # await_true must not read the words of the last one
  uffd-lua serve --door criu --image "$name.img" --socket "$name.img/lazy-pages.socket" --json "$@" > "$name.serve" 2>&1 &
  PAGER=$!
  await_true says "$name.serve" '"worker"'
}

# CRIU's own daemon, which serves one restore.
daemon() { # name
  rm -f "$1.img/lazy-pages.socket" # what a pager left would look like a daemon that listens
  "$CRIU" lazy-pages -D "$1.img" -o lazy.log &
  PAGER=$!
  await_true test -S "$1.img/lazy-pages.socket"
}

stop_pager() {
  kill $PAGER
  wait $PAGER
  echo "pager: $?"
  PAGER=
}

# Restores, and waits until the victim has checked all: name option...
restore() {
  name=$1
  shift
  : > "$name/log"
  touch "$name/go"
  date +%s.%N > "$name.begun"
  "$CRIU" restore -D "$name.img" -o restore.log "$@" &
  restored=$!
  if [ -n "${BETWEEN:-}" ]; then
    await_true says "$name/log" FIRST
    $BETWEEN
  fi
  wait $restored || { echo "restore: $?"; grep Error "$name.img/restore.log"; }
  sed 's/^[0-9.]* //; /FIRST/d; /THOUSAND/d' "$name/log"
  rm -f "$name/go"
}

# The worker of the pager, killed.
kill_worker() {
  kill -KILL "$(sed -n 's/.*"kind":"worker".*"pid":\([0-9]*\).*/\1/p' "$name.serve" | tail -1)"
}

# The supervisor of a pager that is kept, and its worker; another supervisor is there when this returns.
supervisor() { uffd-lua ctl --socket control status 2> /dev/null | sed -n 's/^pid  *//p'; }
is_another() { new=$(supervisor) && [ -n "$new" ] && [ "$new" != "$old" ]; }
kill_both() {
  old=$(supervisor)
  kill -KILL "$old"
  kill_worker
  await_true is_another
}

# A row of figures: seconds from the start of the restore.
row() { # label name
  awk -v begun="$(cat "$2.begun")" -v label="$1" '{ at[$2] = $1 - begun }
    END { printf "%-28s %9.3f %9.3f %9.3f\n", label, at["FIRST"], at["THOUSAND"], at["ALL"] }' "$2/log" >> "$FIGURES"
}

# What the rows come to: the medians, and what ours are of those of CRIU's daemon.
medians() {
  sort "$FIGURES" | awk '
    { label = $0; sub(/ +[0-9.]+ +[0-9.]+ +[0-9.]+$/, "", label) }
    { for (i = 0; i < 3; i++) at[label, i, count[label]] = $(NF - 2 + i); count[label]++ }
    END {
      for (label in count) {
        text = ""
        for (i = 0; i < 3; i++) {
          n = count[label]
          for (a = 1; a < n; a++) for (b = a; b > 0 && at[label, i, b - 1] > at[label, i, b]; b--) {
            held = at[label, i, b]; at[label, i, b] = at[label, i, b - 1]; at[label, i, b - 1] = held
          }
          median[label, i] = at[label, i, int(n / 2)]
          text = text sprintf(" %9.3f", median[label, i])
        }
        printf "%-28s%s  median of %d\n", label, text, n
      }
      text = ""
      for (i = 0; i < 3; i++) text = text sprintf(" %9.2f", median["uffd-lua serve --prefetch", i] / median["criu lazy-pages", i])
      printf "%-28s%s\n", "of criu lazy-pages", text
    }' > "$FIGURES.medians"
  cat "$FIGURES.medians" >> "$FIGURES"
  rm "$FIGURES.medians"
}
