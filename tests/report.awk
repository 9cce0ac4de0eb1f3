# Sums up the JUnit files that ctest wrote: each failed and each skipped test with its reason, then one line of counts.
# Variables: failures, the builds that failed (";" between), each counted as a failed test.
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

FNR == 1 {
  build = FILENAME
  sub(/\/tests\.xml$/, "", build)
  sub(/.*\/build-?/, "", build)
  if (build == "") build = "release"
}

/<testcase / {
  name = build ": " attribute("name")
  status = attribute("status")
  skipped = 0
  last = ""
}

/<skipped/ { skipped = 1 }

/<system-out>/ { output = 1 }

# The last line that a test printed is its reason; tests that skip a part of themselves say "# SKIP".
output {
  line = $0
  sub(/.*<system-out>/, "", line)
  sub(/<\/system-out>.*/, "", line)
  if (line ~ /[^ \t]/) last = unescape(line)
  if (line ~ /# SKIP/) parts[++part_count] = name ": " unescape(line)
}

/<\/system-out>/ { output = 0 }

/<\/testcase>/ {
  sub(/^skipped: */, "", last)
  if (skipped) skips[++skip_count] = name ": " last
  else if (status == "run") passed++
  else failed[++fail_count] = name
}

END {
  builds = split(failures, failed_builds, ";")
  for (i = 1; i <= builds; i++) failed[++fail_count] = failed_builds[i]
  print ""
  for (i = 1; i <= part_count; i++) print "left out in " parts[i]
  for (i = 1; i <= skip_count; i++) print "skipped " skips[i]
  for (i = 1; i <= fail_count; i++) print "FAILED " failed[i]
  printf "%d passed, %d failed, %d skipped\n", passed, fail_count, skip_count
  exit fail_count > 0 || passed == 0
}
