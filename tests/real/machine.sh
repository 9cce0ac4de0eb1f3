#!/bin/sh
# machine.sh VERSION KERNELS BUILD SECONDS TEST...: boots Debian's kernel VERSION, which lies in KERNELS/VERSION, in QEMU
# with nested virtualisation by TCG, and runs the C tests (test_*) and "kvm" there. Prints a line for each that failed, or
# does not end in time; the whole output goes to BUILD/machine-VERSION.txt.
set -eu
version=$1 kernels=$2 build=$3 seconds=$4
shift 4
tests=$* log=$build/machine-$version.txt initrd=$build/machine-$version.gz
PATH=$build/bin:$build/tests:$PATH
programs=
for test in $tests; do
  case $test in
    kvm) programs="$programs $build/tests/vmm_kvm" ;;
    *) programs="$programs $build/tests/$test" ;;
  esac
done
# shellcheck disable=SC2086
sh "${0%/*}/initrd.sh" "$initrd" "$kernels/$version/modules" "irqbypass ccp kvm kvm-amd" \
  "$build/bin/uffd-lua" "$build/tests/vmm" $programs < "${0%/*}/machine.init"
# With a thread for each processor, nested guests now and then meet a page fault that nothing has caused.
threads=multi
case " $tests " in *" kvm "*) threads=single ;; esac
timeout "$seconds" qemu-system-x86_64 -M q35 -accel tcg,thread=$threads -cpu max -smp 2 -m 2048 -nodefaults -display none \
  -serial stdio -no-reboot -kernel "$kernels/$version/vmlinuz" -initrd "$initrd" \
  -append "console=ttyS0 panic=-1 no_timer_check quiet" < /dev/null > "$log" 2>&1 || echo "the machine did not end within $seconds s"
rm -f "$initrd"
tr -d '\r' < "$log" | awk -v expected="$tests" '
  /^FAILED |: .* failed with -/ { print }
  $1 == "RESULT" { seen[$2] = 1; if ($3 != 0 && $3 != 77) print }
  $1 == "DONE" { done = 1 }
  END {
    count = split(expected, names, " ")
    for (i = 1; i <= count; i++) if (!seen[names[i]]) print "not run: " names[i]
    if (!done) print "the machine stopped too early"
  }'
