#!/bin/sh
# sh breaks.sh BUILD: the tests are tested. The library of the tests leaves out one step, named by UFFD_BREAK (BROKEN in
# base/base.h): for each, the test that is named beside it must fail. A test that only a hang tells hangs for 4 s.
set -u
programs=$1/tests
fixed_addresses=""
if setarch "$(uname -m)" -R true 2> /dev/null; then fixed_addresses="setarch $(uname -m) -R"; fi
export CHECK_SECONDS=4
tests=0 skipped=0 failed=0

while read -r name program test; do
  tests=$((tests + 1))
  # shellcheck disable=SC2086
  seen=$(UFFD_BREAK=$name $fixed_addresses "$programs/$program" "$test" 2>&1)
  case $seen in
    *"FAILED $test"*) echo "$name: $test fails, as it must" ;;
    *"skipped $test: "*)
      skipped=$((skipped + 1))
      echo "skipped $name: ${seen#*skipped "$test": }" | head -n 1 ;;
    *)
      failed=$((failed + 1))
      echo "FAILED $name"
      echo "without its step $name, $test of $program does not fail:"
      echo "$seen" ;;
  esac
done << END
wake-present test_race_install R5_a_present_page_is_woken
wake-gone test_race_install R7_unmapped_meanwhile
wake-put-back test_race_events R8_the_event_is_behind_a_full_queue
wake-unregistered test_register unregister_wakes_wp_sleepers
wake-everywhere test_ledger killed_at_every_point_2
event-remove test_race_events R8_the_event_is_older
event-unmap test_loop_object what_moves_takes_its_contents_along
ledger-commit test_ledger killed_at_every_point_1
ledger-event test_ledger killed_at_every_point_4
ledger-lost test_ledger what_the_ledger_cannot_hold_is_poison
poison test_loop_error failures_become_what_was_chosen
poison-time test_race_install R5_an_answer_never_heals_poison
keep-object test_pager_keep supervisor_and_worker_are_killed
keep-image test_pager_keep supervisor_and_worker_are_killed
keep-shared test_pager_keep what_is_shared_outlives_the_workers
drop-shared test_pager_share dropped_pages_are_zeros_when_all_is_complete
keep-drop test_pager_keep supervisor_is_killed
keep-answer test_pager_keep its_answer_waits_until_it_is_kept
offload-note test_offload who_answers_dies_in_doubt
offload-fill test_offload an_answer_too_many
offload-attach test_offload pager_dies_amid_a_request
guard test_pager_events forked_children_survive_a_worker_that_has_just_read_of_them
attach-alone test_pager_attach another_pager_is_refused_while_it_lives
sparse test_region_life forking_a_large_region_costs_no_memory
refused-poison test_pager_clients refused_client_is_poisoned_when_the_pager_ends
END

# Each step that can be left out is in the list.
root=$(cd "$(dirname "$0")/../.." && pwd -P)
named=$(grep -rhoE 'BROKEN\("[^"]*"\)' "$root/csrc" | wc -l)
if [ "$named" != $tests ]; then
  failed=$((failed + 1))
  echo "FAILED the list: $tests of $named steps are in it"
fi
echo "$((tests + 1)) tests, $skipped skipped, $failed failed"
[ $failed = 0 ]
