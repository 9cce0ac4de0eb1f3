# Sums up the JUnit files that ctest wrote: each failed and each skipped test with its reason, then one line of counts.
# A program of many tests ends with "N tests, N skipped, N failed" and tells "skipped NAME: reason" and "FAILED NAME" of
# each, or is luaunit with -v; any other test counts once, and the last line that it printed is the reason of its skip.
# Variables: passed, how many passed beside them; failures, what failed beside them (";" between).
function unescape(text) {
  gsub(/&lt;/, "<", text)
  gsub(/&gt;/, ">", text)
  gsub(/&quot;/, "\"", text)
  gsub(/&apos;/, "'", text)
  gsub(/&amp;/, "\\&", text)
  return text
}

function attribute(name) {
  if (!match($0, " " name "=\"[^\"]*\"")) return ""
  return unescape(substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 4))
}

function count_one() {
  if (status == "run") {
    passed++
  } else if (status == "skipped") {
    sub(/^skipped:? */, "", last)
    skips[++skipped] = name ": " last
  } else {
    fails[++failed] = name
  }
}

# "Ran 3 tests in 0.1 seconds, 1 success, 1 failure, 1 error, 1 skipped", in the words of the other programs.
function translate(line,  total, left_out, wrong_ones) {
  total = number_before(line, "success") + number_before(line, "failure") + number_before(line, "error")
  left_out = number_before(line, "skipped")
  wrong_ones = number_before(line, "failure") + number_before(line, "error")
  return (total + left_out) " tests, " left_out " skipped, " wrong_ones " failed"
}

function number_before(line, word) {
  return match(line, "[0-9]+ " word) ? substr(line, RSTART, RLENGTH) + 0 : 0
}

function count_many(  count) {
  split(summary, count, /[^0-9]+/)
  passed += count[1] - count[2] - count[3]
  skipped += count[2]
  failed += count[3]
  if (status == "fail" && count[3] == 0) fails[++failed] = name ": not its tests, but the program"
}

FNR == 1 {
  build = FILENAME
  sub(/\/[^\/]*$/, "", build)
  sub(/.*\/build-?/, "", build)
  if (build == "") build = "release"
}

/<testcase / {
  name = build " " attribute("name")
  status = attribute("status")
  last = summary = ""
}

/<skipped/ { status = "skipped" }

/<system-out>/ {
  output = 1
  sub(/.*<system-out>/, "")
}

output {
  line = unescape($0)
  output = !sub(/<\/system-out>.*/, "", line)
  if (line ~ /[^ \t]/) last = line
  if (line ~ /^[0-9]+ tests, [0-9]+ skipped, [0-9]+ failed$/) summary = line
  if (line ~ /^Ran [0-9]+ tests? in [0-9.]+ seconds/) summary = translate(line)
  if (skipping != "") {
    parts[++part_count] = name " " skipping ": " line
    skipping = ""
  }
  if (line ~ /^ +[^ ]+ \.\.\. SKIP$/) {
    sub(/^ +/, "", line)
    skipping = substr(line, 1, index(line, " ") - 1)
  }
  if (line ~ /^[0-9]+\) [^ ]+$/) wrong[++wrong_count] = name " " substr(line, index(line, " ") + 1)
  if (line ~ /^ *skipped [^ ]+: /) {
    sub(/^ *skipped /, "", line)
    parts[++part_count] = name " " line
  }
  if (line ~ /^FAILED /) wrong[++wrong_count] = name " " substr(line, 8)
}

/<\/testcase>/ {
  if (summary == "") count_one()
  else count_many()
}

END {
  builds = split(failures, failed_builds, ";")
  for (i = 1; i <= builds; i++) fails[++failed] = failed_builds[i]
  print ""
  for (i = 1; i <= part_count; i++) print "skipped " parts[i]
  for (i in skips) print "skipped " skips[i]
  for (i = 1; i <= wrong_count; i++) print "FAILED " wrong[i]
  for (i in fails) print "FAILED " fails[i]
  printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
  exit failed > 0 || passed == 0
}
